"""Settlement: money that a merchant, or who plays one, has paid out twice, for another's sales, or for nothing.

Payouts are the point at which purchases become money outside of the system. Design §3 SETTLE: a batch is signed with
the merchant's certified key, each sale is settled once, and what was settled is refunded, never reversed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from support.attacker import overwriting, refused, unbooked
from support.counter import TSM, Counter
from support.settling import pay, send, settlement, sign_settlement
from support.shop import AMOUNT, SHOP, Stall, ready
from support.skimmer import seeing
from support.world import World

from protocol.engine import Peer
from protocol.errors import (
    AlreadySettled,
    FieldMismatch,
    IdentifierTaken,
    PurchaseUnknown,
    UnknownKey,
    WrongState,
)
from protocol.messages.pay import ReversalReason
from protocol.ports import Entropy
from protocol.roles.tsm.giveback import ReverseStep
from protocol.roles.tsm.settle import SettleBatchStep, Settling
from protocol.roles.tsm.tables import PAYOUTS, PURCHASES, RefundRow
from protocol.rows import Decision, Insert, Key, Read, Rows
from protocol.types import Role

FIRST, SECOND, NAME = b"\x01" * 16, b"\x02" * 16, b"\x03" * 16
OTHER = "shop-2"


@pytest.fixture
def stall(tmp_path: Path) -> Stall:
    return Stall.open(World(tmp_path, seed="settlement"))


def paid(stall: Stall, merchant: str = SHOP) -> int:
    """What left the TSM's cash for a merchant, as its replies promised."""
    return sum(row.total_minor for row in stall.world.parties[TSM].store.scan(PAYOUTS) if row.merchant == merchant)


def install(stall: Stall, *habits: type, step: Any = SettleBatchStep) -> None:
    stall.world.swap_step(TSM, type("Variant", (*habits, step), {})(stall.world.parties[TSM].value))


class Overwriting:
    """Over tables without UNIQUE, and a ledger that does not know what it holds."""

    def decide(self, rows: Rows, facts: Any, now_s: int, entropy: Entropy) -> Decision:
        return overwriting(super().decide(rows, facts, now_s, entropy), rows)


Unsettled = seeing(PURCHASES, settled=b"")
"""Forgets what it has paid."""


def test_a_sale_in_two_batches(stall: Stall) -> None:
    """Attack: a sale that was paid out is put into another batch. Powers: the merchant. Closed by: a sale keeps the
    batch it was paid in (ALREADY_SETTLED). Variant: a TSM that does not look pays again."""
    sale = pay(stall, *ready(stall.world))
    send(stall, settlement({sale: AMOUNT}, batch=FIRST))
    wire = sign_settlement(stall, settlement({sale: AMOUNT}, batch=SECOND))
    with refused(stall.world, AlreadySettled, "ALREADY_SETTLED"):
        stall.to_tsm("Tsm.SettleBatch", wire.cose)
    assert paid(stall) == AMOUNT

    install(stall, Unsettled)
    stall.to_tsm("Tsm.SettleBatch", wire.cose)
    assert paid(stall) == 2 * AMOUNT


class NoNames:
    """Does not look at a batch's name; each payout is paid, and remembered under a name of its own."""

    def decide(self, rows: Rows, facts: Settling, now_s: int, entropy: Entropy) -> Decision:
        class Nameless:
            find = rows.find

            def get(self, table: Any, *key: Any) -> Any:
                return None if table is PAYOUTS else rows.get(table, *key)

        decision = unbooked(super().decide(Nameless(), facts, now_s, entropy))
        return replace(
            decision,
            writes=tuple(
                Insert(PAYOUTS, replace(write.row, batch=entropy.bytes(16))) if write.table is PAYOUTS else write
                for write in decision.writes
            ),
        )


def test_a_batch_delivered_again(stall: Stall) -> None:
    """Attack: a settlement is delivered twice, as it was, or signed anew under its old name. Powers: network; the
    merchant. Closed by: the same bytes get the same payout, a name that was paid is taken (IDENTIFIER_TAKEN). Variant:
    a TSM that knows neither names nor sales pays for the name again."""
    message = settlement({pay(stall, *ready(stall.world)): AMOUNT}, batch=FIRST)
    wire = sign_settlement(stall, message)
    first = stall.to_tsm("Tsm.SettleBatch", wire.cose)
    assert stall.to_tsm("Tsm.SettleBatch", wire.cose) == first
    anew = sign_settlement(stall, message)
    with refused(stall.world, IdentifierTaken, "IDENTIFIER_TAKEN"):
        stall.to_tsm("Tsm.SettleBatch", anew.cose)
    assert paid(stall) == AMOUNT

    install(stall, Unsettled, NoNames)
    stall.to_tsm("Tsm.SettleBatch", anew.cose)
    assert paid(stall) == 2 * AMOUNT


