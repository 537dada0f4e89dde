"""What a tap is for, out of the PDOL data and back."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from protocol.card import profile
from protocol.card.tap import CURRENCIES, Tap, amount_bytes, currency_code, parse_digits
from protocol.errors import CardDataInvalid

TAP = Tap(
    amount_minor=987_654_321_012,
    currency="EUR",
    merchant="M-1",
    terminal="T 1",
    merchant_name="Bakery, Lyon",
    unpredictable=b"\x00\x01\x02\x00",
)


def refused_code(tap: dict[int, bytes]) -> str:
    with pytest.raises(CardDataInvalid) as refused:
        Tap.from_pdol(profile.PDOL.build(TAP.values() | tap))
    return refused.value.code


def test_a_tap_there_and_back() -> None:
    data = profile.PDOL.build(TAP.values())
    # Amount and currency as digits, texts filled with zeros, the number as it is.
    assert data.hex() == (
        "987654321012" "0978" + b"M-1".ljust(15, b"\0").hex() + b"T 1".ljust(8, b"\0").hex()
        + b"Bakery, Lyon".ljust(40, b"\0").hex() + "00010200"
    )  # fmt: skip
    assert Tap.from_pdol(data) == TAP


@pytest.mark.parametrize("currency", CURRENCIES)
def test_every_currency_has_its_number(currency: str) -> None:
    assert Tap.from_pdol(profile.PDOL.build(replace(TAP, currency=currency).values())).currency == currency


def test_consent_is_all_but_the_unpredictable_number() -> None:
    assert replace(TAP, unpredictable=b"else").consent == TAP.consent
    changes = {"amount_minor": 1, "currency": "TWD", "merchant": "M-2", "terminal": "T 2", "merchant_name": "Bakery"}
    assert set(changes) == {field.name for field in fields(Tap)} - {"unpredictable"}
    for name, value in changes.items():
        assert replace(TAP, **{name: value}).consent != TAP.consent


@pytest.mark.parametrize("change", [-1, 1])
def test_data_of_another_length_are_refused(change: int) -> None:
    data = (profile.PDOL.build(TAP.values()) + b"\0")[: profile.PDOL.data_length + change]
    with pytest.raises(CardDataInvalid) as refused:
        Tap.from_pdol(data)
    assert refused.value.code == "CARD_DATA_INVALID"


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        (0x9F02, bytes.fromhex("00000000001A")),  # not digits
        (0x5F2A, bytes.fromhex("0999")),  # no currency
        (0x5F2A, bytes.fromhex("09F8")),
        (0x9F16, b"M\n1"),
        (0x9F1C, b"\x00T1"),  # zeros fill up on the right only
        (0x9F4E, "Café".encode("latin-1")),
        (0x9F4E, b"\x7f"),
    ],
)
def test_data_that_a_person_could_not_be_shown_are_refused(tag: int, value: bytes) -> None:
    assert refused_code({tag: value}) == "CARD_DATA_INVALID"


@pytest.mark.parametrize("amount_minor", [-1, 10**12])
def test_amounts_of_over_twelve_digits_are_refused(amount_minor: int) -> None:
    with pytest.raises(CardDataInvalid) as refused:
        amount_bytes(amount_minor)
    assert refused.value.code == "CARD_DATA_INVALID"


def test_amounts_at_the_ends() -> None:
    assert amount_bytes(0) == bytes(6)
    assert parse_digits(amount_bytes(10**12 - 1)) == 10**12 - 1


def test_a_currency_of_no_grant_is_refused() -> None:
    assert currency_code("TWD") == b"\x09\x01"
    with pytest.raises(CardDataInvalid) as refused:
        currency_code("XTS")
    assert refused.value.code == "CARD_DATA_INVALID"
