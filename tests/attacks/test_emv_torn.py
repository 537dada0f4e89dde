"""A tap that is said to be torn: one opening gives at most one authorization, however often it is tapped.

Transactions that were cut off are taken up again by specification (EMV Contactless Book C-2, "torn transaction"), and
whoever may say that a tap was torn may ask twice. Design §3 PAY gives each opening a number, in the CVR's issuer data,
under ARQC and SDAD; formal: pay_RETRY_UNIQOP.
"""

from __future__ import annotations

from support.counter import Counter, applet_of, changed, open_card
from support.skimmer import (
    AnyOpening,
    ManyUses,
    NoCryptogram,
    NoSignature,
    charged,
    expect,
    shopper,
    weaken,
    won,
)
from support.world import Phone, World

from protocol.card.cvr import Cvr, IssuerData
from protocol.messages.pay import EmvPurchase
from protocol.roles.tsm.authorize import AuthorizeBatchStep

SMALL = 9_000


def torn_twice(world: World, counter: Counter, phone: Phone, tid: str) -> tuple[EmvPurchase, EmvPurchase]:
    """One consent, two whole taps: the merchant says that the first was torn."""
    open_card(world, phone, tid, SMALL)
    card = applet_of(world, phone)
    taps = []
    for _ in range(2):
        asked = counter.tap(card, SMALL).online
        assert asked is not None
        taps.append(counter.purchase(asked))
    first, second = taps
    assert first.atc + 1 == second.atc
    assert first.issuer_data[6:] == second.issuer_data[6:]
    assert [bool(IssuerData.from_bytes(tap.issuer_data).cvr & Cvr.RETRY) for tap in taps] == [False, True]
    return first, second


def test_a_feigned_torn_tap(world: World) -> None:
    """Attack: the terminal had its cryptogram, says "torn, once more please", and asks for both. Powers: the merchant.
    Formal: pay_RETRY (two payments, one consent). Closed by: UNIQUE(PAN, opening); with single-use cards the card's one
    use too. Variant: with neither, the merchant is paid twice on one consent."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    first, second = torn_twice(world, counter, phone, tid)
    assert won(counter, first) == SMALL
    # Of a card with many uses this alone is in the way.
    weaken(world, ManyUses)
    expect(counter, second, "OPENING_USED")
    weaken(world, AnyOpening)
    third = another_tap(world, counter, phone)
    expect(counter, third, "CARD_USED_UP")
    fourth = another_tap(world, counter, phone)
    weaken(world, AnyOpening, ManyUses)
    assert won(counter, fourth) == SMALL
    assert charged(world) == 2 * SMALL


def another_tap(world: World, counter: Counter, phone: Phone) -> EmvPurchase:
    """Yet another "retry" in the same opening."""
    asked = counter.tap(applet_of(world, phone), SMALL).online
    assert asked is not None
    return counter.purchase(asked)


def test_a_feigned_torn_tap_in_the_other_order(world: World) -> None:
    """Attack: the retry is sent first, then the tap that was said to be torn. Powers: the merchant. Formal:
    pay_RETRY_UNIQOP. Closed by: the opening's number is one for all taps; which one comes first does not matter."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    first, second = torn_twice(world, counter, phone, tid)
    weaken(world, ManyUses)
    assert won(counter, second) == SMALL
    expect(counter, first, "OPENING_USED")


def test_two_taps_of_one_opening_in_one_batch(world: World) -> None:
    """Attack: both taps in one AuthorizeBatch, where the table does not show the first yet. Powers: the merchant.
    Formal: pay_RETRY_UNIQOP. Closed by: purchases of a batch are decided in order, each seeing those before. Variant: a
    batch without UNIQUE(PAN, opening) approves both."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    first, second = torn_twice(world, counter, phone, tid)
    weaken(world, ManyUses, step=AuthorizeBatchStep)
    decided = counter.authorize_batch(first, second)
    assert [(each.verdict, each.response_code) for each in decided] == [("approved", "00"), ("declined", "05")]
    assert (counter.reason(second.sale), charged(world)) == ("OPENING_USED", SMALL)

    pair = torn_twice(world, counter, phone, tid)
    weaken(world, ManyUses, AnyOpening, step=AuthorizeBatchStep)
    assert [each.verdict for each in counter.authorize_batch(*pair)] == ["approved", "approved"]
    assert charged(world) == 3 * SMALL


def test_a_second_authorization_after_a_reversal(world: World) -> None:
    """Attack: the merchant takes the first back, which frees the amount, and asks for the second tap later, when the
    cardholder has gone. Powers: the merchant. Closed by: a reversed purchase keeps its opening and its use. Variant: as
    above, the second is paid on a consent that was settled."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    first, second = torn_twice(world, counter, phone, tid)
    assert won(counter, first) == SMALL
    assert counter.reverse(first.sale).amount_minor == SMALL
    weaken(world, ManyUses)
    expect(counter, second, "OPENING_USED")
    assert charged(world) == 0
    weaken(world, AnyOpening, ManyUses)
    assert won(counter, another_tap(world, counter, phone)) == SMALL


def test_an_opening_with_another_number(world: World) -> None:
    """Attack: the merchant writes another opening into 9F10 of the second tap. Powers: the merchant. Formal:
    pay_CVROUT. Closed by: 9F10 is under SDAD and ARQC, each enough. Variant: a TSM without both takes the second tap
    for another consent (of a card with more than one use)."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    first, second = torn_twice(world, counter, phone, tid)
    assert won(counter, first) == SMALL
    forged = changed(second, issuer_data=second.issuer_data[:6] + b"\1\2\3\4")
    weaken(world, ManyUses)
    expect(counter, forged, "SIGNATURE_INVALID")
    weaken(world, ManyUses, NoSignature)
    expect(counter, changed(forged, sale=b"s" * 16), "CRYPTOGRAM_INVALID")
    weaken(world, ManyUses, NoSignature, NoCryptogram)
    assert won(counter, changed(forged, sale=b"t" * 16)) == SMALL


def test_a_truly_torn_tap_is_paid_once(world: World) -> None:
    """Not an attack, but what the defence must leave: a tap whose answer was lost is repeated, and paid."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    _, second = torn_twice(world, counter, phone, tid)
    assert won(counter, second) == SMALL
