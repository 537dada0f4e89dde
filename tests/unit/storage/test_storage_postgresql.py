"""What PostgreSQL adds: servers that go and come back, several writers at once, errors with their mends."""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, OperationalError
from support.postgres import Server, database_url, schema

from parties.storage.database import fault_of, faults, open_database, shown
from parties.storage.leader import Leader
from parties.storage.migrations import create_or_upgrade
from parties.storage.postgresql import MENDS, create_schema, drop_schemas, in_schema
from parties.storage.schema import metadata_for
from parties.storage.sealing import Sealer
from parties.storage.store import DatabaseStore, open_store
from parties.storage.version import check_version
from protocol.engine import REQUESTS
from protocol.errors import ProtocolError, Replay, SettingsInvalid, StorageFault
from protocol.rows import Conflict, Decision, Insert, Key, Unit, Update, Where

pytestmark = pytest.mark.parametrize("sample", ["postgresql"], indirect=True)


def stores(sample, url, number=2, **options):
    """Several stores over one database, as several processes have them."""
    return [DatabaseStore(open_database(url), sample.tables, Sealer(sample.data_key), **options) for _ in range(number)]


def close(*open_stores):
    for one in open_stores:
        one.close()


def insert(sample, *rows):
    return Unit((), lambda _: Decision(writes=tuple(Insert(sample.accounts, row) for row in rows)))


def add(sample, *numbers):
    """One more in each account, the accounts named in any order."""

    def decide(rows):
        found = [rows.get(sample.accounts, number) for number in numbers]
        changed = [sample.account(row.number, balance=row.balance + 1) for row in found]
        return Decision(writes=tuple(Update(sample.accounts, row) for row in changed))

    return Unit(tuple(Key(sample.accounts, (number,)) for number in numbers), decide)


def balances(sample, store):
    return [row.balance for row in store.scan(sample.accounts)]


@pytest.fixture
def url(sample, tmp_path):
    sample.create(tmp_path / "shared.db").close()
    return sample.url(tmp_path / "shared.db")


# --- several writers -------------------------------------------------------------------------------------------------
def test_hot_rows_in_any_order_neither_deadlock_nor_lose_an_update(sample, url):
    """Three writers, each with threads enough for batches, over the same four rows in opposite orders."""
    several = stores(sample, url, 3)
    several[0].apply(insert(sample, *(sample.account(n) for n in range(4))))

    def work(thread):
        numbers = [0, 1, 2, 3] if thread % 2 else [3, 2, 1, 0]
        for _ in range(20):
            several[thread % 3].apply(add(sample, *numbers))

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(work, range(12)))
    assert balances(sample, several[0]) == [240] * 4
    close(*several)


def test_writers_that_lock_each_other_out_are_both_carried_out(sample, url):
    """Another program takes the rows in the other order: a deadlock, which the store meets by deciding again."""
    (store,) = stores(sample, url, 1)
    store.apply(insert(sample, sample.account(1), sample.account(2)))
    other = sa.create_engine(url, poolclass=sa.NullPool)
    bump = sa.text("UPDATE sample_accounts SET balance = balance + 10 WHERE number = :n")
    with other.connect() as connection:
        connection.exec_driver_sql("SET deadlock_timeout TO '20s'")  # the store's side is the one that gives way
        connection.execute(bump, {"n": 2})
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(store.apply, add(sample, 1, 2))
            _until(connection, "SELECT count(*) FROM pg_locks WHERE NOT granted")
            connection.execute(bump, {"n": 1})  # waits until the store gave way
            connection.commit()
            waiting.result(20)
    assert balances(sample, store) == [11, 11]
    close(store)


def _until(connection, query):
    deadline_s = time.monotonic() + 60  # on a busy machine a commit may wait long for the disk
    while not connection.exec_driver_sql(query).scalar():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_one_free_place_is_taken_once_whoever_looks_for_it(sample, url):
    """At most two accounts of a bank: nobody may add a third while another looks that there are but one."""
    several = stores(sample, url, 4)
    barrier = threading.Barrier(8)

    def join(number):
        def decide(rows):
            if len(rows.find(sample.accounts, "bank", b"full")) >= 2:
                raise Replay
            time.sleep(0.01)
            return Decision(writes=(Insert(sample.accounts, sample.account(number, bank=b"full")),))

        barrier.wait(10)
        try:
            several[number % 4].apply(Unit((Where(sample.accounts, "bank", b"full"),), decide))
        except Replay:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        joined = list(pool.map(join, range(8)))
    assert sum(joined) == 2
    assert len(several[0].scan(sample.accounts)) == 2
    close(*several)


