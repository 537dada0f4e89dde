"""PAY at the TSM: authorization, batch, reversal, refund, with a card and a terminal of the suite's own (design §3)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pytest
from conformance.bundle import Bundle
from conformance.calls import Connection, Refusal, refused
from conformance.drafts import Draft
from conformance.emv import CardKey, read_card
from conformance.emv_card import (
    AAC,
    CVR_ARQC,
    CVR_COMPLETED,
    CVR_CONSENT_MISMATCH,
    CVR_CONTACT,
    CVR_CONTRADICTED,
    CVR_DEVICE_VERIFIED,
    CVR_ISSUER_AUTHENTICATED,
    CVR_TERMINAL_DECLINED,
    TC,
    PlayedCard,
    arpc,
    cryptogram,
    issuer_data,
)
from conformance.played import PlayedBank
from conformance.service import Wallet
from conformance.shop import Shop
from conformance.stage import Registered
from conformance.wire import CTI, DAY_S, Key, Signed, Signer

pytestmark = pytest.mark.usefixtures("with_tsm")

SMALL = 12_345
CODES = {"approved": "00", "declined": "05", "verify": "65"}
"""8A for each verdict."""
NOTHING = {"pan": "", "atc": 0, "unpredictable": b"", "amount_minor": 0, "currency": "", "issuer_data": b"",
           "cryptogram": b"", "arpc": b""}  # fmt: skip
"""What is told of a purchase that no card of the TSM's made as it stands."""
Purchase = dict[str, Any]


# --- parties ---------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def shops(bundle: Bundle) -> Iterator[list[Shop]]:
    """A terminal of each merchant, signed on."""
    names = (("Conformance", "CONFORMANCE0001"), ("Another", "CONFORMANCE0002"))
    connections = [Connection(bundle.tsm.mutual_address, bundle.tsm.name, m.tls) for m in bundle.merchants]
    yield [
        Shop(bundle.tsm, merchant, connection, *named).ready()
        for merchant, connection, named in zip(bundle.merchants, connections, names, strict=False)
    ]
    for connection in connections:
        connection.close()


@pytest.fixture(scope="module")
def shop(shops: list[Shop]) -> Shop:
    return shops[0]


@pytest.fixture(scope="module")
def holder(bundle: Bundle, to_tsm: Connection, played_bank: PlayedBank) -> Registered:
    """A service account for everyone in this module."""
    return Registered(Wallet(bundle.tsm, to_tsm), played_bank)


@pytest.fixture
def card(holder: Registered) -> PlayedCard:
    """An active card, not used yet."""
    (card,) = holder.cards()
    return card


@pytest.fixture(scope="module")
def waiting(holder: Registered) -> PlayedCard:
    """An active card that every refused purchase is tried with; at the end it pays."""
    (card,) = holder.cards()
    return card


def limit_of(card: PlayedCard) -> int:
    """From where on the card's holder must be verified."""
    return int(card.controls["verify_above_minor"])


def told(shop: Shop, purchase: Purchase, verdict: str) -> dict[str, Any]:
    """What every decision names, whatever it is."""
    return {
        "sale": purchase["sale"], "verdict": verdict, "merchant": shop.merchant.name, "terminal": shop.terminal,
        "response_code": CODES[verdict],
    }  # fmt: skip


def proved(shop: Shop, card: PlayedCard, purchase: Purchase, values: dict[int, bytes], verdict: str) -> dict[str, Any]:
    """The decision about a purchase that the card made, with cryptogram and ARPC recomputed."""
    own, aip, atc = purchase["issuer_data"], purchase["aip"], purchase["atc"]
    ac = cryptogram(card.k_ac, purchase["cdol_data"], aip=aip, atc=atc, issuer_data=own)
    currencies = {"0901": "TWD", "0840": "USD"}
    return told(shop, purchase, verdict) | {
        "pan": card.pan, "atc": atc, "unpredictable": values[0x9F37], "amount_minor": int(values[0x9F02].hex()),
        "currency": currencies[values[0x5F2A].hex()], "issuer_data": own, "cryptogram": ac,
        "arpc": arpc(card.k_ac, atc, ac, CODES[verdict].encode()),
    }  # fmt: skip


def expect(
    verdict: str, shop: Shop, card: PlayedCard, amount_minor: int, *, currency: str = "TWD", **how: Any
) -> Purchase:
    """The card pays so, and each field of the decision must be right. What was asked comes back."""
    values = shop.values(amount_minor, currency)
    purchase = card.pay(values, **how)
    assert shop.decide(purchase) == proved(shop, card, purchase, values, verdict)
    return purchase


