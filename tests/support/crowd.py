"""A dozen people with two banks, one TSM and three shops, through everything that an account lives through."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from support.claims import Desk
from support.counter import TSM
from support.settling import give_back, pay, settle, take_back
from support.shop import Stall
from support.stopping import fetch, freeze_customer, lift_customer, next_minute
from support.tracing import Dispute
from support.world import PASSCODE, SOFTWARE, Party, Phone, World

from parties.checker.held import Estate, is_side
from parties.server.capture import Captured
from parties.storage.roles import TABLES
from protocol.crypto import sha256
from protocol.envelope import Wire
from protocol.errors import ProtocolError, TraceReasonUnknown
from protocol.messages.till import SaleProgress
from protocol.roles.bank.customers import new_branch_code, open_customer
from protocol.roles.merchant.lane import record_answer
from protocol.roles.tsm.tables import TraceRow
from protocol.roles.tsm.trace import Disputed, trace
from protocol.roles.wallet import recredit
from protocol.types import Role

NAMES = (
    "Ada Wongsakul", "Lin Mei-Hua", "Chen Wei-Ting", "Ines Okafor", "Jonas Bergström", "Rui Takeda", "Noor Haddad",
    "Petra Novak", "Samuel Adeyemi", "Tomas Herrera", "Yuki Arai", "Zoe Papadaki",
)  # fmt: skip
SHOPS = 3
AMOUNTS = (4_310, 5_870, 6_490)
"""Everybody pays each of them once, each at another shop than the next person; no tranche or limit is like them."""


@dataclass
class Crowd(World):
    """The world, with a name for everybody, and lists of stops that are fetched in sight and apart from purchases."""

    fetches_stops: bool = False
    stalls: list[Stall] = field(default_factory=list)
    holders: list[tuple[Phone, str]] = field(default_factory=list)
    coming: Iterator[str] = field(default_factory=lambda: iter(NAMES))
    limit_minor: int = 200_000

    def branch_code(self, bank: str, *, limit_minor: int = 0, passcode: str = PASSCODE) -> str:
        code = new_branch_code(self.entropy)
        unit = open_customer(
            self.parties[bank].value, name=next(self.coming), passcode_hash=sha256(passcode.encode()),
            limit_minor=limit_minor or self.limit_minor, currency="TWD", branch_code=code, now_s=self.clock.now_s(),
            entropy=self.entropy,
        )  # fmt: skip
        self.parties[bank].store.apply(unit)
        return code

    # --- what happens ----------------------------------------------------------------------------------------------
    def live(self) -> None:
        """All phases."""
        self.stalls = [Stall.open(self, number=number + 1) for number in range(SHOPS)]
        for number in range(len(NAMES)):
            self.arrive(number)
        self.clock.time_s += 3_600
        sales = [self.buy(round_, number) for round_ in range(SHOPS) for number in range(len(NAMES))]
        for shop, stall in enumerate(self.stalls):
            mine = [sale for at, sale in sales if at == shop]
            self.later()
            give_back(stall, mine[0], 1_000)
            take_back(stall, mine[1])
            settle(stall)
        Desk(self).claim()
        self.recredit_last()
        self.freeze_first()
        self.dispute(*sales[-2:])
        settle(self.stalls[0])
        self.later()
        Desk(self).claim()

    def later(self, seconds: int = 97) -> None:
        self.clock.time_s += seconds

    def bank_of(self, number: int) -> str:
        return "bank-a" if number % 2 else "bank-b"

    def arrive(self, number: int) -> None:
        """INIT to CARD; the last one has little credit."""
        bank = self.bank_of(number)
        self.limit_minor = 20_000 if number == len(NAMES) - 1 else 200_000
        phone = self.ready(f"phone-{number + 1:02d}", bank)
        self.later()
        tid = self.service(phone, self.account(phone, bank))
        self.later()
        self.cards(phone, tid, SHOPS)
        self.holders.append((phone, tid))

    def buy(self, round_: int, number: int) -> tuple[int, bytes]:
        """The shop's number and the sale: apart from what the banks hear of."""
        self.hear()
        shop = (round_ + number) % SHOPS
        amount_minor = AMOUNTS[(round_ + number // SHOPS) % len(AMOUNTS)]
        sale = pay(self.stalls[shop], *self.holders[number], amount_minor)
        self.later(11)
        return shop, sale

    def hear(self) -> None:
        """The TSM fetches the lists; then some time goes by."""
        self.later()
        for bank in ("bank-a", "bank-b"):
            fetch(self, bank)
        self.later(7)

    def recredit_last(self) -> None:
        """Who has spent most of it asks the other bank."""
        phone, tid = self.holders[-1]
        self.coming = iter(NAMES[-1:])
        other = self.bank_of(len(NAMES))
        self.later()
        self.init(phone, other)
        self.install(phone, other)
        assert self.launch(phone, other) == ""
        self.cards(phone, tid, 1)
        flow = recredit(phone.wallet, tsm=TSM, tid=tid, bank=other, software=SOFTWARE, passcode=PASSCODE)
        assert self.run(phone, flow).state == "ACTIVE"

    def freeze_first(self) -> None:
        """A card of somebody who is stopped pays nothing, and pays again later."""
        phone, tid = self.holders[0]
        self.cards(phone, tid, 2)
        stall, bank = self.stalls[0], self.bank_of(0)
        freeze_customer(self, phone.user, bank)
        self._next_minute()
        sale = stall.asked(phone, tid, AMOUNTS[0])
        row = stall.row(sale)
        answer = stall.to_tsm("Tsm.Authorize", row.request)
        assert stall.apply(record_answer(stall.shop, row, answer, stall.now_s)).progress == SaleProgress.DECLINED
        self.later(11)
        lift_customer(self, phone.user, bank)
        self._next_minute()
        pay(stall, phone, tid, AMOUNTS[1])
        self.later(11)

    def _next_minute(self) -> None:
        for _ in range(2):
            next_minute(self, fetched=False)
            self.hear()

    def dispute(self, idle: tuple[int, bytes], true: tuple[int, bytes]) -> None:
        """A trace for no good reason, which is refused, and one that two officers approve."""
        with pytest.raises(TraceReasonUnknown):
            self._trace(*idle, "curiosity")
        self.later()
        case = self._trace(*true, "dispute").case_id
        dispute = Dispute(world=self, customer=None)
        for name in ("officer-1", "officer-2"):
            dispute.appoint(name)
        dispute.approve("officer-1", "officer-2", case=case)
        self.later()
        assert self._trace(*true, "dispute").state == "ANSWERED"

    def _trace(self, shop: int, sale: bytes, reason: str) -> TraceRow:
        tsm, name = self.parties[TSM], self.stalls[shop].party.name
        about = Disputed(merchant=name, sale=sale, case=b"", reason=reason, requester=name)
        return trace(tsm.value, tsm.store, tsm.engine._peers, about, self.clock.now_s(), self.entropy)

    # --- what is left behind ---------------------------------------------------------------------------------------
    def estates(self) -> list[Estate]:
        """Everybody's rows, and the exchanges that they were a side of."""
        captured = [_captured(*call) for call in self.calls]
        return [
            Estate(
                name=party.name, role=party.role, seal=_seal(party),
                rows={table.name: party.store.scan(table) for table in TABLES.get(party.role, ())},
                exchanges=tuple(one for one in captured if is_side(party.name, party.role, one)),
            )
            for party in self.parties.values()
        ]  # fmt: skip


def _captured(party: str, rpc: str, request: Wire, reply: Wire | ProtocolError) -> Captured:
    code, answer = (reply.code, Wire(cose=b"")) if isinstance(reply, ProtocolError) else ("OK", reply)
    return Captured(party=party, rpc=rpc, at_ms=0, request=request, reply=answer, code=code)


def _seal(party: Party) -> bytes:
    """An SE has keys for each bank and account instead."""
    return b"" if party.role is Role.SE else party.value.keys.seal.to_bytes()
