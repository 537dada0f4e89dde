"""gRPC channels to other parties: TLS to a named party, deadlines, and refusals as status and code, there and back."""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import grpc

from parties.rpc.common_pb2 import Envelope
from parties.rpc.secure_element_pb2 import Apdu
from protocol.envelope import Wire
from protocol.errors import REGISTRY, Internal, Malformed, Overloaded, ProtocolError, Unavailable

CODE_KEY: Final = "tapveil-code"
DEADLINE_S: Final = 20.0
FIELD_DEADLINE_S: Final = 120.0
"""A phone is not held to a reader for longer."""
RECONNECT_S: Final = 1
"""A peer that is back is found within this time, however long it was away."""
FIRST_RECONNECT_S: Final = 0.1
"""A peer that was asked while it was just starting is asked again this soon; then ever more slowly."""
MAX_REPLY_BYTES: Final = 9 * 1024 * 1024
_FOREIGN: Final[dict[grpc.StatusCode, type[ProtocolError]]] = {
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: Unavailable,
    grpc.StatusCode.CANCELLED: Unavailable,
    grpc.StatusCode.INVALID_ARGUMENT: Malformed,
}
"""What a status without our code means: the server refused before the protocol saw the request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsIdentity:
    """PEM of the CA, and of one's own certificate and key where the other side asks for them."""

    root: bytes
    certificate: bytes | None = None
    key: bytes | None = field(default=None, repr=False)


class Channels:
    """One channel a party, opened when first used. The party's name must stand in its certificate."""

    def __init__(self, addresses: Mapping[str, str], identity: TlsIdentity, *, deadline_s: float = DEADLINE_S) -> None:
        self._addresses = dict(addresses)
        self._identity = identity
        self._deadline_s = deadline_s
        self._open: dict[str, grpc.Channel] = {}
        self._lock = threading.Lock()

    def call(self, peer: str, rpc: str, request: Wire) -> Wire:
        """Send an envelope. Raises: the peer's refusal by its code; Unavailable if there is no answer."""
        service, method = rpc.split(".")
        call = self._channel(peer).unary_unary(
            f"/tapveil.v1.{service}/{method}",
            request_serializer=Envelope.SerializeToString,
            response_deserializer=Envelope.FromString,
        )
        try:
            reply: Envelope = call(Envelope(cose=request.cose, session=request.session), timeout=self._deadline_s)
        except grpc.RpcError as exc:
            raise refusal_of(exc) from exc
        except ValueError as exc:  # so gRPC says that the channel is closed
            raise Unavailable("this party is stopping") from exc
        return Wire(cose=reply.cose, session=reply.session)

    def field(self, peer: str) -> ApduStream:
        """A new NFC field of this SE. Raises: Unavailable."""
        try:
            return ApduStream(self._channel(peer))
        except ValueError as exc:
            raise Unavailable("this party is stopping") from exc

    def close(self) -> None:
        """Close all channels."""
        with self._lock:
            for channel in self._open.values():
                channel.close()
            self._open.clear()

    def _channel(self, peer: str) -> grpc.Channel:
        with self._lock:
            if peer not in self._open:
                if peer not in self._addresses:
                    raise Unavailable("no address is set for this party")
                self._open[peer] = open_channel(self._addresses[peer], peer, self._identity)
            return self._open[peer]


class ApduStream:
    """One stay in an NFC field (`Transceive`): a command APDU, its answer, the next. Not for two threads at once."""

    def __init__(self, channel: grpc.Channel, *, deadline_s: float = FIELD_DEADLINE_S) -> None:
        """`channel` leads to an SE, or to the reader that a phone is held to."""
        self._commands: queue.SimpleQueue[Apdu | None] = queue.SimpleQueue()
        call = channel.stream_stream(
            "/tapveil.v1.SecureElement/Transceive",
            request_serializer=Apdu.SerializeToString,
            response_deserializer=Apdu.FromString,
        )
        self._answers = call(iter(self._commands.get, None), timeout=deadline_s)

    def transmit(self, command: bytes) -> bytes:
        """The card's answer, as it came. Raises: why the other side ended the field; Unavailable: it is gone."""
        self._commands.put(Apdu(data=command))
        try:
            answer: Apdu = next(self._answers)
        except grpc.RpcError as exc:
            raise refusal_of(exc) from exc
        except StopIteration as exc:
            raise Unavailable("the other side left the field") from exc
        return answer.data

    def close(self) -> None:
        """Leave the field."""
        self._commands.put(None)
        self._answers.cancel()


def open_channel(address: str, peer: str, identity: TlsIdentity) -> grpc.Channel:
    """A TLS channel to `peer`. User agent and options are the same for everyone (design §3)."""
    credentials = grpc.ssl_channel_credentials(identity.root, identity.key, identity.certificate)
    options = (
        ("grpc.ssl_target_name_override", peer),
        ("grpc.default_authority", peer),
        ("grpc.primary_user_agent", "tapveil"),
        ("grpc.max_receive_message_length", MAX_REPLY_BYTES),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),
        ("grpc.initial_reconnect_backoff_ms", int(1000 * FIRST_RECONNECT_S)),
        ("grpc.max_reconnect_backoff_ms", 1000 * RECONNECT_S),
        ("grpc.enable_http_proxy", 0),
    )
    return grpc.secure_channel(address, credentials, options)


def refusal_of(error: grpc.RpcError) -> ProtocolError:
    """The typed error of a failed call: by our code in the trailers, else by its status."""
    trailers: dict[str, str | bytes] = {item.key: item.value for item in error.trailing_metadata() or ()}
    code = trailers.get(CODE_KEY)
    if isinstance(code, str) and code in REGISTRY:
        return REGISTRY[code](f"refused by the peer: {code}")
    return _FOREIGN.get(error.code(), Internal)(f"no answer: {error.code().name}")


def refuse(context: grpc.ServicerContext, kind: type[ProtocolError]) -> None:
    """End a call with this refusal: the coarse code only, since what was wrong in detail helps an attacker most."""
    context.set_trailing_metadata(((CODE_KEY, kind.code),))
    context.set_code(grpc.StatusCode[kind.status])
    context.set_details(kind.code)
