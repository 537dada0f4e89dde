"""The wire contract as data: every RPC that is served, its messages and their forms, and who signs (design §4).

`docs/spec-map.md` and the comments of `proto/payloads.cddl` are generated from these tables, and tests hold them true:
every step class has its row, every message its place, and every form is found on the wire of a real run.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from protocol.messages.account import (
    AccountActivation,
    AccountActive,
    AccountChallenge,
    AccountKeys,
    AccountKeysByAid,
    AccountKeysBySe,
    AccountRequest,
    AidCertificate,
)
from protocol.messages.attest import (
    AttestationDecision,
    AttestationEvidence,
    Challenge,
    ChallengeRequest,
    LaunchPass,
    PossessionForCards,
    PossessionForSession,
)
from protocol.messages.card import CardActivation, CardChallenge, CardKeys, CardRequest, CardsActive, CardsIssued
from protocol.messages.enroll import Enroll, Enrolled, PinReopening, SecureElementStatement
from protocol.messages.merchant import SignedOn, SignOn
from protocol.messages.pay import (
    Authorization,
    AuthorizationBatch,
    AuthorizationDecision,
    AuthorizationDecisions,
    Refund,
    Refunded,
    Reversal,
    Reversed,
)
from protocol.messages.se import (
    SeAcceptDecision,
    SeAccount,
    SealedRequest,
    SeBankInfo,
    SeBeginAccount,
    SeDecision,
    SeEnroll,
    SeGenerateAccountKeys,
    SeGenerateCardKeys,
    SeGenerateServiceKeys,
    SeIdentity,
    SeInstallAccount,
    SeInstallCards,
    SeInstallIdentity,
    SeInstallPass,
    SeMakeBankInfo,
    SeMeasure,
    SeMeasured,
    SeOpenCard,
    SeOpening,
    SeOpenService,
    SePin,
    SeQuote,
    SeReopenPin,
    SeService,
    SeSetPin,
    SeSignService,
    SeState,
    SeStatus,
    SeVerifyPin,
)
from protocol.messages.service import (
    AccountClosed,
    BankInfo,
    CloseAccount,
    CreditProof,
    GrantApproval,
    GrantRelease,
    GrantReleased,
    GrantRequest,
    Promise,
    ServiceAccount,
    ServiceOffer,
    ServiceRequest,
    TidCertificate,
    TsmInfo,
)
from protocol.messages.software import ReferenceRequest, ReferenceValues, Release, ReleaseRequest
from protocol.messages.till import CancelSale, GetSale, RefundSale, SaleState, StartSale
from protocol.schema import Message
from protocol.types import Role


class Form(StrEnum):
    """How a message is wrapped: `S` COSE_Sign1, `E(…)` HPKE to the receiver, `{…}K` COSE_Encrypt0 under K."""

    SIGNED = "S"
    SEALED = "E(S)"
    UNDER_K = "{S}K"
    UNDER_KX = "{S}kx"
    THREE_UNDER_KX = "{S_U, S_SE, S_AID}kx"
    SEALED_WITH_KEY_UNDER_KX = "{E(S, K)}kx"
    WITH_CARD_KEYS_UNDER_K = "{S, [PK_C, salt, S_C]…}K"
    SEALED_UNDER_K = "{E(S)}K"


class Key(StrEnum):
    """Signing keys by the paper's symbols. `iss` is the owner's name under each signature."""

    BANK = "SK_B"
    TSM = "SK_T"
    SE = "SK_SE"
    USER = "SK_U"
    AID = "SK_AID"
    TID = "SK_TID"
    MERCHANT = "SK_M"
    TERMINAL = "terminal key"
    SP = "SK_SP"
    WALLET = "wallet key"
    ONCE = "one-time key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rpc:
    """One served call. `session` says what the request's envelope carries in its field `session`.

    `tls` are the roles that the caller's TLS certificate may have; empty: the step asks for none. `step` is the dotted
    name of the class that answers. `codes` are the refusals beyond `common_codes`.
    """

    service: str
    name: str
    steps: tuple[str, ...]
    request: type[Message]
    request_form: Form
    request_signer: Key
    reply: type[Message]
    reply_form: Form
    reply_signer: Key
    step: str
    codes: tuple[str, ...] = ()
    tls: tuple[Role, ...] = ()
    session: str = ""

    @property
    def full_name(self) -> str:
        """Service and name, as `Step.rpc` has it."""
        return f"{self.service}.{self.name}"

    @property
    def all_codes(self) -> frozenset[str]:
        """Every code that this call can answer."""
        return common_codes(self.request_form) | set(self.codes)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedObject:
    """A message that travels inside others: a COSE_Sign1 of its own, with an empty request digest."""

    message: type[Message]
    signer: Key
    audience: str
    form: Form
    carried_in: str
    steps: tuple[str, ...]


COMMON_CODES: Final = frozenset({
    "MALFORMED", "OVERSIZE", "WRONG_MESSAGE", "SIGNATURE_INVALID", "WRONG_ISSUER", "WRONG_AUDIENCE", "EXPIRED",
    "NOT_YET_VALID", "LIFETIME_TOO_LONG", "REPLAY", "UNAVAILABLE", "OVERLOADED", "STORAGE_FAULT",
    "PEER_ANSWER_INVALID", "INTERNAL",
})  # fmt: skip
"""What opening, deciding once and running can refuse in every call.

