"""`tapveil db`: the database of one party, beside its server."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import click

from parties.cli.output import json_option, one_line_errors, show
from parties.settings import Settings, load_settings
from protocol.errors import SettingsInvalid, StorageFault

settings_option = click.option(
    "--settings", required=True, type=click.Path(path_type=Path), help="The party's settings.toml."
)


@click.group()
def db() -> None:
    """Create, upgrade, check or back up a party's database."""


def _load(path: Path) -> Settings:
    settings = load_settings(path)
    if not settings.database:
        raise SettingsInvalid(f"{path}: a {settings.role} keeps no database")
    return settings


@db.command()
@settings_option
@json_option
@one_line_errors
def upgrade(settings: Path, as_json: bool) -> None:
    """Bring the database to this program's version; creates it if there is none. Stop the server and back up first."""
    from parties.storage.migrations import create_or_upgrade  # heavy: not for every other command

    loaded = _load(settings)
    create_or_upgrade(loaded.database, loaded.role.value)
    show({"database": loaded.database, "state": "up to date"}, as_json=as_json)


@db.command()
@settings_option
@json_option
@one_line_errors
def check(settings: Path, as_json: bool) -> None:
    """Is the database of this program's version?"""
    from parties.storage.version import check_version

    loaded = _load(settings)
    check_version(loaded.database, loaded.role.value)
    show({"database": loaded.database, "state": "up to date"}, as_json=as_json)


@db.command()
@settings_option
@click.argument("target", type=click.Path(path_type=Path))
@json_option
@one_line_errors
def backup(settings: Path, target: Path, as_json: bool) -> None:
    """Copy the database to the new file TARGET, also while the server runs. Back up the keystore with it."""
    from parties.storage.database import sqlite_file

    loaded = _load(settings)
    source = sqlite_file(loaded.database)
    if target.exists():
        raise SettingsInvalid(f"{target} exists: name a new file")
    if not source.is_file():
        raise StorageFault(f"there is no database {source}: run `tapveil db upgrade`")
    try:
        target.touch(mode=0o600)
        with closing(sqlite3.connect(source)) as live, closing(sqlite3.connect(target)) as copy:
            live.backup(copy)
    except (sqlite3.Error, OSError) as exc:
        raise StorageFault(f"the backup to {target} failed: check the disk and rights") from exc
    show({"backup": str(target), "bytes": target.stat().st_size}, as_json=as_json)