# --- what is approved ------------------------------------------------------------------------------------------------
def test_PAY_approves_and_names_merchant_card_and_amount_under_cryptogram_and_arpc(
    shop: Shop, card: PlayedCard, bundle: Bundle
) -> None:
    values = shop.values(SMALL)
    purchase = card.pay(values)
    draft = shop.authorize(purchase)
    reply = draft.send()
    assert reply["decided"] == proved(shop, card, purchase, values, "approved")
    assert read_card(card.emv, bundle.emv_ca).pan == reply["decided"]["pan"]


def test_PAY_approves_up_to_the_limits_themselves(shop: Shop, holder: Registered) -> None:
    """The verification limit without verification, the card's amount with it."""
    first, second = holder.cards(2)
    expect("approved", shop, first, limit_of(first))
    expect("approved", shop, second, second.controls["per_use_minor"], cvr=CVR_ARQC | CVR_DEVICE_VERIFIED)


def test_PAY_approves_over_the_verification_limit_only_what_the_card_verified(shop: Shop, card: PlayedCard) -> None:
    """The card's word counts (9F10), and not the terminal's (9F34)."""
    amount_minor = limit_of(card) + 1
    expect("verify", shop, card, amount_minor)
    expect("verify", shop, card, amount_minor, said={0x9F34: bytes.fromhex("440302")})
    expect("approved", shop, card, amount_minor, cvr=CVR_ARQC | CVR_DEVICE_VERIFIED)


@pytest.mark.parametrize("days", [-1, 1])
def test_PAY_approves_a_terminal_in_another_time_zone(days: int, shop: Shop, card: PlayedCard) -> None:
    values = shop.values(SMALL, day_s=int(time.time()) + days * DAY_S)
    assert shop.decide(card.pay(values))["verdict"] == "approved"


def test_PAY_the_same_bytes_get_the_same_decision_and_are_charged_once(shop: Shop, card: PlayedCard) -> None:
    """A lost answer is fetched by sending the same request again (design §2)."""
    draft = shop.authorize(card.pay(shop.values(SMALL)))
    cose = draft.cose()
    first, again = draft.post(cose), draft.post(cose)
    assert first.payload == again.payload
    assert first["decided"]["verdict"] == "approved"
    assert shop.refund(first["decided"]["sale"], SMALL).send()["refunded_minor"] == SMALL
    assert draft.post(cose).payload == first.payload


# --- what one purchase uses up ---------------------------------------------------------------------------------------
def test_PAY_a_purchase_asked_for_again_in_another_request_is_declined(shop: Shop, card: PlayedCard) -> None:
    """The name of a sale, the card's counter and the opening's number serve one approval each."""
    values = shop.values(SMALL)
    first = card.pay(values)
    assert shop.decide(first)["verdict"] == "approved"
    for again in (first, {**first, "sale": os.urandom(16)}):
        assert shop.decide(again)["verdict"] == "declined"
    opening = first["issuer_data"][6:]
    assert shop.decide(card.pay(values, atc=first["atc"]))["verdict"] == "declined"
    expect("declined", shop, card, SMALL, opening=opening)
    assert shop.decide({**card.pay(shop.values(SMALL)), "sale": first["sale"]})["verdict"] == "declined"
    assert card.controls["uses"] > 1, "a TSM under test issues cards of several uses (README)"
    expect("approved", shop, card, SMALL)


def test_PAY_an_opening_of_another_card_is_another_opening(shop: Shop, holder: Registered) -> None:
    opening = os.urandom(4)
    for card in holder.cards(2):
        expect("approved", shop, card, SMALL, opening=opening)


def test_PAY_a_declined_purchase_uses_no_opening(shop: Shop, card: PlayedCard) -> None:
    """A retry within the opening, after "see phone", is what the cardholder agreed to."""
    opening = os.urandom(4)
    expect("verify", shop, card, limit_of(card) + 1, opening=opening)
    verified = CVR_ARQC | CVR_DEVICE_VERIFIED
    expect("approved", shop, card, limit_of(card) + 1, opening=opening, cvr=verified)


def test_PAY_a_card_serves_as_often_as_its_controls_say(shop: Shop, card: PlayedCard) -> None:
    for _ in range(card.controls["uses"]):
        expect("approved", shop, card, 100)
    expect("declined", shop, card, 100)


def test_PAY_a_card_serves_for_its_total(shop: Shop, card: PlayedCard) -> None:
    total_minor = card.controls["total_minor"]
    expect("approved", shop, card, total_minor - 100, cvr=CVR_ARQC | CVR_DEVICE_VERIFIED)
    expect("declined", shop, card, 101)
    expect("approved", shop, card, 100)


