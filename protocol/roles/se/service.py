"""TID in the SE: the TID key is made here, and BINFO commits to it by the SE's own hand (paper §2.5)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from protocol import cose, envelope
from protocol.commitments import commitment
from protocol.crypto import PrivateKey, PublicKey, same, sha256
from protocol.engine import Context, Incoming
from protocol.envelope import Opened, Signer, Wire
from protocol.errors import FieldMismatch, NonceMismatch, UnknownAccount, WrongState
from protocol.messages.attest import PossessionForSession
from protocol.messages.card import CardRequest
from protocol.messages.se import (
    SealedRequest,
    SeBankInfo,
    SeGenerateServiceKeys,
    SeMakeBankInfo,
    SeSignService,
    Statement,
)
from protocol.messages.service import (
    BankInfo,
    CloseAccount,
    CreditProof,
    ServiceOffer,
    ServiceRequest,
    TsmInfo,
)
from protocol.pki import Use
from protocol.ports import Entropy
from protocol.roles.party import expect_state
from protocol.roles.se.account import account_of
from protocol.roles.se.credit import (
    expect_another_bank,
    expect_waiting,
    grant_for_cards,
    grant_to_close,
    waiting_offer,
)
from protocol.roles.se.party import SeStep, expect_open, fresh, nonce
from protocol.roles.se.tables import (
    ACCOUNTS,
    GRANTS,
    OWNERS,
    RECREDITS,
    SERVICE_KEYS,
    Account,
    Grant,
    Recredit,
    ServiceKeys,
)
from protocol.rows import Decision, Insert, Key, Read, Rows, Update, Where

ACTIVATE_CARDS = "activate-cards"


def service_of(ctx: Context, tid: str) -> ServiceKeys:
    """The service account of this TID. Raises: UnknownAccount."""
    row = ctx.read(Key(SERVICE_KEYS, (tid,))).get(SERVICE_KEYS, tid)
    if row is None:
        raise UnknownAccount
    return row


def expect_same(service: ServiceKeys, seen: ServiceKeys) -> None:
    """What is under way is still the statement whose answer was opened. Raises: WrongState."""
    if service.pending != seen.pending or not same(service.digest, seen.digest):
        raise WrongState("another statement is under way")


def service_signer(service: ServiceKeys) -> Signer:
    """TID and SK_TID."""
    return Signer(name=service.tid, key=PrivateKey.from_bytes(service.sk_tid))


@dataclass(frozen=True, slots=True, kw_only=True)
class Generating:
    """TID-1a to be made."""

    command: SeGenerateServiceKeys
    service: ServiceKeys | None = None
    request: bytes = b""


class GenerateServiceKeysStep(SeStep[SeGenerateServiceKeys, Generating]):
    """TID-1a: TID is random; EK_TID is the SE's own."""

    rpc = "SecureElement.GenerateServiceKeys"
    command = SeGenerateServiceKeys
    reply = SealedRequest

    def look(self, command: SeGenerateServiceKeys, ctx: Context) -> Generating:
        self._se.tsm(command.tsm)
        return Generating(command=command)

    def prepare(self, incoming: Incoming[Generating], ctx: Context) -> Incoming[Generating]:
        tsm = incoming.facts.command.tsm
        sk_tid, dk_tid = PrivateKey.generate(ctx.entropy), PrivateKey.generate(ctx.entropy)
        message = ServiceRequest(
            tid=f"t-{ctx.entropy.bytes(16).hex()}", pk_tid=sk_tid.public.encoded, ek_tid=self.encryption_key(dk_tid),
            n_u=nonce(ctx.entropy),
        )  # fmt: skip
        signed = envelope.sign(Signer(name=message.tid, key=sk_tid), message, audience=tsm, stamp=fresh(ctx))
        request = cose.seal(self._se.directory.named(tsm, Use.SEAL).key, name=ServiceRequest.NAME, plaintext=signed)
        service = ServiceKeys(
            tid=message.tid, tsm=tsm, sk_tid=sk_tid.to_bytes(), dk_tid=dk_tid.to_bytes(), k_tid=b"", n_u=message.n_u,
            n_t=b"", sid=b"", account="", r=b"", com=b"", n2=b"", binfo=b"", digest=Wire(cose=request).digest,
            pending="", expires_at_s=0, limit_minor=0, currency="", certificate=b"", state="EXPECT_OFFER",
        )  # fmt: skip
        return replace(incoming, facts=replace(incoming.facts, service=service, request=request))

    def encryption_key(self, dk_tid: PrivateKey) -> bytes:
        """EK_TID as TID-1a names it: the key made here (formal/se RAWEK)."""
        return dk_tid.public.encoded

    def reads(self, facts: Generating) -> tuple[Read, ...]:
        return ()

    def decide(self, rows: Rows, facts: Generating, now_s: int, entropy: Entropy) -> Decision:
        assert facts.service is not None
        reply = SealedRequest(cose=facts.request, session=b"", handle=facts.service.tid)
        return Decision(writes=(Insert(SERVICE_KEYS, facts.service),), reply=reply)


