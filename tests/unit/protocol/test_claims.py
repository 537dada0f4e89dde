"""SETTLE with the banks: when a claim is made, what it says, and that it is accepted once (design §3 SETTLE)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.claims import PERIOD_S, TRANCHE, Desk
from support.counter import Counter
from support.world import Phone, World

from protocol.crypto import sha256
from protocol.engine import EVIDENCE
from protocol.envelope import Wire
from protocol.errors import (
    AccountLimitReached,
    ClaimOutOfOrder,
    EvidenceIncomplete,
    Expired,
    Overloaded,
    PeerAnswerInvalid,
    PurchaseUnknown,
    Unavailable,
)
from protocol.messages.claim import ClaimAccepted
from protocol.roles.bank.claims import SubmitClaimStep
from protocol.roles.bank.party import BankPolicy
from protocol.roles.bank.tables import ANONYMOUS_ACCOUNTS, CUSTOMERS, LIVE_GRANTS, RECEIVED_CLAIMS
from protocol.roles.ledger import LEDGER, balances
from protocol.roles.tsm.claim_tree import LEAVES, prove_receipt, verify_receipt
from protocol.roles.tsm.claims import History, due_claims, history_of, make_claim, send_claim
from protocol.roles.tsm.tables import CLAIMS, PURCHASES, SECOND_DRAWS, TID_LIST, SecondDraw
from protocol.roles.wallet import close_service
from protocol.rows import Conflict, Decision, Insert, Unit, Update
from protocol.types import MAX_LIFETIME_S, MAX_SKEW_S


class Shop:
    """One phone with a grant, one counter, and the TSM's desk."""

    def __init__(self, tmp: Path, cards: int = 8) -> None:
        self.world = World(tmp, seed="claims")
        self.phone: Phone = self.world.ready()
        self.aid = self.world.account(self.phone)
        self.tid = self.world.service(self.phone, self.aid)
        self.world.cards(self.phone, self.tid, cards)
        self.counter = Counter.open(self.world)
        self.desk = Desk(self.world)

    def buy(self, amount_minor: int) -> bytes:
        return self.counter.authorize(self.counter.ask(self.phone, self.tid, amount_minor)).sale

    def close(self) -> None:
        self.world.run(self.phone, close_service(self.phone.wallet, tsm="tsm-1", tid=self.tid))

    def books(self, party: str) -> dict[tuple[str, str], int]:
        sums = balances(self.world.parties[party].store.scan(LEDGER))
        assert sum(sums.values()) == 0
        return sums

    def owed(self) -> tuple[int, int]:
        """By the bank to the TSM, as each of the two has it."""
        theirs = self.books("bank-a").get(("tsm/tsm-1", "TWD"), 0)
        return -theirs, self.books("tsm-1").get(("bank/bank-a", "TWD"), 0)

    def granted(self) -> int:
        (customer,) = self.world.parties["bank-a"].store.scan(CUSTOMERS)
        return customer.granted_minor

    def account(self) -> Any:
        (found,) = self.world.parties["bank-a"].store.scan(ANONYMOUS_ACCOUNTS)
        return found

    def amend(self, table: Any, row: Any) -> None:
        self.world.parties["tsm-1"].store.apply(Unit((), lambda rows: Decision(writes=(Update(table, row),))))


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


# --- when ------------------------------------------------------------------------------------------------------------
def test_one_claim_a_period_also_of_nothing(shop: Shop) -> None:
    desk = shop.desk
    assert desk.make() == []
    shop.world.clock.time_s += PERIOD_S - shop.world.clock.now_s() % PERIOD_S - 1
    assert desk.make() == []
    shop.world.clock.time_s += 1
    (row,) = desk.make()
    assert (row.sequence, row.claimed_minor, row.credited_minor, row.closing) == (1, 0, 0, False)
    assert desk.make() == []  # it waits for its answer
    assert [row.state for row in desk.send()] == ["ACCEPTED"]
    assert desk.make() == []
    assert desk.totals(shop.aid) == (1, 0, 0, False)
    assert [row.sequence for row in desk.next_period()] == [2]
    assert [row.sequence for row in desk.claim()] == [3]  # the operator closes the period early
    assert desk.next_period()[0].sequence == 4
    assert shop.owed() == (0, 0)


