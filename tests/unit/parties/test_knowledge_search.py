"""How values are looked for, and what counts as a link: small cases by hand."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest

from parties.checker.held import Held
from parties.checker.links import Card, cards_met, links
from parties.checker.search import Haystack, forms, needles
from protocol import codec
from protocol.crypto import sha256

VALUE = b"a-00ff\xfe\xff\xbe/Ada"
"""With bytes that base64 writes as + and /."""


def held(place: str, kind: str, value: bytes | str | int, document: int = 1) -> Held:
    return Held(place=place, held=kind, value=value, document=document)


@pytest.mark.parametrize("before", range(6))
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_base64_is_found_wherever_in_a_text_the_value_begins(before: int, encode: Callable[[bytes], bytes]) -> None:
    text = encode(bytes(range(65, 65 + before)) + VALUE + b"tail")
    assert Haystack([held("log kind", "state", text)]).place_of(forms(VALUE)) == "log kind"


@pytest.mark.parametrize(
    "text",
    [
        VALUE, VALUE.hex(), VALUE.hex().upper(), sha256(VALUE), sha256(VALUE).hex(), base64.b64encode(sha256(VALUE)),
        sha256(codec.encode(VALUE)), b"around" + VALUE + b"around",
    ],
)  # fmt: skip
def test_a_value_is_found_in_each_form(text: bytes | str) -> None:
    assert Haystack([held("column a.b", "state", b"x"), held("column c.d", "state", text)]).place_of(forms(VALUE))


def test_the_digest_of_a_text_is_found_as_cbor_has_it() -> None:
    hay = Haystack([held("column a.b", "digest", sha256(codec.encode("Ada Wongsakul")))])
    assert hay.place_of(forms(b"Ada Wongsakul")) == "column a.b"


@pytest.mark.parametrize("text", [VALUE[:-1], VALUE[1:], sha256(VALUE)[:-1], VALUE[::-1], b""])
def test_what_is_not_there_is_not_found(text: bytes) -> None:
    assert Haystack([held("column a.b", "state", text)]).place_of(forms(VALUE)) == ""


def test_values_do_not_run_into_each_other() -> None:
    hay = Haystack([held("column a.b", "state", VALUE[:5]), held("column a.c", "state", VALUE[5:])])
    assert hay.place_of(forms(VALUE)) == ""


def test_a_value_shorter_than_a_window_is_found() -> None:
    assert Haystack([held("column a.b", "state", "call Lin Mei now")]).place_of(forms(b"Lin Mei")) == "column a.b"


def test_needles_are_telling_values_and_no_words() -> None:
    found = needles(
        [
            held("column a.name", "person", "Lin Mei"), held("column a.count", "person", 1_000_000),
            held("column a.short", "person", "Ada"), held("column a.word", "card", "contactless"),
            held("column b.way", "state", "contactless"), held("column b.at", "time", "2026-01-01"),
            held("column b.mark", "state", "x-123456"), held("column a.mark", "account", "x-123456"),
        ]
    )  # fmt: skip
    assert [one.place for one in found] == ["column a.name", "column a.mark"]
    assert "Lin Mei" not in repr(found)


# --- links -----------------------------------------------------------------------------------------------------------
def card(owner: str, *values: bytes) -> Card:
    return Card(owner=owner, values={value: frozenset({"column sales.mark"}) for value in values})


FOUND = ["shop-1 can tell two cards of one person by column sales.mark"]


@pytest.mark.parametrize(
    ("cards", "found"),
    [
        ([card("a", b"one"), card("a", b"two"), card("b", b"three")], []),
        ([card("a", b"all"), card("a", b"all"), card("b", b"all")], []),
        ([card("a", b"mark"), card("a", b"mark"), card("b")], FOUND),
        ([card("a", b"mark"), card("a"), card("b", b"mark")], []),
        ([card("a", b"m"), card("a", b"m"), card("b", b"n"), card("b", b"n")], FOUND),  # a mark a bank
        ([card("a", b"m"), card("a", b"m"), card("a"), card("b", b"m"), card("b", b"m"), card("b")], []),
        ([card("a", b"m"), card("a"), card("b", b"m"), card("b"), card("c", b"m"), card("c")], []),
        ([], []),
    ],
)  # fmt: skip
def test_a_link_is_what_one_persons_cards_share_more_than_others_do(cards: list[Card], found: list[str]) -> None:
    assert list(links("shop-1", cards)) == found


def test_a_document_is_about_the_one_card_that_it_names() -> None:
    """By number, or by a sale of which the number is known; a document of two cards is a merchant's own doing."""
    first, second = "9999101234567890123", "9999109876543210987"
    values = [
        held("field decided.pan", "card", first, 1), held("field decided.sale", "purchase", b"sale 1", 1),
        held("column sales.sale", "purchase", b"sale 1", 2),
        held("column sales.cryptogram", "purchase", b"cryptogram", 2),
        held("field decided.pan", "card", second, 3), held("field decided.pan", "card", first, 3),
        held("field decided.arpc", "purchase", b"of two", 3), held("field decided.amount", "amount", "1000", 1),
        held("field emv-record.data", "card", bytes.fromhex("70 0c 5a 0a 9999109876543210987f"), 4),
        held("field emv-purchase.signature", "purchase", b"signature", 4),
        held("column other.x", "card", b"nobody's", 5),
    ]  # fmt: skip
    met = cards_met(values, {first: "a", second: "b"})
    assert {one.owner: set(one.values) for one in met} == {
        "a": {first.encode(), b"cryptogram"}, "b": {bytes.fromhex("9999109876543210987f"), b"signature"}
    }  # fmt: skip
