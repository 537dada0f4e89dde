"""CN-11: nothing is issued to who is stopped, at either side, also if the stop comes while a request is on its way.

What gives credit or money back stays possible: that harms nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.attacker import refused
from support.customer import SMALL, Customer, approved
from support.meanwhile import meanwhile
from support.stopping import (
    delete_account,
    delete_customer,
    freeze_account,
    freeze_customer,
    lift_account,
    lift_customer,
    next_minute,
)
from support.world import SOFTWARE, Phone, World

from protocol.engine import Peer
from protocol.envelope import Wire
from protocol.errors import AccountStopped, NotYetValid, PaymentClosed, WrongIssuer, WrongPeer
from protocol.messages.stops import StopList
from protocol.ports import Entropy
from protocol.roles.bank.stops import Listing, ListStopsStep
from protocol.roles.bank.tables import CHALLENGES, PHONES
from protocol.roles.tsm.tables import CARDS, SERVICES, TID_LIST
from protocol.roles.wallet import attest, close_service, enroll, open_account
from protocol.rows import Decision, Rows
from protocol.types import Purpose, Role

BANK, TSM = "bank-a", "tsm-1"
Act = Callable[[World, str], None]
AT_BANK: tuple[Act, ...] = (freeze_customer, delete_customer)
AT_TSM: tuple[Act, ...] = (freeze_account, delete_account)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, seed="freeze")


@pytest.fixture
def customer(world: World) -> Customer:
    return Customer.come(world)


# --- the bank --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("stop", AT_BANK)
def test_no_phone_is_enrolled(world: World, stop: Act) -> None:
    """A branch code that was given out before goes on being refused; lifted, it works."""
    phone, code = world.add_phone("phone-1"), world.branch_code(BANK)
    (row,) = world.parties[BANK].store.scan(_customers())
    stop(world, row.customer)
    before = world.parties[BANK].store.scan(_customers())
    with pytest.raises(AccountStopped) as refusal:
        world.run(phone, enroll(phone.wallet, bank=BANK, branch_code=code))
    assert refusal.value.code == "ACCOUNT_STOPPED"
    assert world.parties[BANK].store.scan(_customers()) == before
    assert world.parties[BANK].store.scan(PHONES) == ()
    if stop is freeze_customer:
        lift_customer(world, row.customer)
        assert world.run(phone, enroll(phone.wallet, bank=BANK, branch_code=code)) == row.customer


def _customers() -> Any:
    from protocol.roles.bank.tables import CUSTOMERS

    return CUSTOMERS


@pytest.mark.parametrize("stop", AT_BANK)
@pytest.mark.parametrize("purpose", [Purpose.INSTALL, Purpose.LAUNCH])
def test_no_approval_and_no_pass(world: World, customer: Customer, stop: Act, purpose: Purpose) -> None:
    """The decision is signed, with its reason; the phone of a stopped customer closes by it."""
    phone = customer.phone
    stop(world, phone.user)
    before = world.parties[BANK].store.scan(PHONES)
    decision = world.run(phone, attest(phone.wallet, bank=BANK, purpose=purpose, software=SOFTWARE))
    assert (decision.allowed, decision.reason, decision.passes) == (False, "ACCOUNT_STOPPED", 0)
    assert world.parties[BANK].store.scan(PHONES) == before
    assert world.parties[BANK].store.scan(CHALLENGES) == ()  # its nonce is used up
    if purpose is Purpose.LAUNCH:
        with refused(world, PaymentClosed, "PAYMENT_CLOSED"):
            customer.ask()


def test_no_report_of_an_installation(world: World) -> None:
    phone = world.add_phone("phone-1")
    world.init(phone)
    assert world.run(phone, attest(phone.wallet, bank=BANK, purpose=Purpose.INSTALL, software=SOFTWARE)).allowed
    phone.application.write_bytes(b"")
    freeze_customer(world, phone.user)
    decision = world.run(phone, attest(phone.wallet, bank=BANK, purpose=Purpose.REPORT, software=SOFTWARE))
    assert (decision.allowed, decision.reason) == (False, "ACCOUNT_STOPPED")
    (row,) = world.parties[BANK].store.scan(PHONES)
    assert row.state == "EXPECT_REPORT"


def test_a_launch_is_good_again_once_the_freeze_is_lifted(world: World, customer: Customer) -> None:
    freeze_customer(world, customer.phone.user)
    assert world.launch(customer.phone) == "ACCOUNT_STOPPED"
    lift_customer(world, customer.phone.user)
    assert world.launch(customer.phone) == ""
    approved(customer, customer.ask())


def frozen_before(world: World, phone: Phone, rpc: str, act: Callable[[], None]) -> None:
    """`act` happens while this request is on its way."""
    done: list[str] = []

    def tap(peer: str, called: str, wire: Wire) -> Wire:
        if called == rpc and not done:
            done.append(rpc)
            act()
        return wire

    world.tap = tap


@pytest.mark.parametrize("stop", AT_BANK)
@pytest.mark.parametrize("rpc", ["Bank.RequestAccount", "Bank.CertifyAccount", "Bank.ActivateAccount"])
def test_no_pseudonym(world: World, customer: Customer, stop: Act, rpc: str) -> None:
    phone = customer.phone
    frozen_before(world, phone, rpc, lambda: stop(world, phone.user))
    with pytest.raises(AccountStopped) as refusal:
        world.account(phone)
    assert refusal.value.code == "ACCOUNT_STOPPED"
    assert world.calls[-1][1] == rpc


def test_a_stopped_customers_passcode_is_not_tried(world: World, customer: Customer) -> None:
    phone = customer.phone
    before = world.parties[BANK].store.scan(_customers())
    frozen_before(world, phone, "Bank.CertifyAccount", lambda: freeze_customer(world, phone.user))
    with pytest.raises(AccountStopped):
        world.run(phone, open_account(phone.wallet, bank=BANK, tsm=TSM, software=SOFTWARE, passcode="wrong"))
    (row,) = world.parties[BANK].store.scan(_customers())
    assert (replace(row, stop=""),) == before
    assert row.wrong_entries == 0


@pytest.mark.parametrize("stop", AT_BANK)
def test_no_grant(world: World, customer: Customer, stop: Act) -> None:
    """The bank says so to the TSM, which passes it on; the AID is not granted."""
    phone = customer.phone
    aid = world.account(phone)
    stop(world, phone.user)
    with pytest.raises(AccountStopped) as refusal:
        world.service(phone, aid)
    assert refusal.value.code == "ACCOUNT_STOPPED"
    assert {row.aid: row.state for row in world.parties[TSM].store.scan(TID_LIST)}[aid] == "REFUSED"
    assert [call[1] for call in world.calls[-2:]] == ["Bank.ApproveGrant", "Tsm.ProveCredit"]


def test_no_grant_if_the_freeze_is_faster(world: World, customer: Customer) -> None:
    aid = world.account(customer.phone)
    with (
        meanwhile(world, BANK, lambda: freeze_customer(world, customer.phone.user)),
        pytest.raises(AccountStopped),
    ):
        world.service(customer.phone, aid)


def test_a_grant_that_was_faster_is_on_the_list(world: World, customer: Customer) -> None:
    """The customer is frozen when the bank has promised and before the TSM has heard: no gap is between them."""
    phone = customer.phone
    aid = world.account(phone)

    def late(peer: str, rpc: str, wire: Wire) -> Wire:
        if rpc == "Bank.ApproveGrant":
            freeze_customer(world, phone.user)
            next_minute(world)
        return wire

    world.tap_reply = late
    tid = world.service(phone, aid)
    (entry,) = [row for row in world.parties[TSM].store.scan(TID_LIST) if row.aid == aid]
    assert (entry.tid, entry.state, entry.bank_stop) == (tid, "ACTIVE", "FROZEN")


# --- the TSM ---------------------------------------------------------------------------------------------------------
def by_bank(stop: Act) -> Act:
    """The bank stops the account's owner, and the TSM has heard of it."""

    def act(world: World, tid: str) -> None:
        stop(world, world.phones["phone-1"].user)
        next_minute(world)

    return act