A stateless call never answers REPLAY, and only a call that asks another party PEER_ANSWER_INVALID."""


def common_codes(form: Form) -> frozenset[str]:
    """The codes that go without saying for a request of this form."""
    return COMMON_CODES if form is Form.SIGNED else COMMON_CODES | {"DECRYPTION_FAILED"}


_QUOTE: Final = (
    "EVIDENCE_MALFORMED", "QUOTE_SIGNATURE_INVALID", "QUOTE_NOT_FRESH", "PCR_SELECTION_INVALID",
    "MEASUREMENT_LIST_MISMATCH", "PLATFORM_CHANGED",
)  # fmt: skip
_PARTY: Final = ("UNKNOWN_KEY", "UNKNOWN_ACCOUNT")
_CARD_SESSION: Final = 'H("tapveil-card-session", N_T), first 16 bytes'

_BANK: Final = (
    Rpc(
        service="Bank", name="Challenge", steps=("INIT-3", "ATT-D1", "ATT-L1"), tls=(Role.SE, Role.PHONE),
        request=ChallengeRequest, request_form=Form.SIGNED, request_signer=Key.WALLET,
        reply=Challenge, reply_form=Form.SIGNED, reply_signer=Key.BANK,
        step="protocol.roles.bank.enroll.ChallengeStep", codes=("UNKNOWN_KEY", "WRONG_PEER"),
    ),
    Rpc(
        service="Bank", name="Enroll", steps=("INIT-3", "INIT-4"), tls=(Role.SE, Role.PHONE),
        request=Enroll, request_form=Form.SIGNED, request_signer=Key.USER,
        reply=Enrolled, reply_form=Form.SIGNED, reply_signer=Key.BANK,
        step="protocol.roles.bank.enroll.EnrollStep",
        codes=(
            "UNKNOWN_KEY", "WRONG_PEER", "CERTIFICATE_INVALID", "FIELD_MISMATCH", *_QUOTE, "NONCE_MISMATCH",
            "BRANCH_CODE_INVALID", "IDENTIFIER_TAKEN", "WRONG_STATE",
        ),
    ),
    *(
        Rpc(
            service="Bank", name=name, steps=steps,
            request=AttestationEvidence, request_form=Form.SEALED, request_signer=Key.USER,
            reply=AttestationDecision, reply_form=Form.SEALED, reply_signer=Key.BANK,
            step=f"protocol.roles.bank.attest.{name}Step",
            codes=("UNKNOWN_KEY", "FIELD_MISMATCH", "NONCE_MISMATCH", "WRONG_STATE"),
        )
        for name, steps in (
            ("ApproveInstall", ("ATT-D6", "ATT-D7")), ("ReportInstall", ("ATT-D7",)), ("VerifyLaunch", ("ATT-L6",))
        )
    ),
    Rpc(
        service="Bank", name="RequestAccount", steps=("AID-1", "AID-2"),
        request=AccountRequest, request_form=Form.SEALED, request_signer=Key.USER,
        reply=AccountChallenge, reply_form=Form.UNDER_KX, reply_signer=Key.BANK,
        step="protocol.roles.bank.account.RequestAccountStep",
        codes=("UNKNOWN_KEY", "WRONG_STATE", "FACTOR_LOCKED", "ACCOUNT_LIMIT_REACHED"),
    ),
    Rpc(
        service="Bank", name="CertifyAccount", steps=("AID-5", "AID-6"), session="session of AID-2",
        request=AccountKeys, request_form=Form.THREE_UNDER_KX, request_signer=Key.USER,
        reply=AidCertificate, reply_form=Form.SEALED_WITH_KEY_UNDER_KX, reply_signer=Key.BANK,
        step="protocol.roles.bank.account.CertifyAccountStep",
        codes=(
            "IDENTIFIER_TAKEN",
            "UNKNOWN_SESSION", "NONCE_MISMATCH", "FIELD_MISMATCH", *_QUOTE, "SOFTWARE_UNKNOWN",
            "SOFTWARE_CHANGED", "WRONG_STATE", "FACTOR_LOCKED", "FACTORS_INSUFFICIENT", "ACCOUNT_LIMIT_REACHED",
        ),
    ),
    Rpc(
        service="Bank", name="ActivateAccount", steps=("AID-8",), session="session of AID-2",
        request=AccountActivation, request_form=Form.UNDER_K, request_signer=Key.AID,
        reply=AccountActive, reply_form=Form.UNDER_K, reply_signer=Key.BANK,
        step="protocol.roles.bank.account.ActivateAccountStep",
        codes=("UNKNOWN_SESSION", "FIELD_MISMATCH", "NONCE_MISMATCH", *_PARTY, "WRONG_STATE"),
    ),
    Rpc(
        service="Bank", name="ApproveGrant", steps=("TID-3b", "TID-3c", "TID-3d"), tls=(Role.TSM,),
        request=GrantRequest, request_form=Form.SEALED, request_signer=Key.TSM,
        reply=GrantApproval, reply_form=Form.UNDER_K, reply_signer=Key.BANK,
        step="protocol.roles.bank.grant.ApproveGrantStep",
        codes=(*_PARTY, "WRONG_PEER", "FIELD_MISMATCH", "CREDIT_MISMATCH", "WRONG_STATE", "AID_ALREADY_GRANTED"),
    ),
    Rpc(
        service="Bank", name="ReleaseGrant", steps=(), tls=(Role.TSM,),
        request=GrantRelease, request_form=Form.SEALED, request_signer=Key.TSM,
        reply=GrantReleased, reply_form=Form.SEALED, reply_signer=Key.BANK,
        step="protocol.roles.bank.grant.ReleaseGrantStep", codes=("UNKNOWN_KEY", "WRONG_PEER", "GRANT_UNKNOWN"),
    ),
)  # fmt: skip

_TERMINAL: Final = ("UNKNOWN_KEY", "WRONG_PEER", "FIELD_MISMATCH")
_PAY: Final[tuple[tuple[str, str, type[Message], type[Message], tuple[str, ...]], ...]] = (
    ("Authorize", "authorize", Authorization, AuthorizationDecision, ()),
    ("AuthorizeBatch", "authorize", AuthorizationBatch, AuthorizationDecisions, ()),
    ("Reverse", "giveback", Reversal, Reversed, ("WRONG_STATE",)),
    (
        "Refund", "giveback", Refund, Refunded,
        ("PURCHASE_UNKNOWN", "WRONG_STATE", "IDENTIFIER_TAKEN", "LIMIT_EXCEEDED"),
    ),
)  # fmt: skip
_TILL: Final[tuple[tuple[str, type[Message], tuple[str, ...]], ...]] = (
    ("StartSale", StartSale, ("CARD_DATA_INVALID", "IDENTIFIER_TAKEN", "WRONG_STATE")),
    ("GetSale", GetSale, ("PURCHASE_UNKNOWN",)),
    ("CancelSale", CancelSale, ("PURCHASE_UNKNOWN", "WRONG_STATE")),
    ("RefundSale", RefundSale, ("PURCHASE_UNKNOWN", "WRONG_STATE", "IDENTIFIER_TAKEN", "LIMIT_EXCEEDED")),
)

_TSM: Final = (
    Rpc(
        service="Tsm", name="OpenAccount", steps=("TID-1a", "TID-1b"),
        request=ServiceRequest, request_form=Form.SEALED, request_signer=Key.TID,
        reply=ServiceOffer, reply_form=Form.SEALED, reply_signer=Key.TSM,
        step="protocol.roles.tsm.register.OpenAccountStep", codes=("FIELD_MISMATCH",),
    ),
    Rpc(
        service="Tsm", name="ProveCredit", steps=("TID-0", "TID-2d", "TID-3a", "TID-3b", "TID-3d", "TID-4"),
        session="SID", request=CreditProof, request_form=Form.UNDER_K, request_signer=Key.TID,
        reply=ServiceAccount, reply_form=Form.UNDER_K, reply_signer=Key.TSM,
        step="protocol.roles.tsm.register.ProveCreditStep",
        codes=(  # the last four are the bank's, passed on
            "UNKNOWN_SESSION", "FIELD_MISMATCH", "NONCE_MISMATCH", "COMMITMENT_MISMATCH", *_PARTY, "PASS_INVALID",
            "POSSESSION_INVALID", "IDENTIFIER_TAKEN", "CREDIT_MISMATCH", "WRONG_STATE",
            "AID_ALREADY_GRANTED", "WRONG_PEER",
        ),
    ),
    Rpc(
        service="Tsm", name="RequestCards", steps=("CARD-1/2",),
        request=CardRequest, request_form=Form.SEALED, request_signer=Key.TID,
        reply=CardChallenge, reply_form=Form.UNDER_K, reply_signer=Key.TSM,
        step="protocol.roles.tsm.cards.RequestCardsStep", codes=("UNKNOWN_KEY", "WRONG_STATE"),
    ),
    Rpc(
        service="Tsm", name="IssueCards", steps=("CARD-3", "CARD-4"), session=_CARD_SESSION,
        request=CardKeys, request_form=Form.WITH_CARD_KEYS_UNDER_K, request_signer=Key.TID,
        reply=CardsIssued, reply_form=Form.SEALED_UNDER_K, reply_signer=Key.TSM,
        step="protocol.roles.tsm.cards.IssueCardsStep",
        codes=(
            "UNKNOWN_SESSION", "NONCE_MISMATCH", "FIELD_MISMATCH", "CARD_KEY_INVALID", "GRANT_UNKNOWN", *_PARTY,
            "PASS_INVALID", "POSSESSION_INVALID", "WRONG_STATE", "IDENTIFIER_TAKEN",
        ),
    ),
    Rpc(
        service="Tsm", name="ActivateCards", steps=("CARD-5",), session=_CARD_SESSION,
        request=CardActivation, request_form=Form.UNDER_K, request_signer=Key.TID,
        reply=CardsActive, reply_form=Form.UNDER_K, reply_signer=Key.TSM,
        step="protocol.roles.tsm.cards.ActivateCardsStep",
        codes=("UNKNOWN_SESSION", "NONCE_MISMATCH", "FIELD_MISMATCH", "WRONG_STATE"),
    ),
    Rpc(
        service="Tsm", name="SignOn", steps=(), tls=(Role.MERCHANT,),
        request=SignOn, request_form=Form.SIGNED, request_signer=Key.MERCHANT,
        reply=SignedOn, reply_form=Form.SIGNED, reply_signer=Key.TSM,
        step="protocol.roles.tsm.terminals.SignOnStep", codes=("UNKNOWN_KEY", "WRONG_PEER", "IDENTIFIER_TAKEN"),
    ),
    *(
        Rpc(
            service="Tsm", name=name, steps=("CARD-5",), tls=(Role.MERCHANT,),
            request=request, request_form=Form.SIGNED, request_signer=Key.TERMINAL,
            reply=reply, reply_form=Form.SIGNED, reply_signer=Key.TSM,
            step=f"protocol.roles.tsm.{module}.{name}Step", codes=(*_TERMINAL, *codes),
        )
        for name, module, request, reply, codes in _PAY
    ),
    Rpc(
        service="Tsm", name="CloseAccount", steps=(), session="SHA-256(SID)",
        request=CloseAccount, request_form=Form.UNDER_K, request_signer=Key.TID,
        reply=AccountClosed, reply_form=Form.UNDER_K, reply_signer=Key.TSM,
        step="protocol.roles.tsm.close.CloseAccountStep",
        codes=("UNKNOWN_SESSION", "FIELD_MISMATCH", *_PARTY, "WRONG_STATE", "WRONG_PEER"),
    ),
)  # fmt: skip


def _command(
    name: str, module: str, request: type[Message], reply: type[Message], steps: tuple[str, ...], *codes: str
) -> Rpc:
    """A command to the SE: signed by the wallet key, answered under SK_SE, over the phone's inner link."""
    return Rpc(
        service="SecureElement", name=name, steps=steps, request=request, request_form=Form.SIGNED,
        request_signer=Key.WALLET, reply=reply, reply_form=Form.SIGNED, reply_signer=Key.SE,
        step=f"protocol.roles.se.{module}.{name}Step", codes=codes,
    )  # fmt: skip


