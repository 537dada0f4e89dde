"""How old each bank's list of stops is: read without a lock, since a list only ever gets newer (design §3 FREEZE)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from protocol.engine import Context
from protocol.roles.tsm.tables import STOP_LISTS

STALE_AFTER_S: Final = 300


@dataclass(slots=True)
class Freshness:
    """Banks by the minute of their last list, looked up at most once a second."""

    _seen_s: int = -1
    _minutes: dict[str, int] = field(default_factory=dict)

    def fresh(self, ctx: Context, max_age_s: int) -> frozenset[str]:
        """The banks whose list is not older than `max_age_s`: on an older one nothing is approved."""
        if self._seen_s != ctx.now_s or not self._minutes:
            self._minutes = {row.bank: row.minute_s for row in ctx.store.scan(STOP_LISTS)}
            self._seen_s = ctx.now_s
        return frozenset(bank for bank, minute_s in self._minutes.items() if ctx.now_s - minute_s <= max_age_s)