STOPS: tuple[tuple[str, Act], ...] = (
    ("frozen here", freeze_account), ("deleted here", delete_account), ("frozen by the bank", by_bank(freeze_customer)),
    ("deleted by the bank", by_bank(delete_customer)),
)  # fmt: skip


@pytest.mark.parametrize("stop", [case[1] for case in STOPS], ids=[case[0] for case in STOPS])
@pytest.mark.parametrize("rpc", ["Tsm.RequestCards", "Tsm.IssueCards", "Tsm.ActivateCards"])
def test_no_card(world: World, customer: Customer, rpc: str, stop: Act) -> None:
    """Renewal of a stopped account: refused at each step, and no card of the batch is of use."""
    before = set(customer.cards())
    frozen_before(world, customer.phone, rpc, lambda: stop(world, customer.tid))
    with pytest.raises(AccountStopped) as refusal:
        world.cards(customer.phone, customer.tid)
    assert refusal.value.code == "ACCOUNT_STOPPED"
    assert world.calls[-1][1] == rpc
    new = [row.state for ref, row in customer.cards().items() if ref not in before]
    state = "CLOSED" if stop is delete_account else "EXPECT_ACTIVATION"
    assert new == ([state] * 2 if rpc == "Tsm.ActivateCards" else [])


@pytest.mark.parametrize("rpc", ["Tsm.RequestCards", "Tsm.IssueCards", "Tsm.ActivateCards"])
def test_cards_again_once_the_freeze_is_lifted(world: World, customer: Customer, rpc: str) -> None:
    freeze_account(world, customer.tid)
    with refused(world, AccountStopped, "ACCOUNT_STOPPED", unchanged=(TSM,)):
        world.cards(customer.phone, customer.tid)
    lift_account(world, customer.tid)
    world.cards(customer.phone, customer.tid)
    assert {row.state for row in customer.cards().values()} == {"ACTIVE"}


