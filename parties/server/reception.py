"""Taking messages off calls in time. gRPC's server waits for ever for a message that was announced and does not come.

So RPCs of one message are received as streams of one, which is the same on the wire and as fast: the method then runs
before its message is there, and a watchman cancels the call if it stays away (slowloris over HTTP/2).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import grpc
from google.protobuf.message import DecodeError

from parties.rpc.common_pb2 import Envelope
from parties.server.admission import Shed, Turned
from protocol.envelope import Wire
from protocol.errors import Malformed, Unavailable

BODY_S: Final = 5.0
"""From the head of a call to its whole message. The largest takes 0.3 s over a slow mobile line."""
LOOK_EVERY_S: Final = 0.25


@dataclass(slots=True)
class Watched:
    """A call that must get on."""

    context: grpc.ServicerContext
    until_s: float
    is_over: bool = False
    was_slow: bool = False


class Reception:
    """Receives the one message of a call, and cancels calls whose message does not come."""

    def __init__(self, *, body_s: float = BODY_S) -> None:
        self._body_s = body_s
        self._awaited: deque[Watched] = deque()
        """In the order of their ends, since all may take equally long."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="reception", daemon=True)
        self._thread.start()

    def receive(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        """The message, unparsed. Raises: Turned if it does not come in time; Malformed if there is none."""
        with self.within(context) as watched:
            try:
                for message in requests:
                    return message
            except grpc.RpcError as exc:  # so gRPC says that the call is no more
                raise Turned(Shed.SLOW if watched.was_slow else Shed.LATE, Unavailable) from exc
            if watched.was_slow:
                raise Turned(Shed.SLOW, Unavailable)
            raise Malformed("a call without a message")

    @contextmanager
    def within(self, context: grpc.ServicerContext) -> Iterator[Watched]:
        """Cancel the call unless this ends in time."""
        watched = Watched(context, time.monotonic() + self._body_s)
        self._awaited.append(watched)
        try:
            yield watched
        finally:
            watched.is_over = True

    def close(self) -> None:
        """Watch no more."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_EVERY_S):
            now_s = time.monotonic()
            while self._awaited and (self._awaited[0].is_over or self._awaited[0].until_s < now_s):
                watched = self._awaited.popleft()
                if not watched.is_over:
                    watched.was_slow = True
                    watched.context.cancel()


def parse(message: bytes) -> Wire:
    """An envelope. Raises: Malformed."""
    try:
        envelope = Envelope.FromString(message)
    except DecodeError as exc:
        raise Malformed("not an envelope") from exc
    return Wire(cose=envelope.cose, session=envelope.session)
