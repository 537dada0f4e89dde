"""Versions of a party's database: one history per role, in `versions/<role>/`, since each keeps other tables.

A migration runs in one transaction: a database is of the old version or of the new one, never between. On PostgreSQL a
lock of that transaction keeps a second migration waiting; SQLite's own lock does that there.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError

from parties.storage.database import create_if_missing, faults, open_database
from parties.storage.version import OTHER, VERSIONS, check_is_known, revisions
from protocol.errors import SettingsInvalid, StorageFault

HERE: Final = Path(__file__).parent
WAIT_S: Final = 60
"""How long a migration waits for another one, and for programs that hold a table."""
NOTHING: Final = "base"
"""The version of a database without tables."""
_LOCK: Final = 0x7461_7076_6569_6C01
"""The advisory lock of migrations: "tapveil" and 1."""
_ALEMBIC: Final = threading.Lock()
"""Alembic hands its environment to env.py through a module's globals."""


def create_or_upgrade(url: str, role: str, *, versions: Path = VERSIONS) -> None:
    """Bring the database of a party with this role to this program's version, creating it first if there is none.

    Raises: SettingsInvalid, StorageFault if it can't be written or belongs to another role or a newer program.
    """
    config = configuration(role, versions)
    create_if_missing(url)
    with _migrating(url, config), _ALEMBIC:
        command.upgrade(config, "head")


def downgrade(url: str, role: str, to: str, *, versions: Path = VERSIONS) -> None:
    """Take the database back to the version `to`, or to `NOTHING`. What later versions added is lost.

    Raises: SettingsInvalid if there is no such version, StorageFault as `create_or_upgrade`, and if it is older.
    """
    known = revisions(role, versions)
    if to not in {*known, NOTHING}:
        raise SettingsInvalid(f"a {role} has no version {to}: name one of {NOTHING}, {', '.join(known)}")
    config = configuration(role, versions)
    with _migrating(url, config) as connection, _ALEMBIC:
        found = check_is_known(connection, known)
        if found is None or (to != NOTHING and known.index(to) > known.index(found)):
            raise StorageFault(f"the database is of version {found or 'none'}, older than {to}: nothing to take back")
        command.downgrade(config, to)


@contextmanager
def _migrating(url: str, config: Config) -> Iterator[sa.Connection]:
    """A transaction that no other migration runs beside. Raises: SettingsInvalid, StorageFault."""
    database = open_database(url)
    try:
        with faults(), database.writer.begin() as connection:
            if database.is_postgresql:
                # A migration may take long, and it waits for the one before it.
                connection.exec_driver_sql("SET LOCAL statement_timeout TO 0")
                connection.exec_driver_sql(f"SET LOCAL lock_timeout TO '{WAIT_S}s'")
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
            config.attributes["connection"] = connection
            yield connection
    except CommandError as exc:
        raise StorageFault(f"the database is of a version unknown here: {OTHER}") from exc
    finally:
        database.close()


def configuration(role: str, versions: Path = VERSIONS) -> Config:
    """Alembic's settings for the history of one role. Raises: SettingsInvalid."""
    revisions(role, versions)  # refuses a role without a history
    config = Config()
    config.set_main_option("script_location", _escaped(HERE))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", _escaped(versions / role))
    config.set_main_option("file_template", "%%(rev)s")
    return config


def _escaped(path: Path) -> str:
    return str(path).replace("%", "%%")
