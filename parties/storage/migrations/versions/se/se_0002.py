"""purchases"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from parties.storage.migrations.undo import drop_columns, drop_tables

revision = "se_0002"
down_revision = "se_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "field",
        sa.Column("slot", sa.Text(), nullable=False),
        sa.Column("opening", sa.LargeBinary(), nullable=False),
        sa.Column("tid", sa.Text(), nullable=False),
        sa.Column("card", sa.LargeBinary(), nullable=False),
        sa.Column("ceiling_minor", sa.BigInteger(), nullable=False),
        sa.Column("verify_above_minor", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("expires_at_s", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("merchant", sa.Text(), nullable=False),
        sa.Column("terminal", sa.Text(), nullable=False),
        sa.Column("merchant_name", sa.Text(), nullable=False),
        sa.Column("verified", sa.Boolean(), nullable=False),
        sa.Column("read", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("slot", name=op.f("pk_field")),
    )
    op.create_table(
        "pins",
        sa.Column("slot", sa.Text(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("wrong", sa.BigInteger(), nullable=False),
        sa.Column("locked_at_s", sa.BigInteger(), nullable=False),
        sa.Column("approval", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("slot", name=op.f("pk_pins")),
    )
    with op.batch_alter_table("virtual_cards", schema=None) as batch_op:
        batch_op.add_column(sa.Column("verify_above_minor", sa.BigInteger(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("atc", sa.BigInteger(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("used", sa.BigInteger(), nullable=False, server_default="0"))
        batch_op.create_index(batch_op.f("ix_virtual_cards_expires_at_s"), ["expires_at_s"], unique=False)


def downgrade() -> None:
    drop_columns("virtual_cards", "verify_above_minor", "atc", "used", indexed=["expires_at_s"])
    drop_tables("pins", "field")
