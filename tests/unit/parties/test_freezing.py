"""Freezing by a clerk and by an operator: the commands, what they print, and what the TSM's fetcher does by itself."""

from __future__ import annotations

import contextlib
import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from click.testing import CliRunner
from support.world import World

from parties.assembly.common import Opened
from parties.assembly.roles import bank_policy, build_tsm
from parties.branch import add_customer, reopen_pin, stops_made
from parties.cli import main
from parties.doctor import Level, examine
from parties.operator import Named, lists_held
from parties.server.stops import StopFetcher
from parties.settings import load_settings
from parties.storage.store import DatabaseStore
from protocol.engine import Peer
from protocol.envelope import Wire
from protocol.errors import AccountStopped, PurchaseUnknown, SettingsInvalid, Unavailable
from protocol.messages.stops import StopReason
from protocol.roles.bank.tables import CUSTOMERS
from protocol.roles.tsm.tables import PURCHASES, SERVICES, STOP_LISTS, Purchase, Service, StopListRow
from protocol.rows import Conflict, Decision, Insert, MemoryStore, Table, Unit
from protocol.types import Role

TID, SALE = "t-1", bytes(range(16))


def tapveil(*arguments: object) -> Any:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def answer(*arguments: object) -> Any:
    ran = tapveil(*arguments, "--json")
    assert ran.exit_code == 0, ran.output
    return json.loads(ran.stdout)


def refusal(*arguments: object) -> str:
    ran = tapveil(*arguments)
    assert ran.exit_code == 1, ran.output
    return str(ran.stderr)


@contextlib.contextmanager
def opened(settings: Path) -> Iterator[DatabaseStore]:
    store = Opened.of(load_settings(settings)).store()
    try:
        yield store
    finally:
        store.close()


def put(settings: Path, table: Table[Any], row: Any) -> None:
    with opened(settings) as store:
        store.apply(Unit((), lambda rows: Decision(writes=(Insert(table, row),))))


@pytest.fixture
def bank(env: Path) -> Path:
    return env / "bank-a/settings.toml"


@pytest.fixture
def customer(bank: Path) -> str:
    return add_customer(bank, name="Lin Wei", limit_minor=1_000, currency="TWD", passcode="wq-7351").customer


@pytest.fixture
def tsm(env: Path) -> Path:
    """A TSM with one account, and a purchase that was made with it."""
    settings = env / "tsm-1/settings.toml"
    service = Service(
        tid=TID, pk_tid=bytes(65), kid_tid=bytes(32), ek_tid=bytes(65), k_tid=bytes(32), maximum_minor=0,
        state="ACTIVE", stop="",
    )  # fmt: skip
    put(settings, SERVICES, service)
    purchase = Purchase(
        merchant="shop-1", sale=SALE, terminal="T0000001", pan_ref=bytes(32), atc_ref=bytes(32), opening_ref=bytes(32),
        tid=TID, sid_digest=bytes(32), amount_minor=1, currency="TWD", refunded_minor=0, cryptogram=bytes(8),
        decided_at_s=1, reason="", state="APPROVED", request=bytes(32), receipt_digest=bytes(32), settled=b"", claim=0,
    )  # fmt: skip
    put(settings, PURCHASES, purchase)
    return settings


# --- the bank's clerk ------------------------------------------------------------------------------------------------
def test_a_clerk_freezes_lifts_and_deletes(bank: Path, customer: str) -> None:
    frozen = answer("bank", "freeze", "--settings", bank, "--reason", "lost-phone", customer)
    assert frozen == {"customer": customer, "stop": "FROZEN"}
    with pytest.raises(AccountStopped):
        reopen_pin(bank, customer)
    text = refusal("bank", "reopen-pin", "--settings", bank, "--out", bank.parent / "word", customer)
    assert text.startswith("tapveil: ACCOUNT_STOPPED: the account is frozen or deleted")
    assert answer("bank", "unfreeze", "--settings", bank, customer) == {"customer": customer, "stop": "none"}
    deleted = answer("bank", "delete-customer", "--settings", bank, "--reason", "court-order", customer)
    assert deleted == {"customer": customer, "stop": "DELETED"}
    assert "WRONG_STATE" in refusal("bank", "unfreeze", "--settings", bank, customer)
    listed = answer("bank", "stops", "--settings", bank)["stops"]
    assert sorted((row["kind"], row["reason"], bool(row["lifted_at_s"])) for row in listed) == [
        ("DELETED", "court-order", False), ("FROZEN", "lost-phone", True)
    ]  # fmt: skip
    with opened(bank) as store:
        (row,) = store.scan(CUSTOMERS)
    assert (row.customer, row.stop, row.name) == (customer, "DELETED", "Lin Wei")


