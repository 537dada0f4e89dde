"""The TSM's errand of every period, and the command that runs it by hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.claims import PERIOD_S, Desk
from support.world import World

from parties.claiming import merged
from parties.server.claims import BankClaims, ClaimSender
from protocol.envelope import Wire
from protocol.errors import Expired, GrantUnknown, PeerAnswerInvalid, Unavailable, UnknownKey
from protocol.pki import Use
from protocol.roles.tsm.tables import CLAIMS, TID_LIST
from protocol.rows import Decision, Unit, Update


class Office:
    """Two customers of bank-a, one of bank-b; the TSM's sender over a line that tests can cut."""

    def __init__(self, tmp: Path) -> None:
        self.world = World(tmp, seed="office")
        for number, bank in ((1, "bank-a"), (2, "bank-a"), (3, "bank-b")):
            phone = self.world.ready(f"phone-{number}", bank)
            self.world.service(phone, self.world.account(phone, bank))
        self.desk = Desk(self.world)
        self.cut: set[str] = set()
        self.asked: list[str] = []
        self.sender = self.fresh()

    def fresh(self) -> ClaimSender:
        """As after a start of the server."""
        return ClaimSender(self.desk.tsm, self.desk.store, self, self.world.clock, self.world.entropy)

    def call(self, peer: str, rpc: str, request: Wire) -> Wire:
        self.asked.append(peer)
        if peer in self.cut:
            raise Unavailable
        return self.desk.call(peer, rpc, request)

    def states(self) -> Counter[str]:
        return Counter(row.state for row in self.desk.store.scan(CLAIMS))


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


def test_once_a_period(office: Office) -> None:
    office.sender.run_once()
    assert office.asked == []
    office.world.clock.time_s += PERIOD_S
    for sender in (office.sender, office.sender, office.fresh()):
        sender.run_once()
    assert (office.states(), Counter(office.asked)) == ({"ACCEPTED": 3}, {"bank-a": 2, "bank-b": 1})
    office.world.clock.time_s += PERIOD_S
    office.sender.run_once()
    assert office.states() == {"ACCEPTED": 6}


def test_a_bank_out_of_reach_holds_up_nobody_and_gets_its_claims_later(office: Office) -> None:
    office.cut = {"bank-a"}
    office.world.clock.time_s += PERIOD_S
    office.sender.run_once()
    assert (office.states(), Counter(office.asked)) == (
        {"ACCEPTED": 1, "EXPECT_BANK": 2}, {"bank-a": 1, "bank-b": 1},
    )  # fmt: skip
    office.world.clock.time_s += PERIOD_S  # the next period comes, and it is silent still
    office.sender.run_once()
    assert office.states() == {"ACCEPTED": 2, "EXPECT_BANK": 2}
    office.cut = set()
    office.sender.run_once()
    assert office.states() == {"ACCEPTED": 4}
    office.world.clock.time_s += PERIOD_S
    office.sender.run_once()
    assert office.states() == {"ACCEPTED": 7}


def test_counts_by_bank(office: Office) -> None:
    office.cut = {"bank-b"}
    office.desk.faults = [Expired()]
    office.sender.make(early=True)
    first, second = office.sender.send()
    assert (first.bank, first.sent, first.accepted, first.refused, first.waiting) == ("bank-a", 2, 1, 1, 0)
    assert first.refusals == {"EXPIRED": 1}
    assert (second.bank, second.sent, second.accepted, second.waiting) == ("bank-b", 1, 0, 1)
    office.cut = set()
    sent = office.sender.send()
    assert [one.bank for one in sent] == ["bank-b"]
    office.sender.make(again=True)
    total = merged((first, *sent), office.sender.send())
    assert [(one.bank, one.sent, one.accepted, one.refused) for one in total] == [
        ("bank-a", 2, 2, 0), ("bank-b", 1, 1, 0),
    ]  # fmt: skip


