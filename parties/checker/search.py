"""Looks for values of one class at parties that must not hold any: as they are, in other encodings, and as digests."""

from __future__ import annotations

import base64
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from parties.checker.allow_list import DECIDE, AllowList
from parties.checker.expected import Finding
from parties.checker.held import Held
from protocol import codec
from protocol.crypto import sha256

TELLING: Final = frozenset({"person", "phone", "account", "grant", "pseudonym", "card", "purchase", "merchant"})
"""Classes whose values name or fingerprint somebody or something."""
SHORTEST: Final = 6
"""Bytes; what is shorter is found anywhere by chance."""
WINDOW: Final = 8
"""Bytes of a text that are looked up at once."""
_WORD: Final = re.compile(rb"[A-Z_]+|[a-z-]+")
_SEPARATOR: Final = b"\n\0\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Needle:
    """A value that somebody else holds, and where; the place is told, the value never."""

    forms: tuple[bytes, ...] = field(repr=False)
    held: str
    place: str

    @classmethod
    def of(cls, value: bytes, held: str, place: str) -> Needle:
        """The value in all the forms that are looked for."""
        return cls(forms=tuple(forms(value)), held=held, place=place)


def check_places(name: str, role: str, held: Iterable[Held], allowed: AllowList) -> Iterator[Finding]:
    """Every value stands in a place that is on the list, of a class that this role may hold."""
    told: set[str] = set()
    excepted = allowed.excepted(role)
    for one in held:
        if one.held in allowed.holds[role] or one.place in told or exempt(one, excepted):
            continue
        told.add(one.place)
        if one.held:
            yield f"{name} holds {one.place}, which a {role} must not: {one.held}"
        else:
            yield f"{name} holds {one.place}, which is on no allow-list: {DECIDE}"


def exempt(one: Held, excepted: frozenset[str]) -> bool:
    """Is it one of these exceptions of the list?"""
    return one.name in excepted or not excepted.isdisjoint(one.inside)


def needles(held: Iterable[Held]) -> list[Needle]:
    """Every telling value, once. Words of the protocol are none, whatever column they stand in."""
    found: dict[bytes, Held] = {}
    words: set[bytes] = set()
    for one in held:
        if type(one.value) is int or type(one.value) is bool:
            continue
        value = one.value.encode() if isinstance(one.value, str) else bytes(one.value)
        if one.held in TELLING and len(value) >= SHORTEST:
            found.setdefault(value, one)
        elif one.held == "state" and _WORD.fullmatch(value):
            words.add(value)
    return [Needle.of(value, one.held, one.place) for value, one in found.items() if value not in words]


def check_values(
    name: str, role: str, held: Iterable[Held], sought: Iterable[Needle], allowed: AllowList
) -> Iterator[Finding]:
    """No value of a class that this role must not hold is in what it holds, in any form."""
    excepted = allowed.excepted(role)
    hay = Haystack(one for one in held if not exempt(one, excepted))
    told: set[tuple[str, str]] = set()
    for needle in sought:
        if needle.held in allowed.holds[role]:
            continue
        place = hay.place_of(needle.forms)
        if place and (needle.place, place) not in told:
            told.add((needle.place, place))
            yield f"{name} holds in {place} what is elsewhere {needle.place}, which a {role} must not: {needle.held}"


class Haystack:
    """All values of a party in one text, with an index of its windows."""

    def __init__(self, held: Iterable[Held]) -> None:
        self._places: dict[bytes, str] = {}
        for one in held:
            value = one.value if isinstance(one.value, bytes) else str(one.value).encode()
            self._places.setdefault(value, one.place)
        self._text = _SEPARATOR.join(self._places)
        self._windows: set[int] = set()
        for shift in range(WINDOW):  # as machine words, since a text has many windows
            whole = (len(self._text) - shift) // WINDOW * WINDOW
            self._windows.update(memoryview(self._text)[shift : shift + whole].cast("Q"))

    def place_of(self, sought: Iterable[bytes]) -> str:
        """Where one of these forms of a value is; empty if none is."""
        for form in sought:
            if self._may_have(form) and form in self._text:
                return next(place for held, place in self._places.items() if form in held)
        return ""

    def _may_have(self, form: bytes) -> bool:
        return len(form) < WINDOW or int.from_bytes(form[:WINDOW], sys.byteorder) in self._windows


def forms(value: bytes) -> Iterator[bytes]:
    """The value and its digests, each raw, in hexadecimal, and in base64 wherever in a longer text it begins."""
    for raw in (value, sha256(value), sha256(codec.encode(value)), *_text_digest(value)):
        yield raw
        yield raw.hex().encode()
        yield raw.hex().upper().encode()
        for shift in range(3):
            yield from _base64(raw, shift)


def _text_digest(value: bytes) -> tuple[bytes, ...]:
    """The digest of what is a text, as a text in CBOR."""
    try:
        return (sha256(codec.encode(value.decode())),)
    except UnicodeDecodeError:
        return ()


def _base64(raw: bytes, shift: int) -> Iterator[bytes]:
    """What of the base64 of a text with `raw` after 3n + `shift` bytes is the same whatever stands around it."""
    encoded = base64.b64encode(bytes(shift) + raw).rstrip(b"=")
    first = (shift * 8 + 5) // 6
    whole = (shift + len(raw)) * 8 // 6
    part = encoded[first:whole]
    yield part
    if b"+" in part or b"/" in part:
        yield part.translate(_URLSAFE)


_URLSAFE: Final = bytes.maketrans(b"+/", b"-_")


# --- amounts and moments at a bank -----------------------------------------------------------------------------------
def check_numbers(
    name: str, held: Iterable[Held], numbers: Mapping[str, frozenset[int]], but: frozenset[str], allowed: AllowList
) -> Iterator[Finding]:
    """None of these numbers of purchases, by what they are, stands at a bank; classes in `but` are not looked at."""
    told: set[str] = set()
    excepted = allowed.excepted("bank")
    for one in held:
        if type(one.value) is not int or one.held in but or one.place in told or exempt(one, excepted):
            continue
        for what, wanted in numbers.items():
            if one.value in wanted:
                told.add(one.place)
                yield f"{name} holds in {one.place} {what}"