def test_a_row_that_is_added_without_a_look_waits_for_those_who_look(sample, url):
    looker, adder = stores(sample, url)
    looking, added = threading.Event(), threading.Event()

    def look(rows):
        looking.set()
        assert not added.wait(0.3)
        return Decision(reply=len(rows.find(sample.entries, "account", 7)))

    entry = sample.Entry(owner=b"o", sequence=1, account=7, amount=1)

    def bring_in():
        looking.wait(10)
        adder.apply(Unit((), lambda _: Decision(writes=(Insert(sample.entries, entry),))))
        added.set()

    with ThreadPoolExecutor(1) as pool:
        bringing = pool.submit(bring_in)
        assert looker.apply(Unit((Where(sample.entries, "account", 7),), look)).reply == 0
        bringing.result(10)
    assert looker.scan(sample.entries) == (entry,)
    close(looker, adder)


def test_the_same_new_key_at_two_writers_is_one_row_and_one_conflict(sample, url):
    one, two = stores(sample, url)
    entered, go = threading.Event(), threading.Event()

    def late(rows):
        entered.set()
        go.wait(10)
        return Decision(writes=(Insert(sample.accounts, sample.account(1, name="late")),))

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(one.apply, Unit((Key(sample.accounts, (1,)),), late))
        entered.wait(10)
        two.apply(insert(sample, sample.account(1, name="first")))
        go.set()
        with pytest.raises(Conflict):
            waiting.result(10)
    assert [row.name for row in one.scan(sample.accounts)] == ["first"]
    close(one, two)


def test_two_may_sweep_at_once(sample, url):
    several = stores(sample, url, 2, sweep_rows=50)
    several[0].apply(insert(sample, *(sample.account(n, until_s=n) for n in range(400))))
    with ThreadPoolExecutor(2) as pool:
        swept = sum(pool.map(lambda store: store.sweep(300), several))
    swept += several[0].sweep(300)  # what the other was at
    assert swept == 300
    assert len(several[0].scan(sample.accounts)) == 100
    close(*several)


# --- who keeps house -------------------------------------------------------------------------------------------------
def test_one_of_several_keeps_house_and_makes_room_when_it_goes(sample, url):
    several = stores(sample, url, 3)
    leaders = [store.leader() for store in several]
    assert [leader.holds() for leader in leaders] == [True, False, False]
    assert [leader.holds() for leader in leaders] == [True, False, False]
    leaders[0].close()
    assert _eventually(leaders[1].holds)
    assert not leaders[2].holds()
    with several[0]._database.writer.begin() as connection:  # the server ends the leader's connection
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND granted "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
            "AND objid = hashtext(current_schema())::bit(32)::bigint::oid"
        )
    assert _eventually(lambda: [leader.holds() for leader in leaders[1:]].count(True) == 1)
    for leader in leaders:
        leader.close()
    close(*several)


def test_each_schema_has_a_house_of_its_own(sample, url):
    with schema() as another, closing(open_database(url)) as one, closing(open_database(another)) as two:
        leaders = [Leader(one), Leader(two)]
        assert [leader.holds() for leader in leaders] == [True, True]
        for leader in leaders:
            leader.close()


def _eventually(look):
    deadline_s = time.monotonic() + 60  # on a busy machine a commit may wait long for the disk
    while not look():
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    return True


# --- servers that go -------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def server():
    made = Server()
    yield made
    made.close()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_a_server_that_goes_is_unavailable_and_when_it_is_back_all_goes_on(sample, server, how):
    """What was acknowledged is there; what was refused is not, or is found by who asks again."""
    with schema(server.url) as url, closing(open_database(url)) as database:
        with database.writer.begin() as connection:
            metadata_for(sample.tables).create_all(connection)
        store = DatabaseStore(database, sample.tables, Sealer(sample.data_key))
        acknowledged, refused, stop = set(), [], threading.Event()
        lock = threading.Lock()

        def write(thread):
            number = thread * 1_000_000
            while not stop.is_set():
                number += 1
                try:
                    store.apply(insert(sample, sample.account(number)))
                    with lock:
                        acknowledged.add(number)
                    store.read(Key(sample.accounts, (number,)), Key(sample.visits, ("p", 1)))
                except ProtocolError as fault:
                    refused.append(fault)
                    stop.wait(0.01)

        threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        _eventually(lambda: len(acknowledged) > 50)
        server.stop(how)
        _eventually(lambda: len(refused) > 8)
        server.start()
        before = len(acknowledged)
        _eventually(lambda: len(acknowledged) > before + 50)
        stop.set()
        for thread in threads:
            thread.join()
        assert {(type(fault), fault.status) for fault in refused} == {(StorageFault, "UNAVAILABLE")}
        known = {MENDS["08"], MENDS["57P"]}
        assert {str(fault).removeprefix("STORAGE_FAULT: ") for fault in refused} <= known
        assert {row.number for row in store.scan(sample.accounts)} >= acknowledged
        store.close()


def test_connections_that_the_server_ended_meanwhile_are_replaced_unnoticed(sample, url):
    (store,) = stores(sample, url, 1)
    store.apply(insert(sample, sample.account(1)))
    store.scan(sample.accounts)
    with sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid() AND query LIKE '%%sample_%%' OR query = 'COMMIT'"
        )
    store.apply(add(sample, 1))
    assert balances(sample, store) == [1]
    close(store)


