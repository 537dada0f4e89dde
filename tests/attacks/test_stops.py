"""Freezing (CN-11): whoever has the phone wants it to go on paying; a TSM wants to know whose pseudonyms are one's.

Design §3 FREEZE: one list a bank and minute, signed and sealed; stale lists fail closed; each side lifts its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from support.attacker import refused
from support.counter import TSM, Counter
from support.skimmer import Altered, expect, seeing, shopper, weaken, won
from support.stopping import (
    MINUTE_S,
    delete_customer,
    freeze_account,
    freeze_customer,
    lift_account,
    lift_customer,
    next_minute,
)
from support.two_banks import Person
from support.world import Phone, World

from protocol import cose, envelope
from protocol.engine import Context, Evidence, Incoming, Peer
from protocol.envelope import Stamp, Wire
from protocol.errors import AccountStopped, DecryptionFailed, ProtocolError, SignatureInvalid, Unavailable, WrongState
from protocol.messages.stops import ListStops, Stop, StopKind, StopList
from protocol.ports import Entropy
from protocol.roles.bank.attest import VerifyLaunchStep
from protocol.roles.bank.stops import ListStopsStep
from protocol.roles.bank.tables import CUSTOMERS
from protocol.roles.se.tables import OWNERS, VIRTUAL_CARDS
from protocol.roles.tsm.authorize import Authorizing
from protocol.roles.tsm.cards import ActivateCardsStep, IssueCardsStep, RequestCardsStep
from protocol.roles.tsm.stops import holding, open_list, refresh_stops
from protocol.roles.tsm.tables import SERVICES, STOP_LISTS, TID_LIST
from protocol.roles.wallet import close_service
from protocol.rows import Decision, Rows, Unit, Update
from protocol.types import Role

SMALL = 9_000
Answer = Callable[[World, Wire], Wire]


class Line:
    """The network between the TSM and a bank: what it delivers instead of an answer; what it has heard."""

    def __init__(self, world: World, alter: Answer | None = None) -> None:
        self._world, self._alter = world, alter
        self.heard: list[tuple[Wire, Wire]] = []

    def call(self, peer: str, rpc: str, request: Wire) -> Wire:
        answer = ask(self._world, request, bank=peer)
        self.heard.append((request, answer))
        return answer if self._alter is None else self._alter(self._world, request)


def ask(world: World, request: Wire, *, bank: str = "bank-a", tsm: str = TSM) -> Wire:
    return world.parties[bank].engine.handle("Bank.ListStops", request, Peer(role=Role.TSM, name=tsm))


def fetch(world: World, line: Line, bank: str = "bank-a") -> None:
    """The TSM fetches the list over this line."""
    tsm = world.parties[TSM]
    refresh_stops(tsm.value, bank, tsm.store, line, world.clock.now_s(), world.entropy)


def take(world: World, listed: StopList, by: str = "bank-a", **seen: Any) -> None:
    """The TSM holds to this list, whoever it is by; `seen` is what it takes its grants to say."""
    store, digest = world.parties[TSM].store, world.entropy.bytes(32)
    evidence = Evidence(digest=digest, message=StopList.NAME, received_at_s=world.clock.now_s(), signed=b"")
    unit = holding(by, listed, evidence)
    store.apply(Unit(unit.reads, lambda rows: unit.decide(Altered(rows, TID_LIST, **seen) if seen else rows)))


@pytest.fixture
def thief(world: World) -> tuple[Phone, str, Counter]:
    """A phone in the wrong hands, with cards, at a counter. The TSM hears of stops over lines that a test makes."""
    phone, tid = shopper(world, number=4)
    counter = Counter.open(world)
    world.refresh_stops(anew=True)
    world.fetches_stops = False
    return phone, tid, counter


class Ageless:
    """A TSM that approves on a list of any age."""

    def prepare(self, incoming: Incoming[Authorizing], ctx: Context) -> Incoming[Authorizing]:
        prepared = super().prepare(incoming, ctx)
        banks = frozenset(row.bank for row in ctx.store.scan(STOP_LISTS))
        return replace(prepared, facts=replace(prepared.facts, fresh=banks))


def test_a_list_is_kept_back(world: World, thief: tuple[Phone, str, Counter]) -> None:
    """Attack: whoever stole a phone keeps the bank's lists from the TSM, so that it never hears of the freeze. Powers:
    network. Closed by: on a list older than five minutes nothing is approved (STOPS_STALE), and the next that comes
    through says it. Variant: a TSM that goes on with the last list it has pays for the thief."""
    phone, tid, counter = thief
    freeze_customer(world, phone.user)

    def nothing(world: World, request: Wire) -> Wire:
        raise Unavailable

    for _ in range(6):
        world.clock.time_s += MINUTE_S
        with refused(world, Unavailable, "UNAVAILABLE"):
            fetch(world, Line(world, nothing))
    expect(counter, counter.ask(phone, tid, SMALL), "STOPS_STALE")
    weaken(world, Ageless)
    assert won(counter, counter.ask(phone, tid, SMALL)) == SMALL
    fetch(world, Line(world))
    expect(counter, counter.ask(phone, tid, SMALL), "ACCOUNT_STOPPED")


def test_an_old_list_is_played_again(world: World, thief: tuple[Phone, str, Counter]) -> None:
    """Attack: the answer of a minute before the freeze is delivered to the question of a minute after it. Powers:
    network. Closed by, each enough: the answer is sealed and signed over its question's digest (DECRYPTION_FAILED); a
    list of a minute before the last one says nothing new. Variant: a TSM that takes an answer to any question, and in
    any order, unfreezes the thief's account."""
    phone, tid, counter = thief
    line = Line(world)
    fetch(world, line)
    ((question, old),) = line.heard
    world.clock.time_s += 1
    freeze_customer(world, phone.user)
    next_minute(world)
    expect(counter, counter.ask(phone, tid, SMALL), "ACCOUNT_STOPPED")
    with refused(world, DecryptionFailed, "DECRYPTION_FAILED"):
        fetch(world, Line(world, lambda world, request: old))
    listed = open_list(world.parties[TSM].value, "bank-a", question, old, world.clock.now_s()).message
    take(world, listed)  # a TSM that takes an answer to any question
    expect(counter, counter.ask(phone, tid, SMALL), "ACCOUNT_STOPPED")
    take(world, replace(listed, minute_s=world.clock.now_s()))  # and in any order
    assert won(counter, counter.ask(phone, tid, SMALL)) == SMALL


