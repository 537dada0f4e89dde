"""A copy of a party's database in one file, made while the server runs."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from parties.storage.database import is_postgresql, parse, sqlite_file
from protocol.errors import SettingsInvalid, StorageFault

DUMP: Final = "pg_dump"
_PASSWORD: Final = "PGPASSWORD"  # noqa: S105  # a name, not a secret
_SEARCH_PATH: Final = "-csearch_path="


def back_up(url: str, target: Path) -> int:
    """Copy the database to the new file `target`, which only its owner may read; its size in bytes.

    Raises: SettingsInvalid if there is such a file, or no program to do it; StorageFault.
    """
    if target.exists():
        raise SettingsInvalid(f"{target} exists: name a new file")
    if is_postgresql(url):
        _dump(parse(url), target)
    else:
        _copy(sqlite_file(url), target)
    return target.stat().st_size


def _copy(source: Path, target: Path) -> None:
    if not source.is_file():
        raise StorageFault(f"there is no database {source}: run `tapveil db upgrade`")
    try:
        target.touch(mode=0o600)
        with closing(sqlite3.connect(source)) as live, closing(sqlite3.connect(target)) as copy:
            live.backup(copy)
    except (sqlite3.Error, OSError) as exc:
        raise StorageFault(f"the backup to {target} failed: check the disk and rights") from exc


def _dump(url: sa.URL, target: Path) -> None:
    program = shutil.which(DUMP)
    if program is None:
        raise SettingsInvalid(f"a backup of PostgreSQL is made by {DUMP}: install the PostgreSQL client programs")
    options = str(url.query.get("options", ""))
    schema = options.removeprefix(_SEARCH_PATH) if options.startswith(_SEARCH_PATH) else ""
    environment: dict[str, Any] = {**os.environ}
    if url.password is not None:
        environment[_PASSWORD] = str(url.password)  # not among the arguments, which everybody may read
    place = url.set(drivername="postgresql", password=None).difference_update_query(["options"])
    arguments = ["--format=custom", "--no-password", *([f"--schema={schema}"] if schema else [])]
    try:
        target.touch(mode=0o600)
        done = subprocess.run(  # noqa: S603  # the PostgreSQL client
            [program, *arguments, f"--file={target}", place.render_as_string(hide_password=False)],
            env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False,
        )  # fmt: skip
    except OSError as exc:
        raise StorageFault(f"the backup to {target} failed: check the disk and rights") from exc
    if done.returncode:
        target.unlink(missing_ok=True)
        raise StorageFault(f"{DUMP} could not back up the database: check its version and rights")
