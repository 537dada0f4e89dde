"""first tables"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from parties.storage.migrations.undo import drop_tables

revision = "bank_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "account_sessions",
        sa.Column("session", sa.LargeBinary(), nullable=False),
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("n_u", sa.LargeBinary(), nullable=False),
        sa.Column("n_b", sa.LargeBinary(), nullable=False),
        sa.Column("kx", sa.LargeBinary(), nullable=False),
        sa.Column("aid", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("expires_at_s", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("session", name=op.f("pk_account_sessions")),
    )
    op.create_index(op.f("ix_account_sessions_expires_at_s"), "account_sessions", ["expires_at_s"], unique=False)
    op.create_table(
        "anonymous_accounts",
        sa.Column("aid", sa.Text(), nullable=False),
        sa.Column("customer", sa.Text(), nullable=False),
        sa.Column("pk_aid", sa.LargeBinary(), nullable=False),
        sa.Column("ek_aid", sa.LargeBinary(), nullable=False),
        sa.Column("k_aid", sa.LargeBinary(), nullable=False),
        sa.Column("n_b", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at_s", sa.BigInteger(), nullable=False),
        sa.Column("limit_minor", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("tsm", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("activate_until_s", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("aid", name=op.f("pk_anonymous_accounts")),
        sa.UniqueConstraint("pk_aid", name=op.f("uq_anonymous_accounts_pk_aid")),
    )
    op.create_index(op.f("ix_anonymous_accounts_customer"), "anonymous_accounts", ["customer"], unique=False)
    op.create_table(
        "challenges",
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("n_b", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at_s", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("holder", "purpose", name=op.f("pk_challenges")),
    )
    op.create_index(op.f("ix_challenges_expires_at_s"), "challenges", ["expires_at_s"], unique=False)
    op.create_table(
        "customers",
        sa.Column("customer", sa.Text(), nullable=False),
        sa.Column("name", sa.LargeBinary(), nullable=False),
        sa.Column("branch_ref", sa.LargeBinary(), nullable=False),
        sa.Column("branch_expires_at_s", sa.BigInteger(), nullable=False),
        sa.Column("passcode_hash", sa.LargeBinary(), nullable=False),
        sa.Column("wrong_entries", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("limit_minor", sa.BigInteger(), nullable=False),
        sa.Column("granted_minor", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("customer", name=op.f("pk_customers")),
        sa.UniqueConstraint("branch_ref", name=op.f("uq_customers_branch_ref")),
    )
    op.create_table(
        "evidence",
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("received_at_s", sa.BigInteger(), nullable=False),
        sa.Column("signed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("digest", "message", name=op.f("pk_evidence")),
    )
    op.create_table(
        "grants",
        sa.Column("aid", sa.Text(), nullable=False),
        sa.Column("sid_digest", sa.LargeBinary(), nullable=False),
        sa.Column("tsm", sa.Text(), nullable=False),
        sa.Column("com", sa.LargeBinary(), nullable=False),
        sa.Column("limit_minor", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("aid", "sid_digest", name=op.f("pk_grants")),
    )
    op.create_table(
        "live_grants",
        sa.Column("aid", sa.Text(), nullable=False),
        sa.Column("sid_digest", sa.LargeBinary(), nullable=False),
        sa.Column("tsm", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("aid", name=op.f("pk_live_grants")),
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
        "phones",
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("secure_element", sa.Text(), nullable=False),
        sa.Column("pk_u", sa.LargeBinary(), nullable=False),
        sa.Column("kid_u", sa.LargeBinary(), nullable=False),
        sa.Column("ek_u", sa.LargeBinary(), nullable=False),
        sa.Column("pk_se", sa.LargeBinary(), nullable=False),
        sa.Column("attestation_key", sa.LargeBinary(), nullable=False),
        sa.Column("trust_class", sa.Text(), nullable=False),
        sa.Column("wallet_key", sa.LargeBinary(), nullable=False),
        sa.Column("baseline", sa.LargeBinary(), nullable=False),
        sa.Column("software", sa.Text(), nullable=False),
        sa.Column("installed_pcr", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("user", name=op.f("pk_phones")),
        sa.UniqueConstraint("kid_u", name=op.f("uq_phones_kid_u")),
        sa.UniqueConstraint("secure_element", name=op.f("uq_phones_secure_element")),
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


def downgrade() -> None:
    drop_tables(
        "account_sessions",
        "anonymous_accounts",
        "challenges",
        "customers",
        "evidence",
        "grants",
        "live_grants",
        "outbox",
        "phones",
        "requests",
    )
