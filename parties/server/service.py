"""gRPC around an engine: TLS identities in, envelopes through, refusals as status and code."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from cryptography import x509
from cryptography.x509.oid import ExtensionOID, NameOID
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from parties.channels import refuse
from parties.rpc import (  # noqa: F401  # reflection finds the services of what was imported
    bank_pb2,
    merchant_pb2,
    secure_element_pb2,
    software_provider_pb2,
    tsm_pb2,
)
from parties.rpc.common_pb2 import Envelope
from parties.server.capture import Capture, Captured
from parties.server.inflight import InFlight
from parties.server.logs import log
from protocol.engine import Engine, Peer
from protocol.envelope import Wire
from protocol.errors import Internal, PortInUse, ProtocolError
from protocol.types import Role

THREADS: Final = 64
MAX_CONCURRENT: Final = 256
MAX_REQUEST_BYTES: Final = 512 * 1024
DRAIN_S: Final = 10.0
CA_UNIT: Final = "ca"
"""Organizational unit in the CA's own name (`protocol.pki.create_root`)."""
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_concurrent_streams", 128),
    ("grpc.max_connection_age_ms", 600_000),
    ("grpc.max_connection_age_grace_ms", 30_000),
    ("grpc.max_connection_idle_ms", 120_000),
)


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
    """Turns calls into `Engine.handle`, and its errors into status and code."""

    def __init__(self, engine: Engine, *, party: str, role: Role, capture: Capture | None = None) -> None:
        self._engine = engine
        self._party = party
        self._role = role
        self._capture = capture
        self._inflight = InFlight()

    def handler(self, rpc: str) -> Callable[[Envelope, grpc.ServicerContext], Envelope]:
        """The gRPC method for one step."""

        def call(request: Envelope, context: grpc.ServicerContext) -> Envelope:
            wire = Wire(cose=request.cose, session=request.session)
            started_ns = time.monotonic_ns()
            code, reply = "OK", Wire(cose=b"")
            try:
                with self._inflight.one(wire.digest):
                    reply = self._engine.handle(rpc, wire, peer_of(context))
            except ProtocolError as refusal:
                code = refusal.code
                refuse(context, type(refusal))
            except Exception as fault:  # noqa: BLE001  # the outermost edge: the server goes on serving
                code = Internal.code
                log.error("fault", party_role=self._role.value, rpc=rpc, kind=type(fault).__name__)
                refuse(context, Internal)
            finally:
                elapsed_ms = (time.monotonic_ns() - started_ns) // 1_000_000
                log.info("served", party_role=self._role.value, rpc=rpc, code=code, ms=elapsed_ms)
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


def _unary(edge: Edge, rpc: str) -> grpc.RpcMethodHandler[Any, Any]:
    return grpc.unary_unary_rpc_method_handler(
        edge.handler(rpc), request_deserializer=Envelope.FromString, response_serializer=Envelope.SerializeToString
    )


class PartyServer:
    """One party's server: its RPCs, health and reflection, on one or two ports."""

    def __init__(
        self, edge: Edge, rpcs: Iterable[str], tls: ServerTls,
        streams: Mapping[str, grpc.RpcMethodHandler[Any, Any]] | None = None, *, shares_port: bool = False,
    ) -> None:  # fmt: skip
        """`streams` are RPCs that carry no envelopes, such as `SecureElement.Transceive`.

        Only workers of one parent share a port, which the parent holds; two servers otherwise would, silently.
        """
        self._tls = tls
        self._server = grpc.server(
            ThreadPoolExecutor(THREADS, thread_name_prefix="rpc"),
            options=(("grpc.so_reuseport", int(shares_port)), *_OPTIONS),
            maximum_concurrent_rpcs=MAX_CONCURRENT,
        )  # fmt: skip
        services = _register(self._server, {rpc: _unary(edge, rpc) for rpc in rpcs} | dict(streams or {}))
        self._health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((*services, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        self._stopped = threading.Event()

    def listen(self, address: str, *, mutual: bool) -> int:
        """Take calls on `address`; the port. With `mutual`, clients must show a certificate of the CA.

        Raises: PortInUse.
        """
        credentials = grpc.ssl_server_credentials(
            [(self._tls.key, self._tls.certificate)], root_certificates=self._tls.root if mutual else None,
            require_client_auth=mutual,
        )  # fmt: skip
        try:
            return self._server.add_secure_port(address, credentials)
        except RuntimeError as exc:
            raise PortInUse(f"can't listen on {address}: another program does, or it is not this machine's") from exc

    def start(self) -> None:
        """Begin to serve."""
        self._server.start()
        self._health.set("", health_pb2.HealthCheckResponse.SERVING)

    def drain(self) -> None:
        """Take no new calls, finish those under way, within `DRAIN_S` seconds."""
        self._health.enter_graceful_shutdown()
        self._server.stop(DRAIN_S).wait()
        self._stopped.set()

    def wait(self) -> None:
        """Until drained."""
        self._stopped.wait()
