"""A merchant's server in a world: its till over the engine, its lane's units, and what a lane touches, in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from support.counter import TSM, applet_of, open_card
from support.world import Party, Phone, World, emv_keys

from parties.merchant.lane import Lane
from protocol import envelope
from protocol.card.applet import Applet
from protocol.card.kernel import perform_tap, run_exchange
from protocol.card.oda import CaKey
from protocol.card.outcome import CardLost, Outcome
from protocol.card.profile import RID
from protocol.card.terminal import Terminal
from protocol.engine import Peer
from protocol.envelope import Signer, Stamp, Wire
from protocol.errors import ProtocolError, Unavailable
from protocol.messages.till import CancelSale, GetSale, RefundSale, SaleState, StartSale
from protocol.roles.merchant import SALE_REFUNDS, SALES, Shop, begin_sign_on, finish_sign_on, merchant_steps
from protocol.roles.merchant.lane import record_tap, sale_for_tap
from protocol.roles.merchant.tables import SaleRefund, SaleRow
from protocol.roles.tsm.tables import PURCHASES, Purchase
from protocol.rows import Decision, Store, Unit
from protocol.schema import Message
from protocol.types import Role

SHOP = "shop-1"
AMOUNT = 12_000


@dataclass
class Stall:
    """One shop with its terminal, signed on."""

    world: World
    party: Party
    terminal: Terminal

    @classmethod
    def open(cls, world: World, *, number: int = 1, signed_on: bool = True) -> Stall:
        """`number` is the shop's: "shop-1" is the world's own merchant."""
        name = f"shop-{number}"
        shop = Shop(
            keys=world.merchant if name == SHOP else world.certified(name, Role.MERCHANT), directory=world.directory,
            merchant_name=f"Shop {number}", merchant_identifier=f"TAPVEIL{number:08d}", terminal=f"T{number:07d}",
            tsm=TSM,
        )  # fmt: skip
        terminal = Terminal(
            merchant_identifier=shop.merchant_identifier, terminal=shop.terminal, merchant_name=shop.merchant_name,
            ca_keys=(CaKey(rid=RID, index=1, key=emv_keys()[0].public),),
        )  # fmt: skip
        stall = cls(world=world, party=world.join(name, Role.MERCHANT, merchant_steps(shop), shop), terminal=terminal)
        if signed_on:
            stall.sign_on()
        return stall

    @property
    def shop(self) -> Shop:
        shop: Shop = self.party.value
        return shop

    @property
    def now_s(self) -> int:
        return self.world.clock.now_s()

    def apply(self, unit: Unit) -> Any:
        return self.party.store.apply(unit).reply

    def to_tsm(self, rpc: str, request: bytes) -> Wire:
        """What is stored, sent as it is."""
        return self.world.deliver(TSM, rpc, Wire(cose=request), Peer(role=Role.MERCHANT, name=self.party.name))

    def begin_sign_on(self) -> Any:
        return self.apply(begin_sign_on(self.shop, self.shop.terminal, TSM, self.now_s, self.world.entropy))

    def sign_on(self) -> None:
        """With a new key: also a rotation."""
        pending = self.begin_sign_on()
        self.apply(finish_sign_on(self.shop, pending, self.to_tsm("Tsm.SignOn", pending.request), self.now_s))

    # --- the till --------------------------------------------------------------------------------------------------
    def signed(self, message: Message, signer: Signer | None = None, audience: str = "") -> Wire:
        stamp = Stamp.fresh(self.now_s, self.world.entropy)
        to = audience or self.party.name
        return Wire(cose=envelope.sign(signer or self.shop.keys.signer, message, audience=to, stamp=stamp))

    def deliver(self, message: Message, wire: Wire, peer: Peer | None = None) -> Wire:
        caller = peer or Peer(role=Role.MERCHANT, name=self.party.name)
        return self.world.deliver(self.party.name, f"Merchant.{type(message).__name__}", wire, caller)

    def till(self, message: StartSale | GetSale | CancelSale | RefundSale) -> SaleState:
        """One request of the till and its verified answer."""
        wire = self.signed(message)
        return self.opened(wire, self.deliver(message, wire))

    def opened(self, wire: Wire, reply: Wire) -> SaleState:
        return envelope.open_signed(
            SaleState, reply.cose, self.shop.keys.sign.public, issuer=self.party.name,
            audience=self.party.name, now_s=self.now_s, request_digest=wire.digest,
        ).message  # fmt: skip

    def start(self, amount_minor: int = AMOUNT, currency: str = "TWD") -> bytes:
        sale = self.world.entropy.bytes(16)
        self.till(StartSale(sale=sale, amount_minor=amount_minor, currency=currency))
        return sale

    def state(self, sale: bytes) -> SaleState:
        return self.till(GetSale(sale=sale))

    def cancel(self, sale: bytes) -> SaleState:
        return self.till(CancelSale(sale=sale))

    def refund(self, sale: bytes, amount_minor: int, name: bytes = b"") -> bytes:
        refund = name or self.world.entropy.bytes(16)
        self.till(RefundSale(sale=sale, refund=refund, amount_minor=amount_minor))
        return refund

    # --- rows ------------------------------------------------------------------------------------------------------
    def row(self, sale: bytes) -> SaleRow:
        (row,) = [row for row in self.party.store.scan(SALES) if row.sale == sale]
        return row

    def refund_row(self, refund: bytes) -> SaleRefund:
        (row,) = [row for row in self.party.store.scan(SALE_REFUNDS) if row.refund == refund]
        return row

    def purchases(self) -> list[Purchase]:
        """What the TSM has of this shop."""
        return [row for row in self.world.parties[TSM].store.scan(PURCHASES) if row.merchant == self.party.name]

    # --- the lane's units, one by one ------------------------------------------------------------------------------
    def kernel(self, card: Applet, sale: bytes) -> Outcome:
        card.reset()
        exchange = perform_tap(self.terminal, sale_for_tap(self.row(sale), self.now_s, self.world.entropy))
        return run_exchange(exchange, card.process)

    def record(self, sale: bytes, tapped: Outcome) -> SaleRow:
        row: SaleRow = self.apply(record_tap(self.shop, self.row(sale), tapped, self.now_s, self.world.entropy))
        return row

    def asked(self, phone: Phone, tid: str, amount_minor: int = AMOUNT) -> bytes:
        """A sale whose card was tapped: EXPECT_DECISION."""
        sale = self.start(amount_minor)
        open_card(self.world, phone, tid, amount_minor)
        assert self.record(sale, self.kernel(applet_of(self.world, phone), sale)).progress == "EXPECT_DECISION"
        return sale

    def answered(self, request: bytes, message: Message) -> Wire:
        """An answer by the TSM's own key, whatever it says."""
        stamp = Stamp.fresh(self.now_s, self.world.entropy)
        digest = Wire(cose=request).digest
        signer = self.world.parties[TSM].value.keys.signer
        return Wire(cose=envelope.sign(signer, message, audience=self.party.name, stamp=stamp, request_digest=digest))

    def heard(self, kind: type[Any], request: bytes, answer: Wire) -> Any:
        return envelope.open_signed(
            kind, answer.cose, self.world.parties[TSM].value.keys.sign.public, issuer=TSM, audience=self.party.name,
            now_s=self.now_s, request_digest=Wire(cose=request).digest,
        ).message  # fmt: skip

    def lane(self, reader: FakeReader, line: Line | None = None, store: Store | None = None) -> Lane:
        return Lane(
            shop=self.shop, store=store or self.party.store, peers=line or Line(self), clock=self.world.clock,
            entropy=self.world.entropy, reader=reader, terminal=self.terminal,
        )  # fmt: skip


