"""Rows with sealed columns: like any other rows to who uses them, opened where they are looked at, and once."""

from __future__ import annotations

import dataclasses
import threading

import pytest

from parties.storage.sealing import Sealer
from parties.storage.store import DatabaseStore
from protocol.errors import StorageFault
from protocol.rows import Decision, Insert, Key, Unit, Update, Where


@pytest.fixture
def store(sample, tmp_path):
    with sample.opened(tmp_path / "rows.db") as store:
        rows = [sample.account(n) for n in (1, 2)]
        store.apply(Unit((), lambda _: Decision(writes=tuple(Insert(sample.accounts, row) for row in rows))))
        yield store


def read(sample, store, number=1):
    return store.read(Key(sample.accounts, (number,))).get(sample.accounts, number)


def change(sample, store, **columns):
    def decide(rows):
        changed = dataclasses.replace(rows.get(sample.accounts, 1), **columns)
        return Decision(writes=(Update(sample.accounts, changed),))

    store.apply(Unit((Key(sample.accounts, (1,)),), decide))


def tampered(sample, path):
    """A store in which the secret of account 1 is the one of account 2."""
    database = sample.create(path)
    with database.writer.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE sample_accounts SET secret = (SELECT secret FROM sample_accounts WHERE number = 2) WHERE number = 1"
        )
    return DatabaseStore(database, sample.tables, Sealer(sample.data_key))


def test_it_equals_the_row_that_was_written(sample, store):
    row, plain = read(sample, store), sample.account(1)
    assert row == plain
    assert plain == row
    assert hash(row) == hash(plain)
    assert repr(row) == repr(plain)
    assert row != sample.account(1, secret=b"another")
    assert sample.account(1, secret=b"another") != row
    assert row != read(sample, store, 2)
    assert row != dataclasses.astuple(row)


def test_it_can_be_replaced_but_not_changed(sample, store):
    row = read(sample, store)
    assert dataclasses.replace(row, balance=5) == sample.account(1, balance=5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        row.balance = 5
    with pytest.raises(dataclasses.FrozenInstanceError):
        row.secret = b"another"
    with pytest.raises(AttributeError, match="colour"):
        _ = row.colour


def test_a_row_that_is_held_is_opened_once(sample, store):
    row = read(sample, store)
    assert read(sample, store) is row
    assert store.read(Where(sample.accounts, "bank", b"bank")).find(sample.accounts, "bank", b"bank")[0] is row
    change(sample, store, balance=7)
    assert read(sample, store) is not row
    assert (read(sample, store).balance, row.balance) == (7, 0)
    change(sample, store, secret=b"changed")
    assert (read(sample, store).secret, row.secret) == (b"changed", b"secret-1")


def test_a_row_that_nobody_holds_is_not_kept(sample, store):
    """Keys stay in memory no longer than somebody works with them."""
    rows = store._tables["sample_accounts"]._rows
    row = read(sample, store)
    assert row.secret == b"secret-1"
    assert len(rows._held) == 1
    del row
    assert len(rows._held) == 0


def test_a_cell_that_does_not_open_hinders_only_those_who_look_at_it(sample, store, tmp_path):
    store.close()
    store = tampered(sample, tmp_path / "rows.db")
    row = read(sample, store)
    assert (row.balance, row.pin) == (0, 1)
    for _ in range(2):
        with pytest.raises(StorageFault, match=r"sample_accounts\.secret") as caught:
            _ = row.secret
        assert caught.value.code == "STORAGE_FAULT"
    with pytest.raises(StorageFault):
        change(sample, store, balance=1)
    assert read(sample, store).balance == 0
    with pytest.raises(StorageFault):  # a checker is told of all
        store.scan(sample.accounts)
    store.close()


def test_a_reader_that_waits_gets_the_connection_that_comes_free(sample, tmp_path):
    database = sample.create(tmp_path / "few.db", readers=1, wait_s=5)
    store = DatabaseStore(database, sample.tables, Sealer(sample.data_key))
    assert store.scan(sample.visits) == ()
    seen = []
    with store._readers.lend():
        others = [threading.Thread(target=lambda: seen.append(store.scan(sample.visits))) for _ in range(3)]
        for other in others:
            other.start()
        while store._readers._waiting < len(others):
            pass
    for other in others:
        other.join(10)
    assert seen == [()] * 3
    assert len(store._readers._free) == 1
    store.close()
    assert store._readers._free == []
