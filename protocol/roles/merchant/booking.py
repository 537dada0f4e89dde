"""What the TSM owes the merchant, booked in the very units that change a sale, a refund or a settlement."""

from __future__ import annotations

from protocol.messages.statement import EntryKind
from protocol.roles.ledger import CASH, LEDGER, SALES, entry_name, post, tsm_account
from protocol.roles.merchant.party import Shop
from protocol.roles.merchant.tables import SaleRefund, SaleRow, SettlementRow
from protocol.rows import Insert, Key, Rows


def book_sale(shop: Shop, sale: SaleRow, now_s: int) -> tuple[Insert, ...]:
    """Approved: the TSM owes its amount."""
    return post(
        EntryKind.PURCHASE, debit=tsm_account(shop.tsm), credit=SALES, amount_minor=sale.amount_minor,
        currency=sale.currency, ref=sale.sale, at_s=now_s,
    )  # fmt: skip


def booked_sale(shop: Shop, sale: bytes) -> Key:
    """The entry of `book_sale`, to be read before a reversal is booked."""
    name = entry_name(EntryKind.PURCHASE, debit=tsm_account(shop.tsm), credit=SALES, ref=sale)
    return Key(LEDGER, (name,))


def book_reversal(shop: Shop, sale: SaleRow, rows: Rows, now_s: int) -> tuple[Insert, ...]:
    """Taken back: only what was booked is, and a sale whose approval never came was not."""
    (name,) = booked_sale(shop, sale.sale).values
    if rows.get(LEDGER, name) is None:
        return ()
    return post(
        EntryKind.REVERSAL, debit=SALES, credit=tsm_account(shop.tsm), amount_minor=sale.amount_minor,
        currency=sale.currency, ref=sale.sale, at_s=now_s,
    )  # fmt: skip


def book_refund(shop: Shop, refund: SaleRefund, currency: str, now_s: int) -> tuple[Insert, ...]:
    """Given back."""
    return post(
        EntryKind.REFUND, debit=SALES, credit=tsm_account(shop.tsm), amount_minor=refund.amount_minor,
        currency=currency, ref=refund.refund, at_s=now_s,
    )  # fmt: skip


def book_payout(shop: Shop, settlement: SettlementRow, now_s: int) -> tuple[Insert, ...]:
    """Paid out."""
    return post(
        EntryKind.PAYOUT, debit=CASH, credit=tsm_account(shop.tsm), amount_minor=settlement.total_minor,
        currency=settlement.currency, ref=settlement.batch, at_s=now_s,
    )  # fmt: skip
