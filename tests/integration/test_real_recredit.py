"""RECREDIT between real processes: another bank's credit under the same TID, drawn on together, given back apart."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.proxy import FaultProxy

from parties.branch import add_customer
from parties.client import MerchantClient, PhoneClient
from parties.wallet.paying import Place, pay
from protocol.errors import FieldMismatch, Unavailable, UnknownAccount, WrongState
from protocol.messages.se import OpeningState
from protocol.roles.bank.tables import LIVE_GRANTS
from protocol.roles.tsm.tables import SECOND_DRAWS, SERVICES, TID_LIST, TidEntry
from protocol.roles.wallet import recredit

pytestmark = pytest.mark.real
PHONE, SHOP, BANK, OTHER, PASSCODE = "phone-9", "shop-1", "bank-a", "bank-b", "wq-7351-zt"
LIMIT_MINOR = 25_000
"""Of the customer at either bank: the anonymous account gets the bucket below, 20,000."""
GRANTED_MINOR = 20_000


@dataclass
class Street:
    """A phone with little credit at two banks, and a shop."""

    town: Any
    tid: str
    till: MerchantClient
    reader: str

    @property
    def folder(self) -> Path:
        folder: Path = self.town.folder / PHONE
        return folder

    @property
    def phone(self) -> PhoneClient:
        return PhoneClient(self.folder)

    def buy(self, amount_minor: int) -> str:
        """A real tap; the sale."""
        sale = self.till.start_sale(amount_minor).sale
        place = Place(reader=self.reader, seconds=20.0, stopped=threading.Event())
        with self.town.session(PHONE) as session:
            assert pay(session, place, tid=self.tid, ceiling_minor=amount_minor).state is OpeningState.TAPPED
        ended = self.till.await_end(sale)
        assert ended.progress.value == "APPROVED", ended
        return sale

    def grants(self) -> dict[str, TidEntry]:
        return {row.bank: row for row in self.town.rows("tsm-1", TID_LIST) if row.tid == self.tid}

    def left(self) -> dict[str, int]:
        return {bank: row.aid_limit_minor - row.spent_minor for bank, row in self.grants().items()}


@pytest.fixture(scope="module")
def street(town) -> Iterator[Street]:
    town.running(BANK, OTHER, "tsm-1", f"{PHONE}/se")
    join(town, BANK)
    phone = PhoneClient(town.folder / PHONE)
    tid = phone.register(phone.open_account(passcode=PASSCODE).aid).tid
    phone.issue_cards(tid, number=6)
    town.selling(SHOP)
    reader = town.opened(SHOP).settings.option_text("reader").removeprefix("grpc:")
    with MerchantClient(town.settings(SHOP)) as till:
        yield Street(town, tid, till, reader)


def join(town: Any, bank: str) -> None:
    """INIT and the app, at one more bank."""
    person = add_customer(
        town.settings(bank), name="Lin Wei", limit_minor=LIMIT_MINOR, currency="TWD", passcode=PASSCODE
    )
    phone = PhoneClient(town.folder / PHONE, bank=bank)
    phone.enroll(person.branch_code)
    phone.install()


def test_the_tsm_asks_and_another_bank_s_credit_is_taken(town, cli, street):
    for _ in range(2):
        street.buy(9_000)
    assert street.left() == {BANK: 2_000}
    with pytest.raises(WrongState):
        town.run(PHONE, "early", lambda s: taking(s, street.tid, BANK))
    renewed = cli("wallet", "renew", "--phone", street.folder, "--tid", street.tid, "--pool", "6", "--json")
    assert renewed.json == {"tid": street.tid, "ready": 4, "issued": 2, "recredit": True}
    assert f"tapveil wallet recredit --tid {street.tid} --bank BANK" in renewed.err
    assert street.phone.status(paying=True).recredits == (street.tid,)
    with pytest.raises(UnknownAccount, match="not registered at bank-b: enroll and install there first"):
        street.phone.recredit(street.tid, bank=OTHER, passcode=PASSCODE)
    join(town, OTHER)
    with pytest.raises(FieldMismatch):
        street.phone.recredit(street.tid, bank=BANK, passcode=PASSCODE)
    taken_through_a_kill(town, cli, street)
    assert street.left() == {BANK: 2_000, OTHER: GRANTED_MINOR}
    assert {row.state for row in street.grants().values()} == {"ACTIVE"}
    assert len([row for row in town.rows("tsm-1", SERVICES) if row.tid == street.tid]) == 1
    state = street.phone.status(paying=True)
    assert {(credit.bank, credit.tid) for credit in state.credits} == {(BANK, street.tid), (OTHER, street.tid)}
    assert (state.recredits, state.tids) == ((), (street.tid,))


def taking(session: Any, tid: str, bank: str) -> Any:
    return recredit(
        session.wallet, tsm="tsm-1", tid=tid, bank=bank, software="tapveil-wallet", passcode=PASSCODE
    )  # fmt: skip


def taken_through_a_kill(town: Any, cli: Any, street: Street) -> None:
    """The TSM is killed in the second TID-3, with the bank's answer lost; the same command goes on where it was."""
    PhoneClient(street.folder, bank=OTHER).launch()
    with FaultProxy(town.address("tsm-1", OTHER)) as proxy:
        town.stop("tsm-1")
        with town.peer_address("tsm-1", OTHER, proxy.address):
            town.running("tsm-1")
            proxy.cut_when = town.after_next(OTHER, "Bank.ApproveGrant")
            with pytest.raises(Unavailable):
                street.phone.recredit(street.tid, bank=OTHER, passcode=PASSCODE)
            town.kill("tsm-1")
            assert proxy.cuts >= 1
    granted = town.rows(OTHER, LIVE_GRANTS)
    assert len(granted) == 1
    town.running("tsm-1")
    again = cli("wallet", "recredit", "--phone", street.folder, "--tid", street.tid, "--bank", OTHER, "--json")
    assert (again.status, again.json["state"], again.json["limit_minor"]) == (0, "ACTIVE", GRANTED_MINOR)
    assert [row.aid for row in town.rows(OTHER, LIVE_GRANTS)] == [street.grants()[OTHER].aid] == [granted[0].aid]


