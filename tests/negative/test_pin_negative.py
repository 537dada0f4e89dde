"""The PIN in the secure element: five wrong entries lock it, the bank's word reopens it once; TW-G3a, TW-G3b, CN-4."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.attacker import refused
from support.counter import PIN, set_pin, verify_pin
from support.customer import LARGE, amend
from support.meanwhile import meanwhile
from support.pocket import Pocket
from support.tape import pin_word
from support.world import World

from protocol import envelope
from protocol.envelope import Signer, Stamp
from protocol.errors import (
    Expired,
    FactorLocked,
    FieldMismatch,
    Malformed,
    NotYetValid,
    Oversize,
    PinInvalid,
    PinWeak,
    ProtocolError,
    Replay,
    SignatureInvalid,
    UnknownAccount,
    UnknownKey,
    WrongAudience,
    WrongIssuer,
    WrongMessage,
    WrongState,
)
from protocol.messages.enroll import PinReopening
from protocol.messages.se import OpeningState, SePin, SeReopenPin, SeSetPin
from protocol.roles.se.opening import OPEN_S
from protocol.roles.se.pin import MAX_WRONG
from protocol.roles.se.tables import FIELD, PINS, Pin
from protocol.roles.wallet import status

NEW, WRONG = "2580", "9999"
CEILING = 30_000
PHONE = "phone-1"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, seed="pin")


@pytest.fixture
def pocket(world: World) -> Pocket:
    """A phone without a PIN."""
    return Pocket.filled(world)


@pytest.fixture
def holder(world: World, pocket: Pocket) -> Pocket:
    """A phone whose PIN is set."""
    assert set_pin(world, pocket.phone) == SePin(state="ACTIVE", entries_left=MAX_WRONG)
    return pocket


def pin_row(pocket: Pocket) -> Pin:
    (row,) = pocket.party.store.scan(PINS)
    return row


def shown_pin(pocket: Pocket) -> str:
    return pocket.world.run(pocket.phone, status(pocket.phone.wallet)).pin


def counted(pocket: Pocket, error: type[ProtocolError], wrong: int, act: Any) -> None:
    """A wrong entry is refused and counted; but for that, and the record of the request, nothing changes."""
    world, before = pocket.world, pocket.world.snapshot(PHONE)
    with pytest.raises(error) as refusal:
        act()
    assert (type(refusal.value), refusal.value.code) == (error, error.code)
    after = world.snapshot(PHONE)
    names = {name for name, rows in after.items() if rows != before[name]}
    assert names == {"pins", "requests", "nonces"} & set(after)
    assert pin_row(pocket).wrong == wrong


def lock(pocket: Pocket) -> None:
    for _ in range(MAX_WRONG):
        with pytest.raises((PinInvalid, FactorLocked)):
            set_pin(pocket.world, pocket.phone, new=NEW, old=WRONG)
    assert shown_pin(pocket) == "LOCKED"


def reopen(pocket: Pocket, approval: bytes, bank: str = "bank-a") -> SePin:
    command = SeReopenPin(bank=bank, approval=approval)
    return pocket.world.run(pocket.phone, pocket.phone.wallet.command("ReopenPin", command, SePin))


# --- setting ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("new", ["1234", "4321", "0000"])
def test_a_weak_pin_is_not_set(world: World, pocket: Pocket, new: str) -> None:
    with refused(world, PinWeak, "PIN_WEAK"):
        set_pin(world, pocket.phone, new=new)
    assert shown_pin(pocket) == "EXPECT_NEW"
    set_pin(world, pocket.phone, new="8901")
    with refused(world, PinWeak, "PIN_WEAK"):
        set_pin(world, pocket.phone, new=new, old="8901")


@pytest.mark.parametrize("new", ["1985", "0317", "5891", "0912", "2190"])
def test_a_pin_like_a_personal_number_is_not_set(world: World, pocket: Pocket, new: str) -> None:
    with refused(world, PinWeak, "PIN_WEAK"):
        set_pin(world, pocket.phone, new=new, personal=("19850317", "0912345678"))
    set_pin(world, pocket.phone, new=new)
    assert not any("19850317" in text for rows in world.snapshot(PHONE).values() for text in rows)


@pytest.mark.parametrize(
    ("new", "old", "personal"),
    [
        ("735", "", ()), ("73a1", "", ()), (PIN, "735", ()), (PIN, "", ("198",)),
        (PIN, "", ("1985-03-17",)),
    ],
)  # fmt: skip
def test_what_is_no_pin(world: World, pocket: Pocket, new: str, old: str, personal: tuple[str, ...]) -> None:
    with refused(world, Malformed, "MALFORMED"):
        set_pin(world, pocket.phone, new=new, old=old, personal=personal)


def test_a_pin_has_twelve_digits_at_most(world: World, pocket: Pocket) -> None:
    with refused(world, Oversize, "OVERSIZE"):
        set_pin(world, pocket.phone, new="7351735173512")
    assert set_pin(world, pocket.phone, new="735173517351").state == "ACTIVE"


def test_a_pin_is_changed_by_who_knows_the_old_one(world: World, holder: Pocket) -> None:
    counted(holder, PinInvalid, 1, lambda: set_pin(world, holder.phone, new=NEW, old=WRONG))
    counted(holder, PinInvalid, 2, lambda: set_pin(world, holder.phone, new=NEW))  # no old one is a wrong one
    counted(holder, PinInvalid, 3, lambda: set_pin(world, holder.phone, new=NEW, old=NEW))
    assert set_pin(world, holder.phone, new=NEW, old=PIN) == SePin(state="ACTIVE", entries_left=MAX_WRONG)
    counted(holder, PinInvalid, 1, lambda: set_pin(world, holder.phone, new=PIN, old=PIN))


def test_the_old_pin_means_nothing_where_none_was_set(world: World, pocket: Pocket) -> None:
    assert set_pin(world, pocket.phone, old=WRONG).state == "ACTIVE"


def test_a_pin_is_kept_as_a_hash_only(world: World, holder: Pocket) -> None:
    assert PIN.encode() not in pin_row(holder).hash
    assert not any(f"'{PIN}'" in text for rows in world.snapshot(PHONE).values() for text in rows)


# --- entering ---------------------------------------------------------------------------------------------------------
def test_a_pin_is_entered_for_a_tap_that_waits(world: World, holder: Pocket) -> None:
    """Without one the entry is refused before it is looked at: right or wrong, it is not counted."""
    shown = holder.open(CEILING)
    waiting = holder.tap_for_pin(LARGE)
    holder.open(CEILING)
    for pin in (PIN, WRONG):
        with refused(world, WrongState, "WRONG_STATE"):
            verify_pin(world, holder.phone, waiting, pin)
    holder.open(0)
    with refused(world, WrongState, "WRONG_STATE"):
        verify_pin(world, holder.phone, waiting, WRONG)
    assert (pin_row(holder).wrong, shown.state) == (0, OpeningState.OPEN)


def test_where_nothing_was_ever_opened(world: World, holder: Pocket, tmp_path: Path) -> None:
    other = World(tmp_path / "other", seed="other")
    (tmp_path / "other").mkdir()
    pocket = Pocket.filled(other)
    set_pin(other, pocket.phone)
    holder.open(CEILING)
    shown = holder.tap_for_pin(LARGE)
    with refused(other, WrongState, "WRONG_STATE"):
        verify_pin(other, pocket.phone, shown)


def test_a_tap_that_waited_too_long(world: World, holder: Pocket) -> None:
    holder.open(CEILING)
    shown = holder.tap_for_pin(LARGE)
    world.clock.time_s += OPEN_S + 1
    with refused(world, WrongState, "WRONG_STATE"):
        verify_pin(world, holder.phone, shown)


@pytest.mark.parametrize("state", ["VERIFIED", "TAPPED"])
def test_a_pin_is_entered_once(world: World, holder: Pocket, state: str) -> None:
    holder.open(CEILING)
    shown = holder.tap_for_pin(LARGE)
    verify_pin(world, holder.phone, shown)
    if state == "TAPPED":
        field = holder.field()
        field.spend(holder.offered(field, LARGE))
    assert holder.row().state == state
    with refused(world, WrongState, "WRONG_STATE"):
        verify_pin(world, holder.phone, shown)


@pytest.mark.parametrize(
    "columns",
    [{"amount_minor": LARGE + 1}, {"currency": "EUR"}, {"merchant": "TAPVEIL00000002"}, {"terminal": "T0000002"}],
)
def test_a_pin_is_for_the_tap_that_was_shown(world: World, holder: Pocket, columns: dict[str, Any]) -> None:
    """Another tap came while the person looked at the phone: the entry is refused, and not counted."""
    holder.open(CEILING)
    seen = holder.tap_for_pin(LARGE)
    if "currency" in columns:
        amend(world, PHONE, FIELD, **columns)
    else:
        tap = {"amount_minor": LARGE} | columns
        holder.tap_for_pin(**tap)
    for pin in (PIN, WRONG):
        with refused(world, FieldMismatch, "FIELD_MISMATCH"):
            verify_pin(world, holder.phone, seen, pin)
    if "currency" not in columns:
        assert verify_pin(world, holder.phone, holder.shown()).state is OpeningState.VERIFIED


def test_without_a_pin_nothing_is_verified(world: World, pocket: Pocket) -> None:
    pocket.open(CEILING)
    shown = pocket.tap_for_pin(LARGE)
    with refused(world, WrongState, "WRONG_STATE"):
        verify_pin(world, pocket.phone, shown)
    set_pin(world, pocket.phone)
    assert verify_pin(world, pocket.phone, shown).state is OpeningState.VERIFIED


def test_wrong_entries_are_counted_in_a_row(world: World, holder: Pocket) -> None:
    holder.open(CEILING)
    shown = holder.tap_for_pin(LARGE)
    for wrong in range(1, MAX_WRONG):
        counted(holder, PinInvalid, wrong, lambda: verify_pin(world, holder.phone, shown, WRONG))
        assert holder.shown() == shown
    assert verify_pin(world, holder.phone, shown).state is OpeningState.VERIFIED
    assert pin_row(holder).wrong == 0
    counted(holder, PinInvalid, 1, lambda: set_pin(world, holder.phone, new=NEW, old=WRONG))


def test_the_same_entry_sent_again_is_one_entry(world: World, holder: Pocket) -> None:
    call = next(holder.phone.wallet.command("SetPin", SeSetPin(old=WRONG, new=NEW, personal=()), SePin))
    for _ in range(3):
        with pytest.raises(PinInvalid):
            world.send(holder.phone, call)
    assert pin_row(holder).wrong == 1


# --- locked -----------------------------------------------------------------------------------------------------------
def test_five_wrong_entries_lock(world: World, holder: Pocket) -> None:
    """At either place; then the right PIN is refused too, for a purchase and for a change."""
    holder.open(CEILING)
    shown = holder.tap_for_pin(LARGE)
    for wrong in range(1, MAX_WRONG):
        if wrong % 2:
            counted(holder, PinInvalid, wrong, lambda: verify_pin(world, holder.phone, shown, WRONG))
        else:
            counted(holder, PinInvalid, wrong, lambda: set_pin(world, holder.phone, new=NEW, old=WRONG))
    counted(holder, FactorLocked, MAX_WRONG, lambda: verify_pin(world, holder.phone, shown, WRONG))
    assert (pin_row(holder).state, pin_row(holder).locked_at_s) == ("LOCKED", world.clock.now_s())
    assert shown_pin(holder) == "LOCKED"
    for pin in (PIN, WRONG):
        with refused(world, FactorLocked, "FACTOR_LOCKED"):
            verify_pin(world, holder.phone, shown, pin)
        with refused(world, FactorLocked, "FACTOR_LOCKED"):
            set_pin(world, holder.phone, new=NEW, old=pin)
    assert holder.shown() == shown


def test_below_the_limit_a_locked_phone_still_pays(world: World, holder: Pocket) -> None:
    lock(holder)
    holder.open(CEILING)
    field = holder.field()
    field.spend(holder.offered(field, 9_000))
    assert holder.opened().state == "SPENT"


# --- two at once ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("entered", [PIN, WRONG])
def test_a_pin_that_is_changed_while_an_entry_is_compared(world: World, holder: Pocket, entered: str) -> None:
    """The entry was compared with a hash that is of the past: it neither counts nor opens anything."""
    holder.open(CEILING)
    shown = holder.tap_for_pin(LARGE)
    with (
        meanwhile(world, PHONE, lambda: set_pin(world, holder.phone, new=NEW, old=PIN)),
        pytest.raises(WrongState) as refusal,
    ):
        verify_pin(world, holder.phone, shown, entered)
    assert (type(refusal.value), refusal.value.code) == (WrongState, "WRONG_STATE")
    assert (holder.row().state, pin_row(holder).wrong) == ("EXPECT_PIN", 0)
    assert verify_pin(world, holder.phone, shown, NEW).state is OpeningState.VERIFIED


def test_a_first_pin_set_twice_at_once(world: World, pocket: Pocket) -> None:
    """Both found none: the second is no change by who knows the first."""
    with (
        meanwhile(world, PHONE, lambda: set_pin(world, pocket.phone, new=PIN)),
        pytest.raises(WrongState) as refusal,
    ):
        set_pin(world, pocket.phone, new=NEW)
    assert refusal.value.code == "WRONG_STATE"
    assert set_pin(world, pocket.phone, new=NEW, old=PIN).state == "ACTIVE"


def test_a_lock_while_the_right_pin_is_compared(world: World, holder: Pocket) -> None:
    holder.open(CEILING)
    shown = holder.tap_for_pin(LARGE)
    with meanwhile(world, PHONE, lambda: lock(holder)), pytest.raises(FactorLocked) as refusal:
        verify_pin(world, holder.phone, shown)
    assert refusal.value.code == "FACTOR_LOCKED"
    assert holder.row().state == "EXPECT_PIN"


def test_wrong_entries_at_once_are_each_counted(world: World, holder: Pocket) -> None:
    def wrong() -> None:
        with pytest.raises(PinInvalid):
            set_pin(world, holder.phone, new=NEW, old=WRONG)

    with meanwhile(world, PHONE, wrong):
        wrong()
    assert pin_row(holder).wrong == 2


# --- reopened ---------------------------------------------------------------------------------------------------------
def test_the_banks_word_lets_a_new_pin_be_set(world: World, holder: Pocket) -> None:
    lock(holder)
    assert reopen(holder, pin_word(world, holder.phone.user)) == SePin(state="EXPECT_NEW", entries_left=MAX_WRONG)
    assert (pin_row(holder).hash, pin_row(holder).wrong) == (b"", 0)  # the old PIN is gone
    holder.open(CEILING)
    shown = holder.tap_for_pin(LARGE)
    with refused(world, WrongState, "WRONG_STATE"):
        verify_pin(world, holder.phone, shown)
    with refused(world, PinWeak, "PIN_WEAK"):
        set_pin(world, holder.phone, new="1234")
    assert set_pin(world, holder.phone, new=NEW) == SePin(state="ACTIVE", entries_left=MAX_WRONG)
    assert verify_pin(world, holder.phone, shown, NEW).state is OpeningState.VERIFIED


def test_a_word_reopens_once(world: World, holder: Pocket) -> None:
    lock(holder)
    word = pin_word(world, holder.phone.user)
    reopen(holder, word)
    set_pin(world, holder.phone)
    lock(holder)
    with refused(world, Replay, "REPLAY"):
        reopen(holder, word)
    assert reopen(holder, pin_word(world, holder.phone.user)).state == "EXPECT_NEW"


def test_a_word_from_before_the_lock_says_nothing_about_it(world: World, holder: Pocket) -> None:
    word = pin_word(world, holder.phone.user)
    world.clock.time_s += 1
    lock(holder)
    with refused(world, Expired, "EXPIRED"):
        reopen(holder, word)
    assert reopen(holder, pin_word(world, holder.phone.user)).state == "EXPECT_NEW"  # of the same second


@pytest.mark.parametrize("state", ["none", "ACTIVE", "EXPECT_NEW"])
def test_only_a_locked_pin_is_reopened(world: World, pocket: Pocket, state: str) -> None:
    if state != "none":
        set_pin(world, pocket.phone)
    if state == "EXPECT_NEW":
        lock(pocket)
        reopen(pocket, pin_word(world, pocket.phone.user))
    word = pin_word(world, pocket.phone.user)
    with refused(world, WrongState, "WRONG_STATE"):
        reopen(pocket, word)


def test_whose_word_it_is(world: World, holder: Pocket) -> None:
    lock(holder)
    user, other = holder.phone.user, world.ready("phone-2").user
    bank = world.parties["bank-a"].value.keys

    def word(
        error: type[ProtocolError], message: Any = None, by: Signer | None = None, bank_: str = "bank-a", **changes: Any
    ) -> None:
        stamp = changes.pop("stamp", Stamp.fresh(world.clock.now_s(), world.entropy))
        signed = envelope.sign(
            by or bank.signer, message or PinReopening(user=user), stamp=stamp, **{"audience": user} | changes
        )
        with refused(world, error, error.code):
            reopen(holder, signed, bank_)

    word(FieldMismatch, PinReopening(user=other))
    word(WrongAudience, audience=other)
    word(WrongAudience, audience=PHONE)
    word(WrongIssuer, by=Signer(name="bank-b", key=bank.sign))
    word(SignatureInvalid, by=world.parties["bank-b"].value.keys.signer)
    word(SignatureInvalid, by=Signer(name="bank-a", key=world.parties["bank-b"].value.keys.sign))
    word(SignatureInvalid, by=Signer(name="bank-a", key=holder.phone.wallet_key))
    word(SignatureInvalid, request_digest=bytes(32))
    word(WrongMessage, SePin(state="EXPECT_NEW", entries_left=5))
    now_s = world.clock.now_s()
    word(Expired, stamp=Stamp(issued_at_s=now_s - 30 * 3600, nonce=bytes(16)), lifetime_s=3600)
    word(NotYetValid, stamp=Stamp(issued_at_s=now_s + 3600, nonce=bytes(16)))
    word(UnknownAccount, bank_="bank-b")  # not a bank of this phone's, whoever signed
    word(UnknownKey, bank_="bank-c")
    word(UnknownAccount, bank_="tsm-1")  # no bank at all
    good = pin_word(world, user)
    with refused(world, SignatureInvalid, "SIGNATURE_INVALID"):
        reopen(holder, good[:-1] + bytes([good[-1] ^ 1]))
    with refused(world, Malformed, "MALFORMED"):
        reopen(holder, good[:-1])
    with refused(world, WrongMessage, "WRONG_MESSAGE"):
        reopen(holder, b"word")
    assert reopen(holder, good).state == "EXPECT_NEW"
