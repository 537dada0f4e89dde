"""AID: the bank certifies a pseudonym for a person it has authenticated (paper §2.4)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from protocol import cose, envelope
from protocol.crypto import PublicKey, new_key, same, sha256
from protocol.engine import Context, Incoming, Step
from protocol.envelope import OVERHEAD_BYTES, Stamp, Wire
from protocol.errors import (
    AccountLimitReached,
    FactorLocked,
    FactorsInsufficient,
    FieldMismatch,
    IdentifierTaken,
    NonceMismatch,
    ProtocolError,
    UnknownSession,
)
from protocol.messages.account import (
    AccountActivation,
    AccountActive,
    AccountCertificate,
    AccountChallenge,
    AccountKeys,
    AccountKeysByAid,
    AccountKeysBySe,
    AccountRequest,
    ActivationRecord,
    AidCertificate,
    Factor,
)
from protocol.ports import Entropy
from protocol.roles.bank.attest import phone_by_key, sign_pass
from protocol.roles.bank.enroll import phone_of_user
from protocol.roles.bank.freeze import expect_running
from protocol.roles.bank.party import Bank, grant_pass
from protocol.roles.bank.tables import (
    ACCOUNT_SESSIONS,
    ANONYMOUS_ACCOUNTS,
    CUSTOMERS,
    PHONES,
    AccountSession,
    AnonymousAccount,
    Customer,
    Phone,
)
from protocol.roles.party import alone, expect_state, known_party
from protocol.rows import Decision, Delete, Insert, Key, Read, Rows, Update, Where, Write
from protocol.types import HANDLE_BYTES, NONCE_BYTES, Purpose, Role, TrustClass


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """AID-1, verified."""

    message: AccountRequest
    phone: Phone


class RequestAccountStep(Step[Asking]):
    """AID-1/AID-2: a session with a fresh kx. Hardened, ADR-0008: the paper's AID-2 carries a key in clear."""

    rpc = "Bank.RequestAccount"
    reply = AccountChallenge

    def __init__(self, bank: Bank) -> None:
        self._bank = bank

    def open(self, wire: Wire, ctx: Context) -> Incoming[Asking]:
        signed = cose.unseal(self._bank.keys.seal, alone(wire), name=AccountRequest.NAME, max_bytes=self.max_bytes)
        sign1 = envelope.peek(AccountRequest, signed)
        phone = phone_by_key(ctx, sign1.kid)
        opened = envelope.believe(
            AccountRequest, sign1, PublicKey.from_bytes(phone.pk_u), issuer=phone.user,
            audience=self._bank.keys.name, now_s=ctx.now_s,
        )  # fmt: skip
        facts = Asking(message=opened.message, phone=phone)
        evidence = ((AccountRequest.NAME, opened.wire),)
        return Incoming(facts=facts, key=opened.key, claims=opened.claims, evidence=evidence)

    def reads(self, facts: Asking) -> tuple[Read, ...]:
        return (
            Key(CUSTOMERS, (facts.phone.user,)),
            Key(PHONES, (facts.phone.user,)),
            Where(ANONYMOUS_ACCOUNTS, "customer", facts.phone.user),
        )

    def decide(self, rows: Rows, facts: Asking, now_s: int, entropy: Entropy) -> Decision:
        customer, phone = rows.get(CUSTOMERS, facts.phone.user), rows.get(PHONES, facts.phone.user)
        assert customer is not None
        assert phone is not None
        expect_state(phone.state, "INSTALLED")
        expect_running(customer)
        if customer.state == "LOCKED":
            raise FactorLocked
        accounts = rows.find(ANONYMOUS_ACCOUNTS, "customer", facts.phone.user)
        freed = _abandoned(accounts, now_s)
        if _held(accounts) - len(freed) >= self._bank.policy.max_accounts:
            raise AccountLimitReached
        session = AccountSession(
            session=entropy.bytes(HANDLE_BYTES),
            user=facts.phone.user,
            n_u=facts.message.n_u,
            n_b=entropy.bytes(NONCE_BYTES),
            kx=facts.message.kx,
            aid="",
            state="EXPECT_KEYS",
            expires_at_s=now_s + self._bank.policy.session_life_s,
        )
        reply = AccountChallenge(n_u=session.n_u, n_b=session.n_b, session=session.session)
        writes: tuple[Write, ...] = (Insert(ACCOUNT_SESSIONS, session), *_give_back(customer, freed))
        return Decision(writes=writes, reply=reply)

    def seal(self, facts: Asking, reply: AccountChallenge, stamp: Stamp, ctx: Context) -> Wire:
        signed = envelope.sign(
            self._bank.keys.signer, reply, audience=facts.phone.user, stamp=stamp, request_digest=ctx.digest
        )
        sealed = cose.encrypt(
            facts.message.kx, ctx.entropy, name=AccountChallenge.NAME, plaintext=signed, request_digest=ctx.digest
        )
        return Wire(cose=sealed)


