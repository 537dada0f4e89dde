"""`statement` and `reconcile` over real databases: agreement, one planted unit in each, and statements of no use.

The rows are those of a run in memory; what was signed there is under keys that this PKI does not know, so that here
it is the books alone that must agree. That vouchers are looked at is tested where processes are real.
"""

# ruff: noqa: S608  # statements are made of names in this file
from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support.claims import TRANCHE, Desk
from support.counter import TSM
from support.settling import begin, give_back, pay, settle, take_back
from support.shop import SHOP, Stall, ready
from support.world import World

from parties.assembly.common import Opened
from parties.cli import main
from parties.reconcile import reconcile, write_statement
from parties.settings import load_settings
from parties.storage.roles import TABLES
from parties.storage.store import open_store
from protocol.envelope import Signer, Stamp, pack
from protocol.errors import BooksDiffer, ProtocolError, SettingsInvalid, StorageFault, UnknownAccount, UnknownKey
from protocol.messages.statement import EntryKind, StatedSum
from protocol.roles.statement import sign_statement
from protocol.rows import Decision, Insert, Unit
from protocol.types import Role

BANK = "bank-a"
ROLES = {TSM: Role.TSM, BANK: Role.BANK, SHOP: Role.MERCHANT}
GROUPS = {TSM: "tsm", BANK: "bank", SHOP: "merchant"}


def traded(folder: Path) -> World:
    """A run with sales, a void, refunds, payouts, claims and a credit note; a settlement is under way at the end."""
    world = World(folder, seed="reconcile")
    stall, buyer = Stall.open(world), ready(world, 6)
    sale = pay(stall, *buyer, 2 * TRANCHE)
    take_back(stall, pay(stall, *buyer, 700))
    pay(stall, *buyer, 5_000)
    settle(stall)
    desk = Desk(world)
    desk.claim()
    give_back(stall, sale, 2 * TRANCHE)
    world.clock.time_s += 1
    desk.claim()
    pay(stall, *buyer, 900)
    begin(stall)
    return world


