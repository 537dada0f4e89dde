"""Cryptograms are for one sale, cards for the uses they were issued with.

Replays and "pre-play": terminals drew unpredictable numbers that were counters, so that cryptograms could be harvested
from a card today and played to an ATM tomorrow (Bond, Choudary, Murdoch, Skorobogatov, Anderson 2014, "Chip and skim:
cloning EMV cards with the pre-play attack"; for contactless, Roland, Langer 2013).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from support.attacker import overwriting, refused
from support.counter import Counter, applet_of, open_card
from support.skimmer import (
    AnyCounter,
    AnyDate,
    AnyMerchant,
    AnyOpening,
    ManyUses,
    OwnCard,
    again,
    applet,
    charged,
    crooked_tap,
    expect,
    loaded,
    seeing,
    shopper,
    weaken,
    won,
)
from support.world import World

from protocol.card.outcome import Kind
from protocol.card.risk import Tvr, encode_tvr
from protocol.errors import NoCard
from protocol.ports import Entropy
from protocol.roles.se.opening import OpenCardStep, OpeningCard
from protocol.roles.se.tables import VIRTUAL_CARDS
from protocol.roles.tsm.tables import CARDS, PURCHASES, SERVICES, TID_LIST
from protocol.rows import Decision, Key, Rows, Table, Unit, Update

SMALL = 9_000
DAY_S = 24 * 3600


# --- replay --------------------------------------------------------------------------------------------------------
def test_the_same_cryptogram_in_a_new_sale(world: World) -> None:
    """Attack: the merchant sends the same data as another sale. Powers: the merchant. Formal: pay (P5, injective).
    Closed by: UNIQUE(PAN, ATC); behind it UNIQUE(PAN, opening), and the card's one use. Each is enough. Variant: with
    none of the three, one tap is paid twice."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    purchase = counter.ask(phone, tid, SMALL)
    assert won(counter, purchase) == SMALL
    expect(counter, again(world, purchase), "ATC_REUSED")
    weaken(world, AnyCounter)
    expect(counter, again(world, purchase), "OPENING_USED")
    weaken(world, AnyCounter, AnyOpening)
    expect(counter, again(world, purchase), "CARD_USED_UP")
    weaken(world, AnyCounter, AnyOpening, ManyUses)
    assert won(counter, again(world, purchase)) == SMALL
    assert charged(world) == 2 * SMALL


class AnySale:
    """A TSM without UNIQUE(merchant, sale)."""

    def decide(self, rows: Rows, facts: Any, now_s: int, entropy: Entropy) -> Decision:
        class Unnamed:
            find = rows.find

            def get(self, table: Table[Any], *key: Any) -> Any:
                return None if table is PURCHASES else rows.get(table, *key)

        return overwriting(super().decide(Unnamed(), facts, now_s, entropy), rows)