def _abandoned(accounts: tuple[AnonymousAccount, ...], now_s: int) -> tuple[AnonymousAccount, ...]:
    """Accounts that were certified but never activated in time: nobody holds their keys."""
    return tuple(a for a in accounts if a.state == "EXPECT_ACTIVATION" and a.activate_until_s < now_s)


def _held(accounts: tuple[AnonymousAccount, ...]) -> int:
    """How many accounts count: one whose claims were closed is of no more use, and stays for disputes only."""
    return sum(1 for account in accounts if account.state != "CLOSED")


def _give_back(customer: Customer, freed: tuple[AnonymousAccount, ...]) -> tuple[Write, ...]:
    if not freed:
        return ()
    credit = sum(account.limit_minor for account in freed)
    after = replace(customer, granted_minor=customer.granted_minor - credit)
    return (Update(CUSTOMERS, after), *(Delete(ANONYMOUS_ACCOUNTS, account) for account in freed))


def session_of(wire: Wire, ctx: Context) -> AccountSession:
    """The session that the envelope names. Raises: UnknownSession (also when its time is over)."""
    session = ctx.read(Key(ACCOUNT_SESSIONS, (wire.session,))).get(ACCOUNT_SESSIONS, wire.session)
    if session is None or session.expires_at_s < ctx.now_s:
        raise UnknownSession
    return session


@dataclass(frozen=True, slots=True, kw_only=True)
class Certifying:
    """AID-3…5, verified: three signatures over one session, and whether the person was authenticated."""

    session: AccountSession
    phone: Phone
    message: AccountKeys
    authenticated: bool = False


