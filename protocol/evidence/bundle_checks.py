"""What a bundle of evidence proves to somebody who has the CA's certificate only, and what it does not prove.

Statement by statement, link by link: each link is a signature, a certificate or a hash, and the first that does not
hold is named. A signature is judged as of its own time, since evidence is old when it is needed. A statement that rests
on another that was claimed is not proved unless that one is (design §3 TRACE; non-repudiation).
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, TypeAlias, TypeVar

from protocol import envelope
from protocol.card.afl import by_place
from protocol.card.chain import verify_card
from protocol.card.oda import CaKey
from protocol.card.pan import mask_pan
from protocol.commitments import card_leaf, commitment, verify_merkle_path
from protocol.crypto import PublicKey, sha256
from protocol.envelope import OBJECT_LIFETIME_S, Wire
from protocol.errors import FieldMismatch, NotYetValid, ProtocolError
from protocol.evidence.bundle import Bundle, Statement
from protocol.evidence.bundle_signatures import Signatures
from protocol.evidence.bundle_verdict import Finding, Verdict, limits_of
from protocol.messages import pay
from protocol.messages.card import CardKeys
from protocol.messages.claim import Claim, ClaimAccepted
from protocol.messages.merchant import SignOn
from protocol.messages.pay import Authorization, AuthorizationDecision, Decided
from protocol.messages.service import Promise, TidCertificate, TsmInfo
from protocol.messages.settle import Payout, SettledSale, Settlement
from protocol.roles.tsm.claim_tree import ReceiptProof, verify_receipt
from protocol.roles.tsm.purchase import Implausible, PurchaseChecks, Signed
from protocol.types import MAX_SKEW_S, Role

P = TypeVar("P")
Says: TypeAlias = dict[str, str | int]


class Link(StrEnum):
    """What may not hold, by the name that the verdict has for it."""

    PART = "part"
    """What the statement needs is not in the bundle."""
    REST = "rests-on"
    """The statement that it rests on is not proved."""
    TID_CERTIFICATE = "tid-certificate"
    TSM_INFO = "tsm-info"
    COMMITMENT = "commitment"
    PROMISE = "promise"
    CARD_KEYS = "card-keys"
    LEAF = "leaf"
    CARD_CERTIFICATE = "card-certificate"
    SIGN_ON = "sign-on"
    AUTHORIZATION = "authorization"
    CARD_SIGNATURE = "card-signature"
    CARD = "card"
    """The card of the purchase is the one that was issued."""
    ACCOUNT = "account"
    """TSM, bank, AID and session are those of the registration."""
    RECEIPT = "receipt"
    SETTLEMENT = "settlement"
    PAYOUT = "payout"
    CLAIM = "claim"
    CLAIM_ACCEPTED = "claim-accepted"
    CLAIM_LEAF = "claim-leaf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A grant and whose key it is for."""

    info: TsmInfo
    pk_tid: PublicKey
    bank: str
    tsm: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A card key and its number."""

    modulus: bytes = field(repr=False)
    pan: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bought:
    """An approval by this TSM."""

    decided: Decided = field(repr=False)
    tsm: str


def verify_bundle(
    bundle: Bundle, *, root: bytes, now_s: int, emv_ca: tuple[CaKey, ...] | None = None
) -> Verdict:  # fmt: skip
    """Judge every statement that the bundle claims.

    Args:
        bundle: as parsed.
        root: the CA's certificate, DER.
        now_s: Unix seconds; what was signed later than that is not believed.
        emv_ca: keys of the card scheme, if the verifier has them; else the bundle's own are taken, and the verdict
            says so.
    """
    bench = _Bench(bundle, Signatures(bundle.certificates, root=root, now_s=now_s), emv_ca)
    return Verdict(findings=bench.judge(), not_proved=limits_of(bundle.statements, own_emv_ca=emv_ca is None))


class _Bench:
    """One bundle before the judge, and what was proved so far."""

    def __init__(self, bundle: Bundle, signatures: Signatures, emv_ca: tuple[CaKey, ...] | None) -> None:
        self._bundle = bundle
        self._signatures = signatures
        self._emv_ca = emv_ca
        self._proved: dict[Statement, Any] = {}

    def judge(self) -> tuple[Finding, ...]:
        steps: dict[Statement, Callable[[], tuple[Any, Says]]] = {
            Statement.REGISTRATION: self.registration, Statement.ISSUANCE: self.issuance,
            Statement.PURCHASE: self.purchase, Statement.RECEIPT: self.receipt, Statement.PAYOUT: self.payout,
            Statement.CLAIM: self.claim,
        }  # fmt: skip
        return tuple(
            self._finding(statement, step) for statement, step in steps.items() if statement in self._bundle.statements
        )

    def _finding(self, statement: Statement, step: Callable[[], tuple[Any, Says]]) -> Finding:
        try:
            self._proved[statement], says = step()
        except _Broken as broken:
            self._signatures.take()
            return Finding(statement=statement, proved=False, reason=str(broken))
        return Finding(
            statement=statement, proved=True, says=tuple(says.items()), signatures=self._signatures.take()
        )  # fmt: skip

    # --- statements ------------------------------------------------------------------------------------------------
    def registration(self) -> tuple[Registered, Says]:
        """The TSM certified the TID's key; that key named bank, AID and terms; the bank promised them, and com."""
        part = self._part(self._bundle.registration)
        with _link(Link.TID_CERTIFICATE):
            certified, tsm = self._signatures.certified(
                TidCertificate, part.tid_certificate, Role.TSM, max_lifetime_s=OBJECT_LIFETIME_S
            )
            certificate = certified.message
            _alike(certified.claims.audience, certificate.tid)
            pk_tid = PublicKey.from_bytes(certificate.pk_tid)
        with _link(Link.TSM_INFO):
            info = self._signatures.signed(
                TsmInfo, part.tsm_info, pk_tid, issuer=certificate.tid, audience=tsm.name
            ).message
            _alike((info.tid, info.expires_at_s), (certificate.tid, certificate.expires_at_s))
        with _link(Link.COMMITMENT):
            com = commitment(tid=info.tid, pk_tid=pk_tid.encoded, sid=info.sid, r=info.r)
            _alike(com, info.com)
        with _link(Link.PROMISE):
            promised, bank = self._signatures.certified(
                Promise, part.promise, Role.BANK, audience=tsm.name, max_lifetime_s=OBJECT_LIFETIME_S
            )
            _alike(bank.name, info.bank)
            _alike(promised.message, _promise_for(info))
        says: Says = {
            "tid": info.tid, "aid": info.aid, "bank": bank.name, "tsm": tsm.name, "limit_minor": info.limit_minor,
            "currency": info.currency, "expires_at_s": info.expires_at_s,
        }  # fmt: skip
        return Registered(info=info, pk_tid=pk_tid, bank=bank.name, tsm=tsm.name), says

    def issuance(self) -> tuple[Issued, Says]:
        """The TID's key signed the root over this card's key, and the EMV issuer certified number and key."""
        part = self._part(self._bundle.issuance)
        account = self._rests_on(Statement.REGISTRATION)
        with _link(Link.CARD_KEYS):
            opened = self._signatures.signed(
                CardKeys, part.card_keys, account.pk_tid, issuer=account.info.tid, audience=account.tsm
            )
            _alike(opened.message.tid, account.info.tid)
        with _link(Link.LEAF):
            leaf = card_leaf(salt=part.salt, modulus=part.modulus)
            verify_merkle_path(
                leaf, position=part.position, number=part.leaves, path=part.path, root=opened.message.root
            )
        with _link(Link.CARD_CERTIFICATE):
            chip = part.chip
            icc = verify_card(
                aid=chip.application, aip=chip.aip, afl=chip.afl, records=by_place(chip.records),
                ca_keys=self._ca_keys(), today=_day(opened.claims.issued_at_s),
            ).icc  # fmt: skip
            _alike(icc.key.to_bytes(), part.modulus)
        return Issued(modulus=part.modulus, pan=icc.pan), {"tid": account.info.tid, "card": mask_pan(icc.pan)}

    def purchase(self) -> tuple[Bought, Says]:
        """The merchant vouched for the terminal, which asked; the card signed what it asked; the TSM approved that."""
        part = self._part(self._bundle.purchase)
        with _link(Link.SIGN_ON):
            opened, merchant = self._signatures.certified(SignOn, part.sign_on, Role.MERCHANT)
            terminal, tsm = opened.message, opened.claims.audience
        with _link(Link.AUTHORIZATION):
            key = PublicKey.from_bytes(terminal.terminal_key)
            asked = self._signatures.signed(
                Authorization, part.authorization, key, issuer=merchant.name, audience=tsm, role=Role.MERCHANT.value
            )
            _alike(asked.message.terminal, terminal.terminal)
            if asked.claims.issued_at_s < opened.claims.issued_at_s - MAX_SKEW_S:
                raise NotYetValid("before the terminal had this key")
        purchase = asked.message.purchase
        with _link(Link.CARD_SIGNATURE):
            made = self._read(purchase, asked.claims.issued_at_s)
            shown = (made.tap.merchant, made.tap.terminal, made.tap.merchant_name)
            _alike(shown, (terminal.merchant_identifier, terminal.terminal, terminal.merchant_name))
        with _link(Link.RECEIPT):
            digest = Wire(cose=part.authorization).digest
            decided, signer = self._decided(part.receipt, digest, merchant.name)
            _alike(signer, tsm)
            _alike(decided, _approval_of(purchase, made, merchant.name, decided))
        bought = Bought(decided=decided, tsm=tsm)
        self._check_account(bought, made)
        return bought, {**_sale(bought), "merchant_name": terminal.merchant_name, "card": mask_pan(made.pan)}

    def receipt(self) -> tuple[Bought, Says]:
        """The TSM approved, by its own word."""
        part = self._part(self._bundle.receipt)
        with _link(Link.RECEIPT):
            merchant = envelope.peek(AuthorizationDecision, part.receipt).claims.audience
            decided, tsm = self._decided(part.receipt, part.asked, merchant)
            _alike((decided.merchant, decided.verdict), (merchant, pay.Verdict.APPROVED))
        bought = Bought(decided=decided, tsm=tsm)
        if Statement.PURCHASE in self._bundle.statements:
            with _link(Link.REST):
                _alike(bought, self._rests_on(Statement.PURCHASE))
        return bought, _sale(bought)

    def payout(self) -> tuple[Settlement, Says]:
        """The merchant settled this sale, and the TSM says that the settlement is paid out."""
        part = self._part(self._bundle.payout)
        bought = self._approval()
        decided = bought.decided
        with _link(Link.SETTLEMENT):
            opened, merchant = self._signatures.certified(
                Settlement, part.settlement, Role.MERCHANT, audience=bought.tsm
            )
            settled = opened.message
            _alike((merchant.name, settled.currency), (decided.merchant, decided.currency))
            if SettledSale(sale=decided.sale, amount_minor=decided.amount_minor) not in settled.sales:
                raise FieldMismatch("a settlement of other sales")
        with _link(Link.PAYOUT):
            paid, tsm = self._signatures.certified(
                Payout, part.payout, Role.TSM, audience=merchant.name,
                request_digest=Wire(cose=part.settlement).digest,
            )  # fmt: skip
            _alike(tsm.name, bought.tsm)
            whole = Payout(batch=settled.batch, currency=settled.currency, total_minor=settled.total_minor)
            _alike(paid.message, whole)
        return settled, {
            "merchant": merchant.name, "tsm": tsm.name, "settlement": settled.batch.hex(),
            "total_minor": settled.total_minor, "currency": settled.currency, "sales": len(settled.sales),
        }  # fmt: skip

    def claim(self) -> tuple[Claim, Says]:
        """TSM and bank signed the same claim, and the receipt's leaf is under its root."""
        part = self._part(self._bundle.claim)
        bought = self._approval()
        with _link(Link.CLAIM):
            opened, tsm = self._signatures.certified(Claim, part.claim, Role.TSM)
            claimed = opened.message
            _alike(tsm.name, bought.tsm)
        with _link(Link.CLAIM_ACCEPTED):
            accepted, bank = self._signatures.certified(
                ClaimAccepted, part.accepted, Role.BANK, audience=tsm.name, request_digest=part.asked
            )
            _alike(bank.name, opened.claims.audience)
            _alike(accepted.message.plain(), claimed.plain())
        with _link(Link.CLAIM_LEAF):
            proof = ReceiptProof(
                sid_digest=claimed.sid_digest, sequence=claimed.sequence, salt=part.salt, position=part.position,
                path=part.path,
            )  # fmt: skip
            verify_receipt(proof, receipt_digest=sha256(bought.decided.to_bytes()), root=claimed.root)
        if Statement.REGISTRATION in self._bundle.statements:
            account = self._rests_on(Statement.REGISTRATION)
            with _link(Link.ACCOUNT):
                named = (account.bank, account.info.aid, sha256(account.info.sid))
                _alike((bank.name, claimed.aid, claimed.sid_digest), named)
        return claimed, {
            "bank": bank.name, "tsm": tsm.name, "sequence": claimed.sequence, "claimed_minor": claimed.claimed_minor,
            "credited_minor": claimed.credited_minor, "currency": claimed.currency,
        }  # fmt: skip

    # --- what statements share -------------------------------------------------------------------------------------
    def _part(self, parts: Sequence[P]) -> P:
        if not parts:
            raise _Broken(Link.PART.value)
        return parts[0]

    def _rests_on(self, statement: Statement) -> Any:
        if statement not in self._proved:
            raise _Broken(f"{Link.REST.value} {statement.value}")
        return self._proved[statement]

    def _approval(self) -> Bought:
        """The purchase, or where none is claimed the receipt alone."""
        is_purchase = Statement.PURCHASE in self._bundle.statements
        bought: Bought = self._rests_on(Statement.PURCHASE if is_purchase else Statement.RECEIPT)
        return bought

    def _check_account(self, bought: Bought, made: Signed) -> None:
        """Where they are claimed: the purchase was made with the card issued, at the TSM of the registration."""
        if Statement.ISSUANCE in self._bundle.statements:
            issued = self._rests_on(Statement.ISSUANCE)
            with _link(Link.CARD):
                _alike((made.key.to_bytes(), made.pan), (issued.modulus, issued.pan))
        if Statement.REGISTRATION in self._bundle.statements:
            account = self._rests_on(Statement.REGISTRATION)
            with _link(Link.ACCOUNT):
                _alike(bought.tsm, account.tsm)

    def _decided(self, receipt: bytes, digest: bytes, merchant: str) -> tuple[Decided, str]:
        """What a TSM answered to this request, and which."""
        opened, signer = self._signatures.certified(
            AuthorizationDecision, receipt, Role.TSM, audience=merchant, request_digest=digest
        )
        return opened.message.decided, signer.name

    def _read(self, purchase: pay.EmvPurchase, at_s: int) -> Signed:
        """Certificates, records and SDAD, as of when the terminal asked."""
        try:
            return PurchaseChecks(self._ca_keys()).read(purchase, _day(at_s))
        except Implausible as exc:
            raise FieldMismatch(exc.reason.value) from exc

    def _ca_keys(self) -> tuple[CaKey, ...]:
        return tuple(one.key() for one in self._bundle.emv_ca) if self._emv_ca is None else self._emv_ca