_SE: Final = (
    _command("Enroll", "identity", SeEnroll, SealedRequest, ("INIT-3",), *_PARTY, "WRONG_STATE"),
    _command(
        "InstallIdentity", "identity", SeInstallIdentity, SeIdentity, ("INIT-4",),
        *_PARTY, "CERTIFICATE_INVALID", "WRONG_STATE",
    ),
    _command("Measure", "identity", SeMeasure, SeMeasured, ("ATT-D4", "ATT-D5", "ATT-L4", "ATT-L5")),
    _command(
        "Quote", "identity", SeQuote, SealedRequest,
        ("ATT-D2", "ATT-D3", "ATT-D4", "ATT-D5", "ATT-D6", "ATT-L2", "ATT-L3", "ATT-L4", "ATT-L5", "ATT-L6"),
        *_PARTY, "FIELD_MISMATCH", "WRONG_STATE",
    ),
    _command(
        "AcceptDecision", "identity", SeAcceptDecision, SeDecision, ("ATT-D7", "ATT-L6"),
        *_PARTY, "DECRYPTION_FAILED", "WRONG_STATE",
    ),
    _command(
        "BeginAccount", "account", SeBeginAccount, SealedRequest, ("AID-1",), *_PARTY, "PAYMENT_CLOSED", "WRONG_STATE"
    ),
    _command(
        "GenerateAccountKeys", "account", SeGenerateAccountKeys, SealedRequest, ("AID-3", "AID-4", "AID-5"),
        *_PARTY, "DECRYPTION_FAILED", "NONCE_MISMATCH", "PAYMENT_CLOSED", "WRONG_STATE",
    ),
    _command(
        "InstallAccount", "account", SeInstallAccount, SealedRequest, ("AID-7", "AID-8"),
        *_PARTY, "DECRYPTION_FAILED", "PAYMENT_CLOSED", "NONCE_MISMATCH", "FIELD_MISMATCH", "WRONG_STATE",
    ),
    _command(
        "InstallPass", "account", SeInstallPass, SeAccount, ("AID-8",),
        *_PARTY, "DECRYPTION_FAILED", "FIELD_MISMATCH", "WRONG_STATE",
    ),
    _command("GenerateServiceKeys", "service", SeGenerateServiceKeys, SealedRequest, ("TID-1a",), *_PARTY),
    _command(
        "MakeBankInfo", "service", SeMakeBankInfo, SeBankInfo, ("TID-2a", "TID-2b"),
        *_PARTY, "DECRYPTION_FAILED", "FIELD_MISMATCH", "NONCE_MISMATCH", "PAYMENT_CLOSED", "WRONG_STATE",
    ),
    _command(
        "SignService", "service", SeSignService, SealedRequest, ("TID-0", "TID-2c", "TID-2d", "CARD-1/2"),
        *_PARTY, "PAYMENT_CLOSED", "WRONG_STATE",
    ),
    _command(
        "OpenService", "service", SeOpenService, SeService, ("TID-4", "CARD-5"),
        *_PARTY, "DECRYPTION_FAILED", "NONCE_MISMATCH", "FIELD_MISMATCH", "WRONG_STATE",
    ),
    _command(
        "GenerateCardKeys", "card", SeGenerateCardKeys, SealedRequest, ("CARD-1/2", "CARD-3"),
        *_PARTY, "DECRYPTION_FAILED", "FIELD_MISMATCH", "NONCE_MISMATCH", "PAYMENT_CLOSED", "WRONG_STATE",
    ),
    _command(
        "InstallCards", "card", SeInstallCards, SealedRequest, ("CARD-4", "CARD-5"),
        *_PARTY, "DECRYPTION_FAILED", "PAYMENT_CLOSED", "FIELD_MISMATCH", "NONCE_MISMATCH", "WRONG_STATE",
        "CARD_DATA_INVALID",
    ),
    _command(
        "OpenCard", "opening", SeOpenCard, SeOpening, ("CARD-5",), *_PARTY, "PAYMENT_CLOSED", "WRONG_STATE", "NO_CARD"
    ),
    _command("SetPin", "pin", SeSetPin, SePin, (), "PIN_WEAK", "PIN_INVALID", "FACTOR_LOCKED", "WRONG_STATE"),
    _command(
        "VerifyPin", "pin", SeVerifyPin, SeOpening, ("CARD-5",),
        "PIN_INVALID", "FACTOR_LOCKED", "FIELD_MISMATCH", "WRONG_STATE",
    ),
    _command("ReopenPin", "pin", SeReopenPin, SePin, (), *_PARTY, "FIELD_MISMATCH", "WRONG_STATE"),
    _command("Status", "status", SeStatus, SeState, ()),
)  # fmt: skip

