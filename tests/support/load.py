"""Load on real processes, from merchants and phones that cost little: what each client was told is written down.

A `Purse` is a phone whose secure element runs in this process, so that hundreds of genuine taps are ready before the
load begins. A `Desk` is a merchant with its own keys and books and the product's own units, which sends as many sales
at once as it has clients. Every client repeats its stored bytes until it has an answer.
"""

from __future__ import annotations

import queue
import random
import sys
import threading
import traceback
from collections import Counter as Tally
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from parties.assembly.common import Opened
from parties.assembly.roles import STEPS, build_applet, build_settler, build_shop
from parties.channels import Channels, TlsIdentity
from parties.emv_files import read_ca_keys
from parties.merchant.lane import Lane
from parties.release import SOFTWARE
from parties.settings import load_settings
from parties.system import SystemClock
from parties.wallet.phone import PhoneSession
from protocol import envelope
from protocol.card.kernel import perform_tap, run_exchange
from protocol.card.outcome import Outcome
from protocol.card.profile import Channel
from protocol.card.terminal import Sale, Terminal
from protocol.engine import NOT_AN_ANSWER, Engine, Peer
from protocol.envelope import Stamp, Wire
from protocol.errors import AlreadySettled, ProtocolError, Unavailable
from protocol.messages.pay import AuthorizationDecision, Decided, Verdict
from protocol.messages.till import CancelSale, RefundSale, SaleProgress
from protocol.pki import Use
from protocol.roles.merchant import SALE_REFUNDS, SALES, SETTLEMENTS, SaleRow, begin_sign_on, finish_sign_on
from protocol.roles.merchant import merchant_steps as steps_of
from protocol.roles.merchant.giveback import owed_refunds, owed_reversals
from protocol.roles.merchant.lane import record_answer, record_refusal, record_tap, sale_for_tap
from protocol.roles.merchant.party import ShopPolicy
from protocol.roles.merchant.settle import owed_payouts
from protocol.roles.wallet import issue_cards, open_account, open_card, register
from protocol.rows import Conflict, Decision, Insert, Unit
from protocol.types import HANDLE_BYTES, Role

T = TypeVar("T")
CLIENTS = 4
PASSCODE = "wq-7351-zt"
"""Of the customers in `integration.conftest`."""
ANSWER_S = 2.0
"""How long a client waits for an answer before it sends the same bytes again."""
AGAIN_S = 0.05
PATIENCE_S = 40.0
"""After this time without an answer a client says that it was lost."""


class Line:
    """The way to one party. After a call without an answer it connects anew: gRPC would wait longer and longer."""

    def __init__(self, peer: str, address: str, identity: TlsIdentity) -> None:
        self._peer, self._address, self._identity = peer, address, identity
        self._channels = self._connected()

    def _connected(self) -> Channels:
        return Channels({self._peer: self._address}, self._identity, deadline_s=ANSWER_S)

    def call(self, peer: str, rpc: str, request: Wire) -> Wire:
        channels = self._channels
        try:
            return channels.call(peer, rpc, request)
        except Unavailable:
            self._channels = self._connected()
            channels.close()
            raise

    def close(self) -> None:
        self._channels.close()


class NoReader:
    """A desk's cards were tapped before: its lane only gives back."""

    def wait_for_card(self, timeout_s: float, /) -> None:
        return None


class InProcess:
    """The ways of a phone whose secure element runs here."""

    def __init__(self, engine: Engine, name: str, others: Any) -> None:
        self._engine, self._peer, self._others = engine, Peer(role=Role.PHONE, name=name), others

    def call(self, peer: str, rpc: str, request: Wire) -> Wire:
        if peer == self._peer.name:
            return self._engine.handle(rpc, request, self._peer)
        answer: Wire = self._others.call(peer, rpc, request)
        return answer

    def close(self) -> None:
        self._others.close()