def test_all_grants_are_claimed_at_the_same_time(shop: Shop) -> None:
    world, desk = shop.world, shop.desk
    second = world.ready("phone-2", "bank-b")
    world.service(second, world.account(second, "bank-b"))
    shop.buy(12_000)
    rows = desk.next_period()
    assert len({row.made_at_s for row in rows}) == 1
    assert sorted(row.claimed_minor for row in rows) == [0, 10_000]
    assert [row.sid_digest for row in rows] == sorted(row.sid_digest for row in rows)


def test_what_the_bank_has_not_granted_yet_is_not_claimed(shop: Shop) -> None:
    entry = replace(shop.desk.entry(shop.aid), state="EXPECT_BANK_APPROVAL")
    shop.amend(TID_LIST, entry)
    assert shop.desk.make(early=True) == []


# --- how much --------------------------------------------------------------------------------------------------------
def test_whole_tranches_are_claimed_and_the_rest_is_carried(shop: Shop) -> None:
    desk, claimed = shop.desk, []
    for amount_minor in (9_999, 1, 15_000, 4_999, 1):
        shop.buy(amount_minor)
        desk.next_period()
        claimed.append(desk.totals(shop.aid)[1:3])
        spent_minor = desk.entry(shop.aid).spent_minor
        assert 0 <= spent_minor - claimed[-1][0] < TRANCHE
    assert claimed == [(0, 0), (10_000, 0), (20_000, 0), (20_000, 0), (30_000, 0)]
    assert shop.owed() == (30_000, 30_000)
    assert shop.books("tsm-1")[desk_account(shop), "TWD"] == 0


def desk_account(shop: Shop) -> str:
    return f"grant/{shop.desk.entry(shop.aid).sid_digest.hex()}"


def test_a_refund_after_a_claim_is_a_credit_note_in_the_next_one(shop: Shop) -> None:
    desk = shop.desk
    sale = shop.buy(20_000)
    desk.next_period()
    shop.counter.refund(sale, 1)
    desk.next_period()
    assert desk.totals(shop.aid) == (2, 20_000, 10_000, False)
    shop.counter.refund(sale, 4_999)
    desk.next_period()
    assert desk.totals(shop.aid) == (3, 20_000, 10_000, False)
    shop.buy(6_000)
    desk.next_period()
    assert desk.totals(shop.aid) == (4, 30_000, 10_000, False)
    assert shop.owed() == (20_000, 20_000)
    assert [entry.kind for entry in shop.world.parties["bank-a"].store.scan(LEDGER)].count("credit-note") == 1


def test_the_close_is_exact_and_frees_what_was_not_spent(shop: Shop) -> None:
    desk = shop.desk
    limit_minor = shop.account().limit_minor
    shop.buy(12_345)
    desk.next_period()
    assert (desk.totals(shop.aid), shop.granted()) == ((1, 10_000, 0, False), limit_minor)
    shop.close()
    assert desk.make() == []  # with all others, at the end of the period
    (row,) = desk.next_period()
    assert (row.closing, row.state, desk.totals(shop.aid)) == (True, "ACCEPTED", (2, 12_345, 0, True))
    assert (shop.granted(), shop.account().state, desk.entry(shop.aid).claims) == (12_345, "CLOSED", "CLOSED")
    assert shop.owed() == (12_345, 12_345)
    assert (desk.next_period(), desk.claim()) == ([], [])


