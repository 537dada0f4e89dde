"""A PC/SC service of the tests' own: pcscd with the vpcd driver, in a network and a mount namespace of its own.

vpcd listens on all addresses, so the network has nothing but a loopback interface. pcscd's socket has a fixed path, so
a private folder is mounted there. Two test workers, or the machine's own pcscd, are not in each other's way.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

READER = "Virtual PCD 00 00"
PORT = 35963
"""The first of the driver's two slots."""
DRIVER = Path("/usr/lib/pcsc/drivers/serial/libifdvpcd.so")
CLONE_NEWNET = 0x40000000
_START = """
mount -t tmpfs tmpfs /run && mkdir /run/pcscd && mount --bind "$1" /run/pcscd &&
ip link set lo up && exec pcscd --foreground --config "$2"
"""


def wait_until(true: Callable[[], object], *, seconds: float = 10.0) -> None:
    """Raises: AssertionError when it does not become true in time."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "did not come about in time"
        time.sleep(0.01)


class Pcscd:
    """A running service; close it."""

    def __init__(self) -> None:
        # A Unix socket's path has 107 bytes at most, which a test's own folder may exceed.
        self.folder = Path(tempfile.mkdtemp(prefix="tapveil-pcsc-"))
        self.socket = self.folder / "run/pcscd.comm"
        self._network: int | None = None
        self._doors: list[socket.socket] = []
        (self.folder / "run").mkdir()
        (self.folder / "conf").mkdir()
        (self.folder / "conf/vpcd").write_text(
            f'FRIENDLYNAME "Virtual PCD"\nDEVICENAME /dev/null:{PORT:#x}\nLIBPATH {DRIVER}\nCHANNELID {PORT:#x}\n'
        )
        self._log = (self.folder / "log").open("wb")
        self.start()

    @property
    def environment(self) -> dict[str, str]:
        """For programs that are to find this service."""
        return {**os.environ, "PCSCLITE_CSOCK_NAME": str(self.socket), "HOME": str(self.folder)}

    def start(self) -> None:
        """Start, in the network of the one before if there was one. A killed test run takes the service with it."""
        own = ["unshare", "--mount"]
        network = ["unshare", "--net"] if self._network is None else ["nsenter", f"--net=/proc/self/fd/{self._network}"]
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *network, *own, "sh", "-c", _START, "sh",
             str(self.folder / "run"), str(self.folder / "conf")],
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
            pass_fds=[] if self._network is None else [self._network],
        )  # fmt: skip
        try:
            wait_until(lambda: self.socket.exists() or self._process.poll() is not None)
            assert self._process.poll() is None, (self.folder / "log").read_text()
        except AssertionError:
            self.close()
            raise
        if self._network is None:
            self._network = os.open(f"/proc/{self._process.pid}/ns/net", os.O_RDONLY)

    def kill(self) -> None:
        """End it as a crash does."""
        self._process.kill()
        self._process.wait()
        self.socket.unlink(missing_ok=True)

    def close(self) -> None:
        """End it, and leave nothing behind."""
        for door in self._doors:
            door.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
            door.close()
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()
        self._log.close()
        if self._network is not None:
            os.close(self._network)
        shutil.rmtree(self.folder)

    def expose(self) -> str:
        """HOST:PORT of the driver's first slot, for a card in another process, which has this machine's network."""
        door = socket.create_server(("127.0.0.1", 0))
        self._doors.append(door)
        self.inside(threading.Thread(target=_relay, args=(door,), daemon=True).start)
        return f"127.0.0.1:{door.getsockname()[1]}"

    def inside(self, work: Callable[[], None]) -> None:
        """Run `work` in the service's network. Threads that it starts stay there; the caller's thread never goes."""
        problems: list[BaseException] = []

        def run() -> None:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(self._network, CLONE_NEWNET) != 0:
                problems.append(OSError(ctypes.get_errno(), "setns"))
                return
            work()

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        assert not problems, problems


def _relay(door: socket.socket) -> None:
    # A socket stays in the network that it was made in, so this thread has one end in each.
    while True:
        try:
            outer, _ = door.accept()
        except OSError:
            return
        with outer, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", PORT)) as inner:
            _join(outer, inner)


def _join(outer: socket.socket, inner: socket.socket) -> None:
    with selectors.DefaultSelector() as selector:
        for end, other in ((outer, inner), (inner, outer)):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(end, selectors.EVENT_READ, other)
        while True:
            for key, _ in selector.select():
                end, other = key.fileobj, key.data
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
                data = end.recv(4096)
                if not data:
                    return
                other.sendall(data)
