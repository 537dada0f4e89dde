"""What nobody may add while a unit decides that it is not there.

Rows that a unit read are locked, but a row that was missing can't be. Where one worker alone writes (SQLite), nobody
adds it. With several, a key and unique columns are held by their constraints; for what a unit looks up by any other
indexed column there is an advisory lock of the transaction: on the value that it looks for, and on the values of every
row that comes in. Locks are taken before rows are read, in one order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from parties.storage.database import Database
from parties.storage.statements import Change
from parties.storage.transaction import Transaction
from protocol.codec import encode
from protocol.rows import Read, Table, Value, Where

EXEMPT: Final = frozenset(
    {
        # A unit that looks for grants by TID, or adds one, reads the row of the service too, and so holds it.
        ("tid_list", "tid"),
        # A unit that looks for cards by batch or adds them reads the row of its session too.
        ("cards", "batch"),
        # Looked up by housekeeping only, which decides on each row found in a unit of its own.
        ("purchases", "sid_digest"), ("second_draws", "sid_digest"), ("tid_list", "state"), ("tid_list", "claims"),
        ("claims", "sid_digest"), ("claims", "state"), ("sales", "progress"), ("sales", "settled"),
        ("sale_refunds", "state"), ("sale_refunds", "settled"), ("settlements", "state"), ("customers", "stop"),
    }
)  # fmt: skip
"""(table, column) that need no lock: each would be taken by every purchase or sale."""
_LOCK: Final = "SELECT pg_advisory_xact_lock($1)"


class Guards:
    """Advisory locks for the tables of one database; none on SQLite."""

    def __init__(self, tables: Iterable[Table[Any]], database: Database) -> None:
        self._columns: dict[str, tuple[str, ...]] = {}
        if database.is_postgresql:
            for table in tables:
                self._columns[table.name] = _guarded(table)

    def read(self, transaction: Transaction, reads: Sequence[Read]) -> set[int]:
        """Lock what `reads` look for; the locks."""
        if not self._columns:
            return set()
        wanted = {
            _number(read.table.name, read.column, read.value)
            for read in reads
            if isinstance(read, Where) and read.column in self._columns[read.table.name]
        }
        _take(transaction, wanted)
        return wanted

    def write(self, transaction: Transaction, by_table: Mapping[str, Sequence[Change]], held: set[int]) -> None:
        """Lock the values that rows get in `by_table`, but those that are `held`."""
        wanted = {
            _number(name, column, getattr(after, column))
            for name, changes in by_table.items()
            for column in self._columns.get(name, ())
            for before, after in changes
            if after is not None and (before is None or getattr(before, column) != getattr(after, column))
        }
        _take(transaction, wanted - held)


def _guarded(table: Table[Any]) -> tuple[str, ...]:
    by_constraint = {columns[0] for columns in (table.key, *table.unique) if len(columns) == 1}
    of_pairs = {columns[0] for columns in table.unique if len(columns) > 1}
    columns = (of_pairs | set(table.index)) - by_constraint
    return tuple(sorted(column for column in columns if (table.name, column) not in EXEMPT))


def _number(table: str, column: str, value: Value) -> int:
    """64 bits of a digest. Two values of one number wait for each other now and then, which does no harm."""
    return int.from_bytes(hashlib.sha256(encode([table, column, value])).digest()[:8], "big", signed=True)


def _take(transaction: Transaction, numbers: set[int]) -> None:
    for number in sorted(numbers):
        transaction.ask(_LOCK, (number,))
