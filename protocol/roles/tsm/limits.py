"""Whether a proved purchase may be made: controls of the card, the user's own maximum, what is left of the grant.

The checks are in the order in which they are named to the operator; any one declines (CN-3, CN-7, TID-0).
"""

from __future__ import annotations

from protocol.roles.tsm.draws import draw, is_stopped, live
from protocol.roles.tsm.purchase import Proved, Reason
from protocol.roles.tsm.tables import CardRow, Service, TidEntry


def why_declined(
    proved: Proved, card: CardRow, entries: tuple[TidEntry, ...], service: Service, fresh: frozenset[str], now_s: int
) -> Reason | None:
    """The first reason against it, or None.

    `entries` are all grants that the account ever had, `fresh` the banks whose list of stops is not too old.
    """
    return _against_card(proved, card, now_s) or _against_account(proved, entries, service, fresh, now_s)


def _against_card(proved: Proved, card: CardRow, now_s: int) -> Reason | None:
    amount_minor = proved.tap.amount_minor
    failing = {
        Reason.CARD_INACTIVE: card.state != "ACTIVE",
        Reason.CARD_EXPIRED: card.expires_at_s <= now_s,
        Reason.CARD_USED_UP: card.used >= card.uses,
        Reason.CHANNEL_NOT_ALLOWED: proved.channel != card.channel,
        Reason.CURRENCY_NOT_ALLOWED: proved.tap.currency != card.currency,
        Reason.VERIFICATION_MISSING: amount_minor > card.verify_above_minor and not proved.device_verified,
        Reason.OVER_CARD_AMOUNT: amount_minor > card.per_use_minor,
        Reason.OVER_CARD_TOTAL: card.spent_minor + amount_minor > card.total_minor,
    }
    return next((reason for reason, fails in failing.items() if fails), None)


def _against_account(
    proved: Proved, entries: tuple[TidEntry, ...], service: Service, fresh: frozenset[str], now_s: int
) -> Reason | None:
    # One account is one phone: what one bank stops, no grant of another keeps going (CN-11).
    amount_minor, grants = proved.tap.amount_minor, live(entries, now_s)
    failing = {
        Reason.OVER_OWN_MAXIMUM: 0 < service.maximum_minor < amount_minor,
        Reason.ACCOUNT_ENDED: not grants or service.state != "ACTIVE",
        Reason.ACCOUNT_STOPPED: bool(service.stop) or is_stopped(entries, now_s),
        Reason.STOPS_STALE: any(grant.bank not in fresh for grant in grants),
        Reason.OVER_BALANCE: not draw(grants, amount_minor),
    }
    return next((reason for reason, fails in failing.items() if fails), None)