@pytest.mark.parametrize("rpc", ["Tsm.RequestCards", "Tsm.IssueCards", "Tsm.ActivateCards"])
def test_a_freeze_that_is_faster_than_the_decision(bench, rpc: str) -> None:
    """It is committed after the request was opened."""
    taken, _ = bench.rewind(rpc)
    tape = bench.tape
    (service,) = [row for row in tape.parties[TSM].store.scan(SERVICES) if row.tid == _tid(bench)]
    cards = tape.parties[TSM].store.scan(CARDS)
    with meanwhile(tape, TSM, lambda: freeze_account(tape, service.tid)), pytest.raises(AccountStopped) as refusal:
        tape.send_again(taken)
    assert refusal.value.code == "ACCOUNT_STOPPED"
    assert tape.parties[TSM].store.scan(CARDS) == cards


def _tid(bench: Any) -> str:
    tid: str = bench.ring.request(bench.tape.take("Tsm.IssueCards")).message.tid
    return tid


def test_no_further_credit(bench) -> None:
    """A credit proof for an account that is stopped by then, by the TSM or by the bank of a live grant."""
    for table, columns in ((SERVICES, {"stop": "FROZEN"}), (TID_LIST, {"bank_stop": "DELETED"})):
        taken, _ = bench.rewind("Tsm.ProveCredit")
        tape = bench.tape
        tape.restore({**tape.save(), "rows": _with_account(bench, table, columns)})
        bench.refused(taken, taken.wire, AccountStopped)


def _with_account(bench: Any, table: Any, columns: dict[str, Any]) -> dict[str, Any]:
    """The rows before that proof, with the account that comes of it there already, stopped, on another session."""
    tape = bench.tape
    before = tape.save()["rows"]
    end = bench.tape.take("Tsm.RequestCards").before["rows"][TSM]
    rows = {name: dict(tables) for name, tables in before.items()}
    tid = _tid(bench)
    held: dict[str, dict[Any, Any]] = {
        "services": {key: row for key, row in end["services"].items() if row.tid == tid},
        "tid_list": {
            (bytes(32),): replace(row, sid_digest=bytes(32))
            for row in end["tid_list"].values() if row.tid == tid
        },
    }  # fmt: skip
    held[table.name] = {key: replace(row, **columns) for key, row in held[table.name].items()}
    for name, found in held.items():
        rows[TSM][name] = {**rows[TSM].get(name, {}), **found}
    return rows


# --- what stays possible ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("stop", [case[1] for case in STOPS], ids=[case[0] for case in STOPS])
def test_credit_and_money_go_back(world: World, customer: Customer, stop: Act) -> None:
    counter = customer.counter
    refunded, voided = customer.make(card=0), customer.make(card=1)
    approved(customer, refunded)
    approved(customer, voided)
    stop(world, customer.tid)
    counter.refund(refunded.sale, 1_000)
    assert counter.reverse(voided.sale).amount_minor == SMALL
    assert customer.grant().spent_minor == SMALL - 1_000
    world.run(customer.phone, close_service(customer.phone.wallet, tsm=TSM, tid=customer.tid))
    assert customer.grant().state == "RELEASED"


# --- ListStops -------------------------------------------------------------------------------------------------------
def test_a_list_is_for_a_tsm(bench) -> None:
    """A certificate of another role, or another TSM's name on the transport."""
    taken, letter = bench.rewind("Bank.ListStops")
    shop = bench.tape.merchant
    bench.refused(taken, letter.written(claims={"issuer": shop.name}, key=shop.sign), WrongIssuer)
    bench.refused(taken, taken.wire, WrongPeer, caller=Peer(role=Role.TSM, name="tsm-2"))


@pytest.mark.parametrize("ahead_s", [60, 61])
def test_a_list_of_a_minute_that_has_not_come(world: World, customer: Customer, ahead_s: int) -> None:
    """It would be young enough for longer than five minutes, whatever is stopped meanwhile."""

    class Early(ListStopsStep):
        def decide(self, rows: Rows, facts: Listing, now_s: int, entropy: Entropy) -> Decision:
            return Decision(reply=StopList(minute_s=now_s + ahead_s, stops=()))

    world.clock.time_s += 1
    world.swap_step(BANK, Early(world.parties[BANK].value))
    if ahead_s <= 60:
        world.refresh_stops(anew=True)
    else:
        with refused(world, NotYetValid, "NOT_YET_VALID"):
            world.refresh_stops(anew=True)
