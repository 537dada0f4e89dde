"""What a party counts of itself, in Prometheus' text format, over HTTP on an address of this machine.

Counts, times and ages only. Every label comes from a closed set: names of RPCs, codes of refusals, reasons for turning
a call away. No identity, pseudonym, card, merchant, bank or amount is in it, nor a count of one person's doings.
"""

from __future__ import annotations

import bisect
import resource
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, Final

from protocol.errors import REGISTRY, PortInUse

BUCKETS_S: Final = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0)
"""Coarse: finer ones would tell one call's time."""
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
REQUEST_S: Final = 2.0
"""For one scrape, from connecting to the end."""
LOOK_EVERY_S: Final = 0.1
CODES: Final = frozenset({"OK", *REGISTRY})
REASONS: Final = frozenset({"full", "waited", "budget", "late", "slow", "closed"})
SAMPLE_S: Final = 45.0
"""What was sampled longer ago is not told any more: another process keeps house now."""
Gauge = Callable[[], "float | None"]


class Metrics:
    """The counters of one process. Any thread may count."""

    def __init__(self, rpcs: Iterable[str]) -> None:
        """Calls of other RPCs than `rpcs` are not counted, so that no label comes from outside."""
        self._rpcs = frozenset(rpcs)
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str]] = Counter()
        self._buckets = {rpc: [0] * (len(BUCKETS_S) + 1) for rpc in sorted(self._rpcs)}
        self._seconds = dict.fromkeys(self._buckets, 0.0)
        self._turned_away: Counter[str] = Counter()
        self._faults = 0
        self._gauges: list[tuple[str, str, str, Gauge]] = []

    def served(self, rpc: str, code: str, seconds: float) -> None:
        """A call ended with this code after so long."""
        if rpc not in self._rpcs or code not in CODES:
            return
        with self._lock:
            self._requests[rpc, code] += 1
            self._buckets[rpc][bisect.bisect_left(BUCKETS_S, seconds)] += 1
            self._seconds[rpc] += seconds

    def turned_away(self, reason: str) -> None:
        """A call was not let in."""
        assert reason in REASONS
        with self._lock:
            self._turned_away[reason] += 1

    def database_failed(self) -> None:
        """The database could not be read or written."""
        with self._lock:
            self._faults += 1

    def gauge(self, name: str, meaning: str, value: Gauge, *, kind: str = "gauge") -> None:
        """A value that is looked up whenever it is asked for; None is left out."""
        self._gauges.append((name, kind, meaning, value))

    def render(self) -> str:
        """All of it, as Prometheus reads it."""
        return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        with self._lock:
            requests, turned, faults = sorted(self._requests.items()), dict(self._turned_away), self._faults
            buckets = {rpc: (list(counts), self._seconds[rpc]) for rpc, counts in self._buckets.items() if any(counts)}
        yield from _head("tapveil_requests_total", "counter", "calls that ended, by RPC and code")
        for (rpc, code), count in requests:
            yield f'tapveil_requests_total{{rpc="{rpc}",code="{code}"}} {count}'
        yield from _head("tapveil_request_seconds", "histogram", "from the head of a call to its end, by RPC")
        for rpc, (counts, seconds) in buckets.items():
            yield from _histogram(rpc, counts, seconds)
        yield from _head("tapveil_turned_away_total", "counter", "calls that were not let in, by reason")
        for reason in sorted(REASONS):
            yield f'tapveil_turned_away_total{{reason="{reason}"}} {turned.get(reason, 0)}'
        yield from _head("tapveil_database_errors_total", "counter", "reads and units that the database failed")
        yield f"tapveil_database_errors_total {faults}"
        for name, kind, meaning, value in self._gauges:
            found = value()
            if found is not None:
                yield from _head(name, kind, meaning)
                yield f"{name} {found:g}" if isinstance(found, float) else f"{name} {found}"


def _head(name: str, kind: str, meaning: str) -> tuple[str, str]:
    return f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"