def test_a_closed_account_makes_room_for_another(shop: Shop) -> None:
    """Its row stays, for disputes. So all that one customer ever had is not what counts."""
    bank = shop.world.parties["bank-a"]
    bank.value = replace(bank.value, policy=replace(bank.value.policy, max_accounts=1))
    for step in bank.steps.values():
        step._bank = bank.value
    shop.buy(12_345)
    shop.close()
    with pytest.raises(AccountLimitReached) as caught:
        shop.world.account(shop.phone)
    assert caught.value.code == "ACCOUNT_LIMIT_REACHED"
    shop.desk.next_period()
    assert shop.account().state == "CLOSED"
    aid = shop.world.account(shop.phone)
    assert {row.aid for row in bank.store.scan(ANONYMOUS_ACCOUNTS)} == {shop.aid, aid}
    with pytest.raises(AccountLimitReached):
        shop.world.account(shop.phone)


def test_after_the_close_only_refunds_are_told(shop: Shop) -> None:
    desk = shop.desk
    sale = shop.buy(12_345)
    shop.close()
    desk.next_period()
    shop.counter.refund(sale, 345)
    assert desk.make() == []
    desk.next_period()
    assert desk.totals(shop.aid) == (2, 12_345, 345, True)
    assert (shop.granted(), shop.owed()) == (12_000, (12_000, 12_000))
    assert desk.next_period() == []
    shop.counter.refund(sale, 12_000)
    desk.next_period()
    assert (desk.totals(shop.aid), shop.granted()) == ((3, 12_345, 12_345, True), 0)
    assert shop.account().state == "CLOSED"


def test_the_close_credits_what_was_claimed_too_much(shop: Shop) -> None:
    desk = shop.desk
    sale = shop.buy(20_000)
    desk.next_period()
    shop.counter.refund(sale, 19_999)
    shop.close()
    desk.next_period()
    assert (desk.totals(shop.aid), shop.owed()) == ((2, 20_000, 19_999, True), (1, 1))


def test_a_grant_that_expires_is_closed_and_no_longer_live(shop: Shop) -> None:
    desk = shop.desk
    shop.buy(5)
    shop.world.clock.time_s = desk.entry(shop.aid).aid_exp_time_s + MAX_SKEW_S - 1
    assert [row.closing for row in desk.claim()] == [False]
    shop.world.clock.time_s += 1
    assert [row.closing for row in desk.claim()] == [True]
    assert desk.totals(shop.aid) == (2, 5, 0, True)
    assert shop.world.parties["bank-a"].store.scan(LIVE_GRANTS) == ()


# --- an account again ------------------------------------------------------------------------------------------------
def test_an_unused_account_can_be_granted_again_once_it_is_closed(shop: Shop) -> None:
    desk = shop.desk
    limit_minor = shop.granted()
    shop.close()
    desk.next_period()
    assert (shop.granted(), shop.account().state) == (0, "ACTIVE")
    assert shop.world.launch(shop.phone) == ""
    shop.world.service(shop.phone, shop.aid)
    assert shop.granted() == limit_minor
    entries = [row for row in desk.store.scan(TID_LIST) if row.aid == shop.aid]
    assert sorted(row.claims for row in entries) == ["CLOSED", "OPEN"]
    assert [row.sequence for row in desk.next_period()] == [1]


# --- faults ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("fault", [Unavailable(), Overloaded(), "lost"])
def test_the_same_bytes_until_the_bank_answers(shop: Shop, fault: Any) -> None:
    desk = shop.desk
    shop.buy(12_000)
    desk.make(early=True)
    desk.faults = [fault, fault]
    for _ in range(2):
        with pytest.raises(type(fault) if isinstance(fault, Exception) else Unavailable):
            desk.send()
        assert [row.state for row in desk.rows(shop.aid)] == ["EXPECT_BANK"]
        shop.world.clock.time_s += MAX_LIFETIME_S // 2 - 1
    assert [row.state for row in desk.send()] == ["ACCEPTED"]
    assert len({wire.digest for wire in desk.sent}) == 1
    assert len(shop.world.parties["bank-a"].store.scan(RECEIVED_CLAIMS)) == 1
    assert shop.owed() == (10_000, 10_000)
    kept = [row for row in desk.store.scan(EVIDENCE) if row.message == ClaimAccepted.NAME]
    assert [row.digest for row in kept] == [desk.sent[0].digest]


