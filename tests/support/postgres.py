"""A real PostgreSQL for tests: one a test process, started when first asked for, and gone with the process, however it
ends. `TAPVEIL_TEST_POSTGRESQL` names another server's database to be used instead."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import secrets
from collections.abc import Iterator

import sqlalchemy as sa

from parties.bench import postgres
from parties.storage.postgresql import in_schema

GIVEN = "TAPVEIL_TEST_POSTGRESQL"


class Server(postgres.Server):
    """A server that a test may stop, kill and start again."""

    def __init__(self, *settings: str) -> None:
        programs = postgres.binaries()
        assert programs is not None  # among the packages for development
        super().__init__(programs, "shared_buffers=32MB", *settings)


@functools.cache
def database_url() -> str:
    """The database of this test process. Nothing in it needs to outlast a crash, so it never waits for the disk."""
    given = os.environ.get(GIVEN)
    if given:
        return given
    server = Server("fsync=off", "max_connections=200")
    atexit.register(server.close)
    return server.url


@contextlib.contextmanager
def schema(base: str | None = None) -> Iterator[str]:
    """The URL of an empty schema, removed afterwards: to a party it is a database of its own."""
    base, name = base or database_url(), f"t_{secrets.token_hex(6)}"
    admin = sa.create_engine(base, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {name}")
    try:
        yield in_schema(base, name)
    finally:
        with admin.connect() as connection:
            connection.exec_driver_sql("SET lock_timeout TO '5s'")
            connection.exec_driver_sql(f"DROP SCHEMA {name} CASCADE")
