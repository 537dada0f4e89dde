"""FREEZE: what a bank has stopped, told to a TSM as one list a minute (design §3 FREEZE; CN-11)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar, Final

from protocol.schema import Choice, Identifier, Many, Message, Nested, Record, TimeS

MAX_STOPS: Final = 4096


class StopKind(StrEnum):
    """A freeze may be lifted by the side that made it; a deletion is final."""

    FROZEN = "FROZEN"
    DELETED = "DELETED"


class StopReason(StrEnum):
    """Why an account is stopped. It stays with the side that stopped it."""

    LOST_PHONE = "lost-phone"
    CRIME_REPORT = "crime-report"
    FRAUD = "fraud"
    COURT_ORDER = "court-order"
    OWN_WISH = "own-wish"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListStops(Message):
    """T → B `S_T()`: which of the accounts granted to me are stopped? Asked every minute, whatever happens."""

    NAME: ClassVar[str] = "list-stops"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop(Record):
    """One stopped AID."""

    NAME: ClassVar[str] = "stop"
    aid: Identifier
    kind: Annotated[StopKind, Choice(StopKind)]


@dataclass(frozen=True, slots=True, kw_only=True)
class StopList(Message):
    """B → T `E_T(S_B(minute, [AID, kind]…))`, sorted by AID: all stops in force at `minute_s`, a whole minute.

    Single notices would tell which AIDs are one customer's (design §3 FREEZE). It holds those granted to this TSM.
    """

    NAME: ClassVar[str] = "stop-list"
    MAX_BYTES: ClassVar[int] = 512 * 1024
    minute_s: TimeS
    stops: Annotated[tuple[Stop, ...], Many(Nested(Stop), 0, MAX_STOPS)]
