"""The engine: decided once, answered the same, whatever is repeated, lost or interrupted (design §2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

import pytest
from support.world import FixedClock, SeededEntropy

from protocol import cose, envelope
from protocol.crypto import PrivateKey
from protocol.engine import (
    ATTEMPTS,
    EVIDENCE,
    NOT_AN_ANSWER,
    OUTBOX,
    REQUESTS,
    Ask,
    AskingStep,
    Context,
    Engine,
    Incoming,
    Peer,
    StatelessStep,
    Step,
)
from protocol.envelope import Opened, Signer, Stamp, Wire
from protocol.errors import (
    Expired,
    FactorLocked,
    GrantUnknown,
    Internal,
    LimitExceeded,
    Overloaded,
    Oversize,
    PeerAnswerInvalid,
    ProtocolError,
    Replay,
    SignatureInvalid,
    StorageFault,
    Unavailable,
    WrongAudience,
    WrongState,
)
from protocol.ports import Entropy
from protocol.rows import (
    ALL_TABLES,
    Conflict,
    Decision,
    Insert,
    Key,
    MemoryStore,
    Read,
    Rows,
    Table,
    Unit,
    Update,
)
from protocol.schema import MESSAGES, Message, Uint
from protocol.types import MAX_SKEW_S, Role

N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
MANY, LOCKED, LIMIT = 500, 13, 900
"""Amounts: over what one may add, the one that is counted against the user, over what is confirmed."""


# --- a party that counts, and a bank that confirms -------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class Add(Message):
    NAME: ClassVar[str] = "test-engine-add"
    amount: Annotated[int, Uint(1000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Total(Message):
    NAME: ClassVar[str] = "test-engine-total"
    total: Annotated[int, Uint(1000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    name: str
    total: int
    wrong: int = 0


COUNTS = Table("test-engine-counts", Count, ("name",))


del ALL_TABLES[COUNTS.name]  # the registries are the protocol's own
for _message in (Add, Total):
    del MESSAGES[_message.NAME]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adding:
    opened: Opened[Add]
    ask: Ask | None = None

    @property
    def amount(self) -> int:
        return self.opened.message.amount


ENTROPY = SeededEntropy("engine")
USER, PARTY, BANK = (Signer(name=name, key=PrivateKey.generate(ENTROPY)) for name in ("user", "counter", "bank"))
SECOND_USER = Signer(name="user", key=PrivateKey.generate(ENTROPY))


class AddStep(Step[Adding]):
    rpc = "Counter.Add"
    reply = Total
    max_bytes = 1024

    def __init__(self, user: Signer = USER) -> None:
        self.user = user
        self.prepared = 0
        self.decided = 0
        self.meanwhile: Callable[[], object] = lambda: None
        """What happens while a request is prepared."""

    def open(self, wire: Wire, ctx: Context) -> Incoming[Adding]:
        opened = envelope.open_signed(
            Add, wire.cose, self.user.key.public, issuer="user", audience="counter", now_s=ctx.now_s
        )
        return Incoming(
            facts=Adding(opened=opened), key=opened.key, claims=opened.claims, evidence=((Add.NAME, wire.cose),)
        )

    def prepare(self, incoming: Incoming[Adding], ctx: Context) -> Incoming[Adding]:
        self.prepared += 1
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        return super().prepare(incoming, ctx)

    def reads(self, facts: Adding) -> tuple[Read, ...]:
        return (Key(COUNTS, ("user",)),)

    def decide(self, rows: Rows, facts: Adding, now_s: int, entropy: Entropy) -> Decision:
        self.decided += 1
        count = rows.get(COUNTS, "user")
        assert count is not None
        if facts.amount > MANY:
            raise WrongState("too much at once")
        if facts.amount == LOCKED:
            return Decision(writes=(Update(COUNTS, replace(count, wrong=count.wrong + 1)),), refusal=FactorLocked())
        count = replace(count, total=count.total + facts.amount)
        return Decision(writes=(Update(COUNTS, count),), reply=Total(total=count.total))

    def seal(self, facts: Adding, reply: Total, stamp: Stamp, ctx: Context) -> Wire:
        return Wire(cose=envelope.sign(PARTY, reply, audience="user", stamp=stamp, request_digest=ctx.digest))


class ConfirmStep(AddStep, AskingStep[Adding]):
    """Holds the amount, asks the bank, and gives it back if the bank refuses."""

    rpc = "Counter.Confirm"

    def prepare(self, incoming: Incoming[Adding], ctx: Context) -> Incoming[Adding]:
        incoming = super().prepare(incoming, ctx)
        question = Add(amount=incoming.facts.amount)
        signed = envelope.sign(PARTY, question, audience="bank", stamp=Stamp.fresh(ctx.now_s, ctx.entropy))
        ask = Ask(peer="bank", rpc="Bank.Confirm", wire=Wire(cose=signed))
        return replace(incoming, facts=replace(incoming.facts, ask=ask))

    def ask(self, facts: Adding) -> Ask:
        assert facts.ask is not None
        return facts.ask

    def decide(self, rows: Rows, facts: Adding, now_s: int, entropy: Entropy) -> Decision:
        return replace(super().decide(rows, facts, now_s, entropy), reply=None)

    def hear(self, facts: Adding, question: Wire, answer: Wire, ctx: Context) -> Total:
        return envelope.open_signed(
            Total, answer.cose, BANK.key.public, issuer="bank", audience="counter", now_s=ctx.now_s,
            request_digest=question.digest,
        ).message  # fmt: skip

    def finish(self, rows: Rows, facts: Adding, heard: Any, now_s: int, entropy: Entropy) -> Decision:
        if isinstance(heard, Total):
            return Decision(reply=heard)
        count = rows.get(COUNTS, "user")
        assert count is not None
        back = replace(count, total=count.total - facts.amount)
        return Decision(writes=(Update(COUNTS, back),), refusal=heard)


class PeekStep(StatelessStep[Adding]):
    rpc = "Counter.Peek"
    reply = Total

    def open(self, wire: Wire, ctx: Context) -> Incoming[Adding]:
        return AddStep().open(wire, ctx)

    def decide(self, rows: Rows, facts: Adding, now_s: int, entropy: Entropy) -> Decision:
        if facts.amount == LOCKED:
            raise FactorLocked
        return Decision(reply=Total(total=facts.amount))

    def seal(self, facts: Adding, reply: Total, stamp: Stamp, ctx: Context) -> Wire:
        return AddStep().seal(facts, reply, stamp, ctx)


@dataclass
class Bank:
    """The other party: answers each question by what is next in `script`, and in the end as it should."""

    clock: FixedClock
    script: list[ProtocolError | Callable[[Wire], Wire]] = field(default_factory=list)
    asked: list[tuple[str, str, Wire]] = field(default_factory=list)

    def call(self, peer: str, rpc: str, request: Wire) -> Wire:
        self.asked.append((peer, rpc, request))
        answer = self.script.pop(0) if self.script else self.confirm
        if isinstance(answer, ProtocolError):
            raise answer
        return answer(request)

    def confirm(self, request: Wire) -> Wire:
        return self.answer(request.cose, request.digest)

    def answer(self, question: bytes, digest: bytes, *, audience: str = "counter", signer: Signer = BANK) -> Wire:
        now_s = self.clock.now_s()
        opened = envelope.open_signed(
            Add, question, PARTY.key.public, issuer="counter", audience="bank", now_s=now_s
        ).message  # fmt: skip
        if opened.amount > LIMIT:
            raise LimitExceeded
        stamp = Stamp.fresh(now_s, ENTROPY)
        return Wire(cose=envelope.sign(signer, Total(total=7), audience=audience, stamp=stamp, request_digest=digest))


class Counter:
    """The counting party: engine, store and what is around them."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        self.clock = FixedClock()
        self.bank = Bank(self.clock)
        self.store = store or MemoryStore()
        self.store.apply(Unit((), lambda rows: Decision(writes=(Insert(COUNTS, Count(name="user", total=0)),))))
        self.add, self.confirm, self.peek = AddStep(), ConfirmStep(), PeekStep()
        self.engine = self.restart()

    def restart(self) -> Engine:
        """A new process over the same rows."""
        steps: dict[str, Step[Any]] = {step.rpc: step for step in (self.add, self.confirm, self.peek)}
        self.engine = Engine(steps, store=self.store, clock=self.clock, entropy=ENTROPY, peers=self.bank)
        return self.engine

    def handle(self, rpc: str, wire: Wire) -> int:
        """The total that was answered."""
        return self._total(self.engine.handle(rpc, wire, None), wire)

    def refused(self, error: type[ProtocolError], rpc: str, wire: Wire) -> ProtocolError:
        with pytest.raises(error) as refusal:
            self.engine.handle(rpc, wire, None)
        assert type(refusal.value) is error
        assert refusal.value.code == error.code
        return refusal.value

    def _total(self, reply: Wire, request: Wire) -> int:
        return envelope.open_signed(
            Total, reply.cose, PARTY.key.public, issuer="counter", audience="user", now_s=self.clock.now_s(),
            request_digest=request.digest,
        ).message.total  # fmt: skip

    def opened(self, wire: Wire) -> Opened[Add]:
        return envelope.open_signed(
            Add, wire.cose, USER.key.public, issuer="user", audience="counter", now_s=self.clock.now_s()
        )

    @property
    def count(self) -> Count:
        (count,) = self.store.scan(COUNTS)
        return count

    def rows(self) -> dict[str, tuple[object, ...]]:
        return {table.name: self.store.scan(table) for table in (COUNTS, REQUESTS, OUTBOX, EVIDENCE)}

    def request(self, amount: int, stamp: Stamp | None = None, signer: Signer = USER) -> Wire:
        stamp = stamp or Stamp.fresh(self.clock.now_s(), ENTROPY)
        return Wire(cose=envelope.sign(signer, Add(amount=amount), audience="counter", stamp=stamp))


