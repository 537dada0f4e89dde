"""What the bank keeps. It knows the person (`customers`, `phones`) and every AID, and nothing of purchases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocol.rows import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Customer:
    """A credit account (INIT-2). `limit_minor` bounds the sum of the limits of its anonymous accounts."""

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
    """One approved use of an AID at a TSM; kept after its release."""

    aid: str
    sid_digest: bytes
    tsm: str
    com: bytes
    limit_minor: int
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveGrant:
    """At most one per AID: the primary key is the obligation that no AID is granted twice."""

    aid: str
    sid_digest: bytes
    tsm: str


CUSTOMERS: Final = Table(
    "customers", Customer, ("customer",), unique=(("branch_ref",),), sealed=frozenset({"name", "passcode_hash"})
)
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
GRANTS: Final = Table("grants", Grant, ("aid", "sid_digest"))
LIVE_GRANTS: Final = Table("live_grants", LiveGrant, ("aid",))
BANK_TABLES: Final = (
    CUSTOMERS, PHONES, CHALLENGES, ACCOUNT_SESSIONS, ANONYMOUS_ACCOUNTS, GRANTS, LIVE_GRANTS,
)  # fmt: skip