def test_the_same_sale_again(world: World) -> None:
    """Attack: the same sale in another request, with the same cryptogram or a new one. Powers: the merchant; also an
    honest one whose till repeats. Closed by: a sale is decided once (SALE_REUSED), and a decline of it writes nothing.
    Variant: a TSM that does not look charges one sale twice, and has lost the first."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    purchase = counter.ask(phone, tid, SMALL)
    assert won(counter, purchase) == SMALL
    other = replace(counter.ask(phone, tid, SMALL), sale=purchase.sale)
    before = world.parties["tsm-1"].store.scan(PURCHASES)
    for repeated in (purchase, other):
        decided = counter.authorize(repeated)
        assert (decided.verdict, decided.response_code) == ("declined", "05")
        assert world.parties["tsm-1"].store.scan(PURCHASES) == before
    assert charged(world) == SMALL

    weaken(world, AnySale)
    assert won(counter, other) == SMALL
    assert (charged(world), counter.row(purchase.sale).amount_minor) == (2 * SMALL, SMALL)


def test_the_same_cryptogram_at_another_merchant(world: World) -> None:
    """Attack: shop-2 sends what shop-1 was paid with, or before shop-1 does. Powers: a merchant that has seen
    another's data. Formal: pay_NOMID. Closed by: merchant and terminal are signed (MERCHANT_MISMATCH); then the ATC.
    Variant: a TSM that does not compare pays shop-2."""
    phone, tid = shopper(world)
    first, second = Counter.open(world), Counter.open(world, 2, "shop-2")
    purchase = first.ask(phone, tid, SMALL)
    expect(second, again(world, purchase), "MERCHANT_MISMATCH")
    assert won(first, purchase) == SMALL
    expect(second, again(world, purchase), "MERCHANT_MISMATCH")
    weaken(world, AnyMerchant)
    expect(second, again(world, purchase), "ATC_REUSED")

    fresh = first.ask(phone, tid, SMALL)
    assert won(second, fresh) == SMALL


# --- pre-play ------------------------------------------------------------------------------------------------------
@dataclass
class Recording:
    """A tap that was harvested, played to any terminal that asks the same commands in any words."""

    trace: list[tuple[bytes, bytes]]

    def reset(self) -> None:
        self._left = [answer for _, answer in self.trace]

    def process(self, command: bytes) -> bytes:
        return self._left.pop(0)


def harvest(rogue: Counter, phone: Any, tid: str, guessed: bytes, day_s: int = 0) -> Recording:
    """A rogue terminal that looks like `rogue` taps an opened phone with the number it guesses, and a date."""
    world = rogue.world
    assert open_card(world, phone, tid, SMALL).ceiling_minor == SMALL
    sale = replace(rogue.sale(SMALL), unpredictable=guessed)
    date = type(sale.date).fromordinal(sale.date.toordinal() + day_s // DAY_S)
    assert rogue.tap(applet_of(world, phone), SMALL, replace(sale, date=date)).online is not None
    return Recording(rogue.trace)


def test_pre_play_with_a_guessed_number(world: World) -> None:
    """Attack: a rogue terminal that shows shop-1's name harvests a cryptogram for a number it guesses, and plays it to
    shop-1's real terminal. Powers: an opened phone at the rogue terminal, which the holder takes for shop-1's. Formal:
    pay (P1, injective). Closed by: four fresh random bytes of the terminal in PDOL, CDOL1 and SDAD. Variant: a terminal
    whose number is a counter takes the recording, and the TSM, to which it looks like a tap, pays."""
    phone, tid = shopper(world)
    shop = Counter.open(world)
    recording = harvest(replace(shop), phone, tid, b"\0\0\0\7")
    ended = shop.tap(recording, SMALL)
    assert (ended.kind, ended.online) == (Kind.DECLINED, None)
    assert ended.tvr == encode_tvr(Tvr.FLOOR_LIMIT_EXCEEDED | Tvr.CDA_FAILED)

    counting = replace(shop.sale(SMALL), unpredictable=b"\0\0\0\7")
    asked = shop.tap(recording, SMALL, counting).online
    assert asked is not None
    assert won(shop, shop.purchase(asked)) == SMALL


def test_pre_play_elsewhere(world: World) -> None:
    """Attack: what was harvested is played at another merchant, at another terminal, or for another amount. Powers: as
    above, and terminals whose numbers are known. Closed by: merchant, terminal and amount are in PDOL and CDOL1 data,
    so the recording's SDAD is over others; the TSM compares them too. Variant: terminals without CDA, and a TSM that
    does not compare, take it anywhere."""
    phone, tid = shopper(world)
    shop, beside, other = Counter.open(world), Counter.open(world, 2), Counter.open(world, 3, "shop-2")
    recording = harvest(shop, phone, tid, b"\0\0\0\7")
    for counter, amount_minor in ((beside, SMALL), (other, SMALL), (shop, SMALL + 1)):
        known = replace(counter.sale(amount_minor), unpredictable=b"\0\0\0\7")
        ended = counter.tap(recording, amount_minor, known)
        assert (ended.kind, ended.tvr) == (Kind.DECLINED, encode_tvr(Tvr.FLOOR_LIMIT_EXCEEDED | Tvr.CDA_FAILED))

    asked = shop.tap(recording, SMALL, replace(shop.sale(SMALL), unpredictable=b"\0\0\0\7")).online
    assert asked is not None
    for counter in (beside, other):
        expect(counter, counter.purchase(asked), "MERCHANT_MISMATCH")
    weaken(world, AnyMerchant)
    assert won(other, other.purchase(asked)) == SMALL


def test_pre_play_on_a_later_day(world: World) -> None:
    """Attack: what was harvested today is played three days later, to a terminal whose numbers can be foretold (Bond et
    al. 2014). Powers: as above. Closed by: the date is in CDOL1: a terminal of another day refuses the SDAD, and the
    TSM takes one day more or less (DATE_IMPLAUSIBLE). Variant: a TSM that takes any date pays. A date that was foretold
    with the number passes the TSM; then the terminal's random number is what is left."""
    phone, tid = shopper(world)
    shop = Counter.open(world)
    sale = replace(shop.sale(SMALL), unpredictable=b"\0\0\0\7")
    recording = harvest(shop, phone, tid, sale.unpredictable)
    foretold = harvest(shop, phone, tid, sale.unpredictable, day_s=3 * DAY_S)
    world.clock.time_s += 3 * DAY_S
    today = replace(shop.sale(SMALL), unpredictable=sale.unpredictable)
    assert shop.tap(recording, SMALL, today).kind is Kind.DECLINED
    # A terminal whose clock stands still, or a merchant who kept the data.
    asked = shop.tap(recording, SMALL, sale).online
    assert asked is not None
    expect(shop, shop.purchase(asked), "DATE_IMPLAUSIBLE")
    weaken(world, AnyDate)
    assert won(shop, shop.purchase(asked)) == SMALL

    weaken(world)
    assert shop.tap(foretold, SMALL).kind is Kind.DECLINED
    asked = shop.tap(foretold, SMALL, today).online
    assert asked is not None
    assert won(shop, shop.purchase(asked)) == SMALL


