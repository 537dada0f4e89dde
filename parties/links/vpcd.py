"""A card in a virtual PC/SC reader: the card's side of the virtual smart card protocol, as vsmartcard's `vpcd` has it.

vpcd is a driver that pcscd loads: it listens, and the card connects. Both sides send messages of a two-byte length and
as many bytes. A message of one byte is an order to the card (power off, on, reset) or asks for its answer to reset; any
other is a command APDU, answered by a response APDU. There is no authentication: keep both ends on one machine.
"""

from __future__ import annotations

import contextlib
import re
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Final, Protocol

from protocol.card import apdu
from protocol.errors import SettingsInvalid

DEFAULT_PORT: Final = 35963
ATR: Final = bytes.fromhex("3B80800101")
"""ISO/IEC 7816-3 §8: direct convention, no historical bytes, T=0 (TD1 = 80) and T=1 (TD2 = 01), check byte 01.

PC/SC gives this answer to reset to contactless cards without historical bytes (PC/SC part 3 §3.1.3.2.3.1), so that it
tells nothing of the card. It offers both protocols, which the driver carries alike, as whole APDUs: who leaves the
choice to pcscd gets T=1, as from a contactless card, and who insists on T=0 (python-emv) gets that; with T=1 alone it
is refused. While the card keeps its power, a second program gets no other protocol than the first.
"""
_LENGTH_BYTES: Final = 2
_RETRY_FIRST_S: Final = 0.05
_RETRY_MOST_S: Final = 2.0
PATIENCE_S: Final = 5.0
"""How long connecting, the rest of a begun message, or taking an answer may last."""
_TOO_LONG: Final = apdu.Response(sw=apdu.Sw.WRONG_LENGTH).to_bytes()
_MAX_PORT: Final = 65535
_ADDRESS: Final = re.compile(r"(\[[0-9a-fA-F:.]{2,45}\]|(?:[\w-]{1,63}\.)*[\w-]{1,63})(?::([0-9]{1,5}))?", re.ASCII)
"""A resolver does not take names with parts that are empty or over 63 bytes."""


class Control(IntEnum):
    """Messages of one byte."""

    OFF = 0
    ON = 1
    RESET = 2
    ATR = 4


class Card(Protocol):
    """What is in the reader, e.g. `protocol.card.applet.Applet`."""

    def process(self, command: bytes, /) -> bytes:
        """A response APDU to whatever bytes come: never raises for them."""

    def reset(self) -> None:
        """Forget what the reader selected: the card lost power or was reset."""


class _Closed(Exception):
    """The connection is of no more use, or the link was told to stop."""


@contextlib.contextmanager
def _broken_is_closed() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise _Closed from exc


class VpcdLink:
    """Keeps a card in the virtual reader at HOST[:PORT] until closed: connects, and again when pcscd goes away.

    `card` makes the card of one connection; only the link's own thread uses it.
    """

    def __init__(
        self, address: str, card: Callable[[], Card], *, atr: bytes = ATR, patience_s: float = PATIENCE_S
    ) -> None:
        """Raises: SettingsInvalid when `address` is not HOST[:PORT]."""
        self._host, self._port = parse_address(address)
        self._make_card = card
        self._atr = atr
        self._patience_s = patience_s
        self._stopped, self._stop = socket.socketpair()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vpcd", daemon=True)

    def start(self) -> None:
        """Begin; returns at once. A reader that is not there yet is tried again every two seconds, at first sooner."""
        self._thread.start()

    def close(self) -> None:
        """Take the card out and end; returns when it has, after the command in hand if there is one."""
        if not self._stopping.is_set():
            self._stopping.set()
            self._stop.send(b"\x00")
        if self._thread.ident is not None:
            self._thread.join()
        self._stop.close()
        self._stopped.close()

    def __enter__(self) -> VpcdLink:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        wait_s = _RETRY_FIRST_S
        while not self._stopping.is_set():
            served = False
            connection = _Reader(self._host, self._port, stopped=self._stopped, patience_s=self._patience_s)
            with contextlib.suppress(_Closed), connection as reader:
                for _ in self._serve(reader):
                    served = True
            # One that was of use is likely back soon; one that is not there, or only hangs up, is not hurried.
            wait_s = _RETRY_FIRST_S if served else min(2 * wait_s, _RETRY_MOST_S)
            self._stopping.wait(wait_s)

    def _serve(self, reader: _Reader) -> Iterator[None]:
        """Answer messages, one a turn. Raises: _Closed."""
        card = self._make_card()
        try:
            while True:
                message = reader.receive()
                if message is None:
                    reader.send(_TOO_LONG)
                elif len(message) > 1:
                    reader.send(card.process(message))
                elif message[0] == Control.ATR:
                    reader.send(self._atr)
                elif message[0] in {Control.OFF, Control.ON, Control.RESET}:
                    card.reset()
                else:
                    raise _Closed
                yield
        finally:
            card.reset()  # the reader is gone, and the field with it