def test_PAY_of_many_requests_at_once_one_is_approved(shops: list[Shop], card: PlayedCard) -> None:
    """One tap shown many times, under other names; then one opening under many counters."""
    shop = shops[0]
    tap = card.pay(shop.values(SMALL))
    drafts = [shop.authorize({**tap, "sale": os.urandom(16)}) for _ in range(6)]
    opening = os.urandom(4)
    drafts += [shop.authorize(card.pay(shop.values(SMALL), opening=opening)) for _ in range(6)]
    with ThreadPoolExecutor(12) as pool:
        verdicts = [reply["decided"]["verdict"] for reply in pool.map(lambda draft: draft.send(), drafts)]
    assert sorted(verdicts[:6]) == ["approved", *["declined"] * 5]
    assert sorted(verdicts[6:]) == ["approved", *["declined"] * 5]


# --- what the card did not make as it stands -------------------------------------------------------------------------
@dataclass(frozen=True)
class Try:
    """A purchase with one thing wrong."""

    shop: Shop
    card: PlayedCard
    other: PlayedCard

    def pay(self, amount_minor: int = SMALL, currency: str = "TWD", **how: Any) -> Purchase:
        return self.card.pay(self.shop.values(amount_minor, currency), **how)

    def both(self, tag: int, value: bytes) -> Purchase:
        """A purchase with another value in PDOL and CDOL1 data alike."""
        return self.pay(shown={tag: value}, said={tag: value})

    def with_records(self, change: Callable[[list[Any]], list[Any]]) -> Purchase:
        """A purchase with other records."""
        return {**self.pay(), "records": change(self.card.emv["records"])}

    def record(self, tag: bytes) -> Purchase:
        """A purchase in whose records one bit of the data object's value is another."""
        purchase = self.pay()
        records = [dict(record) for record in purchase["records"]]
        for record in records:
            at = record["data"].find(tag)
            if at >= 0:
                record["data"] = flipped(record["data"], at + len(tag) + 2)
                return {**purchase, "records": records}
        raise AssertionError("no such data object")


def flipped(data: bytes, at: int = -1) -> bytes:
    """One bit is another."""
    at %= len(data)
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _cut(purchase: Purchase, name: str, end: int) -> Purchase:
    return {**purchase, name: purchase[name][:end]}


def _flip(purchase: Purchase, name: str, at: int = -1) -> Purchase:
    return {**purchase, name: flipped(purchase[name], at)}


SHOWN_AND_SAID = {"amount": 0x9F02, "currency": 0x5F2A, "merchant": 0x9F16, "terminal": 0x9F1C, "number": 0x9F37}
"""In PDOL and CDOL1 both."""
OTHER_VALUES = {
    0x9F02: bytes.fromhex("000000000001"), 0x5F2A: bytes.fromhex("0840"), 0x9F16: b"CONFORMANCE0009",
    0x9F1C: b"00000000", 0x9F37: b"\1\2\3\4", 0x9F4E: b"Another",
}  # fmt: skip


def _apart(where: str, tag: int) -> Callable[[Try], Purchase]:
    """A purchase with another value in PDOL or CDOL1 data only, under a good signature."""
    other = {tag: OTHER_VALUES[tag]}
    return lambda attempt: attempt.pay(shown=other) if where == "shown" else attempt.pay(said=other)