@pytest.mark.parametrize("fault", [Unavailable(), "lost"])
def test_a_claim_that_outlived_its_signature_says_the_same_under_a_new_one(shop: Shop, fault: Any) -> None:
    """After a day out of reach the bytes are out of date, whether the bank had them or not."""
    desk = shop.desk
    sale = shop.buy(12_000)
    desk.make(early=True)
    desk.faults = [fault]
    with pytest.raises(Unavailable):
        desk.send()
    shop.counter.refund(sale, 12_000)
    shop.world.clock.time_s += MAX_LIFETIME_S
    (row,) = desk.send()
    first, second = desk.sent
    assert first.digest != second.digest == row.digest
    assert (row.state, row.claimed_minor, row.sequence) == ("ACCEPTED", 10_000, 1)
    assert len(shop.world.parties["bank-a"].store.scan(RECEIVED_CLAIMS)) == 1
    assert shop.owed() == (10_000, 10_000)
    assert desk.next_period()[0].credited_minor == 10_000


def test_an_answer_that_is_not_the_banks_is_none(shop: Shop) -> None:
    desk = shop.desk
    shop.buy(12_000)
    other = Desk(shop.world)
    shop.world.clock.time_s += 1
    desk.make(early=True)
    answers: list[Wire] = []

    def forged(request: Wire, answer: Wire) -> Wire:
        answers.append(answer)
        return Wire(cose=answer.cose[:-1] + bytes([answer.cose[-1] ^ 1]))

    desk.alter = forged
    before = shop.books("tsm-1")
    with pytest.raises(PeerAnswerInvalid) as caught:
        desk.send()
    assert caught.value.code == "PEER_ANSWER_INVALID"
    assert (desk.rows(shop.aid)[0].state, shop.books("tsm-1")) == ("EXPECT_BANK", before)
    assert [row.state for row in other.send()] == ["ACCEPTED"]


def test_an_acceptance_of_something_else_is_none(shop: Shop) -> None:
    """A bank that signs for less than was claimed."""
    desk, world = shop.desk, shop.world
    shop.buy(12_000)
    desk.make(early=True)
    bank = world.parties["bank-a"]
    honest = bank.steps["Bank.SubmitClaim"]

    class Stingy(SubmitClaimStep):
        def seal(self, facts: Any, reply: ClaimAccepted, stamp: Any, ctx: Any) -> Wire:
            return super().seal(facts, replace(reply, claimed_minor=0), stamp, ctx)

    world.swap_step("bank-a", Stingy(bank.value))
    with pytest.raises(PeerAnswerInvalid) as caught:
        desk.send()
    assert caught.value.detail == "FIELD_MISMATCH"
    assert desk.rows(shop.aid)[0].state == "EXPECT_BANK"
    world.swap_step("bank-a", honest)
    assert [row.state for row in desk.send()] == ["ACCEPTED"]


def test_an_answer_is_recorded_once(shop: Shop) -> None:
    """The server and the operator's command send the same claim at the same time."""
    desk = shop.desk
    shop.buy(12_000)
    (row,) = desk.make(early=True)
    now_s = shop.world.clock.now_s()
    for _ in range(2):
        sent = send_claim(desk.tsm, desk.store, desk, row, now_s, shop.world.entropy)
        assert sent.state == "ACCEPTED"
    assert shop.owed() == (10_000, 10_000)
    desk.faults = [ClaimOutOfOrder()]
    late = send_claim(desk.tsm, desk.store, desk, row, now_s, shop.world.entropy)
    assert late.state == "ACCEPTED"
    shop.world.clock.time_s += MAX_LIFETIME_S + MAX_SKEW_S + 1
    expired = send_claim(desk.tsm, desk.store, desk, row, shop.world.clock.now_s(), shop.world.entropy)
    assert expired.state == "ACCEPTED"


