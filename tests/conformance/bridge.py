"""The way to this project's secure element and applet, which no server offers to strangers: a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conformance.bundle import Played, Tested
from conformance.calls import Refusal, Tls
from conformance.wire import Key, Signer
from cryptography.hazmat.primitives.asymmetric import ec

TESTS = Path(__file__).parent.parent
STOP_S = 10.0


def key_of(scalar: str) -> Key:
    """A private key on P-256."""
    return Key(ec.derive_private_key(int(scalar, 16), ec.SECP256R1()))


class Bridge:
    """Starts `our_phone.py` and asks it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(TESTS / "conformance" / "our_phone.py")], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, cwd=TESTS.parent,
            env={**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}"},
        )  # fmt: skip
        told = self.ask("parties")
        tsm, merchant, bank, emv = (told[name] for name in ("tsm", "merchant", "bank", "emv"))
        self.tsm = Tested(tsm["name"], "", "", bytes.fromhex(tsm["sign"]), bytes.fromhex(tsm["seal"]))
        self.merchant = Played(merchant["name"], key_of(merchant["sign"]), Key.new(), Tls(b""))
        self.bank = Signer(bank["name"], key_of(bank["sign"]))
        self.ca = (bytes.fromhex(emv["rid"]), emv["index"], int(emv["modulus"], 16), 65537)

    def ask(self, order: str, **arguments: Any) -> dict[str, Any]:
        """One order and its answer. Raises: Refusal."""
        plain = {name: value.hex() if isinstance(value, bytes) else value for name, value in arguments.items()}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"order": order, **plain}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "our side of the bridge ended"
        answer: dict[str, Any] = json.loads(line)
        if "code" in answer:
            raise Refusal(answer["code"], answer["status"])
        return answer

    def phone(self, cards: int = 0) -> OurPhone:
        """A new phone, registered at the TSM, with so many active cards."""
        told = self.ask("phone", cards=cards)
        wallet = Signer(told["name"], key_of(told["wallet"]))
        tested = Tested(told["name"], "", "", bytes.fromhex(told["sign"]), b"")
        return OurPhone(self, tested, wallet, told["user"], told["tid"])

    @contextmanager
    def later(self, seconds: int) -> Iterator[None]:
        """For a while, it is later."""
        self.ask("wait", seconds=seconds)
        try:
            yield
        finally:
            self.ask("wait", seconds=-seconds)

    def close(self) -> None:
        """End of input ends the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(STOP_S)
        self._process.stdout.close()


@dataclass(frozen=True)
class Line:
    """The way to one party behind the bridge; `peer` is the merchant that TLS would name."""

    bridge: Bridge
    party: str
    peer: str = ""

    def call(self, rpc: str, cose: bytes, session: bytes = b"", /) -> bytes:
        """The reply's `cose`. Raises: Refusal."""
        asked = self.bridge.ask("call", party=self.party, rpc=rpc, cose=cose, session=session, peer=self.peer)
        assert asked["session"] == "", "a reply carries no session"
        return bytes.fromhex(asked["cose"])


@dataclass(frozen=True)
class OurPhone:
    """A phone of ours: its SE under test, and the wallet key by which the suite is its wallet."""

    bridge: Bridge
    tested: Tested
    wallet: Signer
    user: str
    tid: str

    @property
    def name(self) -> str:
        return self.tested.name

    @property
    def line(self) -> Line:
        return Line(self.bridge, self.name)

    def transmit(self, command: bytes, channel: str = "contactless") -> bytes:
        """One APDU."""
        return bytes.fromhex(self.bridge.ask("apdu", phone=self.name, command=command, channel=channel)["answer"])

    def reset(self) -> None:
        """Out of the field, and in again."""
        self.bridge.ask("reset", phone=self.name)

    def secrets(self) -> dict[str, bytes]:
        """kAC by PAN."""
        return {pan: bytes.fromhex(key) for pan, key in self.bridge.ask("secrets", phone=self.name).items()}

    def snapshot(self) -> str:
        """All that the SE keeps."""
        return str(self.bridge.ask("snapshot", party=self.name)["rows"])
