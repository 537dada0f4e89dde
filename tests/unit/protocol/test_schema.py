"""Specs, records and messages: one declaration gives parser, encoder and CDDL."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, ClassVar

import cbor2
import pycddl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import protocol.messages
from protocol import schema
from protocol.errors import Malformed, Oversize, ProtocolError
from protocol.schema import MESSAGES, Bytes, Choice, Flag, Many, Message, Nested, Record, Spec, Text, Uint


class Color(StrEnum):
    RED = "red"
    DEEP_BLUE = "deep-blue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner(Record):
    NAME: ClassVar[str] = "test-inner"
    flag: Annotated[bool, Flag()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer(Record):
    NAME: ClassVar[str] = "test-outer"
    MAX_BYTES: ClassVar[int] = 64
    inner: Annotated[Inner, Nested(Inner)]
    items: Annotated[tuple[int, ...], Many(Uint(9), 1, 3)]
    color: Annotated[Color, Choice(Color)]


OUTER = Outer(inner=Inner(flag=True), items=(1, 2), color=Color.RED)
PLAIN: dict[str, Any] = {"inner": {"flag": True}, "items": [1, 2], "color": "red"}

SPECS: dict[str, tuple[Spec, Any, Any, str]] = {
    # spec, value as CBOR, value in Python, CDDL
    "bytes of one size": (Bytes(2, 2), b"ab", b"ab", "bstr .size 2"),
    "shortest bytes": (Bytes(0, 2), b"", b"", "bstr .size (0..2)"),
    "longest bytes": (Bytes(0, 2), b"ab", b"ab", "bstr .size (0..2)"),
    "text": (Text(3, "[A-Z]{3}"), "TWD", "TWD", 'tstr .regexp "[A-Z]{3}"'),
    "zero": (Uint(9), 0, 0, "0..9"),
    "highest number": (Uint(9), 9, 9, "0..9"),
    "true": (Flag(), True, True, "bool"),
    "false": (Flag(), False, False, "bool"),
    "choice": (Choice(Color), "deep-blue", Color.DEEP_BLUE, '"red" / "deep-blue"'),
    "fewest items": (Many(Uint(9), 1, 3), [1], (1,), "[1*3 0..9]"),
    "most items": (Many(Uint(9), 1, 3), [1, 2, 3], (1, 2, 3), "[1*3 0..9]"),
    "no items": (Many(Flag(), 0, 3), [], (), "[0*3 bool]"),
    "record": (Nested(Inner), {"flag": False}, Inner(flag=False), "test-inner"),
    "records": (Many(Nested(Inner), 0, 1), [{"flag": True}], (Inner(flag=True),), "[0*1 test-inner]"),
}

REFUSED: dict[str, tuple[Spec, Any, type[ProtocolError], str]] = {
    "text for bytes": (Bytes(2, 2), "ab", Malformed, "MALFORMED"),
    "array for bytes": (Bytes(2, 2), [1, 2], Malformed, "MALFORMED"),
    "bytes too short": (Bytes(2, 3), b"a", Malformed, "MALFORMED"),
    "bytes too long": (Bytes(2, 3), b"abcd", Oversize, "OVERSIZE"),
    "bytes for text": (Text(3, "[a-z]+"), b"abc", Malformed, "MALFORMED"),
    "number for text": (Text(3, "[a-z]+"), 3, Malformed, "MALFORMED"),
    "text too long": (Text(3, "[a-z]+"), "abcd", Oversize, "OVERSIZE"),
    "text of other characters": (Text(3, "[a-z]+"), "aB", Malformed, "MALFORMED"),
    "text empty": (Text(3, "[a-z]+"), "", Malformed, "MALFORMED"),
    "text with a line after it": (Text(9, "[a-z]+"), "abc\n", Malformed, "MALFORMED"),
    "text with a line before it": (Text(9, "[a-z]+"), "\nabc", Malformed, "MALFORMED"),
    "text with digits of another script": (Text(9, "[0-9]+"), "١٢", Malformed, "MALFORMED"),
    "number too high": (Uint(9), 10, Malformed, "MALFORMED"),
    "number negative": (Uint(9), -1, Malformed, "MALFORMED"),
    "boolean for number": (Uint(9), True, Malformed, "MALFORMED"),
    "text for number": (Uint(9), "1", Malformed, "MALFORMED"),
    "float for number": (Uint(9), 1.0, Malformed, "MALFORMED"),
    "number for boolean": (Flag(), 1, Malformed, "MALFORMED"),
    "null for boolean": (Flag(), None, Malformed, "MALFORMED"),
    "choice unknown": (Choice(Color), "green", Malformed, "MALFORMED"),
    "choice by its name": (Choice(Color), "DEEP_BLUE", Malformed, "MALFORMED"),
    "choice in bytes": (Choice(Color), b"red", Malformed, "MALFORMED"),
    "choice a number": (Choice(Color), 0, Malformed, "MALFORMED"),
    "choice an array": (Choice(Color), ["red"], Malformed, "MALFORMED"),
    "choice a map": (Choice(Color), {"red": 1}, Malformed, "MALFORMED"),
    "too few items": (Many(Uint(9), 1, 3), [], Malformed, "MALFORMED"),
    "too many items": (Many(Uint(9), 1, 3), [1, 2, 3, 4], Oversize, "OVERSIZE"),
    "map for a list": (Many(Uint(9), 1, 3), {0: 1}, Malformed, "MALFORMED"),
    "bytes for a list": (Many(Uint(9), 1, 3), b"\1\2", Malformed, "MALFORMED"),
    "one wrong item": (Many(Uint(9), 1, 3), [1, 10], Malformed, "MALFORMED"),
    "list for a record": (Nested(Inner), [True], Malformed, "MALFORMED"),
    "record with a wrong field": (Nested(Inner), {"flag": 0}, Malformed, "MALFORMED"),
    "record with a missing field": (Nested(Inner), {}, Malformed, "MALFORMED"),
    "record with an unknown field": (Nested(Inner), {"flag": True, "more": 1}, Malformed, "MALFORMED"),
    "record with numbered fields": (Nested(Inner), {0: True}, Malformed, "MALFORMED"),
    "identifier in capitals": (schema.IDENTIFIER, "Bank-A", Malformed, "MALFORMED"),
    "identifier that starts with a dash": (schema.IDENTIFIER, "-bank", Malformed, "MALFORMED"),
    "identifier with a slash": (schema.IDENTIFIER, "bank/a", Malformed, "MALFORMED"),
    "identifier too long": (schema.IDENTIFIER, "a" * 65, Oversize, "OVERSIZE"),
}


@pytest.mark.parametrize(("spec", "plain", "value", "cddl"), SPECS.values(), ids=SPECS)
def test_spec_takes_and_gives(spec: Spec, plain: Any, value: Any, cddl: str) -> None:
    assert spec.parse(plain) == value
    assert type(spec.parse(plain)) is type(value)
    assert spec.plain(value) == plain
    assert type(spec.plain(value)) is type(plain)
    assert spec.cddl() == cddl
    pycddl.Schema(f"root = {cddl}\ntest-inner = {{flag: bool}}").validate_cbor(cbor2.dumps(plain))


@pytest.mark.parametrize(("spec", "plain", "error", "code"), REFUSED.values(), ids=REFUSED)
def test_spec_refuses(spec: Spec, plain: Any, error: type[ProtocolError], code: str) -> None:
    with pytest.raises(error) as refusal:
        spec.parse(plain)
    assert refusal.value.code == code


@pytest.mark.parametrize("text", ["a", "0", "bank-a", "a.b-c", "a" * 64])
def test_identifier_accepted(text: str) -> None:
    assert schema.IDENTIFIER.parse(text) == text


# --- records ---------------------------------------------------------------------------------------------------------
def test_record_comes_back_from_its_bytes() -> None:
    assert OUTER.plain() == PLAIN
    assert OUTER.to_bytes() == cbor2.dumps(PLAIN, canonical=True)
    assert Outer.from_bytes(OUTER.to_bytes()) == OUTER


def test_specs_are_the_annotated_fields_only() -> None:
    assert list(Outer.specs()) == ["inner", "items", "color"]
    assert Outer.specs() is Outer.specs()


RECORDS: dict[str, tuple[bytes, type[ProtocolError], str]] = {
    "unknown field": (cbor2.dumps(PLAIN | {"more": 1}, canonical=True), Malformed, "MALFORMED"),
    "missing field": (cbor2.dumps({"inner": {"flag": True}}, canonical=True), Malformed, "MALFORMED"),
    "no field": (b"\xa0", Malformed, "MALFORMED"),
    "renamed field": (OUTER.to_bytes().replace(b"color", b"colon"), Malformed, "MALFORMED"),
    "unknown field inside": (cbor2.dumps(PLAIN | {"inner": {"flag": True, "f": 1}}, canonical=True), Malformed,
                             "MALFORMED"),
    "wrong type inside": (cbor2.dumps(PLAIN | {"inner": True}, canonical=True), Malformed, "MALFORMED"),
    "list of values": (cbor2.dumps(list(PLAIN.values())), Malformed, "MALFORMED"),
    "fields in another order": (cbor2.dumps(PLAIN), Malformed, "MALFORMED"),
    "trailing byte": (OUTER.to_bytes() + b"\0", Malformed, "MALFORMED"),
    "too many items": (cbor2.dumps(PLAIN | {"items": [1] * 4}, canonical=True), Oversize, "OVERSIZE"),
    "too large": (cbor2.dumps(PLAIN | {"color": "r" * 64}, canonical=True), Oversize, "OVERSIZE"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "error", "code"), RECORDS.values(), ids=RECORDS)
def test_record_refused(data: bytes, error: type[ProtocolError], code: str) -> None:
    with pytest.raises(error) as refusal:
        Outer.from_bytes(data)
    assert refusal.value.code == code


@settings(deadline=None, max_examples=200)
@given(st.integers(0, len(OUTER.to_bytes()) - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_another_record(position: int, mask: int) -> None:
    changed = bytearray(OUTER.to_bytes())
    changed[position] ^= mask
    try:
        other = Outer.from_bytes(bytes(changed))
    except ProtocolError as refusal:
        assert refusal.code in {"MALFORMED", "OVERSIZE"}
    else:
        assert other != OUTER
        assert other.to_bytes() == changed


# --- messages --------------------------------------------------------------------------------------------------------
def test_message_registers_under_its_name() -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Greeting(Message):
        NAME: ClassVar[str] = "test-greeting"
        text: Annotated[str, schema.IDENTIFIER]

    try:
        assert MESSAGES["test-greeting"] is Greeting  # the slotted class, not the one it was made from
        assert Greeting.from_bytes(Greeting(text="hello").to_bytes()) == Greeting(text="hello")
    finally:
        del MESSAGES["test-greeting"]


def test_record_is_not_a_message() -> None:
    assert not {Inner.NAME, Outer.NAME} & set(MESSAGES)


def test_message_without_a_name_is_not_made() -> None:
    with pytest.raises(AttributeError, match="NAME"):
        type("Nameless", (Message,), {})


def test_every_message_of_the_protocol_has_a_name_of_its_own() -> None:
    modules = [getattr(protocol.messages, name) for name in protocol.messages.__all__]
    defined = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Message) and value is not Message
    }
    assert len({message.NAME for message in defined}) == len(defined)
    for message in defined:
        assert MESSAGES[message.NAME] is message
        assert all(hasattr(spec, "parse") for spec in message.specs().values()), message
