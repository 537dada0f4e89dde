"""AID in the SE: keys of the anonymous account are made, endorsed and kept here (paper §2.4 AID-3, 4, 7, 8)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from protocol import cose, envelope
from protocol.crypto import PrivateKey, new_key, same, sha256
from protocol.engine import Context, Incoming
from protocol.envelope import OBJECT_LIFETIME_S, Signer, Wire
from protocol.errors import FieldMismatch, NonceMismatch, UnknownAccount
from protocol.messages.account import (
    AccountActivation,
    AccountActive,
    AccountCertificate,
    AccountChallenge,
    AccountKeys,
    AccountKeysByAid,
    AccountKeysBySe,
    AccountRequest,
    AidCertificate,
    Factor,
    FactorProof,
)
from protocol.messages.se import (
    SeAccount,
    SealedRequest,
    SeBeginAccount,
    SeGenerateAccountKeys,
    SeInstallAccount,
    SeInstallPass,
)
from protocol.pki import Use
from protocol.ports import Entropy
from protocol.roles.party import expect_state
from protocol.roles.se.party import SeStep, expect_open, fresh, nonce, owner_of
from protocol.roles.se.tables import ACCOUNTS, OWNERS, Account, Owner
from protocol.rows import Decision, Insert, Key, Read, Rows, Update
from protocol.types import Purpose


def account_of(ctx: Context, account: str) -> Account:
    """The account under this handle. Raises: UnknownAccount."""
    row = ctx.read(Key(ACCOUNTS, (account,))).get(ACCOUNTS, account)
    if row is None:
        raise UnknownAccount
    return row


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """AID-1 to be made."""

    command: SeBeginAccount
    owner: Owner
    account: Account | None = None
    request: bytes = b""


class BeginAccountStep(SeStep[SeBeginAccount, Beginning]):
    """AID-1: N_U and kx are the SE's own; the wallet never holds kx."""

    rpc = "SecureElement.BeginAccount"
    command = SeBeginAccount
    reply = SealedRequest

    def look(self, command: SeBeginAccount, ctx: Context) -> Beginning:
        return Beginning(command=command, owner=owner_of(ctx, command.bank))

    def prepare(self, incoming: Incoming[Beginning], ctx: Context) -> Incoming[Beginning]:
        owner = incoming.facts.owner
        message = AccountRequest(n_u=nonce(ctx.entropy), kx=self.session_key(ctx))
        signer = Signer(name=owner.user, key=PrivateKey.from_bytes(owner.sk_u))
        signed = envelope.sign(signer, message, audience=owner.bank, stamp=fresh(ctx))
        key = self._se.directory.named(owner.bank, Use.SEAL).key
        request = cose.seal(key, name=AccountRequest.NAME, plaintext=signed)
        account = Account(
            account=f"c-{ctx.entropy.bytes(8).hex()}", bank=owner.bank, aid="", n_u=message.n_u, n_b=b"",
            kx=message.kx, session=b"", digest=Wire(cose=request).digest, sk_aid=b"", dk_aid=b"", k_aid=b"",
            certificate=b"", expires_at_s=0, limit_minor=0, currency="", tsm="", launch_pass=b"",
            state="EXPECT_CHALLENGE",
        )  # fmt: skip
        return replace(incoming, facts=replace(incoming.facts, account=account, request=request))

    def session_key(self, ctx: Context) -> bytes:
        """kx is made here (formal/se WKX)."""
        return new_key(ctx.entropy)

    def reads(self, facts: Beginning) -> tuple[Read, ...]:
        return (Key(OWNERS, (facts.command.bank,)),)

    def decide(self, rows: Rows, facts: Beginning, now_s: int, entropy: Entropy) -> Decision:
        expect_open(rows, facts.command.bank)
        assert facts.account is not None
        reply = SealedRequest(cose=facts.request, session=b"", handle=facts.account.account)
        return Decision(writes=(Insert(ACCOUNTS, facts.account),), reply=reply)


@dataclass(frozen=True, slots=True, kw_only=True)
class Generating:
    """AID-2 opened under kx; AID-3 to be made."""

    command: SeGenerateAccountKeys
    account: Account
    owner: Owner
    challenge: AccountChallenge
    after: Account | None = None
    request: bytes = b""