class _Broken(Exception):
    """A link that does not hold."""


@contextmanager
def _link(link: Link) -> Iterator[None]:
    try:
        yield
    except ProtocolError as exc:
        raise _Broken(f"{link.value} ({exc.code})") from exc


def _alike(found: object, expected: object) -> None:
    if found != expected:
        raise FieldMismatch


def _promise_for(info: TsmInfo) -> Promise:
    return Promise(
        sid=info.sid, aid=info.aid, com=info.com, binfo_digest=info.binfo_digest, n2=info.n2,
        expires_at_s=info.expires_at_s, limit_minor=info.limit_minor, currency=info.currency,
    )  # fmt: skip


def _approval_of(purchase: pay.EmvPurchase, made: Signed, merchant: str, decided: Decided) -> Decided:
    """An approval of what the card signed; the ARPC is for the card only."""
    tap = made.tap
    return replace(
        decided, sale=purchase.sale, verdict=pay.Verdict.APPROVED, merchant=merchant, terminal=tap.terminal,
        pan=made.pan, atc=purchase.atc, unpredictable=tap.unpredictable, amount_minor=tap.amount_minor,
        currency=tap.currency, issuer_data=purchase.issuer_data, cryptogram=made.cryptogram,
    )  # fmt: skip


def _sale(bought: Bought) -> Says:
    decided = bought.decided
    return {
        "merchant": decided.merchant, "terminal": decided.terminal, "tsm": bought.tsm, "sale": decided.sale.hex(),
        "amount_minor": decided.amount_minor, "currency": decided.currency,
    }  # fmt: skip


def _day(at_s: int) -> datetime.date:
    return datetime.datetime.fromtimestamp(at_s, tz=datetime.UTC).date()
