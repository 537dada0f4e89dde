"""The figures of a run as SVG: bars beside a bound, and cost over the number of accounts. It takes no library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

from parties.bench.report import BOUNDS, OVER_IT, ratios
from parties.bench.run import Measured

WIDTH: Final = 760
LABELS: Final = 330
ROW: Final = 26
TOP: Final = 44
_INK, _BAR, _BOUND, _GRID = "#222", "#3b6ea5", "#b5403a", "#ddd"
_COLORS: Final = {"sqlite": "#3b6ea5", "postgresql": "#5a9a4f"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One row of a bar chart; `bound` is drawn as a line across it."""

    label: str
    value: float
    bound: float | None = None


def draw(measured: Measured, folder: Path) -> list[Path]:
    """Write the plots; their files."""
    folder.mkdir(parents=True, exist_ok=True)
    found = ratios(measured)
    bars = [
        Bar(label=f"{name} {'≥' if name in OVER_IT else '≤'} {bound}", value=value, bound=bound)
        for name, bound in BOUNDS.items()
        if (value := found[name]) is not None
    ]
    growth = {
        kind: sorted(
            (accounts, spent.used_us) for (of, accounts), spent in measured.authorized.singles.items() if of == kind
        )
        for kind in _COLORS
    }
    latency = [
        Bar(label=f"{kind}, {name} at half load, ms", value=value)
        for kind, load in measured.load.items()
        for name, value in (("p50", load.p50_ms), ("p99", load.p99_ms))
    ]
    drawn = {
        "ratios.svg": bar_chart("Ratios within one run; the line is what is to be reached", bars),
        "accounts.svg": line_chart("TSM's processor time of a purchase in µs, by accounts", growth),
        "latency.svg": bar_chart("Latency of a purchase", latency),
    }
    files = []
    for name, text in drawn.items():
        files.append(folder / name)
        files[-1].write_text(text)
    return files


def bar_chart(title: str, bars: Sequence[Bar]) -> str:
    """Horizontal bars on one scale from zero."""
    top = max([1e-9, *(bar.value for bar in bars), *(bar.bound or 0 for bar in bars)])
    scale = (WIDTH - LABELS - 70) / top
    parts = []
    for n, bar in enumerate(bars):
        y = TOP + n * ROW
        parts.append(_text(LABELS - 8, y + 13, bar.label, anchor="end"))
        parts.append(f'<rect x="{LABELS}" y="{y}" width="{bar.value * scale:.1f}" height="{ROW - 8}" fill="{_BAR}"/>')
        parts.append(_text(LABELS + bar.value * scale + 5, y + 13, f"{bar.value:.2f}"))
        if bar.bound is not None:
            x = LABELS + bar.bound * scale
            parts.append(f'<path d="M{x:.1f} {y - 3}v{ROW - 2}" stroke="{_BOUND}" stroke-width="2"/>')
    return _picture(title, TOP + len(bars) * ROW + 10, parts)


def line_chart(title: str, series: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """A line a series, over powers of ten, on a scale from zero."""
    points = [point for line in series.values() for point in line]
    low, high = (f(x for x, _ in points) for f in (min, max))
    top = max(y for _, y in points) * 1.15
    left, right, bottom = 70, WIDTH - 120, 300
    width = max(math.log10(high / low), 1e-9)

    def place(x: int, y: float) -> tuple[float, float]:
        return left + (right - left) * math.log10(x / low) / width, bottom - (bottom - TOP) * y / top

    parts = []
    for n in range(5):
        y = top * n / 4
        _, at = place(low, y)
        parts.append(f'<path d="M{left} {at:.1f}H{right}" stroke="{_GRID}"/>')
        parts.append(_text(left - 8, at + 4, f"{y:.0f}", anchor="end"))
    for x in sorted({x for x, _ in points}):
        parts.append(_text(place(x, 0)[0], bottom + 18, f"{x:,}", anchor="middle"))
    for name, line in series.items():
        spots = [place(x, y) for x, y in line]
        if not spots:
            continue
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{_COLORS[name]}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{_COLORS[name]}"/>' for x, y in spots]
        parts.append(_text(spots[-1][0] + 8, spots[-1][1] + 4, name))
    return _picture(title, bottom + 32, parts)


def _text(x: float, y: float, words: str, *, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _picture(title: str, height: int, parts: Sequence[str]) -> str:
    body = "\n".join((_text(10, 22, title), *parts))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="13" fill="{_INK}">\n'
        f'<rect width="100%" height="100%" fill="#fff"/>\n{body}\n</svg>\n'
    )
