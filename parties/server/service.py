"""gRPC around an engine: TLS identities in, envelopes through, refusals as status and code."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from cryptography import x509
from cryptography.x509.oid import ExtensionOID, NameOID

from parties.channels import refuse
from parties.metrics import Metrics
from parties.rpc import (  # noqa: F401  # reflection finds the services of what was imported
    bank_pb2,
    merchant_pb2,
    secure_element_pb2,
    software_provider_pb2,
    tsm_pb2,
)
from parties.rpc.common_pb2 import Envelope
from parties.server.admission import MUTUAL, OPEN, Admission, Lane, Turned
from parties.server.capture import Capture, Captured
from parties.server.gathering import Gathering
from parties.server.inflight import InFlight
from parties.server.logs import log
from parties.server.public import HealthStatus, PublicServices
from parties.server.reception import BODY_S, Reception, parse
from protocol.engine import Engine, Peer
from protocol.envelope import Wire
from protocol.errors import Internal, PortInUse, ProtocolError
from protocol.types import Role

MAX_CONCURRENT: Final = 256
"""Calls at one port, and threads: most wait there for their message or a place at work (`parties.server.admission`)."""
MAX_REQUEST_BYTES: Final = 512 * 1024
MAX_CONNECTIONS: Final = 8192
"""At one port, if the process may have so many files."""
_OTHER_FILES: Final = 256
DRAIN_S: Final = 10.0
CA_UNIT: Final = "ca"
"""Organizational unit in the CA's own name (`protocol.pki.create_root`)."""
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_connection_age_ms", 600_000),
    ("grpc.max_connection_age_grace_ms", 30_000),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # It counts streams that have ended until Python lets go of them, and would refuse calls of who has none under way.
    ("grpc.http.overload_protection", 0),
)
_OF_MUTUAL: Final = (("grpc.max_concurrent_streams", 128), ("grpc.max_connection_idle_ms", 120_000))
_OF_OPEN: Final = (("grpc.max_concurrent_streams", 32), ("grpc.max_connection_idle_ms", 60_000))
"""Where anybody may connect, one connection holds less, and for a shorter time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTls:
    """PEM of the CA and of the server's certificate and key."""

    root: bytes
    certificate: bytes
    key: bytes = field(repr=False)


def peer_of(context: grpc.ServicerContext) -> Peer | None:
    """Role and name in the client's transport certificate, verified against the CA by TLS; None without one.

    A certificate for another use is none: a signing key must not double as a transport key (ADR-0006).
    """
    shown: Any = context.auth_context().get("x509_pem_cert", ())
    certificates: list[bytes] = list(shown)
    if not certificates:
        return None
    certificate = x509.load_pem_x509_certificate(certificates[0])
    if not any(extension.oid == ExtensionOID.EXTENDED_KEY_USAGE for extension in certificate.extensions):
        return None
    issuer = certificate.issuer.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    role = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    name = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    # Banks are intermediate CAs, for users only: TLS would also take a "tsm-1" that a bank certified.
    if [unit.value for unit in issuer] != [CA_UNIT]:
        return None
    if len(role) != 1 or len(name) != 1 or role[0].value not in set(Role):
        return None
    return Peer(role=Role(str(role[0].value)), name=str(name[0].value))


class Edge:
    """Turns calls into `Gathering.handle`, and its errors into status and code."""

    def __init__(
        self, engine: Engine, *, party: str, role: Role, capture: Capture | None = None, metrics: Metrics | None = None
    ) -> None:
        self._gathering = Gathering(engine)
        self._metrics = metrics or Metrics(())
        self._party = party
        self._role = role
        self._capture = capture
        self._inflight = InFlight()

    def handler(
        self, rpc: str, admission: Admission, reception: Reception
    ) -> Callable[[Iterator[bytes], grpc.ServicerContext], Envelope]:
        """The gRPC method for one step at one port: a stream of one request, since that is received in time."""

        def call(requests: Iterator[bytes], context: grpc.ServicerContext) -> Envelope:
            wire: Wire | None = None
            started_ns = time.monotonic_ns()
            code, reply = "OK", Wire(cose=b"")
            try:
                with admission.enter(rpc):
                    wire = parse(reception.receive(requests, context))
                    with admission.work(rpc, context), self._inflight.one(wire.digest):
                        reply = self._gathering.handle(rpc, wire, peer_of(context))
            except Turned as turned:
                code = turned.refusal.code
                self._metrics.turned_away(turned.why)
                refuse(context, turned.refusal)
            except ProtocolError as refusal:
                code = refusal.code
                refuse(context, type(refusal))
            except Exception as fault:  # noqa: BLE001  # the outermost edge: the server goes on serving
                code = Internal.code
                log.error("fault", party_role=self._role.value, rpc=rpc, kind=type(fault).__name__)
                refuse(context, Internal)
            finally:
                elapsed_ns = time.monotonic_ns() - started_ns
                self._metrics.served(rpc, code, elapsed_ns / 1e9)
                log.info("served", party_role=self._role.value, rpc=rpc, code=code, ms=elapsed_ns // 1_000_000)
                if wire is not None:
                    self._record(rpc, wire, reply, code)
            return Envelope(cose=reply.cose, session=reply.session)

        return call

    def _record(self, rpc: str, wire: Wire, reply: Wire, code: str) -> None:
        if self._capture is not None:
            at_ms = time.time_ns() // 1_000_000
            self._capture.add(Captured(party=self._party, rpc=rpc, at_ms=at_ms, request=wire, reply=reply, code=code))


def _register(server: grpc.Server, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]) -> set[str]:
    services: dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]] = {}
    for rpc, handler in handlers.items():
        service, method = rpc.split(".")
        services.setdefault(f"tapveil.v1.{service}", {})[method] = handler
    for service, methods in services.items():
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
    return set(services)


