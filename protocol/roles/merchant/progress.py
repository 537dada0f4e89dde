"""How a sale leaves the lane: approved, canceled before anything was asked, or owed a reversal after it."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from protocol.card import outcome
from protocol.envelope import Wire
from protocol.messages.pay import ReversalReason
from protocol.messages.till import SaleProgress
from protocol.roles.merchant.tables import DUE, SaleRow

CANCELED: Final = "Canceled"
"""The display after the till called a sale off; EMV has no message for it."""


def end(sale: SaleRow, progress: SaleProgress, ended: outcome.Outcome, display: str = "") -> SaleRow:
    """Off the lane, without the chip's data, about which nothing is asked any more; and not to be settled."""
    return replace(
        sale, progress=progress.value, lane=sale.sale, outcome=ended.kind.name, display=display or ended.ui.text,
        request=b"", cryptogram=b"", settled=b"",
    )  # fmt: skip


def approve(sale: SaleRow, receipt: bytes) -> SaleRow:
    """To be settled, unless it is voided before. The receipt stays with what is needed to verify it."""
    ended = end(sale, SaleProgress.APPROVED, outcome.APPROVED)
    return replace(ended, receipt=receipt, asked=Wire(cose=sale.request).digest, settled=DUE)


def cancel(sale: SaleRow) -> SaleRow:
    """Nothing was asked of the TSM, so nothing has to be taken back."""
    return replace(sale, progress=SaleProgress.CANCELED.value, lane=sale.sale, display=CANCELED)


def owe(sale: SaleRow, display: str = "") -> SaleRow:
    """Declined for the customer at once; the TSM is told until it acknowledges."""
    return end(sale, SaleProgress.EXPECT_REVERSAL, outcome.DECLINED, display)


def reason_of(sale: SaleRow) -> ReversalReason:
    """Why it is taken back: an approval is voided; anything else had no answer that counts."""
    return ReversalReason.VOID if sale.receipt else ReversalReason.NO_ANSWER
