"""What the cardholder agreed to is what is paid: this amount, currency, merchant and terminal, once, and now.

A card cannot show what it signs, so a false terminal can show one amount and charge another (Drimer, Murdoch 2007,
"Keep your enemies close"); and readers take high amounts out of pockets (Emms, Arief, Freitas, Hannon, van Moorsel
2014, "Harvesting high value foreign currency transactions"). The phone shows PDOL data and signs them; TW-S2, TW-S3.
"""

from __future__ import annotations

import pytest
from support.attacker import refused
from support.counter import PIN, Counter, applet_of, changed, open_card, set_pin, verify_pin
from support.skimmer import (
    AnyTap,
    NobodyAsked,
    NoCeiling,
    NoComparison,
    NoConsent,
    NoCryptogram,
    NoSignature,
    NoTime,
    again,
    bcd,
    crooked_tap,
    expect,
    phone_applet,
    shopper,
    weaken,
    with_said,
    with_shown,
    won,
)
from support.world import World

from protocol.card import outcome, profile
from protocol.card.apdu import Command, Ins
from protocol.card.applet import Applet
from protocol.card.combined import CryptogramType
from protocol.card.cvr import Cvr
from protocol.card.directory import PPSE, PSE
from protocol.card.selection import select
from protocol.errors import FieldMismatch
from protocol.messages.se import OpeningState, SeOpening, SeVerifyPin
from protocol.ports import Entropy
from protocol.roles.se.opening import OPEN_S, SLOT
from protocol.roles.se.pin import Verifying, VerifyPinStep
from protocol.roles.se.tables import FIELD, VIRTUAL_CARDS
from protocol.rows import Decision, Rows

SMALL, LARGE = 9_000, 25_000


# --- between what was shown and what is signed ---------------------------------------------------------------------
@pytest.mark.parametrize(
    ("tag", "value"),
    [
        (0x9F02, bcd(SMALL + 1)), (0x5F2A, b"\x08\x40"), (0x9F16, b"TAPVEIL00000009"), (0x9F1C, b"T0000009"),
        (0x9F37, b"\1\2\3\4"), (0x9F03, bcd(1)),
    ],
    ids=["amount", "currency", "merchant", "terminal", "number", "cash back"],
)  # fmt: skip
def test_changed_between_showing_and_signing(world: World, tag: int, value: bytes) -> None:
    """Attack: the terminal says one thing in the PDOL data, which the phone shows, and another in CDOL1, which the
    cryptogram is over. Powers: the merchant. Formal: pay_NOMID. Closed by: the card compares and answers AAC; the TSM
    compares too. The variant is below."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    open_card(world, phone, tid, SMALL)
    taken = crooked_tap(counter, applet_of(world, phone), SMALL, says={tag: value})
    assert (taken.given.kind, taken.cvr) == (CryptogramType.AAC, Cvr.CONSENT_MISMATCH)
    expect(counter, taken.purchase(counter), "NOT_ONLINE")

    open_card(world, phone, tid, SMALL)
    loose = phone_applet(world, phone, kind=NoComparison)
    expect(counter, crooked_tap(counter, loose, SMALL, says={tag: value}).purchase(counter), "CONSENT_MISMATCH")


def test_without_both_comparisons_another_amount_is_paid(world: World) -> None:
    """Variant of the above: a card that does not compare, and a TSM that takes the amount from CDOL1, as issuers do,
    and does not compare either. The phone shows 90.00, and 190.00 are paid."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    open_card(world, phone, tid, SMALL)
    loose = phone_applet(world, phone, kind=NoComparison)
    taken = crooked_tap(counter, loose, SMALL, says={0x9F02: bcd(SMALL + 10_000)})
    assert counter.opening(phone).amount_minor == SMALL
    weaken(world, NoConsent)
    assert won(counter, taken.purchase(counter)) == SMALL + 10_000


