"""What must hold after PAY: each approval is a card's own, counted once, and the same at merchant, TSM and in the SE.

The card's part is checked anew from the requests that the TSM kept as evidence: terminal's signature, certificates,
SDAD and cryptogram. So a row that somebody wrote is not taken for a purchase.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from parties.checker.expected import Expected, Finding, Parties
from parties.checker.keys import PartyData, terminal_keys
from parties.checker.opening import OpenedExchange
from parties.emv_files import read_ca_keys
from protocol import cose, envelope
from protocol.card.pan import mask_pan
from protocol.engine import EVIDENCE
from protocol.errors import ProtocolError
from protocol.messages.pay import (
    Authorization,
    AuthorizationBatch,
    AuthorizationDecision,
    Decided,
    EmvPurchase,
    Verdict,
)
from protocol.messages.statement import EntryKind
from protocol.messages.till import SaleProgress
from protocol.pki import Use
from protocol.roles.ledger import LEDGER, grant_account
from protocol.roles.merchant import SALE_REFUNDS, SALES, TERMINAL_KEYS, SaleRow
from protocol.roles.tsm.authorize import RESPONSE_CODES
from protocol.roles.tsm.purchase import Implausible, Proved, PurchaseChecks, Reason
from protocol.roles.tsm.tables import CARDS, PURCHASES, REFUNDS, TID_LIST, CardRow, Purchase
from protocol.types import Role

Name = tuple[str, bytes]
"""Of a purchase: merchant and sale."""
WAS_APPROVED: Final = ("APPROVED", "REVERSED")
_HELD: Final = (SaleProgress.APPROVED, SaleProgress.EXPECT_REVERSAL, SaleProgress.REVERSED)
"""What a sale with a receipt can be."""
_SPENT: Final = (EntryKind.PURCHASE, EntryKind.REVERSAL, EntryKind.REFUND)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One purchase in a request that a registered terminal signed; `digest` is the request's."""

    digest: bytes
    terminal: str
    purchase: EmvPurchase


def check_pay(parties: Parties, expected: Expected) -> Iterator[Finding]:
    """PAY: databases of TSM and merchants, with the signatures in them."""
    asked = _asked(parties.tsm)
    yield from _check_cards_word(parties, asked)
    yield from _check_decisions(parties)
    yield from _check_books(parties)
    yield from _check_refunds(parties)
    for merchant in parties.by(Role.MERCHANT):
        yield from _check_merchant(parties, merchant, asked)
    yield from _check_single_use(parties)
    paid = sum(1 for sale in parties.rows(Role.MERCHANT, SALES) if sale.receipt)
    if paid != expected.paid:
        yield f"{paid} sales have a receipt, {expected.paid} expected"


def _asked(tsm: PartyData) -> dict[Name, list[Asked]]:
    """All purchases that were asked for, by name; a request that no registered terminal signed counts for nothing."""
    keys, found = terminal_keys(tsm), dict[Name, list[Asked]]()
    for row in tsm.of(EVIDENCE):
        if row.message not in (Authorization.NAME, AuthorizationBatch.NAME):
            continue
        kind = Authorization if row.message == Authorization.NAME else AuthorizationBatch
        try:
            sign1 = envelope.peek(kind, row.signed)
            if sign1.kid not in keys:
                continue
            known = keys[sign1.kid]
            message = kind.from_bytes(cose.verify(sign1, known.key, name=kind.NAME).payload)
        except ProtocolError:
            continue
        purchases = (message.purchase,) if isinstance(message, Authorization) else message.purchases
        for purchase in purchases:
            asked = Asked(digest=row.digest, terminal=known.terminal, purchase=purchase)
            found.setdefault((known.merchant, purchase.sale), []).append(asked)
    return found


# --- at the TSM ------------------------------------------------------------------------------------------------------
def _check_cards_word(parties: Parties, asked: dict[Name, list[Asked]]) -> Iterator[Finding]:
    """Each approval is of a card that made it, for this terminal and amount; no counter or opening served twice."""
    checks = PurchaseChecks(read_ca_keys(parties.tsm.opened.settings.pki))
    cards = {card.pan_ref: card for card in parties.tsm.of(CARDS)}
    counters, openings = Counter[tuple[str, int]](), Counter[tuple[str, bytes]]()
    for row in parties.tsm.of(PURCHASES):
        if row.state not in WAS_APPROVED:
            continue
        card = cards.get(row.pan_ref)
        proofs = [] if card is None else [
            proved for one in asked.get((row.merchant, row.sale), ())
            if (proved := _prove(checks, one, card, row)) is not None
        ]  # fmt: skip
        if not proofs:
            yield "the TSM approved a purchase that no card made"
            continue
        counters[proofs[0].pan, proofs[0].atc] += 1
        openings[proofs[0].pan, proofs[0].opening] += 1
    if any(times > 1 for times in counters.values()):
        yield "two approved purchases are of one card and one counter"
    if any(times > 1 for times in openings.values()):
        yield "two approved purchases are of one opening"


