"""A run between real processes, judged by the checker, which must notice what is planted in its records."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from parties.assembly.common import Opened
from parties.checker.allow_list import DECIDE
from parties.checker.expected import Parties
from parties.checker.report import Material, judge, judge_material, read_material
from parties.demo import demo_scenario
from parties.scenario.runner import RunRecord, run_scenario
from parties.server.capture import Capture, read_capture
from parties.settings import load_settings
from parties.storage.store import DatabaseStore
from protocol.envelope import Wire
from protocol.roles.bank.tables import (
    AUDIT_LOG,
    CUSTOMERS,
    LIVE_GRANTS,
    PHONES,
    RECEIVED_CLAIMS,
    TRACE_CASES,
    TRACE_SIGNATURES,
)
from protocol.roles.ledger import LEDGER
from protocol.roles.merchant import SALE_REFUNDS, SALES, TERMINAL_KEYS
from protocol.roles.se.tables import OWNERS
from protocol.roles.tsm.tables import CARDS, PAYOUTS, PURCHASES, REFUNDS, SECOND_DRAWS, TERMINALS, TID_LIST
from protocol.rows import Decision, Delete, Insert, Key, Table, Unit, Update
from protocol.types import Role

pytestmark = pytest.mark.real
PHASES = ["INIT", "ATT", "AID", "TID", "CARD", "PAY", "SETTLE", "RENEW", "RECREDIT", "FREEZE", "TRACE"]


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
    assert verdict["leaks"] == []


@pytest.fixture(scope="module")
def material(finished: RunRecord) -> Material:
    return read_material(finished)


Findings = dict[str, tuple[str, ...]]
Change = Callable[[Any], dict[str, Any]]
Alter = Callable[[str, Table, Callable[[Any], Any], Change], Findings]


@pytest.fixture
def altered(material: Material) -> Alter:
    """The findings, by phase, after one row of a party's table was changed in what the checker read."""

    def alter(name: str, table: Table, which: Callable[[Any], Any], values: Change) -> Findings:
        (party,) = [one for one in material.parties.all if one.name == name]
        rows = party.of(table)
        place = next(n for n, row in enumerate(rows) if which(row))
        row = replace(rows[place], **values(rows[place]))
        changed = replace(party, rows=party.rows | {table.name: (*rows[:place], row, *rows[place + 1 :])})
        parties = Parties(tuple(changed if one is party else one for one in material.parties.all))
        verdict = judge_material(replace(material, parties=parties))
        assert not verdict.ok
        return {one.phase: one.findings for one in verdict.phases}

    return alter


def store_of(record: RunRecord, party: str) -> DatabaseStore:
    return Opened.of(load_settings(record.folder / party / "settings.toml")).store()


def to(**values: Any) -> Change:
    return lambda _row: values


def bad(findings: Findings) -> set[str]:
    return {phase for phase, found in findings.items() if found}


def failed(record: RunRecord) -> set[str]:
    verdict = judge(record)
    assert not verdict.ok
    return {one.phase for one in verdict.phases if not one.ok}


def test_the_checker_notices_a_phone_key_that_differs(altered: Alter) -> None:
    assert "INIT" in bad(altered("phone-1", OWNERS, bool, to(sk_u=b"\1" * 32)))


def test_the_checker_notices_a_terminal_that_is_not_signed_on(record: RunRecord) -> None:
    store = store_of(record, "tsm-1")
    row = store.scan(TERMINALS)[0]
    reads = (Key(TERMINALS, (row.terminal,)),)
    store.apply(Unit(reads, lambda _rows: Decision(writes=(Delete(TERMINALS, row),))))
    store.close()
    assert failed(record) == {"INIT"}


def test_the_checker_notices_a_closed_secure_element(altered: Alter) -> None:
    assert bad(altered("phone-1", OWNERS, bool, to(open=False))) == {"ATT"}


def test_the_checker_notices_credit_that_does_not_add_up(altered: Alter) -> None:
    assert bad(altered("bank-a", CUSTOMERS, bool, to(granted_minor=1))) == {"AID"}


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


def test_the_checker_notices_a_card_that_only_the_tsm_has(altered: Alter) -> None:
    assert bad(altered("tsm-1", CARDS, bool, to(state="CLOSED"))) == {"CARD", "RENEW"}