@pytest.fixture
def counter() -> Counter:
    return Counter()


# --- the same bytes again --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rpc", ["Counter.Add", "Counter.Confirm"])
@pytest.mark.parametrize("between", ["nothing", "time", "a restart", "other requests"])
def test_the_same_bytes_get_the_same_reply_and_no_second_effect(counter: Counter, rpc: str, between: str) -> None:
    wire = counter.request(7)
    first = counter.engine.handle(rpc, wire, None)
    if between == "time":
        counter.clock.time_s += 600
    if between == "a restart":
        counter.restart()
    if between == "other requests":
        counter.handle("Counter.Add", counter.request(20))
    before = counter.rows()
    assert counter.engine.handle(rpc, wire, None) == first  # signed in the clear: the very same bytes
    assert counter.rows() == before
    assert counter.add.prepared + counter.confirm.prepared == counter.add.decided + counter.confirm.decided
    assert len(counter.bank.asked) == (rpc == "Counter.Confirm")


def _again(counter: Counter, amount: int) -> tuple[Wire, Wire]:
    """A request, and another with the same nonce."""
    stamp = Stamp.fresh(counter.clock.now_s(), ENTROPY)
    return counter.request(7, stamp), counter.request(amount, stamp)


def _other_s(wire: Wire) -> Wire:
    """The same message under the other signature that ECDSA lets anybody make."""
    s = N - int.from_bytes(wire.cose[-32:])
    return replace(wire, cose=wire.cose[:-32] + s.to_bytes(32))


