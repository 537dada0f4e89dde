"""Every way a message can be refused: one root, one class per code, one registry (design §8).

The code travels on the wire; the detail stays in the local log and never holds a secret or an identity.
Only the edge knows gRPC: a class carries the *name* of the status it maps to.
"""

from __future__ import annotations

from typing import ClassVar, Final


class ProtocolError(Exception):
    """Root of all refusals. Subclasses declare `code` (wire), `status` (gRPC status name) and `meaning`."""

    code: ClassVar[str] = ""
    status: ClassVar[str] = ""
    meaning: ClassVar[str] = ""

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail or self.meaning)
        self.detail = detail

    def __init_subclass__(cls, *, code: str, status: str, meaning: str) -> None:
        super().__init_subclass__()
        if code in REGISTRY:
            raise TypeError(f"error code {code} is taken by {REGISTRY[code].__name__}")
        cls.code, cls.status, cls.meaning = code, status, meaning
        REGISTRY[code] = cls


REGISTRY: Final[dict[str, type[ProtocolError]]] = {}

_BAD = "INVALID_ARGUMENT"
_AUTH = "UNAUTHENTICATED"
_DENY = "PERMISSION_DENIED"
_STATE = "FAILED_PRECONDITION"
_TAKEN = "ALREADY_EXISTS"


# --- the bytes -----------------------------------------------------------------------------------------------------
class Malformed(ProtocolError, code="MALFORMED", status=_BAD, meaning="not the deterministic encoding of the type"):
    """Truncated, trailing, non-canonical, wrong type, missing or unknown field."""


class Oversize(ProtocolError, code="OVERSIZE", status=_BAD, meaning="larger than the bound for this message"):
    """A whole message, a field or a list is over its bound."""


class WrongMessage(ProtocolError, code="WRONG_MESSAGE", status=_BAD, meaning="not the message type this call takes"):
    """The content type under the signature names another message."""


class DecryptionFailed(ProtocolError, code="DECRYPTION_FAILED", status=_BAD, meaning="does not open under the key"):
    """Wrong key, wrong context, or altered ciphertext; which one is not told."""


class SignatureInvalid(ProtocolError, code="SIGNATURE_INVALID", status=_AUTH, meaning="signature does not verify"):
    """Wrong key, wrong context, or altered content."""


class UnknownKey(ProtocolError, code="UNKNOWN_KEY", status=_AUTH, meaning="no key of that thumbprint is accepted here"):
    """The receiver's policy has no such key; keys are never taken from the message."""


class CertificateInvalid(
    ProtocolError, code="CERTIFICATE_INVALID", status=_AUTH, meaning="certificate does not chain to the CA, or not now"
):
    """Chain, validity, role or key usage of an X.509 certificate is wrong."""


# --- the claims ----------------------------------------------------------------------------------------------------
class WrongIssuer(ProtocolError, code="WRONG_ISSUER", status=_DENY, meaning="signed by another party than expected"):
    """`iss` is not the owner of the verifying key, or not the party this step is for."""


class WrongAudience(ProtocolError, code="WRONG_AUDIENCE", status=_DENY, meaning="addressed to somebody else"):
    """`aud` is not the receiver."""


class WrongPeer(ProtocolError, code="WRONG_PEER", status=_DENY, meaning="the TLS identity may not make this call"):
    """The caller's transport certificate has another role or name than the step needs."""


class Expired(ProtocolError, code="EXPIRED", status=_STATE, meaning="past its expiry"):
    """`exp` is too far in the past; or a terminal's key is past its sign-on, or a word is older than a lock."""


class NotYetValid(ProtocolError, code="NOT_YET_VALID", status=_STATE, meaning="issued in the future"):
    """`iat` is more than the allowed skew in the future."""


class LifetimeTooLong(
    ProtocolError, code="LIFETIME_TOO_LONG", status=_BAD, meaning="claims a longer life than allowed"
):
    """`exp` − `iat` is over the bound, or not positive."""


