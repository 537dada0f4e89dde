"""TID: a service account opened with a pseudonym's credit (paper §2.5)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from protocol import cose, envelope
from protocol.commitments import commitment
from protocol.crypto import P256, PublicKey, new_key, same, sha256
from protocol.engine import Ask, AskingStep, Context, Incoming, StatelessStep
from protocol.envelope import OBJECT_LIFETIME_S, OVERHEAD_BYTES, REPLY_LIFETIME_S, Opened, Stamp, Wire
from protocol.errors import (
    CommitmentMismatch,
    Expired,
    FieldMismatch,
    IdentifierTaken,
    LimitExceeded,
    NonceMismatch,
    ProtocolError,
    Replay,
    UnknownSession,
)
from protocol.messages.attest import LaunchPass
from protocol.messages.service import (
    CreditProof,
    GrantApproval,
    GrantRequest,
    Promise,
    ServiceAccount,
    ServiceOffer,
    ServiceRequest,
    TidCertificate,
    TsmInfo,
)
from protocol.pki import Identity, Use
from protocol.ports import Entropy
from protocol.roles.party import alone, known_party
from protocol.roles.tsm.freeze import expect_running
from protocol.roles.tsm.party import Tsm
from protocol.roles.tsm.passes import PassCheck
from protocol.roles.tsm.tables import SERVICES, TID_LIST, Service, TidEntry
from protocol.rows import Decision, Insert, Key, Read, Rows, Update, Where, Write, changed
from protocol.schema import Identifier, Nonce, PublicKeyBytes, Record, SharedKey, TimeS
from protocol.types import NONCE_BYTES, Role

COOKIE_CONTEXT = b"tapveil-sid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cookie(Record):
    """What SID carries, sealed under the TSM's own key: the TSM stores nothing before TID-3."""

    NAME: ClassVar[str] = "sid"
    tid: Identifier
    pk_tid: PublicKeyBytes
    ek_tid: PublicKeyBytes
    n_u: Nonce
    n_t: Nonce
    key: SharedKey
    expires_at_s: TimeS


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """TID-1a, verified under the key that it carries."""

    message: ServiceRequest


class OpenAccountStep(StatelessStep[Opening]):
    """TID-1: nothing is stored and nothing costly is done for a stranger. Certified by its own key, ADR-0010."""

    rpc = "Tsm.OpenAccount"
    reply = ServiceOffer

    def __init__(self, tsm: Tsm) -> None:
        self._tsm = tsm

    def open(self, wire: Wire, ctx: Context) -> Incoming[Opening]:
        signed = cose.unseal(self._tsm.keys.seal, alone(wire), name=ServiceRequest.NAME, max_bytes=self.max_bytes)
        sign1 = envelope.peek(ServiceRequest, signed)
        claimed = ServiceRequest.from_bytes(sign1.payload)
        key = PublicKey.from_bytes(claimed.pk_tid)
        opened = envelope.believe(
            ServiceRequest, sign1, key, issuer=claimed.tid, audience=self._tsm.keys.name, now_s=ctx.now_s
        )
        PublicKey.from_bytes(claimed.ek_tid)
        if claimed.ek_tid == claimed.pk_tid:
            raise FieldMismatch("one key for signing and for encryption")
        return Incoming(facts=Opening(message=opened.message), key=key, claims=opened.claims)

    def decide(self, rows: Rows, facts: Opening, now_s: int, entropy: Entropy) -> Decision:
        message = facts.message
        cookie = Cookie(
            tid=message.tid, pk_tid=message.pk_tid, ek_tid=message.ek_tid, n_u=message.n_u,
            n_t=entropy.bytes(NONCE_BYTES), key=new_key(entropy), expires_at_s=now_s + self._tsm.policy.session_life_s,
        )  # fmt: skip
        sid = P256.encrypt(self._tsm.cookie_key, cookie.to_bytes(), COOKIE_CONTEXT, entropy)
        offer = ServiceOffer(
            tid=cookie.tid, pk_tid=cookie.pk_tid, n_u=cookie.n_u, sid=sid, n_t=cookie.n_t, key=cookie.key
        )
        return Decision(reply=offer)

    def seal(self, facts: Opening, reply: ServiceOffer, stamp: Stamp, ctx: Context) -> Wire:
        signed = envelope.sign(self._tsm.keys.signer, reply, audience=reply.tid, stamp=stamp, request_digest=ctx.digest)
        key = PublicKey.from_bytes(facts.message.ek_tid)
        return Wire(cose=cose.seal(key, name=ServiceOffer.NAME, plaintext=signed, request_digest=ctx.digest))


