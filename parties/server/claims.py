"""The TSM's errand of every period: a claim for each grant, to each bank (design §3 SETTLE)."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Final

from parties.server.logs import log
from protocol.engine import ATTEMPTS, Peers
from protocol.errors import ProtocolError, Unavailable
from protocol.ports import Clock, Entropy
from protocol.roles.tsm.claims import History, claims_under_way, due_claims, history_of, make_claim, send_claim
from protocol.roles.tsm.party import Tsm
from protocol.roles.tsm.tables import TID_LIST, ClaimRow
from protocol.rows import Key, Store

VOID: Final = "GRANT_UNKNOWN"
"""The bank's word for a grant that it never made: a claim that closes it has nothing to close."""


@dataclass(kw_only=True)
class BankClaims:
    """What became of the claims on one bank in one run. Counts only: a sum would be of few persons."""

    bank: str
    sent: int = 0
    accepted: int = 0
    void: int = 0
    waiting: int = 0
    refusals: Counter[str] = field(default_factory=Counter)

    @property
    def refused(self) -> int:
        """How many the bank refused; the operator sees to them."""
        return self.refusals.total()


class ClaimSender:
    """Makes what is due and sends what is stored. A bank that keeps silent holds up no other bank's claims."""

    def __init__(self, tsm: Tsm, store: Store, peers: Peers, clock: Clock, entropy: Entropy) -> None:
        self._tsm = tsm
        self._store = store
        self._peers = peers
        self._clock = clock
        self._entropy = entropy
        self._made_period = 0

    def run_once(self) -> None:
        """What housekeeping does each minute: once a period make the claims, and send those that wait."""
        period = self._clock.now_s() // self._tsm.policy.claim_period_s
        if period != self._made_period and self.make():
            self._made_period = period
        self.send()

    def make(self, *, early: bool = False, again: bool = False) -> bool:
        """Store the claims that are due (`History.is_due`); whether none had to be left for later."""
        complete = not claims_under_way(self._store)  # a grant's next claim waits for its last one's answer
        for history in due_claims(self._tsm, self._store, self._clock.now_s(), early=early, again=again):
            complete &= self._make(history, early=early, again=again)
        return complete

    def _make(self, history: History, *, early: bool, again: bool) -> bool:
        for _ in range(ATTEMPTS):
            if not history.is_due(self._tsm.policy, self._clock.now_s(), early=early, again=again):
                return True  # another process made it
            try:
                made = make_claim(self._tsm, self._store, history, self._clock.now_s(), self._entropy)
            except ProtocolError as refusal:
                log.warning("claim", code=refusal.code)
                return False
            if made is not None:
                return True
            history = self._as_it_is(history)
        return False

    def _as_it_is(self, history: History) -> History:
        key = history.entry.sid_digest
        entry = self._store.read(Key(TID_LIST, (key,))).get(TID_LIST, key)
        assert entry is not None  # entries are never deleted
        return history_of(self._store, entry)

    def send(self) -> tuple[BankClaims, ...]:
        """Send every claim that waits for its bank, and record the answers; by bank, in the order of their names."""
        rows: dict[str, list[ClaimRow]] = defaultdict(list)
        for row in claims_under_way(self._store):
            entry = self._store.read(Key(TID_LIST, (row.sid_digest,))).get(TID_LIST, row.sid_digest)
            assert entry is not None
            rows[entry.bank].append(row)
        results = [BankClaims(bank=bank) for bank in sorted(rows)]
        threads = [
            threading.Thread(target=self._send, args=(rows[result.bank], result), daemon=True) for result in results
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return tuple(results)

    def _send(self, rows: list[ClaimRow], result: BankClaims) -> None:
        for number, row in enumerate(rows):
            try:
                result.sent += 1
                answered = send_claim(self._tsm, self._store, self._peers, row, self._clock.now_s(), self._entropy)
            except ProtocolError as fault:
                log.warning("claim", code=fault.code)
                if isinstance(fault, Unavailable):  # nor would it answer the others now
                    result.waiting += len(rows) - number
                    return
                result.waiting += 1
                continue
            self._count(answered, result)

    def _count(self, answered: ClaimRow, result: BankClaims) -> None:
        if answered.state == "ACCEPTED":
            result.accepted += 1
            return
        entry = self._store.read(Key(TID_LIST, (answered.sid_digest,))).get(TID_LIST, answered.sid_digest)
        assert entry is not None
        if answered.refusal == VOID and entry.claims == "CLOSED":
            result.void += 1
            return
        log.warning("claim refused", code=answered.refusal)
        result.refusals[answered.refusal] += 1
