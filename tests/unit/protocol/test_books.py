"""Books proved from rows and from signed messages, and statements compared: a difference of one unit is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from support.counter import TSM
from support.settling import begin, give_back, pay, settle, take_back
from support.shop import SHOP, Stall, ready
from support.world import Phone, World

from protocol import envelope
from protocol.engine import EVIDENCE
from protocol.envelope import Signer, Stamp
from protocol.errors import (
    BooksDiffer,
    Expired,
    FieldMismatch,
    Malformed,
    Oversize,
    ProtocolError,
    SignatureInvalid,
    UnknownKey,
    WrongAudience,
    WrongIssuer,
    WrongState,
)
from protocol.messages.claim import Claim
from protocol.messages.merchant import SignOn
from protocol.messages.settle import Settlement
from protocol.messages.statement import MAX_PARTS, MAX_SUMS, MAX_TOTAL_MINOR, EntryKind, StatedSum, Statement
from protocol.roles.bank.tables import GRANTS, RECEIVED_CLAIMS
from protocol.roles.books import Proof, prove_books
from protocol.roles.ledger import LEDGER, Entry, grant_account
from protocol.roles.merchant import SALE_REFUNDS, SETTLEMENTS
from protocol.roles.merchant.settle import record_refusal
from protocol.roles.statement import (
    Stated,
    bank_sums,
    compare,
    merchant_sums,
    open_statement,
    sign_statement,
    tsm_sums_with_bank,
    tsm_sums_with_merchant,
)
from protocol.roles.tsm.claims import due_claims, make_claim, send_claim
from protocol.roles.tsm.tables import CARDS, PAYOUTS, PURCHASES, REFUNDS, SECOND_DRAWS, TID_LIST, SecondDraw
from protocol.roles.vouchers import Vouchers
from protocol.rows import Table
from protocol.schema import MAX_MINOR
from protocol.types import MAX_LIFETIME_S, Role

BANK = "bank-a"
PARTIES = {TSM: Role.TSM, BANK: Role.BANK, SHOP: Role.MERCHANT}


class Altered:
    """A party's rows as somebody changed them in the database; `lost` are names of tables or messages left out."""

    def __init__(self, store: Any, changes: dict[str, Callable[[tuple[Any, ...]], tuple[Any, ...]]]) -> None:
        self._store = store
        self._changes = changes

    def scan(self, table: Table[Any]) -> tuple[Any, ...]:
        rows: tuple[Any, ...] = self._store.scan(table)
        return self._changes.get(table.name, lambda same: same)(rows)


def more(column: str, which: Callable[[Any], bool] = lambda _row: True) -> Any:
    """One unit more in the first row that is meant."""

    def change(rows: tuple[Any, ...]) -> tuple[Any, ...]:
        at = next(n for n, row in enumerate(rows) if which(row))
        return (*rows[:at], replace(rows[at], **{column: getattr(rows[at], column) + 1}), *rows[at + 1 :])

    return change


@pytest.fixture(scope="module")
def stall(tmp_path_factory: pytest.TempPathFactory) -> Stall:
    """Sales, a void, one without an answer, refunds, settlements, claims with a credit note, a rotated key."""
    stall = Stall.open(World(tmp_path_factory.mktemp("books"), seed="books"))
    buyer: tuple[Phone, str] = ready(stall.world, 12)
    sale = pay(stall, *buyer)
    give_back(stall, sale, 2_000)
    take_back(stall, pay(stall, *buyer, 700))
    unanswered = stall.asked(*buyer, 400)
    stall.to_tsm("Tsm.Authorize", stall.row(unanswered).request)
    take_back(stall, unanswered)
    later = pay(stall, *buyer, 15_000)
    settle(stall)
    claim(stall)
    stall.sign_on()
    give_back(stall, later, 14_999)
    give_back(stall, sale, 400)
    pay(stall, *buyer, 1_000)
    stall.apply(record_refusal(stall.shop, begin(stall), WrongState(), stall.now_s))
    stall.cancel(stall.start())
    settle(stall)
    claim(stall)
    begin_open(stall, buyer)
    return stall


