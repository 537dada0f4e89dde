"""What the bank keeps. It knows the person (`customers`, `phones`) and every AID, and nothing of purchases.

Of a purchase for which a TSM asked to trace the person, a digest and the card's counter stay (`trace_cases`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocol.roles.ledger import LEDGER
from protocol.rows import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Customer:
    """A credit account (INIT-2). `limit_minor` bounds the sum of the limits of its anonymous accounts.

    `stop` is a `StopKind` or empty; it holds for all that was issued to the customer (CN-11).
    """

    customer: str
    name: str
    branch_ref: bytes
    branch_expires_at_s: int
    passcode_hash: bytes
    wrong_entries: int
    state: str
    currency: str
    limit_minor: int
    granted_minor: int
    stop: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Phone:
    """An enrolled phone: its keys, the platform as measured at INIT-3, the software as measured at installation."""

    user: str
    secure_element: str
    pk_u: bytes
    kid_u: bytes
    ek_u: bytes
    pk_se: bytes
    attestation_key: bytes
    trust_class: str
    wallet_key: bytes
    baseline: bytes
    software: str
    installed_pcr: bytes
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """The one open nonce of a phone for a purpose; asking again replaces it."""

    holder: str
    purpose: str
    n_b: bytes
    expires_at_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountSession:
    """AID-1 … AID-5 under way."""

    session: bytes
    user: str
    n_u: bytes
    n_b: bytes
    kx: bytes
    aid: str
    state: str
    expires_at_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AnonymousAccount:
    """The pseudonym table: AID ↔ customer. `tsm` is the one of the live grant, or the one named at activation."""

    aid: str
    customer: str
    pk_aid: bytes
    ek_aid: bytes
    k_aid: bytes
    n_b: bytes
    expires_at_s: int
    limit_minor: int
    currency: str
    tsm: str
    state: str
    activate_until_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """One approved use of an AID at a TSM; kept after its release.

    `sequence` is the last claim's number (0: none yet), totals as in the message `Claim`; `closed` once it was exact.
    """

    aid: str
    sid_digest: bytes
    tsm: str
    com: bytes
    limit_minor: int
    state: str
    sequence: int
    claimed_minor: int
    credited_minor: int
    closed: bool


def owed_minor(grant: Grant) -> int:
    """What the bank owes the TSM by the claims it accepted, in minor units."""
    return grant.claimed_minor - grant.credited_minor


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveGrant:
    """At most one per AID: the primary key is the obligation that no AID is granted twice."""

    aid: str
    sid_digest: bytes
    tsm: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedClaim:
    """A claim that was accepted. Nothing in it is of a purchase: totals are in tranches, the tree is padded."""

    aid: str
    sid_digest: bytes
    sequence: int
    claimed_minor: int
    credited_minor: int
    root: bytes
    closing: bool
    accepted_at_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRecord:
    """Why and since when a customer is stopped; `lifted_at_s` is 0 while it holds.

    `unlisted_from_s` is the first whole minute after that, from which the lists have it no more; 0 while it holds.
    """

    stop: bytes
    customer: str
    kind: str
    reason: str
    made_at_s: int
    lifted_at_s: int
    unlisted_from_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Officer:
    """An officer whom the bank appointed to sign traces. `key` is the officer's public signing key."""

    officer: str
    key: bytes
    kid: bytes
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceCase:
    """A request to name a person whose chain held. `card_ref` and `atc` are unique: one case a purchase.

    `customer` is the bank's name for them, `purchase_digest` the digest of the `Decided`, `answer` the sealed answer.
    """

    case_id: bytes
    request_digest: bytes
    tsm: str
    requester: str
    reason: str
    aid: str
    customer: str
    card_ref: bytes
    atc: int
    purchase_digest: bytes
    opened_at_s: int
    answer: bytes
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSignature:
    """An officer's signed verdict on a case: the same officer counts once."""

    case_id: bytes
    officer: str
    signed: bytes
    verdict: str
    signed_at_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """One signed link of the log of traces; `digest` is what the next one names."""

    number: int
    signed: bytes
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditHead:
    """The last link of a log, so that the next one finds it: two at once change this row, and one of them waits."""

    log: str
    number: int
    digest: bytes


CUSTOMERS: Final = Table(
    "customers", Customer, ("customer",), unique=(("branch_ref",),), index=("stop",),
    sealed=frozenset({"name", "passcode_hash"}),
)  # fmt: skip
PHONES: Final = Table(
    "phones", Phone, ("user",), unique=(("secure_element",), ("kid_u",)), sealed=frozenset({"baseline"})
)
CHALLENGES: Final = Table("challenges", Challenge, ("holder", "purpose"), expires="expires_at_s")
ACCOUNT_SESSIONS: Final = Table(
    "account_sessions", AccountSession, ("session",), sealed=frozenset({"kx"}), expires="expires_at_s"
)
ANONYMOUS_ACCOUNTS: Final = Table(
    "anonymous_accounts",
    AnonymousAccount,
    ("aid",),
    unique=(("pk_aid",),),
    index=("customer",),
    sealed=frozenset({"k_aid"}),
)
GRANTS: Final = Table("grants", Grant, ("aid", "sid_digest"), index=("aid",))
LIVE_GRANTS: Final = Table("live_grants", LiveGrant, ("aid",))
RECEIVED_CLAIMS: Final = Table("received_claims", ReceivedClaim, ("aid", "sid_digest", "sequence"))
STOPS: Final = Table("stops", StopRecord, ("stop",), index=("customer", "unlisted_from_s"))
OFFICERS: Final = Table("officers", Officer, ("officer",), unique=(("kid",),), index=("state",))
TRACE_CASES: Final = Table(
    "trace_cases", TraceCase, ("case_id",), unique=(("card_ref", "atc"),), sealed=frozenset({"customer", "answer"})
)
TRACE_SIGNATURES: Final = Table("trace_signatures", TraceSignature, ("case_id", "officer"), index=("case_id",))
AUDIT_LOG: Final = Table("audit_log", AuditRow, ("number",), append_only=True)
AUDIT_HEADS: Final = Table("audit_heads", AuditHead, ("log",))
BANK_TABLES: Final = (
    CUSTOMERS, PHONES, CHALLENGES, ACCOUNT_SESSIONS, ANONYMOUS_ACCOUNTS, GRANTS, LIVE_GRANTS, RECEIVED_CLAIMS, STOPS,
    OFFICERS, TRACE_CASES, TRACE_SIGNATURES, AUDIT_LOG, AUDIT_HEADS, LEDGER,
)  # fmt: skip
