"""Evidence out of real processes: written by the TSM and a shop, verified where nothing is but the CA's certificate."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest

from protocol.roles.tsm.tables import TID_LIST

pytestmark = pytest.mark.real
PHONE, SHOP, TSM, AMOUNT = "phone-7", "shop-1", "tsm-1", 11_000


@pytest.fixture(scope="module")
def sale(town) -> str:
    """A purchase at the till."""
    return town.bought(PHONE, SHOP, AMOUNT, account="evidence")


@pytest.fixture
def alone(town, tmp_path) -> Path:
    """Somebody else's folder: the CA's certificate, and nothing more."""
    folder = tmp_path / "auditor"
    folder.mkdir()
    shutil.copy(town.folder / "pki/ca.pem", folder / "ca.pem")
    return folder


def test_a_purchase_and_its_claim_are_proved_to_whoever_has_the_ca(town, cli, sale, alone):
    bundle, emv_ca = alone / "purchase", next((town.folder / "pki").glob("emv-ca.*.cbor"))
    about = ("tsm", "evidence", "--settings", town.settings(TSM), "--merchant", SHOP, "--sale", sale, "--out", bundle)
    early = cli(*about, "--claim", "--json")
    assert (early.status, early.json["error"]) == (1, "PURCHASE_UNKNOWN")
    assert not bundle.exists()
    cli("tsm", "claim", "--settings", town.settings(TSM), "--now", "--json")
    written = cli(*about, "--claim", "--json")
    assert (written.status, written.json["claims"]) == (0, ["registration", "issuance", "purchase", "claim"])
    assert stat.S_IMODE(bundle.stat().st_mode) == 0o600

    verify = ("evidence", "verify", bundle, "--ca", alone / "ca.pem")
    ran = cli(*verify, "--json")
    assert (ran.status, ran.json["proved"]) == (0, True)
    says = {one["statement"]: one["says"] for one in ran.json["statements"] if one["proved"]}
    assert (says["purchase"]["merchant"], says["purchase"]["amount_minor"]) == (SHOP, AMOUNT)
    assert (says["registration"]["bank"], says["claim"]["bank"]) == ("bank-a", "bank-a")
    named = ran.json["not_proved"]
    assert any("--emv-ca" in limit for limit in named)
    assert any("who the person" in limit for limit in named)
    known = cli(*verify, "--emv-ca", emv_ca, "--json")
    assert known.status == 0
    assert not any("--emv-ca" in limit for limit in known.json["not_proved"])

    data = bundle.read_bytes()
    bundle.write_bytes(data[:-100] + bytes([data[-100] ^ 1]) + data[-99:])
    spoiled = cli(*verify, "--json")
    assert (spoiled.status, spoiled.json["error"]) == (1, "EVIDENCE_INCOMPLETE")


def test_a_shop_proves_its_sale_and_its_payout_while_the_tsm_is_down(town, cli, sale, alone):
    bundle = alone / "sale"
    about = ("merchant", "evidence", "--settings", town.settings(SHOP), "--sale", sale, "--out", bundle)
    assert cli("merchant", "settle", "--settings", town.settings(SHOP), "--json").status == 0
    town.stop(TSM)
    try:
        written = cli(*about, "--json")
        assert (written.status, written.json["claims"]) == (0, ["receipt", "payout"])
        ran = cli("evidence", "verify", bundle, "--ca", alone / "ca.pem")
    finally:
        town.running(TSM)
    assert ran.status == 0, ran.err
    lines = ran.out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith(("receipt", "payout"))] == ["proved", "proved"]
    assert "Not proved by it:" in lines
    for grant in town.rows(TSM, TID_LIST):  # no account is named
        assert grant.aid.encode() not in bundle.read_bytes()
        assert grant.tid.encode() not in bundle.read_bytes()
