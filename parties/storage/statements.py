"""One declared table as the database has it: statements built once, rows to parameters and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

from parties.storage.prepared import Prepared
from parties.storage.schema import column_types, searchable
from parties.storage.sealed_row import SealedRows
from parties.storage.sealing import Sealer
from parties.storage.transaction import Found, Transaction
from protocol.errors import StorageFault
from protocol.rows import Key, Read, Table, Value, Where, values_of

Change = tuple[Any, Any]
"""A row before (or None) and after (or None)."""


class StoredTable:
    """Reads and writes rows of one table, a batch at a time."""

    def __init__(self, table: Table[Any], metadata: sa.MetaData, sealer: Sealer, dialect: sa.Dialect) -> None:
        self._table = table
        self._stored = metadata.tables[table.name]
        self._sealer = sealer
        self._dialect = dialect
        self._types = column_types(table)
        self._clear = tuple(
            (place, column, kind)
            for place, (column, kind) in enumerate(self._types.items())
            if column not in table.sealed
        )
        self._clear_places = [place for place, _, _ in self._clear]
        self._as_stored = tuple(
            bytes if column in table.sealed else kind for column, kind in self._types.items()
        )  # but SQLite's truth values
        self._rows = SealedRows(table, self._open)
        self._searchable = searchable(table)
        self._all = sa.select(self._stored).order_by(*self._keys())  # rows are locked in this order
        self._everything = Prepared(sa.select(self._stored), dialect)
        self._selects: dict[tuple[tuple[tuple[str, int], ...], int, bool], Prepared] = {}
        self._insert = self._change(sa.insert(self._stored))
        self._delete = self._change(sa.delete(self._stored).where(*self._is_key()))
        self._updates: dict[tuple[str, ...], _Change] = {}
        self._unique = [values_of(columns) for columns in table.unique]
        self._expired = self._oldest()

    def ask(self, transaction: Transaction, reads: Sequence[Read], *, lock: bool) -> Found:
        """What `reads` ask for, by one SELECT; no other writer changes them if `lock`. Raises: StorageFault.

        So does a sealed cell that does not open, when it is looked at.
        """
        if len(reads) == 1:
            return self._ask_one(transaction, reads[0], lock=lock)
        keys = _padded(list({read.values for read in reads if isinstance(read, Key)}))
        wanted: dict[str, set[Value]] = {}
        for read in reads:
            if isinstance(read, Where):
                wanted.setdefault(read.column, set()).add(read.value)
        lists = {name: _padded(list(values)) for name, values in sorted(wanted.items())}
        parameters = {f"in_{name}_{n}": value for name, values in lists.items() for n, value in enumerate(values)}
        parameters |= {f"key_{n}_{i}": value for n, key in enumerate(keys) for i, value in enumerate(key)}
        statement = self._select(tuple((name, len(values)) for name, values in lists.items()), len(keys), lock=lock)
        found = statement.ask(transaction, parameters)
        return lambda: [self._row(values) for values in found()]

    def _ask_one(self, transaction: Transaction, read: Read, *, lock: bool) -> Found:
        if isinstance(read, Key):
            found = self._select((), 1, lock=lock).ask_in_place(transaction, read.values)
        else:
            found = self._select(((read.column, 1),), 0, lock=lock).ask_in_place(transaction, (read.value,))
        return lambda: [self._row(values) for values in found()]

    def load_all(self, transaction: Transaction) -> list[Any]:
        """Every row, in the order of the keys, all of whose cells do open. Raises: StorageFault."""
        found = [self._row(values) for values in self._everything.rows(transaction, {})]
        found.sort(key=self._table.key_of)  # databases differ in how they order texts
        for row in found:
            for column in self._table.sealed:
                getattr(row, column)
        return found

    def write(self, transaction: Transaction, changes: Sequence[Change]) -> None:
        """Make `changes`, sorted by key, with one statement of each kind; updates by the columns that change.

        Deletions come first and insertions last, and a row whose unique columns change goes out and comes in again:
        so values may pass from row to row within one transaction without two rows holding one in between. What does
        not change is not written: to seal it anew would be most of the work.
        """
        gone, new = [], []
        changed: dict[tuple[str, ...], list[Any]] = {}
        for before, after in changes:
            if before is None:
                new.append(after)
            elif after is None:
                gone.append(before)
            elif any(get(before) != get(after) for get in self._unique):
                gone.append(before)
                new.append(after)
            else:
                changed.setdefault(self._rows.differing(before, after), []).append(after)
        updates = ((self._update(columns), rows) for columns, rows in changed.items())
        for change, rows in ((self._delete, gone), *updates, (self._insert, new)):
            if rows:
                change.run(transaction, rows)

    def _update(self, columns: tuple[str, ...]) -> _Change:
        if columns not in self._updates:
            statement = sa.update(self._stored).where(*self._is_key())
            values: dict[str, sa.BindParameter[Any]] = {name: sa.bindparam(f"new:{name}") for name in columns}
            self._updates[columns] = self._change(statement.values(values))
        return self._updates[columns]

    def _change(self, statement: sa.Insert | sa.Update | sa.Delete) -> _Change:
        return _Change(Prepared(statement, self._dialect), self._table, self._seal)

    def _seal(self, column: str, value: Value, key: tuple[Value, ...]) -> bytes:
        return self._sealer.seal(value, table=self._table.name, column=column, key=key)

    def sweep(self, transaction: Transaction, *, now_s: int, limit: int) -> int:
        """Delete at most `limit` rows past their expiry, the oldest first; how many."""
        if self._expired is None:
            return 0
        keys = self._expired.rows(transaction, {"now_s": now_s, "limit": limit})
        if keys:
            self._delete.statement.run_in_place(transaction, [tuple(key) for key in keys])
        return len(keys)

    def _row(self, stored: Sequence[Any]) -> Any:
        held = self._rows.held(stored)
        if held is not None:
            return held
        if tuple(map(type, stored)) == self._as_stored:
            return self._rows.make(stored, [stored[place] for place in self._clear_places])
        clear = []
        for place, column, kind in self._clear:
            value = stored[place]
            if kind is bool and value in (0, 1):
                value = bool(value)  # SQLite has no truth values
            self._check(column, value)
            clear.append(value)
        return self._rows.make(stored, clear)

    def _open(self, column: str, cell: Any, key: tuple[Value, ...]) -> Value:
        value = self._sealer.unseal(cell, table=self._table.name, column=column, key=key)
        self._check(column, value)
        return value

    def _check(self, column: str, value: Any) -> None:
        kind = self._types[column]
        if type(value) is not kind:
            raise StorageFault(f"{self._table.name}.{column} holds another type than {kind.__name__}: damaged")

    def _keys(self) -> list[sa.Column[Any]]:
        return [self._stored.c[column] for column in self._table.key]

    def _is_key(self) -> list[sa.ColumnElement[bool]]:
        return [column == sa.bindparam(f"key:{column.name}") for column in self._keys()]

    def _select(self, lists: tuple[tuple[str, int], ...], keys: int, *, lock: bool) -> Prepared:
        form = (lists, keys, lock)
        if form not in self._selects:
            ways = [self._in_column(name, size) for name, size in lists]
            ways += [sa.and_(*self._equal(n)) for n in range(keys)]
            statement = self._all.where(sa.or_(*ways))
            # SQLite leaves FOR UPDATE out: there the transaction holds the one lock.
            self._selects[form] = Prepared(statement.with_for_update() if lock else statement, self._dialect)
        return self._selects[form]

    def _in_column(self, name: str, size: int) -> sa.ColumnElement[bool]:
        if name not in self._searchable:
            raise TypeError(f"{self._table.name}.{name} has no index: it can't be looked up")
        return self._stored.c[name].in_([sa.bindparam(f"in_{name}_{n}") for n in range(size)])

    def _equal(self, n: int) -> list[sa.ColumnElement[bool]]:
        return [column == sa.bindparam(f"key_{n}_{i}") for i, column in enumerate(self._keys())]

    def _oldest(self) -> Prepared | None:
        if self._table.expires is None:
            return None
        expiry, keys = self._stored.c[self._table.expires], self._keys()
        past = sa.select(*keys).where(expiry < sa.bindparam("now_s"))
        oldest = past.order_by(expiry, *keys).limit(sa.bindparam("limit"))
        return Prepared(oldest.with_for_update(skip_locked=True), self._dialect)  # what is in use is swept another time


class _Change:
    """A statement that is carried out for rows: which of their columns it takes, in its own order."""

    def __init__(self, statement: Prepared, table: Table[Any], seal: Callable[..., bytes]) -> None:
        self.statement = statement
        self._table, self._seal = table, seal
        columns = [_column_of(name) for name in statement.names]
        self._cells = values_of(tuple(columns))
        self._sealed = [(n, column) for n, column in enumerate(columns) if column in self._table.sealed]

    def run(self, transaction: Transaction, rows: Sequence[Any]) -> None:
        """Raises: DBAPIError."""
        cells = map(self._sealing if self._sealed else self._cells, rows)
        self.statement.run_in_place(transaction, list(cells))

    def _sealing(self, row: Any) -> tuple[Any, ...]:
        cells, key = list(self._cells(row)), self._table.key_of(row)
        for place, column in self._sealed:
            cells[place] = self._seal(column, cells[place], key)
        return tuple(cells)


def _column_of(parameter: str) -> str:
    """Whose value a parameter takes: columns go in as they are named, but for those that find a row or are changed."""
    return parameter.partition(":")[2] or parameter


def _padded(values: list[Any]) -> list[Any]:
    """Repeated up to a power of two, so that lists of every length need few statements."""
    if not values:
        return values
    return values + values[-1:] * ((1 << (len(values) - 1).bit_length()) - len(values))
