"""Tables that only grow, held by the database itself; and entries for what happened before there were books.

A migration is of its own time, so how an entry is named is written here again, as it was when the ledger came.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Final

import sqlalchemy as sa
from alembic import op

_ROWS: Final = 1000
"""Entries that are inserted at a time."""
_LEDGER: Final = sa.table(
    "ledger", sa.column("entry", sa.LargeBinary()), sa.column("debit", sa.Text()), sa.column("credit", sa.Text()),
    sa.column("amount_minor", sa.BigInteger()), sa.column("currency", sa.Text()), sa.column("kind", sa.Text()),
    sa.column("ref", sa.LargeBinary()), sa.column("at_s", sa.BigInteger()),
)  # fmt: skip


def keep_append_only(table: str, key: str) -> None:
    """Let the database refuse every change and removal of a row, whoever asks.

    A migration that copies the table (SQLite alters by copying) loses this and must call it again.
    """
    if op.get_bind().dialect.name == "postgresql":
        _keep_on_postgresql(table)
    else:
        _keep_on_sqlite(table, key)


def _keep_on_sqlite(table: str, key: str) -> None:
    refusal = f"BEGIN SELECT RAISE(ABORT, '{table} only grows'); END"
    op.execute(f"CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table} {refusal}")
    op.execute(f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} {refusal}")
    # INSERT OR REPLACE removes the old row without asking the trigger on DELETE.
    taken = f"WHEN EXISTS (SELECT 1 FROM {table} WHERE {key} = NEW.{key})"  # noqa: S608  # names of our own tables
    op.execute(f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} {taken} {refusal}")


def _keep_on_postgresql(table: str) -> None:
    op.execute(
        f"CREATE FUNCTION {table}_only_grows() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{table} only grows'; END $$"
    )
    for name, event, scope in (
        ("no_update", "UPDATE", "ROW"), ("no_delete", "DELETE", "ROW"), ("no_truncate", "TRUNCATE", "STATEMENT"),
    ):  # fmt: skip
        op.execute(
            f"CREATE TRIGGER {table}_{name} BEFORE {event} ON {table} FOR EACH {scope} "
            f"EXECUTE FUNCTION {table}_only_grows()"
        )


def post_all(
    kind: str, found: sa.Select[Any], *, debit: Callable[[Any], str] = str, credit: Callable[[Any], str] = str
) -> None:
    """One entry for each row found: debit, credit, amount, currency, cause, time."""
    entries = [
        {
            "entry": _entry_name(kind, debit(debited), credit(credited), ref), "debit": debit(debited),
            "credit": credit(credited), "amount_minor": amount_minor, "currency": currency, "kind": kind, "ref": ref,
            "at_s": at_s,
        }
        for debited, credited, amount_minor, currency, ref, at_s in op.get_bind().execute(found)
        if amount_minor
    ]  # fmt: skip
    for start in range(0, len(entries), _ROWS):
        op.bulk_insert(_LEDGER, entries[start : start + _ROWS])


def _entry_name(kind: str, debit: str, credit: str, ref: bytes) -> bytes:
    fields = (b"tapveil-entry", kind.encode(), debit.encode(), credit.encode(), ref)
    return hashlib.sha256(b"".join(len(field).to_bytes(4, "big") + field for field in fields)).digest()
