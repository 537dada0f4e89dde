"""Beyond capacity a server sheds with OVERLOADED and serves the rest in time; the slow, huge and idle stop nobody."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from support.strangers import service_request

from parties.assembly.common import Opened
from parties.assembly.roles import build_tsm
from parties.channels import Channels, TlsIdentity, open_channel
from parties.metrics import Metrics
from parties.server.admission import MUTUAL, OPEN, WAIT_S, Admission, Bounds, Budget, Lane, Shed, Turned, lanes_of
from parties.server.service import MAX_REQUEST_BYTES, Edge, PartyServer, connections
from parties.settings import load_settings
from parties.system import SystemClock, SystemEntropy
from protocol.engine import COMMON_TABLES, AskingStep, Engine, Incoming, StatelessStep
from protocol.envelope import Wire
from protocol.errors import Malformed, Overloaded, Oversize, StorageFault, Unavailable
from protocol.roles.tsm import tsm_steps
from protocol.roles.tsm.tables import TSM_TABLES
from protocol.rows import Decision, MemoryStore
from protocol.types import Role

MAIN_RPC, ASKING_RPC, STRANGERS_RPC = "Tsm.Authorize", "Tsm.ProveCredit", "Tsm.OpenAccount"
NAP_S = 0.4
LANES = {ASKING_RPC: Lane.ASKING, STRANGERS_RPC: Lane.STRANGER}


class Echo(StatelessStep[bytes]):
    """Gives back what it gets; `b"hold"` when the test lets it."""

    reply: Any = None

    def __init__(self) -> None:
        self.served: list[bytes] = []
        self.holding = threading.Semaphore(0)
        self.go = threading.Event()

    def open(self, wire, ctx):
        return Incoming(facts=wire.cose, key=None, claims=None)

    def decide(self, rows, facts, now_s, entropy):
        self.served.append(facts)
        if facts.startswith(b"nap"):
            time.sleep(NAP_S)
        if facts.startswith(b"hold"):
            self.holding.release()
            assert self.go.wait(20)
        return Decision()

    def seal(self, facts, reply, stamp, ctx):
        return Wire(cose=facts)


class Served:
    """A TSM's server whose every RPC is `Echo`, on both ports."""

    def __init__(self, env: Path, **options: Any) -> None:
        self.opened = Opened.of(load_settings(env / "tsm-1/settings.toml"))
        self.echo = Echo()
        steps = dict.fromkeys((MAIN_RPC, ASKING_RPC, STRANGERS_RPC), self.echo)
        self.metrics = Metrics(steps)
        engine = Engine(
            steps, store=MemoryStore(), clock=SystemClock(), entropy=SystemEntropy(), peers=self.opened.channels()
        )
        edge = Edge(engine, party="tsm-1", role=Role.TSM, metrics=self.metrics)
        self.server = PartyServer(edge, steps, self.opened.server_tls(), lanes=LANES, **options)
        self.open = f"127.0.0.1:{self.server.listen('127.0.0.1:0', mutual=False)}"
        self.mutual = f"127.0.0.1:{self.server.listen('127.0.0.1:0', mutual=True)}"
        self.server.start()
        self._channels: list[Channels] = []

    def channels(self, *, mutual: bool, deadline_s: float = 10.0) -> Channels:
        identity = self.opened.client_tls() if mutual else TlsIdentity(root=self.opened.root_pem)
        made = Channels({"tsm-1": self.mutual if mutual else self.open}, identity, deadline_s=deadline_s)
        self._channels.append(made)
        return made

    def raw(self) -> grpc.Channel:
        return open_channel(self.open, "tsm-1", TlsIdentity(root=self.opened.root_pem))

    def turned_away(self, reason: Shed) -> int:
        (line,) = (text for text in self.metrics.render().splitlines() if f'away_total{{reason="{reason}"}}' in text)
        return int(line.split()[-1])

    def close(self) -> None:
        self.echo.go.set()
        for channels in self._channels:
            channels.close()
        self.server.drain()


@pytest.fixture
def served(environment: Path) -> Iterator[Served]:
    server = Served(environment, body_s=0.6)
    yield server
    server.close()


def call(channels: Channels, what: bytes, rpc: str = MAIN_RPC) -> bytes:
    return channels.call("tsm-1", rpc, Wire(cose=what)).cose


