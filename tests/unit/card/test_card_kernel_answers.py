"""Answers to GET PROCESSING OPTIONS, READ RECORD and GENERATE AC, of cards of any issuer (EMV Book 3 §6.5)."""

from __future__ import annotations

import pytest

from protocol.card import tlv
from protocol.card.afl import Record
from protocol.card.answers import Cryptogram, collect, parse_cryptogram, parse_options
from protocol.card.combined import CryptogramType
from protocol.errors import CardDataInvalid, Oversize

LOCATOR = b"\x08\x01\x03\x00"
FACTS = {0x9F27: b"\x80", 0x9F36: b"\x00\x07", 0x9F4B: b"SIGNED", 0x9F10: b"ISSUER"}


def refused(call, *arguments) -> None:
    with pytest.raises(CardDataInvalid) as refusal:
        call(*arguments)
    assert refusal.value.code == "CARD_DATA_INVALID"


def answer(changes: dict[int, bytes | None], tag: int = 0x77) -> bytes:
    merged = {name: value for name, value in (FACTS | changes).items() if value is not None}
    return tlv.encode(tag, tlv.encode_all(merged.items()))


def records(*groups: dict[int, bytes], tag: int = 0x70) -> list[Record]:
    return [
        Record(sfi=1, number=number, data=tlv.encode(tag, tlv.encode_all(group.items())))
        for number, group in enumerate(groups, 1)
    ]


def test_options_come_in_two_formats() -> None:
    want = (b"\x33\x80", LOCATOR)
    assert parse_options(tlv.encode(0x80, b"\x33\x80" + LOCATOR)) == want
    assert parse_options(tlv.encode(0x77, tlv.encode_all(((0x82, b"\x33\x80"), (0x94, LOCATOR))))) == want
    assert (
        parse_options(tlv.encode(0x77, tlv.encode_all(((0x94, LOCATOR), (0x9F36, b"\x00"), (0x82, b"\x33\x80")))))
        == want
    )


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x80\x00", b"\x80\x01\x33", b"\x77\x00", tlv.encode(0x77, tlv.encode(0x82, b"\x33\x80")),
        tlv.encode(0x77, tlv.encode(0x94, LOCATOR)),
        tlv.encode(0x77, tlv.encode(0x82, b"\x33") + tlv.encode(0x94, LOCATOR)),
        tlv.encode(0x70, tlv.encode(0x82, b"\x33\x80") + tlv.encode(0x94, LOCATOR)), b"\x80\x02\x33\x80" * 2,
    ],
)  # fmt: skip
def test_other_options_are_refused(data) -> None:
    refused(parse_options, data)


MANDATORY = {0x5A: b"\x99", 0x5F24: b"\x26\x12\x31", 0x8C: b"\x9f\x37\x04"}


def test_records_are_collected() -> None:
    assert collect(records(MANDATORY, {0x8E: b"\x01"}, {})) == MANDATORY | {0x8E: b"\x01"}
    padded = Record(sfi=1, number=2, data=b"\x00\x70\x04\x00\x8f\x01\xf1\x00")
    assert collect([*records(MANDATORY), padded]) == MANDATORY | {0x8F: b"\xf1"}


@pytest.mark.parametrize("missing", list(MANDATORY))
def test_a_mandatory_object_is_there(missing) -> None:
    refused(collect, records({tag: value for tag, value in MANDATORY.items() if tag != missing}))


def test_an_object_is_there_once() -> None:
    refused(collect, records(MANDATORY, {0x5A: b"\x99"}))


def test_a_record_is_one_template() -> None:
    refused(collect, records(MANDATORY, tag=0x77))
    refused(collect, [*records(MANDATORY), Record(sfi=1, number=2, data=b"")])
    refused(collect, [Record(sfi=1, number=1, data=records(MANDATORY)[0].data * 2)])
    with pytest.raises(Oversize) as refusal:
        collect([Record(sfi=1, number=1, data=tlv.encode(0x70, b"\xa5\x00" * 200))])
    assert refusal.value.code == "OVERSIZE"


def test_a_cryptogram_under_cda() -> None:
    assert parse_cryptogram(answer({})) == Cryptogram(
        kind=CryptogramType.ARQC, information=0x80, atc=7, issuer_data=b"ISSUER", signature=b"SIGNED"
    )
    assert "SIGNED" not in repr(parse_cryptogram(answer({})))


@pytest.mark.parametrize("information", range(256))
def test_the_type_is_the_two_upper_bits(information) -> None:
    if information >= 0xC0:
        refused(parse_cryptogram, answer({0x9F27: bytes([information])}))
    else:
        given = parse_cryptogram(answer({0x9F27: bytes([information])}))
        assert (given.kind, given.information) == (CryptogramType(information & 0xC0), information)


@pytest.mark.parametrize(
    "changes", [{0x9F26: bytes(8)}, {0x9F10: None}, {0x9F4B: None}, {0x9F4B: None, 0x9F26: bytes(8)}]
)
def test_more_or_less_than_cdas_four_is_no_signature(changes) -> None:
    assert parse_cryptogram(answer(changes)).signature is None


def test_the_first_format_has_no_signature() -> None:
    data = b"\x00\x00\x07" + bytes(8)
    assert parse_cryptogram(tlv.encode(0x80, data + b"ISSUER")) == Cryptogram(
        kind=CryptogramType.AAC, information=0, atc=7, issuer_data=b"ISSUER", signature=None
    )
    assert parse_cryptogram(tlv.encode(0x80, data)).issuer_data == b""
    for cut in range(len(data)):
        refused(parse_cryptogram, tlv.encode(0x80, data[:cut]))
    refused(parse_cryptogram, tlv.encode(0x80, data + bytes(33)))


@pytest.mark.parametrize("changes", [
    {0x9F27: b""}, {0x9F27: b"\x80\x80"}, {0x9F27: None}, {0x9F36: b"\x07"}, {0x9F36: bytes(3)}, {0x9F36: None},
    {0x9F10: bytes(33)},
])  # fmt: skip
def test_fields_have_their_lengths(changes) -> None:
    refused(parse_cryptogram, answer(changes))


def test_there_is_no_third_format() -> None:
    refused(parse_cryptogram, answer({}, tag=0x70))
    refused(parse_cryptogram, answer({}) * 2)
    refused(parse_cryptogram, b"")
