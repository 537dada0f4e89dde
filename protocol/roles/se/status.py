"""What the SE tells of itself: names and counts, never a key or a full number (TW-S1)."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.engine import Context
from protocol.messages.se import SeState, SeStatus
from protocol.ports import Entropy
from protocol.roles.se.party import SeQuery
from protocol.roles.se.tables import ACCOUNTS, OWNERS, SERVICE_KEYS, VIRTUAL_CARDS
from protocol.rows import Decision, Rows


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
        state = SeState(
            open=any(row.open for row in owners),
            banks=tuple(sorted(row.bank for row in owners)),
            aids=tuple(sorted(row.aid for row in store.scan(ACCOUNTS) if row.state == "ACTIVE")),
            tids=tuple(sorted(row.tid for row in store.scan(SERVICE_KEYS) if row.state == "ACTIVE")),
            cards=tuple(sorted(row.masked for row in store.scan(VIRTUAL_CARDS) if row.state == "ACTIVE")),
        )
        return Held(state=state)

    def decide(self, rows: Rows, facts: Held, now_s: int, entropy: Entropy) -> Decision:
        return Decision(reply=facts.state)
