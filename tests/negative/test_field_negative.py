"""The NFC field: what a tap may ask, how often, until when; a tap that is refused leaves everything as it was."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from support.counter import set_pin, verify_pin
from support.customer import LARGE, SMALL, amend
from support.pocket import Pocket
from support.world import World

from protocol.card.tap import LoadedCard, NotOpen, SeePhone
from protocol.messages.pay import MAX_ATC
from protocol.messages.se import OpeningState
from protocol.roles.se.field import Field
from protocol.roles.se.opening import OPEN_S
from protocol.roles.se.tables import FIELD, VIRTUAL_CARDS
from protocol.rows import Conflict, Decision, Unit, Update

LIMIT = 20_000
CEILING = 30_000


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, seed="field")


@pytest.fixture
def pocket(world: World) -> Pocket:
    return Pocket.filled(world)


def not_spent(pocket: Pocket, field: Field, card: LoadedCard) -> None:
    before = pocket.world.snapshot(pocket.phone.name)
    with pytest.raises(NotOpen):
        field.spend(card)
    assert pocket.world.snapshot(pocket.phone.name) == before


# --- open or not ------------------------------------------------------------------------------------------------------
def test_nothing_was_opened(pocket: Pocket) -> None:
    field = pocket.field()
    assert not field.is_open()
    pocket.refuses(field, SMALL)


def test_a_reader_that_asks_for_nothing_first(pocket: Pocket) -> None:
    """Without SELECT the field does not know which card it is."""
    pocket.open()
    with pytest.raises(NotOpen):
        pocket.field().offer(pocket.tap(SMALL))


def test_what_was_closed_stays_closed(world: World, pocket: Pocket) -> None:
    pocket.open()
    field = pocket.field()
    assert field.is_open()
    pocket.open(0)
    pocket.refuses(field, SMALL)
    world.clock.time_s += 1
    assert not field.is_open()


def test_an_opening_ends_after_its_last_second(world: World, pocket: Pocket) -> None:
    pocket.open()
    field = pocket.field()
    world.clock.time_s += OPEN_S
    assert field.is_open()
    assert pocket.offered(field, SMALL).atc == 1
    world.clock.time_s += 1
    assert not field.is_open()
    pocket.refuses(field, SMALL)
    assert pocket.shown().state is OpeningState.CLOSED


def test_an_opening_that_ends_within_a_tap(world: World, pocket: Pocket) -> None:
    pocket.open()
    field = pocket.field()
    world.clock.time_s += OPEN_S
    assert field.is_open()
    world.clock.time_s += 1
    pocket.refuses(field, SMALL)
    pocket.open()
    card = pocket.offered(field, SMALL)
    world.clock.time_s += OPEN_S + 1
    not_spent(pocket, field, card)


def test_a_terminal_that_selects_twice_in_a_second_is_told_the_same(world: World, pocket: Pocket) -> None:
    pocket.open()
    field = pocket.field()
    assert field.is_open()
    pocket.open(0)
    assert field.is_open()  # told the same; what counts is looked at again with the tap
    pocket.refuses(field, SMALL)
    assert not field.is_open()


# --- what a first tap may ask -----------------------------------------------------------------------------------------
UNFIT: tuple[dict[str, Any], ...] = (
    {"amount_minor": 0}, {"amount_minor": CEILING + 1}, {"amount_minor": 10**12 - 1}, {"currency": "EUR"},
    {"merchant": ""}, {"merchant": "TAPVEIL0000001"}, {"merchant": "tapveil00000001"}, {"merchant": "TAPVEIL00000001 "},
    {"terminal": ""}, {"terminal": "T000000"}, {"terminal": "T00000011"}, {"terminal": "t0000001"},
    {"merchant_name": ""},
)  # fmt: skip


@pytest.mark.parametrize("unfit", UNFIT, ids=str)
def test_a_tap_that_does_not_fit_the_opening(pocket: Pocket, unfit: dict[str, Any]) -> None:
    pocket.open(CEILING)
    pocket.refuses(pocket.field(), **{"amount_minor": SMALL} | unfit)
    assert pocket.offered(pocket.field(), SMALL).atc == 1


def test_the_ceiling_itself_fits(pocket: Pocket) -> None:
    pocket.open(SMALL)
    assert pocket.offered(pocket.field(), SMALL).opening == pocket.row().opening
    pocket.refuses(pocket.field(), SMALL + 1)
    assert pocket.offered(pocket.field(), 1).device_verified is False


def test_an_offer_has_no_effect(world: World, pocket: Pocket) -> None:
    pocket.open()
    before = world.snapshot(pocket.phone.name)
    field = pocket.field()
    card = pocket.offered(field, SMALL)
    assert (card.atc, card.retry, card.device_verified) == (1, False, False)
    assert world.snapshot(pocket.phone.name) == before
    pocket.offered(field, SMALL - 1)  # nothing was read: another amount is as good
    not_spent(pocket, pocket.field(), card)  # a link to which nothing was offered


# --- spending, and the same tap again ---------------------------------------------------------------------------------
def test_reading_a_card_spends_it_and_binds_the_opening(pocket: Pocket) -> None:
    pocket.open()
    field = pocket.field()
    field.spend(pocket.offered(field, SMALL))
    row, card = pocket.row(), pocket.opened()
    assert (row.state, row.read, row.amount_minor, row.merchant_name) == ("TAPPED", True, SMALL, "Shop 1")
    assert (card.state, card.atc, card.used) == ("SPENT", 1, 1)
    assert [other.state for other in pocket.cards() if other != card] == ["ACTIVE"]


def test_a_torn_tap_is_retried_under_the_same_opening(pocket: Pocket) -> None:
    pocket.open()
    opening = pocket.row().opening
    for atc in (1, 2, 3):
        field = pocket.field()
        card = pocket.offered(field, SMALL)
        assert (card.atc, card.opening, card.retry) == (atc, opening, atc > 1)
        field.spend(card)
        not_spent(pocket, field, card)  # its counter is gone
    assert (pocket.opened().used, pocket.opened().atc) == (1, 3)


ANOTHER: tuple[dict[str, Any], ...] = (
    {"amount_minor": SMALL - 1}, {"amount_minor": SMALL + 1}, {"currency": "EUR"}, {"merchant": "TAPVEIL00000002"},
    {"terminal": "T0000002"}, {"merchant_name": "Shop 2"},
)  # fmt: skip


@pytest.mark.parametrize("another", ANOTHER, ids=str)
def test_a_card_that_was_read_pays_for_nothing_else(pocket: Pocket, another: dict[str, Any]) -> None:
    pocket.open(CEILING)
    field = pocket.field()
    field.spend(pocket.offered(field, SMALL))
    pocket.refuses(pocket.field(), **{"amount_minor": SMALL} | another)
    assert pocket.offered(pocket.field(), SMALL).retry


def test_a_retry_ends_with_its_opening(world: World, pocket: Pocket) -> None:
    pocket.open()
    field = pocket.field()
    field.spend(pocket.offered(field, SMALL))
    world.clock.time_s += OPEN_S
    pocket.offered(field, SMALL)
    world.clock.time_s += 1
    pocket.refuses(field, SMALL)


def test_an_offer_from_before_the_card_was_read(pocket: Pocket) -> None:
    """Two readers get the same offer: one of them gets the card."""
    pocket.open()
    first, second = pocket.field(), pocket.field()
    offers = [pocket.offered(field, SMALL) for field in (first, second)]
    assert offers[0].atc == offers[1].atc
    first.spend(offers[0])
    not_spent(pocket, second, offers[1])
    # Nor for another amount, though it was offered while nothing was bound.
    pocket.open(CEILING)
    offers = [pocket.offered(first, SMALL), pocket.offered(second, SMALL - 1)]
    first.spend(offers[0])
    not_spent(pocket, second, offers[1])


def test_an_offer_of_an_opening_that_was_replaced(pocket: Pocket) -> None:
    pocket.open()
    field = pocket.field()
    card = pocket.offered(field, SMALL)
    pocket.open()
    not_spent(pocket, field, card)  # the same card and counter, another opening
    pocket.open(0)
    not_spent(pocket, field, card)


def test_an_opening_replaced_by_one_of_another_card(pocket: Pocket) -> None:
    pocket.open()
    field, seen = pocket.field(), pocket.row().card
    assert field.is_open()
    card = field.offer(pocket.tap(SMALL))
    pocket.amend_card(seen, state="CLOSED")
    not_spent(pocket, field, card)
    pocket.open()
    assert pocket.row().card != seen
    pocket.refuses(pocket.field(), SMALL, currency="EUR")
    not_spent(pocket, field, card)
    with pytest.raises(NotOpen):  # what this link was told of is no longer the opening's card
        field.offer(pocket.tap(SMALL))
    assert pocket.offered(field, SMALL).atc == 1


def test_a_link_that_was_told_of_another_card(pocket: Pocket) -> None:
    """Both cards are good; the one that this link asked about is not the opening's any more."""
    pocket.open()
    field, first = pocket.field(), pocket.opened()
    assert field.is_open()
    card = field.offer(pocket.tap(SMALL))
    (other,) = [held for held in pocket.cards() if held.modulus_digest != first.modulus_digest]
    pocket.amend_card(other.modulus_digest, expires_at_s=first.expires_at_s - 1)
    pocket.open()
    assert (pocket.row().card, pocket.cards()[0].state, pocket.cards()[1].state) == (
        other.modulus_digest, "ACTIVE", "ACTIVE"
    )  # fmt: skip
    not_spent(pocket, field, card)
    with pytest.raises(NotOpen):
        field.offer(pocket.tap(SMALL))
    assert pocket.offered(field, SMALL).key.public.to_bytes() != card.key.public.to_bytes()


