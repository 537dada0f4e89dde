"""What is said on a machine that lacks the programs. Needs none of them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from parties.links.pcsc import PcscLink
from protocol.errors import SettingsInvalid

INSTALL = Path(__file__).parent / "install.sh"


def test_link_without_pyscard_names_the_mend() -> None:
    """The project's own environment has none."""
    with pytest.raises(SettingsInvalid, match=r"needs pyscard: .*tapveil\[pcsc\]") as refused:
        PcscLink("any")
    assert refused.value.code == "SETTINGS_INVALID"


def test_installing_without_root_names_the_packages_and_installs_nothing(tmp_path: Path) -> None:
    for name, script in {
        "dpkg-query": 'case "$4" in swig|pcscd) echo "un "; exit 1;; *) echo "ii ";; esac',
        "id": "echo 1000",
        "apt-get": f"touch {tmp_path}/installed",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([INSTALL], env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "interop-deps: missing packages; as root: apt-get install --no-install-recommends pcscd swig\n"
    )
    assert not (tmp_path / "installed").exists()
