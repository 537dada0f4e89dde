"""The TSM's errand of every minute: each bank's list of stops (design §3 FREEZE)."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from parties.server.logs import log
from protocol.engine import Peers
from protocol.errors import ProtocolError
from protocol.ports import Clock, Entropy
from protocol.roles.tsm.party import Tsm
from protocol.roles.tsm.stops import refresh_stops
from protocol.rows import Conflict, Store


class StopFetcher:
    """Asks every bank once in each minute (`stops_every_s`), and one that did not answer again at the next run.

    The banks are asked side by side, so that one which keeps silent does not make the others' lists old.
    """

    def __init__(
        self, tsm: Tsm, banks: Iterable[str], store: Store, peers: Peers, clock: Clock, entropy: Entropy
    ) -> None:
        self._tsm = tsm
        self._store = store
        self._peers = peers
        self._clock = clock
        self._entropy = entropy
        self._asked_s = dict.fromkeys(banks, 0)

    def run_once(self) -> None:
        """Fetch what is due. A bank out of reach is logged by the code alone; its list grows old."""
        now_s = self._clock.now_s()
        every_s = self._tsm.policy.stops_every_s
        due = [bank for bank, asked_s in self._asked_s.items() if asked_s // every_s != now_s // every_s]
        threads = [threading.Thread(target=self._fetch, args=(bank, now_s), daemon=True) for bank in due]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _fetch(self, bank: str, now_s: int) -> None:
        try:
            refresh_stops(self._tsm, bank, self._store, self._peers, now_s, self._entropy)
        except ProtocolError as refusal:
            log.warning("stops", code=refusal.code)
            return
        except Conflict:  # another writer was faster; the bank is asked again at the next run
            return
        self._asked_s[bank] = now_s