@dataclass(frozen=True, slots=True, kw_only=True)
class Committing:
    """TID-1b opened with DK_TID, or the offer of further credit that the SE keeps (`further`); BINFO to be made."""

    command: SeMakeBankInfo
    service: ServiceKeys
    account: Account
    offer: ServiceOffer
    further: Recredit | None = None
    binfo: bytes = b""
    after: ServiceKeys | Recredit | None = None


class MakeBankInfoStep(SeStep[SeMakeBankInfo, Committing]):
    """TID-2a, TID-2b: com is computed here, over this SE's own TID key; the wallet can't have another one signed."""

    rpc = "SecureElement.MakeBankInfo"
    command = SeMakeBankInfo
    reply = SeBankInfo

    def look(self, command: SeMakeBankInfo, ctx: Context) -> Committing:
        service = service_of(ctx, command.tid)
        tsm = self._se.tsm(service.tsm)
        accounts = ctx.read(Where(ACCOUNTS, "aid", command.aid)).find(ACCOUNTS, "aid", command.aid)
        if not accounts:
            raise UnknownAccount
        if not command.reply:
            further = waiting_offer(ctx, service.tid)
            offer = ServiceOffer(
                tid=further.tid, pk_tid=further.pk_tid, n_u=further.n_u, sid=further.sid, n_t=further.n_t,
                key=service.k_tid,
            )  # fmt: skip
            return Committing(command=command, service=service, account=accounts[0], offer=offer, further=further)
        signed = cose.unseal(
            PrivateKey.from_bytes(service.dk_tid), command.reply, name=ServiceOffer.NAME, max_bytes=self.max_bytes,
            request_digest=service.digest,
        )  # fmt: skip
        offer = envelope.open_signed(
            ServiceOffer, signed, tsm.key, issuer=tsm.name, audience=service.tid, now_s=ctx.now_s,
            request_digest=service.digest,
        ).message  # fmt: skip
        pk_tid = PrivateKey.from_bytes(service.sk_tid).public.encoded
        if (offer.tid, offer.pk_tid) != (service.tid, pk_tid):
            raise FieldMismatch("offer is for another TID or key")
        if not same(offer.n_u, service.n_u):
            raise NonceMismatch
        return Committing(command=command, service=service, account=accounts[0], offer=offer)

    def prepare(self, incoming: Incoming[Committing], ctx: Context) -> Incoming[Committing]:
        facts = incoming.facts
        service, account, offer = facts.service, facts.account, facts.offer
        r, n2 = nonce(ctx.entropy), nonce(ctx.entropy)
        com = self.commit(service, offer, r)
        message = BankInfo(
            tsm=service.tsm, sid=offer.sid, aid=account.aid, com=com, expires_at_s=account.expires_at_s,
            limit_minor=account.limit_minor, currency=account.currency, n2=n2,
        )  # fmt: skip
        signer = Signer(name=account.aid, key=PrivateKey.from_bytes(account.sk_aid))
        signed = envelope.sign(signer, message, audience=account.bank, stamp=fresh(ctx))
        binfo = cose.encrypt(account.k_aid, ctx.entropy, name=BankInfo.NAME, plaintext=signed)
        after: ServiceKeys | Recredit
        if facts.further is None:
            after = replace(
                service, k_tid=offer.key, n_t=offer.n_t, sid=offer.sid, account=account.account, r=r, com=com, n2=n2,
                binfo=binfo, state="EXPECT_PROOF",
            )  # fmt: skip
        else:
            after = replace(
                facts.further, account=account.account, r=r, com=com, n2=n2, binfo=binfo, state="EXPECT_PROOF"
            )
        return replace(incoming, facts=replace(facts, binfo=binfo, after=after))

    def commit(self, service: ServiceKeys, offer: ServiceOffer, r: bytes) -> bytes:
        """com, over the SE's own TID key (formal/se RAWCOM)."""
        return commitment(tid=service.tid, pk_tid=offer.pk_tid, sid=offer.sid, r=r)

    def reads(self, facts: Committing) -> tuple[Read, ...]:
        account = facts.account
        return (
            Key(SERVICE_KEYS, (facts.service.tid,)), Key(ACCOUNTS, (account.account,)), Key(OWNERS, (account.bank,)),
            Where(GRANTS, "tid", facts.service.tid), Where(RECREDITS, "tid", facts.service.tid),
        )  # fmt: skip

    def decide(self, rows: Rows, facts: Committing, now_s: int, entropy: Entropy) -> Decision:
        expect_open(rows, facts.account.bank)
        service, account = rows.get(SERVICE_KEYS, facts.service.tid), rows.get(ACCOUNTS, facts.account.account)
        assert service is not None
        assert account is not None
        assert facts.after is not None
        expect_state(service.state, "EXPECT_OFFER" if facts.further is None else "ACTIVE")
        expect_state(account.state, "ACTIVE")
        if account.tsm != service.tsm:
            raise FieldMismatch("the account was opened for another TSM")
        if facts.further is not None:
            expect_another_bank(rows, service.tid, account, now_s)
            expect_waiting(rows, facts.further)
        write = Update(SERVICE_KEYS if facts.further is None else RECREDITS, facts.after)
        reply = SeBankInfo(binfo=facts.binfo, sid=facts.offer.sid, nonce1=facts.command.nonce1)
        return Decision(writes=(write,), reply=reply)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signing:
    """A typed statement of SK_TID, made and sealed by the SE: a proof of credit, or about the `grant` that there is.

    `proof` is what was committed to: TID-2b's, or that under an offer of further credit.
    """

    command: SeSignService
    service: ServiceKeys
    proof: ServiceKeys | Recredit
    account: Account
    grant: Grant | None = None
    request: bytes = b""
    session: bytes = b""
    n_u: bytes = b""


