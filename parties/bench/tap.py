"""What a tap costs: the card's processor time over its real database, and the bytes it puts in the air."""

from __future__ import annotations

import datetime
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from parties.assembly.roles import build_applet
from parties.bench.air import air_time_s
from parties.bench.town import PHONE, Town, settle
from parties.emv_files import read_ca_keys
from protocol.card.applet import Applet
from protocol.card.kernel import perform_tap, run_exchange
from protocol.card.outcome import Kind
from protocol.card.profile import Channel
from protocol.card.terminal import Sale, Terminal
from protocol.messages.se import SeOpenCard, SeOpening

AMOUNT_MINOR: Final = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TapCost:
    """`card_ms` is the median of the card's processor time over `taps` taps, `air_ms` the modeled time of the bytes."""

    taps: int
    card_best_ms: float
    card_ms: float
    card_p95_ms: float
    air_ms: float
    total_ms: float
    exchanges: int
    command_bytes: int
    answer_bytes: int


def measure_taps(town: Town, tid: str, taps: int, progress: Callable[[], None]) -> TapCost:
    """Open, tap and measure `taps` times. Processor time is of all threads, so the database's writer is in it."""
    settle()
    phone = town.citizens[PHONE]
    wallet, pki = town.wallet(), phone.opened.settings.pki
    terminal = Terminal(
        merchant_identifier="TAPVEIL00000001", terminal="T0000001", merchant_name="Shop 1",
        ca_keys=read_ca_keys(pki),
    )  # fmt: skip
    clock, entropy = phone.opened.clock, phone.opened.entropy
    today = datetime.datetime.fromtimestamp(clock.now_s(), tz=datetime.UTC).date()
    spent_ms: list[float] = []
    sizes: list[tuple[int, int]] = []
    for _ in range(taps):
        progress()
        town.run(wallet.command("OpenCard", SeOpenCard(tid=tid, ceiling_minor=AMOUNT_MINOR), SeOpening))
        applet = build_applet(phone.opened, phone.store, Channel.CONTACTLESS)
        sizes, spent_ns = [], 0

        def transmit(command: bytes, applet: Applet = applet) -> bytes:
            nonlocal spent_ns
            before_ns = time.process_time_ns()
            answer = applet.process(command)
            spent_ns += time.process_time_ns() - before_ns
            sizes.append((len(command), len(answer)))  # noqa: B023  # this tap's list
            return answer

        sale = Sale(amount_minor=AMOUNT_MINOR, currency="TWD", date=today, unpredictable=entropy.bytes(4))
        assert run_exchange(perform_tap(terminal, sale), transmit).kind is Kind.ONLINE_REQUEST
        spent_ms.append(spent_ns / 1e6)
    card_ms, air_ms = statistics.median(spent_ms), air_time_s(sizes) * 1e3
    return TapCost(
        taps=taps, card_best_ms=min(spent_ms), card_ms=card_ms, card_p95_ms=sorted(spent_ms)[int(taps * 0.95)],
        air_ms=air_ms, total_ms=card_ms + air_ms, exchanges=len(sizes),
        command_bytes=sum(size for size, _ in sizes), answer_bytes=sum(size for _, size in sizes),
    )  # fmt: skip
