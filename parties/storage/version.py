"""Is a database of this program's version? Asked at every start, so it does without Alembic's machinery."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from parties.storage.database import faults, open_database
from protocol.errors import SettingsInvalid, StorageFault

VERSIONS: Final = Path(__file__).parent / "migrations" / "versions"
OTHER: Final = (
    "use the program that wrote it, or another database; `tapveil db upgrade` only goes forward, and a newer program "
    "takes it back with `tapveil db downgrade`"
)
_STAMPS: Final = sa.table("alembic_version", sa.column("version_num"))


def revisions(role: str, versions: Path = VERSIONS) -> list[str]:
    """The history of one role, oldest first: a migration's file bears its name. Raises: SettingsInvalid."""
    if not (versions / role).is_dir():
        raise SettingsInvalid(f"a party with the role {role} has no database")
    return sorted(path.stem for path in (versions / role).glob(f"{role}_*.py"))


def check_version(url: str, role: str, *, versions: Path = VERSIONS) -> None:
    """Raises: SettingsInvalid, StorageFault if the database is missing or not of this program's version."""
    known = revisions(role, versions)
    database = open_database(url)
    try:
        with faults(), database.readers.begin() as connection:
            found = check_is_known(connection, known)
    finally:
        database.close()
    if found != known[-1]:
        raise StorageFault(f"the database is of version {found or 'none'}, not {known[-1]}: run `tapveil db upgrade`")


def check_is_known(connection: sa.Connection, known: Sequence[str]) -> str | None:
    """The database's version, None if it has none. Raises: StorageFault if it is not a known one."""
    found: list[str] = []
    if sa.inspect(connection).has_table(_STAMPS.name):
        found = list(connection.scalars(sa.select(_STAMPS.c.version_num)))
    if set(found) - set(known) or len(found) > 1:
        raise StorageFault(f"the database is of version {', '.join(found)}, unknown here: {OTHER}")
    return found[0] if found else None
