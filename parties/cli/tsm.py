"""`tapveil tsm`: what the operator of a TSM does."""

from __future__ import annotations

import click


@click.group()
def tsm() -> None:
    """Act as the operator of a TSM, on the TSM's own machine."""