class Purse:
    """A phone whose SE's server is down: its cards are tapped in this process."""

    def __init__(self, folder: Path, passcode: str) -> None:
        self.opened = Opened.of(load_settings(folder / "se" / "settings.toml", Role.SE))
        self.store = self.opened.store()
        self.session: Any = PhoneSession(folder / "wallet")
        self._passcode, self.tids = passcode, list[str]()
        engine = Engine(
            STEPS[Role.SE](self.opened), store=self.store, clock=self.opened.clock, entropy=self.opened.entropy,
            peers=self.session.channels,
        )  # fmt: skip
        self.session.channels = InProcess(engine, self.opened.settings.name, self.session.channels)

    def fill(self, cards: int) -> str:
        """A new account at bank-a and tsm-1 with as many cards; its TID."""
        run, wallet, number = self.session.run, self.session.wallet, len(self.tids)
        opening = open_account(wallet, bank="bank-a", tsm="tsm-1", software=SOFTWARE, passcode=self._passcode)
        aid = run(f"open-{number}", opening).aid
        tid = run(f"register-{number}", register(wallet, tsm="tsm-1", aid=aid, maximum_minor=0)).tid
        run(f"issue-{number}", issue_cards(wallet, tsm="tsm-1", tid=tid, number=cards))
        self.tids.append(tid)
        return tid

    def tap(self, terminal: Terminal, sale: Sale) -> Outcome:
        """A card of the newest account is opened for this amount and held to the terminal."""
        self.session.once(open_card(self.session.wallet, tid=self.tids[-1], ceiling_minor=sale.amount_minor))
        applet = build_applet(self.opened, self.store, Channel.CONTACTLESS)
        return run_exchange(perform_tap(terminal, sale), applet.process)

    def close(self) -> None:
        self.session.close()
        self.store.close()


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a client was answered to its bytes: once it was told, it must be told the same for ever."""

    sale: bytes
    wire: Wire
    decided: Decided


class Desk:
    """A merchant without a server. What it keeps is what a merchant keeps; what it sends, what a merchant sends."""

    def __init__(self, settings: Path, *, address: str = "", clock: SystemClock | None = None) -> None:
        """`address` is where the TSM is found, if not where the settings say."""
        self.opened = replace(Opened.of(load_settings(settings, Role.MERCHANT)), clock=clock or SystemClock())
        self.shop = replace(build_shop(self.opened), policy=ShopPolicy(decision_wait_s=3600))
        self.name, self.store = self.shop.keys.name, self.opened.store()
        self._tls, self._address = self.opened.client_tls(), address or self.opened.settings.peers[self.shop.tsm]
        self.line = self.new_line()
        self.engine = Engine(
            steps_of(self.shop), store=self.store, clock=self.opened.clock, entropy=self.opened.entropy, peers=self.line
        )
        self.terminal = Terminal(
            merchant_identifier=self.shop.merchant_identifier, terminal=self.shop.terminal,
            merchant_name=self.shop.merchant_name, ca_keys=read_ca_keys(self.opened.settings.pki),
        )  # fmt: skip
        self.tsm_key = self.opened.directory.named(self.shop.tsm, Use.SIGN).key
        self.lane = Lane(
            shop=self.shop, store=self.store, peers=self.line, clock=self.opened.clock, entropy=self.opened.entropy,
            reader=NoReader(), terminal=self.terminal,
        )  # fmt: skip
        self.settler = build_settler(self.opened, self.store, self.line)

    def new_line(self) -> Line:
        """A connection to the TSM: one stays at one worker of it."""
        return Line(self.shop.tsm, self._address, self._tls)

    @property
    def now_s(self) -> int:
        return self.opened.clock.now_s()

    def apply(self, unit: Unit) -> Any:
        """As a merchant's server does; while its database is down, again and again: a unit looks at what is there."""

        def once() -> Any:
            while True:
                try:
                    return self.store.apply(unit).reply
                except Conflict:
                    continue

        return until_answered(once)

    def sign_on(self) -> None:
        unit = begin_sign_on(self.shop, self.shop.terminal, self.shop.tsm, self.now_s, self.opened.entropy)
        pending = self.apply(unit)
        answer = self.line.call(self.shop.tsm, "Tsm.SignOn", Wire(cose=pending.request))
        self.apply(finish_sign_on(self.shop, pending, answer, self.now_s))

    def prepare(self, purse: Purse, amount_minor: int) -> SaleRow:
        """A sale whose card was tapped: its request is stored, and not sent."""
        name = self.opened.entropy.bytes(HANDLE_BYTES)
        row = SaleRow(
            sale=name, amount_minor=amount_minor, currency="TWD", progress=SaleProgress.EXPECT_TAP.value, lane=name,
            outcome="", display="", card="", request=b"", cryptogram=b"", receipt=b"", asked=b"", reversal=b"",
            deadline_s=self.now_s + 60, started_at_s=self.now_s, refunded_minor=0, settled=b"",
        )  # fmt: skip
        self.apply(Unit((), lambda _: Decision(writes=(Insert(SALES, row),))))
        tapped = purse.tap(self.terminal, sale_for_tap(row, self.now_s, self.opened.entropy))
        asked: SaleRow = self.apply(record_tap(self.shop, row, tapped, self.now_s, self.opened.entropy))
        assert asked.progress == SaleProgress.EXPECT_DECISION, asked.progress
        return asked

    def decision(self, wire: Wire, answer: Wire) -> Decided:
        """Verified, of these very bytes."""
        return envelope.open_signed(
            AuthorizationDecision, answer.cose, self.tsm_key, issuer=self.shop.tsm, audience=self.name,
            now_s=self.now_s, request_digest=wire.digest,
        ).message.decided  # fmt: skip

    def hear(self, row: SaleRow, answer: Wire) -> SaleRow:
        heard: SaleRow = self.apply(record_answer(self.shop, row, answer, self.now_s))
        return heard

    def give_up(self, row: SaleRow) -> None:
        """The customer has left: it is declined here, and to be reversed."""
        self.apply(record_refusal(row, AlreadySettled()))

    def till(self, message: CancelSale | RefundSale) -> None:
        """Raises: WrongState, AlreadySettled, LimitExceeded."""
        stamp = Stamp.fresh(self.now_s, self.opened.entropy)
        wire = Wire(cose=envelope.sign(self.shop.keys.signer, message, audience=self.name, stamp=stamp))
        me, rpc = Peer(role=Role.MERCHANT, name=self.name), f"Merchant.{type(message).__name__}"
        until_answered(lambda: self.engine.handle(rpc, wire, me))

    def owes(self) -> int:
        """How many errands have no answer yet."""
        return len(owed_reversals(self.store)) + len(owed_refunds(self.store)) + len(owed_payouts(self.store))

    def counts(self) -> Tally[str]:
        """What this desk did, by kind."""
        done = Tally(row.progress for row in self.store.scan(SALES))
        done["refunds"] = sum(row.state == "DONE" for row in self.store.scan(SALE_REFUNDS))
        done["payouts"] = sum(row.state == "PAID" for row in self.store.scan(SETTLEMENTS))
        return done

    def close(self) -> None:
        self.line.close()
        self.store.close()


