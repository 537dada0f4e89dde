"""TRACE at the TSM: the chain from an account to a purchase, out of what was kept, and the question for a name.

Of the batch that the card came in, no other card is shown; of the account, no other purchase (design §3 TRACE).
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from protocol import cose, envelope
from protocol.commitments import card_leaf, merkle_path
from protocol.crypto import same, sha256
from protocol.engine import EVIDENCE, NOT_AN_ANSWER, Peers
from protocol.envelope import OVERHEAD_BYTES, REQUEST_LIFETIME_S, Stamp, Wire
from protocol.errors import (
    FieldMismatch,
    IdentifierTaken,
    ProtocolError,
    PurchaseUnknown,
    TraceChainInvalid,
    WrongState,
)
from protocol.messages.card import CardKeys
from protocol.messages.pay import Authorization, AuthorizationDecision, Decided, EmvPurchase, Verdict
from protocol.messages.service import CreditProof, TsmInfo
from protocol.messages.trace import TraceProgress, TraceRequest, TraceState
from protocol.pki import Use
from protocol.ports import Entropy
from protocol.roles.party import expect_state, known_party
from protocol.roles.tsm.authorize import RESPONSE_CODES
from protocol.roles.tsm.party import Tsm
from protocol.roles.tsm.purchase import Implausible, PurchaseChecks
from protocol.roles.tsm.tables import CARDS, PURCHASES, TID_LIST, TRACES, CardRow, Purchase, TidEntry, TraceRow
from protocol.rows import Decision, Insert, Key, Rows, Store, Unit, Update, Where
from protocol.schema import Message
from protocol.types import HANDLE_BYTES, Role

TRACE_RPC: Final = "Bank.RequestTrace"
EXPECT_BANK: Final = "EXPECT_BANK"
M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Disputed:
    """Whose name is asked for, why, and to whom it is to be told. `case` names the dispute; empty: a name is made."""

    merchant: str
    sale: bytes
    case: bytes
    reason: str
    requester: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """The rows of one purchase."""

    purchase: Purchase
    card: CardRow
    grant: TidEntry


# --- the chain -------------------------------------------------------------------------------------------------------
def build_trace(tsm: Tsm, store: Store, disputed: Disputed, now_s: int, entropy: Entropy) -> tuple[str, TraceRequest]:
    """The bank to ask, and the whole chain for it.

    Raises: PurchaseUnknown, WrongState (not approved, or reversed), TraceChainInvalid: something was not kept, or the
        purchase came in a batch of the merchant's, which would show the batch's others too.
    """
    kept = _kept(store, disputed)
    purchase, card, grant = kept.purchase, kept.card, kept.grant
    proof = _evidence(store, CreditProof, grant.proof)
    info = _payload(TsmInfo, _payload(CreditProof, proof).tsminfo)
    asked = _evidence(store, Authorization, purchase.request)
    batch = sorted(store.read(Where(CARDS, "batch", card.batch)).find(CARDS, "batch", card.batch), key=_position)
    leaves = [card_leaf(salt=one.salt, modulus=one.modulus) for one in batch]
    request = TraceRequest(
        case=disputed.case, reason=disputed.reason, requester=disputed.requester, aid=grant.aid,
        binfo=_payload(CreditProof, proof).binfo, tid=grant.tid, pk_tid=grant.pk_tid, r=info.r,
        card_keys=_evidence(store, CardKeys, card.keys_request), modulus=card.modulus, salt=card.salt,
        position=card.position, leaves=len(leaves), path=merkle_path(leaves, card.position), sale=disputed.sale,
        authorization=asked, receipt=_receipt(tsm, kept, asked, Stamp.fresh(now_s, entropy)),
    )  # fmt: skip
    return grant.bank, request


def _position(card: CardRow) -> int:
    return card.position


def _kept(store: Store, disputed: Disputed) -> _Kept:
    key = Key(PURCHASES, (disputed.merchant, disputed.sale))
    purchase = store.read(key).get(PURCHASES, disputed.merchant, disputed.sale)
    if purchase is None:
        raise PurchaseUnknown
    expect_state(purchase.state, "APPROVED")
    rows = store.read(Key(CARDS, (purchase.pan_ref,)), Key(TID_LIST, (purchase.sid_digest,)))
    card, grant = rows.get(CARDS, purchase.pan_ref), rows.get(TID_LIST, purchase.sid_digest)
    assert card is not None  # neither is ever deleted
    assert grant is not None
    return _Kept(purchase=purchase, card=card, grant=grant)


def _evidence(store: Store, kind: type[Message], digest: bytes) -> bytes:
    row = store.read(Key(EVIDENCE, (digest, kind.NAME))).get(EVIDENCE, digest, kind.NAME)
    if row is None:
        raise TraceChainInvalid(f"no {kind.NAME} was kept")
    return row.signed


def _payload(kind: type[M], signed: bytes) -> M:
    """Of a message that was verified when it came."""
    return kind.from_bytes(envelope.peek(kind, signed).payload)


def _receipt(tsm: Tsm, kept: _Kept, asked: bytes, stamp: Stamp) -> bytes:
    """The decision as it was answered, signed once more: the answer itself is not kept for longer than its request."""
    decided = _decided(tsm, kept, _payload(Authorization, asked).purchase)
    if not same(sha256(decided.to_bytes()), kept.purchase.receipt_digest):
        raise TraceChainInvalid("not the decision that was answered")
    return envelope.sign(
        tsm.keys.signer, AuthorizationDecision(decided=decided), audience=kept.purchase.merchant, stamp=stamp,
        request_digest=Wire(cose=asked).digest,
    )  # fmt: skip


def _decided(tsm: Tsm, kept: _Kept, asked: EmvPurchase) -> Decided:
    row = kept.purchase
    then = datetime.datetime.fromtimestamp(row.decided_at_s, tz=datetime.UTC).date()
    checks = PurchaseChecks(tsm.emv_ca)
    try:
        proved = checks.prove(checks.read(asked, then), asked, kept.card)
    except Implausible as exc:
        raise TraceChainInvalid(exc.reason.value) from exc
    code = RESPONSE_CODES[Verdict.APPROVED]
    return Decided(
        sale=row.sale, verdict=Verdict.APPROVED, merchant=row.merchant, terminal=row.terminal, pan=proved.pan,
        atc=proved.atc, unpredictable=proved.tap.unpredictable, amount_minor=proved.tap.amount_minor,
        currency=proved.tap.currency, issuer_data=asked.issuer_data, cryptogram=proved.cryptogram,
        response_code=code, arpc=proved.response(code.encode()),
    )  # fmt: skip


# --- the question ----------------------------------------------------------------------------------------------------
def trace(tsm: Tsm, store: Store, peers: Peers, disputed: Disputed, now_s: int, entropy: Entropy) -> TraceRow:
    """Ask the bank, or hear how a case stands that it was asked about before; the row afterwards.

    A request whose answer did not come is sent again as it was. Raises: what `build_trace` raises, Unavailable, the
        bank's refusal, IdentifierTaken (the purchase has another case already), WrongState (somebody else is at it),
        what opening the answer raises.
    """
    row = _row(store, disputed)
    if row is None:
        named = replace(disputed, case=disputed.case or entropy.bytes(HANDLE_BYTES))
        bank, request = build_trace(tsm, store, named, now_s, entropy)
        row = store.apply(_opening(_new_row(tsm, bank, request, named, now_s, entropy))).reply
    check_same(row, disputed)
    if row.state in (TraceProgress.ANSWERED, TraceProgress.REFUSED):
        return row
    if not row.request or row.asked_at_s + REQUEST_LIFETIME_S < now_s:
        request = TraceRequest.from_bytes(row.chain)
        sealed = seal_request(tsm, row.bank, request, now_s, entropy)
        row = _changed(store, row, replace(row, request=sealed.cose, asked_at_s=now_s))
    question = Wire(cose=row.request)
    try:
        answer = peers.call(row.bank, TRACE_RPC, question)
    except ProtocolError as refusal:
        if refusal.status not in NOT_AN_ANSWER:
            _changed(store, row, replace(row, request=b""))
        raise
    state = open_state(tsm, row, question, answer, now_s)
    return _changed(store, row, replace(row, request=b"", answer=state.answer, state=state.progress.value))


def seal_request(tsm: Tsm, bank: str, request: TraceRequest, now_s: int, entropy: Entropy) -> Wire:
    """`E_B(S_T(case, reason, requester, chain))`."""
    signed = envelope.sign(tsm.keys.signer, request, audience=bank, stamp=Stamp.fresh(now_s, entropy))
    key = tsm.directory.named(bank, Use.SEAL).key
    return Wire(cose=cose.seal(key, name=TraceRequest.NAME, plaintext=signed))


def open_state(tsm: Tsm, row: TraceRow, question: Wire, answer: Wire, now_s: int) -> TraceState:
    """The bank's `E_T(S_B(case, progress, answer))`. Raises: what opening raises; FieldMismatch for another case."""
    signed = cose.unseal(
        tsm.keys.seal, answer.cose, name=TraceState.NAME, max_bytes=TraceState.MAX_BYTES + 2 * OVERHEAD_BYTES,
        request_digest=question.digest,
    )  # fmt: skip
    bank = known_party(tsm.directory, row.bank, Role.BANK)
    state = envelope.open_signed(
        TraceState, signed, bank.key, issuer=bank.name, audience=tsm.keys.name, now_s=now_s,
        request_digest=question.digest,
    ).message  # fmt: skip
    if state.case != row.case_id:
        raise FieldMismatch("the bank speaks of another case")
    return state