@pytest.fixture(scope="module")
def kept(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment whose databases hold that run. Read only."""
    folder = tmp_path_factory.mktemp("books") / "env"
    shutil.copytree(environment, folder)
    world = traded(tmp_path_factory.mktemp("world"))
    for party, role in ROLES.items():
        opened = Opened.of(load_settings(folder / party / "settings.toml", role))
        store = open_store(opened.settings.database, role.value, opened.keystore.data_key())
        rows = tuple(Insert(table, row) for table in TABLES[role] for row in world.parties[party].store.scan(table))
        store.apply(Unit((), lambda _rows, rows=rows: Decision(writes=rows)))
        store.close()
    return folder


@pytest.fixture
def books(kept: Path, tmp_path: Path) -> Path:
    """A copy to be harmed."""
    folder = tmp_path / "env"
    shutil.copytree(kept, folder)
    return folder


def settings(folder: Path, party: str) -> Path:
    return folder / party / "settings.toml"


def stated(folder: Path, party: str, counterparty: str) -> Path:
    out = folder / f"{party}-for-{counterparty}.cose"
    write_statement(settings(folder, party), ROLES[party], counterparty=counterparty, out=out)
    return out


def reconciled(folder: Path, party: str, *statements: Path) -> Any:
    return reconcile(settings(folder, party), ROLES[party], statements)


def run(folder: Path, party: str, command: str, *arguments: object) -> Result:
    words = [GROUPS[party], command, "--settings", settings(folder, party), *arguments]
    return CliRunner().invoke(main, [str(word) for word in words])


def plant(folder: Path, party: str, *statements: str) -> None:
    """By raw SQL, with the trigger out of the way."""
    with closing(sqlite3.connect(folder / party / "data.db", isolation_level=None)) as raw:
        with pytest.raises(sqlite3.IntegrityError, match="ledger only grows"):
            raw.execute("UPDATE ledger SET amount_minor = amount_minor + 1")
        raw.execute("DROP TRIGGER ledger_no_update")
        raw.execute("DROP TRIGGER ledger_no_delete")
        for statement in statements:
            assert raw.execute(statement).rowcount == 1


# --- agreement -------------------------------------------------------------------------------------------------------
def test_all_three_books_agree(kept: Path, tmp_path: Path) -> None:
    at_tsm = reconciled(kept, TSM, stated(kept, SHOP, TSM), stated(kept, BANK, TSM))
    assert [agreed.party for agreed in at_tsm.statements] == [SHOP, BANK]
    assert {one.kind: one.own_minor for one in at_tsm.statements[0].sums} == {
        "payout": 2 * TRANCHE + 5_000, "purchase": 2 * TRANCHE + 5_900, "refund": 2 * TRANCHE,
    }  # fmt: skip
    assert {one.kind: one.own_minor for one in at_tsm.statements[1].sums} == {
        "claim": 2 * TRANCHE, "credit-note": 2 * TRANCHE
    }  # fmt: skip
    assert [agreed.under_way for agreed in at_tsm.statements] == [1, 0]
    assert reconciled(kept, SHOP, stated(kept, TSM, SHOP)).statements[0].party == TSM
    assert reconciled(kept, BANK, stated(kept, TSM, BANK)).statements[0].party == TSM
    for party in ROLES:
        own = reconciled(kept, party)
        assert own.statements == ()
        assert sum(proved.compared for proved in own.proofs) > 0


def test_the_commands_say_what_agrees(kept: Path, tmp_path: Path) -> None:
    out = tmp_path / "shop.cose"
    ran = run(kept, SHOP, "statement", "--for", TSM, "--out", out)
    assert (ran.exit_code, ran.stdout) == (0, f"statement: {out}\nsums: 4\n")
    ran = run(kept, TSM, "reconcile", out)
    assert ran.exit_code == 0
    lines = ran.stdout.splitlines()
    assert "spent of grants: 1 compared, all agree" in lines
    assert "statement of shop-1: 3 compared, all agree, 1 under way" in lines
    assert [line.split() for line in lines if line.startswith("  ")] == [
        ["shop-1", "payout", "25000", "25000", "TWD"], ["shop-1", "purchase", "25900", "25900", "TWD"],
        ["shop-1", "refund", "20000", "20000", "TWD"],
    ]  # fmt: skip
    ran = run(kept, BANK, "statement", "--for", TSM, "--out", out, "--json")
    assert {(one["kind"], one["total_minor"]) for one in json.loads(ran.stdout)["sums"]} == {
        ("claim", 20_000), ("credit-note", 20_000)
    }  # fmt: skip
    ran = run(kept, TSM, "reconcile", out, "--json")
    said = json.loads(ran.stdout)
    assert (said["party"], said["statements"][0]["party"], said["statements"][0]["under_way"]) == (TSM, BANK, 0)
    assert run(kept, BANK, "reconcile").exit_code == 0


# --- a planted difference of one unit --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("party", "kind"),
    [(TSM, "purchase"), (TSM, "payout"), (TSM, "claim"), (BANK, "claim"), (BANK, "credit-note"), (SHOP, "purchase"),
     (SHOP, "payout"), (SHOP, "refund")],
)  # fmt: skip
def test_one_unit_in_a_ledger_is_found_by_its_owner(books: Path, party: str, kind: str) -> None:
    first = f"WHERE entry = (SELECT min(entry) FROM ledger WHERE kind = '{kind}')"
    plant(books, party, "UPDATE ledger SET amount_minor = amount_minor + 1 " + first)
    with pytest.raises(
        BooksDiffer, match=rf"{party}'s own books .*: {kind} of .*: booked \d+, caused \d+ TWD"
    ) as caught:
        reconciled(books, party)
    assert caught.value.code == "BOOKS_DIFFER"
    ran = run(books, party, "reconcile", "--json")
    assert (ran.exit_code, json.loads(ran.stdout)["error"]) == (1, "BOOKS_DIFFER")


COOKED = {
    SHOP: (
        "UPDATE ledger SET amount_minor = amount_minor + 1 WHERE kind = 'purchase' AND amount_minor = 900",
        "UPDATE sales SET amount_minor = amount_minor + 1 WHERE amount_minor = 900",
        "UPDATE settlements SET total_minor = total_minor + 1 WHERE total_minor = 900",
    ),
    TSM: (
        "UPDATE ledger SET amount_minor = amount_minor + 1 WHERE kind = 'purchase' AND amount_minor = 900",
        "UPDATE purchases SET amount_minor = amount_minor + 1 WHERE amount_minor = 900",
        "UPDATE tid_list SET spent_minor = spent_minor + 1",
        "UPDATE cards SET spent_minor = spent_minor + 1 WHERE spent_minor = 900",
    ),
    BANK: (
        "UPDATE ledger SET amount_minor = amount_minor + 1 WHERE kind = 'claim'",
        "UPDATE grants SET claimed_minor = claimed_minor + 1",
        "UPDATE received_claims SET claimed_minor = claimed_minor + 1 WHERE sequence = 2",
    ),
}
"""One unit that is cooked all through a party's own books."""


@pytest.mark.parametrize("party", ROLES)
def test_books_that_are_cooked_throughout_differ_from_the_others(books: Path, party: str) -> None:
    plant(books, party, *COOKED[party])
    assert reconciled(books, party).proofs  # nothing to see at home
    for one, other in ((party, TSM if party != TSM else SHOP), (TSM if party != TSM else SHOP, party)):
        with pytest.raises(BooksDiffer, match=f"books with {other}: (purchase|claim) of") as caught:
            reconciled(books, one, stated(books, other, one))
        assert caught.value.code == "BOOKS_DIFFER"
        assert ("; 1 under way, so compare again" in str(caught.value)) == (party != BANK)


def test_every_difference_is_counted_and_the_first_is_named(books: Path) -> None:
    plant(
        books,
        SHOP,
        *COOKED[SHOP],
        "DELETE FROM ledger WHERE kind = 'refund'",
        "UPDATE sale_refunds SET state = 'REFUSED'",
        "UPDATE sales SET refunded_minor = 0 WHERE refunded_minor > 0",
    )
    signed = stated(books, TSM, SHOP)
    with pytest.raises(BooksDiffer, match=r"purchase of shop-1: shop-1 25901, tsm-1 25900 TWD, and 1 more; 1 under"):
        reconciled(books, SHOP, signed)


# --- statements that are of no use -----------------------------------------------------------------------------------
def refused(folder: Path, party: str, path: Path, code: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        reconciled(folder, party, path)
    assert caught.value.code == code
    ran = run(folder, party, "reconcile", path)
    assert (ran.exit_code, ran.stderr.startswith(f"tapveil: {code}: ")) == (1, True)


def test_a_forged_statement_is_refused(kept: Path, tmp_path: Path) -> None:
    """By who has no key of the shop's; by another party in its name; altered by one bit."""
    opened = Opened.of(load_settings(settings(kept, BANK)))
    stamp = Stamp.fresh(opened.clock.now_s(), opened.entropy)
    agreed = reconciled(kept, TSM, stated(kept, SHOP, TSM)).statements[0]
    sums = tuple(
        StatedSum(
            account=one.account, kind=EntryKind(one.kind), currency=one.currency, total_minor=one.own_minor, entries=1
        )
        for one in agreed.sums
    )
    signer = Signer(name=SHOP, key=opened.keys.sign)
    path = tmp_path / "forged.cose"
    path.write_bytes(pack(sign_statement(signer, sums, counterparty=TSM, under_way=0, stamp=stamp)))
    refused(kept, TSM, path, "WRONG_ISSUER")
    data = stated(kept, SHOP, TSM).read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    refused(kept, TSM, path, "SIGNATURE_INVALID")
    path.write_bytes(b"no statement")
    refused(kept, TSM, path, "MALFORMED")
    path.write_bytes(pack([b"no statement"]))
    refused(kept, TSM, path, "WRONG_MESSAGE")
    refused(kept, TSM, tmp_path / "none.cose", "SETTINGS_INVALID")


def test_a_statement_for_somebody_else_is_refused(kept: Path) -> None:
    refused(kept, BANK, stated(kept, TSM, SHOP), "WRONG_AUDIENCE")
    refused(kept, SHOP, stated(kept, TSM, BANK), "WRONG_AUDIENCE")
    refused(kept, BANK, stated(kept, SHOP, TSM), "WRONG_ISSUER")
    refused(kept, TSM, stated(kept, TSM, SHOP), "WRONG_ISSUER")


@pytest.mark.parametrize(
    ("party", "counterparty", "error"),
    [
        (BANK, SHOP, UnknownAccount), (SHOP, BANK, UnknownAccount), (TSM, TSM, UnknownAccount),
        (BANK, "nobody", UnknownKey),
    ],
)  # fmt: skip
def test_there_are_no_accounts_with_others(
    kept: Path, tmp_path: Path, party: str, counterparty: str, error: type[ProtocolError]
) -> None:
    out = tmp_path / "out.cose"
    with pytest.raises(error):
        write_statement(settings(kept, party), ROLES[party], counterparty=counterparty, out=out)
    assert not out.exists()


def test_files_and_databases_that_are_not_there(books: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="can't be written"):
        write_statement(settings(books, SHOP), Role.MERCHANT, counterparty=TSM, out=tmp_path / "none" / "out.cose")
    (books / SHOP / "data.db").unlink()
    with pytest.raises(StorageFault, match="run `tapveil db upgrade`"):
        reconciled(books, SHOP)
