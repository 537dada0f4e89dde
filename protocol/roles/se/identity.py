"""INIT and ATT in the phone: keys of the user, evidence for the bank, an SE that stays closed until a good launch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from protocol import cose, envelope
from protocol.crypto import PrivateKey, same
from protocol.engine import Context, Incoming
from protocol.envelope import OVERHEAD_BYTES, Signer, Wire
from protocol.errors import CertificateInvalid, FieldMismatch, SoftwareChanged, WrongState
from protocol.messages.attest import AttestationDecision, AttestationEvidence
from protocol.messages.enroll import Enroll, Enrolled, SecureElementStatement
from protocol.messages.se import (
    SeAcceptDecision,
    SealedRequest,
    SeDecision,
    SeEnroll,
    SeIdentity,
    SeInstallIdentity,
    SeMeasure,
    SeMeasured,
    SeQuote,
)
from protocol.pki import Use, verify
from protocol.ports import Entropy
from protocol.roles.party import expect_state
from protocol.roles.se.party import Measured, Quoted, SeQuery, SeStep, fresh, owner_of
from protocol.roles.se.tables import ACCOUNTS, OWNERS, Owner
from protocol.rows import Decision, Insert, Key, Read, Rows, Update, Where, Write
from protocol.types import Purpose, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolling:
    """A new user key for one bank, and the sealed INIT-3 request."""

    command: SeEnroll
    n_b: bytes
    owner: Owner | None = None
    request: bytes = b""


class EnrollStep(SeStep[SeEnroll, Enrolling]):
    """INIT-3: the SE generates PK_U and signs what it holds; platform measurements are quoted for the bank's nonce."""

    rpc = "SecureElement.Enroll"
    command = SeEnroll
    reply = SealedRequest

    def look(self, command: SeEnroll, ctx: Context) -> Enrolling:
        n_b = self._se.challenge(command.challenge, command.asked, self._se.bank(command.bank), ctx.now_s)
        return Enrolling(command=command, n_b=n_b)

    def prepare(self, incoming: Incoming[Enrolling], ctx: Context) -> Incoming[Enrolling]:
        se, command = self._se, incoming.facts.command
        sk_u, dk_u = PrivateKey.generate(ctx.entropy), PrivateKey.generate(ctx.entropy)
        statement = SecureElementStatement(
            pk_u=sk_u.public.encoded, ek_u=dk_u.public.encoded, attestation_key=se.platform.attestation_key.encoded,
            attestation_certificate=se.platform.attestation_certificate, wallet_key=se.wallet_key.encoded,
        )  # fmt: skip
        quoted = se.platform.quote(
            purpose=Purpose.ENROLL, bank=command.bank, user=se.name, software="", n_am=command.n_am,
            n_b=incoming.facts.n_b, requested_key=b"",
        )  # fmt: skip
        request = Enroll(
            branch_code=command.branch_code, pk_u=sk_u.public.encoded,
            se_statement=envelope.sign(se.signer, statement, audience=command.bank, stamp=fresh(ctx)),
            evidence=quoted.evidence, n_b=incoming.facts.n_b,
        )  # fmt: skip
        signed = envelope.sign(Signer(name=se.name, key=sk_u), request, audience=command.bank, stamp=fresh(ctx))
        owner = Owner(
            bank=command.bank, user="", sk_u=sk_u.to_bytes(), dk_u=dk_u.to_bytes(), certificate=b"",
            digest=Wire(cose=signed).digest, purpose=Purpose.ENROLL.value, quoted_pcr=quoted.measured.pcr10,
            installed_pcr=b"", open=False, state="EXPECT_IDENTITY",
        )  # fmt: skip
        return replace(incoming, facts=replace(incoming.facts, owner=owner, request=signed))

    def reads(self, facts: Enrolling) -> tuple[Read, ...]:
        return (Key(OWNERS, (facts.command.bank,)),)

    def decide(self, rows: Rows, facts: Enrolling, now_s: int, entropy: Entropy) -> Decision:
        assert facts.owner is not None
        old = rows.get(OWNERS, facts.command.bank)
        write: Write = Insert(OWNERS, facts.owner)
        if old is not None:
            expect_state(old.state, "EXPECT_IDENTITY")
            write = Update(OWNERS, facts.owner)
        return Decision(writes=(write,), reply=SealedRequest(cose=facts.request, session=b"", handle=""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Installing:
    """The bank's verified answer to an enrollment."""

    bank: str
    digest: bytes
    user: str
    certificate: bytes


class InstallIdentityStep(SeStep[SeInstallIdentity, Installing]):
    """INIT-4: CERT_U^B must chain to the CA through this bank and certify this SE's PK_U."""

    rpc = "SecureElement.InstallIdentity"
    command = SeInstallIdentity
    reply = SeIdentity

    def look(self, command: SeInstallIdentity, ctx: Context) -> Installing:
        bank = self._se.bank(command.bank)
        owner = owner_of(ctx, bank.name)
        answer = envelope.open_signed(
            Enrolled, command.reply, bank.key, issuer=bank.name, audience=self._se.name, now_s=ctx.now_s,
            request_digest=owner.digest,
        ).message  # fmt: skip
        issuer = verify(answer.issuer, root=self._se.root, now_s=ctx.now_s, use=Use.ISSUE)
        identity = verify(answer.certificate, root=self._se.root, now_s=ctx.now_s, use=Use.SIGN, chain=(answer.issuer,))
        pk_u = PrivateKey.from_bytes(owner.sk_u).public
        if issuer.name != bank.name or identity.role is not Role.USER or identity.key != pk_u:
            raise CertificateInvalid("CERT_U is not this bank's for this key")
        return Installing(
            bank=bank.name, digest=owner.digest, user=identity.name, certificate=answer.certificate
        )  # fmt: skip

    def reads(self, facts: Installing) -> tuple[Read, ...]:
        return (Key(OWNERS, (facts.bank,)),)

    def decide(self, rows: Rows, facts: Installing, now_s: int, entropy: Entropy) -> Decision:
        owner = rows.get(OWNERS, facts.bank)
        assert owner is not None
        expect_state(owner.state, "EXPECT_IDENTITY")
        if not same(owner.digest, facts.digest):
            raise WrongState("another enrollment is under way")
        enrolled = replace(owner, user=facts.user, certificate=facts.certificate, state="ENROLLED")
        return Decision(writes=(Update(OWNERS, enrolled),), reply=SeIdentity(user=facts.user))


class MeasureStep(SeQuery[SeMeasure, Measured]):
    """ATT-D4/5, ATT-L4/5: the Measurement Agent measures; the wallet learns the result and can't choose it."""

    rpc = "SecureElement.Measure"
    command = SeMeasure
    reply = SeMeasured

    def look(self, command: SeMeasure, ctx: Context) -> Measured:
        return self._se.platform.measure()

    def decide(self, rows: Rows, facts: Measured, now_s: int, entropy: Entropy) -> Decision:
        digest = facts.software_digest
        return Decision(reply=SeMeasured(installed=bool(digest), digest=digest, pcr10=facts.pcr10))


@dataclass(frozen=True, slots=True, kw_only=True)
class Quoting:
    """A quote to be made for the bank's verified nonce."""

    command: SeQuote
    owner: Owner
    n_b: bytes
    quoted: Quoted | None = None
    request: bytes = b""


class QuoteStep(SeStep[SeQuote, Quoting]):
    """ATT-D2/3, ATT-L2/3: S_U over the evidence, sealed for the bank. Only the bank ever sees a quote."""

    rpc = "SecureElement.Quote"
    command = SeQuote
    reply = SealedRequest

    def look(self, command: SeQuote, ctx: Context) -> Quoting:
        if command.purpose not in (Purpose.INSTALL, Purpose.REPORT, Purpose.LAUNCH):
            raise FieldMismatch("this purpose has a command of its own")
        n_b = self._se.challenge(command.challenge, command.asked, self._se.bank(command.bank), ctx.now_s)
        owner = owner_of(ctx, command.bank)
        expect_state(owner.state, "ENROLLED")
        return Quoting(command=command, owner=owner, n_b=n_b)

    def prepare(self, incoming: Incoming[Quoting], ctx: Context) -> Incoming[Quoting]:
        facts, command, owner = incoming.facts, incoming.facts.command, incoming.facts.owner
        quoted = self._se.platform.quote(
            purpose=command.purpose, bank=owner.bank, user=owner.user, software=command.software,
            n_am=command.n_am, n_b=facts.n_b, requested_key=b"",
        )  # fmt: skip
        message = AttestationEvidence(purpose=command.purpose, evidence=quoted.evidence, n_b=facts.n_b)
        signer = Signer(name=owner.user, key=PrivateKey.from_bytes(owner.sk_u))
        signed = envelope.sign(signer, message, audience=owner.bank, stamp=fresh(ctx))
        key = self._se.directory.named(owner.bank, Use.SEAL).key
        request = cose.seal(key, name=AttestationEvidence.NAME, plaintext=signed)
        return replace(incoming, facts=replace(facts, quoted=quoted, request=request))

    def reads(self, facts: Quoting) -> tuple[Read, ...]:
        return (Key(OWNERS, (facts.command.bank,)),)

    def decide(self, rows: Rows, facts: Quoting, now_s: int, entropy: Entropy) -> Decision:
        owner = rows.get(OWNERS, facts.command.bank)
        assert owner is not None
        assert facts.quoted is not None
        expect_state(owner.state, "ENROLLED")
        pcr10 = facts.quoted.measured.pcr10
        # What the SE sees for itself counts at once: a bank's refusal may never be brought to it.
        asked = replace(
            owner, digest=Wire(cose=facts.request).digest, purpose=facts.command.purpose.value, quoted_pcr=pcr10,
            open=owner.open and pcr10 == owner.installed_pcr,
        )  # fmt: skip
        reply = SealedRequest(cose=facts.request, session=b"", handle="")
        return Decision(writes=(Update(OWNERS, asked),), reply=reply)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepting:
    """The bank's verified decision on the quote under way."""

    bank: str
    digest: bytes
    message: AttestationDecision


class AcceptDecisionStep(SeStep[SeAcceptDecision, Accepting]):
    """ATT-D7, ATT-L6: the bank's word *and* the SE's own copy of the PCR must say yes."""

    rpc = "SecureElement.AcceptDecision"
    command = SeAcceptDecision
    reply = SeDecision

    def look(self, command: SeAcceptDecision, ctx: Context) -> Accepting:
        bank = self._se.bank(command.bank)
        owner = owner_of(ctx, bank.name)
        signed = cose.unseal(
            PrivateKey.from_bytes(owner.dk_u), command.reply, name=AttestationDecision.NAME,
            max_bytes=AttestationDecision.MAX_BYTES + 2 * OVERHEAD_BYTES, request_digest=owner.digest,
        )  # fmt: skip
        decision = envelope.open_signed(
            AttestationDecision, signed, bank.key, issuer=bank.name, audience=owner.user, now_s=ctx.now_s,
            request_digest=owner.digest,
        ).message  # fmt: skip
        return Accepting(bank=bank.name, digest=owner.digest, message=decision)

    def reads(self, facts: Accepting) -> tuple[Read, ...]:
        return (Key(OWNERS, (facts.bank,)), Where(ACCOUNTS, "bank", facts.bank))

    def decide(self, rows: Rows, facts: Accepting, now_s: int, entropy: Entropy) -> Decision:
        owner = rows.get(OWNERS, facts.bank)
        assert owner is not None
        if not same(owner.digest, facts.digest):
            raise WrongState("another quote is under way")
        message = facts.message
        reason = message.reason
        if message.purpose is Purpose.LAUNCH and message.allowed and owner.quoted_pcr != owner.installed_pcr:
            reason = SoftwareChanged.code
        allowed = message.allowed and not reason
        after = replace(owner, open=allowed and message.purpose is Purpose.LAUNCH)
        if allowed and message.purpose is Purpose.REPORT:
            after = replace(after, installed_pcr=owner.quoted_pcr)
        passes = {granted.aid: granted.launch_pass for granted in message.passes} if after.open else {}
        kept = tuple(
            Update(ACCOUNTS, replace(row, launch_pass=passes[row.aid]))
            for row in rows.find(ACCOUNTS, "bank", facts.bank)
            if row.aid in passes
        )
        reply = SeDecision(allowed=allowed, reason=reason, passes=len(kept))
        return Decision(writes=(Update(OWNERS, after), *kept), reply=reply)
