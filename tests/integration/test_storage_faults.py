"""Real faults: killed processes, full disks, read-only files. What was acknowledged stays; nothing is half there."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.postgres import schema

from parties.keystore import GENERATED, Keystore
from parties.storage.database import open_database
from parties.storage.migrations import create_or_upgrade
from parties.storage.sealing import Sealer
from parties.storage.store import DatabaseStore, open_store
from protocol.engine import COMMON_TABLES, EVIDENCE, OUTBOX, Evidence, Question
from protocol.errors import KeystoreLocked, Replay, StorageFault
from protocol.rows import Decision, Insert, Key, Unit

DATA_KEY = bytes(32)
BULK = 3000
"""Bytes in each row; a few units fill a page, and a few hundred make a checkpoint."""

WRITER = """
import sys, threading
from parties.storage.store import open_store
from protocol.engine import EVIDENCE, OUTBOX, Evidence, Question
from protocol.rows import Decision, Insert, Unit

store = open_store(sys.argv[1], "bank", bytes(32))
lock = threading.Lock()

def pair(name):
    question = Question(digest=name, rpc="r", cose=bytes(3000), session=b"", peer="p", peer_rpc="q", peer_cose=b"",
                        expires_at_s=1)
    evidence = Evidence(digest=name, message="m", received_at_s=1, signed=bytes(3000))
    return Unit((), lambda _: Decision(writes=(Insert(OUTBOX, question), Insert(EVIDENCE, evidence))))

def write(thread):
    for n in range(100000):
        name = f"{sys.argv[2]}-{thread}-{n}"
        store.apply(pair(name.encode()))
        with lock:
            sys.stdout.write(name + chr(10))
            sys.stdout.flush()

for thread in range(4):
    threading.Thread(target=write, args=(thread,)).start()
"""


def pair(name: bytes) -> Unit:
    """A unit of two rows in two tables."""
    question = Question(
        digest=name, rpc="r", cose=bytes(BULK), session=b"", peer="p", peer_rpc="q", peer_cose=b"", expires_at_s=1
    )
    evidence = Evidence(digest=name, message="m", received_at_s=1, signed=bytes(BULK))
    return Unit((), lambda _: Decision(writes=(Insert(OUTBOX, question), Insert(EVIDENCE, evidence))))


def held(store: DatabaseStore) -> set[bytes]:
    """The names of the units in the store, each there with both its rows."""
    outbox, evidence = store.scan(OUTBOX), store.scan(EVIDENCE)
    assert {row.digest for row in outbox} == {row.digest for row in evidence}
    return {row.digest for row in outbox}


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/killed.db"
        return
    with schema() as made:
        yield made


@pytest.mark.real
def test_a_killed_process_loses_no_acknowledged_unit_and_leaves_none_by_half(url):
    create_or_upgrade(url, "bank")
    acknowledged: set[bytes] = set()
    for run, wanted in enumerate((20, 150, 400)):
        process = subprocess.Popen([sys.executable, "-c", WRITER, url, str(run)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        for _ in range(wanted):
            acknowledged.add(process.stdout.readline().strip())
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read()  # what was acknowledged before the kill arrived
        acknowledged |= {line.strip() for line in rest.splitlines(keepends=True) if line.endswith(b"\n")}
        process.stdout.close()
        assert process.wait() == -signal.SIGKILL
        store = open_store(url, "bank", DATA_KEY)
        assert held(store) >= acknowledged
        store.apply(pair(b"after-%d" % run))
        store.close()
    assert len(acknowledged) >= 570


def test_a_full_disk_loses_nothing_fails_clearly_and_recovers(tmp_path):
    url = f"sqlite:///{tmp_path}/full.db"
    create_or_upgrade(url, "bank")
    database = open_database(url)
    store = DatabaseStore(database, COMMON_TABLES, Sealer(DATA_KEY))
    acknowledged = {b"first"}
    store.apply(pair(b"first"))
    _limit(database, extra_pages=40)
    seen, lock = [], threading.Lock()

    def write(thread: int) -> None:
        for n in range(20):
            name = b"%d-%d" % (thread, n)
            try:
                store.apply(pair(name))
            except StorageFault as fault:
                with lock:
                    seen.append(fault)
            else:
                with lock:
                    acknowledged.add(name)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen
    assert {(fault.status, "disk is full" in str(fault)) for fault in seen} == {("UNAVAILABLE", True)}
    assert len(acknowledged) > 1
    assert held(store) == acknowledged
    with pytest.raises(Replay):  # a unit that writes nothing needs no room
        store.apply(Unit((Key(OUTBOX, (b"first",)),), _refuse))
    _limit(database, extra_pages=100_000)
    store.apply(pair(b"last"))
    store.close()
    again = open_store(url, "bank", DATA_KEY)
    assert held(again) == acknowledged | {b"last"}
    again.close()


def _refuse(rows: object) -> Decision:
    raise Replay


def _limit(database, extra_pages: int) -> None:
    with database.writer.begin() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages + extra_pages}")


LIMITED = """
import resource, signal, sys
from parties.storage.store import open_store
from protocol.errors import StorageFault

