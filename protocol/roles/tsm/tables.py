"""What the TSM keeps: pseudonyms, grants and cards. No column can hold a customer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocol.roles.ledger import LEDGER
from protocol.rows import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service account TID: its keys, the shared key, and the user's own maximum in minor units (0: none).

    `stop` is the TSM's own `StopKind`, or empty; a bank's is in `tid_list`.
    """

    tid: str
    pk_tid: bytes
    kid_tid: bytes
    ek_tid: bytes
    k_tid: bytes
    maximum_minor: int
    state: str
    stop: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TidEntry:
    """Paper table 2 (TIDiList), a row per grant; its TIDi_CreditINFO are the rows of `cards` that name this SID.

    `asked_at_s` is when the bank was last asked about it, `spent_minor` what purchases hold of the grant. `bank_stop`
    is a `StopKind` or empty, as the bank's last list says. `claims` is OPEN until the bank accepted the closing claim,
    then CLOSED. `proof` is the digest of the request in `evidence` that brought the credit proof (TID-3).
    """

    sid_digest: bytes
    sid: bytes
    tid: str
    aid: str
    bank: str
    pk_tid: bytes
    com: bytes
    aid_exp_time_s: int
    aid_limit_minor: int
    currency: str
    k_bank: bytes
    promise: bytes
    cert_tid: bytes
    asked_at_s: int
    state: str
    spent_minor: int
    bank_stop: str
    claims: str
    proof: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CardSession:
    """CARD-1 … CARD-5 under way."""

    handle: bytes
    tid: str
    n_u: bytes
    n_t: bytes
    state: str
    expires_at_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CardRow:
    """An issued card. The PAN is looked up by a keyed digest only; `position` is its leaf under the signed root.

    `used` and `spent_minor` count approved purchases, to be held against the controls (CN-3). `keys_request` is the
    digest of the request in `evidence` that brought the signed root (CARD-3).
    """

    pan_ref: bytes
    modulus_digest: bytes
    tid: str
    sid_digest: bytes
    batch: bytes
    position: int
    pan: str
    k_ac: bytes
    modulus: bytes
    salt: bytes
    expires_at_s: int
    limit_minor: int
    currency: str
    uses: int
    per_use_minor: int
    total_minor: int
    channel: str
    state: str
    verify_above_minor: int
    used: int
    spent_minor: int
    keys_request: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Purchase:
    """A decision on one purchase, or (state NEVER) the reversal of one that had not arrived by then.

    `atc_ref` is the digest of PAN and ATC, `opening_ref` of PAN and opening: each is accepted once. A decline uses no
    opening, and data that did not verify no counter either; they hold a digest of their own name there. `reason` says
    why it was declined; the merchant is not told. `request` is the digest of the merchant's signed request in
    `evidence`, `receipt_digest` that of the `Decided` which was answered. `settled` is the batch it was paid out in,
    `claim` the number of the claim whose tree has it; each is empty or 0 before.
    """

    merchant: str
    sale: bytes
    terminal: str
    pan_ref: bytes
    atc_ref: bytes
    opening_ref: bytes
    tid: str
    sid_digest: bytes
    amount_minor: int
    currency: str
    refunded_minor: int
    cryptogram: bytes
    decided_at_s: int
    reason: str
    state: str
    request: bytes
    receipt_digest: bytes
    settled: bytes
    claim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondDraw:
    """What a purchase took of a second grant, where one had not enough left; `amount_minor` is part of the purchase's.

    A refund goes back to the second grant first. `claim` is the number of the second grant's claim that has it.
    """

    merchant: str
    sale: bytes
    sid_digest: bytes
    amount_minor: int
    claim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundRow:
    """A refund of a purchase, under the merchant's name for it; `settled` is the batch it was set off in, or empty."""

    merchant: str
    refund: bytes
    sale: bytes
    amount_minor: int
    currency: str
    made_at_s: int
    settled: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PayoutRow:
    """A settlement that was paid out, under the merchant's name for it."""

    merchant: str
    batch: bytes
    currency: str
    total_minor: int
    paid_at_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRow:
    """A claim on a bank: `request` is the sealed claim as it is sent until the bank's answer is in.

    `state` is EXPECT_BANK, ACCEPTED or REFUSED (then `refusal` is the bank's code); totals are as in the message
    `Claim`. `salt` makes the tree's salts. `made_at_s` is when `request` was signed, whose digest is `digest`.
    """

    sid_digest: bytes
    sequence: int
    claimed_minor: int
    credited_minor: int
    root: bytes
    salt: bytes
    closing: bool
    made_at_s: int
    request: bytes
    digest: bytes
    state: str
    refusal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStop:
    """Why and since when the TSM itself stops an account; `lifted_at_s` is 0 while it holds."""

    stop: bytes
    tid: str
    kind: str
    reason: str
    made_at_s: int
    lifted_at_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StopListRow:
    """Of which minute a bank's last list of stops is (in `evidence`); older than five, its accounts can't pay."""

    bank: str
    minute_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRow:
    """A purchase whose person the bank was asked to name: one case a purchase, as at the bank.

    `chain` is the `TraceRequest`, the same whenever the case is asked about; `request` the sealed request while its
    answer is awaited, made at `asked_at_s`; `answer` is sealed to `requester`. `state` is EXPECT_BANK or the bank's.
    """

    merchant: str
    sale: bytes
    case_id: bytes
    bank: str
    requester: str
    reason: str
    chain: bytes
    request: bytes
    asked_at_s: int
    answer: bytes
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminal:
    """A merchant's terminal with its own rotated key (CN-5)."""

    terminal: str
    merchant: str
    merchant_name: str
    merchant_identifier: str
    terminal_key: bytes
    kid_terminal: bytes
    expires_at_s: int
    state: str