def test_a_purchase_draws_on_both_and_a_refund_goes_back_to_both(town, cli, street):
    for amount_minor in (9_000, 5_000):
        street.buy(amount_minor)
    assert street.left() == {BANK: 2_000, OTHER: 6_000}
    sale = street.buy(7_000)
    left = street.left()
    assert (sum(left.values()), 0 in left.values()) == (1_000, True)
    first = min(left, key=left.__getitem__)
    (second,) = [row for row in town.rows("tsm-1", SECOND_DRAWS) if row.sale.hex() == sale]
    assert second.amount_minor == 7_000 - {BANK: 2_000, OTHER: 6_000}[first]
    closed = cli(
        "wallet", "close", "--phone", street.folder, "--tid", street.tid, "--aid", street.grants()[BANK].aid, "--json"
    )
    assert json.loads(closed.out)["state"] == "ACTIVE"
    assert {bank: row.state for bank, row in street.grants().items()} == {BANK: "RELEASED", OTHER: "ACTIVE"}
    street.till.refund(sale, 7_000)
    town.until(street.left, lambda left: left == {BANK: 2_000, OTHER: 6_000})


def test_neither_bank_hears_of_the_other(town, street):
    """Their logs, their captured messages and their databases, as they lie on disk."""
    aids = {bank: row.aid for bank, row in street.grants().items()}
    for bank, foreign in ((BANK, OTHER), (OTHER, BANK)):
        files = [path for path in (town.folder / bank).iterdir() if path.name.startswith(("data.db", "log.jsonl"))]
        held = b"".join(path.read_bytes() for path in files)
        messages = [one.request.cose + one.reply.cose for one in town.captured(bank)]
        assert messages
        for word in (aids[foreign].encode(), street.tid.encode()):
            assert word not in held
            assert not any(word in message for message in messages)
        assert aids[bank].encode() in held
        assert foreign.encode() not in b"".join(messages)
