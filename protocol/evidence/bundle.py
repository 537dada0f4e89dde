"""A bundle of evidence: signed messages as they were received, what opens them, and what they are said to prove.

It is handed to somebody who was not there and who has the CA's certificate only (`bundle_checks`). Nothing in it is
believed for being in it. What a statement needs is in the part of its name; `asked` is the digest of a request that an
answer is bound to, where the request itself is not kept, or was sealed to somebody else.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Final, Self, TypeAlias

from protocol.card.oda import RID_BYTES, CaKey
from protocol.card.rsa import MAX_MODULUS_BYTES, MIN_MODULUS_BYTES, PublicKey
from protocol.envelope import OVERHEAD_BYTES
from protocol.errors import Malformed
from protocol.messages.card import MODULUS, EmvRecord
from protocol.messages.settle import Settlement
from protocol.messages.trace import MAX_CHAIN_OBJECT, MAX_PATH
from protocol.pki import MAX_CERTIFICATE_BYTES
from protocol.roles.tsm.claim_tree import LEAVES, SALT_BYTES
from protocol.schema import Bytes, Choice, Digest, Many, Nested, Nonce, Object, Record, Uint
from protocol.types import MAX_CARDS

MAX_CERTIFICATES: Final = 16
MAX_CA_KEYS: Final = 4
LongObject: TypeAlias = Annotated[bytes, Bytes(1, MAX_CHAIN_OBJECT)]
Path: TypeAlias = Annotated[tuple[bytes, ...], Many(Bytes(32, 32), 0, MAX_PATH)]


class Statement(StrEnum):
    """What a bundle may claim to prove, in the order in which one rests on another."""

    REGISTRATION = "registration"
    """A bank promised an amount to a TID at a TSM, for an AID."""
    ISSUANCE = "issuance"
    """A card was certified for a key that this TID had signed for."""
    PURCHASE = "purchase"
    """A card (of this TID, if an issuance is claimed too) signed a purchase, and the TSM approved it."""
    RECEIPT = "receipt"
    """The TSM approved a sale, by its own word; nothing of the card."""
    PAYOUT = "payout"
    """The TSM said that it has paid the settlement with this sale out."""
    CLAIM = "claim"
    """A bank owes the TSM by a claim that has this purchase among its receipts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmvCaKey(Record):
    """The key of an EMV certification authority, by the bundle's own word."""

    NAME: ClassVar[str] = "emv-ca-key"
    rid: Annotated[bytes, Bytes(RID_BYTES, RID_BYTES)]
    index: Annotated[int, Uint(255)]
    modulus: Annotated[bytes, Bytes(MIN_MODULUS_BYTES, MAX_MODULUS_BYTES)]

    @classmethod
    def of(cls, ca: CaKey) -> Self:
        """The record of a key."""
        return cls(rid=ca.rid, index=ca.index, modulus=ca.key.to_bytes())

    def key(self) -> CaKey:
        """Raises: CardKeyInvalid."""
        return CaKey(rid=self.rid, index=self.index, key=PublicKey.from_bytes(self.modulus))


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipData(Record):
    """What a card says about itself: its certificates, and all that they cover."""

    NAME: ClassVar[str] = "chip-data"
    application: Annotated[bytes, Bytes(5, 16)]
    aip: Annotated[bytes, Bytes(2, 2)]
    afl: Annotated[bytes, Bytes(4, 64)]
    records: Annotated[tuple[EmvRecord, ...], Many(Nested(EmvRecord), 1, 16)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrationProof(Record):
    """CERT_TID by the TSM, TSMINFO by the TID's key with what opens com, and the bank's promise."""

    NAME: ClassVar[str] = "registration-proof"
    tid_certificate: Object
    tsm_info: Object
    promise: Object


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuanceProof(Record):
    """The root over card keys by the TID's key, the way from this card's leaf to it, and the card's certificates."""

    NAME: ClassVar[str] = "issuance-proof"
    card_keys: LongObject
    modulus: Annotated[bytes, MODULUS]
    salt: Nonce
    position: Annotated[int, Uint(MAX_CARDS - 1)]
    leaves: Annotated[int, Uint(MAX_CARDS)]
    path: Path
    chip: Annotated[ChipData, Nested(ChipData)]


@dataclass(frozen=True, slots=True, kw_only=True)
class PurchaseProof(Record):
    """The merchant's word for the terminal's key, the terminal's request, and the TSM's answer to it."""

    NAME: ClassVar[str] = "purchase-proof"
    sign_on: Object
    authorization: LongObject
    receipt: LongObject


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalProof(Record):
    """The TSM's answer alone, as a merchant keeps it."""

    NAME: ClassVar[str] = "approval-proof"
    receipt: LongObject
    asked: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class PayoutProof(Record):
    """The merchant's settlement and the TSM's answer to it."""

    NAME: ClassVar[str] = "payout-proof"
    settlement: Annotated[bytes, Bytes(1, Settlement.MAX_BYTES + OVERHEAD_BYTES)]
    payout: Object


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimProof(Record):
    """The TSM's claim, the bank's acceptance, and the way from the receipt's leaf to the claim's root.

    `claim` is signed anew for the bundle: what was sent is sealed to the bank. `salt` opens this leaf only.
    """

    NAME: ClassVar[str] = "claim-proof"
    claim: Object
    accepted: Object
    asked: Digest
    salt: Annotated[bytes, Bytes(SALT_BYTES, SALT_BYTES)]
    position: Annotated[int, Uint(LEAVES - 1)]
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle(Record):
    """`statements` are claimed, each once; a part stands in its list or is not there.

    `certificates` are DER, of the keys that signed; `emv_ca` are keys that the cards' certificates lead to.
    """

    NAME: ClassVar[str] = "evidence-bundle"
    MAX_BYTES: ClassVar[int] = 256 * 1024
    statements: Annotated[tuple[Statement, ...], Many(Choice(Statement), 1, len(Statement))]
    certificates: Annotated[tuple[bytes, ...], Many(Bytes(1, MAX_CERTIFICATE_BYTES), 0, MAX_CERTIFICATES)]
    emv_ca: Annotated[tuple[EmvCaKey, ...], Many(Nested(EmvCaKey), 0, MAX_CA_KEYS)] = ()
    registration: Annotated[tuple[RegistrationProof, ...], Many(Nested(RegistrationProof), 0, 1)] = ()
    issuance: Annotated[tuple[IssuanceProof, ...], Many(Nested(IssuanceProof), 0, 1)] = ()
    purchase: Annotated[tuple[PurchaseProof, ...], Many(Nested(PurchaseProof), 0, 1)] = ()
    receipt: Annotated[tuple[ApprovalProof, ...], Many(Nested(ApprovalProof), 0, 1)] = ()
    payout: Annotated[tuple[PayoutProof, ...], Many(Nested(PayoutProof), 0, 1)] = ()
    claim: Annotated[tuple[ClaimProof, ...], Many(Nested(ClaimProof), 0, 1)] = ()

    @classmethod
    def parse(cls, plain: Any) -> Self:
        """Raises: Malformed, Oversize."""
        bundle = super(Bundle, cls).parse(plain)
        if len(set(bundle.statements)) != len(bundle.statements):
            raise Malformed("a statement is claimed twice")
        return bundle
