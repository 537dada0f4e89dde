"""A party's books proved from its own rows: what moved money, and what was added up, agree to the unit.

Each proof compares what the ledger says with what the rows say that caused its entries, entry by entry where there is a
cause with a name. What differs is named; an entry without a cause, and a cause without its entry, differ too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias, TypeVar

from protocol.messages.statement import EntryKind
from protocol.messages.till import SaleProgress
from protocol.roles.bank.tables import ANONYMOUS_ACCOUNTS, GRANTS, RECEIVED_CLAIMS
from protocol.roles.ledger import (
    LEDGER,
    Entry,
    aid_account,
    balances,
    entry_name,
    grant_account,
    merchant_account,
)
from protocol.roles.merchant.tables import SALE_REFUNDS, SALES, SETTLEMENTS
from protocol.roles.statement import Compared
from protocol.roles.tsm.tables import CARDS, CLAIMS, PAYOUTS, PURCHASES, REFUNDS, SECOND_DRAWS, TID_LIST
from protocol.rows import Table
from protocol.types import Role

R = TypeVar("R")
Sums: TypeAlias = Counter[tuple[str, str, str]]
"""(account and cause, kind, currency) → minor units."""


class Scan(Protocol):
    """All rows of one state of a database."""

    def scan(self, table: Table[R]) -> tuple[R, ...]:
        """Every row, in the order of its keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """How many sums were compared under a title, and those that differ."""

    title: str
    compared: int
    differences: tuple[Compared, ...]


def proof(title: str, own: Sums, other: Sums) -> Proof:
    """Sum by sum; what one side has not is zero there."""
    rows = [
        Compared(account=account, kind=kind, currency=currency, own_minor=own[key], other_minor=other[key])
        for key in sorted(own.keys() | other.keys())
        for account, kind, currency in (key,)
    ]
    return Proof(title=title, compared=len(rows), differences=tuple(row for row in rows if not row.agrees))


def prove_books(role: Role, books: Scan) -> tuple[Proof, ...]:
    """All proofs of a bank's, a TSM's or a merchant's books."""
    entries = books.scan(LEDGER)
    return (_double_entry(entries), *_PROOFS[role](books, entries))


def _double_entry(entries: Iterable[Entry]) -> Proof:
    """All accounts of a currency sum to zero, and each entry has the name that its fields make."""
    own, other = Sums(), Sums()
    for (_, currency), balance_minor in balances(entries).items():
        own["all accounts", "sum", currency] += balance_minor
        other["all accounts", "sum", currency] = 0
    for entry in entries:
        named = entry.entry == entry_name(EntryKind(entry.kind), debit=entry.debit, credit=entry.credit, ref=entry.ref)
        if not named or entry.amount_minor <= 0:
            own[f"{entry.debit} {entry.ref.hex()}", entry.kind, entry.currency] += entry.amount_minor
    return proof("double entry", own, other)


def _caused(account: str, ref: bytes) -> str:
    return f"{account} {ref.hex()}"


# --- TSM -------------------------------------------------------------------------------------------------------------
_OF_MERCHANT: Final = (EntryKind.PURCHASE, EntryKind.REVERSAL, EntryKind.REFUND, EntryKind.PAYOUT)


def _tsm(books: Scan, entries: tuple[Entry, ...]) -> tuple[Proof, ...]:
    return (
        proof("entries of purchases, refunds and payouts", *_tsm_causes(books, entries)),
        proof("spent of grants", *_tsm_grants(books, entries)),
        proof("claims of grants", *_tsm_claims(books, entries)),
        proof("second grants", *_tsm_seconds(books, entries)),
        proof("spent of cards", *_tsm_cards(books)),
        proof("refunded of purchases", *_tsm_refunded(books)),
        proof("payouts", *_tsm_payouts(books)),
    )


def _tsm_causes(books: Scan, entries: tuple[Entry, ...]) -> tuple[Sums, Sums]:
    own, other = Sums(), Sums()
    for entry in entries:
        if entry.kind in _OF_MERCHANT:
            account = entry.credit if entry.kind == EntryKind.PURCHASE else entry.debit
            own[_caused(account, entry.ref), entry.kind, entry.currency] += entry.amount_minor
    for row in books.scan(PURCHASES):
        account = _caused(merchant_account(row.merchant), row.sale)
        booked = own[account, EntryKind.PURCHASE, row.currency] or own[account, EntryKind.REVERSAL, row.currency]
        if row.state == "APPROVED" or (row.state == "REVERSED" and booked):  # before there were books, none was made
            other[account, EntryKind.PURCHASE, row.currency] += row.amount_minor
        if row.state == "REVERSED" and booked:
            other[account, EntryKind.REVERSAL, row.currency] += row.amount_minor
    for refund in books.scan(REFUNDS):
        account = _caused(merchant_account(refund.merchant), refund.refund)
        other[account, EntryKind.REFUND, refund.currency] += refund.amount_minor
    for paid in books.scan(PAYOUTS):
        account = _caused(merchant_account(paid.merchant), paid.batch)
        other[account, EntryKind.PAYOUT, paid.currency] += paid.total_minor
    return own, other


