"""A whole environment in one process: real keys, databases and steps, without sockets, so that a cost has one place."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from parties.assembly.common import Opened
from parties.assembly.roles import STEPS, build_tsm
from parties.branch import add_customer
from parties.release import SOFTWARE
from parties.settings import load_settings
from parties.setup import Plan, create_environment
from parties.storage.roles import TABLES
from parties.storage.store import DatabaseStore
from parties.wallet.phone import PhoneSession
from protocol.engine import Engine, Peer
from protocol.envelope import Wire
from protocol.roles.tsm.stops import refresh_stops
from protocol.roles.wallet import Call, Exchanged, Flow, Wallet, attest, enroll, issue_cards, open_account, register
from protocol.rows import MemoryStore
from protocol.types import Purpose, Role

T = TypeVar("T")
BANK: Final = "bank-a"
TSM: Final = "tsm-1"
SHOP: Final = "shop-1"
PHONE: Final = "phone-1"
PASSCODE: Final = "bench-7351"
_LIMIT_MINOR: Final = 20_000_000
_LOOK_S: Final = 0.2
_PATIENCE: Final = 100


@dataclass
class Citizen:
    """One party of the town: what it opened, its rows and its engine."""

    opened: Opened
    store: DatabaseStore | MemoryStore
    steps: dict[str, Any]
    engine: Engine


@dataclass
class Town:
    """Two banks, TSM, software provider, merchant and phone over databases in one folder."""

    folder: Path
    citizens: dict[str, Citizen] = field(default_factory=dict)
    spent_ms: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Processor time of each RPC, without that of the parties that it asked."""
    _asked_ms: list[float] = field(default_factory=lambda: [0.0], repr=False)

    def call(self, peer: str, rpc: str, request: Wire, caller: Peer | None = None) -> Wire:
        """One request, answered at once. Raises: the refusal."""
        self._asked_ms.append(0.0)
        before_ns = time.thread_time_ns()
        try:
            return self.citizens[peer].engine.handle(rpc, request, caller)
        finally:
            taken_ms = (time.thread_time_ns() - before_ns) / 1e6
            self.spent_ms[rpc] += taken_ms - self._asked_ms.pop()
            self._asked_ms[-1] += taken_ms

    def run(self, flow: Flow[T]) -> T:
        """A wallet's whole flow. Banks see who calls, the TSM does not."""
        phone = Peer(role=Role.PHONE, name=PHONE)
        try:
            call: Call = next(flow)
            while True:
                name = PHONE if call.peer == "se" else call.peer
                role = self.citizens[name].opened.settings.role
                caller = phone if role in (Role.BANK, Role.SE) else None
                call = flow.send(Exchanged(sent=call.wire, reply=self.call(name, call.rpc, call.wire, caller)))
        except StopIteration as done:
            result: T = done.value
            return result

    def fetch_stops(self) -> None:
        """What the TSM's server does every minute: on a list that is too old nothing is approved."""
        tsm = self.citizens[TSM]
        for bank in tsm.opened.settings.peers:
            peers = _Callers(self, Peer(role=Role.TSM, name=TSM))
            now_s = tsm.opened.clock.now_s()
            refresh_stops(build_tsm(tsm.opened), bank, tsm.store, peers, now_s, tsm.opened.entropy)

    def wallet(self) -> Wallet:
        """The phone's wallet."""
        with PhoneSession(self.folder / PHONE / "wallet") as session:
            return session.wallet


class _Callers:
    """How one party of the town reaches another."""

    def __init__(self, town: Town, me: Peer) -> None:
        self._town, self._me = town, me

    def call(self, peer: str, rpc: str, request: Wire) -> Wire:
        return self._town.call(peer, rpc, request, self._me)


@contextmanager
def open_town() -> Iterator[Town]:
    """Make an environment in a temporary folder and open all its parties; all is gone afterwards."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tapveil-bench-")))
        create_environment(folder, Plan(merchants=(SHOP,), phones=(PHONE,), base_port=0), lambda _party: None)
        town = Town(folder)
        for path in sorted(folder.rglob("settings.toml")):
            if path.parent.name != "wallet":
                _open(town, path, stack)
        town.fetch_stops()
        yield town


def _open(town: Town, path: Path, stack: ExitStack) -> None:
    opened = Opened.of(load_settings(path))
    settings = opened.settings
    store: DatabaseStore | MemoryStore = MemoryStore()
    if settings.role.value in TABLES:
        store = opened.store()
        stack.callback(store.close)
    steps = STEPS[settings.role](opened)
    peers = _Callers(town, Peer(role=settings.role, name=settings.name))
    engine = Engine(steps, store=store, clock=opened.clock, entropy=opened.entropy, peers=peers)
    town.citizens[settings.name] = Citizen(opened=opened, store=store, steps=steps, engine=engine)


def register_phone(town: Town, *, cards: int) -> str:
    """INIT, ATT, AID, TID and CARD for the one phone; its TID."""
    person = add_customer(
        town.folder / BANK / "settings.toml", name="Bench", limit_minor=_LIMIT_MINOR, currency="TWD",
        passcode=PASSCODE,
    )  # fmt: skip
    wallet = town.wallet()
    town.run(enroll(wallet, bank=BANK, branch_code=person.branch_code))
    application = town.folder / PHONE / "app" / f"{SOFTWARE}.pyz"
    for purpose in (Purpose.INSTALL, Purpose.REPORT, Purpose.LAUNCH):
        assert town.run(attest(wallet, bank=BANK, purpose=purpose, software=SOFTWARE)).allowed
        if purpose is Purpose.INSTALL:
            application.write_bytes((town.folder / "sp-1" / "package.pyz").read_bytes())
    aid = town.run(open_account(wallet, bank=BANK, tsm=TSM, software=SOFTWARE, passcode=PASSCODE)).aid
    tid = town.run(register(wallet, tsm=TSM, aid=aid, maximum_minor=0)).tid
    while cards > 0:
        town.run(issue_cards(wallet, tsm=TSM, tid=tid, number=min(cards, 32)))
        cards -= 32
    return tid


def settle() -> None:
    """Until nothing else works in this process: the phone makes card keys ahead, in a thread that others would feel."""
    for _ in range(_PATIENCE):
        before_s = time.process_time()
        time.sleep(_LOOK_S)
        if time.process_time() - before_s < _LOOK_S / 20:
            return
