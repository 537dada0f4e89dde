"""Commands to the secure element: typed requests by the wallet key, typed replies by the SE (design §3, §4).

A command never carries bytes for the SE to sign. Where it brings a peer's reply, the SE opens that itself; where it
takes a sealed request out, the SE has signed and sealed it itself and the wallet only carries it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar, TypeAlias

from protocol.messages.attest import ReasonCode
from protocol.messages.enroll import BRANCH_CODE
from protocol.messages.merchant import MERCHANT, TERMINAL
from protocol.schema import (
    Bytes,
    Choice,
    Currency,
    Digest,
    Flag,
    Identifier,
    Many,
    Message,
    Minor,
    Nested,
    Nonce,
    Record,
    Text,
    TimeS,
    Uint,
)
from protocol.types import MAX_CARDS, Purpose

MAX_CARRIED = 256 * 1024
PIN = Text(12, "[0-9]{4,12}")
Carried: TypeAlias = Annotated[bytes, Bytes(1, MAX_CARRIED)]
"""A COSE object that the wallet carries between the SE and a peer."""


class Statement(StrEnum):
    """What SignService signs with SK_TID, from what the SE itself holds."""

    CREDIT_PROOF = "credit-proof"
    CARD_REQUEST = "card-request"
    CLOSE_ACCOUNT = "close-account"


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedRequest(Message):
    """SE → wallet: a request for `peer` that the SE signed and sealed; `handle` names what it is about."""

    NAME: ClassVar[str] = "se-sealed-request"
    MAX_BYTES: ClassVar[int] = MAX_CARRIED + 2048
    cose: Carried
    session: Annotated[bytes, Bytes(0, 1024)]
    handle: Annotated[str, Text(64, "[a-z0-9.-]*")]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeEnroll(Message):
    """INIT-3: make SK_U, DK_U; measure the platform; quote for the bank's nonce. `asked` digests the asking request."""

    NAME: ClassVar[str] = "se-enroll"
    bank: Identifier
    branch_code: Annotated[str, BRANCH_CODE]
    challenge: Carried
    asked: Digest
    n_am: Nonce


@dataclass(frozen=True, slots=True, kw_only=True)
class SeInstallIdentity(Message):
    """INIT-4: the bank's reply with CERT_U^B."""

    NAME: ClassVar[str] = "se-install-identity"
    MAX_BYTES: ClassVar[int] = MAX_CARRIED + 2048
    bank: Identifier
    reply: Carried


@dataclass(frozen=True, slots=True, kw_only=True)
class SeIdentity(Message):
    """SE → wallet: the name the bank gave the user."""

    NAME: ClassVar[str] = "se-identity"
    user: Identifier


@dataclass(frozen=True, slots=True, kw_only=True)
class SeMeasure(Message):
    """ATT-D4/5, ATT-L4/5: measure platform and, if installed, the application at its fixed place."""

    NAME: ClassVar[str] = "se-measure"


@dataclass(frozen=True, slots=True, kw_only=True)
class SeMeasured(Message):
    """SE → wallet: what was measured. `installed` is false while there is no application file."""

    NAME: ClassVar[str] = "se-measured"
    installed: Annotated[bool, Flag()]
    digest: Annotated[bytes, Bytes(0, 32)]
    pcr10: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class SeQuote(Message):
    """ATT-D2/3, ATT-L2/3: measure anew, quote for the bank's nonce, and seal the evidence for the bank."""

    NAME: ClassVar[str] = "se-quote"
    purpose: Annotated[Purpose, Choice(Purpose)]
    bank: Identifier
    software: Identifier
    challenge: Carried
    asked: Digest
    n_am: Nonce


@dataclass(frozen=True, slots=True, kw_only=True)
class SeAcceptDecision(Message):
    """ATT-D7, ATT-L6: the bank's sealed decision; a good launch opens the SE and leaves the passes in it."""

    NAME: ClassVar[str] = "se-accept-decision"
    MAX_BYTES: ClassVar[int] = MAX_CARRIED + 2048
    bank: Identifier
    reply: Carried