class Replay(ProtocolError, code="REPLAY", status=_TAKEN, meaning="a nonce, session or counter was used before"):
    """A new message reuses a single-use value. (The same bytes again are not a replay: they get the same answer.)"""


# --- order and lookups ---------------------------------------------------------------------------------------------
class WrongState(ProtocolError, code="WRONG_STATE", status=_STATE, meaning="this step is not the next one"):
    """The (state, message) pair is not in the role's table."""


class UnknownSession(ProtocolError, code="UNKNOWN_SESSION", status="NOT_FOUND", meaning="no such session, or it ended"):
    """Nothing is kept under this session handle."""


class UnknownAccount(ProtocolError, code="UNKNOWN_ACCOUNT", status="NOT_FOUND", meaning="no such account here"):
    """The pseudonym or the customer is not known to this party."""


class NonceMismatch(ProtocolError, code="NONCE_MISMATCH", status=_DENY, meaning="not the nonce this session expects"):
    """A nonce or session identifier inside the signature is another session's."""


class FieldMismatch(ProtocolError, code="FIELD_MISMATCH", status=_DENY, meaning="two statements of one fact differ"):
    """Fields that must agree between nested statements do not (TID-3c and its like)."""


# --- INIT and AID --------------------------------------------------------------------------------------------------
class BranchCodeInvalid(
    ProtocolError, code="BRANCH_CODE_INVALID", status=_DENY, meaning="the branch code is unknown, used or out of date"
):
    """INIT-2: a branch code works once."""


class FactorsInsufficient(
    ProtocolError, code="FACTORS_INSUFFICIENT", status=_DENY, meaning="the person is not authenticated well enough"
):
    """AID-3: the factor proofs do not reach the bank's minimum, or one is wrong."""


class FactorLocked(
    ProtocolError, code="FACTOR_LOCKED", status=_DENY, meaning="too many wrong entries; the bank must reopen it"
):
    """TW-G3b: locked after five wrong entries in a row; the answer to the fifth, too."""


class AccountLimitReached(
    ProtocolError, code="ACCOUNT_LIMIT_REACHED", status="RESOURCE_EXHAUSTED", meaning="no further account is opened now"
):
    """The customer has as many anonymous accounts, or as much credit in them, as the bank allows."""


# --- attestation ---------------------------------------------------------------------------------------------------
class EvidenceMalformed(
    ProtocolError, code="EVIDENCE_MALFORMED", status=_BAD, meaning="quote or measurement list does not parse"
):
    """TPM structure or ima-ng list with wrong magic, type, length, trailing bytes or bounds."""


class QuoteSignatureInvalid(
    ProtocolError, code="QUOTE_SIGNATURE_INVALID", status=_AUTH, meaning="quote is not by the enrolled attestation key"
):
    """Wrong key, wrong signer name, or altered quote."""


class QuoteNotFresh(
    ProtocolError, code="QUOTE_NOT_FRESH", status=_STATE, meaning="quote does not answer this challenge"
):
    """Qualifying data is not the hash of purpose, parties, software, both nonces and the requested key."""


class PcrSelectionInvalid(
    ProtocolError, code="PCR_SELECTION_INVALID", status=_BAD, meaning="quote covers other PCRs than the policy's"
):
    """The selection is not exactly the policy's, or the digest is of another algorithm."""


class MeasurementListMismatch(
    ProtocolError, code="MEASUREMENT_LIST_MISMATCH", status=_DENY, meaning="list does not replay to the quoted PCRs"
):
    """The Measurement List was shortened, reordered or invented."""


class PlatformChanged(
    ProtocolError, code="PLATFORM_CHANGED", status=_DENY, meaning="platform differs from what was enrolled"
):
    """A platform measurement is not the one the bank stored at INIT-3."""


class SoftwareUnknown(
    ProtocolError, code="SOFTWARE_UNKNOWN", status=_DENY, meaning="software is not in the signed reference values"
):
    """No reference value of that software identifier is in force."""


class SoftwareChanged(
    ProtocolError, code="SOFTWARE_CHANGED", status=_DENY, meaning="installed software differs from its reference value"
):
    """One changed byte is enough."""


