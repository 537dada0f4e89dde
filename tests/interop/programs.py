"""The programs that read the card, each as a person would run it. Each returns what it printed, or what that says."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from interop import cards
from interop.daemon import DRIVER, READER, Pcscd
from interop.reading import Reading, Trace, opening_commands, parse_trace, parse_view, purchase_commands

from protocol.card.outcome import CardLost

ROOT = Path(__file__).parents[2]
READERS = ROOT / ".interop/readers/bin/python"
EMV = ROOT / ".interop/emv/bin/python"
EMVTOOL = ROOT / ".interop/emv/bin/emvtool"
SCRIPTS = Path(__file__).parent / "readers"
_COMMANDS = ("pcscd", "opensc-tool", "cardpeek", "unshare", "nsenter", "setpriv", "prlimit", "ip")
_RECEIVED = re.compile(r"Received \(SW1=0x(..), SW2=0x(..)\)(:?)\n((?:(?:[0-9A-F]{2} ){1,16}.*\n)*)")
_BOUND = ["prlimit", "--fsize=1048576"]
"""A program that prints without end is killed, and not only when its time is up."""


def find_missing() -> list[str]:
    """What the tests need and this machine has not."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    there = {entry.name for folder in path.split(":") if Path(folder).is_dir() for entry in Path(folder).iterdir()}
    missing = [command for command in _COMMANDS if command not in there]
    missing += [str(file.relative_to(ROOT)) for file in (READERS, EMV, EMVTOOL) if not file.exists()]
    missing += [] if DRIVER.exists() else ["vsmartcard-vpcd"]
    return missing + ([] if os.geteuid() == 0 else ["root, for a network namespace"])


def need_programs() -> None:
    """Skip, or fail where these tests are required, and say what is missing."""
    missing = find_missing()
    if missing:
        reason = f"missing: {', '.join(missing)}; as root: make interop-deps"
        if os.environ.get("TAPVEIL_INTEROP") == "required":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


