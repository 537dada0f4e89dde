"""Readers of a merchant's lane: the field of a phone over gRPC, or a card on a PC/SC reader.

The gRPC field stands for the air between phone and reader. As there, nothing is encrypted and anybody near can listen,
so both ends are on one machine. A phone that is held to the reader listens on the reader's address, and the reader
finds it there; when it is taken away, the stream ends.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import grpc

from parties.rpc.secure_element_pb2 import Apdu
from parties.settings import loopback
from protocol.card.apdu import MAX_RESPONSE_BYTES
from protocol.card.outcome import CardLost
from protocol.errors import SettingsInvalid

APDU_S: Final = 2.0
"""A card that takes longer for one answer has left."""
CONNECT_MS: Final = 100
"""Between two looks whether a phone is there; gRPC takes no less."""
POLL_S: Final = 0.1
_METHOD: Final = "/tapveil.v1.SecureElement/Transceive"
_OPTIONS: Final = (
    ("grpc.initial_reconnect_backoff_ms", CONNECT_MS),
    ("grpc.min_reconnect_backoff_ms", CONNECT_MS),
    ("grpc.max_reconnect_backoff_ms", CONNECT_MS),
    ("grpc.max_receive_message_length", MAX_RESPONSE_BYTES + 16),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
)


class CardLink(Protocol):
    """A card in the field."""

    def transmit(self, command: bytes, /) -> bytes:
        """The card's answer to a command APDU. Raises: CardLost."""

    def close(self) -> None:
        """Let the card go."""


class CardReader(Protocol):
    """What `open_reader` opens."""

    def wait_for_card(self, timeout_s: float, /) -> CardLink | None:
        """A card that is there within `timeout_s` seconds. Raises: SettingsInvalid, Unavailable."""

    def close(self) -> None:
        """Let the reader go."""


class GrpcLink:
    """One phone in the field, as a stream of APDUs over a channel of its own."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self._commands: queue.SimpleQueue[Apdu | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        call = channel.stream_stream(
            _METHOD, request_serializer=Apdu.SerializeToString, response_deserializer=Apdu.FromString
        )
        self._stream = call(iter(self._commands.get, None))
        self._lost = False
        threading.Thread(target=self._receive, args=(self._stream,), name="nfc-field", daemon=True).start()

    def _receive(self, stream: Iterator[Apdu]) -> None:
        try:
            for answer in stream:
                self._answers.put(answer.data)
        except grpc.RpcError:  # however a stream ends, the card is gone
            pass
        finally:
            self._answers.put(None)

    def transmit(self, command: bytes, /) -> bytes:
        """The phone's answer. Raises: CardLost when the stream ended, or nothing came in time."""
        if self._lost:
            raise CardLost("link is closed")
        self._commands.put(Apdu(data=command))
        try:
            answer = self._answers.get(timeout=APDU_S)
        except queue.Empty:
            answer = None
        if answer is None:
            self.close()
            raise CardLost("phone left the field")
        return answer

    def close(self) -> None:
        """End the stream. Twice is once."""
        self._lost = True
        self._commands.put(None)
        self._stream.cancel()
        self._channel.close()


class GrpcReader:
    """Looks for a phone at HOST:PORT. Opens nothing before the first wait."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._channel: grpc.Channel | None = None

    def wait_for_card(self, timeout_s: float, /) -> GrpcLink | None:
        """A phone that listens there within `timeout_s` seconds."""
        if self._channel is None:
            self._channel = grpc.insecure_channel(self._address, options=_OPTIONS)
        ready = grpc.channel_ready_future(self._channel)
        try:
            ready.result(timeout=timeout_s)
        except grpc.FutureTimeoutError:
            return None
        finally:
            ready.cancel()
        # A channel still seems ready for a moment after its phone has left, so none serves twice.
        channel, self._channel = self._channel, None
        return GrpcLink(channel)

    def close(self) -> None:
        """Look for no more phones."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None


def _connect_pcsc(name: str) -> CardLink:
    from parties.links.pcsc import PcscLink  # needs pyscard only when it is used

    return PcscLink(name)


class PcscReader:
    """Looks for a card on the PC/SC reader of this name."""

    def __init__(self, name: str, connect: Callable[[str], CardLink] | None = None) -> None:
        """`connect` opens a card by the reader's name, or raises CardLost; PC/SC's own when it is not given."""
        self._name = name
        self._connect = connect or _connect_pcsc

    def wait_for_card(self, timeout_s: float, /) -> CardLink | None:
        """A card that lies there within `timeout_s` seconds. Raises: SettingsInvalid, Unavailable."""
        until_s = time.monotonic() + timeout_s
        while True:
            try:
                return self._connect(self._name)
            except CardLost:
                left_s = until_s - time.monotonic()
            if left_s <= 0:
                return None
            time.sleep(min(POLL_S, left_s))

    def close(self) -> None:
        """Nothing is held between two cards."""


def open_reader(text: str) -> CardReader:
    """`grpc:HOST:PORT`, a phone's field; `pcsc:NAME`, a PC/SC reader. Raises: SettingsInvalid."""
    kind, _, name = text.partition(":")
    if kind == "pcsc" and name:
        return PcscReader(name)
    if kind == "grpc":
        return GrpcReader(loopback(name))
    raise SettingsInvalid(f"a reader is grpc:HOST:PORT or pcsc:NAME, not {text!r}")