class CertifyAccountStep(Step[Certifying]):
    """AID-5/AID-6: PK_AID by the user, by a genuine SE and by itself; then AID, K and CERT_AID for that SE only."""

    rpc = "Bank.CertifyAccount"
    reply = AccountCertificate
    max_bytes = AccountKeys.MAX_BYTES + 16 * OVERHEAD_BYTES

    def __init__(self, bank: Bank) -> None:
        self._bank = bank

    def open(self, wire: Wire, ctx: Context) -> Incoming[Certifying]:
        session = session_of(wire, ctx)
        phone = phone_of_user(ctx, session.user)
        plaintext = cose.decrypt(session.kx, wire.cose, name=AccountKeys.NAME, max_bytes=self.max_bytes)
        by_user, by_se, by_aid = envelope.unpack(plaintext, low=3, high=3, max_bytes=self.max_bytes)
        bank, now_s = self._bank.keys.name, ctx.now_s
        opened = envelope.open_signed(
            AccountKeys, by_user, PublicKey.from_bytes(phone.pk_u), issuer=phone.user, audience=bank, now_s=now_s
        )
        message = opened.message
        if not (same(message.n_u, session.n_u) and same(message.n_b, session.n_b)):
            raise NonceMismatch
        self.check_secure_element(message, by_se, phone, now_s)
        self.check_self_signature(message, by_aid, now_s)
        facts = Certifying(session=session, phone=phone, message=message)
        evidence = (
            (AccountKeys.NAME, opened.wire), (AccountKeysBySe.NAME, by_se), (AccountKeysByAid.NAME, by_aid)
        )  # fmt: skip
        return Incoming(facts=facts, key=opened.key, claims=opened.claims, evidence=evidence)

    def check_secure_element(self, message: AccountKeys, by_se: bytes, phone: Phone, now_s: int) -> None:
        """`S_SE(N_B, PK_AID, EK_AID)`: the enrolled SE made both keys."""
        statement = envelope.open_signed(
            AccountKeysBySe, by_se, PublicKey.from_bytes(phone.pk_se), issuer=phone.secure_element,
            audience=self._bank.keys.name, now_s=now_s,
        ).message  # fmt: skip
        if statement != AccountKeysBySe(n_b=message.n_b, pk_aid=message.pk_aid, ek_aid=message.ek_aid):
            raise FieldMismatch("S_SE names other keys")

    def check_self_signature(self, message: AccountKeys, by_aid: bytes, now_s: int) -> None:
        """`S_AID(N_U, N_B, EK_AID)`: PK_AID's owner is in this session."""
        PublicKey.from_bytes(message.ek_aid)
        if message.ek_aid == message.pk_aid:
            raise FieldMismatch("one key for signing and for encryption")
        pk_aid = PublicKey.from_bytes(message.pk_aid)
        statement = envelope.open_signed(
            AccountKeysByAid, by_aid, pk_aid, issuer=pk_aid.thumbprint.hex(), audience=self._bank.keys.name,
            now_s=now_s,
        ).message  # fmt: skip
        if statement != AccountKeysByAid(n_u=message.n_u, n_b=message.n_b, ek_aid=message.ek_aid):
            raise FieldMismatch("S_AID names another session or key")

    def check_evidence(self, message: AccountKeys, phone: Phone, now_s: int) -> None:
        """The phone is in a good state now, and its quote names the very key being certified."""
        self._bank.appraiser.appraise(
            message.evidence, purpose=Purpose.ACCOUNT, user=phone.user, n_b=message.n_b,
            requested_key=message.pk_aid, attestation_key=PublicKey.from_bytes(phone.attestation_key),
            baseline=phone.baseline, installed_pcr=phone.installed_pcr, now_s=now_s,
        )  # fmt: skip

    def prepare(self, incoming: Incoming[Certifying], ctx: Context) -> Incoming[Certifying]:
        facts = incoming.facts
        self.check_evidence(facts.message, facts.phone, ctx.now_s)
        customer = ctx.read(Key(CUSTOMERS, (facts.phone.user,))).get(CUSTOMERS, facts.phone.user)
        assert customer is not None
        proofs = [auth.proof for auth in facts.message.auth if auth.factor is Factor.PASSCODE]
        good = len(proofs) == 1 and self._bank.secrets.passcode_matches(customer.passcode_hash, proofs[0])
        return replace(incoming, facts=replace(facts, authenticated=good))

    def reads(self, facts: Certifying) -> tuple[Read, ...]:
        user = facts.phone.user
        return (
            Key(ACCOUNT_SESSIONS, (facts.session.session,)), Key(CUSTOMERS, (user,)),
            Where(ANONYMOUS_ACCOUNTS, "customer", user), Where(ANONYMOUS_ACCOUNTS, "pk_aid", facts.message.pk_aid),
        )  # fmt: skip

    def decide(self, rows: Rows, facts: Certifying, now_s: int, entropy: Entropy) -> Decision:
        session, customer = rows.get(ACCOUNT_SESSIONS, facts.session.session), rows.get(CUSTOMERS, facts.phone.user)
        assert customer is not None
        if session is None:  # swept since it was read
            raise UnknownSession
        expect_state(session.state, "EXPECT_KEYS")
        expect_running(customer)  # before the passcode is looked at: a stopped account tells nothing of it
        if customer.state == "LOCKED":
            raise FactorLocked
        if rows.find(ANONYMOUS_ACCOUNTS, "pk_aid", facts.message.pk_aid):
            raise IdentifierTaken("one key, one pseudonym")
        if not facts.authenticated:
            return self._wrong_entry(customer, session)
        policy = self._bank.policy
        limit_minor = policy.limit_minor(customer.limit_minor - customer.granted_minor)
        # Counted here again: many sessions may have been begun while there was room for one account.
        accounts = rows.find(ANONYMOUS_ACCOUNTS, "customer", customer.customer)
        if limit_minor == 0 or _held(accounts) >= policy.max_accounts:
            raise AccountLimitReached
        key = new_key(entropy)
        message = facts.message
        certificate = AidCertificate(
            n_u=message.n_u, n_b=message.n_b, aid=f"a-{entropy.bytes(16).hex()}", pk_aid=message.pk_aid,
            ek_aid=message.ek_aid, expires_at_s=policy.expiry_s(now_s), limit_minor=limit_minor,
            currency=customer.currency, key_digest=sha256(key),
        )  # fmt: skip
        writes = (
            Update(ACCOUNT_SESSIONS, replace(session, state="EXPECT_ACTIVATION", aid=certificate.aid)),
            Update(CUSTOMERS, replace(customer, wrong_entries=0, granted_minor=customer.granted_minor + limit_minor)),
            Insert(ANONYMOUS_ACCOUNTS, _account(certificate, key, session)),
        )
        return Decision(writes=writes, reply=AccountCertificate(certificate=certificate, key=key))

    def _wrong_entry(self, customer: Customer, session: AccountSession) -> Decision:
        """TW-G3b: a wrong entry is counted, whatever else happens; the session is over."""
        wrong = customer.wrong_entries + 1
        locked = wrong >= self._bank.policy.max_wrong_entries
        after = replace(customer, wrong_entries=wrong, state="LOCKED" if locked else customer.state)
        refusal: ProtocolError = FactorLocked() if locked else FactorsInsufficient()
        over = replace(session, state="REFUSED")
        return Decision(writes=(Update(CUSTOMERS, after), Update(ACCOUNT_SESSIONS, over)), refusal=refusal)

    def seal(self, facts: Certifying, reply: AccountCertificate, stamp: Stamp, ctx: Context) -> Wire:
        certificate = envelope.sign(
            self._bank.keys.signer, reply.certificate, audience=facts.phone.user,
            stamp=stamp.derive(AidCertificate.NAME),
            lifetime_s=reply.certificate.expires_at_s - stamp.issued_at_s,
        )  # fmt: skip
        inner = cose.seal(
            PublicKey.from_bytes(reply.certificate.ek_aid), name=AccountCertificate.NAME,
            plaintext=envelope.pack([certificate, reply.key]), request_digest=ctx.digest,
        )  # fmt: skip
        outer = cose.encrypt(
            facts.session.kx, ctx.entropy, name=AccountCertificate.NAME, plaintext=inner, request_digest=ctx.digest
        )
        return Wire(cose=outer)


