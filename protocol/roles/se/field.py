"""The NFC field of the secure element: the cardholder's consent, card and counter behind the applet (design §3 PAY).

A first tap must fit the opening. Above the verification limit it only tells what is asked; the PIN is entered on the
phone for exactly that, and an identical tap within a minute is answered. Once a card's records were read it serves no
other opening; within one opening the same tap may be repeated when it was torn, under the same opening number, of which
the TSM accepts one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from protocol.card.rsa import PrivateKey as CardPrivateKey
from protocol.card.tap import LoadedCard, NotOpen, SeePhone, Tap
from protocol.messages.card import EmvData
from protocol.messages.merchant import MERCHANT, TERMINAL
from protocol.messages.pay import MAX_ATC
from protocol.messages.se import OpeningState
from protocol.ports import Clock
from protocol.roles.se.opening import OPEN_S, SLOT, is_usable
from protocol.roles.se.tables import FIELD, VIRTUAL_CARDS, FieldRow, VirtualCard
from protocol.rows import Conflict, Decision, Key, Rows, Store, Unit, Update

_ATTEMPTS: Final = 3


@dataclass(frozen=True, slots=True)
class _Offered:
    """What a unit decided: the opening and card after it, or that the phone must be looked at."""

    row: FieldRow
    card: VirtualCard | None
    retry: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """`CardHolder` over the SE's rows; each effect is committed before it returns."""

    store: Store
    clock: Clock

    def is_open(self) -> bool:
        """Did the cardholder open a card, and is there still time?"""
        row = self.store.read(Key(FIELD, (SLOT,))).get(FIELD, SLOT)
        return row is not None and _is_open(row, self.clock.now_s())

    def offer(self, tap: Tap) -> LoadedCard:
        """The opened card for this tap, its counter raised. Raises: NotOpen, SeePhone."""
        now_s = self.clock.now_s()
        row = self.store.read(Key(FIELD, (SLOT,))).get(FIELD, SLOT)
        if row is None:
            raise NotOpen
        offered: _Offered = self._apply(Unit(
            (Key(FIELD, (SLOT,)), Key(VIRTUAL_CARDS, (row.card,))),
            lambda rows: _offer(rows, row.card, tap, now_s),
        ))  # fmt: skip
        if offered.card is None:
            raise SeePhone
        return _load(offered.row, offered.card, retry=offered.retry)

    def spend(self, card: LoadedCard) -> None:
        """The records are about to be read. Raises: NotOpen when another opening has taken this one's place."""
        row = self.store.read(Key(FIELD, (SLOT,))).get(FIELD, SLOT)
        if row is None or row.opening != card.opening:
            raise NotOpen
        if not row.read:
            reads = (Key(FIELD, (SLOT,)), Key(VIRTUAL_CARDS, (row.card,)))
            self._apply(Unit(reads, lambda rows: _spend(rows, card.opening)))

    def _apply(self, unit: Unit) -> _Offered:
        for _ in range(_ATTEMPTS):
            try:
                reply: _Offered = self.store.apply(unit).reply
            except Conflict:
                continue
            return reply
        raise NotOpen


def _is_open(row: FieldRow, now_s: int) -> bool:
    return row.state != OpeningState.CLOSED and row.expires_at_s >= now_s


def _consent(row: FieldRow) -> tuple[int, str, str, str, str]:
    return (row.amount_minor, row.currency, row.merchant, row.terminal, row.merchant_name)


def _offer(rows: Rows, digest: bytes, tap: Tap, now_s: int) -> Decision:
    row, card = rows.get(FIELD, SLOT), rows.get(VIRTUAL_CARDS, digest)
    if row is None or card is None or row.card != digest or not _is_open(row, now_s):
        raise NotOpen
    if row.state in (OpeningState.OPEN, OpeningState.EXPECT_PIN):
        row = _first(row, tap, now_s)
        if row.state == OpeningState.EXPECT_PIN:
            return Decision(writes=(Update(FIELD, row),), reply=_Offered(row, None))
    elif tap.consent != _consent(row):
        raise NotOpen  # verified, or used, for something else
    retry = row.state == OpeningState.TAPPED
    usable = is_usable(card, now_s) or (retry and row.read and card.state == "SPENT")
    if not usable or card.atc >= MAX_ATC:
        raise NotOpen
    row, card = replace(row, state=OpeningState.TAPPED.value), replace(card, atc=card.atc + 1)
    writes = (Update(FIELD, row), Update(VIRTUAL_CARDS, card))
    return Decision(writes=writes, reply=_Offered(row, card, retry))


def _first(row: FieldRow, tap: Tap, now_s: int) -> FieldRow:
    """A tap that nothing was said about yet: it must fit the opening. Over the limit, the phone asks for the PIN."""
    named = re.fullmatch(MERCHANT.pattern, tap.merchant) and re.fullmatch(TERMINAL.pattern, tap.terminal)
    if not named or not tap.merchant_name or tap.currency != row.currency:
        raise NotOpen
    if not 0 < tap.amount_minor <= row.ceiling_minor:
        raise NotOpen
    asked = replace(
        row, amount_minor=tap.amount_minor, merchant=tap.merchant, terminal=tap.terminal,
        merchant_name=tap.merchant_name,
    )  # fmt: skip
    if tap.amount_minor <= row.verify_above_minor:
        return replace(asked, state=OpeningState.OPEN.value)
    # Time to look at the phone is given once: taps must not keep a card open.
    expires_at_s = now_s + OPEN_S if row.state == OpeningState.OPEN else row.expires_at_s
    return replace(asked, state=OpeningState.EXPECT_PIN.value, expires_at_s=expires_at_s)


def _spend(rows: Rows, opening: bytes) -> Decision:
    row = rows.get(FIELD, SLOT)
    if row is None or row.opening != opening:
        raise NotOpen
    card = rows.get(VIRTUAL_CARDS, row.card)
    if card is None:
        raise NotOpen
    if row.read:
        return Decision(reply=_Offered(row, card))
    row = replace(row, read=True)
    used = card.used + 1
    card = replace(card, used=used, state="SPENT" if used >= card.uses else card.state)
    return Decision(writes=(Update(FIELD, row), Update(VIRTUAL_CARDS, card)), reply=_Offered(row, card))


def _load(row: FieldRow, card: VirtualCard, *, retry: bool) -> LoadedCard:
    emv = EmvData.from_bytes(card.records)
    return LoadedCard(
        aid=emv.application, aip=emv.aip, afl=emv.afl,
        records={(record.sfi, record.number): record.data for record in emv.records},
        key=CardPrivateKey.from_bytes(card.card_key), k_ac=card.k_ac, atc=card.atc, opening=row.opening,
        device_verified=row.verified, retry=retry,
    )  # fmt: skip