def begin_open(stall: Stall, buyer: tuple[Phone, str]) -> None:
    """A sale, a settlement and a refund that the TSM has not answered."""
    give_back(stall, pay(stall, *buyer, 900), 100)
    begin(stall)
    stall.refund(pay(stall, *buyer, 950), 50)
    stall.cancel(pay(stall, *buyer, 960))


def claim(stall: Stall) -> None:
    tsm, world = stall.world.parties[TSM], stall.world
    world.clock.time_s += 1
    for history in due_claims(tsm.value, tsm.store, stall.now_s, early=True):
        row = make_claim(tsm.value, tsm.store, history, stall.now_s, world.entropy)
        assert row is not None
        assert send_claim(tsm.value, tsm.store, tsm.engine._peers, row, stall.now_s, world.entropy).state == "ACCEPTED"


def proofs(stall: Stall, party: str, **changes: Any) -> dict[str, Proof]:
    books = Altered(stall.world.parties[party].store, changes)
    found = (
        *prove_books(PARTIES[party], books),
        *Vouchers(books, stall.world.directory, party).prove(PARTIES[party]),
    )  # fmt: skip
    return {one.title: one for one in found}


def differing(stall: Stall, party: str, **changes: Any) -> set[str]:
    return {title for title, one in proofs(stall, party, **changes).items() if one.differences}


# --- one's own books -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("party", PARTIES)
def test_books_hold_and_every_proof_compares_something(stall: Stall, party: str) -> None:
    found = proofs(stall, party)
    assert differing(stall, party) == set()
    assert {title for title, one in found.items() if not one.compared} == ({"second grants"} if party == TSM else set())


CAUSES, SETTLED = "entries of purchases, refunds and payouts", "payouts"


@pytest.mark.parametrize(
    ("party", "table", "column", "titles"),
    [
        (TSM, PURCHASES, "amount_minor", {CAUSES, "spent of cards", "signed authorizations", SETTLED}),
        (TSM, PURCHASES, "refunded_minor", {"spent of cards", "refunded of purchases"}),
        (TSM, REFUNDS, "amount_minor", {CAUSES, "refunded of purchases", "signed refunds", SETTLED}),
        (TSM, PAYOUTS, "total_minor", {CAUSES, SETTLED, "signed settlements"}),
        (TSM, TID_LIST, "spent_minor", {"spent of grants"}),
        (TSM, CARDS, "spent_minor", {"spent of cards"}),
        (BANK, RECEIVED_CLAIMS, "claimed_minor", {"claims received"}),
        (BANK, GRANTS, "claimed_minor", {"claims of accounts", "claims received", "signed claims"}),
        (BANK, GRANTS, "credited_minor", {"claims of accounts", "claims received", "signed claims"}),
        (SHOP, SALE_REFUNDS, "amount_minor",
         {"entries of sales, refunds and payouts", "refunded of sales", "refunds acknowledged", "settlements"}),
        (SHOP, SETTLEMENTS, "total_minor",
         {"entries of sales, refunds and payouts", "settlements", "signed payouts"}),
    ],
)  # fmt: skip
def test_one_unit_in_a_row_is_found(stall: Stall, party: str, table: Any, column: str, titles: set[str]) -> None:
    def meant(row: Any) -> bool:
        state = getattr(row, "state", "")
        moved = state in ("APPROVED", "PAID", "DONE", "REFUNDED") or table not in (PURCHASES, SETTLEMENTS, SALE_REFUNDS)
        return moved and getattr(row, "sequence", 2) == 2 and getattr(row, "settled", b"s") not in (b"", b"due")

    assert differing(stall, party, **{table.name: more(column, meant)}) == titles