# --- lanes -----------------------------------------------------------------------------------------------------------
def test_a_full_lane_sheds_at_once_and_leaves_the_others_and_the_other_port_as_they_are(served):
    bounds = OPEN[Lane.ASKING]
    crowd, neighbor, merchant = (served.channels(mutual=mutual) for mutual in (False, False, True))
    with ThreadPoolExecutor(bounds.at_work) as pool:
        held = [pool.submit(call, crowd, b"hold-%d" % n, ASKING_RPC) for n in range(bounds.at_work)]
        for _ in held:
            assert served.echo.holding.acquire(timeout=10)
        started = time.monotonic()
        with pytest.raises(Overloaded) as refused:
            call(neighbor, b"one more", ASKING_RPC)
        assert refused.value.code == "OVERLOADED"
        assert refused.value.status == "RESOURCE_EXHAUSTED"
        assert time.monotonic() - started < 2
        assert served.turned_away(Shed.WAITED) == 1
        assert b"one more" not in served.echo.served
        for channels, rpc in ((neighbor, MAIN_RPC), (neighbor, STRANGERS_RPC), (merchant, ASKING_RPC)):
            started = time.monotonic()
            assert call(channels, b"fine", rpc) == b"fine"
            assert time.monotonic() - started < 0.5
        served.echo.go.set()
        assert [future.result(10) for future in held] == [b"hold-%d" % n for n in range(bounds.at_work)]
    assert served.server.in_flight == 0


def test_more_than_a_lane_holds_are_shed_before_their_message_is_read():
    bounds = dict.fromkeys(Lane, Bounds(at_work=1, present=2))
    admission = Admission(LANES, bounds)
    with contextlib.ExitStack() as inside:
        for _ in range(2):
            inside.enter_context(admission.enter(ASKING_RPC))
        with pytest.raises(Turned) as turned, admission.enter(ASKING_RPC):
            pass
        assert (turned.value.why, turned.value.refusal) == (Shed.FULL, Overloaded)
        with admission.enter(MAIN_RPC):
            assert admission.present == 3
    assert admission.present == 0
    with admission.enter(ASKING_RPC):
        assert admission.present == 1


def test_what_is_accepted_keeps_its_latency_while_the_rest_is_shed(served):
    """More than twice of what is worked on at once: each is answered within the wait and its own work, or shed."""
    answered: list[float] = []
    shed: list[float] = []
    lines = [served.channels(mutual=True) for _ in range(2)]

    def ask(number: int) -> None:
        started = time.monotonic()
        try:
            call(lines[number % 2], b"nap-%d" % number)
        except Overloaded:
            shed.append(time.monotonic() - started)
        else:
            answered.append(time.monotonic() - started)

    with ThreadPoolExecutor(190) as pool:
        list(pool.map(ask, range(190)))
    at_work = MUTUAL[Lane.MAIN].at_work
    assert at_work <= len(answered) <= 3 * at_work
    assert len(shed) == 190 - len(answered) == served.turned_away(Shed.WAITED) > 0
    assert max(answered) < WAIT_S + NAP_S + 1.0
    assert max(shed) < WAIT_S + 1.0
    assert sum(what.startswith(b"nap") for what in served.echo.served) == len(answered)


def test_a_call_whose_caller_has_gone_is_dropped_before_it_costs_anything(served):
    """The callers give up while theirs wait for a place; when one comes free, none of them is worked on."""
    bounds = MUTUAL[Lane.STRANGER]
    patient, hasty = served.channels(mutual=True), served.channels(mutual=True, deadline_s=0.1)
    with ThreadPoolExecutor(bounds.at_work + 4) as pool:
        held = [pool.submit(call, patient, b"hold-%d" % n, STRANGERS_RPC) for n in range(bounds.at_work)]
        for _ in held:
            assert served.echo.holding.acquire(timeout=10)
        late = [pool.submit(call, hasty, b"too late", STRANGERS_RPC) for _ in range(4)]
        for one in late:
            assert isinstance(one.exception(10), Unavailable | Overloaded)
        served.echo.go.set()
        for future in held:
            future.result(10)
    assert call(patient, b"after", STRANGERS_RPC) == b"after"
    assert b"too late" not in served.echo.served
    with pytest.raises(Turned) as turned, Admission().work(MAIN_RPC, Gone()):
        raise AssertionError("it was let in")
    assert (turned.value.why, turned.value.refusal) == (Shed.LATE, Unavailable)


