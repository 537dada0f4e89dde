"""Whether a party can do its work, looked at again and again: its database, its last write, its certificates.

Health checks say NOT_SERVING within seconds of a fault, and SERVING by themselves when it is over. While the database
can't be read nothing is let in either: calls would wait for it one after the other, and a database file that was
replaced would take commits that nobody ever sees again.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from parties.metrics import Metrics
from parties.server.logs import log
from parties.storage.database import is_postgresql, sqlite_file
from protocol.engine import REQUESTS, Request
from protocol.errors import Expired, NotYetValid, Overloaded, ProtocolError, StorageFault
from protocol.ports import Clock
from protocol.rows import Decision, Insert, Key, Read, Rows, Store, Table, Unit

LOOK_EVERY_S: Final = 1.0
SILENCE_S: Final = 3.0
"""A check that takes so long has failed: the database hangs."""
DATABASE: Final = "database"
_NOBODY: Final = bytes(32)


class WatchedStore:
    """A store of which is counted what fails, and remembered whether the last unit could be committed."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self.has_failed = False
        """Was the last unit not committed for want of the database?"""

    def read(self, *reads: Read) -> Rows:
        """As the store. Raises: as the store."""
        try:
            return self._store.read(*reads)
        except StorageFault:
            self._metrics.database_failed()
            raise

    def scan(self, table: Table[Any]) -> tuple[Any, ...]:
        """As the store. Raises: as the store."""
        try:
            return self._store.scan(table)
        except StorageFault:
            self._metrics.database_failed()
            raise

    def apply(self, unit: Unit) -> Decision:
        """As the store. Raises: as the store."""
        try:
            decision = self._store.apply(unit)
        except StorageFault:
            self._failed()
            raise
        self.has_failed = False
        return decision

    def apply_all(self, units: Sequence[Unit]) -> list[Decision | Exception]:
        """As the store."""
        outcomes = self._store.apply_all(units)
        if any(isinstance(outcome, StorageFault) for outcome in outcomes):
            self._failed()
        else:
            self.has_failed = False
        return outcomes

    def sweep(self, now_s: int) -> int:
        """As the store. Raises: as the store."""
        try:
            return self._store.sweep(now_s)
        except StorageFault:
            self._failed()
            raise

    def _failed(self) -> None:
        self.has_failed = True
        self._metrics.database_failed()


Check = Callable[[], None]
"""Raises: ProtocolError if all is not well."""


def database_check(store: Store, url: str) -> Check:
    """A real read; of a SQLite file also that it is still the one that was opened."""
    path = None if is_postgresql(url) else sqlite_file(url)
    opened = None if path is None else _identity(path)

    def check() -> None:
        if path is not None and _identity(path) != opened:
            raise StorageFault(f"the database file {path} was moved or replaced: put it back, or restart the party")
        try:
            store.read(Key(REQUESTS, (_NOBODY,)))
        except Overloaded:
            return  # it is busy, not gone

    return check


def _identity(path: Path) -> tuple[int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116  # as a database would open it
    except OSError as exc:
        raise StorageFault(f"the database file {path} can't be found: {exc.strerror}") from exc
    return found.st_dev, found.st_ino


def write_check(store: WatchedStore) -> Check:
    """The last unit was committed; else a row that is swept with the next sweep can be written now."""

    def probe(rows: Rows) -> Decision:
        row = Request(
            digest=secrets.token_bytes(32), nonce=secrets.token_bytes(32), expires_at_s=1, issued_at_s=0,
            reply_nonce=b"", reply=b"", refusal="",
        )  # fmt: skip
        return Decision(writes=(Insert(REQUESTS, row),))

    def check() -> None:
        if store.has_failed:
            store.apply(Unit((), probe))

    return check


def certificate_check(certificates: Iterable[bytes], clock: Clock) -> Check:
    """The certificates (PEM) that this process serves with are in date."""
    read = [x509.load_pem_x509_certificate(pem) for pem in certificates]
    since_s = max((one.not_valid_before_utc.timestamp() for one in read), default=0.0)
    until_s = min((one.not_valid_after_utc.timestamp() for one in read), default=float("inf"))

    def check() -> None:
        if clock.now_s() < since_s:
            raise NotYetValid("a certificate of this party is not valid yet")
        if clock.now_s() > until_s:
            raise Expired("a certificate of this party has expired")

    return check


class HealthWatch:
    """Repeats checks and reports what changed. A check that hangs for `SILENCE_S` has failed until it ends."""

    def __init__(
        self, checks: Mapping[str, Check], report: Callable[[bool], None], close_doors: Callable[[bool], None], *,
        every_s: float = LOOK_EVERY_S, silence_s: float = SILENCE_S,
    ) -> None:  # fmt: skip
        """`report` gets whether all is well, `close_doors` whether the database is gone."""
        self._checks = dict(checks)
        self._report = report
        self._close_doors = close_doors
        self._every_s = every_s
        self._silence_s = silence_s
        self._stop = threading.Event()
        self._began_s = dict.fromkeys(checks, 0.0)
        self._failing = dict.fromkeys(checks, "")
        self._threads = [
            threading.Thread(target=self._repeat, args=(name, check), name=f"health-{name}", daemon=True)
            for name, check in checks.items()
        ]
        self._threads.append(threading.Thread(target=self._tell, name="health", daemon=True))
        self.is_well = True

    def start(self) -> None:
        """Begin to look."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Look no more. A check that hangs is left to itself."""
        self._stop.set()
        self._threads[-1].join()

    def _repeat(self, name: str, check: Check) -> None:
        while not self._stop.is_set():
            self._began_s[name] = time.monotonic()
            code = ""
            try:
                check()
            except ProtocolError as fault:
                code = fault.code
            except Exception as fault:  # noqa: BLE001  # a check that can't be made has failed
                code = StorageFault.code
                log.error("health", kind=type(fault).__name__)
            self._failing[name] = code
            self._began_s[name] = 0.0
            self._stop.wait(self._every_s)

    def _tell(self) -> None:
        told = dict.fromkeys(self._checks, "")
        while not self._stop.wait(self._every_s / 4):
            now_s = time.monotonic()
            found = dict(self._failing)
            for name, began_s in self._began_s.items():
                if began_s and now_s - began_s > self._silence_s:
                    found[name] = StorageFault.code
            if found == told:
                continue
            for name, code in found.items():
                if code != told[name]:
                    log.warning("health", kind=name, code=code or "OK")
            told = found
            self.is_well = not any(found.values())
            self._close_doors(bool(found.get(DATABASE)))
            self._report(self.is_well)
