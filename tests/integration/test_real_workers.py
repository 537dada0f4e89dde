"""Several processes serve one party over PostgreSQL: no one of them is needed, and none does anything twice."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import threading
import time
from collections import Counter as Tally
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from parties.channels import Channels
from parties.client import MerchantClient
from parties.wallet.paying import Place, pay
from parties.workers import held_ports
from protocol import envelope
from protocol.crypto import PrivateKey
from protocol.engine import REQUESTS
from protocol.envelope import Signer, Stamp, Wire
from protocol.errors import PortInUse, StorageFault, Unavailable
from protocol.messages.attest import ChallengeRequest
from protocol.roles.bank.tables import CHALLENGES
from protocol.roles.tsm.tables import PURCHASES, TID_LIST
from protocol.types import Purpose

pytestmark = pytest.mark.real
PHONE, SHOP = "phone-1", "shop-1"
AMOUNT = 12_000
KILLS = 12


@pytest.fixture(scope="module")
def town(served_by_several):
    """All up, a phone that may pay."""
    town, _ = served_by_several
    town.launched(PHONE)
    town.running(SHOP)
    return town


@pytest.fixture(scope="module")
def database(served_by_several):
    """The PostgreSQL server of all institutions."""
    return served_by_several[1]


def workers(town, party: str) -> list[int]:
    """The process numbers of a party's workers."""
    pid = town.deployment.pid(party)
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if Path(f"/proc/{child}/stat").read_text().split(") ")[1][0] != "Z"]