@dataclass(frozen=True, slots=True, kw_only=True)
class SeDecision(Message):
    """SE → wallet: may the software be installed or run, and if not, why."""

    NAME: ClassVar[str] = "se-decision"
    allowed: Annotated[bool, Flag()]
    reason: ReasonCode
    passes: Annotated[int, Uint(64)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeBeginAccount(Message):
    """AID-1: make N_U and kx, sign with SK_U, seal for the bank."""

    NAME: ClassVar[str] = "se-begin-account"
    bank: Identifier


@dataclass(frozen=True, slots=True, kw_only=True)
class SeGenerateAccountKeys(Message):
    """AID-3/4: open AID-2, make the keys of the new AID, attest for PK_AID, and seal AID-3."""

    NAME: ClassVar[str] = "se-generate-account-keys"
    account: Identifier
    reply: Carried
    software: Identifier
    passcode: Annotated[str, Text(64, r"[!-~]{4,64}")]
    n_am: Nonce


@dataclass(frozen=True, slots=True, kw_only=True)
class SeInstallAccount(Message):
    """AID-7/8: open AID-4 with DK_AID, keep K_AID,B and CERT_AID, and seal AID-5 for the TSM to be used."""

    NAME: ClassVar[str] = "se-install-account"
    MAX_BYTES: ClassVar[int] = MAX_CARRIED + 2048
    account: Identifier
    reply: Carried
    tsm: Identifier


@dataclass(frozen=True, slots=True, kw_only=True)
class SeInstallPass(Message):
    """The reply to AID-5: the account is active and its first launch pass is kept."""

    NAME: ClassVar[str] = "se-install-pass"
    MAX_BYTES: ClassVar[int] = MAX_CARRIED + 2048
    account: Identifier
    reply: Carried


@dataclass(frozen=True, slots=True, kw_only=True)
class SeAccount(Message):
    """SE → wallet: the active anonymous account."""

    NAME: ClassVar[str] = "se-account"
    aid: Identifier
    expires_at_s: TimeS
    limit_minor: Minor
    currency: Currency


@dataclass(frozen=True, slots=True, kw_only=True)
class SeGenerateServiceKeys(Message):
    """TID-1a: choose TID, make its keys, and seal the request for the TSM."""

    NAME: ClassVar[str] = "se-generate-service-keys"
    tsm: Identifier


@dataclass(frozen=True, slots=True, kw_only=True)
class SeMakeBankInfo(Message):
    """TID-2a: open the offer, commit to the SE's own TID key, and make BINFO for this AID; `nonce1` comes back.

    `reply` is TID-1b. It is empty for RECREDIT, whose offer the SE keeps already.
    """

    NAME: ClassVar[str] = "se-make-bank-info"
    MAX_BYTES: ClassVar[int] = MAX_CARRIED + 2048
    tid: Identifier
    aid: Identifier
    reply: Annotated[bytes, Bytes(0, MAX_CARRIED)]
    nonce1: Nonce


@dataclass(frozen=True, slots=True, kw_only=True)
class SeBankInfo(Message):
    """TID-2b SE → wallet: BINFO, with Nonce1."""

    NAME: ClassVar[str] = "se-bank-info"
    binfo: Annotated[bytes, Bytes(1, 4096)]
    sid: Annotated[bytes, Bytes(1, 1024)]
    nonce1: Nonce


@dataclass(frozen=True, slots=True, kw_only=True)
class SeSignService(Message):
    """One typed statement of SK_TID, sealed for the TSM. `maximum_minor` is the user's own maximum (TID-0).

    `aid` names the grant that CLOSE_ACCOUNT gives back; empty for the one that ends first, and for other statements.
    """

    NAME: ClassVar[str] = "se-sign-service"
    tid: Identifier
    statement: Annotated[Statement, Choice(Statement)]
    maximum_minor: Minor
    aid: Annotated[str, Text(64, "[a-z0-9.-]*")]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeOpenService(Message):
    """The TSM's reply to the statement under way, opened under K_TID,TSM inside the SE."""

    NAME: ClassVar[str] = "se-open-service"
    MAX_BYTES: ClassVar[int] = MAX_CARRIED + 2048
    tid: Identifier
    reply: Carried


@dataclass(frozen=True, slots=True, kw_only=True)
class SeService(Message):
    """SE → wallet: the service account, and the credit that the TSM confirmed last; `state` is its next expectation.

    An account whose last grant was given back is CLOSED. `recredit`: with this answer the TSM asks for further credit.
    """

    NAME: ClassVar[str] = "se-service"
    tid: Identifier
    state: Annotated[str, Text(32, "[A-Z_]+")]
    expires_at_s: TimeS
    limit_minor: Minor
    currency: Annotated[str, Text(3, "([A-Z]{3})?")]
    recredit: Annotated[bool, Flag()]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeGenerateCardKeys(Message):
    """CARD-1…3: open CARD-2, make or take card keys, sign their root, and seal CARD-3."""

    NAME: ClassVar[str] = "se-generate-card-keys"
    MAX_BYTES: ClassVar[int] = MAX_CARRIED + 2048
    tid: Identifier
    reply: Carried
    number: Annotated[int, Uint(MAX_CARDS)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeInstallCards(Message):
    """CARD-4/5: open the issued cards with DK_TID, keep them, and seal the activation."""

    NAME: ClassVar[str] = "se-install-cards"
    MAX_BYTES: ClassVar[int] = MAX_CARRIED + 2048
    tid: Identifier
    reply: Carried


class OpeningState(StrEnum):
    """Where the cardholder's opening is."""

    CLOSED = "CLOSED"
    OPEN = "OPEN"
    EXPECT_PIN = "EXPECT_PIN"
    """A first tap asked for more than the verification limit: look at the phone."""
    VERIFIED = "VERIFIED"
    """The PIN was right; an identical tap is awaited."""
    TAPPED = "TAPPED"
    """A card was used; only a retry of the same tap is answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeOpenCard(Message):
    """TW-S2: open the account's cards for one purchase of at most `ceiling_minor`; 0 closes what is open."""

    NAME: ClassVar[str] = "se-open-card"
    tid: Identifier
    ceiling_minor: Minor


@dataclass(frozen=True, slots=True, kw_only=True)
class SeVerifyPin(Message):
    """TW-S3: the PIN for the tap that the phone shows: this amount, currency, merchant and terminal."""

    NAME: ClassVar[str] = "se-verify-pin"
    pin: Annotated[str, PIN]
    amount_minor: Minor
    currency: Currency
    merchant: Annotated[str, MERCHANT]
    terminal: Annotated[str, TERMINAL]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeSetPin(Message):
    """TW-G3a, CN-4: set the first PIN (`old` empty) or change it.

    `personal` are digits that it must not resemble (birth date, identity number, telephone number), used for this check
    and not kept.
    """

    NAME: ClassVar[str] = "se-set-pin"
    old: Annotated[str, Text(12, "([0-9]{4,12})?")]
    new: Annotated[str, PIN]
    personal: Annotated[tuple[str, ...], Many(Text(32, "[0-9]{4,32}"), 0, 8)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeReopenPin(Message):
    """TW-G3b: after five wrong entries, the bank's signed word that it confirmed the person; a new PIN is set next."""

    NAME: ClassVar[str] = "se-reopen-pin"
    bank: Identifier
    approval: Annotated[bytes, Bytes(1, 4096)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SePin(Message):
    """SE → wallet: the PIN's state and how many wrong entries are left."""

    NAME: ClassVar[str] = "se-pin"
    state: Annotated[str, Text(32, "[A-Z_]+")]
    entries_left: Annotated[int, Uint(16)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening(Record):
    """The opening and, after a tap, what it asked for. Empty texts and zeros where there is nothing to say."""

    NAME: ClassVar[str] = "opening"
    state: Annotated[OpeningState, Choice(OpeningState)]
    ceiling_minor: Minor
    expires_at_s: TimeS
    amount_minor: Minor
    currency: Annotated[str, Text(3, "([A-Z]{3})?")]
    merchant: Annotated[str, Text(15, "[ -~]*")]
    terminal: Annotated[str, Text(8, "[ -~]*")]
    merchant_name: Annotated[str, Text(40, "[ -~]*")]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeOpening(Message):
    """SE → wallet: the opening now."""

    NAME: ClassVar[str] = "se-opening"
    opening: Annotated[Opening, Nested(Opening)]
