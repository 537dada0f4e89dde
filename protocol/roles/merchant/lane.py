"""The lane: what a tap's outcome and the TSM's answer do to the sale that has it. Units only; `parties.merchant` acts.

What is sent is stored first, in the unit that makes it due, and sent as it is stored until it is answered or given up.
A unit looks at the sale as it is now: one that was called off meanwhile is not sent, and not approved.
"""

from __future__ import annotations

import datetime
from dataclasses import replace

from protocol import envelope
from protocol.card import outcome
from protocol.card.outcome import Kind, OnlineRequest, Outcome
from protocol.card.pan import mask_pan
from protocol.card.tap import Tap
from protocol.card.terminal import UNPREDICTABLE_BYTES, Sale
from protocol.crypto import PrivateKey
from protocol.engine import NOT_AN_ANSWER
from protocol.envelope import Signer, Stamp, Wire
from protocol.errors import CardDataInvalid, FieldMismatch, Malformed, Oversize, ProtocolError
from protocol.messages.card import EmvRecord
from protocol.messages.pay import Authorization, AuthorizationDecision, Decided, EmvPurchase, Verdict
from protocol.messages.till import SaleProgress
from protocol.ports import Entropy
from protocol.roles.merchant.booking import book_sale
from protocol.roles.merchant.party import Shop
from protocol.roles.merchant.progress import approve, cancel, end, owe
from protocol.roles.merchant.sign_on import signing_key
from protocol.roles.merchant.tables import SALES, TERMINAL_KEYS, SaleRow
from protocol.roles.party import known_party
from protocol.rows import Decision, Key, Rows, Store, Unit, Update, Where, Write
from protocol.types import Role


def sale_on_lane(store: Store, shop: Shop) -> SaleRow | None:
    """The sale that waits for a card or for a decision."""
    lane = shop.terminal.encode()
    found = store.read(Where(SALES, "lane", lane)).find(SALES, "lane", lane)
    return found[0] if found else None


def is_asking(store: Store) -> bool:
    """Is a purchase with the TSM under the terminal's present key? Then the key is not to be rotated just now."""
    asking = SaleProgress.EXPECT_DECISION.value
    return bool(store.read(Where(SALES, "progress", asking)).find(SALES, "progress", asking))


def is_signed_on(store: Store, shop: Shop, now_s: int) -> bool:
    """Has the terminal a key that the TSM takes? Without it no card is asked for."""
    rows = store.read(Key(TERMINAL_KEYS, (shop.terminal,)))
    return signing_key(rows, shop, now_s) is not None


def sale_for_tap(sale: SaleRow, now_s: int, entropy: Entropy) -> Sale:
    """The sale as the kernel takes it, with an unpredictable number of its own for each tap."""
    today = datetime.datetime.fromtimestamp(now_s, tz=datetime.UTC).date()
    unpredictable = entropy.bytes(UNPREDICTABLE_BYTES)
    return Sale(amount_minor=sale.amount_minor, currency=sale.currency, date=today, unpredictable=unpredictable)


def record_tap(shop: Shop, sale: SaleRow, tapped: Outcome, now_s: int, entropy: Entropy) -> Unit:
    """EXPECT_TAP → EXPECT_DECISION with the signed request, DECLINED, or a further tap. No tap approves anything."""
    stamp = Stamp.fresh(now_s, entropy)

    def decide(rows: Rows) -> Decision:
        row = _row(rows, sale)
        if row.progress != SaleProgress.EXPECT_TAP:  # called off while the card was in the field
            return Decision(reply=row)
        key = signing_key(rows, shop, now_s)
        if tapped.kind is Kind.TRY_AGAIN:
            row = _again(row, shop, tapped, now_s)
        elif tapped.online is None:
            # Whatever else the kernel says: only the TSM approves.
            row = end(row, SaleProgress.DECLINED, outcome.DECLINED if tapped.kind is Kind.APPROVED else tapped)
        elif key is None:  # rotated since the card came: nothing was sent, and the phone may be held again
            row = _again(row, shop, outcome.PRESENT_AGAIN, now_s)
        else:
            row = _ask(row, shop, key, tapped, tapped.online, stamp)
        return Decision(writes=(Update(SALES, row),), reply=row)

    return Unit((Key(SALES, (sale.sale,)), Key(TERMINAL_KEYS, (shop.terminal,))), decide)


def _row(rows: Rows, sale: SaleRow) -> SaleRow:
    row = rows.get(SALES, sale.sale)
    assert row is not None  # sales are never deleted
    return row


def _again(row: SaleRow, shop: Shop, tapped: Outcome, now_s: int) -> SaleRow:
    # Time to look at the phone and come back, but not without end.
    policy = shop.policy
    deadline_s = max(row.deadline_s, min(now_s + policy.tap_wait_s, row.started_at_s + policy.tap_most_s))
    return replace(row, outcome=tapped.kind.name, display=tapped.ui.text, deadline_s=deadline_s)