@dataclass
class Load:
    """Clients of some desks, and errands beside them. Each thread has a seed of its own."""

    desks: Sequence[Desk]
    seed: float
    pause_s: float = 0.5
    """Up to twice as long a client thinks between two sales."""
    told: list[Told] = field(default_factory=list)
    repeats: Tally[str] = field(default_factory=Tally)
    """How often a client had to ask again, by the code of what it got instead of an answer."""
    may_refuse: frozenset[str] = frozenset()
    """Refusals after which a desk gives up, and reverses; others are faults."""
    errands: list[Callable[[], object]] = field(default_factory=list)
    sales: queue.SimpleQueue[tuple[Desk, SaleRow]] = field(default_factory=queue.SimpleQueue)
    faults: list[BaseException] = field(default_factory=list)
    calm: threading.Event = field(default_factory=threading.Event)
    """Set when nothing is broken any more: from then on an errand that fails is a fault."""
    _done: threading.Event = field(default_factory=threading.Event)
    _clients: list[threading.Thread] = field(default_factory=list)
    _others: list[threading.Thread] = field(default_factory=list)

    def start(self, clients: int) -> None:
        """Begin; desks take turns over the clients."""
        for number in range(clients):
            chance = random.Random(f"{self.seed}/client/{number}")
            self._clients.append(self._thread(lambda chance=chance: self._serve(chance)))
        for desk in self.desks:
            chance = random.Random(f"{self.seed}/errand/{desk.name}")
            self._others.append(self._thread(lambda desk=desk, chance=chance: self._run_errands(desk, chance)))
        for number, errand in enumerate(self.errands):
            chance = random.Random(f"{self.seed}/{number}")
            self._others.append(self._thread(lambda errand=errand, chance=chance: self._repeat(errand, chance)))

    def _thread(self, work: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                work()
            except BaseException as fault:  # noqa: BLE001 - it is raised again by `finish`
                self.faults.append(fault)

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        return thread

    @property
    def busy(self) -> bool:
        """Are there sales left to be asked for?"""
        return not self.sales.empty()

    def healthy(self) -> None:
        """Raises: what a client met that is neither an answer nor the lack of one."""
        for fault in self.faults:
            raise fault

    def finish(self) -> None:
        """Wait until every sale was answered and every errand is done. Raises: what a client met."""
        self.calm.set()
        for thread in self._clients:
            thread.join(PATIENCE_S)
        self._done.set()
        for thread in self._others:
            thread.join(PATIENCE_S)
        self.healthy()
        frames = sys._current_frames()
        for thread in (*self._clients, *self._others):
            frame = frames.get(thread.ident or 0) if thread.is_alive() else None
            assert frame is None, "".join(["got no answer:\n", *traceback.format_stack(frame)])

    def stop(self) -> None:
        """Whatever is left is left: the run has failed, or is over."""
        self.calm.set()
        self._done.set()

    # --- clients -----------------------------------------------------------------------------------------------------
    def _serve(self, chance: random.Random) -> None:
        lines: dict[str, Line] = {}
        try:
            while True:
                try:
                    desk, row = self.sales.get(timeout=0.05)
                except queue.Empty:
                    if self.calm.is_set():
                        return
                    continue
                line = lines[desk.name] = lines.get(desk.name) or desk.new_line()
                self._sell(desk, line, row, chance)
                if not self.calm.is_set():
                    self.calm.wait(chance.uniform(0, 2 * self.pause_s))
        finally:
            for line in lines.values():
                line.close()

    def _sell(self, desk: Desk, line: Line, row: SaleRow, chance: random.Random) -> None:
        """One sale's request, in one of the ways that it happens. A desk that is refused gives up, and reverses."""
        try:
            self._sold(desk, line, row, chance.random())
        except ProtocolError as refusal:
            if refusal.code not in self.may_refuse:
                raise
            self.repeats[refusal.code] += 1
            desk.give_up(row)

    def _sold(self, desk: Desk, line: Line, row: SaleRow, kind: float) -> None:
        wire = Wire(cose=row.request)
        if kind < 0.1:  # asked once, or not at all; then the customer leaves
            if kind < 0.05:
                self._once(line, desk, wire)
            desk.give_up(row)
            return
        answer = self._ask_twice(line, desk, wire) if kind < 0.3 else self._ask(line, desk, wire)
        decided = desk.decision(wire, answer)
        self.told.append(Told(sale=row.sale, wire=wire, decided=decided))
        heard = desk.hear(row, answer)
        if decided.verdict is Verdict.APPROVED:
            assert heard.progress == SaleProgress.APPROVED
            self._after(desk, row, kind)

    def _after(self, desk: Desk, row: SaleRow, kind: float) -> None:
        """Some sales are voided, some refunded in part; one that is being paid out can't be voided any more."""
        if kind > 0.9:
            try:
                desk.till(CancelSale(sale=row.sale))
            except AlreadySettled:
                return
        elif kind > 0.75:
            name = desk.opened.entropy.bytes(HANDLE_BYTES)
            desk.till(RefundSale(sale=row.sale, refund=name, amount_minor=1 + row.amount_minor // 3))

    def _ask_twice(self, line: Line, desk: Desk, wire: Wire) -> Wire:
        """The same bytes over two connections at once."""
        with ThreadPoolExecutor(1) as pool, closing(desk.new_line()) as second_line:
            second = pool.submit(self._ask, second_line, desk, wire)
            answer = self._ask(line, desk, wire)
            assert desk.decision(wire, second.result()) == desk.decision(wire, answer)
        return answer

    def _once(self, line: Line, desk: Desk, wire: Wire) -> None:
        try:
            line.call(desk.shop.tsm, "Tsm.Authorize", wire)
        except ProtocolError as refusal:
            self._note(refusal)

    def _ask(self, line: Line, desk: Desk, wire: Wire) -> Wire:
        """The answer, however often it takes. Raises: a refusal; AssertionError when none comes."""
        return until_answered(lambda: line.call(desk.shop.tsm, "Tsm.Authorize", wire), self._note)

    def _note(self, refusal: ProtocolError) -> None:
        if refusal.status not in NOT_AN_ANSWER:
            raise refusal
        self.repeats[refusal.code] += 1

    # --- errands -----------------------------------------------------------------------------------------------------
    def _run_errands(self, desk: Desk, chance: random.Random) -> None:
        """Reversals, refunds and settlements, as a merchant's server sends them; to the end, once all is calm."""
        while not self._done.is_set() or self._tried(desk.owes, 1):
            if not self._tried(desk.lane.run_once, False):
                self._done.wait(0.1)
            if chance.random() < 0.05:
                self._tried(desk.settler.settle, None)
        until_answered(desk.settler.settle)
        assert desk.owes() == 0

    def _tried(self, errand: Callable[[], T], otherwise: T) -> T:
        """What a server's housekeeping does: what fails is noted, and tried again later."""
        try:
            return errand()
        except ProtocolError as refusal:
            if refusal.status not in NOT_AN_ANSWER and refusal.code not in self.may_refuse:
                raise
            self.repeats[refusal.code] += 1
            return otherwise

    def _repeat(self, errand: Callable[[], object], chance: random.Random) -> None:
        while not self._done.is_set():
            errand()
            self._done.wait(chance.uniform(0.2, 1.0))


def until_answered(call: Callable[[], T], note: Callable[[ProtocolError], None] = lambda _refusal: None) -> T:
    """Again and again while there is no answer; `note` gets what came instead, and raises what is an answer.

    Raises: AssertionError after PATIENCE_S.
    """
    pause = threading.Event()
    for _ in range(int(PATIENCE_S / AGAIN_S)):
        try:
            return call()
        except ProtocolError as refusal:
            if refusal.status not in NOT_AN_ANSWER:
                raise
            note(refusal)
        pause.wait(AGAIN_S)
    raise AssertionError("no answer")