@pytest.mark.parametrize(
    ("party", "table", "change", "phase", "finding"),
    [
        ("tsm-1", PAYOUTS, lambda row: {"total_minor": row.total_minor + 1}, "SETTLE",
         "the TSM's payouts are not those that merchants hold"),
        ("bank-a", RECEIVED_CLAIMS, lambda row: {"claimed_minor": row.claimed_minor + 10_000}, "SETTLE",
         "the claims that banks accepted are not those of the TSM"),
        ("shop-1", LEDGER, lambda row: {"amount_minor": row.amount_minor + 1}, "SETTLE",
         "the ledgers of the TSM and shop-1 differ"),
        ("bank-b", LEDGER, lambda row: {"amount_minor": row.amount_minor + 1}, "SETTLE",
         "the ledgers of the TSM and bank-b differ"),
        ("tsm-1", SECOND_DRAWS, to(amount_minor=0), "RECREDIT", "a second draw is nothing, or over its grant"),
        ("bank-a", CUSTOMERS, to(stop="FROZEN"), "FREEZE", "the TSM and bank-a differ on what is stopped"),
        ("bank-a", TRACE_CASES, to(answer=b""), "TRACE",
         "a case is answered without an answer, or the other way round"),
        ("bank-a", TRACE_SIGNATURES, to(verdict="refuse"), "TRACE",
         "a person was named without two officers, or two officers signed and nobody was named"),
        ("bank-a", AUDIT_LOG, lambda row: {"signed": row.signed[:-1] + b"\0"}, "TRACE", "the log of bank-a is broken"),
    ],
)  # fmt: skip
def test_the_checker_notices_a_changed_record(
    altered: Alter, party: str, table: Table, change: Change, phase: str, finding: str
) -> None:
    assert finding in altered(party, table, bool, change)[phase]


DIFFER = "sale, receipt and the TSM's record differ at shop-1"
SPENT = "what a grant has spent is not the sum of its purchases"
BOOKED = "what purchases took is not what the ledger says of the grants"
USED = "what a card has spent is not the sum of its purchases"
NO_CARD = "the TSM approved a purchase that no card made"
TOLD = "a merchant was told something else than the TSM decided"


def paid(row: Any) -> bool:
    return row.progress == "APPROVED"


def approved(row: Any) -> bool:
    return row.state == "APPROVED"


def declined(reason: str) -> Callable[[Any], bool]:
    return lambda row: row.reason == reason


def spent(row: Any) -> bool:
    return row.spent_minor > 0


def flipped(column: str) -> Change:
    """The last byte of a column, so of a signature."""
    return lambda row: {column: getattr(row, column)[:-1] + bytes([getattr(row, column)[-1] ^ 1])}


@pytest.mark.parametrize(
    ("party", "table", "which", "values", "finding"),
    [
        ("shop-1", SALES, paid, to(amount_minor=12_001), DIFFER),
        ("shop-1", SALES, paid, to(currency="USD"), DIFFER),
        ("shop-1", SALES, paid, to(card="999910*********000X"), DIFFER),
        ("shop-1", SALES, paid, to(progress="REVERSED"), DIFFER),
        ("shop-1", SALES, paid, to(progress="DECLINED"), DIFFER),
        ("shop-1", SALES, paid, flipped("receipt"), "shop-1 has a receipt that the TSM did not sign for this sale"),
        ("shop-1", SALES, paid, to(receipt=b""), "shop-1 has an approved sale without a receipt"),
        ("shop-1", SALES, paid, to(receipt=b""), "5 sales have a receipt, 6 expected"),
        ("shop-1", SALES, paid, to(receipt=b"", progress="DECLINED"), "the TSM approved what shop-1 did not sell"),
        ("shop-1", SALES, paid, to(sale=bytes(16)), "the TSM approved what shop-1 never asked for"),
        ("shop-1", SALES, paid, to(refunded_minor=1_999), "a merchant's refunds are not those of the TSM"),
        ("shop-1", SALE_REFUNDS, bool, to(amount_minor=2_001), "a merchant's refunds are not those of the TSM"),
        ("tsm-1", REFUNDS, bool, to(amount_minor=2_001), "the refunds of a purchase do not add up"),
        ("tsm-1", TID_LIST, spent, lambda row: {"spent_minor": row.spent_minor + 1}, SPENT),
        ("tsm-1", TID_LIST, spent, to(aid_limit_minor=9_999), "a grant was overspent"),
        ("tsm-1", CARDS, spent, lambda row: {"spent_minor": row.spent_minor - 1}, USED),
        ("tsm-1", CARDS, spent, to(used=2), USED),
        ("tsm-1", CARDS, spent, to(uses=0), "a card was used more than its controls allow"),
        ("tsm-1", PURCHASES, approved, lambda row: {"amount_minor": row.amount_minor + 1}, NO_CARD),
        ("tsm-1", PURCHASES, approved, to(cryptogram=bytes(8)), NO_CARD),
        ("tsm-1", PURCHASES, approved, to(terminal="T0000009"), NO_CARD),
        ("tsm-1", PURCHASES, approved, to(state="REVERSED"), BOOKED),
        ("tsm-1", PURCHASES, approved, to(reason="DATA_INVALID"), "a purchase was declined, and was not"),
        ("tsm-1", PURCHASES, approved, to(state="PENDING"), "a purchase is PENDING"),
        ("tsm-1", PURCHASES, declined("CARD_EXPIRED"), to(reason=""), "a purchase was declined without a reason"),
        ("tsm-1", PURCHASES, declined("CARD_EXPIRED"), to(reason="CARD_INACTIVE"),
         "no purchase was declined for CARD_EXPIRED"),
        ("tsm-1", PURCHASES, declined("CARD_EXPIRED"), to(reason="VERIFICATION_MISSING"), TOLD),
        ("tsm-1", PURCHASES, declined("VERIFICATION_MISSING"), to(reason="CARD_EXPIRED"), TOLD),
        ("tsm-1", PURCHASES, declined("SIGNATURE_INVALID"), to(state="APPROVED", reason=""), NO_CARD),
    ],
)  # fmt: skip
def test_the_checker_notices_a_changed_purchase(
    altered: Alter, party: str, table: Table, which: Callable[[Any], bool],
    values: Change, finding: str,
) -> None:  # fmt: skip
    findings = altered(party, table, which, values)
    assert finding in findings["PAY"]
    assert not bad(findings) & {"INIT", "ATT", "AID"}


