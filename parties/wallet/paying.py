"""A purchase as the person makes it: open a card, hold the phone on, look at it if it asks, hold it on again.

No bank is asked, nor the TSM: neither must learn when its customer pays (design §3).
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from parties.settings import loopback
from parties.wallet.nfc import Link, hold
from protocol.errors import ProtocolError, Unavailable
from protocol.messages.se import Opening, OpeningState
from protocol.roles.wallet import Flow, Wallet, close_card, open_card, status, verify_pin

T = TypeVar("T")
MAX_SECONDS: Final = 50
"""Less than the SE keeps an opening, so that what it says after a tap is still about that tap."""


class Phone(Protocol):
    """What a purchase needs of the phone (`PhoneSession`)."""

    @property
    def wallet(self) -> Wallet:
        """The app's key, clock and entropy."""

    def once(self, flow: Flow[T]) -> T:
        """Run a flow of which nothing is kept. Raises: the refusal that ended it."""

    def field(self) -> Link:
        """The way to the SE while the phone is held on. Raises: Unavailable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the phone is held to, for how long at a time, and what ends it early."""

    reader: str
    seconds: float
    stopped: threading.Event


def pay(phone: Phone, place: Place, *, tid: str, ceiling_minor: int, pin: str = "") -> Opening:
    """One purchase of at most `ceiling_minor`; the opening as the tap left it.

    Above the verification limit: with a `pin` given beforehand, it is entered for whatever within the ceiling was
    asked; without, the answer is EXPECT_PIN with what is asked, for the person to look at and to `confirm`.
    Raises: Unavailable: no terminal tapped, or each tap was torn; PinInvalid, FactorLocked; NoCard, PaymentClosed, ….
    Whatever is raised, the card is closed again.
    """
    loopback(place.reader)
    phone.once(open_card(phone.wallet, tid=tid, ceiling_minor=ceiling_minor))
    with _closing_on_refusal(phone, tid):
        found = _tap(phone, place)
        if found.state is OpeningState.EXPECT_PIN and pin:
            phone.once(verify_pin(phone.wallet, pin=pin, shown=found))
            found = _tap(phone, place)
    return found


def confirm(phone: Phone, place: Place, *, shown: Opening, pin: str) -> Opening:
    """TW-S3: the person saw what is asked (`shown`) and enters the PIN for it; then the phone is held on again.

    Raises: PinInvalid, after which it may be tried again while the opening lasts; FieldMismatch: another tap has come
    since; WrongState: the opening is over; Unavailable: no terminal tapped again.
    """
    loopback(place.reader)
    phone.once(verify_pin(phone.wallet, pin=pin, shown=shown))
    return _tap(phone, place)


def _tap(phone: Phone, place: Place) -> Opening:
    """Hold on until a tap got through or asks to look at the phone: a torn one is tried again while there is time."""
    until_s = time.monotonic() + place.seconds
    talked = False
    while not place.stopped.is_set() and (left_s := until_s - time.monotonic()) > 0:
        meeting = hold(place.reader, phone.field, left_s, stopped=place.stopped)
        if not meeting.talked:
            break
        talked = True
        opening = phone.once(status(phone.wallet)).opening
        if opening.state is OpeningState.EXPECT_PIN or (opening.state is OpeningState.TAPPED and meeting.cryptogram):
            return opening
    if talked:
        raise Unavailable("no tap got through: torn, or not for what was opened")
    raise Unavailable("no terminal tapped")


@contextlib.contextmanager
def _closing_on_refusal(phone: Phone, tid: str) -> Iterator[None]:
    try:
        yield
    except ProtocolError:
        with contextlib.suppress(ProtocolError):  # it closes by itself within a minute
            phone.once(close_card(phone.wallet, tid=tid))
        raise


@contextlib.contextmanager
def until_signaled() -> Iterator[threading.Event]:
    """Set on SIGINT and SIGTERM: the person takes the phone away. Only in the main thread."""
    stopped = threading.Event()
    handler: Callable[[int, object], None] = lambda _number, _frame: stopped.set()  # noqa: E731
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
