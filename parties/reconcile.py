"""Statements to counterparties, and one's own books reconciled with theirs (design §5 money).

Books are read in one transaction, so that all rows are of one moment while the server goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from parties.assembly.common import Opened
from parties.settings import load_settings
from parties.storage.snapshot import open_snapshot
from protocol.envelope import Stamp, pack
from protocol.errors import BooksDiffer, SettingsInvalid, UnknownAccount
from protocol.messages.statement import StatedSum
from protocol.messages.till import SaleProgress
from protocol.pki import Use
from protocol.roles.books import Proof, Scan, prove_books
from protocol.roles.ledger import LEDGER, grant_account
from protocol.roles.merchant.tables import SALE_REFUNDS, SALES, SETTLEMENTS
from protocol.roles.statement import (
    Compared,
    bank_sums,
    compare,
    merchant_sums,
    open_statement,
    sign_statement,
    tsm_sums_with_bank,
    tsm_sums_with_merchant,
)
from protocol.roles.tsm.tables import CLAIMS, TID_LIST
from protocol.roles.vouchers import Vouchers
from protocol.types import Role

COUNTERPARTIES: Final = {
    Role.TSM: (Role.BANK, Role.MERCHANT), Role.BANK: (Role.TSM,), Role.MERCHANT: (Role.TSM,),
}  # fmt: skip
"""With whom a party has accounts."""
_ASKING: Final = (SaleProgress.EXPECT_DECISION, SaleProgress.EXPECT_REVERSAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """One counterparty's statement that agrees with the books: sum by sum, and how much was under way there."""

    party: str
    at_s: int
    under_way: int
    sums: tuple[Compared, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciled:
    """Books that hold: the proofs of one's own, and the statements that agree with them."""

    party: str
    proofs: tuple[Proof, ...]
    statements: tuple[Agreement, ...]


@contextmanager
def _books(settings: Path, role: Role) -> Iterator[tuple[Opened, Scan]]:
    opened = Opened.of(load_settings(settings, role))
    with open_snapshot(opened.settings.database, role.value, opened.keystore.data_key()) as books:
        yield opened, books


def write_statement(settings: Path, role: Role, *, counterparty: str, out: Path) -> tuple[StatedSum, ...]:
    """Sign what the books say of `counterparty`, for it alone; what was stated.

    Raises: SettingsInvalid, StorageFault, Oversize; UnknownAccount when this party has no accounts with such a party.
    """
    with _books(settings, role) as (opened, books):
        sums, under_way = _stated(opened, books, counterparty)
        stamp = Stamp.fresh(opened.clock.now_s(), opened.entropy)
        signed = sign_statement(opened.keys.signer, sums, counterparty=counterparty, under_way=under_way, stamp=stamp)
    try:
        out.write_bytes(pack(list(signed)))
    except OSError as exc:
        raise SettingsInvalid(f"{out} can't be written: {exc.strerror}") from exc
    return sums


def reconcile(settings: Path, role: Role, statements: tuple[Path, ...]) -> Reconciled:
    """Prove one's own books, then compare them with each statement.

    Raises: BooksDiffer, naming account, kind and both sums; what `open_statement` raises; SettingsInvalid.
    """
    with _books(settings, role) as (opened, books):
        me = opened.settings.name
        proofs = (*prove_books(role, books), *Vouchers(books, opened.directory, me).prove(role))
        for proved in proofs:
            if proved.differences:
                raise _differ(f"{me}'s own books ({proved.title})", proved.differences, "booked", "caused")
        agreed = tuple(_agree(opened, books, path) for path in statements)
    return Reconciled(party=me, proofs=proofs, statements=agreed)


def _agree(opened: Opened, books: Scan, path: Path) -> Agreement:
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise SettingsInvalid(f"statement {path} can't be read: {exc.strerror}") from exc
    settings = opened.settings
    stated = open_statement(
        data, opened.directory, me=settings.name, roles=COUNTERPARTIES[settings.role], now_s=opened.clock.now_s()
    )
    sums, under_way = _stated(opened, books, stated.party)
    compared = compare(sums, stated.sums)
    if differing := tuple(one for one in compared if not one.agrees):
        waiting = under_way + stated.under_way
        hint = f"; {waiting} under way, so compare again when they are answered" if waiting else ""
        raise _differ(f"books with {stated.party}", differing, settings.name, stated.party, hint)
    return Agreement(party=stated.party, at_s=stated.at_s, under_way=under_way + stated.under_way, sums=compared)


def _differ(where: str, differing: tuple[Compared, ...], own: str, other: str, hint: str = "") -> BooksDiffer:
    first = differing[0]
    more = f", and {len(differing) - 1} more" if len(differing) > 1 else ""
    return BooksDiffer(
        f"{where}: {first.kind} of {first.account}: {own} {first.own_minor}, {other} {first.other_minor} "
        f"{first.currency}{more}{hint}"
    )


def _stated(opened: Opened, books: Scan, counterparty: str) -> tuple[tuple[StatedSum, ...], int]:
    """The sums with this party, and how many questions to it are open."""
    role = opened.settings.role
    other = opened.directory.named(counterparty, Use.SIGN).role
    if other not in COUNTERPARTIES[role]:
        raise UnknownAccount(f"a {role} has no accounts with a {other}")
    entries = books.scan(LEDGER)
    if role is Role.MERCHANT:
        sums = merchant_sums(entries, merchant=opened.settings.name, tsm=counterparty)
        return sums, _asked_by_merchant(books)
    if role is Role.BANK:
        return bank_sums(entries, tsm=counterparty), 0
    if other is Role.MERCHANT:
        return tsm_sums_with_merchant(entries, merchant=counterparty), 0
    grants = {grant.sid_digest: grant for grant in books.scan(TID_LIST) if grant.bank == counterparty}
    aids = {grant_account(sid_digest): grant.aid for sid_digest, grant in grants.items()}
    asked = sum(1 for claim in books.scan(CLAIMS) if claim.state == "EXPECT_BANK" and claim.sid_digest in grants)
    return tsm_sums_with_bank(entries, bank=counterparty, aids=aids), asked


def _asked_by_merchant(books: Scan) -> int:
    return (
        sum(1 for sale in books.scan(SALES) if sale.progress in _ASKING)
        + sum(1 for refund in books.scan(SALE_REFUNDS) if refund.state == "EXPECT_REFUND")
        + sum(1 for row in books.scan(SETTLEMENTS) if row.state == "EXPECT_PAYOUT")
    )