def test_one_unit_in_a_merchants_sale_is_found(stall: Stall) -> None:
    paid = {row.batch for row in stall.party.store.scan(SETTLEMENTS) if row.state == "PAID"}
    change = more("amount_minor", lambda row: row.settled in paid)
    assert differing(stall, SHOP, sales=change) == {
        "entries of sales, refunds and payouts", "receipts", "settlements"
    }  # fmt: skip
    change = more("refunded_minor", lambda row: row.settled in paid)
    assert differing(stall, SHOP, sales=change) == {"refunded of sales"}


@pytest.mark.parametrize("column", ["claimed_minor", "credited_minor"])
def test_one_unit_in_an_accepted_claim_is_found(stall: Stall, column: str) -> None:
    change = more(column, lambda row: row.sequence == 2)
    assert differing(stall, TSM, claims=change) == {"claims of grants", "accepted claims"}


@pytest.mark.parametrize("party", PARTIES)
def test_one_unit_in_a_ledger_is_found(stall: Stall, party: str) -> None:
    for kind in {entry.kind for entry in stall.world.parties[party].store.scan(LEDGER)}:
        change = more("amount_minor", lambda row, kind=kind: row.kind == kind)
        found = proofs(stall, party, ledger=change)
        (first, *_) = [one for proved in found.values() for one in proved.differences]
        assert (first.kind, abs(first.own_minor - first.other_minor)) in ((kind, 1), ("spent", 1))


@pytest.mark.parametrize("party", PARTIES)
def test_an_entry_lost_made_up_or_renamed_is_found(stall: Stall, party: str) -> None:
    entries = stall.world.parties[party].store.scan(LEDGER)
    assert differing(stall, party, ledger=lambda rows: rows[1:])
    made_up = replace(entries[0], entry=b"n" * 32, ref=b"z" * 16)
    assert "double entry" in differing(stall, party, ledger=lambda rows: (*rows, made_up))
    nothing = replace(entries[0], amount_minor=-1)
    assert "double entry" in differing(stall, party, ledger=lambda rows: (nothing, *rows[1:]))


def test_a_second_grants_part_is_proved(stall: Stall) -> None:
    store = stall.world.parties[TSM].store
    (row, *_) = [row for row in store.scan(PURCHASES) if row.state == "APPROVED"]
    drawn = SecondDraw(
        merchant=row.merchant, sale=row.sale, sid_digest=row.sid_digest, amount_minor=row.amount_minor, claim=0
    )
    assert differing(stall, TSM, second_draws=lambda _rows: (drawn,)) == set()
    wrong = replace(drawn, amount_minor=row.amount_minor - 1)
    assert differing(stall, TSM, second_draws=lambda _rows: (wrong,)) == {"second grants"}
    assert SECOND_DRAWS.name == "second_draws"


def test_what_was_reversed_before_there_were_books_moved_nothing(stall: Stall) -> None:
    def without(rows: tuple[Any, ...]) -> tuple[Any, ...]:
        gone = {row.ref for row in rows if row.kind == "reversal"}
        return tuple(row for row in rows if row.ref not in gone)

    assert differing(stall, TSM, ledger=without) == set()
    assert differing(stall, SHOP, ledger=without) == set()
    declined = replace(
        stall.world.parties[TSM].store.scan(PURCHASES)[0], state="DECLINED", sale=b"d" * 16, settled=b"", claim=0,
        refunded_minor=0,
    )  # fmt: skip
    assert differing(stall, TSM, purchases=lambda rows: (*rows, declined)) == set()