# --- limits of a card ----------------------------------------------------------------------------------------------
class SpentToo(OpenCardStep):
    """An SE that opens a card which was used before."""

    def decide(self, rows: Rows, facts: OpeningCard, now_s: int, entropy: Entropy) -> Decision:
        class Unspent:
            get = rows.get

            def find(self, table: Any, column: str, value: Any) -> Any:
                found = rows.find(table, column, value)
                return tuple(replace(row, state="ACTIVE") for row in found) if table is VIRTUAL_CARDS else found

        return super().decide(Unspent(), facts, now_s, entropy)


def test_a_spent_card_at_another_opening(world: World) -> None:
    """Attack: a wallet opens a single-use card again, which links two purchases and spends what was not issued. Powers:
    the wallet app; then the owner of a broken SE. Closed by: the SE has no card to open (NO_CARD); the TSM counts uses
    too (CARD_USED_UP). Variant: an owner with the card's keys at a TSM that does not count buys twice with it."""
    phone, tid = shopper(world, number=1)
    counter = Counter.open(world)
    assert won(counter, counter.ask(phone, tid, SMALL)) == SMALL
    with refused(world, NoCard, "NO_CARD"):
        open_card(world, phone, tid, SMALL)

    world.swap_step(phone.name, SpentToo(world.parties[phone.name].value))
    open_card(world, phone, tid, SMALL)
    assert counter.tap(applet_of(world, phone), SMALL).kind is Kind.END_APPLICATION

    broken = applet(world, OwnCard(loaded(phone)))
    expect(counter, crooked_tap(counter, broken, SMALL).purchase(counter), "CARD_USED_UP")
    broken = applet(world, OwnCard(loaded(phone, atc=9)))
    weaken(world, ManyUses)
    assert won(counter, crooked_tap(counter, broken, SMALL).purchase(counter)) == SMALL


def test_more_than_a_card_is_for(world: World) -> None:
    """Attack: a purchase over what a card may pay at once, or in total. Powers: the wallet app; then the owner of a
    broken SE, who makes the card say that a PIN was entered. Closed by: the SE opens no card for more (NO_CARD); the
    TSM holds each purchase against the card's controls (CN-3). Variant: a TSM that does not look pays."""
    phone, tid = shopper(world, number=1)
    counter = Counter.open(world)
    with refused(world, NoCard, "NO_CARD"):
        open_card(world, phone, tid, 50_001)

    def ask(atc: int, amount_minor: int) -> Any:
        card = loaded(phone, atc=atc, opening=atc.to_bytes(4, "big"), device_verified=True)
        return crooked_tap(counter, applet(world, OwnCard(card)), amount_minor).purchase(counter)

    expect(counter, ask(1, 50_001), "OVER_CARD_AMOUNT")
    weaken(world, seeing(CARDS, per_use_minor=10**9))
    expect(counter, ask(2, 50_001), "OVER_CARD_TOTAL")
    weaken(world, ManyUses)
    assert won(counter, ask(3, 30_000)) == 30_000
    expect(counter, ask(4, 30_000), "OVER_CARD_TOTAL")
    weaken(world, seeing(CARDS, uses=1000, per_use_minor=10**9, total_minor=10**9))
    assert won(counter, ask(5, 50_001)) == 50_001


def test_more_than_an_account_is_for(world: World) -> None:
    """Attack: cards of before spend more than their owner's maximum of today, or all cards together more than the
    grant. Powers: the wallet app, with cards issued when there was room. Closed by: grant and maximum are held against
    each purchase under the account's lock (CN-7, TID-0). Variants: a TSM that does not look pays."""
    phone, tid = shopper(world, number=4)
    counter = Counter.open(world)
    have(world, SERVICES, maximum_minor=SMALL - 1)
    expect(counter, counter.ask(phone, tid, SMALL), "OVER_OWN_MAXIMUM")
    weaken(world, seeing(SERVICES, maximum_minor=0))
    assert won(counter, counter.ask(phone, tid, SMALL)) == SMALL

    have(world, SERVICES, maximum_minor=0)
    have(world, TID_LIST, aid_limit_minor=2 * SMALL - 1)
    weaken(world)
    expect(counter, counter.ask(phone, tid, SMALL), "OVER_BALANCE")
    weaken(world, seeing(TID_LIST, aid_limit_minor=10**9))
    assert won(counter, counter.ask(phone, tid, SMALL)) == SMALL


def have(world: World, table: Table[Any], **values: Any) -> None:
    """The TSM's one row of this table says this."""
    store = world.parties["tsm-1"].store
    (row,) = store.scan(table)
    change = Update(table, replace(row, **values))
    store.apply(Unit((Key(table, table.key_of(row)),), lambda rows: Decision(writes=(change,))))
