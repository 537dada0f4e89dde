"""What a merchant keeps: its terminal's key, and sales. No column says which phone or reader was used.

Of a card, a masked number stays, and inside the TSM's sealed receipt what was authorized; the chip's data go as soon as
the sale is decided.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocol.roles.ledger import LEDGER
from protocol.rows import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminalKey:
    """A terminal's key, and the sealed sign-on that is being sent or was answered."""

    terminal: str
    tsm: str
    private_key: bytes
    request: bytes
    expires_at_s: int
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SaleRow:
    """One sale. `progress` is a `SaleProgress`, `outcome` EMV's, `display` what the customer is shown.

    `lane` is the terminal while the sale has it, else the sale's own name: a terminal has one sale at a time.
    `request` is the signed Authorize as it is sent, and `cryptogram` the AC that its SDAD holds, both until the
    decision is in; `receipt` is the TSM's signed approval and `asked` the digest of the request that it answers,
    without which it can't be verified; `reversal` is the signed Reverse as it is sent. `deadline_s` is the Unix time
    until which a tap or a decision is waited for. `settled` is the settlement that it is in, DUE once it is approved
    and in none, else empty.
    """

    sale: bytes
    amount_minor: int
    currency: str
    progress: str
    lane: bytes
    outcome: str
    display: str
    card: str
    request: bytes
    cryptogram: bytes
    receipt: bytes
    asked: bytes
    reversal: bytes
    deadline_s: int
    started_at_s: int
    refunded_minor: int
    settled: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SaleRefund:
    """Money given back of a sale: EXPECT_REFUND, DONE or REFUSED. `request` is the signed Refund as it is sent.

    `settled` is the settlement that it is set off in, DUE once it is made and in none, else empty.
    """

    refund: bytes
    sale: bytes
    amount_minor: int
    request: bytes
    state: str
    settled: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlementRow:
    """A batch to be paid out: EXPECT_PAYOUT, PAID or REFUSED.

    `request` is the signed Settlement as it is sent, `payout` the TSM's signed answer; it is empty where the TSM only
    said that it has paid this batch, after the answer was lost for longer than the request was good.
    """

    batch: bytes
    currency: str
    total_minor: int
    request: bytes
    payout: bytes
    made_at_s: int
    state: str


DUE: Final = b"due"
"""In the column `settled`: to be put into the next settlement. A settlement's own name is longer."""

TERMINAL_KEYS: Final = Table("terminal_keys", TerminalKey, ("terminal",), sealed=frozenset({"private_key", "request"}))
SALES: Final = Table(
    "sales", SaleRow, ("sale",), unique=(("lane",),), index=("progress", "settled"),
    sealed=frozenset({"request", "cryptogram", "receipt", "reversal"}),
)  # fmt: skip
SALE_REFUNDS: Final = Table(
    "sale_refunds", SaleRefund, ("refund",), index=("sale", "state", "settled"), sealed=frozenset({"request"})
)
SETTLEMENTS: Final = Table(
    "settlements", SettlementRow, ("batch",), index=("state",), sealed=frozenset({"request", "payout"})
)
MERCHANT_TABLES: Final = (TERMINAL_KEYS, SALES, SALE_REFUNDS, SETTLEMENTS, LEDGER)
