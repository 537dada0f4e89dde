"""`tapveil demo` and `tapveil run`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from parties.cli.output import json_option, one_line_errors
from parties.scenario.model import PHASES, Scenario

report_option = click.option(
    "--report", type=click.Path(path_type=Path), help="Keep the environment and verdict.json in this new folder."
)

database_option = click.option(
    "--database", default="", metavar="URL",
    help="A PostgreSQL database: banks, TSM and merchants each get a schema, dropped at the end without --report.",
)  # fmt: skip


@click.command()
@report_option
@click.option("--sabotage", type=click.Choice(PHASES), help="Break one phase with a real fault; must end non-zero.")
@database_option
@json_option
@one_line_errors
def demo(report: Path | None, sabotage: str | None, database: str, as_json: bool) -> None:
    """Run all phases between real processes: two banks, TSM, software provider, merchants, phones."""
    from parties.demo import demo_scenario, sabotaged

    scenario = demo_scenario()
    _run(sabotaged(scenario, sabotage) if sabotage else scenario, report, database, as_json=as_json)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@report_option
@database_option
@json_option
@one_line_errors
def run(file: Path, report: Path | None, database: str, as_json: bool) -> None:
    """Run the scenario in FILE (TOML) and check what it left behind."""
    from parties.scenario.model import load_scenario

    _run(load_scenario(file), report, database, as_json=as_json)


def _run(scenario: Scenario, report: Path | None, database: str, *, as_json: bool) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from parties.demo import run_and_judge
    from parties.timeline import print_timeline

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    quiet = as_json or not sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet) as bar:
        task = bar.add_task(scenario.name, total=len(scenario.steps) + 3)

        def progress(what: str) -> None:
            bar.update(task, description=what, advance=1)

        verdict = run_and_judge(scenario, report, progress, database=database)
    if as_json:
        sys.stdout.write(json.dumps(verdict.plain()) + "\n")
    else:
        console = Console()
        print_timeline(verdict, Console(width=max(console.width, 150)))
    sys.exit(0 if verdict.ok else 1)
