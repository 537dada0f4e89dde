"""The till: start a sale, look at it, call it off, give money back (design §4 Merchant).

The till is the merchant's own, so a request is signed with the merchant's certified key and comes over its own TLS
identity. Steps only write down what is to be done; the lane does it.
"""

from __future__ import annotations

from typing import Final, TypeVar

from protocol import envelope
from protocol.card import outcome
from protocol.card.tap import amount_bytes, currency_code
from protocol.engine import Context, F, Incoming, StatelessStep, Step
from protocol.envelope import Opened, Stamp, Wire
from protocol.errors import (
    AlreadySettled,
    CardDataInvalid,
    IdentifierTaken,
    LimitExceeded,
    PurchaseUnknown,
    WrongIssuer,
    WrongState,
)
from protocol.messages.till import CancelSale, GetSale, RefundSale, SaleProgress, SaleState, StartSale
from protocol.ports import Entropy
from protocol.roles.merchant.party import Shop
from protocol.roles.merchant.progress import CANCELED, cancel, owe
from protocol.roles.merchant.tables import DUE, SALE_REFUNDS, SALES, SaleRefund, SaleRow
from protocol.roles.party import alone, expect_peer, expect_state, open_certified
from protocol.rows import Decision, Insert, Key, Read, Rows, Update, Where
from protocol.types import Role

M = TypeVar("M", StartSale, GetSale, CancelSale, RefundSale)
PENDING_REFUNDS: Final = 64
"""Of one sale at a time."""


def open_till(kind: type[M], wire: Wire, shop: Shop, ctx: Context) -> Opened[M]:
    """A request by the merchant's own till. Raises: what `open_certified` raises, WrongIssuer, WrongPeer."""
    name = shop.keys.name
    opened, signer = open_certified(kind, alone(wire), shop.directory, role=Role.MERCHANT, audience=name, ctx=ctx)
    if signer.name != name:
        raise WrongIssuer("another merchant's till")
    expect_peer(ctx, name, Role.MERCHANT)
    return opened


def _reads(sale: bytes) -> tuple[Read, ...]:
    return (Key(SALES, (sale,)), Where(SALE_REFUNDS, "sale", sale))


def _known(rows: Rows, sale: bytes) -> SaleRow:
    row = rows.get(SALES, sale)
    if row is None:
        raise PurchaseUnknown
    return row


def _pending(rows: Rows, sale: bytes) -> list[SaleRefund]:
    return [refund for refund in rows.find(SALE_REFUNDS, "sale", sale) if refund.state == "EXPECT_REFUND"]


def _state(sale: SaleRow, refunds_pending: int) -> SaleState:
    return SaleState(
        sale=sale.sale, progress=SaleProgress(sale.progress), amount_minor=sale.amount_minor, currency=sale.currency,
        refunded_minor=sale.refunded_minor, refunds_pending=refunds_pending, outcome=sale.outcome,
        display=sale.display, card=sale.card,
    )  # fmt: skip


class _TillStep(Step[F]):
    """Answered with the state of a sale."""

    reply = SaleState

    def __init__(self, shop: Shop) -> None:
        self._shop = shop

    def seal(self, facts: F, reply: SaleState, stamp: Stamp, ctx: Context) -> Wire:
        keys = self._shop.keys
        signed = envelope.sign(keys.signer, reply, audience=keys.name, stamp=stamp, request_digest=ctx.digest)
        return Wire(cose=signed)


class StartSaleStep(_TillStep[StartSale]):
    """Takes the lane, which one sale has at a time: cards don't say which of two they pay for."""

    rpc = "Merchant.StartSale"

    def open(self, wire: Wire, ctx: Context) -> Incoming[StartSale]:
        opened = open_till(StartSale, wire, self._shop, ctx)
        currency_code(opened.message.currency)
        amount_bytes(opened.message.amount_minor)
        if opened.message.amount_minor == 0:
            raise CardDataInvalid("nothing to pay")
        return Incoming(facts=opened.message, key=opened.key, claims=opened.claims)

    def reads(self, facts: StartSale) -> tuple[Read, ...]:
        return (Key(SALES, (facts.sale,)), Where(SALES, "lane", self._shop.terminal.encode()))

    def decide(self, rows: Rows, facts: StartSale, now_s: int, entropy: Entropy) -> Decision:
        lane = self._shop.terminal.encode()
        if rows.get(SALES, facts.sale) is not None:
            raise IdentifierTaken("a sale has this name")
        if rows.find(SALES, "lane", lane):
            raise WrongState("another sale is under way")
        row = SaleRow(
            sale=facts.sale, amount_minor=facts.amount_minor, currency=facts.currency,
            progress=SaleProgress.EXPECT_TAP.value, lane=lane, outcome="", display=outcome.Message.PRESENT_CARD.text,
            card="", request=b"", cryptogram=b"", receipt=b"", asked=b"", reversal=b"",
            deadline_s=now_s + self._shop.policy.tap_wait_s, started_at_s=now_s, refunded_minor=0, settled=b"",
        )  # fmt: skip
        return Decision(writes=(Insert(SALES, row),), reply=_state(row, 0))


