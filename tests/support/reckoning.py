"""What must hold after any fault: read from the parties' databases, and from what clients were told.

`Reckoning.now` holds at every moment, also while questions are open; `Reckoning.at_last` when all is calm again.
"""

from __future__ import annotations

import contextlib
from collections import Counter as Tally
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from support.load import Desk, Load, Purse, Told, until_answered
from support.people import Newcomer, Shopper

from parties.checker.expected import Expected, Parties
from parties.checker.keys import read_parties
from parties.checker.phases import CHECKS
from parties.claiming import claim
from parties.reconcile import reconcile, write_statement
from parties.storage.database import faults, open_database
from parties.storage.roles import TABLES
from parties.storage.schema import metadata_for
from parties.storage.sealing import Sealer
from parties.storage.snapshot import Snapshot
from parties.storage.statements import StoredTable
from parties.storage.transaction import Connections
from protocol.engine import OUTBOX
from protocol.messages.pay import Verdict
from protocol.messages.statement import EntryKind
from protocol.messages.till import SaleProgress
from protocol.roles.bank.tables import ANONYMOUS_ACCOUNTS, CUSTOMERS, GRANTS, LIVE_GRANTS, owed_minor
from protocol.roles.books import Scan, prove_books
from protocol.roles.ledger import LEDGER, merchant_account
from protocol.roles.merchant import SALE_REFUNDS, SALES, SETTLEMENTS
from protocol.roles.tsm.tables import CARDS, CLAIMS, PURCHASES, TID_LIST, Purchase
from protocol.types import Role

PHASES: Final = ("INIT", "ATT", "AID", "TID", "CARD", "PAY", "SETTLE", "FREEZE")
TAKEN: Final = ("APPROVED", "REVERSED")


class Books:
    """A party's rows as of one moment, again and again, over one connection as long as it lasts."""

    def __init__(self, town: Any, party: str, role: Role) -> None:
        self.role = role
        opened = town.opened(party)
        self._database = open_database(opened.settings.database, readers=1)
        self._readers = Connections(self._database.readers, keep=False)
        metadata, sealer = metadata_for(TABLES[role.value]), Sealer(opened.keystore.data_key())
        dialect = self._database.readers.dialect
        self._tables = {t.name: StoredTable(t, metadata, sealer, dialect) for t in TABLES[role.value]}

    @contextlib.contextmanager
    def now(self) -> Iterator[Snapshot]:
        with faults(), self._readers.begin(self._database.begin_to_read) as transaction:
            yield Snapshot(transaction, self._tables)

    def close(self) -> None:
        self._readers.close()
        self._database.close()


