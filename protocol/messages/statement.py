"""A party's signed statement of its books with another party, by which books are reconciled."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar, Final

from protocol.schema import Choice, Currency, Identifier, Many, Message, Nested, Record, Text, TimeS, Uint

MAX_SUMS: Final = 4096
"""In one part of a statement."""
MAX_PARTS: Final = 64
MAX_TOTAL_MINOR: Final = 1 << 62
"""A sum of many amounts, each of which is bounded by itself."""


class EntryKind(StrEnum):
    """What moved the money."""

    PURCHASE = "purchase"
    REVERSAL = "reversal"
    REFUND = "refund"
    PAYOUT = "payout"
    CLAIM = "claim"
    CREDIT_NOTE = "credit-note"


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedSum(Record):
    """The sum of all entries of one kind under `account`, a name that both parties have for it (a merchant, an AID)."""

    NAME: ClassVar[str] = "stated-sum"
    account: Annotated[str, Text(128, "[a-z0-9][a-z0-9./-]{0,127}")]
    kind: Annotated[EntryKind, Choice(EntryKind)]
    currency: Currency
    total_minor: Annotated[int, Uint(MAX_TOTAL_MINOR)]
    entries: Annotated[int, Uint(1 << 40)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement(Message):
    """`S_X(sums with Y, at, part of parts)`: for Y alone, in as many parts as it takes, each signed.

    `under_way` counts what X waits for Y to answer, so may differ for now.
    """

    NAME: ClassVar[str] = "statement"
    MAX_BYTES: ClassVar[int] = 1024 * 1024
    party: Identifier
    counterparty: Identifier
    at_s: TimeS
    part: Annotated[int, Uint(MAX_PARTS)]
    parts: Annotated[int, Uint(MAX_PARTS)]
    sums: Annotated[tuple[StatedSum, ...], Many(Nested(StatedSum), 0, MAX_SUMS)]
    under_way: Annotated[int, Uint(1 << 40)]