@dataclass(frozen=True, slots=True, kw_only=True)
class Proving:
    """TID-2d and TID-3a, verified: the proof, TSMINFO, the pass; `ask` once TSMBINFO is sealed."""

    cookie: Cookie
    sid: bytes
    sid_digest: bytes
    message: CreditProof
    info: TsmInfo
    bank: Identity
    request: bytes
    key_for_bank: bytes = b""
    ask: Ask | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """The bank's promise as received, and the CERT_TID that follows from it."""

    promise: bytes
    certificate: bytes


class ProveCreditStep(AskingStep[Proving]):
    """TID-2d … TID-4: the TSM checks what it can open, asks the bank, and accepts TID on the bank's promise."""

    rpc = "Tsm.ProveCredit"
    reply = ServiceAccount
    max_bytes = CreditProof.MAX_BYTES + 4 * OVERHEAD_BYTES

    def __init__(self, tsm: Tsm) -> None:
        self._tsm = tsm
        self.passes = PassCheck(tsm)

    # --- (0) … (5): everything the TSM can see for itself -------------------------------------------------------
    def open(self, wire: Wire, ctx: Context) -> Incoming[Proving]:
        # (0) the cookie is ours and in date: it gives TID, its keys, N_T and K
        cookie = self._cookie(wire.session, ctx.now_s)
        pk_tid = PublicKey.from_bytes(cookie.pk_tid)
        # (1) the proof opens under K and is signed by SK_TID
        signed = cose.decrypt(cookie.key, wire.cose, name=CreditProof.NAME, max_bytes=self.max_bytes)
        opened = self._open_by_tid(CreditProof, signed, cookie, ctx.now_s)
        # (2) TSMINFO is by the same key, for this session
        info = self._open_by_tid(TsmInfo, opened.message.tsminfo, cookie, ctx.now_s)
        self.check_info(opened.message, info.message, cookie, wire.session)
        # (3) the commitment opens to this TID and key
        self.check_commitment(info.message, cookie)
        # (4) the launch pass is by that bank, for this AID and TSM
        bank = known_party(self._tsm.directory, info.message.bank, Role.BANK)
        shown = self.passes.open_pass(opened.message.launch_pass, bank, info.message.aid, ctx.now_s)
        # (5) and who shows it holds PK_AID in this session
        self.passes.check_session_possession(shown, opened.message.possession, wire.session, ctx.now_s)
        facts = Proving(
            cookie=cookie, sid=wire.session, sid_digest=sha256(wire.session), message=opened.message,
            info=info.message, bank=bank, request=ctx.digest,
        )  # fmt: skip
        evidence = ((CreditProof.NAME, opened.wire), (TsmInfo.NAME, info.wire), (LaunchPass.NAME, shown.wire))
        return Incoming(facts=facts, key=pk_tid, claims=opened.claims, evidence=evidence)

    def _cookie(self, sid: bytes, now_s: int) -> Cookie:
        try:
            cookie = Cookie.from_bytes(P256.decrypt(self._tsm.cookie_key, sid, COOKIE_CONTEXT))
        except ProtocolError as exc:
            raise UnknownSession from exc
        if cookie.expires_at_s < now_s:
            raise UnknownSession
        return cookie

    def _open_by_tid(self, kind: type[envelope.M], data: bytes, cookie: Cookie, now_s: int) -> Opened[envelope.M]:
        key = PublicKey.from_bytes(cookie.pk_tid)
        return envelope.open_signed(kind, data, key, issuer=cookie.tid, audience=self._tsm.keys.name, now_s=now_s)

    def check_info(self, message: CreditProof, info: TsmInfo, cookie: Cookie, sid: bytes) -> None:
        """TSMINFO speaks of this TID, this session and this very BINFO."""
        if info.tid != cookie.tid or not same(info.binfo_digest, sha256(message.binfo)):
            raise FieldMismatch
        if not (same(info.sid, sid) and same(info.n_t, cookie.n_t)):
            raise NonceMismatch

    def check_commitment(self, info: TsmInfo, cookie: Cookie) -> None:
        """com = H(TID, PK_TID, SID, r), as the owner of the AID signed it for the bank."""
        com = commitment(tid=cookie.tid, pk_tid=cookie.pk_tid, sid=info.sid, r=info.r)
        if not same(com, info.com):
            raise CommitmentMismatch

    # --- TID-3b: the question to the bank ------------------------------------------------------------------------
    def prepare(self, incoming: Incoming[Proving], ctx: Context) -> Incoming[Proving]:
        facts, info = incoming.facts, incoming.facts.info
        key = new_key(ctx.entropy)
        request = GrantRequest(
            binfo=facts.message.binfo, sid=info.sid, aid=info.aid, com=info.com, binfo_digest=info.binfo_digest,
            n2=info.n2, expires_at_s=info.expires_at_s, limit_minor=info.limit_minor, currency=info.currency, key=key,
        )  # fmt: skip
        signed = envelope.sign(
            self._tsm.keys.signer, request, audience=facts.bank.name, stamp=Stamp.fresh(ctx.now_s, ctx.entropy)
        )
        sealed = cose.seal(
            self._tsm.directory.named(facts.bank.name, Use.SEAL).key, name=GrantRequest.NAME, plaintext=signed
        )
        ask = Ask(peer=facts.bank.name, rpc="Bank.ApproveGrant", wire=Wire(cose=sealed))
        return replace(incoming, facts=replace(facts, key_for_bank=key, ask=ask))

    def ask(self, facts: Proving) -> Ask:
        assert facts.ask is not None
        return facts.ask

    def reads(self, facts: Proving) -> tuple[Read, ...]:
        kid = PublicKey.from_bytes(facts.cookie.pk_tid).thumbprint
        return (
            Key(TID_LIST, (facts.sid_digest,)), Where(TID_LIST, "tid", facts.cookie.tid),
            Key(SERVICES, (facts.cookie.tid,)), Where(SERVICES, "kid_tid", kid),
        )  # fmt: skip

    def decide(self, rows: Rows, facts: Proving, now_s: int, entropy: Entropy) -> Decision:
        self.check_unused(rows, facts.sid_digest)
        self.check_identifier(rows, facts.cookie)
        if facts.info.expires_at_s <= now_s:
            raise Expired
        tid = facts.cookie.tid
        expect_running(rows.get(SERVICES, tid), rows.find(TID_LIST, "tid", tid), now_s)
        self.check_beside(rows, facts.info, now_s)
        info = facts.info
        entry = TidEntry(
            sid_digest=facts.sid_digest, sid=facts.sid, tid=info.tid, aid=info.aid, bank=facts.bank.name,
            pk_tid=facts.cookie.pk_tid, com=info.com, aid_exp_time_s=info.expires_at_s,
            aid_limit_minor=info.limit_minor, currency=info.currency, k_bank=facts.key_for_bank, promise=b"",
            cert_tid=b"", asked_at_s=now_s, state="EXPECT_BANK_APPROVAL", spent_minor=0, bank_stop="", claims="OPEN",
            proof=facts.request,
        )  # fmt: skip
        return Decision(writes=(Insert(TID_LIST, entry),))

    def check_unused(self, rows: Rows, sid_digest: bytes) -> None:
        """UNIQUE(SID): one TID-3 per cookie, or a credit proof could be replayed (formal/core COOKIE NOUNIQSID)."""
        if rows.get(TID_LIST, sid_digest) is not None:
            raise Replay

    def check_identifier(self, rows: Rows, cookie: Cookie) -> None:
        """A TID belongs to one key, a key to one TID: also while the bank is still being asked."""
        key = PublicKey.from_bytes(cookie.pk_tid)
        service = rows.get(SERVICES, cookie.tid)
        services = (*rows.find(SERVICES, "kid_tid", key.thumbprint), *(() if service is None else (service,)))
        entries = (entry for entry in rows.find(TID_LIST, "tid", cookie.tid) if entry.state != "REFUSED")
        known = {(row.tid, row.pk_tid) for row in services} | {(entry.tid, entry.pk_tid) for entry in entries}
        if known - {(cookie.tid, cookie.pk_tid)}:
            raise IdentifierTaken

    def check_beside(self, rows: Rows, info: TsmInfo, now_s: int) -> None:
        """RECREDIT: further grants under this TID are few, and of its currency: a purchase may draw on two."""
        held = [
            entry for entry in rows.find(TID_LIST, "tid", info.tid)
            if entry.state in ("EXPECT_BANK_APPROVAL", "ACTIVE") and entry.aid_exp_time_s > now_s
        ]  # fmt: skip
        if len(held) >= self._tsm.policy.max_grants:
            raise LimitExceeded("as many grants as one account may have")
        if any(entry.currency != info.currency for entry in held):
            raise FieldMismatch("another currency than the account's")

    # --- TID-3d: the bank's promise ------------------------------------------------------------------------------
    def hear(self, facts: Proving, question: Wire, answer: Wire, ctx: Context) -> Granted:
        entry = ctx.read(Key(TID_LIST, (facts.sid_digest,))).get(TID_LIST, facts.sid_digest)
        assert entry is not None
        digest = question.digest
        signed = cose.decrypt(
            entry.k_bank, answer.cose, name=GrantApproval.NAME, max_bytes=self.max_bytes, request_digest=digest
        )
        approval = self.open_by_bank(GrantApproval, signed, facts, ctx.now_s, request_digest=digest)
        promise = self.open_by_bank(
            Promise, approval.message.promise, facts, ctx.now_s, max_lifetime_s=OBJECT_LIFETIME_S
        )
        self.check_promise(promise.message, facts.info)
        certificate = self._certificate(facts.cookie, facts.info.expires_at_s, ctx)
        return Granted(promise=promise.wire, certificate=certificate)

    def check_promise(self, promise: Promise, info: TsmInfo) -> None:
        """The bank promised what was asked for in this session, field by field."""
        named = Promise(
            sid=info.sid, aid=info.aid, com=info.com, binfo_digest=info.binfo_digest, n2=info.n2,
            expires_at_s=info.expires_at_s, limit_minor=info.limit_minor, currency=info.currency,
        )  # fmt: skip
        if promise != named:
            raise FieldMismatch("the bank promised something else")

    def open_by_bank(
        self, kind: type[envelope.M], data: bytes, facts: Proving, now_s: int, *, request_digest: bytes = b"",
        max_lifetime_s: int = REPLY_LIFETIME_S,
    ) -> Opened[envelope.M]:  # fmt: skip
        """What the bank signed for this TSM. An approval that nobody signed is none."""
        return envelope.open_signed(
            kind, data, facts.bank.key, issuer=facts.bank.name, audience=self._tsm.keys.name, now_s=now_s,
            request_digest=request_digest, max_lifetime_s=max_lifetime_s,
        )  # fmt: skip

    def _certificate(self, cookie: Cookie, expires_at_s: int, ctx: Context) -> bytes:
        message = TidCertificate(tid=cookie.tid, pk_tid=cookie.pk_tid, expires_at_s=expires_at_s)
        return envelope.sign(
            self._tsm.keys.signer, message, audience=cookie.tid, stamp=Stamp.fresh(ctx.now_s, ctx.entropy),
            lifetime_s=expires_at_s - ctx.now_s,
        )  # fmt: skip

    # --- TID-4: accepted, or refused for good --------------------------------------------------------------------
    def finish(
        self, rows: Rows, facts: Proving, heard: Granted | ProtocolError, now_s: int, entropy: Entropy
    ) -> Decision:
        entry = rows.get(TID_LIST, facts.sid_digest)
        assert entry is not None
        cookie = facts.cookie
        try:
            self.check_identifier(rows, cookie)
        except IdentifierTaken as taken:  # the key became another TID's while the bank was asked
            heard = taken
        if isinstance(heard, ProtocolError):
            return Decision(writes=(Update(TID_LIST, replace(entry, state="REFUSED")),), refusal=heard)
        write = self._service(rows.get(SERVICES, cookie.tid), cookie, facts.message.maximum_minor)
        active = replace(entry, state="ACTIVE", promise=heard.promise, cert_tid=heard.certificate)
        reply = ServiceAccount(
            tid=cookie.tid, sid=facts.sid, n_u=cookie.n_u, com=entry.com, expires_at_s=entry.aid_exp_time_s,
            limit_minor=entry.aid_limit_minor, currency=entry.currency, certificate=heard.certificate,
        )  # fmt: skip
        return Decision(writes=(write, Update(TID_LIST, active)), reply=reply)

    def _service(self, known: Service | None, cookie: Cookie, maximum_minor: int) -> Write:
        # Further credit lifts no stop, and no maximum of the user's own unless it names another.
        service = Service(
            tid=cookie.tid, pk_tid=cookie.pk_tid, kid_tid=PublicKey.from_bytes(cookie.pk_tid).thumbprint,
            ek_tid=cookie.ek_tid, k_tid=cookie.key, maximum_minor=maximum_minor, state="ACTIVE", stop="",
        )  # fmt: skip
        if known is None:
            return Insert(SERVICES, service)
        maximum_minor = maximum_minor or known.maximum_minor
        return Update(SERVICES, changed(service, maximum_minor=maximum_minor, state=known.state, stop=known.stop))

    def seal(self, facts: Proving, reply: ServiceAccount, stamp: Stamp, ctx: Context) -> Wire:
        signed = envelope.sign(self._tsm.keys.signer, reply, audience=reply.tid, stamp=stamp, request_digest=ctx.digest)
        sealed = cose.encrypt(
            facts.cookie.key, ctx.entropy, name=ServiceAccount.NAME, plaintext=signed, request_digest=ctx.digest
        )
        return Wire(cose=sealed)
