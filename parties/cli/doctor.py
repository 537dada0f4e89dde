"""`tapveil doctor`: what is wrong with a party's set-up, and what to do about it."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import click

from parties.cli.output import json_option


@click.command()
@click.option("--settings", required=True, type=click.Path(path_type=Path), help="The party's settings.toml.")
@json_option
def doctor(settings: Path, as_json: bool) -> None:
    """Check a party's settings, keys, certificates, clock, database, ports and peers. Exit status 1 if one fails."""
    from parties.doctor import Level, examine

    findings = examine(settings)
    failed = any(finding.level is Level.FAIL for finding in findings)
    if as_json:
        checks = [dataclasses.asdict(finding) for finding in findings]
        sys.stdout.write(json.dumps({"ok": not failed, "checks": checks}) + "\n")
    else:
        for finding in findings:
            mend = f" → {finding.mend}" if finding.mend else ""
            sys.stdout.write(f"{finding.level.value:<4}  {finding.check}: {finding.what}{mend}\n")
    sys.exit(1 if failed else 0)
