"""Declared tables (`protocol.rows.Table`) as SQLAlchemy Core tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Final, Literal, get_type_hints

import sqlalchemy as sa

from protocol.rows import Table, Value

_TYPES: Final[dict[type, type[sa.types.TypeEngine[Any]]]] = {
    bytes: sa.LargeBinary,
    str: sa.Text,
    int: sa.BigInteger,
    bool: sa.Boolean,
}
_NAMES: Final = {  # constraints with names of our own are the same on every database, so migrations can address them
    "pk": "pk_%(table_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
}


def metadata_for(tables: Iterable[Table[Any]]) -> sa.MetaData:
    """The schema that holds these tables.

    Raises: TypeError if a declaration can't be stored: a type other than bytes, str, int and bool, a column that does
    not exist, or a sealed column that is to be looked up.
    """
    metadata = sa.MetaData(naming_convention=_NAMES)
    for table in tables:
        _check(table)
        _add(metadata, table)
    return metadata


@cache
def column_types(table: Table[Any]) -> dict[str, type[Value]]:
    """Each column's Python type, in the order of the row's fields. Raises: TypeError."""
    if not is_dataclass(table.row):
        raise TypeError(f"the row of {table.name} is not a dataclass")
    hints = get_type_hints(table.row)
    types = {field.name: hints[field.name] for field in fields(table.row)}
    for column, kind in types.items():
        if kind not in _TYPES:
            raise TypeError(f"{table.name}.{column} is {kind}, not bytes, str, int or bool")
    return types


def searchable(table: Table[Any]) -> frozenset[str]:
    """Columns that an index starts with: those a `Where` may name."""
    return frozenset(table.index) | {columns[0] for columns in (table.key, *table.unique)}


def _check(table: Table[Any]) -> None:
    looked_up = {*table.key, *table.index, *(column for columns in table.unique for column in columns)}
    if table.expires is not None:
        looked_up.add(table.expires)
    if unknown := (looked_up | table.sealed) - column_types(table).keys():
        raise TypeError(f"{table.name} has no column {', '.join(sorted(unknown))}")
    if both := looked_up & table.sealed:
        raise TypeError(f"{table.name}.{min(both)} is sealed, so it can't be a key, unique, an index or an expiry")


def _add(metadata: sa.MetaData, table: Table[Any]) -> None:
    stored = sa.Table(table.name, metadata)
    for column, kind in column_types(table).items():
        stored_type = sa.LargeBinary if column in table.sealed else _TYPES[kind]
        # A whole number as key would otherwise be given by the database.
        numbered: Literal["auto", False] = False if kind is int and column in table.key else "auto"
        stored.append_column(sa.Column(column, stored_type(), nullable=False, autoincrement=numbered))
    stored.append_constraint(sa.PrimaryKeyConstraint(*table.key))
    for columns in table.unique:
        stored.append_constraint(sa.UniqueConstraint(*columns))
    for column in sorted({*table.index, *((table.expires,) if table.expires else ())}):
        sa.Index(None, stored.c[column])