def forged(world: World, request: Wire, *, by: str, audience: str = TSM, digest: bytes | None = None) -> Wire:
    """An empty list, signed by this party and sealed for the TSM."""
    signer = world.parties[by].value.keys.signer
    stamp = Stamp.fresh(world.clock.now_s(), world.entropy)
    message = StopList(minute_s=world.clock.now_s(), stops=())
    asked = request.digest if digest is None else digest
    signed = envelope.sign(signer, message, audience=audience, stamp=stamp, request_digest=asked)
    return resealed(world, request, signed)


def resealed(world: World, request: Wire, signed: bytes) -> Wire:
    key = world.parties[TSM].value.keys.seal.public
    return Wire(cose=cose.seal(key, name=StopList.NAME, plaintext=signed, request_digest=request.digest))


def by_another_bank(world: World, request: Wire) -> Wire:
    return forged(world, request, by="bank-b")


def by_a_tsm(world: World, request: Wire) -> Wire:
    return forged(world, request, by="tsm-2")


def _own_question(world: World) -> Wire:
    keys, stamp = world.parties["tsm-2"].value.keys, Stamp.fresh(world.clock.now_s(), world.entropy)
    return Wire(cose=envelope.sign(keys.signer, ListStops(), audience="bank-a", stamp=stamp))


def for_another_tsm(world: World, request: Wire) -> Wire:
    """tsm-2's own list, in which nothing of tsm-1's is, as the bank sealed it."""
    return ask(world, _own_question(world), tsm="tsm-2")


def of_another_tsm_resealed(world: World, request: Wire) -> Wire:
    """The same, opened by tsm-2 and sealed for tsm-1: the bank's own signature."""
    question = _own_question(world)
    answer = ask(world, question, tsm="tsm-2")
    signed = cose.unseal(
        world.parties["tsm-2"].value.keys.seal, answer.cose, name=StopList.NAME, max_bytes=1 << 20,
        request_digest=question.digest,
    )  # fmt: skip
    return resealed(world, request, signed)


