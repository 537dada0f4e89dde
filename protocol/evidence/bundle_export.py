"""Bundles of evidence out of what was kept: at the TSM about one purchase, at the merchant about one sale.

Nothing is shown that the statements do not need: of the card's batch one leaf, of the claim's receipts one leaf. What
is handed out was verified as its reader will (`bundle_checks`).
"""

from __future__ import annotations

from typing import Final

from protocol import envelope
from protocol.crypto import PublicKey
from protocol.engine import EVIDENCE
from protocol.envelope import Stamp
from protocol.errors import EvidenceIncomplete, PurchaseUnknown, TraceChainInvalid, UnknownKey
from protocol.evidence.bundle import (
    ApprovalProof,
    Bundle,
    ChipData,
    ClaimProof,
    EmvCaKey,
    IssuanceProof,
    PayoutProof,
    PurchaseProof,
    RegistrationProof,
    Statement,
)
from protocol.evidence.bundle_checks import verify_bundle
from protocol.messages.claim import ClaimAccepted
from protocol.messages.merchant import SignOn
from protocol.messages.pay import Authorization
from protocol.messages.service import CreditProof
from protocol.messages.till import SaleProgress
from protocol.messages.trace import TraceRequest
from protocol.pki import Directory, Use
from protocol.ports import Entropy
from protocol.roles.merchant.party import Shop
from protocol.roles.merchant.tables import SALES, SETTLEMENTS
from protocol.roles.party import expect_state
from protocol.roles.tsm.claim_tree import prove_receipt
from protocol.roles.tsm.claims import claim_of
from protocol.roles.tsm.party import Tsm
from protocol.roles.tsm.tables import CLAIMS, PURCHASES, TID_LIST, TidEntry
from protocol.roles.tsm.trace import Disputed, build_trace
from protocol.rows import Key, Store

OF_A_PURCHASE: Final = (Statement.REGISTRATION, Statement.ISSUANCE, Statement.PURCHASE)


def export_purchase(
    tsm: Tsm, store: Store, *, merchant: str, sale: bytes, with_claim: bool, former: tuple[bytes, ...],
    root: bytes, now_s: int, entropy: Entropy,
) -> Bundle:  # fmt: skip
    """Registration, issuance and purchase, and if `with_claim` the claim of the (first) grant that it drew on.

    `former` are certificates of keys that were replaced since.

    Raises: PurchaseUnknown (also: in no claim yet), WrongState (not approved, reversed; the claim is not accepted),
        EvidenceIncomplete (something was not kept, or does not verify).
    """
    chain = _chain(tsm, store, merchant, sale, now_s, entropy)
    grant = _grant(store, merchant, sale)
    claims = (_claim(tsm, store, grant, merchant, sale, now_s, entropy),) if with_claim else ()
    bundle = Bundle(
        statements=(*OF_A_PURCHASE, *((Statement.CLAIM,) if with_claim else ())),
        emv_ca=tuple(EmvCaKey.of(ca) for ca in tsm.emv_ca),
        certificates=_certificates(tsm.directory, (grant.bank, tsm.keys.name, merchant), former),
        registration=(_registration(store, grant),), issuance=(_issuance(chain),),
        purchase=(_purchase(store, chain),), claim=claims,
    )  # fmt: skip
    verify_bundle(bundle, root=root, now_s=now_s, emv_ca=tsm.emv_ca).require()
    return bundle


def export_sale(
    shop: Shop, store: Store, *, sale: bytes, former: tuple[bytes, ...], root: bytes, now_s: int
) -> Bundle:  # fmt: skip
    """The merchant's receipt, and where it was paid out the payout. Raises: as `export_purchase`."""
    row = store.read(Key(SALES, (sale,))).get(SALES, sale)
    if row is None:
        raise PurchaseUnknown
    expect_state(row.progress, SaleProgress.APPROVED)
    settled = store.read(Key(SETTLEMENTS, (row.settled,))).get(SETTLEMENTS, row.settled)
    is_paid = settled is not None and bool(settled.payout)
    bundle = Bundle(
        statements=(Statement.RECEIPT, Statement.PAYOUT) if is_paid else (Statement.RECEIPT,),
        certificates=_certificates(shop.directory, (shop.tsm, shop.keys.name), former),
        receipt=(ApprovalProof(receipt=row.receipt, asked=row.asked),),
        payout=(PayoutProof(settlement=settled.request, payout=settled.payout),) if settled and is_paid else (),
    )  # fmt: skip
    verify_bundle(bundle, root=root, now_s=now_s).require()
    return bundle


