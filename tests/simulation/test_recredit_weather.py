"""RECREDIT in bad weather: whatever is lost, doubled, late or killed, a second grant is made once and drawn on with the
first, and no grant is overdrawn."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from support.counter import Counter
from support.weather import Life, Weather, every_copy
from support.world import PACKAGE, PASSCODE, SOFTWARE, Phone

from protocol.messages.pay import Verdict
from protocol.roles.bank.tables import LIVE_GRANTS
from protocol.roles.se.tables import GRANTS, RECREDITS
from protocol.roles.tsm.tables import SECOND_DRAWS, SERVICES, TID_LIST, TidEntry
from protocol.roles.wallet import attest, enroll, issue_cards, recredit
from protocol.rows import Decision, Unit, Update
from protocol.types import Purpose

BANK, OTHER, TSM = "bank-a", "bank-b", "tsm-1"


@pytest.mark.parametrize("seed", range(6))
def test_a_second_grant_is_made_once(tmp_path: Path, seed: int) -> None:
    world = Weather(tmp_path, seed=f"recredit-{seed}", rng=random.Random(seed))
    phone = world.add_phone("phone-1")
    outcome = world.interleave({"phone-1": life(world, phone)})
    tid = outcome["phone-1"]
    world.calm()
    for sender, call in every_copy(world):
        world.stray(sender, call)
    grants = grants_of(world, tid)
    assert {bank: row.state for bank, row in grants.items()} == {BANK: "ACTIVE", OTHER: "ACTIVE"}
    assert [row.aid for row in world.parties[OTHER].store.scan(LIVE_GRANTS)] == [grants[OTHER].aid]
    assert len(world.parties[TSM].store.scan(SERVICES)) == 1
    held = {row.bank: (row.aid, row.state) for row in phone.party.store.scan(GRANTS)}
    assert held == {bank: (row.aid, "ACTIVE") for bank, row in grants.items()}
    assert phone.party.store.scan(RECREDITS) == ()
    buy_on_both(world, phone, tid)


def life(world: Weather, phone: Phone) -> Life:
    """All phases at the first bank; little is left there; then INIT, a launch and credit at the second."""
    _, tid = yield from world.life(phone, 2)
    wallet = phone.wallet
    leave(world, tid, BANK, 4_000)
    service = yield from world.flow(phone, lambda: issue_cards(wallet, tsm=TSM, tid=tid, number=1))
    assert service.recredit
    code = world.branch_code(OTHER)
    yield from world.flow(phone, lambda: enroll(wallet, bank=OTHER, branch_code=code))
    for purpose in (Purpose.INSTALL, Purpose.REPORT, Purpose.LAUNCH):
        decision = yield from world.flow(
            phone, lambda purpose=purpose: attest(wallet, bank=OTHER, purpose=purpose, software=SOFTWARE)
        )
        assert decision.allowed, decision.reason
        phone.application.write_bytes(PACKAGE)
    yield from world.flow(
        phone, lambda: recredit(wallet, tsm=TSM, tid=tid, bank=OTHER, software=SOFTWARE, passcode=PASSCODE)
    )
    return tid


def grants_of(world: Weather, tid: str) -> dict[str, TidEntry]:
    return {row.bank: row for row in world.parties[TSM].store.scan(TID_LIST) if row.tid == tid}


def leave(world: Weather, tid: str, bank: str, left_minor: int) -> None:
    """As if the rest had been spent."""
    grant = grants_of(world, tid)[bank]
    spent = Update(TID_LIST, replace(grant, spent_minor=grant.aid_limit_minor - left_minor))
    world.parties[TSM].store.apply(Unit((), lambda rows: Decision(writes=(spent,))))


def buy_on_both(world: Weather, phone: Phone, tid: str) -> None:
    leave(world, tid, OTHER, 3_500)
    counter = Counter.open(world)
    decided = counter.authorize(counter.ask(phone, tid, 7_000))
    assert decided.verdict is Verdict.APPROVED
    assert sum(row.aid_limit_minor - row.spent_minor for row in grants_of(world, tid).values()) == 500
    (second,) = world.parties[TSM].store.scan(SECOND_DRAWS)
    assert second.amount_minor in (3_000, 3_500)
    counter.refund(decided.sale, 7_000)
    left = {bank: row.aid_limit_minor - row.spent_minor for bank, row in grants_of(world, tid).items()}
    assert left == {BANK: 4_000, OTHER: 3_500}
