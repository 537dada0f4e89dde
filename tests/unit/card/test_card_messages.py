"""Issued cards on the wire: put together from parts, and still the one deterministic encoding."""

from __future__ import annotations

import pytest

from protocol.messages.card import Card, CardsIssued, Controls, EmvData, EmvRecord
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
