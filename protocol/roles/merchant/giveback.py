"""Reversals and refunds on their way to the TSM: signed, stored, sent as they are stored until they are answered.

A reversal is recognized by its sale, a refund by its own name. So when the claims ran out, or the terminal's key was
rotated, a new signature is safe: it has no second effect.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from protocol import envelope
from protocol.crypto import PrivateKey, sha256
from protocol.engine import EVIDENCE, Evidence
from protocol.envelope import Signer, Stamp, Wire
from protocol.errors import (
    AlreadySettled,
    FieldMismatch,
    IdentifierTaken,
    LimitExceeded,
    ProtocolError,
    PurchaseUnknown,
    WrongState,
)
from protocol.messages.pay import Refund, Refunded, Reversal, ReversalReason, Reversed
from protocol.messages.till import SaleProgress
from protocol.ports import Entropy
from protocol.roles.merchant.booking import book_refund, book_reversal, booked_sale
from protocol.roles.merchant.party import Shop
from protocol.roles.merchant.progress import reason_of
from protocol.roles.merchant.sign_on import signing_key
from protocol.roles.merchant.tables import DUE, SALE_REFUNDS, SALES, TERMINAL_KEYS, SaleRefund, SaleRow
from protocol.roles.party import known_party
from protocol.rows import Decision, Insert, Key, Rows, Store, Unit, Update, Where, Write
from protocol.types import HANDLE_BYTES, Role

_FINAL = (PurchaseUnknown, WrongState, LimitExceeded)
"""Refusals of a refund that stand however often it is asked for; others are of the moment, or of the key."""


def owed_reversals(store: Store) -> tuple[SaleRow, ...]:
    """Sales that the TSM must still take back."""
    owed = SaleProgress.EXPECT_REVERSAL.value
    return store.read(Where(SALES, "progress", owed)).find(SALES, "progress", owed)


def owed_refunds(store: Store) -> tuple[SaleRefund, ...]:
    """Refunds that the TSM must still make."""
    return store.read(Where(SALE_REFUNDS, "state", "EXPECT_REFUND")).find(SALE_REFUNDS, "state", "EXPECT_REFUND")


def _is_current(kind: type[Reversal | Refund], signed: bytes, shop: Shop, key: PrivateKey, now_s: int) -> bool:
    """Would the TSM still open it: signed at all, by this key, and within its time?"""
    try:
        envelope.open_signed(kind, signed, key.public, issuer=shop.keys.name, audience=shop.tsm, now_s=now_s)
    except ProtocolError:
        return False
    return True


def sign_reversal(shop: Shop, sale: SaleRow, now_s: int, entropy: Entropy) -> Unit:
    """The reply is the sale with a Reverse that may be sent; None when none is owed or there is no key to sign it."""
    stamp = Stamp.fresh(now_s, entropy)

    def decide(rows: Rows) -> Decision:
        row, key = rows.get(SALES, sale.sale), signing_key(rows, shop, now_s)
        assert row is not None  # sales are never deleted
        if row.progress != SaleProgress.EXPECT_REVERSAL or key is None:
            return Decision()
        if _is_current(Reversal, row.reversal, shop, key, now_s):
            return Decision(reply=row)
        message = Reversal(terminal=shop.terminal, sale=row.sale, reason=reason_of(row))
        signer = Signer(name=shop.keys.name, key=key)
        row = replace(row, reversal=envelope.sign(signer, message, audience=shop.tsm, stamp=stamp))
        return Decision(writes=(Update(SALES, row),), reply=row)

    return Unit((Key(SALES, (sale.sale,)), Key(TERMINAL_KEYS, (shop.terminal,))), decide)


def record_reversal(shop: Shop, sale: SaleRow, answer: Wire, now_s: int) -> Unit:
    """EXPECT_REVERSAL → REVERSED, the acknowledgment kept as evidence.

    Raises: what `envelope.open_signed` raises; FieldMismatch when something else was taken back.
    """
    tsm = known_party(shop.directory, shop.tsm, Role.TSM)
    digest = Wire(cose=sale.reversal).digest
    taken = envelope.open_signed(
        Reversed, answer.cose, tsm.key, issuer=tsm.name, audience=shop.keys.name, now_s=now_s, request_digest=digest
    ).message
    whole = (taken.amount_minor, taken.currency) == (sale.amount_minor, sale.currency)
    nothing = taken.amount_minor == 0 and reason_of(sale) is ReversalReason.NO_ANSWER
    if taken.sale != sale.sale or not (whole or nothing):
        raise FieldMismatch("something else was reversed")

    def decide(rows: Rows) -> Decision:
        row = rows.get(SALES, sale.sale)
        assert row is not None
        if row.progress != SaleProgress.EXPECT_REVERSAL:
            return Decision(reply=row)
        row = replace(row, progress=SaleProgress.REVERSED.value, reversal=b"")
        posted = book_reversal(shop, row, rows, now_s)
        return Decision(writes=(Update(SALES, row), _keep(Reversed.NAME, digest, answer, now_s), *posted), reply=row)

    return Unit((Key(SALES, (sale.sale,)), booked_sale(shop, sale.sale)), decide)


def record_reversal_refusal(sale: SaleRow, refusal: ProtocolError) -> Unit:
    """EXPECT_REVERSAL → APPROVED with a refund of the whole, when the TSM has paid the sale out already.

    The till voids nothing that is in a settlement, so this one was settled by rows that are lost (a backup was put
    back). Other refusals are of the moment, or of the key: it stays to be sent again.
    """
    name = sha256(b"tapveil-void", sale.sale)[:HANDLE_BYTES]

    def decide(rows: Rows) -> Decision:
        row = rows.get(SALES, sale.sale)
        assert row is not None
        if not isinstance(refusal, AlreadySettled) or row.progress != SaleProgress.EXPECT_REVERSAL:
            return Decision(reply=row)
        row = replace(row, progress=SaleProgress.APPROVED.value, reversal=b"")
        made = SaleRefund(
            refund=name, sale=row.sale, amount_minor=row.amount_minor, request=b"", state="EXPECT_REFUND", settled=b""
        )
        return Decision(writes=(Update(SALES, row), Insert(SALE_REFUNDS, made)), reply=row)

    return Unit((Key(SALES, (sale.sale,)),), decide)


def _keep(name: str, digest: bytes, answer: Wire, now_s: int) -> Insert:
    return Insert(EVIDENCE, Evidence(digest=digest, message=name, received_at_s=now_s, signed=answer.cose))


def sign_refund(shop: Shop, refund: SaleRefund, now_s: int, entropy: Entropy) -> Unit:
    """The reply is the refund with a request that may be sent; None when there is no key to sign it."""
    stamp = Stamp.fresh(now_s, entropy)

    def decide(rows: Rows) -> Decision:
        row, sale = _rows_of(rows, refund)
        key = signing_key(rows, shop, now_s)
        if row.state != "EXPECT_REFUND" or key is None:
            return Decision()
        if _is_current(Refund, row.request, shop, key, now_s):
            return Decision(reply=row)
        message = Refund(
            terminal=shop.terminal, sale=row.sale, refund=row.refund, amount_minor=row.amount_minor,
            currency=sale.currency,
        )  # fmt: skip
        signer = Signer(name=shop.keys.name, key=key)
        row = replace(row, request=envelope.sign(signer, message, audience=shop.tsm, stamp=stamp))
        return Decision(writes=(Update(SALE_REFUNDS, row),), reply=row)

    return Unit((*_keys_of(refund), Key(TERMINAL_KEYS, (shop.terminal,))), decide)


def _keys_of(refund: SaleRefund) -> tuple[Key, Key]:
    return (Key(SALE_REFUNDS, (refund.refund,)), Key(SALES, (refund.sale,)))


def _rows_of(rows: Rows, refund: SaleRefund) -> tuple[SaleRefund, SaleRow]:
    row, sale = rows.get(SALE_REFUNDS, refund.refund), rows.get(SALES, refund.sale)
    assert row is not None
    assert sale is not None  # neither is ever deleted
    return row, sale


def record_refund(shop: Shop, refund: SaleRefund, answer: Wire, now_s: int) -> Unit:
    """EXPECT_REFUND → DONE, the answer kept as evidence.

    Raises: what `envelope.open_signed` raises; FieldMismatch, also by the unit, when something else was refunded.
    """
    tsm = known_party(shop.directory, shop.tsm, Role.TSM)
    digest = Wire(cose=refund.request).digest
    made = envelope.open_signed(
        Refunded, answer.cose, tsm.key, issuer=tsm.name, audience=shop.keys.name, now_s=now_s, request_digest=digest
    ).message

    def check(sale: SaleRow) -> None:
        named = (made.sale, made.refund, made.amount_minor, made.currency)
        if named != (refund.sale, refund.refund, refund.amount_minor, sale.currency):
            raise FieldMismatch("something else was refunded")

    return _done(shop, refund, now_s, check, _keep(Refunded.NAME, digest, answer, now_s))


def record_refund_refusal(shop: Shop, refund: SaleRefund, refusal: ProtocolError, now_s: int) -> Unit:
    """EXPECT_REFUND → REFUSED when the refusal stands; else it stays to be sent again.

    A name that is taken is this refund's own, made before the answer was lost and the request signed anew: DONE.
    """
    if isinstance(refusal, IdentifierTaken):
        return _done(shop, refund, now_s)
    if isinstance(refusal, _FINAL):
        return _refused(refund)
    return Unit((), lambda _rows: Decision())


def _done(
    shop: Shop, refund: SaleRefund, now_s: int, check: Callable[[SaleRow], None] | None = None, *evidence: Insert
) -> Unit:
    def decide(rows: Rows) -> Decision:
        row, sale = _rows_of(rows, refund)
        if check is not None:
            check(sale)
        if row.state != "EXPECT_REFUND":
            return Decision(reply=row)
        row = replace(row, state="DONE", request=b"", settled=DUE)
        sale = replace(sale, refunded_minor=sale.refunded_minor + row.amount_minor)
        posted = book_refund(shop, row, sale.currency, now_s)
        writes: tuple[Write, ...] = (Update(SALE_REFUNDS, row), Update(SALES, sale), *evidence, *posted)
        return Decision(writes=writes, reply=row)

    return Unit(_keys_of(refund), decide)


def _refused(refund: SaleRefund) -> Unit:
    def decide(rows: Rows) -> Decision:
        row, _ = _rows_of(rows, refund)
        if row.state != "EXPECT_REFUND":
            return Decision(reply=row)
        row = replace(row, state="REFUSED", request=b"")
        return Decision(writes=(Update(SALE_REFUNDS, row),), reply=row)

    return Unit(_keys_of(refund), decide)
