"""A stall that settles: sales paid for, batches made and sent by the same units as the server's."""

from __future__ import annotations

from typing import Any

from support.counter import TSM
from support.shop import AMOUNT, Line, Stall
from support.world import Phone

from parties.merchant.settlement import Settler
from protocol import envelope
from protocol.envelope import Stamp, Wire
from protocol.messages.settle import Payout, SettledRefund, SettledSale, Settlement
from protocol.roles.ledger import LEDGER, Entry, balances
from protocol.roles.merchant import SETTLEMENTS, SettlementRow
from protocol.roles.merchant.giveback import record_refund, record_reversal, sign_refund, sign_reversal
from protocol.roles.merchant.lane import record_answer
from protocol.roles.merchant.settle import begin_settlement, next_batch, record_payout
from protocol.roles.party import PartyKeys


def pay(stall: Stall, phone: Phone, tid: str, amount_minor: int = AMOUNT) -> bytes:
    """A sale, approved at both sides."""
    sale = stall.asked(phone, tid, amount_minor)
    row = stall.row(sale)
    answer = stall.to_tsm("Tsm.Authorize", row.request)
    assert stall.apply(record_answer(stall.shop, row, answer, stall.now_s)).progress == "APPROVED"
    return sale


def give_back(stall: Stall, sale: bytes, amount_minor: int) -> bytes:
    """A refund, made at both sides."""
    refund = stall.refund(sale, amount_minor)
    row = stall.apply(sign_refund(stall.shop, stall.refund_row(refund), stall.now_s, stall.world.entropy))
    stall.apply(record_refund(stall.shop, row, stall.to_tsm("Tsm.Refund", row.request), stall.now_s))
    return refund


def take_back(stall: Stall, sale: bytes) -> None:
    """A void, acknowledged."""
    stall.cancel(sale)
    row = stall.apply(sign_reversal(stall.shop, stall.row(sale), stall.now_s, stall.world.entropy))
    stall.apply(record_reversal(stall.shop, row, stall.to_tsm("Tsm.Reverse", row.reversal), stall.now_s))


def begin(stall: Stall) -> SettlementRow:
    """A settlement of all that is due, stored and not sent."""
    batch = next_batch(stall.party.store)
    assert batch is not None
    row: SettlementRow = stall.apply(begin_settlement(stall.shop, batch, stall.now_s, stall.world.entropy))
    return row


def settle(stall: Stall) -> SettlementRow:
    """Begun, sent, recorded."""
    row = begin(stall)
    wire = stall.to_tsm("Tsm.SettleBatch", row.request)
    paid: SettlementRow = stall.apply(record_payout(stall.shop, row, wire, stall.now_s))
    return paid


def settler(stall: Stall, line: Line | None = None, store: Any = None) -> Settler:
    """What the server and the command run."""
    return Settler(
        shop=stall.shop, store=store or stall.party.store, peers=line or Line(stall), clock=stall.world.clock,
        entropy=stall.world.entropy,
    )  # fmt: skip


def settlement(
    sales: dict[bytes, int], refunds: dict[bytes, int] | None = None, *, batch: bytes, total_minor: int | None = None,
    currency: str = "TWD",
) -> Settlement:  # fmt: skip
    """Made by hand, right or wrong: names with their amounts."""
    refunds = refunds or {}
    total = sum(sales.values()) - sum(refunds.values()) if total_minor is None else total_minor
    return Settlement(
        batch=batch, currency=currency, total_minor=total,
        sales=tuple(SettledSale(sale=sale, amount_minor=minor) for sale, minor in sales.items()),
        refunds=tuple(SettledRefund(refund=refund, amount_minor=minor) for refund, minor in refunds.items()),
    )  # fmt: skip


def sign_settlement(stall: Stall, message: Settlement, keys: PartyKeys | None = None) -> Wire:
    """Under a merchant's certified key."""
    stamp = Stamp.fresh(stall.now_s, stall.world.entropy)
    signer = (keys or stall.shop.keys).signer
    return Wire(cose=envelope.sign(signer, message, audience=TSM, stamp=stamp))


def send(stall: Stall, message: Settlement) -> Payout:
    """One settlement made by hand, and its verified answer."""
    wire = sign_settlement(stall, message)
    paid: Payout = stall.heard(Payout, wire.cose, stall.to_tsm("Tsm.SettleBatch", wire.cose))
    return paid


def settlements(stall: Stall) -> list[tuple[str, int]]:
    """State and total of each, in the order of their names."""
    return [(row.state, row.total_minor) for row in stall.party.store.scan(SETTLEMENTS)]


def ledger(stall: Stall, party: str) -> tuple[Entry, ...]:
    """A party's entries, which always sum to zero."""
    entries: tuple[Entry, ...] = stall.world.parties[party].store.scan(LEDGER)
    assert sum(balances(entries).values()) == 0
    return entries


def balance(stall: Stall, party: str, account: str) -> int:
    """Debits less credits of one account, in TWD."""
    return balances(ledger(stall, party)).get((account, "TWD"), 0)
