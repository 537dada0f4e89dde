"""`tapveil audit`: the bank's log of traces, for whoever is to check it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from parties.cli.output import json_option, one_line_errors, show

if TYPE_CHECKING:
    from protocol.roles.bank.audit import VerifiedLog


former_option = click.option(
    "--former", multiple=True, type=click.Path(path_type=Path),
    help="A certificate that the bank signed with before its present one; may be given again.",
)  # fmt: skip


@click.group()
def audit() -> None:
    """Check the hash-chained, signed log of traces that a bank keeps."""


@audit.command()
@click.option("--settings", type=click.Path(path_type=Path), help="The bank's settings.toml: the log in its database.")
@click.option("--file", "path", type=click.Path(path_type=Path), help="A log that was exported; needs --ca.")
@click.option("--ca", type=click.Path(path_type=Path), help="The CA's certificate, or the PKI folder.")
@click.option("--head", help="NUMBER:DIGEST as an earlier run gave it: notices a log that was cut since.")
@former_option
@json_option
@one_line_errors
def verify(
    settings: Path | None, path: Path | None, ca: Path | None, head: str | None, former: tuple[Path, ...], as_json: bool
) -> None:  # fmt: skip
    """Is the log whole: every entry signed, none altered, removed or moved? Prints the head to remember."""
    from parties.auditing import verify_file, verify_here
    from protocol.roles.bank.audit import Head

    if (settings is None) == (path is None) or (path is None) != (ca is None):
        raise click.UsageError("give --settings, or --file with --ca")
    remembered = None if head is None else Head.parse(head)
    if settings is not None:
        _show(verify_here(settings, remembered, former)[0], {}, as_json=as_json)
        return
    assert path is not None
    assert ca is not None
    bank, verified = verify_file(path, ca, remembered)
    _show(verified, {"bank": bank}, as_json=as_json)


@audit.command()
@click.option("--settings", required=True, type=click.Path(path_type=Path), help="The bank's settings.toml.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Where the log is written to.")
@former_option
@json_option
@one_line_errors
def export(settings: Path, out: Path, former: tuple[Path, ...], as_json: bool) -> None:
    """Write the log to a file that anybody with the CA's certificate can check. It names no customer."""
    from parties.auditing import export as write

    _show(write(settings, out, former), {"file": str(out)}, as_json=as_json)


@audit.command("open-answer")
@click.option("--settings", required=True, type=click.Path(path_type=Path), help="The requester's settings.toml.")
@click.argument("answer", type=click.Path(path_type=Path))
@json_option
@one_line_errors
def open_answer(settings: Path, answer: Path, as_json: bool) -> None:
    """Read a bank's ANSWER to a trace with the requester's own key. Prints the person's NAME."""
    show_answer(settings, answer, as_json=as_json)


def show_answer(settings: Path, path: Path, *, as_json: bool) -> None:
    """What the bank told the requester."""
    from parties.trace import read_answer

    told, bank = read_answer(settings, path)
    show(
        {
            "bank": bank, "case": told.case.hex(), "reason": told.reason.value, "person": told.person,
            "customer": told.customer, "aid": told.aid, "purchase_digest": told.purchase_digest.hex(),
        },
        as_json=as_json,
    )  # fmt: skip


def _show(verified: VerifiedLog, more: dict[str, object], *, as_json: bool) -> None:
    head = "" if verified.head is None else str(verified.head)
    show({**more, "entries": len(verified.entries), **verified.counts, "head": head}, as_json=as_json)