def listening(pid: int) -> bool:
    """Has this process a socket that listens?"""
    tables = [Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    inodes = {line.split()[9] for table in tables for line in table if line.split()[3] == "0A"}
    held = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            held.add(str(descriptor.readlink()).removeprefix("socket:[").removesuffix("]"))
    return bool(inodes & held)


def test_all_are_ready_when_the_line_is_printed_and_the_parent_takes_no_calls(town):
    for party, number in (("bank-a", 2), ("tsm-1", 3)):
        assert town.deployment.ready[party]["workers"] == number
        assert len(workers(town, party)) == number
        assert all(listening(pid) for pid in workers(town, party))
        assert not listening(town.deployment.pid(party))


def test_nobody_else_can_share_the_port(town):
    settings = town.opened("bank-a").settings
    with pytest.raises(PortInUse) as caught, held_ports(settings):
        pass
    assert caught.value.code == "PORT_IN_USE"


def test_a_port_of_one_s_own_is_held_and_given_back(town):
    settings = replace(town.opened("bank-a").settings, mutual_listen="127.0.0.1:0")
    with held_ports(settings) as held:
        address = held["mutual_listen"]
        again = replace(settings, mutual_listen=address)
        with pytest.raises(PortInUse), held_ports(again):
            pass
        with socket.socket() as caller, pytest.raises(ConnectionRefusedError):  # the holder does not listen
            caller.connect(("127.0.0.1", int(address.rpartition(":")[2])))
    with held_ports(again):
        pass


def test_purchases_go_on_while_workers_are_killed(town):
    """At random moments, one after the other; nothing is lost, nothing is done twice, and each is replaced."""
    tid = town.register(PHONE, town.open_account(PHONE))
    town.issue(PHONE, tid, number=4)
    reader = town.opened(SHOP).settings.option_text("reader").removeprefix("grpc:")
    known, chance, killed = set(workers(town, "tsm-1")), random.Random(5), []
    done = threading.Event()

    def kill() -> None:
        while len(killed) < KILLS and not done.wait(chance.uniform(0.05, 0.4)):
            alive = workers(town, "tsm-1")
            if len(alive) > 1:  # one is left, or the shop only waits
                killed.append(chance.choice(alive))
                os.kill(killed[-1], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    with MerchantClient(town.settings(SHOP)) as till:
        killer.start()
        try:
            for _ in range(4):
                sale = till.start_sale(AMOUNT).sale
                with town.session(PHONE) as session:
                    place = Place(reader=reader, seconds=20.0, stopped=threading.Event())
                    pay(session, place, tid=tid, ceiling_minor=AMOUNT)
                assert till.await_end(sale, within_s=30.0).progress.value == "APPROVED"
        finally:
            done.set()
            killer.join()
    assert len(killed) >= 2
    (entry,) = town.rows("tsm-1", TID_LIST)
    assert entry.spent_minor == 4 * AMOUNT
    assert Tally(row.state for row in town.rows("tsm-1", PURCHASES)) == {"APPROVED": 4}
    after = town.until(lambda: workers(town, "tsm-1"), lambda pids: len(pids) == 3, seconds=30.0)
    assert not set(after) & set(killed)
    assert set(after) - known
    town.until(lambda: all(listening(pid) for pid in workers(town, "tsm-1")), seconds=30.0)


def test_the_same_bytes_to_all_workers_at_once_have_one_effect_and_one_answer(town):
    wire, before = challenge(town), len(town.rows("bank-a", REQUESTS))
    with lines_to_bank(town, 8) as lines, ThreadPoolExecutor(len(lines)) as pool:
        answers = list(pool.map(lambda line: line.call("bank-a", "Bank.Challenge", wire), lines))
    assert len({answer.cose for answer in answers}) == 1
    assert len(town.rows("bank-a", REQUESTS)) == before + 1
    assert [row.purpose for row in town.rows("bank-a", CHALLENGES) if row.holder == PHONE] == ["launch"]


def challenge(town) -> Wire:
    """A new request of the phone to its bank."""
    opened = town.opened(f"{PHONE}/wallet")
    signer = Signer(name=PHONE, key=PrivateKey.from_bytes(opened.keystore.entry("sign")))
    stamp = Stamp.wallet(opened.clock.now_s(), opened.entropy)
    request = ChallengeRequest(purpose=Purpose.LAUNCH)
    return Wire(cose=envelope.sign(signer, request, audience="bank-a", stamp=stamp))


@contextlib.contextmanager
def lines_to_bank(town, number: int) -> Iterator[list[Channels]]:
    """Connections: one stays at one worker, and each of these has its own."""
    address = {"bank-a": town.address(f"{PHONE}/wallet", "bank-a")}
    tls = town.opened(f"{PHONE}/wallet").client_tls()
    lines = [Channels(address, tls) for _ in range(number)]
    try:
        yield lines
    finally:
        for line in lines:
            line.close()


def test_the_database_is_killed_and_restarted_under_load_and_every_request_gets_its_one_answer(town, database):
    """Clients repeat their bytes while they are told UNAVAILABLE, and are told nothing else."""
    before = {row.digest for row in town.rows("bank-a", REQUESTS)}
    answered, unavailable, enough = {}, [], threading.Event()

    def ask(line: Channels) -> None:
        while not enough.is_set():
            wire = challenge(town)
            while wire not in answered:
                try:
                    answered[wire] = line.call("bank-a", "Bank.Challenge", wire)
                except (Unavailable, StorageFault) as refused:
                    unavailable.append(refused)
                    time.sleep(0.02)

    with lines_to_bank(town, 6) as lines, ThreadPoolExecutor(len(lines)) as pool:
        asking = [pool.submit(ask, line) for line in lines]
        try:
            for how in (signal.SIGQUIT, signal.SIGINT, signal.SIGQUIT):
                known, refusals = len(answered), len(unavailable)
                town.until(lambda known=known: len(answered) > known + 10)
                database.stop(how)
                try:
                    town.until(lambda refusals=refusals: len(unavailable) > refusals + 6)
                finally:
                    database.start()
            known = len(answered)
            town.until(lambda: len(answered) > known + 20)
        finally:
            enough.set()
        for one in asking:
            one.result(20)
        assert {wire.digest for wire in answered} <= {row.digest for row in town.rows("bank-a", REQUESTS)} - before
        for wire, answer in list(answered.items())[::7]:
            assert lines[0].call("bank-a", "Bank.Challenge", wire) == answer
    assert {refused.status for refused in unavailable} == {"UNAVAILABLE"}
    assert len(workers(town, "bank-a")) == 2


def test_one_worker_keeps_house_and_another_takes_over(town):
    """The TSM fetches its bank's list by one of three workers; also after that one is killed."""
    (leader,) = town.until(lambda: leaders(town), lambda found: len(found) == 1)
    os.kill(leader, signal.SIGKILL)
    heard = town.after_next("bank-a", "Bank.ListStops")
    (heir,) = town.until(lambda: leaders(town), lambda found: len(found) == 1)
    assert heir != leader
    town.until(heard)


def leaders(town) -> list[int]:
    """The TSM's workers that hold the lock of housekeeping."""
    return [pid for pid in workers(town, "tsm-1") if _leads(town, pid)]


def _leads(town, pid: int) -> bool:
    """Does a connection of this process hold the lock of housekeeping?"""
    with town.store("tsm-1") as store, store._database.writer.begin() as connection:
        return bool(connection.exec_driver_sql(
            "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) "
            "WHERE locktype = 'advisory' AND objsubid = 2 AND application_name = %s", (f"tapveil {pid}",),
        ).scalar())  # fmt: skip


def test_workers_end_when_their_parent_is_killed(town):
    orphans = workers(town, "bank-a")
    os.kill(town.deployment.pid("bank-a"), signal.SIGKILL)
    town.until(lambda: [pid for pid in orphans if Path(f"/proc/{pid}").exists()], lambda left: not left, seconds=15.0)
    town.kill("bank-a")
    town.running("bank-a")
    assert len(workers(town, "bank-a")) == 2


def test_a_drain_ends_all_and_calls_are_refused_afterwards(town):
    running = workers(town, "bank-a")
    started = time.monotonic()
    assert town.stop("bank-a") == 0
    assert time.monotonic() - started < 10
    assert not [pid for pid in running if Path(f"/proc/{pid}").exists()]
    host, port = town.address(f"{PHONE}/wallet", "bank-a").split(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)))
    town.running("bank-a")


