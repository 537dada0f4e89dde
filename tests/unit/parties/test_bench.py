"""The bench: a whole run with little of everything, its report and its pictures."""

from __future__ import annotations

import io
import json
import math
import xml.etree.ElementTree as ET

import pytest
from rich.console import Console

from parties.bench import report
from parties.bench.air import air_time_s
from parties.bench.authorizing import Spent
from parties.bench.clocks import at, each_us, ratio, used_us
from parties.bench.floor import Cose, Floor
from parties.bench.plot import Bar, bar_chart, draw, line_chart
from parties.bench.run import NO_POSTGRESQL, Amount, measure
from parties.bench.sites import POSTGRESQL, SQLITE
from parties.system import SystemEntropy

LITTLE = Amount(taps=2, rounds=2, issuances=1, phases=1, commits=2, window=40, windows=1, sizes=(600, 1_000))
NAMES = {
    "authorization_over_floor_sqlite", "authorization_over_floor_postgresql",
    "authorization_batch_over_floor_postgresql", "group_commit_over_single_sqlite",
    "group_commit_over_single_postgresql", "cose_over_raw", "issuance_over_signatures", "p99_over_p50_half_load",
    "cost_1e5_over_1e3",
}  # fmt: skip


@pytest.fixture(scope="module")
def run():
    """One run on both kinds of database, with a server of its own, and how often it said that it got on."""
    said: list[None] = []
    measured = measure(LITTLE, None, lambda: said.append(None))
    return measured, len(said)


def test_a_run_measures_everything_on_both_databases(run):
    measured, _ = run
    both = {SQLITE, POSTGRESQL}
    assert set(measured.commits) == set(measured.load) == both
    sites = {(kind, accounts) for kind in both for accounts in LITTLE.sizes}
    authorized = measured.authorized
    ways = (authorized.singles, authorized.flights, authorized.batches)
    assert all(set(of) == sites for of in ways)
    for spent in (spent for of in ways for spent in of.values()):
        assert len(spent.used) == len(spent.floor) == len(spent.elapsed) == LITTLE.rounds
        assert spent.used_us > 0
        assert (spent.server_us is not None) == bool(spent.server)
    assert [server.party for server in measured.servers] == ["bank-a", "sp-1", "tsm-1", "phone-1/se", "shop-1"]
    assert all(server.start_s > 0 and server.resident_mib > 1 for server in measured.servers)
    assert measured.notes == []


def test_progress_reaches_its_end(run):
    assert run[1] == LITTLE.steps


def test_json_names_every_ratio_and_leaves_out_what_was_not_measured(run):
    values = json.loads(json.dumps(report.plain(run[0])))
    assert values["ratios"].keys() >= NAMES
    assert values["ratios"]["cost_1e5_over_1e3"] is None  # there were no 100,000 accounts
    measured = {name for name, value in values["ratios"].items() if value is not None}
    assert measured >= NAMES - {"cost_1e5_over_1e3"}
    assert all(values["ratios"][name] > 0 for name in measured)
    assert report.BOUNDS.keys() >= NAMES
    assert report.BOUNDS.keys() <= values["ratios"].keys()


def test_the_table_holds_each_bound(run):
    console = Console(file=io.StringIO(), width=200)
    report.print_report(run[0], console)
    text = console.file.getvalue()
    for name in report.BOUNDS:
        assert name in text
    assert "not measured" in text


def test_the_pictures_are_well_formed(run, tmp_path):
    files = draw(run[0], tmp_path / "plots")
    assert {file.name for file in files} == {"ratios.svg", "accounts.svg", "latency.svg"}
    for file in files:
        assert ET.parse(file).getroot().tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314  # our own


def test_without_postgresql_it_says_so(run):
    measured, _ = run
    authorized = measured.authorized
    kept = type(authorized)(
        singles={key: spent for key, spent in authorized.singles.items() if key[0] == SQLITE},
        flights={key: spent for key, spent in authorized.flights.items() if key[0] == SQLITE},
        batches={key: spent for key, spent in authorized.batches.items() if key[0] == SQLITE},
        floor_between_us=1.0, floor_alone_us=1.0, floor_by_pow_us=1.0,
    )  # fmt: skip
    alone = type(measured)(
        tap=measured.tap, issuance=measured.issuance, phases=measured.phases, cose=measured.cose,
        sync_us=measured.sync_us, servers=measured.servers, usual=measured.usual,
        authorized=kept, commits={SQLITE: measured.commits[SQLITE]}, load={SQLITE: measured.load[SQLITE]},
        notes=[NO_POSTGRESQL],
    )  # fmt: skip
    found = report.ratios(alone)
    assert {name for name in NAMES if found[name] is None} == {
        "authorization_over_floor_postgresql", "authorization_batch_over_floor_postgresql",
        "group_commit_over_single_postgresql", "cost_1e5_over_1e3",
    }  # fmt: skip
    console = Console(file=io.StringIO(), width=200)
    report.print_report(alone, console)
    assert NO_POSTGRESQL in console.file.getvalue()


def test_a_round_is_held_against_its_own_floor():
    spent = Spent(used=[10.0, 60.0, 20.0], floor=[5.0, 10.0, 5.0])
    assert spent.over_floor == 4.0  # of 2, 6 and 4
    assert spent.over(Spent(used=[10.0, 30.0, 40.0])) == 1.0
    assert ratio([(4, 2), (9, 3), (8, 1)]) == 3


def test_clocks_count_work():
    assert used_us(lambda: sum(range(200_000))) > 100
    assert each_us(lambda: None, 100) < 50
    assert [at([3.0, 1.0, 2.0, 4.0], part) for part in (0, 0.5, 0.99)] == [1.0, 3.0, 4.0]


def test_the_floor_is_what_it_says():
    applied: list[tuple[int, int]] = []

    def public(number: int, exponent: int, modulus: int) -> int:
        applied.append((modulus.bit_length(), exponent))
        return pow(number, exponent, modulus)

    floor = Floor(SystemEntropy(), public)
    floor.once()
    assert applied == [(1976, 65537), (1408, 65537)]
    assert floor.used_us() > 0
    form = Cose(SystemEntropy())
    form.signed()
    form.raw()


def test_air_time_grows_with_the_bytes():
    assert air_time_s([(10, 20)]) < air_time_s([(10, 21)]) < air_time_s([(10, 21), (5, 2)])


def test_charts_put_a_bound_at_its_place():
    chart = bar_chart("t", [Bar(label="a < b", value=2.0, bound=4.0), Bar(label="c", value=1.0)])
    assert "a &lt; b" in chart
    assert chart.count("<path") == 1
    lines = line_chart("t", {"sqlite": [(1_000, 100.0), (100_000, 110.0)], "postgresql": []})
    assert lines.count("<polyline") == 1
    assert math.isclose(float(lines.split('points="')[1].split(",")[0]), 70.0)
