"""One world per attack: two banks, two TSMs, and phones on demand."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path, seed="attacks")
    made.add_tsm("tsm-2")
    return made