class SignServiceStep(SeStep[SeSignService, Signing]):
    """TID-2c, TID-2d, CARD-1 and closing: the wallet chooses which statement, never its fields."""

    rpc = "SecureElement.SignService"
    command = SeSignService
    reply = SealedRequest

    def look(self, command: SeSignService, ctx: Context) -> Signing:
        service = service_of(ctx, command.tid)
        if not service.account:
            raise WrongState("no offer was opened for this TID")
        if command.statement is Statement.CREDIT_PROOF:
            proof = waiting_offer(ctx, service.tid, "EXPECT_PROOF") if service.state == "ACTIVE" else service
            account = account_of(ctx, proof.account)
            return Signing(command=command, service=service, proof=proof, account=account)
        if command.statement is Statement.CARD_REQUEST:
            grant, account = grant_for_cards(ctx, service.tid)
        else:
            grant = grant_to_close(ctx, service.tid, command.aid)
            account = account_of(ctx, grant.account)
        return Signing(command=command, service=service, proof=service, account=account, grant=grant)

    def prepare(self, incoming: Incoming[Signing], ctx: Context) -> Incoming[Signing]:
        facts = incoming.facts
        if facts.command.statement is Statement.CREDIT_PROOF:
            made = self._credit_proof(facts, ctx)
        elif facts.command.statement is Statement.CARD_REQUEST:
            made = self._card_request(facts, ctx)
        else:
            made = self._close(facts, ctx)
        return replace(incoming, facts=made)

    def _credit_proof(self, facts: Signing, ctx: Context) -> Signing:
        service, account, proof = facts.service, facts.account, facts.proof
        info = TsmInfo(
            bank=account.bank, sid=proof.sid, tid=service.tid, aid=account.aid, r=proof.r, com=proof.com,
            binfo_digest=sha256(proof.binfo), n2=proof.n2, expires_at_s=account.expires_at_s,
            limit_minor=account.limit_minor, currency=account.currency, n_t=proof.n_t,
        )  # fmt: skip
        holder = Signer(name=account.aid, key=PrivateKey.from_bytes(account.sk_aid))
        shown = PossessionForSession(sid=proof.sid, pass_digest=sha256(account.launch_pass))
        message = CreditProof(
            binfo=proof.binfo,
            tsminfo=envelope.sign(service_signer(service), info, audience=service.tsm, stamp=fresh(ctx)),
            launch_pass=account.launch_pass,
            possession=envelope.sign(holder, shown, audience=service.tsm, stamp=fresh(ctx)),
            maximum_minor=facts.command.maximum_minor,
        )
        signed = envelope.sign(service_signer(service), message, audience=service.tsm, stamp=fresh(ctx))
        request = cose.encrypt(service.k_tid, ctx.entropy, name=CreditProof.NAME, plaintext=signed)
        return replace(facts, request=request, session=proof.sid, n_u=service.n_u)

    def _card_request(self, facts: Signing, ctx: Context) -> Signing:
        service = facts.service
        message = CardRequest(n_u=nonce(ctx.entropy))
        signed = envelope.sign(service_signer(service), message, audience=service.tsm, stamp=fresh(ctx))
        key = self._se.directory.named(service.tsm, Use.SEAL).key
        request = cose.seal(key, name=CardRequest.NAME, plaintext=signed)
        return replace(facts, request=request, n_u=message.n_u)

    def _close(self, facts: Signing, ctx: Context) -> Signing:
        service, grant = facts.service, facts.grant
        assert grant is not None
        message = CloseAccount(tid=service.tid, sid=grant.sid)
        signed = envelope.sign(service_signer(service), message, audience=service.tsm, stamp=fresh(ctx))
        request = cose.encrypt(service.k_tid, ctx.entropy, name=CloseAccount.NAME, plaintext=signed)
        return replace(facts, request=request, session=grant.sid_digest, n_u=service.n_u)

    def reads(self, facts: Signing) -> tuple[Read, ...]:
        return (
            Key(SERVICE_KEYS, (facts.service.tid,)), Key(OWNERS, (facts.account.bank,)),
            Where(RECREDITS, "tid", facts.service.tid),
        )  # fmt: skip

    def decide(self, rows: Rows, facts: Signing, now_s: int, entropy: Entropy) -> Decision:
        if facts.command.statement is not Statement.CLOSE_ACCOUNT:  # giving credit back harms nobody
            expect_open(rows, facts.account.bank)
        service = rows.get(SERVICE_KEYS, facts.service.tid)
        assert service is not None
        reply = SealedRequest(cose=facts.request, session=facts.session, handle=service.tid)
        digest = Wire(cose=facts.request, session=facts.session).digest
        if isinstance(facts.proof, Recredit):
            expect_state(service.state, "ACTIVE")
            expect_waiting(rows, facts.proof)
            sealed = replace(facts.proof, digest=digest, state="EXPECT_ACCEPTANCE")
            return Decision(writes=(Update(RECREDITS, sealed),), reply=reply)
        proof = facts.command.statement is Statement.CREDIT_PROOF
        expect_state(service.state, "EXPECT_PROOF" if proof else "ACTIVE")
        asked = replace(
            service, pending=facts.command.statement.value, n_u=facts.n_u, digest=digest,
            state="EXPECT_ACCEPTANCE" if proof else "ACTIVE",
        )  # fmt: skip
        return Decision(writes=(Update(SERVICE_KEYS, asked),), reply=reply)


def open_by_tsm(
    kind: type[envelope.M], service: ServiceKeys, answer: bytes, key: PublicKey, ctx: Context
) -> Opened[envelope.M]:
    """`{S_T(…)}K` in answer to the service's request under way."""
    max_bytes = kind.MAX_BYTES + 4 * envelope.OVERHEAD_BYTES
    signed = cose.decrypt(service.k_tid, answer, name=kind.NAME, max_bytes=max_bytes, request_digest=service.digest)
    return envelope.open_signed(
        kind, signed, key, issuer=service.tsm, audience=service.tid, now_s=ctx.now_s, request_digest=service.digest
    )
