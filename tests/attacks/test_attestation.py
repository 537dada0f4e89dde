"""Attestation that is stale, another phone's, or for something else (paper §2.3; formal/attest).

First every phone is good; then some are tampered with, and the attacker signs with their SK_U at will, while others
stay good and go on quoting for any nonce (accomplices).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from support.attacker import (
    command,
    decrypt,
    nonce,
    read,
    refused,
    stamp,
    swap,
    unseal,
)
from support.world import PASSCODE, SOFTWARE, Phone, World

from parties.attesting import BankAppraiser
from protocol import cose, envelope
from protocol.crypto import PrivateKey, PublicKey
from protocol.engine import Peer
from protocol.envelope import Signer, Wire
from protocol.errors import FieldMismatch, NonceMismatch, ProtocolError, QuoteNotFresh, WrongAudience
from protocol.messages.account import AccountCertificate, AccountKeys, AccountKeysByAid, AccountKeysBySe
from protocol.messages.attest import (
    AttestationDecision,
    AttestationEvidence,
    Challenge,
    ChallengeRequest,
    Evidence,
)
from protocol.messages.se import SealedRequest, SeBeginAccount, SeGenerateAccountKeys, SeQuote
from protocol.ports import Entropy
from protocol.roles.bank.account import CertifyAccountStep
from protocol.roles.bank.attest import Appraisal, VerifyLaunchStep
from protocol.roles.bank.party import Appraised
from protocol.roles.bank.tables import ANONYMOUS_ACCOUNTS, CHALLENGES, PHONES
from protocol.roles.bank.tables import Challenge as ChallengeRow
from protocol.roles.bank.tables import Phone as PhoneRow
from protocol.roles.se.tables import ACCOUNTS, OWNERS
from protocol.rows import Decision, Rows
from protocol.types import Purpose, Role


@dataclass
class Tampered:
    """A phone in which the attacker holds SK_U and DK_U, and the wallet key."""

    world: World
    phone: Phone

    @property
    def owner(self) -> Any:
        (row,) = self.world.parties[self.phone.name].store.scan(OWNERS)
        return row

    @property
    def signer(self) -> Signer:
        return Signer(name=self.owner.user, key=PrivateKey.from_bytes(self.owner.sk_u))

    def challenge(self, purpose: Purpose = Purpose.LAUNCH) -> tuple[bytes, Wire, Wire]:
        """N_B, as the bank gives it to this phone; with request and reply."""
        wallet = self.phone.wallet.signer
        wire = Wire(
            cose=envelope.sign(wallet, ChallengeRequest(purpose=purpose), audience="bank-a", stamp=stamp(self.world))
        )
        reply = self.world.deliver("bank-a", "Bank.Challenge", wire, Peer(role=Role.PHONE, name=self.phone.name))
        return read(Challenge, reply.cose).n_b, wire, reply

    def claim(self, evidence: Evidence, n_b: bytes) -> AttestationDecision:
        """ATT-L6 with any evidence: the bank's decision."""
        message = AttestationEvidence(purpose=Purpose.LAUNCH, evidence=evidence, n_b=n_b)
        signed = envelope.sign(self.signer, message, audience="bank-a", stamp=stamp(self.world))
        key = self.world.parties["bank-a"].value.keys.seal.public
        wire = Wire(cose=cose.seal(key, name=AttestationEvidence.NAME, plaintext=signed))
        reply = self.world.deliver("bank-a", "Bank.VerifyLaunch", wire, None)
        dk_u = PrivateKey.from_bytes(self.owner.dk_u)
        return read(AttestationDecision, unseal(AttestationDecision, dk_u, reply.cose, wire.digest))


def quote(phone: Phone, user: str, n_b: bytes, world: World, purpose: Purpose = Purpose.LAUNCH) -> Evidence:
    """A quote that the phone's own MTM makes for any nonce."""
    return phone.platform.quote(
        purpose=purpose, bank="bank-a", user=user, software=SOFTWARE, n_am=nonce(world), n_b=n_b, requested_key=b""
    ).evidence


