"""ledger, settlement, stops and traces"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from parties.storage.migrations.books import keep_append_only, post_all
from parties.storage.migrations.columns import add_bytes
from parties.storage.migrations.undo import drop_columns, drop_tables

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
        sa.Column("refusal", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("sid_digest", "sequence", name=op.f("pk_claims")),
    )
    with op.batch_alter_table("claims", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_claims_sid_digest"), ["sid_digest"], unique=False)
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
        "service_stops",
        sa.Column("stop", sa.LargeBinary(), nullable=False),
        sa.Column("tid", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("made_at_s", sa.BigInteger(), nullable=False),
        sa.Column("lifted_at_s", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("stop", name=op.f("pk_service_stops")),
    )
    with op.batch_alter_table("service_stops", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_service_stops_tid"), ["tid"], unique=False)

    op.create_table(
        "stop_lists",
        sa.Column("bank", sa.Text(), nullable=False),
        sa.Column("minute_s", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("bank", name=op.f("pk_stop_lists")),
    )
    op.create_table(
        "traces",
        sa.Column("merchant", sa.Text(), nullable=False),
        sa.Column("sale", sa.LargeBinary(), nullable=False),
        sa.Column("case_id", sa.LargeBinary(), nullable=False),
        sa.Column("bank", sa.Text(), nullable=False),
        sa.Column("requester", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("chain", sa.LargeBinary(), nullable=False),
        sa.Column("request", sa.LargeBinary(), nullable=False),
        sa.Column("asked_at_s", sa.BigInteger(), nullable=False),
        sa.Column("answer", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("merchant", "sale", name=op.f("pk_traces")),
        sa.UniqueConstraint("case_id", name=op.f("uq_traces_case_id")),
    )
    add_bytes("cards", "keys_request")
    add_bytes("tid_list", "proof")
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

    _book_history()
    keep_append_only("ledger", "entry")


def _book_history() -> None:
    """What grants and merchants moved before there were books. What was reversed moved nothing in the end."""
    purchases = sa.table(
        "purchases", sa.column("merchant", sa.Text()), sa.column("sale", sa.LargeBinary()),
        sa.column("sid_digest", sa.LargeBinary()), sa.column("amount_minor", sa.BigInteger()),
        sa.column("currency", sa.Text()), sa.column("decided_at_s", sa.BigInteger()), sa.column("state", sa.Text()),
    )  # fmt: skip
    refunds = sa.table(
        "refunds", sa.column("merchant", sa.Text()), sa.column("refund", sa.LargeBinary()),
        sa.column("sale", sa.LargeBinary()), sa.column("amount_minor", sa.BigInteger()),
        sa.column("currency", sa.Text()), sa.column("made_at_s", sa.BigInteger()),
    )  # fmt: skip
    merchant = sa.literal("merchant/") + purchases.c.merchant
    post_all("purchase", sa.select(
        purchases.c.sid_digest, merchant, purchases.c.amount_minor, purchases.c.currency, purchases.c.sale,
        purchases.c.decided_at_s,
    ).where(purchases.c.state == "APPROVED"), debit=_grant)  # fmt: skip
    of_purchase = sa.and_(refunds.c.merchant == purchases.c.merchant, refunds.c.sale == purchases.c.sale)
    post_all("refund", sa.select(
        merchant, purchases.c.sid_digest, refunds.c.amount_minor, refunds.c.currency, refunds.c.refund,
        refunds.c.made_at_s,
    ).join_from(refunds, purchases, of_purchase), credit=_grant)  # fmt: skip


def _grant(sid_digest: bytes) -> str:
    return f"grant/{sid_digest.hex()}"


def downgrade() -> None:
    drop_columns("tid_list", "proof", "bank_stop", "claims", indexed=["bank_stop", "claims"])
    drop_columns("services", "stop")
    drop_columns("refunds", "settled")
    drop_columns("purchases", "request", "receipt_digest", "settled", "claim", indexed=["sid_digest"])
    drop_columns("cards", "keys_request")
    drop_tables(
        "traces", "stop_lists", "service_stops", "second_draws", "payouts", "claims", append_only=["ledger"]
    )  # fmt: skip
