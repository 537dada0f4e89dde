"""Deterministic CBOR (RFC 8949 §4.2), strict both ways: one value, one encoding (design §2).

Only unsigned and negative integers, byte and text strings, booleans, arrays and maps cross the wire; map keys are all
text or all unsigned integers, so that cbor2's length-first sorting agrees with RFC 8949. cbor2 alone accepts long
forms, trailing bytes and tags; tags are refused before their content is looked at, and re-encoding and comparing
refuses the rest.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, NoReturn, TypeAlias

import cbor2

from protocol.errors import Malformed, Oversize

Plain: TypeAlias = Any
"""int, bytes, str, bool, list[Plain], dict[str, Plain] or dict[int, Plain]; `decode` checks it, not the type."""

MAX_DEPTH: Final = 12
_ATOMS: Final = frozenset({int, bytes, str, bool})


class _NoTags(dict[int, Any]):
    """The semantic decoders: none. Left to itself, cbor2 decodes bignums, regular expressions and shared references,
    by which a few bytes make a cycle, or a value that takes hours to walk."""

    def __missing__(self, tag: int) -> NoReturn:
        raise cbor2.CBORDecodeError(f"tag {tag}")


_NO_TAGS: Final = _NoTags()


def encode(value: Plain) -> bytes:
    """The one deterministic encoding of `value`. What is most frequent is put together here: cbor2 is slow to begin."""
    kind = type(value)
    if kind is bytes:
        return byte_string(value)
    if kind is str:
        return text(value)
    if kind is int and 0 <= value < _END:
        return _UNSIGNED[value] if value < _SHORT else _head(_UNSIGNED_TYPE, value)
    if kind is list:
        return array_head(len(value)) + b"".join(map(encode, value))
    return cbor2.dumps(value, canonical=True)


def byte_string(value: bytes) -> bytes:
    """As `encode`, for a byte string."""
    length = len(value)
    return (_BYTES[length] if length < _SHORT else _head(_BYTES_TYPE, length)) + value


def text(value: str) -> bytes:
    """As `encode`, for a text; also for one that belongs to an enumeration."""
    data = value.encode()
    length = len(data)
    return (_TEXT[length] if length < _SHORT else _head(_TEXT_TYPE, length)) + data


def array_head(length: int) -> bytes:
    """How an array of so many items begins."""
    return _head(_ARRAY_TYPE, length)


def map_head(length: int) -> bytes:
    """How a map of so many entries begins."""
    return _head(_MAP_TYPE, length)


@lru_cache(maxsize=4096)
def _head(major: int, number: int) -> bytes:
    """How a value of this major type begins, in the shortest form (RFC 8949 §4.2.1)."""
    if number < 24:
        return bytes((major | number,))
    log = _LOGS[(number.bit_length() - 1) // 8]
    return bytes((major | 24 + log,)) + number.to_bytes(1 << log, "big")


_LOGS: Final = (0, 1, 2, 2, 3, 3, 3, 3)
"""Bytes that a number needs, less one → the power of two that it takes of them."""
_UNSIGNED_TYPE, _BYTES_TYPE, _TEXT_TYPE, _ARRAY_TYPE, _MAP_TYPE = 0x00, 0x40, 0x60, 0x80, 0xA0
_END: Final = 1 << 64
"""Numbers from here on have no head."""
_SHORT: Final = 256
_UNSIGNED, _BYTES, _TEXT = (
    tuple(_head(major, number) for number in range(_SHORT)) for major in (_UNSIGNED_TYPE, _BYTES_TYPE, _TEXT_TYPE)
)
"""The heads that are needed most."""


def decode(data: bytes, *, max_bytes: int) -> Plain:
    """The value that `data` encodes.

    Raises:
        Oversize: more than `max_bytes` bytes.
        Malformed: not exactly one deterministic encoding of the allowed types.
    """
    value = read(data, max_bytes=max_bytes)
    _only_allowed(value)
    if encode(value) != data:
        raise Malformed("not the deterministic encoding")
    return value


def read(data: bytes, *, max_bytes: int) -> Plain:
    """What `data` says, in whatever form: for who encodes it again by himself, and compares.

    Raises:
        Oversize: more than `max_bytes` bytes.
        Malformed: not CBOR, or with tags.
    """
    if len(data) > max_bytes:
        raise Oversize(f"{len(data)} bytes, at most {max_bytes}")
    try:
        return cbor2.loads(
            data, allow_duplicate_keys=False, allow_indefinite=False, max_depth=MAX_DEPTH, semantic_decoders=_NO_TAGS
        )
    except (cbor2.CBORDecodeError, ValueError, OverflowError) as exc:
        raise Malformed("not CBOR of the allowed types") from exc


def _only_allowed(value: Plain) -> None:
    kind = type(value)
    if kind in _ATOMS:
        return
    if kind is list:
        for item in value:
            _only_allowed(item)
    elif kind is dict:
        kinds = {type(key) for key in value}
        if kinds - {str} and (kinds - {int} or min(value) < 0):
            raise Malformed("map keys are neither all text nor all unsigned")
        for item in value.values():
            _only_allowed(item)
    else:
        raise Malformed(f"type {kind.__name__} is not allowed")