NOT_MADE: dict[str, Callable[[Try], Purchase]] = {
    # signature
    "signature_altered": lambda t: _flip(t.pay(), "signature", 100),
    "signature_cut": lambda t: _cut(t.pay(), "signature", -1),
    "signature_of_zeros": lambda t: {**t.pay(), "signature": bytes(176)},
    "signature_by_another_key": lambda t: t.pay(key=CardKey.new()),
    "signature_by_another_card": lambda t: t.pay(key=t.other.key),
    "signature_over_another_unpredictable_number": lambda t: t.pay(unpredictable=b"\1\2\3\4"),
    "signature_over_another_transaction": lambda t: t.pay(digest=bytes(20)),
    "signature_without_cryptogram": lambda t: t.pay(dynamic=b"\x08" + bytes(8)),
    "signature_as_for_possession": lambda t: t.pay(dynamic=b"\x08" + bytes(8), unpredictable=bytes(32)),
    "signature_with_more_inside": lambda t: t.pay(dynamic=b"\x08" + bytes(8) + b"\x80" + bytes(29)),
    "signature_of_another_tap": lambda t: {**t.pay(), "signature": t.pay()["signature"]},
    # cryptogram
    "cryptogram_of_zeros": lambda t: t.pay(ac=bytes(8)),
    "cryptogram_under_another_cards_key": lambda t: t.pay(k_ac=t.other.k_ac),
    # forwarded otherwise than signed
    "another_counter": lambda t: {**t.pay(), "atc": t.card.atc + 1},
    "another_opening": lambda t: _flip(t.pay(), "issuer_data"),
    "verification_added": lambda t: _flip(t.pay(limit_of(t.card) + 1), "issuer_data", 3),
    "pdol_data_altered": lambda t: _flip(t.pay(), "pdol_data", 5),
    "pdol_data_cut": lambda t: _cut(t.pay(), "pdol_data", -1),
    "cdol_data_altered": lambda t: _flip(t.pay(), "cdol_data", 5),
    "cdol_data_cut": lambda t: _cut(t.pay(), "cdol_data", -1),
    "cdol_data_of_another_length_signed": lambda t: t.pay(cdol_data=t.pay()["cdol_data"] + b"\0"),
    "pdol_data_of_another_length_signed": lambda t: t.pay(pdol_data=t.pay()["pdol_data"] + b"\0"),
    # another kind of cryptogram
    "decline_of_the_card": lambda t: t.pay(information=AAC),
    "offline_approval": lambda t: t.pay(information=TC),
    "information_altered": lambda t: {**t.pay(), "information": 0x81},
    # two data that should be one
    **{f"another_{name}_shown_than_said": _apart("shown", tag) for name, tag in SHOWN_AND_SAID.items()},
    **{f"another_{name}_said_than_shown": _apart("said", tag) for name, tag in SHOWN_AND_SAID.items()},
    "cash_back": lambda t: t.pay(said={0x9F03: bytes.fromhex("000000000100")}),
    "cash": lambda t: t.pay(said={0x9C: b"\x01"}),
    "refund_by_card": lambda t: t.pay(said={0x9C: b"\x20"}),
    # shown to the cardholder otherwise than registered for the key
    "another_merchants_name": lambda t: t.pay(shown={0x9F4E: b"Another"}),
    "no_merchants_name": lambda t: t.pay(shown={0x9F4E: b""}),
    "another_merchants_identifier": lambda t: t.both(0x9F16, b"CONFORMANCE0002"),
    "another_terminals_identifier": lambda t: t.both(0x9F1C, b"ZZZZZZZZ"),
    # what the card says of itself
    "no_arqc_in_the_results": lambda t: t.pay(cvr=0),
    "consent_broken": lambda t: t.pay(cvr=CVR_ARQC | CVR_CONSENT_MISMATCH),
    "terminal_contradicts": lambda t: t.pay(cvr=CVR_ARQC | CVR_CONTRADICTED),
    "terminal_declined": lambda t: t.pay(cvr=CVR_ARQC | CVR_TERMINAL_DECLINED),
    "second_cryptogram": lambda t: t.pay(cvr=CVR_ARQC | CVR_COMPLETED),
    "after_the_issuer": lambda t: t.pay(cvr=CVR_ARQC | CVR_ISSUER_AUTHENTICATED),
    "reserved_result": lambda t: t.pay(cvr=CVR_ARQC | 1),
    "issuer_data_too_short": lambda t: t.pay(own=issuer_data(CVR_ARQC, bytes(3))),
    "issuer_data_too_long": lambda t: t.pay(own=issuer_data(CVR_ARQC, bytes(5))),
    "issuer_data_of_another_version": lambda t: t.pay(own=b"\x02" + issuer_data(CVR_ARQC, bytes(4))[1:]),
    "issuer_data_of_another_key": lambda t: t.pay(own=b"\x01\x02" + issuer_data(CVR_ARQC, bytes(4))[2:]),
    # records and certificates
    "record_altered_number": lambda t: t.record(b"\x5a\x0a"),
    "record_altered_date": lambda t: t.record(b"\x5f\x24"),
    "record_altered_certificate": lambda t: t.record(b"\x9f\x46\x81"),
    "record_altered_issuer_certificate": lambda t: t.record(b"\x90\x81"),
    "record_missing": lambda t: t.with_records(lambda records: records[1:]),
    "record_twice": lambda t: t.with_records(lambda records: [*records, records[0]]),
    "record_that_the_locator_does_not_name": lambda t: t.with_records(
        lambda records: [*records, {"sfi": 9, "number": 1, "data": b"\x70\x00"}]
    ),
    "records_of_another_card": lambda t: {**t.pay(), "records": t.other.emv["records"]},
    "another_aip": lambda t: t.pay(aip=b"\x19\x80"),
    "another_afl": lambda t: _flip(t.pay(), "afl"),
    "another_application": lambda t: {**t.pay(), "application": bytes.fromhex("A0000000031010")},
    "part_of_the_application": lambda t: {**t.pay(), "application": t.card.emv["application"][:-1]},
    # formats
    "unknown_currency": lambda t: t.pay(currency="XXX"),
    "amount_that_is_no_number": lambda t: t.both(0x9F02, b"\0\0\0\0\0\xaa"),
    "name_that_is_no_text": lambda t: t.pay(shown={0x9F4E: b"Conformance\n"}),
    "date_of_yesterweek": lambda t: t.pay(said={0x9A: t.shop.values(1, day_s=int(time.time()) - 7 * DAY_S)[0x9A]}),
    "date_of_next_week": lambda t: t.pay(said={0x9A: t.shop.values(1, day_s=int(time.time()) + 7 * DAY_S)[0x9A]}),
    "date_that_is_none": lambda t: t.pay(said={0x9A: b"\xff\xff\xff"}),
}
"""One thing wrong each; the rest is as a card and a terminal make it."""