# --- at the TSM ------------------------------------------------------------------------------------------------------
def _chain(tsm: Tsm, store: Store, merchant: str, sale: bytes, now_s: int, entropy: Entropy) -> TraceRequest:
    """What a trace would show the bank: the same evidence, asked for by nobody."""
    disputed = Disputed(merchant=merchant, sale=sale, case=b"", reason="", requester="")
    try:
        return build_trace(tsm, store, disputed, now_s, entropy)[1]
    except TraceChainInvalid as exc:
        raise EvidenceIncomplete(str(exc)) from exc


def _grant(store: Store, merchant: str, sale: bytes) -> TidEntry:
    purchase = store.read(Key(PURCHASES, (merchant, sale))).get(PURCHASES, merchant, sale)
    assert purchase is not None  # there is a chain of it
    grant = store.read(Key(TID_LIST, (purchase.sid_digest,))).get(TID_LIST, purchase.sid_digest)
    assert grant is not None
    return grant


def _registration(store: Store, grant: TidEntry) -> RegistrationProof:
    proof = CreditProof.from_bytes(envelope.peek(CreditProof, _kept(store, CreditProof.NAME, grant.proof)).payload)
    return RegistrationProof(tid_certificate=grant.cert_tid, tsm_info=proof.tsminfo, promise=grant.promise)


def _issuance(chain: TraceRequest) -> IssuanceProof:
    asked = Authorization.from_bytes(envelope.peek(Authorization, chain.authorization).payload).purchase
    return IssuanceProof(
        card_keys=chain.card_keys, modulus=chain.modulus, salt=chain.salt, position=chain.position,
        leaves=chain.leaves, path=chain.path,
        chip=ChipData(application=asked.application, aip=asked.aip, afl=asked.afl, records=asked.records),
    )  # fmt: skip


def _purchase(store: Store, chain: TraceRequest) -> PurchaseProof:
    kid = envelope.peek(Authorization, chain.authorization).kid
    for row in store.scan(EVIDENCE):
        if row.message == SignOn.NAME:
            said = SignOn.from_bytes(envelope.peek(SignOn, row.signed).payload)
            if PublicKey.from_bytes(said.terminal_key).thumbprint == kid:
                return PurchaseProof(sign_on=row.signed, authorization=chain.authorization, receipt=chain.receipt)
    raise EvidenceIncomplete("no sign-on of the terminal was kept")


def _claim(
    tsm: Tsm, store: Store, grant: TidEntry, merchant: str, sale: bytes, now_s: int, entropy: Entropy
) -> ClaimProof:  # fmt: skip
    proof = prove_receipt(store, merchant, sale)
    key = (proof.sid_digest, proof.sequence)
    row = store.read(Key(CLAIMS, key)).get(CLAIMS, *key)
    assert row is not None  # it was just proved into
    expect_state(row.state, "ACCEPTED")
    signed = envelope.sign(
        tsm.keys.signer, claim_of(grant, row), audience=grant.bank, stamp=Stamp.fresh(now_s, entropy)
    )  # fmt: skip
    return ClaimProof(
        claim=signed, accepted=_kept(store, ClaimAccepted.NAME, row.digest), asked=row.digest, salt=proof.salt,
        position=proof.position, path=proof.path,
    )  # fmt: skip


def _kept(store: Store, message: str, digest: bytes) -> bytes:
    row = store.read(Key(EVIDENCE, (digest, message))).get(EVIDENCE, digest, message)
    if row is None:
        raise EvidenceIncomplete(f"no {message} was kept")
    return row.signed


# --- at both ---------------------------------------------------------------------------------------------------------
def _certificates(directory: Directory, names: tuple[str, ...], former: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Those in the PKI, and `former` ones; whether they are enough shows when the bundle is verified."""
    found = []
    for name in names:
        try:
            found.append(directory.named(name, Use.SIGN).certificate)
        except UnknownKey:
            continue
    return tuple(dict.fromkeys((*found, *former)))