def test_without_a_database_nothing_is_let_in_until_it_is_back(served):
    channels = served.channels(mutual=True)
    served.server.close_doors(are_closed=True)
    with pytest.raises(StorageFault) as refused:
        call(channels, b"x")
    assert (refused.value.code, refused.value.status) == ("STORAGE_FAULT", "UNAVAILABLE")
    assert served.echo.served == []
    assert served.turned_away(Shed.CLOSED) == 1
    served.server.close_doors(are_closed=False)
    assert call(channels, b"x") == b"x"


def test_each_step_has_its_lane(environment):
    steps = tsm_steps(build_tsm(Opened.of(load_settings(environment / "tsm-1/settings.toml"))))
    lanes = lanes_of(steps)
    assert lanes["Tsm.OpenAccount"] is Lane.STRANGER
    assert lanes["Tsm.Authorize"] is Lane.MAIN
    assert {rpc for rpc, lane in lanes.items() if lane is Lane.ASKING} == {
        rpc for rpc, step in steps.items() if isinstance(step, AskingStep)
    }
    assert lanes["Tsm.ProveCredit"] is Lane.ASKING


# --- slow, huge, idle ------------------------------------------------------------------------------------------------
def test_calls_whose_message_never_comes_are_cancelled_and_hold_up_nobody(served):
    """Slowloris over HTTP/2: heads without messages, over a few connections."""
    never = threading.Event()

    def nothing() -> Iterator[bytes]:
        never.wait(20)
        yield b""

    lines = [served.raw() for _ in range(4)]
    slow = [
        line.stream_unary(f"/tapveil.v1.Tsm/{rpc}").future(nothing())
        for line in lines for rpc in ["Authorize"] * 24 + ["OpenAccount"] * 8
    ]  # fmt: skip
    slow += [line.stream_unary("/grpc.health.v1.Health/Check").future(nothing()) for line in lines for _ in range(4)]
    try:
        for channels in (served.channels(mutual=False), served.channels(mutual=True)):
            started = time.monotonic()
            assert call(channels, b"quick") == b"quick"
            assert time.monotonic() - started < 3
        codes = {future.exception(timeout=10).code() for future in slow}
        assert codes <= {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert served.turned_away(Shed.SLOW) >= 64
        assert served.server.in_flight == 0
        assert served.echo.served == [b"quick", b"quick"]
    finally:
        never.set()
        for line in lines:
            line.close()


def test_a_call_without_a_message_and_one_that_is_no_envelope_are_malformed(served):
    with served.raw() as line:
        for sent in ((), (b"\xff\xff",)):
            with pytest.raises(grpc.RpcError) as refused:
                line.stream_unary("/tapveil.v1.Tsm/Authorize")(iter(sent))
            assert refused.value.details() == Malformed.code
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert served.echo.served == []


def test_a_huge_message_is_refused_before_it_is_parsed(served):
    channels = served.channels(mutual=False)
    with pytest.raises(Overloaded):
        call(channels, bytes(MAX_REQUEST_BYTES + 1))
    assert served.echo.served == []
    fits = bytes(MAX_REQUEST_BYTES - 64)
    with pytest.raises(Oversize):
        call(channels, fits)
    assert call(channels, b"fine") == b"fine"


def test_idle_connections_hold_up_nobody(served):
    """Some say nothing at all, some are through TLS and wait."""
    host, port = served.open.split(":")
    context = ssl.create_default_context(cadata=served.opened.root_pem.decode())
    context.set_alpn_protocols(["h2"])
    with contextlib.ExitStack() as idle:
        for number in range(1200):
            raw = idle.enter_context(socket.create_connection((host, int(port))))
            if number % 8 == 0:
                idle.enter_context(context.wrap_socket(raw, server_hostname="tsm-1"))
        for channels in (served.channels(mutual=False), served.channels(mutual=True)):
            started = time.monotonic()
            assert call(channels, b"still") == b"still"
            assert time.monotonic() - started < 3


def test_a_port_takes_no_more_connections_than_leave_files_for_the_rest():
    for ports in (1, 2):
        at_each = connections(ports)
        assert 256 <= at_each <= 8192
        assert connections(ports) == at_each


# --- health and reflection -------------------------------------------------------------------------------------------
def check(line: grpc.Channel, service: str = "") -> Any:
    return line.unary_unary(
        "/grpc.health.v1.Health/Check", request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )(health_pb2.HealthCheckRequest(service=service), timeout=5).status  # fmt: skip


def test_health_is_checked_watched_and_bounded(served):
    watch_request = health_pb2.HealthCheckRequest().SerializeToString()
    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    with served.raw() as line:
        assert check(line) == check(line, "tapveil.v1.Tsm") == serving
        with pytest.raises(grpc.RpcError) as unknown:
            check(line, "tapveil.v1.Nothing")
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
        with pytest.raises(grpc.RpcError) as garbage:
            line.unary_unary("/grpc.health.v1.Health/Check")(b"\xff\xff")
        assert garbage.value.details() == "MALFORMED"
        watch = line.unary_stream(
            "/grpc.health.v1.Health/Watch", response_deserializer=health_pb2.HealthCheckResponse.FromString
        )
        watchers = [watch(watch_request) for _ in range(8)]
        assert [next(watcher).status for watcher in watchers] == [serving] * 8
        with pytest.raises(grpc.RpcError) as full:
            next(watch(watch_request))
        assert full.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        served.server.report(is_serving=False)
        assert next(watchers[0]).status == check(line) == not_serving
        served.server.report(is_serving=True)
        assert next(watchers[0]).status == check(line) == serving
        for watcher in watchers:
            watcher.cancel()
        until = time.monotonic() + 5
        while time.monotonic() < until:
            with contextlib.suppress(grpc.RpcError):
                again = watch(watch_request)
                assert next(again).status == serving
                again.cancel()
                return
            time.sleep(0.05)
        raise AssertionError("a watcher that went left no room")


def test_reflection_answers_and_nobody_keeps_it(served):
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    never = threading.Event()

    def questions() -> Iterator[Any]:
        yield asked
        never.wait(20)

    with served.raw() as line:
        look = line.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        kept = [look(questions()) for _ in range(8)]
        names = {one.name for one in next(kept[0]).list_services_response.service}
        assert names == {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection", "tapveil.v1.Tsm"}
        for one in kept[1:]:
            next(one)
        with pytest.raises(grpc.RpcError) as full:
            next(look(questions()))
        assert full.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for one in kept:
            with pytest.raises(grpc.RpcError) as ended:
                next(one)
            assert ended.value.code() is grpc.StatusCode.CANCELLED
        assert next(look(iter([asked])))
        never.set()


# --- strangers -------------------------------------------------------------------------------------------------------
def test_strangers_leave_no_row_and_take_a_bounded_share_of_the_processor(environment):
    opened = Opened.of(load_settings(environment / "tsm-1/settings.toml"))
    steps = tsm_steps(build_tsm(opened))
    store = MemoryStore()
    engine = Engine(steps, store=store, clock=opened.clock, entropy=opened.entropy, peers=opened.channels())
    admission = Admission(lanes_of(steps), OPEN, share=0.2, burst_s=0.05)
    requests = [service_request(opened) for _ in range(40)]
    served, turned, spent_s = 0, 0, 0.0
    started, ends = time.monotonic(), time.monotonic() + 1.0
    while time.monotonic() < ends:
        request = requests[(served + turned) % len(requests)]
        try:
            with admission.enter(STRANGERS_RPC), admission.work(STRANGERS_RPC, Present()):
                before_s = time.thread_time()
                assert engine.handle(STRANGERS_RPC, request, None).cose
                spent_s += time.thread_time() - before_s
                served += 1
        except Turned as exc:
            assert (exc.why, exc.refusal) == (Shed.BUDGET, Overloaded)
            turned += 1
            time.sleep(0.001)
    assert served > 20
    assert turned > 20
    assert spent_s < 0.2 * (time.monotonic() - started) + 0.05 + 0.02
    assert [table.name for table in (*COMMON_TABLES, *TSM_TABLES) if store.scan(table)] == []
    with admission.enter(MAIN_RPC), admission.work(MAIN_RPC, Present()):
        pass  # who is known is let in all the same


class Gone:
    """A caller who has hung up."""

    def time_remaining(self) -> float | None:
        return None

    def is_active(self) -> bool:
        return False


class Present:
    """A caller who waits."""

    def time_remaining(self) -> float | None:
        return None

    def is_active(self) -> bool:
        return True


def test_a_budget_comes_back_with_time_and_never_over_its_burst():
    budget = Budget(share=0.5, burst_s=0.1)
    assert not budget.is_spent
    budget.spend(0.15)
    assert budget.is_spent
    time.sleep(0.13)
    assert not budget.is_spent
    time.sleep(0.5)
    assert not budget.is_spent
    budget.spend(0.11)
    assert budget.is_spent
