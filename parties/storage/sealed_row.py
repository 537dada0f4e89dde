"""Rows as they come out of the database: a sealed cell is opened when somebody looks at it, and then once.

Most steps look at a few columns of many rows: at which cards are left, not at their keys. To open every cell costs more
than to find the row, and spreads keys over memory that nobody asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, Final, TypeAlias
from weakref import WeakValueDictionary

from protocol.rows import Table, Value, values_of

Opener: TypeAlias = Callable[[str, Any, tuple[Value, ...]], Value]
"""(column, cell as stored, primary key) → value. Raises: StorageFault."""
_STORED: Final = "_stored"
_OPEN: Final = "_open"
"""The sealed columns that have a value: they were opened or changed."""
_CLOSED: Final = "_closed"
"""Gives a sealed column's cell while it is neither opened nor changed, then None."""


class SealedRows:
    """Makes the rows of a table with sealed columns.

    They are of a subclass of `table.row`, and equal to rows of `table.row` with the same values. A cell that does not
    open raises StorageFault where it is looked at. A row that somebody still holds, and that is stored as it was, is
    the same object again: what a step looked at before its unit is not opened a second time within it.
    """

    def __init__(self, table: Table[Any], opener: Opener) -> None:
        columns = tuple(table.row.__dataclass_fields__)
        self._clear = tuple(column for column in columns if column not in table.sealed)
        self._sealed = tuple(column for column in columns if column in table.sealed)
        self._clear_of = values_of(self._clear)
        self._key = itemgetter(*(columns.index(column) for column in table.key))
        self._kind = _subclass(table, columns, opener)
        self._puts = [_setter(self._kind, name) for name in (*self._clear, _STORED, _OPEN)]
        self._held: WeakValueDictionary[Any, Any] = WeakValueDictionary()

    def held(self, stored: Sequence[Any]) -> Any:
        """The row that is held and stored just so, or None. `stored` has every column's cell, in their order."""
        row = self._held.get(self._key(stored))
        return row if row is not None and row._stored == stored else None

    def make(self, stored: Sequence[Any], clear: Sequence[Value]) -> Any:
        """A row; `clear` has the values of the columns that are not sealed."""
        row = object.__new__(self._kind)
        for put, value in zip(self._puts, (*clear, stored, ()), strict=True):
            put(row, value)
        self._held[self._key(stored)] = row
        return row

    def differing(self, before: Any, after: Any) -> tuple[str, ...]:
        """Columns in which two versions of a row differ. What neither has opened is compared as it is stored."""
        values = zip(self._clear, self._clear_of(before), self._clear_of(after), strict=True)
        clear = [column for column, old, new in values if old != new]
        return (*clear, *(column for column in self._sealed if not _alike(before, after, column)))


def _subclass(table: Table[Any], columns: tuple[str, ...], opener: Opener) -> type[Any]:
    plain = table.row
    places = {column: columns.index(column) for column in columns if column in table.sealed}
    slots = {column: plain.__dict__[column] for column in columns}
    clear_of = values_of(tuple(column for column in columns if column not in places))
    names, key = frozenset(columns), frozenset(table.key)

    def whole(self: Any, **values: Value) -> None:
        row = plain(**values)
        for column, put in puts.items():
            put(self, getattr(row, column))
        put_stored(self, None)
        put_open(self, tuple(places))

    def look(self: Any, column: str) -> Any:
        if column in self._open:
            return slots[column].__get__(self, plain)
        value = opener(column, self._stored[places[column]], table.key_of(self))
        puts[column](self, value)
        put_open(self, (*self._open, column))
        return value

    def equal(self: Any, other: object) -> Any:  # True, False or NotImplemented
        if not isinstance(other, plain):
            return NotImplemented
        if self is other:
            return True
        return clear_of(self) == clear_of(other) and all(_alike(self, other, column) for column in places)

    def closed(self: Any, column: str) -> Any:
        return None if column in self._open else self._stored[places[column]]

    def alter(self: Any, **changes: Value) -> Any:
        stored = self._stored
        # A row that was made from all its values has no cells; cells are bound to the key; other names are refused.
        if stored is None or changes.keys() & key or not changes.keys() <= names:
            return dataclasses.replace(self, **changes)
        row: Any = object.__new__(kind)
        opened = {*self._open, *(places.keys() & changes.keys())}
        for column, put in puts.items():
            if column in changes:
                put(row, changes[column])
            elif column not in places or column in opened:
                put(row, getattr(self, column))
        put_stored(row, stored)
        put_open(row, tuple(opened))
        return row

    attributes = {
        "__slots__": (_STORED, _OPEN, "__weakref__"), "__qualname__": plain.__qualname__,
        "__module__": plain.__module__, "__init__": whole, "__eq__": equal, "__hash__": plain.__hash__,
        "__replace__": alter, _CLOSED: closed, **{column: property(partial(look, column=column)) for column in places},
    }  # fmt: skip
    kind = type(plain.__name__, (plain,), attributes)
    puts = {column: _setter(plain, column) for column in columns}
    put_stored, put_open = _setter(kind, _STORED), _setter(kind, _OPEN)
    return kind


def _setter(kind: type[Any], name: str) -> Callable[[Any, Any], None]:
    """Sets an attribute of a frozen row; `object.__setattr__` would look for its place each time."""
    put: Callable[[Any, Any], None] = getattr(kind, name).__set__
    return put


def _alike(left: Any, right: Any, column: str) -> bool:
    """Is a sealed column the same in two rows whose keys are? What nobody opened or changed is not opened for it."""
    cells = [getattr(row, _CLOSED)(column) if hasattr(type(row), _CLOSED) else None for row in (left, right)]
    if cells[0] is not None and cells[0] == cells[1]:
        return True
    return bool(getattr(left, column) == getattr(right, column))
