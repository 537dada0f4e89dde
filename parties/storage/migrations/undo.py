"""What a downgrade takes away again. The rows and columns that it removes are lost: back up first."""

from __future__ import annotations

from collections.abc import Sequence

from alembic import op


def drop_tables(*tables: str, append_only: Sequence[str] = ()) -> None:
    """Tables with their indexes; those that only grow with what held them."""
    for table in (*tables, *append_only):
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        for table in append_only:
            op.execute(f"DROP FUNCTION {table}_only_grows()")


def drop_columns(table: str, *columns: str, indexed: Sequence[str] = ()) -> None:
    """Columns, after the indexes on the `indexed` ones."""
    with op.batch_alter_table(table) as batch:
        for column in indexed:
            batch.drop_index(f"ix_{table}_{column}")
        for column in columns:
            batch.drop_column(column)