REPLAYS: dict[str, Callable[[Counter], tuple[Wire, Wire]]] = {
    "another message with its nonce": lambda counter: _again(counter, 8),
    "the other signature": lambda counter: (wire := counter.request(7), _other_s(wire)),
    "a handle put beside it": lambda counter: (wire := counter.request(7), replace(wire, session=b"s" * 16)),
}


@pytest.mark.parametrize("rpc", ["Counter.Add", "Counter.Confirm"])
@pytest.mark.parametrize("make", REPLAYS.values(), ids=REPLAYS)
def test_other_bytes_with_a_used_nonce_are_a_replay(
    counter: Counter, make: Callable[[Counter], tuple[Wire, Wire]], rpc: str
) -> None:
    wire, other = make(counter)
    assert counter.handle(rpc, wire) == 7
    before = counter.rows()
    counter.refused(Replay, rpc, other)
    assert counter.rows() == before
    counter.restart()
    counter.refused(Replay, rpc, other)
    assert counter.handle(rpc, wire) == 7  # the first one is still answered


@pytest.mark.parametrize("make", REPLAYS.values(), ids=REPLAYS)
def test_either_of_two_with_one_nonce_is_taken_if_it_is_first(
    counter: Counter, make: Callable[[Counter], tuple[Wire, Wire]]
) -> None:
    wire, other = make(counter)
    counter.handle("Counter.Add", other)
    counter.refused(Replay, "Counter.Add", wire)


