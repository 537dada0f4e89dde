"""One trace between real processes, from the till's purchase to the name, with the bank killed on the way."""

from __future__ import annotations

import pytest

from protocol.engine import EVIDENCE
from protocol.roles.bank.tables import TRACE_CASES
from protocol.roles.tsm.tables import TRACES

pytestmark = pytest.mark.real
PHONE, SHOP, AMOUNT = "phone-6", "shop-1", 11_000
NAME = "Ada Wongsakul"


@pytest.fixture(scope="module")
def sale(town) -> str:
    """A purchase at the till."""
    return town.bought(PHONE, SHOP, AMOUNT, account="trace")


def test_two_officers_name_the_person_to_the_merchant_and_the_log_shows_it(town, cli, sale, tmp_path):
    bank, tsm, answer = town.settings("bank-a"), town.settings("tsm-1"), tmp_path / "answer"
    about = ("tsm", "trace", "--settings", tsm, "--merchant", SHOP, "--sale", sale, "--requester", SHOP, "--json")

    def ask(*more, status: int = 0):
        ran = cli(*about, *more)
        assert ran.status == status, ran.err
        return ran.json

    def sign(officer: str, case: str, status: int = 0):
        ran = cli(
            "bank", "trace", "approve", case, "--settings", bank, "--officer", tmp_path / officer,
            "--passphrase-file", tmp_path / f"{officer}.txt", "--json",
        )  # fmt: skip
        assert ran.status == status, ran.err
        return ran.json

    for officer in ("officer-1", "officer-2"):
        (tmp_path / f"{officer}.txt").write_text(f"{officer} and a long word")
        made = cli(
            "bank", "add-officer", officer, "--settings", bank, "--out", tmp_path / officer,
            "--passphrase-file", tmp_path / f"{officer}.txt",
        )  # fmt: skip
        assert made.status == 0, made.err

    # The bank is down: the question is kept, and the same one is sent when it is back.
    town.kill("bank-a")
    assert ask("--reason", "dispute", status=1)["error"] == "UNAVAILABLE"
    (row,) = town.rows("tsm-1", TRACES)
    assert (row.state, bool(row.request)) == ("EXPECT_BANK", True)
    town.running("bank-a")
    first = ask("--reason", "dispute")
    assert first == {"case": row.case_id.hex(), "bank": "bank-a", "state": "EXPECT_OFFICERS"}
    assert ask("--reason", "curiosity", status=1)["error"] == "IDENTIFIER_TAKEN"

    case = first["case"]
    shown = cli("bank", "trace", "show", case, "--settings", bank, "--json").json
    assert (shown["merchant"], shown["amount_minor"], shown["requester"]) == (SHOP, AMOUNT, SHOP)
    assert sign("officer-1", case)["state"] == "EXPECT_OFFICERS"
    assert sign("officer-1", case, status=1)["error"] == "OFFICERS_INSUFFICIENT"
    head = cli("audit", "verify", "--settings", bank, "--json").json["head"]

    # Killed between the first verdict, the second, and the answer's being fetched: what was committed is there.
    town.kill("bank-a")
    assert sign("officer-2", case)["state"] == "ANSWERED"
    assert ask("--reason", "dispute", status=1)["error"] == "UNAVAILABLE"
    town.running("bank-a")
    town.kill("bank-a")
    town.running("bank-a")
    assert ask("--reason", "dispute", "--out", answer)["state"] == "ANSWERED"
    told = cli("audit", "open-answer", "--settings", town.settings(SHOP), answer, "--json").json
    assert (told["person"], told["bank"], told["case"], told["reason"]) == (NAME, "bank-a", case, "dispute")

    verified = cli("audit", "verify", "--settings", bank, "--head", head, "--json").json
    kinds = ("appointment", "request", "refused-request", "approval", "refusal", "answer")
    assert [verified[kind] for kind in kinds] == [2, 1, 0, 2, 0, 1]
    log = tmp_path / "log"
    cli("audit", "export", "--settings", bank, "--out", log)
    alone = cli("audit", "verify", "--file", log, "--ca", town.folder / "pki", "--head", verified["head"], "--json")
    assert (alone.status, alone.json["entries"], alone.json["bank"]) == (0, 6, "bank-a")


def test_the_name_is_told_to_nobody_else(town, sale):
    """The TSM holds the answer and can't read it; of the purchase the bank has one sealed request and digests."""
    (row,) = town.rows("tsm-1", TRACES)
    assert row.state == "ANSWERED"
    for party in ("tsm-1", SHOP):
        for name in ("data.db", "data.db-wal", "log.jsonl"):
            path = town.folder / party / name
            assert not path.exists() or NAME.encode() not in path.read_bytes()
    for name in ("data.db", "data.db-wal", "log.jsonl"):
        path = town.folder / "bank-a" / name
        assert not path.exists() or bytes.fromhex(sale) not in path.read_bytes()
    (case,) = town.rows("bank-a", TRACE_CASES)
    assert [one.digest for one in town.rows("bank-a", EVIDENCE) if one.message == "trace-request"] == [
        case.request_digest
    ]
