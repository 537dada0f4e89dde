"""The lane at work, over a reader, a way to the TSM and a store that fail when told to: in whatever order things break,
a sale ends as the TSM has it, and what was stored is sent as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.counter import applet_of, open_card, set_pin, verify_pin
from support.shop import AMOUNT, FakeLink, FakeReader, Killed, Line, MortalStore, Stall, ready
from support.world import World

from parties.merchant.lane import RETRY_S, Lane
from protocol.envelope import Wire
from protocol.errors import Internal, LimitExceeded, SettingsInvalid, Unavailable, UnknownKey
from protocol.messages.se import Opening
from protocol.roles.wallet import status
from protocol.rows import Conflict, Decision, MemoryStore, Unit

COMMANDS = 8
"""Of a whole tap with our card."""


class Shopping:
    """A shop, a phone with open cards, and a lane between them."""

    def __init__(self, tmp_path: Path) -> None:
        self.world = World(tmp_path, seed="lane")
        self.stall = Stall.open(self.world)
        self.phone, self.tid = ready(self.world)
        self.reader, self.line = FakeReader(), Line(self.stall)
        self.store = MortalStore(self.stall.party.store)
        self.lane = self.new_lane()

    def new_lane(self) -> Lane:
        """The process starts: all it knows is in the store."""
        return self.stall.lane(self.reader, self.line, self.store)

    def hold(self, amount_minor: int = AMOUNT, *, lost_at: int | None = None) -> FakeLink:
        """The cardholder opens a card and holds the phone to the reader."""
        open_card(self.world, self.phone, self.tid, amount_minor)
        return self.hold_again(lost_at=lost_at)

    def hold_again(self, *, lost_at: int | None = None) -> FakeLink:
        link = FakeLink(applet_of(self.world, self.phone), lost_at=lost_at)
        self.reader.coming.append(link)
        return link

    def shown(self) -> Opening:
        return self.world.run(self.phone, status(self.phone.wallet)).opening

    def run(self, rounds: int = 40) -> None:
        """The loop, a second a round, until there is nothing left to do for longer than a retry takes."""
        idle = 0
        for _ in range(rounds):
            idle = 0 if self.lane.run_once() else idle + 1
            self.world.clock.time_s += 1
            if idle > RETRY_S:
                return

    def approved(self) -> bytes:
        sale = self.stall.start()
        self.hold()
        self.run()
        assert self.stall.row(sale).progress == "APPROVED"
        return sale

    def spent_minor(self) -> int:
        """What purchases hold at the TSM, less refunds."""
        held = [row for row in self.stall.purchases() if row.state == "APPROVED"]
        return sum(row.amount_minor - row.refunded_minor for row in held)


@pytest.fixture
def shopping(tmp_path: Path) -> Shopping:
    return Shopping(tmp_path)


# --- taps ------------------------------------------------------------------------------------------------------------
def test_a_sale_is_tapped_asked_and_approved_in_one_round(shopping: Shopping) -> None:
    assert not shopping.lane.run_once()
    assert shopping.reader.waits == 0  # no sale, no card
    sale, link = shopping.stall.start(), shopping.hold()
    assert shopping.lane.run_once()
    assert shopping.stall.row(sale).progress == "APPROVED"
    assert (link.closed, len(link.commands)) == (True, COMMANDS)
    assert [rpc for rpc, _ in shopping.line.sent] == ["Tsm.Authorize"]
    assert not shopping.lane.run_once()
    assert shopping.spent_minor() == AMOUNT


def test_nobody_taps(shopping: Shopping) -> None:
    sale = shopping.stall.start()
    for _ in range(61):
        assert not shopping.lane.run_once()
        shopping.world.clock.time_s += 1
    assert shopping.lane.run_once()
    assert shopping.stall.row(sale).progress == "CANCELED"
    assert (shopping.reader.waits, shopping.line.sent) == (61, [])


def test_the_phone_is_looked_at_between_two_taps(shopping: Shopping) -> None:
    set_pin(shopping.world, shopping.phone)
    amount_minor = shopping.world.parties["tsm-1"].value.policy.verify_above_minor + 1
    sale = shopping.stall.start(amount_minor)
    shopping.hold(amount_minor)
    shopping.lane.run_once()
    assert shopping.stall.state(sale).display == "See phone for instructions"
    verify_pin(shopping.world, shopping.phone, shopping.shown())
    shopping.hold_again()
    shopping.run()
    assert shopping.stall.row(sale).progress == "APPROVED"


@pytest.mark.parametrize("lost_at", range(COMMANDS))
def test_a_card_that_leaves_early_may_come_again(shopping: Shopping, lost_at: int) -> None:
    """Taken away before any of its commands; the retry is the same purchase (§3 PAY, torn taps)."""
    sale, link = shopping.stall.start(), shopping.hold(lost_at=lost_at)
    shopping.lane.run_once()
    assert len(link.commands) == lost_at
    assert (shopping.stall.row(sale).progress, shopping.stall.row(sale).display) == ("EXPECT_TAP", "Present card again")
    shopping.hold_again()
    shopping.run()
    assert shopping.stall.row(sale).progress == "APPROVED"
    assert shopping.spent_minor() == AMOUNT


def test_a_sale_called_off_during_the_tap_is_not_sent(shopping: Shopping) -> None:
    sale = shopping.stall.start()
    link = shopping.hold()

    def call_off() -> None:
        if len(link.commands) == 3:
            shopping.stall.cancel(sale)

    link.meanwhile = call_off
    shopping.run()
    assert len(link.commands) > 3
    assert (shopping.stall.row(sale).progress, shopping.line.sent) == ("CANCELED", [])
    assert shopping.stall.purchases() == []


def test_no_card_is_asked_for_without_a_key(shopping: Shopping) -> None:
    sale = shopping.stall.start()
    shopping.hold()
    shopping.stall.begin_sign_on()
    assert not shopping.lane.run_once()
    assert shopping.reader.waits == 0
    shopping.stall.sign_on()
    shopping.run()
    assert shopping.stall.row(sale).progress == "APPROVED"


def test_a_reader_that_fails_is_left_alone_for_a_while(shopping: Shopping) -> None:
    sale = shopping.stall.start()
    shopping.reader.coming.append(SettingsInvalid("no such reader"))
    for _ in range(3):
        assert not shopping.lane.run_once()
    assert shopping.reader.waits == 1
    shopping.world.clock.time_s -= 3600  # the clock is set back
    assert not shopping.lane.run_once()
    assert shopping.reader.waits == 2
    shopping.hold()
    shopping.run()
    assert shopping.stall.row(sale).progress == "APPROVED"


# --- answers ---------------------------------------------------------------------------------------------------------
def test_the_same_bytes_go_until_they_are_answered(shopping: Shopping) -> None:
    sale = shopping.stall.start()
    shopping.hold()
    shopping.line.faults = [Unavailable(), "lost", Unavailable()]
    shopping.run()
    assert shopping.stall.row(sale).progress == "APPROVED"
    requests = shopping.line.requests("Tsm.Authorize")
    assert (len(requests), len(set(requests))) == (4, 1)
    assert shopping.spent_minor() == AMOUNT


def test_no_answer_in_time_is_taken_back(shopping: Shopping) -> None:
    sale = shopping.stall.start()
    shopping.hold()
    shopping.line.faults = ["lost"] * 11  # every two seconds, for twenty
    shopping.run()
    assert shopping.stall.row(sale).progress == "REVERSED"
    assert len(set(shopping.line.requests("Tsm.Authorize"))) == 1
    assert [row.state for row in shopping.stall.purchases()] == ["REVERSED"]
    assert shopping.spent_minor() == 0


def test_a_refusal_is_given_up_at_once_and_the_next_sale_does_not_wait(shopping: Shopping) -> None:
    first = shopping.stall.start()
    shopping.hold()
    shopping.line.faults = [UnknownKey()]
    shopping.lane.run_once()
    assert shopping.stall.row(first).progress == "REVERSED"
    second = shopping.stall.start()
    shopping.hold()
    shopping.lane.run_once()
    assert shopping.stall.row(second).progress == "APPROVED"
    assert sorted(row.state for row in shopping.stall.purchases()) == ["APPROVED", "NEVER"]


def test_an_answer_that_does_not_verify_is_none(shopping: Shopping) -> None:
    sale = shopping.stall.start()
    shopping.hold()
    bad = [True, True]

    def alter(rpc: str, request: Wire, answer: Wire) -> Wire:
        return Wire(cose=answer.cose[:-1] + bytes([answer.cose[-1] ^ 1])) if bad and bad.pop() else answer

    shopping.line.alter = alter
    shopping.lane.run_once()
    assert shopping.stall.row(sale).progress == "EXPECT_DECISION"
    shopping.run()
    assert shopping.stall.row(sale).progress == "APPROVED"
    assert len(set(shopping.line.requests("Tsm.Authorize"))) == 1


# --- giving back -----------------------------------------------------------------------------------------------------
def test_a_void_goes_until_it_is_acknowledged(shopping: Shopping) -> None:
    sale = shopping.approved()
    shopping.stall.cancel(sale)
    shopping.line.faults = [Unavailable(), "lost", UnknownKey()]
    shopping.run()
    assert shopping.stall.row(sale).progress == "REVERSED"
    requests = shopping.line.requests("Tsm.Reverse")
    assert (len(requests), len(set(requests))) == (4, 1)
    assert shopping.spent_minor() == 0


def test_refunds_go_until_they_are_answered_or_refused(shopping: Shopping) -> None:
    sale = shopping.approved()
    made, other = shopping.stall.refund(sale, 2_000, b"\x01" * 16), shopping.stall.refund(sale, 3_000, b"\x02" * 16)
    shopping.line.faults = ["lost", LimitExceeded()]
    shopping.run()
    assert shopping.stall.refund_row(made).state == "DONE"
    assert shopping.stall.refund_row(other).state == "REFUSED"
    assert (shopping.stall.row(sale).refunded_minor, shopping.spent_minor()) == (2_000, AMOUNT - 2_000)


def test_one_that_can_not_be_sent_does_not_hold_up_the_others(shopping: Shopping) -> None:
    sale = shopping.approved()
    stuck, other = shopping.stall.refund(sale, 1, b"\x01" * 16), shopping.stall.refund(sale, 2, b"\x02" * 16)
    shopping.line.faults = [UnknownKey(), None, UnknownKey(), UnknownKey()]
    for _ in range(6):
        shopping.lane.run_once()
        shopping.world.clock.time_s += 1
    assert (shopping.stall.refund_row(stuck).state, shopping.stall.refund_row(other).state) == ("EXPECT_REFUND", "DONE")
    shopping.run()
    assert shopping.stall.row(sale).refunded_minor == 3


def test_without_a_key_nothing_is_given_back_yet(shopping: Shopping) -> None:
    voided, kept = shopping.approved(), shopping.approved()
    shopping.stall.cancel(voided)
    shopping.stall.refund(kept, 1)
    shopping.stall.begin_sign_on()
    sent = len(shopping.line.sent)
    assert not shopping.lane.run_once()
    assert len(shopping.line.sent) == sent
    shopping.stall.sign_on()
    shopping.run()
    assert (shopping.stall.row(voided).progress, shopping.stall.row(kept).refunded_minor) == ("REVERSED", 1)


# --- the end of the process ------------------------------------------------------------------------------------------
def _sale(shopping: Shopping) -> list[bytes]:
    sale = shopping.stall.start()
    shopping.hold()
    return [sale]


def _void(shopping: Shopping) -> list[bytes]:
    sale = shopping.approved()
    shopping.stall.cancel(sale)
    return [sale]


def _silence(shopping: Shopping) -> list[bytes]:
    shopping.line.faults = ["lost"] * 13  # for longer than a decision is waited for, and then two more
    return _sale(shopping)


def _refund(shopping: Shopping) -> list[bytes]:
    sale = shopping.approved()
    shopping.stall.refund(sale, 2_000)
    shopping.stall.refund(sale, 3_000)
    return [sale]


@pytest.mark.parametrize(
    ("begin", "units", "ended"),
    [
        (_sale, 2, ("APPROVED", 0, AMOUNT)),
        (_void, 2, ("REVERSED", 0, 0)),
        (_silence, 19, ("REVERSED", 0, 0)),
        (_refund, 4, ("APPROVED", 5_000, AMOUNT - 5_000)),
    ],
    ids=["sale", "void", "silence", "refund"],
)
def test_the_process_may_end_after_any_unit(
    tmp_path: Path, begin: Callable[[Shopping], list[bytes]], units: int, ended: tuple[str, int, int]
) -> None:
    for point in range(units + 1):
        folder = tmp_path / str(point)
        folder.mkdir()
        shopping = Shopping(folder)
        (sale,) = begin(shopping)
        before = len(shopping.line.sent)
        shopping.store.units, shopping.store.dies_after = 0, point
        if point:
            with pytest.raises(Killed):
                shopping.run()
            assert shopping.store.units == point
            shopping.lane = shopping.new_lane()
        shopping.run()
        assert point or shopping.store.units == units  # every point between two units is tried
        row = shopping.stall.row(sale)
        assert (row.progress, row.refunded_minor, shopping.spent_minor()) == ended
        sent = shopping.line.sent[before:]
        assert len({request for _, request in sent}) == {_sale: 1, _void: 1, _silence: 2, _refund: 2}[begin]
        assert len(shopping.stall.purchases()) == 1


@pytest.mark.parametrize("rpc", ["Tsm.Authorize", "Tsm.Reverse"])
def test_the_process_may_end_while_the_tsm_decides(shopping: Shopping, rpc: str) -> None:
    (sale,) = (_sale if rpc == "Tsm.Authorize" else _void)(shopping)

    def die(name: str, request: Wire, answer: Wire) -> Wire:
        if name == rpc:
            raise Killed
        return answer

    shopping.line.alter = die
    with pytest.raises(Killed):
        shopping.run()
    shopping.line.alter = lambda name, request, answer: answer
    shopping.lane = shopping.new_lane()
    shopping.run()
    requests = shopping.line.requests(rpc)
    assert (len(requests), len(set(requests))) == (2, 1)
    assert shopping.stall.row(sale).progress == ("APPROVED" if rpc == "Tsm.Authorize" else "REVERSED")
    assert len(shopping.stall.purchases()) == 1


def test_a_long_stop_takes_back_what_nobody_waits_for(shopping: Shopping) -> None:
    (sale,) = _sale(shopping)
    shopping.store.dies_after = 1
    with pytest.raises(Killed):
        shopping.run()
    assert shopping.stall.row(sale).progress == "EXPECT_DECISION"
    shopping.world.clock.time_s += 3600
    shopping.lane = shopping.new_lane()
    shopping.run()
    assert shopping.stall.row(sale).progress == "REVERSED"
    assert shopping.line.requests("Tsm.Authorize") == []


class Contended(MemoryStore):
    """Another writer is faster, some times."""

    clashes = 0

    def apply(self, unit: Unit) -> Decision:
        if self.clashes:
            self.clashes -= 1
            raise Conflict
        return super().apply(unit)


@pytest.mark.parametrize(("clashes", "progress"), [(4, "CANCELED"), (5, "EXPECT_TAP")])
def test_a_unit_that_clashes_is_decided_again(shopping: Shopping, clashes: int, progress: str) -> None:
    sale = shopping.stall.start()
    store = Contended()
    store._rows = shopping.stall.party.store._rows
    store.clashes = clashes
    shopping.store.store = store
    shopping.world.clock.time_s += 61
    if clashes < 5:
        shopping.lane.run_once()
    else:
        with pytest.raises(Internal) as caught:
            shopping.lane.run_once()
        assert caught.value.code == "INTERNAL"
    assert shopping.stall.row(sale).progress == progress
