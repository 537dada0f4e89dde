"""What is put together by hand, since it is fast, is what cbor2 encodes; and nothing else is taken for it."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass, replace
from enum import StrEnum
from typing import Annotated, ClassVar

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import codec, cose
from protocol.crypto import PrivateKey
from protocol.errors import Malformed, Oversize, WrongMessage
from protocol.rows import Table, changed, values_of
from protocol.schema import Bytes, Choice, Flag, Many, Nested, Record, Text, Uint

LENGTHS = (0, 1, 22, 23, 24, 25, 254, 255, 256, 257, 65_535, 65_536)
NUMBERS = (*LENGTHS, (1 << 24) - 1, 1 << 24, (1 << 32) - 1, 1 << 32, 1 << 40, 1 << 56, (1 << 64) - 1)


class Color(StrEnum):
    RED = "red"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner(Record):
    NAME: ClassVar[str] = "inner"
    number: Annotated[int, Uint(1 << 40)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer(Record):
    NAME: ClassVar[str] = "outer"
    MAX_BYTES: ClassVar[int] = 200_000
    zz: Annotated[bytes, Bytes(0, 100_000)]
    a_long_name_that_takes_more_than_one_byte: Annotated[str, Text(300, ".*")]
    flag: Annotated[bool, Flag()]
    color: Annotated[Color, Choice(Color)]
    inner: Annotated[tuple[Inner, ...], Many(Nested(Inner), 0, 40)]


def outer(size: int = 3, inner: int = 2) -> Outer:
    return Outer(
        zz=bytes(size), a_long_name_that_takes_more_than_one_byte="é" * 130, flag=True, color=Color.RED,
        inner=tuple(Inner(number=n << 30) for n in range(inner)),
    )  # fmt: skip


class Words(str):
    """A text of another type, as members of enumerations are."""

    __slots__ = ()


@pytest.mark.parametrize("length", LENGTHS)
def test_strings_and_arrays(length):
    for value in (bytes(length), "a" * length, "é" * length, [0] * length, [b"ab", "c", -1, True, {}] * length):
        assert codec.encode(value) == cbor2.dumps(value, canonical=True)
    assert codec.byte_string(bytes(length)) == cbor2.dumps(bytes(length), canonical=True)
    assert codec.text("é" * length) == cbor2.dumps("é" * length, canonical=True)


@pytest.mark.parametrize(
    "number", [sign * (number + more) for number in NUMBERS for sign in (1, -1) for more in (0, 1)]
)
def test_numbers(number):
    assert codec.encode(number) == cbor2.dumps(number, canonical=True)


@pytest.mark.parametrize("value", [True, False, None, 1.0, Color.RED, Words("red"), bytearray(b"ab"), (1, "a"), {2: 3}])
def test_a_value_of_another_type_is_left_to_cbor2(value):
    assert codec.encode(1) != codec.encode(True)
    assert codec.encode(value) == cbor2.dumps(value, canonical=True)


@settings(deadline=None, max_examples=300)
@given(st.recursive(
    st.integers(-(1 << 66), 1 << 66) | st.binary(max_size=300) | st.text(max_size=300) | st.booleans(),
    lambda inner: st.lists(inner, max_size=30) | st.dictionaries(st.text(max_size=30), inner, max_size=30),
    max_leaves=30,
))  # fmt: skip
def test_any_value_is_encoded_as_by_cbor2(value):
    assert codec.encode(value) == cbor2.dumps(value, canonical=True)


def test_a_text_that_no_encoding_has_is_refused():
    for encode in (codec.encode, codec.text):
        with pytest.raises(UnicodeEncodeError):
            encode("a\ud800")


@pytest.mark.parametrize("number", NUMBERS)
def test_heads(number):
    as_number = cbor2.dumps(number)
    for head, major in ((codec.array_head(number), 4), (codec.map_head(number), 5)):
        assert head == bytes((major << 5 | as_number[0],)) + as_number[1:]


def test_fields_are_encoded_by_their_spec():
    for spec, value, plain in (
        (Bytes(0, 3), b"ab", b"ab"),
        (Text(3, "[a-z]*"), "abc", "abc"),
        (Uint(9), 9, 9),
        (Flag(), True, True),
        (Choice(Color), Color.RED, "red"),
        (Many(Choice(Color), 0, 300), (Color.RED,) * 300, ["red"] * 300),
        (Nested(Inner), Inner(number=300), {"number": 300}),
        (Uint(9), -1, -1),  # one's own fault is not hidden by another encoding: the receiver refuses it
        (Uint(9), True, True),
    ):
        assert spec.encode(value) == cbor2.dumps(plain, canonical=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Empty(Record):
    NAME: ClassVar[str] = "empty"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wider(Inner):
    NAME: ClassVar[str] = "wider"
    more: Annotated[bytes, Bytes(1, 1)] = b"a"


def test_records_of_no_field_and_of_inherited_fields():
    assert (Empty().to_bytes(), Empty.from_bytes(b"\xa0")) == (b"\xa0", Empty())
    wider = Wider(number=1)
    assert wider.to_bytes() == cbor2.dumps({"number": 1, "more": b"a"}, canonical=True)
    assert Wider.from_bytes(wider.to_bytes()) == wider
    assert Inner.from_bytes(Inner(number=1).to_bytes()) == Inner(number=1)
    with pytest.raises(Malformed) as caught:
        Wider.from_bytes(Inner(number=1).to_bytes())  # a default is not what a field that is missing says
    assert caught.value.code == "MALFORMED"


def test_a_record_that_was_read_is_frozen():
    record = Inner.from_bytes(Inner(number=1).to_bytes())
    with pytest.raises(FrozenInstanceError):
        record.number = 2
    assert (record, hash(record), replace(record, number=2)) == (
        Inner(number=1),
        hash(Inner(number=1)),
        Inner(number=2),
    )


@pytest.mark.parametrize(("size", "inner"), [(0, 0), (30, 1), (300, 23), (70_000, 40)])
def test_a_record_is_encoded_as_its_map(size, inner):
    record = outer(size, inner)
    assert record.to_bytes() == codec.encode(record.plain())
    assert Outer.from_bytes(record.to_bytes()) == record


def test_another_encoding_of_a_record_is_refused():
    plain = outer().plain()
    backward = cbor2.dumps(dict(sorted(plain.items(), key=lambda entry: entry[0])))
    assert cbor2.loads(backward) == plain
    long_form = codec.encode(plain).replace(b"\x43\x00\x00\x00", b"\x58\x03\x00\x00\x00")
    for data in (backward, long_form, codec.encode(plain) + b"\x00"):
        assert data != outer().to_bytes()
        with pytest.raises(Malformed) as caught:
            Outer.from_bytes(data)
        assert caught.value.code == "MALFORMED"


@pytest.mark.parametrize("value", [1.0, None, cbor2.undefined, cbor2.CBORSimpleValue(7), True])
def test_a_value_of_another_type_is_no_number(value):
    with pytest.raises(Malformed) as caught:
        Inner.from_bytes(cbor2.dumps({"number": value}))
    assert caught.value.code == "MALFORMED"


def test_reading_is_bounded_and_takes_no_tags():
    with pytest.raises(Oversize) as caught:
        codec.read(b"\x00\x00", max_bytes=1)
    assert caught.value.code == "OVERSIZE"
    for data in (b"\xc1\x00", b"\xff", b"\x58", b""):
        with pytest.raises(Malformed) as refused:
            codec.read(data, max_bytes=10)
        assert refused.value.code == "MALFORMED"


class _Zeros:
    def bytes(self, n: int) -> bytes:
        return bytes(n)


def signed() -> bytes:
    claims = cose.Claims(issuer="shop-1", audience="tsm-1", issued_at_s=70_000, expires_at_s=70_001, nonce=bytes(16))
    return cose.sign(PrivateKey.generate(_Zeros()), name="authorization", claims=claims, payload=b"payload")


def again(change) -> bytes:
    """The same object with other parts, each in the encoding that cbor2 gives."""
    protected, unprotected, payload, signature = cbor2.loads(signed()[1:])
    header = cbor2.loads(protected)
    parts = [header, unprotected, payload, signature]
    change(parts)
    header = parts[0] if isinstance(parts[0], bytes) else cbor2.dumps(parts[0], canonical=True)
    return cose.SIGN1_TAG + cbor2.dumps([header, *parts[1:]], canonical=True)


def test_a_signed_object_is_what_cbor2_encodes():
    assert again(lambda parts: None) == signed()
    assert cose.parse_sign1(signed(), max_bytes=1000).payload == b"payload"


@pytest.mark.parametrize(
    "change",
    [
        lambda parts: parts[0].update({1: -8}),
        lambda parts: parts[0].update({4: "text"}),
        lambda parts: parts[0].update({True: parts[0].pop(1)}),
        lambda parts: parts[0][15].update({4: 70_001.0}),
        lambda parts: parts.__setitem__(0, cbor2.dumps(dict(reversed(parts[0].items())))),
        lambda parts: parts.__setitem__(1, {1: 2}),
        lambda parts: parts.__setitem__(1, []),
        lambda parts: parts.__setitem__(2, "payload"),
    ],
    ids=["alg", "kid", "label", "time", "order", "unprotected", "no map", "payload"],
)  # fmt: skip
def test_another_header_is_refused(change):
    with pytest.raises(Malformed) as caught:
        cose.parse_sign1(again(change), max_bytes=1000)
    assert caught.value.code == "MALFORMED"


def test_a_long_form_of_a_part_is_refused():
    data = signed().replace(b"\x47payload", b"\x58\x07payload")
    assert data != signed()
    with pytest.raises(Malformed) as caught:
        cose.parse_sign1(data, max_bytes=1000)
    assert caught.value.code == "MALFORMED"


@pytest.mark.parametrize("media_type", [7, "text/plain", "application/vnd.tapveil.x"])
def test_another_content_type_is_refused(media_type):
    with pytest.raises(WrongMessage) as caught:
        cose.parse_sign1(again(lambda parts: parts[0].update({3: media_type})), max_bytes=1000)
    assert caught.value.code == "WRONG_MESSAGE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    name: str
    number: int


def test_rows_give_their_values_and_others():
    table = Table("encoders_rows", Row, ("number", "name"))
    row = Row(name="a", number=1)
    assert table.key_of(row) == (1, "a")
    assert values_of(("name",))(row) == ("a",)
    assert changed(row, number=2) == Row(name="a", number=2)