@pytest.fixture(scope="module")
def unused(holder: Registered) -> PlayedCard:
    """Another good card of the same account."""
    (card,) = holder.cards()
    return card


@pytest.mark.parametrize("case", NOT_MADE)
def test_PAY_declines_and_vouches_for_nothing(case: str, shop: Shop, waiting: PlayedCard, unused: PlayedCard) -> None:
    purchase = NOT_MADE[case](Try(shop, waiting, unused))
    assert shop.decide(purchase) == told(shop, purchase, "declined") | NOTHING


def test_PAY_declines_a_card_that_nobody_issued(shop: Shop, waiting: PlayedCard, unused: PlayedCard) -> None:
    """A good certificate with another number does not exist; one card's number with another's key does not verify."""
    stranger = PlayedCard(CardKey.new(), unused.issued)
    purchase = stranger.pay(shop.values(SMALL))
    assert shop.decide(purchase) == told(shop, purchase, "declined") | NOTHING


def test_PAY_after_all_declines_the_card_still_pays(shop: Shop, waiting: PlayedCard) -> None:
    expect("approved", shop, waiting, SMALL)


# --- what the card made, but may not ---------------------------------------------------------------------------------
def test_PAY_declines_over_the_cards_amount(shop: Shop, card: PlayedCard) -> None:
    verified = CVR_ARQC | CVR_DEVICE_VERIFIED
    expect("declined", shop, card, card.controls["per_use_minor"] + 1, cvr=verified)
    expect("declined", shop, card, 999_999_999_999, cvr=verified)


def test_PAY_declines_another_currency(shop: Shop, card: PlayedCard) -> None:
    expect("declined", shop, card, SMALL, currency="USD")


def test_PAY_declines_the_contact_interface(shop: Shop, card: PlayedCard) -> None:
    """CN-3: the channel is among the controls."""
    expect("declined", shop, card, SMALL, cvr=CVR_ARQC | CVR_CONTACT)


def test_PAY_declines_a_card_that_was_not_activated(shop: Shop, holder: Registered) -> None:
    (card,) = holder.cards(active=False)
    expect("declined", shop, card, SMALL)


def test_PAY_declines_over_the_users_own_maximum(
    bundle: Bundle, to_tsm: Connection, played_bank: PlayedBank, shop: Shop
) -> None:
    """TID-0."""
    (card,) = Registered(Wallet(bundle.tsm, to_tsm), played_bank, maximum_minor=1_234).cards()
    expect("declined", shop, card, 1_235)
    expect("approved", shop, card, 1_234)


def test_PAY_declines_over_the_balance_and_approves_what_is_left(
    bundle: Bundle, to_tsm: Connection, played_bank: PlayedBank, shop: Shop
) -> None:
    poor = Registered(Wallet(bundle.tsm, to_tsm), played_bank, limit_minor=60_000)
    (second,) = poor.cards()
    verified = CVR_ARQC | CVR_DEVICE_VERIFIED
    left_minor = 60_000
    while left_minor >= second.controls["per_use_minor"]:
        (first,) = poor.cards()
        spent_minor = min(left_minor - 100, first.controls["per_use_minor"])
        expect("approved", shop, first, spent_minor, cvr=verified)
        left_minor -= spent_minor
    expect("declined", shop, second, left_minor + 1, cvr=verified)
    expect("approved", shop, second, left_minor, cvr=verified)


def test_PAY_declines_cards_of_a_closed_account(registered: Registered, shop: Shop) -> None:
    (card,) = registered.cards()
    expect("approved", shop, card, SMALL)
    registered.wallet.close(registered.offer).send()
    expect("declined", shop, card, SMALL)


