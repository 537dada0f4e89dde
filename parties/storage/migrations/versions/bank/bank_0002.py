"""ledger, settlement, stops and traces"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from parties.storage.migrations.books import keep_append_only
from parties.storage.migrations.undo import drop_columns, drop_tables

revision = "bank_0002"
down_revision = "bank_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit_heads",
        sa.Column("log", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("log", name=op.f("pk_audit_heads")),
    )
    op.create_table(
        "audit_log",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("signed", sa.LargeBinary(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_audit_log")),
    )
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
        "officers",
        sa.Column("officer", sa.Text(), nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.Column("kid", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("officer", name=op.f("pk_officers")),
        sa.UniqueConstraint("kid", name=op.f("uq_officers_kid")),
    )
    with op.batch_alter_table("officers", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_officers_state"), ["state"], unique=False)

    op.create_table(
        "received_claims",
        sa.Column("aid", sa.Text(), nullable=False),
        sa.Column("sid_digest", sa.LargeBinary(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("claimed_minor", sa.BigInteger(), nullable=False),
        sa.Column("credited_minor", sa.BigInteger(), nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("closing", sa.Boolean(), nullable=False),
        sa.Column("accepted_at_s", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("aid", "sid_digest", "sequence", name=op.f("pk_received_claims")),
    )
    op.create_table(
        "stops",
        sa.Column("stop", sa.LargeBinary(), nullable=False),
        sa.Column("customer", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("made_at_s", sa.BigInteger(), nullable=False),
        sa.Column("lifted_at_s", sa.BigInteger(), nullable=False),
        sa.Column("unlisted_from_s", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("stop", name=op.f("pk_stops")),
    )
    with op.batch_alter_table("stops", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_stops_customer"), ["customer"], unique=False)
        batch_op.create_index(batch_op.f("ix_stops_unlisted_from_s"), ["unlisted_from_s"], unique=False)

    op.create_table(
        "trace_cases",
        sa.Column("case_id", sa.LargeBinary(), nullable=False),
        sa.Column("request_digest", sa.LargeBinary(), nullable=False),
        sa.Column("tsm", sa.Text(), nullable=False),
        sa.Column("requester", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("aid", sa.Text(), nullable=False),
        sa.Column("customer", sa.LargeBinary(), nullable=False),
        sa.Column("card_ref", sa.LargeBinary(), nullable=False),
        sa.Column("atc", sa.BigInteger(), nullable=False),
        sa.Column("purchase_digest", sa.LargeBinary(), nullable=False),
        sa.Column("opened_at_s", sa.BigInteger(), nullable=False),
        sa.Column("answer", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("case_id", name=op.f("pk_trace_cases")),
        sa.UniqueConstraint("card_ref", "atc", name=op.f("uq_trace_cases_card_ref_atc")),
    )
    op.create_table(
        "trace_signatures",
        sa.Column("case_id", sa.LargeBinary(), nullable=False),
        sa.Column("officer", sa.Text(), nullable=False),
        sa.Column("signed", sa.LargeBinary(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("signed_at_s", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("case_id", "officer", name=op.f("pk_trace_signatures")),
    )
    with op.batch_alter_table("trace_signatures", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_trace_signatures_case_id"), ["case_id"], unique=False)

    with op.batch_alter_table("customers", schema=None) as batch_op:
        batch_op.add_column(sa.Column("stop", sa.Text(), nullable=False, server_default=""))
        batch_op.create_index(batch_op.f("ix_customers_stop"), ["stop"], unique=False)

    with op.batch_alter_table("grants", schema=None) as batch_op:
        batch_op.add_column(sa.Column("sequence", sa.BigInteger(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("claimed_minor", sa.BigInteger(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("credited_minor", sa.BigInteger(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("closed", sa.Boolean(), nullable=False, server_default=sa.false()))
        batch_op.create_index(batch_op.f("ix_grants_aid"), ["aid"], unique=False)

    keep_append_only("ledger", "entry")
    keep_append_only("audit_log", "number")


def downgrade() -> None:
    drop_columns("grants", "sequence", "claimed_minor", "credited_minor", "closed", indexed=["aid"])
    drop_columns("customers", "stop", indexed=["stop"])
    drop_tables(
        "trace_signatures", "trace_cases", "stops", "received_claims", "officers", "audit_heads",
        append_only=["ledger", "audit_log"],
    )  # fmt: skip
