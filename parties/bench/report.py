"""All measurements of one run, as a table for people and as values for programs."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from parties.bench.authorizing import IN_FLIGHT, Authorized, Spent
from parties.bench.run import Measured
from parties.bench.sites import POSTGRESQL, SQLITE
from protocol.messages.pay import MAX_BATCH

MAX_CARD_MS: Final = 2.0
MAX_TAP_MS: Final = 150.0
BOUNDS: Final = {
    "authorization_over_floor_sqlite": 4.5,
    "authorization_over_floor_postgresql": 4.5,
    "authorization_batch_over_floor_sqlite": 2.5,
    "authorization_batch_over_floor_postgresql": 2.5,
    "group_commit_over_single_sqlite": 2.5,
    "group_commit_over_single_postgresql": 5.0,
    "cose_over_raw": 1.3,
    "issuance_over_signatures": 1.2,
    "p99_over_p50_half_load": 5.0,
    "p99_over_p50_half_load_postgresql": 5.0,
    "cost_1e5_over_1e3": 1.2,
    "cost_1e5_over_1e3_postgresql": 1.2,
}
"""What is to be reached; group commit is to be over it, all else under it."""
OVER_IT: Final = frozenset({"group_commit_over_single_sqlite", "group_commit_over_single_postgresql"})
_FEW, _MANY = 1_000, 100_000
_NOT_MEASURED: Final = "not measured"


def ratios(measured: Measured) -> dict[str, float | None]:
    """The run's ratios by their names; None for what was not measured."""
    authorized, load = measured.authorized, measured.load
    found: dict[str, float | None] = {
        "cose_over_raw": measured.cose.ratio,
        "issuance_over_signatures": measured.issuance.ratio,
        "p99_over_p50_half_load": load[SQLITE].ratio,
        "p99_over_p50_half_load_postgresql": load[POSTGRESQL].ratio if POSTGRESQL in load else None,
        "cost_1e5_over_1e3": _growth(measured, SQLITE),
        "cost_1e5_over_1e3_postgresql": _growth(measured, POSTGRESQL),
    }
    for kind in (SQLITE, POSTGRESQL):
        for name, (_, of) in zip(("_one_at_a_time", "", "_batch"), _ways(authorized), strict=True):
            spent = of.get((kind, measured.usual))
            found[f"authorization{name}_over_floor_{kind}"] = None if spent is None else spent.over_floor
            found[f"authorization{name}_over_floor_alone_{kind}"] = (
                None if spent is None else spent.used_us / authorized.floor_alone_us
            )
        found[f"group_commit_over_single_{kind}"] = measured.commits[kind].ratio if kind in measured.commits else None
    return found


def _ways(authorized: Authorized) -> tuple[tuple[str, dict[tuple[str, int], Spent]], ...]:
    """How purchases were asked for, with what that took."""
    return (
        ("one at a time", authorized.singles),
        (f"{IN_FLIGHT} at once", authorized.flights),
        (f"{MAX_BATCH} in a request", authorized.batches),
    )


def _growth(measured: Measured, kind: str) -> float | None:
    few, many = (measured.authorized.singles.get((kind, accounts)) for accounts in (_FEW, _MANY))
    return None if few is None or many is None else many.over(few)


def plain(measured: Measured) -> dict[str, Any]:
    """As `tapveil bench --json` prints it."""
    authorized = measured.authorized
    return {
        "tap": dataclasses.asdict(measured.tap),
        "issuance": dataclasses.asdict(measured.issuance),
        "phases": dataclasses.asdict(measured.phases),
        "cose": dataclasses.asdict(measured.cose),
        "floor": {
            "between_authorizations_us": authorized.floor_between_us,
            "alone_us": authorized.floor_alone_us,
            "between_authorizations_by_pow_us": authorized.floor_by_pow_us,
        },
        "authorizations": [
            {"database": kind, "accounts": accounts, "asked": asked, **_spent(spent)}
            for asked, of in _ways(authorized)
            for (kind, accounts), spent in of.items()
        ],
        "disk_sync_us": measured.sync_us,
        "commits": {kind: dataclasses.asdict(cost) for kind, cost in measured.commits.items()},
        "half_load": {kind: dataclasses.asdict(cost) for kind, cost in measured.load.items()},
        "servers": [dataclasses.asdict(server) for server in measured.servers],
        "ratios": ratios(measured),
        "notes": measured.notes,
    }