def test_a_card_that_was_swept(world: World, pocket: Pocket) -> None:
    pocket.open()
    field = pocket.field()
    card = pocket.offered(field, SMALL)
    pocket.party.store.sweep(max(held.expires_at_s for held in pocket.cards()) + 1)
    assert pocket.cards() == []
    not_spent(pocket, field, card)
    pocket.refuses(field, SMALL)


@pytest.mark.parametrize("columns", [{"state": "CLOSED"}, {"state": "SPENT"}, {"state": "ISSUED"}, {"expires_at_s": 0}])
def test_a_card_that_is_closed_meanwhile(world: World, pocket: Pocket, columns: dict[str, Any]) -> None:
    pocket.open()
    field = pocket.field()
    card = pocket.offered(field, SMALL)
    amend(world, pocket.phone.name, VIRTUAL_CARDS, **columns)
    not_spent(pocket, field, card)
    pocket.refuses(field, SMALL)


def test_a_card_that_is_closed_before_a_retry(world: World, pocket: Pocket) -> None:
    pocket.open()
    field = pocket.field()
    field.spend(pocket.offered(field, SMALL))
    amend(world, pocket.phone.name, VIRTUAL_CARDS, state="CLOSED")
    pocket.refuses(field, SMALL)


def test_a_spent_card_is_retried_only_if_this_opening_read_it(world: World, pocket: Pocket) -> None:
    pocket.open()
    field = pocket.field()
    field.spend(pocket.offered(field, SMALL))
    amend(world, pocket.phone.name, FIELD, read=False)
    pocket.refuses(field, SMALL)


