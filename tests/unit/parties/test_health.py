"""Health follows the database, the last write and the certificates, within seconds, and comes back by itself."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from support.postgres import Server

from parties.metrics import Metrics
from parties.server.health import (
    Check,
    HealthWatch,
    WatchedStore,
    certificate_check,
    database_check,
    write_check,
)
from parties.storage.database import open_database
from parties.storage.migrations import create_or_upgrade
from parties.storage.roles import TABLES
from parties.storage.sealing import Sealer
from parties.storage.store import DatabaseStore
from protocol.engine import OUTBOX, REQUESTS
from protocol.errors import Expired, NotYetValid, Overloaded, StorageFault, Unavailable
from protocol.rows import Decision, Key, MemoryStore, Unit

NOTHING = Unit((), lambda _rows: Decision())


class Reports:
    """What was told."""

    def __init__(self) -> None:
        self.well: list[bool] = []
        self.gone: list[bool] = []

    def until(self, look: Callable[[], bool], seconds: float = 8.0) -> None:
        ends = time.monotonic() + seconds
        while not look():
            assert time.monotonic() < ends, (self.well, self.gone)
            time.sleep(0.01)


@contextlib.contextmanager
def watching(checks: dict[str, Check], **options: float) -> Iterator[Reports]:
    reports = Reports()
    watch = HealthWatch(checks, reports.well.append, reports.gone.append, every_s=0.05, **options)
    watch.start()
    try:
        yield reports
    finally:
        watch.stop()


@contextlib.contextmanager
def stored(url: str) -> Iterator[DatabaseStore]:
    create_or_upgrade(url, "bank")
    store = DatabaseStore(open_database(url), TABLES["bank"], Sealer(bytes(32)))
    try:
        yield store
    finally:
        store.close()


# --- the checks ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("replace", [False, True], ids=["moved away", "replaced"])
def test_a_database_file_that_is_not_the_opened_one_fails_until_it_is_back(tmp_path: Path, replace: bool) -> None:
    path, aside = tmp_path / "bank.db", tmp_path / "aside.db"
    url = f"sqlite:///{path}"
    with stored(url) as store:
        check = database_check(store, url)
        check()
        path.rename(aside)
        if replace:
            path.write_bytes(aside.read_bytes())
        with pytest.raises(StorageFault, match=r"restart the party|can't be found") as failed:
            check()
        assert failed.value.code == "STORAGE_FAULT"
        aside.replace(path)
        check()


def test_a_database_that_is_busy_is_not_gone(tmp_path: Path) -> None:
    class Busy(MemoryStore):
        def read(self, *reads):
            raise Overloaded

    url = f"sqlite:///{tmp_path}/bank.db"
    with stored(url):
        database_check(Busy(), url)()


def test_after_a_unit_that_could_not_be_committed_a_row_must_go_in_again(tmp_path: Path) -> None:
    with stored(f"sqlite:///{tmp_path}/bank.db") as store:
        metrics = Metrics(())
        watched = WatchedStore(store, metrics)
        check = write_check(watched)
        check()
        assert store.scan(REQUESTS) == ()  # nothing is written while all is well
        with store._database.writer.begin() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
        with pytest.raises(StorageFault):
            for _ in range(2000):  # until the disk is full
                watched.has_failed = True
                check()
        with pytest.raises(StorageFault, match="disk is full"):
            check()
        assert watched.has_failed
        assert "tapveil_database_errors_total 0\n" not in metrics.render()
        with store._database.writer.begin() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count=100000")
        check()
        assert not watched.has_failed
        assert store.scan(REQUESTS)
        assert watched.sweep(now_s=2) > 0
        assert watched.scan(REQUESTS) == watched.scan(OUTBOX) == ()


def test_a_refusal_is_no_fault_of_the_database() -> None:
    watched = WatchedStore(MemoryStore(), Metrics(()))

    def refuse(_rows):
        raise Unavailable

    with pytest.raises(Unavailable):
        watched.apply(Unit((), refuse))
    assert not watched.has_failed


def test_what_the_database_fails_is_counted() -> None:
    class Gone(MemoryStore):
        def read(self, *reads):
            raise StorageFault

        scan = sweep = apply = read

    metrics = Metrics(())
    watched = WatchedStore(Gone(), metrics)
    for ask in (
        lambda: watched.read(Key(REQUESTS, (bytes(32),))), lambda: watched.scan(REQUESTS), lambda: watched.sweep(1),
        lambda: watched.apply(NOTHING),
    ):  # fmt: skip
        with pytest.raises(StorageFault):
            ask()
    assert "tapveil_database_errors_total 4\n" in metrics.render()
    assert watched.has_failed


def test_what_the_database_fails_among_many_is_counted() -> None:
    class Failing(MemoryStore):
        fails = True

        def apply(self, unit):
            if self.fails:
                raise StorageFault
            return super().apply(unit)

    store = Failing()
    metrics = Metrics(())
    watched = WatchedStore(store, metrics)
    assert [type(outcome) for outcome in watched.apply_all([NOTHING, NOTHING])] == [StorageFault] * 2
    assert watched.has_failed
    assert "tapveil_database_errors_total 1\n" in metrics.render()
    store.fails = False
    assert [type(outcome) for outcome in watched.apply_all([NOTHING])] == [Decision]
    assert not watched.has_failed


def test_certificates_are_in_date_or_not(environment: Path) -> None:
    pem = (environment / "pki/bank.bank-a.tls.pem").read_bytes()
    certificate = x509.load_pem_x509_certificate(pem)
    since_s = int(certificate.not_valid_before_utc.timestamp())
    until_s = int(certificate.not_valid_after_utc.timestamp())

    class At:
        def __init__(self, now_s: int) -> None:
            self.at_s = now_s

        def now_s(self) -> int:
            return self.at_s

    for now_s in (since_s, until_s):
        certificate_check((pem,), At(now_s))()
    with pytest.raises(NotYetValid):
        certificate_check((pem,), At(since_s - 1))()
    with pytest.raises(Expired):
        certificate_check((pem,), At(until_s + 1))()


# --- the watch -------------------------------------------------------------------------------------------------------
def test_what_fails_is_told_and_what_is_well_again_too() -> None:
    failing = threading.Event()

    def check() -> None:
        if failing.is_set():
            raise StorageFault

    with watching({"database": check, "certificates": lambda: None}) as told:
        time.sleep(0.2)
        assert told.well == []  # nothing has changed
        failing.set()
        told.until(lambda: told.well == [False])
        assert told.gone == [True]
        failing.clear()
        told.until(lambda: told.well == [False, True])
        assert told.gone == [True, False]


def test_only_a_lost_database_closes_the_doors_and_a_bug_in_a_check_is_a_failure() -> None:
    broken = threading.Event()

    def check() -> None:
        if broken.is_set():
            raise KeyError("a bug")

    with watching({"database": lambda: None, "writes": check}) as told:
        broken.set()
        told.until(lambda: told.well == [False])
        assert told.gone == [False]


def test_a_check_that_hangs_has_failed_until_it_ends() -> None:
    hang, go = threading.Event(), threading.Event()

    def check() -> None:
        if hang.is_set():
            go.wait(20)

    with watching({"database": check}, silence_s=0.3) as told:
        hang.set()
        told.until(lambda: told.gone == [True])
        hang.clear()
        go.set()
        told.until(lambda: told.gone == [True, False])
        assert told.well == [False, True]


@pytest.mark.real
def test_a_postgresql_that_stops_hangs_or_comes_back_is_noticed_within_seconds() -> None:
    server = Server("fsync=off")
    try:
        with stored(server.url) as store:
            watched = WatchedStore(store, Metrics(()))
            checks = {"database": database_check(watched, server.url), "writes": write_check(watched)}
            with watching(checks, silence_s=1.0) as told:
                server.stop()
                with pytest.raises(StorageFault):
                    watched.apply(NOTHING)
                told.until(lambda: told.gone[-1:] == [True])
                server.start()
                told.until(lambda: told.well[-1] is True)
                assert told.gone[-1] is False
                watched.apply(NOTHING)
                assert server.process is not None
                children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
                for pid in (server.process.pid, *map(int, children)):
                    _signal(pid, signal.SIGSTOP)
                told.until(lambda: told.gone[-1] is True)
                for pid in (server.process.pid, *map(int, children)):
                    _signal(pid, signal.SIGCONT)
                told.until(lambda: told.well[-1] is True, seconds=20)
    finally:
        server.close()


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
