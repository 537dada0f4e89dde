"""ATT: the bank appraises a phone before installation, after it, and at every launch (paper §2.3)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from protocol import cose, envelope
from protocol.crypto import PublicKey
from protocol.engine import Context, Incoming, Step
from protocol.envelope import OVERHEAD_BYTES, Signer, Stamp, Wire
from protocol.errors import AccountStopped, FieldMismatch, ProtocolError, UnknownKey
from protocol.messages.attest import (
    AttestationDecision,
    AttestationEvidence,
    DecisionRecord,
    LaunchPass,
    PassFor,
    PassGrant,
)
from protocol.ports import Entropy
from protocol.roles.bank.enroll import consume_challenge
from protocol.roles.bank.party import Appraised, Bank, grant_pass
from protocol.roles.bank.tables import ANONYMOUS_ACCOUNTS, CHALLENGES, CUSTOMERS, PHONES, Phone
from protocol.roles.party import alone, expect_state
from protocol.rows import Decision, Key, Read, Rows, Update, Where
from protocol.types import Purpose, TrustClass


@dataclass(frozen=True, slots=True, kw_only=True)
class Appraisal:
    """Verified evidence of a phone and what it proved: `appraised`, or the `reason` why nothing is proved."""

    message: AttestationEvidence
    phone: Phone
    appraised: Appraised | None
    reason: str


class AttestStep(Step[Appraisal]):
    """Opens `E_B(S_U(evidence))`, appraises it, and answers with a signed decision, good or bad."""

    reply = DecisionRecord
    max_bytes = AttestationEvidence.MAX_BYTES + 4 * OVERHEAD_BYTES
    purpose: ClassVar[Purpose]
    states: ClassVar[tuple[str, ...]]

    def __init__(self, bank: Bank) -> None:
        self._bank = bank

    def open(self, wire: Wire, ctx: Context) -> Incoming[Appraisal]:
        signed = cose.unseal(self._bank.keys.seal, alone(wire), name=AttestationEvidence.NAME, max_bytes=self.max_bytes)
        sign1 = envelope.peek(AttestationEvidence, signed)
        phone = phone_by_key(ctx, sign1.kid)
        opened = envelope.believe(
            AttestationEvidence, sign1, PublicKey.from_bytes(phone.pk_u), issuer=phone.user,
            audience=self._bank.keys.name, now_s=ctx.now_s,
        )  # fmt: skip
        if opened.message.purpose is not self.purpose:
            raise FieldMismatch("evidence is for another purpose")
        facts = self._appraise(opened.message, phone, ctx.now_s)
        return Incoming(
            facts=facts, key=opened.key, claims=opened.claims, evidence=((AttestationEvidence.NAME, opened.wire),)
        )

    def _appraise(self, message: AttestationEvidence, phone: Phone, now_s: int) -> Appraisal:
        try:
            appraised = self._bank.appraiser.appraise(
                message.evidence, purpose=self.purpose, user=phone.user, n_b=message.n_b, requested_key=b"",
                attestation_key=PublicKey.from_bytes(phone.attestation_key), baseline=phone.baseline,
                installed_pcr=phone.installed_pcr, now_s=now_s,
            )  # fmt: skip
        except ProtocolError as refusal:  # a bad appraisal is an answer: signed, with its reason
            return Appraisal(message=message, phone=phone, appraised=None, reason=refusal.code)
        return Appraisal(message=message, phone=phone, appraised=appraised, reason="")

    def reads(self, facts: Appraisal) -> tuple[Read, ...]:
        phone = facts.phone
        return (
            Key(PHONES, (phone.user,)),
            Key(CUSTOMERS, (phone.user,)),
            Key(CHALLENGES, (phone.secure_element, self.purpose.value)),
            Where(ANONYMOUS_ACCOUNTS, "customer", phone.user),
        )

    def decide(self, rows: Rows, facts: Appraisal, now_s: int, entropy: Entropy) -> Decision:
        used = consume_challenge(rows, facts.phone.secure_element, self.purpose, facts.message.n_b, now_s)
        phone, customer = rows.get(PHONES, facts.phone.user), rows.get(CUSTOMERS, facts.phone.user)
        assert phone is not None
        assert customer is not None
        expect_state(phone.state, *self.states)
        # CN-11: signed like any other reason, so that the SE of a lost phone closes by it.
        reason = AccountStopped.code if customer.stop else facts.reason
        if facts.appraised is None or reason:
            return Decision(writes=(used,), reply=DecisionRecord(allowed=False, reason=reason, passes=()))
        after = self.accept(phone, facts.message, facts.appraised)
        passes = self.passes(rows, after, entropy)
        changed = () if after == phone else (Update(PHONES, after),)
        return Decision(writes=(used, *changed), reply=DecisionRecord(allowed=True, reason="", passes=passes))

    def accept(self, phone: Phone, message: AttestationEvidence, appraised: Appraised) -> Phone:
        """The phone as the bank knows it after this good appraisal."""
        return phone

    def passes(self, rows: Rows, phone: Phone, entropy: Entropy) -> tuple[PassGrant, ...]:
        """The launch passes that this good appraisal earns."""
        return ()

    def seal(self, facts: Appraisal, reply: DecisionRecord, stamp: Stamp, ctx: Context) -> Wire:
        signer = self._bank.keys.signer
        passes = tuple(
            PassFor(aid=granted.aid, launch_pass=sign_pass(signer, granted, self._bank, stamp.issued_at_s))
            for granted in reply.passes
        )
        decision = AttestationDecision(purpose=self.purpose, allowed=reply.allowed, reason=reply.reason, passes=passes)
        signed = envelope.sign(signer, decision, audience=facts.phone.user, stamp=stamp, request_digest=ctx.digest)
        sealed = cose.seal(
            PublicKey.from_bytes(facts.phone.ek_u), name=AttestationDecision.NAME, plaintext=signed,
            request_digest=ctx.digest,
        )  # fmt: skip
        return Wire(cose=sealed)


class ApproveInstallStep(AttestStep):
    """ATT-D6, ATT-D7: platform and software identifier are verified; the phone may install."""

    rpc = "Bank.ApproveInstall"
    purpose = Purpose.INSTALL
    states = ("EXPECT_INSTALL", "EXPECT_REPORT", "INSTALLED")

    def accept(self, phone: Phone, message: AttestationEvidence, appraised: Appraised) -> Phone:
        # Until the new software is reported as installed, nothing that was installed before may launch.
        return replace(phone, state="EXPECT_REPORT", software=message.evidence.software, installed_pcr=b"")


class ReportInstallStep(AttestStep):
    """ATT-D7, last part: the PCR value after installation is stored at the bank."""

    rpc = "Bank.ReportInstall"
    purpose = Purpose.REPORT
    states = ("EXPECT_REPORT",)

    def accept(self, phone: Phone, message: AttestationEvidence, appraised: Appraised) -> Phone:
        if message.evidence.software != phone.software:
            raise FieldMismatch("another software was approved for installation")
        return replace(phone, state="INSTALLED", installed_pcr=appraised.pcr10)


class VerifyLaunchStep(AttestStep):
    """ATT-L6: only if list, quote and stored value agree may the app run; then each active AID gets its pass."""

    rpc = "Bank.VerifyLaunch"
    purpose = Purpose.LAUNCH
    states = ("INSTALLED",)

    def passes(self, rows: Rows, phone: Phone, entropy: Entropy) -> tuple[PassGrant, ...]:
        accounts = sorted(rows.find(ANONYMOUS_ACCOUNTS, "customer", phone.user), key=lambda account: account.aid)
        trust_class = TrustClass(phone.trust_class)
        return tuple(grant_pass(account, trust_class, entropy) for account in accounts if account.state == "ACTIVE")


def phone_by_key(ctx: Context, kid: bytes) -> Phone:
    """The enrolled phone whose PK_U has this thumbprint. Raises: UnknownKey."""
    phones = ctx.read(Where(PHONES, "kid_u", kid)).find(PHONES, "kid_u", kid)
    if not phones:
        raise UnknownKey
    return phones[0]


def sign_pass(signer: Signer, granted: PassGrant, bank: Bank, now_s: int) -> bytes:
    """Launch pass: times on the common grid, jti as its nonce, the TSM as its only audience."""
    stamp = Stamp(issued_at_s=bank.policy.pass_issued_s(now_s), nonce=granted.jti)
    message = LaunchPass(aid=granted.aid, pk_aid=granted.pk_aid, trust_class=granted.trust_class)
    return envelope.sign(signer, message, audience=granted.tsm, stamp=stamp, lifetime_s=2 * bank.policy.pass_grid_s)
