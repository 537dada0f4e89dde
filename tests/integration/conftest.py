"""One town of real processes for all tests that need one: banks, TSM, provider, a shop, and phones on demand."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
import tomli_w
from support.postgres import Server

from parties.assembly.common import Opened
from parties.branch import OpenedCustomer, add_customer
from parties.client import MerchantClient
from parties.deployment import Deployment
from parties.keystore import GENERATED
from parties.launcher import Launcher
from parties.server.capture import Captured, read_capture
from parties.settings import load_settings
from parties.setup import Plan, create_environment
from parties.storage.store import DatabaseStore, open_store
from parties.wallet.paying import Place, pay
from parties.wallet.phone import PhoneSession
from protocol.envelope import Wire
from protocol.errors import Unavailable
from protocol.messages.se import OpeningState
from protocol.roles.wallet import Flow, issue_cards, open_account, register
from protocol.rows import Table

T = TypeVar("T")
R = TypeVar("R")
PHONES = 9
NAME = "Ada Wongsakul"
PASSCODE = "wq-7351-zt"
LIMIT_MINOR = 100_000_000


class InterruptedPeers:
    """A phone's channels with an accident: `before` or `after` a call, once. After means that its answer is lost."""

    def __init__(self, peers: Any, rpc: str, *, before: Callable[[], None] | None, after: Callable[[], None] | None):
        self._peers, self._rpc, self._before, self._after = peers, rpc, before, after

    def call(self, peer: str, rpc: str, request: Wire) -> Wire:
        if rpc == self._rpc and self._before is not None:
            accident, self._before = self._before, None
            accident()
        answer: Wire = self._peers.call(peer, rpc, request)
        if rpc == self._rpc and self._after is not None:
            accident, self._after = self._after, None
            accident()
            raise Unavailable("the answer was lost")
        return answer

    def close(self) -> None:
        self._peers.close()


@dataclass
class Town:
    """The environment, its servers, and what people did in it."""

    folder: Path
    deployment: Deployment
    ready_phones: dict[str, OpenedCustomer] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    # --- servers -----------------------------------------------------------------------------------------------------
    def running(self, *parties: str) -> None:
        """Start those of these servers that do not run."""
        missing = [party for party in parties if party not in self.deployment.ready]
        if missing:
            self.deployment.start(*missing)

    def selling(self, shop: str) -> None:
        """A merchant that runs, and whose terminal is signed on."""
        if shop not in self.deployment.ready:
            signed_on = self.after_next("tsm-1", "Tsm.SignOn")
            self.running(shop)
            self.until(signed_on)

    @staticmethod
    def until(look: Callable[[], T], good: Callable[[T], object] = bool, *, seconds: float = 20.0) -> T:
        """What is seen, as soon as it is as wanted."""
        deadline_s = time.monotonic() + seconds
        while not good(found := look()):
            assert time.monotonic() < deadline_s, found
            time.sleep(0.05)
        return found

    def kill(self, party: str) -> None:
        """SIGKILL."""
        self.deployment.kill(party)
        del self.deployment.ready[party]

    def stop(self, party: str) -> int:
        """SIGTERM; the exit status."""
        status = self.deployment.stop(party)
        del self.deployment.ready[party]
        return status

    def settings(self, party: str) -> Path:
        return self.folder / party / "settings.toml"

    def opened(self, party: str) -> Opened:
        """The party's keystore and directory, as its server opens them."""
        return Opened.of(load_settings(self.settings(party)))

    def log(self, party: str) -> str:
        return (self.folder / party / "log.jsonl").read_text()

    def served(self, party: str, rpc: str) -> int:
        """How often the party answered this call."""
        return self.log(party).count(f'"rpc": "{rpc}"')

    def after_next(self, party: str, rpc: str) -> Callable[[], bool]:
        """True as soon as the party has answered this call once more."""
        before = self.served(party, rpc)
        return lambda: self.served(party, rpc) > before

    def captured(self, party: str) -> list[Captured]:
        return list(read_capture(self.folder / party / "capture.log"))

    @contextlib.contextmanager
    def store(self, party: str) -> Iterator[DatabaseStore]:
        opened = self.opened(party)
        store = open_store(opened.settings.database, opened.settings.role.value, opened.keystore.data_key())
        try:
            yield store
        finally:
            store.close()

    def rows(self, party: str, table: Table[R]) -> tuple[R, ...]:
        """All rows of a party's table, read from its database while it runs."""
        with self.store(party) as store:
            return store.scan(table)

    # --- phones ------------------------------------------------------------------------------------------------------
    def enrolled(self, phone: str, bank: str = "bank-a") -> OpenedCustomer:
        """A phone with the app on it, and its customer."""
        with self._lock:
            known = self.ready_phones.get(phone)
        if known is not None:
            self.running(f"{phone}/se")
            return known
        self.running(f"{phone}/se")
        customer = add_customer(
            self.settings(bank), name=NAME, limit_minor=LIMIT_MINOR, currency="TWD", passcode=PASSCODE
        )
        launcher = Launcher(self.folder / phone)
        launcher.enroll(bank=bank, branch_code=customer.branch_code)
        launcher.install(bank=bank, provider="sp-1")
        with self._lock:
            self.ready_phones[phone] = customer
        return customer

    def launched(self, phone: str) -> Launcher:
        """A phone whose last launch was good."""
        self.enrolled(phone)
        launcher = Launcher(self.folder / phone)
        assert launcher.launch(bank="bank-a").allowed
        return launcher

    @contextlib.contextmanager
    def session(self, phone: str) -> Iterator[PhoneSession]:
        with PhoneSession(self.folder / phone / "wallet") as session:
            yield session

    def run(self, phone: str, kind: str, make: Callable[[PhoneSession], Flow[T]], **accident: Any) -> T:
        """A flow in this process, as the app runs it; with an accident to one of its calls."""
        with self.session(phone) as session:
            if accident:
                session.channels = InterruptedPeers(  # type: ignore[assignment]
                    session.channels, accident["rpc"], before=accident.get("before"), after=accident.get("after")
                )
            return session.run(kind, make(session))

    def open_account(self, phone: str, *, name: str = "open", **accident: Any) -> str:
        """AID; with an accident: `rpc`, and `before` or `after`. The same name takes up what was cut off."""
        return self.run(
            phone, name,
            lambda s: open_account(
                s.wallet, bank="bank-a", tsm="tsm-1", software="tapveil-wallet", passcode=PASSCODE
            ),
            **accident,
        ).aid  # fmt: skip

    def register(self, phone: str, aid: str, **accident: Any) -> str:
        return self.run(
            phone, f"register-{aid}", lambda s: register(s.wallet, tsm="tsm-1", aid=aid, maximum_minor=0), **accident
        ).tid

    def issue(self, phone: str, tid: str, number: int = 1, **accident: Any) -> None:
        self.run(
            phone, f"issue-{tid}", lambda s: issue_cards(s.wallet, tsm="tsm-1", tid=tid, number=number), **accident
        )

    def bought(self, phone: str, shop: str, amount_minor: int, *, account: str) -> str:
        """The name of an approved sale: the phone opens this account, gets cards, and pays at the shop's till."""
        self.running("bank-a", "tsm-1")
        self.launched(phone)
        tid = self.register(phone, self.open_account(phone, name=account))
        self.issue(phone, tid, number=2)
        self.selling(shop)
        reader = self.opened(shop).settings.option_text("reader").removeprefix("grpc:")
        with MerchantClient(self.settings(shop)) as till, self.session(phone) as session:
            sale = till.start_sale(amount_minor).sale
            place = Place(reader=reader, seconds=20.0, stopped=threading.Event())
            assert pay(session, place, tid=tid, ceiling_minor=amount_minor).state is OpeningState.TAPPED
            assert till.await_end(sale).progress.value == "APPROVED"
        return sale

    @contextlib.contextmanager
    def peer_address(self, party: str, peer: str, address: str) -> Iterator[None]:
        """While it lasts, the party finds `peer` at another address (its next start, or the phone's next command)."""
        path = self.settings(party)
        before = path.read_text()
        plain = tomllib.loads(before)
        plain["peers"][peer] = address
        path.write_text(tomli_w.dumps(plain))
        try:
            yield
        finally:
            path.write_text(before)

    def address(self, party: str, peer: str) -> str:
        """Where the party finds this peer."""
        return load_settings(self.settings(party)).peers[peer]


