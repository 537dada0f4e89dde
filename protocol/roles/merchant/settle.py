"""SETTLE at the merchant: sales to be paid out, in batches that are stored before they are sent (design §3 SETTLE).

What is in a batch is not voided any more. A batch that the TSM has paid is recognized by its name, so it may be signed
anew when its claims ran out: it is not paid twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from protocol import envelope
from protocol.envelope import Stamp, Wire
from protocol.errors import (
    AlreadySettled,
    FieldMismatch,
    IdentifierTaken,
    ProtocolError,
    PurchaseUnknown,
    WrongState,
)
from protocol.messages.settle import MAX_LINES, Payout, SettledRefund, SettledSale, Settlement
from protocol.messages.till import SaleProgress
from protocol.ports import Entropy
from protocol.roles.merchant.booking import book_payout
from protocol.roles.merchant.party import Shop
from protocol.roles.merchant.tables import DUE, SALE_REFUNDS, SALES, SETTLEMENTS, SaleRefund, SaleRow, SettlementRow
from protocol.roles.party import known_party
from protocol.rows import Decision, Insert, Key, Rows, Store, Table, Unit, Update, Where, Write
from protocol.schema import MAX_MINOR
from protocol.types import HANDLE_BYTES, MAX_LIFETIME_S, Role

R = TypeVar("R")
SETTLE_RPC: Final = "Tsm.SettleBatch"
_FINAL: Final = (PurchaseUnknown, WrongState, FieldMismatch, AlreadySettled)
"""Refusals of a batch that stand however often it is asked for; others are of the moment, or of the key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Sales and refunds of one currency that may be settled together; refunds are never more than sales."""

    currency: str
    sales: tuple[SaleRow, ...]
    refunds: tuple[SaleRefund, ...]

    @property
    def total_minor(self) -> int:
        """What is to be paid out."""
        return _sum(self.sales) - _sum(self.refunds)


def next_batch(store: Store, most: int = MAX_LINES) -> Batch | None:
    """Up to `most` sales that are due, the oldest first, and what can be set off of refunds; None without sales.

    Refunds that are more than the sales wait for further sales. A batch of one line is of a sale alone, so that a
    refusal tells what is wrong.
    """
    found = store.read(Where(SALES, "settled", DUE), Where(SALE_REFUNDS, "settled", DUE))
    due = sorted(found.find(SALES, "settled", DUE), key=lambda row: (row.currency, row.started_at_s, row.sale))
    if not due:
        return None
    currency = due[0].currency
    given = found.find(SALE_REFUNDS, "settled", DUE)
    refunded = store.read(*(Key(SALES, (row.sale,)) for row in given))
    refunds = [row for row in given if _sale_of(refunded, row).currency == currency]
    return _cut(currency, (row for row in due if row.currency == currency), refunds if most > 1 else [], most)


def _cut(currency: str, sales: Iterable[SaleRow], refunds: Iterable[SaleRefund], most: int) -> Batch:
    """As much of both as is to be in one message."""
    chosen: list[SaleRow] = []
    for sale in sales:
        if len(chosen) == most or _sum(chosen) + sale.amount_minor > MAX_MINOR:
            break
        chosen.append(sale)
    left_minor = _sum(chosen)
    set_off: list[SaleRefund] = []
    for refund in refunds:
        if len(set_off) < most and refund.amount_minor <= left_minor:
            left_minor -= refund.amount_minor
            set_off.append(refund)
    return Batch(currency=currency, sales=tuple(chosen), refunds=tuple(set_off))


def _sum(rows: Iterable[SaleRow | SaleRefund]) -> int:
    return sum(row.amount_minor for row in rows)


def _sale_of(rows: Rows, refund: SaleRefund) -> SaleRow:
    sale = rows.get(SALES, refund.sale)
    assert sale is not None  # sales are never deleted
    return sale


def begin_settlement(shop: Shop, batch: Batch, now_s: int, entropy: Entropy) -> Unit:
    """Store a settlement of what of the batch is still due; None when nothing is, or refunds would be more."""
    name, stamp = entropy.bytes(HANDLE_BYTES), Stamp.fresh(now_s, entropy)
    sale_keys = tuple(Key(SALES, (row.sale,)) for row in batch.sales)
    refund_keys = tuple(Key(SALE_REFUNDS, (row.refund,)) for row in batch.refunds)

    def decide(rows: Rows) -> Decision:
        sales, refunds = _held(rows, SALES, sale_keys), _held(rows, SALE_REFUNDS, refund_keys)
        due = Batch(
            currency=batch.currency, sales=tuple(row for row in sales if _is_due(row)),
            refunds=tuple(row for row in refunds if row.settled == DUE),
        )  # fmt: skip
        if not due.sales or due.total_minor < 0:  # some of it was voided meanwhile, or is in another settlement
            return Decision()
        row = SettlementRow(
            batch=name, currency=due.currency, total_minor=due.total_minor,
            request=_signed(shop, _message(name, due), stamp), payout=b"", made_at_s=now_s, state="EXPECT_PAYOUT",
        )  # fmt: skip
        return Decision(writes=(Insert(SETTLEMENTS, row), *_marked(due.sales, due.refunds, name)), reply=row)

    return Unit((*sale_keys, *refund_keys), decide)


def _is_due(sale: SaleRow) -> bool:
    return sale.settled == DUE and sale.progress == SaleProgress.APPROVED


def _message(name: bytes, batch: Batch) -> Settlement:
    return Settlement(
        batch=name, currency=batch.currency, total_minor=batch.total_minor,
        sales=tuple(SettledSale(sale=row.sale, amount_minor=row.amount_minor) for row in batch.sales),
        refunds=tuple(SettledRefund(refund=row.refund, amount_minor=row.amount_minor) for row in batch.refunds),
    )  # fmt: skip


def _signed(shop: Shop, message: Settlement, stamp: Stamp) -> bytes:
    # As long as a request may live: a TSM that is down for some hours still knows these very bytes.
    return envelope.sign(shop.keys.signer, message, audience=shop.tsm, stamp=stamp, lifetime_s=MAX_LIFETIME_S)


def _marked(sales: Iterable[SaleRow], refunds: Iterable[SaleRefund], settled: bytes) -> tuple[Write, ...]:
    return (
        *(Update(SALES, replace(row, settled=settled)) for row in sales),
        *(Update(SALE_REFUNDS, replace(row, settled=settled)) for row in refunds),
    )


def owed_payouts(store: Store) -> tuple[SettlementRow, ...]:
    """Settlements that the TSM has not answered."""
    return store.read(Where(SETTLEMENTS, "state", "EXPECT_PAYOUT")).find(SETTLEMENTS, "state", "EXPECT_PAYOUT")


def sign_settlement(shop: Shop, settlement: SettlementRow, now_s: int, entropy: Entropy) -> Unit:
    """The reply is the settlement with a request that may be sent; None when it was answered meanwhile."""
    stamp = Stamp.fresh(now_s, entropy)

    def decide(rows: Rows) -> Decision:
        row = _row(rows, settlement)
        if row.state != "EXPECT_PAYOUT":
            return Decision()
        if _is_current(shop, row, now_s):
            return Decision(reply=row)
        row = replace(row, request=_signed(shop, settlement_of(row), stamp))
        return Decision(writes=(Update(SETTLEMENTS, row),), reply=row)

    return Unit((Key(SETTLEMENTS, (settlement.batch,)),), decide)


def _row(rows: Rows, settlement: SettlementRow) -> SettlementRow:
    row = rows.get(SETTLEMENTS, settlement.batch)
    assert row is not None  # settlements are never deleted
    return row


def settlement_of(row: SettlementRow) -> Settlement:
    """What the stored request says."""
    return Settlement.from_bytes(envelope.peek(Settlement, row.request).payload)


def _is_current(shop: Shop, row: SettlementRow, now_s: int) -> bool:
    """Would the TSM still open it: signed by the present key, and within its time?"""
    own = shop.keys
    try:
        envelope.open_signed(Settlement, row.request, own.sign.public, issuer=own.name, audience=shop.tsm, now_s=now_s)
    except ProtocolError:
        return False
    return True


def record_payout(shop: Shop, settlement: SettlementRow, answer: Wire, now_s: int) -> Unit:
    """EXPECT_PAYOUT → PAID, the answer kept.

    Raises: what `envelope.open_signed` raises; FieldMismatch when something else was paid out.
    """
    tsm = known_party(shop.directory, shop.tsm, Role.TSM)
    paid = envelope.open_signed(
        Payout, answer.cose, tsm.key, issuer=tsm.name, audience=shop.keys.name, now_s=now_s,
        request_digest=Wire(cose=settlement.request).digest,
    ).message  # fmt: skip
    expected = Payout(batch=settlement.batch, currency=settlement.currency, total_minor=settlement.total_minor)
    if paid != expected:
        raise FieldMismatch("something else was paid out")
    return _paid(shop, settlement, now_s, answer.cose)


def _paid(shop: Shop, settlement: SettlementRow, now_s: int, payout: bytes) -> Unit:
    def decide(rows: Rows) -> Decision:
        row = _row(rows, settlement)
        if row.state != "EXPECT_PAYOUT":
            return Decision(reply=row)
        row = replace(row, request=settlement.request, payout=payout, state="PAID")  # the request that was answered
        return Decision(writes=(Update(SETTLEMENTS, row), *book_payout(shop, row, now_s)), reply=row)

    return Unit((Key(SETTLEMENTS, (settlement.batch,)),), decide)


def record_refusal(shop: Shop, settlement: SettlementRow, refusal: ProtocolError, now_s: int) -> Unit:
    """EXPECT_PAYOUT → REFUSED when the refusal stands; else it stays to be sent again.

    What is in a refused settlement is due again, unless it was refused by itself: that would be refused for ever. A
    name that is taken is this settlement's own, paid before the answer was lost and the request signed anew: PAID.
    """
    if isinstance(refusal, IdentifierTaken):
        return _paid(shop, settlement, now_s, b"")
    if not isinstance(refusal, _FINAL):
        return Unit((), lambda _rows: Decision())
    asked = settlement_of(settlement)
    sales = tuple(Key(SALES, (line.sale,)) for line in asked.sales)
    refunds = tuple(Key(SALE_REFUNDS, (line.refund,)) for line in asked.refunds)

    def decide(rows: Rows) -> Decision:
        row = _row(rows, settlement)
        if row.state != "EXPECT_PAYOUT":
            return Decision(reply=row)
        row = replace(row, state="REFUSED")
        freed: tuple[Write, ...] = ()
        if len(sales) + len(refunds) > 1:
            freed = _marked(_held(rows, SALES, sales), _held(rows, SALE_REFUNDS, refunds), DUE)
        return Decision(writes=(Update(SETTLEMENTS, row), *freed), reply=row)

    return Unit((Key(SETTLEMENTS, (settlement.batch,)), *sales, *refunds), decide)


def _held(rows: Rows, table: Table[R], keys: Iterable[Key]) -> tuple[R, ...]:
    return tuple(row for key in keys if (row := rows.get(table, *key.values)) is not None)
