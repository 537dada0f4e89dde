"""INIT-2 … INIT-4: a customer's phone is enrolled with a one-time branch code."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from protocol import envelope
from protocol.crypto import PublicKey, same
from protocol.engine import Context, Incoming, Step
from protocol.envelope import Opened, Stamp, Wire
from protocol.errors import (
    BranchCodeInvalid,
    CertificateInvalid,
    FieldMismatch,
    IdentifierTaken,
    NonceMismatch,
)
from protocol.messages.attest import Challenge, ChallengeRequest
from protocol.messages.enroll import Enroll, Enrolled, SecureElementStatement
from protocol.pki import Identity, Use, issue
from protocol.ports import Entropy
from protocol.roles.bank.freeze import expect_running
from protocol.roles.bank.party import Appraised, Bank
from protocol.roles.bank.tables import CHALLENGES, CUSTOMERS, PHONES, Customer, Phone
from protocol.roles.bank.tables import Challenge as ChallengeRow
from protocol.roles.party import alone, expect_peer, expect_state, open_certified
from protocol.rows import Decision, Delete, Insert, Key, Read, Rows, Update, Where
from protocol.types import NONCE_BYTES, Purpose, Role, TrustClass

PHONE_ROLES: Final = (Role.SE, Role.PHONE)
"""A phone's transport shows the certificate of its SE, or of its wallet key; both bear the same name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A challenge request and who asks."""

    holder: str
    purpose: Purpose


class ChallengeStep(Step[Asked]):
    """Paper §2.3 ATT-D1, ATT-L1: here the *bank* makes the nonce that must be fresh (Hardened, ADR-0007)."""

    rpc = "Bank.Challenge"
    reply = Challenge

    def __init__(self, bank: Bank) -> None:
        self._bank = bank

    def open(self, wire: Wire, ctx: Context) -> Incoming[Asked]:
        opened, identity = open_certified(
            ChallengeRequest, alone(wire), self._bank.directory, role=Role.PHONE, audience=self._bank.keys.name, ctx=ctx
        )
        expect_peer(ctx, identity.name, *PHONE_ROLES)
        facts = Asked(holder=identity.name, purpose=opened.message.purpose)
        return Incoming(facts=facts, key=opened.key, claims=opened.claims)

    def reads(self, facts: Asked) -> tuple[Read, ...]:
        return (Key(CHALLENGES, (facts.holder, facts.purpose.value)),)

    def decide(self, rows: Rows, facts: Asked, now_s: int, entropy: Entropy) -> Decision:
        old = rows.get(CHALLENGES, facts.holder, facts.purpose.value)
        n_b = entropy.bytes(NONCE_BYTES)
        row = ChallengeRow(
            holder=facts.holder,
            purpose=facts.purpose.value,
            n_b=n_b,
            expires_at_s=now_s + self._bank.policy.challenge_life_s,
        )
        write = Insert(CHALLENGES, row) if old is None else Update(CHALLENGES, row)
        return Decision(writes=(write,), reply=Challenge(n_b=n_b))

    def seal(self, facts: Asked, reply: Challenge, stamp: Stamp, ctx: Context) -> Wire:
        signed = envelope.sign(
            self._bank.keys.signer, reply, audience=facts.holder, stamp=stamp,
            lifetime_s=self._bank.policy.challenge_life_s, request_digest=ctx.digest,
        )  # fmt: skip
        return Wire(cose=signed)


def consume_challenge(rows: Rows, holder: str, purpose: Purpose, n_b: bytes, now_s: int) -> Delete:
    """The nonce must be the open one of this phone and purpose; it is used up. Raises: NonceMismatch."""
    row = rows.get(CHALLENGES, holder, purpose.value)
    if row is None or not same(row.n_b, n_b) or row.expires_at_s < now_s:
        raise NonceMismatch("no such open challenge")
    return Delete(CHALLENGES, row)


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolling:
    """A verified enrollment: the request, the SE that vouches, what its attestation proved."""

    message: Enroll
    statement: SecureElementStatement
    secure_element: Identity
    trust_class: TrustClass
    appraised: Appraised
    branch_ref: bytes
    user: str
    certificate: bytes = b""