# --- after signing -------------------------------------------------------------------------------------------------
ALTERED = {
    "amount": {"t9F02": bcd(SMALL + 10_000)}, "currency": {"t5F2A": b"\x08\x40"},
    "merchant": {"t9F16": b"TAPVEIL00000009"}, "terminal": {"t9F1C": b"T0000009"}, "number": {"t9F37": b"\1\2\3\4"},
}  # fmt: skip


@pytest.mark.parametrize("values", ALTERED.values(), ids=ALTERED)
def test_changed_after_signing(world: World, values: dict[str, bytes]) -> None:
    """Attack: the data are altered on the way to the TSM: in one list, in the other, in both alike. Powers: the
    merchant. Formal: pay_NOMID. Closed by: the lists must agree (CONSENT_MISMATCH), and both are under the SDAD."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    honest = counter.ask(phone, tid, SMALL)
    shown, said = with_shown(honest.pdol_data, **values), with_said(honest.cdol_data, **values)
    expect(counter, changed(again(world, honest), pdol_data=shown), "CONSENT_MISMATCH")
    expect(counter, changed(again(world, honest), cdol_data=said), "CONSENT_MISMATCH")
    expect(counter, changed(again(world, honest), pdol_data=shown, cdol_data=said), "SIGNATURE_INVALID")
    assert won(counter, honest) == SMALL


def test_without_signature_and_cryptogram_any_amount_is_paid(world: World) -> None:
    """Variant of the above, in both lists alike: with the SDAD alone or the ARQC alone it is refused; with neither the
    merchant has 190.00 for 90.00."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    honest = counter.ask(phone, tid, SMALL)
    raised = {"t9F02": bcd(SMALL + 10_000)}
    forged = changed(
        honest, pdol_data=with_shown(honest.pdol_data, **raised), cdol_data=with_said(honest.cdol_data, **raised)
    )
    weaken(world, NoCryptogram)
    expect(counter, again(world, forged), "SIGNATURE_INVALID")
    weaken(world, NoSignature)
    expect(counter, again(world, forged), "CRYPTOGRAM_INVALID")
    weaken(world, NoSignature, NoCryptogram)
    assert won(counter, forged) == SMALL + 10_000