def test_stops_are_listed_for_people_too(bank: Path, customer: str) -> None:
    assert tapveil("bank", "stops", "--settings", bank).stdout == "no stops\n"
    tapveil("bank", "freeze", "--settings", bank, "--reason", "own-wish", customer)
    line = tapveil("bank", "stops", "--settings", bank).stdout
    assert line.startswith(f"{customer}  FROZEN  own-wish  since 20")
    assert line.endswith("Z  holds\n")
    tapveil("bank", "unfreeze", "--settings", bank, customer)
    assert "  until 20" in tapveil("bank", "stops", "--settings", bank).stdout
    assert "Lin Wei" not in line


@pytest.mark.parametrize("command", ["freeze", "unfreeze", "delete-customer"])
def test_a_customer_that_nobody_knows(bank: Path, command: str) -> None:
    reason = () if command == "unfreeze" else ("--reason", "fraud")
    assert refusal("bank", command, "--settings", bank, *reason, "u-0").startswith("tapveil: UNKNOWN_ACCOUNT: ")
    assert stops_made(bank) == ()


@pytest.mark.parametrize("command", [("bank", "freeze"), ("bank", "delete-customer"), ("tsm", "freeze")])
def test_a_reason_is_one_of_the_list(env: Path, command: tuple[str, str]) -> None:
    ran = tapveil(*command, "--settings", env / "x.toml", "--reason", "bad-mood", "u-0")
    assert (ran.exit_code, "must be one of" in ran.stderr) == (2, True)
    listed = "".join(tapveil(*command, "--help").stdout.split())
    assert all(reason in listed for reason in StopReason)


# --- the TSM's operator ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("named", [(TID,), ("--purchase", "shop-1", SALE.hex())])
def test_an_operator_freezes_lifts_and_deletes(tsm: Path, named: tuple[str, ...]) -> None:
    frozen = answer("tsm", "freeze", "--settings", tsm, "--reason", "fraud", *named)
    assert frozen == {"tid": TID, "stop": "FROZEN"}
    assert "WRONG_STATE" in refusal("tsm", "freeze", "--settings", tsm, "--reason", "fraud", *named)
    assert answer("tsm", "unfreeze", "--settings", tsm, *named) == {"tid": TID, "stop": "none"}
    deleted = answer("tsm", "delete", "--settings", tsm, "--reason", "crime-report", *named)
    assert deleted == {"tid": TID, "stop": "DELETED"}
    assert "WRONG_STATE" in refusal("tsm", "unfreeze", "--settings", tsm, *named)
    listed = answer("tsm", "stops", "--settings", tsm)["stops"]
    assert sorted((row["tid"], row["kind"], row["reason"]) for row in listed) == [
        (TID, "DELETED", "crime-report"), (TID, "FROZEN", "fraud")
    ]  # fmt: skip


@pytest.mark.parametrize("sale", ["", "zz", "00", bytes(16).hex()])
def test_a_purchase_that_nobody_knows(tsm: Path, sale: str) -> None:
    text = refusal("tsm", "freeze", "--settings", tsm, "--reason", "fraud", "--purchase", "shop-1", sale)
    assert text.startswith("tapveil: PURCHASE_UNKNOWN: ")
    with pytest.raises(PurchaseUnknown):
        Named(merchant="shop-1", sale=sale).find(MemoryStore())


@pytest.mark.parametrize("named", [(), (TID, "--purchase", "shop-1", SALE.hex())])
def test_an_account_is_named_once(tsm: Path, named: tuple[str, ...]) -> None:
    ran = tapveil("tsm", "freeze", "--settings", tsm, "--reason", "fraud", *named)
    assert (ran.exit_code, "by TID, or by --purchase" in ran.stderr) == (2, True)


def test_the_age_of_each_banks_list_is_shown(tsm: Path) -> None:
    assert {bank.age_s for bank in lists_held(tsm)} == {-1}
    assert tapveil("tsm", "stops", "--settings", tsm).stdout == (
        "no stops\nbank-a  list none came yet  stops 0\nbank-b  list none came yet  stops 0\n"
    )
    now_s = Opened.of(load_settings(tsm)).clock.now_s()
    put(tsm, STOP_LISTS, StopListRow(bank="bank-a", minute_s=now_s - 100))
    banks = {row["bank"]: row for row in answer("tsm", "stops", "--settings", tsm)["banks"]}
    assert 100 <= banks["bank-a"]["age_s"] < 160
    assert (banks["bank-b"]["age_s"], banks["bank-a"]["stopped"]) == (-1, 0)
    assert "bank-a  list 1" in tapveil("tsm", "stops", "--settings", tsm).stdout


@pytest.mark.parametrize(("age_s", "level"), [(290, Level.OK), (3_600, Level.WARN)])
def test_doctor_finds_a_list_that_is_too_old(tsm: Path, age_s: int, level: Level) -> None:
    now_s = Opened.of(load_settings(tsm)).clock.now_s()
    put(tsm, STOP_LISTS, StopListRow(bank="bank-a", minute_s=now_s - age_s))
    found = {finding.check: finding for finding in examine(tsm)}
    assert found["stops of bank-a"].level is level
    assert ("60 min old: purchases" in found["stops of bank-a"].what) == (level is Level.WARN)
    assert (found["stops of bank-b"].level, found["stops of bank-b"].what) == (Level.OK, "no list has come yet")


