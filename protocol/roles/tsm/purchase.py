"""What a terminal forwards of a card, checked: chain, SDAD, ARQC, and that all of it speaks of one purchase.

EMV Book 2 §6, §8; design §3 PAY. Nothing is decided here, and nothing is believed that the card did not sign.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Final

from protocol.card import profile
from protocol.card.afl import by_place
from protocol.card.chain import VerifiedCard, verify_card
from protocol.card.combined import CryptogramType, cryptogram_input, transaction_hash, verify_combined
from protocol.card.cryptogram import compute_cryptogram, compute_response, derive_session_key
from protocol.card.cvr import Cvr, IssuerData
from protocol.card.oda import CaKey
from protocol.card.profile import Channel
from protocol.card.rsa import PublicKey
from protocol.card.tap import Tap
from protocol.crypto import same
from protocol.errors import CardDataInvalid, Expired, Oversize
from protocol.messages.pay import EmvPurchase
from protocol.roles.tsm.tables import CardRow

# As numbers: bits are looked up for every purchase, and in an enumeration that takes many times as long.
_ARQC: Final = int(Cvr.ARQC)
_CONTACT: Final = int(Cvr.CONTACT)
_DEVICE_VERIFIED: Final = int(Cvr.DEVICE_VERIFIED)
_CVR_OF_AN_ARQC: Final = int(
    Cvr.ARQC
    | (Cvr.COMPLETED | Cvr.ISSUER_AUTHENTICATED)
    | (Cvr.CONSENT_MISMATCH | Cvr.VERIFICATION_CONTRADICTED | Cvr.TERMINAL_DECLINED)
)
"""Of these, an ARQC of an honest card has the first and no other."""
_CONSENTED: Final = (0x9F02, 0x5F2A, 0x9F16, 0x9F1C, 0x9F37)
_PURCHASE: Final = b"\x00"
"""Transaction type 9C of goods and services; cash and refunds have others (ISO 8583 processing codes)."""
_NO_CASH: Final = bytes(6)
"""Other amount 9F03, paid out in cash."""
_DAY: Final = datetime.timedelta(days=1)


class Reason(StrEnum):
    """Why a purchase is declined. Kept at the TSM; a merchant learns a `Verdict` only."""

    APPLICATION_UNKNOWN = "APPLICATION_UNKNOWN"
    DATA_INVALID = "DATA_INVALID"
    CARD_UNKNOWN = "CARD_UNKNOWN"
    CERTIFICATE_INVALID = "CERTIFICATE_INVALID"
    NOT_ONLINE = "NOT_ONLINE"
    SIGNATURE_INVALID = "SIGNATURE_INVALID"
    CRYPTOGRAM_INVALID = "CRYPTOGRAM_INVALID"
    CONSENT_MISMATCH = "CONSENT_MISMATCH"
    MERCHANT_MISMATCH = "MERCHANT_MISMATCH"
    DATE_IMPLAUSIBLE = "DATE_IMPLAUSIBLE"
    SALE_REUSED = "SALE_REUSED"
    REVERSED_BEFORE = "REVERSED_BEFORE"
    ATC_REUSED = "ATC_REUSED"
    OPENING_USED = "OPENING_USED"
    CARD_INACTIVE = "CARD_INACTIVE"
    CARD_EXPIRED = "CARD_EXPIRED"
    CARD_USED_UP = "CARD_USED_UP"
    CHANNEL_NOT_ALLOWED = "CHANNEL_NOT_ALLOWED"
    CURRENCY_NOT_ALLOWED = "CURRENCY_NOT_ALLOWED"
    VERIFICATION_MISSING = "VERIFICATION_MISSING"
    OVER_CARD_AMOUNT = "OVER_CARD_AMOUNT"
    OVER_CARD_TOTAL = "OVER_CARD_TOTAL"
    OVER_OWN_MAXIMUM = "OVER_OWN_MAXIMUM"
    ACCOUNT_ENDED = "ACCOUNT_ENDED"
    ACCOUNT_STOPPED = "ACCOUNT_STOPPED"
    STOPS_STALE = "STOPS_STALE"
    OVER_BALANCE = "OVER_BALANCE"


@lru_cache(maxsize=4)
def _days_about(today: datetime.date) -> frozenset[bytes]:
    """Yesterday, today and tomorrow as 9A says them."""
    return frozenset(bytes.fromhex((today + days * _DAY).strftime("%y%m%d")) for days in (-1, 0, 1))


class Implausible(Exception):
    """A purchase that no card of ours made as it stands; `reason` says which check failed."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """Records and dynamic data as the card certified and signed them; the cryptogram is not checked yet."""

    pan: str = field(repr=False)
    key: PublicKey = field(repr=False)
    tap: Tap
    issuer_data: IssuerData
    cryptogram: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Proved:
    """A purchase that the card made: this amount, merchant and terminal, under this counter and opening."""

    pan: str = field(repr=False)
    tap: Tap
    atc: int
    opening: bytes
    channel: Channel
    device_verified: bool
    cryptogram: bytes
    session_key: bytes = field(repr=False)

    def response(self, code: bytes) -> bytes:
        """ARPC for this response code."""
        return compute_response(self.session_key, self.cryptogram, code)


class PurchaseChecks:
    """The checks that need no lock, in their order. Each has a name, so that a test can show what it is good for."""

    def __init__(self, ca_keys: tuple[CaKey, ...]) -> None:
        self._ca_keys = ca_keys

    def read(self, purchase: EmvPurchase, today: datetime.date) -> Signed:
        """Certificates, records and SDAD. Raises: Implausible."""
        self.check_application(purchase)
        card = self.verify_chain(purchase, today)
        self.check_online(purchase)
        try:
            tap = Tap.from_pdol(purchase.pdol_data)
            issuer_data = IssuerData.from_bytes(purchase.issuer_data)
            said = profile.CDOL1.split(purchase.cdol_data)
        except CardDataInvalid as exc:
            raise Implausible(Reason.DATA_INVALID) from exc
        self.check_consent(tap, said, issuer_data.cvr)
        self.check_date(said, today)
        cryptogram = self.verify_signature(purchase, card.icc.key, tap)
        return Signed(pan=card.icc.pan, key=card.icc.key, tap=tap, issuer_data=issuer_data, cryptogram=cryptogram)

    def prove(self, read: Signed, purchase: EmvPurchase, card: CardRow) -> Proved:
        """The cryptogram under this card's kAC, and the key that the card was issued for. Raises: Implausible."""
        self.check_key(read, card)
        session_key = derive_session_key(card.k_ac, atc=purchase.atc)
        self.check_cryptogram(read, purchase, session_key)
        cvr = int(read.issuer_data.cvr)
        return Proved(
            pan=read.pan, tap=read.tap, atc=purchase.atc, opening=read.issuer_data.opening,
            channel=Channel.CONTACT if cvr & _CONTACT else Channel.CONTACTLESS,
            device_verified=bool(cvr & _DEVICE_VERIFIED), cryptogram=read.cryptogram, session_key=session_key,
        )  # fmt: skip

    def check_application(self, purchase: EmvPurchase) -> None:
        """The name that the terminal selected is ours: it is under no signature of the card."""
        if purchase.application != profile.AID:
            raise Implausible(Reason.APPLICATION_UNKNOWN)

    def verify_chain(self, purchase: EmvPurchase, today: datetime.date) -> VerifiedCard:
        """Records and key under a certificate of our CA."""
        try:
            return verify_card(
                aid=purchase.application, aip=purchase.aip, afl=purchase.afl, ca_keys=self._ca_keys, today=today,
                records=by_place(purchase.records),
            )  # fmt: skip
        except (CardDataInvalid, Expired, Oversize) as exc:
            raise Implausible(Reason.CERTIFICATE_INVALID) from exc

    def check_online(self, purchase: EmvPurchase) -> None:
        """The card asked for a decision: neither approved nor declined by itself."""
        if purchase.information != CryptogramType.ARQC:
            raise Implausible(Reason.NOT_ONLINE)

    def check_consent(self, tap: Tap, said: dict[int, bytes], cvr: Cvr) -> None:
        """The cryptogram's data say what the cardholder was shown: an honest card sees to it, and so does the TSM."""
        shown = tap.values()  # a data object list fills texts up with zeros (Book 3 §5.4)
        for tag in _CONSENTED:
            if said[tag] != shown[tag].ljust(len(said[tag]), b"\0"):
                raise Implausible(Reason.CONSENT_MISMATCH)
        if said[0x9C] != _PURCHASE or said[0x9F03] != _NO_CASH or int(cvr) & _CVR_OF_AN_ARQC != _ARQC:
            raise Implausible(Reason.CONSENT_MISMATCH)

    def check_date(self, said: dict[int, bytes], today: datetime.date) -> None:
        """The terminal's date is today's, so that a cryptogram got long before is refused."""
        # Terminals are in any time zone, so a day more or less.
        if said[0x9A] not in _days_about(today):
            raise Implausible(Reason.DATE_IMPLAUSIBLE)

    def verify_signature(self, purchase: EmvPurchase, key: PublicKey, tap: Tap) -> bytes:
        """The cryptogram out of the SDAD, which is over this very exchange."""
        expected = transaction_hash(
            purchase.pdol_data, (purchase.cdol_data,), information=purchase.information, atc=purchase.atc,
            issuer_data=purchase.issuer_data,
        )  # fmt: skip
        try:
            signed = verify_combined(
                key, purchase.signature, unpredictable=tap.unpredictable, transaction_hash=expected,
                information=purchase.information,
            )  # fmt: skip
        except CardDataInvalid as exc:
            raise Implausible(Reason.SIGNATURE_INVALID) from exc
        return signed.cryptogram

    def check_key(self, read: Signed, card: CardRow) -> None:
        """The certified key is the one that this number was issued for."""
        if not same(card.modulus, read.key.to_bytes()):
            raise Implausible(Reason.CERTIFICATE_INVALID)

    def check_cryptogram(self, read: Signed, purchase: EmvPurchase, session_key: bytes) -> None:
        """The ARQC is a MAC over all that the terminal said, AIP, ATC and 9F10."""
        data = cryptogram_input(
            purchase.cdol_data, aip=purchase.aip, atc=purchase.atc, issuer_data=purchase.issuer_data
        )
        if not same(compute_cryptogram(session_key, data), read.cryptogram):
            raise Implausible(Reason.CRYPTOGRAM_INVALID)