# --- many at once ----------------------------------------------------------------------------------------------------
def test_PAY_a_batch_is_decided_one_by_one_and_in_order(shop: Shop, holder: Registered) -> None:
    first, second = holder.cards(2)
    values = [shop.values(amount) for amount in (100, 200, 300, limit_of(first) + 1)]
    opening = os.urandom(4)
    purchases = [
        first.pay(values[0], opening=opening),
        first.pay(values[1], opening=opening),  # of the same opening as the one before
        second.pay(values[2]),
        second.pay(values[3]),
        _flip(second.pay(values[2]), "signature", 9),
    ]
    decided = shop.authorize_batch(purchases).send()["decided"]
    assert decided == [
        proved(shop, first, purchases[0], values[0], "approved"),
        proved(shop, first, purchases[1], values[1], "declined"),
        proved(shop, second, purchases[2], values[2], "approved"),
        proved(shop, second, purchases[3], values[3], "verify"),
        told(shop, purchases[4], "declined") | NOTHING,
    ]


def test_PAY_a_batch_takes_a_sale_and_a_counter_once(shop: Shop, card: PlayedCard) -> None:
    tap = card.pay(shop.values(100))
    twice = [tap, tap, {**tap, "sale": os.urandom(16)}]
    decided = shop.authorize_batch(twice).send()["decided"]
    assert [one["verdict"] for one in decided] == ["approved", "declined", "declined"]


def test_PAY_a_batch_counts_uses_and_totals_within_itself(shop: Shop, card: PlayedCard) -> None:
    uses = card.controls["uses"]
    purchases = [card.pay(shop.values(100)) for _ in range(uses + 1)]
    decided = shop.authorize_batch(purchases).send()["decided"]
    assert [one["verdict"] for one in decided] == ["approved"] * uses + ["declined"]


def test_PAY_a_batch_is_of_1_to_32(shop: Shop, holder: Registered) -> None:
    cards = holder.cards(32)
    purchases = [card.pay(shop.values(100)) for card in cards]
    for wrong in ([], [*purchases, cards[0].pay(shop.values(100))]):
        with refused("MALFORMED", "OVERSIZE"):
            shop.authorize_batch(wrong).send()
    draft = shop.authorize_batch(purchases)
    cose = draft.cose()
    first, again = draft.post(cose), draft.post(cose)
    assert first.claims[CTI] == again.claims[CTI]
    assert [one["pan"] for one in first["decided"]] == [card.pan for card in cards]
    assert {one["verdict"] for one in first["decided"]} == {"approved"}


# --- reversal --------------------------------------------------------------------------------------------------------
def test_PAY_a_reversal_gives_the_amount_back_to_card_and_account(shop: Shop, card: PlayedCard) -> None:
    """The opening and the use of the card stay used; the money does not."""
    verified = CVR_ARQC | CVR_DEVICE_VERIFIED
    most_minor = card.controls["total_minor"]
    purchase = expect("approved", shop, card, most_minor, cvr=verified)
    expect("declined", shop, card, 100)
    reply = shop.reverse(purchase["sale"]).send()
    assert reply.payload == {"sale": purchase["sale"], "amount_minor": most_minor, "currency": "TWD"}
    opening = purchase["issuer_data"][6:]
    expect("declined", shop, card, 100, opening=opening)
    expect("approved", shop, card, most_minor, cvr=verified)


def test_PAY_a_reversal_is_acknowledged_as_often_as_it_is_sent(shop: Shop, card: PlayedCard) -> None:
    """Also in another envelope and for another reason; the money goes back once."""
    verified = CVR_ARQC | CVR_DEVICE_VERIFIED
    most_minor = card.controls["total_minor"]
    purchase = expect("approved", shop, card, most_minor, cvr=verified)
    draft = shop.reverse(purchase["sale"])
    cose = draft.cose()
    replies = [draft.post(cose), draft.post(cose), draft.send(), shop.reverse(purchase["sale"], "void").send()]
    assert {tuple(sorted(reply.payload.items())) for reply in replies} == {
        (("amount_minor", most_minor), ("currency", "TWD"), ("sale", purchase["sale"]))
    }
    expect("approved", shop, card, most_minor, cvr=verified)
    expect("declined", shop, card, 100)


