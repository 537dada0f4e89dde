"""Units in batches: all or nothing each, refusals apart, bounds, sweeping, reading while another writes."""

from __future__ import annotations

import contextlib
import re
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from parties.storage.database import open_database
from parties.storage.sealing import Sealer
from parties.storage.store import DatabaseStore
from parties.storage.writer import GroupWriter
from protocol.errors import Overloaded, Replay, StorageFault
from protocol.rows import Conflict, Decision, Delete, Insert, Key, Unit, Update, Where


def insert(sample, *rows):
    return Unit((), lambda _: Decision(writes=tuple(Insert(sample.accounts, row) for row in rows)))


def add(sample, number, amount):
    def decide(rows):
        row = rows.get(sample.accounts, number)
        changed = sample.account(number, balance=row.balance + amount)
        return Decision(writes=(Update(sample.accounts, changed),), reply=changed.balance)

    return Unit((Key(sample.accounts, (number,)),), decide)


def refuse(error):
    def decide(_rows):
        raise error

    return Unit((), decide)


def balance(sample, store, number):
    return store.read(Key(sample.accounts, (number,))).get(sample.accounts, number).balance


def test_what_was_committed_is_read_again_after_reopening(sample, tmp_path):
    with sample.opened(tmp_path / "kept.db") as store:
        store.apply(insert(sample, sample.account(1)))
    with sample.opened(tmp_path / "kept.db") as store:
        assert store.read(Key(sample.accounts, (1,))).get(sample.accounts, 1) == sample.account(1)


def test_ten_threads_lose_no_update(sample, store):
    store.apply(insert(sample, sample.account(0), sample.account(1)))
    with ThreadPoolExecutor(10) as pool:
        for _ in range(10):
            pool.submit(lambda: [store.apply(add(sample, n % 2, 1)) for n in range(200)])
    assert (balance(sample, store, 0), balance(sample, store, 1)) == (1000, 1000)


def test_two_programs_on_one_database_lose_no_update(sample, tmp_path):
    with sample.opened(tmp_path / "two.db") as store:
        store.apply(insert(sample, sample.account(1)))
    url = sample.url(tmp_path / "two.db")
    stores = [DatabaseStore(open_database(url), sample.tables, Sealer(sample.data_key)) for _ in range(2)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: [stores[n % 2].apply(add(sample, 1, 1)) for _ in range(50)], range(4)))
    assert balance(sample, stores[0], 1) == 200
    for one in stores:
        one.close()


def test_a_batch_is_one_transaction_and_units_see_those_before_them(sample, tmp_path):
    database = sample.create(tmp_path / "one.db")
    store = DatabaseStore(database, sample.tables, Sealer(sample.data_key))
    with commits(sample, database) as counted:
        futures = sample.together(store, [insert(sample, sample.account(1)), *[add(sample, 1, 1) for _ in range(31)]])
        assert [future.result().reply for future in futures[1:]] == list(range(1, 32))
        assert counted() == 2  # the unit that held the writer up, and all the others
    store.close()


def test_units_that_come_together_are_one_transaction_and_each_has_its_outcome(sample, tmp_path):
    database = sample.create(tmp_path / "all.db")
    store = DatabaseStore(database, sample.tables, Sealer(sample.data_key))
    store.apply(insert(sample, sample.account(1)))
    with commits(sample, database) as counted:
        first, refused, second = store.apply_all([add(sample, 1, 1), refuse(Replay("seen")), add(sample, 1, 1)])
        assert counted() == 1
    assert (first.reply, second.reply) == (1, 2)
    assert isinstance(refused, Replay)
    taken = insert(sample, sample.account(1))
    first, conflict, second = store.apply_all([add(sample, 1, 1), taken, add(sample, 1, 1)])
    assert (first.reply, second.reply, type(conflict)) == (3, 4, Conflict)
    store.close()
    assert [type(outcome) for outcome in store.apply_all([add(sample, 1, 1)] * 2)] == [StorageFault] * 2


def test_units_that_come_while_others_are_written_go_in_turn(sample, store):
    store.apply(insert(sample, sample.account(1)))
    entered, released = threading.Event(), threading.Event()

    def hold(_rows):
        entered.set()
        released.wait(10)
        return Decision()

    with ThreadPoolExecutor(2) as pool:
        held = pool.submit(store.apply, Unit((), hold))
        entered.wait(10)
        outcomes = pool.submit(store.apply_all, [add(sample, 1, 1), refuse(Replay("seen")), add(sample, 1, 1)])
        while store.writer.waiting < 2:  # one may have been taken already
            time.sleep(0.001)
        released.set()
        held.result(10)
        first, refused, second = outcomes.result(10)
    assert (first.reply, second.reply, type(refused)) == (1, 2, Replay)