def test_the_end_of_the_counter(world: World, pocket: Pocket) -> None:
    """Two bytes: a card whose counter is at its end answers no more, retries included."""
    pocket.open()
    amend(world, pocket.phone.name, VIRTUAL_CARDS, atc=MAX_ATC - 1)
    field = pocket.field()
    card = pocket.offered(field, SMALL)
    assert card.atc == MAX_ATC
    field.spend(card)
    pocket.refuses(field, SMALL)


def test_a_multi_use_card_counts_openings(world: World, pocket: Pocket) -> None:
    amend(world, pocket.phone.name, VIRTUAL_CARDS, uses=2)
    only = pocket.cards()[0].modulus_digest
    pocket.amend_card(pocket.cards()[1].modulus_digest, state="CLOSED")
    for used, state in ((1, "ACTIVE"), (2, "SPENT")):
        pocket.open()
        for _ in range(2):  # a retry is no further use
            field = pocket.field()
            field.spend(pocket.offered(field, SMALL))
            assert (pocket.opened().modulus_digest, pocket.opened().used, pocket.opened().state) == (only, used, state)
    assert pocket.opened().atc == 4


# --- over the verification limit --------------------------------------------------------------------------------------
def test_over_the_limit_the_phone_is_looked_at_first(world: World, pocket: Pocket) -> None:
    pocket.open(CEILING)
    assert pocket.offered(pocket.field(), LIMIT).device_verified is False
    world.clock.time_s += 10
    shown = pocket.tap_for_pin(LIMIT + 1)
    assert (shown.state, shown.amount_minor, shown.merchant_name) == (OpeningState.EXPECT_PIN, LIMIT + 1, "Shop 1")
    assert shown.expires_at_s == world.clock.now_s() + OPEN_S
    assert {card.state for card in pocket.cards()} == {"ACTIVE"}


