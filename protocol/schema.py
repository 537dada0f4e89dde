"""From annotated dataclasses to strict payloads: one declaration gives parser, encoder and CDDL.

A field is `Annotated[type, spec]`; the payload is a map of exactly these fields under their names. What does not fit
is refused: an unknown or missing field, a wrong type, a size over the bound.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Set
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, ClassVar, Final, Protocol, Self, TypeAlias, get_args, get_origin, get_type_hints

from protocol import codec
from protocol.errors import Malformed, Oversize
from protocol.types import DIGEST_BYTES, HANDLE_BYTES, KEY_BYTES, NONCE_BYTES, PUBLIC_KEY_BYTES


class Spec(Protocol):
    """How one field looks on the wire."""

    def parse(self, plain: Any) -> Any:
        """The field's value. Raises: Malformed, Oversize."""

    def plain(self, value: Any) -> Any:
        """The CBOR value of the field."""

    def encode(self, value: Any) -> bytes:
        """Its deterministic encoding."""

    def cddl(self) -> str:
        """The CDDL type (RFC 8610)."""


@dataclass(frozen=True, slots=True)
class Bytes:
    """A byte string of `low` … `high` bytes."""

    low: int
    high: int

    def parse(self, plain: Any) -> bytes:
        if type(plain) is not bytes:
            raise Malformed("not a byte string")
        if self.low <= len(plain) <= self.high:
            return plain
        if len(plain) > self.high:
            raise Oversize(f"{len(plain)} bytes in a field, at most {self.high}")
        raise Malformed("byte string too short")

    def plain(self, value: bytes) -> bytes:
        return value

    encode = staticmethod(codec.byte_string)

    def cddl(self) -> str:
        return f"bstr .size {self.low}" if self.low == self.high else f"bstr .size ({self.low}..{self.high})"


@dataclass(frozen=True, slots=True)
class Text:
    """A text of at most `high` characters that matches `pattern` whole."""

    high: int
    pattern: str

    def parse(self, plain: Any) -> str:
        if type(plain) is not str:
            raise Malformed("not a text")
        if len(plain) > self.high:
            raise Oversize(f"{len(plain)} characters in a field, at most {self.high}")
        if not _matcher(self.pattern)(plain):
            raise Malformed("text has characters that are not allowed")
        return plain

    def plain(self, value: str) -> str:
        return value

    encode = staticmethod(codec.encode)

    def cddl(self) -> str:
        return f'tstr .regexp "{self.pattern}"'


@cache
def _matcher(pattern: str) -> Callable[[str], re.Match[str] | None]:
    return re.compile(pattern).fullmatch


@dataclass(frozen=True, slots=True)
class Uint:
    """An integer in 0 … `high`."""

    high: int

    def parse(self, plain: Any) -> int:
        if type(plain) is not int or not 0 <= plain <= self.high:
            raise Malformed("not an unsigned integer in range")
        return plain

    def plain(self, value: int) -> int:
        return value

    encode = staticmethod(codec.encode)

    def cddl(self) -> str:
        return f"0..{self.high}"


@dataclass(frozen=True, slots=True)
class Flag:
    """A boolean."""

    def parse(self, plain: Any) -> bool:
        if type(plain) is not bool:
            raise Malformed("not a boolean")
        return plain

    def plain(self, value: bool) -> bool:
        return value

    encode = staticmethod(codec.encode)

    def cddl(self) -> str:
        return "bool"


@dataclass(frozen=True, slots=True)
class Choice:
    """One member of an enumeration of texts."""

    members: type[StrEnum]

    def parse(self, plain: Any) -> StrEnum:
        try:
            return self.members(plain)
        except ValueError as exc:
            raise Malformed("not one of the values allowed") from exc

    def plain(self, value: StrEnum) -> str:
        return value.value

    encode = staticmethod(codec.text)

    def cddl(self) -> str:
        return " / ".join(f'"{member.value}"' for member in self.members)


@dataclass(frozen=True, slots=True)
class Many:
    """`low` … `high` items of one spec."""

    item: Spec
    low: int
    high: int

    def parse(self, plain: Any) -> tuple[Any, ...]:
        if type(plain) is not list or len(plain) < self.low:
            raise Malformed("not a list of enough items")
        if len(plain) > self.high:
            raise Oversize(f"{len(plain)} items, at most {self.high}")
        parse = self.item.parse
        return tuple([parse(item) for item in plain])

    def plain(self, value: tuple[Any, ...]) -> list[Any]:
        return [self.item.plain(item) for item in value]

    def encode(self, value: tuple[Any, ...]) -> bytes:
        encode = self.item.encode
        return codec.array_head(len(value)) + b"".join([encode(item) for item in value])

    def cddl(self) -> str:
        return f"[{self.low}*{self.high} {self.item.cddl()}]"


@dataclass(frozen=True, slots=True)
class Nested:
    """A map of its own, by name."""

    record: type[Record]

    def parse(self, plain: Any) -> Record:
        return self.record.parse(plain)

    def plain(self, value: Record) -> dict[str, Any]:
        return value.plain()

    def encode(self, value: Record) -> bytes:
        return value.to_bytes()

    def cddl(self) -> str:
        return self.record.NAME


