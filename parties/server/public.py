"""Health and reflection: what anybody who connects may ask. Few at once, and none for long, but health's `Watch`."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from parties.channels import refuse
from parties.server.admission import Turned
from parties.server.reception import Reception
from protocol.errors import Malformed, Overloaded, ProtocolError

MAX_CALLS: Final = 8
"""Of health's `Watch` and of reflection each, at once at one port."""
WATCH_EVERY_S: Final = 0.25
_SERVING: Final[int] = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final[int] = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN: Final[int] = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthStatus:
    """Whether the party serves; the same for each of its services, and for the whole (the empty name)."""

    def __init__(self) -> None:
        self._names = {""}
        self._status: int = _NOT_SERVING
        self.is_draining = False

    def add(self, services: Iterable[str]) -> None:
        """Answer for these services too."""
        self._names |= set(services)

    def set(self, *, is_serving: bool) -> None:
        """From now on; but nothing ends a drain."""
        self._status = _SERVING if is_serving and not self.is_draining else _NOT_SERVING

    def drain(self) -> None:
        """It serves no more."""
        self.is_draining = True
        self._status = _NOT_SERVING

    def of(self, service: str) -> int:
        """The status of a service."""
        return self._status if service in self._names else _UNKNOWN


class PublicServices:
    """The handlers of both for one port."""

    def __init__(self, status: HealthStatus, services: Iterable[str], reception: Reception) -> None:
        names = (*services, health.SERVICE_NAME, reflection.SERVICE_NAME)
        self._status = status
        self._reflection = reflection.ReflectionServicer(names)
        self._reception = reception
        self._checks = threading.BoundedSemaphore(MAX_CALLS)
        self._looks = threading.BoundedSemaphore(MAX_CALLS)

    def add_to(self, server: grpc.Server) -> None:
        """Serve both on `server`. Requests come unparsed: gRPC's server does not stop after one that fails to parse."""
        answer = health_pb2.HealthCheckResponse.SerializeToString
        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Check": grpc.stream_unary_rpc_method_handler(self._check, response_serializer=answer),
            "Watch": grpc.stream_stream_rpc_method_handler(self._watch, response_serializer=answer),
        }
        look = grpc.stream_stream_rpc_method_handler(
            self._look, request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )  # fmt: skip
        server.add_generic_rpc_handlers((
            grpc.method_handlers_generic_handler(health.SERVICE_NAME, methods),
            grpc.method_handlers_generic_handler(reflection.SERVICE_NAME, {"ServerReflectionInfo": look}),
        ))  # fmt: skip

    def _check(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Any:
        status: int = _UNKNOWN
        try:
            status = self._status.of(self._asked(requests, context).service)
        except (Turned, ProtocolError) as exc:
            refuse(context, exc.refusal if isinstance(exc, Turned) else type(exc))
        else:
            if status == _UNKNOWN:
                context.set_code(grpc.StatusCode.NOT_FOUND)
        return health_pb2.HealthCheckResponse(status=status)

    def _watch(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
        if not self._checks.acquire(blocking=False):
            refuse(context, Overloaded)
            return
        try:
            service, told = self._asked(requests, context).service, None
            while context.is_active():
                status = self._status.of(service)
                if status != told:
                    told = status
                    yield health_pb2.HealthCheckResponse(status=status)
                if self._status.is_draining:
                    return
                time.sleep(WATCH_EVERY_S)
        except (Turned, ProtocolError) as exc:
            refuse(context, exc.refusal if isinstance(exc, Turned) else type(exc))
        finally:
            self._checks.release()

    def _asked(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> health_pb2.HealthCheckRequest:
        try:
            return health_pb2.HealthCheckRequest.FromString(self._reception.receive(requests, context))
        except DecodeError as exc:
            raise Malformed("not a health check") from exc

    def _look(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        if not self._looks.acquire(blocking=False):
            refuse(context, Overloaded)
            return
        try:
            with self._reception.within(context):
                yield from self._reflection.ServerReflectionInfo(requests, context)
        finally:
            self._looks.release()
