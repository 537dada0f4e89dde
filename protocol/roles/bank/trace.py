"""TRACE at the bank: a TSM asks for the name behind one purchase, and proves that there was one (design §3 TRACE).

What the bank reads in the chain is the one purchase that is in dispute. It is kept sealed, since officers must look at
it; of a request that is refused only a digest stays. Every request that a TSM signed is logged, the refused ones too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from protocol import cose, envelope
from protocol.crypto import PublicKey, same, sha256
from protocol.engine import EVIDENCE, Context, Evidence, Incoming, Step
from protocol.envelope import OVERHEAD_BYTES, Stamp, Wire
from protocol.errors import IdentifierTaken, ProtocolError, TraceChainInvalid, TraceReasonUnknown, TraceRepeated
from protocol.evidence.chain import ChainChecks, Parties, Traced
from protocol.messages.trace import AuditKind, TraceProgress, TraceReason, TraceRequest, TraceState
from protocol.pki import Use
from protocol.ports import Entropy
from protocol.roles.bank.audit import Logged, append, log_reads
from protocol.roles.bank.party import Bank
from protocol.roles.bank.tables import ANONYMOUS_ACCOUNTS, GRANTS, TRACE_CASES, AnonymousAccount, TraceCase
from protocol.roles.party import alone, expect_peer, open_certified
from protocol.rows import Decision, Insert, Key, Read, Rows, Where
from protocol.types import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Proved:
    """The account that a whole chain leads from, and the purchase that it leads to. `card_ref` is a keyed digest."""

    account: AnonymousAccount
    traced: Traced
    card_ref: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracing:
    """A TSM's verified request; `content` is what stays the same when a case is asked about again.

    A case that is known needs no chain. Else it is `proved`, or to be refused and logged.
    """

    tsm: str
    message: TraceRequest
    signed: bytes
    content: bytes
    proved: Proved | None = None
    refusal: ProtocolError | None = None


class RequestTraceStep(Step[Tracing]):
    """A case is opened on a good reason and a whole chain; asked about again, it says how it stands."""

    rpc = "Bank.RequestTrace"
    reply = TraceState
    max_bytes = TraceRequest.MAX_BYTES + 3 * OVERHEAD_BYTES
    chain: type[ChainChecks] = ChainChecks

    def __init__(self, bank: Bank) -> None:
        self._bank = bank
        self._chain = self.chain(bank.emv_ca)

    def open(self, wire: Wire, ctx: Context) -> Incoming[Tracing]:
        bank = self._bank.keys
        signed = cose.unseal(bank.seal, alone(wire), name=TraceRequest.NAME, max_bytes=self.max_bytes)
        opened, tsm = open_certified(
            TraceRequest, signed, self._bank.directory, role=Role.TSM, audience=bank.name, ctx=ctx
        )
        expect_peer(ctx, tsm.name, Role.TSM)
        message = opened.message
        facts = Tracing(tsm=tsm.name, message=message, signed=opened.wire, content=sha256(message.to_bytes()))
        return Incoming(facts=facts, key=opened.key, claims=opened.claims)

    def prepare(self, incoming: Incoming[Tracing], ctx: Context) -> Incoming[Tracing]:
        facts = incoming.facts
        case = facts.message.case
        if ctx.read(Key(TRACE_CASES, (case,))).get(TRACE_CASES, case) is not None:
            return incoming
        try:
            self.check_standing(facts.message)
            facts = replace(facts, proved=self.check_chain(facts, incoming.key, ctx))
        except ProtocolError as refusal:
            facts = replace(facts, refusal=refusal)
        return replace(incoming, facts=facts)

    def check_standing(self, message: TraceRequest) -> None:
        """The reason is on the bank's list, and the requester somebody to whom an answer can be sealed."""
        if message.reason not in set(TraceReason):
            raise TraceReasonUnknown
        self._bank.directory.named(message.requester, Use.SEAL)

    def check_chain(self, facts: Tracing, tsm_key: PublicKey, ctx: Context) -> Proved:
        """Raises: TraceChainInvalid, whose detail names the link; an account that is not here is a broken one too."""
        message = facts.message
        account = ctx.read(Key(ANONYMOUS_ACCOUNTS, (message.aid,))).get(ANONYMOUS_ACCOUNTS, message.aid)
        if account is None:
            raise TraceChainInvalid("account")
        parties = Parties(
            bank=self._bank.keys.name, tsm=facts.tsm, tsm_key=tsm_key, k_aid=account.k_aid,
            pk_aid=PublicKey.from_bytes(account.pk_aid),
        )  # fmt: skip
        traced = self._chain.verify(message, parties)
        self.check_grant(facts.tsm, account, traced, ctx)
        card_ref = self._bank.secrets.blind("traced-card", traced.modulus)
        return Proved(account=account, traced=traced, card_ref=card_ref)

    def check_grant(self, tsm: str, account: AnonymousAccount, traced: Traced, ctx: Context) -> None:
        """The bank granted this account to this TSM in this session, by this very commitment."""
        grant = ctx.read(Key(GRANTS, (account.aid, traced.sid_digest))).get(GRANTS, account.aid, traced.sid_digest)
        if grant is None or grant.tsm != tsm or not same(grant.com, traced.com):
            raise TraceChainInvalid("grant")

    def reads(self, facts: Tracing) -> tuple[Read, ...]:
        known = (Key(TRACE_CASES, (facts.message.case,)), *log_reads())
        if facts.proved is None:
            return known
        return (*known, Where(TRACE_CASES, "card_ref", facts.proved.card_ref))

    def decide(self, rows: Rows, facts: Tracing, now_s: int, entropy: Entropy) -> Decision:
        case = rows.get(TRACE_CASES, facts.message.case)
        try:
            if case is not None:
                self.check_same(case, facts)
                return Decision(reply=state_of(case))
            if facts.refusal is not None:
                raise facts.refusal
            return self._open_case(rows, facts, now_s, entropy)
        except ProtocolError as refusal:
            logged = self._logged(facts, AuditKind.REFUSED_REQUEST, refusal.code)
            return Decision(writes=append(self._bank, rows, [logged], now_s, entropy), refusal=refusal)

    def check_same(self, case: TraceCase, facts: Tracing) -> None:
        """A case belongs to the TSM that opened it, and its content is fixed."""
        if case.tsm != facts.tsm or not same(case.request_digest, facts.content):
            raise IdentifierTaken

    def check_first(self, rows: Rows, proved: Proved) -> None:
        """UNIQUE(PK_C, ATC) over cases, also when the first was refused: nobody looks for kinder officers."""
        others = rows.find(TRACE_CASES, "card_ref", proved.card_ref)
        if any(other.atc == proved.traced.decided.atc for other in others):
            raise TraceRepeated

    def _open_case(self, rows: Rows, facts: Tracing, now_s: int, entropy: Entropy) -> Decision:
        proved, message = facts.proved, facts.message
        assert proved is not None  # a case that was known before is known now
        self.check_first(rows, proved)
        case = TraceCase(
            case_id=message.case, request_digest=facts.content, tsm=facts.tsm, requester=message.requester,
            reason=message.reason, aid=proved.account.aid, customer=proved.account.customer,
            card_ref=proved.card_ref, atc=proved.traced.decided.atc, purchase_digest=proved.traced.purchase_digest,
            opened_at_s=now_s, answer=b"", state=TraceProgress.EXPECT_OFFICERS.value,
        )  # fmt: skip
        kept = Evidence(
            digest=facts.content, message=TraceRequest.NAME, received_at_s=now_s, signed=facts.signed
        )  # fmt: skip
        logged = self._logged(facts, AuditKind.REQUEST)
        writes = (
            Insert(TRACE_CASES, case),
            Insert(EVIDENCE, kept),
            *append(self._bank, rows, [logged], now_s, entropy),
        )
        return Decision(writes=writes, reply=state_of(case))

    def _logged(self, facts: Tracing, kind: AuditKind, code: str = "") -> Logged:
        return Logged(kind=kind, case=facts.message.case, who=facts.tsm, message_digest=facts.content, code=code)

    def seal(self, facts: Tracing, reply: TraceState, stamp: Stamp, ctx: Context) -> Wire:
        signed = envelope.sign(
            self._bank.keys.signer, reply, audience=facts.tsm, stamp=stamp, request_digest=ctx.digest
        )
        key = self._bank.directory.named(facts.tsm, Use.SEAL).key
        return Wire(cose=cose.seal(key, name=TraceState.NAME, plaintext=signed, request_digest=ctx.digest))


def state_of(case: TraceCase) -> TraceState:
    """How a case stands, with the sealed answer once there is one."""
    return TraceState(case=case.case_id, progress=TraceProgress(case.state), answer=case.answer)