# --- refusals --------------------------------------------------------------------------------------------------------
def test_a_refusal_is_kept_until_the_operator_asks_again(shop: Shop) -> None:
    desk = shop.desk
    shop.buy(12_000)
    desk.make(early=True)
    desk.faults = [Expired()]
    (row,) = desk.send()
    assert (row.state, row.refusal, desk.rows(shop.aid)) == ("REFUSED", "EXPIRED", [row])
    assert shop.books("tsm-1").get(("bank/bank-a", "TWD")) is None
    assert (desk.make(early=True), desk.next_period()) == ([], [])
    shop.buy(8_000)
    (again,) = desk.make(again=True)
    assert (again.sequence, again.claimed_minor, again.root, again.state) == (1, 10_000, row.root, "EXPECT_BANK")
    assert [one.state for one in desk.send()] == ["ACCEPTED"]
    assert desk.next_period()[0].claimed_minor == 20_000


def test_totals_that_the_bank_refused_are_made_anew(shop: Shop) -> None:
    """The bank's tranche is another; the operator agrees with it and asks again."""
    world, desk = shop.world, shop.desk
    bank = world.parties["bank-a"]
    honest = bank.steps["Bank.SubmitClaim"]
    world.swap_step("bank-a", type(honest)(replace(bank.value, policy=BankPolicy(tranche_minor=15_000))))
    shop.buy(16_000)
    (row,) = desk.claim()
    assert (row.state, row.refusal) == ("REFUSED", "OVER_CLAIM")
    tsm = world.parties["tsm-1"]
    tsm.value = replace(tsm.value, policy=replace(tsm.value.policy, tranche_minor=15_000))
    desk.make(again=True)
    (again,) = desk.send()
    assert (again.state, again.claimed_minor, again.root) == ("ACCEPTED", 15_000, row.root)


def test_a_grant_that_the_bank_never_made_is_closed_by_its_refusal(shop: Shop) -> None:
    desk = shop.desk
    entry = desk.entry(shop.aid)
    stale = replace(
        entry, sid_digest=sha256(b"never"), sid=b"never", state="REFUSED", asked_at_s=shop.world.clock.now_s()
    )
    desk.store.apply(Unit((), lambda rows: Decision(writes=(Insert(TID_LIST, stale),))))
    rows = {row.sid_digest: row for row in desk.next_period()}
    assert (rows[stale.sid_digest].state, rows[stale.sid_digest].refusal) == ("REFUSED", "GRANT_UNKNOWN")
    claims = {row.sid_digest: row.claims for row in desk.store.scan(TID_LIST)}
    assert claims == {entry.sid_digest: "OPEN", stale.sid_digest: "CLOSED"}
    desk.make(again=True)
    assert [row.sid_digest for row in desk.next_period()] == [entry.sid_digest]


def test_an_honest_grant_that_the_bank_does_not_know_stays_open(shop: Shop) -> None:
    desk = shop.desk
    grant = desk.grant(shop.aid)
    bank = shop.world.parties["bank-a"]
    other = replace(grant, tsm="tsm-2")
    from protocol.roles.bank.tables import GRANTS

    bank.store.apply(Unit((), lambda rows: Decision(writes=(Update(GRANTS, other),))))
    (row,) = desk.claim()
    assert (row.refusal, desk.entry(shop.aid).claims) == ("GRANT_UNKNOWN", "OPEN")


