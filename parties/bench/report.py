"""All measurements in one run, as a table for people and as values for programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from parties.bench.issuance import IssuanceCost, measure_issuance
from parties.bench.tap import TapCost, measure_taps
from parties.bench.town import open_town, register_phone

MAX_CARD_MS: Final = 2.0
MAX_TAP_MS: Final = 150.0
MAX_ISSUANCE_RATIO: Final = 1.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one run measured."""

    tap: TapCost
    issuance: IssuanceCost

    def plain(self) -> dict[str, Any]:
        """As `tapveil bench --json` prints it."""
        return {
            "tap": dataclasses.asdict(self.tap),
            "issuance": dataclasses.asdict(self.issuance),
            "ratios": {"issuance_over_signatures": self.issuance.ratio},
        }


def measure(taps: int, rounds: int, progress: Callable[[], None]) -> Report:
    """Set up, warm up, measure. `progress` is called once a step of `steps(taps, rounds)`."""
    with open_town() as town:
        tid = register_phone(town, cards=taps + 1)
        measure_taps(town, tid, 1, lambda: None)
        tap = measure_taps(town, tid, taps, progress)
        measure_issuance(town, tid, 1, lambda: None)
        return Report(tap=tap, issuance=measure_issuance(town, tid, rounds, progress))


def print_report(report: Report, console: Console) -> None:
    """The figures beside their bounds."""
    tap, issuance = report.tap, report.issuance
    table = Table("what", "measured", "bound")
    table.add_row(
        "card, processor time of a tap",
        f"{tap.card_ms:.2f} ms (best {tap.card_best_ms:.2f}, p95 {tap.card_p95_ms:.2f})",
        f"{MAX_CARD_MS} ms",
    )
    table.add_row(
        "air time at 106 kbit/s, modeled",
        f"{tap.air_ms:.1f} ms: {tap.exchanges} exchanges, {tap.command_bytes} + {tap.answer_bytes} bytes", "",
    )  # fmt: skip
    table.add_row("tap in all", f"{tap.total_ms:.1f} ms", f"{MAX_TAP_MS:.0f} ms")
    table.add_row("issuing 32 cards at the TSM", f"{issuance.issue_ms:.1f} ms", "")
    table.add_row("  its 32 RSA signatures alone", f"{issuance.signatures_ms:.1f} ms", "")
    table.add_row("  ratio", f"{issuance.ratio:.2f}", f"{MAX_ISSUANCE_RATIO}")
    table.add_row("  32 card keys in the SE, made ahead", f"{issuance.card_keys_ms:.0f} ms", "")
    console.print(table)
