"""first tables"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from parties.storage.migrations.undo import drop_tables

revision = "tsm_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "card_sessions",
        sa.Column("handle", sa.LargeBinary(), nullable=False),
        sa.Column("tid", sa.Text(), nullable=False),
        sa.Column("n_u", sa.LargeBinary(), nullable=False),
        sa.Column("n_t", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("expires_at_s", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("handle", name=op.f("pk_card_sessions")),
    )
    op.create_index(op.f("ix_card_sessions_expires_at_s"), "card_sessions", ["expires_at_s"], unique=False)
    op.create_table(
        "cards",
        sa.Column("pan_ref", sa.LargeBinary(), nullable=False),
        sa.Column("modulus_digest", sa.LargeBinary(), nullable=False),
        sa.Column("tid", sa.Text(), nullable=False),
        sa.Column("sid_digest", sa.LargeBinary(), nullable=False),
        sa.Column("batch", sa.LargeBinary(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("pan", sa.LargeBinary(), nullable=False),
        sa.Column("k_ac", sa.LargeBinary(), nullable=False),
        sa.Column("modulus", sa.LargeBinary(), nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at_s", sa.BigInteger(), nullable=False),
        sa.Column("limit_minor", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("uses", sa.BigInteger(), nullable=False),
        sa.Column("per_use_minor", sa.BigInteger(), nullable=False),
        sa.Column("total_minor", sa.BigInteger(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("pan_ref", name=op.f("pk_cards")),
        sa.UniqueConstraint("modulus_digest", name=op.f("uq_cards_modulus_digest")),
    )
    op.create_index(op.f("ix_cards_batch"), "cards", ["batch"], unique=False)
    op.create_index(op.f("ix_cards_sid_digest"), "cards", ["sid_digest"], unique=False)
    op.create_table(
        "evidence",
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("received_at_s", sa.BigInteger(), nullable=False),
        sa.Column("signed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("digest", "message", name=op.f("pk_evidence")),
    )
    op.create_table(
        "outbox",
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("rpc", sa.Text(), nullable=False),
        sa.Column("cose", sa.LargeBinary(), nullable=False),
        sa.Column("session", sa.LargeBinary(), nullable=False),
        sa.Column("peer", sa.Text(), nullable=False),
        sa.Column("peer_rpc", sa.Text(), nullable=False),
        sa.Column("peer_cose", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at_s", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_outbox")),
    )
    op.create_index(op.f("ix_outbox_expires_at_s"), "outbox", ["expires_at_s"], unique=False)
    op.create_table(
        "requests",
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("nonce", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at_s", sa.BigInteger(), nullable=False),
        sa.Column("issued_at_s", sa.BigInteger(), nullable=False),
        sa.Column("reply_nonce", sa.LargeBinary(), nullable=False),
        sa.Column("reply", sa.LargeBinary(), nullable=False),
        sa.Column("refusal", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_requests")),
        sa.UniqueConstraint("nonce", name=op.f("uq_requests_nonce")),
    )
    op.create_index(op.f("ix_requests_expires_at_s"), "requests", ["expires_at_s"], unique=False)
    op.create_table(
        "services",
        sa.Column("tid", sa.Text(), nullable=False),
        sa.Column("pk_tid", sa.LargeBinary(), nullable=False),
        sa.Column("kid_tid", sa.LargeBinary(), nullable=False),
        sa.Column("ek_tid", sa.LargeBinary(), nullable=False),
        sa.Column("k_tid", sa.LargeBinary(), nullable=False),
        sa.Column("maximum_minor", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tid", name=op.f("pk_services")),
        sa.UniqueConstraint("kid_tid", name=op.f("uq_services_kid_tid")),
    )
    op.create_table(
        "terminals",
        sa.Column("terminal", sa.Text(), nullable=False),
        sa.Column("merchant", sa.Text(), nullable=False),
        sa.Column("merchant_name", sa.Text(), nullable=False),
        sa.Column("merchant_identifier", sa.Text(), nullable=False),
        sa.Column("terminal_key", sa.LargeBinary(), nullable=False),
        sa.Column("kid_terminal", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at_s", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("terminal", name=op.f("pk_terminals")),
        sa.UniqueConstraint("kid_terminal", name=op.f("uq_terminals_kid_terminal")),
    )
    op.create_index(op.f("ix_terminals_merchant"), "terminals", ["merchant"], unique=False)
    op.create_index(op.f("ix_terminals_merchant_identifier"), "terminals", ["merchant_identifier"], unique=False)
    op.create_table(
        "tid_list",
        sa.Column("sid_digest", sa.LargeBinary(), nullable=False),
        sa.Column("sid", sa.LargeBinary(), nullable=False),
        sa.Column("tid", sa.Text(), nullable=False),
        sa.Column("aid", sa.Text(), nullable=False),
        sa.Column("bank", sa.Text(), nullable=False),
        sa.Column("pk_tid", sa.LargeBinary(), nullable=False),
        sa.Column("com", sa.LargeBinary(), nullable=False),
        sa.Column("aid_exp_time_s", sa.BigInteger(), nullable=False),
        sa.Column("aid_limit_minor", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("k_bank", sa.LargeBinary(), nullable=False),
        sa.Column("promise", sa.LargeBinary(), nullable=False),
        sa.Column("cert_tid", sa.LargeBinary(), nullable=False),
        sa.Column("asked_at_s", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("sid_digest", name=op.f("pk_tid_list")),
    )
    op.create_index(op.f("ix_tid_list_aid"), "tid_list", ["aid"], unique=False)
    op.create_index(op.f("ix_tid_list_state"), "tid_list", ["state"], unique=False)
    op.create_index(op.f("ix_tid_list_tid"), "tid_list", ["tid"], unique=False)


def downgrade() -> None:
    drop_tables(
        "card_sessions",
        "cards",
        "evidence",
        "outbox",
        "requests",
        "services",
        "terminals",
        "tid_list",
    )
