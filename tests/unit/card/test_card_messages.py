"""Issued cards on the wire: put together from parts, and still the one deterministic encoding."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ProtocolError
from protocol.messages.card import Card, CardKey, CardsIssued, Controls, EmvData, EmvRecord
from protocol.schema import Record


def card(number: int, *, records: int = 4, limit_minor: int = 50_000) -> Card:
    data = bytes([number]) * (20 + 7 * number)
    controls = Controls(uses=1, per_use_minor=limit_minor, total_minor=limit_minor, verify_above_minor=20_000,
                        channel="contactless")  # fmt: skip
    emv = EmvData(
        application=b"APPLICATION", fci=b"F" * 60, aip=b"AI", afl=b"L" * 8,
        records=tuple(EmvRecord(sfi=1 + n % 30, number=n % 17, data=data + bytes(n % 9)) for n in range(records)),
    )  # fmt: skip
    return Card(
        pan=f"{9_999_100_000_000_000_000 + number}", expires_at_s=1_800_000_000 + number, limit_minor=limit_minor,
        currency="TWD", controls=controls, icc_certificate=data * 2, emv=emv, k_ac=bytes([number]) * 16,
    )  # fmt: skip


@pytest.mark.parametrize("number", [1, 2, 23, 24, 32])
def test_a_batch_is_encoded_as_its_map_is(number: int) -> None:
    batch = tuple(card(n, limit_minor=50_000 + n // 2) for n in range(number))
    message = CardsIssued(tid="tid-1", n_u=b"u" * 32, n_t=b"t" * 32, cards=batch)
    assert message.to_bytes() == Record.to_bytes(message)
    assert CardsIssued.from_bytes(message.to_bytes()) == message


@pytest.mark.parametrize("records", [1, 23, 24, 32])
def test_cards_with_many_records_are_too(records: int) -> None:
    few = tuple(card(n, records=count) for n, count in enumerate((records, 1)))
    message = CardsIssued(tid="tid-1", n_u=b"u" * 32, n_t=b"t" * 32, cards=few)
    assert message.to_bytes() == Record.to_bytes(message)


@given(
    st.binary(min_size=176, max_size=176), st.binary(min_size=32, max_size=32), st.binary(min_size=176, max_size=176)
)
def test_a_card_key_is_read_back(modulus: bytes, salt: bytes, possession: bytes) -> None:
    key = CardKey(modulus=modulus, salt=salt, possession=possession)
    assert CardKey.from_bytes(key.to_bytes()) == key


@given(st.integers(0, 2**16), st.integers(1, 255), st.integers(-3, 3))
def test_a_card_key_is_read_as_the_base_class_reads_it(position: int, mask: int, length: int) -> None:
    data = bytearray(CardKey(modulus=bytes(176), salt=bytes(32), possession=bytes(176)).to_bytes())
    data[position % len(data)] ^= mask
    altered = bytes(data[:length] if length < 0 else data + bytes(length))

    def read(how: Callable[[bytes], CardKey]) -> CardKey | str:
        try:
            return how(altered)
        except ProtocolError as refusal:
            return refusal.code

    assert read(CardKey.from_bytes) == read(super(CardKey, CardKey).from_bytes)
