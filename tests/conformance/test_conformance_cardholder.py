"""PAY at the secure element: opening a card, the PIN, and what the phone shows (design §3; TW-S1 … S3, TW-G3, CN-4)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import pytest
from conformance.bridge import Bridge, Line, OurPhone
from conformance.calls import refused
from conformance.cardholder import PIN, Cardholder, reopening
from conformance.drafts import Draft
from conformance.emv_terminal import Stopped, Terminal
from conformance.shop import Shop
from conformance.wire import CTI, DAY_S, Key, Signed, Signer, encode, wallet_time

CLOSED = {"state": "CLOSED", "ceiling_minor": 0, "expires_at_s": 0, "amount_minor": 0, "currency": "", "merchant": "",
          "terminal": "", "merchant_name": ""}  # fmt: skip
LARGE = 30_000


@pytest.fixture(scope="module")
def shop(bridge: Bridge) -> Shop:
    """A counter; the TSM is not asked here."""
    return Shop(bridge.tsm, bridge.merchant, Line(bridge, bridge.tsm.name, bridge.merchant.name))


@pytest.fixture
def phone(bridge: Bridge) -> OurPhone:
    """A phone of its own, with two cards."""
    return bridge.phone(cards=2)


@pytest.fixture
def holder(phone: OurPhone) -> Cardholder:
    return Cardholder(phone)


def ask(holder: Cardholder, shop: Shop, amount_minor: int = LARGE) -> dict[str, Any]:
    """Open, and tap for an amount that needs the PIN: what the phone shows then."""
    holder.open_card(amount_minor).send()
    tap(holder, shop, amount_minor)
    return holder.opening()


def tap(holder: Cardholder, shop: Shop, amount_minor: int = LARGE) -> None:
    holder.phone.reset()
    with pytest.raises(Stopped) as stopped:
        Terminal(holder.phone.transmit, holder.phone.bridge.ca).tap(shop.values(amount_minor))
    assert stopped.value.sw == 0x6986


# --- opening ---------------------------------------------------------------------------------------------------------
def test_PAY_an_opening_has_a_ceiling_and_a_minute(holder: Cardholder) -> None:
    now_s = int(time.time())
    opening = holder.open_card(12_345).send()["opening"]
    assert opening == CLOSED | {"state": "OPEN", "ceiling_minor": 12_345, "expires_at_s": opening["expires_at_s"]} | {
        "currency": opening["currency"]
    }
    assert now_s + 59 <= opening["expires_at_s"] <= now_s + 65
    assert holder.opening() == opening


def test_PAY_an_opening_is_replaced_by_the_next_and_closed_by_zero(holder: Cardholder) -> None:
    holder.open_card(1_000).send()
    assert holder.open_card(2_000).send()["opening"]["ceiling_minor"] == 2_000
    assert holder.opening()["ceiling_minor"] == 2_000
    assert holder.open_card(0).send()["opening"] == CLOSED
    assert holder.opening() == CLOSED
    assert holder.open_card(0).send()["opening"] == CLOSED


def test_PAY_refuses_to_open_what_no_card_is_for(holder: Cardholder) -> None:
    before = holder.phone.snapshot()
    with refused("NO_CARD"):
        holder.open_card(50_001).send()
    with refused("NO_CARD"):
        holder.open_card(10**12).send()
    assert holder.phone.snapshot() == before
    assert holder.open_card(50_000).send()["opening"]["state"] == "OPEN"


def test_PAY_refuses_to_open_another_account(holder: Cardholder, bridge: Bridge) -> None:
    for tid in ("t-unknown", bridge.phone().tid):
        with refused("UNKNOWN_ACCOUNT"):
            holder.open_card(1, tid).send()


def test_PAY_refuses_to_open_without_cards(bridge: Bridge) -> None:
    with refused("NO_CARD"):
        Cardholder(bridge.phone()).open_card(1).send()


def test_PAY_refuses_to_open_on_a_changed_phone(holder: Cardholder) -> None:
    """The SE compares with its own copy of the PCR (design §3 ATT); what is open can still be closed."""
    holder.open_card(1).send()
    holder.phone.bridge.ask("change", phone=holder.phone.name)
    with refused("PAYMENT_CLOSED"):
        holder.open_card(1).send()
    assert holder.open_card(0).send()["opening"] == CLOSED


def test_PAY_the_status_shows_masked_numbers_and_what_is_ready(holder: Cardholder) -> None:
    """TW-S1."""
    state = holder.status().send()
    phone = holder.phone
    pans = sorted(phone.secrets())
    assert state["cards"] == sorted(state["cards"])
    assert len(state["cards"]) == len(pans) == 2
    for masked in state["cards"]:
        assert masked.count("*") >= 9
        assert any(all(m in ("*", digit) for m, digit in zip(masked, pan, strict=True)) for pan in pans)
    assert (state["open"], state["tids"], state["banks"]) == (True, [phone.tid], [phone.bridge.bank.name])
    (pool,) = state["pools"]
    assert (pool["tid"], pool["ready"]) == (phone.tid, 2)
    assert time.time() < pool["expires_at_s"][0] < time.time() + 62 * DAY_S
    assert (state["pin"], state["opening"]) == ("EXPECT_NEW", CLOSED)


def test_PAY_an_opening_out_of_time_is_closed(holder: Cardholder, shop: Shop, bridge: Bridge) -> None:
    """Neither does the PIN bring it back."""
    holder.set_pin().send()
    shown = ask(holder, shop)
    with bridge.later(125), refused("WRONG_STATE"):
        holder.verify_pin(shown).send()


def test_PAY_refuses_to_open_cards_that_expired(holder: Cardholder, bridge: Bridge) -> None:
    """Nor are they shown any more."""
    expires_at_s = holder.status().send()["pools"][0]["expires_at_s"][0]
    left_s = expires_at_s - int(time.time())
    for seconds, code in ((left_s + 5, "NO_CARD"), (left_s - 60, "")):
        draft = holder.open_card(1)
        with bridge.later(seconds):
            cose = draft.cose(iat=int(time.time()) + seconds)
            if code:
                with refused(code):
                    draft.to.call(draft.rpc, cose)
            else:
                assert draft.to.call(draft.rpc, cose)


# --- PIN -------------------------------------------------------------------------------------------------------------
WEAK = {
    "repeated": "1111",
    "repeated_longer": "777777",
    "run_up": "1234",
    "run_down": "4321",
    "run_longer": "3456789",
    "run_down_longer": "987654",
    "birth_date": "1984",
    "part_of_a_number": "4455",
    "backward": "5544",
    "around_a_part": "944558",
}
PERSONAL = ("19841231", "0912334455")


@pytest.mark.parametrize("case", WEAK)
def test_PAY_refuses_a_weak_pin(case: str, holder: Cardholder) -> None:
    """TW-G3a, CN-4."""
    before = holder.phone.snapshot()
    with refused("PIN_WEAK"):
        holder.set_pin(WEAK[case], personal=PERSONAL).send()
    assert holder.phone.snapshot() == before


@pytest.mark.parametrize("new", ["8901", "1357", "1212", "7351", "735173517351", "9012", "1235"])
def test_PAY_takes_a_pin_that_is_none_of_these(new: str, holder: Cardholder) -> None:
    """8901 is no run (TW-G3a)."""
    assert holder.set_pin(new, personal=PERSONAL).send().payload == {"state": "ACTIVE", "entries_left": 5}


@pytest.mark.parametrize("new", ["", "123", "7351735173517", "73a1", "７３５１", " 7351"])
def test_PAY_refuses_a_pin_that_is_none(new: str, holder: Cardholder) -> None:
    with refused("MALFORMED", "OVERSIZE"):
        holder.set_pin(new).send()


def test_PAY_changes_a_pin_for_who_knows_the_old_one(holder: Cardholder) -> None:
    """A wrong old one is counted; a right one sets the count back."""
    holder.set_pin(PIN).send()
    for old in ("", "9999", "8266"):
        with refused("PIN_INVALID"):
            holder.set_pin("8266", old).send()
    assert holder.set_pin("8266", PIN).send().payload == {"state": "ACTIVE", "entries_left": 5}
    with refused("PIN_INVALID"):
        holder.set_pin(PIN, PIN).send()


def test_PAY_no_pin_opens_what_has_none(holder: Cardholder, shop: Shop) -> None:
    shown = ask(holder, shop)
    with refused("WRONG_STATE"):
        holder.verify_pin(shown).send()


def test_PAY_verifies_the_pin_for_what_the_phone_shows(holder: Cardholder, shop: Shop) -> None:
    holder.set_pin().send()
    shown = ask(holder, shop)
    opening = holder.verify_pin(shown).send()["opening"]
    assert opening == {**shown, "state": "VERIFIED", "expires_at_s": opening["expires_at_s"]}
    assert time.time() + 55 <= opening["expires_at_s"] <= time.time() + 65
    with refused("WRONG_STATE"):
        holder.verify_pin(shown).send()


@pytest.mark.parametrize(
    ("field", "value"),
    [("amount_minor", LARGE + 1), ("currency", "USD"), ("merchant", "CONFORMANCE0002"), ("terminal", "ZZZZZZZZ")],
)
def test_PAY_refuses_the_pin_for_something_else(field: str, value: Any, holder: Cardholder, shop: Shop) -> None:
    """And does not count it: the person saw another tap."""
    holder.set_pin().send()
    shown = ask(holder, shop)
    for _ in range(6):
        with refused("FIELD_MISMATCH"):
            holder.verify_pin(shown, **{field: value}).send()
    assert holder.verify_pin(shown).send()["opening"]["state"] == "VERIFIED"


def test_PAY_refuses_the_pin_before_a_tap_asked_for_it(holder: Cardholder, shop: Shop) -> None:
    """Closed, opened only, and for a tap that a new opening has replaced."""
    holder.set_pin().send()
    nothing = {"amount_minor": 1, "currency": "TWD", "merchant": "CONFORMANCE0001", "terminal": "ZZZZZZZZ"}
    with refused("WRONG_STATE"):
        holder.verify_pin(nothing).send()
    holder.open_card(LARGE).send()
    with refused("WRONG_STATE"):
        holder.verify_pin(nothing).send()
    shown = ask(holder, shop)
    holder.open_card(LARGE).send()
    with refused("WRONG_STATE"):
        holder.verify_pin(shown).send()


def lock(holder: Cardholder, shown: dict[str, Any]) -> None:
    """Five wrong entries."""
    for _ in range(4):
        with refused("PIN_INVALID"):
            holder.verify_pin(shown, "8266").send()
    with refused("FACTOR_LOCKED"):
        holder.verify_pin(shown, "8266").send()
    assert holder.status().send()["pin"] == "LOCKED"


def test_PAY_the_fifth_wrong_entry_in_a_row_locks(holder: Cardholder, shop: Shop) -> None:
    """TW-G3b: then the right one does not help either. A right one in between sets the count back."""
    holder.set_pin().send()
    shown = ask(holder, shop)
    for _ in range(4):
        with refused("PIN_INVALID"):
            holder.verify_pin(shown, "8266").send()
    holder.verify_pin(shown).send()
    shown = ask(holder, shop)
    lock(holder, shown)
    with refused("FACTOR_LOCKED"):
        holder.verify_pin(shown).send()
    with refused("FACTOR_LOCKED"):
        holder.set_pin("9407", PIN).send()
    tap(holder, shop)


def test_PAY_a_wrong_entry_sent_again_is_counted_once(holder: Cardholder, shop: Shop) -> None:
    """A lost answer is fetched with the same bytes (design §2)."""
    holder.set_pin().send()
    shown = ask(holder, shop)
    draft = holder.verify_pin(shown, "8266")
    cose = draft.cose()
    for _ in range(6):
        with refused("PIN_INVALID"):
            draft.post(cose)
    lock_after_four_more(holder, shown)


def lock_after_four_more(holder: Cardholder, shown: dict[str, Any]) -> None:
    for _ in range(3):
        with refused("PIN_INVALID"):
            holder.verify_pin(shown, "8266").send()
    with refused("FACTOR_LOCKED"):
        holder.verify_pin(shown, "8266").send()


# --- reopening -------------------------------------------------------------------------------------------------------
@pytest.fixture
def locked(holder: Cardholder, shop: Shop) -> Cardholder:
    holder.set_pin().send()
    lock(holder, ask(holder, shop))
    return holder


def word(holder: Cardholder, **changes: Any) -> bytes:
    """The bank's, given now."""
    arguments = {"iat": int(time.time()), **changes}
    return reopening(arguments.pop("signer", holder.phone.bridge.bank), holder.phone.user, **arguments)


