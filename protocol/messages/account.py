"""AID: an anonymous account at the bank (design §3 AID; paper §2.4)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar

from protocol.messages.attest import MAX_MEASUREMENT_LIST, Evidence, PassGrant
from protocol.schema import (
    Bytes,
    Choice,
    Currency,
    Digest,
    Handle,
    Identifier,
    Many,
    Message,
    Minor,
    Nested,
    Nonce,
    PublicKeyBytes,
    Record,
    SharedKey,
    TimeS,
)


class Factor(StrEnum):
    """How a person proves who they are, beside the enrolled phone."""

    PASSCODE = "passcode"


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorProof(Record):
    """One factor and its proof; travels only under S_U and kx."""

    NAME: ClassVar[str] = "factor-proof"
    factor: Annotated[Factor, Choice(Factor)]
    proof: Annotated[bytes, Bytes(1, 256)]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountRequest(Message):
    """AID-1 U → B `E_B(S_U(N_U, kx))`: kx renews K_B,U for this run."""

    NAME: ClassVar[str] = "account-request"
    n_u: Nonce
    kx: SharedKey


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountChallenge(Message):
    """AID-2 B → U `{S_B(N_U, N_B, session)}kx`."""

    NAME: ClassVar[str] = "account-challenge"
    n_u: Nonce
    n_b: Nonce
    session: Handle


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountKeys(Message):
    """AID-3…5 U → B, first part under kx: `S_U(N_U, N_B, PK_AID, EK_AID, auth, ATT evidence)`."""

    NAME: ClassVar[str] = "account-keys"
    MAX_BYTES: ClassVar[int] = MAX_MEASUREMENT_LIST + 8192
    n_u: Nonce
    n_b: Nonce
    pk_aid: PublicKeyBytes
    ek_aid: PublicKeyBytes
    auth: Annotated[tuple[FactorProof, ...], Many(Nested(FactorProof), 0, 4)]
    evidence: Annotated[Evidence, Nested(Evidence)]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountKeysBySe(Message):
    """Second part: `S_SE(N_B, PK_AID, EK_AID)`: a genuine SE made these keys (AID-4)."""

    NAME: ClassVar[str] = "account-keys-se"
    n_b: Nonce
    pk_aid: PublicKeyBytes
    ek_aid: PublicKeyBytes


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountKeysByAid(Message):
    """Third part: `S_AID(N_U, N_B, EK_AID)`: the paper's self-signature, bound to the session (AID-4)."""

    NAME: ClassVar[str] = "account-keys-aid"
    n_u: Nonce
    n_b: Nonce
    ek_aid: PublicKeyBytes


@dataclass(frozen=True, slots=True, kw_only=True)
class AidCertificate(Message):
    """`CERT_AID = S_B(N_U, N_B, AID, PK_AID, EK_AID, expiry, limit, H(K))` (AID-6)."""

    NAME: ClassVar[str] = "aid-certificate"
    n_u: Nonce
    n_b: Nonce
    aid: Identifier
    pk_aid: PublicKeyBytes
    ek_aid: PublicKeyBytes
    expires_at_s: TimeS
    limit_minor: Minor
    currency: Currency
    key_digest: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountCertificate(Record):
    """AID-4 B → U `{E_EKAID(CERT_AID, K)}kx`: what is committed before CERT_AID is signed and sealed.

    `NAME` is also the context name of both encryptions.
    """

    NAME: ClassVar[str] = "account-certificate"
    certificate: Annotated[AidCertificate, Nested(AidCertificate)]
    key: SharedKey


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountActivation(Message):
    """AID-5 U → B `{S_AID(AID, N_B, ID_T)}K`: the SE holds key and certificate (AID-8)."""

    NAME: ClassVar[str] = "account-activation"
    aid: Identifier
    n_b: Nonce
    tsm: Identifier


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountActive(Message):
    """B → U `{S_B(AID, launch pass)}K`."""

    NAME: ClassVar[str] = "account-active"
    aid: Identifier
    launch_pass: Annotated[bytes, Bytes(1, 2048)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationRecord(Record):
    """What the bank commits before it signs the pass."""

    NAME: ClassVar[str] = "activation-record"
    granted: Annotated[PassGrant, Nested(PassGrant)]
