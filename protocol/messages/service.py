"""TID: an account at the TSM, and the bank's grant to it (design §3 TID; paper §2.5)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar, Final, TypeAlias

from protocol.schema import (
    Bytes,
    Choice,
    Currency,
    Digest,
    Identifier,
    Message,
    Minor,
    Nonce,
    Object,
    PublicKeyBytes,
    SharedKey,
    TimeS,
)

MAX_SID: Final = 1024
Sid: TypeAlias = Annotated[bytes, Bytes(1, MAX_SID)]
"""The session identifier is the TSM's encrypted cookie."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRequest(Message):
    """TID-1a U → T `E_T(S_TID(TID, PK_TID, EK_TID, N_U))`, certified by the key it carries."""

    NAME: ClassVar[str] = "service-request"
    tid: Identifier
    pk_tid: PublicKeyBytes
    ek_tid: PublicKeyBytes
    n_u: Nonce


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceOffer(Message):
    """TID-1b T → U `E_EKTID(S_T(TID, PK_TID, N_U, SID, N_T, K_TID,TSM))`: proof of credit is asked for."""

    NAME: ClassVar[str] = "service-offer"
    tid: Identifier
    pk_tid: PublicKeyBytes
    n_u: Nonce
    sid: Sid
    n_t: Nonce
    key: SharedKey


@dataclass(frozen=True, slots=True, kw_only=True)
class BankInfo(Message):
    """BINFO = `{S_AID(ID_T, SID, AID, com, expiry, limit, N2)}K_AID,B` (TID-2b); the TSM can't open it."""

    NAME: ClassVar[str] = "bank-info"
    tsm: Identifier
    sid: Sid
    aid: Identifier
    com: Digest
    expires_at_s: TimeS
    limit_minor: Minor
    currency: Currency
    n2: Nonce


@dataclass(frozen=True, slots=True, kw_only=True)
class TsmInfo(Message):
    """TSMINFO = `S_TID(ID_B, SID, TID, AID, r, com, H(BINFO), N2, expiry, limit, N_T)` (TID-2c)."""

    NAME: ClassVar[str] = "tsm-info"
    bank: Identifier
    sid: Sid
    tid: Identifier
    aid: Identifier
    r: Nonce
    com: Digest
    binfo_digest: Digest
    n2: Nonce
    expires_at_s: TimeS
    limit_minor: Minor
    currency: Currency
    n_t: Nonce


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditProof(Message):
    """TID-2d U → T `{S_TID(BINFO, TSMINFO, pass, possession, own maximum)}K_TID,TSM`; 0 is no maximum (TID-0)."""

    NAME: ClassVar[str] = "credit-proof"
    binfo: Object
    tsminfo: Object
    launch_pass: Object
    possession: Object
    maximum_minor: Minor


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantRequest(Message):
    """TSMBINFO, T → B `E_B(S_T(BINFO, SID, AID, com, H(BINFO), N2, expiry, limit, K_TSM,B))` (TID-3b)."""

    NAME: ClassVar[str] = "grant-request"
    binfo: Object
    sid: Sid
    aid: Identifier
    com: Digest
    binfo_digest: Digest
    n2: Nonce
    expires_at_s: TimeS
    limit_minor: Minor
    currency: Currency
    key: SharedKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise(Message):
    """The bank's signed promise `S_B(SID, AID, com, H(BINFO), N2, OK, expiry, limit)`: kept as evidence (TID-3d)."""

    NAME: ClassVar[str] = "promise"
    sid: Sid
    aid: Identifier
    com: Digest
    binfo_digest: Digest
    n2: Nonce
    expires_at_s: TimeS
    limit_minor: Minor
    currency: Currency


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantApproval(Message):
    """B → T `{S_B(promise)}K_TSM,B`."""

    NAME: ClassVar[str] = "grant-approval"
    promise: Object


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantRelease(Message):
    """T → B `E_B(S_T(AID, SID))`: frees that grant only."""

    NAME: ClassVar[str] = "grant-release"
    aid: Identifier
    sid: Sid


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantReleased(Message):
    """B → T `E_T(S_B(AID, SID))`."""

    NAME: ClassVar[str] = "grant-released"
    aid: Identifier
    sid: Sid


@dataclass(frozen=True, slots=True, kw_only=True)
class TidCertificate(Message):
    """`CERT_TID^TSM = S_T(TID, PK_TID, expiry)`: shown to its holder only."""

    NAME: ClassVar[str] = "tid-certificate"
    tid: Identifier
    pk_tid: PublicKeyBytes
    expires_at_s: TimeS


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAccount(Message):
    """TID-4 T → U `{S_T(TID, SID, N_U, com, expiry, limit, CERT_TID^TSM)}K_TID,TSM`."""

    NAME: ClassVar[str] = "service-account"
    tid: Identifier
    sid: Sid
    n_u: Nonce
    com: Digest
    expires_at_s: TimeS
    limit_minor: Minor
    currency: Currency
    certificate: Object


class RecreditReason(StrEnum):
    """Why the TSM asks for further credit."""

    BALANCE_LOW = "balance-low"
    """Less than a fifth is left of what the banks granted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecreditOffer(Message):
    """RECREDIT T → U `S_T(TID, PK_TID, N_U, SID', N_T', reason)`, in the reply to CARD-5, under K (ADR-0029).

    TID-2 … TID-4 may be gone through once more with SID', under the same TID and K, with an AID of another bank. N_U is
    that of CARD-1: the offer belongs to this exchange of this TID.
    """

    NAME: ClassVar[str] = "recredit-offer"
    tid: Identifier
    pk_tid: PublicKeyBytes
    n_u: Nonce
    sid: Sid
    n_t: Nonce
    reason: Annotated[RecreditReason, Choice(RecreditReason)]


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseAccount(Message):
    """U → T `{S_TID(TID, SID)}K_TID,TSM`: gives the grant back and ends its cards."""

    NAME: ClassVar[str] = "close-account"
    tid: Identifier
    sid: Sid


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountClosed(Message):
    """T → U `{S_T(TID, SID)}K_TID,TSM`."""

    NAME: ClassVar[str] = "account-closed"
    tid: Identifier
    sid: Sid