def phone_row(world: World, user: str) -> PhoneRow:
    (row,) = (row for row in world.parties["bank-a"].store.scan(PHONES) if row.user == user)
    return row


def judging(world: World, appraiser: BankAppraiser, step: Any) -> None:
    """A bank that appraises as `appraiser` does."""
    swap(world, "bank-a", step, replace(world.parties["bank-a"].value, appraiser=appraiser))


def recast(world: World, kind: type[BankAppraiser]) -> BankAppraiser:
    old = world.parties["bank-a"].value.appraiser
    return kind(bank=old.bank, manufacturer=old.manufacturer, platform=old.platform, references=old.references)


# --- PHONENONCE ----------------------------------------------------------------------------------------------------
class PhoneNonce(VerifyLaunchStep):
    """A bank that takes the phone's nonce, as paper §2.3 ATT-L1 has it, and remembers none of its own."""

    def decide(self, rows: Rows, facts: Appraisal, now_s: int, entropy: Entropy) -> Decision:
        named = ChallengeRow(
            holder=facts.phone.secure_element, purpose=self.purpose.value, n_b=facts.message.n_b,
            expires_at_s=now_s,
        )  # fmt: skip

        class Agreeing:
            find = rows.find

            def get(self, table: object, *key: object) -> object:
                return named if table is CHALLENGES else rows.get(table, *key)  # type: ignore[arg-type]

        decision = super().decide(Agreeing(), facts, now_s, entropy)  # type: ignore[arg-type]
        return replace(decision, writes=tuple(write for write in decision.writes if write.table is not CHALLENGES))


def test_a_stored_quote(world: World) -> None:
    """Attack: quotes over nonces of the phone's own are made while it is good, and shown after it was tampered with.
    Powers: SK_U of the tampered phone, and its stored quotes. Formal: attest_PHONENONCE. Closed by: the bank makes N_B,
    single use, two minutes (ADR-0007). Variant: the bank lets the tampered phone run, again and again, and gives it
    the passes of its accounts."""
    phone = world.ready()
    world.account(phone)
    own = nonce(world)
    stored = quote(phone, phone.user, own, world)
    phone.application.write_bytes(b"tampered")
    thief = Tampered(world, phone)
    assert world.launch(phone) == "SOFTWARE_CHANGED"
    with refused(world, NonceMismatch, "NONCE_MISMATCH"):
        thief.claim(stored, own)
    # For a challenge of the bank's the answer is a signed refusal; but for the challenge, used up, nothing changes.
    before = world.parties["bank-a"].store.scan(PHONES)
    decision = thief.claim(stored, thief.challenge()[0])
    assert (decision.allowed, decision.reason, decision.passes) == (False, QuoteNotFresh.code, ())
    assert world.parties["bank-a"].store.scan(PHONES) == before
    assert world.parties["bank-a"].store.scan(CHALLENGES) == ()

    swap(world, "bank-a", PhoneNonce)
    for _ in range(2):
        decision = thief.claim(stored, own)
        assert (decision.allowed, len(decision.passes)) == (True, 1)


def test_a_challenge_is_used_once_and_soon(world: World) -> None:
    """Attack: evidence is made for a challenge that was used, or is two minutes old. Powers: SK_U. Formal: attest T1
    (injective); time is outside the models. Closed by: N_B is single use and short-lived (ADR-0007)."""
    phone = world.ready()
    thief = Tampered(world, phone)
    n_b, _, _ = thief.challenge()
    evidence = quote(phone, phone.user, n_b, world)
    assert thief.claim(evidence, n_b).allowed
    with refused(world, NonceMismatch, "NONCE_MISMATCH"):
        thief.claim(evidence, n_b)
    n_b, _, _ = thief.challenge()
    world.clock.time_s += 121
    with refused(world, NonceMismatch, "NONCE_MISMATCH"):
        thief.claim(quote(phone, phone.user, n_b, world), n_b)


