"""`tapveil bench`."""

from __future__ import annotations

import json
import sys

import click

from parties.cli.output import json_option, one_line_errors


@click.command()
@click.option("--taps", default=100, show_default=True, type=click.IntRange(20, 1000), help="Taps to measure.")
@click.option("--rounds", default=10, show_default=True, type=click.IntRange(3, 1000), help="Batches to issue.")
@json_option
@one_line_errors
def bench(taps: int, rounds: int, as_json: bool) -> None:
    """Measure on this machine, in one process with real databases: a tap, and the issuing of cards."""
    from rich.console import Console

    from parties.bench.report import measure, print_report

    with click.progressbar(length=taps + rounds, label="Measuring", hidden=as_json, file=sys.stderr) as bar:
        report = measure(taps, rounds, lambda: bar.update(1))
    if as_json:
        sys.stdout.write(json.dumps(report.plain()) + "\n")
    else:
        print_report(report, Console())
