"""SETTLE at the bank: claims in whole tranches, one after the other, exact when the grant has ended (design §3 SETTLE).

A claim says what a TSM is owed under a grant, and nothing of any purchase.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from protocol import cose, envelope
from protocol.crypto import sha256
from protocol.engine import Context, Incoming, Step
from protocol.envelope import Stamp, Wire
from protocol.errors import ClaimOutOfOrder, FieldMismatch, GrantUnknown, OverClaim
from protocol.messages.claim import Claim, ClaimAccepted
from protocol.messages.statement import EntryKind
from protocol.pki import Use
from protocol.ports import Entropy
from protocol.roles.bank.party import Bank
from protocol.roles.bank.tables import (
    ANONYMOUS_ACCOUNTS,
    CUSTOMERS,
    GRANTS,
    LIVE_GRANTS,
    RECEIVED_CLAIMS,
    AnonymousAccount,
    Grant,
    ReceivedClaim,
    owed_minor,
)
from protocol.roles.ledger import aid_account, post, tsm_account
from protocol.roles.party import alone, expect_peer, open_certified
from protocol.rows import Decision, Delete, Insert, Key, Read, Rows, Update, Write
from protocol.types import MAX_LIFETIME_S, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Claiming:
    """A TSM's claim, verified; `account` as it was when it was looked for."""

    tsm: str
    message: Claim
    account: AnonymousAccount


class SubmitClaimStep(Step[Claiming]):
    """One claim of one grant. The very claim that was accepted last is acknowledged again, and has no second effect."""

    rpc = "Bank.SubmitClaim"
    reply = ClaimAccepted

    def __init__(self, bank: Bank) -> None:
        self._bank = bank

    def open(self, wire: Wire, ctx: Context) -> Incoming[Claiming]:
        bank = self._bank.keys
        signed = cose.unseal(bank.seal, alone(wire), name=Claim.NAME, max_bytes=self.max_bytes)
        opened, tsm = open_certified(Claim, signed, self._bank.directory, role=Role.TSM, audience=bank.name, ctx=ctx)
        expect_peer(ctx, tsm.name, Role.TSM)
        message = opened.message
        account = ctx.read(Key(ANONYMOUS_ACCOUNTS, (message.aid,))).get(ANONYMOUS_ACCOUNTS, message.aid)
        if account is None:
            raise GrantUnknown
        facts = Claiming(tsm=tsm.name, message=message, account=account)
        evidence = ((Claim.NAME, opened.wire),)
        return Incoming(facts=facts, key=opened.key, claims=opened.claims, evidence=evidence)

    def reads(self, facts: Claiming) -> tuple[Read, ...]:
        message = facts.message
        grant = (message.aid, message.sid_digest)
        reads = (Key(GRANTS, grant), Key(RECEIVED_CLAIMS, (*grant, message.sequence)))
        if not message.closing:
            return reads
        return (
            *reads, Key(ANONYMOUS_ACCOUNTS, (message.aid,)), Key(CUSTOMERS, (facts.account.customer,)),
            Key(LIVE_GRANTS, (message.aid,)),
        )  # fmt: skip

    def decide(self, rows: Rows, facts: Claiming, now_s: int, entropy: Entropy) -> Decision:
        message = facts.message
        grant = rows.get(GRANTS, message.aid, message.sid_digest)
        if grant is None or not self.is_holder(grant, facts):
            raise GrantUnknown
        if message.currency != facts.account.currency:
            raise FieldMismatch("the currency is not the account's")
        received = rows.get(RECEIVED_CLAIMS, message.aid, message.sid_digest, message.sequence)
        if received is not None and message.sequence == grant.sequence and _said(received) == _said(message):
            return Decision(reply=_accepted(message))
        self.check_order(grant, message)
        self.check_amount(grant, message)
        self.check_tranches(message)
        after = replace(
            grant, sequence=message.sequence, claimed_minor=message.claimed_minor,
            credited_minor=message.credited_minor, closed=message.closing,
        )  # fmt: skip
        writes: list[Write] = [Insert(RECEIVED_CLAIMS, _received(message, now_s)), *_posted(grant, message, now_s)]
        if message.closing:
            after = replace(after, state="RELEASED")
            writes += _closing(rows, facts, grant, after)
        return Decision(writes=(Update(GRANTS, after), *writes), reply=_accepted(message))

    def is_holder(self, grant: Grant, facts: Claiming) -> bool:
        """Was this grant given to the TSM that claims?"""
        return grant.tsm == facts.tsm

    def check_order(self, grant: Grant, message: Claim) -> None:
        """The next number, totals that only grow, and nothing but credit notes once the grant was closed."""
        if message.sequence != grant.sequence + 1:
            raise ClaimOutOfOrder("a number is repeated or skipped")
        if message.claimed_minor < grant.claimed_minor or message.credited_minor < grant.credited_minor:
            raise ClaimOutOfOrder("a total is below the one before")
        if grant.closed and not message.closing:
            raise ClaimOutOfOrder("the grant was closed")

    def check_amount(self, grant: Grant, message: Claim) -> None:
        """Never more than was granted, nor more back than was claimed, nor more at all after the close."""
        owed_after_minor = message.claimed_minor - message.credited_minor
        if not 0 <= owed_after_minor <= grant.limit_minor:
            raise OverClaim("over the grant, or below nothing")
        if grant.closed and message.claimed_minor > grant.claimed_minor:
            raise OverClaim("the grant was closed")

    def check_tranches(self, message: Claim) -> None:
        """Before the close, exact totals would tell amounts of purchases, which this bank does not want to know."""
        tranche_minor = self._bank.policy.tranche_minor
        if not message.closing and (message.claimed_minor % tranche_minor or message.credited_minor % tranche_minor):
            raise OverClaim("not in whole tranches")

    def seal(self, facts: Claiming, reply: ClaimAccepted, stamp: Stamp, ctx: Context) -> Wire:
        # As long as the claim, or an answer that was lost would be out of date before its question.
        signed = envelope.sign(
            self._bank.keys.signer, reply, audience=facts.tsm, stamp=stamp, lifetime_s=MAX_LIFETIME_S,
            request_digest=ctx.digest,
        )  # fmt: skip
        key = self._bank.directory.named(facts.tsm, Use.SEAL).key
        return Wire(cose=cose.seal(key, name=ClaimAccepted.NAME, plaintext=signed, request_digest=ctx.digest))