# --- NOUSER --------------------------------------------------------------------------------------------------------
def relayed(world: World) -> tuple[Tampered, Phone]:
    """A tampered phone and an accomplice's good one."""
    phone, accomplice = world.ready(), world.ready("phone-2")
    phone.application.write_bytes(b"tampered")
    return Tampered(world, phone), accomplice


def test_the_accomplices_se_answers_its_own_challenges(world: World) -> None:
    """Attack: the accomplice's wallet hands its SE the challenge of the tampered phone. Powers: both wallet keys.
    Formal: attest_NOUSER. Closed by: S_B(N_B) is addressed to one phone."""
    thief, accomplice = relayed(world)
    _, asked, reply = thief.challenge()
    message = SeQuote(
        purpose=Purpose.LAUNCH, bank="bank-a", software=SOFTWARE, challenge=reply.cose, asked=asked.digest,
        n_am=nonce(world),
    )  # fmt: skip
    with refused(world, WrongAudience, "WRONG_AUDIENCE"):
        command(world, accomplice, "Quote", message, SealedRequest)


@pytest.mark.parametrize(
    ("any_key", "any_user", "reason"),
    [
        (False, False, "QUOTE_SIGNATURE_INVALID"),
        (False, True, "QUOTE_SIGNATURE_INVALID"),
        (True, False, "QUOTE_NOT_FRESH"),
        (True, True, ""),
    ],
)
def test_a_quote_of_another_phone(world: World, any_key: bool, any_user: bool, reason: str) -> None:
    """Attack: an accomplice's good phone quotes for the tampered phone's challenge. Powers: SK_U of the tampered phone;
    the accomplice's MTM, which quotes for any nonce and names its own user. Formal: attest_NOUSER. Closed twice: a
    quote is checked with the attestation key enrolled for this phone, and names ID_U (ADR-0007). Variant without
    both: the tampered phone may run."""
    thief, accomplice = relayed(world)
    other = phone_row(world, accomplice.user)

    class Variant(BankAppraiser):
        def appraise(self, evidence: Evidence, **named: Any) -> Appraised:
            if any_key:
                named["attestation_key"] = PublicKey.from_bytes(other.attestation_key)
            if any_user:
                named["user"] = accomplice.user
            return super().appraise(evidence, **named)

    judging(world, recast(world, Variant), VerifyLaunchStep)
    n_b, _, _ = thief.challenge()
    before = world.parties["bank-a"].store.scan(PHONES)
    decision = thief.claim(quote(accomplice, accomplice.user, n_b, world), n_b)
    assert (decision.allowed, decision.reason) == (not reason, reason)
    assert world.parties["bank-a"].store.scan(PHONES) == before


# --- purpose and key -----------------------------------------------------------------------------------------------
def test_a_quote_for_another_purpose(world: World) -> None:
    """Attack: a phone whose platform is good and whose app is tampered with gets a quote for installation, which leaves
    the app out, over the nonce of a launch, and shows it as a launch. Powers: SK_U; the SE and MTM are genuine. Formal:
    attest (LAUNCH is in the quote). Closed by: the purpose is in the quote (ADR-0007). Variant, a bank that
    appraises for the purpose the quote was made for: the tampered app may run."""
    phone = world.ready()
    phone.application.write_bytes(b"tampered")
    thief = Tampered(world, phone)

    n_b, _, _ = thief.challenge()
    decision = thief.claim(quote(phone, phone.user, n_b, world, Purpose.INSTALL), n_b)
    assert (decision.allowed, decision.reason) == (False, QuoteNotFresh.code)

    class AnyPurpose(BankAppraiser):
        def appraise(self, evidence: Evidence, **named: Any) -> Appraised:
            return super().appraise(evidence, **{**named, "purpose": Purpose.INSTALL})

    judging(world, recast(world, AnyPurpose), VerifyLaunchStep)
    n_b, _, _ = thief.challenge()
    assert thief.claim(quote(phone, phone.user, n_b, world, Purpose.INSTALL), n_b).allowed


