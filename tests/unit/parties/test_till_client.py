"""The till's client and commands, over TLS to a merchant's real server, whose store is in memory and has no lane."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from click.testing import CliRunner, Result

from parties.assembly.common import Opened
from parties.assembly.roles import STEPS, build_lane
from parties.cli import main
from parties.client import MerchantClient
from parties.links.nfc import GrpcReader
from parties.merchant.till import TRIES
from parties.server.service import Edge, PartyServer
from parties.settings import load_settings
from protocol.engine import Engine
from protocol.errors import (
    CardDataInvalid,
    IdentifierTaken,
    ProtocolError,
    PurchaseUnknown,
    SettingsInvalid,
    Unavailable,
    WrongState,
)
from protocol.messages.till import SaleProgress
from protocol.roles.merchant import SALES, TERMINAL_KEYS, SaleRow
from protocol.rows import Decision, MemoryStore, Unit, Update
from protocol.types import Role

NAME = "ab" * 16


class Served:
    """A merchant's server without its lane: sales go on as the test says."""

    def __init__(self, settings: Path) -> None:
        self.opened = Opened.of(load_settings(settings, Role.MERCHANT))
        self.store = MemoryStore()
        self.channels = self.opened.channels()
        steps = STEPS[Role.MERCHANT](self.opened)
        engine = Engine(
            steps, store=self.store, clock=self.opened.clock, entropy=self.opened.entropy, peers=self.channels
        )
        edge = Edge(engine, party=self.opened.settings.name, role=Role.MERCHANT)
        self.server = PartyServer(edge, steps, self.opened.server_tls())
        self.server.listen(self.opened.settings.mutual_listen, mutual=True)
        self.server.start()

    def row(self) -> SaleRow:
        return self.store.scan(SALES)[-1]

    def become(self, progress: str, display: str) -> None:
        row = replace(self.row(), progress=progress, display=display, lane=self.row().sale)
        self.store.apply(Unit((), lambda _rows: Decision(writes=(Update(SALES, row),))))


@pytest.fixture
def settings(env: Path) -> Path:
    return env / "shop-1/settings.toml"


@pytest.fixture
def served(settings: Path) -> Iterator[Served]:
    shop = Served(settings)
    yield shop
    shop.server.drain()
    shop.channels.close()


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["merchant", *(str(argument) for argument in arguments)])


def said(ran: Result) -> Any:
    """The one JSON object; the server in this process may have logged before it."""
    return json.loads(ran.stdout.splitlines()[-1])


def told(ran: Result) -> list[str]:
    """The lines for people, likewise without those of the server's log."""
    return [line for line in ran.stderr.splitlines() if not line.startswith("{")]


def test_a_sale_by_the_client(served: Served, settings: Path) -> None:
    with MerchantClient(settings) as client:
        state = client.start_sale(12_000)
        assert (state.progress, state.under_way, state.display) == (SaleProgress.EXPECT_TAP, True, "Present card")
        assert served.row().sale.hex() == state.sale
        with pytest.raises(WrongState):
            client.start_sale(1)
        texts: list[str] = []

        def shown(text: str) -> None:
            texts.append(text)
            if text == "Present card":
                served.become("APPROVED", "Approved")

        ended = client.await_end(state.sale, shown)
        assert (ended.progress, ended.under_way, texts) == ("APPROVED", False, ["Present card", "Approved"])
        assert client.refund(state.sale, 2_000).refunds_pending == 1
        assert client.refund(state.sale, 1, refund=NAME).refunds_pending == 2
        with pytest.raises(IdentifierTaken):
            client.refund(state.sale, 1, refund=NAME)
        with pytest.raises(WrongState):
            client.cancel(state.sale)
        with pytest.raises(CardDataInvalid):
            client.start_sale(1, currency="XXX")


def test_a_name_that_is_given_again_goes_on(served: Served, settings: Path) -> None:
    with MerchantClient(settings) as client:
        first = client.start_sale(12_000, sale=NAME)
        assert client.start_sale(12_000, sale=NAME) == first
        for amount_minor, currency in ((12_001, "TWD"), (12_000, "EUR")):
            with pytest.raises(IdentifierTaken):
                client.start_sale(amount_minor, currency=currency, sale=NAME)
        with pytest.raises(Unavailable) as caught:
            client.await_end(NAME, within_s=0.15)  # no lane works on it
        assert caught.value.code == "UNAVAILABLE"
        canceled = run("cancel", "--settings", settings, NAME, "--json")
        assert (canceled.exit_code, said(canceled)["progress"]) == (0, "CANCELED")
    assert len(served.store.scan(SALES)) == 1


