"""`tapveil`: set up, run and use every party of the protocol."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from parties.cli.audit import audit
from parties.cli.bank import bank
from parties.cli.bench import bench
from parties.cli.conformance import conformance
from parties.cli.db import db
from parties.cli.demo import demo, run
from parties.cli.doctor import doctor
from parties.cli.evidence import evidence
from parties.cli.merchant import merchant
from parties.cli.output import json_option, one_line_errors, show
from parties.cli.tsm import tsm
from parties.cli.wallet import wallet
from protocol.types import Role

_SERVERS = [Role.BANK.value, Role.TSM.value, Role.MERCHANT.value, Role.SE.value, Role.SP.value]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tapveil")
def main() -> None:
    """Anonymous NFC mobile payment: bank, TSM, merchants, secure elements and software provider."""


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--phones", default=1, show_default=True, type=click.IntRange(0, 100), help="How many phones.")
@click.option("--merchants", default=2, show_default=True, type=click.IntRange(0, 100), help="How many merchants.")
@click.option(
    "--base-port",
    default=7400,
    show_default=True,
    type=click.IntRange(0, 65000),
    help="0: ports that are free in TAPVEIL_PORTS (20000-31999).",
)
@click.option("--database", default="", metavar="URL", help="A PostgreSQL database: each institution gets a schema.")
@click.option("--capture", is_flag=True, help="Let every party copy its envelopes for a checker. Not for production.")
@json_option
@one_line_errors
def init(
    folder: Path, phones: int, merchants: int, base_port: int, database: str, capture: bool, as_json: bool
) -> None:
    """Make keys, CA, certificates, release, databases and settings of a whole environment in FOLDER."""
    from parties.setup import Plan, create_environment

    plan = Plan(
        merchants=tuple(f"shop-{n}" for n in range(1, merchants + 1)),
        phones=tuple(f"phone-{n}" for n in range(1, phones + 1)), base_port=base_port, capture=capture,
        database=database,
    )  # fmt: skip
    with click.progressbar(length=plan.parties(), label="Setting up", hidden=as_json, file=sys.stderr) as bar:
        create_environment(folder, plan, lambda _party: bar.update(1))
    parties = [*plan.banks, plan.tsm, plan.provider, *plan.merchants, *plan.phones]
    show({"folder": str(folder), "parties": parties}, as_json=as_json)


@main.command()
@click.argument("role", type=click.Choice(_SERVERS))
@click.option("--settings", required=True, type=click.Path(path_type=Path), help="The party's settings.toml.")
@click.option("--vpcd", metavar="HOST:PORT", help="SE only: put the card into a virtual reader, for any PC/SC program.")
@click.option("--contact", is_flag=True, help="With --vpcd: be a contact card. Cards for contactless use are declined.")
@click.option("--workers", default=1, show_default=True, help="Processes that serve the party; PostgreSQL only.")
@one_line_errors
def serve(role: str, settings: Path, vpcd: str | None, contact: bool, workers: int) -> None:
    """Run one party as a gRPC server until SIGTERM, which drains it."""
    from parties.serve import VirtualReader
    from parties.serve import serve as run
    from protocol.card.profile import Channel

    if vpcd is not None and workers != 1:
        raise click.UsageError("--workers does not go with --vpcd")
    if vpcd is None and contact:
        raise click.UsageError("--contact goes with --vpcd")
    if workers != 1:
        from parties.workers import serve_with_workers

        serve_with_workers(settings, Role(role), workers)
        return
    if vpcd is None:
        run(settings, Role(role))
        return
    reader = VirtualReader(address=vpcd, channel=Channel.CONTACT if contact else Channel.CONTACTLESS)
    if not reader.is_near:
        click.echo("tapveil: warning: vpcd knows no authentication; keep it on this machine", err=True)
    run(settings, Role(role), reader=reader)


main.add_command(demo)
main.add_command(run)
main.add_command(audit)
main.add_command(bank)
main.add_command(bench)
main.add_command(db)
main.add_command(conformance)
main.add_command(doctor)
main.add_command(evidence)
main.add_command(merchant)
main.add_command(tsm)
main.add_command(wallet)