def _tsm_grants(books: Scan, entries: tuple[Entry, ...]) -> tuple[Sums, Sums]:
    own, other = Sums(), Sums()
    for entry in entries:
        if entry.kind == EntryKind.PURCHASE:
            own[entry.debit, "spent", entry.currency] += entry.amount_minor
        elif entry.kind in (EntryKind.REVERSAL, EntryKind.REFUND):
            own[entry.credit, "spent", entry.currency] -= entry.amount_minor
    for grant in books.scan(TID_LIST):
        other[grant_account(grant.sid_digest), "spent", grant.currency] += grant.spent_minor
    return own, other


def _tsm_claims(books: Scan, entries: tuple[Entry, ...]) -> tuple[Sums, Sums]:
    own, other = Sums(), Sums()
    currencies = {grant.sid_digest: grant.currency for grant in books.scan(TID_LIST)}
    for entry in entries:
        if entry.kind == EntryKind.CLAIM:
            own[entry.credit, entry.kind, entry.currency] += entry.amount_minor
        elif entry.kind == EntryKind.CREDIT_NOTE:
            own[entry.debit, entry.kind, entry.currency] += entry.amount_minor
    last = {row.sid_digest: row for row in books.scan(CLAIMS) if row.state == "ACCEPTED"}  # in the order of sequences
    for sid_digest, row in last.items():
        account, currency = grant_account(sid_digest), currencies[sid_digest]
        other[account, EntryKind.CLAIM, currency] = row.claimed_minor
        other[account, EntryKind.CREDIT_NOTE, currency] = row.credited_minor
    return own, other


def _tsm_cards(books: Scan) -> tuple[Sums, Sums]:
    own, other = Sums(), Sums()
    for row in books.scan(PURCHASES):
        if row.state == "APPROVED":
            own[f"card/{row.pan_ref.hex()}", "spent", row.currency] += row.amount_minor - row.refunded_minor
    for card in books.scan(CARDS):
        other[f"card/{card.pan_ref.hex()}", "spent", card.currency] += card.spent_minor
    return own, other


def _tsm_refunded(books: Scan) -> tuple[Sums, Sums]:
    own, other = Sums(), Sums()
    for row in books.scan(PURCHASES):
        own[_caused(merchant_account(row.merchant), row.sale), EntryKind.REFUND, row.currency] += row.refunded_minor
    for refund in books.scan(REFUNDS):
        account = _caused(merchant_account(refund.merchant), refund.sale)
        other[account, EntryKind.REFUND, refund.currency] += refund.amount_minor
    return own, other


def _tsm_seconds(books: Scan, entries: tuple[Entry, ...]) -> tuple[Sums, Sums]:
    own, other = Sums(), Sums()
    currencies = {(row.merchant, row.sale): row.currency for row in books.scan(PURCHASES)}
    for second in books.scan(SECOND_DRAWS):
        account = _caused(grant_account(second.sid_digest), second.sale)
        other[account, EntryKind.PURCHASE, currencies[second.merchant, second.sale]] += second.amount_minor
    for entry in entries:
        key = (_caused(entry.debit, entry.ref), entry.kind, entry.currency)
        if key in other:
            own[key] += entry.amount_minor
    return own, other


def _tsm_payouts(books: Scan) -> tuple[Sums, Sums]:
    own, other = Sums(), Sums()
    for paid in books.scan(PAYOUTS):
        own[_caused(merchant_account(paid.merchant), paid.batch), EntryKind.PAYOUT, paid.currency] += paid.total_minor
    for row in books.scan(PURCHASES):
        if row.settled:
            account = _caused(merchant_account(row.merchant), row.settled)
            other[account, EntryKind.PAYOUT, row.currency] += row.amount_minor
    for refund in books.scan(REFUNDS):
        if refund.settled:
            account = _caused(merchant_account(refund.merchant), refund.settled)
            other[account, EntryKind.PAYOUT, refund.currency] -= refund.amount_minor
    return own, other


# --- bank ------------------------------------------------------------------------------------------------------------
def _bank(books: Scan, entries: tuple[Entry, ...]) -> tuple[Proof, ...]:
    return (
        proof("claims of accounts", *_bank_claims(books, entries)),
        proof("claims received", *_bank_received(books)),
    )


