"""An environment on disk, made once; each test that harms it gets a copy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from parties.keystore import GENERATED
from parties.setup import Plan, create_environment


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only."""
    folder = tmp_path_factory.mktemp("environment") / "env"
    plan = Plan(base_port=0, cost=GENERATED, merchants=("shop-1",))
    create_environment(folder, plan, lambda _party: None)
    return folder


@pytest.fixture
def env(environment: Path, tmp_path: Path) -> Path:
    """A copy to be harmed."""
    folder = tmp_path / "env"
    shutil.copytree(environment, folder)
    return folder