@contextlib.contextmanager
def commits(sample, database):
    """Counts what the writer's connection commits, as the database itself sees it."""
    seen = []
    if sample.kind == "sqlite":
        sample.trace(database, seen.append)
        yield lambda: seen.count("COMMIT")
        return
    with tempfile.TemporaryFile() as log:
        pooled = database.writer.raw_connection()
        server = pooled.driver_connection.pgconn
        server.trace(log.fileno())
        pooled.close()

        def counted():
            server.untrace()
            log.seek(0)
            return len(re.findall(rb'CommandComplete.*"COMMIT"', log.read()))

        yield counted


def test_a_unit_finds_the_rows_that_units_before_it_inserted_changed_and_deleted(sample, store):
    def names(rows):
        return Decision(reply=[row.name for row in rows.find(sample.accounts, "bank", b"b")])

    look = Unit((Where(sample.accounts, "bank", b"b"),), names)
    one, two = sample.account(1, bank=b"b"), sample.account(2, bank=b"b")
    moved = sample.account(1, bank=b"elsewhere")
    futures = sample.together(
        store,
        [
            insert(sample, two), look, insert(sample, one), look,
            Unit((Key(sample.accounts, (1,)),), lambda _: Decision(writes=(Update(sample.accounts, moved),))), look,
            Unit((Key(sample.accounts, (2,)),), lambda _: Decision(writes=(Delete(sample.accounts, two),))), look,
        ],
    )  # fmt: skip
    assert [future.result().reply for future in futures[1::2]] == [["name-2"], ["name-1", "name-2"], ["name-2"], []]


def test_a_failing_unit_does_not_fail_its_neighbors(sample, store):
    store.apply(insert(sample, sample.account(1), sample.account(9, name="taken")))
    futures = sample.together(
        store,
        [
            add(sample, 1, 1),
            refuse(Replay("seen")),
            add(sample, 1, 1),
            refuse(ZeroDivisionError()),
            insert(sample, sample.account(2), sample.account(3, name="taken")),  # a row that nobody in the batch read
            insert(sample, sample.account(1, name="other")),  # a row that its neighbors read
            add(sample, 1, 1),
            insert(sample, sample.account(4)),
        ],
    )
    kinds = [type(future.exception()) for future in futures]
    nothing = type(None)
    assert kinds == [nothing, Replay, nothing, ZeroDivisionError, Conflict, Conflict, nothing, nothing]
    assert [row.number for row in store.scan(sample.accounts)] == [1, 4, 9]
    assert balance(sample, store, 1) == 3


def test_a_refusal_with_writes_is_remembered(sample, store):
    unit = insert(sample, sample.account(1))
    refusal = Replay("counted")
    decision = store.apply(Unit((), lambda rows: Decision(writes=unit.decide(rows).writes, refusal=refusal)))
    assert decision.refusal is refusal
    assert store.scan(sample.accounts) == (sample.account(1),)


def test_a_unit_sees_and_changes_declared_rows_only_whatever_its_neighbors_declare(sample, store):
    store.apply(insert(sample, sample.account(1)))
    undeclared_read = Unit((), lambda rows: Decision(reply=rows.get(sample.accounts, 1)))
    undeclared_write = Unit((), lambda _: Decision(writes=(Update(sample.accounts, sample.account(1, balance=99)),)))
    _, read, write = sample.together(store, [add(sample, 1, 1), undeclared_read, undeclared_write])
    assert isinstance(read.exception(), LookupError)
    assert isinstance(write.exception(), Conflict)
    assert balance(sample, store, 1) == 1


def test_a_unit_may_change_what_it_made_itself_among_others(sample, store):
    first, then = sample.account(1), sample.account(1, balance=5)
    both = Unit((), lambda _: Decision(writes=(Insert(sample.accounts, first), Update(sample.accounts, then))))
    for outcome in store.apply_all([insert(sample, sample.account(2)), both]):
        assert isinstance(outcome, Decision)
    assert balance(sample, store, 1) == 5


def test_unique_values_may_pass_from_row_to_row_in_one_transaction(sample, store):
    rows = [sample.account(n, name=f"n{n}") for n in (1, 2, 3)]
    store.apply(insert(sample, *rows))
    reads = tuple(Key(sample.accounts, (n,)) for n in (1, 2, 3))
    shift = (
        Delete(sample.accounts, rows[2]),
        Update(sample.accounts, sample.account(2, name="n3", slot=3)),
        Update(sample.accounts, sample.account(1, name="n2", slot=2)),
        Insert(sample.accounts, sample.account(4, name="n1", slot=1)),
    )
    store.apply(Unit(reads, lambda _: Decision(writes=shift)))
    assert [(row.number, row.name) for row in store.scan(sample.accounts)] == [(1, "n2"), (2, "n3"), (4, "n1")]