@dataclass
class Reckoning:
    """All that is to be compared, and how much of it was."""

    town: Any
    load: Load
    purse: Purse
    shopper: Shopper
    newcomer: Newcomer
    told: list[Told]
    """In earlier runs; what is told in this one is added at last."""

    def __post_init__(self) -> None:
        self.checked: Tally[str] = Tally()
        roles = {"tsm-1": Role.TSM, "bank-a": Role.BANK} | dict.fromkeys(self.shops, Role.MERCHANT)
        self._books = {party: Books(self.town, party, role) for party, role in roles.items()}

    def close(self) -> None:
        for books in self._books.values():
            books.close()

    @property
    def desks(self) -> Sequence[Desk]:
        return self.load.desks

    @property
    def shops(self) -> tuple[str, ...]:
        return (self.shopper.shop, *(desk.name for desk in self.desks))

    # --- at any moment -----------------------------------------------------------------------------------------------
    def now(self) -> None:
        """No purchase lost or doubled, no limit exceeded, and every party's own books hold."""
        told = list(self.load.told)  # before the rows are read: what was told must be in them
        sold = dict(self.shopper.told)
        for party, books in self._books.items():
            until_answered(lambda party=party, books=books: self._look(party, books, told, sold))
        self.checked["looks"] += 1
        self.load.healthy()

    def _look(self, party: str, books: Books, told: list[Told], sold: dict[str, tuple[SaleProgress, int]]) -> None:
        with books.now() as rows:
            for proof in prove_books(books.role, rows):
                assert not proof.differences, (party, proof.title, proof.differences[0])
                self.checked["sums"] += proof.compared
            if books.role is Role.TSM:
                self._tsm(rows, told, sold)
            elif books.role is Role.BANK:
                self._bank(rows)

    def _tsm(self, rows: Scan, told: list[Told], sold: dict[str, tuple[SaleProgress, int]]) -> None:
        purchases = {(row.merchant, row.sale): row for row in rows.scan(PURCHASES)}
        for one in told:
            agrees(one, purchases[one.decided.merchant, one.sale])
        for sale, (progress, amount_minor) in sold.items():
            if progress is SaleProgress.APPROVED:
                row = purchases[self.shopper.shop, bytes.fromhex(sale)]
                assert (row.state in TAKEN, row.amount_minor) == (True, amount_minor)
        self.checked["answers"] += len(told) + len(sold)
        charged = Tally[tuple[str, bytes]]()
        for entry in rows.scan(LEDGER):
            if entry.kind == EntryKind.PURCHASE:
                charged[entry.credit, entry.ref] += entry.amount_minor
        for row in purchases.values():
            wanted = row.amount_minor if row.state in TAKEN else 0
            assert charged.pop((merchant_account(row.merchant), row.sale), 0) == wanted, row.state
        assert not charged, "money moved without a purchase"
        for column in ("atc_ref", "opening_ref"):
            refs = [getattr(row, column) for row in purchases.values()]
            assert len(set(refs)) == len(refs)
        for grant in rows.scan(TID_LIST):
            assert 0 <= grant.spent_minor <= grant.aid_limit_minor
        for card in rows.scan(CARDS):
            assert (0 <= card.used <= card.uses, 0 <= card.spent_minor <= card.total_minor) == (True, True)
        self.checked["purchases"] += len(purchases)

    def _bank(self, rows: Scan) -> None:
        live = [row.aid for row in rows.scan(LIVE_GRANTS)]
        assert len(set(live)) == len(live)
        granted_minor, grants = Tally[str](), {row.aid: row for row in rows.scan(GRANTS)}
        for account in rows.scan(ANONYMOUS_ACCOUNTS):
            grant = grants.get(account.aid)
            is_over = grant is not None and grant.closed
            granted_minor[account.customer] += owed_minor(grant) if is_over else account.limit_minor
        for customer in rows.scan(CUSTOMERS):
            assert granted_minor[customer.customer] == customer.granted_minor <= customer.limit_minor
        for grant in grants.values():
            assert 0 <= owed_minor(grant) <= grant.limit_minor

    # --- when all is calm --------------------------------------------------------------------------------------------
    def at_last(self, folder: Path) -> None:
        """Everybody answered; nothing under way; each pair of books agrees; the checker finds nothing; and every client
        that repeats its bytes is told what it was told."""
        self._everything_answered()
        self._same_answers()
        self.now()
        self._books_agree(folder)
        self._nothing_found()
        for party in self.town.deployment.ready:  # whatever broke was known by its name
            faults = [line for line in self.town.log(party).splitlines() if '"event": "fault"' in line]
            assert not faults, (party, faults[0])

    def _everything_answered(self) -> None:
        self.town.until(lambda: self.town.rows("tsm-1", OUTBOX), lambda rows: not rows, seconds=10)
        for shop in self.shops:
            sales = self.town.until(
                lambda shop=shop: [row.progress for row in self.town.rows(shop, SALES)],
                lambda found: not {"EXPECT_TAP", "EXPECT_DECISION", "EXPECT_REVERSAL"} & set(found), seconds=10,
            )  # fmt: skip
            self.checked["sales"] += len(sales)
            self.town.until(
                lambda shop=shop: {row.state for row in self.town.rows(shop, SALE_REFUNDS)},
                lambda states: states <= {"DONE"}, seconds=10,
            )  # fmt: skip
            assert {row.state for row in self.town.rows(shop, SETTLEMENTS)} <= {"PAID"}
        until_answered(self._claim)

    def _claim(self) -> None:
        claim(self.town.settings("tsm-1"), early=True)
        assert {row.state for row in self.town.rows("tsm-1", CLAIMS)} <= {"ACCEPTED"}

    def _same_answers(self) -> None:
        """The very bytes again, also of what has been reversed since."""
        by_name = {desk.name: desk for desk in self.desks}
        for one in self.load.told:
            desk = by_name[one.decided.merchant]
            answer = desk.line.call(desk.shop.tsm, "Tsm.Authorize", one.wire)
            assert desk.decision(one.wire, answer) == one.decided
            self.checked["answers repeated"] += 1

    def _books_agree(self, folder: Path) -> None:
        """Statements both ways between the TSM and each other party, as people reconcile them."""
        folder.mkdir(exist_ok=True)
        others = [("bank-a", Role.BANK), *((shop, Role.MERCHANT) for shop in self.shops)]
        own = []
        for name, role in others:
            write_statement(self.town.settings(name), role, counterparty="tsm-1", out=folder / f"{name}.statement")
            own.append(folder / f"{name}.statement")
            write_statement(self.town.settings("tsm-1"), Role.TSM, counterparty=name, out=folder / f"for-{name}")
            done = reconcile(self.town.settings(name), role, (folder / f"for-{name}",))
            self.checked["statements"] += len(done.statements)
        done = reconcile(self.town.settings("tsm-1"), Role.TSM, tuple(own))
        self.checked["statements"] += len(done.statements)
        assert all(one.under_way == 0 for one in done.statements)
        self.checked["sums"] += sum(proof.compared for proof in done.proofs)

    def _nothing_found(self) -> None:
        """The checker reads all databases, and proves each card's word anew from the requests that the TSM kept."""
        parties = Parties(tuple(read_parties(self.town.folder)))
        self.told += self.load.told
        paid = sum(one.decided.verdict is Verdict.APPROVED for one in self.told)
        paid += sum(progress is SaleProgress.APPROVED for progress, _ in self.shopper.told.values())
        services = len(self.purse.tids) + 1
        expected = Expected(
            phones=3, installed=3, accounts=services + len(self.newcomer.lives), services=services,
            cards=sum(row.state == "ACTIVE" for row in parties.tsm.of(CARDS)),
            closed=frozenset(), counters=0, paid=paid, settled=1, recredited=0, drawn_on_two=0, traced=0,
            reasons=frozenset(),
        )  # fmt: skip
        findings = [found for phase in PHASES for found in CHECKS[phase](parties, expected)]
        assert not findings, Tally(findings)
        self.checked["checks"] += len(PHASES)

    def report(self) -> str:
        """What was done and what was looked at, in a line."""
        words = {**self.checked, "asked again": self.load.repeats.total(), "accounts": len(self.newcomer.lives)}
        return ", ".join(f"{name}: {number}" for name, number in sorted(words.items()))


def agrees(told: Told, row: Purchase) -> None:
    """The row says what the client was told."""
    decided = told.decided
    if decided.verdict is Verdict.APPROVED:
        assert row.state in TAKEN
        assert (row.cryptogram, row.amount_minor) == (decided.cryptogram, decided.amount_minor)
        assert decided.arpc
    else:
        assert (row.state == "DECLINED", bool(row.reason)) == (True, True)