_MERCHANT: Final = tuple(
    Rpc(
        service="Merchant", name=name, steps=("CARD-5",), tls=(Role.MERCHANT,),
        request=request, request_form=Form.SIGNED, request_signer=Key.MERCHANT,
        reply=SaleState, reply_form=Form.SIGNED, reply_signer=Key.MERCHANT,
        step=f"protocol.roles.merchant.till.{name}Step", codes=("UNKNOWN_KEY", "WRONG_PEER", *codes),
    )
    for name, request, codes in _TILL
)  # fmt: skip

_SP: Final = (
    Rpc(
        service="SoftwareProvider", name="GetRelease", steps=("ATT-D1",),
        request=ReleaseRequest, request_form=Form.SIGNED, request_signer=Key.ONCE,
        reply=Release, reply_form=Form.SIGNED, reply_signer=Key.SP,
        step="protocol.roles.sp.GetReleaseStep", codes=("SOFTWARE_UNKNOWN",),
    ),
    Rpc(
        service="SoftwareProvider", name="GetReferenceValues", steps=("INIT-5",),
        request=ReferenceRequest, request_form=Form.SIGNED, request_signer=Key.ONCE,
        reply=ReferenceValues, reply_form=Form.SIGNED, reply_signer=Key.SP,
        step="protocol.roles.sp.GetReferenceValuesStep", codes=("SOFTWARE_UNKNOWN",),
    ),
)  # fmt: skip

