"""A phone with cards in a pocket, and taps that are made to its NFC field directly, without applet or terminal."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from support.counter import open_card
from support.skimmer import shopper
from support.world import Party, Phone, World

from protocol.card.tap import LoadedCard, NotOpen, SeePhone, Tap
from protocol.messages.se import Opening
from protocol.roles.se.field import Field
from protocol.roles.se.tables import FIELD, VIRTUAL_CARDS, FieldRow, VirtualCard
from protocol.roles.wallet import status
from protocol.rows import Decision, Unit, Update


@dataclass
class Pocket:
    """One phone and its account."""

    world: World
    phone: Phone
    tid: str

    @classmethod
    def filled(cls, world: World, number: int = 2) -> Pocket:
        phone, tid = shopper(world, number=number)
        return cls(world=world, phone=phone, tid=tid)

    @property
    def party(self) -> Party:
        return self.phone.party

    # --- the phone -------------------------------------------------------------------------------------------------
    def open(self, ceiling_minor: int = 9_000) -> Opening:
        return open_card(self.world, self.phone, self.tid, ceiling_minor)

    def shown(self) -> Opening:
        return self.world.run(self.phone, status(self.phone.wallet)).opening

    def row(self) -> FieldRow:
        (row,) = self.party.store.scan(FIELD)
        return row

    def cards(self) -> list[VirtualCard]:
        return sorted(self.party.store.scan(VIRTUAL_CARDS), key=lambda card: card.position)

    def opened(self) -> VirtualCard:
        """The card that the opening is for."""
        (card,) = [card for card in self.cards() if card.modulus_digest == self.row().card]
        return card

    def amend_card(self, modulus_digest: bytes, **columns: Any) -> None:
        """One card's row with other values."""
        (card,) = [card for card in self.cards() if card.modulus_digest == modulus_digest]
        change = Update(VIRTUAL_CARDS, replace(card, **columns))
        self.party.store.apply(Unit((), lambda rows: Decision(writes=(change,))))

    # --- the field -------------------------------------------------------------------------------------------------
    def field(self, store: Any = None) -> Field:
        """A new link to a reader."""
        return Field(store=store or self.party.store, clock=self.world.clock, working=self.party.value.working)

    def tap(self, amount_minor: int, **changes: Any) -> Tap:
        tap = Tap(
            amount_minor=amount_minor, currency="TWD", merchant="TAPVEIL00000001", terminal="T0000001",
            merchant_name="Shop 1", unpredictable=self.world.entropy.bytes(4),
        )  # fmt: skip
        return replace(tap, **changes)

    def offered(self, field: Field, amount_minor: int, **changes: Any) -> LoadedCard:
        """As the applet does: is a card open, and which one for this tap?"""
        assert field.is_open()
        return field.offer(self.tap(amount_minor, **changes))

    def refuses(self, field: Field, amount_minor: int, **changes: Any) -> None:
        """The tap is answered by nothing, and nothing has changed."""
        before = self.world.snapshot(self.phone.name)
        field.is_open()
        with pytest.raises(NotOpen):
            field.offer(self.tap(amount_minor, **changes))
        assert self.world.snapshot(self.phone.name) == before

    def tap_for_pin(self, amount_minor: int, **changes: Any) -> Opening:
        """A first tap above the limit; what the phone shows then."""
        field = self.field()
        assert field.is_open()
        with pytest.raises(SeePhone):
            field.offer(self.tap(amount_minor, **changes))
        return self.shown()