def test_a_nonce_is_used_up_for_every_rpc(counter: Counter) -> None:
    wire, other = _again(counter, 8)
    counter.handle("Counter.Add", wire)
    counter.refused(Replay, "Counter.Confirm", other)


def test_another_key_s_nonces_are_its_own(counter: Counter) -> None:
    stamp = Stamp.fresh(counter.clock.now_s(), ENTROPY)
    assert counter.handle("Counter.Add", counter.request(7, stamp)) == 7
    counter.add.user = SECOND_USER
    assert counter.handle("Counter.Add", counter.request(8, stamp, SECOND_USER)) == 15


def test_a_request_is_remembered_as_long_as_it_would_be_accepted(counter: Counter) -> None:
    wire = counter.request(7)
    reply = counter.engine.handle("Counter.Add", wire, None)
    (request,) = counter.store.scan(REQUESTS)
    counter.clock.time_s = counter.clock.time_s + envelope.REQUEST_LIFETIME_S + MAX_SKEW_S
    assert request.expires_at_s == counter.clock.time_s
    counter.store.sweep(counter.clock.time_s)
    assert counter.engine.handle("Counter.Add", wire, None) == reply
    counter.clock.time_s += 1
    assert counter.store.sweep(counter.clock.time_s) == 1
    counter.refused(Expired, "Counter.Add", wire)
    assert counter.count.total == 7


def test_a_reply_is_bound_to_its_request(counter: Counter) -> None:
    wire, other = counter.request(7), counter.request(8)
    reply = counter.engine.handle("Counter.Add", wire, None)
    with pytest.raises(SignatureInvalid) as refusal:
        counter._total(reply, other)
    assert refusal.value.code == "SIGNATURE_INVALID"


def test_what_was_signed_is_kept_as_received(counter: Counter) -> None:
    wire = counter.request(7)
    counter.handle("Counter.Add", wire)
    (evidence,) = counter.store.scan(EVIDENCE)
    assert (evidence.digest, evidence.message, evidence.signed) == (wire.digest, Add.NAME, wire.cose)
    assert evidence.received_at_s == counter.clock.now_s()


# --- refusals --------------------------------------------------------------------------------------------------------
UNOPENED: dict[str, tuple[Callable[[Counter], Wire], type[ProtocolError]]] = {
    "altered": (lambda c: (w := c.request(7), replace(w, cose=w.cose[:-1] + bytes([w.cose[-1] ^ 1])))[1],
                SignatureInvalid),
    "by another": (lambda c: c.request(7, signer=SECOND_USER), SignatureInvalid),
    "to another": (lambda c: Wire(cose=envelope.sign(USER, Add(amount=7), audience="bank",
                                                     stamp=Stamp.fresh(c.clock.now_s(), ENTROPY))), WrongAudience),
    "old": (lambda c: c.request(7, Stamp.fresh(c.clock.now_s() - 3661, ENTROPY)), Expired),
    "refused in the decision": (lambda c: c.request(MANY + 1), WrongState),
}  # fmt: skip


@pytest.mark.parametrize("rpc", ["Counter.Add", "Counter.Confirm"])
@pytest.mark.parametrize(("make", "error"), UNOPENED.values(), ids=UNOPENED)
def test_a_refusal_writes_nothing(
    counter: Counter, make: Callable[[Counter], Wire], error: type[ProtocolError], rpc: str
) -> None:
    before = counter.rows()
    wire = make(counter)
    for _ in range(2):
        counter.refused(error, rpc, wire)
    assert counter.rows() == before
    assert counter.bank.asked == []


def test_a_nonce_of_a_refused_request_is_not_used_up(counter: Counter) -> None:
    wire, other = _again(counter, MANY + 1)
    counter.refused(WrongState, "Counter.Add", other)
    assert counter.handle("Counter.Add", wire) == 7


