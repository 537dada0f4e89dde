"""How every party answers a request: open, decide once, commit, seal — and answer the same bytes the same way.

Replay protection and lost answers are one mechanism (design §2). The request's digest and its reply are committed with
the effect: the same bytes again get that reply and no second effect; a new message that reuses a nonce is a replay.
A step that needs another party commits its state and the sealed question first and finishes in a second unit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Final, Generic, Protocol, TypeAlias, TypeVar

from protocol.attempt import attempt
from protocol.cose import CTI_BYTES, Claims
from protocol.crypto import PublicKey, sha256
from protocol.envelope import Stamp, Wire
from protocol.errors import REGISTRY, Internal, Oversize, PeerAnswerInvalid, ProtocolError, Replay
from protocol.ports import Clock, Entropy
from protocol.rows import (
    Conflict,
    Decision,
    Declared,
    Delete,
    Insert,
    Key,
    Overlay,
    Read,
    Rows,
    Store,
    Table,
    Unit,
    Update,
    Where,
    Write,
)
from protocol.schema import Record
from protocol.types import MAX_SKEW_S, Role

ATTEMPTS: Final = 5
F = TypeVar("F")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request that was answered, or is being answered (then `reply` is empty and so is `refusal`)."""

    digest: bytes
    nonce: bytes
    expires_at_s: int
    issued_at_s: int
    reply_nonce: bytes
    reply: bytes
    refusal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A sealed request to another party that a step waits for, with the request that caused it."""

    digest: bytes
    rpc: str
    cose: bytes
    session: bytes
    peer: str
    peer_rpc: str
    peer_cose: bytes
    expires_at_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A verified message as received, kept for disputes (non-repudiation)."""

    digest: bytes
    message: str
    received_at_s: int
    signed: bytes


REQUESTS: Final = Table("requests", Request, ("digest",), unique=(("nonce",),), sealed=frozenset({"reply"}),
                        expires="expires_at_s")  # fmt: skip
