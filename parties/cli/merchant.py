"""`tapveil merchant`: what a cashier does at a merchant's till."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from parties.cli.books import add_book_commands
from parties.cli.evidence import sale_evidence
from parties.cli.output import json_option, one_line_errors, show
from protocol.types import Role

if TYPE_CHECKING:
    from parties.client import MerchantClient, SaleState

settings_option = click.option(
    "--settings", required=True, type=click.Path(path_type=Path), help="The merchant's settings.toml."
)


def _client(settings: Path) -> MerchantClient:
    from parties.client import MerchantClient as Client

    return Client(settings)


def _show(state: SaleState, *, as_json: bool) -> None:
    show(asdict(state) | {"progress": state.progress.value}, as_json=as_json)


@click.group()
def merchant() -> None:
    """Act as a cashier at a merchant's till; the merchant's server must run, but to settle."""


add_book_commands(merchant, Role.MERCHANT)
merchant.add_command(sale_evidence)


@merchant.command()
@settings_option
@click.option("--amount", "amount_minor", required=True, type=click.IntRange(1), help="What to charge, in minor units.")
@click.option("--currency", default="TWD", show_default=True, help="ISO 4217 code.")
@click.option("--sale", "name", default="", help="A name of 32 hexadecimal digits; the same again goes on with it.")
@click.option("--wait/--no-wait", default=True, help="Wait until the sale ended. Exit status 1 if not approved then.")
@json_option
@one_line_errors
def sale(settings: Path, amount_minor: int, currency: str, name: str, wait: bool, as_json: bool) -> None:
    """PAY: ask for a card and charge it. The display's texts go to standard error as they change."""
    with _client(settings) as client:
        name = name or client.new_name()
        click.echo(f"sale: {name}", err=True)
        state = client.start_sale(amount_minor, currency=currency, sale=name)
        if wait:
            state = client.await_end(state.sale, lambda display: click.echo(display, err=True))
    _show(state, as_json=as_json)
    if wait and state.progress != "APPROVED":
        sys.exit(1)


@merchant.command()
@settings_option
@click.argument("sale")
@json_option
@one_line_errors
def status(settings: Path, sale: str, as_json: bool) -> None:
    """How is SALE going?"""
    with _client(settings) as client:
        state = client.sale(sale)
    _show(state, as_json=as_json)


@merchant.command()
@settings_option
@click.argument("sale")
@json_option
@one_line_errors
def cancel(settings: Path, sale: str, as_json: bool) -> None:
    """Call SALE off; an approved one is voided."""
    with _client(settings) as client:
        state = client.cancel(sale)
    _show(state, as_json=as_json)


@merchant.command()
@settings_option
@click.argument("sale")
@click.option(
    "--amount", "amount_minor", required=True, type=click.IntRange(1), help="What to give back, in minor units."
)
@click.option("--refund", "name", default="", help="A name of 32 hexadecimal digits, used once.")
@json_option
@one_line_errors
def refund(settings: Path, sale: str, amount_minor: int, name: str, as_json: bool) -> None:
    """Give back all or part of SALE."""
    with _client(settings) as client:
        state = client.refund(sale, amount_minor, refund=name)
    _show(state, as_json=as_json)


@merchant.command()
@settings_option
@json_option
@one_line_errors
def settle(settings: Path, as_json: bool) -> None:
    """SETTLE: have the TSM pay out all sales that are due, less refunds. Exit status 1 if it refuses some of them."""
    with _client(settings) as client:
        settled = client.settle()
    totals = ", ".join(f"{minor} {currency}" for currency, minor in sorted(settled.totals_minor.items()))
    shown = asdict(settled) if as_json else asdict(settled) | {"totals_minor": totals or "nothing"}
    show(shown, as_json=as_json)
    if settled.refused:
        sys.exit(1)