RPCS: Final[tuple[Rpc, ...]] = (*_BANK, *_TSM, *_MERCHANT, *_SE, *_SP)

MUTUAL_ONLY: Final = frozenset({"Bank", "SecureElement", "Merchant"})
"""Services that take no call without a certificate of the CA, whether a step looks at it or not."""

NOT_SERVED: Final[dict[str, str]] = {
    "Bank.SubmitClaim": "SETTLE",
    "Bank.ListStops": "FREEZE",
    "Bank.RequestTrace": "TRACE",
    "Tsm.SettleBatch": "SETTLE",
}
"""RPCs of the .proto files that no step answers yet, and the phase that they belong to."""

FIELD: Final = "SecureElement.Transceive"
"""The NFC field: APDUs in and out, not messages; no step, no signature, no TLS identity, as radio has none."""

OBJECTS: Final = (
    SignedObject(
        message=PinReopening, signer=Key.BANK, audience="ID_U", form=Form.SIGNED,
        carried_in="se-reopen-pin.approval", steps=(),
    ),
    SignedObject(
        message=SecureElementStatement, signer=Key.SE, audience="ID_B", form=Form.SIGNED,
        carried_in="enroll.se_statement", steps=("INIT-3",),
    ),
    SignedObject(
        message=AccountKeysBySe, signer=Key.SE, audience="ID_B", form=Form.THREE_UNDER_KX,
        carried_in="second part of Bank.CertifyAccount's request", steps=("AID-4", "AID-5"),
    ),
    SignedObject(
        message=AccountKeysByAid, signer=Key.AID, audience="ID_B", form=Form.THREE_UNDER_KX,
        carried_in="third part of Bank.CertifyAccount's request", steps=("AID-4", "AID-5"),
    ),
    SignedObject(
        message=LaunchPass, signer=Key.BANK, audience="ID_T", form=Form.SIGNED,
        carried_in="attestation-decision, account-active, credit-proof and card-keys", steps=("ATT-L6", "AID-8"),
    ),
    SignedObject(
        message=PossessionForSession, signer=Key.AID, audience="ID_T", form=Form.SIGNED,
        carried_in="credit-proof.possession", steps=("TID-2d",),
    ),
    SignedObject(
        message=PossessionForCards, signer=Key.AID, audience="ID_T", form=Form.SIGNED,
        carried_in="card-keys.possession", steps=("CARD-3",),
    ),
    SignedObject(
        message=BankInfo, signer=Key.AID, audience="ID_B", form=Form.UNDER_K,
        carried_in="credit-proof.binfo, forwarded in grant-request.binfo; K is K_AID,B", steps=("TID-2b",),
    ),
    SignedObject(
        message=TsmInfo, signer=Key.TID, audience="ID_T", form=Form.SIGNED,
        carried_in="credit-proof.tsminfo", steps=("TID-2c",),
    ),
    SignedObject(
        message=Promise, signer=Key.BANK, audience="ID_T", form=Form.SIGNED,
        carried_in="grant-approval.promise", steps=("TID-3d",),
    ),
    SignedObject(
        message=TidCertificate, signer=Key.TSM, audience="TID", form=Form.SIGNED,
        carried_in="service-account.certificate", steps=("TID-4",),
    ),
)  # fmt: skip
"""Messages that are never a whole request or reply."""
