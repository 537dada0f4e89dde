"""What a tap ends with, and what the terminal's display says then: outcome parameters of EMV Contactless Book A.

Of the parameters, those are here that a terminal without signature, receipt printer and data exchange reads: the
outcome, where to start again, and the user interface request. No outcome approves anything by itself: APPROVED comes
only out of the TSM's answer to an online request.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from typing import Final

from protocol.card.afl import Record

TVR_BYTES: Final = 5


class CardLost(Exception):
    """The card left the field, or the link to it broke. Whoever drives an exchange throws this into it."""


class Kind(StrEnum):
    """How a tap ended (Book A, outcomes)."""

    APPROVED = "approved"
    DECLINED = "declined"
    ONLINE_REQUEST = "online request"
    END_APPLICATION = "end application"
    TRY_AGAIN = "try again"
    TRY_ANOTHER_INTERFACE = "try another interface"
    SELECT_NEXT = "select next"
    """Goes on inside the kernel with the next application of the card; no caller sees it."""


class Start(StrEnum):
    """Where processing goes on after the outcome (Book A, parameter Start)."""

    PROTOCOL_ACTIVATION = "B"
    """Wait for a card again, with the same amount."""
    COMBINATION_SELECTION = "C"
    """Stay with the card, take its next application."""
    NONE = "N/A"


class Status(StrEnum):
    """What the lights of the reader show with the message (Book A, user interface request data)."""

    NOT_READY = "not ready"
    READY_TO_READ = "ready to read"
    CARD_READ = "card read successfully"
    PROCESSING_ERROR = "processing error"


class Message(IntEnum):
    """Message identifiers of the user interface request (Book A), with the words that stand for them."""

    text: str

    def __new__(cls, identifier: int, text: str) -> Message:
        member = int.__new__(cls, identifier)
        member._value_ = identifier
        member.text = text
        return member

    APPROVED = 0x03, "Approved"
    NOT_AUTHORIZED = 0x07, "Not authorized"
    PRESENT_CARD = 0x15, "Present card"
    CARD_READ_OK = 0x17, "Card read OK, please remove card"
    INSERT_OR_SWIPE = 0x18, "Please insert or swipe card"
    APPROVED_SIGN = 0x1A, "Approved, please sign"
    AUTHORIZING = 0x1B, "Authorizing, please wait"
    TRY_ANOTHER_CARD = 0x1C, "Insert, swipe or try another card"
    SEE_PHONE = 0x20, "See phone for instructions"
    PRESENT_AGAIN = 0x21, "Present card again"


@dataclass(frozen=True, slots=True, kw_only=True)
class UiRequest:
    """One request to the display: message identifier and status."""

    message: Message
    status: Status

    @property
    def text(self) -> str:
        """What the display says."""
        return self.message.text


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineRequest:
    """All that the TSM needs to authorize, after the terminal has verified it for itself.

    `records` are in the file locator's order; `pan` is the one of the card's certificate; `information`, `atc`,
    `issuer_data` and `signature` are the answer to GENERATE AC (9F27, 9F36, 9F10, 9F4B), and `cryptogram` is what the
    signature holds inside. `tvr` is 95 as the card was told it.
    """

    aid: bytes
    aip: bytes
    afl: bytes
    records: tuple[Record, ...] = field(repr=False)
    pdol_data: bytes
    cdol_data: bytes
    information: int
    atc: int
    issuer_data: bytes
    signature: bytes = field(repr=False)
    pan: str = field(repr=False)
    cryptogram: bytes
    tvr: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A tap's end. `ui` is shown at once, `restart_ui` when the reader waits for a card again; `online` is there
    exactly with ONLINE_REQUEST. `tvr` is what the terminal found, for its log: five bytes of tag 95."""

    kind: Kind
    start: Start
    ui: UiRequest
    restart_ui: UiRequest | None = None
    tvr: bytes = bytes(TVR_BYTES)
    online: OnlineRequest | None = None


def _ending(kind: Kind, message: Message, status: Status, start: Start = Start.NONE) -> Outcome:
    return Outcome(kind=kind, start=start, ui=UiRequest(message=message, status=status))


APPROVED: Final = _ending(Kind.APPROVED, Message.APPROVED, Status.CARD_READ)
DECLINED: Final = _ending(Kind.DECLINED, Message.NOT_AUTHORIZED, Status.CARD_READ)
AUTHORIZING: Final = _ending(Kind.ONLINE_REQUEST, Message.AUTHORIZING, Status.CARD_READ)
END_APPLICATION: Final = _ending(Kind.END_APPLICATION, Message.TRY_ANOTHER_CARD, Status.PROCESSING_ERROR)
TRY_ANOTHER_INTERFACE: Final = _ending(Kind.TRY_ANOTHER_INTERFACE, Message.INSERT_OR_SWIPE, Status.PROCESSING_ERROR)
PRESENT_AGAIN: Final = _ending(Kind.TRY_AGAIN, Message.PRESENT_AGAIN, Status.READY_TO_READ, Start.PROTOCOL_ACTIVATION)
SEE_PHONE: Final = replace(
    _ending(Kind.TRY_AGAIN, Message.SEE_PHONE, Status.PROCESSING_ERROR, Start.PROTOCOL_ACTIVATION),
    restart_ui=PRESENT_AGAIN.ui,
)
"""The holder looks at the phone; when the reader is ready again, its display asks for the second tap (Book C-3
§5.2.2.2)."""
SELECT_NEXT: Final = _ending(
    Kind.SELECT_NEXT, Message.TRY_ANOTHER_CARD, Status.PROCESSING_ERROR, Start.COMBINATION_SELECTION
)


def complete_online(request: OnlineRequest, *, approved: bool) -> Outcome:
    """The tap's end once the TSM has answered. A TSM that did not answer has not approved: pass False then too,
    as nothing is approved offline and what the card's or terminal's default codes would allow is not asked."""
    return replace(APPROVED if approved else DECLINED, tvr=request.tvr)