class GetSaleStep(_TillStep[SaleState], StatelessStep[SaleState]):
    """Asked again and again while a sale is under way, so nothing is kept of it."""

    rpc = "Merchant.GetSale"

    def open(self, wire: Wire, ctx: Context) -> Incoming[SaleState]:
        opened = open_till(GetSale, wire, self._shop, ctx)
        sale = opened.message.sale
        rows = ctx.read(*_reads(sale))
        state = _state(_known(rows, sale), len(_pending(rows, sale)))
        return Incoming(facts=state, key=opened.key, claims=opened.claims)

    def decide(self, rows: Rows, facts: SaleState, now_s: int, entropy: Entropy) -> Decision:
        return Decision(reply=facts)


class CancelSaleStep(_TillStep[CancelSale]):
    """Before the TSM was asked, that is all; after that, the TSM must take the purchase back, unless it is settled."""

    rpc = "Merchant.CancelSale"

    def open(self, wire: Wire, ctx: Context) -> Incoming[CancelSale]:
        opened = open_till(CancelSale, wire, self._shop, ctx)
        return Incoming(facts=opened.message, key=opened.key, claims=opened.claims)

    def reads(self, facts: CancelSale) -> tuple[Read, ...]:
        return _reads(facts.sale)

    def decide(self, rows: Rows, facts: CancelSale, now_s: int, entropy: Entropy) -> Decision:
        row = _known(rows, facts.sale)
        expect_state(row.progress, SaleProgress.EXPECT_TAP, SaleProgress.EXPECT_DECISION, SaleProgress.APPROVED)
        if row.refunded_minor or _pending(rows, facts.sale):
            raise WrongState("part of it was refunded: refund the rest")
        if row.settled not in (b"", DUE):
            raise AlreadySettled("it was paid out, or is about to be: refund it")
        row = cancel(row) if row.progress == SaleProgress.EXPECT_TAP else owe(row, CANCELED)
        return Decision(writes=(Update(SALES, row),), reply=_state(row, 0))


class RefundSaleStep(_TillStep[RefundSale]):
    """Noted here, made at the TSM by the lane. All refunds, also those under way, are at most the sale's amount."""

    rpc = "Merchant.RefundSale"

    def open(self, wire: Wire, ctx: Context) -> Incoming[RefundSale]:
        opened = open_till(RefundSale, wire, self._shop, ctx)
        return Incoming(facts=opened.message, key=opened.key, claims=opened.claims)

    def reads(self, facts: RefundSale) -> tuple[Read, ...]:
        return (*_reads(facts.sale), Key(SALE_REFUNDS, (facts.refund,)))

    def decide(self, rows: Rows, facts: RefundSale, now_s: int, entropy: Entropy) -> Decision:
        row, pending = _known(rows, facts.sale), _pending(rows, facts.sale)
        expect_state(row.progress, SaleProgress.APPROVED)
        if rows.get(SALE_REFUNDS, facts.refund) is not None:
            raise IdentifierTaken("a refund has this name")
        left_minor = row.amount_minor - row.refunded_minor - sum(refund.amount_minor for refund in pending)
        if not 0 < facts.amount_minor <= left_minor or len(pending) == PENDING_REFUNDS:
            raise LimitExceeded("refunds are at most the sale's amount")
        made = SaleRefund(
            refund=facts.refund, sale=facts.sale, amount_minor=facts.amount_minor, request=b"", state="EXPECT_REFUND",
            settled=b"",
        )  # fmt: skip
        return Decision(writes=(Insert(SALE_REFUNDS, made),), reply=_state(row, len(pending) + 1))
