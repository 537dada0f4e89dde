"""A TCP proxy that loses answers: the server has decided, and the client never hears of it."""

from __future__ import annotations

import contextlib
import enum
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from typing import Final

CHUNK = 65536


class FaultProxy:
    """Passes bytes both ways. While `cut_when` says yes, what the server sends is dropped and the connection with it.

    `cut_when` looks at what the server did (its log, which it writes before it answers), so no timing is involved.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self.cut_when: Callable[[], bool] | None = None
        self.cuts = 0
        self._spawn(self._accept)

    @property
    def address(self) -> str:
        """HOST:PORT for the client."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        """End all connections and threads."""
        _end(self._listener)
        with self._lock:
            pending = list(self._open)
        for connection in pending:
            _end(connection)
        for thread in self._threads:
            thread.join(5)

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _spawn(self, run: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=run, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            with self._lock:
                self._open |= {client, server}
            self._spawn(self._pass, client, server, None)
            self._spawn(self._pass, server, client, self._cut)

    def _cut(self) -> bool:
        if self.cut_when is None or not self.cut_when():
            return False
        self.cuts += 1
        return True

    def _pass(self, source: socket.socket, sink: socket.socket, cut: Callable[[], bool] | None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                if cut is not None and cut():
                    break
                if cut is None:
                    sink.sendall(data)
                else:
                    self._send(data, source, sink)
        _end(source)
        _end(sink)
        with self._lock:
            self._open -= {source, sink}

    def _send(self, data: bytes, source: socket.socket, sink: socket.socket) -> None:
        """Pass on what the server sends."""
        sink.sendall(data)


class Fault(enum.StrEnum):
    """What a line does to what the server answers."""

    NONE = "none"
    HANG = "hang"
    """Nothing comes through, and nobody hangs up."""
    RESET = "reset"
    """The request arrives; then the connection is reset instead of the answer."""
    TWICE = "twice"
    """Whatever the server sends is sent twice, which TLS must notice."""
    LATE = "late"
    """The answer comes after `LATE_S`: when the client has stopped waiting, and asked again."""


class BadLine(FaultProxy):
    """A line that misbehaves as `fault` says, at each piece of what the server sends."""

    LATE_S: Final = 2.5

    def __init__(self, target: str) -> None:
        self.fault = Fault.NONE
        self.met: Counter[Fault] = Counter()
        self._closed = threading.Event()
        super().__init__(target)

    def close(self) -> None:
        self._closed.set()
        super().close()

    def _send(self, data: bytes, source: socket.socket, sink: socket.socket) -> None:
        fault = self.fault
        self.met[fault] += 1
        if fault is Fault.HANG:
            while self.fault is Fault.HANG and not self._closed.wait(0.02):
                pass
            raise ConnectionAbortedError  # what was held back is lost
        if fault is Fault.RESET:
            sink.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            raise ConnectionResetError
        if fault is Fault.LATE:
            self._closed.wait(self.LATE_S)
        sink.sendall(data * 2 if fault is Fault.TWICE else data)


_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER of no time: what is closed is reset."""


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        is_reset = connection.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, len(_RESET)) == _RESET
        connection.shutdown(socket.SHUT_RD if is_reset else socket.SHUT_RDWR)
    connection.close()
