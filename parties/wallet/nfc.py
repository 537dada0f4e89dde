"""The phone held to a reader: a terminal's APDUs go to the SE and come back, and the phone adds nothing.

A reader is an address of this machine. Radio has no TLS and no names, so there is none here: what protects a purchase
is in the APDUs. The phone is the server, as a card waits for a terminal; the link to the phone's own SE is mutual TLS.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol

import grpc

from parties import apdus
from parties.channels import refuse
from parties.rpc.secure_element_pb2 import Apdu
from parties.settings import loopback
from protocol.card.apdu import Command, Ins, Response
from protocol.errors import CardDataInvalid, Overloaded, PortInUse, ProtocolError

MAX_MESSAGE_BYTES: Final = 1024
STOP_S: Final = 2.0
_LOOK_S: Final = 0.05
_REBIND_S: Final = 1.0
_THREADS: Final = 4
_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),  # two phones would otherwise be at one reader
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_concurrent_streams", _THREADS),
)


class Link(Protocol):
    """The way to the SE, for one stay in the field."""

    def transmit(self, command: bytes, /) -> bytes:
        """The answer. Raises: ProtocolError."""

    def close(self) -> None:
        """The field was lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """What the phone noticed at the reader: did a terminal talk to it, and was a cryptogram given (GENERATE AC)?

    Without the latter a tap was torn, refused, or ended with a look at the phone; the SE knows which.
    """

    talked: bool
    cryptogram: bool


def hold(reader: str, link: Callable[[], Link], seconds: float, *, stopped: threading.Event) -> Meeting:
    """Hold the phone to `reader` (HOST:PORT of this machine) until one terminal has talked to it and gone.

    Ends after `seconds` without one, and soon after `stopped` is set; a tap under way then has `STOP_S` to finish.
    Raises: SettingsInvalid for a bad address, PortInUse.
    """
    address = loopback(reader)
    until_s = time.monotonic() + seconds
    phone = _Phone(link)
    server = _listen(address, phone)
    try:
        while (left_s := until_s - time.monotonic()) > 0 and not stopped.is_set():
            if phone.gone.wait(min(left_s, _LOOK_S)):
                break
    finally:
        server.stop(STOP_S).wait()
    return phone.meeting()


class _Phone:
    """One stay at a reader, for one terminal at a time."""

    def __init__(self, link: Callable[[], Link]) -> None:
        self.gone = threading.Event()
        self._link = link
        self._taken = threading.Lock()
        self._talked = False
        self._cryptogram = False

    def meeting(self) -> Meeting:
        """What happened so far."""
        return Meeting(talked=self._talked, cryptogram=self._cryptogram)

    def transceive(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Apdu]:
        """One terminal's stream."""
        if not self._taken.acquire(blocking=False):
            refuse(context, Overloaded)
            return
        try:
            yield from self._talk(requests)
        except ProtocolError as refusal:
            refuse(context, type(refusal))
        finally:
            if self._talked:
                self.gone.set()  # and no other terminal gets this stay: the lock is kept
            else:
                self._taken.release()

    def _talk(self, requests: Iterator[bytes]) -> Iterator[Apdu]:
        with contextlib.ExitStack() as stack:
            links: list[Link] = []

            def transmit(command: bytes) -> bytes:
                if not links:  # who only looks whether there is a phone does not get to the SE
                    self._talked = True
                    links.append(stack.enter_context(contextlib.closing(self._link())))
                answer = links[0].transmit(command)
                self._cryptogram |= _is_cryptogram(command, answer)
                return answer

            yield from apdus.answer(requests, transmit)


def _is_cryptogram(command: bytes, answer: bytes) -> bool:
    try:
        return Command.from_bytes(command).ins == Ins.GENERATE_AC and Response.from_bytes(answer).ok
    except CardDataInvalid:
        return False


def _listen(address: str, phone: _Phone) -> grpc.Server:
    """Raises: PortInUse. A phone that is held on again waits until its own last stay has left the port."""
    until_s = time.monotonic() + _REBIND_S
    while True:
        try:
            return _start(address, phone)
        except RuntimeError as exc:
            if time.monotonic() > until_s:
                raise PortInUse(f"another phone is at this reader ({address}), or it is not this machine's") from exc
            time.sleep(_LOOK_S)


def _start(address: str, phone: _Phone) -> grpc.Server:
    server = grpc.server(ThreadPoolExecutor(_THREADS, thread_name_prefix="nfc"), options=_OPTIONS)
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "tapveil.v1.SecureElement", {"Transceive": apdus.handler(phone.transceive)}
            ),
        )
    )
    server.add_insecure_port(address)
    server.start()
    return server
