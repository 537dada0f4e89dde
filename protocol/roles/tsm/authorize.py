"""PAY at the TSM: one purchase, or many under one signature, decided with the card's and the account's rows locked.

UNIQUE(PAN, ATC) and UNIQUE(PAN, opening) hold in the table as well as here, so that no second process can approve what
this one did (design §3 PAY, §5).
"""

from __future__ import annotations

import datetime
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from protocol import envelope
from protocol.card.cvr import OPENING_BYTES
from protocol.crypto import sha256
from protocol.engine import Context, Incoming, Step
from protocol.envelope import OVERHEAD_BYTES, Stamp, Wire
from protocol.messages.pay import (
    Authorization,
    AuthorizationBatch,
    AuthorizationDecision,
    AuthorizationDecisions,
    Decided,
    EmvPurchase,
    Verdict,
)
from protocol.messages.statement import EntryKind
from protocol.ports import Entropy
from protocol.roles.ledger import grant_account, merchant_account, post
from protocol.roles.tsm.draws import draw, live
from protocol.roles.tsm.freshness import Freshness
from protocol.roles.tsm.limits import why_declined
from protocol.roles.tsm.party import Tsm
from protocol.roles.tsm.purchase import Implausible, Proved, PurchaseChecks, Reason, Signed
from protocol.roles.tsm.tables import (
    CARDS,
    PURCHASES,
    SECOND_DRAWS,
    SERVICES,
    TID_LIST,
    CardRow,
    Purchase,
    SecondDraw,
    Service,
    Terminal,
    TidEntry,
)
from protocol.roles.tsm.terminal_request import open_request
from protocol.rows import Decision, Insert, Key, Read, Rows, Update, Where, Write, changed

RESPONSE_CODES = {Verdict.APPROVED: "00", Verdict.DECLINED: "05", Verdict.VERIFY: "65"}
"""Authorization response code 8A for each verdict (ISO 8583:1987 field 39). Lack of credit has no code of its own: it
would tell the merchant about the person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One purchase as far as it could be checked: proved and of a known card, or implausible for a reason."""

    purchase: EmvPurchase
    proved: Proved | None = None
    card: CardRow | None = None
    implausible: Reason | None = None

    def atc_ref(self) -> bytes:
        """UNIQUE(PAN, ATC)."""
        assert self.card is not None
        return sha256(b"atc", self.card.pan_ref, self.purchase.atc.to_bytes(2, "big"))

    def opening_ref(self) -> bytes:
        """UNIQUE(PAN, opening)."""
        assert self.card is not None
        assert self.proved is not None
        assert len(self.proved.opening) == OPENING_BYTES
        return sha256(b"opening", self.card.pan_ref, self.proved.opening)


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorizing:
    """A terminal's verified request: who asks, and for what."""

    terminal: Terminal
    purchases: tuple[EmvPurchase, ...]
    asked: tuple[Asked, ...] = ()
    request: bytes = b""
    fresh: frozenset[str] = frozenset()
    """Banks whose list of stops is not too old."""


