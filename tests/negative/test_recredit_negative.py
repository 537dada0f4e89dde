"""RECREDIT: when the TSM asks, what the SE takes for its asking, and what it is answered with (design §3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.attacker import ANY, ForeignTid, Owner, command, nonce, read, refused, request_of, swap, unseal
from support.customer import amend
from support.meanwhile import meanwhile
from support.two_banks import BANK, OTHER, TSM, Person
from support.world import World

from protocol import cose, envelope
from protocol.crypto import PrivateKey
from protocol.engine import EVIDENCE, Context, Incoming
from protocol.envelope import Signer, Stamp, Wire
from protocol.errors import (
    AccountStopped,
    Expired,
    FieldMismatch,
    LifetimeTooLong,
    LimitExceeded,
    NoCard,
    NonceMismatch,
    PassInvalid,
    PaymentClosed,
    ProtocolError,
    Replay,
    SignatureInvalid,
    UnknownAccount,
    UnknownSession,
    WrongAudience,
    WrongIssuer,
    WrongMessage,
    WrongState,
)
from protocol.messages.se import (
    SealedRequest,
    SeBankInfo,
    SeGenerateCardKeys,
    SeMakeBankInfo,
    SeOpenService,
    SeService,
    Statement,
)
from protocol.messages.service import BankInfo, GrantRequest, RecreditOffer, TidCertificate
from protocol.roles.bank.tables import ANONYMOUS_ACCOUNTS
from protocol.roles.se.tables import ACCOUNTS, GRANTS, OWNERS, RECREDITS, SERVICE_KEYS, VIRTUAL_CARDS
from protocol.roles.tsm.cards import ActivateCardsStep, Activating
from protocol.roles.tsm.party import Tsm
from protocol.roles.tsm.register import ProveCreditStep
from protocol.roles.tsm.tables import CARDS, SERVICES, TID_LIST
from protocol.roles.wallet import close_service, issue_cards, renew_cards
from protocol.rows import Decision, Unit, Update

FLOOR_MINOR = 100_000
"""A fifth of the 500,000 that the first bank granted."""


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, seed="recredit")


def bank_info(person: Person, aid: str) -> SeBankInfo:
    message = SeMakeBankInfo(tid=person.tid, aid=aid, reply=b"", nonce1=nonce(person.world))
    return command(person.world, person.phone, "MakeBankInfo", message, SeBankInfo)


def proof(person: Person, aid: str) -> Wire:
    """TID-2 under the offer that waits: what goes to the TSM."""
    bank_info(person, aid)
    return request_of(person.world, person.phone, person.tid, Statement.CREDIT_PROOF)


def accept(person: Person, reply: Wire) -> SeService:
    message = SeOpenService(tid=person.tid, reply=reply.cose)
    return command(person.world, person.phone, "OpenService", message, SeService)


def renew(person: Person, number: int = 1) -> bool:
    """Cards are issued: does the TSM ask?"""
    flow = issue_cards(person.phone.wallet, tsm=TSM, tid=person.tid, number=number)
    return person.world.run(person.phone, flow).recredit


# --- when the TSM asks ---------------------------------------------------------------------------------------------
def test_it_asks_below_a_fifth_of_what_was_granted(world: World) -> None:
    person = Person.come(world)
    person.leave(BANK, FLOOR_MINOR)
    assert not renew(person)
    assert person.shown().recredits == ()
    person.leave(BANK, FLOOR_MINOR - 1)
    assert renew(person)
    assert person.shown().recredits == (person.tid,)
    assert person.offer().expires_at_s == world.clock.now_s() + 24 * 3600


def test_the_tsm_keeps_nothing_of_its_question(world: World) -> None:
    person = Person.come(world)
    store = world.parties[TSM].store
    kept = [store.scan(table) for table in (SERVICES,)]
    person.leave(BANK, 1)
    grants = store.scan(TID_LIST)
    assert renew(person)
    assert ([store.scan(SERVICES)], store.scan(TID_LIST)) == (kept, grants)


def test_what_both_banks_left_counts_together(world: World) -> None:
    person = Person.with_two(world)
    assert not renew(person)
    person.leave(OTHER, 2 * FLOOR_MINOR - 5_000)
    assert not renew(person)
    person.leave(OTHER, 2 * FLOOR_MINOR - 5_001)
    assert renew(person)


def test_nobody_who_is_stopped_is_asked(world: World) -> None:
    """A stop that comes while cards are being issued."""
    person = Person.come(world)
    person.leave(BANK, 1)
    world.tap = lambda peer, rpc, wire: _stopping(world, rpc, wire)
    with pytest.raises(AccountStopped) as caught:
        renew(person)
    assert caught.value.code == "ACCOUNT_STOPPED"
    assert person.shown().recredits == ()


def _stopping(world: World, rpc: str, wire: Wire) -> Wire:
    if rpc == "Tsm.ActivateCards":
        amend(world, TSM, TID_LIST, bank_stop="frozen")
    return wire


def test_no_more_grants_than_the_policy_allows_are_asked_for_or_taken(world: World) -> None:
    person = Person.asked(world)
    tsm = world.parties[TSM].value
    one = replace(tsm, policy=replace(tsm.policy, max_grants=1))
    swap(world, TSM, ActivateCardsStep, one)
    swap(world, TSM, ProveCreditStep, one)
    assert not renew(person)
    with pytest.raises(LimitExceeded) as caught:
        person.recredit()
    assert caught.value.code == "LIMIT_EXCEEDED"
    assert set(person.grants()) == {BANK}


# --- the offer -----------------------------------------------------------------------------------------------------
class Offers:
    """A TSM whose next offer is as a test says."""

    def __init__(self, person: Person) -> None:
        self.person, self.world = person, person.world
        self.keys = self.world.parties[TSM].value.keys
        self.made: bytes = b""
        offers = self

        class Offering(ActivateCardsStep):
            def prepare(self, incoming: Incoming[Activating], ctx: Context) -> Incoming[Activating]:
                made = super().prepare(incoming, ctx)
                offers.made = offers.change(made.facts.recredit)
                return replace(made, facts=replace(made.facts, recredit=offers.made))

        swap(self.world, TSM, Offering)

    def change(self, offer: bytes) -> bytes:
        return offer

    def signed(
        self, offer: bytes, *, key: PrivateKey | None = None, issuer: str = TSM, audience: str = "", life_s: int = 3600,
        **changes: Any,
    ) -> bytes:  # fmt: skip
        message = replace(RecreditOffer.from_bytes(envelope.peek(RecreditOffer, offer).payload), **changes)
        return envelope.sign(
            Signer(name=issuer, key=key or self.keys.sign), message, audience=audience or self.person.tid,
            stamp=Stamp.fresh(self.world.clock.now_s(), self.world.entropy), lifetime_s=life_s,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"tid": "t-other"}, FieldMismatch), ({"n_u": bytes(32)}, NonceMismatch),
        ({"audience": "t-other"}, WrongAudience), ({"issuer": "tsm-2"}, WrongIssuer),
        ({"life_s": 25 * 3600}, LifetimeTooLong),
    ],
)  # fmt: skip
def test_an_offer_is_for_this_tid_in_this_exchange(
    world: World, changes: dict[str, Any], error: type[ProtocolError]
) -> None:
    class Altering(Offers):
        def change(self, offer: bytes) -> bytes:
            return self.signed(offer, **changes)

    _refused_offer(world, Altering, error)


def test_an_offer_is_for_this_se_s_own_key(world: World) -> None:
    class Altering(Offers):
        def change(self, offer: bytes) -> bytes:
            return self.signed(offer, pk_tid=self.world.key().public.encoded)

    _refused_offer(world, Altering, FieldMismatch)


def test_an_offer_is_signed_by_the_tsm(world: World) -> None:
    class Forging(Offers):
        def change(self, offer: bytes) -> bytes:
            return self.signed(offer, key=self.world.key())

    _refused_offer(world, Forging, SignatureInvalid)


def test_another_object_is_no_offer(world: World) -> None:
    class Other(Offers):
        def change(self, offer: bytes) -> bytes:
            message = TidCertificate(
                tid=self.person.tid, pk_tid=self.world.key().public.encoded, expires_at_s=self.world.clock.now_s()
            )
            stamp = Stamp.fresh(self.world.clock.now_s(), self.world.entropy)
            return envelope.sign(self.keys.signer, message, audience=self.person.tid, stamp=stamp)

    _refused_offer(world, Other, WrongMessage)


def test_garbage_is_no_offer(world: World) -> None:
    class Garbage(Offers):
        def change(self, offer: bytes) -> bytes:
            return b"\0"

    _refused_offer(world, Garbage, WrongMessage)


def _refused_offer(world: World, offers: type[Offers], error: type[ProtocolError]) -> None:
    """The SE takes neither the offer nor the answer that brings it."""
    person = Person.come(world)
    person.leave(BANK, 1)
    offers(person)
    cards = len(person.shown().cards)
    with pytest.raises(error) as caught:
        renew(person)
    assert (type(caught.value), caught.value.code) == (error, error.code)
    assert person.phone.party.store.scan(RECREDITS) == ()
    assert len(person.shown().cards) == cards


def test_a_new_offer_takes_the_place_of_one_that_was_not_used(world: World) -> None:
    person = Person.asked(world)
    first = person.offer()
    assert renew(person)
    assert person.offer().sid_digest != first.sid_digest
    aid = world.account(person.phone, OTHER)
    bank_info(person, aid)
    assert person.offer().state == "EXPECT_PROOF"
    assert renew(person)
    assert person.offer().state == "OFFERED"
    assert person.recredit().state == "ACTIVE"


def test_an_offer_is_used_within_a_day(world: World) -> None:
    """By the SE, which makes and seals a proof, and by the TSM, which takes it."""
    person = Person.asked(world)
    aid = world.account(person.phone, OTHER)
    world.clock.time_s += 24 * 3600 - 60
    assert world.launch(person.phone, OTHER) == ""
    late = proof(person, aid)
    world.clock.time_s += 121
    with refused(world, UnknownSession, "UNKNOWN_SESSION"):
        world.deliver(TSM, "Tsm.ProveCredit", late, None)
    assert world.launch(person.phone) == ""
    assert renew(person)
    bank_info(person, aid)
    world.clock.time_s += 24 * 3600 + 1
    assert world.launch(person.phone, OTHER) == ""
    with refused(world, Expired, "EXPIRED"):
        bank_info(person, aid)
    with refused(world, Expired, "EXPIRED"):
        request_of(world, person.phone, person.tid, Statement.CREDIT_PROOF)
    assert person.shown().recredits == ()
    world.parties[person.phone.name].store.sweep(world.clock.now_s())
    assert person.phone.party.store.scan(RECREDITS) == ()


def test_without_an_offer_there_is_nothing_to_prove(world: World) -> None:
    person = Person.come(world)
    aid = world.account(person.phone, OTHER)
    with refused(world, WrongState, "WRONG_STATE"):
        bank_info(person, aid)
    with refused(world, WrongState, "WRONG_STATE"):
        request_of(world, person.phone, person.tid, Statement.CREDIT_PROOF)
    with pytest.raises(WrongState) as caught:
        person.recredit()
    assert caught.value.code == "WRONG_STATE"


def test_a_tid_s_offer_is_no_other_s(world: World) -> None:
    """One phone, two service accounts: the one that was not asked has nothing to prove."""
    person = Person.asked(world)
    second = world.service(person.phone, world.account(person.phone))
    aid = world.account(person.phone, OTHER)
    message = SeMakeBankInfo(tid=second, aid=aid, reply=b"", nonce1=nonce(world))
    with refused(world, WrongState, "WRONG_STATE"):
        command(world, person.phone, "MakeBankInfo", message, SeBankInfo)


# --- whose credit --------------------------------------------------------------------------------------------------
def test_credit_is_of_another_bank(world: World) -> None:
    person = Person.asked(world)
    aid = world.account(person.phone, BANK)
    with refused(world, FieldMismatch, "FIELD_MISMATCH"):
        bank_info(person, aid)
    with refused(world, UnknownAccount, "UNKNOWN_ACCOUNT"):
        bank_info(person, "a-other")
    with pytest.raises(FieldMismatch) as caught:
        person.recredit(BANK)
    assert caught.value.code == "FIELD_MISMATCH"
    used = person.grants()[BANK].aid
    with refused(world, FieldMismatch, "FIELD_MISMATCH"):
        bank_info(person, used)


def test_a_bank_whose_grant_has_ended_is_another(world: World) -> None:
    person = Person.asked(world)
    aid = world.account(person.phone, BANK)
    amend(world, person.phone.name, GRANTS, expires_at_s=world.clock.now_s())
    assert bank_info(person, aid).sid == person.offer().sid


def test_credit_is_of_the_same_currency(world: World) -> None:
    """Asked of the SE, and of the TSM by someone who has no SE."""
    person = Person.asked(world)
    aid = world.account(person.phone, OTHER)
    waiting = person.offer()
    stolen = ForeignTid.stolen(world, person.phone, person.tid)
    stolen.sid, stolen.n_t = waiting.sid, waiting.n_t
    owner = Owner.of(world, person.phone, aid)
    owner.currency = "EUR"
    with refused(world, FieldMismatch, "FIELD_MISMATCH"):
        stolen.prove(stolen.proof(owner))
    (account,) = [row for row in person.phone.party.store.scan(ACCOUNTS) if row.aid == aid]
    change = Update(ACCOUNTS, replace(account, currency="EUR"))
    person.phone.party.store.apply(Unit((), lambda rows: Decision(writes=(change,))))
    with refused(world, FieldMismatch, "FIELD_MISMATCH"):
        bank_info(person, aid)


def test_a_phone_asks_banks_that_know_it_only(world: World) -> None:
    person = Person.asked(world)
    with pytest.raises(UnknownAccount, match="not registered at bank-c: enroll and launch there first") as caught:
        person.recredit("bank-c")
    assert caught.value.code == "UNKNOWN_ACCOUNT"


def test_payment_must_be_open_at_the_bank_that_is_asked(world: World) -> None:
    person = Person.asked(world)
    aid = world.account(person.phone, OTHER)
    close(person, OTHER)
    with refused(world, PaymentClosed, "PAYMENT_CLOSED"):
        bank_info(person, aid)


def test_an_open_account_is_taken_before_a_new_one_is_opened(world: World) -> None:
    person = Person.asked(world)
    aid = world.account(person.phone, OTHER)
    assert {credit.tid for credit in person.shown().credits if credit.aid == aid} == {""}
    person.recredit()
    assert person.grants()[OTHER].aid == aid
    assert {credit.tid for credit in person.shown().credits} == {person.tid}


# --- the proof -----------------------------------------------------------------------------------------------------
def test_a_cookie_serves_once(world: World) -> None:
    """SID' again with the TID's own keys and a third AID."""
    person = Person.asked(world)
    waiting = person.offer()
    assert person.recredit().state == "ACTIVE"
    stolen = ForeignTid.stolen(world, person.phone, person.tid)
    stolen.sid, stolen.n_t = waiting.sid, waiting.n_t
    owner = Owner.of(world, person.phone, world.account(person.phone, OTHER))
    with refused(world, Replay, "REPLAY"):
        stolen.prove(stolen.proof(owner))


def test_an_offer_serves_once(world: World) -> None:
    person = Person.with_two(world)
    assert person.phone.party.store.scan(RECREDITS) == ()
    third = world.account(person.phone, OTHER)
    with refused(world, WrongState, "WRONG_STATE"):
        bank_info(person, third)


def test_the_answer_that_brought_an_offer_brings_no_second(world: World) -> None:
    person = Person.asked(world)
    (answer,) = [
        reply for _, rpc, _, reply in world.calls if rpc == "Tsm.ActivateCards" and isinstance(reply, Wire)
    ][-1:]  # fmt: skip
    with refused(world, WrongState, "WRONG_STATE"):
        accept(person, answer)


def test_a_proof_that_was_cut_off_is_taken_up_after_other_statements(world: World) -> None:
    """Cards are renewed, and there is a new offer, before the answer to the old proof comes in."""
    person = Person.asked(world)
    aid = world.account(person.phone, OTHER)
    sealed = proof(person, aid)
    assert renew(person)
    other = [row for row in person.phone.party.store.scan(RECREDITS) if row.state == "OFFERED"]
    answer = world.deliver(TSM, "Tsm.ProveCredit", sealed, None)
    wish = request_of(world, person.phone, person.tid, Statement.CARD_REQUEST)
    service = accept(person, answer)
    assert (service.state, service.recredit, set(person.grants())) == ("ACTIVE", False, {BANK, OTHER})
    assert person.phone.party.store.scan(RECREDITS) == tuple(other)
    (row,) = person.phone.party.store.scan(SERVICE_KEYS)
    assert (row.pending, row.digest) == (Statement.CARD_REQUEST.value, wish.digest)


def test_an_answer_to_another_proof_is_none(world: World) -> None:
    person = Person.asked(world)
    aid = world.account(person.phone, OTHER)
    proof(person, aid)
    old = [reply for _, rpc, _, reply in world.calls if rpc == "Tsm.ProveCredit" and isinstance(reply, Wire)]
    with refused(world, WrongState, "WRONG_STATE"):
        accept(person, old[0])


def test_two_commands_at_once_use_an_offer_once(world: World) -> None:
    person = Person.asked(world)
    aid = world.account(person.phone, OTHER)
    with meanwhile(world, person.phone.name, lambda: renew(person)), pytest.raises(WrongState) as caught:
        bank_info(person, aid)
    assert caught.value.code == "WRONG_STATE"
    sealed = proof(person, aid)
    answer = world.deliver(TSM, "Tsm.ProveCredit", sealed, None)
    with meanwhile(world, person.phone.name, lambda: accept(person, answer)), pytest.raises(WrongState) as caught:
        accept(person, answer)
    assert caught.value.code == "WRONG_STATE"
    assert len(person.phone.party.store.scan(GRANTS)) == 2


def test_further_credit_lifts_no_stop_and_no_maximum(world: World) -> None:
    person = Person.asked(world)
    amend(world, TSM, SERVICES, maximum_minor=7_000)
    aid = world.account(person.phone, OTHER)
    sealed = proof(person, aid)
    amend_during(world, sealed, lambda: amend(world, TSM, SERVICES, stop="frozen"))
    (service,) = world.parties[TSM].store.scan(SERVICES)
    assert (service.maximum_minor, service.stop, service.state) == (7_000, "frozen", "ACTIVE")


def amend_during(world: World, sealed: Wire, action: Callable[[], None]) -> None:
    """The proof goes in, and something happens while the bank is asked."""

    def tap(peer: str, rpc: str, wire: Wire) -> Wire:
        if rpc == "Bank.ApproveGrant":
            action()
        return wire

    world.tap = tap
    world.deliver(TSM, "Tsm.ProveCredit", sealed, None)
    world.tap = None


# --- cards on two grants -------------------------------------------------------------------------------------------
def close(person: Person, bank: str) -> None:
    """The bank found the phone bad at its last launch."""
    store = person.phone.party.store
    (owner,) = [row for row in store.scan(OWNERS) if row.bank == bank]
    shut = Update(OWNERS, replace(owner, open=False))
    store.apply(Unit((), lambda rows: Decision(writes=(shut,))))


def by_bank(person: Person) -> dict[str, int]:
    """How many cards the SE has on whose grant."""
    banks = {row.sid_digest: row.bank for row in person.phone.party.store.scan(GRANTS)}
    cards = [row for row in person.phone.party.store.scan(VIRTUAL_CARDS) if row.state == "ACTIVE"]
    return {bank: sum(banks[card.sid_digest] == bank for card in cards) for bank in banks.values()}


def test_cards_are_for_the_grant_whose_pass_was_shown(world: World) -> None:
    """SE and TSM agree on it, whichever bank lets the phone pay."""
    person = Person.with_two(world)
    assert by_bank(person) == {BANK: 3, OTHER: 0}
    close(person, BANK)
    renew(person)
    assert by_bank(person) == {BANK: 3, OTHER: 1}
    assert world.launch(person.phone) == ""
    close(person, OTHER)
    renew(person)
    assert by_bank(person) == {BANK: 4, OTHER: 1}
    banks = {row.sid_digest: bank for bank, row in person.grants().items()}
    at_tsm = [banks[card.sid_digest] for card in world.parties[TSM].store.scan(CARDS)]
    assert sorted(at_tsm) == [BANK] * 4 + [OTHER]
    close(person, BANK)
    with pytest.raises(PaymentClosed):
        renew(person)


def test_a_pass_in_date_is_shown(world: World) -> None:
    """The other bank's pass has run out: its grant is left alone until the next launch there."""
    person = Person.with_two(world)
    world.clock.time_s += 25 * 3600
    assert world.launch(person.phone) == ""
    renew(person)
    assert by_bank(person) == {BANK: 4, OTHER: 0}


