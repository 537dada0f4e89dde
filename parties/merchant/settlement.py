"""The merchant's errand at the TSM: settlements are made, sent as they are stored, and sent again until answered.

The server resends what has no answer; `tapveil merchant settle` also makes new ones. Both may run at once: the same
bytes are paid once, and each answer is recorded once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from parties.server.logs import log
from protocol.engine import ATTEMPTS, Peers
from protocol.envelope import Wire
from protocol.errors import Internal, ProtocolError
from protocol.messages.settle import MAX_LINES
from protocol.ports import Clock, Entropy
from protocol.roles.merchant import SettlementRow, Shop
from protocol.roles.merchant.settle import (
    SETTLE_RPC,
    begin_settlement,
    next_batch,
    owed_payouts,
    record_payout,
    record_refusal,
    settlement_of,
    sign_settlement,
)
from protocol.rows import Conflict, Store, Unit

MAX_BATCHES: Final = 10_000
"""In one run; who has more to settle runs it again."""


@dataclass(kw_only=True)
class Settled:
    """What one run paid out: batches, sales and refunds in them, totals in minor units by currency.

    `refused` are the codes of batches that the TSM does not pay as they are; their sales were tried again in smaller
    ones, so that those which can be paid are.
    """

    batches: int = 0
    sales: int = 0
    refunds: int = 0
    totals_minor: dict[str, int] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)

    def add(self, row: SettlementRow) -> None:
        """One more settlement that was answered."""
        message = settlement_of(row)
        self.batches += 1
        self.sales += len(message.sales)
        self.refunds += len(message.refunds)
        self.totals_minor[row.currency] = self.totals_minor.get(row.currency, 0) + row.total_minor


@dataclass(kw_only=True)
class Settler:
    """One merchant's settlements."""

    shop: Shop
    store: Store
    peers: Peers
    clock: Clock
    entropy: Entropy

    def resend(self) -> Settled:
        """Send what has no answer yet. Raises: Unavailable and others; the rest is tried later."""
        done = Settled()
        for row in owed_payouts(self.store):
            self._send(row, done)
        return done

    def settle(self) -> Settled:
        """Send what has no answer yet, then settle until nothing is left that is due.

        Raises: Unavailable, PeerAnswerInvalid and others: what was stored is sent again by the next run.
        """
        done, most = self.resend(), MAX_LINES
        for _ in range(MAX_BATCHES):
            batch = next_batch(self.store, most)
            if batch is None:
                break
            row = self._apply(begin_settlement(self.shop, batch, self.clock.now_s(), self.entropy))
            if row is not None:
                paid = self._send(row, done)
                most = min(2 * most, MAX_LINES) if paid else max(most // 2, 1)
        return done

    def _send(self, settlement: SettlementRow, done: Settled) -> bool:
        """Was it paid? Raises: a refusal that does not stand, what `record_payout` raises."""
        ready = self._apply(sign_settlement(self.shop, settlement, self.clock.now_s(), self.entropy))
        if ready is None:  # the server, or another command, was faster
            return True
        try:
            answer = self.peers.call(self.shop.tsm, SETTLE_RPC, Wire(cose=ready.request))
        except ProtocolError as refusal:
            ended = self._apply(record_refusal(self.shop, ready, refusal, self.clock.now_s()))
            if ended is None:
                raise
            if ended.state == "REFUSED":
                log.warning("settlement", code=refusal.code)
                done.refused.append(refusal.code)
                return False
        else:
            self._apply(record_payout(self.shop, ready, answer, self.clock.now_s()))
        done.add(ready)
        return True

    def _apply(self, unit: Unit) -> SettlementRow | None:
        for _ in range(ATTEMPTS):
            try:
                row: SettlementRow | None = self.store.apply(unit).reply
            except Conflict:
                continue
            return row
        raise Internal("a unit kept conflicting")
