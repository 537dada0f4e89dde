"""SETTLE between merchant and TSM: purchases are paid out in batches (design §3 SETTLE)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from protocol.schema import Currency, Handle, Many, Message, Minor, Nested, Record

MAX_LINES: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class SettledSale(Record):
    """An approved sale by its name, with the amount approved."""

    NAME: ClassVar[str] = "settled-sale"
    sale: Handle
    amount_minor: Minor


@dataclass(frozen=True, slots=True, kw_only=True)
class SettledRefund(Record):
    """A refund by its name, with the amount given back."""

    NAME: ClassVar[str] = "settled-refund"
    refund: Handle
    amount_minor: Minor


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement(Message):
    """M → T: pay out these sales less these refunds; `total_minor` is their difference, 0 or more.

    `batch` is the merchant's random name of the settlement. One currency; each sale and refund is settled once.
    """

    NAME: ClassVar[str] = "settlement"
    MAX_BYTES: ClassVar[int] = 48 * 1024
    batch: Handle
    currency: Currency
    sales: Annotated[tuple[SettledSale, ...], Many(Nested(SettledSale), 0, MAX_LINES)]
    refunds: Annotated[tuple[SettledRefund, ...], Many(Nested(SettledRefund), 0, MAX_LINES)]
    total_minor: Minor


@dataclass(frozen=True, slots=True, kw_only=True)
class Payout(Message):
    """T → M: paid out."""

    NAME: ClassVar[str] = "payout"
    batch: Handle
    currency: Currency
    total_minor: Minor