def _spent(spent: Spent) -> dict[str, float | None]:
    return {
        "processor_us": spent.used_us, "database_processor_us": spent.server_us, "elapsed_us": spent.elapsed_us,
        "per_second": 1e6 / spent.elapsed_us, "over_floor": spent.over_floor,
    }  # fmt: skip


def print_report(measured: Measured, console: Console) -> None:
    """The figures beside their bounds."""
    for table in (_purchases(measured), _other(measured), _bounds(measured)):
        console.print(table)
    for note in measured.notes:
        console.print(note)


def _purchases(measured: Measured) -> Table:
    table = Table(
        "authorizations", "accounts", "asked", "TSM's processor", "database's own", "in all", "a second",
        "over floor", title="One process, durable commits; for one purchase",
    )  # fmt: skip
    for asked, of in _ways(measured.authorized):
        for (kind, accounts), spent in of.items():
            server = "in the TSM's" if kind == SQLITE else "unknown"
            table.add_row(
                kind, f"{accounts:,}", asked, f"{spent.used_us:.0f} µs",
                server if spent.server_us is None else f"{spent.server_us:.0f} µs", f"{spent.elapsed_us:.0f} µs",
                f"{1e6 / spent.elapsed_us:.0f}", f"{spent.over_floor:.2f}",
            )  # fmt: skip
    return table


def _other(measured: Measured) -> Table:
    tap, issuance, phases, authorized = measured.tap, measured.issuance, measured.phases, measured.authorized
    table = Table("what", "measured")
    table.add_row("crypto floor of an authorization, between authorizations", f"{authorized.floor_between_us:.0f} µs")
    table.add_row("  in a loop that does nothing else", f"{authorized.floor_alone_us:.0f} µs")
    table.add_row("  between authorizations, RSA by Python's own pow", f"{authorized.floor_by_pow_us:.0f} µs")
    table.add_row("COSE_Sign1: sign, parse and verify", f"{measured.cose.signed_us:.0f} µs")
    table.add_row("  the bare signature and verification", f"{measured.cose.raw_us:.0f} µs")
    table.add_row("the disk: 4 KiB until it is there", f"{measured.sync_us:.0f} µs")
    for kind, cost in measured.commits.items():
        table.add_row(
            f"a unit of storage, {kind}, 32 in flight",
            f"{cost.single_us:.0f} µs alone, {cost.group_us:.0f} µs together",
        )
    for kind, load in measured.load.items():
        table.add_row(
            f"purchases a second, {kind}, 32 in flight",
            f"{load.per_second:.0f}, for {load.processor_us:.0f} µs of the TSM's processor each",
        )
        table.add_row("  latency at half of that", f"p50 {load.p50_ms:.2f} ms, p99 {load.p99_ms:.2f} ms")
    table.add_row("issuing 32 cards at the TSM", f"{issuance.issue_ms:.1f} ms")
    table.add_row("  its 32 RSA signatures alone", f"{issuance.signatures_ms:.1f} ms")
    table.add_row("  32 card keys in the SE, made ahead", f"{issuance.card_keys_ms:.0f} ms")
    table.add_row("appraising a launch at the bank (ATT-L)", f"{phases.launch_ms:.2f} ms")
    table.add_row("an account at the bank (AID), with Argon2id", f"{phases.account_ms:.1f} ms")
    table.add_row("a registration at the TSM (TID)", f"{phases.registration_ms:.2f} ms")
    table.add_row("  its grant at the bank", f"{phases.grant_ms:.2f} ms")
    table.add_row(
        "card, processor time of a tap",
        f"{tap.card_ms:.2f} ms (best {tap.card_best_ms:.2f}, p95 {tap.card_p95_ms:.2f}; bound {MAX_CARD_MS})",
    )
    table.add_row(
        "air time at 106 kbit/s, modeled",
        f"{tap.air_ms:.1f} ms: {tap.exchanges} exchanges, {tap.command_bytes} + {tap.answer_bytes} bytes",
    )
    table.add_row("tap in all", f"{tap.total_ms:.1f} ms (bound {MAX_TAP_MS:.0f})")
    for server in measured.servers:
        table.add_row(
            f"start of {server.party}", f"{server.start_s:.2f} s, then {server.resident_mib:.0f} MiB of memory"
        )
    return table


def _bounds(measured: Measured) -> Table:
    table = Table("ratio", "measured", "to be reached")
    found = ratios(measured)
    for name, bound in BOUNDS.items():
        value = found[name]
        table.add_row(
            name, _NOT_MEASURED if value is None else f"{value:.2f}", f"{'≥' if name in OVER_IT else '≤'} {bound}"
        )
    return table
