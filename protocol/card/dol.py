"""Data object lists: which data a card asks of the terminal, and how the answer is laid out (EMV Book 3 §5.4).

The answer carries no tags, so both sides must agree on every byte; a MAC and a signature are over it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from struct import Struct
from typing import Final

from protocol.card import tlv
from protocol.errors import CardDataInvalid, Oversize

MAX_LIST_BYTES: Final = 252
MAX_DATA_BYTES: Final = 252
"""Lc is at most 255, and the PDOL's data travels inside a template of three bytes (Book 3 §6.5.8)."""

NUMERIC: Final = frozenset(
    {
        0x5F24,  # application expiration date
        0x5F25,  # application effective date
        0x5F28,  # issuer country code
        0x5F2A,  # transaction currency code
        0x5F34,  # PAN sequence number
        0x5F36,  # transaction currency exponent
        0x9A,  # transaction date
        0x9C,  # transaction type
        0x9F01,  # acquirer identifier
        0x9F02,  # amount, authorized
        0x9F03,  # amount, other
        0x9F15,  # merchant category code
        0x9F1A,  # terminal country code
        0x9F21,  # transaction time
        0x9F35,  # terminal type
        0x9F39,  # point-of-service entry mode
        0x9F3C,  # transaction reference currency code
        0x9F3D,  # transaction reference currency exponent
        0x9F41,  # transaction sequence counter
        0x9F42,  # application currency code
        0x9F44,  # application currency exponent
    }
)
"""Format n in the data elements dictionary (Book 3 Annex A)."""
COMPRESSED_NUMERIC: Final = frozenset({0x5A, 0x9F20})
"""Format cn: PAN and track 2 discretionary data (Book 3 Annex A)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DolEntry:
    """One thing asked for, and the number of bytes it takes in the answer."""

    tag: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dol:
    """A parsed list; `from_bytes` is the only way in that a peer's bytes take."""

    entries: tuple[DolEntry, ...]
    _tags: tuple[int, ...] = field(init=False, repr=False, compare=False)
    _values: Struct = field(init=False, repr=False, compare=False)
    """The answer, cut where each tag's value ends."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_tags", tuple(entry.tag for entry in self.entries))
        object.__setattr__(self, "_values", Struct("".join(f"{entry.length}s" for entry in self.entries)))

    @classmethod
    def of(cls, *pairs: tuple[int, int]) -> Dol:
        """A list of our own from (tag, length) pairs."""
        return cls.from_bytes(b"".join(tlv.tag_bytes(tag) + bytes([length]) for tag, length in pairs))

    @classmethod
    def from_bytes(cls, data: bytes) -> Dol:
        """Parse. A tag asked for twice or for nothing is refused: the answer could be read in two ways.

        Raises: CardDataInvalid; Oversize (the list, or the answer that it asks for).
        """
        if len(data) > MAX_LIST_BYTES:
            raise Oversize("data object list is too long")
        entries: list[DolEntry] = []
        seen: set[int] = set()
        offset = 0
        while offset < len(data):
            tag, offset = tlv.read_tag(data, offset)
            if offset >= len(data) or data[offset] == 0:
                raise CardDataInvalid("data object list asks for no bytes")
            if tag in seen:
                raise CardDataInvalid("data object list asks twice")
            seen.add(tag)
            entries.append(DolEntry(tag=tag, length=data[offset]))
            offset += 1
        if sum(entry.length for entry in entries) > MAX_DATA_BYTES:
            raise Oversize("data object list asks for more than a command holds")
        return cls(entries=tuple(entries))

    def to_bytes(self) -> bytes:
        """The list as a card carries it."""
        return b"".join(tlv.tag_bytes(entry.tag) + bytes([entry.length]) for entry in self.entries)

    @property
    def data_length(self) -> int:
        """Bytes in the answer."""
        return self._values.size

    def build(self, values: Mapping[int, bytes]) -> bytes:
        """The terminal's side: the answer from what is at hand, each value fitted to the length asked for."""
        return b"".join(_fitted(entry, values.get(entry.tag)) for entry in self.entries)

    def split(self, data: bytes) -> dict[int, bytes]:
        """The card's side: tag → value. Raises: CardDataInvalid when the length is not exactly the list's."""
        if len(data) != self._values.size:
            raise CardDataInvalid("data does not have the length its list asks for")
        return dict(zip(self._tags, self._values.unpack(data), strict=True))


def _fitted(entry: DolEntry, value: bytes | None) -> bytes:
    # Book 3 §5.4 rules 2a-2d: unknown, constructed or absent data is zeros; numbers keep their right end,
    # everything else keeps its left end.
    if value is None or tlv.is_constructed(entry.tag):
        return bytes(entry.length)
    if entry.tag in NUMERIC:
        return value[-entry.length :].rjust(entry.length, b"\x00")
    if entry.tag in COMPRESSED_NUMERIC:
        return value[: entry.length].ljust(entry.length, b"\xff")
    return value[: entry.length].ljust(entry.length, b"\x00")
