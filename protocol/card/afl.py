"""A card's files: which records a terminal reads, and which of them the card's certificate covers.

EMV Book 3 §10.2 and §10.3, and stricter than a terminal has to be, as these are cards of our own. Records are in files
1 to 10; the tag list 9F4A must be there, so that the AIP is signed and nobody can take CDA out of it on the way; and a
record that is not signed may hold certificates only, which prove themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from protocol.card import tlv
from protocol.errors import CardDataInvalid, Oversize

MAX_RECORD_BYTES: Final = 254
"""Template included; so a 248-byte issuer certificate stands alone in its record."""
MAX_RECORDS: Final = 16
MAX_SFI: Final = 10
RECORD_TEMPLATE: Final = 0x70
TAG_LIST: Final = 0x9F4A
AIP: Final = b"\x82"
CERTIFICATE_TAGS: Final = frozenset({0x8F, 0x90, 0x92, 0x9F32, 0x9F46, 0x9F47, 0x9F48})


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record with its place: short file identifier and record number."""

    sfi: int
    number: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class AflEntry:
    """Records `first` to `last` of a file, of which the first `signed` are under the card's certificate."""

    sfi: int
    first: int
    last: int
    signed: int

    def __post_init__(self) -> None:
        # Book 3 §10.2: SFI 0 and 31 are errors, as are record 0, a last before the first, too many signed.
        if not 1 <= self.sfi <= MAX_SFI or not 1 <= self.first <= self.last:
            raise CardDataInvalid("file locator names no record of ours")
        if self.signed > self.last - self.first + 1:
            raise CardDataInvalid("file locator has more signed records than records")


@dataclass(frozen=True, slots=True, kw_only=True)
class Afl:
    """Application File Locator, tag 94."""

    entries: tuple[AflEntry, ...]
    _places: tuple[tuple[tuple[int, int], bool], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        places = (
            ((entry.sfi, number), number < entry.first + entry.signed)
            for entry in self.entries
            for number in range(entry.first, entry.last + 1)
        )
        object.__setattr__(self, "_places", tuple(places))

    @classmethod
    def from_bytes(cls, data: bytes) -> Afl:
        """Parse. Raises: CardDataInvalid; Oversize."""
        if not data or len(data) % 4:
            raise CardDataInvalid("file locator is not made of four-byte entries")
        entries: list[AflEntry] = []
        for offset in range(0, len(data), 4):
            file, first, last, signed = data[offset : offset + 4]
            if file & 7:
                raise CardDataInvalid("file locator has reserved bits set")
            entries.append(AflEntry(sfi=file >> 3, first=first, last=last, signed=signed))
        if sum(entry.last - entry.first + 1 for entry in entries) > MAX_RECORDS:
            raise Oversize("file locator names too many records")
        return cls(entries=tuple(entries))

    def to_bytes(self) -> bytes:
        """As GET PROCESSING OPTIONS returns it."""
        return b"".join(bytes([entry.sfi << 3, entry.first, entry.last, entry.signed]) for entry in self.entries)

    def walk(self) -> tuple[tuple[tuple[int, int], bool], ...]:
        """(file, record) in reading order, each with whether it is signed."""
        return self._places


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFiles:
    """What reading all records gave: every data object, and the static data to be authenticated."""

    data: Mapping[int, bytes]
    static_data: bytes

    def get(self, tag: int) -> bytes:
        """The value of a data object. Raises: CardDataInvalid when the card does not carry it."""
        if tag not in self.data:
            raise CardDataInvalid(f"data object {tag:X} is missing")
        return self.data[tag]


class Placed(Protocol):
    """A record with its place, ours or a message's."""

    @property
    def sfi(self) -> int: ...

    @property
    def number(self) -> int: ...

    @property
    def data(self) -> bytes: ...


def by_place(records: Sequence[Placed]) -> dict[tuple[int, int], bytes]:
    """(file, record) → bytes. Raises: CardDataInvalid when a place is named twice, so that neither stands for both."""
    placed = {(record.sfi, record.number): record.data for record in records}
    if len(placed) != len(records):
        raise CardDataInvalid("two records have one place")
    return placed


def read_files(afl: Afl, records: Mapping[tuple[int, int], bytes], *, aip: bytes) -> CardFiles:
    """Walk the locator over `records`, keyed (file, record).

    Raises: CardDataInvalid (missing or unnamed record, doubled object, unsigned data, AIP not covered); Oversize.
    """
    data: dict[int, bytes] = {}
    signed_part = b""
    named = afl.walk()
    for place, signed in named:
        record = records.get(place)
        if record is None:
            raise CardDataInvalid("record is missing")
        if len(record) > MAX_RECORD_BYTES:
            raise Oversize("record is over 254 bytes")
        _, inside, objects = tlv.parse_one(record, RECORD_TEMPLATE)
        for tag, value, _ in objects:
            if tag in data:
                raise CardDataInvalid("data object occurs twice in the records")
            if not signed and tag not in CERTIFICATE_TAGS:
                raise CardDataInvalid("data object stands outside the signed records")
            data[tag] = value
        if signed:
            # Book 3 §10.3: in files 1 to 10 the template's tag and length are not part of the signed data.
            signed_part += inside
    if len(records) != len(named):
        raise CardDataInvalid("there are records that the file locator does not name")
    # Book 3 §10.3: the tag list may name the AIP only, whose value then ends the signed data.
    if data.get(TAG_LIST) != AIP:
        raise CardDataInvalid("application interchange profile is not among the signed data")
    return CardFiles(data=data, static_data=signed_part + aip)


def make_record(sfi: int, number: int, *objects: tuple[int, bytes]) -> Record:
    """A record of our own. Raises: Oversize."""
    data = tlv.encode(RECORD_TEMPLATE, tlv.encode_all(objects))
    if len(data) > MAX_RECORD_BYTES:
        raise Oversize("record is over 254 bytes; an issuer key over 1976 bits makes such certificates")
    return Record(sfi=sfi, number=number, data=data)