SERVICES: Final = Table("services", Service, ("tid",), unique=(("kid_tid",),), sealed=frozenset({"k_tid"}))
TID_LIST: Final = Table(
    "tid_list",
    TidEntry,
    ("sid_digest",),
    index=("tid", "aid", "state", "bank_stop", "claims"),
    sealed=frozenset({"sid", "k_bank", "promise"}),
)
CARD_SESSIONS: Final = Table("card_sessions", CardSession, ("handle",), expires="expires_at_s")
CARDS: Final = Table(
    "cards", CardRow, ("pan_ref",), unique=(("modulus_digest",),), index=("batch", "sid_digest"),
    sealed=frozenset({"pan", "k_ac"}),
)  # fmt: skip
TERMINALS: Final = Table(
    "terminals", Terminal, ("terminal",), unique=(("kid_terminal",),), index=("merchant", "merchant_identifier")
)
PURCHASES: Final = Table(
    "purchases", Purchase, ("merchant", "sale"), unique=(("atc_ref",), ("opening_ref",)), index=("sid_digest",)
)
SECOND_DRAWS: Final = Table("second_draws", SecondDraw, ("merchant", "sale"), index=("sid_digest",))
REFUNDS: Final = Table("refunds", RefundRow, ("merchant", "refund"))
PAYOUTS: Final = Table("payouts", PayoutRow, ("merchant", "batch"))
CLAIMS: Final = Table(
    "claims", ClaimRow, ("sid_digest", "sequence"), index=("sid_digest", "state"), sealed=frozenset({"request", "salt"})
)
SERVICE_STOPS: Final = Table("service_stops", ServiceStop, ("stop",), index=("tid",))
STOP_LISTS: Final = Table("stop_lists", StopListRow, ("bank",))
TRACES: Final = Table(
    "traces", TraceRow, ("merchant", "sale"), unique=(("case_id",),), sealed=frozenset({"chain", "request", "answer"})
)
TSM_TABLES: Final = (
    SERVICES, TID_LIST, CARD_SESSIONS, CARDS, TERMINALS, PURCHASES, SECOND_DRAWS, REFUNDS, PAYOUTS, CLAIMS,
    SERVICE_STOPS, STOP_LISTS, TRACES, LEDGER,
)  # fmt: skip
