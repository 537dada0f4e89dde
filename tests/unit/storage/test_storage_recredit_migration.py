"""The SE's rows of before RECREDIT: what was accepted becomes a grant, and cards become that grant's."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from parties.storage.database import open_database
from parties.storage.migrations import create_or_upgrade
from parties.storage.version import VERSIONS

FILL: dict[type[Any], Any] = {sa.TEXT: "x", sa.BLOB: b"x", sa.BIGINT: 7, sa.BOOLEAN: True}
SERVICES = {"t-1": "ACTIVE", "t-2": "CLOSED", "t-3": "EXPECT_ACCEPTANCE", "t-4": "EXPECT_OFFER"}


def test_accepted_credit_becomes_a_grant_and_its_cards_name_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/se.db"
    old = tmp_path / "versions" / "se"
    old.mkdir(parents=True)
    for version in ("se_0001.py", "se_0002.py"):
        shutil.copy(VERSIONS / "se" / version, old)
    create_or_upgrade(url, "se", versions=tmp_path / "versions")
    database = open_database(url)
    meta = sa.MetaData()
    with database.writer.begin() as connection:
        meta.reflect(connection)

        def add(table: str, **columns: Any) -> None:
            plain = {column.name: FILL[type(column.type)] for column in meta.tables[table].columns}
            connection.execute(meta.tables[table].insert().values(plain | columns))

        for tid, state in SERVICES.items():
            account = "" if state == "EXPECT_OFFER" else f"c-{tid}"
            add("service_keys", tid=tid, state=state, sid=tid.encode(), account=account, limit_minor=500)
            add("virtual_cards", tid=tid, modulus_digest=tid.encode())
            add("accounts", account=f"c-{tid}", aid=f"a-{tid}", bank="bank-a")
    database.close()

    create_or_upgrade(url, "se")
    database = open_database(url)
    new = sa.MetaData()
    with database.readers.begin() as connection:
        new.reflect(connection)
        grants = connection.execute(sa.select(new.tables["service_grants"])).mappings().all()
        cards = {
            row["tid"]: row["sid_digest"]
            for row in connection.execute(sa.select(new.tables["virtual_cards"])).mappings()
        }
    database.close()
    digests = {tid: hashlib.sha256(tid.encode()).digest() for tid in ("t-1", "t-2")}
    assert {row["tid"]: dict(row) for row in grants} == {
        tid: {
            "sid_digest": digest, "sid": tid.encode(), "tid": tid, "account": f"c-{tid}", "aid": f"a-{tid}",
            "bank": "bank-a", "expires_at_s": 7, "limit_minor": 500, "currency": "x", "state": SERVICES[tid],
        }
        for tid, digest in digests.items()
    }  # fmt: skip
    assert cards == digests | {"t-3": b"", "t-4": b""}
