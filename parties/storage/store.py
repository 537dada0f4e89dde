"""`protocol.rows.Store` over a database: what `MemoryStore` does, kept.

The units of a batch are decided in order over one overlay of the rows they declared; each sees its own rows only, with
the changes of the units before it. So a batch gives what the same units give one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from parties.storage.database import Database, fault_of, is_lost, is_race, open_database
from parties.storage.guards import Guards
from parties.storage.leader import Leader
from parties.storage.roles import TABLES
from parties.storage.schema import metadata_for
from parties.storage.sealing import Sealer
from parties.storage.statements import Change, StoredTable
from parties.storage.transaction import Connections, Transaction
from parties.storage.version import check_version
from parties.storage.writer import MAX_BATCH, MAX_WAITING, GroupWriter, Outcome
from protocol.attempt import attempt
from protocol.rows import Conflict, Decision, Declared, Overlay, Read, Rows, Table, Unit

SWEEP_ROWS: Final = 1000
"""Rows of a table that one transaction deletes at most, so that sweeping never holds up the units for long."""
COMMIT: Final = "COMMIT"
ATTEMPTS: Final = 3
"""At a batch that another writer came between."""
R = TypeVar("R")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sweep:
    """A task: delete some of the rows past their expiry."""

    now_s: int


Task: TypeAlias = Unit | Sweep


class DatabaseStore:
    """The rows of one party. Any thread may call; one thread writes.

    `read` and `scan` raise StorageFault when the database can't be read, or a sealed value does not open, and
    Overloaded when no connection comes free.
    """

    def __init__(
        self,
        database: Database,
        tables: Iterable[Table[Any]],
        sealer: Sealer,
        *,
        max_batch: int = MAX_BATCH,
        waiting: int = MAX_WAITING,
        sweep_rows: int = SWEEP_ROWS,
    ) -> None:
        tables = tuple(tables)
        metadata = metadata_for(tables)
        self._database = database
        self._readers = Connections(database.readers, keep=True)
        self._writers = Connections(database.writer, keep=False)  # there is one, and tools want it between units
        self._sweep_rows = sweep_rows
        self._tables = {table.name: StoredTable(table, metadata, sealer, database.writer.dialect) for table in tables}
        self._declared = {table.name: table for table in tables}
        self._guards = Guards(tables, database)
        self._writer: GroupWriter[Task] = GroupWriter(self._transact, max_batch=max_batch, waiting=waiting)

    def read(self, *reads: Read) -> Rows:
        """A consistent view of these rows, not locked: all are of one committed state."""
        one_table = len({read.table.name for read in reads}) == 1  # one SELECT is of one state by itself

        def look() -> Rows:
            overlay, readers = Overlay(), self._readers
            with readers.lend() if one_table else readers.begin(self._database.begin_to_read) as transaction:
                self._load(transaction, overlay, reads, lock=False)
            return Declared(overlay, frozenset(reads))  # nothing else was loaded

        return self._looking(look)

    def scan(self, table: Table[R]) -> tuple[R, ...]:
        """Every row of a (short) table, in the order of its keys."""

        def look() -> tuple[R, ...]:
            with self._readers.lend() as transaction:
                return tuple(self._tables[table.name].load_all(transaction))

        return self._looking(look)

    def submit(self, unit: Unit) -> Future[Decision]:
        """Queue `unit`; units are decided in the order of their submission. Raises: Overloaded, StorageFault."""
        return self._writer.submit(unit)

    def apply(self, unit: Unit) -> Decision:
        """Decide and commit.

        Raises: what `decide` raises, Conflict if a row is not as the unit saw it, StorageFault if the database can't
        be written, Overloaded if too many units wait. Nothing has changed then.
        """
        decision: Decision = self._writer.run(unit)
        return decision

    def apply_all(self, units: Sequence[Unit]) -> list[Decision | Exception]:
        """What `apply` of each gives, or would raise, in order: of one transaction if no more than a batch."""
        return self._writer.run_all(units)

    def sweep(self, now_s: int) -> int:
        """Delete rows whose expiry is before `now_s` (Unix seconds); how many. Raises: as `apply`."""
        total = 0
        while gone := self._writer.submit(Sweep(now_s)).result():
            total += gone
        return total

    @property
    def writer(self) -> GroupWriter[Task]:
        """What commits, for those who count."""
        return self._writer

    def leader(self) -> Leader:
        """This process's claim to the housekeeping; to be closed before the store."""
        return Leader(self._database)

    def close(self) -> None:
        """Commit and answer the units that wait, take no more, and close the database."""
        self._writer.close()
        self._readers.close()
        self._database.close()

    def _looking(self, look: Callable[[], T]) -> T:
        """Look, and once more if the connection was gone. Raises: StorageFault, Overloaded."""
        try:
            try:
                return look()
            except SQLAlchemyError as exc:
                if not is_lost(exc):
                    raise
            return look()
        except SQLAlchemyError as exc:
            raise fault_of(exc) from exc

    def _transact(self, tasks: Sequence[Task]) -> list[Outcome]:
        """One transaction. Raises: Conflict, StorageFault, anything a statement raises; then nothing was committed.

        When the connection goes while COMMIT is under way, it is not known whether it was made: all are refused as
        unavailable, and who asks again with the same bytes gets the answer that was kept, or is decided anew.
        """
        for turn in range(1, ATTEMPTS + 1):
            try:
                with ExitStack() as stack:
                    try:
                        transaction = stack.enter_context(self._writers.begin(self._database.begin_to_write))
                    except SQLAlchemyError as exc:  # no task's fault: to try them one by one would wait as often
                        return [fault_of(exc) for _ in tasks]
                    return self._carry_out(transaction, tasks)
            except IntegrityError as exc:
                raise Conflict("a row that was not read holds this key or unique value") from exc
            except SQLAlchemyError as exc:
                again = turn < ATTEMPTS
                if is_lost(exc):
                    if again and getattr(exc, "statement", None) != COMMIT:
                        continue
                    return [fault_of(exc) for _ in tasks]
                if not is_race(exc):
                    raise fault_of(exc) from exc
                if not again:
                    raise Conflict("other writers kept coming between") from exc
        raise AssertionError("the last attempt returns or raises")

    def _carry_out(self, transaction: Transaction, tasks: Sequence[Task]) -> list[Outcome]:
        overlay = Overlay()
        reads = [read for task in tasks if isinstance(task, Unit) for read in task.reads]
        guarded = self._guards.read(transaction, reads)
        self._load(transaction, overlay, reads, lock=True)
        alone = len(tasks) == 1
        outcomes = [
            attempt(_decide, overlay, task, alone=alone) if isinstance(task, Unit) else None for task in tasks
        ]  # fmt: skip
        self._write(transaction, overlay, guarded)
        return [
            self._sweep(transaction, task) if isinstance(task, Sweep) else outcome
            for task, outcome in zip(tasks, outcomes, strict=True)
        ]

    def _load(self, transaction: Transaction, overlay: Overlay, reads: Iterable[Read], *, lock: bool) -> None:
        by_table: dict[str, list[Read]] = {}
        for read in reads:
            by_table.setdefault(read.table.name, []).append(read)
        asked = [
            (name, self._tables[name].ask(transaction, of_table, lock=lock))
            for name, of_table in sorted(by_table.items())
        ]
        for name, found in asked:  # a database that is asked over a network is asked for all at once
            overlay.load(self._declared[name], found())

    def _write(self, transaction: Transaction, overlay: Overlay, guarded: set[int]) -> None:
        by_table: dict[str, list[Change]] = {}
        for name, _, before, after in overlay.changes():
            by_table.setdefault(name, []).append((before, after))
        self._guards.write(transaction, by_table, guarded)
        for name, changes in by_table.items():
            self._tables[name].write(transaction, changes)

    def _sweep(self, transaction: Transaction, task: Sweep) -> int:
        swept = (table.sweep(transaction, now_s=task.now_s, limit=self._sweep_rows) for table in self._tables.values())
        return sum(swept)


def open_store(url: str, role: str, data_key: bytes) -> DatabaseStore:
    """The store of the party with this role.

    Raises: SettingsInvalid if the URL is not understood, StorageFault if the database is missing or of another version.
    """
    check_version(url, role)
    return DatabaseStore(open_database(url), TABLES[role], Sealer(data_key))


def _decide(overlay: Overlay, unit: Unit, *, alone: bool) -> Decision:
    """The unit's decision, its writes made in `overlay`. Raises: what `unit.decide` raises, Conflict; nothing changed.

    An exception waits for COMMIT like an answer: the unit may have been refused for what its neighbors wrote.
    """
    view = overlay if alone else overlay.view(unit.reads)  # alone, its rows are all that was loaded
    decision = unit.decide(Declared(view, frozenset(unit.reads)))
    if view is not overlay:  # a change to a row that the unit did not declare must not hang on its neighbors
        view.check_visible(decision.writes)
    overlay.write(decision.writes)
    return decision
