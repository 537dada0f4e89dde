"""File locators and the data that they make authentic (EMV Book 3 §10.2-10.3)."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.card import afl
from protocol.card.afl import Afl, AflEntry, Record, by_place, make_record, read_files
from protocol.errors import CardDataInvalid, Oversize, ProtocolError

AIP = b"\x33\x80"
LOCATOR = Afl.from_bytes(bytes.fromhex("10010201 08010100".replace(" ", "")))
RECORDS = {
    (2, 1): make_record(2, 1, (0x5A, b"\x99"), (0x9F4A, b"\x82")).data,
    (2, 2): make_record(2, 2, (0x8F, b"\x01")).data,
    (1, 1): make_record(1, 1, (0x90, b"\x0c")).data,
}


def test_parses_and_writes_back() -> None:
    assert LOCATOR.entries[0] == AflEntry(sfi=2, first=1, last=2, signed=1)
    assert LOCATOR.to_bytes().hex() == "1001020108010100"
    assert list(LOCATOR.walk()) == [((2, 1), True), ((2, 2), False), ((1, 1), False)]


@pytest.mark.parametrize(
    "raw",
    ["", "080101", "09010100", "00010100", "58010100", "08000100", "08020100", "08010102", "0801010008"],
)
def test_refuses_a_locator_that_is_none(raw: str) -> None:
    with pytest.raises(CardDataInvalid) as refused:
        Afl.from_bytes(bytes.fromhex(raw))
    assert refused.value.code == "CARD_DATA_INVALID"


@pytest.mark.parametrize("raw", ["08010100" * 17, "08011100", "08010F00" + "10010200"])
def test_refuses_a_locator_over_the_bounds(raw: str) -> None:
    with pytest.raises(Oversize) as refused:
        Afl.from_bytes(bytes.fromhex(raw))
    assert refused.value.code == "OVERSIZE"


def test_signed_records_without_template_then_the_profile() -> None:
    files = read_files(LOCATOR, RECORDS, aip=AIP)
    assert files.static_data == bytes.fromhex("5A0199 9F4A0182") + AIP
    assert files.get(0x90) == b"\x0c"
    with pytest.raises(CardDataInvalid) as refused:
        files.get(0x57)
    assert refused.value.code == "CARD_DATA_INVALID"


@pytest.mark.parametrize(
    ("place", "record"),
    [
        ((2, 1), None),  # missing
        ((2, 2), make_record(2, 2, (0x5A, b"\x98")).data),  # occurs twice
        ((2, 2), make_record(2, 2, (0x90, b"\x98")).data),
        ((1, 1), make_record(1, 1, (0x8C, b"\x95\x05")).data),  # outside the signed records
        ((1, 1), b"\x77" + RECORDS[(1, 1)][1:]),  # another template
        ((1, 1), RECORDS[(1, 1)] + b"\x00"),
        ((2, 1), make_record(2, 1, (0x5A, b"\x99")).data),  # no tag list
        ((2, 1), make_record(2, 1, (0x5A, b"\x99"), (0x9F4A, b"")).data),
        ((2, 1), make_record(2, 1, (0x5A, b"\x99"), (0x9F4A, b"\x82\x5a")).data),
    ],
)
def test_refuses_records_that_do_not_add_up(place: tuple[int, int], record: bytes | None) -> None:
    changed = {key: value for key, value in RECORDS.items() if key != place}
    if record is not None:
        changed[place] = record
    with pytest.raises(CardDataInvalid) as refused:
        read_files(LOCATOR, changed, aip=AIP)
    assert refused.value.code == "CARD_DATA_INVALID"


def test_a_record_holds_254_bytes() -> None:
    assert len(make_record(1, 1, (0x90, bytes(248))).data) == afl.MAX_RECORD_BYTES
    with pytest.raises(Oversize) as refused:
        make_record(1, 1, (0x90, bytes(249)))
    assert refused.value.code == "OVERSIZE"
    # The tag of a card's certificate is one byte longer, so a 1984-bit issuer key has no room.
    assert len(make_record(1, 3, (0x9F46, bytes(247))).data) == afl.MAX_RECORD_BYTES
    with pytest.raises(Oversize):
        make_record(1, 3, (0x9F46, bytes(248)))
    with pytest.raises(Oversize):
        read_files(LOCATOR, RECORDS | {(2, 2): b"\x70\x82\x01\x00" + bytes(256)}, aip=AIP)


@given(st.binary(max_size=24))
def test_any_bytes_parse_or_are_refused(raw: bytes) -> None:
    with suppress(ProtocolError):
        assert Afl.from_bytes(raw).to_bytes() == raw


def test_a_record_has_one_place_and_a_place_one_record():
    first, other = Record(sfi=2, number=1, data=b"a"), Record(sfi=2, number=1, data=b"b")
    assert by_place([first]) == {(2, 1): b"a"}
    with pytest.raises(CardDataInvalid, match="one place") as caught:
        by_place([first, other])
    assert caught.value.code == "CARD_DATA_INVALID"
