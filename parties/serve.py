"""`tapveil serve`: one party as a server, from its settings to its drain."""

from __future__ import annotations

import ipaddress
import json
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from parties.assembly.common import Opened
from parties.assembly.roles import STEPS, build_applet, build_lane, build_settler, build_shop, build_tsm
from parties.channels import Channels
from parties.links.vpcd import VpcdLink, parse_address
from parties.metrics import Metrics, MetricsServer, Samples, add_process
from parties.server.admission import lanes_of
from parties.server.capture import Capture
from parties.server.claims import ClaimSender
from parties.server.field import field_handler
from parties.server.health import (
    DATABASE,
    Check,
    HealthWatch,
    WatchedStore,
    certificate_check,
    database_check,
    write_check,
)
from parties.server.logs import configure_logs, log
from parties.server.process import MAX_WORKERS, stopping
from parties.server.rates import Rates
from parties.server.sampling import looks_of
from parties.server.service import Edge, PartyServer
from parties.server.stops import StopFetcher
from parties.settings import Settings, load_settings
from parties.storage.roles import TABLES
from parties.storage.store import DatabaseStore
from protocol.card.profile import Channel
from protocol.contract import FIELD
from protocol.engine import OUTBOX, Engine
from protocol.envelope import Wire
from protocol.errors import Internal, ProtocolError, SettingsInvalid
from protocol.roles.merchant import Shop, begin_sign_on, finish_sign_on
from protocol.roles.merchant.lane import is_asking, is_signed_on
from protocol.roles.tsm.release import give_back_stale
from protocol.rows import MemoryStore, Store
from protocol.types import Role

RESUME_EVERY_S: Final = 2.0
LANE_EVERY_S: Final = 0.05
SWEEP_EVERY_S: Final = 60.0
SAMPLE_EVERY_S: Final = 5.0
STOP_S: Final = 2.0