def _prove(checks: PurchaseChecks, asked: Asked, card: CardRow, row: Purchase) -> Proved | None:
    """The card's own statement, if it says what the row says."""
    day = datetime.datetime.fromtimestamp(row.decided_at_s, tz=datetime.UTC).date()
    try:
        proved = checks.prove(checks.read(asked.purchase, day), asked.purchase, card)
    except Implausible:
        return None
    said = (proved.tap.amount_minor, proved.tap.currency, proved.tap.terminal, proved.cryptogram, asked.terminal)
    return proved if said == (row.amount_minor, row.currency, row.terminal, row.cryptogram, row.terminal) else None


def _check_decisions(parties: Parties) -> Iterator[Finding]:
    """A decline has a reason that we know; nothing else has one."""
    for row in parties.tsm.of(PURCHASES):
        if row.state == "DECLINED" and row.reason not in tuple(Reason):
            yield "a purchase was declined without a reason"
        if row.state != "DECLINED" and row.reason:
            yield "a purchase was declined, and was not"
        if row.state not in (*WAS_APPROVED, "DECLINED", "NEVER"):
            yield f"a purchase is {row.state}"


def _check_books(parties: Parties) -> Iterator[Finding]:
    """Grants and cards hold just what their purchases took and gave back, within their limits."""
    used, by_card, by_grant = Counter[bytes](), Counter[bytes](), Counter[str]()
    for row in parties.tsm.of(PURCHASES):
        if row.state in WAS_APPROVED:
            used[row.pan_ref] += 1
        if row.state == "APPROVED":
            by_card[row.pan_ref] += row.amount_minor - row.refunded_minor
    for drawn in parties.tsm.of(LEDGER):
        if drawn.kind in _SPENT:
            by_grant[drawn.debit] += drawn.amount_minor
            by_grant[drawn.credit] -= drawn.amount_minor
    if sum(by_card.values()) != sum(by_grant[grant_account(row.sid_digest)] for row in parties.tsm.of(TID_LIST)):
        yield "what purchases took is not what the ledger says of the grants"
    for grant in parties.tsm.of(TID_LIST):
        if by_grant[grant_account(grant.sid_digest)] != grant.spent_minor:
            yield "what a grant has spent is not the sum of its purchases"
        if grant.spent_minor > grant.aid_limit_minor:
            yield "a grant was overspent"
    for card in parties.tsm.of(CARDS):
        if (used[card.pan_ref], by_card[card.pan_ref]) != (card.used, card.spent_minor):
            yield "what a card has spent is not the sum of its purchases"
        if card.used > card.uses or card.spent_minor > card.total_minor:
            yield "a card was used more than its controls allow"


def _check_refunds(parties: Parties) -> Iterator[Finding]:
    """Refunds at the TSM add up, are at most the amount, and are those that the merchant holds for made."""
    made, held = Counter[Name](), Counter[Name]()
    for refund in parties.tsm.of(REFUNDS):
        made[refund.merchant, refund.sale] += refund.amount_minor
    for row in parties.tsm.of(PURCHASES):
        if made[row.merchant, row.sale] != row.refunded_minor or row.refunded_minor > row.amount_minor:
            yield "the refunds of a purchase do not add up"
    for merchant in parties.by(Role.MERCHANT):
        for back in merchant.of(SALE_REFUNDS):
            held[merchant.name, back.sale] += back.amount_minor if back.state == "DONE" else 0
        for sale in merchant.of(SALES):
            name = (merchant.name, sale.sale)
            if not held[name] == sale.refunded_minor <= made[name]:
                yield "a merchant's refunds are not those of the TSM"


# --- at a merchant ---------------------------------------------------------------------------------------------------
def _check_merchant(parties: Parties, merchant: PartyData, asked: dict[Name, list[Asked]]) -> Iterator[Finding]:
    decided = {row.sale: row for row in parties.tsm.of(PURCHASES) if row.merchant == merchant.name}
    sales = {sale.sale: sale for sale in merchant.of(SALES)}
    for sale in sales.values():
        row = decided.get(sale.sale)
        if sale.receipt:
            receipt = _receipt(merchant, sale, asked.get((merchant.name, sale.sale), []))
            if receipt is None:
                yield f"{merchant.name} has a receipt that the TSM did not sign for this sale"
            elif not _agree(merchant, sale, receipt, row):
                yield f"sale, receipt and the TSM's record differ at {merchant.name}"
        elif sale.progress == SaleProgress.APPROVED:
            yield f"{merchant.name} has an approved sale without a receipt"
        elif row is not None and row.state == "APPROVED" and sale.progress != SaleProgress.EXPECT_REVERSAL:
            yield f"the TSM approved what {merchant.name} did not sell"
    own = {key.terminal for key in merchant.of(TERMINAL_KEYS)}
    if any(row.terminal in own and row.state == "APPROVED" and sale not in sales for sale, row in decided.items()):
        yield f"the TSM approved what {merchant.name} never asked for"