def test_PAY_the_banks_word_reopens_once_for_a_new_pin(locked: Cardholder, shop: Shop) -> None:
    bank = locked.phone.bridge.bank.name
    approval = word(locked)
    assert locked.reopen_pin(approval, bank).send().payload == {"state": "EXPECT_NEW", "entries_left": 5}
    with refused("WRONG_STATE"):  # the old PIN is none
        locked.verify_pin(ask(locked, shop)).send()
    with refused("WRONG_STATE"):
        locked.reopen_pin(word(locked), bank).send()
    locked.set_pin("9407").send()
    shown = ask(locked, shop)
    lock(locked, shown)
    with refused("REPLAY", "EXPIRED"):
        locked.reopen_pin(approval, bank).send()
    assert locked.reopen_pin(word(locked), bank).send()["state"] == "EXPECT_NEW"


WORDS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "by_a_stranger": ({"signer": Signer("bank-a", Key.new())}, ("UNKNOWN_KEY", "SIGNATURE_INVALID")),
    "under_another_name": ({"issuer": "bank-b"}, ("WRONG_ISSUER",)),
    "for_another_user": ({"audience": "u-another"}, ("WRONG_AUDIENCE",)),
    "about_another_user": ({"fields": {"user": "u-another"}}, ("FIELD_MISMATCH",)),
    "of_another_type": ({"name": "launch-pass"}, ("WRONG_MESSAGE",)),
    "of_before_the_lock": ({"iat": int(time.time()) - 3600, "exp": int(time.time()) + 3600}, ("EXPIRED",)),
    "out_of_date": ({"iat": int(time.time()) - 7200, "exp": int(time.time()) - 3600}, ("EXPIRED",)),
    "of_the_future": ({"iat": int(time.time()) + 7200}, ("NOT_YET_VALID",)),
    "as_a_reply": ({"digest": bytes(32)}, ("SIGNATURE_INVALID",)),
    "with_more_in_it": ({"fields": {"pin": "7351"}}, ("MALFORMED",)),
}


