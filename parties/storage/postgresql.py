"""PostgreSQL: connections whose transactions are begun in so many words, and whose waiting is bounded on both sides.

READ COMMITTED with rows locked as they are read (`FOR UPDATE`, in the order of tables and keys) is what deciding
needs, and several workers may do it at once. What is read without deciding is read from one snapshot.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from protocol.errors import SettingsInvalid

if TYPE_CHECKING:
    import psycopg

BEGIN_TO_READ: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
BEGIN_TO_WRITE: Final = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
CONNECT_S: Final = 5
STATEMENT_S: Final = 10
LOCK_S: Final = 5
"""For a row that another worker holds. Workers hold rows for milliseconds."""
IDLE_S: Final = 15
"""A worker that is stopped in the middle of a transaction gives up its locks after this time."""
SILENCE_S: Final = STATEMENT_S + 5
"""After this time without an answer the server is taken to be gone: it would have ended the statement itself."""
HOUSEKEEPING: Final = 0x7461_7076
"""What the lock of housekeeping is called: "tapv"; its second number tells schemas apart."""
DRIVER: Final = "postgresql+psycopg"
RACED: Final = frozenset({"40001", "40P01"})
"""Serialization failure and deadlock: nothing was done, and the same again succeeds."""
MENDS: Final = {
    "53100": "the disk of the database server is full: make room, nothing acknowledged was lost",
    "53200": "the database server is out of memory: give it more, or fewer connections",
    "53300": "the database server takes no more connections: raise max_connections, or start fewer workers",
    "25006": "the database is read-only: connect to the primary server, or let this user write",
    "3D000": "there is no such database: create it, then run `tapveil db upgrade`",
    "28": "the database server refuses this user: check name, password and pg_hba.conf",
    "42501": "the database user lacks rights: let it own the schema and its tables",
    "3F000": "there is no such schema: create it, and let this user own it",
    "42P01": "a table is missing: run `tapveil db upgrade`",
    "55P03": "another program holds rows of the database: let it finish, or end it",
    "57014": f"the database server did not answer within {STATEMENT_S} s: check its load and its disk",
    "57P": "the database server is starting or stopping: wait until it is up",
    "08": "the database server can't be reached: start it, or check host and port",
    "58": "the database server has trouble with its disk: check the disk and the space on it",
    "XX": "the database is damaged: restore it from a backup",
}
"""SQLSTATE, or how it begins."""
_NO_ANSWER: Final = "08"


def parse(url: sa.URL) -> sa.URL:
    """The URL as it is connected to. Raises: SettingsInvalid."""
    if url.drivername not in {"postgresql", DRIVER}:
        raise SettingsInvalid(f"the database URL must begin with {DRIVER}://")
    if not url.database:
        raise SettingsInvalid(f"the database URL names no database: {DRIVER}://user@host/database")
    return url.set(drivername=DRIVER)


def in_schema(url: str, schema: str) -> str:
    """The URL of one schema of a database: what several parties need that share a database in a demo or a test."""
    made = sa.make_url(url).update_query_dict({"options": f"-csearch_path={schema}"})
    return made.render_as_string(hide_password=False)


def create_schema(url: str, name: str) -> str:
    """Make an empty schema; its URL. Raises: SettingsInvalid if there is one, SQLAlchemyError."""
    with _administering(url) as connection:
        known = "SELECT 1 FROM pg_namespace WHERE nspname = %s"
        if connection.exec_driver_sql(known, (name,)).scalar() is not None:
            raise SettingsInvalid(f"the database has a schema {name} already: name another database, or drop it")
        connection.exec_driver_sql(f'CREATE SCHEMA "{_checked(name)}"')
    return in_schema(url, name)


def drop_schemas(url: str, prefix: str) -> None:
    """Remove the schemas whose names begin so, with all that is in them. Raises: SQLAlchemyError."""
    with _administering(url) as connection:
        query = "SELECT nspname FROM pg_namespace WHERE starts_with(nspname::text, %s)"
        for name in connection.exec_driver_sql(query, (_checked(prefix),)).scalars().all():
            connection.exec_driver_sql(f'DROP SCHEMA "{_checked(name)}" CASCADE')


@contextmanager
def _administering(url: str) -> Iterator[sa.Connection]:
    engine = postgresql_engine(sa.make_url(url), size=1, read_only=False, wait_s=LOCK_S)
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


def _checked(name: str) -> str:
    if not re.fullmatch("[a-z][a-z0-9_]{0,62}", name):
        raise ValueError("a schema's name is of small letters, digits and underlines")
    return name


def postgresql_engine(url: sa.URL, *, size: int, read_only: bool, wait_s: float) -> sa.Engine:
    """An engine with `size` connections. Raises: SettingsInvalid if there is no driver, or an unknown URL parameter."""
    arguments = {
        "autocommit": True, "connect_timeout": CONNECT_S, "application_name": f"tapveil {os.getpid()}",
        "keepalives_idle": 30, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": SILENCE_S * 1000,
    }  # fmt: skip
    settings = {
        "statement_timeout": STATEMENT_S, "lock_timeout": min(LOCK_S, wait_s),
        "idle_in_transaction_session_timeout": IDLE_S,
    }  # fmt: skip
    try:
        engine = sa.create_engine(
            parse(url), pool_size=size, max_overflow=0, pool_timeout=wait_s, hide_parameters=True,
            use_native_hstore=False, connect_args=arguments,
        )  # fmt: skip
    except ImportError as exc:
        raise SettingsInvalid("there is no driver for PostgreSQL: install tapveil[postgresql]") from exc

    @sa.event.listens_for(engine, "connect")
    def _connect(connection: psycopg.Connection[Any], _record: object) -> None:
        for name, seconds in settings.items():
            connection.execute("SELECT set_config(%s, %s, false)", (name, f"{int(seconds * 1000)}ms"))
        connection.execute(f"SET default_transaction_read_only TO {'on' if read_only else 'off'}")
        # Whatever else the operator chose waits for the disk; without it, what was acknowledged could be lost.
        connection.execute(
            "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
        )

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(BEGIN_TO_READ if read_only else BEGIN_TO_WRITE)

    return engine


def state_of(error: BaseException) -> str:
    """SQLSTATE of a driver's error; that of a lost connection if the server had no time to say."""
    state = getattr(error, "sqlstate", None)
    if state:
        return str(state)
    import psycopg

    text = str(error)  # while connecting the driver gives a text only; it is looked at, and not passed on
    if isinstance(error, psycopg.OperationalError):
        return next((known for sign, known in _CONNECTING.items() if sign in text), _NO_ANSWER)
    return type(error).__name__


_CONNECTING: Final = {
    "password authentication failed": "28P01",
    "no password supplied": "28P01",
    "no pg_hba.conf entry": "28000",
    "Peer authentication failed": "28000",
    'role "': "28000",
    "too many": "53300",
    "remaining connection slots": "53300",
    "starting up": "57P03",
    "shutting down": "57P03",
    'database "': "3D000",
}


def mend_of(error: BaseException) -> str | None:
    """What to do about a driver's error, if it is known. Holds no values."""
    state = state_of(error)
    return next((mend for prefix, mend in MENDS.items() if state.startswith(prefix)), None)
