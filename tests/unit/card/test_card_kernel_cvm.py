"""Cardholder verification by the card's list (EMV Book 3 §10.5, Annex C3; results: Book 4 §6.3.4.5)."""

from __future__ import annotations

import pytest
from support.cards import make_sale

from protocol.card import profile
from protocol.card.risk import NOTHING, Tvr
from protocol.card.verification import CvmList, Verification, verify_holder
from protocol.errors import CardDataInvalid

AMOUNTS = (10_000).to_bytes(4, "big") + (20_000).to_bytes(4, "big")
TWD = b"\x09\x01"
FAILED = Tvr.VERIFICATION_FAILED


def walk(rules: str, *, amount_minor: int = 12_345, currency: bytes | None = TWD) -> tuple[str, Tvr]:
    sale = make_sale(amount_minor=amount_minor)
    came = verify_holder(sale, supported=True, methods=AMOUNTS + bytes.fromhex(rules), currency=currency)
    return came.results.hex(), came.tvr


def test_our_cards_ask_for_none() -> None:
    came = verify_holder(make_sale(), supported=True, methods=profile.CVM_LIST, currency=None)
    assert came == Verification(results=bytes.fromhex("1F0002"), tvr=NOTHING)


def test_a_card_without_verification_gets_none() -> None:
    for methods in (None, profile.CVM_LIST, b"\xff"):
        came = verify_holder(make_sale(), supported=False, methods=methods, currency=None)
        assert came == Verification(results=bytes.fromhex("3F0000"), tvr=NOTHING)


def test_a_promised_list_that_is_missing_is_missing_data() -> None:
    for methods in (None, AMOUNTS):
        came = verify_holder(make_sale(), supported=True, methods=methods, currency=None)
        assert came == Verification(results=bytes.fromhex("3F0000"), tvr=Tvr.CARD_DATA_MISSING)


@pytest.mark.parametrize("methods", [b"", bytes(7), bytes(9), bytes(11)])
def test_a_cut_list_is_refused(methods) -> None:
    with pytest.raises(CardDataInvalid) as refusal:
        verify_holder(make_sale(), supported=True, methods=methods, currency=None)
    assert refusal.value.code == "CARD_DATA_INVALID"


def test_a_list_is_amounts_and_rules() -> None:
    assert CvmList.from_bytes(AMOUNTS + bytes.fromhex("42031F00")) == CvmList(
        x_minor=10_000, y_minor=20_000, rules=((0x42, 0x03), (0x1F, 0x00))
    )


@pytest.mark.parametrize("method", ["01", "02", "03", "04", "05"])
def test_a_pin_cannot_be_entered_here(method) -> None:
    assert walk(f"{method}00") == (f"{method}0001", FAILED | Tvr.PIN_PAD_MISSING)
    # Bit 7 lets the next rule be tried; and what was found stays found.
    on = f"{int(method, 16) | 0x40:02x}"
    assert walk(f"{on}001F00") == ("1f0002", Tvr.PIN_PAD_MISSING)
    assert walk(f"{on}00") == (f"{on}0001", FAILED | Tvr.PIN_PAD_MISSING)
    # Without it, a rule that follows is not reached.
    assert walk(f"{method}001F00") == (f"{method}0001", FAILED | Tvr.PIN_PAD_MISSING)


def test_signature_and_fail_fail() -> None:
    assert walk("1E00") == ("1e0001", FAILED)
    assert walk("5E001F00") == ("1f0002", NOTHING)
    assert walk("0000") == ("000001", FAILED)
    assert walk("40001F00") == ("1f0002", NOTHING)


def test_an_unknown_method_is_unrecognized() -> None:
    assert walk("0600") == ("060001", FAILED | Tvr.VERIFICATION_UNRECOGNIZED)
    assert walk("60001F00") == ("1f0002", Tvr.VERIFICATION_UNRECOGNIZED)


def test_reserved_bits_of_a_rule_do_not_matter() -> None:
    assert walk("9F00") == ("9f0002", NOTHING)
    assert walk("5F00") == ("5f0002", NOTHING)


@pytest.mark.parametrize(("rule", "met"), [("0203", False), ("1E03", False), ("1F03", True), ("0603", False)])
def test_if_supported(rule, met) -> None:
    assert walk(rule) == (("1f0302", NOTHING) if met else ("3f0001", FAILED))


@pytest.mark.parametrize("condition", ["01", "04", "05", "0A", "7F", "80", "FF"])
def test_conditions_for_cash_and_unknown_ones_are_not_met(condition) -> None:
    assert walk(f"1F{condition}") == ("3f0001", FAILED)
    assert walk(f"1F{condition}", currency=None) == ("3f0001", FAILED)
    assert walk(f"00{condition}1F02") == ("1f0202", NOTHING)


@pytest.mark.parametrize(("condition", "amounts"), [
    ("06", (9_999,)), ("07", (10_001, 20_000, 20_001)), ("08", (9_999, 10_000, 10_001, 19_999)), ("09", (20_001,)),
])  # fmt: skip
def test_amounts_are_compared_in_the_applications_currency(condition, amounts) -> None:
    for amount_minor in (9_999, 10_000, 10_001, 19_999, 20_000, 20_001):
        came = walk(f"1F{condition}", amount_minor=amount_minor)
        met = amount_minor in amounts or (condition == "07" and amount_minor == 19_999)
        assert came == ((f"1f{condition}02", NOTHING) if met else ("3f0001", FAILED))
        for currency in (None, b"\x09\x78"):
            assert walk(f"1F{condition}", amount_minor=amount_minor, currency=currency) == ("3f0001", FAILED)
