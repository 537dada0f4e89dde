"""`statement` and `reconcile`: what the bookkeepers of a bank, a TSM and a merchant do alike."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from parties.cli.output import json_option, one_line_errors, show
from protocol.types import Role

if TYPE_CHECKING:
    from parties.reconcile import Reconciled


def add_book_commands(group: click.Group, role: Role) -> None:
    """Give the commands of a party `statement` and `reconcile`."""
    settings_option = click.option(
        "--settings", required=True, type=click.Path(path_type=Path), help=f"The {role.value}'s settings.toml."
    )

    @group.command()
    @settings_option
    @click.option("--for", "counterparty", required=True, help="The party that it is for, and that alone can use it.")
    @click.option("--out", required=True, type=click.Path(path_type=Path), help="Where it is written to.")
    @json_option
    @one_line_errors
    def statement(settings: Path, counterparty: str, out: Path, as_json: bool) -> None:
        """Sign what the books say of another party, also while the server runs. It is good for a day."""
        from parties.reconcile import write_statement

        sums = write_statement(settings, role, counterparty=counterparty, out=out)
        stated = [asdict(one) | {"kind": one.kind.value} for one in sums]
        show({"statement": str(out), "sums": stated if as_json else len(stated)}, as_json=as_json)

    @group.command()
    @settings_option
    @click.argument("statements", nargs=-1, type=click.Path(path_type=Path))
    @json_option
    @one_line_errors
    def reconcile(settings: Path, statements: tuple[Path, ...], as_json: bool) -> None:
        """Prove one's own books, and compare them with the STATEMENTS of others. BOOKS_DIFFER names what differs."""
        from parties.reconcile import reconcile as prove

        reconciled = prove(settings, role, statements)
        if as_json:
            show(asdict(reconciled), as_json=True)
        else:
            _print(reconciled)


def _print(reconciled: Reconciled) -> None:
    for proved in reconciled.proofs:
        click.echo(f"{proved.title}: {proved.compared} compared, all agree")
    for agreed in reconciled.statements:
        waiting = f", {agreed.under_way} under way" if agreed.under_way else ""
        click.echo(f"statement of {agreed.party}: {len(agreed.sums)} compared, all agree{waiting}")
        for one in agreed.sums:
            click.echo(f"  {one.account:<40} {one.kind:<12} {one.own_minor:>16} {one.other_minor:>16} {one.currency}")
