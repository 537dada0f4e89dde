"""The answering end of an NFC field over gRPC (`Transceive`): APDUs in turn, bounded in size, number and silence.

Nothing is logged or kept here: an APDU may hold a card number.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from parties.rpc.secure_element_pb2 import Apdu
from protocol.card.apdu import MAX_COMMAND_BYTES, MAX_RESPONSE_BYTES
from protocol.errors import Malformed, Oversize, Unavailable

MAX_APDUS: Final = 256
"""In one stay in the field; a purchase takes about ten."""
Stay: TypeAlias = Callable[[Iterator[bytes], grpc.ServicerContext], Iterator[Apdu]]
"""One stay in the field: serialized `Apdu` messages in, answers out."""
IDLE_S: Final = 10.0
"""A terminal that keeps silent for so long has gone; its field must not stay open."""


def handler(stay: Stay) -> grpc.RpcMethodHandler[Any, Any]:
    """The method of one end. Requests come unparsed: gRPC's server does not stop any more after one that fails to."""
    return grpc.stream_stream_rpc_method_handler(stay, response_serializer=Apdu.SerializeToString)


def answer(requests: Iterator[bytes], transmit: Callable[[bytes], bytes], *, idle_s: float = IDLE_S) -> Iterator[Apdu]:
    """Answer each command by `transmit` until the other side leaves the field.

    Raises: Malformed: no `Apdu` message; Oversize: a command or an answer that is no short APDU, or more than
    `MAX_APDUS`; Unavailable: silence; what `transmit` raises.
    """
    for number, message in enumerate(_in_time(requests, idle_s)):
        command = _parse(message)
        if number == MAX_APDUS or len(command) > MAX_COMMAND_BYTES:
            raise Oversize("more, or more at once, than a card is asked")
        answered = transmit(command)
        if len(answered) > MAX_RESPONSE_BYTES:
            raise Oversize("more than a card answers")
        yield Apdu(data=answered)


def _parse(message: bytes) -> bytes:
    try:
        return Apdu.FromString(message).data
    except DecodeError as exc:
        raise Malformed("not an APDU message") from exc


def _in_time(requests: Iterator[bytes], idle_s: float) -> Iterator[bytes]:
    # gRPC's own iterator waits for ever; it is read beside, and never further ahead than a field may last.
    arrived: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def read() -> None:
        with contextlib.suppress(grpc.RpcError):  # so gRPC says that the other side is gone
            for request in itertools.islice(requests, MAX_APDUS + 1):
                arrived.put(request)
        arrived.put(None)

    threading.Thread(target=read, name="field", daemon=True).start()
    while True:
        try:
            message = arrived.get(timeout=idle_s)
        except queue.Empty:
            raise Unavailable("the reader keeps silent") from None
        if message is None:
            return
        yield message
