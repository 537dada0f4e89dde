"""`tapveil db`: the database of one party, beside its server."""

from __future__ import annotations

from pathlib import Path

import click

from parties.cli.output import json_option, one_line_errors, show
from parties.settings import Settings, load_settings
from protocol.errors import SettingsInvalid

settings_option = click.option(
    "--settings", required=True, type=click.Path(path_type=Path), help="The party's settings.toml."
)


@click.group()
def db() -> None:
    """Create, upgrade, check, back up or take back a party's database."""


def _load(path: Path) -> Settings:
    settings = load_settings(path)
    if not settings.database:
        raise SettingsInvalid(f"{path}: a {settings.role} keeps no database")
    return settings


def _show_state(settings: Settings, state: str, *, as_json: bool) -> None:
    from parties.storage.database import shown

    show({"database": shown(settings.database), "state": state}, as_json=as_json)


@db.command()
@settings_option
@json_option
@one_line_errors
def upgrade(settings: Path, as_json: bool) -> None:
    """Bring the database to this program's version; creates it if there is none. Stop the server and back up first.

    A PostgreSQL database itself is made by its administrator, empty, and owned by the party's user.
    """
    from parties.storage.migrations import create_or_upgrade  # heavy: not for every other command

    loaded = _load(settings)
    create_or_upgrade(loaded.database, loaded.role.value)
    _show_state(loaded, "up to date", as_json=as_json)


@db.command()
@settings_option
@click.option("--to", "version", required=True, help="The version to go back to, such as tsm_0002; base: no tables.")
@json_option
@one_line_errors
def downgrade(settings: Path, version: str, as_json: bool) -> None:
    """Take the database back to an earlier version, for an earlier program. Stop the server and back up first.

    What later versions added is lost: columns, tables, and the rows in them.
    """
    from parties.storage.migrations import downgrade as take_back

    loaded = _load(settings)
    take_back(loaded.database, loaded.role.value, version)
    _show_state(loaded, f"of version {version}", as_json=as_json)


@db.command()
@settings_option
@json_option
@one_line_errors
def check(settings: Path, as_json: bool) -> None:
    """Is the database of this program's version?"""
    from parties.storage.version import check_version

    loaded = _load(settings)
    check_version(loaded.database, loaded.role.value)
    _show_state(loaded, "up to date", as_json=as_json)


@db.command()
@settings_option
@click.argument("target", type=click.Path(path_type=Path))
@json_option
@one_line_errors
def backup(settings: Path, target: Path, as_json: bool) -> None:
    """Copy the database to the new file TARGET, also while the server runs. Back up the keystore with it.

    On PostgreSQL TARGET is an archive for pg_restore, made by pg_dump, which must be installed.
    """
    from parties.storage.backup import back_up

    loaded = _load(settings)
    size = back_up(loaded.database, target)
    show({"backup": str(target), "bytes": size}, as_json=as_json)
