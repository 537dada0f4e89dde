"""Cryptograms and what CDA binds them to, against an independent implementation (EMV Book 2 §6.6, §8)."""

from __future__ import annotations

import hashlib
import random
from types import SimpleNamespace
from typing import Any

import pytest
from pyemv import ac, kd

from protocol.card.combined import CryptogramType, cryptogram_input, encode_combined, transaction_hash, verify_combined
from protocol.card.cryptogram import compute_cryptogram, compute_response, derive_session_key
from protocol.card.dynamic import CombinedData, encode_number, parse_combined, sign_dynamic
from protocol.card.keys import odd_parity
from protocol.errors import CardDataInvalid

pytestmark = pytest.mark.filterwarnings("ignore:.*TripleDES.*")

UNPREDICTABLE = b"\xde\xad\xbe\xef"
SAID = {"information": 0x80, "atc": 7, "issuer_data": bytes(range(10))}
HASH = transaction_hash(b"pdol", (b"cdol1",), **SAID)
INSIDE = CombinedData(number=bytes(8), information=0x80, cryptogram=b"cryptogr", transaction_hash=HASH)


def test_session_key_cryptogram_and_response_agree_with_the_oracle() -> None:
    source = random.Random(1)
    for size in range(1, 90):
        card_key = odd_parity(source.randbytes(16))
        atc = source.randrange(1 << 16)
        data, code = source.randbytes(size), source.randbytes(2)
        session_key = derive_session_key(card_key, atc=atc)
        assert session_key == kd.derive_common_sk(card_key, atc.to_bytes(2, "big") + bytes(6))
        cryptogram = compute_cryptogram(session_key, data)
        assert cryptogram == ac.generate_ac(session_key, data)
        assert compute_response(session_key, cryptogram, code) == ac.generate_arpc_1(session_key, cryptogram, code)


def test_the_independent_implementations_worked_example() -> None:
    session_key = bytes.fromhex("29B33180E567CE38EA4CBC9D753B0E61")
    cryptogram = compute_cryptogram(session_key, bytes.fromhex("0123456789ABCDEF0123456789ABCDEF"))
    assert cryptogram.hex().upper() == "FA624250B008B59A"
    assert compute_response(session_key, cryptogram, bytes(2)).hex().upper() == "45D4255EEF10C920"


def test_each_input_moves_the_cryptogram() -> None:
    key = derive_session_key(bytes(range(16)), atc=1)
    assert derive_session_key(bytes(range(16)), atc=2) != key
    # Padding is part of the meaning: a zero more at the end is another message.
    assert compute_cryptogram(key, b"amount") != compute_cryptogram(key, b"amount\x00")
    assert compute_response(key, bytes(8), b"00") != compute_response(key, bytes(8), b"05")


@pytest.mark.parametrize("code", [b"", b"0", b"000"])
def test_a_response_code_is_two_bytes(code: bytes) -> None:
    with pytest.raises(ValueError, match="unpack"):
        compute_response(bytes(range(16)), bytes(8), code)


def test_cryptogram_input_is_terminal_data_then_card_data() -> None:
    assert cryptogram_input(b"cdol", aip=b"\x33\x80", atc=258, issuer_data=b"iad") == b"cdol\x33\x80\x01\x02iad"


def test_transaction_hash_is_over_all_that_passed() -> None:
    answer = bytes.fromhex("9F2701809F360200079F100A") + bytes(range(10))
    assert hashlib.sha1(b"pdolcdol1" + answer, usedforsecurity=False).digest() == HASH
    second = transaction_hash(b"pdol", (b"cdol1", b"cdol2"), **SAID)
    assert second == hashlib.sha1(b"pdolcdol1cdol2" + answer, usedforsecurity=False).digest()


def test_combined_data_there_and_back() -> None:
    assert len(encode_combined(INSIDE)) == 38
    assert parse_combined(encode_combined(INSIDE)) == INSIDE


@pytest.fixture
def signature(keys: SimpleNamespace, entropy: Any) -> bytes:
    return sign_dynamic(keys.card, encode_combined(INSIDE), UNPREDICTABLE, entropy)


def test_the_cryptogram_comes_out_of_the_signature(keys: SimpleNamespace, signature: bytes) -> None:
    found = verify_combined(
        keys.card.public, signature, unpredictable=UNPREDICTABLE, transaction_hash=HASH, information=CryptogramType.ARQC
    )
    assert found == INSIDE


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"unpredictable": b"\xde\xad\xbe\xee"}, "signed data was altered"),
        ({"unpredictable": UNPREDICTABLE + b"\x00"}, "signed data was altered"),
        ({"transaction_hash": transaction_hash(b"pdol", (b"cdol2",), **SAID)}, "signature is over another transaction"),
        ({"transaction_hash": transaction_hash(b"pdom", (b"cdol1",), **SAID)}, "signature is over another transaction"),
        ({"transaction_hash": b""}, "signature is over another transaction"),
        ({"information": 0x40}, "answer says another cryptogram than the signature"),
    ],
)
def test_a_signature_is_of_one_transaction(
    keys: SimpleNamespace, signature: bytes, change: dict[str, Any], why: str
) -> None:
    facts = {"unpredictable": UNPREDICTABLE, "transaction_hash": HASH, "information": 0x80} | change
    with pytest.raises(CardDataInvalid) as refused:
        verify_combined(keys.card.public, signature, **facts)
    assert (refused.value.code, refused.value.detail) == ("CARD_DATA_INVALID", why)


@pytest.mark.parametrize("what", ["other key", "bit flip", "truncated", "DDA"])
def test_other_signatures_are_refused(keys: SimpleNamespace, entropy: Any, signature: bytes, what: str) -> None:
    key = keys.other_card.public if what == "other key" else keys.card.public
    offered = {
        "other key": signature,
        "bit flip": signature[:-1] + bytes([signature[-1] ^ 1]),
        "truncated": signature[:-1],
        "DDA": sign_dynamic(keys.card, encode_number(bytes(8)), UNPREDICTABLE, entropy),
    }[what]
    with pytest.raises(CardDataInvalid) as refused:
        verify_combined(key, offered, unpredictable=UNPREDICTABLE, transaction_hash=HASH, information=0x80)
    assert refused.value.code == "CARD_DATA_INVALID"
