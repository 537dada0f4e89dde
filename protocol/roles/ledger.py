"""Append-only double entry: every movement of money is one row that credits one account and debits another.

So the sum over all accounts is zero whatever the rows are, and a balance is what the rows say. Amounts are in minor
units of one currency. An entry's name is made from what caused it, so that nothing is posted twice (design §5 money).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from protocol.crypto import sha256
from protocol.messages.statement import EntryKind
from protocol.rows import Insert, Table

CASH: Final = "cash"
SALES: Final = "sales"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """`amount_minor` > 0 moves from `credit` to `debit`. `ref` is the cause: a sale, a batch, a claim's digest."""

    entry: bytes
    debit: str
    credit: str
    amount_minor: int
    currency: str
    kind: str
    ref: bytes
    at_s: int


LEDGER: Final = Table("ledger", Entry, ("entry",), append_only=True)


def post(
    kind: EntryKind, *, debit: str, credit: str, amount_minor: int, currency: str, ref: bytes, at_s: int
) -> tuple[Insert, ...]:
    """The entry as a write; none when nothing moves."""
    if amount_minor == 0:
        return ()
    entry = Entry(
        entry=entry_name(kind, debit=debit, credit=credit, ref=ref), debit=debit, credit=credit,
        amount_minor=amount_minor, currency=currency, kind=kind.value, ref=ref, at_s=at_s,
    )  # fmt: skip
    return (Insert(LEDGER, entry),)


def entry_name(kind: EntryKind, *, debit: str, credit: str, ref: bytes) -> bytes:
    """SHA-256 of the fields, each behind its length (4 bytes): one movement between two accounts for one cause."""
    fields = (b"tapveil-entry", kind.encode(), debit.encode(), credit.encode(), ref)
    return sha256(*(part for field in fields for part in (len(field).to_bytes(4, "big"), field)))


def balances(entries: Iterable[Entry]) -> dict[tuple[str, str], int]:
    """(account, currency) → debits less credits, in minor units. Sums to zero per currency."""
    sums: Counter[tuple[str, str]] = Counter()
    for entry in entries:
        sums[entry.debit, entry.currency] += entry.amount_minor
        sums[entry.credit, entry.currency] -= entry.amount_minor
    return dict(sums)


def grant_account(sid_digest: bytes) -> str:
    """At the TSM: what purchases took of a grant and the bank was not yet asked for."""
    return f"grant/{sid_digest.hex()}"


def merchant_account(merchant: str) -> str:
    """At the TSM: what is owed to a merchant (a credit balance)."""
    return f"merchant/{merchant}"


def bank_account(bank: str) -> str:
    """At the TSM: what a bank owes by the claims it accepted."""
    return f"bank/{bank}"


def aid_account(aid: str) -> str:
    """At the bank: what an anonymous account owes."""
    return f"aid/{aid}"


def tsm_account(tsm: str) -> str:
    """At bank and merchant: what is owed to, or by, the TSM."""
    return f"tsm/{tsm}"