def run(pcscd: Pcscd, *command: str | Path, text_in: str = "", ok: bool = True) -> str:
    """Run to the end; standard output, bounded. It is shown by `pytest -rP`."""
    environment = pcscd.environment | {"PYTHONPATH": str(ROOT), "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    with (pcscd.folder / "out").open("w+") as out, (pcscd.folder / "err").open("w+") as err:
        done = subprocess.run(
            [*_BOUND, *map(str, command)], input=text_in, stdout=out, stderr=err, text=True, timeout=20,
            env=environment, check=False, cwd=pcscd.folder,
        )  # fmt: skip
        out.seek(0)
        err.seek(0)
        shown, problems = out.read(), err.read()
    print(f"$ {' '.join(Path(word).name for word in map(str, command[:4]))} …\n{shown}")
    assert not ok or done.returncode == 0, f"{done.returncode}: {problems[-2000:]}"
    return shown


def is_present(pcscd: Pcscd, reader: str) -> bool:
    """Does opensc-tool list a card in the reader?"""
    lines = run(pcscd, "opensc-tool", "--list-readers").splitlines()
    return any(line.endswith(reader) and " Yes " in line for line in lines)


def send_with_opensc(pcscd: Pcscd, commands: list[bytes]) -> Trace:
    """opensc-tool -s, once a command. The default driver, since the others try the card with commands of their own."""
    sends = [word for command in commands for word in ("-s", command.hex())]
    shown = run(pcscd, "opensc-tool", "--reader", READER, "--card-driver", "default", *sends)
    answers = []
    for sw1, sw2, _, lines in _RECEIVED.findall(shown):
        data = "".join(line[:48] for line in lines.splitlines())
        answers.append(bytes.fromhex(data + sw1 + sw2))
    return list(zip(commands, answers, strict=True))


def read_with_opensc(pcscd: Pcscd) -> Reading:
    """Twice, since the tool cannot decide what to send by what it got."""
    locator = parse_trace(send_with_opensc(pcscd, opening_commands())).afl
    return parse_trace(send_with_opensc(pcscd, purchase_commands(locator)))


def run_emv(pcscd: Pcscd) -> dict[str, Any]:
    """python-emv's purchase: what passed, what it made of it."""
    power_off(pcscd)
    given = json.dumps({f"{tag:X}": value.hex() for tag, value in cards.TERMINAL.items()})
    result: dict[str, Any] = json.loads(run(pcscd, EMV, SCRIPTS / "emv_reader.py", READER, given))
    return result


def power_off(pcscd: Pcscd) -> None:
    """Let the next program choose the protocol: while the card has power, it keeps the one it was first read with.

    python-emv insists on T=0, and the service gives T=1 to who leaves the choice to it.
    """
    with PcscPipe(pcscd) as pipe:  # powers the card off when it lets go
        assert pipe.first == "ready"


def read_with_emv(pcscd: Pcscd) -> Reading:
    """As python-emv's transport received it."""
    return parse_trace(_pairs(run_emv(pcscd)["trace"]))


def run_nfcpy(pcscd: Pcscd, commands: list[bytes]) -> dict[str, Any]:
    """nfcpy's reader, and the simulated field's counts."""
    lines = "".join(command.hex() + "\n" for command in commands)
    result: dict[str, Any] = json.loads(run(pcscd, READERS, SCRIPTS / "nfc_reader.py", READER, text_in=lines))
    return result


def read_with_nfcpy(pcscd: Pcscd) -> Reading:
    """Twice, as with opensc-tool."""
    locator = parse_trace(_pairs(run_nfcpy(pcscd, opening_commands())["trace"])).afl
    return parse_trace(_pairs(run_nfcpy(pcscd, purchase_commands(locator))["trace"]))


def _pairs(trace: list[list[str]]) -> Trace:
    return [(bytes.fromhex(command), bytes.fromhex(answer)) for command, answer in trace]


def read_with_cardpeek(pcscd: Pcscd) -> Reading:
    """Its EMV script walks directory, application and records by itself, and saves the tree it would show."""
    home = pcscd.folder / ".cardpeek"
    if not home.exists():
        # A first run only unpacks its scripts, after a question; at the end of input it would prompt without end.
        run(pcscd, "cardpeek", "-c", "-r", f"pcsc://{READER}", "-e", "os.exit(0)", text_in="1\n1\n")
    view = pcscd.folder / "view.xml"
    script = f'dofile("{home}/scripts/emv.lua"); ui.save_view("{view}"); os.exit(0)'
    run(pcscd, "cardpeek", "-c", "-r", f"pcsc://{READER}", "-e", script, text_in="1\n" * 8)
    return parse_view(view.read_text())


class PcscPipe:
    """The merchant's PC/SC link, in the environment that has pyscard."""

    def __init__(self, pcscd: Pcscd, reader: str = READER, *, environment: dict[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [READERS, SCRIPTS / "pcsc_reader.py", reader], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=pcscd.environment | {"PYTHONPATH": str(ROOT)} | (environment or {}),
        )  # fmt: skip
        self.first = self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def send(self, command: bytes) -> str:
        """The line that comes back."""
        assert self._process.stdin is not None
        self._process.stdin.write(command.hex() + "\n")
        self._process.stdin.flush()
        return self._line()

    def transmit(self, command: bytes) -> bytes:
        """The card's answer. Raises: CardLost."""
        kind, _, answer = self.send(command).partition(" ")
        if kind == "lost":
            raise CardLost("the reader lost the card")
        assert kind == "answer"
        return bytes.fromhex(answer)

    def close(self) -> None:
        """Let go of the card."""
        self._process.communicate(timeout=10)

    def __enter__(self) -> PcscPipe:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_with_link(pcscd: Pcscd) -> Reading:
    """The merchant's own link."""
    with PcscPipe(pcscd) as pipe:
        assert pipe.first == "ready"
        trace: Trace = [(command, pipe.transmit(command)) for command in opening_commands()]
        trace += [(command, pipe.transmit(command)) for command in purchase_commands(parse_trace(trace).afl)]
        return parse_trace(trace)
