"""Card numbers: well formed, random all through, masked where shown."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.card import pan
from protocol.errors import CardDataInvalid


class Fixed:
    def __init__(self, byte: int) -> None:
        self.byte = byte

    def bytes(self, n: int, /) -> bytes:
        return bytes([self.byte]) * n


def test_numbers_are_of_the_range_and_differ(entropy) -> None:
    numbers = [pan.generate_pan(entropy) for _ in range(200)]
    assert len(set(numbers)) == 200
    for number in numbers:
        assert len(number) == 19
        assert pan.parse_pan(number) == number
        assert pan.decode_pan(pan.encode_pan(number)) == number


@pytest.mark.parametrize("byte", [0x00, 0xFF])
def test_extreme_draws_are_numbers_too(byte: int) -> None:
    assert pan.parse_pan(pan.generate_pan(Fixed(byte)))


def test_each_digit_of_the_body_is_uniform(entropy) -> None:
    bodies = [pan.generate_pan(entropy)[6:18] for _ in range(2000)]
    for place in range(12):
        counts = Counter(body[place] for body in bodies)
        # Nine degrees of freedom; 40 is exceeded with a chance under 10⁻⁵, and the seed is fixed.
        assert sum((counts[digit] - 200) ** 2 / 200 for digit in "0123456789") < 40


def test_luhn_known_answers() -> None:
    # ISO/IEC 7812-1 Annex B's method on numbers printed everywhere.
    assert pan.check_digit("7992739871") == "3"
    assert pan.check_digit("411111111111111") == "1"


@given(st.from_regex(r"999910[0-9]{12}", fullmatch=True), st.integers(0, 18), st.integers(1, 9))
def test_any_single_wrong_digit_is_refused(body: str, place: int, change: int) -> None:
    number = body + pan.check_digit(body)
    digit = str((int(number[place]) + change) % 10)
    with pytest.raises(CardDataInvalid) as refused:
        pan.parse_pan(number[:place] + digit + number[place + 1 :])
    assert refused.value.code == "CARD_DATA_INVALID"
    assert body not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    ["", "999910123456789012", "99991012345678901234", "999910123456789012x", "９" * 19, "4111111111111111111"],
)
def test_refuses_what_is_no_number_of_ours(text: str) -> None:
    with pytest.raises(CardDataInvalid) as refused:
        pan.parse_pan(text)
    assert refused.value.code == "CARD_DATA_INVALID"


@pytest.mark.parametrize("body", ["99991012345678901", "9999101234567890123", "999910" + "１２３４５６７８９０１２"])
def test_a_right_check_digit_makes_no_number(body: str) -> None:
    with pytest.raises(CardDataInvalid) as refused:
        pan.parse_pan(body + pan.check_digit(body))
    assert refused.value.code == "CARD_DATA_INVALID"


def test_the_prefix_is_a_parameter(entropy) -> None:
    number = pan.generate_pan(entropy, iin="99991234")
    assert number.startswith("99991234")
    assert pan.parse_pan(number, iin="99991234") == number
    with pytest.raises(CardDataInvalid):
        pan.parse_pan(number)
    for iin in ("99", "999912345", "99x", ""):
        with pytest.raises(CardDataInvalid):
            pan.generate_pan(entropy, iin=iin)


def test_masked_form() -> None:
    assert pan.mask_pan("9999101234567891234") == "999910*********1234"


@pytest.mark.parametrize(
    "raw", ["", "9999101234567890123f" + "ff", "99991012345678901234", "999910123456789012ff", "99991f1234567890123f"]
)
def test_refuses_other_compressed_numerics(raw: str) -> None:
    with pytest.raises(CardDataInvalid) as refused:
        pan.decode_pan(bytes.fromhex(raw))
    assert refused.value.code == "CARD_DATA_INVALID"


def test_issuer_identifier_in_four_bytes() -> None:
    assert pan.encode_iin("999910") == bytes.fromhex("999910FF")
    assert pan.decode_iin(bytes.fromhex("999910FF")) == "999910"
    for raw in ("99FFFFFF", "FFFFFFFF", "9F9910FF"):
        with pytest.raises(CardDataInvalid):
            pan.decode_iin(bytes.fromhex(raw))
