"""Servers are forked from a process that has loaded the program, and are processes as any other all the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from parties.deployment import Deployment
from parties.keystore import GENERATED
from parties.setup import Plan, create_environment
from parties.template import UNKNOWN_STATUS, Template
from protocol.errors import Unavailable

pytestmark = pytest.mark.real
BANK, PROVIDER = "bank-a", "sp-1"
MAKER = """
import pathlib, signal, sys, time
from parties.deployment import Deployment

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell runs the tests in the background
with Deployment(pathlib.Path(sys.argv[1])) as deployment:
    deployment.start("sp-1")
    print(deployment.pid("sp-1"), flush=True)
    time.sleep(60)
"""


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("processes") / "env"
    with Deployment(folder) as deployment:
        plan = Plan(base_port=0, cost=GENERATED, banks=(BANK,), merchants=(), phones=())
        create_environment(folder, plan, lambda _party: None)
        yield deployment


def parent(pid: int) -> int:
    """The process above this one."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def gone(pid: int) -> bool:
    """Has it ended, though nobody may have asked how?"""
    status = Path(f"/proc/{pid}/status")
    return not status.exists() or "\nState:\tZ" in status.read_text()


def eventually(look: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 10
    while not look():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def test_the_template_has_one_thread_and_no_file_of_a_party(deployment: Deployment) -> None:
    """Threads and gRPC objects do not live through a fork, and keys must not be shared by it."""
    deployment.start(BANK, PROVIDER)
    template = parent(deployment.pid(BANK))
    assert template == parent(deployment.pid(PROVIDER)) != os.getpid()
    assert len(list(Path(f"/proc/{template}/task").iterdir())) == 1
    opened = {str(path.readlink()) for path in Path(f"/proc/{template}/fd").iterdir()}
    assert not [path for path in opened if str(deployment.folder) in path]
    assert (deployment.stop(BANK), deployment.stop(PROVIDER)) == (0, 0)


def test_each_server_has_its_own_session_and_only_its_own_files(deployment: Deployment) -> None:
    deployment.start(BANK, PROVIDER)
    pids = {party: deployment.pid(party) for party in (BANK, PROVIDER)}
    pipes = {}
    for party, pid in pids.items():
        assert (os.getsid(pid), os.getpgid(pid)) == (pid, pid)
        descriptors = {path.name: str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}
        assert descriptors["0"] == "/dev/null"
        assert descriptors["2"] == str(deployment.folder / party / "log.jsonl")
        pipes[party] = {target for target in descriptors.values() if target.startswith("pipe:")}
        others = str(deployment.folder / (BANK if party == PROVIDER else PROVIDER))
        assert not [target for target in descriptors.values() if target.startswith(others)]
    assert pipes[BANK].isdisjoint(pipes[PROVIDER])
    deployment.kill(BANK)
    assert gone(pids[BANK])
    assert not gone(pids[PROVIDER])
    assert deployment.stop(PROVIDER) == 0


def test_a_server_that_was_killed_is_told_by_its_status(deployment: Deployment) -> None:
    deployment.start(PROVIDER)
    os.kill(deployment.pid(PROVIDER), signal.SIGKILL)
    eventually(lambda: gone(deployment.pid(PROVIDER)))
    assert deployment.stop(PROVIDER) == -signal.SIGKILL


def test_a_server_that_does_not_start_says_why(deployment: Deployment) -> None:
    passphrase = deployment.folder / PROVIDER / "passphrase"
    right = passphrase.read_bytes()
    passphrase.write_bytes(b"another")
    with pytest.raises(Unavailable, match=r"^sp-1 did not start: tapveil: KEYSTORE_LOCKED: ") as refused:
        deployment.start(PROVIDER)
    assert refused.value.code == "UNAVAILABLE"
    passphrase.write_bytes(right)
    deployment.start(PROVIDER)
    assert deployment.stop(PROVIDER) == 0


def test_servers_outlive_a_killed_template_and_the_next_has_another(deployment: Deployment) -> None:
    deployment.start(BANK)
    template = parent(deployment.pid(BANK))
    os.kill(template, signal.SIGKILL)
    eventually(lambda: gone(template))
    deployment.start(PROVIDER)
    assert parent(deployment.pid(PROVIDER)) not in {template, parent(deployment.pid(BANK))}
    assert not gone(deployment.pid(BANK))
    assert deployment.stop(BANK) == UNKNOWN_STATUS  # it drained, but nobody was told
    assert "draining" in (deployment.folder / BANK / "log.jsonl").read_text().splitlines()[-1]
    assert deployment.stop(PROVIDER) == 0


def test_a_template_that_can_not_answer_is_unavailable(tmp_path: Path) -> None:
    template = Template()
    os.kill(template.pid, signal.SIGKILL)
    with (tmp_path / "log").open("ab") as log, pytest.raises(Unavailable) as refused:
        template.fork(["--version"], log)
    assert refused.value.code == "UNAVAILABLE"
    template.close()


@pytest.mark.parametrize(("number", "servers_go_on"), [(signal.SIGKILL, True), (signal.SIGINT, False)])
def test_the_template_ends_with_its_maker(deployment: Deployment, number: signal.Signals, servers_go_on: bool) -> None:
    """Interrupted, the maker drains its servers; killed, it can't, and they go on as servers do."""
    command = [sys.executable, "-c", MAKER, str(deployment.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as maker:
        assert maker.stdout is not None
        server = int(maker.stdout.readline())
        template = parent(server)
        maker.send_signal(number)
        assert maker.wait(20) in {-number, 1}
    eventually(lambda: gone(template))
    try:
        assert gone(server) != servers_go_on
    finally:
        if servers_go_on:
            os.kill(server, signal.SIGTERM)
    eventually(lambda: gone(server))
