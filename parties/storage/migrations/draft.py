"""Write the next migration of a role from the difference between its migrations and its declared tables.

    python -m parties.storage.migrations.draft bank "limits per card"
    python -m parties.storage.migrations.draft --anew        # before a first release: one first migration for each role

A draft is to be read before it is used: a renamed column looks like one removed and another added.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import click
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from parties.storage.database import open_database
from parties.storage.migrations import configuration, create_or_upgrade
from parties.storage.roles import TABLES
from parties.storage.schema import metadata_for
from parties.storage.version import VERSIONS
from protocol.rows import Table

_HOOKS: Final = {"fix": "check --quiet --fix", "format": "format --quiet"}


def draft(role: str, tables: Iterable[Table[Any]], message: str, *, versions: Path = VERSIONS) -> Path | None:
    """The new migration's file, or None if the migrations already give these tables."""
    (versions / role).mkdir(parents=True, exist_ok=True)
    metadata = metadata_for(tables)
    if not differences(role, metadata, versions=versions):
        return None
    config = configuration(role, versions)
    if importlib.util.find_spec("ruff") is not None:
        _format_with_ruff(config)
    revisions = sum(1 for _ in ScriptDirectory.from_config(config).walk_revisions())
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/draft.db"
        create_or_upgrade(url, role, versions=versions)
        database = open_database(url)
        try:
            with database.writer.begin() as connection:
                config.attributes |= {"connection": connection, "metadata": metadata, "batch": revisions > 0}
                command.revision(config, message, autogenerate=True, rev_id=f"{role}_{revisions + 1:04}")
        finally:
            database.close()
    return versions / role / f"{role}_{revisions + 1:04}.py"


def differences(role: str, metadata: sa.MetaData, *, versions: Path = VERSIONS) -> list[Any]:
    """What a new database of this role lacks, or has too much, compared with `metadata`."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/compare.db"
        create_or_upgrade(url, role, versions=versions)
        database = open_database(url)
        try:
            with database.readers.begin() as connection:
                found: list[Any] = compare_metadata(MigrationContext.configure(connection), metadata)
                return found
        finally:
            database.close()


def _format_with_ruff(config: Config) -> None:
    config.set_section_option("post_write_hooks", "hooks", ",".join(_HOOKS))
    for hook, options in _HOOKS.items():
        config.set_section_option("post_write_hooks", f"{hook}.type", "module")
        config.set_section_option("post_write_hooks", f"{hook}.module", "ruff")
        config.set_section_option("post_write_hooks", f"{hook}.options", f"{options} REVISION_SCRIPT_FILENAME")


@click.command(help=__doc__)
@click.argument("role", required=False, type=click.Choice([str(role) for role in TABLES]))
@click.argument("message", default="first tables")
@click.option("--anew", is_flag=True, help="Remove the migrations there are and begin again; databases are lost.")
def main(role: str | None, message: str, anew: bool) -> None:
    if role is None and not anew:
        raise click.UsageError("name a role, or --anew for all")
    for one in [role] if role else TABLES:
        for old in (VERSIONS / one).glob(f"{one}_*.py") if anew else ():
            old.unlink()
        path = draft(one, TABLES[one], message)
        click.echo(f"{one}: {'nothing to do' if path is None else path.name}")


if __name__ == "__main__":
    main()