@pytest.mark.parametrize("rpc", ["Counter.Add", "Counter.Confirm"])
def test_a_refusal_with_writes_is_remembered(counter: Counter, rpc: str) -> None:
    wire = counter.request(LOCKED)
    counter.refused(FactorLocked, rpc, wire)
    assert counter.count == Count(name="user", total=0, wrong=1)
    before = counter.rows()
    counter.restart()
    counter.refused(FactorLocked, rpc, wire)  # the same bytes: counted once
    assert counter.rows() == before
    counter.refused(FactorLocked, rpc, counter.request(LOCKED))
    assert counter.count.wrong == 2
    assert counter.bank.asked == []


@pytest.mark.parametrize(("over", "error"), [(0, None), (1, Oversize)], ids=["as large as allowed", "one byte larger"])
def test_size_is_bounded_before_anything_is_opened(
    counter: Counter, over: int, error: type[ProtocolError] | None
) -> None:
    wire = counter.request(7)
    wire = replace(wire, session=b"s" * (AddStep.max_bytes - len(wire.cose) + over))
    if error is None:
        assert counter.handle("Counter.Add", wire) == 7
    else:
        counter.refused(error, "Counter.Add", wire)
        counter.refused(error, "Counter.Add", Wire(cose=b"x" * (AddStep.max_bytes + 1)))
        assert counter.store.scan(REQUESTS) == ()


# --- other writers ---------------------------------------------------------------------------------------------------
class BusyStore(MemoryStore):
    """Another writer is faster, so many times."""

    def __init__(self) -> None:
        super().__init__()
        self.conflicts = 0

    def apply(self, unit: Unit) -> Decision:
        if not self.conflicts:
            return super().apply(unit)
        self.conflicts -= 1
        unit.decide(self.read(*unit.reads))
        raise Conflict("another writer was faster")


@pytest.mark.parametrize("rpc", ["Counter.Add", "Counter.Confirm"])
def test_a_conflict_is_decided_again(rpc: str) -> None:
    store = BusyStore()
    counter = Counter(store)
    store.conflicts = ATTEMPTS - 1
    assert counter.handle(rpc, counter.request(7)) == 7
    assert counter.add.decided + counter.confirm.decided == ATTEMPTS
    assert counter.count.total == 7


def test_conflicts_without_end_are_a_fault_and_change_nothing() -> None:
    store = BusyStore()
    counter = Counter(store)
    before, store.conflicts = counter.rows(), ATTEMPTS
    wire = counter.request(7)
    counter.refused(Internal, "Counter.Add", wire)
    assert (counter.rows(), counter.add.decided) == (before, ATTEMPTS)
    assert counter.handle("Counter.Add", wire) == 7  # the same bytes, later


def test_the_same_bytes_while_they_are_prepared_are_decided_once(counter: Counter) -> None:
    wire, replies = counter.request(7), []
    counter.add.meanwhile = lambda: replies.append(counter.engine.handle("Counter.Add", wire, None))
    replies.append(counter.engine.handle("Counter.Add", wire, None))
    assert replies[0] == replies[1]
    assert (counter.add.prepared, counter.add.decided, counter.count.total) == (2, 1, 7)


# --- many at once ----------------------------------------------------------------------------------------------------
def _mixed(counter: Counter) -> list[Wire]:
    """New requests, a repeat, a replay, one that is refused, one whose refusal is remembered, and bytes of nothing."""
    stamp = Stamp.fresh(counter.clock.now_s(), ENTROPY)
    first = counter.request(7, stamp)
    return [
        first, counter.request(8, stamp), counter.request(MANY + 1), first, counter.request(LOCKED), Wire(cose=b"x"),
        counter.request(20), Wire(cose=b"x" * (AddStep.max_bytes + 1)),
    ]  # fmt: skip


def _one_by_one(counter: Counter, rpc: str, wires: list[Wire]) -> list[Wire | Exception]:
    outcomes: list[Wire | Exception] = []
    for wire in wires:
        try:
            outcomes.append(counter.engine.handle(rpc, wire, None))
        except ProtocolError as refusal:
            outcomes.append(refusal)
    return outcomes


