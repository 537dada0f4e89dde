"""first tables"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from parties.storage.migrations.undo import drop_tables

revision = "se_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("bank", sa.Text(), nullable=False),
        sa.Column("aid", sa.Text(), nullable=False),
        sa.Column("n_u", sa.LargeBinary(), nullable=False),
        sa.Column("n_b", sa.LargeBinary(), nullable=False),
        sa.Column("kx", sa.LargeBinary(), nullable=False),
        sa.Column("session", sa.LargeBinary(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("sk_aid", sa.LargeBinary(), nullable=False),
        sa.Column("dk_aid", sa.LargeBinary(), nullable=False),
        sa.Column("k_aid", sa.LargeBinary(), nullable=False),
        sa.Column("certificate", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at_s", sa.BigInteger(), nullable=False),
        sa.Column("limit_minor", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("tsm", sa.Text(), nullable=False),
        sa.Column("launch_pass", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("account", name=op.f("pk_accounts")),
    )
    op.create_index(op.f("ix_accounts_aid"), "accounts", ["aid"], unique=False)
    op.create_index(op.f("ix_accounts_bank"), "accounts", ["bank"], unique=False)
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
        "owners",
        sa.Column("bank", sa.Text(), nullable=False),
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("sk_u", sa.LargeBinary(), nullable=False),
        sa.Column("dk_u", sa.LargeBinary(), nullable=False),
        sa.Column("certificate", sa.LargeBinary(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("quoted_pcr", sa.LargeBinary(), nullable=False),
        sa.Column("installed_pcr", sa.LargeBinary(), nullable=False),
        sa.Column("open", sa.Boolean(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("bank", name=op.f("pk_owners")),
    )
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
        "service_keys",
        sa.Column("tid", sa.Text(), nullable=False),
        sa.Column("tsm", sa.Text(), nullable=False),
        sa.Column("sk_tid", sa.LargeBinary(), nullable=False),
        sa.Column("dk_tid", sa.LargeBinary(), nullable=False),
        sa.Column("k_tid", sa.LargeBinary(), nullable=False),
        sa.Column("n_u", sa.LargeBinary(), nullable=False),
        sa.Column("n_t", sa.LargeBinary(), nullable=False),
        sa.Column("sid", sa.LargeBinary(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("r", sa.LargeBinary(), nullable=False),
        sa.Column("com", sa.LargeBinary(), nullable=False),
        sa.Column("n2", sa.LargeBinary(), nullable=False),
        sa.Column("binfo", sa.LargeBinary(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("pending", sa.Text(), nullable=False),
        sa.Column("expires_at_s", sa.BigInteger(), nullable=False),
        sa.Column("limit_minor", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("certificate", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tid", name=op.f("pk_service_keys")),
    )
    op.create_table(
        "virtual_cards",
        sa.Column("modulus_digest", sa.LargeBinary(), nullable=False),
        sa.Column("tid", sa.Text(), nullable=False),
        sa.Column("batch", sa.LargeBinary(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("card_key", sa.LargeBinary(), nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=False),
        sa.Column("pan", sa.LargeBinary(), nullable=False),
        sa.Column("masked", sa.Text(), nullable=False),
        sa.Column("k_ac", sa.LargeBinary(), nullable=False),
        sa.Column("icc_certificate", sa.LargeBinary(), nullable=False),
        sa.Column("records", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at_s", sa.BigInteger(), nullable=False),
        sa.Column("limit_minor", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("uses", sa.BigInteger(), nullable=False),
        sa.Column("per_use_minor", sa.BigInteger(), nullable=False),
        sa.Column("total_minor", sa.BigInteger(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("modulus_digest", name=op.f("pk_virtual_cards")),
    )
    op.create_index(op.f("ix_virtual_cards_batch"), "virtual_cards", ["batch"], unique=False)
    op.create_index(op.f("ix_virtual_cards_tid"), "virtual_cards", ["tid"], unique=False)


def downgrade() -> None:
    drop_tables(
        "accounts",
        "evidence",
        "outbox",
        "owners",
        "requests",
        "service_keys",
        "virtual_cards",
    )