OUTBOX: Final = Table("outbox", Question, ("digest",), sealed=frozenset({"cose", "peer_cose"}), expires="expires_at_s")
EVIDENCE: Final = Table("evidence", Evidence, ("digest", "message"), sealed=frozenset({"signed"}))
NOT_AN_ANSWER: Final = frozenset({"UNAVAILABLE", "RESOURCE_EXHAUSTED", "INTERNAL"})
"""Statuses after which a question stays in the outbox: the peer has not decided."""
COMMON_TABLES: Final = (REQUESTS, OUTBOX, EVIDENCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Who the transport says is calling: role and name of a verified certificate."""

    role: Role
    name: str


class Peers(Protocol):
    """The way to other parties."""

    def call(self, peer: str, rpc: str, request: Wire) -> Wire:
        """Raises: Unavailable, or the peer's refusal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A sealed question to `peer`, to be sent after the first unit is committed."""

    peer: str
    rpc: str
    wire: Wire


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming(Generic[F]):
    """What a step's `open` found: the verified message(s), whose single-use nonce, until when, and what to keep.

    `facts` is the step's own value: verified parts, keys, and whatever heavy work was done before the decision.
    """

    facts: F
    key: PublicKey
    claims: Claims
    evidence: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The world as a step may see it while it opens and seals."""

    store: Store
    now_s: int
    entropy: Entropy
    peer: Peer | None
    digest: bytes

    def read(self, *reads: Read) -> Rows:
        """Rows needed to open a message: keys and sessions, which do not change under it."""
        return self.store.read(*reads)


class Step(ABC, Generic[F]):
    """One paper step at one party: open → (prepare) → reads → decide → seal. `F` are the facts that `open` found."""

    rpc: ClassVar[str]
    reply: ClassVar[type[Record]]
    """What `decide` answers and `seal` takes: the reply's payload, or the values it is made from."""
    conflict: ClassVar[type[ProtocolError]] = Internal
    """What it means when a unit keeps meeting rows that it could not see: a fault, unless a step relies on it."""
    max_bytes: ClassVar[int] = 32 * 1024
    looks_first: ClassVar[bool] = True
    """Is a repeat looked for before `prepare`? Not where to prepare costs little more: the unit looks in any case."""
    gathers: ClassVar[bool] = False
    """Are requests that wait answered together (`Engine.handle_all`)? For what is asked often, and of nobody else."""

    @abstractmethod
    def open(self, wire: Wire, ctx: Context) -> Incoming[F]:
        """Parse, decrypt, verify. Any thread; changes nothing."""

    def prepare(self, incoming: Incoming[F], ctx: Context) -> Incoming[F]:
        """Heavy work for a new request (signing cards, sealing a question). Any thread; changes nothing."""
        return incoming

    @abstractmethod
    def reads(self, facts: F) -> tuple[Read, ...]:
        """The rows that `decide` looks at."""

    @abstractmethod
    def decide(self, rows: Rows, facts: F, now_s: int, entropy: Entropy) -> Decision:
        """Pure. Raises a ProtocolError to refuse without any change."""

    @abstractmethod
    def seal(self, facts: F, reply: Any, stamp: Stamp, ctx: Context) -> Wire:
        """Sign and encrypt the committed reply. Any thread; the same reply and stamp sign the same object."""


class StatelessStep(Step[F]):
    """A step that keeps nothing, not even a record of the request: the same bytes may get another answer."""

    def reads(self, facts: F) -> tuple[Read, ...]:
        return ()


class AskingStep(Step[F]):
    """A step that needs another party: `decide` commits its state with the question, `finish` the reply."""

    @abstractmethod
    def ask(self, facts: F) -> Ask:
        """The question that `prepare` sealed."""

    @abstractmethod
    def hear(self, facts: F, question: Wire, answer: Wire, ctx: Context) -> Any:
        """Open the other party's answer; raises if it is not one."""

    @abstractmethod
    def finish(self, rows: Rows, facts: F, heard: Any, now_s: int, entropy: Entropy) -> Decision:
        """Pure. The second unit; `heard` is what `hear` opened, or the peer's refusal."""


Admit: TypeAlias = Callable[[str, Any, int], None]
"""Looks at a new request (its RPC, its verified facts, the time) before it costs more. Raises: Overloaded."""


def admit_all(rpc: str, facts: Any, now_s: int) -> None:
    """No request is too many."""


class Engine:
    """Runs the steps of one party over a store. Knows neither sockets nor SQL."""

    def __init__(
        self, steps: Mapping[str, Step[Any]], *, store: Store, clock: Clock, entropy: Entropy, peers: Peers,
        admit: Admit = admit_all,
    ) -> None:  # fmt: skip
        self._steps = steps
        self._store = store
        self._clock = clock
        self._entropy = entropy
        self._peers = peers
        self._admit = admit

    @property
    def gathers(self) -> frozenset[str]:
        """The RPCs whose requests are better answered together."""
        return frozenset(rpc for rpc, step in self._steps.items() if step.gathers)

    def handle(self, rpc: str, wire: Wire, peer: Peer | None) -> Wire:
        """The reply to `wire`. Raises: ProtocolError; then nothing has changed but what the refusal itself needs."""
        return self._finish(self._begin(rpc, wire, peer))

    def handle_all(self, rpc: str, requests: Sequence[tuple[Wire, Peer | None]]) -> list[Wire | Exception]:
        """What `handle` gives for each in order, or raises; what they change is committed together where it can be.

        One after the other they would each wait for the disk; and a processor that does the same for all of them, step
        by step, has at hand what it needs.
        """
        calls = [attempt(self._begin, rpc, wire, peer) for wire, peer in requests]
        waiting = [call for call in calls if isinstance(call, _Call) and call.unit is not None]
        decided = self._store.apply_all([call.unit for call in waiting if call.unit is not None])
        for call, decision in zip(waiting, decided, strict=True):
            call.decided = decision
        return [call if isinstance(call, Exception) else attempt(self._finish, call) for call in calls]

    def _begin(self, rpc: str, wire: Wire, peer: Peer | None) -> _Call:
        step = self._steps[rpc]
        if len(wire.cose) + len(wire.session) > step.max_bytes:
            raise Oversize
        ctx = Context(
            store=self._store, now_s=self._clock.now_s(), entropy=self._entropy, peer=peer, digest=wire.digest
        )
        call = _Call(step=step, ctx=ctx, incoming=step.open(wire, ctx))
        if isinstance(step, StatelessStep):
            return call
        if step.looks_first:
            call.request = self._store.read(Key(REQUESTS, (ctx.digest,))).get(REQUESTS, ctx.digest)
        if call.request is None:
            self._admit(rpc, call.incoming.facts, ctx.now_s)
            call.incoming = step.prepare(call.incoming, ctx)
            call.unit = _first_unit(step, call.incoming, wire, ctx, call.made)
        return call

    def _finish(self, call: _Call) -> Wire:
        step, incoming, ctx, request = call.step, call.incoming, call.ctx, call.request
        if isinstance(step, StatelessStep):
            nothing = Declared(Overlay(), frozenset())
            reply = step.decide(nothing, incoming.facts, ctx.now_s, ctx.entropy).reply
            return step.seal(incoming.facts, reply, Stamp.fresh(ctx.now_s, ctx.entropy), ctx)
        if request is None:
            assert call.unit is not None
            request = self._apply(call.unit, step, call.decided)
        if not request.reply and not request.refusal:
            request = self._second(step, incoming, ctx)
        if request.refusal:
            raise REGISTRY[request.refusal]
        is_fresh = call.made.nonce == request.reply_nonce
        reply = call.made.reply if is_fresh else step.reply.from_bytes(request.reply)
        stamp = Stamp(issued_at_s=request.issued_at_s, nonce=request.reply_nonce, encoded=(reply, request.reply))
        return step.seal(incoming.facts, reply, stamp, ctx)

    def resume(self) -> list[ProtocolError]:
        """Take up the questions that were under way when the party stopped; what is refused or out of reach still."""
        refusals = []
        for question in self._store.scan(OUTBOX):
            try:
                self.handle(question.rpc, Wire(cose=question.cose, session=question.session), None)
            except ProtocolError as refusal:
                refusals.append(refusal)
        return refusals

    def _apply(self, unit: Unit, step: Step[Any], decided: Decision | Exception | None = None) -> Request:
        """The request as it was decided: by what came of `unit` among others, or, if none of that will do, alone."""
        for _ in range(ATTEMPTS):
            try:
                if isinstance(decided, Exception):
                    raise decided
                request = (decided or self._store.apply(unit)).reply
            except Conflict:
                decided = None
                continue
            assert isinstance(request, Request)
            return request
        raise step.conflict("a unit kept conflicting")

    def _second(self, step: Step[Any], incoming: Incoming[Any], ctx: Context) -> Request:
        assert isinstance(step, AskingStep)
        asked = self._store.read(Key(OUTBOX, (ctx.digest,))).get(OUTBOX, ctx.digest)
        heard = None if asked is None else self._hear(step, incoming.facts, asked, ctx)
        return self._apply(_second_unit(step, incoming.facts, heard, ctx), step)

    def _hear(self, step: AskingStep[Any], facts: Any, asked: Question, ctx: Context) -> Any:
        question = Wire(cose=asked.peer_cose)
        try:
            answer = self._peers.call(asked.peer, asked.peer_rpc, question)
        except ProtocolError as refusal:
            if refusal.status in NOT_AN_ANSWER:
                raise
            return refusal
        try:
            return step.hear(facts, question, answer, ctx)
        except ProtocolError as exc:
            raise PeerAnswerInvalid(exc.code) from exc


@dataclass(slots=True)
class _Made:
    """The reply that this very call decided, told by its nonce, so that it need not be parsed back."""

    nonce: bytes = b""
    reply: Any = None


@dataclass(slots=True, kw_only=True)
class _Call:
    """One request on its way: opened; then known already by its `request`, or to be decided by its `unit`."""

    step: Step[Any]
    ctx: Context
    incoming: Incoming[Any]
    made: _Made = field(default_factory=_Made)
    request: Request | None = None
    unit: Unit | None = None
    decided: Decision | Exception | None = None
    """What came of the unit among others."""


def _first_unit(step: Step[Any], incoming: Incoming[Any], wire: Wire, ctx: Context, made: _Made) -> Unit:
    nonce = sha256(incoming.key.thumbprint, incoming.claims.nonce)

    def decide(rows: Rows) -> Decision:
        seen = rows.get(REQUESTS, ctx.digest)
        if seen is not None:  # the same bytes were decided while these waited
            return Decision(reply=seen)
        if rows.find(REQUESTS, "nonce", nonce):
            raise Replay
        decision = step.decide(rows, incoming.facts, ctx.now_s, ctx.entropy)
        request = Request(
            digest=ctx.digest,
            nonce=nonce,
            expires_at_s=incoming.claims.expires_at_s + MAX_SKEW_S,
            issued_at_s=ctx.now_s,
            reply_nonce=ctx.entropy.bytes(CTI_BYTES),
            reply=_reply_bytes(decision),
            refusal=_refusal_code(decision),
        )
        if decision.reply is not None:
            made.nonce, made.reply = request.reply_nonce, decision.reply
        writes: list[Write] = [Insert(REQUESTS, request), *decision.writes]
        if not request.reply and not request.refusal:
            assert isinstance(step, AskingStep)
            writes.append(Insert(OUTBOX, _question(step, incoming.facts, wire, request)))
        writes += [
            Insert(EVIDENCE, Evidence(digest=ctx.digest, message=name, received_at_s=ctx.now_s, signed=signed))
            for name, signed in incoming.evidence
        ]
        return Decision(writes=tuple(writes), reply=request)

    replay_reads = (Key(REQUESTS, (ctx.digest,)), Where(REQUESTS, "nonce", nonce))
    return Unit((*replay_reads, *step.reads(incoming.facts)), decide)


def _second_unit(step: AskingStep[Any], facts: Any, heard: Any, ctx: Context) -> Unit:
    def decide(rows: Rows) -> Decision:
        request = rows.get(REQUESTS, ctx.digest)
        assert request is not None
        waiting = rows.get(OUTBOX, ctx.digest)
        if waiting is None:  # another thread heard the answer first
            return Decision(reply=request)
        decision = step.finish(rows, facts, heard, ctx.now_s, ctx.entropy)
        request = replace(request, reply=_reply_bytes(decision), refusal=_refusal_code(decision))
        writes = (Update(REQUESTS, request), Delete(OUTBOX, waiting), *decision.writes)
        return Decision(writes=writes, reply=request)

    return Unit((Key(REQUESTS, (ctx.digest,)), Key(OUTBOX, (ctx.digest,)), *step.reads(facts)), decide)


def _question(step: AskingStep[Any], facts: Any, wire: Wire, request: Request) -> Question:
    ask = step.ask(facts)
    return Question(
        digest=request.digest,
        rpc=step.rpc,
        cose=wire.cose,
        session=wire.session,
        peer=ask.peer,
        peer_rpc=ask.rpc,
        peer_cose=ask.wire.cose,
        expires_at_s=request.expires_at_s,
    )


def _reply_bytes(decision: Decision) -> bytes:
    if decision.reply is None:
        return b""
    reply: bytes = decision.reply.to_bytes()
    return reply


def _refusal_code(decision: Decision) -> str:
    return "" if decision.refusal is None else decision.refusal.code
