"""purchases"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from parties.storage.migrations.undo import drop_columns, drop_tables

revision = "tsm_0002"
down_revision = "tsm_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "purchases",
        sa.Column("merchant", sa.Text(), nullable=False),
        sa.Column("sale", sa.LargeBinary(), nullable=False),
        sa.Column("terminal", sa.Text(), nullable=False),
        sa.Column("pan_ref", sa.LargeBinary(), nullable=False),
        sa.Column("atc_ref", sa.LargeBinary(), nullable=False),
        sa.Column("opening_ref", sa.LargeBinary(), nullable=False),
        sa.Column("tid", sa.Text(), nullable=False),
        sa.Column("sid_digest", sa.LargeBinary(), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("refunded_minor", sa.BigInteger(), nullable=False),
        sa.Column("cryptogram", sa.LargeBinary(), nullable=False),
        sa.Column("decided_at_s", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("merchant", "sale", name=op.f("pk_purchases")),
        sa.UniqueConstraint("atc_ref", name=op.f("uq_purchases_atc_ref")),
        sa.UniqueConstraint("opening_ref", name=op.f("uq_purchases_opening_ref")),
    )
    op.create_table(
        "refunds",
        sa.Column("merchant", sa.Text(), nullable=False),
        sa.Column("refund", sa.LargeBinary(), nullable=False),
        sa.Column("sale", sa.LargeBinary(), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("made_at_s", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("merchant", "refund", name=op.f("pk_refunds")),
    )
    with op.batch_alter_table("cards", schema=None) as batch_op:
        batch_op.add_column(sa.Column("verify_above_minor", sa.BigInteger(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("used", sa.BigInteger(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("spent_minor", sa.BigInteger(), nullable=False, server_default="0"))

    with op.batch_alter_table("tid_list", schema=None) as batch_op:
        batch_op.add_column(sa.Column("spent_minor", sa.BigInteger(), nullable=False, server_default="0"))


def downgrade() -> None:
    drop_columns("tid_list", "spent_minor")
    drop_columns("cards", "verify_above_minor", "used", "spent_minor")
    drop_tables("refunds", "purchases")
