"""Rows as they come out of the database: a sealed cell is opened when somebody looks at it, and then once.

Most steps look at a few columns of many rows: at which cards are left, not at their keys. To open every cell costs more
than to find the row, and spreads keys over memory that nobody asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias
from weakref import WeakValueDictionary

from protocol.rows import Table, Value

Opener: TypeAlias = Callable[[str, Any, tuple[Value, ...]], Value]
"""(column, cell as stored, primary key) → value. Raises: StorageFault."""
_STORED: Final = "_stored"


class SealedRows:
    """Makes the rows of a table with sealed columns.

    They are of a subclass of `table.row`, and equal to rows of `table.row` with the same values. A cell that does not
    open raises StorageFault where it is looked at. A row that somebody still holds, and that is stored as it was, is
    the same object again: what a step looked at before its unit is not opened a second time within it.
    """

    def __init__(self, table: Table[Any], opener: Opener) -> None:
        columns = tuple(table.row.__dataclass_fields__)
        self._clear = tuple(column for column in columns if column not in table.sealed)
        self._key_places = tuple(columns.index(column) for column in table.key)
        self._kind = _subclass(table, columns, opener)
        self._held: WeakValueDictionary[tuple[Value, ...], Any] = WeakValueDictionary()

    def held(self, stored: Sequence[Any]) -> Any:
        """The row that is held and stored just so, or None. `stored` has every column's cell, in their order."""
        row = self._held.get(tuple(stored[place] for place in self._key_places))
        return row if row is not None and getattr(row, _STORED) == stored else None

    def make(self, stored: Sequence[Any], clear: Sequence[Value]) -> Any:
        """A row; `clear` has the values of the columns that are not sealed."""
        row = object.__new__(self._kind)
        for column, value in zip(self._clear, clear, strict=True):
            object.__setattr__(row, column, value)
        object.__setattr__(row, _STORED, stored)
        self._held[tuple(stored[place] for place in self._key_places)] = row
        return row


def _subclass(table: Table[Any], columns: tuple[str, ...], opener: Opener) -> type[Any]:
    plain = table.row
    places = {column: columns.index(column) for column in table.sealed}

    def look(self: Any, column: str) -> Any:  # Python asks this for an attribute that is not set yet
        if column not in places:
            raise AttributeError(column)
        value = opener(column, getattr(self, _STORED)[places[column]], table.key_of(self))
        object.__setattr__(self, column, value)
        return value

    def equal(self: Any, other: object) -> Any:  # True, False or NotImplemented
        if not isinstance(other, plain):
            return NotImplemented
        return self is other or all(getattr(self, column) == getattr(other, column) for column in columns)

    attributes = {
        "__slots__": (_STORED, "__weakref__"), "__qualname__": plain.__qualname__, "__module__": plain.__module__,
        "__getattr__": look, "__eq__": equal, "__hash__": plain.__hash__,
    }  # fmt: skip
    return type(plain.__name__, (plain,), attributes)
