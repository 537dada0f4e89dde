"""A customer at a counter: a phone with cards, and the same cards in the hands of an owner who broke the SE."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from support.counter import TSM, Counter
from support.skimmer import OwnCard, applet, crooked_tap, loaded, shopper
from support.world import Phone, World

from protocol.card.terminal import Sale
from protocol.card.transaction import Transaction
from protocol.messages.pay import Decided, EmvPurchase, Verdict
from protocol.roles.tsm.purchase import Reason
from protocol.roles.tsm.tables import CARDS, PURCHASES, TID_LIST, CardRow, Purchase, TidEntry
from protocol.rows import Decision, Table, Unit, Update

SMALL, LARGE = 9_000, 25_000
"""Below and above the verification limit of 20,000."""


@dataclass
class Customer:
    """One phone, its account, and the counter that it stands at."""

    world: World
    counter: Counter
    phone: Phone
    tid: str

    @classmethod
    def come(cls, world: World, number: int = 2) -> Customer:
        phone, tid = shopper(world, number=number)
        return cls(world=world, counter=Counter.open(world), phone=phone, tid=tid)

    def ask(self, amount_minor: int = SMALL) -> EmvPurchase:
        """An honest tap."""
        return self.counter.ask(self.phone, self.tid, amount_minor)

    def make(
        self, amount_minor: int = SMALL, *, card: int = 0, currency: str = "TWD", kind: type[Transaction] = Transaction,
        says: dict[int, bytes] | None = None, sale: Sale | None = None, **changes: Any,
    ) -> EmvPurchase:  # fmt: skip
        """With keys out of a broken SE: any counter, opening, verification; genuine for everyone else."""
        held = applet(self.world, OwnCard(loaded(self.phone, card, **changes)), kind)
        asked = sale or self.counter.sale(amount_minor, currency)
        return crooked_tap(self.counter, held, amount_minor, says=says, sale=asked).purchase(self.counter)

    # --- rows of the TSM -------------------------------------------------------------------------------------------
    def cards(self) -> dict[bytes, CardRow]:
        return {row.pan_ref: row for row in self.world.parties[TSM].store.scan(CARDS)}

    def card_of(self, purchase: EmvPurchase) -> CardRow:
        """The card that a purchase was made with, once it was decided."""
        return self.cards()[self.counter.row(purchase.sale).pan_ref]

    def grant(self) -> TidEntry:
        (grant,) = self.world.parties[TSM].store.scan(TID_LIST)
        return grant

    def purchases(self) -> tuple[Purchase, ...]:
        return self.world.parties[TSM].store.scan(PURCHASES)

    def amend(self, table: Table[Any], **columns: Any) -> None:
        """Every row of a TSM's table with other values, as if something had happened that no request makes happen."""
        amend(self.world, TSM, table, **columns)


def amend(world: World, party: str, table: Table[Any], **columns: Any) -> None:
    """Every row of a table with other values."""
    store = world.parties[party].store
    writes = tuple(Update(table, replace(row, **columns)) for row in store.scan(table))
    store.apply(Unit((), lambda rows: Decision(writes=writes)))


# --- how a decision is asserted --------------------------------------------------------------------------------------
def declined(customer: Customer, purchase: EmvPurchase, reason: Reason, counter: Counter | None = None) -> Decided:
    """Declined for this reason, which is kept; the merchant learns the verdict; nothing else has changed."""
    counter = counter or customer.counter
    cards, grants, before = customer.cards(), customer.world.parties[TSM].store.scan(TID_LIST), customer.purchases()
    decided = counter.authorize(purchase)
    verify = reason is Reason.VERIFICATION_MISSING
    assert (decided.verdict, decided.response_code) == (
        (Verdict.VERIFY, "65") if verify else (Verdict.DECLINED, "05")
    )  # fmt: skip
    assert (decided.sale, decided.merchant, decided.terminal) == (
        purchase.sale, counter.keys.name, counter.terminal.terminal
    )  # fmt: skip
    assert (customer.cards(), customer.world.parties[TSM].store.scan(TID_LIST)) == (cards, grants)
    if reason in (Reason.SALE_REUSED, Reason.REVERSED_BEFORE):
        assert customer.purchases() == before
    else:
        row = counter.row(purchase.sale)
        assert (row.state, row.reason, row.refunded_minor) == ("DECLINED", reason, 0)
        assert len(customer.purchases()) == len(before) + 1
    return decided


def approved(customer: Customer, purchase: EmvPurchase) -> Decided:
    """Approved: charged to this card and its grant."""
    cards, spent_minor = customer.cards(), customer.grant().spent_minor
    decided = customer.counter.authorize(purchase)
    assert (decided.verdict, decided.response_code) == (Verdict.APPROVED, "00")
    row, card = customer.counter.row(purchase.sale), customer.card_of(purchase)
    assert (row.state, row.reason, row.amount_minor) == ("APPROVED", "", decided.amount_minor)
    before = cards[card.pan_ref]
    assert (card.used, card.spent_minor) == (before.used + 1, before.spent_minor + row.amount_minor)
    assert customer.grant().spent_minor == spent_minor + row.amount_minor
    assert {ref: held for ref, held in customer.cards().items() if ref != card.pan_ref} == {
        ref: held for ref, held in cards.items() if ref != card.pan_ref
    }
    return decided
