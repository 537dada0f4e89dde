"""A merchant's terminal signs on: one request until it is answered, one owner for each identifier (CN-5, CN-14)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.world import World

from protocol import envelope
from protocol.crypto import PrivateKey
from protocol.engine import Peer
from protocol.envelope import Signer, Stamp, Wire
from protocol.errors import FieldMismatch, IdentifierTaken, SignatureInvalid
from protocol.messages.merchant import SignedOn
from protocol.roles.merchant import Shop, TerminalKey, begin_sign_on, finish_sign_on
from protocol.roles.tsm.tables import TERMINALS
from protocol.rows import MemoryStore
from protocol.types import Role


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def shop(world: World, name: str = "shop-1", identifier: str = "TAPVEIL00000001", title: str = "Shop 1") -> Shop:
    keys = world.merchant if name == "shop-1" else world.certified(name, Role.MERCHANT)
    return Shop(
        keys=keys, directory=world.directory, merchant_name=title, merchant_identifier=identifier,
        terminal="T0000001", tsm="tsm-1",
    )  # fmt: skip


def begin(world: World, store: MemoryStore, seller: Shop, terminal: str = "T0000001") -> TerminalKey:
    unit = begin_sign_on(seller, terminal, "tsm-1", world.clock.now_s(), world.entropy)
    pending = store.apply(unit).reply
    assert isinstance(pending, TerminalKey)
    return pending


def send(world: World, seller: Shop, pending: TerminalKey) -> Wire:
    peer = Peer(role=Role.MERCHANT, name=seller.keys.name)
    return world.deliver("tsm-1", "Tsm.SignOn", Wire(cose=pending.request), peer)


def test_a_terminal_signs_on_and_rotates_its_key(world: World) -> None:
    store, seller = MemoryStore(), shop(world)
    pending = begin(world, store, seller)
    assert begin(world, store, seller).request == pending.request  # until it is answered, the same bytes
    answer = send(world, seller, pending)
    active = store.apply(finish_sign_on(seller, pending, answer, world.clock.now_s())).reply
    assert active.state == "ACTIVE"
    again = begin(world, store, seller)
    assert again.request != pending.request
    send(world, seller, again)
    (row,) = world.parties["tsm-1"].store.scan(TERMINALS)
    assert row.terminal_key == PrivateKey.from_bytes(again.private_key).public.encoded


def test_a_request_that_grew_old_is_made_anew(world: World) -> None:
    store, seller = MemoryStore(), shop(world)
    pending = begin(world, store, seller)
    world.clock.time_s = pending.expires_at_s + 1
    assert begin(world, store, seller).request != pending.request


def test_an_answer_about_another_terminal_is_refused(world: World) -> None:
    store, seller = MemoryStore(), shop(world)
    pending = begin(world, store, seller)
    tsm = world.parties["tsm-1"].value.keys
    message = SignedOn(terminal="T9999999", terminal_key=tsm.sign.public.encoded, expires_at_s=2_000_000_000)

    def signed(key: PrivateKey) -> Wire:
        stamp = Stamp.fresh(world.clock.now_s(), world.entropy)
        digest = Wire(cose=pending.request).digest
        signer = Signer(name="tsm-1", key=key)
        return Wire(cose=envelope.sign(signer, message, audience="shop-1", stamp=stamp, request_digest=digest))

    with pytest.raises(FieldMismatch) as caught:
        finish_sign_on(seller, pending, signed(tsm.sign), world.clock.now_s())
    assert caught.value.code == "FIELD_MISMATCH"
    with pytest.raises(SignatureInvalid) as forged:
        finish_sign_on(seller, pending, signed(world.key()), world.clock.now_s())
    assert forged.value.code == "SIGNATURE_INVALID"


@pytest.mark.parametrize("taken", ["terminal", "identifier", "name"])
def test_what_belongs_to_a_merchant_is_not_given_to_another(world: World, taken: str) -> None:
    first, other = shop(world), shop(world, "shop-2", "TAPVEIL00000002", "Shop 2")
    send(world, first, begin(world, MemoryStore(), first))
    before = world.snapshot("tsm-1")
    terminal = "T0000001" if taken == "terminal" else "T0000002"
    if taken == "identifier":
        other = replace(other, merchant_identifier="TAPVEIL00000001")
    if taken == "name":
        other = replace(first, merchant_name="Another name")
    with pytest.raises(IdentifierTaken) as caught:
        send(world, other, begin(world, MemoryStore(), other, terminal))
    assert caught.value.code == "IDENTIFIER_TAKEN"
    assert world.snapshot("tsm-1") == before