class _Reader:
    """One connection to the driver, left at once when a byte can be read from `stopped`."""

    def __init__(self, host: str, port: int, *, stopped: socket.socket, patience_s: float) -> None:
        self._where = (host, port)
        self._stopped = stopped
        self._patience_s = patience_s

    def __enter__(self) -> _Reader:
        """Raises: _Closed."""
        with _broken_is_closed():
            found = socket.getaddrinfo(*self._where, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, where in found:
            self._socket = socket.socket(family, kind, protocol)
            self._socket.setblocking(False)
            try:
                self._socket.connect_ex(where)
                self._wait(selectors.EVENT_WRITE, time.monotonic() + self._patience_s)
                self._socket.getpeername()  # raises unless connected
                # An answer is one segment, and the next command waits for it: nothing is won by gathering more.
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError:
                self._socket.close()
            except _Closed:
                self._socket.close()
                raise
            else:
                return self
        raise _Closed

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def receive(self) -> bytes | None:
        """The next message, waiting for it without end; None when it was longer than any command, and is gone.

        Raises: _Closed (reader is gone, does not speak its protocol, or told to stop).
        """
        first = self._read(1, None)
        until_s = time.monotonic() + self._patience_s
        length = int.from_bytes(first + self._read(1, until_s), "big")
        if length == 0:
            raise _Closed
        message = self._read(length, until_s)
        return message if length <= apdu.MAX_COMMAND_BYTES else None

    def send(self, message: bytes) -> None:
        """Raises: _Closed (reader is gone, did not take it in time, or told to stop)."""
        rest = len(message).to_bytes(_LENGTH_BYTES, "big") + message
        until_s = time.monotonic() + self._patience_s
        while rest:
            self._wait(selectors.EVENT_WRITE, until_s)
            with _broken_is_closed():
                rest = rest[self._socket.send(rest) :]

    def _read(self, length: int, until_s: float | None) -> bytes:
        data = bytearray()
        while len(data) < length:
            # The driver sends length and data in two segments, the second only when the first is acknowledged. The
            # kernel delays that by 40 ms unless told otherwise, and forgets that it was told: say it each time.
            with _broken_is_closed():
                if sys.platform == "linux":
                    self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
                self._wait(selectors.EVENT_READ, until_s)
                part = self._socket.recv(length - len(data))
            if not part:
                raise _Closed
            data += part
        return bytes(data)

    def _wait(self, event: int, until_s: float | None) -> None:
        with selectors.DefaultSelector() as selector:
            ready = selector.register(self._socket, event)
            stop = selector.register(self._stopped, selectors.EVENT_READ)
            left_s = None if until_s is None else max(0.0, until_s - time.monotonic())
            found = [key for key, _ in selector.select(left_s)]
        if stop in found or ready not in found:
            raise _Closed


def parse_address(address: str) -> tuple[str, int]:
    """HOST, HOST:PORT or [IPV6]:PORT; without a port, the driver's own. Raises: SettingsInvalid."""
    found = _ADDRESS.fullmatch(address)
    port = DEFAULT_PORT if found is None or found[2] is None else int(found[2])
    if found is None or not 1 <= port <= _MAX_PORT:
        raise SettingsInvalid(f"virtual reader must be HOST[:PORT], not {address!r}")
    return found[1].strip("[]"), port
