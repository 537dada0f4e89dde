"""The command `tapveil`: one group, one module a family of commands."""

from __future__ import annotations

from parties.cli.main import main

__all__ = ["main"]
