"""A merchant's terminal toward the TSM (PAY): it signs on with a key of its own, and signs all its requests with it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from conformance.bundle import Played, Tested
from conformance.drafts import Draft, Post, signed_reply
from conformance.emv_card import Values
from conformance.service import sign_on
from conformance.wire import Key, Signed, Signer

COUNTRY = bytes.fromhex("0158")
CURRENCIES = {"TWD": "0901", "USD": "0840", "XXX": "0999"}
NO_CVM = bytes.fromhex("1F0002")
"""9F34: no verification asked for, always, successful (Book 4 Annex A4)."""


@dataclass
class Shop:
    """One terminal of a merchant."""

    tsm: Tested
    merchant: Played
    connection: Post
    merchant_name: str = "Conformance"
    identifier: str = "CONFORMANCE0001"
    terminal: str = field(default_factory=lambda: os.urandom(4).hex().upper())
    key: Key = field(default_factory=Key.new)

    @property
    def signer(self) -> Signer:
        """The terminal's own key, under the merchant's name."""
        return Signer(self.merchant.name, self.key)

    def sign_on(self, **fields: Any) -> Draft[Signed]:
        """With the key that the terminal has now."""
        named = {
            "merchant_name": self.merchant_name, "merchant_identifier": self.identifier, "terminal": self.terminal,
            "terminal_key": self.key.point, **fields,
        }  # fmt: skip
        return sign_on(self.tsm, self.merchant, self.connection, **named)

    def ready(self) -> Shop:
        """Signed on."""
        self.sign_on().send()
        return self

    # --- what it tells a card ----------------------------------------------------------------------------------------
    def values(self, amount_minor: int, currency: str = "TWD", *, day_s: int | None = None) -> Values:
        """The data elements of one purchase, with a fresh unpredictable number (Book 3 Annex A)."""
        day = time.strftime("%y%m%d", time.gmtime(time.time() if day_s is None else day_s))
        return {
            0x9F02: bytes.fromhex(f"{amount_minor:012d}"), 0x9F03: bytes(6), 0x9F1A: COUNTRY, 0x95: bytes(5),
            0x5F2A: bytes.fromhex(CURRENCIES[currency]), 0x9A: bytes.fromhex(day), 0x9C: b"\0",
            0x9F37: os.urandom(4), 0x9F35: b"\x22", 0x9F34: NO_CVM, 0x9F16: self.identifier.encode(),
            0x9F1C: self.terminal.encode(), 0x9F4E: self.merchant_name.encode(),
        }  # fmt: skip

    # --- what it asks the TSM ----------------------------------------------------------------------------------------
    def _draft(self, rpc: str, name: str, reply: str, payload: dict[str, Any]) -> Draft[Signed]:
        return Draft(
            rpc=rpc, to=self.connection, audience=self.tsm.name, signer=self.signer, name=name,
            payload={"terminal": self.terminal, **payload}, open=signed_reply(self.tsm, reply, self.merchant.name),
        )  # fmt: skip

    def authorize(self, purchase: dict[str, Any], **fields: Any) -> Draft[Signed]:
        """One purchase."""
        payload = {"purchase": purchase, **fields}
        return self._draft("Tsm.Authorize", "authorization", "authorization-decision", payload)

    def authorize_batch(self, purchases: Sequence[dict[str, Any]], **fields: Any) -> Draft[Signed]:
        """Several under one signature."""
        payload = {"purchases": list(purchases), **fields}
        return self._draft("Tsm.AuthorizeBatch", "authorization-batch", "authorization-decisions", payload)

    def reverse(self, sale: bytes, reason: str = "no-answer", **fields: Any) -> Draft[Signed]:
        """Take a purchase back."""
        return self._draft("Tsm.Reverse", "reversal", "reversed", {"sale": sale, "reason": reason, **fields})

    def refund(self, sale: bytes, amount_minor: int, **fields: Any) -> Draft[Signed]:
        """Give part or all of it back."""
        payload = {"sale": sale, "refund": os.urandom(16), "amount_minor": amount_minor, "currency": "TWD", **fields}
        return self._draft("Tsm.Refund", "refund", "refunded", payload)

    def settle(
        self, sales: dict[bytes, int], refunds: dict[bytes, int] | None = None, /, **fields: Any
    ) -> Draft[Signed]:  # fmt: skip
        """Have sales paid out less refunds: names with their amounts. Signed by the merchant, not by a terminal."""
        refunds = refunds or {}
        payload = {
            "batch": os.urandom(16), "currency": "TWD",
            "sales": [{"sale": sale, "amount_minor": minor} for sale, minor in sales.items()],
            "refunds": [{"refund": refund, "amount_minor": minor} for refund, minor in refunds.items()],
            "total_minor": sum(sales.values()) - sum(refunds.values()), **fields,
        }  # fmt: skip
        return Draft(
            rpc="Tsm.SettleBatch", to=self.connection, audience=self.tsm.name, signer=self.merchant.signer,
            name="settlement", payload=payload, open=signed_reply(self.tsm, "payout", self.merchant.name),
        )  # fmt: skip

    def decide(self, purchase: dict[str, Any]) -> dict[str, Any]:
        """The decision about one purchase."""
        return dict(self.authorize(purchase).send()["decided"])
