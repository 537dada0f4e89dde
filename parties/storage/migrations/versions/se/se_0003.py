"""recredit"""

from __future__ import annotations

import hashlib

import sqlalchemy as sa
from alembic import op

from parties.storage.migrations.columns import add_bytes
from parties.storage.migrations.undo import drop_columns, drop_tables

revision = "se_0003"
down_revision = "se_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "recredits",
        sa.Column("sid_digest", sa.LargeBinary(), nullable=False),
        sa.Column("sid", sa.LargeBinary(), nullable=False),
        sa.Column("tid", sa.Text(), nullable=False),
        sa.Column("pk_tid", sa.LargeBinary(), nullable=False),
        sa.Column("n_u", sa.LargeBinary(), nullable=False),
        sa.Column("n_t", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at_s", sa.BigInteger(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("r", sa.LargeBinary(), nullable=False),
        sa.Column("com", sa.LargeBinary(), nullable=False),
        sa.Column("n2", sa.LargeBinary(), nullable=False),
        sa.Column("binfo", sa.LargeBinary(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("sid_digest", name=op.f("pk_recredits")),
    )
    with op.batch_alter_table("recredits", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_recredits_expires_at_s"), ["expires_at_s"], unique=False)
        batch_op.create_index(batch_op.f("ix_recredits_tid"), ["tid"], unique=False)

    op.create_table(
        "service_grants",
        sa.Column("sid_digest", sa.LargeBinary(), nullable=False),
        sa.Column("sid", sa.LargeBinary(), nullable=False),
        sa.Column("tid", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("aid", sa.Text(), nullable=False),
        sa.Column("bank", sa.Text(), nullable=False),
        sa.Column("expires_at_s", sa.BigInteger(), nullable=False),
        sa.Column("limit_minor", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("sid_digest", name=op.f("pk_service_grants")),
    )
    with op.batch_alter_table("service_grants", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_service_grants_tid"), ["tid"], unique=False)

    add_bytes("virtual_cards", "sid_digest")
    _grant_what_was_accepted()


def _grant_what_was_accepted() -> None:
    """A service account had one grant, kept in its own row; its cards are of that grant."""
    connection, meta = op.get_bind(), sa.MetaData()
    names = ("service_keys", "accounts", "service_grants", "virtual_cards")
    services, accounts, grants, cards = (sa.Table(name, meta, autoload_with=connection) for name in names)
    accepted = sa.select(services, accounts.c.aid, accounts.c.bank).join(
        accounts, accounts.c.account == services.c.account
    )
    for row in connection.execute(accepted.where(services.c.state.in_(("ACTIVE", "CLOSED")))).mappings().all():
        digest = hashlib.sha256(row["sid"]).digest()
        kept = ("sid", "tid", "account", "aid", "bank", "expires_at_s", "limit_minor", "currency", "state")
        connection.execute(sa.insert(grants).values(sid_digest=digest, **{name: row[name] for name in kept}))
        connection.execute(sa.update(cards).where(cards.c.tid == row["tid"]).values(sid_digest=digest))


def downgrade() -> None:
    drop_columns("virtual_cards", "sid_digest")
    drop_tables("service_grants", "recredits")
