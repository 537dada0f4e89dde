"""Relay: what the design limits, and what it cannot.

Whoever carries APDUs between a phone and a far terminal fast enough makes them meet (Drimer, Murdoch 2007, "Keep your
enemies close"; Francis, Hancke, Mayes, Markantonakis 2010, for NFC phones; Radu, Chothia, Newton, Boureanu, Chen 2022,
"Practical EMV relay protection"). No message tells a relayed tap from a near one, and a phone's answers take too
uneven a time for distance bounding. Here a relay needs a phone that its holder has just opened; it pays a merchant that
the phone names, at most the ceiling, once. docs/threat-model.md says so.
"""

from __future__ import annotations

from support.counter import Counter, applet_of, open_card, set_pin, verify_pin
from support.skimmer import AnyTap, NobodyAsked, NoCeiling, NoLimit, Wedge, charged, expect, phone_applet, shopper, won
from support.world import World

from protocol.card import outcome
from protocol.messages.se import OpeningState
from protocol.roles.se.opening import OPEN_S

SMALL, LARGE = 9_000, 25_000


def relayed(card: object) -> Wedge:
    """A mole at the phone and a proxy at the terminal: everything passes, nothing is altered."""
    return Wedge(card)


def test_a_phone_that_is_not_open_cannot_be_relayed(world: World) -> None:
    """Attack: a mole in the crowd, a proxy at a till. Powers: network at the counter. Formal: pay (P7). Limited by: a
    closed phone answers nobody. Variant: a phone that asks nobody pays for what the proxy buys."""
    phone, _ = shopper(world)
    counter = Counter.open(world)
    assert counter.tap(relayed(applet_of(world, phone)), SMALL) == outcome.END_APPLICATION

    asked = counter.tap(relayed(phone_applet(world, phone, NobodyAsked)), SMALL).online
    assert asked is not None
    assert won(counter, counter.purchase(asked)) == SMALL


def test_a_relay_names_its_merchant_on_the_phone(world: World) -> None:
    """Attack: the holder opens the phone at shop-1, whose terminal is a mole, and the tap is relayed to shop-2. Powers:
    network at the counter. Formal: pay (P3). Limited by: the phone shows whom it pays, and above the limit it shows it
    before anything is paid. Nobody is paid whom the phone does not name."""
    phone, tid = shopper(world)
    set_pin(world, phone)
    far = Counter.open(world, 2, "shop-2")
    open_card(world, phone, tid, LARGE)
    assert far.tap(relayed(applet_of(world, phone)), LARGE) == outcome.SEE_PHONE
    shown = far.opening(phone)
    assert (shown.state, shown.merchant_name, shown.amount_minor) == (OpeningState.EXPECT_PIN, "Shop 2", LARGE)
    # The holder is at shop-1 and does not enter the PIN: nothing was given away, and the opening ends.
    assert far.tap(relayed(applet_of(world, phone)), LARGE) == outcome.SEE_PHONE
    world.clock.time_s += OPEN_S + 1
    assert far.tap(relayed(applet_of(world, phone)), LARGE) == outcome.END_APPLICATION
    assert charged(world) == 0

    open_card(world, phone, tid, LARGE)
    asked = far.tap(relayed(phone_applet(world, phone, NoLimit)), LARGE).online
    assert asked is not None
    # Without the limit on the phone the far terminal has its data at once; the TSM asks for the PIN too.
    expect(far, far.purchase(asked), "VERIFICATION_MISSING")


def test_a_relay_is_held_to_the_ceiling(world: World) -> None:
    """Attack: the proxy buys for more than the holder opened the phone for. Powers: network at the counter. Limited by:
    the ceiling. Variant: a field that does not look at it."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    open_card(world, phone, tid, SMALL)
    assert counter.tap(relayed(applet_of(world, phone)), SMALL + 1) == outcome.END_APPLICATION

    asked = counter.tap(relayed(phone_applet(world, phone, NoCeiling)), SMALL + 1).online
    assert asked is not None
    assert won(counter, counter.purchase(asked)) == SMALL + 1


def test_a_relay_pays_once(world: World) -> None:
    """Attack: one opening is relayed to two tills, or twice to one. Powers: network at the counter. Formal:
    pay_RETRY_UNIQOP. Limited by: one opening serves one merchant, terminal and amount, and one authorization. Variant:
    a field that does not compare serves the second till (where the first did not ask)."""
    phone, tid = shopper(world)
    first, second = Counter.open(world), Counter.open(world, 2, "shop-2")
    open_card(world, phone, tid, SMALL)
    card = relayed(applet_of(world, phone))
    asked, once_more = first.tap(card, SMALL).online, first.tap(card, SMALL).online
    assert asked is not None
    assert once_more is not None
    assert second.tap(card, SMALL) == outcome.END_APPLICATION

    elsewhere = second.tap(relayed(phone_applet(world, phone, AnyTap)), SMALL).online
    assert elsewhere is not None
    assert won(second, second.purchase(elsewhere)) == SMALL
    for late in (asked, once_more):
        expect(first, first.purchase(late), "OPENING_USED")


def test_a_relayed_tap_of_an_opened_phone_is_paid(world: World) -> None:
    """The limit of the design, stated: the holder opens the phone at shop-1; its terminal, a mole, relays the tap to an
    honest till of shop-2 within the minute, below the verification limit. The phone shows "Shop 2", and shop-2 is paid
    before its holder can have read it. Above the limit it takes a holder who enters the PIN under another's name."""
    phone, tid = shopper(world)
    set_pin(world, phone)
    far = Counter.open(world, 2, "shop-2")
    open_card(world, phone, tid, SMALL)
    world.clock.time_s += OPEN_S - 1
    asked = far.tap(relayed(applet_of(world, phone)), SMALL).online
    assert asked is not None
    assert far.opening(phone).merchant_name == "Shop 2"
    assert won(far, far.purchase(asked)) == SMALL

    open_card(world, phone, tid, LARGE)
    card = relayed(applet_of(world, phone))
    assert far.tap(card, LARGE) == outcome.SEE_PHONE
    verify_pin(world, phone, far.opening(phone))
    asked = far.tap(card, LARGE).online
    assert asked is not None
    assert won(far, far.purchase(asked)) == LARGE
