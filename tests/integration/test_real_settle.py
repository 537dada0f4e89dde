"""Settlement between real processes: a payout that is asked for again is one payout, and the books agree after it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.proxy import FaultProxy

from parties.client import MerchantClient
from parties.wallet.paying import Place, pay
from protocol.errors import Unavailable
from protocol.messages.se import OpeningState
from protocol.roles.ledger import LEDGER, balances
from protocol.roles.merchant import SETTLEMENTS
from protocol.roles.tsm.tables import PAYOUTS

pytestmark = pytest.mark.real
PHONE, SHOP, TSM = "phone-8", "shop-1", "tsm-1"
AMOUNT = 11_000
SOON_S = 20.0


@dataclass
class Day:
    """A shop's day: sales by a phone at its reader, over a line to the TSM that can be cut."""

    town: Any
    tid: str
    till: MerchantClient
    reader: str
    line: FaultProxy

    def sell(self, amount_minor: int = AMOUNT) -> str:
        sale = self.till.start_sale(amount_minor).sale
        place = Place(reader=self.reader, seconds=SOON_S, stopped=threading.Event())
        with self.town.session(PHONE) as session:
            assert pay(session, place, tid=self.tid, ceiling_minor=amount_minor).state is OpeningState.TAPPED
        assert self.till.await_end(sale).progress.value == "APPROVED"
        return sale

    def payouts(self) -> list[int]:
        return [row.total_minor for row in self.town.rows(TSM, PAYOUTS)]

    def states(self) -> list[str]:
        return sorted(row.state for row in self.town.rows(SHOP, SETTLEMENTS))

    def balance(self, party: str, account: str) -> int:
        return balances(self.town.rows(party, LEDGER)).get((account, "TWD"), 0)


@pytest.fixture(scope="module")
def day(town) -> Iterator[Day]:
    town.running("bank-a", TSM)
    town.launched(PHONE)
    tid = town.register(PHONE, town.open_account(PHONE, name="settle"))
    town.issue(PHONE, tid, number=6)
    if SHOP in town.deployment.ready:
        town.stop(SHOP)
    reader = town.opened(SHOP).settings.option_text("reader").removeprefix("grpc:")
    with FaultProxy(town.address(SHOP, TSM)) as line, town.peer_address(SHOP, TSM, line.address):
        town.selling(SHOP)
        with MerchantClient(town.settings(SHOP)) as till:
            till.settle()  # whatever other tests sold here
            yield Day(town, tid, till, reader, line)
        town.stop(SHOP)


def test_a_day_is_settled_beside_the_running_server(town, cli, day):
    before = day.payouts()
    day.sell()
    ran = cli("merchant", "settle", "--settings", town.settings(SHOP), "--json")
    assert (ran.status, ran.json) == (
        0, {"batches": 1, "sales": 1, "refunds": 0, "totals_minor": {"TWD": AMOUNT}, "refused": []}
    )  # fmt: skip
    again = cli("merchant", "settle", "--settings", town.settings(SHOP))
    assert again.out.splitlines() == ["batches: 0", "sales: 0", "refunds: 0", "totals minor: nothing", "refused: []"]
    assert sorted(day.payouts()) == sorted([*before, AMOUNT])


def test_a_tsm_killed_before_its_answer_pays_once_and_the_same_bytes_go_again(town, cli, day):
    """The unit is committed, the answer is not out: the command says so, and the next run gets that answer."""
    day.sell()
    before, known = day.payouts(), len(asked(town))
    day.line.cut_when, cuts = town.after_next(TSM, "Tsm.SettleBatch"), day.line.cuts
    with pytest.raises(Unavailable) as caught:
        day.till.settle()
    town.until(lambda: day.line.cuts, lambda number: number > cuts)
    town.kill(TSM)
    day.line.cut_when = None
    assert caught.value.code == "UNAVAILABLE"
    refused = cli("merchant", "settle", "--settings", town.settings(SHOP), "--json")
    assert (refused.status, refused.json["error"]) == (1, "UNAVAILABLE")
    assert "EXPECT_PAYOUT" in day.states()
    town.running(TSM)
    town.until(day.states, lambda states: "EXPECT_PAYOUT" not in states)  # the server sends it again by itself
    assert sorted(day.payouts()) == sorted([*before, AMOUNT])
    digests = asked(town)[known:]
    assert len(digests) >= 2
    assert len(set(digests)) == 1
    assert day.till.settle().batches == 0


def asked(town) -> list[bytes]:
    """Digests of the settlements that the TSM answered, repeats too."""
    return [one.request.digest for one in town.captured(TSM) if one.rpc == "Tsm.SettleBatch"]


def test_books_agree_after_it_and_what_was_paid_is_not_voided(town, cli, day, tmp_path: Path):
    sale = day.sell(700)
    day.till.settle()
    refused = cli("merchant", "cancel", "--settings", town.settings(SHOP), sale, "--json")
    assert (refused.status, refused.json["error"]) == (1, "ALREADY_SETTLED")
    day.till.refund(sale, 300)
    town.until(lambda: day.till.sale(sale), lambda state: state.refunded_minor == 300)
    for party, command, other in ((SHOP, "merchant", TSM), (TSM, "tsm", SHOP)):
        ran = cli(command, "statement", "--settings", town.settings(party), "--for", other, "--out", tmp_path / party)
        assert ran.status == 0, ran.err
    for party, command, other in ((SHOP, "merchant", TSM), (TSM, "tsm", SHOP)):
        ran = cli(command, "reconcile", "--settings", town.settings(party), tmp_path / other, "--json")
        assert ran.status == 0, ran.err
        proofs = {proved["title"]: proved["compared"] for proved in ran.json["proofs"]}
        voucher = "receipts" if party == SHOP else "signed settlements"
        assert proofs[voucher] > 0
        assert all(one["own_minor"] == one["other_minor"] for one in ran.json["statements"][0]["sums"])
    owed_minor = day.balance(SHOP, f"tsm/{TSM}")
    assert owed_minor == -day.balance(TSM, f"merchant/{SHOP}") == -300  # set off against the next sales
