"""Money back: a reversal ends a purchase, a refund gives part or all of it back (design §3 PAY)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from protocol import envelope
from protocol.crypto import sha256
from protocol.engine import Context, Incoming, Step
from protocol.envelope import Stamp, Wire
from protocol.errors import AlreadySettled, IdentifierTaken, LimitExceeded, PurchaseUnknown, Unavailable, WrongState
from protocol.messages.pay import Refund, Refunded, Reversal, Reversed
from protocol.messages.statement import EntryKind
from protocol.ports import Entropy
from protocol.roles.ledger import grant_account, merchant_account, post
from protocol.roles.tsm.draws import give_back_from
from protocol.roles.tsm.party import Tsm
from protocol.roles.tsm.tables import (
    CARDS,
    PURCHASES,
    REFUNDS,
    SECOND_DRAWS,
    TID_LIST,
    Purchase,
    RefundRow,
    SecondDraw,
    Terminal,
)
from protocol.roles.tsm.terminal_request import open_request
from protocol.rows import Decision, Insert, Key, Read, Rows, Update, Write, changed


def purchase_of(ctx: Context, merchant: str, sale: bytes) -> Purchase | None:
    """This merchant's purchase of that name."""
    return ctx.read(Key(PURCHASES, (merchant, sale))).get(PURCHASES, merchant, sale)


def second_of(ctx: Context, purchase: Purchase | None) -> SecondDraw | None:
    """What this purchase took of a second grant; it is written with the purchase and stays."""
    if purchase is None:
        return None
    key = (purchase.merchant, purchase.sale)
    return ctx.read(Key(SECOND_DRAWS, key)).get(SECOND_DRAWS, *key)


def giving_reads(purchase: Purchase, second: SecondDraw | None) -> tuple[Read, ...]:
    """The rows that `give_back` looks at."""
    grants = (purchase.sid_digest,) if second is None else (purchase.sid_digest, second.sid_digest)
    return (Key(CARDS, (purchase.pan_ref,)), *(Key(TID_LIST, (sid_digest,)) for sid_digest in grants))


def give_back(
    rows: Rows, purchase: Purchase, second: SecondDraw | None, amount_minor: int, *, kind: EntryKind, ref: bytes,
    now_s: int,
) -> tuple[Write, ...]:  # fmt: skip
    """The amount is the account's again, and the card's total; its uses are not: a card that was read stays used."""
    card = rows.get(CARDS, purchase.pan_ref)
    assert card is not None
    writes: list[Write] = [Update(CARDS, changed(card, spent_minor=card.spent_minor - amount_minor))]
    for sid_digest, part_minor in give_back_from(purchase, second, amount_minor):
        grant = rows.get(TID_LIST, sid_digest)
        assert grant is not None
        writes.append(Update(TID_LIST, replace(grant, spent_minor=grant.spent_minor - part_minor)))
        writes += post(
            kind, debit=merchant_account(purchase.merchant), credit=grant_account(sid_digest), amount_minor=part_minor,
            currency=purchase.currency, ref=ref, at_s=now_s,
        )  # fmt: skip
    return tuple(writes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reversing:
    """A verified reversal, and the purchase as it was when it was looked for."""

    terminal: Terminal
    message: Reversal
    purchase: Purchase | None
    second: SecondDraw | None


class ReverseStep(Step[Reversing]):
    """Also for a purchase that never arrived: should it come later, it is declined. Repeats are acknowledged alike."""

    rpc = "Tsm.Reverse"
    reply = Reversed

    def __init__(self, tsm: Tsm) -> None:
        self._tsm = tsm

    def open(self, wire: Wire, ctx: Context) -> Incoming[Reversing]:
        opened, terminal = open_request(Reversal, wire, self._tsm, ctx)
        purchase = purchase_of(ctx, terminal.merchant, opened.message.sale)
        facts = Reversing(terminal=terminal, message=opened.message, purchase=purchase, second=second_of(ctx, purchase))
        evidence = ((Reversal.NAME, opened.wire),)
        return Incoming(facts=facts, key=opened.key, claims=opened.claims, evidence=evidence)

    def reads(self, facts: Reversing) -> tuple[Read, ...]:
        purchase = Key(PURCHASES, (facts.terminal.merchant, facts.message.sale))
        if facts.purchase is None or facts.purchase.state != "APPROVED":
            return (purchase,)
        return (purchase, *giving_reads(facts.purchase, facts.second))

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
            if row.settled:
                raise AlreadySettled("it was paid out: refund it")
            given = give_back(
                rows, row, facts.second, row.amount_minor, kind=EntryKind.REVERSAL, ref=row.sale, now_s=now_s
            )
            writes = (Update(PURCHASES, replace(row, state="REVERSED")), *given)
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
        reason="", state="NEVER", request=b"", receipt_digest=b"", settled=b"", claim=0,
    )  # fmt: skip


def _reversed(row: Purchase, amount_minor: int) -> Reversed:
    return Reversed(sale=row.sale, amount_minor=amount_minor, currency=row.currency)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refunding:
    """A verified refund of a purchase that is known."""

    terminal: Terminal
    message: Refund
    purchase: Purchase
    second: SecondDraw | None


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
        facts = Refunding(terminal=terminal, message=opened.message, purchase=purchase, second=second_of(ctx, purchase))
        evidence = ((Refund.NAME, opened.wire),)
        return Incoming(facts=facts, key=opened.key, claims=opened.claims, evidence=evidence)

    def reads(self, facts: Refunding) -> tuple[Read, ...]:
        merchant, message = facts.terminal.merchant, facts.message
        return (
            Key(PURCHASES, (merchant, message.sale)), Key(REFUNDS, (merchant, message.refund)),
            *giving_reads(facts.purchase, facts.second),
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
            currency=message.currency, made_at_s=now_s, settled=b"",
        )  # fmt: skip
        writes = (
            Insert(REFUNDS, made),
            Update(PURCHASES, replace(row, refunded_minor=refunded_minor)),
            *give_back(
                rows, row, facts.second, message.amount_minor, kind=EntryKind.REFUND, ref=message.refund, now_s=now_s
            ),
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
