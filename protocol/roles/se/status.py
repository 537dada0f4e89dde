"""What the SE tells of itself: names and counts, never a key or a full number (TW-S1)."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.engine import Context
from protocol.messages.se import MAX_READY, Pool, SeState, SeStatus
from protocol.ports import Entropy
from protocol.roles.se.opening import SLOT, is_usable, opening_of
from protocol.roles.se.party import SeQuery
from protocol.roles.se.pin import pin_state
from protocol.roles.se.tables import ACCOUNTS, FIELD, OWNERS, PINS, SERVICE_KEYS, VIRTUAL_CARDS, VirtualCard
from protocol.rows import Decision, Key, Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What is held now."""

    state: SeState


class StatusStep(SeQuery[SeStatus, Held]):
    """Lists banks, active AIDs and TIDs, and masked numbers of active cards."""

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
            pin=pin_state(held.get(PINS, SLOT)).state,
            opening=opening_of(held.get(FIELD, SLOT), ctx.now_s),
        )
        return Held(state=state)

    def decide(self, rows: Rows, facts: Held, now_s: int, entropy: Entropy) -> Decision:
        return Decision(reply=facts.state)


def _pool(tid: str, cards: list[VirtualCard]) -> Pool:
    own = sorted(card.expires_at_s for card in cards if card.tid == tid)
    return Pool(tid=tid, ready=len(own), expires_at_s=tuple(own))