@pytest.mark.parametrize("rpc", ["Counter.Add", "Counter.Confirm", "Counter.Peek"])
def test_many_at_once_get_what_they_get_one_by_one(rpc: str) -> None:
    together, alone = Counter(), Counter()
    wires = _mixed(together)
    outcomes = together.engine.handle_all(rpc, [(wire, None) for wire in wires])
    expected = _one_by_one(alone, rpc, wires)
    assert [type(outcome) for outcome in outcomes] == [type(outcome) for outcome in expected]
    for wire, outcome, other in zip(wires, outcomes, expected, strict=True):
        if isinstance(outcome, Wire):
            assert isinstance(other, Wire)
            assert together._total(outcome, wire) == alone._total(other, wire)
    assert together.count == alone.count
    assert {row.digest for row in together.store.scan(REQUESTS)} == {row.digest for row in alone.store.scan(REQUESTS)}
    assert together.store.scan(OUTBOX) == ()


def test_what_conflicts_among_many_is_decided_again_alone() -> None:
    store = BusyStore()
    counter = Counter(store)
    store.conflicts = 2
    wires = [counter.request(amount) for amount in (1, 2, 4)]
    outcomes = counter.engine.handle_all("Counter.Add", [(wire, None) for wire in wires])
    assert all(isinstance(outcome, Wire) for outcome in outcomes)
    assert (counter.count.total, counter.add.decided) == (7, 5)


def test_conflicts_without_end_are_one_request_s_fault_among_many() -> None:
    store = BusyStore()
    counter = Counter(store)
    store.conflicts = ATTEMPTS
    (outcome,) = counter.engine.handle_all("Counter.Add", [(counter.request(1), None)])
    assert type(outcome) is Internal
    assert (counter.count.total, counter.add.decided) == (0, ATTEMPTS)


def test_an_engine_tells_which_requests_are_better_answered_together(counter: Counter) -> None:
    assert counter.engine.gathers == frozenset()
    steps: dict[str, Step[Any]] = {"Counter.Add": type("Gathering", (AddStep,), {"gathers": True})()}
    engine = Engine(steps, store=counter.store, clock=counter.clock, entropy=ENTROPY, peers=counter.bank)
    assert engine.gathers == {"Counter.Add"}


# --- asking another party --------------------------------------------------------------------------------------------
OUT_OF_REACH: tuple[type[ProtocolError], ...] = (Unavailable, Overloaded, Internal, StorageFault, PeerAnswerInvalid)


@pytest.mark.parametrize("error", OUT_OF_REACH)
@pytest.mark.parametrize("restarted", [False, True], ids=["same process", "restarted"])
def test_an_unreachable_peer_leaves_the_question(counter: Counter, error: type[ProtocolError], restarted: bool) -> None:
    counter.bank.script = [error(), error()]
    wire = counter.request(7)
    for _ in range(2):
        counter.refused(error, "Counter.Confirm", wire)
        (question,) = counter.store.scan(OUTBOX)
        (request,) = counter.store.scan(REQUESTS)
        assert (question.digest, request.reply, request.refusal) == (wire.digest, b"", "")
        assert counter.count.total == 7  # held, once
        if restarted:
            counter.restart()
    assert counter.handle("Counter.Confirm", wire) == 7
    assert counter.store.scan(OUTBOX) == ()
    assert counter.confirm.decided == 1
    assert len(counter.bank.asked) == 3
    assert len(set(counter.bank.asked)) == 1  # the very same bytes to the peer


def test_a_question_under_way_uses_its_nonce_up(counter: Counter) -> None:
    counter.bank.script = [Unavailable()]
    wire, other = _again(counter, 8)
    counter.refused(Unavailable, "Counter.Confirm", wire)
    counter.refused(Replay, "Counter.Confirm", other)
    assert counter.count.total == 7


def test_a_peer_s_refusal_is_remembered(counter: Counter) -> None:
    counter.bank.script = [GrantUnknown("of this session"), LimitExceeded()]
    wire = counter.request(7)
    counter.refused(GrantUnknown, "Counter.Confirm", wire)
    assert counter.count.total == 0  # given back
    before = counter.rows()
    counter.restart()
    refusal = counter.refused(GrantUnknown, "Counter.Confirm", wire)
    assert refusal.detail == ""  # what the peer's log may say is not kept
    assert counter.rows() == before
    assert (len(counter.bank.asked), counter.store.scan(OUTBOX)) == (1, ())