def connections(ports: int) -> int:
    """How many connections each of so many ports may hold, and leave files for all else. Raises the process's bound."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ports * MAX_CONNECTIONS + _OTHER_FILES
    if soft < wanted and soft != resource.RLIM_INFINITY:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return min(MAX_CONNECTIONS, max(soft // 2, soft - _OTHER_FILES) // ports)


class PartyServer:
    """One party's server: its RPCs, health and reflection, on one or two ports.

    Each port is a gRPC server with threads and admission of its own: what floods the one leaves the other as it is.
    """

    def __init__(
        self, edge: Edge, rpcs: Iterable[str], tls: ServerTls,
        streams: Mapping[str, grpc.RpcMethodHandler[Any, Any]] | None = None, *,
        lanes: Mapping[str, Lane] | None = None, shares_port: bool = False, body_s: float = BODY_S,
    ) -> None:  # fmt: skip
        """`streams` are RPCs that carry no envelopes, such as `SecureElement.Transceive`.

        Only workers of one parent share a port, which the parent holds; two servers otherwise would, silently.
        """
        self._edge = edge
        self._rpcs = tuple(rpcs)
        self._tls = tls
        self._streams = dict(streams or {})
        self._lanes = dict(lanes or {})
        self._shares_port = shares_port
        self._reception = Reception(body_s=body_s)
        self._health = HealthStatus()
        self._servers: list[grpc.Server] = []
        self._admissions: list[Admission] = []
        self._stopped = threading.Event()

    def listen(self, address: str, *, mutual: bool) -> int:
        """Take calls on `address`; the port. With `mutual`, clients must show a certificate of the CA.

        Raises: PortInUse.
        """
        credentials = grpc.ssl_server_credentials(
            [(self._tls.key, self._tls.certificate)], root_certificates=self._tls.root if mutual else None,
            require_client_auth=mutual,
        )  # fmt: skip
        server = self._new_server(mutual=mutual)
        try:
            port: int = server.add_secure_port(address, credentials)
        except RuntimeError as exc:
            raise PortInUse(f"can't listen on {address}: another program does, or it is not this machine's") from exc
        self._servers.append(server)
        return port

    def _new_server(self, *, mutual: bool) -> grpc.Server:
        server = grpc.server(
            ThreadPoolExecutor(MAX_CONCURRENT, thread_name_prefix="rpc"),
            options=(
                ("grpc.so_reuseport", int(self._shares_port)), *_OPTIONS, *(_OF_MUTUAL if mutual else _OF_OPEN),
                ("grpc.max_allowed_incoming_connections", connections(ports=2)),
            ),
            maximum_concurrent_rpcs=MAX_CONCURRENT,
        )  # fmt: skip
        admission = Admission(self._lanes, MUTUAL if mutual else OPEN)
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            rpc: grpc.stream_unary_rpc_method_handler(
                self._edge.handler(rpc, admission, self._reception), response_serializer=Envelope.SerializeToString
            )
            for rpc in self._rpcs
        }
        services = _register(server, handlers | self._streams)
        self._health.add(services)
        PublicServices(self._health, services, self._reception).add_to(server)
        self._admissions.append(admission)
        return server

    @property
    def in_flight(self) -> int:
        """Calls that are in, at all ports."""
        return sum(admission.present for admission in self._admissions)

    def start(self) -> None:
        """Begin to serve."""
        for server in self._servers:
            server.start()
        self.report(is_serving=True)

    def report(self, *, is_serving: bool) -> None:
        """What health checks are answered from now on; once it drains, nothing changes that."""
        self._health.set(is_serving=is_serving)

    def close_doors(self, *, are_closed: bool) -> None:
        """Let nothing in, as long as there is no database to serve from; callers are told STORAGE_FAULT."""
        for admission in self._admissions:
            admission.is_closed = are_closed

    def drain(self) -> None:
        """Take no new calls, finish those under way, within `DRAIN_S` seconds."""
        self._health.drain()
        for stopping in [server.stop(DRAIN_S) for server in self._servers]:
            stopping.wait()
        self._reception.close()
        self._stopped.set()

    def wait(self) -> None:
        """Until drained."""
        self._stopped.wait()
