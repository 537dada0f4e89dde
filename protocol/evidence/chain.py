"""From an account to one purchase, link by link: each is a signature or a hash that its maker can't take back.

AID → TID: SK_AID signed com in BINFO, and com opens to the TID's key. TID → PK_C: SK_TID signed the root over the leaf
of the card. PK_C → purchase: the card signed amount, merchant and counter. The receipt is the TSM's own word for that
purchase. So nobody, the TSM that sees everything included, can lead from an account to a purchase that it did not make
(design §3 TRACE).

Evidence is judged as of its own time: it is old when somebody needs it, and keys and certificates end.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeVar

from protocol import cose, envelope
from protocol.card import profile
from protocol.card.oda import CaKey
from protocol.card.tap import Tap
from protocol.commitments import card_leaf, commitment, verify_merkle_path
from protocol.crypto import PublicKey, same, sha256
from protocol.envelope import OVERHEAD_BYTES, Opened, Wire
from protocol.errors import FieldMismatch, ProtocolError, TraceChainInvalid, WrongMessage
from protocol.messages.card import CardKeys
from protocol.messages.pay import Authorization, AuthorizationDecision, Decided, Verdict
from protocol.messages.service import BankInfo
from protocol.messages.trace import TraceRequest
from protocol.roles.tsm.purchase import Implausible, PurchaseChecks, Signed
from protocol.schema import Message

M = TypeVar("M", bound=Message)
CENTURY: Final = 2000
"""Dates in cards have two digits for the year; these cards live in this century."""


class Link(StrEnum):
    """The links, by the name that the local log has for a broken one."""

    ACCOUNT = "account"
    COMMITMENT = "commitment"
    CARD = "card"
    PURCHASE = "purchase"
    RECEIPT = "receipt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parties:
    """Who the chain must speak of, and whose keys its links are checked with: from the PKI and the bank's own rows."""

    bank: str
    tsm: str
    tsm_key: PublicKey
    pk_aid: PublicKey
    k_aid: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """What a whole chain proves: this session's grant made this purchase with this card."""

    sid_digest: bytes
    com: bytes
    modulus: bytes = field(repr=False)
    tap: Tap = field(repr=False)
    decided: Decided = field(repr=False)

    @property
    def purchase_digest(self) -> bytes:
        """Digest of the TSM's decision: by it the purchase is named where nothing of it is to be told."""
        return sha256(self.decided.to_bytes())


