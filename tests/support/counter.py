"""A merchant's counter in a world: a terminal that is signed on, taps phones over the real applet and kernel, and asks.

The merchant's own server has tests of its own; here the terminal's messages are made by hand, so that they can be made
wrong.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field, replace
from typing import Any

from support.world import Phone, World, emv_keys

from protocol import envelope
from protocol.card.applet import Applet
from protocol.card.kernel import perform_tap, run_exchange
from protocol.card.oda import CaKey
from protocol.card.outcome import OnlineRequest, Outcome
from protocol.card.profile import RID, Channel
from protocol.card.terminal import Sale, Terminal
from protocol.crypto import PrivateKey
from protocol.engine import Peer
from protocol.envelope import Signer, Stamp, Wire
from protocol.messages.card import EmvRecord
from protocol.messages.merchant import SignOn
from protocol.messages.pay import (
    Authorization,
    AuthorizationBatch,
    AuthorizationDecision,
    AuthorizationDecisions,
    Decided,
    EmvPurchase,
    Refund,
    Refunded,
    Reversal,
    ReversalReason,
    Reversed,
)
from protocol.messages.se import Opening, OpeningState, SeOpenCard, SeOpening, SePin, SeSetPin, SeVerifyPin
from protocol.roles.party import PartyKeys
from protocol.roles.se.field import Field
from protocol.roles.tsm.tables import PURCHASES, Purchase
from protocol.schema import Message
from protocol.types import Role

TSM = "tsm-1"
PIN = "7351"


def open_card(world: World, phone: Phone, tid: str, ceiling_minor: int) -> Opening:
    """TW-S2: the cardholder's action."""
    command = SeOpenCard(tid=tid, ceiling_minor=ceiling_minor)
    return world.run(phone, phone.wallet.command("OpenCard", command, SeOpening)).opening


def set_pin(world: World, phone: Phone, new: str = PIN, old: str = "", personal: tuple[str, ...] = ()) -> SePin:
    return world.run(phone, phone.wallet.command("SetPin", SeSetPin(old=old, new=new, personal=personal), SePin))


def verify_pin(world: World, phone: Phone, shown: Opening, pin: str = PIN) -> Opening:
    command = SeVerifyPin(
        pin=pin, amount_minor=shown.amount_minor, currency=shown.currency, merchant=shown.merchant,
        terminal=shown.terminal,
    )  # fmt: skip
    return world.run(phone, phone.wallet.command("VerifyPin", command, SeOpening)).opening


def applet_of(world: World, phone: Phone, channel: Channel = Channel.CONTACTLESS) -> Applet:
    """The phone in the field: its applet over what its SE keeps."""
    holder = Field(store=phone.party.store, clock=world.clock, working=phone.party.value.working)
    return Applet(holder, world.entropy, channel=channel)


