"""Who is paid: the merchant that the phone showed, at a terminal whose key the TSM knows (CN-5, CN-14).

EMV cards authenticate no terminal: a false one says of itself what it likes (Drimer, Murdoch 2007; Bond et al. 2014
harvest cryptograms with one). Here what it says is signed by the card, and compared with its registration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from support.attacker import Hiding, refused
from support.counter import TSM, Counter, applet_of, open_card
from support.skimmer import AnyMerchant, again, crooked_tap, expect, shopper, weaken, won
from support.world import World

from protocol import envelope
from protocol.crypto import PublicKey
from protocol.engine import Context, Incoming, Peer
from protocol.envelope import Wire
from protocol.errors import Expired, FieldMismatch, IdentifierTaken, SignatureInvalid, UnknownKey, WrongPeer
from protocol.messages.pay import Authorization, AuthorizationDecision, EmvPurchase
from protocol.ports import Entropy
from protocol.roles.tsm.authorize import AuthorizeStep, Authorizing
from protocol.roles.tsm.tables import TERMINALS, Terminal
from protocol.roles.tsm.terminals import SigningOn, SignOnStep
from protocol.rows import Decision, Key, Rows
from protocol.types import Role

SMALL = 9_000


# --- what the phone shows ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("tag", "value"),
    [(0x9F4E, b"Red Cross"), (0x9F4E, b"Shop 2"), (0x9F16, b"TAPVEIL00000002"), (0x9F1C, b"T0000002")],
    ids=["name", "another's name", "identifier", "terminal"],
)
def test_a_merchant_that_shows_anothers_name(world: World, tag: int, value: bytes) -> None:
    """Attack: the terminal shows another's name, identifier or terminal, and is paid itself. Powers: the merchant.
    Formal: pay_NONAME. Closed by: what the phone showed is signed, and must be what is registered for the key that
    asks (MERCHANT_MISMATCH). Variant: a TSM that does not compare pays shop-1 what was meant for another."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    Counter.open(world, 2, "shop-2")
    said = {} if tag == 0x9F4E else {tag: value}

    def ask() -> EmvPurchase:
        open_card(world, phone, tid, SMALL)
        shown = {tag: value.ljust(40, b"\0") if tag == 0x9F4E else value}
        return crooked_tap(counter, applet_of(world, phone), SMALL, shows=shown, says=said).purchase(counter)

    expect(counter, ask(), "MERCHANT_MISMATCH")
    weaken(world, AnyMerchant)
    assert won(counter, ask()) == SMALL


class AnyName(SignOnStep):
    """A TSM that registers whatever name a merchant gives."""

    def decide(self, rows: Rows, facts: SigningOn, now_s: int, entropy: Entropy) -> Decision:
        return super().decide(Hiding(rows, TERMINALS), facts, now_s, entropy)


def test_a_merchant_that_registers_as_another(world: World) -> None:
    """Attack: shop-2 signs a terminal on under shop-1's identifier, or takes shop-1's terminal. Powers: a merchant.
    Closed by: identifier and terminal belong to who had them first (CN-14, IDENTIFIER_TAKEN). Variant: a TSM that does
    not look pays shop-2 for a tap at which the phone showed shop-1's identifier."""
    phone, tid = shopper(world)
    first = Counter.open(world)
    second = Counter.open(world, 2, "shop-2")
    posing = replace(
        second, key=world.key(), terminal=replace(first.terminal, terminal="T0000003"),
    )  # fmt: skip
    with refused(world, IdentifierTaken, "IDENTIFIER_TAKEN"):
        posing.sign_on()
    with refused(world, IdentifierTaken, "IDENTIFIER_TAKEN"):
        replace(second, key=world.key(), terminal=replace(second.terminal, terminal="T0000001")).sign_on()

    world.swap_step(TSM, AnyName(world.parties[TSM].value))
    posing.sign_on()
    assert won(posing, posing.ask(phone, tid, SMALL)) == SMALL
    assert "shop-2" in {row.merchant for row in world.parties[TSM].store.scan(TERMINALS) if row.terminal == "T0000003"}


# --- the terminal's key --------------------------------------------------------------------------------------------
class Opens(AuthorizeStep):
    """A TSM with habits of its own about who asks."""

    def believe(self, wire: Wire, ctx: Context, terminal: Terminal) -> Incoming[Authorizing]:
        """The request under the key of this row, whatever else."""
        opened = envelope.believe(
            Authorization, envelope.peek(Authorization, wire.cose), PublicKey.from_bytes(terminal.terminal_key),
            issuer=terminal.merchant, audience=TSM, now_s=ctx.now_s,
        )  # fmt: skip
        facts = Authorizing(terminal=terminal, purchases=(opened.message.purchase,))
        return Incoming(facts=facts, key=opened.key, claims=opened.claims, evidence=())

    def named(self, wire: Wire, ctx: Context) -> Terminal:
        """The terminal that the message names."""
        said = Authorization.from_bytes(envelope.peek(Authorization, wire.cose).payload).terminal
        row = ctx.read(Key(TERMINALS, (said,))).get(TERMINALS, said)
        assert row is not None
        return row


class AnyPeer(Opens):
    """Asks not who is on the line."""

    def open(self, wire: Wire, ctx: Context) -> Incoming[Authorizing]:
        row = self.named(wire, ctx)
        return super().open(wire, replace(ctx, peer=Peer(role=Role.MERCHANT, name=row.merchant)))