FALSE: tuple[tuple[Answer, type[ProtocolError], str], ...] = (
    (by_another_bank, SignatureInvalid, "SIGNATURE_INVALID"),
    (by_a_tsm, SignatureInvalid, "SIGNATURE_INVALID"),
    (for_another_tsm, DecryptionFailed, "DECRYPTION_FAILED"),
    (of_another_tsm_resealed, SignatureInvalid, "SIGNATURE_INVALID"),
)


@pytest.mark.parametrize(("alter", "error", "code"), FALSE)
def test_a_list_by_or_for_somebody_else(
    world: World, thief: tuple[Phone, str, Counter], alter: Answer, error: type[ProtocolError], code: str
) -> None:
    """Attack: an empty list by another bank or a TSM, or the one that the bank made for another TSM, in answer to the
    TSM's question. Powers: network and a corrupt bank or TSM. Closed by: the list is the asked bank's, for the TSM that
    asks, over its question. Variant: a TSM that holds to any list unfreezes the account."""
    phone, tid, counter = thief
    freeze_customer(world, phone.user)
    next_minute(world)
    world.clock.time_s += MINUTE_S
    with refused(world, error, code):
        fetch(world, Line(world, alter))
    expect(counter, counter.ask(phone, tid, SMALL), "ACCOUNT_STOPPED")
    take(world, StopList(minute_s=world.clock.now_s(), stops=()))
    assert won(counter, counter.ask(phone, tid, SMALL)) == SMALL


def test_a_bank_stops_anothers_customers(world: World, thief: tuple[Phone, str, Counter]) -> None:
    """Attack: bank-b puts AIDs that bank-a certified on its own list. Powers: a corrupt bank that got to know them.
    Closed by: a bank's list is held against that bank's grants only. Variant: a TSM that looks for the AID alone stops
    the customers of any bank."""
    phone, tid, counter = thief
    (grant,) = world.parties[TSM].store.scan(TID_LIST)

    class Hostile(ListStopsStep):
        def open(self, wire: Wire, ctx: Context) -> Any:
            incoming = super().open(wire, ctx)
            stop = Stop(aid=grant.aid, kind=StopKind.DELETED)
            return replace(incoming, facts=replace(incoming.facts, stops=(stop,)))

    world.swap_step("bank-b", Hostile(world.parties["bank-b"].value))
    line = Line(world)
    fetch(world, line, "bank-b")
    assert won(counter, counter.ask(phone, tid, SMALL)) == SMALL
    ((question, answer),) = line.heard
    listed = open_list(world.parties[TSM].value, "bank-b", question, answer, world.clock.now_s()).message
    take(world, listed, "bank-b", bank="bank-b")
    world.parties[TSM].store.apply(_of_bank_a_again(world))
    expect(counter, counter.ask(phone, tid, SMALL), "ACCOUNT_STOPPED")


def _of_bank_a_again(world: World) -> Unit:
    """The variant sees the grant as bank-b's, and so writes it; its bank has not really changed."""
    (grant,) = world.parties[TSM].store.scan(TID_LIST)
    return Unit((), lambda rows: Decision(writes=(Update(TID_LIST, replace(grant, bank="bank-a")),)))


def test_one_side_lifts_the_others_stop(world: World, thief: tuple[Phone, str, Counter]) -> None:
    """Attack: a thief who has talked one side into lifting its freeze pays, though the other side's holds. Powers: a
    clerk of the bank, or an operator of the TSM. Closed by: each side's stop is a column of its own, which only that
    side's word changes (ACCOUNT_STOPPED). Variant: a TSM that looks at the side which spoke last pays."""
    phone, tid, counter = thief
    freeze_customer(world, phone.user)
    freeze_account(world, tid)
    next_minute(world)
    lift_customer(world, phone.user)
    next_minute(world)
    expect(counter, counter.ask(phone, tid, SMALL), "ACCOUNT_STOPPED")
    weaken(world, seeing(SERVICES, stop=""))
    assert won(counter, counter.ask(phone, tid, SMALL)) == SMALL
    weaken(world)
    freeze_customer(world, phone.user)
    next_minute(world)
    lift_account(world, tid)
    expect(counter, counter.ask(phone, tid, SMALL), "ACCOUNT_STOPPED")
    weaken(world, seeing(TID_LIST, bank_stop=""))
    assert won(counter, counter.ask(phone, tid, SMALL)) == SMALL


