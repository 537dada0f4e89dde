"""How often one account may ask for what is costly: a token bucket for each AID or TID, in memory.

Kept in memory and not in rows: a rate needs no exactness, and a table of who asked when would be one more thing to
lose. So each worker counts for itself, a restart forgives, and the same bytes sent again cost nothing. What must hold
exactly (one live grant, limits, single use) is in the steps, in rows.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from protocol.crypto import sha256
from protocol.errors import Overloaded

MAX_BUCKETS: Final = 65_536
"""Of one RPC. Beyond, the one asked for longest ago is forgotten: it had come back most."""
DAY_S: Final = 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """At most `burst` at once, and `per_day` in the long run, for each `key_of` the verified request; each `cost`s."""

    burst: int
    per_day: int
    key_of: Callable[[Any], str]
    cost: Callable[[Any], int] = lambda _facts: 1


RATES: Final[Mapping[str, Rate]] = {
    "Tsm.ProveCredit": Rate(burst=128, per_day=1024, key_of=lambda facts: facts.info.aid),
    "Bank.ApproveGrant": Rate(burst=128, per_day=1024, key_of=lambda facts: facts.account.aid),
    "Tsm.IssueCards": Rate(
        burst=1024, per_day=1024, key_of=lambda facts: facts.service.tid, cost=lambda facts: len(facts.keys)
    ),
}
"""Far over what a wallet needs: they bound what a lost or bent one costs."""


class Rates:
    """The buckets of one process."""

    def __init__(self, rates: Mapping[str, Rate] = RATES, *, max_buckets: int = MAX_BUCKETS) -> None:
        self._rates = dict(rates)
        self._max_buckets = max_buckets
        self._buckets: dict[str, OrderedDict[bytes, tuple[float, int]]] = {rpc: OrderedDict() for rpc in rates}
        """By the digest of AID or TID: what is left, and when that was so."""
        self._lock = threading.Lock()

    def admit(self, rpc: str, facts: Any, now_s: int) -> None:
        """A new request was verified. Raises: Overloaded if its account has asked too often; it may again later."""
        rate = self._rates.get(rpc)
        if rate is None:
            return
        key, cost = sha256(rate.key_of(facts).encode()), rate.cost(facts)
        with self._lock:
            buckets = self._buckets[rpc]
            left, at_s = buckets.pop(key, (float(rate.burst), now_s))
            left = min(float(rate.burst), left + max(0, now_s - at_s) * rate.per_day / DAY_S)
            is_enough = left >= cost
            buckets[key] = (left - cost if is_enough else left, now_s)
            if len(buckets) > self._max_buckets:
                buckets.popitem(last=False)
        if not is_enough:
            raise Overloaded("this account asks too often")