# --- what moves while a claim is made ---------------------------------------------------------------------------------
def test_a_claim_is_made_of_what_is_there_when_it_is_stored(shop: Shop) -> None:
    world, desk = shop.world, shop.desk
    sale = shop.buy(12_000)
    now_s = world.clock.now_s()

    def made(history: History) -> Any:
        return make_claim(desk.tsm, desk.store, history, now_s, world.entropy)

    (before,) = due_claims(desk.tsm, desk.store, now_s, early=True)
    shop.buy(8_000)
    assert made(before) is None  # the grant has changed
    (seen,) = due_claims(desk.tsm, desk.store, now_s, early=True)
    row = made(seen)
    assert row.claimed_minor == 20_000
    assert made(seen) is None  # another process made it
    assert made(replace(seen, last=None, accepted=None)) is None
    desk.faults = [Expired()]
    desk.send()
    refused = history_of(desk.store, seen.entry)
    assert made(refused) is not None
    assert made(refused) is None
    assert shop.counter.row(sale).claim == 1


def test_a_claim_that_another_process_stores_at_the_same_time(shop: Shop) -> None:
    """Neither sees the other's: the second to commit meets the row."""

    def conflict() -> None:
        raise Conflict

    desk = shop.desk
    history = history_of(desk.store, desk.entry(shop.aid))
    store: Any = Meddling(desk.store, conflict)
    assert make_claim(desk.tsm, store, history, shop.world.clock.now_s(), shop.world.entropy) is None


class Meddling:
    """A store in which something happens just before a unit."""

    def __init__(self, store: Any, meddle: Any) -> None:
        self._store = store
        self._meddle = meddle

    def read(self, *reads: Any) -> Any:
        return self._store.read(*reads)

    def apply(self, unit: Unit) -> Decision:
        self._meddle()
        done: Decision = self._store.apply(unit)
        return done


@pytest.mark.parametrize("second", [False, True])
def test_a_purchase_that_changes_under_a_claim(shop: Shop, second: bool) -> None:
    """It is paid out to its merchant, or another claim takes it."""
    world, desk = shop.world, shop.desk
    sale = shop.buy(12_000)
    name = ("shop-1", sale)
    history = history_of(desk.store, desk.entry(shop.aid))
    if second:
        purchase = shop.counter.row(sale)
        draw = SecondDraw(merchant="shop-1", sale=sale, sid_digest=history.entry.sid_digest, amount_minor=1, claim=0)
        desk.store.apply(Unit((), lambda rows: Decision(writes=(Insert(SECOND_DRAWS, draw),))))
        shop.amend(PURCHASES, replace(purchase, sid_digest=bytes(32)))

    def meddle() -> None:
        if second:
            shop.amend(SECOND_DRAWS, replace(draw, claim=9))
        else:
            shop.amend(PURCHASES, replace(shop.counter.row(sale), settled=b"batch"))

    store: Any = Meddling(desk.store, meddle)
    assert make_claim(desk.tsm, store, history, world.clock.now_s(), world.entropy) is None
    assert desk.store.scan(CLAIMS) == ()
    assert name == (shop.counter.row(sale).merchant, sale)


# --- receipts ---------------------------------------------------------------------------------------------------------
def test_a_receipt_is_proved_into_its_claim(shop: Shop) -> None:
    desk = shop.desk
    sales = [shop.buy(amount_minor) for amount_minor in (100, 200, 300)]
    with pytest.raises(PurchaseUnknown) as early:
        prove_receipt(desk.store, "shop-1", sales[0])
    assert early.value.code == "PURCHASE_UNKNOWN"
    desk.next_period()
    late = shop.buy(400)
    desk.next_period()
    first, second = shop.world.parties["bank-a"].store.scan(RECEIVED_CLAIMS)
    for sale, claim in (*((sale, first) for sale in sales), (late, second)):
        proof = prove_receipt(desk.store, "shop-1", sale)
        digest = shop.counter.row(sale).receipt_digest
        assert (proof.sequence, proof.sid_digest, len(proof.path)) == (claim.sequence, claim.sid_digest, 8)
        assert verify_receipt(proof, receipt_digest=digest, root=claim.root) == digest
        other = second if claim is first else first
        for wrong, root, receipt in (
            (proof, other.root, digest),
            (proof, claim.root, sha256(b"another receipt")),
            (replace(proof, salt=bytes(32)), claim.root, digest),
            (replace(proof, position=(proof.position + 1) % LEAVES), claim.root, digest),
            (replace(proof, position=LEAVES), claim.root, digest),
            (replace(proof, path=proof.path[:-1]), claim.root, digest),
            (replace(proof, path=(*proof.path, bytes(32))), claim.root, digest),
        ):
            with pytest.raises(EvidenceIncomplete) as refused:
                verify_receipt(wrong, receipt_digest=receipt, root=root)
            assert refused.value.code == "EVIDENCE_INCOMPLETE"
    with pytest.raises(PurchaseUnknown) as unknown:
        prove_receipt(desk.store, "shop-2", sales[0])
    assert unknown.value.code == "PURCHASE_UNKNOWN"


