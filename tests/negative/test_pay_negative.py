"""Authorize and AuthorizeBatch: every reason to decline is reached, told as a verdict only, and charges nothing."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.counter import Counter
from support.customer import SMALL, Customer, approved, declined
from support.skimmer import NoComparison, again, bcd, with_said, with_shown
from support.world import World

from protocol.card.apdu import Response
from protocol.card.combined import CryptogramType
from protocol.card.cvr import Cvr
from protocol.card.profile import RID
from protocol.card.transaction import Transaction
from protocol.messages.pay import EmvPurchase
from protocol.roles.tsm.purchase import Reason
from protocol.roles.tsm.tables import CARDS

NOTHING = Cvr(0)
Make = Callable[[Customer], EmvPurchase]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, seed="pay")


@pytest.fixture
def customer(world: World) -> Customer:
    return Customer.come(world)


# --- what the card did not sign --------------------------------------------------------------------------------------
def claiming(extra: Cvr, missing: Cvr = NOTHING) -> type[Transaction]:
    """A card that says this of itself, under SDAD and ARQC."""

    class Claims(Transaction):
        def _answer(
            self, kind: CryptogramType, cvr: Cvr, cdol_data: tuple[bytes, ...], *, combined: bool
        ) -> tuple[bytes, Response]:
            return super()._answer(kind, (cvr | extra) & ~missing, cdol_data, combined=combined)

    return Claims


def _flip(data: bytes, at: int = -1) -> bytes:
    at %= len(data)
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _record_altered(purchase: EmvPurchase) -> EmvPurchase:
    first = purchase.records[0]
    return replace(purchase, records=(replace(first, data=_flip(first.data)), *purchase.records[1:]))


def _shown(purchase: EmvPurchase, **values: bytes) -> EmvPurchase:
    return replace(purchase, pdol_data=with_shown(purchase.pdol_data, **values))


def _said(purchase: EmvPurchase, **values: bytes) -> EmvPurchase:
    return replace(purchase, cdol_data=with_said(purchase.cdol_data, **values))


Alter = Callable[[EmvPurchase], EmvPurchase]
ALTERED: tuple[tuple[str, Alter, Reason], ...] = (
    ("another application", lambda p: replace(p, application=RID + b"OTHER"), Reason.APPLICATION_UNKNOWN),
    ("part of its name", lambda p: replace(p, application=p.application[:-1]), Reason.APPLICATION_UNKNOWN),
    ("a record altered", _record_altered, Reason.CERTIFICATE_INVALID),
    ("no second record", lambda p: replace(p, records=p.records[:1]), Reason.CERTIFICATE_INVALID),
    ("a record twice", lambda p: replace(p, records=(*p.records, p.records[0])), Reason.CERTIFICATE_INVALID),
    ("another AIP", lambda p: replace(p, aip=_flip(p.aip)), Reason.CERTIFICATE_INVALID),
    ("another AFL", lambda p: replace(p, afl=p.afl[:4]), Reason.CERTIFICATE_INVALID),
    ("AAC", lambda p: replace(p, information=CryptogramType.AAC), Reason.NOT_ONLINE),
    ("TC", lambda p: replace(p, information=CryptogramType.TC), Reason.NOT_ONLINE),
    ("ARQC with an advice", lambda p: replace(p, information=CryptogramType.ARQC | 8), Reason.NOT_ONLINE),
    ("PDOL data short", lambda p: replace(p, pdol_data=p.pdol_data[:-1]), Reason.DATA_INVALID),
    ("PDOL data long", lambda p: replace(p, pdol_data=p.pdol_data + b"\0"), Reason.DATA_INVALID),
    ("no such currency", lambda p: _shown(p, t5F2A=b"\x09\x99"), Reason.DATA_INVALID),
    ("an amount that is no number", lambda p: _shown(p, t9F02=b"\0\0\0\0\0\xaa"), Reason.DATA_INVALID),
    ("a name that is no text", lambda p: _shown(p, t9F4E=b"\x1b[2J"), Reason.DATA_INVALID),
    ("CDOL1 data short", lambda p: replace(p, cdol_data=p.cdol_data[:-1]), Reason.DATA_INVALID),
    ("9F10 short", lambda p: replace(p, issuer_data=p.issuer_data[:-1]), Reason.DATA_INVALID),
    ("9F10 of another format", lambda p: replace(p, issuer_data=_flip(p.issuer_data, 0)), Reason.DATA_INVALID),
    ("9F10 with reserved bits", lambda p: replace(p, issuer_data=_flip(p.issuer_data, 5)), Reason.DATA_INVALID),
    ("another amount said", lambda p: _said(p, t9F02=bcd(1)), Reason.CONSENT_MISMATCH),
    ("another amount shown", lambda p: _shown(p, t9F02=bcd(1)), Reason.CONSENT_MISMATCH),
    ("a date of other digits", lambda p: _said(p, t9A=b"\x26\x13\x41"), Reason.DATE_IMPLAUSIBLE),
    ("the signature altered", lambda p: replace(p, signature=_flip(p.signature)), Reason.SIGNATURE_INVALID),
    ("no signature", lambda p: replace(p, signature=b"\0"), Reason.SIGNATURE_INVALID),
    ("another counter", lambda p: replace(p, atc=p.atc + 1), Reason.SIGNATURE_INVALID),
    ("another opening", lambda p: replace(p, issuer_data=_flip(p.issuer_data)), Reason.SIGNATURE_INVALID),
    ("another name shown", lambda p: _shown(p, t9F4E=b"Shop 1 "), Reason.SIGNATURE_INVALID),
    ("other verification results", lambda p: _said(p, t95=b"\x80\0\0\0\0"), Reason.SIGNATURE_INVALID),
    (
        "another amount in both", lambda p: _said(_shown(p, t9F02=bcd(1)), t9F02=bcd(1)), Reason.SIGNATURE_INVALID
    ),
)  # fmt: skip


@pytest.mark.parametrize(("alter", "reason"), [case[1:] for case in ALTERED], ids=[case[0] for case in ALTERED])
def test_what_the_card_did_not_sign(customer: Customer, alter: Alter, reason: Reason) -> None:
    purchase = customer.ask()
    decided = declined(customer, again(customer.world, alter(purchase)), reason)
    # Nothing is vouched for: the merchant does not even get the number back.
    assert (decided.pan, decided.atc, decided.amount_minor, decided.currency) == ("", 0, 0, "")
    assert (decided.unpredictable, decided.issuer_data, decided.cryptogram, decided.arpc) == (b"", b"", b"", b"")
    row = customer.purchases()[-1]
    assert (row.pan_ref, row.tid, row.sid_digest, row.amount_minor, row.cryptogram) == (b"", "", b"", 0, b"")
    approved(customer, purchase)  # no counter was used up


# --- what a broken card signs ----------------------------------------------------------------------------------------
def _over(customer: Customer, **says: bytes) -> EmvPurchase:
    return customer.make(kind=NoComparison, says={int(tag[1:], 16): value for tag, value in says.items()})


def _dated(customer: Customer, days: int) -> EmvPurchase:
    sale = customer.counter.sale(SMALL)
    return customer.make(sale=replace(sale, date=sale.date + datetime.timedelta(days=days)))


SIGNED: tuple[tuple[str, Make, Reason], ...] = (
    ("another kAC", lambda c: c.make(k_ac=bytes(16)), Reason.CRYPTOGRAM_INVALID),
    ("another amount said", lambda c: _over(c, t9F02=bcd(SMALL + 1)), Reason.CONSENT_MISMATCH),
    ("cash back", lambda c: _over(c, t9F03=bcd(1)), Reason.CONSENT_MISMATCH),
    ("another currency said", lambda c: _over(c, t5F2A=b"\x09\x78"), Reason.CONSENT_MISMATCH),
    ("another merchant said", lambda c: _over(c, t9F16=b"TAPVEIL00000002"), Reason.CONSENT_MISMATCH),
    ("another terminal said", lambda c: _over(c, t9F1C=b"T0000002"), Reason.CONSENT_MISMATCH),
    ("cash, not goods", lambda c: _over(c, t9C=b"\x01"), Reason.CONSENT_MISMATCH),
    ("a refund", lambda c: _over(c, t9C=b"\x20"), Reason.CONSENT_MISMATCH),
    *(
        (f"CVR with {bit.name}", lambda c, bit=bit: c.make(kind=claiming(bit)), Reason.CONSENT_MISMATCH)
        for bit in (
            Cvr.COMPLETED, Cvr.ISSUER_AUTHENTICATED, Cvr.CONSENT_MISMATCH, Cvr.VERIFICATION_CONTRADICTED,
            Cvr.TERMINAL_DECLINED,
        )
    ),
    ("CVR without ARQC", lambda c: c.make(kind=claiming(NOTHING, Cvr.ARQC)), Reason.CONSENT_MISMATCH),
    ("two days ago", lambda c: _dated(c, -2), Reason.DATE_IMPLAUSIBLE),
    ("the day after tomorrow", lambda c: _dated(c, 2), Reason.DATE_IMPLAUSIBLE),
)  # fmt: skip


@pytest.mark.parametrize(("make", "reason"), [case[1:] for case in SIGNED], ids=[case[0] for case in SIGNED])
def test_what_no_card_of_ours_would_sign(customer: Customer, make: Make, reason: Reason) -> None:
    assert declined(customer, make(customer), reason).pan == ""
    approved(customer, customer.make())


@pytest.mark.parametrize("days", [-1, 0, 1])
def test_terminals_in_any_time_zone(customer: Customer, days: int) -> None:
    approved(customer, _dated(customer, days))


def test_a_card_of_another_tsm(world: World, customer: Customer) -> None:
    """Its issuer is under the same CA, so chain and signature are good."""
    world.add_tsm("tsm-2")
    phone = world.ready("phone-2")
    tid = world.service(phone, world.account(phone, tsm="tsm-2"), tsm="tsm-2")
    world.cards(phone, tid, tsm="tsm-2")
    assert declined(customer, customer.counter.ask(phone, tid, SMALL), Reason.CARD_UNKNOWN).pan == ""


def test_a_number_with_another_key_than_it_was_issued_for(customer: Customer) -> None:
    issued = customer.cards().values()
    (other,) = [row for row in issued if row.position == 1]
    (own,) = [row for row in issued if row.position == 0]
    customer.amend(CARDS, modulus=other.modulus)
    declined(customer, customer.make(card=0), Reason.CERTIFICATE_INVALID)
    approved(customer, customer.make(card=1))
    customer.amend(CARDS, modulus=own.modulus)
    approved(customer, customer.make(card=0))


# --- whom the cardholder was shown -----------------------------------------------------------------------------------
def test_another_terminal_or_merchant_than_was_shown(world: World, customer: Customer) -> None:
    purchase = customer.ask()
    counter = customer.counter
    for other in (Counter.open(world, 2), Counter.open(world, 3, "shop-2")):
        assert declined(customer, again(world, purchase), Reason.MERCHANT_MISMATCH, other).pan == ""
    renamed = replace(counter, terminal=replace(counter.terminal, merchant_name="Shop 1 and more"))
    declined(customer, renamed.ask(customer.phone, customer.tid, SMALL), Reason.MERCHANT_MISMATCH)
    approved(customer, purchase)


# --- each once -------------------------------------------------------------------------------------------------------
def test_a_sale_is_decided_once(world: World, customer: Customer) -> None:
    purchase, other = customer.make(card=0), customer.make(card=1)
    approved(customer, purchase)
    for repeated in (purchase, replace(other, sale=purchase.sale), replace(purchase, information=0)):
        declined(customer, repeated, Reason.SALE_REUSED)
    assert customer.counter.row(purchase.sale).state == "APPROVED"
    approved(customer, other)
    # Another merchant's names are its own.
    second = Counter.open(world, 2, "shop-2")
    declined(customer, replace(purchase, sale=other.sale), Reason.MERCHANT_MISMATCH, second)


def test_a_counter_and_an_opening_are_used_once(customer: Customer) -> None:
    first = customer.make(atc=7, opening=b"once")
    approved(customer, first)
    declined(customer, customer.make(atc=7, opening=b"more"), Reason.ATC_REUSED)
    declined(customer, again(customer.world, first), Reason.ATC_REUSED)
    decided = declined(customer, customer.make(atc=8, opening=b"once"), Reason.OPENING_USED)
    assert (decided.atc, decided.amount_minor, len(decided.pan)) == (8, SMALL, 19)  # proved, and so named
    declined(customer, customer.make(atc=8, opening=b"more"), Reason.ATC_REUSED)  # a decline used that counter
    declined(customer, customer.make(atc=9, opening=b"more"), Reason.CARD_USED_UP)
    approved(customer, customer.make(card=1, atc=7, opening=b"once"))  # another card's are its own


def test_a_decline_leaves_the_opening_for_a_retry(customer: Customer) -> None:
    declined(customer, customer.make(currency="EUR", atc=1, opening=b"once"), Reason.CURRENCY_NOT_ALLOWED)
    approved(customer, customer.make(atc=2, opening=b"once"))


def test_every_reason_has_a_test() -> None:
    """Here or in the files beside this one."""
    here = Path(__file__).parent
    files = ("test_pay_negative.py", "test_pay_limits_negative.py", "test_giveback_negative.py")
    text = "".join((here / name).read_text() for name in files)
    assert [reason for reason in Reason if f"Reason.{reason}" not in text] == []