def _account(certificate: AidCertificate, key: bytes, session: AccountSession) -> AnonymousAccount:
    return AnonymousAccount(
        aid=certificate.aid,
        customer=session.user,
        pk_aid=certificate.pk_aid,
        ek_aid=certificate.ek_aid,
        k_aid=key,
        n_b=session.n_b,
        expires_at_s=certificate.expires_at_s,
        limit_minor=certificate.limit_minor,
        currency=certificate.currency,
        tsm="",
        state="EXPECT_ACTIVATION",
        activate_until_s=session.expires_at_s,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Activating:
    """AID-5 (activation), verified under PK_AID."""

    session: AccountSession
    message: AccountActivation
    account: AnonymousAccount


class ActivateAccountStep(Step[Activating]):
    """AID-8 is told to the bank: the SE holds key and certificate; the account is active, with its first pass."""

    rpc = "Bank.ActivateAccount"
    reply = ActivationRecord

    def __init__(self, bank: Bank) -> None:
        self._bank = bank

    def open(self, wire: Wire, ctx: Context) -> Incoming[Activating]:
        session = session_of(wire, ctx)
        account = ctx.read(Key(ANONYMOUS_ACCOUNTS, (session.aid,))).get(ANONYMOUS_ACCOUNTS, session.aid)
        if account is None:
            raise UnknownSession
        signed = cose.decrypt(account.k_aid, wire.cose, name=AccountActivation.NAME, max_bytes=self.max_bytes)
        opened = envelope.open_signed(
            AccountActivation, signed, PublicKey.from_bytes(account.pk_aid), issuer=account.aid,
            audience=self._bank.keys.name, now_s=ctx.now_s,
        )  # fmt: skip
        message = opened.message
        if message.aid != account.aid:
            raise FieldMismatch("AID")
        if not same(message.n_b, account.n_b):
            raise NonceMismatch
        known_party(self._bank.directory, message.tsm, Role.TSM)
        facts = Activating(session=session, message=message, account=account)
        evidence = ((AccountActivation.NAME, opened.wire),)
        return Incoming(facts=facts, key=opened.key, claims=opened.claims, evidence=evidence)

    def reads(self, facts: Activating) -> tuple[Read, ...]:
        return (
            Key(ACCOUNT_SESSIONS, (facts.session.session,)),
            Key(ANONYMOUS_ACCOUNTS, (facts.account.aid,)),
            Key(PHONES, (facts.session.user,)),
            Key(CUSTOMERS, (facts.session.user,)),
        )

    def decide(self, rows: Rows, facts: Activating, now_s: int, entropy: Entropy) -> Decision:
        account = rows.get(ANONYMOUS_ACCOUNTS, facts.account.aid)
        session, phone = rows.get(ACCOUNT_SESSIONS, facts.session.session), rows.get(PHONES, facts.session.user)
        customer = rows.get(CUSTOMERS, facts.session.user)
        assert phone is not None
        assert customer is not None
        if account is None or session is None:  # swept, or given back as abandoned, since they were read
            raise UnknownSession
        expect_state(session.state, "EXPECT_ACTIVATION")
        expect_running(customer)
        active = replace(account, state="ACTIVE", tsm=facts.message.tsm)
        writes = (
            Update(ANONYMOUS_ACCOUNTS, active),
            Update(ACCOUNT_SESSIONS, replace(session, state="DONE")),
        )
        granted = grant_pass(active, TrustClass(phone.trust_class), entropy)
        return Decision(writes=writes, reply=ActivationRecord(granted=granted))

    def seal(self, facts: Activating, reply: ActivationRecord, stamp: Stamp, ctx: Context) -> Wire:
        signer = self._bank.keys.signer
        active = AccountActive(
            aid=facts.account.aid, launch_pass=sign_pass(signer, reply.granted, self._bank, stamp.issued_at_s)
        )
        signed = envelope.sign(signer, active, audience=facts.account.aid, stamp=stamp, request_digest=ctx.digest)
        sealed = cose.encrypt(
            facts.account.k_aid, ctx.entropy, name=AccountActive.NAME, plaintext=signed, request_digest=ctx.digest
        )
        return Wire(cose=sealed)
