"""What of a party's database is told as a number: how old its lists are, how much of its work waits. Counts only."""

from __future__ import annotations

import time

from parties.metrics import Gauge
from protocol.engine import OUTBOX
from protocol.roles.merchant.giveback import owed_refunds, owed_reversals
from protocol.roles.tsm.claims import claims_under_way
from protocol.roles.tsm.tables import STOP_LISTS
from protocol.rows import MemoryStore, Store
from protocol.types import Role


def looks_of(role: Role, store: Store) -> dict[str, tuple[str, Gauge]]:
    """By metric, what it means and how it is looked up, for a party of this role."""
    if isinstance(store, MemoryStore):
        return {}
    looks: dict[str, tuple[str, Gauge]] = {
        "tapveil_outbox": ("questions to other parties that are not answered", lambda: len(store.scan(OUTBOX)))
    }
    if role is Role.TSM:
        looks["tapveil_stop_list_age_seconds"] = ("age of the oldest of the banks' lists", lambda: _oldest_s(store))
        looks["tapveil_claims_waiting"] = ("claims without an answer", lambda: len(claims_under_way(store)))
    if role is Role.MERCHANT:
        looks["tapveil_reversals_owed"] = ("reversals the TSM must hear of", lambda: len(owed_reversals(store)))
        looks["tapveil_refunds_owed"] = ("refunds the TSM must hear of", lambda: len(owed_refunds(store)))
    return looks


def _oldest_s(store: Store) -> float | None:
    minutes = [row.minute_s for row in store.scan(STOP_LISTS)]
    return max(0, int(time.time()) - min(minutes)) if minutes else None
