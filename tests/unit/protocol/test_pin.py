"""What a PIN may be: TW-G3a's own examples, CN-4, and the edges of both."""

from __future__ import annotations

import pytest

from protocol.errors import PinWeak
from protocol.pin import MAX_DIGITS, MIN_DIGITS, check_pin

PHONE, BIRTH, IDENTITY = "0912345678", "19850317", "123456789"


def refused(pin: str, personal: tuple[str, ...] = ()) -> None:
    with pytest.raises(PinWeak) as refusal:
        check_pin(pin, personal)
    assert (type(refusal.value), refusal.value.code) == (PinWeak, "PIN_WEAK")
    assert len(pin) < MIN_DIGITS or pin not in str(refusal.value)


@pytest.mark.parametrize("pin", ["1234", "4321", "0123", "3210", "6789", "9876", "123456", "987654", "0123456789"])
def test_runs_are_refused(pin: str) -> None:
    refused(pin)


@pytest.mark.parametrize("pin", ["0000", "1111", "9999", "555555", "7" * MAX_DIGITS])
def test_one_repeated_digit_is_refused(pin: str) -> None:
    refused(pin)


@pytest.mark.parametrize("pin", ["8901", "1098", "1235", "4322", "1357", "1122", "1212", "2580", "1233", "12340"])
def test_what_is_neither_run_nor_repetition(pin: str) -> None:
    """8901 is TW-G3a's own example: a run does not go over nine to zero."""
    assert check_pin(pin) == pin


@pytest.mark.parametrize(
    "pin", ["", "1", "123", "735", "7" + "31" * 6, "735 1", "-351", "7351\n", "７３５１", "७३५१", "73a1"]
)
def test_four_to_twelve_digits(pin: str) -> None:
    refused(pin)


@pytest.mark.parametrize("pin", ["7351", "73517351735" + "2"])
def test_the_shortest_and_the_longest(pin: str) -> None:
    assert len(pin) in (MIN_DIGITS, MAX_DIGITS)
    assert check_pin(pin) == pin


@pytest.mark.parametrize(
    ("pin", "number"),
    [
        ("1985", BIRTH), ("0317", BIRTH), ("850317", BIRTH), ("7130", BIRTH), ("5891", BIRTH), ("99850", BIRTH),
        ("5678", PHONE), ("8765", PHONE), ("0912", PHONE), ("2190", PHONE), ("0912345678", PHONE), ("6543", IDENTITY),
        ("735134567", PHONE), ("765430", PHONE),
    ],
)  # fmt: skip
def test_like_a_personal_number(pin: str, number: str) -> None:
    """CN-4: any four digits in a row of it, forward or backward."""
    refused(pin, (number,))
    refused(pin, ("4711", number))


@pytest.mark.parametrize(("pin", "number"), [("0318", BIRTH), ("3171", BIRTH), ("9185", BIRTH), ("7351", "735")])
def test_not_like_a_personal_number(pin: str, number: str) -> None:
    assert check_pin(pin, (number,)) == pin


def test_without_personal_numbers() -> None:
    assert check_pin("1985") == "1985"
