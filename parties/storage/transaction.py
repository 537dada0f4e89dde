"""A transaction on the driver's own connection, out of SQLAlchemy's pool.

SQLAlchemy keeps connections and writes statements; running them through it, with its events and results, costs several
times what a few rows cost the database.
"""

from __future__ import annotations

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

    def _errors(self) -> type[Exception]:
        errors: type[Exception] = self._dialect.loaded_dbapi.Error
        return errors

    def _translated(self, text: str, exc: Exception) -> DBAPIError:
        error = DBAPIError.instance(text, None, exc, self._errors(), hide_parameters=True, dialect=self._dialect)
        assert isinstance(error, DBAPIError)
        return error


@contextmanager
def begin(engine: sa.Engine, statement: str) -> Iterator[Transaction]:
    """A transaction that is committed at the end, and rolled back by an exception.

    Raises: SQLAlchemyError when there is no connection, or the transaction can't begin or commit.
    """
    with engine.connect() as pooled:
        connection: Any = pooled.connection.driver_connection
        transaction = Transaction(connection, engine.dialect)
        transaction.rows(statement)
        try:
            yield transaction
            transaction.commit()
        except BaseException:
            connection.rollback()
            raise
