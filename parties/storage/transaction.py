"""Transactions on the driver's own connections, out of SQLAlchemy's pool.

SQLAlchemy opens connections and writes statements; running them through it, with its events and results, costs several
times what a few rows cost the database.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

BEGIN_TO_READ: Final = "BEGIN"
BEGIN_TO_WRITE: Final = "BEGIN IMMEDIATE"
"""SQLite takes its lock at once, so that two writers never both hold what they read."""


class Transaction:
    """Statements on one connection. All raise DBAPIError, as SQLAlchemy would, without values: rows hold identities."""

    def __init__(self, connection: Any, dialect: sa.Dialect) -> None:
        self._connection = connection
        self._dialect = dialect

    def rows(self, text: str, values: Any = ()) -> list[Sequence[Any]]:
        """What a SELECT finds."""
        try:
            cursor = self._connection.cursor()
            try:
                cursor.execute(text, values)
                return list(cursor.fetchall())
            finally:
                cursor.close()
        except self._errors() as exc:
            raise self._translated(text, exc) from exc

    def run(self, text: str, rows: Sequence[Any]) -> None:
        """A change, once for each row of values."""
        try:
            cursor = self._connection.cursor()
            try:
                cursor.executemany(text, rows)
            finally:
                cursor.close()
        except self._errors() as exc:
            raise self._translated(text, exc) from exc

    def commit(self) -> None:
        """Make it last."""
        try:
            self._connection.commit()
        except self._errors() as exc:
            raise self._translated("COMMIT", exc) from exc

    def rollback(self) -> None:
        """Undo it, if it has begun."""
        self._connection.rollback()

    def _errors(self) -> type[Exception]:
        errors: type[Exception] = self._dialect.loaded_dbapi.Error
        return errors

    def _translated(self, text: str, exc: Exception) -> DBAPIError:
        error = DBAPIError.instance(text, None, exc, self._errors(), hide_parameters=True, dialect=self._dialect)
        assert isinstance(error, DBAPIError)
        return error


class Connections:
    """Connections out of an engine's pool, which bounds them.

    To take one out of it and put it back costs as much as to find a row. So, if `keep`, what comes free stays here,
    unless somebody waits at the pool.
    """

    def __init__(self, engine: sa.Engine, *, keep: bool) -> None:
        self._engine = engine
        self._free: list[sa.PoolProxiedConnection] = []
        self._lock = threading.Lock()
        self._waiting = 0
        self._keep = keep

    @contextmanager
    def lend(self) -> Iterator[Transaction]:
        """Statements that each are their own transaction. Raises: SQLAlchemyError when there is no connection."""
        pooled = self._take()
        try:
            yield Transaction(pooled.driver_connection, self._engine.dialect)
        finally:
            self._give_back(pooled)

    @contextmanager
    def begin(self, statement: str) -> Iterator[Transaction]:
        """A transaction that is committed at the end, and rolled back by an exception.

        Raises: SQLAlchemyError when there is no connection, or the transaction can't begin or commit.
        """
        with self.lend() as transaction:
            transaction.rows(statement)
            try:
                yield transaction
                transaction.commit()
            except BaseException:
                transaction.rollback()
                raise

    def close(self) -> None:
        """Give the pool all that is kept, from now on at once."""
        with self._lock:
            self._keep = False
            free, self._free = self._free, []
        for pooled in free:
            pooled.close()

    def _take(self) -> sa.PoolProxiedConnection:
        with self._lock:
            if self._free:
                return self._free.pop()
            self._waiting += 1
        try:
            return self._engine.raw_connection()
        finally:
            with self._lock:
                self._waiting -= 1

    def _give_back(self, pooled: sa.PoolProxiedConnection) -> None:
        with self._lock:
            keep = self._keep and not self._waiting
            if keep:
                self._free.append(pooled)
        if not keep:
            pooled.close()
