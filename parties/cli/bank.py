"""`tapveil bank`: what a clerk at a branch does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from parties.cli.books import add_book_commands
from parties.cli.output import json_option, one_line_errors, show
from parties.cli.stops import reason_option, stop_lines, stop_rows
from parties.cli.tracing import add_officer, remove_officer, trace_cases
from protocol.types import Role

if TYPE_CHECKING:
    from protocol.messages.stops import StopReason


@click.group()
def bank() -> None:
    """Act as a clerk of a bank, on the bank's own machine."""


bank.add_command(add_officer)
bank.add_command(remove_officer)
bank.add_command(trace_cases)
add_book_commands(bank, Role.BANK)


@bank.command("add-customer")
@click.option("--settings", required=True, type=click.Path(path_type=Path), help="The bank's settings.toml.")
@click.option("--name", required=True, help="The person's name; it stays sealed at the bank.")
@click.option("--limit", "limit_minor", default=2_000_000, show_default=True, help="Credit limit in minor units.")
@click.option("--currency", default="TWD", show_default=True, help="ISO 4217 code.")
@click.option("--passcode-file", type=click.Path(path_type=Path), help="The person's passcode; else it is asked for.")
@json_option
@one_line_errors
def add_customer(
    settings: Path, name: str, limit_minor: int, currency: str, passcode_file: Path | None, as_json: bool
) -> None:
    """INIT-2: open a credit account; prints a one-time branch code for the person's phone."""
    from parties.branch import add_customer as add

    passcode = read_passcode(passcode_file, confirm=True)
    opened = add(settings, name=name, limit_minor=limit_minor, currency=currency, passcode=passcode)
    show({"customer": opened.customer, "branch_code": opened.branch_code}, as_json=as_json)


@bank.command("reopen")
@click.option("--settings", required=True, type=click.Path(path_type=Path), help="The bank's settings.toml.")
@click.argument("customer")
@json_option
@one_line_errors
def reopen(settings: Path, customer: str, as_json: bool) -> None:
    """TW-G3b: after five wrong entries, reopen CUSTOMER whose person was confirmed at the branch."""
    from parties.branch import reopen as confirm

    confirm(settings, customer)
    show({"customer": customer, "state": "reopened"}, as_json=as_json)


@bank.command("reopen-pin")
@click.option("--settings", required=True, type=click.Path(path_type=Path), help="The bank's settings.toml.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Where the signed word is written to.")
@click.argument("customer")
@json_option
@one_line_errors
def reopen_pin(settings: Path, out: Path, customer: str, as_json: bool) -> None:
    """TW-G3b: sign for CUSTOMER's phone that the person was confirmed; `tapveil wallet reopen-pin` takes it.

    The word is good for an hour, for one lock that came before it, and for this customer's phone only.
    """
    from parties.branch import reopen_pin as confirm
    from protocol.errors import SettingsInvalid

    word = confirm(settings, customer)
    try:
        out.write_bytes(word)
    except OSError as exc:
        raise SettingsInvalid(f"{out} can't be written: {exc.strerror}") from exc
    show({"customer": customer, "approval": str(out)}, as_json=as_json)


@bank.command("freeze")
@click.option("--settings", required=True, type=click.Path(path_type=Path), help="The bank's settings.toml.")
@reason_option
@click.argument("customer")
@json_option
@one_line_errors
def freeze(settings: Path, reason: StopReason, customer: str, as_json: bool) -> None:
    """CN-11: stop CUSTOMER and all that was issued to them. TSMs hear of it with the list of the next minute."""
    from parties.branch import freeze_customer

    stopped = freeze_customer(settings, customer, reason)
    show({"customer": customer, "stop": stopped.stop}, as_json=as_json)


@bank.command("unfreeze")
@click.option("--settings", required=True, type=click.Path(path_type=Path), help="The bank's settings.toml.")
@click.argument("customer")
@json_option
@one_line_errors
def unfreeze(settings: Path, customer: str, as_json: bool) -> None:
    """CN-11: end this bank's own freeze of CUSTOMER. A deletion is final; what a TSM stopped stays so."""
    from parties.branch import unfreeze_customer

    unfreeze_customer(settings, customer)
    show({"customer": customer, "stop": "none"}, as_json=as_json)


@bank.command("delete-customer")
@click.option("--settings", required=True, type=click.Path(path_type=Path), help="The bank's settings.toml.")
@reason_option
@click.argument("customer")
@json_option
@one_line_errors
def delete_customer(settings: Path, reason: StopReason, customer: str, as_json: bool) -> None:
    """CN-11: stop CUSTOMER for good. Nothing lifts it; records stay, for disputes."""
    from parties.branch import delete_customer as delete

    stopped = delete(settings, customer, reason)
    show({"customer": customer, "stop": stopped.stop}, as_json=as_json)


@bank.command("stops")
@click.option("--settings", required=True, type=click.Path(path_type=Path), help="The bank's settings.toml.")
@json_option
@one_line_errors
def stops(settings: Path, as_json: bool) -> None:
    """Every stop this bank made, those that were lifted too."""
    from parties.branch import stops_made

    rows = stop_rows(stops_made(settings), "customer")
    if as_json:
        show({"stops": rows}, as_json=True)
        return
    for line in stop_lines(rows, "customer") or ["no stops"]:
        click.echo(line)


def read_passcode(path: Path | None, *, confirm: bool) -> str:
    """From a file, or asked for without echo."""
    if path is not None:
        from protocol.errors import SettingsInvalid

        try:
            return path.read_text().strip()
        except OSError as exc:
            raise SettingsInvalid(f"passcode file {path} can't be read: {exc.strerror}") from exc
        except UnicodeDecodeError as exc:
            raise SettingsInvalid(f"passcode file {path} is not a text: write the passcode into it") from exc
    answer: str = click.prompt("Passcode", hide_input=True, confirmation_prompt=confirm, err=True)
    return answer