def _spoiled(wire: Wire) -> Wire:
    return replace(wire, cose=wire.cose[:-1] + bytes([wire.cose[-1] ^ 1]))


NO_ANSWERS: dict[str, tuple[Callable[[Bank], Callable[[Wire], Wire]], type[ProtocolError]]] = {
    "altered": (lambda bank: lambda request: _spoiled(bank.confirm(request)), SignatureInvalid),
    "to another question": (lambda bank: lambda request: bank.answer(request.cose, bytes(32)), SignatureInvalid),
    "by another": (lambda bank: lambda request: bank.answer(request.cose, request.digest, signer=USER),
                   SignatureInvalid),
    "to another party": (lambda bank: lambda request: bank.answer(request.cose, request.digest, audience="user"),
                         WrongAudience),
}  # fmt: skip


@pytest.mark.parametrize(("make", "error"), NO_ANSWERS.values(), ids=NO_ANSWERS)
def test_an_answer_that_is_none_leaves_the_question(
    counter: Counter, make: Callable[[Bank], Callable[[Wire], Wire]], error: type[ProtocolError]
) -> None:
    """Whoever stands between the parties can't undo by a forged answer what the bank has granted."""
    counter.bank.script = [make(counter.bank)] * 2
    wire = counter.request(7)
    for _ in range(2):
        refusal = counter.refused(PeerAnswerInvalid, "Counter.Confirm", wire)
        assert refusal.detail == error.code
        assert [question.digest for question in counter.store.scan(OUTBOX)] == [wire.digest]
        assert counter.count.total == 7  # still held
    assert counter.restart().resume() == []
    assert counter.handle("Counter.Confirm", wire) == 7
    assert (len(counter.bank.asked), len(set(counter.bank.asked))) == (3, 1)


def test_statuses_that_are_no_answer_are_exactly_the_transient_ones() -> None:
    assert frozenset(error.status for error in OUT_OF_REACH) == NOT_AN_ANSWER


@pytest.mark.parametrize("answered_again", [True, False], ids=["by the reply", "by a refusal"])
def test_a_duplicate_between_the_units_finishes_first(counter: Counter, answered_again: bool) -> None:
    """While the first waits for the bank, the same bytes come again, ask the same, and finish; then it hears."""
    wire, seen = counter.request(7), []

    def slow(request: Wire) -> Wire:
        if not answered_again:
            counter.bank.script = [LimitExceeded()]
            counter.refused(LimitExceeded, "Counter.Confirm", wire)
        else:
            seen.append(counter.engine.handle("Counter.Confirm", wire, None))
        return counter.bank.confirm(request)

    counter.bank.script = [slow]
    if answered_again:
        assert counter.engine.handle("Counter.Confirm", wire, None) == seen[0]
    else:
        counter.refused(LimitExceeded, "Counter.Confirm", wire)
    assert counter.count.total == (7 if answered_again else 0)
    assert len(set(counter.bank.asked)) == 1
    assert counter.confirm.decided == 1


