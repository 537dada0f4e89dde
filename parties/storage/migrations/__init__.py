"""Versions of a party's database: one history per role, in `versions/<role>/`, since each keeps other tables.

A migration runs in one transaction: a database is of the old version or of the new one, never between.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError

from parties.storage.database import ensure_file, faults, open_database, sqlite_file
from parties.storage.version import OTHER, VERSIONS, revisions
from protocol.errors import StorageFault

HERE: Final = Path(__file__).parent
_ALEMBIC: Final = threading.Lock()
"""Alembic hands its environment to env.py through a module's globals."""


def create_or_upgrade(url: str, role: str, *, versions: Path = VERSIONS) -> None:
    """Bring the database of a party with this role to this program's version, creating it first if there is none.

    Raises: SettingsInvalid, StorageFault if it can't be written or belongs to another role or a newer program.
    """
    config = configuration(role, versions)
    ensure_file(sqlite_file(url))
    database = open_database(url)
    try:
        with faults(), database.writer.begin() as connection, _ALEMBIC:
            upgrade(connection, config)
    except CommandError as exc:
        raise StorageFault(f"the database is of a version unknown here: {OTHER}") from exc
    finally:
        database.close()


def upgrade(connection: sa.Connection, config: Config) -> None:
    """Run the missing migrations on an open transaction. Raises: alembic.util.CommandError."""
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


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
