"""Which grants a purchase draws on, and what goes back to which (design §3 RECREDIT)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from protocol.roles.tsm.tables import Purchase, SecondDraw, TidEntry
from protocol.rows import changed


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """`amount_minor` taken from the grant of this session."""

    grant: TidEntry
    amount_minor: int

    def taken(self) -> TidEntry:
        """The grant after it."""
        return changed(self.grant, spent_minor=self.grant.spent_minor + self.amount_minor)


def live(grants: Iterable[TidEntry], now_s: int) -> tuple[TidEntry, ...]:
    """Those that can be drawn on now, the one that ends first at the front."""
    usable = (grant for grant in grants if grant.state == "ACTIVE" and grant.aid_exp_time_s > now_s)
    return tuple(sorted(usable, key=lambda grant: (grant.aid_exp_time_s, grant.sid_digest)))


def is_stopped(entries: Iterable[TidEntry], now_s: int) -> bool:
    """Does a bank stop any account that it granted under this TID, given back or not, while it is not past its time?

    Otherwise whoever holds a lost phone gives the stopped credit back and goes on with another bank's (CN-11).
    """
    return any(entry.bank_stop and entry.aid_exp_time_s > now_s for entry in entries)


def left_minor(grant: TidEntry) -> int:
    """What is left of a grant."""
    return grant.aid_limit_minor - grant.spent_minor


def draw(grants: tuple[TidEntry, ...], amount_minor: int) -> tuple[Draw, ...]:
    """One grant that has enough, else two that have it together, else none.

    One is better than two: banks that compare their claims learn less.
    """
    for grant in grants:
        if left_minor(grant) >= amount_minor:
            return (Draw(grant=grant, amount_minor=amount_minor),)
    for first, second in itertools.combinations(grants, 2):
        if left_minor(first) + left_minor(second) >= amount_minor:
            rest_minor = amount_minor - left_minor(first)
            return (Draw(grant=first, amount_minor=left_minor(first)), Draw(grant=second, amount_minor=rest_minor))
    return ()


def give_back_from(purchase: Purchase, second: SecondDraw | None, amount_minor: int) -> tuple[tuple[bytes, int], ...]:
    """(session's digest, minor units) for each grant that gets part of `amount_minor` back: the second one first."""
    on_second_minor = 0 if second is None else second.amount_minor
    left_on_second_minor = max(0, on_second_minor - purchase.refunded_minor)
    to_second_minor = min(left_on_second_minor, amount_minor)
    parts = [(purchase.sid_digest, amount_minor - to_second_minor)]
    if second is not None:
        parts.append((second.sid_digest, to_second_minor))
    return tuple((sid_digest, part_minor) for sid_digest, part_minor in parts if part_minor)
