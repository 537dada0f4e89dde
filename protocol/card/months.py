"""Calendar months: the unit in which EMV keys and cards expire (MMYY, good through the month's last day)."""

from __future__ import annotations

import calendar
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

from protocol.errors import CardDataInvalid


def _bcd(number: int) -> bytes:
    return bytes.fromhex(f"{number:02d}")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Month:
    """A month of the years 2000 to 2049, the century that Book 4 gives to two-digit years under 50."""

    year: int
    month: int

    def __post_init__(self) -> None:
        if not (2000 <= self.year <= 2049 and 1 <= self.month <= 12):
            raise CardDataInvalid("not a month that a card can name")

    @classmethod
    @lru_cache(maxsize=64)
    def of(cls, day: date) -> Month:
        """The month that `day` is in."""
        return cls(year=day.year, month=day.month)

    @classmethod
    @lru_cache(maxsize=64)
    def from_mmyy(cls, data: bytes) -> Month:
        """Parse a certificate's expiry (Book 2 §6.3, §6.4). Raises: CardDataInvalid."""
        text = data.hex()
        if len(text) != 4 or not text.isdecimal():
            raise CardDataInvalid("not a month and year in decimal digits")
        return cls(year=2000 + int(text[2:]), month=int(text[:2]))

    def to_mmyy(self) -> bytes:
        """Two bytes, as certificates carry it."""
        return _bcd(self.month) + _bcd(self.year - 2000)

    @property
    def last_day(self) -> date:
        """The last day on which what expires this month is good."""
        return _last_day(self.year, self.month)

    def to_yymmdd(self) -> bytes:
        """The application expiration date, tag 5F24: the month's last day."""
        return _bcd(self.year - 2000) + _bcd(self.month) + _bcd(self.last_day.day)

    @property
    def ends_at_s(self) -> int:
        """First Unix second after the month, in UTC."""
        after = self.last_day + timedelta(days=1)
        return int(datetime(after.year, after.month, after.day, tzinfo=UTC).timestamp())

    def plus(self, months: int) -> Month:
        """The month so many months later. Raises: CardDataInvalid beyond what a card can name."""
        count = self.year * 12 + self.month - 1 + months
        return Month(year=count // 12, month=count % 12 + 1)


@lru_cache(maxsize=64)
def _last_day(year: int, month: int) -> date:
    return date(year, month, calendar.monthrange(year, month)[1])