def test_a_reversed_purchase_is_no_receipt(shop: Shop) -> None:
    sale = shop.buy(12_000)
    shop.counter.reverse(sale)
    shop.desk.next_period()
    assert (shop.counter.row(sale).claim, shop.owed()) == (0, (0, 0))


def test_a_purchase_on_two_grants_is_in_the_claims_of_both(shop: Shop) -> None:
    """RECREDIT: the second grant's claim has it too."""
    world, desk = shop.world, shop.desk
    sale = shop.buy(12_000)
    purchase = shop.counter.row(sale)
    other = world.ready("phone-2", "bank-b")
    aid = world.account(other, "bank-b")
    world.service(other, aid)
    draw = SecondDraw(merchant="shop-1", sale=sale, sid_digest=desk.entry(aid).sid_digest, amount_minor=10_000, claim=0)
    desk.store.apply(Unit((), lambda rows: Decision(writes=(Insert(SECOND_DRAWS, draw),))))
    shop.amend(TID_LIST, replace(desk.entry(aid), spent_minor=10_000))
    desk.next_period()
    for bank, of_second in (("bank-a", False), ("bank-b", True)):
        proof = prove_receipt(desk.store, "shop-1", sale, of_second=of_second)
        (received,) = world.parties[bank].store.scan(RECEIVED_CLAIMS)
        assert proof.sid_digest == received.sid_digest
        verify_receipt(proof, receipt_digest=purchase.receipt_digest, root=received.root)


def test_more_receipts_than_a_tree_holds_are_carried_and_the_close_waits_for_them(shop: Shop) -> None:
    desk = shop.desk
    sale = shop.buy(1)
    purchase = shop.counter.row(sale)
    copies = [
        replace(
            purchase, sale=number.to_bytes(16, "big"), atc_ref=sha256(b"a", bytes([number % 256, number // 256])),
            opening_ref=sha256(b"o", bytes([number % 256, number // 256])), decided_at_s=purchase.decided_at_s + number,
            receipt_digest=sha256(b"r", bytes([number % 256, number // 256])),
        )
        for number in range(1, LEAVES + 5)
    ]  # fmt: skip
    desk.store.apply(Unit((), lambda rows: Decision(writes=tuple(Insert(PURCHASES, row) for row in copies))))
    shop.close()
    (first,), (second,) = desk.next_period(), desk.next_period()
    assert [(row.sequence, row.closing) for row in (first, second)] == [(1, False), (2, True)]
    claims = [row.claim for row in desk.store.scan(PURCHASES)]
    assert (claims.count(1), claims.count(2), claims.count(0)) == (LEAVES, 5, 0)
    for row, number in ((copies[0], 1), (copies[-1], 2)):
        proof = prove_receipt(desk.store, row.merchant, row.sale)
        root = desk.rows(shop.aid)[number - 1].root
        assert proof.sequence == number
        verify_receipt(proof, receipt_digest=row.receipt_digest, root=root)
