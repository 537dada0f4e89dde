"""OpenCard: which card is opened, for how much and how long, and when none is. A refusal changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.attacker import refused
from support.counter import open_card
from support.customer import LARGE, SMALL, amend
from support.meanwhile import meanwhile
from support.pocket import Pocket
from support.world import PACKAGE, World

from protocol.errors import NoCard, PaymentClosed, UnknownAccount, WrongState
from protocol.messages.se import OpeningState, SeOpenCard, SeOpening
from protocol.roles.se.opening import OPEN_S
from protocol.roles.se.tables import FIELD, OWNERS, SERVICE_KEYS, VIRTUAL_CARDS, VirtualCard
from protocol.roles.wallet import close_service

CARD_LIMIT = 50_000


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, seed="opening")


@pytest.fixture
def pocket(world: World) -> Pocket:
    return Pocket.filled(world)


# --- what is opened ---------------------------------------------------------------------------------------------------
def test_an_opening_is_for_one_card_one_ceiling_and_a_minute(world: World, pocket: Pocket) -> None:
    opening = pocket.open(LARGE)
    assert (opening.state, opening.ceiling_minor, opening.currency) == (OpeningState.OPEN, LARGE, "TWD")
    assert opening.expires_at_s == world.clock.now_s() + OPEN_S
    assert (opening.amount_minor, opening.merchant, opening.terminal, opening.merchant_name) == (0, "", "", "")
    row = pocket.row()
    assert (row.tid, row.verified, row.read, len(row.opening)) == (pocket.tid, False, False, 4)
    assert {card.state for card in pocket.cards()} == {"ACTIVE"}  # opening spends nothing


def test_the_card_that_ends_first_is_used_first(world: World, pocket: Pocket) -> None:
    first = max(pocket.cards(), key=lambda card: card.modulus_digest)
    pocket.amend_card(first.modulus_digest, expires_at_s=first.expires_at_s - 1)
    pocket.open()
    assert pocket.row().card == first.modulus_digest


def test_a_new_opening_replaces_the_old(world: World, pocket: Pocket) -> None:
    pocket.open(LARGE)
    pocket.tap_for_pin(LARGE)
    before = pocket.row()
    opening = pocket.open(SMALL)
    assert (opening.state, opening.ceiling_minor, opening.amount_minor) == (OpeningState.OPEN, SMALL, 0)
    assert pocket.row().opening != before.opening
    assert len(pocket.party.store.scan(FIELD)) == 1


def test_the_same_bytes_open_once(world: World, pocket: Pocket) -> None:
    flow = pocket.phone.wallet.command("OpenCard", SeOpenCard(tid=pocket.tid, ceiling_minor=SMALL), SeOpening)
    call = next(flow)
    first = world.send(pocket.phone, call)
    after = world.snapshot(pocket.phone.name)
    world.clock.time_s += 30
    assert world.send(pocket.phone, call) == first
    assert world.snapshot(pocket.phone.name) == after


# --- closing ----------------------------------------------------------------------------------------------------------
def test_zero_closes_what_is_open(world: World, pocket: Pocket) -> None:
    pocket.open(LARGE)
    pocket.tap_for_pin(LARGE)
    assert pocket.open(0).state is OpeningState.CLOSED
    assert pocket.row().state == "CLOSED"
    assert not pocket.field().is_open()
    assert pocket.open(0).state is OpeningState.CLOSED


def test_closing_where_nothing_was_opened(world: World, pocket: Pocket) -> None:
    assert pocket.open(0).state is OpeningState.CLOSED
    assert pocket.party.store.scan(FIELD) == ()


def test_closing_asks_for_neither_launch_nor_measurement(world: World, pocket: Pocket) -> None:
    pocket.open(SMALL)
    amend(world, pocket.phone.name, OWNERS, open=False)
    pocket.phone.application.write_bytes(PACKAGE + b"changed")
    assert pocket.open(0).state is OpeningState.CLOSED
    with refused(world, PaymentClosed, "PAYMENT_CLOSED"):
        pocket.open(SMALL)


# --- no card ----------------------------------------------------------------------------------------------------------
def test_a_card_for_at_least_the_ceiling(world: World, pocket: Pocket) -> None:
    with refused(world, NoCard, "NO_CARD"):
        pocket.open(CARD_LIMIT + 1)
    assert pocket.open(CARD_LIMIT).ceiling_minor == CARD_LIMIT
    large = min(pocket.cards(), key=lambda card: card.modulus_digest)
    pocket.amend_card(large.modulus_digest, per_use_minor=CARD_LIMIT + 1)
    pocket.open(CARD_LIMIT + 1)
    assert pocket.row().card == large.modulus_digest


@pytest.mark.parametrize("state", ["EXPECT_CARD", "ISSUED", "SPENT", "CLOSED"])
def test_only_active_cards_are_opened(world: World, pocket: Pocket, state: str) -> None:
    amend(world, pocket.phone.name, VIRTUAL_CARDS, state=state)
    with refused(world, NoCard, "NO_CARD"):
        pocket.open(SMALL)
    amend(world, pocket.phone.name, VIRTUAL_CARDS, state="ACTIVE")
    pocket.open(SMALL)


def test_the_last_second_of_a_card(world: World, pocket: Pocket) -> None:
    world.clock.time_s = min(card.expires_at_s for card in pocket.cards())
    with refused(world, NoCard, "NO_CARD"):
        pocket.open(SMALL)
    world.clock.time_s -= 1
    pocket.open(SMALL)


def test_each_purchase_takes_a_card_until_none_is_left(world: World, pocket: Pocket) -> None:
    for _ in pocket.cards():
        pocket.open(SMALL)
        field = pocket.field()
        field.spend(pocket.offered(field, SMALL))
    with refused(world, NoCard, "NO_CARD"):
        pocket.open(SMALL)
    # The last one stays, since nothing took the place of its opening; the one before was destroyed with it.
    assert [(card.state, card.used) for card in pocket.cards()] == [("SPENT", 1)]


# --- a card that is used up is destroyed ------------------------------------------------------------------------------
def _pay(pocket: Pocket) -> VirtualCard:
    """Tap once; the card, now used up."""
    pocket.open(SMALL)
    field = pocket.field()
    field.spend(pocket.offered(field, SMALL))
    card = pocket.opened()
    assert card.state == "SPENT"
    assert card.card_key
    return card


def _digests(pocket: Pocket) -> set[bytes]:
    return {card.modulus_digest for card in pocket.cards()}


@pytest.mark.parametrize("ceiling_minor", [SMALL, 0])
def test_the_next_opening_or_closing_destroys_a_card_that_is_used_up(pocket: Pocket, ceiling_minor: int) -> None:
    """TW-S10. Until then a torn tap is retried with it."""
    others = _digests(pocket)
    gone = _pay(pocket).modulus_digest
    assert pocket.offered(pocket.field(), SMALL).retry
    pocket.open(ceiling_minor)
    assert _digests(pocket) == others - {gone}
    assert {card.state for card in pocket.cards()} == {"ACTIVE"}


def test_a_card_of_another_account_is_destroyed_too(pocket: Pocket) -> None:
    gone = _pay(pocket).modulus_digest
    pocket.amend_card(gone, tid="t-other")
    pocket.open(SMALL)
    assert gone not in _digests(pocket)


def test_cards_that_were_used_up_long_ago_are_destroyed(pocket: Pocket) -> None:
    """Those of a phone that did not yet destroy them."""
    old = max(card.modulus_digest for card in pocket.cards())
    pocket.amend_card(old, state="SPENT")
    pocket.open(SMALL)
    assert old not in _digests(pocket)


def test_an_opening_that_only_ended_keeps_its_card(world: World, pocket: Pocket) -> None:
    gone = _pay(pocket).modulus_digest
    world.clock.time_s += OPEN_S + 1
    pocket.refuses(pocket.field(), SMALL)
    assert gone in _digests(pocket)
    pocket.open(SMALL)
    assert gone not in _digests(pocket)


def test_a_refused_opening_destroys_nothing(world: World, pocket: Pocket) -> None:
    _pay(pocket)
    with refused(world, NoCard, "NO_CARD"):
        pocket.open(CARD_LIMIT + 1)
    amend(world, pocket.phone.name, OWNERS, open=False)
    with refused(world, PaymentClosed, "PAYMENT_CLOSED"):
        pocket.open(SMALL)
    assert pocket.offered(pocket.field(), SMALL).retry


@pytest.mark.parametrize("ceiling_minor", [SMALL, 0])
def test_a_card_that_is_not_used_up_is_kept(world: World, pocket: Pocket, ceiling_minor: int) -> None:
    amend(world, pocket.phone.name, VIRTUAL_CARDS, uses=2)
    held = _digests(pocket)
    pocket.open(SMALL)
    field = pocket.field()
    field.spend(pocket.offered(field, SMALL))
    assert pocket.opened().state == "ACTIVE"
    pocket.open(ceiling_minor)
    assert _digests(pocket) == held


def test_a_card_that_another_tap_used_up_while_the_phone_opens(world: World, pocket: Pocket) -> None:
    """The opening looked while the card was good; what it destroys, it sees in its own unit."""
    gone: list[bytes] = []
    with meanwhile(world, pocket.phone.name, lambda: gone.append(_pay(pocket).modulus_digest)):
        pocket.open(SMALL)
    assert len(gone) == 1
    assert _digests(pocket).isdisjoint(gone)


# --- not allowed to pay -----------------------------------------------------------------------------------------------
def test_payment_is_closed_until_a_good_launch(world: World, pocket: Pocket) -> None:
    amend(world, pocket.phone.name, OWNERS, open=False)
    with refused(world, PaymentClosed, "PAYMENT_CLOSED"):
        pocket.open(SMALL)
    assert world.launch(pocket.phone) == ""
    pocket.open(SMALL)


@pytest.mark.parametrize("place", ["application", "platform"])
def test_what_changed_since_the_launch_does_not_pay(world: World, pocket: Pocket, place: str) -> None:
    """Measured at each opening: no bank is asked, so none is told when its customer pays."""
    phone = pocket.phone
    path = phone.application if place == "application" else next(iter(phone.platform.files.platform.values()))
    good = path.read_bytes()
    path.write_bytes(good + b"changed")
    calls = len(world.calls)
    with refused(world, PaymentClosed, "PAYMENT_CLOSED"):
        pocket.open(SMALL)
    path.write_bytes(good)
    pocket.open(SMALL)
    assert {peer for peer, *_ in world.calls[calls:]} == {phone.name}


def test_a_phone_that_is_being_enrolled_anew(world: World, pocket: Pocket) -> None:
    amend(world, pocket.phone.name, OWNERS, state="EXPECT_CERTIFICATE")
    with refused(world, WrongState, "WRONG_STATE"):
        pocket.open(SMALL)


def test_an_account_that_is_not_there(world: World, pocket: Pocket) -> None:
    for tid in ("t-other", pocket.tid[:-1]):
        with refused(world, UnknownAccount, "UNKNOWN_ACCOUNT"):
            open_card(world, pocket.phone, tid, SMALL)


@pytest.mark.parametrize("state", ["EXPECT_OFFER", "EXPECT_SERVICE", "CLOSED"])
def test_an_account_that_is_not_active(world: World, pocket: Pocket, state: str) -> None:
    amend(world, pocket.phone.name, SERVICE_KEYS, state=state)
    with refused(world, WrongState, "WRONG_STATE"):
        pocket.open(SMALL)
    amend(world, pocket.phone.name, SERVICE_KEYS, state="ACTIVE")
    pocket.open(SMALL)


def test_a_closed_account_opens_nothing(world: World, pocket: Pocket) -> None:
    pocket.open(SMALL)
    field = pocket.field()
    assert field.is_open()
    world.run(pocket.phone, close_service(pocket.phone.wallet, tsm="tsm-1", tid=pocket.tid))
    with refused(world, WrongState, "WRONG_STATE"):
        pocket.open(SMALL)
    pocket.refuses(pocket.field(), SMALL)  # its cards are closed, though the opening is not
    pocket.open(0)
    assert not pocket.field().is_open()


def test_two_openings_at_once(world: World, pocket: Pocket) -> None:
    """Both looked while nothing was open; the later replaces the earlier, and there is one."""
    for later in (LARGE, SMALL):
        with meanwhile(world, pocket.phone.name, lambda: pocket.open(1_000)):
            assert pocket.open(later).ceiling_minor == later
        assert pocket.row().ceiling_minor == later