def test_PAY_a_reversal_may_come_before_its_purchase(shop: Shop, card: PlayedCard) -> None:
    """It was lost, or it is late: then it is declined."""
    values = shop.values(SMALL)
    purchase = card.pay(values)
    reply = shop.reverse(purchase["sale"]).send()
    assert reply.payload == {"sale": purchase["sale"], "amount_minor": 0, "currency": ""}
    assert shop.decide(purchase)["verdict"] == "declined"
    assert shop.reverse(purchase["sale"]).send()["amount_minor"] == 0
    expect("approved", shop, card, SMALL)


def test_PAY_a_reversal_of_a_declined_purchase_gives_nothing_back(shop: Shop, card: PlayedCard) -> None:
    purchase = expect("verify", shop, card, limit_of(card) + 1)
    assert shop.reverse(purchase["sale"]).send()["amount_minor"] == 0


def test_PAY_a_reversal_is_of_the_merchants_own_sale(shops: list[Shop], card: PlayedCard) -> None:
    shop, other = shops
    purchase = expect("approved", shop, card, SMALL)
    assert other.reverse(purchase["sale"]).send()["amount_minor"] == 0
    assert shop.refund(purchase["sale"], SMALL).send()["refunded_minor"] == SMALL


def test_PAY_another_terminal_of_the_merchant_may_take_a_purchase_back(shop: Shop, card: PlayedCard) -> None:
    purchase = expect("approved", shop, card, SMALL)
    second = Shop(shop.tsm, shop.merchant, shop.connection).ready()
    assert second.reverse(purchase["sale"], "void").send()["amount_minor"] == SMALL


def test_PAY_refuses_to_reverse_what_was_partly_refunded(shop: Shop, card: PlayedCard) -> None:
    purchase = expect("approved", shop, card, SMALL)
    shop.refund(purchase["sale"], 1).send()
    with refused("WRONG_STATE"):
        shop.reverse(purchase["sale"]).send()
    assert shop.refund(purchase["sale"], SMALL - 1).send()["refunded_minor"] == SMALL


@pytest.mark.parametrize("changes", [{"reason": "because"}, {"sale": bytes(15)}, {"sale": bytes(17)}])
def test_PAY_refuses_a_reversal_of_another_form(changes: dict[str, Any], shop: Shop) -> None:
    with refused("MALFORMED", "OVERSIZE"):
        shop.reverse(os.urandom(16)).send(fields=changes)


# --- refund ----------------------------------------------------------------------------------------------------------
def test_PAY_refunds_in_parts_up_to_the_amount(shop: Shop, card: PlayedCard) -> None:
    total_minor = card.controls["total_minor"]
    purchase = expect("approved", shop, card, total_minor, cvr=CVR_ARQC | CVR_DEVICE_VERIFIED)
    sale = purchase["sale"]
    given = 0
    for part in (100, 1, total_minor - 201):
        draft = shop.refund(sale, part)
        given += part
        assert draft.send().payload == {
            "sale": sale, "refund": draft.payload["refund"], "amount_minor": part, "refunded_minor": given,
            "currency": "TWD",
        }  # fmt: skip
    with refused("LIMIT_EXCEEDED"):
        shop.refund(sale, 101).send()
    assert shop.refund(sale, 100).send()["refunded_minor"] == total_minor
    with refused("LIMIT_EXCEEDED"):
        shop.refund(sale, 1).send()
    expect("approved", shop, card, total_minor, cvr=CVR_ARQC | CVR_DEVICE_VERIFIED)


def test_PAY_refuses_a_refund_of_nothing_and_in_another_currency(shop: Shop, card: PlayedCard) -> None:
    sale = expect("approved", shop, card, SMALL)["sale"]
    for amount_minor, currency in ((0, "TWD"), (1, "USD"), (SMALL + 1, "TWD")):
        with refused("LIMIT_EXCEEDED"):
            shop.refund(sale, amount_minor, currency=currency).send()
    assert shop.refund(sale, SMALL).send()["refunded_minor"] == SMALL


def test_PAY_a_refunds_name_serves_once(shop: Shop, card: PlayedCard) -> None:
    """The same bytes again are the same refund; the name in another request is another."""
    sale = expect("approved", shop, card, SMALL)["sale"]
    draft = shop.refund(sale, 100)
    cose = draft.cose()
    assert draft.post(cose).payload == draft.post(cose).payload
    with refused("IDENTIFIER_TAKEN"):
        draft.send()
    assert shop.refund(sale, 100).send()["refunded_minor"] == 200