def test_a_pass_that_is_none_is_left_to_the_tsm_to_judge(world: World) -> None:
    person = Person.come(world)
    amend(world, person.phone.name, ACCOUNTS, launch_pass=b"\0")
    with pytest.raises(PassInvalid) as caught:
        renew(person)
    assert caught.value.code == "PASS_INVALID"


def test_payment_is_closed_by_the_bank_of_the_card(world: World) -> None:
    person = Person.with_two(world)
    close(person, BANK)
    with pytest.raises(PaymentClosed) as caught:  # all cards there are, are the first bank's
        person.ask()
    assert caught.value.code == "PAYMENT_CLOSED"
    renew(person)
    assert person.counter.authorize(person.ask()).response_code == "00"
    with pytest.raises(NoCard):
        person.ask(200_000)
    close(person, OTHER)
    with pytest.raises(PaymentClosed):
        person.ask()


# --- giving back ---------------------------------------------------------------------------------------------------
def end(person: Person, aid: str = "") -> SeService:
    return person.world.run(person.phone, close_service(person.phone.wallet, tsm=TSM, tid=person.tid, aid=aid))


def test_one_grant_is_given_back_and_the_other_lives(world: World) -> None:
    person = Person.with_two(world)
    close(person, BANK)
    renew(person)
    assert world.launch(person.phone) == ""
    with pytest.raises(UnknownAccount) as caught:
        end(person, "a-other")
    assert caught.value.code == "UNKNOWN_ACCOUNT"
    assert end(person, person.grants()[BANK].aid).state == "ACTIVE"
    assert by_bank(person) == {BANK: 0, OTHER: 1}
    assert {bank: row.state for bank, row in person.grants().items()} == {BANK: "RELEASED", OTHER: "ACTIVE"}
    assert [credit.bank for credit in person.shown().credits] == [OTHER]
    assert person.counter.authorize(person.ask()).response_code == "00"
    assert person.left()[OTHER] == 500_000 - 9_000
    with pytest.raises(UnknownAccount):
        end(person, person.grants()[BANK].aid)
    assert end(person).state == "CLOSED"
    assert by_bank(person) == {BANK: 0, OTHER: 0}
    with pytest.raises(WrongState):
        end(person)
    with pytest.raises(WrongState):
        renew(person)