class Repeating:
    """Takes a line for as many sales as there are lines."""

    def sales(self, rows: Rows, facts: Settling) -> Any:
        return tuple(
            row for line in facts.message.sales
            for row in super(Repeating, self).sales(
                rows, replace(facts, message=replace(facts.message, sales=(line,)))
            )
        )  # fmt: skip


def test_a_sale_named_twice(stall: Stall) -> None:
    """Attack: one sale stands twice in a batch. Powers: the merchant. Closed by: each name once (ALREADY_SETTLED).
    Variant: a TSM that checks line by line pays it twice."""
    good = settlement({pay(stall, *ready(stall.world)): AMOUNT}, batch=FIRST)
    wire = sign_settlement(stall, replace(good, sales=good.sales * 2, total_minor=2 * AMOUNT))
    with refused(stall.world, AlreadySettled, "ALREADY_SETTLED"):
        stall.to_tsm("Tsm.SettleBatch", wire.cose)

    install(stall, Repeating)
    stall.to_tsm("Tsm.SettleBatch", wire.cose)
    assert paid(stall) == 2 * AMOUNT


class OfAnyMerchant:
    """Finds a sale by its name alone."""

    def reads(self, facts: Settling) -> tuple[Read, ...]:
        return (*super().reads(facts), *(Key(PURCHASES, (SHOP, line.sale)) for line in facts.message.sales))

    def decide(self, rows: Rows, facts: Settling, now_s: int, entropy: Entropy) -> Decision:
        class Found:
            find = rows.find

            def get(self, table: Any, *key: Any) -> Any:
                return rows.get(table, SHOP, key[1]) if table is PURCHASES else rows.get(table, *key)

        return super().decide(Found(), facts, now_s, entropy)


def test_another_merchants_sale(stall: Stall) -> None:
    """Attack: shop-2 learned the names and amounts of sales of shop-1 and has them paid out to itself. Powers: a
    merchant. Closed by: sales are found under who signed (PURCHASE_UNKNOWN). Variant: a TSM that finds them by name
    pays the wrong shop, and the right one never."""
    sale = pay(stall, *ready(stall.world))
    thief = stall.world.certified(OTHER, Role.MERCHANT)
    wire = sign_settlement(stall, settlement({sale: AMOUNT}, batch=FIRST), thief)
    peer = Peer(role=Role.MERCHANT, name=OTHER)
    with refused(stall.world, PurchaseUnknown, "PURCHASE_UNKNOWN"):
        stall.world.deliver(TSM, "Tsm.SettleBatch", wire, peer)

    install(stall, OfAnyMerchant)
    stall.world.deliver(TSM, "Tsm.SettleBatch", wire, peer)
    assert (paid(stall, OTHER), paid(stall)) == (AMOUNT, 0)
    with refused(stall.world, AlreadySettled, "ALREADY_SETTLED"):
        send(stall, settlement({sale: AMOUNT}, batch=SECOND))


class MerchantsWord:
    """Believes amounts and totals of the batch."""

    def decide(self, rows: Rows, facts: Settling, now_s: int, entropy: Entropy) -> Decision:
        stated = {line.sale: line.amount_minor for line in facts.message.sales}

        class Said:
            find = rows.find

            def get(self, table: Any, *key: Any) -> Any:
                row = rows.get(table, *key)
                return replace(row, amount_minor=stated[row.sale]) if table is PURCHASES and row else row

        return super().decide(Said(), facts, now_s, entropy)


def test_more_than_was_approved(stall: Stall) -> None:
    """Attack: a batch names a higher amount, or a total that is not its lines'. Powers: the merchant. Closed by: the
    TSM's own amounts count (FIELD_MISMATCH). Variant: a TSM that believes the batch pays what it says."""
    sale = pay(stall, *ready(stall.world))
    for message in (
        settlement({sale: 10 * AMOUNT}, batch=FIRST), settlement({sale: AMOUNT}, batch=FIRST, total_minor=10 * AMOUNT)
    ):  # fmt: skip
        wire = sign_settlement(stall, message)
        with refused(stall.world, FieldMismatch, "FIELD_MISMATCH"):
            stall.to_tsm("Tsm.SettleBatch", wire.cose)

    install(stall, MerchantsWord)
    send(stall, settlement({sale: 10 * AMOUNT}, batch=FIRST))
    assert paid(stall) == 10 * AMOUNT


