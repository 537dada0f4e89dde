"""Deterministic CBOR: one value, one encoding, and nothing but a refusal for the rest (RFC 8949 §4.2)."""

from __future__ import annotations

import time
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import codec
from protocol.errors import Malformed, Oversize, ProtocolError

LIMIT = 4096

ACCEPTED: dict[str, tuple[str, Any]] = {
    # From RFC 8949 appendix A, where the value is of an allowed type.
    "zero": ("00", 0),
    "largest in the head": ("17", 23),
    "one byte": ("1818", 24),
    "two bytes": ("190100", 256),
    "four bytes": ("1a000f4240", 1_000_000),
    "eight bytes": ("1bffffffffffffffff", 2**64 - 1),
    "minus one": ("20", -1),
    "least integer": ("3bffffffffffffffff", -(2**64)),
    "false": ("f4", False),
    "true": ("f5", True),
    "empty bytes": ("40", b""),
    "bytes": ("4401020304", b"\x01\x02\x03\x04"),
    "empty text": ("60", ""),
    "text": ("6449455446", "IETF"),
    "text beyond ASCII": ("62c3bc", "ü"),
    "empty array": ("80", []),
    "nested arrays": ("8301820203820405", [1, [2, 3], [4, 5]]),
    "empty map": ("a0", {}),
    "text keys, shorter first": ("a261620162616102", {"b": 1, "aa": 2}),
    "unsigned keys": ("a201020304", {1: 2, 3: 4}),
    "keys of several lengths": ("a3170018180019010000", {23: 0, 24: 0, 256: 0}),
    "zero as a key": ("a10000", {0: 0}),
    "negative integer as a value": ("a10126", {1: -7}),
}

MALFORMED: dict[str, str] = {
    "nothing": "",
    "trailing byte": "0000",
    "trailing item": "8001",
    "truncated array": "8201",
    "truncated text": "6461",
    "truncated head": "19ff",
    "long form of 0": "1800",
    "long form of 23": "1817",
    "long form of 24": "190018",
    "long form of 256": "1a00000100",
    "long form in eight bytes": "1b00000000ffffffff",
    "long form of a negative integer": "3800",
    "long form of a byte string's length": "5801ff",
    "long form of a text's length": "780161",
    "long form of an array's length": "980100",
    "long form of a map's length": "b8010000",
    "long form of false": "f814",
    "indefinite bytes": "5f42010243030405ff",
    "indefinite text": "7f657374726561646d696e67ff",
    "indefinite array": "9f01ff",
    "empty indefinite array": "9fff",
    "indefinite map": "bf0102ff",
    "a break alone": "ff",
    "duplicate key": "a201000100",
    "duplicate text key": "a261610061 6101",
    "duplicate key by equality of true and 1": "a20100f500",
    "unsorted unsigned keys": "a203040102",
    "unsorted text keys": "a262616101616202",
    "unsorted text keys of one length": "a2616201616102",
    "negative key": "a12000",
    "negative beside unsigned keys": "a200002000",
    "text beside unsigned keys": "a20000616100",
    "bytes as a key": "a1410000",
    "false as a key": "a1f400",
    "null as a key": "a1f600",
    "float as a key": "a1f93c0000",
    "array as a key": "a1820102 00",
    "map as a key": "a1a000",
    "null": "f6",
    "null in an array": "81f6",
    "undefined": "f7",
    "undefined in a map": "a100f7",
    "simple value": "f0",
    "simple value in two bytes": "f820",
    "float 16": "f93c00",
    "float 32": "fa47c35000",
    "float 64": "fb3ff199999999999a",
    "infinity": "f97c00",
    "not a number": "f97e00",
    "tag 0, a date": "c074323031332d30332d32315432303a30343a30305a",
    "tag 1, a time": "c11a514b67b0",
    "tag 1 in a map": "a101c11a514b67b0",
    "tag 2, a bignum": "c249010000000000000000",
    "tag 2, a small bignum": "c24101",
    "tag 2 as a key": "a1c24901000000000000000000",
    "tag 3, a negative bignum": "c349010000000000000000",
    "tag 4, a decimal": "c48221196ab3",
    "tag 24, embedded CBOR": "d818 4100",
    "tag 25, a string by reference": "82d901008261616161d81900",
    "tag 28, a shared value": "d81c80",
    "tag 29, a reference to nothing": "d81d00",
    "tags 28 and 29, an array in itself": "d81c81d81d00",
    "tag 35, a regular expression": "d8236161",
    "tag 37, a UUID": "d82550" + "00" * 16,
    "tag 258, a set": "d9010280",
    "tag 260, an address": "d9010444c0a80001",
    "tag 55799, this is CBOR": "d9d9f700",
    "tag without a meaning": "da0001020300",
    "tag inside a key": "a1d9d9f7616100",
    "text that is not UTF-8": "61ff",
    "text with a surrogate": "63eda080",
    "key that is not UTF-8": "a161ff00",
    "overlong UTF-8": "62c080",
    "reserved additional information": "1c",
    "reserved simple value": "fc",
    "bytes longer than memory": "5bffffffffffffffff",
    "array longer than memory": "9b7fffffffffffffff",
    "map longer than memory": "bbffffffffffffffff",
}