class AnySe(CertifyAccountStep):
    """A bank that does not ask which SE made the key."""

    def check_secure_element(self, message: AccountKeys, by_se: bytes, phone: PhoneRow, now_s: int) -> None:
        pass


@pytest.mark.parametrize(
    ("any_se", "any_quote", "error", "code"),
    [
        (False, False, FieldMismatch, "FIELD_MISMATCH"),
        (True, False, QuoteNotFresh, "QUOTE_NOT_FRESH"),
        (False, True, FieldMismatch, "FIELD_MISMATCH"),
        (True, True, None, ""),
    ],
)
def test_a_quote_for_another_key(
    world: World, any_se: bool, any_quote: bool, error: type[ProtocolError] | None, code: str
) -> None:
    """Attack: in AID-3 the attacker exchanges PK_AID for a key outside any SE. Powers: SK_U and kx of the phone; SE and
    MTM are genuine and answer for their own key. Formal: core_aid (bank binds ⇒ user made the key), paper.pv A1,
    attest_NOREQ. Closed twice: S_SE(N_B, PK_AID, EK_AID), and PK_req in the quote (ADR-0008, ADR-0007). Variant
    without both: the bank certifies the key and the attacker opens AID-4 with it."""
    phone = world.ready()
    thief = Tampered(world, phone)
    made = command(world, phone, "BeginAccount", SeBeginAccount(bank="bank-a"), SealedRequest)
    reply = world.deliver("bank-a", "Bank.RequestAccount", Wire(cose=made.cose), None)
    keys = SeGenerateAccountKeys(
        account=made.handle, reply=reply.cose, software=SOFTWARE, passcode=PASSCODE, n_am=nonce(world)
    )
    asked = command(world, phone, "GenerateAccountKeys", keys, SealedRequest)
    (row,) = world.parties[phone.name].store.scan(ACCOUNTS)
    by_user, by_se, _ = envelope.unpack(decrypt(AccountKeys, row.kx, asked.cose), low=3, high=3, max_bytes=1 << 20)
    honest = read(AccountKeysBySe, by_se)
    sk, dk = world.key(), world.key()
    message = replace(read(AccountKeys, by_user), pk_aid=sk.public.encoded, ek_aid=dk.public.encoded)
    own = AccountKeysByAid(n_u=message.n_u, n_b=message.n_b, ek_aid=message.ek_aid)
    aid_signer = Signer(name=sk.public.thumbprint.hex(), key=sk)
    parts = [
        envelope.sign(thief.signer, message, audience="bank-a", stamp=stamp(world)), by_se,
        envelope.sign(aid_signer, own, audience="bank-a", stamp=stamp(world)),
    ]  # fmt: skip
    wire = Wire(
        cose=cose.encrypt(row.kx, world.entropy, name=AccountKeys.NAME, plaintext=envelope.pack(parts)),
        session=asked.session,
    )

    class Variant(BankAppraiser):
        def appraise(self, evidence: Evidence, **named: Any) -> Appraised:
            if any_quote:
                named["requested_key"] = honest.pk_aid
            return super().appraise(evidence, **named)

    judging(world, recast(world, Variant), AnySe if any_se else CertifyAccountStep)
    if error is not None:
        with refused(world, error, code):
            world.deliver("bank-a", "Bank.CertifyAccount", wire, None)
        return
    reply = world.deliver("bank-a", "Bank.CertifyAccount", wire, None)
    inner = decrypt(AccountCertificate, row.kx, reply.cose, wire.digest)
    _, k = envelope.unpack(unseal(AccountCertificate, dk, inner, wire.digest), low=2, high=2, max_bytes=1 << 20)
    (account,) = world.parties["bank-a"].store.scan(ANONYMOUS_ACCOUNTS)
    assert (account.pk_aid, account.k_aid, account.customer) == (sk.public.encoded, k, phone.user)
