"""FREEZE at the bank: what it stopped, as the list that a TSM fetches every minute (design §3 FREEZE; CN-11)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocol import cose, envelope
from protocol.engine import Context, Incoming, StatelessStep
from protocol.envelope import Stamp, Wire
from protocol.messages.stops import MAX_STOPS, ListStops, Stop, StopKind, StopList
from protocol.pki import Use
from protocol.ports import Entropy
from protocol.roles.bank.party import Bank
from protocol.roles.bank.tables import ANONYMOUS_ACCOUNTS, CUSTOMERS, LIVE_GRANTS
from protocol.roles.party import alone, expect_peer, open_certified
from protocol.rows import Decision, Key, Rows, Where
from protocol.types import Role

MINUTE_S: Final = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A TSM's question, and what is stopped of that which was granted to it."""

    tsm: str
    stops: tuple[Stop, ...]


class ListStopsStep(StatelessStep[Listing]):
    """The list is of a whole minute and of all customers, so that no notice is of one person alone."""

    rpc = "Bank.ListStops"
    reply = StopList

    def __init__(self, bank: Bank) -> None:
        self._bank = bank

    def open(self, wire: Wire, ctx: Context) -> Incoming[Listing]:
        opened, tsm = open_certified(
            ListStops, alone(wire), self._bank.directory, role=Role.TSM, audience=self._bank.keys.name, ctx=ctx
        )
        expect_peer(ctx, tsm.name, Role.TSM)
        facts = Listing(tsm=tsm.name, stops=stops_for(tsm.name, ctx))
        return Incoming(facts=facts, key=opened.key, claims=opened.claims)

    def decide(self, rows: Rows, facts: Listing, now_s: int, entropy: Entropy) -> Decision:
        return Decision(reply=StopList(minute_s=now_s - now_s % MINUTE_S, stops=facts.stops))

    def seal(self, facts: Listing, reply: StopList, stamp: Stamp, ctx: Context) -> Wire:
        signed = envelope.sign(
            self._bank.keys.signer, reply, audience=facts.tsm, stamp=stamp, request_digest=ctx.digest
        )
        key = self._bank.directory.named(facts.tsm, Use.SEAL).key
        return Wire(cose=cose.seal(key, name=StopList.NAME, plaintext=signed, request_digest=ctx.digest))


def stops_for(tsm: str, ctx: Context) -> tuple[Stop, ...]:
    """Every stopped AID with a live grant at this TSM, sorted by AID; at most `MAX_STOPS`, deletions before freezes."""
    found: list[Stop] = []
    for kind in (StopKind.DELETED, StopKind.FROZEN):
        customers = ctx.read(Where(CUSTOMERS, "stop", kind.value)).find(CUSTOMERS, "stop", kind.value)
        for customer in customers:
            name = customer.customer
            accounts = ctx.read(Where(ANONYMOUS_ACCOUNTS, "customer", name)).find(ANONYMOUS_ACCOUNTS, "customer", name)
            live = (ctx.read(Key(LIVE_GRANTS, (account.aid,))).get(LIVE_GRANTS, account.aid) for account in accounts)
            found += [Stop(aid=grant.aid, kind=kind) for grant in live if grant is not None and grant.tsm == tsm]
    return tuple(sorted(found[:MAX_STOPS], key=lambda stop: stop.aid))