def _histogram(rpc: str, counts: list[int], seconds: float) -> Iterator[str]:
    total = 0
    for bound, count in zip((*BUCKETS_S, "+Inf"), counts, strict=True):
        total += count
        yield f'tapveil_request_seconds_bucket{{rpc="{rpc}",le="{bound}"}} {total}'
    yield f'tapveil_request_seconds_sum{{rpc="{rpc}"}} {seconds:.3f}'
    yield f'tapveil_request_seconds_count{{rpc="{rpc}"}} {total}'


def add_process(metrics: Metrics) -> None:
    """Processor time and memory of this process, under Prometheus' usual names."""
    page = resource.getpagesize()

    def resident() -> float | None:
        try:
            with open("/proc/self/statm") as statm:  # noqa: PTH123  # it is no file
                return int(statm.read().split()[1]) * page
        except OSError:
            return None

    metrics.gauge("process_cpu_seconds_total", "processor time", time.process_time, kind="counter")
    metrics.gauge("process_resident_memory_bytes", "memory", resident)


class Samples:
    """Values that take a look into the database: looked up now and then by who keeps house, told from memory."""

    def __init__(self, looks: dict[str, Gauge], *, keep_s: float = SAMPLE_S) -> None:
        self._looks = looks
        self._keep_s = keep_s
        self._values: dict[str, float | None] = {}
        self._at_s = -keep_s

    def run_once(self) -> None:
        """Look. Raises: StorageFault, Overloaded."""
        self._values = {name: look() for name, look in self._looks.items()}
        self._at_s = time.monotonic()

    def value(self, name: str) -> float | None:
        """What was seen, unless it is too long ago."""
        return self._values.get(name) if time.monotonic() - self._at_s < self._keep_s else None


class _Scrape(BaseHTTPRequestHandler):
    """One request: `GET /metrics`."""

    timeout = REQUEST_S
    server_version = "tapveil"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer with the metrics."""
        assert isinstance(self.server, _Listener)
        if self.path != "/metrics":
            self.send_error(404)
            return
        body = self.server.metrics.render().encode()
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # as the class names it
        """Nothing: a scrape is no event, and what was asked for may hold anything."""


class _Listener(HTTPServer):
    """One request at a time, each for `REQUEST_S` at most."""

    allow_reuse_address = True
    allow_reuse_port = False
    request_queue_size = 8

    def __init__(self, address: tuple[str, int], metrics: Metrics) -> None:
        self.metrics = metrics
        self.address_family = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0][0]
        super().__init__(address, _Scrape)

    def server_bind(self) -> None:
        """Without the look-up of our own name that HTTPServer does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Whoever sends byte by byte is cut off."""
        cut = threading.Timer(REQUEST_S, _cut, (request,))
        cut.daemon = True
        cut.start()
        try:
            super().finish_request(request, client_address)
        finally:
            cut.cancel()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who hangs up is no error of ours, and a traceback is for nobody."""


def _cut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it has ended


class MetricsServer:
    """`GET /metrics` at an address, in a thread."""

    def __init__(self, address: str, metrics: Metrics, *, ports: int = 1) -> None:
        """Of so many `ports` from that of `address` on, the first that is free: workers have one each.

        Raises: PortInUse.
        """
        host, _, first = address.rpartition(":")
        self._listener = _listen(host.strip("[]"), int(first), ports, metrics)
        self._thread = threading.Thread(
            target=self._listener.serve_forever, args=(LOOK_EVERY_S,), name="metrics", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._listener.server_port

    def close(self) -> None:
        """Answer no more."""
        self._listener.shutdown()
        self._listener.server_close()


def _listen(host: str, first: int, ports: int, metrics: Metrics) -> _Listener:
    for port in range(first, first + ports):
        try:
            return _Listener((host, port), metrics)
        except (OSError, OverflowError):
            continue
    raise PortInUse(f"can't listen on {host}:{first} for metrics: another program does, or it is not this machine's")