def _bank_claims(books: Scan, entries: tuple[Entry, ...]) -> tuple[Sums, Sums]:
    own, other = Sums(), Sums()
    for entry in entries:
        account = entry.debit if entry.kind == EntryKind.CLAIM else entry.credit
        own[account, entry.kind, entry.currency] += entry.amount_minor
    currencies = {row.aid: row.currency for row in books.scan(ANONYMOUS_ACCOUNTS)}
    for grant in books.scan(GRANTS):
        account, currency = aid_account(grant.aid), currencies[grant.aid]
        other[account, EntryKind.CLAIM, currency] += grant.claimed_minor
        other[account, EntryKind.CREDIT_NOTE, currency] += grant.credited_minor
    return own, other


def _bank_received(books: Scan) -> tuple[Sums, Sums]:
    own, other = Sums(), Sums()
    for grant in books.scan(GRANTS):
        account = _caused(aid_account(grant.aid), grant.sid_digest)
        own[account, EntryKind.CLAIM, ""] += grant.claimed_minor
        own[account, EntryKind.CREDIT_NOTE, ""] += grant.credited_minor
    for row in books.scan(RECEIVED_CLAIMS):  # in the order of sequences: the last one stands
        account = _caused(aid_account(row.aid), row.sid_digest)
        other[account, EntryKind.CLAIM, ""] = row.claimed_minor
        other[account, EntryKind.CREDIT_NOTE, ""] = row.credited_minor
    return own, other


# --- merchant --------------------------------------------------------------------------------------------------------
def _merchant(books: Scan, entries: tuple[Entry, ...]) -> tuple[Proof, ...]:
    return (
        proof("entries of sales, refunds and payouts", *_merchant_causes(books, entries)),
        proof("refunded of sales", *_merchant_refunded(books)),
        proof("settlements", *_merchant_settlements(books)),
    )


def _merchant_causes(books: Scan, entries: tuple[Entry, ...]) -> tuple[Sums, Sums]:
    own, other = Sums(), Sums()
    for entry in entries:
        own[entry.ref.hex(), entry.kind, entry.currency] += entry.amount_minor
    currencies = {}
    for sale in books.scan(SALES):
        name, currency = sale.sale.hex(), sale.currency
        currencies[sale.sale] = currency
        booked = own[name, EntryKind.PURCHASE, currency] != 0
        if sale.progress == SaleProgress.APPROVED or (booked and sale.progress in _TAKEN_BACK):
            other[name, EntryKind.PURCHASE, currency] += sale.amount_minor
        if booked and sale.progress == SaleProgress.REVERSED:
            other[name, EntryKind.REVERSAL, currency] += sale.amount_minor
    for refund in books.scan(SALE_REFUNDS):
        if refund.state == "DONE":
            other[refund.refund.hex(), EntryKind.REFUND, currencies[refund.sale]] += refund.amount_minor
    for row in books.scan(SETTLEMENTS):
        if row.state == "PAID":
            other[row.batch.hex(), EntryKind.PAYOUT, row.currency] += row.total_minor
    return own, other


_TAKEN_BACK: Final = (SaleProgress.EXPECT_REVERSAL, SaleProgress.REVERSED)


def _merchant_refunded(books: Scan) -> tuple[Sums, Sums]:
    own, other = Sums(), Sums()
    for sale in books.scan(SALES):
        own[sale.sale.hex(), EntryKind.REFUND, ""] += sale.refunded_minor
    for refund in books.scan(SALE_REFUNDS):
        if refund.state == "DONE":
            other[refund.sale.hex(), EntryKind.REFUND, ""] += refund.amount_minor
    return own, other


def _merchant_settlements(books: Scan) -> tuple[Sums, Sums]:
    own, other = Sums(), Sums()
    counted = {row.batch for row in books.scan(SETTLEMENTS) if row.state != "REFUSED"}
    for row in books.scan(SETTLEMENTS):
        if row.batch in counted:
            own[row.batch.hex(), EntryKind.PAYOUT, row.currency] += row.total_minor
    sales = {sale.sale: sale for sale in books.scan(SALES)}
    for sale in sales.values():
        if sale.settled in counted:
            other[sale.settled.hex(), EntryKind.PAYOUT, sale.currency] += sale.amount_minor
    for refund in books.scan(SALE_REFUNDS):
        if refund.settled in counted:
            other[refund.settled.hex(), EntryKind.PAYOUT, sales[refund.sale].currency] -= refund.amount_minor
    return own, other


_PROOFS: Final = {Role.TSM: _tsm, Role.BANK: _bank, Role.MERCHANT: _merchant}
