"""CN-11 between real processes: a clerk and an operator freeze by command, and a bank that is gone stops payments."""

from __future__ import annotations

import threading
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import tomli_w

from parties.client import MerchantClient
from parties.wallet.paying import Place, pay
from protocol.errors import AccountStopped
from protocol.messages.se import OpeningState
from protocol.roles.tsm.tables import PURCHASES, STOP_LISTS, TID_LIST
from protocol.roles.wallet import issue_cards

pytestmark = pytest.mark.real
PHONE, SHOP = "phone-6", "shop-1"
AMOUNT = 3_000
EVERY_S, MAX_AGE_S = 1, 15
"""The age leaves room for a machine that is busy."""
FRESH_S = 8


@dataclass
class Lane:
    """A phone with cards in front of a shop."""

    town: Any
    tid: str
    till: MerchantClient
    reader: str
    last: str = ""

    def pay(self) -> tuple[str, str]:
        """How a sale ended, and why the TSM declined it."""
        sale = self.last = self.till.start_sale(AMOUNT).sale
        place = Place(reader=self.reader, seconds=20.0, stopped=threading.Event())
        with self.town.session(PHONE) as session:
            assert pay(session, place, tid=self.tid, ceiling_minor=AMOUNT).state is OpeningState.TAPPED
        ended = self.till.await_end(sale)
        (row,) = [row for row in self.town.rows("tsm-1", PURCHASES) if row.sale.hex() == sale]
        return ended.progress.value, row.reason

    def bank_stop(self) -> str:
        """What the TSM has heard of the bank."""
        (row,) = [row for row in self.town.rows("tsm-1", TID_LIST) if row.tid == self.tid]
        return str(row.bank_stop)

    def spent_minor(self) -> int:
        (row,) = [row for row in self.town.rows("tsm-1", TID_LIST) if row.tid == self.tid]
        return int(row.spent_minor)


@pytest.fixture(scope="module")
def quick(town) -> Iterator[None]:
    """Lists come every second and are old after fifteen: nobody waits for minutes."""
    before = {}
    for party, options in (
        ("bank-a", {"stops_every_s": EVERY_S}),
        ("tsm-1", {"stops_every_s": EVERY_S, "stops_max_age_s": MAX_AGE_S}),
    ):
        path = town.settings(party)
        before[party] = path.read_text()
        plain = tomllib.loads(before[party])
        plain["options"] |= options
        path.write_text(tomli_w.dumps(plain))
        if party in town.deployment.ready:
            town.stop(party)
    town.running("bank-a", "tsm-1")
    yield
    for party, text in before.items():
        town.settings(party).write_text(text)
        if party in town.deployment.ready:
            town.stop(party)
    town.running("bank-a", "tsm-1")


@pytest.fixture(scope="module")
def lane(town, quick) -> Iterator[Lane]:
    town.launched(PHONE)
    tid = town.register(PHONE, town.open_account(PHONE, name="freeze"))
    town.issue(PHONE, tid, number=12)
    town.selling(SHOP)
    town.until(lambda: _age_s(town), lambda age_s: age_s < FRESH_S)
    reader = town.opened(SHOP).settings.option_text("reader").removeprefix("grpc:")
    with MerchantClient(town.settings(SHOP)) as till:
        yield Lane(town, tid, till, reader)
    town.stop(SHOP)


def test_a_lost_phone_is_frozen_by_its_bank_and_found_again(town, lane, cli):
    customer, bank = town.enrolled(PHONE).customer, town.settings("bank-a")
    assert lane.pay() == ("APPROVED", "")
    frozen = cli("bank", "freeze", "--settings", bank, "--reason", "lost-phone", customer, "--json")
    assert frozen.json == {"customer": customer, "stop": "FROZEN"}
    town.until(lane.bank_stop, lambda stop: stop == "FROZEN")
    spent_minor = lane.spent_minor()
    assert lane.pay() == ("DECLINED", "ACCOUNT_STOPPED")
    assert lane.spent_minor() == spent_minor
    for command in (("launch",), ("issue", "--tsm", "tsm-1", "--tid", lane.tid)):
        ran = cli("wallet", command[0], "--phone", town.folder / PHONE, "--bank", "bank-a", *command[1:])
        assert (ran.status, ran.err) == (1, (
            "tapveil: ACCOUNT_STOPPED: the account is frozen or deleted; nothing is issued: "
            "ask your bank, then the TSM, which of them stopped it.\n"
        ))  # fmt: skip
    assert cli("bank", "unfreeze", "--settings", bank, customer, "--json").json["stop"] == "none"
    town.until(lane.bank_stop, lambda stop: stop == "")
    town.launched(PHONE)
    assert lane.pay() == ("APPROVED", "")
    assert customer not in town.log("bank-a")


def test_an_account_is_frozen_by_the_tsm_for_a_purchase(town, lane, cli):
    tsm = town.settings("tsm-1")
    assert lane.pay() == ("APPROVED", "")
    named = ("--purchase", SHOP, lane.last)
    frozen = cli("tsm", "freeze", "--settings", tsm, "--reason", "fraud", *named, "--json")
    assert frozen.json == {"tid": lane.tid, "stop": "FROZEN"}
    assert lane.pay() == ("DECLINED", "ACCOUNT_STOPPED")
    with pytest.raises(AccountStopped) as refusal:
        town.run(PHONE, "frozen", lambda s: issue_cards(s.wallet, tsm="tsm-1", tid=lane.tid, number=1))
    assert refusal.value.code == "ACCOUNT_STOPPED"
    assert cli("tsm", "unfreeze", "--settings", tsm, lane.tid, "--json").json == {"tid": lane.tid, "stop": "none"}
    assert lane.pay() == ("APPROVED", "")
    listed = cli("tsm", "stops", "--settings", tsm, "--json").json
    assert [(row["tid"], row["kind"], row["reason"]) for row in listed["stops"]] == [(lane.tid, "FROZEN", "fraud")]
    assert {row["bank"]: row["age_s"] <= MAX_AGE_S for row in listed["banks"]}["bank-a"]


def test_without_its_bank_an_account_pays_nothing(town, lane):
    """The list grows old, and nothing is approved until the bank is back."""
    assert lane.pay() == ("APPROVED", "")
    town.kill("bank-a")
    town.until(lambda: _age_s(town), lambda age_s: age_s > MAX_AGE_S, seconds=40.0)
    assert lane.pay() == ("DECLINED", "STOPS_STALE")
    town.running("bank-a")
    town.until(lambda: _age_s(town), lambda age_s: age_s < FRESH_S)
    time.sleep(1.1)  # lists are looked up once a second
    assert lane.pay() == ("APPROVED", "")


def _age_s(town: Any) -> int:
    """Of the bank's list at the TSM; since 1970, if none has come yet."""
    minutes = [row.minute_s for row in town.rows("tsm-1", STOP_LISTS) if row.bank == "bank-a"]
    return int(time.time()) - max(minutes, default=0)
