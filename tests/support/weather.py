"""Bad weather from a seed: requests and answers are lost, doubled, late and out of order; everybody crashes.

A wallet keeps a journal: a request once made is sent as the very same bytes until it is answered, and a flow that was
cut off is begun again and answered from the journal (`protocol.roles.wallet.session`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

from support.world import PASSCODE, SOFTWARE, Phone, World

from protocol.engine import Peer
from protocol.envelope import Wire
from protocol.errors import ProtocolError, Unavailable
from protocol.roles.wallet import (
    Call,
    Exchanged,
    Flow,
    attest,
    enroll,
    fetch_reference_values,
    fetch_release,
    issue_cards,
    open_account,
    register,
)
from protocol.types import Purpose

Life = Generator[None, None, Any]
"""A phone's life: it yields whenever somebody else may have a turn."""
MAX_ATTEMPTS = 60


class Crash(Exception):
    """A wallet's process ends."""


@dataclass
class Entry:
    """A line of the journal: what is to be sent, and what was answered."""

    call: Call
    reply: Wire | None = None


@dataclass
class Weather(World):
    """A world where every way between two parties is bad. Chances are per message."""

    rng: random.Random = field(default_factory=lambda: random.Random(0))
    lost: float = 0.2
    answer_lost: float = 0.2
    doubled: float = 0.3
    crash: float = 0.06
    restarted: float = 0.05
    late: list[tuple[Phone, Call]] = field(default_factory=list)
    sent: list[tuple[Phone, Call]] = field(default_factory=list)

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def deliver(self, peer: str, rpc: str, wire: Wire, caller: Peer | None) -> Wire:
        """One message; between institutions it may be lost on the way there and back."""
        between = rpc in ("Bank.ApproveGrant", "Bank.ReleaseGrant")
        if between and self.chance(self.lost):
            raise Unavailable
        reply = super().deliver(peer, rpc, wire, caller)
        if between and self.chance(self.answer_lost):
            raise Unavailable
        return reply

    def attempt(self, phone: Phone, call: Call) -> Wire | None:
        """Send once; the answer, if it comes. Old copies arrive before, after, or for a long time not at all."""
        self.sent.append((phone, call))
        if self.chance(self.doubled):
            self.late.append((phone, call))
        if self.chance(self.restarted):
            self.restart(self.rng.choice(sorted(self.parties)))
        while self.late and self.chance(0.2):
            self.stray(*self.late.pop(self.rng.randrange(len(self.late))))
        if self.chance(self.lost):
            return None
        try:
            reply = self.send(phone, call)
        except Unavailable:
            return None
        return None if self.chance(self.answer_lost) else reply

    def stray(self, phone: Phone, call: Call) -> None:
        """A copy that arrives when nobody waits for it: it may be answered or refused, and nobody hears."""
        try:
            self.send(phone, call)
        except ProtocolError as refusal:
            assert refusal.code

    def flow(self, phone: Phone, begin: Callable[[], Flow[Any]]) -> Life:
        """A whole flow with its journal, through any number of crashes of the wallet."""
        journal: list[Entry] = []
        while True:
            try:
                return (yield from self._drive(phone, begin(), journal))
            except Crash:
                continue

    def _drive(self, phone: Phone, flow: Flow[Any], journal: list[Entry]) -> Life:
        try:
            call = next(flow)
            for position in range(100):
                if position == len(journal):
                    journal.append(Entry(call=call))
                entry = journal[position]
                assert (entry.call.peer, entry.call.rpc) == (call.peer, call.rpc)
                for _ in range(MAX_ATTEMPTS):
                    if entry.reply is not None:
                        break
                    self._maybe_crash()
                    entry.reply = self.attempt(phone, entry.call)
                    self.clock.time_s += self.chance(0.3)
                    self._maybe_crash()
                    yield
                assert entry.reply is not None
                call = flow.send(Exchanged(sent=entry.call.wire, reply=entry.reply))
        except StopIteration as done:
            return done.value
        raise AssertionError("a flow does not end")

    def _maybe_crash(self) -> None:
        if self.chance(self.crash):
            raise Crash

    def life(self, phone: Phone, cards: int) -> Life:
        """All five phases of one phone."""
        wallet, bank, tsm = phone.wallet, "bank-a", "tsm-1"
        code = self.branch_code(bank)
        phone.user = yield from self.flow(phone, lambda: enroll(wallet, bank=bank, branch_code=code))
        fetched = yield from self.flow(phone, lambda: fetch_release(wallet, provider="sp-1", software=SOFTWARE))
        values = yield from self.flow(
            phone, lambda: fetch_reference_values(wallet, provider="sp-1", software=SOFTWARE, bank=bank)
        )
        assert values == self.parties[bank].value.appraiser.references[SOFTWARE].wire
        for purpose in (Purpose.INSTALL, Purpose.REPORT, Purpose.LAUNCH):
            decision = yield from self.flow(
                phone, lambda purpose=purpose: attest(wallet, bank=bank, purpose=purpose, software=SOFTWARE)
            )
            assert decision.allowed, decision.reason
            phone.application.write_bytes(fetched.package)
        account = yield from self.flow(
            phone, lambda: open_account(wallet, bank=bank, tsm=tsm, software=SOFTWARE, passcode=PASSCODE)
        )
        service = yield from self.flow(phone, lambda: register(wallet, tsm=tsm, aid=account.aid, maximum_minor=0))
        yield from self.flow(phone, lambda: issue_cards(wallet, tsm=tsm, tid=service.tid, number=cards))
        return account.aid, service.tid

    def interleave(self, lives: dict[str, Life]) -> dict[str, Any]:
        """Several phones at once: whose turn it is, chance decides."""
        results: dict[str, Any] = {}
        while lives:
            name = self.rng.choice(sorted(lives))
            try:
                next(lives[name])
            except StopIteration as done:
                results[name] = done.value
                del lives[name]
        return results

    def calm(self) -> None:
        """From here on nothing is lost."""
        self.lost = self.answer_lost = self.doubled = self.crash = self.restarted = 0.0


def every_copy(world: Weather) -> Iterator[tuple[Phone, Call]]:
    """All that was ever sent, in another order."""
    copies = [*world.sent, *world.late]
    world.rng.shuffle(copies)
    yield from copies
