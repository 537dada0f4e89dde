"""Card keys and cryptograms against an independent implementation (EMV Book 2 Annex A1)."""

from __future__ import annotations

import hashlib
import random

import pytest
from pyemv import ac, kd

from protocol.card import cryptogram, keys
from protocol.errors import CardDataInvalid, CardKeyInvalid

pytestmark = pytest.mark.filterwarnings("ignore:.*TripleDES.*")

MASTER = bytes.fromhex("0123456789ABCDEFFEDCBA9876543210")


def test_known_answer_of_option_b() -> None:
    # The worked example of the independent implementation's manual.
    derived = keys.derive_card_key(MASTER, "12345678901234567", sequence="01")
    assert derived.hex().upper() == "AD406D7F6D7570916D75E5DCAB8CF737"


@pytest.mark.parametrize("digits", [17, 18, 19])
def test_option_b_agrees_with_the_oracle(digits: int) -> None:
    source = random.Random(digits)
    for _ in range(20):
        pan = "".join(source.choices("0123456789", k=digits))
        sequence = "".join(source.choices("0123456789", k=2))
        master = keys.odd_parity(source.randbytes(16))
        assert keys.derive_card_key(master, pan, sequence=sequence) == kd.derive_icc_mk_b(master, pan, sequence)


def test_a_hash_with_few_decimal_digits_is_decimalized() -> None:
    source = random.Random(5)
    while True:
        pan = "".join(source.choices("0123456789", k=19))
        digest = hashlib.sha1(bytes.fromhex("0" + pan + "00"), usedforsecurity=False).hexdigest()
        if sum(digit.isdecimal() for digit in digest) < 16:
            break
    assert keys.derive_card_key(MASTER, pan) == kd.derive_icc_mk_b(MASTER, pan, "00")


def test_another_number_has_another_key() -> None:
    pan = "9999101234567890123"
    derived = {keys.derive_card_key(MASTER, pan), keys.derive_card_key(MASTER, pan[:-1] + "4")}
    derived |= {keys.derive_card_key(MASTER, pan, sequence="01"), keys.derive_card_key(MASTER[::-1], pan)}
    assert len(derived) == 4


@pytest.mark.parametrize("pan", ["", "1234567890123456", "12345678901234567890", "1234567890123456x", "９" * 19])
def test_option_b_is_for_long_numbers(pan: str) -> None:
    with pytest.raises(CardDataInvalid) as refused:
        keys.derive_card_key(MASTER, pan)
    assert refused.value.code == "CARD_DATA_INVALID"


@pytest.mark.parametrize(
    "key",
    [
        "",
        "0123456789ABCDEF",
        "0123456789ABCDEFFEDCBA987654321000",
        "0123456789ABCDEF" * 2,
        "0123456789ABCDEF0022446688AACCEE",  # halves that differ in parity bits only
        "0000000000000000" + "FEDCBA9876543210",
        "FEDCBA9876543210" + "1FE01FE00EF10EF1",
    ],
)
def test_weak_keys_are_refused(key: str) -> None:
    with pytest.raises(CardKeyInvalid) as refused:
        keys.derive_card_key(bytes.fromhex(key), "9999101234567890123")
    assert refused.value.code == "CARD_KEY_INVALID"


class Zeros:
    def bytes(self, n: int, /) -> bytes:
        return bytes(n)


def test_master_keys_are_drawn_with_odd_parity(entropy) -> None:
    master = keys.generate_master_key(entropy)
    assert len(master) == 16
    assert all(byte.bit_count() % 2 == 1 for byte in master)
    assert master != keys.generate_master_key(entropy)
    with pytest.raises(CardKeyInvalid):
        keys.generate_master_key(Zeros())


def test_session_keys_agree_with_the_oracle() -> None:
    # The worked example of the independent implementation's manual, then others.
    assert cryptogram.derive_session_key(MASTER, atc=0x1C).hex().upper() == "E9FB384AF807B940FEDCEA613461B0C4"
    for atc in (0, 1, 0x1234, 0xFFFF):
        expected = kd.derive_common_sk(MASTER, atc.to_bytes(2, "big") + bytes(6))
        assert cryptogram.derive_session_key(MASTER, atc=atc) == expected


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 29, 64, 95])
def test_cryptograms_agree_with_the_oracle(size: int) -> None:
    data = random.Random(size).randbytes(size)
    session = cryptogram.derive_session_key(MASTER, atc=7)
    mac = cryptogram.compute_cryptogram(session, data)
    assert mac == ac.generate_ac(session, data, ac.PaddingType.EMV)
    assert mac != cryptogram.compute_cryptogram(session, data + b"\x00")
    assert mac != cryptogram.compute_cryptogram(cryptogram.derive_session_key(MASTER, atc=8), data)


def test_keys_of_a_batch_are_those_of_its_cards() -> None:
    pans = ["9999100000000000009", "9999101234567890123", "12345678901234567"]
    assert keys.derive_card_keys(MASTER, pans) == tuple(keys.derive_card_key(MASTER, pan) for pan in pans)
    assert keys.derive_card_keys(MASTER, []) == ()
