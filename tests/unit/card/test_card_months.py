"""Months in which cards and certificates expire."""

from __future__ import annotations

from datetime import date

import pytest

from protocol.card.months import Month
from protocol.errors import CardDataInvalid


def test_forms_of_a_month() -> None:
    month = Month.from_mmyy(b"\x02\x28")
    assert month == Month(year=2028, month=2) == Month.of(date(2028, 2, 3))
    assert month.to_mmyy() == b"\x02\x28"
    assert month.to_yymmdd() == b"\x28\x02\x29"
    assert month.last_day == date(2028, 2, 29)
    assert month.ends_at_s == 1835481600  # 2028-03-01T00:00:00Z
    assert month.plus(0) == month
    assert month.plus(10) == Month(year=2028, month=12)
    assert month.plus(11) == Month(year=2029, month=1)
    assert Month(year=2027, month=12) < month


@pytest.mark.parametrize("raw", ["1326", "0026", "0250", "0A26", "02", "022600", ""])
def test_refuses_what_is_no_month(raw: str) -> None:
    for _ in range(2):  # what was read before is kept, refusals are not
        with pytest.raises(CardDataInvalid) as refused:
            Month.from_mmyy(bytes.fromhex(raw))
        assert refused.value.code == "CARD_DATA_INVALID"


def test_refuses_to_count_beyond_the_century() -> None:
    with pytest.raises(CardDataInvalid):
        Month(year=2049, month=12).plus(1)