class WatchedStore(MemoryStore):
    """Tells when the outbox is looked into."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: Callable[[], object] = lambda: None

    def read(self, *reads: Read) -> Rows:
        if any(read.table is OUTBOX for read in reads):
            meanwhile, self.meanwhile = self.meanwhile, lambda: None
            meanwhile()
        return super().read(*reads)


def test_a_duplicate_that_finished_just_before_is_not_asked_again() -> None:
    store = WatchedStore()
    counter = Counter(store)
    wire, seen = counter.request(7), []
    store.meanwhile = lambda: seen.append(counter.engine.handle("Counter.Confirm", wire, None))
    assert counter.engine.handle("Counter.Confirm", wire, None) == seen[0]
    assert (len(counter.bank.asked), counter.confirm.decided, counter.count.total) == (1, 1, 7)


# --- after a restart -------------------------------------------------------------------------------------------------
def _interrupted(counter: Counter, *amounts: int) -> list[Wire]:
    wires = [counter.request(amount) for amount in amounts]
    for wire in wires:
        counter.bank.script = [Unavailable()]
        counter.refused(Unavailable, "Counter.Confirm", wire)
    return wires


def test_resume_finishes_what_was_under_way(counter: Counter) -> None:
    wires = _interrupted(counter, 3, 4)
    asked = set(counter.bank.asked)
    assert counter.restart().resume() == []
    assert counter.store.scan(OUTBOX) == ()
    assert set(counter.bank.asked) == asked  # the very same bytes, not sealed anew
    assert (len(asked), len(counter.bank.asked), counter.confirm.prepared) == (2, 4, 2)
    assert [counter.handle("Counter.Confirm", wire) for wire in wires] == [7, 7]
    assert (len(counter.bank.asked), counter.count.total) == (4, 7)
    assert counter.engine.resume() == []


def test_resume_keeps_a_session_s_handle(counter: Counter) -> None:
    wire = replace(counter.request(7), session=b"s" * 16)
    counter.bank.script = [Unavailable()]
    counter.refused(Unavailable, "Counter.Confirm", wire)
    assert counter.restart().resume() == []
    assert counter.handle("Counter.Confirm", wire) == 7


def test_resume_tells_what_is_refused_and_goes_on(counter: Counter) -> None:
    wires = _interrupted(counter, 3, 4, 5)
    counter.bank.script = [GrantUnknown(), Unavailable()]
    refusals = counter.restart().resume()
    assert sorted(refusal.code for refusal in refusals) == ["GRANT_UNKNOWN", "UNAVAILABLE"]
    assert len(counter.store.scan(OUTBOX)) == 1  # what was out of reach is still to be asked
    assert counter.engine.resume() == []
    outcomes = []
    for wire in wires:
        try:
            outcomes.append(str(counter.handle("Counter.Confirm", wire)))
        except ProtocolError as refusal:
            outcomes.append(refusal.code)
    assert sorted(outcomes) == ["7", "7", "GRANT_UNKNOWN"]


def test_resume_of_what_expired_asks_nobody(counter: Counter) -> None:
    _interrupted(counter, 3)
    counter.clock.time_s += envelope.REQUEST_LIFETIME_S + MAX_SKEW_S + 1
    assert [refusal.code for refusal in counter.restart().resume()] == [Expired.code]
    assert len(counter.bank.asked) == 1


# --- steps that keep nothing -----------------------------------------------------------------------------------------
def test_a_stateless_step_keeps_nothing(counter: Counter) -> None:
    before = counter.rows()
    wire = counter.request(7)
    first, second = (counter.engine.handle("Counter.Peek", wire, None) for _ in range(2))
    assert counter._total(first, wire) == counter._total(second, wire) == 7
    assert first != second  # each with a nonce of its own
    assert counter.peek.reads(Adding(opened=counter.opened(wire))) == ()
    counter.refused(FactorLocked, "Counter.Peek", counter.request(LOCKED))
    assert counter.rows() == before


def test_a_stateless_step_looks_at_nothing(counter: Counter) -> None:
    class Curious(PeekStep):
        def decide(self, rows: Rows, facts: Adding, now_s: int, entropy: Entropy) -> Decision:
            return AddStep().decide(rows, facts, now_s, entropy)

    counter.peek = Curious()
    with pytest.raises(LookupError, match="was not declared"):
        counter.restart().handle("Counter.Peek", counter.request(7), None)


# --- sealing ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("step", [AddStep(), ConfirmStep(), PeekStep()], ids=lambda step: step.rpc)
def test_sealing_is_determined_by_reply_and_stamp(counter: Counter, step: Step[Adding]) -> None:
    wire, stamp = counter.request(7), Stamp(issued_at_s=counter.clock.now_s(), nonce=b"n" * cose.CTI_BYTES)
    ctx = Context(
        store=counter.store, now_s=counter.clock.now_s(), entropy=ENTROPY, peer=None, digest=wire.digest
    )  # fmt: skip
    facts = step.open(wire, ctx).facts
    later = replace(ctx, now_s=ctx.now_s + 60, peer=Peer(role=Role.TSM, name="tsm-1"))
    assert step.seal(facts, Total(total=7), stamp, ctx) == step.seal(facts, Total(total=7), stamp, later)
    assert step.seal(facts, Total(total=8), stamp, ctx) != step.seal(facts, Total(total=7), stamp, ctx)
