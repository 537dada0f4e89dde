"""Columns added to tables that may hold rows, for what a server's default can't say on every database."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op


def add_bytes(table: str, *columns: str) -> None:
    """Byte columns that are empty in the rows already there: SQLite would take a default of '' for a text."""
    with op.batch_alter_table(table) as batch:
        for column in columns:
            batch.add_column(sa.Column(column, sa.LargeBinary(), nullable=True))
    clause = sa.table(table, *(sa.column(column, sa.LargeBinary()) for column in columns))
    op.execute(sa.update(clause).values(dict.fromkeys(columns, b"")))
    with op.batch_alter_table(table) as batch:
        for column in columns:
            batch.alter_column(column, existing_type=sa.LargeBinary(), nullable=False)
