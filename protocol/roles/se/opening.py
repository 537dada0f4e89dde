"""OpenCard: the cardholder opens one card for one purchase, up to a ceiling, for a short while (TW-S2)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from protocol.card.cvr import OPENING_BYTES
from protocol.engine import Context, Incoming
from protocol.envelope import Stamp, Wire
from protocol.errors import NoCard, PaymentClosed, ProtocolError, WrongState
from protocol.messages.se import Opening, OpeningState, SeOpenCard, SeOpening
from protocol.ports import Entropy
from protocol.roles.se.party import SeStep, expect_open
from protocol.roles.se.service import service_of
from protocol.roles.se.tables import FIELD, GRANTS, OWNERS, VIRTUAL_CARDS, FieldRow, Owner, ServiceKeys, VirtualCard
from protocol.rows import Decision, Delete, Insert, Key, Read, Rows, Update, Where, Write
from protocol.schema import Message

SLOT = "nfc"
"""A phone has one NFC field, and so one opening at a time."""
OPEN_S = 60
"""How long the cardholder has to bring the phone to the terminal, and to tap again after the PIN (TW-S2, S3)."""
_CLOSED = Opening(
    state=OpeningState.CLOSED, ceiling_minor=0, expires_at_s=0, amount_minor=0, currency="", merchant="", terminal="",
    merchant_name="",
)  # fmt: skip


def opening_of(row: FieldRow | None, now_s: int) -> Opening:
    """The opening as the phone shows it; one whose time is over is closed."""
    if row is None or row.state == OpeningState.CLOSED or row.expires_at_s < now_s:
        return _CLOSED
    return Opening(
        state=OpeningState(row.state), ceiling_minor=row.ceiling_minor, expires_at_s=row.expires_at_s,
        amount_minor=row.amount_minor, currency=row.currency, merchant=row.merchant, terminal=row.terminal,
        merchant_name=row.merchant_name,
    )  # fmt: skip


def is_usable(card: VirtualCard, now_s: int) -> bool:
    """Can this card still answer a first tap?"""
    return card.state == "ACTIVE" and card.expires_at_s > now_s


@dataclass(frozen=True, slots=True, kw_only=True)
class OpeningCard:
    """The wish to pay, and what the phone's software measures as now (closing asks for neither).

    `banks` are those whose credit the account has or had. `last` is the card of the opening before, which may be
    another account's.
    """

    command: SeOpenCard
    service: ServiceKeys
    banks: frozenset[str]
    last: bytes
    pcr10: bytes = b""


class OpenCardStep(SeStep[SeOpenCard, OpeningCard]):
    """The card is chosen here, off the tap's path: of those for at least the ceiling, the one that expires first.

    Cards that are used up are destroyed here, keys and all (TW-S10), and so when an opening is closed. Only the opening
    that read a card retries a tap with it, and that one ends now.

    Software and platform are measured now and must be as they were at the last good launch: no bank is asked, since a
    question at each purchase would tell it when its customer pays.
    """

    rpc = "SecureElement.OpenCard"
    command = SeOpenCard
    reply = SeOpening

    def look(self, command: SeOpenCard, ctx: Context) -> OpeningCard:
        service = service_of(ctx, command.tid)
        if command.ceiling_minor and service.state != "ACTIVE":
            raise WrongState("the account is not active")
        grants = ctx.read(Where(GRANTS, "tid", service.tid)).find(GRANTS, "tid", service.tid)
        banks, field = frozenset(grant.bank for grant in grants), ctx.read(Key(FIELD, (SLOT,))).get(FIELD, SLOT)
        return OpeningCard(command=command, service=service, banks=banks, last=b"" if field is None else field.card)

    def prepare(self, incoming: Incoming[OpeningCard], ctx: Context) -> Incoming[OpeningCard]:
        facts = incoming.facts
        if facts.command.ceiling_minor == 0:
            return incoming
        measured = self._se.platform.measure()
        return replace(incoming, facts=replace(facts, pcr10=measured.pcr10))

    def reads(self, facts: OpeningCard) -> tuple[Read, ...]:
        return (
            Key(FIELD, (SLOT,)), Where(VIRTUAL_CARDS, "tid", facts.service.tid), Key(VIRTUAL_CARDS, (facts.last,)),
            Where(GRANTS, "tid", facts.service.tid), *(Key(OWNERS, (bank,)) for bank in sorted(facts.banks)),
        )  # fmt: skip

    def decide(self, rows: Rows, facts: OpeningCard, now_s: int, entropy: Entropy) -> Decision:
        old = rows.get(FIELD, SLOT)
        used_up = _used_up(rows, facts)
        if facts.command.ceiling_minor == 0:
            closing = () if old is None else (Update(FIELD, replace(old, state=OpeningState.CLOSED.value)),)
            return Decision(writes=(*closing, *used_up), reply=SeOpening(opening=_CLOSED))
        card = _choose(rows, facts, now_s)
        row = FieldRow(
            slot=SLOT, opening=entropy.bytes(OPENING_BYTES), tid=card.tid, card=card.modulus_digest,
            ceiling_minor=facts.command.ceiling_minor, verify_above_minor=card.verify_above_minor,
            currency=card.currency, expires_at_s=now_s + OPEN_S, state=OpeningState.OPEN.value, amount_minor=0,
            merchant="", terminal="", merchant_name="", verified=False, read=False,
        )  # fmt: skip
        write: Write = Insert(FIELD, row) if old is None else Update(FIELD, row)
        return Decision(writes=(write, *used_up), reply=SeOpening(opening=opening_of(row, now_s)))

    def seal(self, facts: OpeningCard, reply: Message, stamp: Stamp, ctx: Context) -> Wire:
        self._take_out(ctx)
        return super().seal(facts, reply, stamp, ctx)

    def _take_out(self, ctx: Context) -> None:
        """The opened card goes into working memory, ahead of the tap."""
        row = ctx.read(Key(FIELD, (SLOT,))).get(FIELD, SLOT)
        card = None
        if row is not None and row.state == OpeningState.OPEN:
            card = ctx.read(Key(VIRTUAL_CARDS, (row.card,))).get(VIRTUAL_CARDS, row.card)
        if card is None:
            self._se.working.forget()
        else:
            self._se.working.hold(card)


def expect_unchanged(owner: Owner, pcr10: bytes) -> None:
    """What runs now is what ran at the last good launch. Raises: PaymentClosed."""
    if pcr10 != owner.installed_pcr:
        raise PaymentClosed("software or platform changed since the last launch")


def _used_up(rows: Rows, facts: OpeningCard) -> tuple[Delete, ...]:
    last = rows.get(VIRTUAL_CARDS, facts.last)
    own = rows.find(VIRTUAL_CARDS, "tid", facts.service.tid)
    other = () if last is None or last.tid == facts.service.tid else (last,)
    return tuple(Delete(VIRTUAL_CARDS, card) for card in (*own, *other) if card.state == "SPENT")


def _choose(rows: Rows, facts: OpeningCard, now_s: int) -> VirtualCard:
    # A card is paid by the bank of its grant: that bank must have found the phone good, as it is now.
    closed = {bank: refusal for bank in facts.banks if (refusal := _why_closed(rows, bank, facts.pcr10)) is not None}
    if len(closed) == len(facts.banks):
        raise closed[min(closed)]
    cards, least_minor = rows.find(VIRTUAL_CARDS, "tid", facts.service.tid), facts.command.ceiling_minor
    banks = {grant.sid_digest: grant.bank for grant in rows.find(GRANTS, "tid", facts.service.tid)}
    usable = [card for card in cards if is_usable(card, now_s) and card.per_use_minor >= least_minor]
    fit = [card for card in usable if banks[card.sid_digest] not in closed]
    if not fit:
        raise closed[banks[usable[0].sid_digest]] if usable else NoCard
    return min(fit, key=lambda card: (card.expires_at_s, card.modulus_digest))


def _why_closed(rows: Rows, bank: str, pcr10: bytes) -> ProtocolError | None:
    try:
        expect_open(rows, bank)
        owner = rows.get(OWNERS, bank)
        assert owner is not None
        expect_unchanged(owner, pcr10)
    except ProtocolError as refusal:
        return refusal
    return None
