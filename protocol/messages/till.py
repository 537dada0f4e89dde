"""The till: what a merchant's cash desk asks its own server (design §4 Merchant). Signed with the merchant's key."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar

from protocol.schema import Choice, Currency, Handle, Message, Minor, Text, Uint


class SaleProgress(StrEnum):
    """Where a sale is. All but the first three are ends, though a sale may still be refunded."""

    EXPECT_TAP = "EXPECT_TAP"
    EXPECT_DECISION = "EXPECT_DECISION"
    EXPECT_REVERSAL = "EXPECT_REVERSAL"
    """Declined for the customer already; the TSM has not yet acknowledged that it holds no more."""
    APPROVED = "APPROVED"
    DECLINED = "DECLINED"
    CANCELED = "CANCELED"
    REVERSED = "REVERSED"


@dataclass(frozen=True, slots=True, kw_only=True)
class StartSale(Message):
    """till → M: wait for a card and charge it. `sale` is a random name chosen by the till."""

    NAME: ClassVar[str] = "start-sale"
    sale: Handle
    amount_minor: Minor
    currency: Currency


@dataclass(frozen=True, slots=True, kw_only=True)
class GetSale(Message):
    """till → M: how is it going?"""

    NAME: ClassVar[str] = "get-sale"
    sale: Handle


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelSale(Message):
    """till → M: do not charge; an approved sale is voided."""

    NAME: ClassVar[str] = "cancel-sale"
    sale: Handle


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundSale(Message):
    """till → M: give back all or part. `refund` is a random name chosen by the till."""

    NAME: ClassVar[str] = "refund-sale"
    sale: Handle
    refund: Handle
    amount_minor: Minor


@dataclass(frozen=True, slots=True, kw_only=True)
class SaleState(Message):
    """M → till: the sale now. `outcome` is EMV's, `display` what the customer is shown, `card` a masked number."""

    NAME: ClassVar[str] = "sale-state"
    sale: Handle
    progress: Annotated[SaleProgress, Choice(SaleProgress)]
    amount_minor: Minor
    currency: Currency
    refunded_minor: Minor
    refunds_pending: Annotated[int, Uint(64)]
    outcome: Annotated[str, Text(32, "[A-Z_]*")]
    display: Annotated[str, Text(64, "[ -~]*")]
    card: Annotated[str, Text(19, "([0-9*]{19})?")]
