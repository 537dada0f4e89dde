"""PAY between merchant and TSM: authorize, reverse, refund (design §3 PAY).

Requests are signed by the terminal's own registered key (CN-5). `sale` is the merchant's random name of one purchase,
by which it is reversed also when the answer never came.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar, Final

from protocol.messages.card import EmvRecord
from protocol.messages.merchant import TERMINAL
from protocol.schema import (
    Bytes,
    Choice,
    Currency,
    Handle,
    Identifier,
    Many,
    Message,
    Minor,
    Nested,
    Record,
    Text,
    Uint,
)

MAX_BATCH: Final = 32
MAX_ATC: Final = 0xFFFF


class Verdict(StrEnum):
    """What the merchant learns of a decision, and no more: the reason stays at the TSM."""

    APPROVED = "approved"
    DECLINED = "declined"
    VERIFY = "verify"
    """Declined: the amount needs the cardholder's verification on the phone."""


class ReversalReason(StrEnum):
    """Why a purchase is taken back."""

    NO_ANSWER = "no-answer"
    VOID = "void"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmvPurchase(Record):
    """What the terminal and the card said to each other: all that is under certificate, SDAD and ARQC.

    `information` is the CID (9F27), `issuer_data` 9F10, `signature` SDAD (9F4B); the ARQC is inside it. Each record
    stands once and is one that `afl` names.
    """

    NAME: ClassVar[str] = "emv-purchase"
    sale: Handle
    application: Annotated[bytes, Bytes(5, 16)]
    aip: Annotated[bytes, Bytes(2, 2)]
    afl: Annotated[bytes, Bytes(4, 64)]
    records: Annotated[tuple[EmvRecord, ...], Many(Nested(EmvRecord), 1, 16)]
    pdol_data: Annotated[bytes, Bytes(1, 252)]
    cdol_data: Annotated[bytes, Bytes(1, 252)]
    information: Annotated[int, Uint(255)]
    atc: Annotated[int, Uint(MAX_ATC)]
    issuer_data: Annotated[bytes, Bytes(1, 32)]
    signature: Annotated[bytes, Bytes(1, 248)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorization(Message):
    """M → T `S_M(terminal, EMV data, SDAD)`."""

    NAME: ClassVar[str] = "authorization"
    terminal: Annotated[str, TERMINAL]
    purchase: Annotated[EmvPurchase, Nested(EmvPurchase)]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationBatch(Message):
    """M → T: up to 32 purchases under one signature; each is decided by itself."""

    NAME: ClassVar[str] = "authorization-batch"
    MAX_BYTES: ClassVar[int] = 128 * 1024
    terminal: Annotated[str, TERMINAL]
    purchases: Annotated[tuple[EmvPurchase, ...], Many(Nested(EmvPurchase), 1, MAX_BATCH)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided(Record):
    """One decision: verdict, merchant, terminal, PAN, ATC, UN, amount, 9F10 with the CVR, AC, ARPC and its code (8A).

    Where the card's data did not verify, PAN is empty, numbers are zero and texts empty: nothing is vouched for.
    """

    NAME: ClassVar[str] = "decided"
    sale: Handle
    verdict: Annotated[Verdict, Choice(Verdict)]
    merchant: Identifier
    terminal: Annotated[str, TERMINAL]
    pan: Annotated[str, Text(19, "([0-9]{19})?")]
    atc: Annotated[int, Uint(MAX_ATC)]
    unpredictable: Annotated[bytes, Bytes(0, 4)]
    amount_minor: Minor
    currency: Annotated[str, Text(3, "([A-Z]{3})?")]
    issuer_data: Annotated[bytes, Bytes(0, 32)]
    cryptogram: Annotated[bytes, Bytes(0, 8)]
    response_code: Annotated[str, Text(2, "[0-9]{2}")]
    arpc: Annotated[bytes, Bytes(0, 8)]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationDecision(Message):
    """T → M `S_T(decision, merchant, PAN, ATC, UN, amount, CVR, AC, ARPC)`: an approval is the merchant's receipt."""

    NAME: ClassVar[str] = "authorization-decision"
    decided: Annotated[Decided, Nested(Decided)]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationDecisions(Message):
    """T → M: the decisions of a batch, in its order."""

    NAME: ClassVar[str] = "authorization-decisions"
    MAX_BYTES: ClassVar[int] = 64 * 1024
    decided: Annotated[tuple[Decided, ...], Many(Nested(Decided), 1, MAX_BATCH)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reversal(Message):
    """M → T: take a purchase back, also one whose request may never have arrived; sent until it is acknowledged."""

    NAME: ClassVar[str] = "reversal"
    terminal: Annotated[str, TERMINAL]
    sale: Handle
    reason: Annotated[ReversalReason, Choice(ReversalReason)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reversed(Message):
    """T → M: the purchase holds no more; `amount_minor` went back, 0 when there was nothing to take back."""

    NAME: ClassVar[str] = "reversed"
    sale: Handle
    amount_minor: Minor
    currency: Annotated[str, Text(3, "([A-Z]{3})?")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refund(Message):
    """M → T: give back all or part of an approved purchase. `refund` is the merchant's random name of this refund."""

    NAME: ClassVar[str] = "refund"
    terminal: Annotated[str, TERMINAL]
    sale: Handle
    refund: Handle
    amount_minor: Minor
    currency: Currency


@dataclass(frozen=True, slots=True, kw_only=True)
class Refunded(Message):
    """T → M: given back; `refunded_minor` is the sum over all refunds of this purchase."""

    NAME: ClassVar[str] = "refunded"
    sale: Handle
    refund: Handle
    amount_minor: Minor
    refunded_minor: Minor
    currency: Currency
