"""The NFC field of the secure element: the cardholder's consent, card and counter behind the applet (design §3 PAY).

A first tap must fit the opening. Above the verification limit it only tells what is asked; the PIN is entered on the
phone for exactly that, and an identical tap within a minute is answered. A card is offered without any effect, since
nothing that differs from card to card leaves by then. When its records are about to be read, one unit binds the opening
to this tap, raises the counter and spends the card. Within one opening the same tap may be repeated when it was torn,
under the same opening number, of which the TSM accepts one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from protocol.card.tap import LoadedCard, NotOpen, SeePhone, Tap
from protocol.crypto import sha256
from protocol.messages.merchant import MERCHANT, TERMINAL
from protocol.messages.pay import MAX_ATC
from protocol.messages.se import OpeningState
from protocol.ports import Clock
from protocol.roles.se.opening import OPEN_S, SLOT, is_usable
from protocol.roles.se.tables import FIELD, VIRTUAL_CARDS, FieldRow, VirtualCard
from protocol.roles.se.working import WorkingMemory
from protocol.rows import Conflict, Decision, Key, Read, Rows, Store, Unit, Update, changed

_ATTEMPTS: Final = 3
_UNBOUND: Final = (OpeningState.OPEN, OpeningState.EXPECT_PIN)
"""Nothing was agreed to yet but the ceiling."""
_MERCHANT, _TERMINAL = re.compile(MERCHANT.pattern), re.compile(TERMINAL.pattern)


@dataclass(slots=True, kw_only=True)
class Field:
    """`CardHolder` over the SE's rows. One for each link to a reader."""

    store: Store
    clock: Clock
    working: WorkingMemory = field(default_factory=WorkingMemory)
    """The secure element's, where OpenCard leaves the card."""
    _open_at_s: int = 0
    """When a card was last found open; a terminal selects twice within one tap, and is told the same."""
    _card: bytes = b""
    _tap: Tap | None = None
    _offered: VirtualCard | None = None
    """Held until the next offer, so that the store has not to open its sealed cells again when the card is spent."""

    def is_open(self) -> bool:
        """Did the cardholder open a card, and is there still time?"""
        now_s = self.clock.now_s()
        if self._open_at_s == now_s:
            return True
        row = self.store.read(Key(FIELD, (SLOT,))).get(FIELD, SLOT)
        is_open = row is not None and _is_open(row, now_s)
        self._open_at_s = now_s if is_open else 0
        self._card = b"" if row is None else row.card
        if not is_open:
            self.working.forget()
        return is_open

    def offer(self, tap: Tap) -> LoadedCard:
        """The opened card for this tap, with its next counter. Raises: NotOpen, SeePhone."""
        self._open_at_s, now_s, digest = 0, self.clock.now_s(), self._card
        row, card = _opened(self.store.read(*_reads(digest)), digest)
        if _state_after(row, card, tap, now_s) == OpeningState.EXPECT_PIN:
            self._apply(digest, lambda rows: _ask(rows, digest, tap, now_s))
            raise SeePhone
        self._tap, self._offered = tap, card
        return self._load(row, card)

    def spend(self, card: LoadedCard) -> None:
        """The records are about to be read. Raises: NotOpen when the opening or the card is not as it was offered."""
        tap, now_s, digest = self._tap, self.clock.now_s(), sha256(card.key.public.to_bytes())
        if tap is None:
            raise NotOpen
        self._apply(digest, lambda rows: _spend(rows, digest, card, tap, now_s))
        self.working.forget()

    def _load(self, row: FieldRow, card: VirtualCard) -> LoadedCard:
        parts = self.working.parts(card)
        return LoadedCard(
            aid=parts.emv.application, aip=parts.emv.aip, afl=parts.emv.afl, records=parts.records, key=parts.key,
            k_ac=parts.k_ac, atc=card.atc + 1, opening=row.opening, device_verified=row.verified,
            retry=row.state == OpeningState.TAPPED,
        )  # fmt: skip

    def _apply(self, card: bytes, decide: Callable[[Rows], Decision]) -> None:
        unit = Unit(_reads(card), decide)
        for _ in range(_ATTEMPTS):
            try:
                self.store.apply(unit)
            except Conflict:
                continue
            return
        raise NotOpen


