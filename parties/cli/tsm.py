"""`tapveil tsm`: what the operator of a TSM does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from parties.cli.books import add_book_commands
from parties.cli.evidence import purchase_evidence
from parties.cli.output import json_option, one_line_errors, show
from parties.cli.stops import reason_option, stop_lines, stop_rows
from parties.cli.tracing import open_trace, trace_purchase
from protocol.types import Role

if TYPE_CHECKING:
    from parties.operator import ListedBank, Named
    from parties.server.claims import BankClaims
    from protocol.messages.stops import StopReason


@click.group()
def tsm() -> None:
    """Act as the operator of a TSM, on the TSM's own machine."""


add_book_commands(tsm, Role.TSM)


tsm.add_command(trace_purchase)
tsm.add_command(open_trace)
tsm.add_command(purchase_evidence)


purchase_option = click.option(
    "--purchase", nargs=2, metavar="MERCHANT SALE", help="Instead of TID: a purchase that was made with the account."
)


def _named(tid: str | None, purchase: tuple[str, str] | None) -> Named:
    from parties.operator import Named

    if (tid is None) == (purchase is None):
        raise click.UsageError("name the account by TID, or by --purchase MERCHANT SALE")
    if purchase is not None:
        merchant, sale = purchase
        return Named(merchant=merchant, sale=sale)
    return Named(tid=tid or "")


@tsm.command("freeze")
@click.option("--settings", required=True, type=click.Path(path_type=Path), help="The TSM's settings.toml.")
@reason_option
@purchase_option
@click.argument("tid", required=False)
@json_option
@one_line_errors
def freeze(
    settings: Path, reason: StopReason, purchase: tuple[str, str] | None, tid: str | None, as_json: bool
) -> None:
    """CN-11: stop a service account for fraud: no purchase is approved and no card issued, from now on."""
    from parties.operator import freeze_account

    stopped = freeze_account(settings, _named(tid, purchase), reason)
    show({"tid": stopped.tid, "stop": stopped.stop}, as_json=as_json)


@tsm.command("unfreeze")
@click.option("--settings", required=True, type=click.Path(path_type=Path), help="The TSM's settings.toml.")
@purchase_option
@click.argument("tid", required=False)
@json_option
@one_line_errors
def unfreeze(settings: Path, purchase: tuple[str, str] | None, tid: str | None, as_json: bool) -> None:
    """CN-11: end this TSM's own freeze of an account. A deletion is final; what a bank stopped stays so."""
    from parties.operator import unfreeze_account

    running = unfreeze_account(settings, _named(tid, purchase))
    show({"tid": running.tid, "stop": "none"}, as_json=as_json)


@tsm.command("delete")
@click.option("--settings", required=True, type=click.Path(path_type=Path), help="The TSM's settings.toml.")
@reason_option
@purchase_option
@click.argument("tid", required=False)
@json_option
@one_line_errors
def delete(
    settings: Path, reason: StopReason, purchase: tuple[str, str] | None, tid: str | None, as_json: bool
) -> None:
    """CN-11: stop a service account for good, and end its cards. Its credit can still be given back."""
    from parties.operator import delete_account

    stopped = delete_account(settings, _named(tid, purchase), reason)
    show({"tid": stopped.tid, "stop": stopped.stop}, as_json=as_json)


@tsm.command("stops")
@click.option("--settings", required=True, type=click.Path(path_type=Path), help="The TSM's settings.toml.")
@json_option
@one_line_errors
def stops(settings: Path, as_json: bool) -> None:
    """Every stop this TSM made, and of each bank how old its last list is and how many grants it stops."""
    from parties.operator import lists_held, stops_made

    rows, banks = stop_rows(stops_made(settings), "tid"), lists_held(settings)
    if as_json:
        listed = [{"bank": bank.bank, "age_s": bank.age_s, "stopped": bank.stopped} for bank in banks]
        show({"stops": rows, "banks": listed}, as_json=True)
        return
    for line in (*(stop_lines(rows, "tid") or ["no stops"]), *map(_bank_line, banks)):
        click.echo(line)


def _bank_line(listed: ListedBank) -> str:
    age = "none came yet" if listed.age_s < 0 else f"{listed.age_s} s old"
    return f"{listed.bank}  list {age}  stops {listed.stopped}"


@tsm.command("claim")
@click.option("--settings", required=True, type=click.Path(path_type=Path), help="The TSM's settings.toml.")
@click.option("--now", "early", is_flag=True, help="Close the present period: a claim for every grant, due or not.")
@json_option
@one_line_errors
def claim(settings: Path, early: bool, as_json: bool) -> None:
    """SETTLE: claim what is due from the banks, and again what they refused. Ends with 1 if any claim is still open."""
    from parties.claiming import claim as run

    banks = run(settings, early=early)
    if as_json:
        show({"banks": [_claimed(one) for one in banks]}, as_json=True)
    else:
        for line in [_claim_line(one) for one in banks] or ["no claim is due"]:
            click.echo(line)
    if any(one.refused or one.waiting for one in banks):
        raise SystemExit(1)


def _claimed(one: BankClaims) -> dict[str, object]:
    return {
        "bank": one.bank, "sent": one.sent, "accepted": one.accepted, "refused": one.refused, "waiting": one.waiting,
        "void": one.void, "refusals": dict(one.refusals),
    }  # fmt: skip


def _claim_line(one: BankClaims) -> str:
    codes = f" ({', '.join(sorted(one.refusals))})" if one.refusals else ""
    more = f", {one.waiting} waiting for an answer" if one.waiting else ""
    more += f", {one.void} of nothing that the bank ever granted" if one.void else ""
    return f"{one.bank}: {one.sent} sent, {one.accepted} accepted, {one.refused} refused{codes}{more}"
