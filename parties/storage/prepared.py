"""Statements as the driver takes them: SQLAlchemy writes each shape once and is not asked again when it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from parties.storage.transaction import Found, Transaction


def _numbering(dialect: sa.Dialect) -> sa.Dialect:
    kind: Any = type(dialect)
    numbering: sa.Dialect = kind(paramstyle="numeric_dollar")
    return numbering


class Prepared:
    """One statement for one kind of database."""

    def __init__(self, statement: sa.Select[Any] | sa.Insert | sa.Update | sa.Delete, dialect: sa.Dialect) -> None:
        if dialect.name == "postgresql":  # prepared on the server, where parameters are numbered
            dialect = _numbering(dialect)
        compiled = statement.compile(dialect=dialect)
        self._text = str(compiled)
        self._order: Sequence[str] | None = compiled.positiontup if compiled.positional else None
        self._fixed = {name: value for name, value in compiled.params.items() if value is not None}
        self.names = tuple(self._order or ())
        """The parameters in the order of their places; none where they go by their names."""

    def ask(self, transaction: Transaction, parameters: Mapping[str, Any]) -> Found:
        """What a SELECT finds. Raises: DBAPIError."""
        return transaction.ask(self._text, self._bound(parameters))

    def rows(self, transaction: Transaction, parameters: Mapping[str, Any]) -> list[Sequence[Any]]:
        """What a SELECT finds, now. Raises: DBAPIError."""
        return self.ask(transaction, parameters)()

    def ask_in_place(self, transaction: Transaction, values: tuple[Any, ...]) -> Found:
        """As `ask`, with the values of `names`. Raises: DBAPIError."""
        return transaction.ask(self._text, values)

    def run(self, transaction: Transaction, parameters: Sequence[Mapping[str, Any]]) -> None:
        """A change, once for each set of parameters. Raises: DBAPIError."""
        transaction.run(self._text, [self._bound(row) for row in parameters])

    def run_in_place(self, transaction: Transaction, rows: Sequence[tuple[Any, ...]]) -> None:
        """As `run`, with the values of `names` for each. Raises: DBAPIError."""
        transaction.run(self._text, rows)

    def _bound(self, parameters: Mapping[str, Any]) -> Any:
        values = {**self._fixed, **parameters} if self._fixed else parameters
        return values if self._order is None else tuple(map(values.__getitem__, self._order))