class GenerateAccountKeysStep(SeStep[SeGenerateAccountKeys, Generating]):
    """AID-3, AID-4: EK_AID is the SE's own, never one it is handed; the quote names PK_AID."""

    rpc = "SecureElement.GenerateAccountKeys"
    command = SeGenerateAccountKeys
    reply = SealedRequest

    def look(self, command: SeGenerateAccountKeys, ctx: Context) -> Generating:
        account = account_of(ctx, command.account)
        bank, owner = self._se.bank(account.bank), owner_of(ctx, account.bank)
        signed = cose.decrypt(
            account.kx, command.reply, name=AccountChallenge.NAME, max_bytes=self.max_bytes,
            request_digest=account.digest,
        )  # fmt: skip
        challenge = envelope.open_signed(
            AccountChallenge, signed, bank.key, issuer=bank.name, audience=owner.user, now_s=ctx.now_s,
            request_digest=account.digest,
        ).message  # fmt: skip
        if not same(challenge.n_u, account.n_u):
            raise NonceMismatch
        return Generating(command=command, account=account, owner=owner, challenge=challenge)

    def prepare(self, incoming: Incoming[Generating], ctx: Context) -> Incoming[Generating]:
        facts = incoming.facts
        account, challenge = facts.account, facts.challenge
        sk_aid, dk_aid = PrivateKey.generate(ctx.entropy), PrivateKey.generate(ctx.entropy)
        parts = self._parts(facts, sk_aid, dk_aid, ctx)
        request = cose.encrypt(account.kx, ctx.entropy, name=AccountKeys.NAME, plaintext=envelope.pack(parts))
        after = replace(
            account, n_b=challenge.n_b, session=challenge.session, sk_aid=sk_aid.to_bytes(), dk_aid=dk_aid.to_bytes(),
            digest=Wire(cose=request, session=challenge.session).digest, state="EXPECT_CERTIFICATE",
        )  # fmt: skip
        return replace(incoming, facts=replace(facts, after=after, request=request))

    def _parts(self, facts: Generating, sk_aid: PrivateKey, dk_aid: PrivateKey, ctx: Context) -> list[bytes]:
        owner, challenge, command = facts.owner, facts.challenge, facts.command
        pk_aid, ek_aid = sk_aid.public.encoded, dk_aid.public.encoded
        quoted = self._se.platform.quote(
            purpose=Purpose.ACCOUNT, bank=owner.bank, user=owner.user, software=command.software,
            n_am=command.n_am, n_b=challenge.n_b, requested_key=pk_aid,
        )  # fmt: skip
        by_user = AccountKeys(
            n_u=challenge.n_u, n_b=challenge.n_b, pk_aid=pk_aid, ek_aid=ek_aid, evidence=quoted.evidence,
            auth=(FactorProof(factor=Factor.PASSCODE, proof=command.passcode.encode()),),
        )  # fmt: skip
        by_se = AccountKeysBySe(n_b=challenge.n_b, pk_aid=pk_aid, ek_aid=ek_aid)
        by_aid = AccountKeysByAid(n_u=challenge.n_u, n_b=challenge.n_b, ek_aid=ek_aid)
        user = Signer(name=owner.user, key=PrivateKey.from_bytes(owner.sk_u))
        account = Signer(name=sk_aid.public.thumbprint.hex(), key=sk_aid)
        pairs = ((user, by_user), (self._se.signer, by_se), (account, by_aid))
        return [envelope.sign(signer, part, audience=owner.bank, stamp=fresh(ctx)) for signer, part in pairs]

    def reads(self, facts: Generating) -> tuple[Read, ...]:
        return (Key(ACCOUNTS, (facts.account.account,)), Key(OWNERS, (facts.account.bank,)))

    def decide(self, rows: Rows, facts: Generating, now_s: int, entropy: Entropy) -> Decision:
        expect_open(rows, facts.account.bank)
        account = rows.get(ACCOUNTS, facts.account.account)
        assert account is not None
        assert facts.after is not None
        expect_state(account.state, "EXPECT_CHALLENGE")
        reply = SealedRequest(cose=facts.request, session=facts.after.session, handle=account.account)
        return Decision(writes=(Update(ACCOUNTS, facts.after),), reply=reply)


@dataclass(frozen=True, slots=True, kw_only=True)
class Installing:
    """AID-4 opened with DK_AID and compared; AID-5 to be made."""

    command: SeInstallAccount
    account: Account
    after: Account
    request: bytes = b""