def test_what_was_reversed_is_paid(stall: Stall) -> None:
    """Attack: a sale is reversed, so that the customer pays nothing, and settled all the same. Powers: the merchant
    and its customer together. Closed by: approved sales only (WRONG_STATE). Variant: a TSM that takes each for an
    approved one pays for nothing."""
    sale = pay(stall, *ready(stall.world))
    counter = _counter(stall)
    counter.reverse(sale, ReversalReason.VOID)
    wire = sign_settlement(stall, settlement({sale: AMOUNT}, batch=FIRST))
    with refused(stall.world, WrongState, "WRONG_STATE"):
        stall.to_tsm("Tsm.SettleBatch", wire.cose)

    install(stall, seeing(PURCHASES, state="APPROVED"))
    stall.to_tsm("Tsm.SettleBatch", wire.cose)
    assert paid(stall) == AMOUNT


def _counter(stall: Stall) -> Counter:
    counter = Counter(world=stall.world, keys=stall.shop.keys, key=stall.world.key(), terminal=stall.terminal)
    counter.sign_on()
    return counter


def test_a_reversal_after_the_payout(stall: Stall) -> None:
    """Attack: a sale is settled and then reversed: the merchant keeps the payout, the customer has the amount back.
    Powers: the two together. Closed by: what was settled is refunded, which is set off (ALREADY_SETTLED). Variant: a
    TSM that forgets what it paid gives the amount away."""
    sale = pay(stall, *ready(stall.world))
    send(stall, settlement({sale: AMOUNT}, batch=FIRST))
    counter = _counter(stall)
    with refused(stall.world, AlreadySettled, "ALREADY_SETTLED"):
        counter.reverse(sale, ReversalReason.VOID)

    install(stall, Unsettled, step=ReverseStep)
    assert counter.reverse(sale, ReversalReason.VOID).amount_minor == AMOUNT
    assert (paid(stall), counter.row(sale).state) == (AMOUNT, "REVERSED")


class NoRefunds:
    """Pays the sales, and forgets the refunds that it was to set off."""

    def refunds(self, rows: Rows, facts: Settling) -> tuple[RefundRow, ...]:
        return ()


def test_a_refund_that_is_not_set_off(stall: Stall) -> None:
    """Attack: a refund is named in two batches, or with a smaller amount, so that less of it is set off. Powers: the
    merchant. Closed by: refunds are checked as sales are (ALREADY_SETTLED, FIELD_MISMATCH). Variant: a TSM that does
    not look at refunds pays in full what was given back."""
    sale = pay(stall, *ready(stall.world))
    _counter(stall).refund(sale, AMOUNT - 1, name=NAME)
    for minor in (1, AMOUNT):
        wire = sign_settlement(stall, settlement({sale: AMOUNT}, {NAME: minor}, batch=FIRST))
        with refused(stall.world, FieldMismatch, "FIELD_MISMATCH"):
            stall.to_tsm("Tsm.SettleBatch", wire.cose)

    install(stall, NoRefunds)
    send(stall, settlement({sale: AMOUNT}, {NAME: 0}, batch=FIRST))
    assert paid(stall) == AMOUNT


class AnyKeyOfTheShop:
    """Takes a terminal's key for its merchant's."""

    def __init__(self, tsm: Any) -> None:
        super().__init__(replace(tsm, directory=_Terminals(tsm.directory)))


class _Terminals:
    held: ClassVar[dict[bytes, Any]] = {}

    def __init__(self, directory: Any) -> None:
        self._directory = directory

    def named(self, name: str, use: Any) -> Any:
        return self._directory.named(name, use)

    def by_thumbprint(self, thumbprint: bytes) -> Any:
        return self.held.get(thumbprint) or self._directory.by_thumbprint(thumbprint)


def test_a_stolen_terminal(stall: Stall) -> None:
    """Attack: who took a terminal with its key from the counter settles the day's sales. Powers: a terminal's key, and
    the shop's network. Closed by: a batch is under the merchant's certified key, which no terminal holds (UNKNOWN_KEY).
    Variant: a TSM that takes any key of the shop pays."""
    sale = pay(stall, *ready(stall.world))
    counter = _counter(stall)
    stolen = replace(stall.shop.keys, sign=counter.key)
    wire = sign_settlement(stall, settlement({sale: AMOUNT}, batch=FIRST), stolen)
    with refused(stall.world, UnknownKey, "UNKNOWN_KEY"):
        stall.to_tsm("Tsm.SettleBatch", wire.cose)

    own = stall.world.directory.by_thumbprint(stall.shop.keys.sign.public.thumbprint)
    _Terminals.held = {counter.key.public.thumbprint: replace(own, key=counter.key.public)}
    install(stall, AnyKeyOfTheShop)
    stall.to_tsm("Tsm.SettleBatch", wire.cose)
    assert paid(stall) == AMOUNT
