"""sales"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from parties.storage.migrations.undo import drop_tables

revision = "merchant_0002"
down_revision = "merchant_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "sale_refunds",
        sa.Column("refund", sa.LargeBinary(), nullable=False),
        sa.Column("sale", sa.LargeBinary(), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("request", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("refund", name=op.f("pk_sale_refunds")),
    )
    with op.batch_alter_table("sale_refunds", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_sale_refunds_sale"), ["sale"], unique=False)
        batch_op.create_index(batch_op.f("ix_sale_refunds_state"), ["state"], unique=False)

    op.create_table(
        "sales",
        sa.Column("sale", sa.LargeBinary(), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("progress", sa.Text(), nullable=False),
        sa.Column("lane", sa.LargeBinary(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("display", sa.Text(), nullable=False),
        sa.Column("card", sa.Text(), nullable=False),
        sa.Column("request", sa.LargeBinary(), nullable=False),
        sa.Column("cryptogram", sa.LargeBinary(), nullable=False),
        sa.Column("receipt", sa.LargeBinary(), nullable=False),
        sa.Column("reversal", sa.LargeBinary(), nullable=False),
        sa.Column("deadline_s", sa.BigInteger(), nullable=False),
        sa.Column("started_at_s", sa.BigInteger(), nullable=False),
        sa.Column("refunded_minor", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("sale", name=op.f("pk_sales")),
        sa.UniqueConstraint("lane", name=op.f("uq_sales_lane")),
    )
    with op.batch_alter_table("sales", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_sales_progress"), ["progress"], unique=False)


def downgrade() -> None:
    drop_tables("sales", "sale_refunds")
