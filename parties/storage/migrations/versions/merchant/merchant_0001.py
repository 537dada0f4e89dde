"""first tables"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from parties.storage.migrations.undo import drop_tables

revision = "merchant_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
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
        "terminal_keys",
        sa.Column("terminal", sa.Text(), nullable=False),
        sa.Column("tsm", sa.Text(), nullable=False),
        sa.Column("private_key", sa.LargeBinary(), nullable=False),
        sa.Column("request", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at_s", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("terminal", name=op.f("pk_terminal_keys")),
    )


def downgrade() -> None:
    drop_tables(
        "evidence",
        "outbox",
        "requests",
        "terminal_keys",
    )
