"""`docs/emv.md` shows what is: the tap it reads out loud, its bits, its currencies, its status words."""

from __future__ import annotations

import re
from pathlib import Path

from support.counter import Counter
from support.world import World

from protocol.card.apdu import Sw
from protocol.card.cvr import Cvr
from protocol.card.tap import CURRENCIES
from protocol.card.trace import decode_trace

PAGE = (Path(__file__).parents[3] / "docs" / "emv.md").read_text()


def test_the_tap_is_the_one_that_happens(tmp_path: Path) -> None:
    world = World(tmp_path, seed="trace")
    phone = world.ready()
    tid = world.service(phone, world.account(phone))
    world.cards(phone, tid, 1)
    counter = Counter.open(world)
    counter.ask(phone, tid, 5000)
    (shown,) = re.findall(r"```text\n(.*)```", PAGE, re.S)
    assert shown.splitlines() == list(decode_trace(counter.trace))
    assert (sum(len(command) for command, _ in counter.trace), sum(len(answer) for _, answer in counter.trace)) == (
        200,
        1027,
    )


def test_bits_currencies_and_status_words_are_all_there() -> None:
    assert re.findall(r"^\| ([0-9]{8}) \|", PAGE, re.M) == [f"{bit.value:08X}" for bit in Cvr]
    assert all(f"{name} {number}" in PAGE for name, number in CURRENCIES.items())
    told = set(re.findall(r"\b6[0-9A-F]{3}\b", PAGE.split("## The cryptogram")[0]))
    assert told == {f"{word.value:04X}" for word in Sw} - {"9000", "6F00"}
