"""`tapveil conformance`: what the suite in tests/conformance needs to judge bank and TSM."""

from __future__ import annotations

from pathlib import Path

import click

from parties.cli.output import json_option, one_line_errors, show


@click.group()
def conformance() -> None:
    """Prepare a run of the conformance suite, which any implementation of bank and TSM must pass."""


@conformance.command("bundle")
@click.argument("environment", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--bank", default="bank-a", show_default=True, help="The bank under test.")
@click.option("--tsm", default="tsm-1", show_default=True, help="The TSM under test.")
@click.option("--played-bank", default="bank-b", show_default=True, help="The bank that the suite plays; not running.")
@click.option("--branch-codes", "phones", default=36, show_default=True, type=click.IntRange(2, 100),
              help="How many phones, each with a person and a branch code that works once.")  # fmt: skip
@json_option
@one_line_errors
def bundle(environment: Path, folder: Path, bank: str, tsm: str, played_bank: str, phones: int, as_json: bool) -> None:
    """Write into FOLDER what the suite must know and may play, from the ENVIRONMENT that `tapveil init` made.

    The bundle holds PRIVATE KEYS in the clear, adds phones, persons, a TSM and merchants to the environment, and lends
    the played bank's identity to the suite. Only ever make one of a TEST environment. A bundle serves one run.
    """
    from parties.bundle import Wanted, write_bundle

    wanted = Wanted(bank=bank, tsm=tsm, played_bank=played_bank, phones=phones)
    persons = write_bundle(environment, folder, wanted)
    show({"folder": str(folder), "phones": phones, "persons": persons}, as_json=as_json)