class _Deciding(Step[Authorizing]):
    """What one purchase and a batch share."""

    checks: type[PurchaseChecks] = PurchaseChecks
    looks_first = False

    def __init__(self, tsm: Tsm) -> None:
        self._tsm = tsm
        self._checks = self.checks(tsm.emv_ca)
        self._freshness = Freshness()

    def prepare(self, incoming: Incoming[Authorizing], ctx: Context) -> Incoming[Authorizing]:
        facts = incoming.facts
        today = datetime.datetime.fromtimestamp(ctx.now_s, tz=datetime.UTC).date()
        read = [self._read(purchase, today) for purchase in facts.purchases]
        cards = self._cards_of(read, ctx)
        both = zip(facts.purchases, read, strict=True)
        asked = tuple(self.check(purchase, found, cards, facts.terminal) for purchase, found in both)
        fresh = self._freshness.fresh(ctx, self._tsm.policy.stops_max_age_s)
        return replace(incoming, facts=replace(facts, asked=asked, request=ctx.digest, fresh=fresh))

    def _read(self, purchase: EmvPurchase, today: datetime.date) -> Signed | Reason:
        try:
            return self._checks.read(purchase, today)
        except Implausible as exc:
            return exc.reason

    def _cards_of(self, read: Iterable[Signed | Reason], ctx: Context) -> dict[str, CardRow]:
        """The cards of these numbers that there are, all looked up at once."""
        pans = {found.pan for found in read if isinstance(found, Signed)}
        refs = {pan: self._tsm.secrets.blind("pan", pan.encode()) for pan in pans}
        rows = ctx.read(*(Key(CARDS, (ref,)) for ref in refs.values()))
        cards = {pan: rows.get(CARDS, ref) for pan, ref in refs.items()}
        return {pan: card for pan, card in cards.items() if card is not None}

    def check(
        self, purchase: EmvPurchase, read: Signed | Reason, cards: Mapping[str, CardRow], terminal: Terminal
    ) -> Asked:  # fmt: skip
        """Everything that needs no lock: certificates, signature, cryptogram, and who the card was shown."""
        try:
            if isinstance(read, Reason):
                raise Implausible(read)
            card = cards.get(read.pan)
            if card is None:
                raise Implausible(Reason.CARD_UNKNOWN)
            proved = self._checks.prove(read, purchase, card)
            self.check_merchant(proved, terminal)
        except Implausible as exc:
            return Asked(purchase=purchase, implausible=exc.reason)
        return Asked(purchase=purchase, proved=proved, card=card)

    def check_merchant(self, proved: Proved, terminal: Terminal) -> None:
        """9F16, 9F1C and 9F4E, as the cardholder was shown them, are those registered for this key."""
        shown = (proved.tap.merchant, proved.tap.terminal, proved.tap.merchant_name)
        if shown != (terminal.merchant_identifier, terminal.terminal, terminal.merchant_name):
            raise Implausible(Reason.MERCHANT_MISMATCH)

    def reads(self, facts: Authorizing) -> tuple[Read, ...]:
        reads: dict[Read, None] = {}
        for asked in facts.asked:
            reads[Key(PURCHASES, (facts.terminal.merchant, asked.purchase.sale))] = None
            if asked.card is not None:
                reads[Key(CARDS, (asked.card.pan_ref,))] = None
                reads[Where(TID_LIST, "tid", asked.card.tid)] = None
                reads[Key(SERVICES, (asked.card.tid,))] = None
                reads[Where(PURCHASES, "atc_ref", asked.atc_ref())] = None
                reads[Where(PURCHASES, "opening_ref", asked.opening_ref())] = None
        return tuple(reads)

    def decide(self, rows: Rows, facts: Authorizing, now_s: int, entropy: Entropy) -> Decision:
        books = _Books(rows=rows, facts=facts, now_s=now_s)
        decided = tuple(books.decide(asked) for asked in facts.asked)
        return Decision(writes=books.writes(), reply=self.answer(decided))

    @abstractmethod
    def answer(self, decided: tuple[Decided, ...]) -> AuthorizationDecision | AuthorizationDecisions:
        """The reply that carries these decisions."""

    def seal(
        self, facts: Authorizing, reply: AuthorizationDecision | AuthorizationDecisions, stamp: Stamp, ctx: Context
    ) -> Wire:
        signed = envelope.sign(
            self._tsm.keys.signer, reply, audience=facts.terminal.merchant, stamp=stamp, request_digest=ctx.digest
        )
        return Wire(cose=signed)


class AuthorizeStep(_Deciding):
    """One purchase. The answer is the merchant's receipt."""

    rpc = "Tsm.Authorize"
    reply = AuthorizationDecision
    gathers = True

    def open(self, wire: Wire, ctx: Context) -> Incoming[Authorizing]:
        opened, terminal = open_request(Authorization, wire, self._tsm, ctx)
        facts = Authorizing(terminal=terminal, purchases=(opened.message.purchase,))
        evidence = ((Authorization.NAME, opened.wire),)
        return Incoming(facts=facts, key=opened.key, claims=opened.claims, evidence=evidence)

    def answer(self, decided: tuple[Decided, ...]) -> AuthorizationDecision:
        return AuthorizationDecision(decided=decided[0])


