"""A TCP proxy that loses answers: the server has decided, and the client never hears of it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

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
                sink.sendall(data)
        _end(source)
        _end(sink)
        with self._lock:
            self._open -= {source, sink}


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
