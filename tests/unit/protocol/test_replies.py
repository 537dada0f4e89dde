"""Every step's `seal`: the same reply and stamp sign the same bytes, however late they are asked for (design §2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from support.forge import Ring
from support.tape import Tape, record

from protocol import contract, cose
from protocol.engine import REQUESTS, Context, StatelessStep, Step
from protocol.envelope import Stamp, Wire
from protocol.rows import Key, Overlay

SERVED = ("bank-a", "tsm-1", "shop-1", "sp-1", "phone-1")


@pytest.fixture(scope="module")
def tape(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tape]:
    yield record(Tape(tmp_path_factory.mktemp("tape"), seed="replies"))


@pytest.fixture(scope="module")
def ring(tape: Tape) -> Ring:
    return Ring(tape)


RPCS = sorted(rpc.full_name for rpc in contract.RPCS)


def test_every_step_class_is_here(tape: Tape) -> None:
    assert {rpc for name in SERVED for rpc in tape.parties[name].steps} == set(RPCS)
    assert set(RPCS) <= {taken.rpc for taken in tape.taken}


def _decided(step: Step[Any], facts: Any, ctx: Context) -> tuple[Any, Stamp]:
    """The reply and the stamp that are kept of an answered request; of a stateless one, those it was made from."""
    if isinstance(step, StatelessStep):
        reply = step.decide(Overlay(), facts, ctx.now_s, ctx.entropy).reply
        return reply, Stamp.fresh(ctx.now_s, ctx.entropy)
    request = ctx.read(Key(REQUESTS, (ctx.digest,))).get(REQUESTS, ctx.digest)
    assert request is not None
    return step.reply.from_bytes(request.reply), Stamp(issued_at_s=request.issued_at_s, nonce=request.reply_nonce)


@pytest.mark.parametrize("rpc", RPCS)
def test_sealing_signs_the_same_bytes(tape: Tape, ring: Ring, rpc: str) -> None:
    taken = tape.rewind(rpc)
    party = tape.parties[taken.peer]
    step: Step[Any] = party.steps[rpc]
    answered = tape.send_again(taken)
    ctx = Context(
        store=party.store, now_s=tape.clock.now_s(), entropy=tape.entropy, peer=taken.caller, digest=taken.wire.digest
    )
    facts = step.open(taken.wire, ctx).facts
    reply, stamp = _decided(step, facts, ctx)
    sealed = [step.seal(facts, reply, stamp, ctx) for _ in range(2)]
    sealed.append(step.seal(facts, reply, stamp, replace(ctx, now_s=ctx.now_s + 600)))
    if not isinstance(step, StatelessStep):
        sealed.append(answered)
    if answered.cose[:1] == cose.SIGN1_TAG:
        assert sealed == [sealed[0]] * len(sealed)
    else:
        assert len({wire.cose for wire in sealed}) == len(sealed)  # sealed anew, so that repeats don't look alike
    assert len({_signed(ring, wire, taken.wire) for wire in sealed}) == 1
    other = step.seal(facts, reply, replace(stamp, nonce=bytes(cose.CTI_BYTES)), ctx)
    assert _signed(ring, other, taken.wire) != _signed(ring, sealed[0], taken.wire)


def _signed(ring: Ring, reply: Wire, request: Wire) -> tuple[bytes, ...]:
    """The signed part of a reply, and what was sealed beside it."""
    letter = ring.open(reply.cose, request.digest)
    return letter.sign1.wire, *letter.rest
