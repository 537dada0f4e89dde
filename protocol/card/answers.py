"""What a terminal reads out of a card's answers between selection and cryptogram (EMV Book 3 §6.5, §10.1, §10.2).

Cards of any issuer are read here, so `00` between data objects is put up with, and both response formats are taken:
80, whose fields stand in a fixed order, and 77, whose data objects have their tags.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from protocol.card import tlv
from protocol.card.afl import RECORD_TEMPLATE, Record
from protocol.card.combined import CryptogramType
from protocol.card.cryptogram import CRYPTOGRAM_BYTES
from protocol.errors import CardDataInvalid

_FORMAT_1: Final = 0x80
_FORMAT_2: Final = 0x77
_AIP_BYTES: Final = 2
_ATC_BYTES: Final = 2
MAX_ISSUER_DATA_BYTES: Final = 32
_KIND: Final = 0xC0
MANDATORY: Final = (0x5A, 0x5F24, 0x8C)
"""Of Book 3 §7.2; CDOL2 is not among them, as a contactless card gives one cryptogram."""
_COMBINED: Final = frozenset({0x9F27, 0x9F36, 0x9F10, 0x9F4B})
"""All that an answer under CDA consists of. What else stood there would be under no signature."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cryptogram:
    """The answer to GENERATE AC. `signature` is 9F4B, None where the answer is not one under CDA; a cryptogram that
    stands in the clear is not kept."""

    kind: CryptogramType
    information: int
    atc: int
    issuer_data: bytes
    signature: bytes | None = field(repr=False)


def parse_options(data: bytes) -> tuple[bytes, bytes]:
    """AIP and AFL out of the answer to GET PROCESSING OPTIONS (Book 3 §6.5.8.4). Raises: CardDataInvalid; Oversize."""
    answer = _only(data)
    if answer.tag == _FORMAT_1:
        aip, afl = answer.value[:_AIP_BYTES], answer.value[_AIP_BYTES:]
    else:
        aip, afl = _value(answer, 0x82), _value(answer, 0x94)
    if len(aip) != _AIP_BYTES:
        raise CardDataInvalid("application interchange profile is two bytes")
    return aip, afl


def collect(records: Iterable[Record]) -> dict[int, bytes]:
    """Every data object of the records, by tag (Book 3 §10.2). Nothing of it is authenticated yet.

    Raises: CardDataInvalid (malformed, twice there, or a mandatory one missing); Oversize.
    """
    data: dict[int, bytes] = {}
    for record in records:
        template = _only(record.data)
        if template.tag != RECORD_TEMPLATE:
            raise CardDataInvalid("record is not a template 70")
        for item in template.children:
            if item.tag in data:
                raise CardDataInvalid("data object occurs twice in the records")
            data[item.tag] = item.value
    for tag in MANDATORY:
        if tag not in data:
            raise CardDataInvalid(f"mandatory data object {tag:X} is missing")
    return data


def parse_cryptogram(data: bytes) -> Cryptogram:
    """The answer to GENERATE AC (Book 3 §6.5.5.4). Raises: CardDataInvalid; Oversize."""
    answer = _only(data)
    if answer.tag == _FORMAT_1:
        # 9F27 (1), 9F36 (2), 9F26 (8), 9F10 (rest); there is no place for a signature in it.
        value = answer.value
        if len(value) < 1 + _ATC_BYTES + CRYPTOGRAM_BYTES:
            raise CardDataInvalid("answer to GENERATE AC is cut off")
        return _cryptogram(value[:1], value[1:3], value[3 + CRYPTOGRAM_BYTES :], None)
    tags = {item.tag for item in answer.children}
    return _cryptogram(
        _value(answer, 0x9F27),
        _value(answer, 0x9F36),
        _value(answer, 0x9F10) if 0x9F10 in tags else b"",
        _value(answer, 0x9F4B) if tags == _COMBINED else None,
    )


def _cryptogram(information: bytes, atc: bytes, issuer_data: bytes, signature: bytes | None) -> Cryptogram:
    if len(information) != 1 or len(atc) != _ATC_BYTES or len(issuer_data) > MAX_ISSUER_DATA_BYTES:
        raise CardDataInvalid("field of GENERATE AC's answer has a wrong length")
    try:
        kind = CryptogramType(information[0] & _KIND)
    except ValueError as exc:
        raise CardDataInvalid("no such cryptogram type") from exc
    return Cryptogram(
        kind=kind,
        information=information[0],
        atc=int.from_bytes(atc, "big"),
        issuer_data=issuer_data,
        signature=signature,
    )


def _only(data: bytes) -> tlv.Tlv:
    objects = tlv.decode(data, padded=True)
    if len(objects) != 1:
        raise CardDataInvalid("answer is not one data object")
    return objects[0]


def _value(answer: tlv.Tlv, tag: int) -> bytes:
    if answer.tag != _FORMAT_2:
        raise CardDataInvalid("answer has neither of the two formats")
    return tlv.value_of(answer.children, tag)
