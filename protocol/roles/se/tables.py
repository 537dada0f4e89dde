"""What the secure element keeps: every private and shared key of the user. Nothing sealed here ever leaves it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocol.rows import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The user as one bank knows them: SK_U, DK_U, CERT_U^B, and the state of the software as last judged."""

    bank: str
    user: str
    sk_u: bytes
    dk_u: bytes
    certificate: bytes
    digest: bytes
    purpose: str
    quoted_pcr: bytes
    installed_pcr: bytes
    open: bool
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An anonymous account: its keys, K_AID,B, CERT_AID, and the current launch pass."""

    account: str
    bank: str
    aid: str
    n_u: bytes
    n_b: bytes
    kx: bytes
    session: bytes
    digest: bytes
    sk_aid: bytes
    dk_aid: bytes
    k_aid: bytes
    certificate: bytes
    expires_at_s: int
    limit_minor: int
    currency: str
    tsm: str
    launch_pass: bytes
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceKeys:
    """A service account: its keys, K_TID,TSM, the commitment of its first credit proof, and what is under way.

    Expiry, limit, currency and certificate are those that the TSM confirmed last; each accepted credit is a `Grant`.
    """

    tid: str
    tsm: str
    sk_tid: bytes
    dk_tid: bytes
    k_tid: bytes
    n_u: bytes
    n_t: bytes
    sid: bytes
    account: str
    r: bytes
    com: bytes
    n2: bytes
    binfo: bytes
    digest: bytes
    pending: str
    expires_at_s: int
    limit_minor: int
    currency: str
    certificate: bytes
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Credit of an AID that the TSM accepted under a TID: ACTIVE until it was given back, then CLOSED."""

    sid_digest: bytes
    sid: bytes
    tid: str
    account: str
    aid: str
    bank: str
    expires_at_s: int
    limit_minor: int
    currency: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recredit:
    """RECREDIT: the TSM's offer OFFERED, BINFO made (EXPECT_PROOF), TID-3 sealed (EXPECT_ACCEPTANCE); then a `Grant`.

    `digest` is that of TID-3. Fields of the proof are empty before it.
    """

    sid_digest: bytes
    sid: bytes
    tid: str
    pk_tid: bytes
    n_u: bytes
    n_t: bytes
    expires_at_s: int
    account: str
    r: bytes
    com: bytes
    n2: bytes
    binfo: bytes
    digest: bytes
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualCard:
    """One card: its key and, once issued, everything that the applet answers with.

    `atc` is the counter of the last transaction, `used` the number of openings whose terminal read the records.
    `sid_digest` names the grant that it was issued on.
    """

    modulus_digest: bytes
    tid: str
    batch: bytes
    position: int
    card_key: bytes
    salt: bytes
    pan: str
    masked: str
    k_ac: bytes
    icc_certificate: bytes
    records: bytes
    expires_at_s: int
    limit_minor: int
    currency: str
    uses: int
    per_use_minor: int
    total_minor: int
    channel: str
    state: str
    verify_above_minor: int
    atc: int
    used: int
    sid_digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldRow:
    """What the cardholder opened last (TW-S2): the one row of the phone's one NFC field, replaced by each opening.

    `opening` is its random number, `card` the modulus digest of the card that will answer. From the first tap on,
    amount to merchant_name say what that asked for; `read` is set once the card's records were given out.
    """

    slot: str
    opening: bytes
    tid: str
    card: bytes
    ceiling_minor: int
    verify_above_minor: int
    currency: str
    expires_at_s: int
    state: str
    amount_minor: int
    merchant: str
    terminal: str
    merchant_name: str
    verified: bool
    read: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """The PIN's Argon2id hash and its counter of wrong entries in a row (TW-G3b)."""

    slot: str
    hash: bytes
    wrong: int
    locked_at_s: int
    approval: bytes
    state: str


OWNERS: Final = Table("owners", Owner, ("bank",), sealed=frozenset({"sk_u", "dk_u"}))
ACCOUNTS: Final = Table(
    "accounts", Account, ("account",), index=("aid", "bank"),
    sealed=frozenset({"kx", "sk_aid", "dk_aid", "k_aid", "launch_pass"}),
)  # fmt: skip
SERVICE_KEYS: Final = Table(
    "service_keys", ServiceKeys, ("tid",), sealed=frozenset({"sk_tid", "dk_tid", "k_tid", "r", "binfo"})
)
GRANTS: Final = Table("service_grants", Grant, ("sid_digest",), index=("tid",))
RECREDITS: Final = Table(
    "recredits", Recredit, ("sid_digest",), index=("tid",), sealed=frozenset({"r", "binfo"}), expires="expires_at_s"
)
VIRTUAL_CARDS: Final = Table(
    "virtual_cards", VirtualCard, ("modulus_digest",), index=("batch", "tid"),
    sealed=frozenset({"card_key", "salt", "pan", "k_ac", "records"}), expires="expires_at_s",
)  # fmt: skip
FIELD: Final = Table("field", FieldRow, ("slot",))
PINS: Final = Table("pins", Pin, ("slot",), sealed=frozenset({"hash"}))
SE_TABLES: Final = (OWNERS, ACCOUNTS, SERVICE_KEYS, GRANTS, RECREDITS, VIRTUAL_CARDS, FIELD, PINS)
