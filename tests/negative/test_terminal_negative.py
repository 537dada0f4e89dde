"""What a terminal sends: under its own registered key, over its merchant's TLS, once; a lost answer comes again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from support.attacker import refused
from support.counter import TSM, Counter
from support.customer import SMALL, Customer
from support.world import World

from protocol import envelope
from protocol.engine import Peer
from protocol.envelope import Signer, Wire
from protocol.errors import Expired, FieldMismatch, Replay, SignatureInvalid, UnknownKey, WrongIssuer, WrongPeer
from protocol.messages.pay import (
    Authorization,
    AuthorizationBatch,
    AuthorizationDecision,
    AuthorizationDecisions,
    Refund,
    Refunded,
    Reversal,
    ReversalReason,
    Reversed,
)
from protocol.roles.tsm.tables import TERMINALS
from protocol.schema import Message
from protocol.types import Role

PAID, REFUND = b"\x05" * 16, b"\x06" * 16


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One of the four requests, good for a customer that paid `PAID` with the second card."""

    name: str
    reply: type[Message]
    make: Callable[[Customer, str], Message]

    def __str__(self) -> str:
        return self.name


def _refund(customer: Customer, terminal: str) -> Refund:
    return Refund(terminal=terminal, sale=PAID, refund=REFUND, amount_minor=1_000, currency="TWD")


ASKS = (
    Ask(
        name="Authorize", reply=AuthorizationDecision,
        make=lambda c, terminal: Authorization(terminal=terminal, purchase=c.make()),
    ),
    Ask(
        name="AuthorizeBatch", reply=AuthorizationDecisions,
        make=lambda c, terminal: AuthorizationBatch(terminal=terminal, purchases=(c.make(),)),
    ),
    Ask(
        name="Reverse", reply=Reversed,
        make=lambda c, terminal: Reversal(terminal=terminal, sale=PAID, reason=ReversalReason.VOID),
    ),
    Ask(name="Refund", reply=Refunded, make=_refund),
)  # fmt: skip
each_ask = pytest.mark.parametrize("ask", ASKS, ids=str)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, seed="terminal")


@pytest.fixture
def customer(world: World) -> Customer:
    customer = Customer.come(world)
    assert customer.counter.authorize(replace(customer.make(card=1), sale=PAID)).verdict == "approved"
    return customer


def wire(customer: Customer, ask: Ask, *, terminal: str = "", **changes: Any) -> Wire:
    """The request, by this counter or with another key or name."""
    counter = customer.counter
    signer = Signer(name=changes.get("name", counter.keys.name), key=changes.get("key", counter.key))
    message = ask.make(customer, terminal or counter.terminal.terminal)
    audience = changes.get("audience", TSM)
    return Wire(cose=envelope.sign(signer, message, audience=audience, stamp=changes.get("stamp", counter.stamp())))


def good(customer: Customer, ask: Ask) -> None:
    """The sibling that is accepted, and does something."""
    before, sent = customer.purchases(), wire(customer, ask)
    customer.counter.opened(ask.reply, sent, customer.counter.deliver(f"Tsm.{ask.name}", sent))
    assert customer.purchases() != before


# --- whose key --------------------------------------------------------------------------------------------------------
@each_ask
def test_a_key_that_is_not_registered(world: World, customer: Customer, ask: Ask) -> None:
    """Not even the merchant's own: a terminal's requests are the terminal's."""
    for key in (world.key(), customer.counter.keys.sign):
        sent = wire(customer, ask, key=key)
        with refused(world, UnknownKey, "UNKNOWN_KEY"):
            customer.counter.deliver(f"Tsm.{ask.name}", sent)
    good(customer, ask)


@each_ask
def test_a_key_serves_until_its_last_second(world: World, customer: Customer, ask: Ask) -> None:
    (row,) = world.parties[TSM].store.scan(TERMINALS)
    customer.amend(TERMINALS, expires_at_s=world.clock.now_s() - 1)
    sent = wire(customer, ask)
    with refused(world, Expired, "EXPIRED"):
        customer.counter.deliver(f"Tsm.{ask.name}", sent)
    customer.amend(TERMINALS, expires_at_s=world.clock.now_s())
    good(customer, ask)
    assert row.expires_at_s > world.clock.now_s()


