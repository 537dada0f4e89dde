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
    """The one deterministic encoding of `value`."""
    return cbor2.dumps(value, canonical=True)


def byte_string(data: bytes) -> bytes:
    """As `encode`, for a byte string: put together, which is faster than to ask cbor2."""
    return _head_of_bytes(len(data)) + data


@lru_cache(maxsize=4096)
def _head_of_bytes(length: int) -> bytes:
    return encode(bytes(length))[: -length or None]


@lru_cache(maxsize=64)
def array_head(length: int) -> bytes:
    """How an array of so many items begins."""
    return encode([0] * length)[: -length or None]


@lru_cache(maxsize=64)
def map_head(length: int) -> bytes:
    """How a map of so many entries begins."""
    return bytes((array_head(length)[0] | 0x20,)) + array_head(length)[1:]


@lru_cache(maxsize=1024)
def unsigned(number: int) -> bytes:
    """As `encode`, for a number that is encoded often, such as a time."""
    return encode(number)


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
