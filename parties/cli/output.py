"""How commands speak: one JSON object with `--json`, a few plain lines without; one clear line for an error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import click

from protocol.errors import ProtocolError, Unavailable

P = ParamSpec("P")
R = TypeVar("R")

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def one_line_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Turn a ProtocolError into one line on standard error and exit status 1. Anything else is a bug and shows."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except ProtocolError as refusal:
            if kwargs.get("as_json"):
                sys.stdout.write(json.dumps({"error": refusal.code, "detail": str(refusal)}) + "\n")
            again = " Run the same command again: it goes on where it was." if isinstance(refusal, Unavailable) else ""
            sys.stderr.write(f"tapveil: {refusal.code}: {refusal}.{again}\n")
            sys.exit(1)

    return run


def show(result: dict[str, Any], *, as_json: bool) -> None:
    """Print a result."""
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")
        return
    for name, value in result.items():
        sys.stdout.write(f"{name.replace('_', ' ')}: {value}\n")