def test_taps_do_not_keep_a_card_open(world: World, pocket: Pocket) -> None:
    """The time to look at the phone is given once."""
    pocket.open(CEILING)
    world.clock.time_s += OPEN_S
    ends_at_s = pocket.tap_for_pin(LARGE).expires_at_s
    for _ in range(3):
        world.clock.time_s += OPEN_S // 3
        assert pocket.tap_for_pin(LARGE).expires_at_s == ends_at_s
    world.clock.time_s = ends_at_s + 1
    pocket.refuses(pocket.field(), LARGE)


def test_a_later_tap_replaces_the_one_that_is_shown(pocket: Pocket) -> None:
    pocket.open(CEILING)
    pocket.tap_for_pin(LARGE)
    shown = pocket.tap_for_pin(LARGE + 1, merchant="TAPVEIL00000002", terminal="T0000002", merchant_name="Shop 2")
    assert (shown.amount_minor, shown.merchant, shown.terminal, shown.merchant_name) == (
        LARGE + 1, "TAPVEIL00000002", "T0000002", "Shop 2"
    )  # fmt: skip
    pocket.refuses(pocket.field(), CEILING + 1)
    assert pocket.shown() == shown
    field = pocket.field()
    card = pocket.offered(field, SMALL)  # below the limit nobody has to wait
    assert pocket.shown() == shown
    field.spend(card)
    assert (pocket.shown().state, pocket.shown().amount_minor) == (OpeningState.TAPPED, SMALL)


@pytest.mark.parametrize("another", [{"amount_minor": SMALL}, *ANOTHER[2:]], ids=str)
def test_a_pin_is_for_what_was_shown(world: World, pocket: Pocket, another: dict[str, Any]) -> None:
    set_pin(world, pocket.phone)
    pocket.open(CEILING)
    verify_pin(world, pocket.phone, pocket.tap_for_pin(LARGE))
    pocket.refuses(pocket.field(), **{"amount_minor": LARGE} | another)
    card = pocket.offered(pocket.field(), LARGE)
    assert (card.device_verified, card.retry) == (True, False)


def test_a_pin_is_for_one_opening(world: World, pocket: Pocket) -> None:
    set_pin(world, pocket.phone)
    pocket.open(CEILING)
    verify_pin(world, pocket.phone, pocket.tap_for_pin(LARGE))
    field = pocket.field()
    card = pocket.offered(field, LARGE)
    pocket.open(CEILING)
    not_spent(pocket, field, card)
    before = pocket.row()
    assert (before.verified, before.state) == (False, "OPEN")
    with pytest.raises(SeePhone):
        pocket.offered(field, LARGE)