class AnyKeyOfTheMerchant(Opens):
    """Takes the key of any terminal of the merchant for the one that is named."""

    def open(self, wire: Wire, ctx: Context) -> Incoming[Authorizing]:
        kid = envelope.peek(Authorization, wire.cose).kid
        (signer,) = (row for row in ctx.store.scan(TERMINALS) if row.kid_terminal == kid)
        incoming = self.believe(wire, ctx, signer)
        return replace(incoming, facts=replace(incoming.facts, terminal=self.named(wire, ctx)))


class OldKeys(Opens):
    """Takes a key that was rotated out, or is past its time."""

    known: PublicKey

    def open(self, wire: Wire, ctx: Context) -> Incoming[Authorizing]:
        row = self.named(wire, ctx)
        return self.believe(wire, ctx, replace(row, terminal_key=self.known.encoded))


def ask_over(counter: Counter, purchase: EmvPurchase, peer: str, terminal: str = "") -> AuthorizationDecision:
    """The counter's request over another's TLS, or in another terminal's name."""
    message = Authorization(terminal=terminal or counter.terminal.terminal, purchase=purchase)
    wire = counter.signed(message)
    reply = counter.world.deliver(TSM, "Tsm.Authorize", wire, Peer(role=Role.MERCHANT, name=peer))
    decision: AuthorizationDecision = counter.opened(AuthorizationDecision, wire, reply)
    return decision


def test_a_stolen_terminal_key(world: World) -> None:
    """Attack: shop-2 asks with the key of shop-1's terminal, which it stole. Powers: that key, not shop-1's TLS key.
    Closed by: key and transport must be one merchant's (WRONG_PEER). Variant: a TSM that does not ask who is on the
    line decides, and answers the thief."""
    phone, tid = shopper(world)
    first = Counter.open(world)
    Counter.open(world, 2, "shop-2")
    purchase = first.ask(phone, tid, SMALL)
    wire = first.signed(Authorization(terminal="T0000001", purchase=purchase))
    for peer in (Peer(role=Role.MERCHANT, name="shop-2"), Peer(role=Role.PHONE, name="shop-1"), None):
        with refused(world, WrongPeer, "WRONG_PEER"):
            world.deliver(TSM, "Tsm.Authorize", wire, peer)

    world.swap_step(TSM, AnyPeer(world.parties[TSM].value))
    assert ask_over(first, purchase, "shop-2").decided.verdict == "approved"


def test_the_key_of_another_terminal(world: World) -> None:
    """Attack: a terminal of the merchant asks in the name of another one, whose tap it has. Powers: one terminal's key.
    Closed by: the message's terminal is the key's (FIELD_MISMATCH); and the signed terminal is the registered one.
    Variant: a TSM that lets any key of the merchant speak for all its terminals."""
    phone, tid = shopper(world)
    first, beside = Counter.open(world), Counter.open(world, 2)
    purchase = first.ask(phone, tid, SMALL)
    with refused(world, FieldMismatch, "FIELD_MISMATCH"):
        ask_over(beside, purchase, "shop-1", terminal="T0000001")
    expect(beside, again(world, purchase), "MERCHANT_MISMATCH")

    world.swap_step(TSM, AnyKeyOfTheMerchant(world.parties[TSM].value))
    assert ask_over(beside, purchase, "shop-1", terminal="T0000001").decided.verdict == "approved"


def rotate(world: World, counter: Counter) -> Counter:
    """The same terminal under a new key; the old counter keeps the old one."""
    renewed = replace(counter, key=world.key())
    renewed.sign_on()
    return renewed


def expire(world: World, counter: Counter) -> Counter:
    world.clock.time_s += world.parties[TSM].value.policy.terminal_key_life_s + 1
    return counter


@pytest.mark.parametrize(
    ("event", "error", "code"),
    [(rotate, UnknownKey, "UNKNOWN_KEY"), (expire, Expired, "EXPIRED")],
    ids=["rotated out", "past its time"],
)
def test_a_key_of_the_past(world: World, event: Callable[[World, Counter], Counter], error: Any, code: str) -> None:
    """Attack: a key that was taken out of an old terminal asks. Powers: that key and the merchant's TLS key. Closed by:
    signing on again ends the old key (UNKNOWN_KEY), and each ends by itself (EXPIRED; CN-5). Variant: a TSM that keeps
    on with the old one decides."""
    old = Counter.open(world)
    event(world, old)
    phone, tid = shopper(world)
    purchase = old.ask(phone, tid, SMALL)
    with refused(world, error, code):
        old.authorize(purchase)

    variant = OldKeys(world.parties[TSM].value)
    variant.known = old.key.public
    world.swap_step(TSM, variant)
    assert won(old, purchase) == SMALL


def test_a_key_that_nobody_registered(world: World) -> None:
    """Attack: a terminal that never signed on asks, or one signs with a key of its own under a registered thumbprint.
    Powers: the merchant's TLS key. Closed by: UNKNOWN_KEY, SIGNATURE_INVALID. Variant: `OldKeys` above takes such a
    key for the terminal's."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    purchase = counter.ask(phone, tid, SMALL)
    stranger = replace(counter, key=world.key())
    with refused(world, UnknownKey, "UNKNOWN_KEY"):
        stranger.authorize(purchase)
    # The stranger's signature in an envelope that names the registered key.
    honest = counter.signed(Authorization(terminal="T0000001", purchase=purchase)).cose
    forged = Wire(cose=honest[:-64] + bytes(64))
    with refused(world, SignatureInvalid, "SIGNATURE_INVALID"):
        counter.deliver("Tsm.Authorize", forged)

    variant = OldKeys(world.parties[TSM].value)
    variant.known = stranger.key.public
    world.swap_step(TSM, variant)
    assert won(stranger, purchase) == SMALL