@pytest.mark.parametrize(
    ("reason", "finding"),
    [
        ("ATC_REUSED", "two approved purchases are of one card and one counter"),
        ("OPENING_USED", "two approved purchases are of one opening"),
    ],
)
def test_the_checker_notices_a_second_approval_of_one_tap(altered: Alter, reason: str, finding: str) -> None:
    """What the crooked counter asked for was declined; here the TSM's own record says that it was not."""
    findings = altered("tsm-1", PURCHASES, declined(reason), to(state="APPROVED", reason=""))
    assert finding in findings["PAY"]


def test_the_checker_notices_a_card_in_two_receipts(altered: Alter, material: Material) -> None:
    (other,) = [row for row in material.parties.rows(Role.MERCHANT, SALES) if row.progress == "REVERSED"]
    findings = altered("shop-1", SALES, paid, to(receipt=other.receipt))
    assert "a single-use card is in two receipts" in findings["PAY"]


def test_the_checker_reads_an_altered_amount_from_the_merchants_own_database(record: RunRecord) -> None:
    store = store_of(record, "shop-1")
    row = next(row for row in store.scan(SALES) if paid(row))
    write = Update(SALES, replace(row, amount_minor=row.amount_minor - 1))
    store.apply(Unit((Key(SALES, (row.sale,)),), lambda _rows: Decision(writes=(write,))))
    store.close()
    assert failed(record) == {"PAY"}


def plant(record: RunRecord, party: str, table: Table, row: Any, **columns: Any) -> None:
    """Other values in one row of a party's database."""
    store = store_of(record, party)
    write = Update(table, replace(row, **columns))
    store.apply(Unit((Key(table, table.key_of(row)),), lambda _rows: Decision(writes=(write,))))
    store.close()


def test_the_checker_finds_what_a_party_must_not_know_in_its_files(record: RunRecord, material: Material) -> None:
    """Planted in databases, as a column too many, and in logs; each is told with its place and not its value."""
    parties, tsm = material.parties, material.parties.tsm
    customer = parties.rows(Role.BANK, CUSTOMERS)[0]
    met = {row.pan_ref for row in tsm.of(PURCHASES) if row.merchant == "shop-1"}
    card = next(row for row in tsm.of(CARDS) if row.pan_ref in met)
    plant(record, "tsm-1", TERMINALS, tsm.of(TERMINALS)[0], merchant_name=customer.customer)
    plant(record, "bank-a", PHONES, parties.by(Role.BANK)[0].of(PHONES)[0], software=card.pan)
    plant(record, "shop-1", TERMINAL_KEYS, parties.by(Role.MERCHANT)[0].of(TERMINAL_KEYS)[0], state=card.pan)
    sales = {(shop.name, row.sale): row for shop in parties.by(Role.MERCHANT) for row in shop.of(SALES) if row.receipt}
    bought: dict[str, dict[str, Any]] = {}
    for row in tsm.of(PURCHASES):
        if (row.merchant, row.sale) in sales:
            bought.setdefault(row.tid, {})[row.merchant] = sales[row.merchant, row.sale]
    tid, at_both = next((tid, at) for tid, at in bought.items() if len(at) == 2)
    aid = next(entry.aid for entry in tsm.of(TID_LIST) if entry.tid == tid)
    for shop, sale in at_both.items():
        plant(record, shop, SALES, sale, cryptogram=b"the same mark", display=aid)
    for party, line in (("tsm-1", '{"event": "served", "code": "Lin Mei"}'), ("sp-1", f'{{"event": "{tid}"}}')):
        with (record.folder / party / "log.jsonl").open("a") as log:
            log.write(f"{line}\n")
    with sqlite3.connect(record.folder / "tsm-1" / "data.db") as database:
        database.execute("ALTER TABLE services ADD COLUMN customer_name TEXT")
    verdict = judge(record)
    assert not verdict.ok
    assert {one.partition(" what is elsewhere ")[0] for one in verdict.leaks} == {
        f"tsm-1 has a column services.customer_name, which is on no allow-list: {DECIDE}",
        "tsm-1 holds in column terminals.merchant_name", "tsm-1 holds in log code",
        "bank-a holds in column phones.software", "shop-1 holds a card number that is not sealed",
        "shop-1 holds in column sales.display", "shop-2 holds in column sales.display", "sp-1 holds in log event",
        f"sp-1 holds log event, which is on no allow-list: {DECIDE}",
        "all merchants together can tell two cards of one person by column sales.cryptogram",
    }  # fmt: skip
    assert not any(value in one for one in verdict.leaks for value in (customer.customer, tid, card.pan, "Lin Mei"))


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