@pytest.mark.parametrize("case", WORDS)
def test_PAY_refuses_a_word(case: str, locked: Cardholder) -> None:
    changes, codes = WORDS[case]
    before = locked.phone.snapshot()
    with refused(*codes):
        locked.reopen_pin(word(locked, **changes), "bank-a").send()
    assert locked.phone.snapshot() == before
    assert locked.reopen_pin(word(locked), "bank-a").send()["state"] == "EXPECT_NEW"


def test_PAY_refuses_a_word_for_what_is_not_locked(holder: Cardholder) -> None:
    for _ in range(2):
        with refused("WRONG_STATE"):
            holder.reopen_pin(word(holder), "bank-a").send()
        if holder.status().send()["pin"] == "EXPECT_NEW":
            holder.set_pin().send()


def test_PAY_refuses_the_word_of_a_bank_that_the_phone_has_none_of(locked: Cardholder) -> None:
    with refused("UNKNOWN_ACCOUNT"):
        locked.reopen_pin(word(locked), "bank-b").send()
    with refused("UNKNOWN_KEY"):
        locked.reopen_pin(word(locked), "bank-x").send()


# --- every command ---------------------------------------------------------------------------------------------------
COMMANDS: dict[str, Callable[[Cardholder], Draft[Signed]]] = {
    "OpenCard": lambda holder: holder.open_card(1_000),
    "SetPin": lambda holder: holder.set_pin(),
    "VerifyPin": lambda holder: holder.verify_pin(
        {"amount_minor": 1, "currency": "TWD", "merchant": "CONFORMANCE0001", "terminal": "ZZZZZZZZ"}
    ),
    "ReopenPin": lambda holder: holder.reopen_pin(word(holder), "bank-a"),
    "Status": lambda holder: holder.status(),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_PAY_the_secure_element_obeys_its_wallet_only(command: str, holder: Cardholder, bridge: Bridge) -> None:
    """Not another key, another phone's wallet, another addressee; not what was altered. Nothing of it changes it."""
    draft = COMMANDS[command](holder)
    before = holder.phone.snapshot()
    cose = draft.cose()
    unknown = ("UNKNOWN_KEY", "SIGNATURE_INVALID", "WRONG_ISSUER")
    cases: list[tuple[Callable[[], Any], tuple[str, ...]]] = [
        (lambda: draft.send(signer=Signer(holder.phone.name, Key.new())), unknown),
        (lambda: draft.send(signer=bridge.phone().wallet), unknown),
        (lambda: draft.send(signer=Signer(holder.phone.name, Key.new()), kid=holder.phone.wallet.key.kid), unknown),
        (lambda: draft.send(issuer=holder.phone.user), ("WRONG_ISSUER",)),
        (lambda: draft.send(audience="phone-x"), ("WRONG_AUDIENCE",)),
        (lambda: draft.send(iat=int(time.time()) - 7200, exp=int(time.time()) - 3600), ("EXPIRED",)),
        (lambda: draft.send(iat=wallet_time() + 7200), ("NOT_YET_VALID",)),
        (lambda: draft.send(exp=wallet_time() + DAY_S + 1), ("LIFETIME_TOO_LONG",)),
        (lambda: draft.send(name="se-measure"), ("WRONG_MESSAGE",)),
        (lambda: draft.send(bound_name="se-measure"), ("SIGNATURE_INVALID",)),
        (lambda: draft.send(fields={"zz": 1}), ("MALFORMED",)),
        (lambda: draft.send(payload=encode(draft.payload) + b"\0"), ("MALFORMED",)),
        (lambda: draft.post(cose[:-1]), ("MALFORMED",)),
        (lambda: draft.post(cose + b"\0"), ("MALFORMED",)),
        (lambda: draft.post(cose[:-1] + bytes([cose[-1] ^ 1])), ("SIGNATURE_INVALID",)),
        (lambda: draft.post(cose, os.urandom(16)), ("MALFORMED",)),
    ]
    for call, codes in cases:
        with refused(*codes):
            call()
    assert holder.phone.snapshot() == before


def test_PAY_the_same_command_gets_the_same_answer_and_a_used_nonce_is_refused(holder: Cardholder) -> None:
    for command in ("OpenCard", "SetPin"):
        draft = COMMANDS[command](holder)
        cti = os.urandom(16)
        cose = draft.cose(cti=cti)
        first, again = draft.post(cose), draft.post(cose)
        assert (first.payload, first.claims[CTI]) == (again.payload, again.claims[CTI])
        with refused("REPLAY"):
            draft.send(cti=cti, exp=int(time.time()) + 1800)
