"""The wallet's package: the same bytes everywhere, exactly its parts, and it runs alone in an empty folder."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile

import pytest

from parties.release import PARTS, build_release

FOREIGN = ("attestation", "parties/server", "parties/cli", "parties/assembly", "parties/storage/store", "sqlalchemy")


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    path = tmp_path_factory.mktemp("release") / "wallet.pyz"
    path.write_bytes(build_release())
    return path


def names(package) -> list[str]:
    with zipfile.ZipFile(package) as archive:
        assert archive.testzip() is None
        return archive.namelist()


def test_the_same_sources_give_the_same_bytes(package, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TZ", "Asia/Taipei")
    assert build_release() == package.read_bytes()
    other = subprocess.run(
        [sys.executable, "-c", "import sys, parties.release as r; sys.stdout.buffer.write(r.build_release())"],
        capture_output=True, check=True, cwd=tmp_path, env={"PYTHONHASHSEED": "7"},
    )  # fmt: skip
    assert other.stdout == package.read_bytes()


def test_it_holds_its_parts_and_nothing_else(package):
    held = names(package)
    assert held == sorted(held)
    assert len(held) == len(set(held))
    for name in held:
        assert name == "__main__.py" or any(name == part or name.startswith(f"{part}/") for part in PARTS), name
        assert name.endswith(".py")
    assert not [name for name in held for foreign in FOREIGN if name.startswith(foreign)]
    assert {"protocol/cose.py", "parties/wallet/app.py", "parties/rpc/common_pb2.py"} <= set(held)


def test_times_modes_and_compression_are_fixed(package):
    with zipfile.ZipFile(package) as archive:
        facts = {(e.date_time, e.external_attr, e.create_system, e.compress_type) for e in archive.infolist()}
    assert facts == {((1980, 1, 1, 0, 0, 0), 0o100644 << 16, 3, zipfile.ZIP_STORED)}
    assert package.read_bytes().startswith(b"#!/usr/bin/env python3\n")


def test_the_app_starts_alone_in_an_empty_folder(package, tmp_path):
    done = subprocess.run(
        [sys.executable, "-I", package, "--help"], capture_output=True, text=True, check=False, cwd=tmp_path, env={}
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "open-account" in done.stdout
    refused = subprocess.run(
        [sys.executable, "-I", package, "--phone", tmp_path, "status"], capture_output=True, text=True, check=False,
        cwd=tmp_path, env={},
    )  # fmt: skip
    assert (refused.returncode, refused.stderr) == (1, "")
    assert json.loads(refused.stdout)["error"] == "SETTINGS_INVALID"
    assert list(tmp_path.iterdir()) == []


def test_what_runs_is_what_was_measured(package, tmp_path):
    """Every module of ours comes out of the package, though the same modules are installed beside it."""
    code = (
        "import sys, json; sys.path.insert(0, sys.argv[1]); import parties.wallet.app\n"
        "print(json.dumps({n: m.__file__ or '' for n, m in sys.modules.items()"
        " if n.split('.')[0] in ('parties', 'protocol', 'attestation')}))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, package], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    loaded = json.loads(done.stdout)
    assert len(loaded) > 20
    assert {name: file for name, file in loaded.items() if not file.startswith(str(package))} == {}


def test_one_changed_source_byte_changes_the_package(package):
    data = bytearray(package.read_bytes())
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entry = archive.getinfo("parties/wallet/app.py")
    data[entry.header_offset + 200] ^= 1
    assert bytes(data) != build_release()
