"""BER-TLV data objects, strictly (EMV Book 3 Annex B; ISO/IEC 7816-4 §5.2.2).

One meaning has one encoding, because these bytes are signed:

- tags of one to three bytes, lengths in the shortest form, no indefinite length, nothing after the last object;
- a primitive tag occurs once among its siblings (Book 3 §10.2 has a terminal refuse redundant primitive objects);
  templates may repeat, as `61` does in a directory;
- `00` between objects is refused, unless the caller says that it reads foreign cards: Book 3 Annex B1 lets those pad;
- input size, nesting and the number of objects are bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
_SHORT_LENGTHS: Final = tuple(bytes([n] if n < 0x80 else [0x81, n]) for n in range(0x100))


class Tlv(NamedTuple):
    """One data object. `value` is what was received; `children` is its parse where the tag is constructed."""

    tag: int
    value: bytes
    children: tuple[Tlv, ...] = ()

    def to_bytes(self) -> bytes:
        """The object's one encoding."""
        return encode(self.tag, self.value)


Parsed = tuple[int, bytes, Sequence["Parsed"]]
"""What a `Tlv` says, as a plain tuple, for half the work: the issuer reads a card's records for every purchase."""


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
    tag = data[offset]
    if tag & 0x1F == 0x1F:
        # Bit 8 of each further byte says that another follows (Book 3 Annex B1).
        more = True
        while more:
            if end == len(data) or end - offset == MAX_TAG_BYTES:
                raise CardDataInvalid("tag is truncated or too long")
            tag, more, end = tag << 8 | data[end], data[end] >= 0x80, end + 1
    return tag, end


def length_bytes(length: int) -> bytes:
    """The shortest length field. Raises: Oversize over the module's bound."""
    if length < 0x100:
        return _SHORT_LENGTHS[length]
    if length > MAX_BYTES:
        raise Oversize("data object is too long")
    return b"\x82" + length.to_bytes(2, "big")


def _read_length(data: bytes, offset: int) -> tuple[int, int]:
    if offset >= len(data):
        raise CardDataInvalid("length is missing")
    if data[offset] == 0x81 and offset + 1 < len(data) and data[offset + 1] >= 0x80:
        return data[offset + 1], offset + 2
    end = offset + 1 + (data[offset] & 0x7F)
    length = int.from_bytes(data[offset + 1 : end], "big")
    # Indefinite, too wide and truncated length fields are no shortest form either.
    if length_bytes(length) != data[offset:end]:
        raise CardDataInvalid("length is not in its shortest form")
    return length, end


def _read_all(data: bytes, depth: int, budget: list[int], padded: bool) -> list[Parsed]:
    # `budget` is one number: how many objects may still come, over all levels.
    if depth > MAX_DEPTH:
        raise Oversize("templates are nested too deeply")
    found: list[Parsed] = []
    primitives: set[int] = set()
    offset, end = 0, len(data)
    while offset < end:
        tag = first = data[offset]
        if padded and first == 0:
            offset += 1
            continue
        budget[0] -= 1
        if budget[0] < 0:
            raise Oversize("more data objects than a card carries")
        # Most objects have a tag of one or two bytes and a length of one; anything else is read with more care.
        if first & 0x1F != 0x1F and first:
            offset += 1
        elif first and offset + 1 < end and (second := data[offset + 1]) < 0x80:
            tag, offset = first << 8 | second, offset + 2
        else:
            tag, offset = read_tag(data, offset)
        if offset < end and (length := data[offset]) < 0x80:
            offset += 1
        else:
            length, offset = _read_length(data, offset)
        start, offset = offset, offset + length
        if offset > end:
            raise CardDataInvalid("value is truncated")
        value = data[start:offset]
        if first & _CONSTRUCTED:
            found.append((tag, value, _read_all(value, depth + 1, budget, padded)))
            continue
        if tag in primitives:
            raise CardDataInvalid("primitive data object occurs twice")
        primitives.add(tag)
        found.append((tag, value, ()))
    return found


def _objects(parsed: Iterable[Parsed]) -> tuple[Tlv, ...]:
    return tuple([Tlv(tag, value, _objects(inside)) for tag, value, inside in parsed])


def decode(data: bytes, *, padded: bool = False) -> tuple[Tlv, ...]:
    """All data objects in `data`, in order.

    `padded` skips `00` between objects, for cards of other issuers only.
    Raises: CardDataInvalid (not strict BER-TLV); Oversize (over a bound).
    """
    return _objects(_parse(data, padded=padded))


def _parse(data: bytes, *, padded: bool = False) -> list[Parsed]:
    if len(data) > MAX_BYTES:
        raise Oversize("more card data than a card carries")
    return _read_all(data, 0, [MAX_OBJECTS], padded)


def parse_one(data: bytes, tag: int) -> Parsed:
    """The single data object `tag` that is all of `data`. Raises: CardDataInvalid; Oversize."""
    parsed = _parse(data)
    if len(parsed) != 1 or parsed[0][0] != tag:
        raise CardDataInvalid("not the one data object expected here")
    return parsed[0]


def decode_one(data: bytes, tag: int) -> Tlv:
    """As `parse_one`, with names to what it gives. Raises: CardDataInvalid; Oversize."""
    (found,) = _objects((parse_one(data, tag),))
    return found


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
