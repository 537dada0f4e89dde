"""`tapveil evidence verify`, and the commands that write bundles, over files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.evidence import BANK, SHOP, TSM, Scene

from parties.cli import main
from parties.directory import write_certificate
from parties.emv_files import write_ca_key
from parties.evidence import verify_file
from parties.system import SystemClock
from protocol.codec import encode
from protocol.errors import EvidenceIncomplete
from protocol.evidence.bundle import Statement

SALE = "5a" * 16


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Of an hour ago: the command has the system's clock."""
    now_s = SystemClock().now_s() - 3600
    return Scene.play(tmp_path_factory.mktemp("world"), "evidence-files", users=1, now_s=now_s)


@pytest.fixture
def folder(scene: Scene, tmp_path: Path) -> Path:
    """The CA's certificate, an EMV CA's key, and two bundles."""
    write_certificate(tmp_path / "ca.pem", scene.root)
    (key,) = scene.tsm.value.emv_ca
    write_ca_key(tmp_path, key)
    (tmp_path / "purchase").write_bytes(scene.of_tsm().to_bytes())
    (tmp_path / "sale").write_bytes(scene.of_shop().to_bytes())
    return tmp_path


def run(*arguments: object) -> Any:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def emv_file(folder: Path) -> Path:
    (path,) = folder.glob("emv-ca.*.cbor")
    return path


def test_the_verdict_for_people(folder: Path) -> None:
    ran = run("evidence", "verify", folder / "purchase", "--ca", folder / "ca.pem")
    assert (ran.exit_code, ran.stderr) == (0, "")
    lines = ran.stdout.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        "registration    proved", "issuance        proved", "purchase        proved", "claim           proved",
        "Not proved by it:",
    ]  # fmt: skip
    assert any(line.startswith(f"  signed by       {BANK} (bank): promise, 20") for line in lines)
    assert "  amount minor    11001" in lines
    assert any("the CA's key is the bundle's own (--emv-ca)" in line for line in lines)
    for ca in (folder, emv_file(folder)):
        ran = run("evidence", "verify", folder / "purchase", "--ca", folder, "--emv-ca", ca)
        assert ran.exit_code == 0
        assert "--emv-ca" not in ran.stdout


def test_the_verdict_for_programs(folder: Path) -> None:
    ran = run("evidence", "verify", folder / "sale", "--ca", folder / "ca.pem", "--json")
    told = json.loads(ran.stdout)
    assert (ran.exit_code, told["proved"]) == (0, True)
    assert [(one["statement"], one["proved"], one["reason"]) for one in told["statements"]] == [
        ("receipt", True, ""), ("payout", True, "")
    ]  # fmt: skip
    assert told["statements"][0]["says"]["merchant"] == SHOP
    signed = told["statements"][0]["signatures"]
    assert [(one["message"], one["signer"], one["role"]) for one in signed] == [("authorization-decision", TSM, "tsm")]
    assert len(told["not_proved"]) == len(set(told["not_proved"])) == 7


def test_what_is_claimed_and_not_proved_ends_with_1(folder: Path, scene: Scene) -> None:
    bundle = replace(scene.of_tsm(), statements=(Statement.PURCHASE, Statement.CLAIM), claim=())
    (folder / "more").write_bytes(bundle.to_bytes())
    ran = run("evidence", "verify", folder / "more", "--ca", folder)
    assert ran.exit_code == 1
    assert "claim           NOT PROVED: part" in ran.stdout.splitlines()
    assert "purchase        proved" in ran.stdout.splitlines()
    assert ran.stderr == "tapveil: EVIDENCE_INCOMPLETE: claim: part.\n"
    told = json.loads(run("evidence", "verify", folder / "more", "--ca", folder, "--json").stdout)
    assert (told["error"], told["detail"], told["proved"]) == ("EVIDENCE_INCOMPLETE", "claim: part", False)


def test_another_ca_proves_nothing(folder: Path, env: Path) -> None:
    ran = run("evidence", "verify", folder / "purchase", "--ca", env / "pki", "--json")
    told = json.loads(ran.stdout)
    assert (ran.exit_code, told["error"]) == (1, "EVIDENCE_INCOMPLETE")
    assert not any(one["proved"] for one in told["statements"])
    other = run("evidence", "verify", folder / "purchase", "--ca", folder, "--emv-ca", env / "pki", "--json")
    reasons = {one["statement"]: one["reason"] for one in json.loads(other.stdout)["statements"]}
    assert (other.exit_code, reasons["issuance"]) == (1, "card-certificate (CARD_DATA_INVALID)")


def test_files_that_are_no_bundle_and_no_key(folder: Path) -> None:
    for data in (b"", b"no bundle at all", encode({}), encode([1])):
        (folder / "none").write_bytes(data)
        with pytest.raises(EvidenceIncomplete) as refusal:
            verify_file(folder / "none", folder)
        assert refusal.value.code == "EVIDENCE_INCOMPLETE"
    for name in ("none", "missing"):
        ran = run("evidence", "verify", folder / name, "--ca", folder, "--json")
        code = "EVIDENCE_INCOMPLETE" if name == "none" else "SETTINGS_INVALID"
        assert (ran.exit_code, json.loads(ran.stdout)["error"]) == (1, code)
    for data in (b"", encode({}), encode([1]), encode({"rid": b"", "index": 1, "modulus": b"\0"})):
        (folder / "key").write_bytes(data)
        ran = run("evidence", "verify", folder / "sale", "--ca", folder, "--emv-ca", folder / "key", "--json")
        assert (ran.exit_code, json.loads(ran.stdout)["error"]) == (1, "SETTINGS_INVALID")
    for ca in (folder / "sale", folder / "missing"):
        ran = run("evidence", "verify", folder / "sale", "--ca", ca, "--json")
        assert (ran.exit_code, json.loads(ran.stdout)["error"]) == (1, "SETTINGS_INVALID")


def test_nothing_is_written_of_what_was_never_bought(env: Path, tmp_path: Path) -> None:
    tsm, shop, out = env / "tsm-1/settings.toml", env / "shop-1/settings.toml", tmp_path / "bundle"
    of_tsm = ("tsm", "evidence", "--settings", tsm, "--merchant", SHOP, "--out", out, "--json")
    of_shop = ("merchant", "evidence", "--settings", shop, "--out", out, "--json")
    for arguments, code in (
        ((*of_tsm, "--sale", SALE), "PURCHASE_UNKNOWN"),
        ((*of_tsm, "--sale", SALE, "--claim", "--former", env / "pki/ca.pem"), "PURCHASE_UNKNOWN"),
        ((*of_tsm, "--sale", SALE, "--former", env / "none.pem"), "SETTINGS_INVALID"),
        ((*of_tsm, "--sale", SALE, "--settings", shop), "SETTINGS_INVALID"),
        ((*of_shop, "--sale", SALE), "PURCHASE_UNKNOWN"),
        ((*of_shop, "--sale", SALE, "--settings", tsm), "SETTINGS_INVALID"),
    ):  # fmt: skip
        ran = run(*arguments)
        assert (ran.exit_code, json.loads(ran.stdout)["error"]) == (1, code)
    for start in (of_tsm, of_shop):
        assert "32 hexadecimal digits" in run(*start, "--sale", "5a").output
    assert not out.exists()


def test_help_says_what_a_bundle_discloses() -> None:
    for group, words in (("tsm", "names no person"), ("merchant", "Nothing of an account")):
        assert words in " ".join(run(group, "evidence", "--help").output.split())
