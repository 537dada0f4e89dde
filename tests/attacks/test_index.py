"""The index of attacks names every test, and only tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent


def test_index_is_complete() -> None:
    index = set(re.findall(r"`(test_[a-z_0-9]+)::(test_[a-z_0-9]+)`", (HERE / "README.md").read_text()))
    tests = {
        (path.stem, name)
        for path in HERE.glob("test_*.py")
        if path.stem != "test_index"
        for name in re.findall(r"^def (test_[a-z_0-9]+)", path.read_text(), re.MULTILINE)
    }
    assert index == tests


def test_index_names_models_that_exist() -> None:
    expected = (HERE.parent.parent / "docs" / "formal" / "proverif" / "expected.txt").read_text()
    runs = {line.split()[0] for line in expected.splitlines() if line and not line.startswith("#")}
    named = re.findall(
        r"`((?:core|se|attest|grant|anon|merch|pay|trace)(?:_[A-Za-z0-9_]+)?)`", (HERE / "README.md").read_text()
    )
    assert named
    assert set(named) <= runs
