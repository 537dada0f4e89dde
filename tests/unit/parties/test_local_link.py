"""A lane with a card in its own process: the whole sale, and no card that outlives its stay."""

from __future__ import annotations

from pathlib import Path

from support.counter import applet_of, open_card
from support.shop import FakeReader, Stall, ready
from support.world import World

from parties.links.local import LocalReader
from protocol.card.applet import Applet


def test_a_sale_with_a_card_in_process(tmp_path: Path) -> None:
    world = World(tmp_path, seed="local")
    stall, (phone, tid) = Stall.open(world), ready(world)
    inserted: list[Applet] = []

    def insert() -> Applet:
        inserted.append(applet_of(world, phone))
        return inserted[-1]

    lane, sale = stall.lane(FakeReader()), stall.start(5_000)
    lane.reader = LocalReader(insert)
    assert lane.run_once()
    assert (stall.state(sale).progress, stall.purchases()) == ("DECLINED", [])  # nothing was opened, nothing is charged
    sale = stall.start(5_000)
    open_card(world, phone, tid, 5_000)
    while stall.state(sale).progress in ("EXPECT_TAP", "EXPECT_DECISION"):
        assert lane.run_once()
    assert stall.state(sale).progress == "APPROVED"
    assert inserted[-1].process(bytes.fromhex("00B2010C00")).hex() == "6985"  # the field is off
    lane.reader.close()
