"""Money back: a reversal that overtakes its purchase, and whose purchases a merchant may take back or refund.

Reversals race the requests they reverse, and refunds create money where nobody adds them up. Design §3 PAY: reversals
are stored and forwarded until acknowledged; all is under the terminal's own key.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.attacker import overwriting, refused, unbooked
from support.counter import TSM, Counter
from support.skimmer import charged, seeing, shopper, weaken, won
from support.world import World

from protocol.engine import Context, Incoming
from protocol.envelope import Wire
from protocol.errors import LimitExceeded, PurchaseUnknown, WrongState
from protocol.messages.pay import ReversalReason
from protocol.ports import Entropy
from protocol.roles.tsm.authorize import Authorizing
from protocol.roles.tsm.giveback import RefundStep, ReverseStep, Reversing
from protocol.roles.tsm.tables import PURCHASES
from protocol.rows import Decision, Rows

SMALL = 9_000


class Forgets:
    """A TSM that keeps no reversal of what it does not know."""

    def decide(self, rows: Rows, facts: Authorizing, now_s: int, entropy: Entropy) -> Decision:
        class Forgetful:
            find = rows.find

            def get(self, table: Any, *key: Any) -> Any:
                row = rows.get(table, *key)
                return None if table is PURCHASES and row is not None and row.state == "NEVER" else row

        return overwriting(super().decide(Forgetful(), facts, now_s, entropy), rows)


def test_a_reversal_that_is_faster(world: World) -> None:
    """Attack: a purchase is held back on the network until its merchant has given up, told the customer so and
    reversed it; then it is delivered. Powers: network. Closed by: a reversal of an unknown sale is kept, and the sale
    is declined when it comes (REVERSED_BEFORE). Variant: a TSM that keeps nothing charges the customer."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    for weak in (False, True):
        purchase = counter.ask(phone, tid, SMALL)
        answer = counter.reverse(purchase.sale)
        assert (answer.amount_minor, answer.currency) == (0, "")
        if weak:
            weaken(world, Forgets)
            assert won(counter, purchase) == SMALL
        else:
            decided = counter.authorize(purchase)
            assert (decided.verdict, decided.response_code, charged(world)) == ("declined", "05", 0)
            assert counter.row(purchase.sale).state == "NEVER"
            assert counter.reverse(purchase.sale).amount_minor == 0


class AlwaysApproved(ReverseStep):
    """A TSM that takes each purchase for an approved one when it is reversed."""

    def open(self, wire: Wire, ctx: Context) -> Incoming[Reversing]:
        incoming = super().open(wire, ctx)
        purchase = incoming.facts.purchase
        assert purchase is not None
        return replace(incoming, facts=replace(incoming.facts, purchase=replace(purchase, state="APPROVED")))

    def decide(self, rows: Rows, facts: Reversing, now_s: int, entropy: Entropy) -> Decision:
        return unbooked(super().decide(rows, facts, now_s, entropy))


def test_a_reversal_sent_again(world: World) -> None:
    """Attack: a reversal is repeated, so that its amount comes back twice and the account grows. Powers: the merchant
    and its customer together. Closed by: a reversed purchase is acknowledged again and nothing moves. Variant: a TSM
    that does not look at the state, nor at its ledger, gives back what was never taken."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    kept, purchase = (counter.ask(phone, tid, SMALL) for _ in range(2))
    assert won(counter, kept) + won(counter, purchase) == 2 * SMALL
    for _ in range(3):
        assert counter.reverse(purchase.sale, ReversalReason.VOID).amount_minor == SMALL
        assert charged(world) == SMALL

    stateless = type("Stateless", (seeing(PURCHASES, state="APPROVED"), AlwaysApproved), {})
    world.swap_step(TSM, stateless(world.parties[TSM].value))
    counter.reverse(purchase.sale, ReversalReason.VOID)
    assert charged(world) == 0


class Anyones:
    """A store in which every purchase is the asking merchant's."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def read(self, *reads: Any) -> Any:
        rows, store = self._store.read(*reads), self._store

        class Found:
            find = rows.find

            def get(self, table: Any, *key: Any) -> Any:
                if table is not PURCHASES:
                    return rows.get(table, *key)
                return next((row for row in store.scan(PURCHASES) if row.sale == key[1]), None)

        return Found()


