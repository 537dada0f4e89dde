"""A run between real processes, judged by the checker, which must notice what is planted in its records."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from parties.assembly.common import Opened
from parties.checker.report import judge
from parties.demo import demo_scenario
from parties.scenario.runner import RunRecord, run_scenario
from parties.server.capture import Capture, read_capture
from parties.settings import load_settings
from parties.storage.store import DatabaseStore
from protocol.envelope import Wire
from protocol.roles.bank.tables import CUSTOMERS, LIVE_GRANTS
from protocol.roles.se.tables import OWNERS
from protocol.roles.tsm.tables import CARDS, TERMINALS, TID_LIST
from protocol.rows import Decision, Delete, Insert, Key, Rows, Table, Unit, Update

pytestmark = pytest.mark.real
PHASES = ["INIT", "ATT", "AID", "TID", "CARD"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    return run_scenario(demo_scenario(), tmp_path_factory.mktemp("run") / "env", lambda _what: None)


@pytest.fixture
def record(finished: RunRecord, tmp_path: Path) -> Iterator[RunRecord]:
    shutil.copytree(finished.folder, tmp_path / "env")
    for settings in (tmp_path / "env").glob(
        "**/settings.toml"
    ):  # databases are named by absolute URL at load time only
        assert str(finished.folder) not in settings.read_text()
    yield replace(finished, folder=tmp_path / "env")


def test_a_good_run_is_found_good_in_the_promised_form(record: RunRecord) -> None:
    verdict = judge(record).plain()
    assert verdict["ok"]
    assert [one["id"] for one in verdict["phases"]] == PHASES
    for one in verdict["phases"]:
        assert one.keys() == {"id", "ok", "messages", "bytes", "seconds", "detail"}
        assert one["ok"]
        assert one["messages"] > 0
        assert one["bytes"] > 0
    assert {one["name"] for one in verdict["parties"]} == {
        "bank-a", "bank-b", "tsm-1", "sp-1", "phone-1", "phone-2", "shop-1", "shop-2"
    }  # fmt: skip


def store_of(record: RunRecord, party: str) -> DatabaseStore:
    return Opened.of(load_settings(record.folder / party / "settings.toml")).store()


def change(record: RunRecord, party: str, table: Table, **values: object) -> None:
    """Alter one row of a party's database."""
    store = store_of(record, party)
    row = store.scan(table)[0]

    def decide(rows: Rows) -> Decision:
        return Decision(writes=(Update(table, replace(row, **values)),))

    store.apply(Unit((Key(table, table.key_of(row)),), decide))
    store.close()


def failed(record: RunRecord) -> set[str]:
    verdict = judge(record)
    assert not verdict.ok
    return {one.phase for one in verdict.phases if not one.ok}


def test_the_checker_notices_a_phone_key_that_differs(record: RunRecord) -> None:
    change(record, "phone-1/se", OWNERS, sk_u=b"\1" * 32)
    assert "INIT" in failed(record)


def test_the_checker_notices_a_terminal_that_is_not_signed_on(record: RunRecord) -> None:
    store = store_of(record, "tsm-1")
    row = store.scan(TERMINALS)[0]
    reads = (Key(TERMINALS, (row.terminal,)),)
    store.apply(Unit(reads, lambda _rows: Decision(writes=(Delete(TERMINALS, row),))))
    store.close()
    assert failed(record) == {"INIT"}


def test_the_checker_notices_a_closed_secure_element(record: RunRecord) -> None:
    change(record, "phone-1/se", OWNERS, open=False)
    assert failed(record) == {"ATT"}


def test_the_checker_notices_credit_that_does_not_add_up(record: RunRecord) -> None:
    change(record, "bank-a", CUSTOMERS, granted_minor=1)
    assert failed(record) == {"AID"}


def test_the_checker_notices_a_grant_without_a_promise(record: RunRecord) -> None:
    store = store_of(record, "tsm-1")
    row = next(row for row in store.scan(TID_LIST) if row.state == "ACTIVE")
    write = Update(TID_LIST, replace(row, promise=row.promise[:-1] + b"\0"))
    store.apply(Unit((Key(TID_LIST, (row.sid_digest,)),), lambda _rows: Decision(writes=(write,))))
    store.close()
    assert failed(record) == {"TID"}


def test_the_checker_notices_an_invented_grant(record: RunRecord) -> None:
    store = store_of(record, "bank-a")
    row = replace(store.scan(LIVE_GRANTS)[0], aid="a-" + "0" * 32)
    store.apply(Unit((Key(LIVE_GRANTS, (row.aid,)),), lambda _rows: Decision(writes=(Insert(LIVE_GRANTS, row),))))
    store.close()
    assert failed(record) == {"TID"}


def test_the_checker_notices_a_card_that_only_the_tsm_has(record: RunRecord) -> None:
    change(record, "tsm-1", CARDS, state="CLOSED")
    assert failed(record) == {"CARD"}


def test_the_checker_notices_a_name_at_the_tsm(record: RunRecord) -> None:
    change(record, "tsm-1", TERMINALS, merchant_name="Lin Mei")
    verdict = judge(record)
    assert not verdict.ok
    assert all(one.ok for one in verdict.phases)


def test_the_checker_notices_an_altered_signature_on_the_wire(record: RunRecord) -> None:
    path = record.folder / "bank-a" / "capture.log"
    captured = list(read_capture(path))
    place = next(n for n, one in enumerate(captured) if one.rpc == "Bank.Enroll")
    cose = captured[place].request.cose
    captured[place] = replace(captured[place], request=Wire(cose=cose[:-1] + bytes([cose[-1] ^ 1])))
    path.unlink()
    capture = Capture(path)
    for one in captured:
        capture.add(one)
    capture.close()
    assert failed(record) == {"INIT"}


def test_the_checker_notices_a_missing_capture(record: RunRecord) -> None:
    (record.folder / "tsm-1" / "capture.log").unlink()
    assert {"TID", "CARD"} <= failed(record)


def test_pseudonym_tables_are_sealed_where_it_matters(record: RunRecord) -> None:
    """The raw files show the tables and their pseudonyms, but no key, no name and no card number."""
    bank, tsm = (record.folder / party / "data.db" for party in ("bank-a", "tsm-1"))
    names = {table for (table,) in sqlite3.connect(bank).execute("SELECT name FROM sqlite_master WHERE type='table'")}
    assert "anonymous_accounts" in names
    opened, raw = store_of(record, "tsm-1"), tsm.read_bytes()
    card = opened.scan(CARDS)[0]
    opened.close()
    assert card.pan.encode() not in raw
    assert card.k_ac not in raw
    assert b"Lin Mei" not in bank.read_bytes()