exec(sys.argv[2])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = open_store(sys.argv[1], "bank", bytes(32))
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
acknowledged, fault = [], None
for n in range(100):
    try:
        store.apply(pair(b"%d" % n))
        acknowledged.append(n)
    except StorageFault as exc:
        fault = fault or exc
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
store.apply(pair(b"1000"))
print(acknowledged + [1000], "|", fault.detail)
store.close()
"""


@pytest.mark.real
def test_writes_that_the_system_refuses_lose_nothing_and_recover(tmp_path):
    """The write call itself fails here, in the middle of a log frame, as it does on a failing disk."""
    url = f"sqlite:///{tmp_path}/limited.db"
    create_or_upgrade(url, "bank")
    unit = WRITER[WRITER.index("from protocol.engine") : WRITER.index("store = ")]
    unit += WRITER[WRITER.index("def pair") : WRITER.index("def write")]
    run = subprocess.run([sys.executable, "-c", LIMITED, url, unit], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    numbers, detail = run.stdout.split("|")
    acknowledged = {b"%d" % int(n) for n in numbers.strip(" []").split(",")}
    assert 1 < len(acknowledged) < 101
    assert "disk" in detail
    store = open_store(url, "bank", DATA_KEY)
    assert held(store) == acknowledged
    store.close()


def test_a_read_only_database_is_readable_and_says_why_it_cannot_be_written(tmp_path):
    create_or_upgrade(f"sqlite:///{tmp_path}/only.db", "bank")
    store = open_store(f"sqlite:///{tmp_path}/only.db", "bank", DATA_KEY)
    store.apply(pair(b"kept"))
    store.close()
    store = open_store(f"sqlite:///file:{tmp_path}/only.db?mode=ro&uri=true", "bank", DATA_KEY)
    assert held(store) == {b"kept"}
    with pytest.raises(StorageFault, match="the database file is read-only: give this user the right") as caught:
        store.apply(pair(b"more"))
    assert caught.value.status == "UNAVAILABLE"
    assert held(store) == {b"kept"}
    store.close()


@pytest.mark.parametrize("damage", [lambda data: b"not a database" + data[14:], lambda data: data[:100] + bytes(9000)])
def test_a_damaged_file_is_a_storage_fault_with_its_mend(tmp_path, damage):
    url = f"sqlite:///{tmp_path}/damaged.db"
    create_or_upgrade(url, "bank")
    path = Path(f"{tmp_path}/damaged.db")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StorageFault, match="backup"):
        open_store(url, "bank", DATA_KEY)


REWRITER = """
import sys
from pathlib import Path
from parties.keystore import Keystore
from protocol.errors import KeystoreLocked

path = Path(sys.argv[1])
try:
    store = Keystore.open(path, b"one")
except KeystoreLocked:
    store = Keystore.open(path, b"two")
print("ready", flush=True)
while True:
    store.change_passphrase(b"two")
    store.change_passphrase(b"one")
"""


@pytest.mark.real
def test_a_keystore_whose_writer_is_killed_is_the_old_one_or_the_new_one(tmp_path):
    path = tmp_path / "bank.keys"
    Keystore.create(path, b"one", {"signing": b"scalar"}, cost=GENERATED)
    delays = random.Random(1)
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", REWRITER, os.fspath(path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        threading.Event().wait(delays.uniform(0.005, 0.05))
        process.kill()
        process.wait()
        process.stdout.close()
        assert _open_with_either(path).entry("signing") == b"scalar"


def _open_with_either(path: Path) -> Keystore:
    try:
        return Keystore.open(path, b"one")
    except KeystoreLocked:
        return Keystore.open(path, b"two")