class OfAnyMerchant:
    """A TSM that finds a purchase by its sale alone, whose ever it is."""

    def open(self, wire: Wire, ctx: Context) -> Incoming[Any]:
        return super().open(wire, replace(ctx, store=Anyones(ctx.store)))

    def reads(self, facts: Any) -> Any:
        return super().reads(self._as_owner(facts))

    def decide(self, rows: Rows, facts: Any, now_s: int, entropy: Entropy) -> Decision:
        return super().decide(rows, self._as_owner(facts), now_s, entropy)

    def _as_owner(self, facts: Any) -> Any:
        return replace(facts, terminal=replace(facts.terminal, merchant=facts.purchase.merchant))


def test_another_merchants_sale_is_not_taken_back(world: World) -> None:
    """Attack: shop-2, who knows the names of sales of shop-1, refunds or reverses them. Powers: a merchant. Closed by:
    a sale is found under its merchant: for shop-2 there is none (PURCHASE_UNKNOWN), and its reversal touches a name of
    its own. Variant: a TSM that looks for the sale alone takes shop-1's money back."""
    phone, tid = shopper(world)
    first, second = Counter.open(world), Counter.open(world, 2, "shop-2")
    refunded, taken_back = (first.ask(phone, tid, SMALL) for _ in range(2))
    assert won(first, refunded) + won(first, taken_back) == 2 * SMALL
    for purchase in (refunded, taken_back):
        with refused(world, PurchaseUnknown, "PURCHASE_UNKNOWN"):
            second.refund(purchase.sale, SMALL)
        assert second.reverse(purchase.sale).amount_minor == 0
        row = first.row(purchase.sale)
        assert (row.state, row.refunded_minor) == ("APPROVED", 0)
    assert charged(world) == 2 * SMALL

    for step in (RefundStep, ReverseStep):
        variant = type("OfAny", (OfAnyMerchant, step), {})
        world.swap_step(TSM, variant(world.parties[TSM].value))
    assert second.refund(refunded.sale, SMALL).refunded_minor == SMALL
    assert second.reverse(taken_back.sale).amount_minor == SMALL
    assert charged(world) == 0


@pytest.mark.parametrize("parts", [(SMALL + 1,), (SMALL, 1), (5_000, 4_001), (0,)])
def test_a_refund_over_the_amount(world: World, parts: tuple[int, ...]) -> None:
    """Attack: more is refunded than was paid, at once or in parts: money out of nothing for a customer in league.
    Powers: the merchant. Closed by: the sum of refunds is at most the amount, and zero is none (LIMIT_EXCEEDED).
    Variant: a TSM that forgets what was refunded."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    purchase = counter.ask(phone, tid, SMALL)
    assert won(counter, purchase) == SMALL
    *before, last = parts
    for part in before:
        counter.refund(purchase.sale, part)
    with refused(world, LimitExceeded, "LIMIT_EXCEEDED"):
        counter.refund(purchase.sale, last)
    with refused(world, LimitExceeded, "LIMIT_EXCEEDED"):
        counter.refund(purchase.sale, 1, currency="USD")

    forgetful = type("Forgetful", (seeing(PURCHASES, refunded_minor=0, amount_minor=10**9), RefundStep), {})
    world.swap_step(TSM, forgetful(world.parties[TSM].value))
    counter.refund(purchase.sale, SMALL + 1)
    assert charged(world) == -1 - sum(before)


def test_a_refund_of_what_was_reversed(world: World) -> None:
    """Attack: a purchase is reversed and refunded, so that its amount comes back twice; or refunded and reversed.
    Powers: the merchant and its customer together. Closed by: WRONG_STATE in either order. Variant: a TSM that takes
    each purchase for an approved one gives back twice."""
    phone, tid = shopper(world, number=3)
    counter = Counter.open(world)
    reversed_first, refunded_first = (counter.ask(phone, tid, SMALL) for _ in range(2))
    for purchase in (reversed_first, refunded_first):
        assert won(counter, purchase) == SMALL
    counter.reverse(reversed_first.sale)
    with refused(world, WrongState, "WRONG_STATE"):
        counter.refund(reversed_first.sale, SMALL)
    counter.refund(refunded_first.sale, 1)
    with refused(world, WrongState, "WRONG_STATE"):
        counter.reverse(refunded_first.sale)
    assert charged(world) == SMALL - 1

    stateless = type("Stateless", (seeing(PURCHASES, state="APPROVED"), RefundStep), {})
    world.swap_step(TSM, stateless(world.parties[TSM].value))
    counter.refund(reversed_first.sale, SMALL)
    assert charged(world) == -1
