"""ATT: challenge, evidence, decision, launch pass (design §3 ATT; paper §2.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, TypeAlias

from protocol.schema import (
    Bytes,
    Choice,
    Digest,
    Flag,
    Handle,
    Identifier,
    Many,
    Message,
    Nested,
    Nonce,
    PublicKeyBytes,
    Record,
    Text,
)
from protocol.types import Purpose, TrustClass

MAX_MEASUREMENT_LIST: Final = 64 * 1024
MeasurementList: TypeAlias = Annotated[bytes, Bytes(0, MAX_MEASUREMENT_LIST)]
Quote: TypeAlias = Annotated[bytes, Bytes(1, 1280)]
"""TPM2B_ATTEST ‖ TPMT_SIGNATURE, as TPM2_Quote returns them."""
ReasonCode: TypeAlias = Annotated[str, Text(40, "[A-Z_]*")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence(Record):
    """What attests: the Measurement List (ima-ng) and the quote over it, for one software identifier and nonce N_AM."""

    NAME: ClassVar[str] = "evidence"
    software: Annotated[str, Text(64, "([a-z0-9][a-z0-9.-]*)?")]
    measurement_list: MeasurementList
    quote: Quote
    n_am: Nonce


@dataclass(frozen=True, slots=True, kw_only=True)
class ChallengeRequest(Message):
    """phone → B `S_W(purpose)`: asks for a fresh nonce; signed by the phone's wallet key."""

    NAME: ClassVar[str] = "challenge-request"
    purpose: Annotated[Purpose, Choice(Purpose)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge(Message):
    """B → phone `S_B(N_B)`: single use, two minutes."""

    NAME: ClassVar[str] = "challenge"
    n_b: Nonce


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestationEvidence(Message):
    """U → B `E_B(S_U(purpose, software id, Measurement List, Quote, N_AM, N_B))` (ATT-D6, ATT-D7, ATT-L6)."""

    NAME: ClassVar[str] = "attestation-evidence"
    MAX_BYTES: ClassVar[int] = MAX_MEASUREMENT_LIST + 4096
    purpose: Annotated[Purpose, Choice(Purpose)]
    evidence: Annotated[Evidence, Nested(Evidence)]
    n_b: Nonce


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchPass(Message):
    """`S_B(aud = TSM, AID, PK_AID, trust class, jti, exp)`: jti is `cti`; times on a common grid; names no device."""

    NAME: ClassVar[str] = "launch-pass"
    aid: Identifier
    pk_aid: PublicKeyBytes
    trust_class: Annotated[TrustClass, Choice(TrustClass)]


@dataclass(frozen=True, slots=True, kw_only=True)
class PossessionForSession(Message):
    """`S_AID(SID, H(pass))`: shows in TID-3 that the pass's key is held. Its type differs from the card's."""

    NAME: ClassVar[str] = "possession-session"
    sid: Annotated[bytes, Bytes(1, 1024)]
    pass_digest: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class PossessionForCards(Message):
    """`S_AID(N_T, H(pass))`: shows in CARD-3 that the pass's key is held."""

    NAME: ClassVar[str] = "possession-cards"
    n_t: Nonce
    pass_digest: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class PassFor(Record):
    """A launch pass and the AID it is for."""

    NAME: ClassVar[str] = "pass-for"
    aid: Identifier
    launch_pass: Annotated[bytes, Bytes(1, 2048)]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestationDecision(Message):
    """B → U `E_U(S_B(decision, reason, passes))`: a refusal names its reason; a good launch brings the passes."""

    NAME: ClassVar[str] = "attestation-decision"
    MAX_BYTES: ClassVar[int] = 192 * 1024
    purpose: Annotated[Purpose, Choice(Purpose)]
    allowed: Annotated[bool, Flag()]
    reason: ReasonCode
    passes: Annotated[tuple[PassFor, ...], Many(Nested(PassFor), 0, 64)]


@dataclass(frozen=True, slots=True, kw_only=True)
class PassGrant(Record):
    """A pass to be signed: its payload and the TSM it is for."""

    NAME: ClassVar[str] = "pass-grant"
    tsm: Identifier
    aid: Identifier
    pk_aid: PublicKeyBytes
    trust_class: Annotated[TrustClass, Choice(TrustClass)]
    jti: Handle


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRecord(Record):
    """What the bank commits before it signs the decision: the passes' contents."""

    NAME: ClassVar[str] = "decision-record"
    MAX_BYTES: ClassVar[int] = 192 * 1024
    allowed: Annotated[bool, Flag()]
    reason: ReasonCode
    passes: Annotated[tuple[PassGrant, ...], Many(Nested(PassGrant), 0, 64)]
