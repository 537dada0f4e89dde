"""INIT: the phone is registered at the bank (design §3 INIT; paper §2.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from protocol.messages.attest import MAX_MEASUREMENT_LIST, Evidence
from protocol.schema import Bytes, Identifier, Message, Nested, Nonce, PublicKeyBytes, Text

BRANCH_CODE = Text(64, "[A-Z0-9-]{8,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SecureElementStatement(Message):
    """`S_SE(PK_U, EK_U, attestation key + certificate, wallet key)`: these keys are in one genuine SE."""

    NAME: ClassVar[str] = "secure-element-statement"
    pk_u: PublicKeyBytes
    ek_u: PublicKeyBytes
    attestation_key: PublicKeyBytes
    attestation_certificate: Annotated[bytes, Bytes(1, 4096)]
    wallet_key: PublicKeyBytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Enroll(Message):
    """U → B `S_U(branch code, PK_U, S_SE(…), Measurement List, Quote over B's nonce)` over mutual TLS (INIT-3)."""

    NAME: ClassVar[str] = "enroll"
    MAX_BYTES: ClassVar[int] = MAX_MEASUREMENT_LIST + 16 * 1024
    branch_code: Annotated[str, BRANCH_CODE]
    pk_u: PublicKeyBytes
    se_statement: Annotated[bytes, Bytes(1, 8192)]
    evidence: Annotated[Evidence, Nested(Evidence)]
    n_b: Nonce


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled(Message):
    """B → U `S_B(CERT_U^B)`: the user's X.509 certificate and the bank's own as intermediate CA (INIT-4)."""

    NAME: ClassVar[str] = "enrolled"
    certificate: Annotated[bytes, Bytes(1, 4096)]
    issuer: Annotated[bytes, Bytes(1, 4096)]


@dataclass(frozen=True, slots=True, kw_only=True)
class PinReopening(Message):
    """`S_B(aud = ID_U, ID_U)`: the bank confirmed the person at the branch; the phone may set a new PIN (TW-G3b)."""

    NAME: ClassVar[str] = "pin-reopening"
    user: Identifier