def _closing(rows: Rows, facts: Claiming, grant: Grant, after: Grant) -> tuple[Write, ...]:
    """What was not spent is the customer's again. An account that was spent from ends; one that was not may be granted
    anew (`ApproveGrantStep.set_aside`)."""
    account, customer = rows.get(ANONYMOUS_ACCOUNTS, grant.aid), rows.get(CUSTOMERS, facts.account.customer)
    assert account is not None  # it has a grant, and customers are never deleted
    assert customer is not None
    held_minor = owed_minor(grant) if grant.closed else grant.limit_minor
    freed_minor = held_minor - owed_minor(after)
    writes: list[Write] = [Update(CUSTOMERS, replace(customer, granted_minor=customer.granted_minor - freed_minor))]
    if owed_minor(after):
        writes.append(Update(ANONYMOUS_ACCOUNTS, replace(account, state="CLOSED")))
    live = rows.get(LIVE_GRANTS, grant.aid)
    if live is not None and live.sid_digest == grant.sid_digest:  # it expired, and nobody released it
        writes.append(Delete(LIVE_GRANTS, live))
    return tuple(writes)


def _posted(grant: Grant, message: Claim, now_s: int) -> tuple[Write, ...]:
    """What the claim and its credit note add to the totals before, as entries."""
    account, tsm, ref = aid_account(grant.aid), tsm_account(grant.tsm), sha256(message.to_bytes())
    return (
        *post(
            EntryKind.CLAIM, debit=account, credit=tsm, amount_minor=message.claimed_minor - grant.claimed_minor,
            currency=message.currency, ref=ref, at_s=now_s,
        ),
        *post(
            EntryKind.CREDIT_NOTE, debit=tsm, credit=account,
            amount_minor=message.credited_minor - grant.credited_minor, currency=message.currency, ref=ref, at_s=now_s,
        ),
    )  # fmt: skip


def _said(claim: Claim | ReceivedClaim) -> tuple[int, int, bytes, bool]:
    return claim.claimed_minor, claim.credited_minor, claim.root, claim.closing


def _received(message: Claim, now_s: int) -> ReceivedClaim:
    return ReceivedClaim(
        aid=message.aid, sid_digest=message.sid_digest, sequence=message.sequence,
        claimed_minor=message.claimed_minor, credited_minor=message.credited_minor, root=message.root,
        closing=message.closing, accepted_at_s=now_s,
    )  # fmt: skip


def _accepted(message: Claim) -> ClaimAccepted:
    return ClaimAccepted(**message.plain())