@dataclass
class Ran:
    """A command that ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def tapveil(*arguments: str | Path, **options: Any) -> Ran:
    """One `tapveil` command as a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "parties", *map(str, arguments)], capture_output=True, text=True, check=False,
        timeout=60, **options,
    )  # fmt: skip
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def cli() -> Callable[..., Ran]:
    return tapveil


@pytest.fixture(scope="session")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    folder = tmp_path_factory.mktemp("town") / "env"
    phones = tuple(f"phone-{n}" for n in range(1, PHONES + 1))
    plan = Plan(base_port=0, cost=GENERATED, capture=True, phones=phones, merchants=("shop-1",), card_keys_ahead=1)
    with Deployment(folder) as deployment:
        create_environment(folder, plan, lambda _party: None)
        deployment.start("bank-a", "sp-1", "tsm-1")
        yield Town(folder, deployment)


@pytest.fixture(scope="session")
def served_by_several(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Town, Server]]:
    """A town whose institutions keep their tables in this server; two processes serve its bank, three its TSM."""
    folder = tmp_path_factory.mktemp("several") / "env"
    with contextlib.closing(Server("fsync=off", "max_connections=200")) as database, Deployment(folder) as deployment:
        plan = Plan(
            banks=("bank-a",), base_port=0, cost=GENERATED, merchants=("shop-1",), stops_every_s=1,
            database=database.url,
        )  # fmt: skip
        deployment.workers |= {"bank-a": 2, "tsm-1": 3}
        create_environment(folder, plan, lambda _party: None)
        deployment.start("bank-a", "sp-1", "tsm-1")
        yield Town(folder, deployment), database


@pytest.fixture(scope="session")
def make_town() -> Callable[..., contextlib.AbstractContextManager[Town]]:
    """Makes a town of one's own, with one bank, for tests that would disturb others."""
    return _own_town


@contextlib.contextmanager
def _own_town(
    folder: Path, *, workers: dict[str, int] | None = None, options: dict[str, dict[str, object]] | None = None,
    **plan: Any,
) -> Iterator[Town]:  # fmt: skip
    """`options` are settings of parties; `workers`, how many processes serve them."""
    with Deployment(folder / "env") as deployment:
        deployment.workers |= workers or {}
        create_environment(
            folder / "env", Plan(banks=("bank-a",), base_port=0, cost=GENERATED, **plan), lambda _party: None
        )
        town = Town(folder / "env", deployment)
        for party, wanted in (options or {}).items():
            path = town.settings(party)
            plain = tomllib.loads(path.read_text())
            path.write_text(tomli_w.dumps({**plain, "options": {**plain["options"], **wanted}}))
        deployment.start("bank-a", "sp-1", "tsm-1")
        yield town