@pytest.mark.parametrize(("data", "value"), ACCEPTED.values(), ids=ACCEPTED)
def test_one_value_has_one_encoding(data: str, value: Any) -> None:
    decoded = codec.decode(bytes.fromhex(data), max_bytes=LIMIT)
    assert (decoded, type(decoded)) == (value, type(value))
    assert codec.encode(value).hex() == data


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_every_other_encoding_is_refused(data: str) -> None:
    with pytest.raises(Malformed) as refusal:
        codec.decode(bytes.fromhex(data), max_bytes=LIMIT)
    assert refusal.value.code == "MALFORMED"


def test_depth_is_bounded() -> None:
    deepest = b"\x81" * codec.MAX_DEPTH + b"\x00"
    assert codec.encode(codec.decode(deepest, max_bytes=LIMIT)) == deepest


@pytest.mark.parametrize(
    "data",
    [b"\x81" * (codec.MAX_DEPTH + 1) + b"\x00", b"\x81" * 4000, b"\xa1\x00" * 2000, b"\xc1" * 4000],
    ids=["one too deep", "arrays", "maps", "tags"],
)
def test_what_is_deeper_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed) as refusal:
        codec.decode(data, max_bytes=LIMIT)
    assert refusal.value.code == "MALFORMED"


def test_size_is_bounded() -> None:
    data = codec.encode(b"x" * 50)
    assert codec.decode(data, max_bytes=len(data)) == b"x" * 50
    with pytest.raises(Oversize) as refusal:
        codec.decode(data, max_bytes=len(data) - 1)
    assert refusal.value.code == "OVERSIZE"


def test_shared_references_cannot_multiply() -> None:
    """Eight arrays, each a hundred times the one before: 2 KB that would be 10^16 items to walk."""
    data = b"\x88"
    for level in range(8):
        item = b"\x00" if level == 0 else b"\xd8\x1d" + bytes([level - 1])
        data += b"\xd8\x1c\x98\x64" + item * 100
    began = time.perf_counter()
    with pytest.raises(Malformed) as refusal:
        codec.decode(data, max_bytes=LIMIT)
    assert refusal.value.code == "MALFORMED"
    assert time.perf_counter() - began < 1


_atoms = (
    st.integers(min_value=-(2**64), max_value=2**64 - 1) | st.binary(max_size=40) | st.text(max_size=20) | st.booleans()
)
_values = st.recursive(
    _atoms,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(max_size=30), inner, max_size=5)
        | st.dictionaries(st.integers(min_value=0, max_value=2**64 - 1), inner, max_size=5)
    ),
    max_leaves=20,
)


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)


@settings(deadline=None, max_examples=150)
@given(_values.filter(lambda value: _depth(value) <= codec.MAX_DEPTH))
def test_values_come_back(value: Any) -> None:
    data = codec.encode(value)
    assert codec.decode(data, max_bytes=len(data)) == value
    assert _rfc8949(value) == data


# Heads of every major type and length form, so that random bytes get past the first item.
_heads = st.sampled_from(
    [bytes([major << 5 | info]) for major in range(8) for info in (0, 1, 2, 3, 23, 24, 25, 28, 31)]
)


@settings(deadline=None, max_examples=1000)
@given(st.lists(_heads | st.binary(max_size=3), max_size=14).map(b"".join))
def test_any_bytes_are_refused_or_are_the_encoding(data: bytes) -> None:
    try:
        value = codec.decode(data, max_bytes=LIMIT)
    except ProtocolError as refusal:
        assert refusal.code == "MALFORMED"
    else:
        assert codec.encode(value) == data == _rfc8949(value)


@settings(deadline=None, max_examples=150)
@given(_values, st.data())
def test_one_changed_byte_is_refused_or_another_value(value: Any, data: st.DataObject) -> None:
    encoded = bytearray(codec.encode(value))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        other = codec.decode(bytes(encoded), max_bytes=LIMIT)
    except ProtocolError as refusal:
        assert refusal.code == "MALFORMED"
    else:
        assert cbor2.dumps(other) != cbor2.dumps(value)


def _rfc8949(value: Any) -> bytes:
    """An independent encoder: RFC 8949 §4.2.1, keys by the bytes of their encoding."""
    if isinstance(value, bool):
        return b"\xf5" if value else b"\xf4"
    if isinstance(value, int):
        return _head(0, value) if value >= 0 else _head(1, -1 - value)
    if isinstance(value, bytes):
        return _head(2, len(value)) + value
    if isinstance(value, str):
        return _head(3, len(value.encode())) + value.encode()
    if isinstance(value, list):
        return _head(4, len(value)) + b"".join(map(_rfc8949, value))
    pairs = sorted((_rfc8949(key), _rfc8949(item)) for key, item in value.items())
    return _head(5, len(value)) + b"".join(key + item for key, item in pairs)


def _head(major: int, argument: int) -> bytes:
    if argument < 24:
        return bytes([major << 5 | argument])
    for info, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if argument < 1 << 8 * size:
            return bytes([major << 5 | info]) + argument.to_bytes(size)
    raise AssertionError("not an argument")
