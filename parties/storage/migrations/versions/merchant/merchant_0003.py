"""ledger, settlement, stops and traces"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from parties.storage.migrations.books import keep_append_only, post_all
from parties.storage.migrations.columns import add_bytes
from parties.storage.migrations.undo import drop_columns, drop_tables

revision = "merchant_0003"
down_revision = "merchant_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "ledger",
        sa.Column("entry", sa.LargeBinary(), nullable=False),
        sa.Column("debit", sa.Text(), nullable=False),
        sa.Column("credit", sa.Text(), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("ref", sa.LargeBinary(), nullable=False),
        sa.Column("at_s", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("entry", name=op.f("pk_ledger")),
    )
    op.create_table(
        "settlements",
        sa.Column("batch", sa.LargeBinary(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("total_minor", sa.BigInteger(), nullable=False),
        sa.Column("request", sa.LargeBinary(), nullable=False),
        sa.Column("payout", sa.LargeBinary(), nullable=False),
        sa.Column("made_at_s", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("batch", name=op.f("pk_settlements")),
    )
    with op.batch_alter_table("settlements", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_settlements_state"), ["state"], unique=False)

    add_bytes("sale_refunds", "settled")
    with op.batch_alter_table("sale_refunds", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_sale_refunds_settled"), ["settled"], unique=False)

    add_bytes("sales", "asked", "settled")
    with op.batch_alter_table("sales", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_sales_settled"), ["settled"], unique=False)

    _book_history()
    keep_append_only("ledger", "entry")


def _book_history() -> None:
    """What was approved and given back before there were books, owed by the TSM that the terminal signed on at.

    A sale that was reversed was never owed. All of it is still to be settled.
    """
    keys = sa.table("terminal_keys", sa.column("terminal", sa.Text()), sa.column("tsm", sa.Text()))
    sales = sa.table(
        "sales", sa.column("sale", sa.LargeBinary()), sa.column("amount_minor", sa.BigInteger()),
        sa.column("currency", sa.Text()), sa.column("progress", sa.Text()),
        sa.column("started_at_s", sa.BigInteger()), sa.column("settled", sa.LargeBinary()),
    )  # fmt: skip
    refunds = sa.table(
        "sale_refunds", sa.column("refund", sa.LargeBinary()), sa.column("sale", sa.LargeBinary()),
        sa.column("amount_minor", sa.BigInteger()), sa.column("state", sa.Text()),
        sa.column("settled", sa.LargeBinary()),
    )  # fmt: skip
    tsm = op.get_bind().scalar(sa.select(keys.c.tsm).order_by(keys.c.terminal).limit(1))
    if tsm is None:  # nothing can have been sold
        return
    account = sa.literal(f"tsm/{tsm}")
    approved = sales.c.progress == "APPROVED"
    post_all("purchase", sa.select(
        account, sa.literal("sales"), sales.c.amount_minor, sales.c.currency, sales.c.sale, sales.c.started_at_s
    ).where(approved))  # fmt: skip
    done = refunds.c.state == "DONE"
    post_all("refund", sa.select(
        sa.literal("sales"), account, refunds.c.amount_minor, sales.c.currency, refunds.c.refund, sales.c.started_at_s
    ).join_from(refunds, sales, refunds.c.sale == sales.c.sale).where(done))  # fmt: skip
    op.execute(sa.update(sales).where(approved).values(settled=b"due"))
    op.execute(sa.update(refunds).where(done).values(settled=b"due"))


def downgrade() -> None:
    drop_columns("sales", "asked", "settled", indexed=["settled"])
    drop_columns("sale_refunds", "settled", indexed=["settled"])
    drop_tables("settlements", append_only=["ledger"])
