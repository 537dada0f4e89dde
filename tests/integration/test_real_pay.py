"""Purchases between real processes while things break: a sale comes to one end, and money moves once or not at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from support.proxy import FaultProxy

from parties.client import MerchantClient, PhoneClient, SaleState
from parties.wallet.paying import Place, pay
from protocol.errors import PinInvalid
from protocol.messages.se import OpeningState
from protocol.roles.merchant import SALES, SaleRow
from protocol.roles.se.tables import FIELD, VIRTUAL_CARDS
from protocol.roles.tsm.tables import PURCHASES, TID_LIST, Purchase
from protocol.roles.wallet import set_pin
from protocol.rows import Decision, Key, Rows, Unit, Update

pytestmark = pytest.mark.real
PHONE, SHOP, PIN = "phone-7", "shop-1", "8265"
AMOUNT = 12_000
SOON_S = 20.0


@dataclass
class Counter:
    """A phone with cards in front of a shop whose way to the TSM can be cut."""

    town: Any
    tid: str
    till: MerchantClient
    reader: str
    line: FaultProxy

    def tap(self, amount_minor: int = AMOUNT) -> None:
        """The phone is held to the reader until a terminal has its cryptogram."""
        place = Place(reader=self.reader, seconds=SOON_S, stopped=threading.Event())
        with self.town.session(PHONE) as session:
            tapped = pay(session, place, tid=self.tid, ceiling_minor=amount_minor)
        assert tapped.state is OpeningState.TAPPED

    def row(self, sale: str) -> SaleRow:
        return next(row for row in self.town.rows(SHOP, SALES) if row.sale.hex() == sale)

    def decided(self, sale: str) -> list[Purchase]:
        """What the TSM holds under this name: a merchant and a name are a key, so one row or none."""
        return [row for row in self.town.rows("tsm-1", PURCHASES) if row.sale.hex() == sale]

    def spent_minor(self) -> int:
        return sum(entry.spent_minor for entry in self.town.rows("tsm-1", TID_LIST) if entry.tid == self.tid)

    def requests(self) -> list[bytes]:
        """Digests of the authorizations that the TSM answered, repeats too."""
        return [one.request.digest for one in self.town.captured("tsm-1") if one.rpc == "Tsm.Authorize"]

    def until(self, sale: str, progress: str) -> SaleState:
        return self.town.until(lambda: self.till.sale(sale), lambda state: state.progress.value == progress)


@pytest.fixture(scope="module")
def counter(town) -> Iterator[Counter]:
    town.running("bank-a", "tsm-1")
    town.launched(PHONE)
    tid = town.register(PHONE, town.open_account(PHONE, name="pay"))
    town.issue(PHONE, tid, number=8)
    with town.session(PHONE) as session:
        assert session.once(set_pin(session.wallet, old="", new=PIN, personal=())).state == "ACTIVE"
    if SHOP in town.deployment.ready:
        town.stop(SHOP)
    reader = town.opened(SHOP).settings.option_text("reader").removeprefix("grpc:")
    with FaultProxy(town.address(SHOP, "tsm-1")) as line, town.peer_address(SHOP, "tsm-1", line.address):
        town.running(SHOP)
        with MerchantClient(town.settings(SHOP)) as till:
            yield Counter(town, tid, till, reader, line)
        town.stop(SHOP)


def test_above_the_limit_the_first_tap_asks_for_the_pin_and_the_second_pays(town, counter):
    phone, amount_minor = PhoneClient(town.folder / PHONE), 45_000
    sale = counter.till.start_sale(amount_minor).sale
    asked = phone.pay(counter.tid, ceiling_minor=amount_minor, reader=counter.reader)
    assert (asked.state, asked.amount_minor, asked.merchant_name) == ("EXPECT_PIN", amount_minor, "Shop 1")
    waiting = town.until(lambda: counter.till.sale(sale), lambda state: state.outcome == "TRY_AGAIN")
    assert (waiting.progress.value, waiting.display) == ("EXPECT_TAP", "See phone for instructions")
    assert counter.decided(sale) == []
    with pytest.raises(PinInvalid) as refused:
        phone.confirm(asked, pin="9999", reader=counter.reader)
    assert refused.value.code == "PIN_INVALID"
    assert phone.confirm(asked, pin=PIN, reader=counter.reader).state == "TAPPED"
    ended = counter.till.await_end(sale)
    assert (ended.progress.value, ended.display) == ("APPROVED", "Approved")
    (row,) = counter.decided(sale)
    assert (row.state, row.amount_minor, row.terminal, row.tid) == ("APPROVED", amount_minor, "T0000001", counter.tid)
    assert counter.spent_minor() == amount_minor
    assert [card.state for card in town.rows(f"{PHONE}/se", VIRTUAL_CARDS)].count("SPENT") == 1


def test_an_answer_lost_with_the_tsm_killed_is_asked_for_again_and_is_one_purchase(town, counter):
    before_minor, known = counter.spent_minor(), len(counter.requests())
    counter.line.cut_when, cuts = town.after_next("tsm-1", "Tsm.Authorize"), counter.line.cuts
    sale = counter.till.start_sale(AMOUNT).sale
    counter.tap()
    town.until(lambda: counter.line.cuts, lambda number: number > cuts)
    town.kill("tsm-1")
    counter.line.cut_when = None
    assert counter.till.sale(sale).progress.value == "EXPECT_DECISION"
    town.running("tsm-1")
    assert counter.till.await_end(sale).progress.value == "APPROVED"
    (row,) = counter.decided(sale)
    assert (row.state, counter.spent_minor()) == ("APPROVED", before_minor + AMOUNT)
    assert counter.row(sale).receipt
    asked = counter.requests()[known:]
    assert len(asked) >= 2
    assert len(set(asked)) == 1


def test_a_merchant_killed_between_tap_and_answer_goes_on_to_one_decision(town, counter):
    before_minor = counter.spent_minor()
    counter.line.cut_when, cuts = town.after_next("tsm-1", "Tsm.Authorize"), counter.line.cuts
    sale = counter.till.start_sale(AMOUNT).sale
    counter.tap()
    town.until(lambda: counter.line.cuts, lambda number: number > cuts)
    town.kill(SHOP)
    counter.line.cut_when = None
    assert counter.row(sale).progress == "EXPECT_DECISION"
    town.running(SHOP)
    assert counter.till.await_end(sale).progress.value == "APPROVED"
    assert counter.row(sale).receipt
    assert [row.state for row in counter.decided(sale)] == ["APPROVED"]
    assert counter.spent_minor() == before_minor + AMOUNT


def test_a_sale_without_an_answer_is_declined_and_reversed_until_the_tsm_acknowledges(town, counter):
    before_minor = counter.spent_minor()
    answered, cuts = town.after_next("tsm-1", "Tsm.Authorize"), counter.line.cuts
    counter.line.cut_when = answered  # and from then on nothing comes through
    sale = counter.till.start_sale(AMOUNT).sale
    counter.tap()
    town.until(lambda: counter.line.cuts, lambda number: number > cuts)
    assert [row.state for row in counter.decided(sale)] == ["APPROVED"]
    past(town, counter.row(sale))
    ended = counter.until(sale, "EXPECT_REVERSAL")
    assert ended.display == "Not authorized"
    cuts = counter.line.cuts
    town.until(lambda: counter.line.cuts, lambda number: number > cuts)  # it goes on asking
    assert counter.till.sale(sale).progress.value == "EXPECT_REVERSAL"
    counter.line.cut_when = None
    counter.until(sale, "REVERSED")
    assert [row.state for row in counter.decided(sale)] == ["REVERSED"]
    assert (counter.spent_minor(), counter.row(sale).receipt) == (before_minor, b"")


def past(town, sale: SaleRow) -> None:
    """The time to wait for a decision is over: twenty seconds are long in a test."""

    def decide(rows: Rows) -> Decision:
        row = rows.get(SALES, sale.sale)
        assert row is not None
        assert row.progress == "EXPECT_DECISION"
        return Decision(writes=(Update(SALES, replace(row, deadline_s=1)),))

    with town.store(SHOP) as store:
        store.apply(Unit((Key(SALES, (sale.sale,)),), decide))


def test_a_phone_that_nobody_taps_says_so_and_closes_its_card(town, cli, counter):
    refused = cli(
        "wallet", "pay", "--phone", town.folder / PHONE, "--tid", counter.tid, "--ceiling", str(AMOUNT),
        "--reader", counter.reader, "--seconds", "1", "--json",
    )  # fmt: skip
    assert refused.status == 1
    assert refused.json == {"error": "UNAVAILABLE", "detail": "no terminal tapped"}
    (line,) = refused.err.splitlines()
    assert line.startswith("tapveil: UNAVAILABLE: no terminal tapped.")
    assert [row.state for row in town.rows(f"{PHONE}/se", FIELD)] == ["CLOSED"]