class ReleaseInvalid(
    ProtocolError, code="RELEASE_INVALID", status=_DENY, meaning="release signature or fingerprint is wrong"
):
    """ATT-D0: the package is not the one the software provider signed and the bank vouched for."""


class PaymentClosed(
    ProtocolError, code="PAYMENT_CLOSED", status=_STATE, meaning="secure element is closed until a good launch"
):
    """The SE's own copy of the PCR differs, or the bank refused the launch."""


class PassInvalid(
    ProtocolError, code="PASS_INVALID", status=_DENY, meaning="launch pass is not for this account, TSM or key"
):
    """The pass is of another AID, for another TSM, expired, altered, or not by the grant's bank."""


class PossessionInvalid(
    ProtocolError, code="POSSESSION_INVALID", status=_DENY, meaning="the shower of the pass does not hold its key"
):
    """No valid proof of possession by the pass's key over this session (a stolen pass)."""


# --- TID -----------------------------------------------------------------------------------------------------------
class CommitmentMismatch(
    ProtocolError, code="COMMITMENT_MISMATCH", status=_DENY, meaning="commitment does not open to this TID and key"
):
    """com ≠ H(TID, PK_TID, SID, r)."""


class CreditMismatch(
    ProtocolError, code="CREDIT_MISMATCH", status=_DENY, meaning="expiry or limit is not the account's"
):
    """TID-3c: the values named by the user or the TSM are not those the bank certified."""


class AidAlreadyGranted(
    ProtocolError, code="AID_ALREADY_GRANTED", status=_TAKEN, meaning="the anonymous account has a live grant"
):
    """UNIQUE(AID) over live grants, until the TSM's release."""


class GrantUnknown(
    ProtocolError, code="GRANT_UNKNOWN", status="NOT_FOUND", meaning="no live grant of that account and session"
):
    """A release names the session; an old release frees nothing."""


class IdentifierTaken(
    ProtocolError, code="IDENTIFIER_TAKEN", status=_TAKEN, meaning="the identifier belongs to another key"
):
    """A TID, terminal or name is registered under a different key."""


class LimitExceeded(
    ProtocolError, code="LIMIT_EXCEEDED", status=_STATE, meaning="over the account's, the user's or the card's limit"
):
    """The sum asked for is over a limit in force; or a refund is of nothing, or of another currency."""


# --- CARD ----------------------------------------------------------------------------------------------------------
class CardKeyInvalid(
    ProtocolError, code="CARD_KEY_INVALID", status=_DENY, meaning="card key is weak, unendorsed or not possessed"
):
    """PK_C has a wrong size or exponent, is not under the signed root, or S_C does not verify."""


class CardDataInvalid(
    ProtocolError, code="CARD_DATA_INVALID", status=_BAD, meaning="EMV data is not well formed or not certified"
):
    """TLV, certificate or record of a card is wrong."""


# --- PAY -----------------------------------------------------------------------------------------------------------
class PinWeak(ProtocolError, code="PIN_WEAK", status=_BAD, meaning="PIN is too simple, or like a personal number"):
    """TW-G3a, CN-4: one repeated digit, a run up or down, or part of a birth date, identity or telephone number."""


class PinInvalid(ProtocolError, code="PIN_INVALID", status=_DENY, meaning="PIN is wrong"):
    """Counted; the fifth in a row locks it (TW-G3b)."""


class NoCard(ProtocolError, code="NO_CARD", status=_STATE, meaning="no card is ready for this amount"):
    """The account's cards are used up, expired, or for smaller amounts: renew them."""


class PurchaseUnknown(
    ProtocolError, code="PURCHASE_UNKNOWN", status="NOT_FOUND", meaning="no such purchase of this merchant"
):
    """No sale, or no approved purchase, is kept under this name."""


# --- SETTLE, FREEZE, TRACE -------------------------------------------------------------------------------------------
class AlreadySettled(
    ProtocolError, code="ALREADY_SETTLED", status=_TAKEN, meaning="a purchase or refund was paid out before"
):
    """Each is settled once; a purchase that was is refunded, not reversed."""


