"""TID-3 at the bank: a grant on one AID to one TSM session, and its release (paper §2.5)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from protocol import cose, envelope
from protocol.crypto import PublicKey, same, sha256
from protocol.engine import Context, Incoming, Step
from protocol.envelope import Stamp, Wire
from protocol.errors import (
    AidAlreadyGranted,
    CreditMismatch,
    Expired,
    FieldMismatch,
    GrantUnknown,
    LimitExceeded,
    Replay,
    UnknownAccount,
)
from protocol.messages.service import BankInfo, GrantApproval, GrantRelease, GrantReleased, GrantRequest, Promise
from protocol.pki import Use
from protocol.ports import Entropy
from protocol.roles.bank.freeze import expect_running
from protocol.roles.bank.party import Bank
from protocol.roles.bank.tables import (
    ANONYMOUS_ACCOUNTS,
    CUSTOMERS,
    GRANTS,
    LIVE_GRANTS,
    AnonymousAccount,
    Customer,
    Grant,
    LiveGrant,
    owed_minor,
)
from protocol.roles.party import alone, expect_peer, expect_state, open_certified
from protocol.rows import Decision, Delete, Insert, Key, Read, Rows, Update, Where, Write
from protocol.types import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Granting:
    """TSMBINFO and the BINFO inside it, both verified and found equal field by field."""

    tsm: str
    message: GrantRequest
    account: AnonymousAccount
    sid_digest: bytes


class ApproveGrantStep(Step[Granting]):
    """TID-3c, TID-3d: what the user signed for the bank and what the TSM says must be one and the same."""

    rpc = "Bank.ApproveGrant"
    reply = Promise

    def __init__(self, bank: Bank) -> None:
        self._bank = bank

    def open(self, wire: Wire, ctx: Context) -> Incoming[Granting]:
        bank = self._bank.keys
        signed = cose.unseal(bank.seal, alone(wire), name=GrantRequest.NAME, max_bytes=self.max_bytes)
        opened, tsm = open_certified(
            GrantRequest, signed, self._bank.directory, role=Role.TSM, audience=bank.name, ctx=ctx
        )
        expect_peer(ctx, tsm.name, Role.TSM)
        message = opened.message
        account = ctx.read(Key(ANONYMOUS_ACCOUNTS, (message.aid,))).get(ANONYMOUS_ACCOUNTS, message.aid)
        if account is None:
            raise UnknownAccount
        binfo = cose.decrypt(account.k_aid, message.binfo, name=BankInfo.NAME, max_bytes=self.max_bytes)
        owner = envelope.open_signed(
            BankInfo, binfo, PublicKey.from_bytes(account.pk_aid), issuer=account.aid, audience=bank.name,
            now_s=ctx.now_s,
        )  # fmt: skip
        self.compare(message, owner.message, tsm.name)
        self.check_credit(message, account)
        facts = Granting(tsm=tsm.name, message=message, account=account, sid_digest=sha256(message.sid))
        evidence = ((GrantRequest.NAME, opened.wire), (BankInfo.NAME, owner.wire))
        return Incoming(facts=facts, key=opened.key, claims=opened.claims, evidence=evidence)

    def compare(self, message: GrantRequest, owner: BankInfo, tsm: str) -> None:
        """Paper §2.5 TID-3c. Hardened, ADR-0009: the TSM's identity, SID and commitment are compared too."""
        named = BankInfo(
            tsm=tsm, sid=message.sid, aid=message.aid, com=message.com, expires_at_s=message.expires_at_s,
            limit_minor=message.limit_minor, currency=message.currency, n2=message.n2,
        )  # fmt: skip
        if owner != named:
            raise FieldMismatch("BINFO and TSMBINFO differ")
        if not same(message.binfo_digest, sha256(message.binfo)):
            raise FieldMismatch("H(BINFO)")

    def check_credit(self, message: GrantRequest, account: AnonymousAccount) -> None:
        """Expiry and limit are those the bank certified, so that nobody raises them on the way."""
        named = (message.expires_at_s, message.limit_minor, message.currency)
        if named != (account.expires_at_s, account.limit_minor, account.currency):
            raise CreditMismatch

    def reads(self, facts: Granting) -> tuple[Read, ...]:
        aid = facts.account.aid
        return (
            Key(ANONYMOUS_ACCOUNTS, (aid,)), Key(CUSTOMERS, (facts.account.customer,)), Key(LIVE_GRANTS, (aid,)),
            Key(GRANTS, (aid, facts.sid_digest)), Where(GRANTS, "aid", aid),
        )  # fmt: skip

    def decide(self, rows: Rows, facts: Granting, now_s: int, entropy: Entropy) -> Decision:
        account = rows.get(ANONYMOUS_ACCOUNTS, facts.account.aid)
        assert account is not None
        expect_state(account.state, "ACTIVE")
        if account.expires_at_s <= now_s:
            raise Expired
        # The session first: an approval that is asked for again under its own session is a replay, live or not.
        if rows.get(GRANTS, account.aid, facts.sid_digest) is not None:
            raise Replay
        customer = rows.get(CUSTOMERS, account.customer)
        assert customer is not None
        expect_running(customer)
        self.check_live(rows, account.aid)
        self.check_spent(rows, account.aid)
        room = self.set_aside(rows, account, customer)
        grant = Grant(
            aid=account.aid, sid_digest=facts.sid_digest, tsm=facts.tsm, com=facts.message.com,
            limit_minor=account.limit_minor, state="LIVE", sequence=0, claimed_minor=0, credited_minor=0, closed=False,
        )  # fmt: skip
        live = LiveGrant(aid=account.aid, sid_digest=facts.sid_digest, tsm=facts.tsm)
        writes = (
            Insert(GRANTS, grant),
            Insert(LIVE_GRANTS, live),
            Update(ANONYMOUS_ACCOUNTS, replace(account, tsm=facts.tsm)),
            *room,
        )
        message = facts.message
        promise = Promise(
            sid=message.sid, aid=message.aid, com=message.com, binfo_digest=message.binfo_digest, n2=message.n2,
            expires_at_s=account.expires_at_s, limit_minor=account.limit_minor, currency=account.currency,
        )  # fmt: skip
        return Decision(writes=writes, reply=promise)

    def check_live(self, rows: Rows, aid: str) -> None:
        """UNIQUE(AID) over live grants: credit is never lent twice."""
        if rows.get(LIVE_GRANTS, aid) is not None:
            raise AidAlreadyGranted

    def check_spent(self, rows: Rows, aid: str) -> None:
        """ADR-0012: not before each earlier grant was closed by a claim of nothing: what was spent is owed still."""
        if any(not earlier.closed or owed_minor(earlier) for earlier in rows.find(GRANTS, "aid", aid)):
            raise AidAlreadyGranted("an earlier grant is not closed, or was spent from")

    def set_aside(self, rows: Rows, account: AnonymousAccount, customer: Customer) -> tuple[Write, ...]:
        """The closing claim of an unused grant freed its credit: it is taken again, if there is still room."""
        if not rows.find(GRANTS, "aid", account.aid):
            return ()
        granted_minor = customer.granted_minor + account.limit_minor
        if granted_minor > customer.limit_minor:
            raise LimitExceeded("the customer's credit is in other accounts now")
        return (Update(CUSTOMERS, replace(customer, granted_minor=granted_minor)),)

    def seal(self, facts: Granting, reply: Promise, stamp: Stamp, ctx: Context) -> Wire:
        signer = self._bank.keys.signer
        promise = envelope.sign(
            signer, reply, audience=facts.tsm, stamp=stamp.derive(Promise.NAME),
            lifetime_s=reply.expires_at_s - stamp.issued_at_s,
        )  # fmt: skip
        signed = envelope.sign(
            signer, GrantApproval(promise=promise), audience=facts.tsm, stamp=stamp, request_digest=ctx.digest
        )
        sealed = cose.encrypt(
            facts.message.key, ctx.entropy, name=GrantApproval.NAME, plaintext=signed, request_digest=ctx.digest
        )
        return Wire(cose=sealed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Releasing:
    """A TSM's release, verified."""

    tsm: str
    message: GrantRelease
    sid_digest: bytes


class ReleaseGrantStep(Step[Releasing]):
    """The TSM gives a grant back. The release names AID *and* session: an old one frees nothing (formal/grant)."""

    rpc = "Bank.ReleaseGrant"
    reply = GrantReleased

    def __init__(self, bank: Bank) -> None:
        self._bank = bank

    def open(self, wire: Wire, ctx: Context) -> Incoming[Releasing]:
        bank = self._bank.keys
        signed = cose.unseal(bank.seal, alone(wire), name=GrantRelease.NAME, max_bytes=self.max_bytes)
        opened, tsm = open_certified(
            GrantRelease, signed, self._bank.directory, role=Role.TSM, audience=bank.name, ctx=ctx
        )
        expect_peer(ctx, tsm.name, Role.TSM)
        facts = Releasing(tsm=tsm.name, message=opened.message, sid_digest=sha256(opened.message.sid))
        evidence = ((GrantRelease.NAME, opened.wire),)
        return Incoming(facts=facts, key=opened.key, claims=opened.claims, evidence=evidence)

    def reads(self, facts: Releasing) -> tuple[Read, ...]:
        return (Key(LIVE_GRANTS, (facts.message.aid,)), Key(GRANTS, (facts.message.aid, facts.sid_digest)))

    def decide(self, rows: Rows, facts: Releasing, now_s: int, entropy: Entropy) -> Decision:
        live = rows.get(LIVE_GRANTS, facts.message.aid)
        if live is None or not self.names(live, facts):
            raise GrantUnknown
        grant = rows.get(GRANTS, live.aid, live.sid_digest)
        released = () if grant is None else (Update(GRANTS, replace(grant, state="RELEASED")),)
        reply = GrantReleased(aid=facts.message.aid, sid=facts.message.sid)
        return Decision(writes=(Delete(LIVE_GRANTS, live), *released), reply=reply)

    def names(self, live: LiveGrant, facts: Releasing) -> bool:
        """Does the release name this very grant: its TSM and its session?"""
        return live.tsm == facts.tsm and same(live.sid_digest, facts.sid_digest)

    def seal(self, facts: Releasing, reply: GrantReleased, stamp: Stamp, ctx: Context) -> Wire:
        signed = envelope.sign(
            self._bank.keys.signer, reply, audience=facts.tsm, stamp=stamp, request_digest=ctx.digest
        )
        key = self._bank.directory.named(facts.tsm, Use.SEAL).key
        return Wire(cose=cose.seal(key, name=GrantReleased.NAME, plaintext=signed, request_digest=ctx.digest))