def ready(world: World, cards: int = 4) -> tuple[Phone, str]:
    """A phone with cards, and its service account."""
    phone = world.ready()
    tid = world.service(phone, world.account(phone))
    world.cards(phone, tid, cards)
    return phone, tid


@dataclass
class FakeLink:
    """An applet in the field; taken away before the command with number `lost_at`."""

    card: Applet
    lost_at: int | None = None
    meanwhile: Callable[[], object] = lambda: None
    commands: list[bytes] = field(default_factory=list)
    closed: bool = False

    def transmit(self, command: bytes, /) -> bytes:
        assert not self.closed
        if len(self.commands) == self.lost_at:
            raise CardLost
        self.commands.append(command)
        self.meanwhile()
        return self.card.process(command)

    def close(self) -> None:
        self.card.reset()
        self.closed = True


@dataclass
class FakeReader:
    """Cards that come one after the other; a fault is raised instead of one."""

    coming: list[FakeLink | ProtocolError | None] = field(default_factory=list)
    waits: int = 0

    def wait_for_card(self, timeout_s: float, /) -> FakeLink | None:
        assert 0 < timeout_s < 1
        self.waits += 1
        found = self.coming.pop(0) if self.coming else None
        if isinstance(found, ProtocolError):
            raise found
        return found


@dataclass
class Line:
    """The way to the TSM: `faults` are met one call after the other; "lost" is an answer that never comes."""

    stall: Stall
    faults: list[ProtocolError | str | None] = field(default_factory=list)
    sent: list[tuple[str, bytes]] = field(default_factory=list)
    alter: Callable[[str, Wire, Wire], Wire] = lambda rpc, request, answer: answer

    def call(self, peer: str, rpc: str, request: Wire) -> Wire:
        assert peer == TSM
        self.sent.append((rpc, request.cose))
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, ProtocolError):
            raise fault
        answer = self.stall.to_tsm(rpc, request.cose)
        if fault == "lost":
            raise Unavailable
        return self.alter(rpc, request, answer)

    def requests(self, rpc: str) -> list[bytes]:
        return [request for name, request in self.sent if name == rpc]


class Killed(BaseException):
    """The process is gone: nothing after it runs."""


@dataclass
class MortalStore:
    """A store whose process is killed after its n-th unit was committed (n from 1), or never for 0."""

    store: Any
    dies_after: int = 0
    units: int = 0

    def read(self, *reads: Any) -> Any:
        return self.store.read(*reads)

    def apply(self, unit: Unit) -> Decision:
        decision: Decision = self.store.apply(unit)
        self.units += 1
        if self.units == self.dies_after:
            raise Killed
        return decision

    def scan(self, table: Any) -> Any:
        return self.store.scan(table)

    def sweep(self, now_s: int) -> int:
        swept: int = self.store.sweep(now_s)
        return swept
