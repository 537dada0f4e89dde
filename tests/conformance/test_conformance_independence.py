"""The suite is a second implementation: of this project it uses the generated stubs and nothing else.

One module starts the project's own secure element in a process of its own, and is imported by nobody.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
BRIDGE_HEAD = "our_phone"
ALLOWED = {"cbor2", "cryptography", "nacl", "grpc", "pytest", "conformance"}


def imported(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def test_it_imports_only_the_generated_stubs() -> None:
    found = {name for path in FOLDER.glob("*.py") if path.stem != BRIDGE_HEAD for name in imported(path)}
    ours = {name for name in found if name.split(".")[0] not in ALLOWED | sys.stdlib_module_names}
    assert ours
    assert {name for name in ours if name != "parties.rpc" and not name.startswith("parties.rpc.")} == set()


def test_nobody_imports_the_module_that_knows_more() -> None:
    """Only a process apart runs it: nothing that checks is of the project."""
    assert (FOLDER / f"{BRIDGE_HEAD}.py").is_file()
    assert not {name for path in FOLDER.glob("*.py") for name in imported(path) if BRIDGE_HEAD in name}