class InstallAccountStep(SeStep[SeInstallAccount, Installing]):
    """AID-7, AID-8: only this SE can open the certificate and K; K never leaves it."""

    rpc = "SecureElement.InstallAccount"
    command = SeInstallAccount
    reply = SealedRequest

    def look(self, command: SeInstallAccount, ctx: Context) -> Installing:
        account = account_of(ctx, command.account)
        bank, owner = self._se.bank(account.bank), owner_of(ctx, account.bank)
        self._se.tsm(command.tsm)
        inner = cose.decrypt(
            account.kx, command.reply, name=AccountCertificate.NAME, max_bytes=self.max_bytes,
            request_digest=account.digest,
        )  # fmt: skip
        dk_aid = PrivateKey.from_bytes(account.dk_aid)
        plaintext = cose.unseal(
            dk_aid, inner, name=AccountCertificate.NAME, max_bytes=self.max_bytes, request_digest=account.digest
        )
        signed, key = envelope.unpack(plaintext, low=2, high=2, max_bytes=self.max_bytes)
        certificate = envelope.open_signed(
            AidCertificate, signed, bank.key, issuer=bank.name, audience=owner.user, now_s=ctx.now_s,
            max_lifetime_s=OBJECT_LIFETIME_S,
        )  # fmt: skip
        self.compare(certificate.message, key, account)
        message = certificate.message
        after = replace(
            account, aid=message.aid, k_aid=key, certificate=certificate.wire, expires_at_s=message.expires_at_s,
            limit_minor=message.limit_minor, currency=message.currency, tsm=command.tsm, state="EXPECT_ACTIVE",
        )  # fmt: skip
        return Installing(command=command, account=account, after=after)

    def compare(self, certificate: AidCertificate, key: bytes, account: Account) -> None:
        """CERT_AID is for this session, these keys and this K."""
        pk_aid = PrivateKey.from_bytes(account.sk_aid).public.encoded
        ek_aid = PrivateKey.from_bytes(account.dk_aid).public.encoded
        if not (same(certificate.n_u, account.n_u) and same(certificate.n_b, account.n_b)):
            raise NonceMismatch
        if (certificate.pk_aid, certificate.ek_aid, certificate.key_digest) != (pk_aid, ek_aid, sha256(key)):
            raise FieldMismatch("CERT_AID certifies other keys")

    def prepare(self, incoming: Incoming[Installing], ctx: Context) -> Incoming[Installing]:
        after = incoming.facts.after
        message = AccountActivation(aid=after.aid, n_b=after.n_b, tsm=after.tsm)
        signer = Signer(name=after.aid, key=PrivateKey.from_bytes(after.sk_aid))
        signed = envelope.sign(signer, message, audience=after.bank, stamp=fresh(ctx))
        request = cose.encrypt(after.k_aid, ctx.entropy, name=AccountActivation.NAME, plaintext=signed)
        after = replace(after, digest=Wire(cose=request, session=after.session).digest)
        return replace(incoming, facts=replace(incoming.facts, after=after, request=request))

    def reads(self, facts: Installing) -> tuple[Read, ...]:
        return (Key(ACCOUNTS, (facts.account.account,)), Key(OWNERS, (facts.account.bank,)))

    def decide(self, rows: Rows, facts: Installing, now_s: int, entropy: Entropy) -> Decision:
        expect_open(rows, facts.account.bank)
        account = rows.get(ACCOUNTS, facts.account.account)
        assert account is not None
        expect_state(account.state, "EXPECT_CERTIFICATE")
        reply = SealedRequest(cose=facts.request, session=facts.after.session, handle=facts.after.aid)
        return Decision(writes=(Update(ACCOUNTS, facts.after),), reply=reply)


@dataclass(frozen=True, slots=True, kw_only=True)
class Activated:
    """The bank's verified answer to AID-5."""

    account: Account
    launch_pass: bytes


class InstallPassStep(SeStep[SeInstallPass, Activated]):
    """The account is active at the bank too; its first launch pass is kept."""

    rpc = "SecureElement.InstallPass"
    command = SeInstallPass
    reply = SeAccount

    def look(self, command: SeInstallPass, ctx: Context) -> Activated:
        account = account_of(ctx, command.account)
        bank = self._se.bank(account.bank)
        signed = cose.decrypt(
            account.k_aid, command.reply, name=AccountActive.NAME, max_bytes=self.max_bytes,
            request_digest=account.digest,
        )  # fmt: skip
        active = envelope.open_signed(
            AccountActive, signed, bank.key, issuer=bank.name, audience=account.aid, now_s=ctx.now_s,
            request_digest=account.digest,
        ).message  # fmt: skip
        if active.aid != account.aid:
            raise FieldMismatch("AID")
        return Activated(account=account, launch_pass=active.launch_pass)

    def reads(self, facts: Activated) -> tuple[Read, ...]:
        return (Key(ACCOUNTS, (facts.account.account,)),)

    def decide(self, rows: Rows, facts: Activated, now_s: int, entropy: Entropy) -> Decision:
        account = rows.get(ACCOUNTS, facts.account.account)
        assert account is not None
        expect_state(account.state, "EXPECT_ACTIVE")
        active = replace(account, launch_pass=facts.launch_pass, state="ACTIVE")
        reply = SeAccount(
            aid=active.aid, expires_at_s=active.expires_at_s, limit_minor=active.limit_minor, currency=active.currency
        )
        return Decision(writes=(Update(ACCOUNTS, active),), reply=reply)
