"""Metrics: right as Prometheus reads them, from closed sets of labels, and served to one asker at a time, briefly."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from parties.metrics import BUCKETS_S, CODES, REASONS, REQUEST_S, Metrics, MetricsServer, Samples, add_process
from parties.server.admission import Shed
from parties.server.sampling import looks_of
from parties.storage.database import open_database
from parties.storage.migrations import create_or_upgrade
from parties.storage.roles import TABLES
from parties.storage.sealing import Sealer
from parties.storage.store import DatabaseStore
from protocol.contract import FIELD, RPCS
from protocol.engine import OUTBOX, Question
from protocol.errors import REGISTRY, PortInUse
from protocol.roles.tsm.tables import STOP_LISTS, StopListRow
from protocol.rows import Decision, Insert, MemoryStore, Unit
from protocol.types import Role

LINE = re.compile(r'^(?P<name>[a-z_]+)(\{(?P<labels>[a-z]+="[^"]*"(,[a-z]+="[^"]*")*)\})? (?P<value>[0-9.e+-]+)$')
LABELS = {
    "rpc": {rpc.full_name for rpc in RPCS} | {FIELD},
    "code": {"OK", *REGISTRY},
    "reason": {shed.value for shed in Shed},
    "le": {*map(str, BUCKETS_S), "+Inf"},
}


def read(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """Every sample by its name and label values; what is not in the format or from a closed set fails."""
    found = {}
    typed: set[str] = set()
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# "):
            _, word, name, rest = line.split(" ", 3)
            assert word in ("HELP", "TYPE")
            if word == "TYPE":
                assert rest in ("counter", "gauge", "histogram")
                assert name not in typed
                typed.add(name)
            continue
        sample = LINE.match(line)
        assert sample, line
        assert sample["name"] in typed or re.sub("_(bucket|sum|count)$", "", sample["name"]) in typed
        labels = [pair.split("=", 1) for pair in (sample["labels"] or "").split(",") if pair]
        for label, value in labels:
            assert value.strip('"') in LABELS[label], line
        found[sample["name"], tuple(value.strip('"') for _, value in labels)] = float(sample["value"])
    return found


def test_the_closed_sets_are_those_of_the_contract():
    assert LABELS["code"] == CODES
    assert LABELS["reason"] == REASONS


def test_calls_are_counted_by_rpc_and_code_with_coarse_times():
    metrics = Metrics(("Tsm.Authorize", "Tsm.Refund"))
    for seconds in (0.001, 0.005, 0.006, 3.0, 50.0):
        metrics.served("Tsm.Authorize", "OK", seconds)
    metrics.served("Tsm.Authorize", "REPLAY", 0.2)
    metrics.turned_away("full")
    metrics.database_failed()
    found = read(metrics.render())
    assert found["tapveil_requests_total", ("Tsm.Authorize", "OK")] == 5
    assert found["tapveil_requests_total", ("Tsm.Authorize", "REPLAY")] == 1
    in_buckets = [
        found["tapveil_request_seconds_bucket", ("Tsm.Authorize", str(bound))] for bound in (*BUCKETS_S, "+Inf")
    ]
    assert in_buckets == [2, 3, 3, 4, 4, 5, 6]
    assert found["tapveil_request_seconds_count", ("Tsm.Authorize",)] == 6
    assert found["tapveil_request_seconds_sum", ("Tsm.Authorize",)] == pytest.approx(53.212)
    assert found["tapveil_turned_away_total", ("full",)] == 1
    assert found["tapveil_turned_away_total", ("late",)] == 0
    assert found["tapveil_database_errors_total", ()] == 1
    assert not [labels for _, labels in found if "Tsm.Refund" in labels]


def test_no_label_comes_from_outside():
    metrics = Metrics(("Tsm.Authorize",))
    before = metrics.render()
    metrics.served('Tsm.Nothing"} 1\nx', "OK", 0.1)
    metrics.served("Tsm.Authorize", "8900000000000000001", 0.1)
    assert metrics.render() == before
    with pytest.raises(AssertionError):
        metrics.turned_away("a-1234")


def test_what_is_sampled_is_told_while_it_is_young():
    seen = iter((3, 4))
    samples = Samples({"tapveil_outbox": lambda: next(seen)}, keep_s=0.3)
    metrics = Metrics(())
    add_process(metrics)
    metrics.gauge("tapveil_outbox", "waiting", lambda: samples.value("tapveil_outbox"))
    assert ("tapveil_outbox", ()) not in read(metrics.render())
    samples.run_once()
    found = read(metrics.render())
    assert found["tapveil_outbox", ()] == 3
    assert found["process_resident_memory_bytes", ()] > 1_000_000
    assert found["process_cpu_seconds_total", ()] > 0
    time.sleep(0.3)
    assert ("tapveil_outbox", ()) not in read(metrics.render())
    samples.run_once()
    assert read(metrics.render())["tapveil_outbox", ()] == 4


def test_the_database_is_sampled_as_counts_and_ages(tmp_path):
    url = f"sqlite:///{tmp_path}/tsm.db"
    create_or_upgrade(url, "tsm")
    store = DatabaseStore(open_database(url), TABLES["tsm"], Sealer(bytes(32)))
    question = Question(
        digest=bytes(32), rpc="r", cose=b"c", session=b"", peer="p", peer_rpc="q", peer_cose=b"", expires_at_s=1
    )
    lists = [StopListRow(bank=name, minute_s=int(time.time()) - age_s) for name, age_s in (("a", 20), ("b", 400))]
    writes = (Insert(OUTBOX, question), *(Insert(STOP_LISTS, row) for row in lists))
    try:
        looks = looks_of(Role.TSM, store)
        assert looks["tapveil_stop_list_age_seconds"][1]() is None
        store.apply(Unit((), lambda _: Decision(writes=writes)))
        assert {name: look() for name, (_, look) in looks.items() if "age" not in name} == {
            "tapveil_outbox": 1, "tapveil_claims_waiting": 0
        }  # fmt: skip
        assert 400 <= looks["tapveil_stop_list_age_seconds"][1]() <= 405
        assert (store.writer.transactions, store.writer.tasks, store.writer.waiting) == (1, 1, 0)
    finally:
        store.close()
    assert set(looks_of(Role.MERCHANT, store)) == {"tapveil_outbox", "tapveil_reversals_owed", "tapveil_refunds_owed"}
    assert set(looks_of(Role.BANK, store)) == {"tapveil_outbox"}
    assert looks_of(Role.SP, MemoryStore()) == {}


# --- over HTTP -------------------------------------------------------------------------------------------------------
@pytest.fixture
def scraped() -> Iterator[MetricsServer]:
    metrics = Metrics(("Tsm.Authorize",))
    metrics.served("Tsm.Authorize", "OK", 0.01)
    server = MetricsServer("127.0.0.1:0", metrics)
    yield server
    server.close()


def ask(port: int, method: str, path: str) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.getheader("Content-Type") or "", response.read()
    finally:
        connection.close()


def test_get_metrics_and_nothing_else(scraped):
    status, kind, body = ask(scraped.port, "GET", "/metrics")
    assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert read(body.decode())["tapveil_requests_total", ("Tsm.Authorize", "OK")] == 1
    assert ask(scraped.port, "GET", "/")[0] == 404
    assert ask(scraped.port, "POST", "/metrics")[0] == 501
    assert ask(scraped.port, "GET", "/metrics")[0] == 200


def test_who_is_slow_drips_or_hangs_up_holds_up_the_next_only_briefly(scraped):
    silent = socket.create_connection(("127.0.0.1", scraped.port))
    dripping = socket.create_connection(("127.0.0.1", scraped.port))
    stop = threading.Event()

    def drip() -> None:
        with contextlib.suppress(OSError):
            while not stop.wait(0.2):
                dripping.sendall(b"G")

    threading.Thread(target=drip, daemon=True).start()
    socket.create_connection(("127.0.0.1", scraped.port)).close()
    started = time.monotonic()
    assert ask(scraped.port, "GET", "/metrics")[0] == 200
    assert time.monotonic() - started < 2 * REQUEST_S + 1
    stop.set()
    silent.close()
    dripping.close()


def test_each_worker_takes_the_next_free_port_and_a_lone_one_says_that_it_is_taken():
    with contextlib.closing(MetricsServer("127.0.0.1:0", Metrics(()))) as first:
        address = f"127.0.0.1:{first.port}"
        with pytest.raises(PortInUse) as refused:
            MetricsServer(address, Metrics(()))
        assert refused.value.code == "PORT_IN_USE"
        with contextlib.closing(MetricsServer(address, Metrics(()), ports=8)) as second:
            assert first.port < second.port < first.port + 8
    with pytest.raises(PortInUse):
        MetricsServer("192.0.2.1:9401", Metrics(()))