def test_all_are_given_back_at_once(world: World) -> None:
    person = Person.with_two(world)
    renew(person)
    assert end(person).state == "CLOSED"
    assert {row.state for row in person.grants().values()} == {"RELEASED"}
    assert by_bank(person) == {BANK: 0, OTHER: 0}


def test_the_tsm_names_the_grant_that_it_took_back(world: World) -> None:
    """An answer that names another session closes nothing."""
    person = Person.with_two(world)
    request = request_of(world, person.phone, person.tid, Statement.CLOSE_ACCOUNT)
    reply = world.deliver(TSM, "Tsm.CloseAccount", request, None)
    amend(world, person.phone.name, GRANTS, sid=b"other")
    with refused(world, FieldMismatch, "FIELD_MISMATCH"):
        accept(person, reply)


def test_a_grant_that_was_given_back_gets_no_cards_that_were_asked_for_before(world: World) -> None:
    person = Person.come(world)
    wish = request_of(world, person.phone, person.tid, Statement.CARD_REQUEST)
    challenge = world.deliver(TSM, "Tsm.RequestCards", wish, None)
    message = SeGenerateCardKeys(tid=person.tid, reply=challenge.cose, number=1)

    def ended() -> None:
        amend(world, person.phone.name, GRANTS, state="CLOSED")

    with meanwhile(world, person.phone.name, ended), pytest.raises(WrongState) as caught:
        command(world, person.phone, "GenerateCardKeys", message, SealedRequest)
    assert caught.value.code == "WRONG_STATE"