def check_same(row: TraceRow, disputed: Disputed) -> None:
    """A purchase has one case, with one reason and one requester. Raises: IdentifierTaken."""
    if (row.case_id, row.reason, row.requester) != (disputed.case or row.case_id, disputed.reason, disputed.requester):
        raise IdentifierTaken("this purchase was asked about as another case")


def _row(store: Store, disputed: Disputed) -> TraceRow | None:
    key = Key(TRACES, (disputed.merchant, disputed.sale))
    return store.read(key).get(TRACES, disputed.merchant, disputed.sale)


def _new_row(
    tsm: Tsm, bank: str, request: TraceRequest, disputed: Disputed, now_s: int, entropy: Entropy
) -> TraceRow:  # fmt: skip
    return TraceRow(
        merchant=disputed.merchant, sale=disputed.sale, case_id=disputed.case, bank=bank,
        requester=disputed.requester, reason=disputed.reason, chain=request.to_bytes(),
        request=seal_request(tsm, bank, request, now_s, entropy).cose, asked_at_s=now_s, answer=b"", state=EXPECT_BANK,
    )  # fmt: skip


def _opening(row: TraceRow) -> Unit:
    """Stored before it is sent. Who comes second takes up what the first one stored."""

    def decide(rows: Rows) -> Decision:
        known = rows.get(TRACES, row.merchant, row.sale)
        return Decision(reply=known) if known is not None else Decision(writes=(Insert(TRACES, row),), reply=row)

    return Unit((Key(TRACES, (row.merchant, row.sale)),), decide)


def _changed(store: Store, seen: TraceRow, after: TraceRow) -> TraceRow:
    """The row as changed. Raises: WrongState if somebody else has asked meanwhile, who hears the answer then."""

    def decide(rows: Rows) -> Decision:
        if rows.get(TRACES, seen.merchant, seen.sale) != seen:
            raise WrongState("somebody else is asking about this case")
        return Decision(writes=(Update(TRACES, after),), reply=after)

    changed: TraceRow = store.apply(Unit((Key(TRACES, (seen.merchant, seen.sale)),), decide)).reply
    return changed