def test_a_deletion_is_undone(world: World, thief: tuple[Phone, str, Counter]) -> None:
    """Attack: a deleted customer is lifted, or is left out of a later list. Powers: a clerk; the bank itself. Closed
    by: no unit of the bank leaves DELETED (WRONG_STATE), and the TSM keeps it whatever later lists say. Variant: a TSM
    that takes a deletion for a freeze lets the account pay again."""
    phone, tid, counter = thief
    delete_customer(world, phone.user)
    next_minute(world)
    with refused(world, WrongState, "WRONG_STATE"):
        lift_customer(world, phone.user)
    world.clock.time_s += MINUTE_S
    fetch(world, Line(world, lambda world, request: forged(world, request, by="bank-a")))
    expect(counter, counter.ask(phone, tid, SMALL), "ACCOUNT_STOPPED")
    world.parties[TSM].store.apply(_as_frozen(world))
    take(world, StopList(minute_s=world.clock.now_s(), stops=()))
    assert won(counter, counter.ask(phone, tid, SMALL)) == SMALL


def _as_frozen(world: World) -> Unit:
    (grant,) = world.parties[TSM].store.scan(TID_LIST)
    return Unit((), lambda rows: Decision(writes=(Update(TID_LIST, replace(grant, bank_stop="FROZEN")),)))


@pytest.mark.parametrize("kind", [RequestCardsStep, IssueCardsStep, ActivateCardsStep])
def test_cards_for_a_frozen_account(world: World, thief: tuple[Phone, str, Counter], kind: Any) -> None:
    """Attack: a frozen account asks for fresh cards, to use them when the freeze is over, or goes on with a batch that
    it had begun. Powers: the phone. Closed by: each of CARD-1, CARD-3 and CARD-5 looks (ACCOUNT_STOPPED). Variant:
    steps that look at no stop issue the batch."""
    phone, tid, _counter = thief
    freeze_account(world, tid)
    steps = (RequestCardsStep, IssueCardsStep, ActivateCardsStep)
    value = world.parties[TSM].value
    for each in steps:
        if each is not kind:
            world.swap_step(TSM, type("Blind", (seeing(SERVICES, stop=""), each), {})(value))
    with pytest.raises(AccountStopped) as refusal:
        world.cards(phone, tid)
    assert (refusal.value.code, world.calls[-1][1]) == ("ACCOUNT_STOPPED", kind.rpc)
    world.swap_step(TSM, type("Blind", (seeing(SERVICES, stop=""), kind), {})(value))
    world.cards(phone, tid)


def test_a_pass_for_a_lost_phone(world: World, thief: tuple[Phone, str, Counter]) -> None:
    """Attack: whoever found the phone starts the app. Powers: the phone. Closed by: the bank's signed decision refuses
    (ACCOUNT_STOPPED), no pass is given, and the SE closes. Variant: a bank that looks at the phone's state alone gives
    passes, and the SE stays open."""
    phone, tid, counter = thief
    freeze_customer(world, phone.user)
    assert world.launch(phone) == "ACCOUNT_STOPPED"
    with pytest.raises(ProtocolError) as refusal:
        counter.ask(phone, tid, SMALL)
    assert refusal.value.code == "PAYMENT_CLOSED"
    blind = type("Blind", (seeing(CUSTOMERS, stop=""), VerifyLaunchStep), {})
    world.swap_step("bank-a", blind(world.parties["bank-a"].value))
    assert world.launch(phone) == ""
    counter.ask(phone, tid, SMALL)