def test_a_purchase_on_two_grants_is_refunded_rightly_after_one_was_given_back(world: World) -> None:
    person = Person.with_two(world, left_minor=4_000)
    person.leave(OTHER, 4_000)
    purchase = person.ask(7_000)
    assert person.counter.authorize(purchase).response_code == "00"
    first, second = sorted(person.left(), key=person.left().__getitem__)
    assert person.left() == {first: 0, second: 1_000}
    assert end(person, person.grants()[second].aid).state == "ACTIVE"
    person.counter.refund(purchase.sale, 2_000)
    assert person.left() == {first: 0, second: 3_000}
    person.counter.refund(purchase.sale, 5_000)
    assert person.left() == {first: 4_000, second: 4_000}
    assert person.grants()[second].state == "RELEASED"


def test_renewal_tells_that_the_tsm_asks(world: World) -> None:
    person = Person.come(world)

    def renewed(pool: int) -> bool:
        flow = renew_cards(person.phone.wallet, tsm=TSM, tid=person.tid, pool=pool)
        return world.run(person.phone, flow).recredit

    assert not renewed(3)
    person.leave(BANK, 1)
    assert not renewed(3)
    assert renewed(4)
    assert renewed(4)


# --- what a bank learns --------------------------------------------------------------------------------------------
def test_neither_bank_learns_of_the_other(world: World) -> None:
    """No row of a bank, and nothing it was sent, opened as far as it can, names the other bank or its AID."""
    person = Person.with_two(world, left_minor=4_000)
    person.leave(OTHER, 6_000)
    assert person.counter.authorize(person.ask(9_000)).response_code == "00"
    aids = {bank: row.aid for bank, row in person.grants().items()}
    sessions = {bank: row.sid for bank, row in person.grants().items()}
    for bank, foreign in ((BANK, OTHER), (OTHER, BANK)):
        words = (foreign.encode(), aids[foreign].encode(), sessions[foreign], person.tid.encode())
        rows = repr(world.snapshot(bank)).encode()
        said = b"".join(_seen(world, bank))
        for word in words:
            assert repr(word)[2:-1].encode() not in rows
            assert word not in said
        assert aids[bank].encode() in said


def _seen(world: World, bank: str) -> list[bytes]:
    """What a bank was sent: as it came, as evidence it kept, and TSMBINFO with the BINFO in it, opened."""
    party = world.parties[bank]
    seen = [wire.cose + wire.session for peer, _, wire, _ in world.calls if peer == bank]
    seen += [row.signed for row in party.store.scan(EVIDENCE)]
    for peer, rpc, wire, _ in world.calls:
        if (peer, rpc) == (bank, "Bank.ApproveGrant"):
            signed = unseal(GrantRequest, party.value.keys.seal, wire.cose)
            request = read(GrantRequest, signed)
            (key,) = [row.k_aid for row in party.store.scan(ANONYMOUS_ACCOUNTS) if row.aid == request.aid]
            seen += [signed, cose.decrypt(key, request.binfo, name=BankInfo.NAME, max_bytes=ANY)]
    return seen


def test_a_tsm_whose_floor_is_zero_never_asks(world: World) -> None:
    person = Person.come(world)
    tsm: Tsm = world.parties[TSM].value
    swap(world, TSM, ActivateCardsStep, replace(tsm, policy=replace(tsm.policy, recredit_floor_percent=0)))
    person.leave(BANK, 0)
    assert not renew(person)