class Record:
    """Base of payloads and of the maps inside them. Subclasses are frozen dataclasses with slots, and each field
    carries a Spec: `parse` fills the slots itself, which takes half as long as `__init__`."""

    __slots__ = ()
    NAME: ClassVar[str]
    MAX_BYTES: ClassVar[int] = 16 * 1024

    @classmethod
    def specs(cls) -> dict[str, Spec]:
        """Field name → spec."""
        specs = _SPECS.get(cls)
        if specs is None:
            hints = get_type_hints(cls, include_extras=True)
            annotated = {name: hint for name, hint in hints.items() if get_origin(hint) is Annotated}
            specs = _SPECS[cls] = {name: get_args(hint)[1] for name, hint in annotated.items()}
        return specs

    @classmethod
    def parse(cls, plain: Any) -> Self:
        """Raises: Malformed, Oversize."""
        layout = _LAYOUTS[cls]
        if type(plain) is not dict or plain.keys() != layout.names:
            raise Malformed(f"fields are not exactly those of {cls.NAME}")
        record = object.__new__(cls)
        for name, parse, put in layout.parsers:
            put(record, parse(plain[name]))
        return record

    def plain(self) -> dict[str, Any]:
        """The CBOR map of this record."""
        return {name: spec.plain(getattr(self, name)) for name, spec in self.specs().items()}

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Raises: Malformed, Oversize."""
        record = cls.parse(codec.read(data, max_bytes=cls.MAX_BYTES))
        if record.to_bytes() != data:
            raise Malformed("not the deterministic encoding")
        return record

    def to_bytes(self) -> bytes:
        """Deterministic CBOR. (cbor2 would sort the names anew each time.)"""
        layout = _LAYOUTS[type(self)]
        parts = [layout.head]
        for key, name, encode in layout.encoders:
            parts.append(key)
            parts.append(encode(getattr(self, name)))
        return b"".join(parts)


@dataclass(frozen=True, slots=True)
class _Layout:
    """What it takes to read and to write one kind of record, looked up once."""

    names: Set[str]
    """The fields' names."""
    parsers: list[tuple[str, Callable[[Any], Any], Callable[[Any, Any], None]]]
    """Each field's name, parser and slot, in the order of declaration."""
    head: bytes
    """How the encoding begins."""
    encoders: list[tuple[bytes, str, Callable[[Any], bytes]]]
    """Each field's encoded name, its name and its encoder, in the order of encoding."""


class _Layouts(dict[type[Any], _Layout]):
    """Layouts by kind of record, made at first use: annotations are complete by then."""

    def __missing__(self, kind: type[Any]) -> _Layout:
        specs = kind.specs()
        keys = sorted((codec.encode(name), name) for name in specs)
        layout = self[kind] = _Layout(
            names=specs.keys(),
            parsers=[(name, spec.parse, getattr(kind, name).__set__) for name, spec in specs.items()],
            head=codec.map_head(len(specs)),
            encoders=[(key, name, specs[name].encode) for key, name in keys],
        )
        return layout


_SPECS: Final[dict[type[Any], dict[str, Spec]]] = {}
_LAYOUTS: Final = _Layouts()
MESSAGES: Final[dict[str, type[Message]]] = {}


class Message(Record):
    """A payload that is signed under its own content type. Subclasses set NAME, which registers them."""

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        # A slotted dataclass is made twice by its decorator: the second class takes the first one's place.
        super().__init_subclass__()
        MESSAGES[cls.NAME] = cls


MAX_MINOR: Final = 10**12
MAX_TIME_S: Final = 1 << 40
MAX_OBJECT: Final = 4096
IDENTIFIER: Final = Text(64, "[a-z0-9][a-z0-9.-]{0,63}")

Identifier: TypeAlias = Annotated[str, IDENTIFIER]
Nonce: TypeAlias = Annotated[bytes, Bytes(NONCE_BYTES, NONCE_BYTES)]
Handle: TypeAlias = Annotated[bytes, Bytes(HANDLE_BYTES, HANDLE_BYTES)]
Digest: TypeAlias = Annotated[bytes, Bytes(DIGEST_BYTES, DIGEST_BYTES)]
SharedKey: TypeAlias = Annotated[bytes, Bytes(KEY_BYTES, KEY_BYTES)]
PublicKeyBytes: TypeAlias = Annotated[bytes, Bytes(PUBLIC_KEY_BYTES, PUBLIC_KEY_BYTES)]
Object: TypeAlias = Annotated[bytes, Bytes(1, MAX_OBJECT)]
"""A COSE object inside a message: forwarded, or opened by somebody else."""
TimeS: TypeAlias = Annotated[int, Uint(MAX_TIME_S)]
Minor: TypeAlias = Annotated[int, Uint(MAX_MINOR)]
Currency: TypeAlias = Annotated[str, Text(3, "[A-Z]{3}")]