def test_doctor_leaves_a_database_that_is_not_there_to_its_own_check(tsm: Path) -> None:
    for file in tsm.parent.glob("data.db*"):
        file.unlink()
    found = {finding.check: finding.level for finding in examine(tsm)}
    assert found["database"] is Level.FAIL
    assert not [check for check in found if check.startswith("stops of")]


# --- settings --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("value", [0, 61, -1, "often", 1.5, True])
@pytest.mark.parametrize("party", ["bank-a", "tsm-1"])
def test_lists_can_come_more_often_but_not_less(env: Path, party: str, value: Any) -> None:
    path = env / party / "settings.toml"
    _set(path, stops_every_s=value)
    with pytest.raises(SettingsInvalid, match="stops_every_s must be a whole number of 1 to 60 seconds"):
        _policy(path)
    _set(path, stops_every_s=2)
    assert _policy(path).stops_every_s == 2


@pytest.mark.parametrize("value", [0, 301, "old"])
def test_a_list_may_be_believed_for_less_but_not_for_more_than_five_minutes(env: Path, value: Any) -> None:
    path = env / "tsm-1/settings.toml"
    assert _policy(path).stops_max_age_s == 300
    _set(path, stops_max_age_s=value)
    with pytest.raises(SettingsInvalid, match="stops_max_age_s must be a whole number of 1 to 300 seconds"):
        _policy(path)
    _set(path, stops_max_age_s=299)
    assert _policy(path).stops_max_age_s == 299


def _set(path: Path, **options: Any) -> None:
    plain = tomllib.loads(path.read_text())
    plain["options"] |= options
    path.write_text(tomli_w.dumps(plain))


def _policy(path: Path) -> Any:
    settings = load_settings(path)
    return bank_policy(settings) if settings.role is Role.BANK else build_tsm(Opened.of(settings)).policy


# --- the fetcher -----------------------------------------------------------------------------------------------------
@dataclass
class Banks:
    """The way to the banks of a world; some are out of reach."""

    world: World
    away: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    def call(self, peer: str, rpc: str, request: Wire) -> Wire:
        self.asked.append(peer)
        if peer in self.away:
            raise Unavailable
        return self.world.parties[peer].engine.handle(rpc, request, Peer(role=Role.TSM, name="tsm-1"))


def fetcher(world: World, banks: Banks, store: Any = None) -> StopFetcher:
    tsm = world.parties["tsm-1"]
    return StopFetcher(tsm.value, ["bank-a", "bank-b"], store or tsm.store, banks, world.clock, world.entropy)


def test_every_bank_is_asked_once_a_minute(tmp_path: Path) -> None:
    world = World(tmp_path, seed="fetch")
    banks = Banks(world)
    fetch = fetcher(world, banks)
    for second, asked in ((0, 2), (1, 2), (59, 2), (60, 4), (61, 4)):
        world.clock.time_s = 1_800_000_000 + second
        fetch.run_once()
        assert len(banks.asked) == asked
    assert sorted(banks.asked) == ["bank-a", "bank-a", "bank-b", "bank-b"]


def test_a_bank_out_of_reach_is_asked_again_and_holds_up_nobody(tmp_path: Path) -> None:
    world = World(tmp_path, seed="fetch")
    banks = Banks(world, away={"bank-a"})
    fetch = fetcher(world, banks)
    world.clock.time_s += 60
    for _ in range(3):
        fetch.run_once()
    assert sorted(banks.asked) == ["bank-a"] * 3 + ["bank-b"]
    minutes = {row.bank: row.minute_s for row in world.parties["tsm-1"].store.scan(STOP_LISTS)}
    assert minutes == {"bank-a": 1_800_000_000, "bank-b": 1_800_000_060}
    banks.away.clear()
    for _ in range(2):
        fetch.run_once()
    assert sorted(banks.asked) == ["bank-a"] * 4 + ["bank-b"]


class Contested(MemoryStore):
    """A store on which another writer was faster, once."""

    def __init__(self) -> None:
        super().__init__()
        self.lost = 0

    def apply(self, unit: Unit) -> Decision:
        if self.lost < 2:
            self.lost += 1
            raise Conflict
        return super().apply(unit)


def test_a_list_that_meets_another_writer_is_asked_for_again(tmp_path: Path) -> None:
    world = World(tmp_path, seed="fetch")
    banks, store = Banks(world), Contested()
    fetch = fetcher(world, banks, store)
    fetch.run_once()
    assert store.scan(STOP_LISTS) == ()
    fetch.run_once()
    assert {row.bank for row in store.scan(STOP_LISTS)} == {"bank-a", "bank-b"}