class ChainChecks:
    """The links in their order. Each has a name, so that a test can show what it is good for."""

    purchases: type[PurchaseChecks] = PurchaseChecks

    def __init__(self, emv_ca: tuple[CaKey, ...]) -> None:
        self._emv_ca = emv_ca

    def verify(self, request: TraceRequest, parties: Parties) -> Traced:
        """Raises: TraceChainInvalid, whose detail is the first link that does not hold."""
        with _link(Link.ACCOUNT):
            info = self.open_account(request, parties)
        with _link(Link.COMMITMENT):
            self.check_commitment(request, info)
        with _link(Link.CARD):
            self.check_card(request, parties)
        with _link(Link.PURCHASE):
            signed = self.read_purchase(request)
            self.check_key(request, signed)
        with _link(Link.RECEIPT):
            decided = self.open_receipt(request, parties)
            self.check_receipt(request, signed, decided)
        return Traced(
            sid_digest=sha256(info.sid), com=info.com, modulus=request.modulus, tap=signed.tap, decided=decided
        )

    def open_account(self, request: TraceRequest, parties: Parties) -> BankInfo:
        """BINFO opens under K_AID,B and SK_AID signed it: for this bank, this TSM and one of its sessions."""
        signed = cose.decrypt(
            parties.k_aid, request.binfo, name=BankInfo.NAME, max_bytes=BankInfo.MAX_BYTES + OVERHEAD_BYTES
        )
        info = open_as_of_then(BankInfo, signed, parties.pk_aid, issuer=request.aid, audience=parties.bank).message
        if (info.aid, info.tsm) != (request.aid, parties.tsm):
            raise FieldMismatch("BINFO names another account or TSM")
        return info

    def check_commitment(self, request: TraceRequest, info: BankInfo) -> None:
        """AID → TID: com = H(TID, PK_TID, SID, r)."""
        com = commitment(tid=request.tid, pk_tid=request.pk_tid, sid=info.sid, r=request.r)
        if not same(com, info.com):
            raise FieldMismatch("com opens to something else")

    def check_card(self, request: TraceRequest, parties: Parties) -> None:
        """TID → PK_C: SK_TID signed, for this TSM, the root over the leaf of this card."""
        key = PublicKey.from_bytes(request.pk_tid)
        keys = open_as_of_then(CardKeys, request.card_keys, key, issuer=request.tid, audience=parties.tsm).message
        if keys.tid != request.tid:
            raise FieldMismatch("cards of another account")
        leaf = card_leaf(salt=request.salt, modulus=request.modulus)
        verify_merkle_path(leaf, position=request.position, number=request.leaves, path=request.path, root=keys.root)

    def read_purchase(self, request: TraceRequest) -> Signed:
        """PK_C → purchase: certificate, records and SDAD over PDOL and CDOL1 data, as of the date that the card signed.

        The terminal's own signature is not checked: the bank has no key for it, and the card's proves more.
        """
        purchase = _authorization(request).purchase
        said = profile.CDOL1.split(purchase.cdol_data)
        try:
            return self.purchases(self._emv_ca).read(purchase, purchase_date(said[0x9A]))
        except Implausible as exc:
            raise FieldMismatch(exc.reason.value) from exc

    def check_key(self, request: TraceRequest, signed: Signed) -> None:
        """The key that made the purchase is the leaf's."""
        if not same(signed.key.to_bytes(), request.modulus):
            raise FieldMismatch("certificate of another card")

    def open_receipt(self, request: TraceRequest, parties: Parties) -> Decided:
        """The TSM signed it as the answer to this very request, for the merchant who asked."""
        merchant = _peek_authorization(request).claims.issuer
        return open_as_of_then(
            AuthorizationDecision, request.receipt, parties.tsm_key, issuer=parties.tsm, audience=merchant,
            request_digest=Wire(cose=request.authorization).digest,
        ).message.decided  # fmt: skip

    def check_receipt(self, request: TraceRequest, signed: Signed, decided: Decided) -> None:
        """An approval of the same sale, card, counter and amount."""
        sign1, asked = _peek_authorization(request), _authorization(request)
        purchase, tap = asked.purchase, signed.tap
        named = (
            decided.sale, decided.verdict, decided.merchant, decided.terminal, decided.pan, decided.atc,
            decided.unpredictable, decided.amount_minor, decided.currency, decided.issuer_data, decided.cryptogram,
        )  # fmt: skip
        made = (
            request.sale, Verdict.APPROVED, sign1.claims.issuer, tap.terminal, signed.pan, purchase.atc,
            tap.unpredictable, tap.amount_minor, tap.currency, purchase.issuer_data, signed.cryptogram,
        )  # fmt: skip
        if named != made or (purchase.sale, asked.terminal) != (request.sale, tap.terminal):
            raise FieldMismatch("receipt of another purchase")


def open_as_of_then(
    kind: type[M], data: bytes, key: PublicKey, *, issuer: str, audience: str, request_digest: bytes = b""
) -> Opened[M]:
    """A message of long ago, verified as its receiver did when it was new. Raises: what `envelope.believe` raises."""
    sign1 = envelope.peek(kind, data)
    return envelope.believe(
        kind, sign1, key, issuer=issuer, audience=audience, now_s=sign1.claims.issued_at_s,
        request_digest=request_digest,
    )  # fmt: skip


def purchase_date(digits: bytes) -> datetime.date:
    """9A, YYMMDD. Raises: FieldMismatch when it is no date."""
    text = digits.hex()
    try:
        return datetime.date(CENTURY + int(text[:2]), int(text[2:4]), int(text[4:]))
    except ValueError as exc:
        raise FieldMismatch("the purchase has no date") from exc


def _peek_authorization(request: TraceRequest) -> cose.Sign1:
    sign1 = envelope.peek(Authorization, request.authorization)
    if sign1.name != Authorization.NAME:
        raise WrongMessage("not a terminal's request")
    return sign1


def _authorization(request: TraceRequest) -> Authorization:
    return Authorization.from_bytes(_peek_authorization(request).payload)


@contextmanager
def _link(link: Link) -> Iterator[None]:
    try:
        yield
    except ProtocolError as exc:
        raise TraceChainInvalid(link.value) from exc
