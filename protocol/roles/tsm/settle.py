"""SETTLE: a merchant's batch of sales, less its refunds, is paid out once (design §3 SETTLE)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from protocol import envelope
from protocol.engine import Context, Incoming, Step
from protocol.envelope import OVERHEAD_BYTES, Stamp, Wire
from protocol.errors import AlreadySettled, FieldMismatch, IdentifierTaken, PurchaseUnknown, WrongState
from protocol.messages.settle import Payout, Settlement
from protocol.messages.statement import EntryKind
from protocol.ports import Entropy
from protocol.roles.ledger import CASH, merchant_account, post
from protocol.roles.party import alone, expect_peer, open_certified
from protocol.roles.tsm.party import Tsm
from protocol.roles.tsm.tables import PAYOUTS, PURCHASES, REFUNDS, PayoutRow, Purchase, RefundRow
from protocol.rows import Decision, Insert, Key, Read, Rows, Update, Write
from protocol.types import MAX_LIFETIME_S, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Settling:
    """A verified settlement and the merchant that asks for it."""

    merchant: str
    message: Settlement


class SettleBatchStep(Step[Settling]):
    """All of a batch or nothing: every sale and refund is the merchant's own, as large as it says, and settled once."""

    rpc = "Tsm.SettleBatch"
    reply = Payout
    max_bytes = Settlement.MAX_BYTES + OVERHEAD_BYTES

    def __init__(self, tsm: Tsm) -> None:
        self._tsm = tsm

    def open(self, wire: Wire, ctx: Context) -> Incoming[Settling]:
        opened, merchant = open_certified(
            Settlement, alone(wire), self._tsm.directory, role=Role.MERCHANT, audience=self._tsm.keys.name, ctx=ctx
        )
        expect_peer(ctx, merchant.name, Role.MERCHANT)
        facts = Settling(merchant=merchant.name, message=opened.message)
        evidence = ((Settlement.NAME, opened.wire),)
        return Incoming(facts=facts, key=opened.key, claims=opened.claims, evidence=evidence)

    def reads(self, facts: Settling) -> tuple[Read, ...]:
        merchant, message = facts.merchant, facts.message
        return (
            Key(PAYOUTS, (merchant, message.batch)),
            *(Key(PURCHASES, (merchant, line.sale)) for line in message.sales),
            *(Key(REFUNDS, (merchant, line.refund)) for line in message.refunds),
        )

    def decide(self, rows: Rows, facts: Settling, now_s: int, entropy: Entropy) -> Decision:
        merchant, message = facts.merchant, facts.message
        if rows.get(PAYOUTS, merchant, message.batch) is not None:
            raise IdentifierTaken("a settlement has this name")
        if not message.sales and not message.refunds:
            raise FieldMismatch("nothing to settle")
        sales, refunds = self.sales(rows, facts), self.refunds(rows, facts)
        total_minor = _sum(sales) - _sum(refunds)
        if message.total_minor != total_minor:
            raise FieldMismatch("the total is not that of sales less refunds")
        paid = PayoutRow(
            merchant=merchant, batch=message.batch, currency=message.currency, total_minor=total_minor, paid_at_s=now_s
        )
        writes: tuple[Write, ...] = (
            Insert(PAYOUTS, paid),
            *(Update(PURCHASES, replace(row, settled=message.batch)) for row in sales),
            *(Update(REFUNDS, replace(row, settled=message.batch)) for row in refunds),
            *post(
                EntryKind.PAYOUT, debit=merchant_account(merchant), credit=CASH, amount_minor=total_minor,
                currency=message.currency, ref=message.batch, at_s=now_s,
            ),
        )  # fmt: skip
        reply = Payout(batch=message.batch, currency=message.currency, total_minor=total_minor)
        return Decision(writes=writes, reply=reply)

    def sales(self, rows: Rows, facts: Settling) -> tuple[Purchase, ...]:
        """The purchases that are named. Raises: PurchaseUnknown, WrongState, AlreadySettled, FieldMismatch."""
        found = []
        _once(line.sale for line in facts.message.sales)
        for line in facts.message.sales:
            row = rows.get(PURCHASES, facts.merchant, line.sale)
            if row is None:
                raise PurchaseUnknown
            if row.state != "APPROVED":
                raise WrongState("a sale was declined or reversed")
            _check(row, facts.message, line.amount_minor)
            found.append(row)
        return tuple(found)

    def refunds(self, rows: Rows, facts: Settling) -> tuple[RefundRow, ...]:
        """The refunds that are named. Raises: PurchaseUnknown, AlreadySettled, FieldMismatch."""
        found = []
        _once(line.refund for line in facts.message.refunds)
        for line in facts.message.refunds:
            row = rows.get(REFUNDS, facts.merchant, line.refund)
            if row is None:
                raise PurchaseUnknown("no such refund of this merchant")
            _check(row, facts.message, line.amount_minor)
            found.append(row)
        return tuple(found)

    def seal(self, facts: Settling, reply: Payout, stamp: Stamp, ctx: Context) -> Wire:
        # As long as the request: who asks again on the next morning gets an answer that is still good.
        signed = envelope.sign(
            self._tsm.keys.signer, reply, audience=facts.merchant, stamp=stamp, lifetime_s=MAX_LIFETIME_S,
            request_digest=ctx.digest,
        )  # fmt: skip
        return Wire(cose=signed)


def _once(names: Iterable[bytes]) -> None:
    seen: set[bytes] = set()
    for name in names:
        if name in seen:
            raise AlreadySettled("named twice in one batch")
        seen.add(name)


def _check(row: Purchase | RefundRow, message: Settlement, amount_minor: int) -> None:
    if row.settled:
        raise AlreadySettled
    if (row.amount_minor, row.currency) != (amount_minor, message.currency):
        raise FieldMismatch("another amount or currency than was approved")


def _sum(rows: Iterable[Purchase | RefundRow]) -> int:
    return sum(row.amount_minor for row in rows)
