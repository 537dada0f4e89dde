"""BER-TLV data objects, strictly (EMV Book 3 Annex B; ISO/IEC 7816-4 §5.2.2).

One meaning has one encoding, because these bytes are signed:

- tags of one to three bytes, lengths in the shortest form, no indefinite length, nothing after the last object;
- a primitive tag occurs once among its siblings (Book 3 §10.2 has a terminal refuse redundant primitive objects);
  templates may repeat, as `61` does in a directory;
- `00` between objects is refused, unless the caller says that it reads foreign cards: Book 3 Annex B1 lets those pad;
- input size, nesting and the number of objects are bounded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from protocol.errors import CardDataInvalid, Oversize

MAX_BYTES: Final = 4096
"""A card's whole issuance data is under 1 kB; a command's answer is at most 256 bytes."""
MAX_OBJECTS: Final = 128
MAX_DEPTH: Final = 5
"""The deepest real nesting is 6F > A5 > BF0C > 61 > 4F (Book 1 §11.3)."""
MAX_TAG_BYTES: Final = 3
_CONSTRUCTED: Final = 0x20


class Tlv(NamedTuple):
    """One data object. `value` is what was received; `children` is its parse where the tag is constructed."""

    tag: int
    value: bytes
    children: tuple[Tlv, ...] = ()

    def to_bytes(self) -> bytes:
        """The object's one encoding."""
        return encode(self.tag, self.value)


@dataclass(slots=True)
class _Budget:
    """How many objects one decoding may still produce, over all levels."""

    objects: int

    def take(self) -> None:
        self.objects -= 1
        if self.objects < 0:
            raise Oversize("more data objects than a card carries")


def is_constructed(tag: int) -> bool:
    """Whether the tag's value is itself TLV: bit 6 of the first byte (Book 3 Annex B1)."""
    while tag > 0xFF:
        tag >>= 8
    return bool(tag & _CONSTRUCTED)


@lru_cache(maxsize=256)
def tag_bytes(tag: int) -> bytes:
    """The tag as it travels. Raises: CardDataInvalid when the number is no well-formed tag."""
    encoded = tag.to_bytes((tag.bit_length() + 7) // 8 or 1, "big")
    if read_tag(encoded, 0) != (tag, len(encoded)):
        raise CardDataInvalid("not a tag")
    return encoded


def read_tag(data: bytes, offset: int) -> tuple[int, int]:
    """The tag at `offset` and the offset behind it. Raises: CardDataInvalid, also for the padding byte 00."""
    if offset >= len(data):
        raise CardDataInvalid("tag is missing")
    if data[offset] == 0:
        raise CardDataInvalid("padding where a tag belongs")
    end = offset + 1
    if data[offset] & 0x1F == 0x1F:
        # Bit 8 of each further byte says that another follows (Book 3 Annex B1).
        while end < len(data) and end - offset < MAX_TAG_BYTES and data[end] & 0x80:
            end += 1
        end += 1
        if end > len(data) or end - offset > MAX_TAG_BYTES:
            raise CardDataInvalid("tag is truncated or too long")
    return int.from_bytes(data[offset:end], "big"), end


def length_bytes(length: int) -> bytes:
    """The shortest length field. Raises: Oversize over the module's bound."""
    if length > MAX_BYTES:
        raise Oversize("data object is too long")
    if length < 0x80:
        return bytes([length])
    if length < 0x100:
        return bytes([0x81, length])
    return b"\x82" + length.to_bytes(2, "big")


def _read_length(data: bytes, offset: int) -> tuple[int, int]:
    if offset >= len(data):
        raise CardDataInvalid("length is missing")
    end = offset + 1 + (data[offset] & 0x7F)
    length = int.from_bytes(data[offset + 1 : end], "big")
    # Indefinite, too wide and truncated length fields are no shortest form either.
    if length_bytes(length) != data[offset:end]:
        raise CardDataInvalid("length is not in its shortest form")
    return length, end


def _read_all(data: bytes, *, depth: int, budget: _Budget, padded: bool) -> tuple[Tlv, ...]:
    if depth > MAX_DEPTH:
        raise Oversize("templates are nested too deeply")
    found: list[Tlv] = []
    primitives: set[int] = set()
    offset, end = 0, len(data)
    while offset < end:
        tag = first = data[offset]
        if padded and first == 0:
            offset += 1
            continue
        budget.take()
        # Most objects have a tag and a length of one byte; anything else is read with more care.
        if first & 0x1F == 0x1F or first == 0:
            tag, offset = read_tag(data, offset)
        else:
            offset += 1
        if offset < end and data[offset] < 0x80:
            length, offset = data[offset], offset + 1
        else:
            length, offset = _read_length(data, offset)
        value = data[offset : offset + length]
        if len(value) != length:
            raise CardDataInvalid("value is truncated")
        offset += length
        if first & _CONSTRUCTED:
            found.append(Tlv(tag, value, _read_all(value, depth=depth + 1, budget=budget, padded=padded)))
            continue
        if tag in primitives:
            raise CardDataInvalid("primitive data object occurs twice")
        primitives.add(tag)
        found.append(Tlv(tag, value))
    return tuple(found)


def decode(data: bytes, *, padded: bool = False) -> tuple[Tlv, ...]:
    """All data objects in `data`, in order.

    `padded` skips `00` between objects, for cards of other issuers only.
    Raises: CardDataInvalid (not strict BER-TLV); Oversize (over a bound).
    """
    if len(data) > MAX_BYTES:
        raise Oversize("more card data than a card carries")
    return _read_all(data, depth=0, budget=_Budget(MAX_OBJECTS), padded=padded)


def decode_one(data: bytes, tag: int) -> Tlv:
    """The single data object `tag` that is all of `data`. Raises: CardDataInvalid; Oversize."""
    objects = decode(data)
    if len(objects) != 1 or objects[0].tag != tag:
        raise CardDataInvalid("not the one data object expected here")
    return objects[0]


def value_of(objects: Iterable[Tlv], tag: int) -> bytes:
    """The value of the first object `tag` among `objects`. Raises: CardDataInvalid when it is absent."""
    for item in objects:
        if item.tag == tag:
            return item.value
    raise CardDataInvalid(f"data object {tag:X} is missing")


def encode(tag: int, value: bytes) -> bytes:
    """One data object. Raises: CardDataInvalid (no tag); Oversize (value over the bound)."""
    return tag_bytes(tag) + length_bytes(len(value)) + value


def encode_all(objects: Iterable[tuple[int, bytes]]) -> bytes:
    """Data objects one after another, as inside a template. Raises: as `encode`."""
    return b"".join(encode(tag, value) for tag, value in objects)