def test_the_shown_name_changed_after_signing(world: World) -> None:
    """Attack: the terminal shows "Red Cross" in 9F4E and forwards its own registered name, which no cryptogram covers.
    Powers: the merchant. Formal: pay_NONAME. Closed by: PDOL data are under the SDAD, and only there. Variant: a TSM
    without SDAD believes that the phone showed the registered name."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    open_card(world, phone, tid, SMALL)
    taken = crooked_tap(counter, applet_of(world, phone), SMALL, shows={0x9F4E: b"Red Cross".ljust(40, b"\0")})
    assert counter.opening(phone).merchant_name == "Red Cross"
    registered = with_shown(taken.pdol_data, t9F4E=b"Shop 1".ljust(40, b"\0"))
    expect(counter, taken.purchase(counter), "MERCHANT_MISMATCH")
    taken = crooked_tap(counter, applet_of(world, phone), SMALL, shows={0x9F4E: b"Red Cross".ljust(40, b"\0")})
    forged = taken.purchase(counter, pdol_data=registered[:-4] + taken.pdol_data[-4:])
    expect(counter, forged, "SIGNATURE_INVALID")

    weaken(world, NoSignature)
    assert won(counter, again(world, forged)) == SMALL


# --- between two taps ----------------------------------------------------------------------------------------------
def test_raised_between_first_and_second_tap(world: World) -> None:
    """Attack: the phone shows 250.00, its holder enters the PIN, and the second tap is for 450.00. Powers: the
    merchant. Formal: pay_NOCMP. Closed by: only a tap identical with the shown one is answered. Variant: a field that
    does not compare, and the raised amount is paid, verified."""
    phone, tid = shopper(world)
    set_pin(world, phone)
    counter = Counter.open(world)
    open_card(world, phone, tid, LARGE)
    card = applet_of(world, phone)
    assert counter.tap(card, LARGE) == outcome.SEE_PHONE
    verify_pin(world, phone, counter.opening(phone))
    before = world.snapshot(phone.name)
    for amount_minor in (LARGE + 20_000, LARGE + 1, LARGE - 1):
        assert counter.tap(card, amount_minor) == outcome.END_APPLICATION
        assert counter.trace[-1][1].hex() == "6985"
    assert world.snapshot(phone.name) == before

    asked = counter.tap(phone_applet(world, phone, AnyTap), LARGE + 20_000).online
    assert asked is not None
    assert won(counter, counter.purchase(asked)) == LARGE + 20_000


class AnyTapShown(VerifyPinStep):
    """An SE that takes the PIN for whatever tap came last."""

    def decide(self, rows: Rows, facts: Verifying, now_s: int, entropy: Entropy) -> Decision:
        asked = rows.get(FIELD, SLOT)
        assert asked is not None
        command = SeVerifyPin(
            pin=facts.command.pin, amount_minor=asked.amount_minor, currency=asked.currency, merchant=asked.merchant,
            terminal=asked.terminal,
        )  # fmt: skip
        return super().decide(rows, Verifying(command=command, entry=facts.entry), now_s, entropy)


def test_a_pin_entered_for_another_tap_than_shown(world: World) -> None:
    """Attack: while the holder reads 210.00 and types, the terminal taps again for 450.00, so that the PIN falls on
    that. Powers: the merchant, within reach of the phone. Formal: pay_NOCMP. Closed by: the PIN comes with what the
    person saw, and another tap since is FIELD_MISMATCH; no try is counted. Variant: an SE that takes it for the last
    tap, and 450.00 are paid with a PIN for 210.00."""
    phone, tid = shopper(world)
    set_pin(world, phone)
    counter = Counter.open(world)
    open_card(world, phone, tid, 45_000)
    card = applet_of(world, phone)
    assert counter.tap(card, 21_000) == outcome.SEE_PHONE
    seen = counter.opening(phone)
    assert counter.tap(card, 45_000) == outcome.SEE_PHONE
    with refused(world, FieldMismatch, "FIELD_MISMATCH"):
        verify_pin(world, phone, seen)
    assert counter.opening(phone).state is OpeningState.EXPECT_PIN

    world.swap_step(phone.name, AnyTapShown(world.parties[phone.name].value))
    command = SeVerifyPin(
        pin=PIN, amount_minor=seen.amount_minor, currency=seen.currency, merchant=seen.merchant, terminal=seen.terminal
    )
    world.run(phone, phone.wallet.command("VerifyPin", command, SeOpening))
    asked = counter.tap(card, 45_000).online
    assert asked is not None
    assert won(counter, counter.purchase(asked)) == 45_000


# --- without an opening --------------------------------------------------------------------------------------------
def probes() -> list[Command]:
    """Every command that a reader may try on a phone in a pocket."""
    pdol_data = profile.PDOL.build({})
    names = (PPSE, PSE, profile.AID, profile.RID, b"", bytes(16))
    return [
        *(select(name) for name in names),
        Command(cla=0x80, ins=Ins.GET_PROCESSING_OPTIONS, p1=0, p2=0, data=b"\x83\x4b" + pdol_data, le=256),
        Command(cla=0, ins=Ins.READ_RECORD, p1=1, p2=0x14, le=256),
        Command(cla=0x80, ins=Ins.GET_DATA, p1=0x9F, p2=0x36, le=256),
        Command(cla=0x80, ins=Ins.GENERATE_AC, p1=0x90, p2=0, data=bytes(profile.CDOL1.data_length), le=256),
        Command(cla=0, ins=Ins.INTERNAL_AUTHENTICATE, p1=0, p2=0, data=bytes(4), le=256),
        Command(cla=0, ins=Ins.VERIFY, p1=0, p2=0x80, data=bytes(8)),
    ]


def closed(counter: Counter, card: Applet) -> None:
    """The phone is as one without a payment card to every command, and a kernel ends."""
    card.reset()
    answers = [card.process(command.to_bytes()).hex() for command in probes()]
    assert answers == ["6a82"] * 6 + ["6985"] * 6
    assert counter.tap(card, SMALL) == outcome.END_APPLICATION


def test_a_tap_that_nobody_opened(world: World) -> None:
    """Attack: a reader in the crowd takes payments from phones in pockets (Emms et al. 2014). Powers: a terminal near
    the phone. Formal: pay (P7). Closed by: every command is answered 6A82 or 6985 until the cardholder opens a card,
    and again when they closed it. Variant: a phone that asks nobody pays."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    card = applet_of(world, phone)
    before = world.snapshot(phone.name)
    closed(counter, card)
    assert world.snapshot(phone.name) == before

    asked = counter.tap(phone_applet(world, phone, NobodyAsked), SMALL).online
    assert asked is not None
    assert won(counter, counter.purchase(asked)) == SMALL

    open_card(world, phone, tid, SMALL)
    open_card(world, phone, tid, 0)
    closed(counter, applet_of(world, phone))