# --- vouchers --------------------------------------------------------------------------------------------------------
def test_a_kept_message_that_was_altered_is_found(stall: Stall) -> None:
    def altered(name: str) -> Any:
        def change(rows: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(
                replace(row, signed=row.signed[:-1] + bytes([row.signed[-1] ^ 1])) if row.message == name else row
                for row in rows
            )

        return change

    for party, name in ((TSM, Settlement.NAME), (TSM, SignOn.NAME), (TSM, "refund"), (BANK, Claim.NAME)):
        with pytest.raises(BooksDiffer, match=f"a kept {name} does not verify: SIGNATURE_INVALID") as caught:
            proofs(stall, party, evidence=altered(name))
        assert caught.value.code == "BOOKS_DIFFER"


def test_what_was_before_messages_were_kept_is_left_out(stall: Stall) -> None:
    for party in PARTIES:
        found = proofs(
            stall, party, evidence=lambda _rows: (),
            sales=lambda rows: tuple(replace(row, asked=b"") for row in rows),
            settlements=lambda rows: tuple(replace(row, payout=b"") for row in rows),
        )  # fmt: skip
        assert {title for title, one in found.items() if one.differences} == set()
        assert sum(one.compared for title, one in found.items() if "signed" in title or title == "receipts") == 0


def test_a_certificate_that_is_gone_proves_nothing(stall: Stall) -> None:
    class Empty:
        def named(self, name: str, use: Any) -> Any:
            raise UnknownKey

        def by_thumbprint(self, thumbprint: bytes) -> Any:
            raise UnknownKey

    for party, role in PARTIES.items():
        for proved in Vouchers(stall.world.parties[party].store, Empty(), party).prove(role):
            assert (proved.compared, proved.differences) == (0, ())


def test_of_all_purchases_those_with_a_voucher_are_proved(stall: Stall) -> None:
    store = stall.world.parties[TSM].store
    moved = [row for row in store.scan(PURCHASES) if row.state in ("APPROVED", "REVERSED")]
    assert proofs(stall, TSM)["signed authorizations"].compared == len(moved)
    kept = {row.message for row in store.scan(EVIDENCE)}
    assert {"authorization", "refund", "settlement", "claim-accepted", "sign-on"} <= kept


# --- statements ------------------------------------------------------------------------------------------------------
def stated(stall: Stall, party: str, other: str, **changes: Any) -> tuple[StatedSum, ...]:
    books = Altered(stall.world.parties[party].store, changes)
    entries = books.scan(LEDGER)
    if party == SHOP:
        return merchant_sums(entries, merchant=SHOP, tsm=TSM)
    if party == BANK:
        return bank_sums(entries, tsm=TSM)
    if other == SHOP:
        return tsm_sums_with_merchant(entries, merchant=SHOP)
    aids = {grant_account(row.sid_digest): row.aid for row in books.scan(TID_LIST)}
    return tsm_sums_with_bank(entries, bank=BANK, aids=aids)


@pytest.mark.parametrize("other", [SHOP, BANK])
def test_both_sides_state_the_same(stall: Stall, other: str) -> None:
    ours, theirs = stated(stall, TSM, other), stated(stall, other, TSM)
    compared = compare(ours, theirs)
    expected = {"purchase", "refund", "payout"} if other == SHOP else {"claim", "credit-note"}
    assert {one.kind for one in compared} == expected
    assert {one.account for one in compared} == (
        {SHOP} if other == SHOP else {row.aid for row in stall.world.parties[TSM].store.scan(TID_LIST)}
    )
    if other == SHOP:  # one reversal and one refund are under way
        assert {one.kind: one.own_minor - one.other_minor for one in compared} == {
            "purchase": 0, "refund": 0, "payout": 0,
        }  # fmt: skip
    else:
        assert all(one.agrees and one.own_minor for one in compared)


def test_a_bank_is_told_nothing_of_purchases(stall: Stall) -> None:
    (aid,) = {row.aid for row in stall.world.parties[TSM].store.scan(TID_LIST)}
    sums = stated(stall, TSM, BANK)
    assert {(one.account, one.kind) for one in sums} == {(aid, EntryKind.CLAIM), (aid, EntryKind.CREDIT_NOTE)}
    assert tsm_sums_with_bank(stall.world.parties[TSM].store.scan(LEDGER), bank="bank-b", aids={}) == ()
    assert tsm_sums_with_merchant(stall.world.parties[TSM].store.scan(LEDGER), merchant="shop-2") == ()
    assert merchant_sums(stall.party.store.scan(LEDGER), merchant=SHOP, tsm="tsm-2") == ()
    assert bank_sums(stall.world.parties[BANK].store.scan(LEDGER), tsm="tsm-2") == ()


@pytest.mark.parametrize("other", [SHOP, BANK])
def test_one_unit_in_either_ledger_is_named(stall: Stall, other: str) -> None:
    for party, counterparty in ((TSM, other), (other, TSM)):
        kinds = {one.kind.value for one in stated(stall, party, counterparty)}
        for kind in kinds:
            change = more("amount_minor", lambda row, kind=kind: row.kind == kind)
            ours = stated(stall, party, counterparty, ledger=change)
            compared = compare(ours, stated(stall, counterparty, party))
            (found,) = [one for one in compared if not one.agrees]
            assert (found.kind, abs(found.own_minor - found.other_minor)) == (
                "purchase" if kind == "reversal" else kind, 1
            )  # fmt: skip


def test_sums_that_only_one_side_has_are_compared_with_zero() -> None:
    one = StatedSum(account="x", kind=EntryKind.CLAIM, currency="TWD", total_minor=5, entries=1)
    assert [(c.own_minor, c.other_minor) for c in compare((one,), ())] == [(5, 0)]
    assert [(c.own_minor, c.other_minor) for c in compare((), (one,))] == [(0, 5)]


def test_a_statement_has_bounds(stall: Stall) -> None:
    entry = next(row for row in stall.party.store.scan(LEDGER) if row.kind == "purchase")
    (stated,) = merchant_sums([replace(entry, amount_minor=MAX_TOTAL_MINOR)], merchant=SHOP, tsm=TSM)
    assert stated.total_minor == MAX_TOTAL_MINOR > MAX_MINOR
    with pytest.raises(Oversize) as caught:
        merchant_sums([replace(entry, amount_minor=MAX_TOTAL_MINOR), entry], merchant=SHOP, tsm=TSM)
    assert caught.value.code == "OVERSIZE"
    claim = partial(
        Entry, entry=b"", credit=f"tsm/{TSM}", amount_minor=1, currency="TWD", kind="claim", ref=b"", at_s=0
    )  # fmt: skip
    with pytest.raises(Oversize):
        bank_sums((claim(debit=f"aid/a-{n}") for n in range(MAX_PARTS * MAX_SUMS + 1)), tsm=TSM)


def parts_of(stall: Stall, number: int) -> tuple[tuple[bytes, ...], tuple[StatedSum, ...]]:
    """A statement of so many accounts, in its parts, and the sums."""
    one = StatedSum(account="x", kind=EntryKind.CLAIM, currency="TWD", total_minor=5, entries=1)
    sums = tuple(replace(one, account=f"a-{n}") for n in range(number))
    stamp = Stamp.fresh(stall.now_s, stall.world.entropy)
    return sign_statement(stall.shop.keys.signer, sums, counterparty=TSM, under_way=2, stamp=stamp), sums


@pytest.mark.parametrize(("number", "parts"), [(0, 1), (MAX_SUMS, 1), (MAX_SUMS + 1, 2), (2 * MAX_SUMS + 1, 3)])
def test_a_statement_of_many_accounts_has_parts(stall: Stall, number: int, parts: int) -> None:
    signed, sums = parts_of(stall, number)
    assert len(signed) == parts
    assert read(stall, envelope.pack(signed)).sums == sums


def test_all_parts_of_one_statement_are_needed(stall: Stall) -> None:
    (first, second), _ = parts_of(stall, MAX_SUMS + 1)
    stall.world.clock.time_s += 1
    (_, later), _ = parts_of(stall, MAX_SUMS + 1)
    for parts in ((first,), (second,), (second, first), (first, second, second), (first, first), (first, later)):
        with pytest.raises(FieldMismatch) as caught:
            read(stall, envelope.pack(parts))
        assert caught.value.code == "FIELD_MISMATCH"
    for parts, error in (((), Malformed), ((first,) * (MAX_PARTS + 1), Oversize)):
        with pytest.raises(error) as bound:
            read(stall, envelope.pack(parts))
        assert bound.value.code == error.code


def written(stall: Stall, sums: tuple[StatedSum, ...] = (), signer: Signer | None = None, to: str = TSM) -> bytes:
    stamp = Stamp.fresh(stall.now_s, stall.world.entropy)
    signed = sign_statement(signer or stall.shop.keys.signer, sums, counterparty=to, under_way=2, stamp=stamp)
    return envelope.pack(signed)


def read(stall: Stall, data: bytes, me: str = TSM, roles: tuple[Role, ...] = (Role.BANK, Role.MERCHANT)) -> Stated:
    return open_statement(data, stall.world.directory, me=me, roles=roles, now_s=stall.now_s)


def test_a_statement_is_read_by_whom_it_is_for(stall: Stall) -> None:
    sums = stated(stall, SHOP, TSM)
    statement = read(stall, written(stall, sums))
    assert (statement.party, statement.sums, statement.under_way) == (SHOP, sums, 2)
    assert statement.at_s == stall.now_s


def test_a_statement_by_another_for_another_or_altered_is_none(stall: Stall) -> None:
    data = written(stall)
    world = stall.world
    forged = Signer(name=SHOP, key=world.key())
    tsm = world.parties[TSM].value.keys.signer
    as_shop = Signer(name=SHOP, key=world.parties[BANK].value.keys.sign)
    cases: tuple[tuple[type[ProtocolError], bytes, dict[str, Any]], ...] = (
        (SignatureInvalid, data[:-1] + bytes([data[-1] ^ 1]), {}), (UnknownKey, written(stall, signer=forged), {}),
        (WrongAudience, written(stall, to="tsm-2"), {}), (WrongAudience, data, {"me": "tsm-2"}),
        (WrongIssuer, data, {"roles": (Role.BANK,)}), (WrongIssuer, written(stall, signer=tsm), {}),
        (WrongIssuer, written(stall, signer=as_shop), {}),
    )  # fmt: skip
    for error, signed, how in cases:
        with pytest.raises(error) as caught:
            read(stall, signed, **how)
        assert (type(caught.value), caught.value.code) == (error, error.code)


def test_a_statement_says_who_signed_it_and_each_sum_once(stall: Stall) -> None:
    (first, *_) = stated(stall, SHOP, TSM)
    good = Statement(party=SHOP, counterparty=TSM, at_s=stall.now_s, part=1, parts=1, sums=(first,), under_way=0)
    stamp = Stamp.fresh(stall.now_s, stall.world.entropy)
    for changes in ({"party": "shop-2"}, {"counterparty": "tsm-2"}, {"sums": (first, first)}):
        data = envelope.sign(stall.shop.keys.signer, replace(good, **changes), audience=TSM, stamp=stamp)
        with pytest.raises(FieldMismatch) as caught:
            read(stall, envelope.pack([data]))
        assert caught.value.code == "FIELD_MISMATCH"


def test_a_statement_is_good_for_a_day(stall: Stall) -> None:
    data = written(stall)
    later = stall.now_s + MAX_LIFETIME_S
    assert open_statement(data, stall.world.directory, me=TSM, roles=(Role.MERCHANT,), now_s=later).party == SHOP
    with pytest.raises(Expired):
        open_statement(data, stall.world.directory, me=TSM, roles=(Role.MERCHANT,), now_s=later + 61)


def test_of_a_grants_claims_the_last_counts_in_whatever_order_they_were_kept(stall: Stall) -> None:
    assert differing(stall, BANK, evidence=lambda rows: rows[::-1]) == set()