def test_an_answer_that_is_none_holds_up_no_other(office: Office) -> None:
    forged: list[Wire] = []

    def once(request: Wire, answer: Wire) -> Wire:
        if forged:
            return answer
        forged.append(answer)
        return Wire(cose=b"\x00")

    office.desk.alter = once
    office.cut = {"bank-b"}
    office.sender.make(early=True)
    (first, _second) = office.sender.send()
    assert (first.sent, first.accepted, first.waiting) == (2, 1, 1)
    assert PeerAnswerInvalid.status == "UNAVAILABLE"


def test_a_grant_that_no_bank_made_is_void(office: Office) -> None:
    (first, *_rest) = [row for row in office.desk.store.scan(TID_LIST) if row.bank == "bank-a"]
    stale = replace(first, state="REFUSED")
    office.desk.store.apply(Unit((), lambda rows: Decision(writes=(Update(TID_LIST, stale),))))
    office.desk.faults = [GrantUnknown(), GrantUnknown()]
    office.cut = {"bank-b"}
    office.sender.make(early=True)
    (banked, _) = office.sender.send()
    assert (banked.sent, banked.void, banked.refused) == (2, 1, 1)
    assert banked.refusals == {"GRANT_UNKNOWN": 1}


def test_a_bank_without_a_certificate_holds_up_no_other(office: Office) -> None:
    directory = office.world.directory
    directory.identities = [one for one in directory.identities if (one.name, one.use) != ("bank-b", Use.SEAL)]
    with pytest.raises(UnknownKey):
        directory.named("bank-b", Use.SEAL)
    office.world.clock.time_s += PERIOD_S
    office.sender.run_once()
    office.sender.run_once()  # made for the others, and tried again
    assert office.states() == {"ACCEPTED": 2}


class Moving:
    """A store in which a grant moves whenever a claim of it is about to be stored, `moves` times."""

    def __init__(self, office: Office, moves: int) -> None:
        self._store = office.desk.store
        self.moves = moves

    def read(self, *reads: Any) -> Any:
        return self._store.read(*reads)

    def scan(self, table: Any) -> Any:
        return self._store.scan(table)

    def sweep(self, now_s: int) -> int:
        return self._store.sweep(now_s)

    def apply(self, unit: Unit) -> Decision:
        if self.moves:
            self.moves -= 1
            for entry in self._store.scan(TID_LIST):
                moved = replace(entry, asked_at_s=entry.asked_at_s + 1)
                self._store.apply(Unit((), lambda rows, moved=moved: Decision(writes=(Update(TID_LIST, moved),))))
        return self._store.apply(unit)


@pytest.mark.parametrize(("moves", "complete"), [(2, True), (5, False)])
def test_a_grant_that_moves_is_looked_at_again(office: Office, moves: int, complete: bool) -> None:
    desk = office.desk
    sender = ClaimSender(desk.tsm, Moving(office, moves), office, office.world.clock, office.world.entropy)
    assert sender.make(early=True) is complete
    assert len(desk.store.scan(CLAIMS)) == (3 if complete else 2)


def test_what_another_process_made_meanwhile_is_left(office: Office) -> None:
    desk = office.desk

    class Overtaken(Moving):
        def apply(self, unit: Unit) -> Decision:
            office.fresh().make(early=True)
            return self._store.apply(unit)

    sender = ClaimSender(desk.tsm, Overtaken(office, 0), office, office.world.clock, office.world.entropy)
    assert sender.make(early=True) is True
    assert office.states() == {"EXPECT_BANK": 3}


def test_both_runs_of_the_command_count_as_one() -> None:
    first = BankClaims(bank="bank-a", sent=4, accepted=1, void=1, waiting=1, refusals=Counter(EXPIRED=1))
    second = BankClaims(bank="bank-a", sent=3, accepted=3)
    (total,) = merged((first,), (second,))
    assert (total.sent, total.accepted, total.void, total.waiting, total.refused) == (5, 4, 1, 0, 0)