@pytest.mark.parametrize("name", ["", "xy", "ab" * 15, "ab" * 17])
def test_a_name_must_be_one(settings: Path, name: str) -> None:
    with MerchantClient(settings) as client, pytest.raises(SettingsInvalid) as caught:
        client.sale(name)
    assert caught.value.code == "SETTINGS_INVALID"


def test_the_commands(served: Served, settings: Path) -> None:
    started = run("sale", "--settings", settings, "--amount", 12_000, "--sale", NAME, "--no-wait", "--json")
    assert (started.exit_code, told(started)) == (0, [f"sale: {NAME}"])
    assert said(started) == {
        "sale": NAME, "progress": "EXPECT_TAP", "amount_minor": 12_000, "currency": "TWD", "refunded_minor": 0,
        "refunds_pending": 0, "outcome": "", "display": "Present card", "card": "",
    }  # fmt: skip
    assert said(run("status", "--settings", settings, NAME, "--json"))["progress"] == "EXPECT_TAP"
    served.become("APPROVED", "Approved")
    again = run("sale", "--settings", settings, "--amount", 12_000, "--sale", NAME)
    assert (again.exit_code, told(again)) == (0, [f"sale: {NAME}", "Approved"])
    assert "progress: APPROVED\n" in again.stdout
    refunded = run("refund", "--settings", settings, NAME, "--amount", 5, "--json")
    assert said(refunded)["refunds_pending"] == 1
    refused = run("cancel", "--settings", settings, NAME, "--json")
    assert (refused.exit_code, said(refused)["error"]) == (1, "WRONG_STATE")
    served.become("DECLINED", "Not authorized")
    declined = run("sale", "--settings", settings, "--amount", 12_000, "--sale", NAME, "--json")
    assert (declined.exit_code, said(declined)["progress"]) == (1, "DECLINED")
    unknown = run("status", "--settings", settings, "cd" * 16, "--json")
    assert (unknown.exit_code, said(unknown)["error"]) == (1, PurchaseUnknown.code)


def test_a_server_that_does_not_answer_is_asked_again_and_named(settings: Path) -> None:
    with MerchantClient(settings) as client, pytest.raises(Unavailable) as caught:
        client.start_sale(1)
    assert caught.value.code == "UNAVAILABLE"
    assert TRIES > 1


def _edited(settings: Path, change: dict[str, object]) -> Path:
    plain = tomllib.loads(settings.read_text())
    for name, value in change.items():
        (plain["options"] if name in plain["options"] else plain)[name] = value
    settings.write_text(tomli_w.dumps(plain))
    return settings


def test_a_till_needs_its_servers_address(settings: Path, env: Path) -> None:
    with pytest.raises(SettingsInvalid):
        MerchantClient(_edited(settings, {"mutual_listen": ""}))
    with pytest.raises(SettingsInvalid):
        MerchantClient(env / "bank-a/settings.toml")


def test_the_lane_of_an_environment_has_its_own_reader(settings: Path, env: Path) -> None:
    opened = Opened.of(load_settings(settings, Role.MERCHANT))
    lane = build_lane(opened, MemoryStore(), opened.channels())
    assert isinstance(lane.reader, GrpcReader)
    assert not lane.run_once()
    shop = lane.shop
    assert (shop.terminal, shop.tsm, lane.terminal.merchant_name) == ("T0000001", "tsm-1", shop.merchant_name)
    addresses = [load_settings(path).mutual_listen for path in env.glob("*/settings.toml")]
    assert opened.settings.option_text("reader").removeprefix("grpc:") not in addresses
    assert TERMINAL_KEYS.name == "terminal_keys"


@pytest.mark.parametrize("change", [{"reader": "usb:1"}, {"reader": 7}, {"merchant_name": "é"}])
def test_a_lane_that_can_not_be_set_up_names_its_setting(settings: Path, change: dict[str, object]) -> None:
    opened = Opened.of(load_settings(_edited(settings, change), Role.MERCHANT))
    with pytest.raises(ProtocolError) as caught:
        build_lane(opened, MemoryStore(), opened.channels())
    assert caught.value.code == "SETTINGS_INVALID"