class AuthorizeBatchStep(_Deciding):
    """Up to 32 purchases, each decided by itself and in order; one signature for the request and one for the answer."""

    rpc = "Tsm.AuthorizeBatch"
    reply = AuthorizationDecisions
    max_bytes = AuthorizationBatch.MAX_BYTES + OVERHEAD_BYTES

    def open(self, wire: Wire, ctx: Context) -> Incoming[Authorizing]:
        opened, terminal = open_request(AuthorizationBatch, wire, self._tsm, ctx)
        facts = Authorizing(terminal=terminal, purchases=opened.message.purchases)
        evidence = ((AuthorizationBatch.NAME, opened.wire),)
        return Incoming(facts=facts, key=opened.key, claims=opened.claims, evidence=evidence)

    def answer(self, decided: tuple[Decided, ...]) -> AuthorizationDecisions:
        return AuthorizationDecisions(decided=decided)


@dataclass(kw_only=True)
class _Books:
    """The rows of one request while its purchases are decided one after the other."""

    rows: Rows
    facts: Authorizing
    now_s: int
    made: list[Purchase] = field(default_factory=list)
    posted: list[Insert] = field(default_factory=list)
    cards: dict[bytes, CardRow] = field(default_factory=dict)
    grants: dict[bytes, TidEntry] = field(default_factory=dict)

    def decide(self, asked: Asked) -> Decided:
        """One purchase; what it changes is seen by the next."""
        card = None if asked.card is None else self._card(asked.card)
        reason = self._reason(asked, card)
        decided = self._decided(asked, reason)
        if reason not in (Reason.SALE_REUSED, Reason.REVERSED_BEFORE):
            sid_digest = card.sid_digest if card else b""
            if reason is None:
                assert card is not None
                sid_digest = self._charge(asked, card)
            self.made.append(self._row(asked, reason, sid_digest, sha256(decided.to_bytes())))
        return decided

    def writes(self) -> tuple[Write, ...]:
        """All changes of the request."""
        return (
            *(Insert(PURCHASES, row) for row in self.made),
            *(Update(CARDS, row) for row in self.cards.values() if row != self.rows.get(CARDS, row.pan_ref)),
            *(Update(TID_LIST, row) for row in self.grants.values()),
            *self.posted,
        )  # fmt: skip

    def _card(self, seen: CardRow) -> CardRow:
        if seen.pan_ref not in self.cards:
            row = self.rows.get(CARDS, seen.pan_ref)
            assert row is not None  # cards are never deleted
            self.cards[seen.pan_ref] = row
        return self.cards[seen.pan_ref]

    def _entries(self, card: CardRow) -> tuple[TidEntry, ...]:
        return tuple(self.grants.get(row.sid_digest, row) for row in self.rows.find(TID_LIST, "tid", card.tid))

    def _service(self, card: CardRow) -> Service:
        service = self.rows.get(SERVICES, card.tid)
        assert service is not None
        return service

    def _reason(self, asked: Asked, card: CardRow | None) -> Reason | None:
        sale = asked.purchase.sale
        known = self.rows.get(PURCHASES, self.facts.terminal.merchant, sale)
        if known is not None:
            return Reason.REVERSED_BEFORE if known.state == "NEVER" else Reason.SALE_REUSED
        if any(row.sale == sale for row in self.made):
            return Reason.SALE_REUSED
        if asked.proved is None or card is None:
            return asked.implausible
        if self._met("atc_ref", asked.atc_ref()):
            return Reason.ATC_REUSED
        if self._met("opening_ref", asked.opening_ref()):
            return Reason.OPENING_USED
        return why_declined(asked.proved, card, self._entries(card), self._service(card), self.facts.fresh, self.now_s)

    def _met(self, column: str, ref: bytes) -> bool:
        return bool(self.rows.find(PURCHASES, column, ref)) or any(getattr(row, column) == ref for row in self.made)

    def _charge(self, asked: Asked, card: CardRow) -> bytes:
        """Session of the grant that the purchase draws on; card, grants and ledger follow."""
        assert asked.proved is not None
        tap, merchant, sale = asked.proved.tap, self.facts.terminal.merchant, asked.purchase.sale
        self.cards[card.pan_ref] = changed(card, used=card.used + 1, spent_minor=card.spent_minor + tap.amount_minor)
        draws = draw(live(self._entries(card), self.now_s), tap.amount_minor)
        for part in draws:
            self.grants[part.grant.sid_digest] = part.taken()
            self.posted += post(
                EntryKind.PURCHASE, debit=grant_account(part.grant.sid_digest), credit=merchant_account(merchant),
                amount_minor=part.amount_minor, currency=tap.currency, ref=sale, at_s=self.now_s,
            )  # fmt: skip
        first, *more = draws
        for second in more:
            drawn = SecondDraw(
                merchant=merchant, sale=sale, sid_digest=second.grant.sid_digest,
                amount_minor=second.amount_minor, claim=0,
            )  # fmt: skip
            self.posted.append(Insert(SECOND_DRAWS, drawn))
        return first.grant.sid_digest

    def _row(self, asked: Asked, reason: Reason | None, sid_digest: bytes, receipt_digest: bytes) -> Purchase:
        # What uses no counter or no opening holds a value of its own there, which nothing else can have.
        terminal, sale = self.facts.terminal, asked.purchase.sale
        merchant = terminal.merchant
        own = sha256(b"none", merchant.encode(), sale)
        valid = asked.proved is not None and asked.card is not None
        counted = valid and reason is not Reason.ATC_REUSED
        proved, card = asked.proved, asked.card
        return Purchase(
            merchant=merchant, sale=sale, terminal=terminal.terminal,
            pan_ref=card.pan_ref if card else b"", atc_ref=asked.atc_ref() if counted else own,
            opening_ref=own if reason else asked.opening_ref(), tid=card.tid if card else "",
            sid_digest=sid_digest, amount_minor=proved.tap.amount_minor if proved else 0,
            currency=proved.tap.currency if proved else "", refunded_minor=0,
            cryptogram=proved.cryptogram if proved else b"", decided_at_s=self.now_s, reason=reason or "",
            state="DECLINED" if reason else "APPROVED", request=self.facts.request, receipt_digest=receipt_digest,
            settled=b"", claim=0,
        )  # fmt: skip

    def _decided(self, asked: Asked, reason: Reason | None) -> Decided:
        verdict = verdict_of(reason)
        code = RESPONSE_CODES[verdict]
        sale, terminal, proved = asked.purchase.sale, self.facts.terminal, asked.proved
        if proved is None:
            return Decided(
                sale=sale, verdict=verdict, merchant=terminal.merchant, terminal=terminal.terminal, pan="", atc=0,
                unpredictable=b"", amount_minor=0, currency="", issuer_data=b"", cryptogram=b"", response_code=code,
                arpc=b"",
            )  # fmt: skip
        return Decided(
            sale=sale, verdict=verdict, merchant=terminal.merchant, terminal=terminal.terminal, pan=proved.pan,
            atc=proved.atc, unpredictable=proved.tap.unpredictable, amount_minor=proved.tap.amount_minor,
            currency=proved.tap.currency, issuer_data=asked.purchase.issuer_data, cryptogram=proved.cryptogram,
            response_code=code, arpc=proved.response(code.encode()),
        )  # fmt: skip


def verdict_of(reason: Reason | None) -> Verdict:
    """What the merchant is told."""
    if reason is None:
        return Verdict.APPROVED
    return Verdict.VERIFY if reason is Reason.VERIFICATION_MISSING else Verdict.DECLINED
