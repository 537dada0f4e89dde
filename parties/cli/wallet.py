"""`tapveil wallet`: what a person does with a phone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from parties.cli.bank import read_passcode
from parties.cli.output import json_option, one_line_errors, show

if TYPE_CHECKING:
    from parties.launcher import Launcher

phone_option = click.option(
    "--phone", "folder", required=True, type=click.Path(path_type=Path), help="The phone's folder."
)
bank_option = click.option("--bank", default="bank-a", show_default=True, help="The bank that judges launches.")
tsm_option = click.option("--tsm", default="tsm-1", show_default=True, help="The TSM.")


def _launcher(folder: Path) -> Launcher:
    from parties.launcher import Launcher as Phone

    return Phone(folder)


@click.group()
def wallet() -> None:
    """Act as a person with a phone. Every command of the app first passes a launch attestation (ATT-L)."""


@wallet.command()
@phone_option
@bank_option
@click.option("--branch-code", required=True, help="The one-time code from `tapveil bank add-customer`.")
@json_option
@one_line_errors
def enroll(folder: Path, bank: str, branch_code: str, as_json: bool) -> None:
    """INIT: register this phone at the bank."""
    show({"user": _launcher(folder).enroll(bank=bank, branch_code=branch_code)}, as_json=as_json)


@wallet.command()
@phone_option
@bank_option
@click.option("--provider", default="sp-1", show_default=True, help="The software provider.")
@json_option
@one_line_errors
def install(folder: Path, bank: str, provider: str, as_json: bool) -> None:
    """ATT-D0 … D7: download, check, approval by the bank, installation, report."""
    software = _launcher(folder).install(bank=bank, provider=provider).software
    show({"software": software.software_id, "version": software.version, "sha256": software.digest.hex()},
         as_json=as_json)  # fmt: skip


@wallet.command()
@phone_option
@bank_option
@json_option
@one_line_errors
def launch(folder: Path, bank: str, as_json: bool) -> None:
    """ATT-L1 … L6: may the app run? Exit status 1 with the typed reason if not."""
    from parties.launcher import refusal_for

    decision = _launcher(folder).launch(bank=bank)
    if not decision.allowed:
        raise refusal_for(decision.reason, "the app may not run")
    show({"allowed": True, "passes": decision.passes}, as_json=as_json)


def _app(folder: Path, bank: str, arguments: list[str], *, as_json: bool, passcode: str = "") -> None:
    result: dict[str, Any] = _launcher(folder).start(arguments, bank=bank, passcode=passcode)
    show(result, as_json=as_json)


@wallet.command()
@phone_option
@bank_option
@json_option
@one_line_errors
def status(folder: Path, bank: str, as_json: bool) -> None:
    """What the secure element holds."""
    _app(folder, bank, ["status"], as_json=as_json)


@wallet.command("open-account")
@phone_option
@bank_option
@tsm_option
@click.option("--passcode-file", type=click.Path(path_type=Path), help="The passcode; else it is asked for.")
@json_option
@one_line_errors
def open_account(folder: Path, bank: str, tsm: str, passcode_file: Path | None, as_json: bool) -> None:
    """AID: open an anonymous account at the bank, for use at the TSM."""
    passcode = read_passcode(passcode_file, confirm=False)
    _app(folder, bank, ["open-account", "--bank", bank, "--tsm", tsm], as_json=as_json, passcode=passcode)


@wallet.command()
@phone_option
@bank_option
@tsm_option
@click.option("--aid", required=True, help="The anonymous account that pays.")
@click.option("--maximum", default=0, show_default=True, help="Own maximum per purchase in minor units; 0: none.")
@json_option
@one_line_errors
def register(folder: Path, bank: str, tsm: str, aid: str, maximum: int, as_json: bool) -> None:
    """TID: open a service account at the TSM with the credit of AID."""
    _app(folder, bank, ["register", "--tsm", tsm, "--aid", aid, "--maximum", str(maximum)], as_json=as_json)


@wallet.command()
@phone_option
@bank_option
@tsm_option
@click.option("--tid", required=True, help="The service account.")
@click.option("--number", default=4, show_default=True, type=click.IntRange(1, 32), help="How many cards.")
@json_option
@one_line_errors
def issue(folder: Path, bank: str, tsm: str, tid: str, number: int, as_json: bool) -> None:
    """CARD: have virtual cards issued."""
    _app(folder, bank, ["issue", "--tsm", tsm, "--tid", tid, "--number", str(number)], as_json=as_json)


@wallet.command()
@phone_option
@bank_option
@tsm_option
@click.option("--tid", required=True, help="The service account.")
@json_option
@one_line_errors
def close(folder: Path, bank: str, tsm: str, tid: str, as_json: bool) -> None:
    """Close a service account: its cards end, and the bank frees the anonymous account."""
    _app(folder, bank, ["close", "--tsm", tsm, "--tid", tid], as_json=as_json)