def _seen_together(world: World, users: list[tuple[str, set[str]]]) -> set[frozenset[str]]:
    """A curious TSM asks every second while these are frozen one after the other: which AIDs came up at once."""
    seen: set[str] = set()
    together = set()
    stops = {5 + 10 * number: user for number, (user, _) in enumerate(users)}
    for _ in range(MINUTE_S + 1):
        world.clock.time_s += 1
        if world.clock.time_s % MINUTE_S in stops:
            freeze_customer(world, stops.pop(world.clock.time_s % MINUTE_S))
        question = _question(world)
        listed = open_list(world.parties[TSM].value, "bank-a", question, ask(world, question), world.clock.now_s())
        named = [stop.aid for stop in listed.message.stops]
        assert named == sorted(named)
        if set(named) - seen:
            together.add(frozenset(set(named) - seen))
        seen |= set(named)
    return together


def _question(world: World) -> Wire:
    keys, stamp = world.parties[TSM].value.keys, Stamp.fresh(world.clock.now_s(), world.entropy)
    return Wire(cose=envelope.sign(keys.signer, ListStops(), audience="bank-a", stamp=stamp))


def test_a_curious_tsm_asks_all_the_time(world: World) -> None:
    """Attack: a TSM asks for the list every second, and sees which pseudonyms are stopped at one moment: one
    customer's. Powers: a corrupt TSM. Closed by: a list is of a whole minute; all that is stopped in it comes up at
    once, in the order of the AIDs. Variant: a bank that lists stops as they are made tells the customers apart."""
    users = []
    for number in (1, 2, 3):
        phone = world.ready(f"phone-{number}")
        aids = {world.account(phone) for _ in range(2)}
        for aid in aids:
            world.service(phone, aid)
        users.append((phone.user, aids))
    everyone = frozenset(aid for _, aids in users for aid in aids)
    assert _seen_together(world, users) == {everyone}
    for user, _ in users:
        lift_customer(world, user)
    next_minute(world)
    bank = world.parties["bank-a"].value
    world.swap_step("bank-a", ListStopsStep(replace(bank, policy=replace(bank.policy, stops_every_s=1))))
    assert _seen_together(world, users) == {frozenset(aids) for _, aids in users}


class LooksAtLiveGrants:
    """A TSM that forgets a stop with the credit that is given back."""

    def decide(self, rows: Rows, facts: Authorizing, now_s: int, entropy: Entropy) -> Decision:
        class Living:
            get = rows.get

            def find(self, table: Any, column: str, value: Any) -> Any:
                found = rows.find(table, column, value)
                return found if table is not TID_LIST else tuple(row for row in found if row.state == "ACTIVE")

        return super().decide(Living(), facts, now_s, entropy)


def test_the_stopped_credit_is_given_back(world: World) -> None:
    """Attack: whoever holds a lost phone whose app is open gives the frozen bank's credit back, which nobody refuses,
    and pays on with the other bank's, which knows of nothing. Powers: the phone. Closed by: the bank lists what was
    given back, too, until it is past its time, and the TSM looks at all that was ever granted under the account
    (ACCOUNT_STOPPED). Variant: a TSM that looks at live grants only lets the phone pay."""
    person = Person.with_two(world)
    (owner,) = [row for row in person.phone.party.store.scan(OWNERS) if row.bank == "bank-a"]
    shut = Update(OWNERS, replace(owner, open=False))
    person.phone.party.store.apply(Unit((), lambda rows: Decision(writes=(shut,))))
    world.cards(person.phone, person.tid, number=2)  # of the other bank's grant
    held = sorted(person.phone.party.store.scan(VIRTUAL_CARDS), key=lambda row: row.position)
    card = [row.sid_digest for row in held].index(person.grants()["bank-b"].sid_digest)
    aid = person.grants()["bank-a"].aid
    (customer,) = world.parties["bank-a"].store.scan(CUSTOMERS)
    freeze_customer(world, customer.customer)
    next_minute(world)
    world.run(person.phone, close_service(person.phone.wallet, tsm=TSM, tid=person.tid, aid=aid))
    next_minute(world)
    expect(person.counter, person.make(SMALL, card=card), "ACCOUNT_STOPPED")

    weaken(world, LooksAtLiveGrants)
    assert won(person.counter, person.make(SMALL, card=card, atc=2, opening=b"next")) == SMALL
