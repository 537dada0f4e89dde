"""What one party's books say of its dealings with another, signed for that other alone (design §5 money).

Both name an account alike: between TSM and merchant it is the merchant's name, between TSM and bank the AID. A bank is
told of claims and credit notes only: what a grant bought is none of its business (design §3 SETTLE).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from protocol import envelope
from protocol.envelope import OVERHEAD_BYTES
from protocol.errors import FieldMismatch, Oversize, WrongIssuer
from protocol.messages.statement import MAX_PARTS, MAX_SUMS, MAX_TOTAL_MINOR, EntryKind, StatedSum, Statement
from protocol.pki import Directory
from protocol.roles.ledger import Entry, bank_account, merchant_account, tsm_account
from protocol.types import MAX_LIFETIME_S, Role

AID: Final = "aid/"
_WITH_BANK: Final = (EntryKind.CLAIM, EntryKind.CREDIT_NOTE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One sum as two sources have it; `kind` is an `EntryKind` or what else was added up. In minor units."""

    account: str
    kind: str
    currency: str
    own_minor: int
    other_minor: int

    @property
    def agrees(self) -> bool:
        """Are both sums the same?"""
        return self.own_minor == self.other_minor


def merchant_sums(entries: Iterable[Entry], *, merchant: str, tsm: str) -> tuple[StatedSum, ...]:
    """A merchant's books with its TSM. Raises: Oversize."""
    account = tsm_account(tsm)
    return _stated((merchant, entry) for entry in entries if account in (entry.debit, entry.credit))


def bank_sums(entries: Iterable[Entry], *, tsm: str) -> tuple[StatedSum, ...]:
    """A bank's books with a TSM, by AID. Raises: Oversize."""
    account = tsm_account(tsm)
    return _stated((other.removeprefix(AID), entry) for other, entry in _across(entries, account))


def tsm_sums_with_merchant(entries: Iterable[Entry], *, merchant: str) -> tuple[StatedSum, ...]:
    """The TSM's books with a merchant. Raises: Oversize."""
    account = merchant_account(merchant)
    return _stated((merchant, entry) for entry in entries if account in (entry.debit, entry.credit))


def tsm_sums_with_bank(entries: Iterable[Entry], *, bank: str, aids: dict[str, str]) -> tuple[StatedSum, ...]:
    """The TSM's books with a bank; `aids` maps its account for a grant to the AID. Raises: Oversize."""
    claimed = (entry for entry in entries if entry.kind in _WITH_BANK)
    return _stated((aids[grant], entry) for grant, entry in _across(claimed, bank_account(bank)))


def _across(entries: Iterable[Entry], account: str) -> Iterator[tuple[str, Entry]]:
    """Entries of `account`, each with the other side."""
    for entry in entries:
        if account in (entry.debit, entry.credit):
            yield entry.credit if entry.debit == account else entry.debit, entry


def _stated(found: Iterable[tuple[str, Entry]]) -> tuple[StatedSum, ...]:
    sums: Counter[tuple[str, str, str]] = Counter()
    numbers: Counter[tuple[str, str, str]] = Counter()
    for account, entry in found:
        key = (account, entry.kind, entry.currency)
        sums[key] += entry.amount_minor
        numbers[key] += 1
    if len(sums) > MAX_PARTS * MAX_SUMS or any(total_minor > MAX_TOTAL_MINOR for total_minor in sums.values()):
        raise Oversize("more than one statement holds")
    return tuple(
        StatedSum(
            account=account, kind=EntryKind(kind), currency=currency, total_minor=sums[account, kind, currency],
            entries=numbers[account, kind, currency],
        )
        for account, kind, currency in sorted(sums)
    )  # fmt: skip


def compare(own: Iterable[StatedSum], theirs: Iterable[StatedSum]) -> tuple[Compared, ...]:
    """Sum by sum, a sum that one side does not state being zero.

    What was reversed is taken off the purchases: a merchant that got no answer never booked what the TSM booked twice.
    """
    mine, others = _net(own), _net(theirs)
    return tuple(
        Compared(account=account, kind=kind, currency=currency, own_minor=mine[key], other_minor=others[key])
        for key in sorted(mine.keys() | others.keys())
        for account, kind, currency in (key,)
    )


def _net(sums: Iterable[StatedSum]) -> Counter[tuple[str, str, str]]:
    net: Counter[tuple[str, str, str]] = Counter()
    for stated in sums:
        is_reversal = stated.kind is EntryKind.REVERSAL
        kind = EntryKind.PURCHASE if is_reversal else stated.kind
        net[stated.account, kind.value, stated.currency] += -stated.total_minor if is_reversal else stated.total_minor
    return net


def sign_statement(
    signer: envelope.Signer, sums: tuple[StatedSum, ...], *, counterparty: str, under_way: int, stamp: envelope.Stamp
) -> tuple[bytes, ...]:
    """`S_X(sums with Y, at, part of parts)`, good for a day: one part, or as many as it takes, in their order."""
    pages = [sums[at : at + MAX_SUMS] for at in range(0, len(sums), MAX_SUMS)] or [()]
    return tuple(
        envelope.sign(
            signer,
            Statement(
                party=signer.name, counterparty=counterparty, at_s=stamp.issued_at_s, part=part, parts=len(pages),
                sums=page, under_way=under_way,
            ),
            audience=counterparty, stamp=stamp.derive(f"{Statement.NAME} {part}"), lifetime_s=MAX_LIFETIME_S,
        )
        for part, page in enumerate(pages, start=1)
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """A whole statement, verified: all parts of it."""

    party: str
    at_s: int
    sums: tuple[StatedSum, ...]
    under_way: int


def open_statement(data: bytes, directory: Directory, *, me: str, roles: tuple[Role, ...], now_s: int) -> Stated:
    """A file with all parts of a statement for `me` by a party in one of these roles, under its certificate.

    Raises: UnknownKey, WrongIssuer, what `envelope.unpack` and `envelope.believe` raise; FieldMismatch when it names
    others than who signed and who is to read it, when a part is missing, or when a sum is stated twice.
    """
    limit = MAX_PARTS * (Statement.MAX_BYTES + OVERHEAD_BYTES)
    signed = envelope.unpack(data, low=1, high=MAX_PARTS, max_bytes=limit)
    parts = [_open_part(one, directory, me=me, roles=roles, now_s=now_s) for one in signed]
    first = parts[0]
    for number, part in enumerate(parts, start=1):
        if (part.part, part.parts) != (number, len(parts)):
            raise FieldMismatch("a part is missing, or not in its place")
        if (part.party, part.at_s, part.under_way) != (first.party, first.at_s, first.under_way):
            raise FieldMismatch("parts of several statements")
    sums = tuple(stated for part in parts for stated in part.sums)
    if len({(stated.account, stated.kind, stated.currency) for stated in sums}) != len(sums):
        raise FieldMismatch("a sum is stated twice")
    return Stated(party=first.party, at_s=first.at_s, sums=sums, under_way=first.under_way)


def _open_part(data: bytes, directory: Directory, *, me: str, roles: tuple[Role, ...], now_s: int) -> Statement:
    sign1 = envelope.peek(Statement, data)
    identity = directory.by_thumbprint(sign1.kid)
    if identity.role not in roles:
        raise WrongIssuer(f"a {identity.role} has no accounts here")
    part = envelope.believe(Statement, sign1, identity.key, issuer=identity.name, audience=me, now_s=now_s).message
    if (part.party, part.counterparty) != (identity.name, me):
        raise FieldMismatch("a statement between others")
    return part
