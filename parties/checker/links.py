"""What ties two cards of one person together, for one merchant, and for all merchants that compare what they hold.

A value is a link if two cards of one person share it more often than cards of different persons do. What all cards have
in common is none, nor is what merchant and customer chose: amount, time, terminal (paper claim 2, unlinkability).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Final

from parties.checker.expected import Finding
from parties.checker.held import Held
from protocol.card import profile, tlv
from protocol.errors import ProtocolError

CHOSEN: Final = frozenset({"amount", "time", "merchant", "institution", "book", "state"})
"""Classes of what a sale is, whoever pays."""
TERMINALS: Final = frozenset({
    0x95, 0x9A, 0x9C, 0x5F2A, 0x9F02, 0x9F03, 0x9F15, 0x9F16, 0x9F1A, 0x9F1C, 0x9F21, 0x9F33, 0x9F34, 0x9F35, 0x9F40,
    0x9F4E, 0x9F66,
})  # fmt: skip
"""Tags of data that the terminal puts in."""
NAMES: Final = (".sale", ".refund", ".lane", ".batch", ".settled")
"""Fields and columns with names that a merchant gives itself: whoever uses one twice has made the link."""
SHORTEST: Final = 3
"""Bytes; what is shorter tells one card in a town from no other. A date has three."""
_PAN, _TEMPLATE = 0x5A, 0x70
_LISTS: Final = {"field emv-purchase.pdol_data": profile.PDOL, "field emv-purchase.cdol_data": profile.CDOL1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One card as merchants met it: whose it is (which no merchant knows), and every value with the places it is in."""

    owner: str
    values: Mapping[bytes, frozenset[str]]


@dataclass(slots=True)
class _Met:
    """What one document says."""

    numbers: set[str] = field(default_factory=set)
    sales: set[bytes] = field(default_factory=set)
    values: list[tuple[str, bytes]] = field(default_factory=list)


def cards_met(held: Iterable[Held], owners: Mapping[str, str]) -> list[Card]:
    """The cards of `owners` (number → whose) that one merchant, or several, met, each with all that they hold of it.

    A document about several cards is left out: a batch is the merchant's own putting together.
    """
    documents: dict[int, _Met] = defaultdict(_Met)
    for one in held:
        met = documents[one.document]
        for place, value in _taken_apart(one):
            number = _number(place, value)
            if number in owners:
                met.numbers.add(number)
            if place.endswith(".sale"):
                met.sales.add(value)
            if _is_of_card(one, place) and len(value) >= SHORTEST:
                met.values.append((place, value))
    by_sale = {sale: met.numbers for met in documents.values() for sale in met.sales if len(met.numbers) == 1}
    found: dict[str, dict[bytes, set[str]]] = defaultdict(lambda: defaultdict(set))
    for met in documents.values():
        numbers = met.numbers or set().union(*(by_sale.get(sale, set()) for sale in met.sales))
        if len(numbers) == 1:
            for place, value in met.values:
                found[next(iter(numbers))][value].add(place)
    return [
        Card(owner=owners[number], values={value: frozenset(places) for value, places in values.items()})
        for number, values in found.items()
    ]  # fmt: skip


def _is_of_card(one: Held, place: str) -> bool:
    """Not the sale's, and not an envelope's, which terminal and TSM made."""
    return one.held not in CHOSEN and not place.startswith("envelope") and not place.endswith(NAMES)


def links(who: str, cards: Iterable[Card]) -> Iterator[Finding]:
    """Places whose values two cards of one person share more often than those of two persons."""
    met = list(cards)
    same = sum(pairs(number) for number in Counter(card.owner for card in met).values())
    different = pairs(len(met)) - same
    holders: dict[bytes, list[Card]] = defaultdict(list)
    for card in met:
        for value in card.values:
            holders[value].append(card)
    told: set[str] = set()
    for value, having in holders.items():
        alike = sum(one.owner == other.owner for one, other in combinations(having, 2))
        if alike * different > (pairs(len(having)) - alike) * same:
            told.add(min(min(card.values[value]) for card in having))
    for place in sorted(told):
        yield f"{who} can tell two cards of one person by {place}"


def pairs(number: int) -> int:
    """How many pairs so many have."""
    return number * (number - 1) // 2


# --- what a terminal reads, item by item -----------------------------------------------------------------------------
def _taken_apart(one: Held) -> Iterator[tuple[str, bytes]]:
    if type(one.value) is int or type(one.value) is bool:
        return
    value = one.value.encode() if isinstance(one.value, str) else bytes(one.value)
    if one.place == "field emv-record.data":
        yield from _items(value)
    elif one.place in _LISTS:
        yield from _items_of(_LISTS[one.place], value)
    else:
        yield one.place, value


def _items(record: bytes) -> Iterator[tuple[str, bytes]]:
    try:
        items = tlv.decode_one(record, _TEMPLATE).children
    except ProtocolError:
        yield "chip record", record
        return
    yield from ((f"chip {item.tag:X}", item.value) for item in items if item.tag not in TERMINALS)


def _items_of(dol: Any, data: bytes) -> Iterator[tuple[str, bytes]]:
    try:
        items = dol.split(data)
    except ProtocolError:
        yield "chip data", data
        return
    yield from ((f"chip {tag:X}", value) for tag, value in items.items() if tag not in TERMINALS)


def _number(place: str, value: bytes) -> str:
    """A card number, as text or as the chip has it."""
    if place == f"chip {_PAN:X}":
        return value.hex().upper().rstrip("F")
    return value.decode() if len(value) <= 19 and value.isdigit() else ""
