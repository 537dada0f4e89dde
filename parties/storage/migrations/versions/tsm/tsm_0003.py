"""ledger, settlement, stops and traces"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from parties.storage.migrations.columns import add_bytes

revision = "tsm_0003"
down_revision = "tsm_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "claims",
        sa.Column("sid_digest", sa.LargeBinary(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("claimed_minor", sa.BigInteger(), nullable=False),
        sa.Column("credited_minor", sa.BigInteger(), nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=False),
        sa.Column("closing", sa.Boolean(), nullable=False),
        sa.Column("made_at_s", sa.BigInteger(), nullable=False),
        sa.Column("request", sa.LargeBinary(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("sid_digest", "sequence", name=op.f("pk_claims")),
    )
    with op.batch_alter_table("claims", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_claims_state"), ["state"], unique=False)

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
        "payouts",
        sa.Column("merchant", sa.Text(), nullable=False),
        sa.Column("batch", sa.LargeBinary(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("total_minor", sa.BigInteger(), nullable=False),
        sa.Column("paid_at_s", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("merchant", "batch", name=op.f("pk_payouts")),
    )
    op.create_table(
        "second_draws",
        sa.Column("merchant", sa.Text(), nullable=False),
        sa.Column("sale", sa.LargeBinary(), nullable=False),
        sa.Column("sid_digest", sa.LargeBinary(), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("claim", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("merchant", "sale", name=op.f("pk_second_draws")),
    )
    with op.batch_alter_table("second_draws", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_second_draws_sid_digest"), ["sid_digest"], unique=False)

    op.create_table(
        "stop_lists",
        sa.Column("bank", sa.Text(), nullable=False),
        sa.Column("minute_s", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("bank", name=op.f("pk_stop_lists")),
    )
    add_bytes("purchases", "request", "receipt_digest", "settled")
    with op.batch_alter_table("purchases", schema=None) as batch_op:
        batch_op.add_column(sa.Column("claim", sa.BigInteger(), nullable=False, server_default="0"))
        batch_op.create_index(batch_op.f("ix_purchases_sid_digest"), ["sid_digest"], unique=False)

    add_bytes("refunds", "settled")

    with op.batch_alter_table("services", schema=None) as batch_op:
        batch_op.add_column(sa.Column("stop", sa.Text(), nullable=False, server_default=""))

    with op.batch_alter_table("tid_list", schema=None) as batch_op:
        batch_op.add_column(sa.Column("bank_stop", sa.Text(), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("claims", sa.Text(), nullable=False, server_default="OPEN"))
        batch_op.create_index(batch_op.f("ix_tid_list_bank_stop"), ["bank_stop"], unique=False)
        batch_op.create_index(batch_op.f("ix_tid_list_claims"), ["claims"], unique=False)