class ClaimOutOfOrder(
    ProtocolError, code="CLAIM_OUT_OF_ORDER", status=_STATE, meaning="not the claim that comes next for this grant"
):
    """A sequence number is repeated or skipped, or a total is below the one before."""


class OverClaim(ProtocolError, code="OVER_CLAIM", status=_DENY, meaning="claims more than it may"):
    """The total is over the grant, not in whole tranches before the close, or credits more than was claimed."""


class AccountStopped(
    ProtocolError, code="ACCOUNT_STOPPED", status=_STATE, meaning="the account is frozen or deleted; nothing is issued"
):
    """CN-11: the bank or the TSM stopped it. Only the side that did lifts it; a deletion is final."""


class TraceChainInvalid(
    ProtocolError, code="TRACE_CHAIN_INVALID", status=_DENY, meaning="evidence does not lead from account to purchase"
):
    """A link is missing, forged, swapped, or of another account, card or purchase. No person is named."""


class TraceReasonUnknown(
    ProtocolError, code="TRACE_REASON_UNKNOWN", status=_DENY, meaning="not a reason for which a person is named"
):
    """The bank's list of reasons is closed."""


class TraceRepeated(
    ProtocolError, code="TRACE_REPEATED", status=_TAKEN, meaning="another case was opened for this purchase"
):
    """UNIQUE(PK_C, ATC) over cases."""


class OfficersInsufficient(
    ProtocolError,
    code="OFFICERS_INSUFFICIENT",
    status=_DENY,
    meaning="two officers must sign, each for themselves",
):
    """One officer, the same one twice, or one whom the bank did not appoint."""


class LogBroken(ProtocolError, code="LOG_BROKEN", status=_STATE, meaning="the audit log was altered or cut"):
    """An entry is missing, changed, out of order or not signed by the log's keeper."""


class EvidenceIncomplete(
    ProtocolError, code="EVIDENCE_INCOMPLETE", status=_DENY, meaning="the bundle does not prove what it claims"
):
    """A signature, a certificate or a link between two statements is missing or wrong."""


class BooksDiffer(ProtocolError, code="BOOKS_DIFFER", status=_STATE, meaning="two parties' books do not agree"):
    """Names the account and both sums."""


# --- service -------------------------------------------------------------------------------------------------------
class Unavailable(ProtocolError, code="UNAVAILABLE", status="UNAVAILABLE", meaning="a party cannot be reached now"):
    """Unreachable is never untrusted: send the same bytes again later."""


class PeerAnswerInvalid(
    ProtocolError, code="PEER_ANSWER_INVALID", status="UNAVAILABLE", meaning="a party's answer does not verify"
):
    """Nothing was accepted, and the question stays open: the same bytes may bring a good answer. A forged answer must
    not end what an honest party has granted."""


class Overloaded(
    ProtocolError, code="OVERLOADED", status="RESOURCE_EXHAUSTED", meaning="no room now; send the same bytes later"
):
    """A bounded pool or queue is full."""


class Internal(ProtocolError, code="INTERNAL", status="INTERNAL", meaning="a fault on this side; nothing was changed"):
    """An unexpected exception, logged locally by its type."""


# --- set-up (of these only STORAGE_FAULT travels: the store raises it under a running server) ------------------------
class SettingsInvalid(
    ProtocolError, code="SETTINGS_INVALID", status=_STATE, meaning="settings file is missing or has a wrong value"
):
    """Names the file, the setting and the mend."""


class KeystoreLocked(
    ProtocolError, code="KEYSTORE_LOCKED", status=_STATE, meaning="keystore does not open with this passphrase"
):
    """Wrong passphrase or damaged keystore file."""


class StorageFault(
    ProtocolError, code="STORAGE_FAULT", status="UNAVAILABLE", meaning="database cannot be read or written"
):
    """Missing, read-only, full, of another version, or damaged."""


class PortInUse(
    ProtocolError, code="PORT_IN_USE", status=_STATE, meaning="the address is taken or may not be listened on"
):
    """Another server listens there."""