def test_an_offer_whose_verification_is_gone(world: World, pocket: Pocket) -> None:
    """No command takes it back; a card is given out for a verified opening only, all the same."""
    set_pin(world, pocket.phone)
    pocket.open(CEILING)
    verify_pin(world, pocket.phone, pocket.tap_for_pin(LARGE))
    field = pocket.field()
    card = pocket.offered(field, LARGE)
    amend(world, pocket.phone.name, FIELD, state="EXPECT_PIN", verified=False)
    not_spent(pocket, field, card)


def test_a_verified_tap_is_retried_verified(world: World, pocket: Pocket) -> None:
    set_pin(world, pocket.phone)
    pocket.open(CEILING)
    verify_pin(world, pocket.phone, pocket.tap_for_pin(LARGE))
    for retry in (False, True):
        field = pocket.field()
        card = pocket.offered(field, LARGE)
        assert (card.device_verified, card.retry) == (True, retry)
        field.spend(card)


def test_a_verification_ends_after_a_minute(world: World, pocket: Pocket) -> None:
    set_pin(world, pocket.phone)
    pocket.open(CEILING)
    world.clock.time_s += OPEN_S
    shown = pocket.tap_for_pin(LARGE)
    world.clock.time_s += OPEN_S
    assert verify_pin(world, pocket.phone, shown).expires_at_s == world.clock.now_s() + OPEN_S
    world.clock.time_s += OPEN_S
    pocket.offered(pocket.field(), LARGE)
    world.clock.time_s += 1
    pocket.refuses(pocket.field(), LARGE)


# --- a store in which others write too --------------------------------------------------------------------------------
@dataclass
class Busy:
    """A store whose next units meet another process's writes; `meanwhile` is what that one wrote."""

    store: Any
    conflicts: int
    meanwhile: Unit | None = None
    tried: int = 0

    def read(self, *reads: Any) -> Any:
        return self.store.read(*reads)

    def apply(self, unit: Unit) -> Decision:
        self.tried += 1
        if self.tried <= self.conflicts:
            if self.meanwhile is not None:
                self.store.apply(self.meanwhile)
            raise Conflict("another process")
        decision: Decision = self.store.apply(unit)
        return decision


@pytest.mark.parametrize("conflicts", [1, 2])
def test_a_conflict_is_decided_anew(pocket: Pocket, conflicts: int) -> None:
    pocket.open(CEILING)
    busy = Busy(pocket.party.store, conflicts)
    with pytest.raises(SeePhone):
        pocket.offered(pocket.field(busy), LARGE)
    assert (busy.tried, pocket.row().state) == (conflicts + 1, "EXPECT_PIN")
    busy = Busy(pocket.party.store, conflicts)
    field = pocket.field(busy)
    field.spend(pocket.offered(field, SMALL))
    assert (busy.tried, pocket.opened().atc, pocket.opened().used) == (conflicts + 1, 1, 1)


def test_conflicts_without_end_are_no_tap(world: World, pocket: Pocket) -> None:
    pocket.open(CEILING)
    busy = Busy(pocket.party.store, conflicts=3)
    pocket.refuses(pocket.field(busy), LARGE)
    assert busy.tried == 3
    busy = Busy(pocket.party.store, conflicts=3)
    field = pocket.field(busy)
    not_spent(pocket, field, pocket.offered(field, SMALL))
    assert busy.tried == 3


def test_a_conflict_with_another_reader(pocket: Pocket) -> None:
    """Decided anew, the card is no longer as it was offered."""
    pocket.open()
    change = Update(VIRTUAL_CARDS, replace(pocket.opened(), atc=5))
    other = Unit((), lambda rows: Decision(writes=(change,)))
    busy = Busy(pocket.party.store, conflicts=1, meanwhile=other)
    field = pocket.field(busy)
    card = pocket.offered(field, SMALL)
    with pytest.raises(NotOpen):
        field.spend(card)
    assert (busy.tried, pocket.opened().atc, pocket.opened().state) == (2, 5, "ACTIVE")
