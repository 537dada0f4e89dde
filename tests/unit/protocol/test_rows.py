"""Tables as values: overlays, uniqueness, and the store in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import WrongState
from protocol.rows import (
    ALL_TABLES,
    Conflict,
    Decision,
    Delete,
    Insert,
    Key,
    MemoryStore,
    Overlay,
    Read,
    Rows,
    Table,
    Unit,
    Update,
    Where,
    Write,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    number: int
    owner: str = "ann"
    alias: str = ""
    bank: str = "a"
    balance: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    name: bytes
    part: int
    until_s: int


ACCOUNTS = Table("test-accounts", Account, ("number",), unique=(("alias",), ("bank", "owner")), index=("balance",))
LEASES = Table("test-leases", Lease, ("name", "part"), expires="until_s")
ANN = Account(number=1, alias="x")
BEN = Account(number=2, owner="ben", alias="y")


for _table in (ACCOUNTS, LEASES):
    del ALL_TABLES[_table.name]  # the registry is the protocol's own


@pytest.fixture
def registered() -> Iterator[None]:
    """A store sweeps the tables that are registered."""
    ALL_TABLES.update({table.name: table for table in (ACCOUNTS, LEASES)})
    yield
    for table in (ACCOUNTS, LEASES):
        del ALL_TABLES[table.name]


def _overlay(*rows: Account) -> Overlay:
    overlay = Overlay()
    overlay.load(ACCOUNTS, rows)
    return overlay


def _content(overlay: Overlay) -> tuple[Any, ...]:
    """All that can be seen of an overlay: rows, what is found by column, and what is to be written."""
    rows = tuple(overlay.get(ACCOUNTS, number) for number in range(6))
    found = tuple(
        overlay.find(ACCOUNTS, column, value)
        for column, values in (("owner", ("ann", "ben", "cat")), ("alias", ("x", "y", "z")), ("balance", (0, 5)))
        for value in values
    )
    return rows, found, tuple(overlay.changes())


# --- tables ----------------------------------------------------------------------------------------------------------
def test_table_is_registered_and_knows_its_keys() -> None:
    table = Table("test-registered", Lease, ("part", "name"))
    assert ALL_TABLES.pop("test-registered") is table
    assert table.key_of(Lease(name=b"n", part=2, until_s=9)) == (2, b"n")
    assert LEASES.key_of(Lease(name=b"n", part=2, until_s=9)) == (b"n", 2)


# --- overlays --------------------------------------------------------------------------------------------------------
def test_loaded_rows_are_found_in_the_order_of_their_keys() -> None:
    overlay = _overlay(BEN, ANN)
    assert overlay.get(ACCOUNTS, 1) == ANN
    assert overlay.get(ACCOUNTS, 3) is None
    assert overlay.get(LEASES, b"n", 1) is None
    assert overlay.find(ACCOUNTS, "bank", "a") == (ANN, BEN)
    assert overlay.find(ACCOUNTS, "bank", "b") == ()
    assert overlay.find(LEASES, "until_s", 1) == ()
    assert overlay.changes() == []


def test_written_rows_are_found_and_listed() -> None:
    overlay = _overlay(ANN, BEN)
    overlay.find(ACCOUNTS, "owner", "ann")  # the index is made before the writes and has to follow them
    cat, richer = Account(number=3, owner="cat", alias="z"), replace(ANN, balance=5)
    overlay.write([Insert(ACCOUNTS, cat), Update(ACCOUNTS, richer), Delete(ACCOUNTS, BEN)])
    assert overlay.find(ACCOUNTS, "owner", "cat") == (cat,)
    assert overlay.find(ACCOUNTS, "owner", "ann") == (richer,)
    assert overlay.find(ACCOUNTS, "owner", "ben") == ()
    assert overlay.changes() == [
        ("test-accounts", (1,), ANN, richer),
        ("test-accounts", (2,), BEN, None),
        ("test-accounts", (3,), None, cat),
    ]


def test_changes_are_net_and_sorted_by_table_and_key() -> None:
    overlay = _overlay(ANN)
    lease = Lease(name=b"n", part=1, until_s=9)
    overlay.write([Insert(LEASES, replace(lease, part=10)), Insert(LEASES, replace(lease, part=9))])
    overlay.write([Insert(ACCOUNTS, BEN), Update(ACCOUNTS, replace(ANN, balance=5))])
    overlay.write([Delete(ACCOUNTS, BEN), Update(ACCOUNTS, ANN)])  # there and back
    overlay.write([Update(LEASES, replace(lease, part=10, until_s=7))])
    assert overlay.changes() == [
        ("test-leases", (b"n", 9), None, replace(lease, part=9)),
        ("test-leases", (b"n", 10), None, replace(lease, part=10, until_s=7)),
    ]


def test_a_changed_row_is_not_loaded_again() -> None:
    overlay = _overlay(ANN, BEN)
    overlay.write([Update(ACCOUNTS, replace(ANN, balance=5)), Delete(ACCOUNTS, BEN)])
    overlay.load(ACCOUNTS, [ANN, BEN, Account(number=4, owner="dan", alias="d")])
    assert overlay.get(ACCOUNTS, 1) == replace(ANN, balance=5)
    assert overlay.get(ACCOUNTS, 2) is None
    assert overlay.get(ACCOUNTS, 4) is not None


def test_a_view_holds_what_was_declared_and_nothing_else() -> None:
    overlay = _overlay(ANN, BEN, Account(number=3, owner="cat", alias="z", balance=5))
    view = overlay.view([Key(ACCOUNTS, (1,)), Key(ACCOUNTS, (9,)), Where(ACCOUNTS, "balance", 5)])
    assert [view.get(ACCOUNTS, number) is not None for number in (1, 2, 3, 9)] == [True, False, True, False]
    assert view.find(ACCOUNTS, "owner", "ben") == ()
    view.write([Update(ACCOUNTS, replace(ANN, balance=7))])
    assert overlay.get(ACCOUNTS, 1) == ANN  # a copy


CONFLICTS: dict[str, list[Write]] = {
    "insert of a key that is there": [Insert(ACCOUNTS, replace(ANN, alias="z"))],
    "update of a row that is not": [Update(ACCOUNTS, Account(number=9, owner="z", alias="z"))],
    "delete of a row that is not": [Delete(ACCOUNTS, Account(number=9))],
    "insert with a taken value": [Insert(ACCOUNTS, Account(number=3, owner="cat", alias="y"))],
    "insert with a taken pair": [Insert(ACCOUNTS, Account(number=3, owner="ben", alias="z"))],
    "update to a taken value": [Update(ACCOUNTS, replace(ANN, alias="y"))],
    "update to a taken pair": [Update(ACCOUNTS, replace(ANN, owner="ben"))],
    "two inserts of one value": [Insert(ACCOUNTS, Account(number=3, owner="cat", alias="z")),
                                 Insert(ACCOUNTS, Account(number=4, owner="dan", alias="z"))],
    "the same insert twice": [Insert(ACCOUNTS, Account(number=3, owner="cat", alias="z"))] * 2,
    "the same delete twice": [Delete(ACCOUNTS, ANN)] * 2,
    "the last of many": [
        Update(ACCOUNTS, replace(ANN, balance=5)),
        Delete(ACCOUNTS, BEN),
        Insert(ACCOUNTS, Account(number=3, owner="ben", alias="y")),
        Update(ACCOUNTS, replace(ANN, balance=5, alias="z")),
        Insert(ACCOUNTS, Account(number=4, owner="cat", alias="z")),
    ],
}  # fmt: skip


@pytest.mark.parametrize("indexed", [False, True], ids=["not yet indexed", "indexed"])
@pytest.mark.parametrize("writes", CONFLICTS.values(), ids=CONFLICTS)
def test_a_conflict_changes_nothing(writes: list[Write], indexed: bool) -> None:
    overlay = _overlay(ANN, BEN)
    if indexed:
        _content(overlay)
    with pytest.raises(Conflict):
        overlay.write(writes)
    assert _content(overlay) == _content(_overlay(ANN, BEN))


def test_a_conflict_leaves_earlier_writes() -> None:
    overlay, same = _overlay(ANN, BEN), _overlay(ANN, BEN)
    for each in (overlay, same):
        each.write([Update(ACCOUNTS, replace(ANN, balance=5))])
    with pytest.raises(Conflict):
        overlay.write([Update(ACCOUNTS, replace(ANN, balance=0)), Insert(ACCOUNTS, BEN)])
    assert _content(overlay) == _content(same)


def test_what_is_unique_may_be_kept_freed_and_swapped_by_turns() -> None:
    overlay = _overlay(ANN, BEN)
    overlay.write([Update(ACCOUNTS, replace(ANN, balance=5))])  # its own value
    overlay.write([Delete(ACCOUNTS, BEN), Insert(ACCOUNTS, Account(number=3, owner="ben", alias="y"))])
    assert overlay.find(ACCOUNTS, "alias", "y") == (Account(number=3, owner="ben", alias="y"),)
    overlay.write([Insert(ACCOUNTS, Account(number=4, owner="ben", alias="w", bank="b"))])  # half of a pair


def _write(kind: type[Write], number: int, owner: str, alias: str, balance: int) -> Write:
    return kind(ACCOUNTS, Account(number=number, owner=owner, alias=alias, balance=balance))


_writes = st.builds(
    _write,
    st.sampled_from([Insert, Update, Delete]),
    st.integers(0, 3),
    st.sampled_from(["ann", "ben", "cat"]),
    st.sampled_from(["x", "y", "z"]),
    st.sampled_from([0, 5]),
)


def test_what_is_changed_must_be_there_or_of_one_s_own_making() -> None:
    overlay, cat = _overlay(ANN), replace(BEN, number=3, alias="z")
    overlay.check_visible([Update(ACCOUNTS, ANN), Delete(ACCOUNTS, ANN), Insert(ACCOUNTS, ANN), Insert(ACCOUNTS, cat)])
    overlay.check_visible([Insert(ACCOUNTS, BEN), Update(ACCOUNTS, BEN), Delete(ACCOUNTS, BEN)])
    for write in (Update(ACCOUNTS, BEN), Delete(ACCOUNTS, BEN)):
        with pytest.raises(Conflict, match="not read"):
            overlay.check_visible([Insert(ACCOUNTS, cat), write])
    assert overlay.changes() == []  # it only looks


@settings(deadline=None, max_examples=150)
@given(st.lists(st.lists(_writes, min_size=1, max_size=3), max_size=8))
def test_overlay_behaves_as_a_plain_dict(units: list[list[Write]]) -> None:
    overlay, model = _overlay(ANN, BEN), {1: ANN, 2: BEN}
    for unit in units:
        after = _model(model, unit)
        if after is None:
            with pytest.raises(Conflict):
                overlay.write(unit)
        else:
            overlay.write(unit)
            model = after
        assert overlay.find(ACCOUNTS, "bank", "a") == tuple(model[number] for number in sorted(model))
        for alias in "xyz":
            assert overlay.find(ACCOUNTS, "alias", alias) == tuple(r for r in model.values() if r.alias == alias)
    start = {1: ANN, 2: BEN}
    changed = {number for number in range(4) if start.get(number) != model.get(number)}
    assert overlay.changes() == [
        ("test-accounts", (number,), start.get(number), model.get(number)) for number in sorted(changed)
    ]


def _model(rows: dict[int, Account], unit: list[Write]) -> dict[int, Account] | None:
    after = dict(rows)
    for write in unit:
        row: Account = write.row
        if isinstance(write, Insert) == (row.number in after):
            return None
        after.pop(row.number, None)
        if isinstance(write, Delete):
            continue
        if any(other.alias == row.alias or other.owner == row.owner for other in after.values()):
            return None
        after[row.number] = row
    return after


# --- the store in memory ---------------------------------------------------------------------------------------------
def _store(*rows: Account) -> MemoryStore:
    store = MemoryStore()
    store.apply(_unit(*(Insert(ACCOUNTS, row) for row in rows)))
    return store


def _unit(*writes: Write, reads: tuple[Read, ...] = ()) -> Unit:
    return Unit(reads, lambda rows: Decision(writes=writes, reply="done"))


def test_apply_decides_over_the_declared_rows_and_writes() -> None:
    store = _store(ANN, BEN)

    def decide(rows: Rows) -> Decision:
        account = rows.get(ACCOUNTS, 1)
        assert account is not None
        assert rows.find(ACCOUNTS, "alias", "z") == ()
        return Decision(writes=(Update(ACCOUNTS, replace(account, balance=5)),), reply=account.owner)

    reads = (Key(ACCOUNTS, (1,)), Where(ACCOUNTS, "alias", "z"))
    assert store.apply(Unit(reads, decide)).reply == "ann"
    assert store.scan(ACCOUNTS) == (replace(ANN, balance=5), BEN)
    assert store.read(Where(ACCOUNTS, "alias", "x")).find(ACCOUNTS, "alias", "x") == (replace(ANN, balance=5),)


UNDECLARED: dict[str, Callable[[Rows], object]] = {
    "a key that is there": lambda rows: rows.get(ACCOUNTS, 2),
    "a key that is not": lambda rows: rows.get(ACCOUNTS, 9),
    "a key in another table": lambda rows: rows.get(LEASES, 1),
    "another value of a column": lambda rows: rows.find(ACCOUNTS, "alias", "y"),
    "another column": lambda rows: rows.find(ACCOUNTS, "owner", "ann"),
    "a column of another table": lambda rows: rows.find(LEASES, "alias", "x"),
}


@pytest.mark.parametrize("look", UNDECLARED.values(), ids=UNDECLARED)
def test_looking_at_what_was_not_declared_is_a_fault(look: Callable[[Rows], object]) -> None:
    store = _store(ANN, BEN)
    reads = (Key(ACCOUNTS, (1,)), Where(ACCOUNTS, "alias", "x"))
    with pytest.raises(LookupError, match="was not declared"):
        look(store.read(*reads))

    def decide(rows: Rows) -> Decision:
        look(rows)
        return Decision(writes=(Delete(ACCOUNTS, ANN),))

    with pytest.raises(LookupError, match="was not declared"):
        store.apply(Unit(reads, decide))
    assert store.scan(ACCOUNTS) == (ANN, BEN)


def test_a_row_that_was_found_may_be_got_by_its_key() -> None:
    assert _store(ANN).read(Where(ACCOUNTS, "alias", "x")).get(ACCOUNTS, 1) == ANN


def test_a_view_read_before_does_not_change() -> None:
    store = _store(ANN)
    rows = store.read(Key(ACCOUNTS, (1,)))
    store.apply(_unit(Delete(ACCOUNTS, ANN)))
    assert rows.get(ACCOUNTS, 1) == ANN
    assert store.scan(ACCOUNTS) == ()


def test_a_refused_unit_changes_nothing() -> None:
    store = _store(ANN)

    def refuse(rows: Rows) -> Decision:
        raise WrongState

    with pytest.raises(WrongState) as refusal:
        store.apply(Unit((), refuse))
    assert refusal.value.code == "WRONG_STATE"
    assert store.scan(ACCOUNTS) == (ANN,)


def test_a_conflicting_unit_changes_nothing() -> None:
    store = _store(ANN, BEN)
    with pytest.raises(Conflict):  # also with a row that the unit did not declare
        store.apply(_unit(Delete(ACCOUNTS, ANN), Insert(ACCOUNTS, Account(number=3, owner="cat", alias="y"))))
    assert store.scan(ACCOUNTS) == (ANN, BEN)


def test_scan_is_in_the_order_of_keys() -> None:
    store = _store(BEN, ANN)
    assert [row.number for row in store.scan(ACCOUNTS)] == [1, 2]
    assert all(a.number < b.number for a, b in pairwise(store.scan(ACCOUNTS)))
    assert store.scan(LEASES) == ()


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(("now_s", "left"), [(99, 3), (100, 3), (101, 2), (201, 1), (1000, 0)])
def test_sweep_takes_what_is_past_its_expiry(now_s: int, left: int) -> None:
    store = _store(ANN)  # its table has no expiry
    store.apply(_unit(*(Insert(LEASES, Lease(name=b"n", part=u, until_s=u)) for u in (100, 200, 999))))
    assert store.sweep(now_s) == 3 - left
    assert len(store.scan(LEASES)) == left
    assert store.sweep(now_s) == 0
    assert store.scan(ACCOUNTS) == (ANN,)