def test_an_answer_waits_for_its_commit(sample, tmp_path):
    """While another program holds the lock nothing is answered; when that lasts, the unit fails and changed nothing."""
    with sample.opened(tmp_path / "held.db") as store:
        store.apply(insert(sample, sample.account(1)))
        other = sample.create(tmp_path / "held.db")
        with sample.holding(other):
            with pytest.raises(StorageFault, match="another program holds") as caught:
                store.apply(add(sample, 1, 1))
            assert caught.value.status == "UNAVAILABLE"
            assert balance(sample, store, 1) == 0  # readers go on meanwhile
        assert store.apply(add(sample, 1, 1)).reply == 1
        other.close()


@pytest.mark.parametrize("sample", ["sqlite"], indirect=True)
def test_a_batch_that_cannot_begin_fails_at_once_and_not_unit_by_unit(sample, tmp_path):
    with sample.opened(tmp_path / "busy.db") as store:
        other = sample.create(tmp_path / "busy.db")
        with other.writer.begin():
            started = time.monotonic()
            futures = [store.submit(insert(sample, sample.account(n))) for n in range(30)]
            assert {type(future.exception(10)) for future in futures} == {StorageFault}
            assert time.monotonic() - started < 3  # waits 0.2 s for the lock: two batches, not thirty
        other.close()


def test_a_read_is_of_one_committed_state(sample, store):
    store.apply(insert(sample, sample.account(1), sample.account(2)))
    stop = threading.Event()

    def pay():
        amount = 0
        while not stop.is_set():
            amount += 1
            rows = (sample.account(1, balance=amount), sample.account(2, balance=-amount))
            reads = tuple(Key(sample.accounts, (n,)) for n in (1, 2))
            store.apply(
                Unit(reads, lambda _, rows=rows: Decision(writes=tuple(Update(sample.accounts, r) for r in rows)))
            )

    writer = threading.Thread(target=pay)
    writer.start()
    try:
        for _ in range(200):
            rows = store.read(Key(sample.accounts, (1,)), Key(sample.accounts, (2,)))
            assert rows.get(sample.accounts, 1).balance + rows.get(sample.accounts, 2).balance == 0
    finally:
        stop.set()
        writer.join()


def test_a_full_queue_refuses_and_closing_answers_all_that_wait():
    entered, released = threading.Event(), threading.Event()

    def transact(tasks):
        entered.set()
        released.wait(10)
        return list(tasks)

    writer = GroupWriter(transact, max_batch=2, waiting=4)
    futures = [writer.submit(0)]
    entered.wait(10)
    futures += [writer.submit(n) for n in range(1, 5)]
    with pytest.raises(Overloaded) as caught:
        writer.submit(9)
    assert caught.value.status == "RESOURCE_EXHAUSTED"
    assert [type(outcome) for outcome in writer.run_all([9, 10])] == [Overloaded, Overloaded]
    closing = threading.Thread(target=writer.close)
    closing.start()
    released.set()
    closing.join(10)
    assert [future.result(0) for future in futures] == [0, 1, 2, 3, 4]
    with pytest.raises(StorageFault, match="closed"):
        writer.submit(5)
    writer.close()


def test_a_reader_that_gets_no_connection_is_told_to_come_again(sample, tmp_path):
    database = sample.create(tmp_path / "few.db", readers=1, wait_s=0.1)
    store = DatabaseStore(database, sample.tables, Sealer(sample.data_key))
    with database.readers.begin(), pytest.raises(Overloaded) as caught:
        store.scan(sample.visits)
    assert caught.value.code == "OVERLOADED"
    assert store.scan(sample.visits) == ()
    store.close()


def test_a_batch_is_bounded():
    sizes = []
    released = threading.Event()

    def transact(tasks):
        released.wait(10)
        sizes.append(len(tasks))
        return list(tasks)

    writer = GroupWriter(transact, max_batch=32)
    futures = [writer.submit(n) for n in range(100)]
    released.set()
    writer.close()
    assert [future.result(0) for future in futures] == list(range(100))
    assert max(sizes) == 32


def test_sweeping_deletes_expired_rows_only_in_bounded_transactions(sample, tmp_path):
    with sample.opened(tmp_path / "sweep.db", sweep_rows=3) as store:
        _sweep(sample, store)


def _sweep(sample, store):
    store.apply(insert(sample, *(sample.account(n, until_s=n) for n in range(20))))
    visits = [sample.Visit(place="p", day=n, until_s=n) for n in range(20)]
    store.apply(Unit((), lambda _: Decision(writes=tuple(Insert(sample.visits, visit) for visit in visits))))
    assert store.sweep(10) == 20
    assert [row.until_s for row in store.scan(sample.accounts)] == list(range(10, 20))
    assert [row.until_s for row in store.scan(sample.visits)] == list(range(10, 20))
    assert store.sweep(10) == 0
