"""Money back: a reversal ends a purchase, a refund gives part or all of it back (design §3 PAY)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from protocol import envelope
from protocol.crypto import sha256
from protocol.engine import Context, Incoming, Step
from protocol.envelope import Stamp, Wire
from protocol.errors import IdentifierTaken, LimitExceeded, PurchaseUnknown, Unavailable, WrongState
from protocol.messages.pay import Refund, Refunded, Reversal, Reversed
from protocol.ports import Entropy
from protocol.roles.tsm.party import Tsm
from protocol.roles.tsm.tables import CARDS, PURCHASES, REFUNDS, TID_LIST, Purchase, RefundRow, Terminal
from protocol.roles.tsm.terminal_request import open_request
from protocol.rows import Decision, Insert, Key, Read, Rows, Update, Write


def purchase_of(ctx: Context, merchant: str, sale: bytes) -> Purchase | None:
    """This merchant's purchase of that name."""
    return ctx.read(Key(PURCHASES, (merchant, sale))).get(PURCHASES, merchant, sale)


def give_back(rows: Rows, purchase: Purchase, amount_minor: int) -> tuple[Write, ...]:
    """The amount is the account's again, and the card's total; its uses are not: a card that was read stays used."""
    card, grant = rows.get(CARDS, purchase.pan_ref), rows.get(TID_LIST, purchase.sid_digest)
    assert card is not None
    assert grant is not None
    return (
        Update(CARDS, replace(card, spent_minor=card.spent_minor - amount_minor)),
        Update(TID_LIST, replace(grant, spent_minor=grant.spent_minor - amount_minor)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reversing:
    """A verified reversal, and the purchase as it was when it was looked for."""

    terminal: Terminal
    message: Reversal
    purchase: Purchase | None


class ReverseStep(Step[Reversing]):
    """Also for a purchase that never arrived: should it come later, it is declined. Repeats are acknowledged alike."""

    rpc = "Tsm.Reverse"
    reply = Reversed

    def __init__(self, tsm: Tsm) -> None:
        self._tsm = tsm

    def open(self, wire: Wire, ctx: Context) -> Incoming[Reversing]:
        opened, terminal = open_request(Reversal, wire, self._tsm, ctx)
        purchase = purchase_of(ctx, terminal.merchant, opened.message.sale)
        facts = Reversing(terminal=terminal, message=opened.message, purchase=purchase)
        evidence = ((Reversal.NAME, opened.wire),)
        return Incoming(facts=facts, key=opened.key, claims=opened.claims, evidence=evidence)

    def reads(self, facts: Reversing) -> tuple[Read, ...]:
        purchase = Key(PURCHASES, (facts.terminal.merchant, facts.message.sale))
        if facts.purchase is None or facts.purchase.state != "APPROVED":
            return (purchase,)
        return (purchase, Key(CARDS, (facts.purchase.pan_ref,)), Key(TID_LIST, (facts.purchase.sid_digest,)))

    def decide(self, rows: Rows, facts: Reversing, now_s: int, entropy: Entropy) -> Decision:
        row = rows.get(PURCHASES, facts.terminal.merchant, facts.message.sale)
        if row is None:
            never = _never(facts, now_s)
            return Decision(writes=(Insert(PURCHASES, never),), reply=_reversed(never, 0))
        if facts.purchase is None:  # it arrived while this was being opened
            raise Unavailable("the purchase is just being decided: send the reversal again")
        if row.state == "APPROVED":
            if row.refunded_minor:
                raise WrongState("part of it was refunded")
            writes = (Update(PURCHASES, replace(row, state="REVERSED")), *give_back(rows, row, row.amount_minor))
            return Decision(writes=writes, reply=_reversed(row, row.amount_minor))
        return Decision(reply=_reversed(row, row.amount_minor if row.state == "REVERSED" else 0))

    def seal(self, facts: Reversing, reply: Reversed, stamp: Stamp, ctx: Context) -> Wire:
        signed = envelope.sign(
            self._tsm.keys.signer, reply, audience=facts.terminal.merchant, stamp=stamp, request_digest=ctx.digest
        )
        return Wire(cose=signed)


def _never(facts: Reversing, now_s: int) -> Purchase:
    merchant, sale = facts.terminal.merchant, facts.message.sale
    own = sha256(b"none", merchant.encode(), sale)
    return Purchase(
        merchant=merchant, sale=sale, terminal=facts.terminal.terminal, pan_ref=b"", atc_ref=own, opening_ref=own,
        tid="", sid_digest=b"", amount_minor=0, currency="", refunded_minor=0, cryptogram=b"", decided_at_s=now_s,
        reason="", state="NEVER",
    )  # fmt: skip


def _reversed(row: Purchase, amount_minor: int) -> Reversed:
    return Reversed(sale=row.sale, amount_minor=amount_minor, currency=row.currency)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refunding:
    """A verified refund of a purchase that is known."""

    terminal: Terminal
    message: Refund
    purchase: Purchase


class RefundStep(Step[Refunding]):
    """The sum of all refunds of a purchase is at most its amount; each of the merchant's names is used once."""

    rpc = "Tsm.Refund"
    reply = Refunded

    def __init__(self, tsm: Tsm) -> None:
        self._tsm = tsm

    def open(self, wire: Wire, ctx: Context) -> Incoming[Refunding]:
        opened, terminal = open_request(Refund, wire, self._tsm, ctx)
        purchase = purchase_of(ctx, terminal.merchant, opened.message.sale)
        if purchase is None or purchase.state not in ("APPROVED", "REVERSED"):
            raise PurchaseUnknown
        facts = Refunding(terminal=terminal, message=opened.message, purchase=purchase)
        evidence = ((Refund.NAME, opened.wire),)
        return Incoming(facts=facts, key=opened.key, claims=opened.claims, evidence=evidence)

    def reads(self, facts: Refunding) -> tuple[Read, ...]:
        merchant, message = facts.terminal.merchant, facts.message
        return (
            Key(PURCHASES, (merchant, message.sale)), Key(REFUNDS, (merchant, message.refund)),
            Key(CARDS, (facts.purchase.pan_ref,)), Key(TID_LIST, (facts.purchase.sid_digest,)),
        )  # fmt: skip

    def decide(self, rows: Rows, facts: Refunding, now_s: int, entropy: Entropy) -> Decision:
        merchant, message = facts.terminal.merchant, facts.message
        row = rows.get(PURCHASES, merchant, message.sale)
        assert row is not None  # purchases are never deleted
        if row.state != "APPROVED":
            raise WrongState("the purchase was reversed")
        if rows.get(REFUNDS, merchant, message.refund) is not None:
            raise IdentifierTaken("a refund has this name")
        refunded_minor = row.refunded_minor + message.amount_minor
        if message.currency != row.currency or message.amount_minor == 0 or refunded_minor > row.amount_minor:
            raise LimitExceeded("refunds are of the purchase's currency and at most its amount")
        made = RefundRow(
            merchant=merchant, refund=message.refund, sale=message.sale, amount_minor=message.amount_minor,
            currency=message.currency, made_at_s=now_s,
        )  # fmt: skip
        writes = (
            Insert(REFUNDS, made),
            Update(PURCHASES, replace(row, refunded_minor=refunded_minor)),
            *give_back(rows, row, message.amount_minor),
        )
        reply = Refunded(
            sale=row.sale, refund=made.refund, amount_minor=made.amount_minor, refunded_minor=refunded_minor,
            currency=row.currency,
        )  # fmt: skip
        return Decision(writes=writes, reply=reply)

    def seal(self, facts: Refunding, reply: Refunded, stamp: Stamp, ctx: Context) -> Wire:
        signed = envelope.sign(
            self._tsm.keys.signer, reply, audience=facts.terminal.merchant, stamp=stamp, request_digest=ctx.digest
        )
        return Wire(cose=signed)