def test_an_opening_that_is_over(world: World) -> None:
    """Attack: a phone that was opened and put away is read later. Powers: a terminal near the phone. Formal: pay (P7),
    without time. Closed by: an opening lasts a minute, and taps that want the PIN prolong it once. Variant: a field
    without a clock pays an hour later."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    open_card(world, phone, tid, SMALL)
    world.clock.time_s += OPEN_S + 1
    closed(counter, applet_of(world, phone))

    world.clock.time_s += 3600
    asked = counter.tap(phone_applet(world, phone, NoTime), SMALL).online
    assert asked is not None
    assert won(counter, counter.purchase(asked)) == SMALL

    open_card(world, phone, tid, LARGE)
    card = applet_of(world, phone)
    for _ in range(3):
        world.clock.time_s += 25
        counter.tap(card, LARGE)
    assert counter.opening(phone).state is OpeningState.EXPECT_PIN
    world.clock.time_s += 11
    closed(counter, card)


def test_more_than_the_ceiling(world: World) -> None:
    """Attack: the holder opened the phone for up to 90.00, the terminal asks 190.00. Powers: the merchant. Closed by:
    the SE answers 6985, and the card stays unread. Variant: a field that does not look at the ceiling."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    open_card(world, phone, tid, SMALL)
    before = world.snapshot(phone.name)
    for amount_minor in (SMALL + 10_000, SMALL + 1):
        assert counter.tap(applet_of(world, phone), amount_minor) == outcome.END_APPLICATION
        assert counter.trace[-1][1].hex() == "6985"
    assert world.snapshot(phone.name) == before
    assert {card.state for card in world.parties[phone.name].store.scan(VIRTUAL_CARDS)} == {"ACTIVE"}

    asked = counter.tap(phone_applet(world, phone, NoCeiling), SMALL + 10_000).online
    assert asked is not None
    assert won(counter, counter.purchase(asked)) == SMALL + 10_000


def test_a_second_merchant_within_one_opening(world: World) -> None:
    """Attack: after the phone was tapped at one shop, a reader beside it taps for another within the same minute.
    Powers: a second merchant's terminal near the phone. Formal: pay_NOCMP. Closed by: a used opening answers the same
    merchant, terminal, amount and currency only. Variant: a field that does not compare; shop-2 is paid, by a consent
    given to shop-1 (which did not send its own)."""
    phone, tid = shopper(world)
    first, second = Counter.open(world), Counter.open(world, 2, "shop-2")
    card = applet_of(world, phone)
    open_card(world, phone, tid, SMALL)
    assert first.tap(card, SMALL).online is not None
    before = world.snapshot(phone.name)
    assert second.tap(card, SMALL) == outcome.END_APPLICATION
    assert second.trace[-1][1].hex() == "6985"
    assert world.snapshot(phone.name) == before

    asked = second.tap(phone_applet(world, phone, AnyTap), SMALL).online
    assert asked is not None
    assert won(second, second.purchase(asked)) == SMALL
