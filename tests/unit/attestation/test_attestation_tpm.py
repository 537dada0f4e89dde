"""TPM structures: layout, strictness, names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.marshal import Reader
from attestation.tpm import (
    ALG_SHA256,
    KEY_TEMPLATE,
    MAX_ATTEST_BYTES,
    POLICY_SELECTION,
    Attest,
    ClockInfo,
    EcdsaSignature,
    PcrBank,
    Quote,
    encode_selection,
    name,
    parse_public_area,
    public_area,
    qualified_name,
    read_selection,
    sign_attest,
    verify_attest,
)
from protocol.crypto import P256, PrivateKey
from protocol.errors import EvidenceMalformed, Malformed, Oversize, ProtocolError, QuoteSignatureInvalid

KEY = PrivateKey.from_bytes(bytes(31) + b"\x07")
OTHER = PrivateKey.from_bytes(bytes(31) + b"\x08")
ATTEST = Attest(
    qualified_signer=qualified_name(KEY.public),
    extra_data=b"\x11" * 32,
    clock_info=ClockInfo(clock_ms=0x0102030405060708, reset_count=0x0A0B0C0D, restart_count=2, safe=True),
    firmware_version=0x2021222324252627,
    selection=POLICY_SELECTION,
    pcr_digest=b"\x22" * 32,
)
WIRE = ATTEST.to_bytes()
QUOTE = sign_attest(ATTEST, KEY)


def test_attest_layout():
    # Part 2 §10.12.12, written out by hand.
    signer = hashlib.sha256(bytes.fromhex("4000000b") + name(KEY.public)).hexdigest()
    by_hand = (
        "ff544347 8018"
        f"0022 000b{signer}"
        f"0020 {'11' * 32}"
        "0102030405060708 0a0b0c0d 00000002 01"
        "2021222324252627"
        "00000001 000b 03 000400"
        f"0020 {'22' * 32}"
    )
    assert bytes.fromhex(by_hand) == WIRE
    assert Attest.from_bytes(WIRE) == ATTEST


def test_name_of_the_key():
    # Part 2 §12.2.4: ECC, SHA-256, attributes, no policy, no symmetric, ECDSA with SHA-256, P-256, no KDF, point.
    point = KEY.public.encoded
    area = bytes.fromhex("0023 000b 00050472 0000 0010 0018 000b 0003 0010 0020") + point[1:33]
    area += bytes.fromhex("0020") + point[33:]
    assert public_area(KEY.public) == area
    assert name(KEY.public) == b"\x00\x0b" + hashlib.sha256(area).digest()
    assert parse_public_area(area) == KEY.public
    assert area[: -2 * 34] + bytes(4) == KEY_TEMPLATE


def test_policy_is_pcr_10_of_the_sha256_bank():
    assert encode_selection(POLICY_SELECTION).hex() == "00000001000b03000400"
    assert PcrBank.of(0, 7, 23) == PcrBank(algorithm=ALG_SHA256, bitmap=b"\x81\x00\x80")


def test_quote_verifies():
    assert verify_attest(QUOTE, KEY.public) == ATTEST
    assert Quote.from_bytes(QUOTE.to_bytes()) == QUOTE


def test_every_flipped_bit_of_a_quote_is_refused():
    wire = QUOTE.to_bytes()
    for position in range(len(wire)):
        flipped = bytearray(wire)
        flipped[position] ^= 1 << position % 8
        with pytest.raises((EvidenceMalformed, QuoteSignatureInvalid)):
            verify_attest(Quote.from_bytes(bytes(flipped)), KEY.public)


def test_other_keys_quote_is_refused(refuses):
    refuses(QuoteSignatureInvalid, lambda: verify_attest(QUOTE, OTHER.public))
    # It names the enrolled key, but another signed it.
    refuses(QuoteSignatureInvalid, lambda: verify_attest(sign_attest(ATTEST, OTHER), KEY.public))
    # The enrolled key signed it, but it names another.
    named = replace(ATTEST, qualified_signer=qualified_name(OTHER.public))
    refuses(QuoteSignatureInvalid, lambda: verify_attest(sign_attest(named, KEY), KEY.public))
    # The Name in place of the Qualified Name.
    named = replace(ATTEST, qualified_signer=name(KEY.public))
    refuses(QuoteSignatureInvalid, lambda: verify_attest(sign_attest(named, KEY), KEY.public))


@pytest.mark.parametrize(
    "alter",
    [
        lambda wire: wire[:-1],
        lambda wire: wire + b"\0",
        lambda wire: b"",
        lambda wire: b"\xff\x54\x43\x48" + wire[4:],
        lambda wire: wire[:4] + b"\x80\x17" + wire[6:],  # TPM_ST_ATTEST_CERTIFY
        lambda wire: wire[:6] + b"\x00\x43" + wire[8:],  # name of 67 bytes
        lambda wire: wire[:42] + b"\x00\x43" + wire[44:],  # extra data of 67 bytes
        lambda wire: wire[:92] + b"\x02" + wire[93:],  # safe = 2
        lambda wire: wire[:101] + b"\x00\x00\x00\x11" + wire[105:],  # 17 banks
        lambda wire: wire[:107] + b"\x00" + wire[108:],  # empty bit map
        lambda wire: wire[:107] + b"\x05" + wire[108:],
        lambda wire: wire[:111] + b"\x00\x41" + wire[113:],  # digest of 65 bytes
    ],
    ids=["short", "trailing", "empty", "magic", "type", "name", "extra", "safe", "banks", "nomap", "bigmap", "digest"],
)
def test_attest_of_another_form_is_refused(refuses, alter: Callable[[bytes], bytes]):
    assert alter(WIRE) != WIRE
    refuses(EvidenceMalformed, lambda: Attest.from_bytes(alter(WIRE)))
    # Also when the enrolled key itself signed it.
    signature = EcdsaSignature(raw=P256.sign(KEY, alter(WIRE))).to_bytes()
    forged = Quote(attest=alter(WIRE), signature=signature)
    refuses(EvidenceMalformed, lambda: verify_attest(forged, KEY.public))


def test_every_truncation_is_refused(refuses):
    for size in range(len(WIRE)):
        refuses(EvidenceMalformed, lambda: Attest.from_bytes(WIRE[:size]))  # noqa: B023
    wire = QUOTE.to_bytes()
    for size in range(len(wire)):
        refuses(EvidenceMalformed, lambda: Quote.from_bytes(wire[:size]))  # noqa: B023


def test_oversize_attest_is_refused(refuses):
    refuses(Oversize, lambda: Attest.from_bytes(bytes(MAX_ATTEST_BYTES + 1)))
    refuses(EvidenceMalformed, lambda: Quote.from_bytes(b"\x04\x01" + bytes(2000)))


def test_trailing_bytes_after_a_quote_are_refused(refuses):
    refuses(EvidenceMalformed, lambda: Quote.from_bytes(QUOTE.to_bytes() + b"\0"))
    refuses(EvidenceMalformed, lambda: EcdsaSignature.from_bytes(QUOTE.signature + b"\0"))


@pytest.mark.parametrize(
    ("position", "value"),
    [(1, 0x14), (3, 0x0C), (5, 0x21), (5, 0x1F), (39, 0x21)],
    ids=["rsa", "sha384", "r33", "r31", "s33"],
)
def test_signature_of_another_form_is_refused(refuses, position, value):
    altered = bytearray(QUOTE.signature)
    altered[position] = value
    refuses(EvidenceMalformed, lambda: EcdsaSignature.from_bytes(bytes(altered)))


def test_signature_parts_without_leading_zeros_come_back_padded(refuses):
    short = bytes.fromhex("0018 000b 0001 05 0002 0607")
    signature = EcdsaSignature.read(Reader(short), low=1)
    assert signature.raw == bytes(31) + b"\x05" + bytes(30) + b"\x06\x07"
    assert len(signature.to_bytes()) == 72
    # On the wire there is one form only.
    refuses(EvidenceMalformed, lambda: EcdsaSignature.from_bytes(short))


def test_public_area_of_another_form_is_refused(refuses):
    area = public_area(KEY.public)
    assert parse_public_area(area) == KEY.public
    for position in range(22):
        altered = bytearray(area)
        altered[position] ^= 1
        refuses(EvidenceMalformed, lambda: parse_public_area(bytes(altered)))  # noqa: B023
    refuses(EvidenceMalformed, lambda: parse_public_area(area + b"\0"))
    refuses(EvidenceMalformed, lambda: parse_public_area(area[:-1]))
    refuses(EvidenceMalformed, lambda: parse_public_area(KEY_TEMPLATE))
    refuses(Malformed, lambda: parse_public_area(area[:-1] + bytes([area[-1] ^ 1])))


def test_unknown_banks_parse_so_that_policy_can_refuse_them():
    selection = (PcrBank(algorithm=4, bitmap=b"\xff"), PcrBank(algorithm=0xFFFF, bitmap=b"\0\0\0\0"))
    reader = Reader(encode_selection(selection))
    assert read_selection(reader) == selection
    reader.end()


BANK = st.builds(PcrBank, algorithm=st.integers(0, 0xFFFF), bitmap=st.binary(min_size=1, max_size=4))
CLOCK = st.builds(
    ClockInfo,
    clock_ms=st.integers(0, 2**64 - 1),
    reset_count=st.integers(0, 2**32 - 1),
    restart_count=st.integers(0, 2**32 - 1),
    safe=st.booleans(),
)


@given(
    st.builds(
        Attest,
        qualified_signer=st.binary(max_size=66),
        extra_data=st.binary(max_size=66),
        clock_info=CLOCK,
        firmware_version=st.integers(0, 2**64 - 1),
        selection=st.lists(BANK, max_size=16).map(tuple),
        pcr_digest=st.binary(max_size=64),
    )
)
def test_any_attest_round_trips(attest):
    assert Attest.from_bytes(attest.to_bytes()) == attest


@given(st.binary(max_size=200), st.integers(0, len(WIRE)), st.integers(0, len(WIRE)))
def test_parsers_raise_only_refusals(middle, start, end):
    spliced = WIRE[:start] + middle + WIRE[end:]
    for parse in (Attest.from_bytes, EcdsaSignature.from_bytes, Quote.from_bytes):
        try:
            parsed = parse(spliced)
        except ProtocolError:
            continue
        assert parsed.to_bytes() == spliced
    for data in (middle, KEY_TEMPLATE[:-4] + middle):
        try:
            parse_public_area(data)
        except ProtocolError:
            continue