def _ask(
    row: SaleRow, shop: Shop, key: PrivateKey, tapped: Outcome, online: OnlineRequest, stamp: Stamp
) -> SaleRow:  # fmt: skip
    message = Authorization(terminal=shop.terminal, purchase=_purchase(row, online))
    try:
        Authorization.from_bytes(message.to_bytes())
    except (Malformed, Oversize):  # a card of another make, within EMV's bounds but not the message's
        return end(row, SaleProgress.DECLINED, outcome.END_APPLICATION)
    signer = Signer(name=shop.keys.name, key=key)
    return replace(
        row, progress=SaleProgress.EXPECT_DECISION.value, outcome=tapped.kind.name, display=tapped.ui.text,
        card=mask_pan(online.pan), request=envelope.sign(signer, message, audience=shop.tsm, stamp=stamp),
        cryptogram=online.cryptogram, deadline_s=stamp.issued_at_s + shop.policy.decision_wait_s,
    )  # fmt: skip


def _purchase(row: SaleRow, online: OnlineRequest) -> EmvPurchase:
    records = tuple(EmvRecord(sfi=record.sfi, number=record.number, data=record.data) for record in online.records)
    return EmvPurchase(
        sale=row.sale, application=online.aid, aip=online.aip, afl=online.afl, records=records,
        pdol_data=online.pdol_data, cdol_data=online.cdol_data, information=online.information, atc=online.atc,
        issuer_data=online.issuer_data, signature=online.signature,
    )  # fmt: skip


def record_answer(shop: Shop, sale: SaleRow, answer: Wire, now_s: int) -> Unit:
    """EXPECT_DECISION → APPROVED with the receipt, or DECLINED; an answer past the deadline is as none.

    Raises: what `envelope.open_signed` raises; FieldMismatch when it decides something else than was asked.
    """
    tsm = known_party(shop.directory, shop.tsm, Role.TSM)
    decided = envelope.open_signed(
        AuthorizationDecision, answer.cose, tsm.key, issuer=tsm.name, audience=shop.keys.name, now_s=now_s,
        request_digest=Wire(cose=sale.request).digest,
    ).message.decided  # fmt: skip
    _check_decided(shop, sale, decided)

    def decide(rows: Rows) -> Decision:
        row = _row(rows, sale)
        posted: tuple[Write, ...] = ()
        if row.progress != SaleProgress.EXPECT_DECISION:
            return Decision(reply=row)
        if now_s > row.deadline_s:  # the customer was told no, or is about to be
            row = owe(row)
        elif decided.verdict is Verdict.APPROVED:
            row = approve(row, answer.cose)
            posted = book_sale(shop, row, now_s)
        else:
            # VERIFY: the card was let through by its own limit, but not by the TSM's. The phone can mend that.
            display = outcome.SEE_PHONE.ui.text if decided.verdict is Verdict.VERIFY else ""
            row = end(row, SaleProgress.DECLINED, outcome.DECLINED, display)
        return Decision(writes=(Update(SALES, row), *posted), reply=row)

    return Unit((Key(SALES, (sale.sale,)),), decide)


def _check_decided(shop: Shop, sale: SaleRow, decided: Decided) -> None:
    """A receipt is of this very purchase. What a decline is of, but its sale, the TSM need not know."""
    named = (decided.sale, decided.merchant, decided.terminal)
    if named != (sale.sale, shop.keys.name, shop.terminal):
        raise FieldMismatch("another sale was decided")
    if decided.verdict is not Verdict.APPROVED:
        return
    asked = Authorization.from_bytes(envelope.peek(Authorization, sale.request).payload).purchase
    try:
        unpredictable = Tap.from_pdol(asked.pdol_data).unpredictable
    except CardDataInvalid as exc:
        raise FieldMismatch("a card that is no card of the TSM's was approved") from exc
    approved = (
        decided.amount_minor, decided.currency, mask_pan(decided.pan), decided.atc, decided.issuer_data,
        decided.cryptogram, decided.unpredictable,
    )  # fmt: skip
    expected = (
        sale.amount_minor, sale.currency, sale.card, asked.atc, asked.issuer_data, sale.cryptogram, unpredictable
    )  # fmt: skip
    if approved != expected:
        raise FieldMismatch("something else was approved than was asked")


def record_refusal(sale: SaleRow, refusal: ProtocolError) -> Unit:
    """The TSM did not decide. Out of reach, the same bytes go again; a refusal is given up, and to be reversed."""

    def decide(rows: Rows) -> Decision:
        row = _row(rows, sale)
        if refusal.status in NOT_AN_ANSWER or row.progress != SaleProgress.EXPECT_DECISION:
            return Decision(reply=row)
        row = owe(row)
        return Decision(writes=(Update(SALES, row),), reply=row)

    return Unit((Key(SALES, (sale.sale,)),), decide)


def close_overdue(sale: SaleRow, now_s: int) -> Unit:
    """Past its deadline: EXPECT_TAP → CANCELED, EXPECT_DECISION → EXPECT_REVERSAL. Else nothing."""

    def decide(rows: Rows) -> Decision:
        row = _row(rows, sale)
        if now_s <= row.deadline_s:
            return Decision(reply=row)
        if row.progress == SaleProgress.EXPECT_TAP:
            row = cancel(row)
        elif row.progress == SaleProgress.EXPECT_DECISION:
            row = owe(row)
        else:
            return Decision(reply=row)
        return Decision(writes=(Update(SALES, row),), reply=row)

    return Unit((Key(SALES, (sale.sale,)),), decide)