# --- errors ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("url", "mend"),
    [
        ("postgresql+psycopg://nobody@/postgres?host={host}", "refuses this user"),
        ("postgresql+psycopg://postgres@/nowhere?host={host}", "there is no such database: create it"),
        ("postgresql+psycopg://postgres@/postgres?host=/nowhere", "can't be reached: start it"),
        ("postgresql+psycopg://postgres:hush@127.0.0.1:1/postgres", "can't be reached: start it"),
    ],
)
def test_a_database_out_of_reach_is_one_clear_line_without_the_url(sample, server, url, mend):
    url = url.format(host=server.sockets)
    for act in (check_version, create_or_upgrade):
        with pytest.raises(StorageFault, match=mend) as caught:
            act(url, "bank")
        assert caught.value.code == "STORAGE_FAULT"
        assert "hush" not in str(caught.value)
        assert "nowhere" not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_wrong_password_is_told_apart(sample, server):
    """The server asks for one over TCP only; what it says is what is looked at."""
    said = psycopg.OperationalError('connection failed: FATAL:  password authentication failed for user "bank"')
    fault = fault_of(OperationalError("", None, said))
    assert isinstance(fault, StorageFault)
    assert "refuses this user: check name, password" in str(fault)


@pytest.mark.parametrize(
    ("kind", "mend"),
    [
        (psycopg.errors.DiskFull, "disk of the database server is full"),
        (psycopg.errors.ReadOnlySqlTransaction, "read-only: connect to the primary"),
        (psycopg.errors.InsufficientPrivilege, "lacks rights"),
        (psycopg.errors.TooManyConnections, "takes no more connections"),
        (psycopg.errors.AdminShutdown, "starting or stopping"),
        (psycopg.errors.IoError, "trouble with its disk"),
        (psycopg.errors.DataCorrupted, "restore it from a backup"),
        (psycopg.errors.LockNotAvailable, "another program holds rows"),
        (psycopg.errors.SyntaxError, "the database refused: 42601"),
    ],
)
def test_each_state_has_its_mend_and_no_value_is_told(sample, kind, mend):
    error = DBAPIError.instance("INSERT", None, kind("Key (aid)=(secret) exists"), psycopg.Error)
    fault = fault_of(error)
    assert isinstance(fault, StorageFault)
    assert mend in str(fault)
    assert "secret" not in str(fault)


def test_missing_rights_say_so(sample, server):
    with schema(server.url) as url:
        create_or_upgrade(url, "bank")
        name = url.partition("search_path%3D")[2]
        admin = sa.create_engine(server.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with admin.connect() as connection:
            connection.exec_driver_sql("CREATE ROLE guest LOGIN")
            connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA {name} TO guest")
            connection.exec_driver_sql(f"GRANT SELECT ON {name}.alembic_version, {name}.requests TO guest")
            store = open_store(url.replace("//postgres@", "//guest@"), "bank", bytes(32))
            assert store.scan(REQUESTS) == ()
            with pytest.raises(StorageFault, match="lacks rights"):  # to lock what it reads
                store.apply(Unit((Key(REQUESTS, (b"d",)),), lambda _: Decision()))
            store.close()
            connection.exec_driver_sql("DROP OWNED BY guest; DROP ROLE guest")


def test_a_reader_cannot_write_and_says_so(sample, url):
    with closing(open_database(url)) as database:
        look = database.readers.connect()
        with pytest.raises(StorageFault, match="read-only"), faults():
            look.exec_driver_sql("DELETE FROM sample_accounts")
        look.close()


def test_an_empty_database_is_of_no_version_and_the_mend_is_named(sample, url):
    with schema() as empty, pytest.raises(StorageFault, match=r"of version none, not .*: run `tapveil db upgrade`"):
        open_store(empty, "bank", bytes(32))


@pytest.mark.parametrize("url", ["postgresql+psycopg2://u@h/d", "postgresql://host", "postgresql+psycopg://"])
def test_a_url_of_another_driver_or_without_a_database_is_refused(sample, url):
    with pytest.raises(SettingsInvalid) as caught:
        open_database(url)
    assert caught.value.code == "SETTINGS_INVALID"


def test_a_shown_url_has_no_password(sample):
    assert shown("postgresql://u:hush@h/d") == "postgresql+psycopg://u:***@h/d"


def test_schemas_are_made_once_and_dropped_by_their_prefix(sample):
    made = create_schema(database_url(), "tapveil_try_one")
    assert made == in_schema(database_url(), "tapveil_try_one")
    with pytest.raises(SettingsInvalid, match="has a schema tapveil_try_one already"):
        create_schema(database_url(), "tapveil_try_one")
    with pytest.raises(ValueError, match="small letters"):
        create_schema(database_url(), 'try"; --')
    create_or_upgrade(made, "tsm")
    drop_schemas(database_url(), "tapveil_try")
    create_schema(database_url(), "tapveil_try_one")
    drop_schemas(database_url(), "tapveil_try")
