"""TRACE: a person is named for one disputed purchase, on proof and under two officers' signatures (design §3 TRACE)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar, Final

from protocol.messages.card import MODULUS
from protocol.schema import (
    Bytes,
    Choice,
    Digest,
    Handle,
    Identifier,
    Many,
    Message,
    Nonce,
    Object,
    PublicKeyBytes,
    Text,
    TimeS,
    Uint,
)
from protocol.types import MAX_CARDS

MAX_CHAIN_OBJECT: Final = 16 * 1024
MAX_PATH: Final = 8
OFFICERS: Final = 2
"""So many of the bank's officers must sign before a person is named."""


class TraceReason(StrEnum):
    """What a person may be named for. The bank's list is closed."""

    DISPUTE = "dispute"
    DEFAULT = "default"
    FRAUD = "fraud"
    COURT_ORDER = "court-order"


class TraceProgress(StrEnum):
    """Where a case is."""

    EXPECT_OFFICERS = "EXPECT_OFFICERS"
    ANSWERED = "ANSWERED"
    REFUSED = "REFUSED"


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRequest(Message):
    """T → B `E_B(S_T(case, reason, requester, chain))`. The same case may be asked for again, to hear how it stands.

    The chain: `binfo` (as sent in TID-3) opens to com; com = H(`tid`, `pk_tid`, SID, `r`) (AID → TID); `card_keys` is
    S_TID's CARD-3 with the root over H(`salt`, `modulus`), to which `path` leads from `position` of `leaves`
    (TID → PK_C); `authorization` is the terminal's request with ICC certificate, PDOL and CDOL1 data and SDAD (PK_C →
    this purchase, sale `sale`); `receipt` is the TSM's decision on it. Of the batch's cards no other is shown.
    """

    NAME: ClassVar[str] = "trace-request"
    MAX_BYTES: ClassVar[int] = 64 * 1024
    case: Handle
    reason: Annotated[str, Text(32, "[a-z-]{1,32}")]
    requester: Identifier
    aid: Identifier
    binfo: Object
    tid: Identifier
    pk_tid: PublicKeyBytes
    r: Nonce
    card_keys: Annotated[bytes, Bytes(1, MAX_CHAIN_OBJECT)]
    modulus: Annotated[bytes, MODULUS]
    salt: Nonce
    position: Annotated[int, Uint(MAX_CARDS - 1)]
    leaves: Annotated[int, Uint(MAX_CARDS)]
    path: Annotated[tuple[bytes, ...], Many(Bytes(32, 32), 0, MAX_PATH)]
    sale: Handle
    authorization: Annotated[bytes, Bytes(1, MAX_CHAIN_OBJECT)]
    receipt: Annotated[bytes, Bytes(1, MAX_CHAIN_OBJECT)]


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceState(Message):
    """B → T `E_T(S_B(case, progress, answer))`: `answer` is sealed to the requester; empty until officers signed."""

    NAME: ClassVar[str] = "trace-state"
    case: Handle
    progress: Annotated[TraceProgress, Choice(TraceProgress)]
    answer: Annotated[bytes, Bytes(0, 4096)]


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceApproval(Message):
    """`S_officer(case, H(request), verdict)`: an officer of the bank has looked at the case."""

    NAME: ClassVar[str] = "trace-approval"
    case: Handle
    request_digest: Digest
    approved: Annotated[str, Text(8, "approve|refuse")]


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceAnswer(Message):
    """`E_requester(S_B(case, person, AID, purchase))`: the bank names the person, to the requester only.

    `customer` is the bank's name for them, `person` their own; `purchase_digest` the digest of the `Decided` in the
    receipt of the purchase that they are named for.
    """

    NAME: ClassVar[str] = "trace-answer"
    case: Handle
    reason: Annotated[TraceReason, Choice(TraceReason)]
    customer: Identifier
    person: Annotated[str, Text(200, "[^\\u0000-\\u001f]{1,200}")]
    aid: Identifier
    purchase_digest: Digest


class AuditKind(StrEnum):
    """What the bank's log keeps: of a case, and of who may sign one (then the case is all zeros)."""

    REQUEST = "request"
    REFUSED_REQUEST = "refused-request"
    APPROVAL = "approval"
    REFUSAL = "refusal"
    ANSWER = "answer"
    APPOINTMENT = "appointment"
    REMOVAL = "removal"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry(Message):
    """`S_B(number, H(entry before), kind, case, who, H(message), time)`: one link of the log; number 0 has no link.

    It names TSM, requester or officer, and never a customer; `code` is the refusal's, or empty.
    """

    NAME: ClassVar[str] = "audit-entry"
    number: Annotated[int, Uint(1 << 40)]
    before: Annotated[bytes, Bytes(0, 32)]
    kind: Annotated[AuditKind, Choice(AuditKind)]
    case: Handle
    who: Identifier
    message_digest: Digest
    code: Annotated[str, Text(32, "([A-Z_]{1,32})?")]
    at_s: TimeS
