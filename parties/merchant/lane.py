"""The lane of a shop: taps cards, asks the TSM, takes back and gives back.

What is decided is decided by the units of `protocol.roles.merchant`; here is only what touches reader and network. The
process may end between any two units: what was stored is sent again as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

from parties.server.logs import log
from protocol.card.kernel import perform_tap, run_exchange
from protocol.card.terminal import Terminal
from protocol.engine import ATTEMPTS, Peers
from protocol.envelope import Wire
from protocol.errors import Internal, ProtocolError
from protocol.messages.till import SaleProgress
from protocol.ports import Clock, Entropy
from protocol.roles.merchant.giveback import (
    owed_refunds,
    owed_reversals,
    record_refund,
    record_refund_refusal,
    record_reversal,
    record_reversal_refusal,
    sign_refund,
    sign_reversal,
)
from protocol.roles.merchant.lane import (
    close_overdue,
    is_signed_on,
    record_answer,
    record_refusal,
    record_tap,
    sale_for_tap,
    sale_on_lane,
)
from protocol.roles.merchant.party import Shop
from protocol.roles.merchant.tables import SaleRow
from protocol.rows import Conflict, Store, Unit

T = TypeVar("T")
WAIT_S: Final = 0.25
"""For a card, before the lane looks again whether the sale was called off."""
RETRY_S: Final = 2
"""Before a party, a reader or a refusal that changes nothing is tried again."""


class Link(Protocol):
    """A card in the field."""

    def transmit(self, command: bytes, /) -> bytes:
        """The card's answer to a command APDU. Raises: CardLost."""

    def close(self) -> None:
        """Let the card go."""


class Reader(Protocol):
    """Where cards are held to."""

    def wait_for_card(self, timeout_s: float, /) -> Link | None:
        """A card that is there within `timeout_s` seconds. Raises: ProtocolError when the reader can't be used."""


@dataclass(kw_only=True)
class Lane:
    """One terminal at work. `run_once` is called again and again, by one thread."""

    shop: Shop
    store: Store
    peers: Peers
    clock: Clock
    entropy: Entropy
    reader: Reader
    terminal: Terminal
    _later_s: dict[str, int] = field(default_factory=dict)
    _turns: dict[str, bytes] = field(default_factory=dict)

    def run_once(self) -> bool:
        """At most one piece of work of each kind; was there any?

        Raises: StorageFault, Overloaded, what a unit raises. Refusals of reader and TSM are logged, and tried again.
        """
        done = [work() for work in (self._close_overdue, self._tap, self._ask, self._reverse, self._refund)]
        return any(done)

    def _close_overdue(self) -> bool:
        sale = sale_on_lane(self.store, self.shop)
        if sale is None or self.clock.now_s() <= sale.deadline_s:
            return False
        self._apply(close_overdue(sale, self.clock.now_s()))
        return True

    def _tap(self) -> bool:
        sale, now_s = sale_on_lane(self.store, self.shop), self.clock.now_s()
        if sale is None or sale.progress != SaleProgress.EXPECT_TAP or not self._is_due("tap"):
            return False
        if not is_signed_on(self.store, self.shop, now_s):
            return False
        try:
            link = self.reader.wait_for_card(WAIT_S)
        except ProtocolError as fault:
            self._put_off("tap", fault)
            return False
        if link is None:
            return False
        try:
            exchange = perform_tap(self.terminal, sale_for_tap(sale, now_s, self.entropy))
            tapped = run_exchange(exchange, link.transmit)
        finally:
            link.close()
        self._apply(record_tap(self.shop, sale, tapped, self.clock.now_s(), self.entropy))
        self._later_s.pop("ask", None)  # what an earlier sale met is over
        return True

    def _ask(self) -> bool:
        sale = sale_on_lane(self.store, self.shop)
        if sale is None or sale.progress != SaleProgress.EXPECT_DECISION or not self._is_due("ask"):
            return False
        return self._send("ask", "Tsm.Authorize", sale.request,
                          lambda answer: record_answer(self.shop, sale, answer, self.clock.now_s()),
                          lambda refusal: record_refusal(sale, refusal))  # fmt: skip

    def _reverse(self) -> bool:
        owed = owed_reversals(self.store) if self._is_due("reverse") else ()
        if not owed:
            return False
        sale = self._next("reverse", {row.sale: row for row in owed})
        ready: SaleRow | None = self._apply(sign_reversal(self.shop, sale, self.clock.now_s(), self.entropy))
        if ready is None:
            return False
        return self._send("reverse", "Tsm.Reverse", ready.reversal,
                          lambda answer: record_reversal(self.shop, ready, answer, self.clock.now_s()),
                          lambda refusal: record_reversal_refusal(ready, refusal))  # fmt: skip

    def _refund(self) -> bool:
        owed = owed_refunds(self.store) if self._is_due("refund") else ()
        if not owed:
            return False
        refund = self._next("refund", {row.refund: row for row in owed})
        ready = self._apply(sign_refund(self.shop, refund, self.clock.now_s(), self.entropy))
        if ready is None:
            return False
        shop, clock = self.shop, self.clock
        return self._send("refund", "Tsm.Refund", ready.request,
                          lambda answer: record_refund(shop, ready, answer, clock.now_s()),
                          lambda refusal: record_refund_refusal(shop, ready, refusal, clock.now_s()))  # fmt: skip

    def _send(
        self, kind: str, rpc: str, request: bytes, heard: Callable[[Wire], Unit],
        refused: Callable[[ProtocolError], Unit] | None = None,
    ) -> bool:  # fmt: skip
        """Send what is stored. An answer that does not verify is none: the same bytes go again."""
        try:
            answer = self.peers.call(self.shop.tsm, rpc, Wire(cose=request))
        except ProtocolError as refusal:
            self._put_off(kind, refusal)
            if refused is not None:
                self._apply(refused(refusal))
            return True
        try:
            self._apply(heard(answer))
        except ProtocolError as fault:
            self._put_off(kind, fault)
        return True

    def _is_due(self, kind: str) -> bool:
        # A clock that was set back must not put anything off for longer.
        return not 0 < self._later_s.get(kind, 0) - self.clock.now_s() <= RETRY_S

    def _put_off(self, kind: str, refusal: ProtocolError) -> None:
        log.warning("lane", kind=kind, code=refusal.code)
        self._later_s[kind] = self.clock.now_s() + RETRY_S

    def _next(self, kind: str, owed: dict[bytes, T]) -> T:
        """Each in turn, so that one that is refused does not hold up the others."""
        last = self._turns.get(kind, b"")
        self._turns[kind] = min((name for name in owed if name > last), default=min(owed))
        return owed[self._turns[kind]]

    def _apply(self, unit: Unit) -> Any:
        for _ in range(ATTEMPTS):
            try:
                return self.store.apply(unit).reply
            except Conflict:
                continue
        raise Internal("a unit kept conflicting")