def test_PAY_refuses_to_refund_what_was_not_approved(shops: list[Shop], card: PlayedCard) -> None:
    """Unknown, declined, another merchant's; and what was reversed."""
    shop, other = shops
    declined = expect("verify", shop, card, limit_of(card) + 1)
    approved = expect("approved", shop, card, SMALL)
    never = os.urandom(16)
    shop.reverse(never).send()
    for asking, sale in (
        (shop, os.urandom(16)), (shop, declined["sale"]), (other, approved["sale"]), (shop, never),
    ):  # fmt: skip
        with refused("PURCHASE_UNKNOWN"):
            asking.refund(sale, 1).send()
    shop.reverse(approved["sale"]).send()
    with refused("WRONG_STATE"):
        shop.refund(approved["sale"], 1).send()


def test_PAY_of_many_refunds_at_once_no_more_than_the_amount_is_given(shop: Shop, card: PlayedCard) -> None:
    sale = expect("approved", shop, card, 300)["sale"]
    drafts = [shop.refund(sale, 100) for _ in range(6)]

    def ask(draft: Draft[Signed]) -> str:
        try:
            return str(draft.send()["amount_minor"])
        except Refusal as refusal:
            return refusal.code

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(ask, drafts)) == ["100"] * 3 + ["LIMIT_EXCEEDED"] * 3


# --- who may ask -----------------------------------------------------------------------------------------------------
ASKS: dict[str, Callable[[Shop, PlayedCard], Draft[Signed]]] = {
    "authorize": lambda shop, card: shop.authorize(card.pay(shop.values(SMALL))),
    "batch": lambda shop, card: shop.authorize_batch([card.pay(shop.values(SMALL))]),
    "reverse": lambda shop, _card: shop.reverse(os.urandom(16)),
    "refund": lambda shop, _card: shop.refund(os.urandom(16), 1),
}


@pytest.mark.parametrize("ask", ASKS)
def test_PAY_refuses_who_is_not_the_terminal(
    ask: str, shops: list[Shop], waiting: PlayedCard, to_tsm: Connection
) -> None:
    shop, other = shops
    draft = ASKS[ask](shop, waiting)
    with refused("UNKNOWN_KEY"):  # the merchant's own key registers terminals, and no more
        draft.send(signer=shop.merchant.signer)
    with refused("UNKNOWN_KEY"):
        draft.send(signer=Signer(shop.merchant.name, Key.new()))
    with refused("WRONG_ISSUER"):  # the terminal's name is none
        draft.send(issuer=shop.terminal)
    with refused("FIELD_MISMATCH"):
        draft.send(fields={"terminal": other.terminal})
    with refused("WRONG_PEER", "WRONG_ISSUER"):  # over another merchant's TLS, or nobody's
        replace(draft, to=other.connection).send()
    with refused("WRONG_PEER"):
        replace(draft, to=to_tsm).send()


@pytest.mark.parametrize("ask", ASKS)
def test_PAY_refuses_a_key_that_was_rotated(ask: str, shop: Shop, waiting: PlayedCard) -> None:
    """CN-5: from the next sign-on on, the terminal's old key is nobody's."""
    terminal = Shop(shop.tsm, shop.merchant, shop.connection).ready()
    old = ASKS[ask](terminal, waiting)
    terminal.key = Key.new()
    terminal.sign_on().send()
    with refused("UNKNOWN_KEY"):
        old.send()


def test_PAY_another_terminals_tap_is_declined(shops: list[Shop], card: PlayedCard) -> None:
    """Bought at one counter, shown by another: of the same merchant, or of another."""
    shop, other = shops
    second = Shop(shop.tsm, shop.merchant, shop.connection).ready()
    for thief in (second, other):
        purchase = card.pay(shop.values(SMALL))
        assert thief.decide(purchase) == told(thief, purchase, "declined") | NOTHING
    assert shop.decide(card.pay(shop.values(SMALL)))["verdict"] == "approved"


FORMS: dict[str, dict[str, Any]] = {
    "sale_too_short": {"sale": bytes(15)},
    "counter_too_large": {"atc": 1 << 16},
    "aip_too_long": {"aip": bytes(3)},
    "no_records": {"records": []},
    "too_many_records": {"records": [{"sfi": 1, "number": 1, "data": b"\x70\x00"}] * 17},
    "no_signature": {"signature": b""},
    "signature_too_long": {"signature": bytes(249)},
    "pdol_data_too_long": {"pdol_data": bytes(253)},
    "information_of_two_bytes": {"information": 256},
    "unknown_field": {"track2": b""},
}


@pytest.mark.parametrize("case", FORMS)
def test_PAY_refuses_a_purchase_of_another_form(case: str, shop: Shop, waiting: PlayedCard) -> None:
    with refused("MALFORMED", "OVERSIZE"):
        shop.authorize({**waiting.pay(shop.values(SMALL)), **FORMS[case]}).send()
