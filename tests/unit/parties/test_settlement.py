"""The settler: settles until nothing is left, through faults and ends of the process; one bad sale holds up nobody."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.counter import TSM
from support.settling import balance, begin, give_back, pay, send, settlement, settlements, settler
from support.shop import AMOUNT, SHOP, Killed, Line, MortalStore, Stall, ready
from support.world import Phone, World

from protocol.envelope import Wire
from protocol.errors import Internal, ProtocolError, SignatureInvalid, Unavailable, UnknownKey
from protocol.roles.merchant import SALES, SETTLEMENTS
from protocol.roles.tsm.tables import PAYOUTS
from protocol.rows import Conflict, Decision, Unit, Update


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, seed="settler")


@pytest.fixture
def stall(world: World) -> Stall:
    return Stall.open(world)


@pytest.fixture
def buyer(world: World) -> tuple[Phone, str]:
    return ready(world)


def paid(stall: Stall) -> list[int]:
    return sorted(row.total_minor for row in stall.world.parties[TSM].store.scan(PAYOUTS))


def test_all_that_is_due_is_settled_and_then_nothing(stall: Stall, buyer: tuple[Phone, str]) -> None:
    give_back(stall, pay(stall, *buyer), 2_000)
    pay(stall, *buyer, 500)
    done = settler(stall).settle()
    assert (done.batches, done.sales, done.refunds, done.refused) == (1, 2, 1, [])
    assert done.totals_minor == {"TWD": AMOUNT - 1_500}
    again = settler(stall).settle()
    assert (again.batches, again.totals_minor) == (0, {})
    pay(stall, *buyer)
    assert settler(stall).settle().totals_minor == {"TWD": AMOUNT}
    assert paid(stall) == [AMOUNT - 1_500, AMOUNT]


@pytest.mark.parametrize("fault", [Unavailable(), "lost", UnknownKey()])
def test_after_a_fault_the_same_bytes_go_again(
    stall: Stall, buyer: tuple[Phone, str], fault: ProtocolError | str
) -> None:  # fmt: skip
    pay(stall, *buyer)
    line = Line(stall, faults=[fault])
    with pytest.raises(ProtocolError):
        settler(stall, line).settle()
    assert settlements(stall) == [("EXPECT_PAYOUT", AMOUNT)]
    done = settler(stall, line).resend()
    assert (done.batches, done.totals_minor) == (1, {"TWD": AMOUNT})
    first, second = line.requests("Tsm.SettleBatch")
    assert (first == second, paid(stall)) == (True, [AMOUNT])
    assert settler(stall, line).resend().batches == 0


def test_an_answer_that_does_not_verify_is_none(stall: Stall, buyer: tuple[Phone, str]) -> None:
    pay(stall, *buyer)
    line = Line(stall, alter=lambda rpc, request, answer: Wire(cose=answer.cose[:-1] + b"\x00"))
    with pytest.raises(SignatureInvalid):
        settler(stall, line).settle()
    assert settlements(stall) == [("EXPECT_PAYOUT", AMOUNT)]
    assert settler(stall).settle().batches == 1
    assert paid(stall) == [AMOUNT]


@pytest.mark.parametrize("dies_after", range(1, 4))
def test_the_process_may_end_after_any_unit(stall: Stall, buyer: tuple[Phone, str], dies_after: int) -> None:
    """Stored; sent; recorded."""
    pay(stall, *buyer)
    with pytest.raises(Killed):
        settler(stall, store=MortalStore(stall.party.store, dies_after)).settle()
    settler(stall).settle()
    assert (settlements(stall), paid(stall)) == ([("PAID", AMOUNT)], [AMOUNT])
    assert balance(stall, SHOP, "cash") == -balance(stall, TSM, "cash") == AMOUNT


def test_server_and_command_at_once_settle_once(stall: Stall, buyer: tuple[Phone, str]) -> None:
    """The server answers for the settlement while the command is about to send it."""
    pay(stall, *buyer)
    begin(stall)
    quick = settler(stall)

    class Racing:
        def __init__(self, store: Any) -> None:
            self._store = store
            self._first = True

        def apply(self, unit: Unit) -> Decision:
            if self._first:
                self._first = False
                quick.resend()
            decision: Decision = self._store.apply(unit)
            return decision

        def read(self, *reads: Any) -> Any:
            return self._store.read(*reads)

    slow = settler(stall, store=Racing(stall.party.store))
    assert (slow.resend().batches, settlements(stall), paid(stall)) == (0, [("PAID", AMOUNT)], [AMOUNT])


def test_one_sale_that_is_refused_holds_up_no_other(stall: Stall, buyer: tuple[Phone, str]) -> None:
    """Settled already, by rows that this merchant lost; the others are paid, and the one is named no more."""
    sales = [pay(stall, *buyer, 1_000 + n) for n in range(4)]
    send(stall, settlement({sales[2]: 1_002}, batch=b"\x07" * 16))
    done = settler(stall).settle()
    assert done.totals_minor == {"TWD": 1_000 + 1_001 + 1_003}
    assert done.refused
    assert set(done.refused) == {"ALREADY_SETTLED"}
    states = {row.batch: row.state for row in stall.party.store.scan(SETTLEMENTS)}
    assert {sale: states[stall.row(sale).settled] for sale in sales} == {
        sales[0]: "PAID", sales[1]: "PAID", sales[2]: "REFUSED", sales[3]: "PAID",
    }  # fmt: skip
    assert settler(stall).settle().refused == []
    assert sorted(paid(stall)) == sorted([1_002, *(t for s, t in settlements(stall) if s == "PAID")])


def test_what_was_voided_meanwhile_is_not_settled(stall: Stall, buyer: tuple[Phone, str]) -> None:
    sale = pay(stall, *buyer)

    class Voiding:
        """The till voids the sale between the look and the unit."""

        def __init__(self, store: Any) -> None:
            self._store = store

        def apply(self, unit: Unit) -> Decision:
            row = stall.row(sale)
            gone = replace(row, progress="EXPECT_REVERSAL", settled=b"")
            self._store.apply(Unit((), lambda _rows: Decision(writes=(Update(SALES, gone),))))
            decision: Decision = self._store.apply(unit)
            return decision

        def read(self, *reads: Any) -> Any:
            return self._store.read(*reads)

    done = settler(stall, store=Voiding(stall.party.store)).settle()
    assert (done.batches, settlements(stall)) == (0, [])


@pytest.mark.parametrize(("conflicts", "raises"), [(4, False), (5, True)])
def test_a_unit_that_clashes_is_decided_again(
    stall: Stall, buyer: tuple[Phone, str], conflicts: int, raises: bool
) -> None:
    pay(stall, *buyer)

    class Clashing:
        def __init__(self, store: Any) -> None:
            self._store = store
            self._left = conflicts

        def apply(self, unit: Unit) -> Decision:
            if self._left:
                self._left -= 1
                raise Conflict
            decision: Decision = self._store.apply(unit)
            return decision

        def read(self, *reads: Any) -> Any:
            return self._store.read(*reads)

    working = settler(stall, store=Clashing(stall.party.store))
    if raises:
        with pytest.raises(Internal):
            working.settle()
        assert settlements(stall) == []
    else:
        assert working.settle().batches == 1
