"""What the secure element tells its wallet that it holds (design §4 SecureElement.Status; TW-S1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from protocol.messages.se import Opening
from protocol.schema import (
    MAX_TIME_S,
    Currency,
    Flag,
    Identifier,
    Many,
    Message,
    Minor,
    Nested,
    Record,
    Text,
    TimeS,
    Uint,
)

MAX_READY: Final = 1024
MAX_CREDITS: Final = 64
_TIME: Final = Uint(MAX_TIME_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool(Record):
    """An account's cards that are ready to be used: how many, and until when each is, the first to expire first."""

    NAME: ClassVar[str] = "pool"
    tid: Identifier
    ready: Annotated[int, Uint(MAX_READY)]
    expires_at_s: Annotated[tuple[int, ...], Many(_TIME, 0, MAX_READY)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit(Record):
    """An anonymous account that can be used, and `tid`, the service account that it is granted to: empty for none yet.

    Bounds, not what was spent: the SE does not see what the TSM books.
    """

    NAME: ClassVar[str] = "credit"
    aid: Identifier
    bank: Identifier
    tsm: Identifier
    tid: Annotated[str, Text(64, "[a-z0-9.-]*")]
    expires_at_s: TimeS
    limit_minor: Minor
    currency: Currency


@dataclass(frozen=True, slots=True, kw_only=True)
class SeStatus(Message):
    """What does the SE hold?"""

    NAME: ClassVar[str] = "se-status"


@dataclass(frozen=True, slots=True, kw_only=True)
class SeState(Message):
    """SE → wallet: names and counts only; masked numbers, no key, no full PAN (TW-S1).

    `recredits` are the TIDs for which the TSM asks for further credit.
    """

    NAME: ClassVar[str] = "se-state"
    MAX_BYTES: ClassVar[int] = 64 * 1024
    open: Annotated[bool, Flag()]
    banks: Annotated[tuple[str, ...], Many(Text(64, "[a-z0-9.-]+"), 0, 16)]
    aids: Annotated[tuple[str, ...], Many(Text(64, "[a-z0-9.-]+"), 0, 64)]
    tids: Annotated[tuple[str, ...], Many(Text(64, "[a-z0-9.-]+"), 0, 64)]
    cards: Annotated[tuple[str, ...], Many(Text(19, "[0-9*]{19}"), 0, MAX_READY)]
    pools: Annotated[tuple[Pool, ...], Many(Nested(Pool), 0, 64)]
    credits: Annotated[tuple[Credit, ...], Many(Nested(Credit), 0, MAX_CREDITS)]
    recredits: Annotated[tuple[str, ...], Many(Text(64, "[a-z0-9.-]+"), 0, 64)]
    pin: Annotated[str, Text(32, "[A-Z_]+")]
    opening: Annotated[Opening, Nested(Opening)]
