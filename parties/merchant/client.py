"""The Python client's part for merchants: what the till's commands do, as calls with typed results."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from parties.merchant.settlement import Settled
from parties.merchant.till import Till
from protocol.errors import IdentifierTaken, SettingsInvalid, Unavailable
from protocol.messages import till
from protocol.messages.till import SaleProgress
from protocol.types import HANDLE_BYTES

SALE_S: Final = 300.0
"""Longer than any sale takes (`protocol.roles.merchant.ShopPolicy`)."""
POLL_S: Final = 0.1
_UNDER_WAY: Final = (SaleProgress.EXPECT_TAP, SaleProgress.EXPECT_DECISION)


@dataclass(frozen=True, slots=True, kw_only=True)
class SaleState:
    """A sale at a merchant: its name in hexadecimal, where it is, amounts in minor units, EMV's outcome, what the
    customer is shown, and the card's masked number."""

    sale: str
    progress: SaleProgress
    amount_minor: int
    currency: str
    refunded_minor: int
    refunds_pending: int
    outcome: str
    display: str
    card: str

    @property
    def under_way(self) -> bool:
        """Is a card or a decision still waited for?"""
        return self.progress in _UNDER_WAY


class MerchantClient:
    """The till of a merchant, whose server runs. Close it at the end, or use it in a `with` statement."""

    def __init__(self, settings: Path) -> None:
        """`settings` is the merchant's settings.toml: its key signs, its server is called."""
        self._till = Till(settings)

    def new_name(self) -> str:
        """A name for a sale or refund, to be known before the server is asked."""
        return self._till.new_name().hex()

    def start_sale(self, amount_minor: int, *, currency: str = "TWD", sale: str = "") -> SaleState:
        """Wait for a card, and charge it. A name that is given may be given again: the sale goes on where it was.

        Raises: WrongState while another sale is under way; CardDataInvalid for the amount or currency;
        IdentifierTaken when the name is another sale's.
        """
        name = _handle(sale or self.new_name())
        try:
            return self._ask(till.StartSale(sale=name, amount_minor=amount_minor, currency=currency))
        except IdentifierTaken:
            state = self.sale(name.hex())
            if (state.amount_minor, state.currency) != (amount_minor, currency):
                raise
            return state

    def sale(self, sale: str) -> SaleState:
        """How is it going? Raises: PurchaseUnknown."""
        return self._ask(till.GetSale(sale=_handle(sale)))

    def await_end(
        self, sale: str, shown: Callable[[str], None] = lambda _display: None, *, within_s: float = SALE_S
    ) -> SaleState:
        """The sale when neither card nor decision is waited for any more; `shown` gets each text of the display.

        Raises: PurchaseUnknown; Unavailable when the lane does not work on it.
        """
        until_s, display = time.monotonic() + within_s, ""
        while True:
            state = self.sale(sale)
            if state.display != display:
                display = state.display
                shown(display)
            if not state.under_way:
                return state
            if time.monotonic() > until_s:
                raise Unavailable("the sale does not end: look at the merchant's server")
            time.sleep(POLL_S)

    def cancel(self, sale: str) -> SaleState:
        """Call it off; an approved sale is voided. Raises: PurchaseUnknown, WrongState once it ended otherwise."""
        return self._ask(till.CancelSale(sale=_handle(sale)))

    def refund(self, sale: str, amount_minor: int, *, refund: str = "") -> SaleState:
        """Give back all or part of an approved sale; `refunded_minor` says when it is made.

        Raises: PurchaseUnknown, WrongState, LimitExceeded, IdentifierTaken when the refund's name is taken.
        """
        name = _handle(refund or self.new_name())
        return self._ask(till.RefundSale(sale=_handle(sale), refund=name, amount_minor=amount_minor))

    def settle(self) -> Settled:
        """Have the TSM pay out all that is due, also while the server runs, in as many settlements as it takes.

        Raises: Unavailable when the TSM gives no answer (again, it goes on with the same bytes), StorageFault.
        """
        return self._till.settle()

    def close(self) -> None:
        """Close the way to the server."""
        self._till.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, message: till.StartSale | till.GetSale | till.CancelSale | till.RefundSale) -> SaleState:
        state = self._till.ask(message)
        return SaleState(
            sale=state.sale.hex(), progress=state.progress, amount_minor=state.amount_minor, currency=state.currency,
            refunded_minor=state.refunded_minor, refunds_pending=state.refunds_pending, outcome=state.outcome,
            display=state.display, card=state.card,
        )  # fmt: skip


def _handle(text: str) -> bytes:
    try:
        name = bytes.fromhex(text)
    except ValueError:
        name = b""
    if len(name) != HANDLE_BYTES:
        raise SettingsInvalid(f"the name of a sale or refund has {2 * HANDLE_BYTES} hexadecimal digits")
    return name