@each_ask
def test_a_rotated_key_is_of_the_past(world: World, customer: Customer, ask: Ask) -> None:
    old = wire(customer, ask)
    customer.counter.key = world.key()
    customer.counter.sign_on()
    with refused(world, UnknownKey, "UNKNOWN_KEY"):
        customer.counter.deliver(f"Tsm.{ask.name}", old)
    good(customer, ask)


@each_ask
def test_a_key_is_one_terminals(world: World, customer: Customer, ask: Ask) -> None:
    Counter.open(world, 2)
    sent = wire(customer, ask, terminal="T0000002")
    with refused(world, FieldMismatch, "FIELD_MISMATCH"):
        customer.counter.deliver(f"Tsm.{ask.name}", sent)
    good(customer, ask)


@each_ask
def test_a_terminal_speaks_for_its_merchant_only(world: World, customer: Customer, ask: Ask) -> None:
    second = Counter.open(world, 2, "shop-2")
    sent, counter = wire(customer, ask), customer.counter
    peers = (
        None, Peer(role=Role.MERCHANT, name="shop-2"), Peer(role=Role.TSM, name="shop-1"),
        Peer(role=Role.MERCHANT, name="shop-1x"),
    )  # fmt: skip
    for peer in peers:
        with refused(world, WrongPeer, "WRONG_PEER"):
            world.deliver(TSM, f"Tsm.{ask.name}", sent, peer)
    named = wire(customer, ask, name="shop-2")
    with refused(world, WrongIssuer, "WRONG_ISSUER"):
        counter.deliver(f"Tsm.{ask.name}", named)
    stolen = wire(customer, ask, key=second.key)
    with refused(world, WrongPeer, "WRONG_PEER"):
        counter.deliver(f"Tsm.{ask.name}", stolen)
    with refused(world, WrongIssuer, "WRONG_ISSUER"):
        second.deliver(f"Tsm.{ask.name}", stolen)
    good(customer, ask)


@each_ask
def test_a_signature_is_over_every_byte(world: World, customer: Customer, ask: Ask) -> None:
    sent = wire(customer, ask)
    flipped = replace(sent, cose=sent.cose[:-1] + bytes([sent.cose[-1] ^ 1]))
    with refused(world, SignatureInvalid, "SIGNATURE_INVALID"):
        customer.counter.deliver(f"Tsm.{ask.name}", flipped)
    good(customer, ask)


# --- once -------------------------------------------------------------------------------------------------------------
@each_ask
def test_a_lost_answer_comes_again(world: World, customer: Customer, ask: Ask) -> None:
    """The same bytes: the same answer, no second effect; also later, and after a restart."""
    sent, rpc = wire(customer, ask), f"Tsm.{ask.name}"
    first = customer.counter.deliver(rpc, sent)
    after = world.snapshot(TSM)
    assert after["purchases"] != []
    for _ in range(2):
        assert customer.counter.deliver(rpc, sent) == first
        world.clock.time_s += 30
        assert world.restart(TSM) == []
    assert world.snapshot(TSM) == after
    customer.counter.opened(ask.reply, sent, first)


@each_ask
def test_a_nonce_is_used_once(world: World, customer: Customer, ask: Ask) -> None:
    stamp = customer.counter.stamp()
    customer.counter.deliver(f"Tsm.{ask.name}", wire(customer, ask, stamp=stamp))
    other = wire(customer, ask, stamp=replace(stamp, issued_at_s=stamp.issued_at_s - 1))
    with refused(world, Replay, "REPLAY"):
        customer.counter.deliver(f"Tsm.{ask.name}", other)


def test_what_four_requests_left(world: World, customer: Customer) -> None:
    """Each once and again: one purchase was paid, one was paid and taken back; a refund of the latter is too late."""
    for ask in ASKS[:3]:
        sent = wire(customer, ask)
        for _ in range(2):
            customer.counter.deliver(f"Tsm.{ask.name}", sent)
    assert sorted(row.state for row in customer.purchases()) == ["APPROVED", "DECLINED", "REVERSED"]
    assert customer.grant().spent_minor == SMALL
