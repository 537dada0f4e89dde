"""Tables as values: what a step reads, what it writes, and a store in memory that behaves like the database.

A step declares its reads, decides over the rows it got, and returns its writes; it never sees SQL (design §5).
UNIQUE constraints carry security obligations, so the store in memory enforces them as the database does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from operator import attrgetter
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from protocol.attempt import attempt
from protocol.errors import ProtocolError

R = TypeVar("R")
Value: TypeAlias = bytes | str | int | bool

Index: TypeAlias = dict[tuple[Value, ...], dict[tuple[Value, ...], Any]]
"""Values of some columns → primary key → row."""

ALL_TABLES: Final[dict[str, Table[Any]]] = {}


@cache
def values_of(columns: tuple[str, ...]) -> Callable[[Any], tuple[Value, ...]]:
    """What gives the values of these columns of a row."""
    get: Callable[[Any], Any] = attrgetter(*columns)
    return get if len(columns) > 1 else lambda row: (get(row),)


class Conflict(Exception):
    """A write met a row that its step did not see: another writer was faster. The unit is decided again."""


@dataclass(frozen=True, slots=True, eq=False)
class Table(Generic[R]):
    """One table: a frozen dataclass of bytes, str, int and bool per row.

    `sealed` columns are encrypted at rest and can't be looked up. Rows past their `expires` column (Unix seconds)
    may be swept. Of an `append_only` table no row is ever changed or removed.
    """

    name: str
    row: type[R]
    key: tuple[str, ...]
    unique: tuple[tuple[str, ...], ...] = ()
    index: tuple[str, ...] = ()
    sealed: frozenset[str] = frozenset()
    expires: str | None = None
    append_only: bool = False
    key_of: Callable[[R], tuple[Value, ...]] = field(init=False, repr=False)
    """The primary key of a row."""

    def __post_init__(self) -> None:
        ALL_TABLES[self.name] = self
        object.__setattr__(self, "key_of", values_of(self.key))


class Key(NamedTuple):
    """Read one row by primary key."""

    table: Table[Any]
    values: tuple[Value, ...]


class Where(NamedTuple):
    """Read the rows whose indexed or unique `column` has `value`."""

    table: Table[Any]
    column: str
    value: Value


Read: TypeAlias = Key | Where


@dataclass(frozen=True, slots=True)
class Insert:
    """A new row; its key must be free."""

    table: Table[Any]
    row: Any


@dataclass(frozen=True, slots=True)
class Update:
    """Another version of a row that was read."""

    table: Table[Any]
    row: Any


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a row that was read."""

    table: Table[Any]
    row: Any


Write: TypeAlias = Insert | Update | Delete


class Rows(Protocol):
    """What a step may look at: exactly what it declared."""

    def get(self, table: Table[R], *key: Value) -> R | None:
        """The row with this primary key."""

    def find(self, table: Table[R], column: str, value: Value) -> tuple[R, ...]:
        """All rows whose indexed `column` has `value`, in the order of their keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a step decided. `refusal` with writes is a refusal that must be remembered (a counter of wrong entries)."""

    writes: tuple[Write, ...] = ()
    reply: Any = None
    refusal: ProtocolError | None = None


@dataclass(frozen=True, slots=True)
class Unit:
    """One transaction: all of `decide`'s writes, or none."""

    reads: tuple[Read, ...]
    decide: Callable[[Rows], Decision]


class Store(Protocol):
    """Where a party keeps its rows."""

    def read(self, *reads: Read) -> Rows:
        """A consistent view of these rows, not locked."""

    def apply(self, unit: Unit) -> Decision:
        """Decide and commit. Raises what `decide` raises, having changed nothing."""

    def apply_all(self, units: Sequence[Unit]) -> list[Decision | Exception]:
        """What `apply` of each gives, or would raise, in order; committed together where it can be."""

    def scan(self, table: Table[R]) -> tuple[R, ...]:
        """Every row of a (short) table, for start-up and checkers."""

    def sweep(self, now_s: int) -> int:
        """Delete rows past their expiry; how many."""


