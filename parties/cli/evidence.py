"""Bundles of evidence: `tapveil evidence verify` for anybody, and the commands that write one at TSM and merchant."""

from __future__ import annotations

import datetime
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from parties.cli.output import json_option, one_line_errors, show
from parties.cli.tracing import HANDLE

if TYPE_CHECKING:
    from protocol.evidence.bundle import Bundle
    from protocol.evidence.bundle_verdict import Finding, Verdict


sale_option = click.option("--sale", required=True, type=HANDLE, help="The merchant's name of the sale.")
out_option = click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Where the bundle is written to, for its owner only."
)
former_option = click.option(
    "--former", multiple=True, type=click.Path(path_type=Path),
    help="A certificate of a key that signed and was replaced since; may be given again.",
)  # fmt: skip


@click.group()
def evidence() -> None:
    """Check bundles of signed messages: what they prove, and what they do not."""


@evidence.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--ca", required=True, type=click.Path(path_type=Path), help="The CA's certificate, or the PKI folder.")
@click.option(
    "--emv-ca", type=click.Path(path_type=Path),
    help="The EMV CA's key, or the PKI folder; else the bundle's own is taken, and the verdict says so.",
)  # fmt: skip
@json_option
@one_line_errors
def verify(bundle: Path, ca: Path, emv_ca: Path | None, as_json: bool) -> None:
    """What does BUNDLE prove? Offline; of all keys only those named here are believed.

    Exit status 0 only if all that the bundle claims is proved; else 1, and EVIDENCE_INCOMPLETE names the link.
    """
    from parties.evidence import verify_file
    from protocol.errors import EvidenceIncomplete

    verdict = verify_file(bundle, ca, emv_ca)
    try:
        verdict.require()
        refusal = None
    except EvidenceIncomplete as exc:
        refusal = exc
    if as_json:
        error = {} if refusal is None else {"error": refusal.code, "detail": str(refusal)}
        show({**error, "proved": refusal is None, **_plain(verdict)}, as_json=True)
    else:
        for line in _lines(verdict):
            click.echo(line)
    if refusal is not None:
        click.echo(f"tapveil: {refusal.code}: {refusal}.", err=True)
        sys.exit(1)


def _plain(verdict: Verdict) -> dict[str, object]:
    statements = [
        asdict(finding) | {"statement": finding.statement.value, "says": dict(finding.says)}
        for finding in verdict.findings
    ]
    return {"statements": statements, "not_proved": list(verdict.not_proved)}


def _lines(verdict: Verdict) -> list[str]:
    found = [line for finding in verdict.findings for line in _finding(finding)]
    return [*found, "Not proved by it:", *(f"  - {limit}" for limit in verdict.not_proved)]


def _finding(finding: Finding) -> list[str]:
    if not finding.proved:
        return [f"{finding.statement.value:<16}NOT PROVED: {finding.reason}"]
    said = [f"  {name.replace('_', ' '):<16}{value}" for name, value in finding.says]
    by = [
        f"  signed by       {one.signer} ({one.role}): {one.message}, {_time(one.at_s)}" for one in finding.signatures
    ]  # fmt: skip
    return [f"{finding.statement.value:<16}proved", *said, *by]


def _time(at_s: int) -> str:
    return datetime.datetime.fromtimestamp(at_s, tz=datetime.UTC).strftime("%Y-%m-%d %H:%M:%SZ")


@click.command("evidence")
@click.option("--settings", required=True, type=click.Path(path_type=Path), help="The TSM's settings.toml.")
@click.option("--merchant", required=True, help="Whose sale it was.")
@sale_option
@out_option
@click.option("--claim", is_flag=True, help="Also prove that a bank accepted the claim with this purchase.")
@former_option
@json_option
@one_line_errors
def purchase_evidence(
    settings: Path, merchant: str, sale: bytes, out: Path, claim: bool, former: tuple[Path, ...], as_json: bool
) -> None:  # fmt: skip
    """Write a bundle that proves a purchase: account, card, approval.

    The file discloses to whoever reads it: AID and TID with the bank, limit and expiry of the grant, and that they are
    one account; the card's whole number and certificates; merchant, terminal, amount and date of this purchase; with
    --claim the running totals of the grant. It names no person, and shows no other card or purchase.
    """
    from parties.evidence import write_purchase

    bundle = write_purchase(settings, out, merchant=merchant, sale=sale, with_claim=claim, former=former)
    _show(bundle, out, as_json=as_json)


@click.command("evidence")
@click.option("--settings", required=True, type=click.Path(path_type=Path), help="The merchant's settings.toml.")
@sale_option
@out_option
@former_option
@json_option
@one_line_errors
def sale_evidence(settings: Path, sale: bytes, out: Path, former: tuple[Path, ...], as_json: bool) -> None:
    """Write a bundle that proves a sale's approval and, once it is settled, its payout.

    The file discloses to whoever reads it: the card's whole number, terminal and amount of this sale; and of a
    settlement all sales and refunds in it, by their names and amounts. Nothing of an account is in it.
    """
    from parties.evidence import write_sale

    _show(write_sale(settings, out, sale=sale, former=former), out, as_json=as_json)


def _show(bundle: Bundle, out: Path, *, as_json: bool) -> None:
    statements = [statement.value for statement in bundle.statements]
    show({"bundle": str(out), "claims": statements if as_json else ", ".join(statements)}, as_json=as_json)
