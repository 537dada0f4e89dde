"""One taped run for all tests here: each winds it back to the request it is about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from support.forge import Letter, Ring
from support.tape import Taken, Tape, record

from protocol.envelope import Wire
from protocol.errors import ProtocolError

_SAME = object()


class Bench:
    """The tape, all its keys, and the one way in which every refusal is asserted."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.ring = Ring(tape)

    def rewind(self, rpc: str, n: int = 0) -> tuple[Taken, Letter]:
        """The world before that request, the request, and the request opened."""
        taken = self.tape.rewind(rpc, n)
        return taken, self.ring.request(taken)

    def refused(
        self,
        taken: Taken,
        wire: Wire | bytes,
        error: type[ProtocolError],
        *,
        caller: Any = _SAME,
        but: tuple[str, ...] = (),
    ) -> None:
        """This instead of the taped request is refused with this class and code, and nothing has changed."""
        sent = wire if isinstance(wire, Wire) else replace(taken.wire, cose=wire)
        peer = taken.caller if caller is _SAME else caller
        with self.tape.unchanged(*but), pytest.raises(error) as refusal:
            self.tape.deliver(taken.peer, taken.rpc, sent, peer)
        assert type(refusal.value) is error
        assert refusal.value.code == error.code

    def forged(self, rpc: str, fields: Any, error: type[ProtocolError], *, n: int = 0) -> None:
        """The taped request with other fields, by the party that may sign it: refused."""
        taken, letter = self.rewind(rpc, n)
        changed = fields(letter.message) if callable(fields) else fields
        self.refused(taken, letter.written(changed), error)

    def lied(self, rpc: str, fields: Any, error: type[ProtocolError], *, n: int = 0, field: str = "reply") -> None:
        """A command that brings a peer's reply with other fields, signed by that peer: refused by the SE."""
        taken, letter = self.rewind(rpc, n)
        reply = self.ring.carried(getattr(letter.message, field))
        changed = fields(reply.message) if callable(fields) else fields
        self.refused(taken, letter.written({field: reply.written(changed)}), error)


@pytest.fixture(scope="session")
def _bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(record(Tape(tmp_path_factory.mktemp("tape"), seed="negative")))


@pytest.fixture
def bench(_bench: Bench) -> Iterator[Bench]:
    end = _bench.tape.save()
    steps = {name: dict(party.steps) for name, party in _bench.tape.parties.items()}
    yield _bench
    _bench.tape.restore(end)
    for name, party in _bench.tape.parties.items():
        party.steps.update(steps[name])


Change = Callable[[Any], Any]