@dataclass(slots=True)
class Overlay:
    """Loaded rows plus the changes of the units decided so far; what a batch of units shares."""

    loaded: dict[str, dict[tuple[Value, ...], Any]] = field(default_factory=dict)
    before: dict[tuple[str, tuple[Value, ...]], Any] = field(default_factory=dict)
    _indexes: dict[str, dict[tuple[str, ...], Index]] = field(default_factory=dict, repr=False)

    def load(self, table: Table[R], rows: Iterable[R]) -> None:
        """Add rows as they are in the database; a row already changed here keeps its change."""
        for row in rows:
            key = table.key_of(row)
            if (table.name, key) not in self.before:
                self._set(table, key, row)

    def view(self, reads: Iterable[Read]) -> Overlay:
        """A copy of exactly the rows that `reads` declare."""
        view = Overlay()
        for read in reads:
            if isinstance(read, Key):
                row = self.get(read.table, *read.values)
                view.load(read.table, () if row is None else (row,))
            else:
                view.load(read.table, self.find(read.table, read.column, read.value))
        return view

    def get(self, table: Table[R], *key: Value) -> R | None:
        return self.loaded.get(table.name, {}).get(key)

    def find(self, table: Table[R], column: str, value: Value) -> tuple[R, ...]:
        held = self.loaded.get(table.name)
        if not held:
            return ()
        found = self._index(table, (column,)).get((value,), {})
        return tuple([found[key] for key in sorted(found)])  # the order of the database

    def write(self, writes: Iterable[Write]) -> None:
        """Apply one unit's writes, all or none. Raises: Conflict."""
        done: list[tuple[Table[Any], tuple[Value, ...], Any]] = []
        try:
            for write in writes:
                key = write.table.key_of(write.row)
                old = self.get(write.table, *key)
                self._check(write, old)
                self.before.setdefault((write.table.name, key), old)
                done.append((write.table, key, old))
                self._set(write.table, key, None if isinstance(write, Delete) else write.row)
        except (Conflict, LookupError):
            for table, key, old in reversed(done):
                self._set(table, key, old)
            raise

    def check_visible(self, writes: Iterable[Write]) -> None:
        """What `writes` change must be here, or be of their own making. Raises: Conflict."""
        own = set()
        for write in writes:
            key = write.table.key_of(write.row)
            if isinstance(write, Insert):
                own.add((write.table.name, key))
            elif self.get(write.table, *key) is None and (write.table.name, key) not in own:
                raise Conflict(f"{type(write).__name__} on {write.table.name}, which was not read")

    def changes(self) -> list[tuple[str, tuple[Value, ...], Any, Any]]:
        """(table, key, row before or None, row after or None), sorted: every writer takes locks in one order."""
        out = []
        for (name, key), old in sorted(self.before.items(), key=lambda item: item[0]):
            new = self.loaded[name].get(key)
            if new is not old and new != old:
                out.append((name, key, old, new))
        return out

    def _set(self, table: Table[Any], key: tuple[Value, ...], row: Any) -> None:
        held = self.loaded.get(table.name)
        if held is None:
            held = self.loaded[table.name] = {}
        old = held.pop(key, None)
        if row is not None:
            held[key] = row
        indexes = self._indexes.get(table.name)
        if indexes is None:
            return
        for columns, index in indexes.items():
            get = values_of(columns)
            if old is not None:
                index[get(old)].pop(key)
                if not index[get(old)]:
                    del index[get(old)]
            if row is not None:
                index.setdefault(get(row), {})[key] = row

    def _index(self, table: Table[Any], columns: tuple[str, ...]) -> Index:
        """Rows by their values in `columns`; made at first use, so that neither finding nor checking scans."""
        indexes = self._indexes.setdefault(table.name, {})
        if columns not in indexes:
            index = indexes[columns] = {}
            get = values_of(columns)
            for key, row in self.loaded.get(table.name, {}).items():
                index.setdefault(get(row), {})[key] = row
        return indexes[columns]

    def _check(self, write: Write, old: Any) -> None:
        if write.table.append_only and not isinstance(write, Insert):
            raise LookupError(f"{write.table.name} only grows")
        if isinstance(write, Insert) != (old is None):
            raise Conflict(f"{type(write).__name__} on {write.table.name}")
        if isinstance(write, Delete):
            return
        for columns in write.table.unique:
            get = values_of(columns)
            values = get(write.row)
            if old is not None and get(old) == values:
                continue  # it holds them itself
            if self._index(write.table, columns).get(values):
                raise Conflict(f"{write.table.name}({', '.join(columns)}) is unique")


@dataclass(frozen=True, slots=True)
class Declared:
    """Rows as a step sees them. To look at what was not declared is a fault: the check would pass in silence."""

    rows: Overlay
    reads: frozenset[Read]

    def get(self, table: Table[R], *key: Value) -> R | None:
        row = self.rows.get(table, *key)
        if row is None and Key(table, key) not in self.reads:
            raise LookupError(f"{table.name} was not declared to be read by this key")
        return row

    def find(self, table: Table[R], column: str, value: Value) -> tuple[R, ...]:
        if Where(table, column, value) not in self.reads:
            raise LookupError(f"{table.name} was not declared to be read by {column}")
        return self.rows.find(table, column, value)


def changed(row: R, **changes: Value) -> R:
    """The row with other values. One with sealed cells is not opened for it: it says itself how it is replaced."""
    replaced: Callable[..., R] = getattr(row, "__replace__", None) or partial(replace, row)  # as Python 3.13 has it
    return replaced(**changes)


class MemoryStore:
    """A store whose rows are dicts: the same step functions, no database."""

    def __init__(self) -> None:
        self._rows = Overlay()

    def read(self, *reads: Read) -> Rows:
        return Declared(self._rows.view(reads), frozenset(reads))

    def apply(self, unit: Unit) -> Decision:
        decision = unit.decide(Declared(self._rows.view(unit.reads), frozenset(unit.reads)))
        self._rows.write(decision.writes)
        return decision

    def apply_all(self, units: Sequence[Unit]) -> list[Decision | Exception]:
        return [attempt(self.apply, unit) for unit in units]

    def sweep(self, now_s: int) -> int:
        gone = [Delete(table, row) for table in ALL_TABLES.values() if table.expires for row in self.scan(table)
                if getattr(row, table.expires) < now_s]  # fmt: skip
        self._rows.write(gone)
        return len(gone)

    def scan(self, table: Table[R]) -> tuple[R, ...]:
        held = self._rows.loaded.get(table.name, {})
        return tuple(held[key] for key in sorted(held))
