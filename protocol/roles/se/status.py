"""What the SE tells of itself: names and counts, never a key or a full number (TW-S1)."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.engine import Context
from protocol.messages.se_state import MAX_CREDITS, MAX_READY, Credit, Pool, SeState, SeStatus
from protocol.ports import Entropy
from protocol.roles.se.credit import waiting_offers
from protocol.roles.se.opening import SLOT, is_usable, opening_of
from protocol.roles.se.party import SeQuery
from protocol.roles.se.pin import pin_state
from protocol.roles.se.tables import (
    ACCOUNTS,
    FIELD,
    GRANTS,
    OWNERS,
    PINS,
    RECREDITS,
    SERVICE_KEYS,
    VIRTUAL_CARDS,
    VirtualCard,
)
from protocol.rows import Decision, Key, Rows, Where


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What is held now."""

    state: SeState


class StatusStep(SeQuery[SeStatus, Held]):
    """Lists banks, active AIDs and TIDs, whose credit they have, and masked numbers of active cards."""

    rpc = "SecureElement.Status"
    command = SeStatus
    reply = SeState

    def look(self, command: SeStatus, ctx: Context) -> Held:
        store = ctx.store
        owners = [row for row in store.scan(OWNERS) if row.state == "ENROLLED"]
        tids = sorted(row.tid for row in store.scan(SERVICE_KEYS) if row.state == "ACTIVE")
        cards = [row for row in store.scan(VIRTUAL_CARDS) if is_usable(row, ctx.now_s)][:MAX_READY]
        held = ctx.read(Key(PINS, (SLOT,)), Key(FIELD, (SLOT,)))
        state = SeState(
            open=any(row.open for row in owners),
            banks=tuple(sorted(row.bank for row in owners)),
            aids=tuple(sorted(row.aid for row in store.scan(ACCOUNTS) if row.state == "ACTIVE")),
            tids=tuple(tids),
            cards=tuple(sorted(row.masked for row in cards)),
            pools=tuple(_pool(tid, cards) for tid in tids),
            credits=_credits(ctx),
            recredits=_asked(ctx, tids),
            pin=pin_state(held.get(PINS, SLOT)).state,
            opening=opening_of(held.get(FIELD, SLOT), ctx.now_s),
        )
        return Held(state=state)

    def decide(self, rows: Rows, facts: Held, now_s: int, entropy: Entropy) -> Decision:
        return Decision(reply=facts.state)


def _credits(ctx: Context) -> tuple[Credit, ...]:
    """AIDs that grants rest on or could: one that was granted and given back is not used again."""
    grants = {grant.account: grant for grant in ctx.store.scan(GRANTS)}
    usable = (
        row for row in ctx.store.scan(ACCOUNTS)
        if row.state == "ACTIVE" and row.expires_at_s > ctx.now_s
        and (row.account not in grants or grants[row.account].state == "ACTIVE")
    )  # fmt: skip
    return tuple(
        Credit(
            aid=row.aid, bank=row.bank, tsm=row.tsm, tid=grants[row.account].tid if row.account in grants else "",
            expires_at_s=row.expires_at_s, limit_minor=row.limit_minor, currency=row.currency,
        )
        for row in sorted(usable, key=lambda row: row.aid)[:MAX_CREDITS]
    )  # fmt: skip


def _asked(ctx: Context, tids: list[str]) -> tuple[str, ...]:
    offers = (offer for tid in tids for offer in waiting_offers(ctx.read(Where(RECREDITS, "tid", tid)), tid))
    return tuple(offer.tid for offer in offers if offer.expires_at_s >= ctx.now_s)


def _pool(tid: str, cards: list[VirtualCard]) -> Pool:
    own = sorted(card.expires_at_s for card in cards if card.tid == tid)
    return Pool(tid=tid, ready=len(own), expires_at_s=tuple(own))