class Housekeeping:
    """What a party does by itself: take up questions that were under way, sweep what expired, sign on."""

    def __init__(
        self, tasks: tuple[tuple[float, Callable[[], None]], ...], is_mine: Callable[[], bool] = lambda: True
    ) -> None:
        """`is_mine` says whether this process is the one to do it, of several over one database."""
        self._is_mine = is_mine
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=task, name=f"housekeeping-{number}", daemon=True)
            for number, task in enumerate(tasks)
        ]

    def start(self) -> None:
        """Start all tasks."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop, and wait for what runs, but not for a peer that keeps silent: its question is asked again later."""
        self._stop.set()
        until_s = time.monotonic() + STOP_S
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))

    def _repeat(self, every_s: float, task: Callable[[], None]) -> None:
        while not self._stop.is_set():
            try:
                if self._is_mine():
                    task()
            except ProtocolError as refusal:
                log.warning("housekeeping", code=refusal.code)
            except Exception as fault:  # noqa: BLE001  # one fault must not end the task for good
                log.error("housekeeping", code=Internal.code, kind=type(fault).__name__)
            self._stop.wait(every_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualReader:
    """A virtual reader (vpcd) that the SE's card is put into: its HOST:PORT, and as which kind of card."""

    address: str
    channel: Channel = Channel.CONTACTLESS

    def __post_init__(self) -> None:
        """Raises: SettingsInvalid."""
        parse_address(self.address)

    @property
    def is_near(self) -> bool:
        """Is it on this machine?"""
        host, _ = parse_address(self.address)
        try:
            return host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False


def serve(path: Path, role: Role, *, reader: VirtualReader | None = None) -> None:
    """Run until SIGTERM or SIGINT, then drain. Prints one JSON line when it is ready.

    Raises: SettingsInvalid, KeystoreLocked, StorageFault, PortInUse.
    """
    configure_logs()
    if reader is not None and role is not Role.SE:
        raise SettingsInvalid("only an SE has a card to put into a virtual reader: leave --vpcd out")
    settings = load_settings(path, role)
    with stopping() as stop:
        serve_until(stop, settings, reader=reader)


def serve_until(
    stop: threading.Event, settings: Settings, *, reader: VirtualReader | None = None, shares_port: bool = False
) -> None:
    """Serve until `stop` is set. Raises: as `serve`."""
    role = settings.role
    if not settings.listen and not settings.mutual_listen:
        raise SettingsInvalid(f"{settings.path}: set listen or mutual_listen to HOST:PORT")
    opened = Opened.of(settings)
    store: Store = opened.store() if role.value in TABLES else MemoryStore()
    channels = opened.channels()
    try:
        _run(opened, store, channels, stop, reader, shares_port=shares_port)
    finally:
        channels.close()
        close = getattr(store, "close", None)
        if close is not None:
            close()


def _run(
    opened: Opened, store: Store, channels: Channels, stop: threading.Event, reader: VirtualReader | None, *,
    shares_port: bool,
) -> None:  # fmt: skip
    settings = opened.settings
    steps = STEPS[settings.role](opened)
    metrics = Metrics((*steps, FIELD))
    watched = WatchedStore(store, metrics)
    engine = Engine(
        steps, store=watched, clock=opened.clock, entropy=opened.entropy, peers=channels, admit=Rates().admit
    )
    capture = Capture(settings.capture) if settings.capture else None
    streams = {}
    if settings.role is Role.SE:
        streams[FIELD] = field_handler(settings.name, lambda: build_applet(opened, store, Channel.CONTACTLESS))
    edge = Edge(engine, party=settings.name, role=settings.role, capture=capture, metrics=metrics)
    tls = opened.server_tls()
    server = PartyServer(edge, steps, tls, streams, lanes=lanes_of(steps), shares_port=shares_port)
    samples = _count(metrics, server, store, settings.role)
    ready: dict[str, object] = {"ready": settings.name, **_listen(server, settings)}
    with ExitStack() as links:
        if settings.metrics_listen:
            ports = MAX_WORKERS if shares_port else 1
            ready["metrics_port"] = links.enter_context(
                closing(MetricsServer(settings.metrics_listen, metrics, ports=ports))
            ).port
        server.start()
        checks = {"certificates": certificate_check((tls.root, tls.certificate), opened.clock)}
        if isinstance(store, DatabaseStore):
            checks |= _database_checks(watched, settings)
        health = HealthWatch(
            checks, lambda is_well: server.report(is_serving=is_well),
            lambda is_gone: server.close_doors(are_closed=is_gone),
        )  # fmt: skip
        metrics.gauge("tapveil_serving", "1 if all checks are well", lambda: int(health.is_well))
        health.start()
        links.callback(health.stop)
        is_mine = links.enter_context(closing(store.leader())).holds if isinstance(store, DatabaseStore) else _always
        housekeeping = Housekeeping(
            (*_tasks(opened, watched, engine, channels), (SAMPLE_EVERY_S, samples.run_once)), is_mine
        )
        housekeeping.start()
        if reader is not None:
            links.enter_context(VpcdLink(reader.address, lambda: build_applet(opened, store, reader.channel)))
        log.info("ready", party_role=settings.role.value)
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.flush()
        stop.wait()
        log.info("draining", party_role=settings.role.value)
        housekeeping.stop()
    server.drain()
    if capture is not None:
        capture.close()


def _database_checks(store: WatchedStore, settings: Settings) -> dict[str, Check]:
    return {DATABASE: database_check(store, settings.database), "writes": write_check(store)}


def _count(metrics: Metrics, server: PartyServer, store: Store, role: Role) -> Samples:
    """What the metrics tell beside calls; what must be looked up in the database is sampled by who keeps house."""
    add_process(metrics)
    metrics.gauge("tapveil_in_flight", "calls that are in", lambda: server.in_flight)
    if isinstance(store, DatabaseStore):
        writer = store.writer
        metrics.gauge("tapveil_writer_waiting", "units that wait to be written", lambda: writer.waiting)
        metrics.gauge("tapveil_writer_batches_total", "commits", lambda: writer.transactions, kind="counter")
        metrics.gauge("tapveil_writer_units_total", "units in them", lambda: writer.tasks, kind="counter")
    looks = looks_of(role, store)
    samples = Samples({name: look for name, (_, look) in looks.items()})
    for name, (meaning, _) in looks.items():
        metrics.gauge(name, meaning, partial(samples.value, name))
    return samples


def _always() -> bool:
    return True


def _listen(server: PartyServer, settings: Settings) -> dict[str, int]:
    ports = {}
    if settings.listen:
        ports["port"] = server.listen(settings.listen, mutual=False)
    if settings.mutual_listen:
        ports["mutual_port"] = server.listen(settings.mutual_listen, mutual=True)
    return ports


def _tasks(
    opened: Opened, store: Store, engine: Engine, channels: Channels
) -> tuple[tuple[float, Callable[[], None]], ...]:
    def sweep() -> None:
        store.sweep(opened.clock.now_s())

    def resume() -> None:
        if store.scan(OUTBOX):
            for refusal in engine.resume():
                log.warning("resume", code=refusal.code)

    tasks: list[tuple[float, Callable[[], None]]] = []
    if opened.settings.role.value in TABLES:
        tasks += [(SWEEP_EVERY_S, sweep), (RESUME_EVERY_S, resume)]
    if opened.settings.role is Role.TSM:
        tsm = build_tsm(opened)

        def give_back() -> None:
            give_back_stale(tsm, store, channels, opened.clock.now_s(), opened.entropy)

        fetcher = StopFetcher(tsm, opened.settings.peers, store, channels, opened.clock, opened.entropy)
        claims = ClaimSender(tsm, store, channels, opened.clock, opened.entropy)
        tasks += [
            (SWEEP_EVERY_S, give_back), (SWEEP_EVERY_S, claims.run_once), (RESUME_EVERY_S, fetcher.run_once),
        ]  # fmt: skip
    if opened.settings.role is Role.MERCHANT:
        tasks.append((RESUME_EVERY_S, TerminalSignOn(build_shop(opened), opened, store, channels).ensure))
        settler = build_settler(opened, store, channels)

        def resend() -> None:
            settler.resend()

        tasks.append((RESUME_EVERY_S, resend))
        lane = build_lane(opened, store, channels)

        def work() -> None:
            lane.run_once()

        tasks.append((LANE_EVERY_S, work))
    return tuple(tasks)


class TerminalSignOn:
    """Keeps the merchant's terminal signed on: at the start, after a lost answer, and before its key expires."""

    RENEW_BEFORE_S: Final = 24 * 3600

    def __init__(self, shop: Shop, opened: Opened, store: Store, channels: Channels) -> None:
        self._shop = shop
        self._opened = opened
        self._store = store
        self._channels = channels
        self._until_s = 0

    def ensure(self) -> None:
        """Sign on if it is time. Raises: Unavailable, or the TSM's refusal; the stored request is sent again then."""
        now_s = self._opened.clock.now_s()
        if now_s < self._until_s - self.RENEW_BEFORE_S:
            return
        if is_asking(self._store) and is_signed_on(self._store, self._shop, now_s):
            return  # what was asked under the present key is answered under it
        options = self._opened.settings
        unit = begin_sign_on(
            self._shop, options.option_text("terminal"), options.option_text("tsm"), now_s, self._opened.entropy
        )
        pending = self._store.apply(unit).reply
        answer = self._channels.call(pending.tsm, "Tsm.SignOn", Wire(cose=pending.request))
        self._until_s = self._store.apply(finish_sign_on(self._shop, pending, answer, now_s)).reply.expires_at_s
        log.info("signed on", party_role=Role.MERCHANT.value)