@dataclass
class Counter:
    """A merchant's terminal, signed on at the TSM."""

    world: World
    keys: PartyKeys
    key: PrivateKey
    terminal: Terminal
    trace: list[tuple[bytes, bytes]] = field(default_factory=list)

    @classmethod
    def open(cls, world: World, number: int = 1, merchant: str = "shop-1") -> Counter:
        """A terminal of `merchant`, registered as number `number` with a key of its own."""
        keys = world.merchant if merchant == "shop-1" else world.certified(merchant, Role.MERCHANT)
        terminal = Terminal(
            merchant_identifier=f"TAPVEIL{int(merchant.split('-')[1]):08d}", terminal=f"T{number:07d}",
            merchant_name=f"Shop {merchant.split('-')[1]}",
            ca_keys=(CaKey(rid=RID, index=1, key=emv_keys()[0].public),),
        )  # fmt: skip
        counter = cls(world=world, keys=keys, key=world.key(), terminal=terminal)
        counter.sign_on()
        return counter

    def sign_on(self) -> None:
        message = SignOn(
            merchant_name=self.terminal.merchant_name, merchant_identifier=self.terminal.merchant_identifier,
            terminal=self.terminal.terminal, terminal_key=self.key.public.encoded,
        )  # fmt: skip
        signed = envelope.sign(self.keys.signer, message, audience=TSM, stamp=self.stamp())
        self.deliver("Tsm.SignOn", Wire(cose=signed))

    def stamp(self) -> Stamp:
        return Stamp.fresh(self.world.clock.now_s(), self.world.entropy)

    def deliver(self, rpc: str, wire: Wire) -> Wire:
        return self.world.deliver(TSM, rpc, wire, Peer(role=Role.MERCHANT, name=self.keys.name))

    # --- the tap ---------------------------------------------------------------------------------------------------
    def sale(self, amount_minor: int, currency: str = "TWD") -> Sale:
        today = datetime.datetime.fromtimestamp(self.world.clock.now_s(), tz=datetime.UTC).date()
        return Sale(amount_minor=amount_minor, currency=currency, date=today, unpredictable=self.world.entropy.bytes(4))

    def tap(self, card: Applet, amount_minor: int, sale: Sale | None = None) -> Outcome:
        """The kernel against a card; what they said is in `trace`."""
        self.trace = []

        def transmit(command: bytes) -> bytes:
            answer = card.process(command)
            self.trace.append((command, answer))
            return answer

        card.reset()
        return run_exchange(perform_tap(self.terminal, sale or self.sale(amount_minor)), transmit)

    def ask(self, phone: Phone, tid: str, amount_minor: int) -> EmvPurchase:
        """Card opened and tapped, for an amount under the verification limit: what the terminal would send."""
        assert open_card(self.world, phone, tid, amount_minor).state is OpeningState.OPEN
        outcome = self.tap(applet_of(self.world, phone), amount_minor)
        assert outcome.online is not None, outcome
        return self.purchase(outcome.online)

    def ask_verified(self, phone: Phone, tid: str, amount_minor: int) -> EmvPurchase:
        """The same above the limit: first tap, PIN, second tap."""
        open_card(self.world, phone, tid, amount_minor)
        card = applet_of(self.world, phone)
        assert self.tap(card, amount_minor).online is None
        verify_pin(self.world, phone, self.opening(phone))
        outcome = self.tap(card, amount_minor)
        assert outcome.online is not None, outcome
        return self.purchase(outcome.online)

    def opening(self, phone: Phone) -> Opening:
        """What the phone shows."""
        from protocol.roles.wallet import status

        return self.world.run(phone, status(phone.wallet)).opening

    def purchase(self, online: OnlineRequest, sale: bytes = b"") -> EmvPurchase:
        return EmvPurchase(
            sale=sale or self.world.entropy.bytes(16), application=online.aid, aip=online.aip, afl=online.afl,
            records=tuple(EmvRecord(sfi=r.sfi, number=r.number, data=r.data) for r in online.records),
            pdol_data=online.pdol_data, cdol_data=online.cdol_data, information=online.information, atc=online.atc,
            issuer_data=online.issuer_data, signature=online.signature,
        )  # fmt: skip

    # --- the TSM ---------------------------------------------------------------------------------------------------
    def signed(self, message: Message) -> Wire:
        """Under the terminal's own key."""
        signer = Signer(name=self.keys.name, key=self.key)
        return Wire(cose=envelope.sign(signer, message, audience=TSM, stamp=self.stamp()))

    def opened(self, kind: Any, sent: Wire, reply: Wire) -> Any:
        tsm = self.world.parties[TSM].value.keys
        return envelope.open_signed(
            kind, reply.cose, tsm.sign.public, issuer=TSM, audience=self.keys.name, now_s=self.world.clock.now_s(),
            request_digest=sent.digest,
        ).message  # fmt: skip

    def send(self, rpc: str, message: Message, kind: Any) -> Any:
        """One request and its verified answer."""
        wire = self.signed(message)
        return self.opened(kind, wire, self.deliver(rpc, wire))

    def authorize(self, purchase: EmvPurchase) -> Decided:
        message = Authorization(terminal=self.terminal.terminal, purchase=purchase)
        decision: AuthorizationDecision = self.send("Tsm.Authorize", message, AuthorizationDecision)
        return decision.decided

    def authorize_batch(self, *purchases: EmvPurchase) -> tuple[Decided, ...]:
        message = AuthorizationBatch(terminal=self.terminal.terminal, purchases=purchases)
        decisions: AuthorizationDecisions = self.send("Tsm.AuthorizeBatch", message, AuthorizationDecisions)
        return decisions.decided

    def reverse(self, sale: bytes, reason: ReversalReason = ReversalReason.NO_ANSWER) -> Reversed:
        message = Reversal(terminal=self.terminal.terminal, sale=sale, reason=reason)
        reversed_: Reversed = self.send("Tsm.Reverse", message, Reversed)
        return reversed_

    def refund(self, sale: bytes, amount_minor: int, currency: str = "TWD", name: bytes = b"") -> Refunded:
        message = Refund(
            terminal=self.terminal.terminal, sale=sale, refund=name or self.world.entropy.bytes(16),
            amount_minor=amount_minor, currency=currency,
        )  # fmt: skip
        refunded: Refunded = self.send("Tsm.Refund", message, Refunded)
        return refunded

    def reason(self, sale: bytes) -> str:
        """Why the TSM declined; empty if it approved."""
        return self.row(sale).reason

    def row(self, sale: bytes) -> Purchase:
        found = [
            row for row in self.world.parties[TSM].store.scan(PURCHASES)
            if (row.merchant, row.sale) == (self.keys.name, sale)
        ]  # fmt: skip
        assert len(found) == 1
        return found[0]


def changed(purchase: EmvPurchase, **changes: Any) -> EmvPurchase:
    """The same with some fields replaced."""
    return replace(purchase, **changes)