def _reads(card: bytes) -> tuple[Read, ...]:
    return (Key(FIELD, (SLOT,)), Key(VIRTUAL_CARDS, (card,)))


def _opened(rows: Rows, digest: bytes) -> tuple[FieldRow, VirtualCard]:
    """The opening, if this is still its card, and the card. Raises: NotOpen."""
    row, card = rows.get(FIELD, SLOT), rows.get(VIRTUAL_CARDS, digest)
    if row is None or card is None or row.card != digest:
        raise NotOpen
    return row, card


def _is_open(row: FieldRow, now_s: int) -> bool:
    return row.state != OpeningState.CLOSED and row.expires_at_s >= now_s


def _consent(row: FieldRow) -> tuple[int, str, str, str, str]:
    return (row.amount_minor, row.currency, row.merchant, row.terminal, row.merchant_name)


def _state_after(row: FieldRow, card: VirtualCard, tap: Tap, now_s: int) -> OpeningState:
    """The state in which this tap would leave the opening: TAPPED, or EXPECT_PIN. Raises: NotOpen."""
    if not _is_open(row, now_s):
        raise NotOpen
    state = OpeningState.TAPPED
    if row.state in _UNBOUND:
        state = _state_after_first(row, tap)
    elif tap.consent != _consent(row):
        raise NotOpen  # verified, or used, for something else
    usable = is_usable(card, now_s) or (row.state == OpeningState.TAPPED and row.read and card.state == "SPENT")
    if not usable or card.atc >= MAX_ATC:
        raise NotOpen
    return state


def _state_after_first(row: FieldRow, tap: Tap) -> OpeningState:
    """A tap that nothing was said about yet: it must fit the opening. Over the limit, the phone asks for the PIN."""
    if not (_MERCHANT.fullmatch(tap.merchant) and _TERMINAL.fullmatch(tap.terminal)):
        raise NotOpen
    if not tap.merchant_name or tap.currency != row.currency:
        raise NotOpen
    if not 0 < tap.amount_minor <= row.ceiling_minor:
        raise NotOpen
    return OpeningState.TAPPED if tap.amount_minor <= row.verify_above_minor else OpeningState.EXPECT_PIN


def _after(row: FieldRow, tap: Tap, state: OpeningState, *, expires_at_s: int, read: bool) -> FieldRow:
    return replace(
        row, state=state.value, amount_minor=tap.amount_minor, merchant=tap.merchant, terminal=tap.terminal,
        merchant_name=tap.merchant_name, expires_at_s=expires_at_s, read=read,
    )  # fmt: skip


def _ask(rows: Rows, digest: bytes, tap: Tap, now_s: int) -> Decision:
    """The phone is to show this tap and ask for the PIN."""
    row, card = _opened(rows, digest)
    state = _state_after(row, card, tap, now_s)
    # Time to look at the phone is given once: taps must not keep a card open.
    first = (row.state, state) == (OpeningState.OPEN, OpeningState.EXPECT_PIN)
    expires_at_s = now_s + OPEN_S if first else row.expires_at_s
    return Decision(writes=(Update(FIELD, _after(row, tap, state, expires_at_s=expires_at_s, read=row.read)),))


def _spend(rows: Rows, digest: bytes, offered: LoadedCard, tap: Tap, now_s: int) -> Decision:
    row, card = _opened(rows, digest)
    state = _state_after(row, card, tap, now_s)
    if state != OpeningState.TAPPED or (row.opening, card.atc + 1) != (offered.opening, offered.atc):
        raise NotOpen  # another opening, or another reader was faster
    used = card.used if row.read else card.used + 1
    spent = changed(card, atc=offered.atc, used=used, state="SPENT" if used >= card.uses else card.state)
    after = _after(row, tap, state, expires_at_s=row.expires_at_s, read=True)
    return Decision(writes=(Update(FIELD, after), Update(VIRTUAL_CARDS, spent)))