def test_a_database_of_another_version_is_said_once_and_nothing_starts(town, cli):
    assert town.stop("bank-a") == 0
    settings = town.settings("bank-a")
    assert cli("db", "downgrade", "--settings", settings, "--to", "bank_0001").status == 0
    ran = cli("serve", "bank", "--settings", settings, "--workers", "2")
    assert (ran.status, ran.out) == (1, "")
    (line,) = ran.err.splitlines()
    assert line.startswith("tapveil: STORAGE_FAULT: the database is of version bank_0001, not ")
    assert "run `tapveil db upgrade`" in line
    assert cli("db", "upgrade", "--settings", settings).status == 0
    town.running("bank-a")


@pytest.mark.parametrize(
    ("party", "role", "reason"),
    [("phone-1/se", "se", "one process alone serves a party as se"), ("sp-1", "sp", "serves a party as sp")],
)
def test_a_role_that_one_process_serves_gets_no_workers(town, cli, party, role, reason):
    ran = cli("serve", role, "--settings", town.settings(party), "--workers", "2")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith("tapveil: SETTINGS_INVALID: --workers is for bank, merchant, tsm")
    assert reason in ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_worker_that_cannot_start_is_said_once(town, cli):
    settings = town.settings("bank-a")
    (town.folder / "bank-a" / "platform.list").rename(town.folder / "platform.aside")
    assert town.stop("bank-a") == 0
    try:
        ran = cli("serve", "bank", "--settings", settings, "--workers", "2")
        assert (ran.status, ran.out) == (1, "")
        assert "platform.list can't be read" in ran.err
        assert Unavailable.code in ran.err
        assert len(ran.err.splitlines()) == 2
    finally:
        (town.folder / "platform.aside").rename(town.folder / "bank-a" / "platform.list")
    town.running("bank-a")
