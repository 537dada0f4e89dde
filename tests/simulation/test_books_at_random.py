"""Any sequence of sales, voids, refunds, settlements and claims leaves three books that hold and agree."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.claims import Desk
from support.counter import TSM
from support.settling import balance, give_back, pay, settler, take_back
from support.shop import SHOP, Stall, ready
from support.world import Phone, World

from protocol.errors import AlreadySettled, LimitExceeded, WrongState
from protocol.roles.books import prove_books
from protocol.roles.ledger import LEDGER, grant_account
from protocol.roles.statement import bank_sums, compare, merchant_sums, tsm_sums_with_bank, tsm_sums_with_merchant
from protocol.roles.tsm.tables import PURCHASES, REFUNDS, TID_LIST
from protocol.types import Role

CARDS = 6
AMOUNT = st.integers(1, 19_999)
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("pay"), st.just(0), AMOUNT),
        st.tuples(st.just("silence"), st.just(0), AMOUNT),
        st.tuples(st.just("void"), st.integers(0, CARDS - 1), st.just(0)),
        st.tuples(st.just("refund"), st.integers(0, CARDS - 1), AMOUNT),
        st.tuples(st.just("settle"), st.just(0), st.just(0)),
        st.tuples(st.just("claim"), st.just(0), st.just(0)),
    ),
    min_size=1,
    max_size=14,
)
ROLES = {TSM: Role.TSM, SHOP: Role.MERCHANT, "bank-a": Role.BANK}


def act(stall: Stall, buyer: tuple[Phone, str], action: tuple[str, int, int], sales: list[bytes], desk: Desk) -> None:
    """One action; what is refused at the till changes nothing."""
    kind, which, minor = action
    if kind in ("pay", "silence") and len(sales) < CARDS:
        if kind == "pay":
            sales.append(pay(stall, *buyer, minor))
        else:
            sale = stall.asked(*buyer, minor)
            stall.to_tsm("Tsm.Authorize", stall.row(sale).request)
            take_back(stall, sale)
            sales.append(sale)
    elif kind == "settle":
        settler(stall).settle()
    elif kind == "claim":
        stall.world.clock.time_s += 1
        desk.claim()
    elif sales and kind in ("void", "refund"):
        sale = sales[which % len(sales)]
        try:
            give_back(stall, sale, minor) if kind == "refund" else take_back(stall, sale)
        except (AlreadySettled, LimitExceeded, WrongState):
            return


def check(stall: Stall) -> None:
    """Both sums of each proof, and both sides of each account."""
    stores = {party: stall.world.parties[party].store for party in ROLES}
    for party, role in ROLES.items():
        assert [one for proved in prove_books(role, stores[party]) for one in proved.differences] == []
    entries = {party: store.scan(LEDGER) for party, store in stores.items()}
    ours, theirs = (
        tsm_sums_with_merchant(entries[TSM], merchant=SHOP),
        merchant_sums(entries[SHOP], merchant=SHOP, tsm=TSM),
    )
    assert all(one.agrees for one in compare(ours, theirs))
    aids = {grant_account(row.sid_digest): row.aid for row in stores[TSM].scan(TID_LIST)}
    claimed = tsm_sums_with_bank(entries[TSM], bank="bank-a", aids=aids)
    assert all(one.agrees for one in compare(claimed, bank_sums(entries["bank-a"], tsm=TSM)))
    unpaid_minor = sum(
        row.amount_minor for row in stores[TSM].scan(PURCHASES) if row.state == "APPROVED" and not row.settled
    ) - sum(row.amount_minor for row in stores[TSM].scan(REFUNDS) if not row.settled)
    assert balance(stall, TSM, f"merchant/{SHOP}") == -unpaid_minor
    assert balance(stall, SHOP, f"tsm/{TSM}") == unpaid_minor


@settings(
    max_examples=25, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(ACTIONS)
def test_books_hold_and_agree_after_any_sequence(actions: list[tuple[str, int, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        stall = Stall.open(World(Path(folder), seed="at random"))
        buyer, sales, desk = ready(stall.world, CARDS), [], Desk(stall.world)
        for action in actions:
            act(stall, buyer, action, sales, desk)
            check(stall)