def _receipt(merchant: PartyData, sale: SaleRow, asked: Iterable[Asked]) -> Decided | None:
    """What the TSM signed in answer to one of the requests for this sale."""
    tsm = merchant.opened.directory.named(merchant.opened.settings.option_text("tsm"), Use.SIGN)
    for one in asked:
        try:
            sign1 = cose.verify(
                envelope.peek(AuthorizationDecision, sale.receipt), tsm.key, name=AuthorizationDecision.NAME,
                request_digest=one.digest,
            )  # fmt: skip
            return AuthorizationDecision.from_bytes(sign1.payload).decided
        except ProtocolError:
            continue
    return None


def _agree(merchant: PartyData, sale: SaleRow, receipt: Decided, row: Purchase | None) -> bool:
    """One amount, terminal, card and cryptogram; and both hold it for approved, or both for taken back."""
    if row is None or receipt.verdict is not Verdict.APPROVED or sale.progress not in tuple(_HELD):
        return False
    said = (receipt.sale, receipt.merchant, receipt.terminal, receipt.amount_minor, receipt.currency)
    wanted = (sale.sale, merchant.name, row.terminal, sale.amount_minor, sale.currency)
    alike = (receipt.amount_minor, receipt.currency, receipt.cryptogram) == (
        row.amount_minor, row.currency, row.cryptogram
    )  # fmt: skip
    states = {"APPROVED": ("APPROVED",), "REVERSED": ("REVERSED",)}.get(sale.progress, WAS_APPROVED)
    return said == wanted and alike and mask_pan(receipt.pan) == sale.card and row.state in states


def _check_single_use(parties: Parties) -> Iterator[Finding]:
    """No merchant met a single-use card twice, nor two merchants one: receipts are what could be compared."""
    single = {card.pan for card in parties.tsm.of(CARDS) if card.uses == 1}
    met = Counter[str]()
    for sale in parties.rows(Role.MERCHANT, SALES):
        if sale.receipt:
            sign1 = envelope.peek(AuthorizationDecision, sale.receipt)
            met[AuthorizationDecision.from_bytes(sign1.payload).decided.pan] += 1
    if any(times > 1 and pan in single for pan, times in met.items()):
        yield "a single-use card is in two receipts"


# --- on the wire -----------------------------------------------------------------------------------------------------
def check_answers(exchanges: Iterable[OpenedExchange], parties: Parties, expected: Expected) -> Iterator[Finding]:
    """What merchants were told is what the TSM noted, without its reason; and each reason that was to come has come."""
    rows = {(row.merchant, row.sale): row for row in parties.tsm.of(PURCHASES)}
    answers = [one for one in exchanges if one.captured.rpc == "Tsm.Authorize" and one.captured.code == "OK"]
    seen: set[str] = set()
    first: dict[Name, bytes] = {}
    for exchange in answers:
        if not exchange.signed:
            continue  # counted as such already
        asked, decided = exchange.request[0], exchange.reply[0].payload["decided"]
        name = (asked.claims.issuer, decided["sale"])
        digest = exchange.captured.request.digest
        reused = first.setdefault(name, digest) != digest
        reason, told = _noted(rows.get(name), reused=reused), Verdict(decided["verdict"])
        seen.add(reason)
        if told is not _TOLD.get(reason, Verdict.DECLINED) or decided["response_code"] != RESPONSE_CODES[told]:
            yield "a merchant was told something else than the TSM decided"
    for reason in sorted(expected.reasons - seen):
        yield f"no purchase was declined for {reason}"


_TOLD: Final = {"": Verdict.APPROVED, Reason.VERIFICATION_MISSING.value: Verdict.VERIFY}


def _noted(row: Purchase | None, *, reused: bool) -> str:
    """Why it was declined, or empty. A name that is taken gets no second row."""
    if row is None:
        return "NOTHING"
    if row.state == "NEVER":
        return Reason.REVERSED_BEFORE.value
    return Reason.SALE_REUSED.value if reused else row.reason
