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
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from parties.storage.database import ensure_file, faults, open_database, sqlite_file
from protocol.errors import SettingsInvalid, StorageFault

HERE: Final = Path(__file__).parent
VERSIONS: Final = HERE / "versions"
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
        raise StorageFault(f"the database is of a version unknown here: {_OTHER}") from exc
    finally:
        database.close()


def upgrade(connection: sa.Connection, config: Config) -> None:
    """Run the missing migrations on an open transaction. Raises: alembic.util.CommandError."""
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def check_version(url: str, role: str, *, versions: Path = VERSIONS) -> None:
    """Raises: SettingsInvalid, StorageFault if the database is missing or not of this program's version."""
    scripts = ScriptDirectory.from_config(configuration(role, versions))
    database = open_database(url)
    try:
        with faults(), database.readers.begin() as connection:
            found = MigrationContext.configure(connection).get_current_heads()
    finally:
        database.close()
    wanted = scripts.get_current_head()
    if found == (() if wanted is None else (wanted,)):
        return
    if set(found) <= {script.revision for script in scripts.walk_revisions()}:
        raise StorageFault(f"the database is of version {_names(found)}, not {wanted}: run `tapveil db upgrade`")
    raise StorageFault(f"the database is of version {_names(found)}, unknown here: {_OTHER}")


def configuration(role: str, versions: Path = VERSIONS) -> Config:
    """Alembic's settings for the history of one role. Raises: SettingsInvalid."""
    if not (versions / role).is_dir():
        raise SettingsInvalid(f"a party with the role {role} has no database")
    config = Config()
    config.set_main_option("script_location", _escaped(HERE))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", _escaped(versions / role))
    config.set_main_option("file_template", "%%(rev)s")
    return config


_OTHER: Final = "use the program that wrote it, or another file; `tapveil db upgrade` only goes forward"


def _names(revisions: tuple[str, ...]) -> str:
    return ", ".join(revisions) or "none"


def _escaped(path: Path) -> str:
    return str(path).replace("%", "%%")
