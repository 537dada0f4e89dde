"""A process that has loaded the program once, and forks each server from it: loading takes longer than starting.

Nothing has run in the template but imports: it has no thread, no gRPC object, no key. What it forks is what the command
`tapveil serve` is: a process with a session of its own, no input, its own output and log. The template ends with the
process that made it; its servers do not, as no server does.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from typing import BinaryIO, Final

from protocol.errors import Unavailable

LOAD_S: Final = 30.0
END_S: Final = 5.0
UNKNOWN_STATUS: Final = 255
"""The exit status of a server whose template was killed before it: nobody was told how it ended."""
MAX_REQUEST_BYTES: Final = 16 * 1024
_WORD: Final = struct.Struct("<q")
"""What the template says of a server: its process number first, its exit status when it ends."""


class ServerProcess:
    """A server that was forked: what `subprocess.Popen` is for a child of one's own."""

    def __init__(self, pid: int, stdout: int, words: int) -> None:
        """Two pipes to read: its output, and the template's words on it, closed when both have ended."""
        self.pid = pid
        self.stdout = os.fdopen(stdout, "r", encoding="utf-8")
        self._words = words
        self._status: int | None = None

    def wait(self, seconds: float) -> int | None:
        """Its exit status as soon as it has one, negative for a signal; None if it still runs then."""
        if self._status is None and select.select([self._words], [], [], seconds)[0]:
            self._status = _heard(self._words, UNKNOWN_STATUS)
        return self._status

    def terminate(self) -> None:
        """SIGTERM, which drains it."""
        if self.wait(0) is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def end(self) -> None:
        """SIGKILL for all that is left of it, and wait for that."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait(END_S)
        self.stdout.close()
        os.close(self._words)


class Template:
    """The template as its maker sees it. Any thread may call."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        self._lock = threading.Lock()
        command = [sys.executable, "-m", "parties.template", str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  # our own command
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
                start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """Its process number."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Can it still fork?"""
        return self._process.poll() is None

    def fork(self, arguments: list[str], log: BinaryIO) -> ServerProcess:
        """A new process that runs `tapveil` with these arguments; its errors go to `log`.

        Raises: Unavailable if the template does not load, or was killed.
        """
        stdout, its_stdout = os.pipe()
        words, its_words = os.pipe()
        pid = 0
        with self._lock:
            try:
                request = json.dumps(arguments).encode()
                socket.send_fds(self._control, [request], [its_stdout, log.fileno(), its_words])
            except BrokenPipeError:
                pass  # then it says nothing either
            finally:
                os.close(its_stdout)
                os.close(its_words)
            if select.select([words], [], [], LOAD_S)[0]:
                pid = _heard(words, 0)
        if not pid:
            os.close(stdout)
            os.close(words)
            raise Unavailable("the process that servers are forked from does not answer")
        return ServerProcess(pid, stdout, words)

    def close(self) -> None:
        """It ends by itself when nobody can ask it any more."""
        self._control.close()
        self._process.wait()


def _heard(words: int, silence: int) -> int:
    word = os.read(words, _WORD.size)
    return int(_WORD.unpack(word)[0]) if word else silence


def _say(words: int, word: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody wants to know any more
        os.write(words, _WORD.pack(word))


def fork_on_request(control: socket.socket) -> list[str] | None:
    """Fork as asked, until nobody is left to ask: None. In a server that was forked: its arguments."""
    running: dict[int, tuple[int, int]] = {}  # a pipe that ends with the server → its process number, where to say so
    while True:
        for readable in select.select([control.fileno(), *running], [], [])[0]:
            if readable in running:
                pid, words = running.pop(readable)
                _say(words, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                os.close(words)
                os.close(readable)
                continue
            request, descriptors, *_ = socket.recv_fds(control, MAX_REQUEST_BYTES, 3)
            if not request:
                return None
            if _is_child(running, *descriptors):
                control.close()
                return list(json.loads(request))


def _is_child(running: dict[int, tuple[int, int]], stdout: int, stderr: int, words: int) -> bool:
    """Fork."""
    ended, held = os.pipe()
    pid = os.fork()
    if pid == 0:  # it keeps `held` and `words`, which end with it, and nothing of the other servers
        for other, (_, others_words) in running.items():
            os.close(other)
            os.close(others_words)
        os.close(ended)
        os.setsid()
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
    else:
        _say(words, pid)
        os.close(held)
        running[ended] = pid, words
    os.close(stdout)
    os.close(stderr)
    return pid == 0


def main() -> None:
    """`python -m parties.template DESCRIPTOR`: the template's end of a socket."""
    gc.disable()  # nothing that is loaded is garbage
    import sqlalchemy.dialects.sqlite  # noqa: F401  # SQLAlchemy loads it when a database is opened

    import parties.serve  # noqa: F401  # `tapveil serve` loads it when it is called
    from parties.cli import main as tapveil

    gc.freeze()  # else each server looks through all that was loaded, copying it, which costs more than its start
    gc.enable()
    arguments = fork_on_request(socket.socket(fileno=int(sys.argv[1])))
    if arguments is not None:
        tapveil(arguments, prog_name="tapveil")


if __name__ == "__main__":
    main()