class EnrollStep(Step[Enrolling]):
    """Paper §2.2 INIT-3, INIT-4: measurements, PK_U and keys come in; CERT_U^B goes out."""

    rpc = "Bank.Enroll"
    reply = Enrolled
    max_bytes = Enroll.MAX_BYTES + 4096

    def __init__(self, bank: Bank) -> None:
        self._bank = bank

    def open(self, wire: Wire, ctx: Context) -> Incoming[Enrolling]:
        bank = self._bank.keys.name
        sign1 = envelope.peek(Enroll, alone(wire))
        claimed = Enroll.from_bytes(sign1.payload)
        # PK_U is believed because a certified SE vouches for it, not because the message carries it.
        endorsed, element = open_certified(
            SecureElementStatement, claimed.se_statement, self._bank.directory, role=Role.SE, audience=bank, ctx=ctx
        )
        expect_peer(ctx, element.name, *PHONE_ROLES)
        pk_u = PublicKey.from_bytes(endorsed.message.pk_u)
        opened = envelope.believe(Enroll, sign1, pk_u, issuer=element.name, audience=bank, now_s=ctx.now_s)
        facts = self._facts(opened, endorsed.message, element, ctx)
        evidence = ((Enroll.NAME, opened.wire), (SecureElementStatement.NAME, endorsed.wire))
        return Incoming(facts=facts, key=pk_u, claims=opened.claims, evidence=evidence)

    def _facts(
        self, opened: Opened[Enroll], statement: SecureElementStatement, element: Identity, ctx: Context
    ) -> Enrolling:
        message = opened.message
        if message.pk_u != statement.pk_u:
            raise FieldMismatch("PK_U")
        if statement.pk_u in (statement.ek_u, statement.attestation_key, statement.wallet_key):
            raise FieldMismatch("one key for two uses")
        for encoded in (statement.ek_u, statement.wallet_key):
            PublicKey.from_bytes(encoded)
        key, trust_class = self._bank.appraiser.certify(statement.attestation_certificate, ctx.now_s)
        if key.encoded != statement.attestation_key:
            raise CertificateInvalid("attestation certificate is of another key")
        appraised = self._bank.appraiser.appraise(
            message.evidence, purpose=Purpose.ENROLL, user=element.name, n_b=message.n_b, requested_key=b"",
            attestation_key=key, baseline=b"", installed_pcr=b"", now_s=ctx.now_s,
        )  # fmt: skip
        branch_ref = self._bank.secrets.blind("branch-code", message.branch_code.encode())
        customers = ctx.read(Where(CUSTOMERS, "branch_ref", branch_ref)).find(CUSTOMERS, "branch_ref", branch_ref)
        return Enrolling(
            message=message, statement=statement, secure_element=element, trust_class=trust_class,
            appraised=appraised, branch_ref=branch_ref, user=customers[0].customer if customers else "",
        )  # fmt: skip

    def prepare(self, incoming: Incoming[Enrolling], ctx: Context) -> Incoming[Enrolling]:
        facts, policy = incoming.facts, self._bank.policy
        if not facts.user:  # `decide` refuses it, after it has looked for a replay
            return incoming
        certificate = issue(
            self._bank.issuer, PublicKey.from_bytes(facts.statement.pk_u), role=Role.USER, name=facts.user,
            use=Use.SIGN, from_s=ctx.now_s - 60, until_s=ctx.now_s + policy.certificate_life_s, entropy=ctx.entropy,
        )  # fmt: skip
        return replace(incoming, facts=replace(facts, certificate=certificate))

    def reads(self, facts: Enrolling) -> tuple[Read, ...]:
        element = facts.secure_element.name
        return (
            Key(CHALLENGES, (element, Purpose.ENROLL.value)),
            Where(CUSTOMERS, "branch_ref", facts.branch_ref),
            Where(PHONES, "secure_element", element),
        )

    def decide(self, rows: Rows, facts: Enrolling, now_s: int, entropy: Entropy) -> Decision:
        element = facts.secure_element.name
        used = consume_challenge(rows, element, Purpose.ENROLL, facts.message.n_b, now_s)
        customers = rows.find(CUSTOMERS, "branch_ref", facts.branch_ref)
        if not customers or customers[0].branch_expires_at_s < now_s:
            raise BranchCodeInvalid
        if rows.find(PHONES, "secure_element", element):
            raise IdentifierTaken("this secure element is enrolled already")
        expect_state(customers[0].state, "EXPECT_PHONE")
        expect_running(customers[0])
        # A branch code works once: its place in the index is taken by a value that no code maps to.
        customer = replace(customers[0], state="ENROLLED", branch_ref=entropy.bytes(32), branch_expires_at_s=0)
        writes = (used, Update(CUSTOMERS, customer), Insert(PHONES, self._phone(facts, customer)))
        reply = Enrolled(certificate=facts.certificate, issuer=self._bank.issuer.certificate)
        return Decision(writes=writes, reply=reply)

    def _phone(self, facts: Enrolling, customer: Customer) -> Phone:
        statement = facts.statement
        return Phone(
            user=customer.customer,
            secure_element=facts.secure_element.name,
            pk_u=statement.pk_u,
            kid_u=PublicKey.from_bytes(statement.pk_u).thumbprint,
            ek_u=statement.ek_u,
            pk_se=facts.secure_element.key.encoded,
            attestation_key=statement.attestation_key,
            trust_class=facts.trust_class.value,
            wallet_key=statement.wallet_key,
            baseline=facts.message.evidence.measurement_list,
            software="",
            installed_pcr=b"",
            state="EXPECT_INSTALL",
        )

    def seal(self, facts: Enrolling, reply: Enrolled, stamp: Stamp, ctx: Context) -> Wire:
        signed = envelope.sign(
            self._bank.keys.signer, reply, audience=facts.secure_element.name, stamp=stamp, request_digest=ctx.digest
        )
        return Wire(cose=signed)


def phone_of_user(ctx: Context, user: str) -> Phone:
    """The phone enrolled for `user`, who has a session and therefore a phone."""
    phone = ctx.read(Key(PHONES, (user,))).get(PHONES, user)
    assert phone is not None
    return phone
