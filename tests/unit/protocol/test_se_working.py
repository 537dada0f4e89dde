"""Working memory of the secure element: the open card's parts and no other's, from OpenCard until it is used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.pocket import Pocket
from support.world import World

from protocol.roles.se.opening import OPEN_S
from protocol.roles.se.working import CardParts, WorkingMemory

AMOUNT = 5_000


@pytest.fixture
def pocket(tmp_path: Path) -> Pocket:
    return Pocket.filled(World(tmp_path, seed="working"))


def memory(pocket: Pocket) -> WorkingMemory:
    working: WorkingMemory = pocket.party.value.working
    return working


def holds(pocket: Pocket) -> bool:
    return repr(memory(pocket)) == "WorkingMemory(one card)"


def test_an_opened_card_is_at_hand_for_the_tap(pocket: Pocket) -> None:
    assert not holds(pocket)
    pocket.open()
    assert holds(pocket)
    parts = memory(pocket).parts(pocket.opened())
    assert memory(pocket).parts(pocket.opened()) is parts
    assert pocket.offered(pocket.field(), AMOUNT).key is parts.key


def test_no_key_shows(pocket: Pocket) -> None:
    pocket.open()
    parts = memory(pocket).parts(pocket.opened())
    assert parts.k_ac.hex() not in repr(parts)
    assert str(parts.k_ac) not in repr(parts)
    assert repr(parts) == f"CardParts(key={parts.key!r})"


def test_it_is_forgotten_when_the_card_is_read(pocket: Pocket) -> None:
    pocket.open()
    field = pocket.field()
    field.spend(pocket.offered(field, AMOUNT))
    assert not holds(pocket)
    assert pocket.offered(pocket.field(), AMOUNT).retry


def test_it_is_forgotten_when_the_card_is_closed(pocket: Pocket) -> None:
    pocket.open()
    pocket.open(0)
    assert not holds(pocket)


def test_it_is_forgotten_by_the_first_tap_after_its_time(pocket: Pocket) -> None:
    pocket.open()
    pocket.world.clock.time_s += OPEN_S + 1
    assert not pocket.field().is_open()
    assert not holds(pocket)


def test_a_card_that_is_stored_otherwise_since_is_not_the_one_held(pocket: Pocket) -> None:
    pocket.open()
    card = pocket.opened()
    held = memory(pocket).parts(card)
    pocket.amend_card(card.modulus_digest, k_ac=bytes(16))
    assert memory(pocket).parts(pocket.opened()).k_ac == bytes(16)
    assert memory(pocket).parts(card) is held


def test_a_damaged_card_is_not_held(pocket: Pocket) -> None:
    pocket.open()
    assert holds(pocket)
    memory(pocket).hold(replace(pocket.opened(), card_key=b"damaged"))
    assert not holds(pocket)


def test_parts_are_those_of_the_row(pocket: Pocket) -> None:
    pocket.open()
    card = pocket.opened()
    parts = CardParts.of(card)
    assert parts.emv.to_bytes() == card.records
    assert parts.key.to_bytes() == card.card_key
    assert set(parts.records.values()) == {record.data for record in parts.emv.records}
