"""FREEZE at the bank: what it stopped, as the list that a TSM fetches every minute (design §3 FREEZE; CN-11)."""

from __future__ import annotations

from dataclasses import dataclass

from protocol import cose, envelope
from protocol.engine import Context, Incoming, StatelessStep
from protocol.envelope import Stamp, Wire
from protocol.errors import LimitExceeded
from protocol.messages.stops import MAX_STOPS, ListStops, Stop, StopKind, StopList
from protocol.pki import Use
from protocol.ports import Entropy
from protocol.roles.bank.party import Bank
from protocol.roles.bank.tables import ANONYMOUS_ACCOUNTS, GRANTS, STOPS
from protocol.roles.party import alone, expect_peer, open_certified
from protocol.rows import Decision, Rows, Where
from protocol.types import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A TSM's question, and what is stopped of that which was granted to it."""

    tsm: str
    minute_s: int
    stops: tuple[Stop, ...]


class ListStopsStep(StatelessStep[Listing]):
    """The list is of a whole minute and of all customers, so that no notice is of one person alone.

    Whoever asks twice in a minute gets the same stops twice: when within it each was made does not show.
    """

    rpc = "Bank.ListStops"
    reply = StopList

    def __init__(self, bank: Bank) -> None:
        self._bank = bank

    def open(self, wire: Wire, ctx: Context) -> Incoming[Listing]:
        opened, tsm = open_certified(
            ListStops, alone(wire), self._bank.directory, role=Role.TSM, audience=self._bank.keys.name, ctx=ctx
        )
        expect_peer(ctx, tsm.name, Role.TSM)
        every_s = self._bank.policy.stops_every_s
        minute_s = ctx.now_s - ctx.now_s % every_s
        facts = Listing(tsm=tsm.name, minute_s=minute_s, stops=stops_for(tsm.name, minute_s, every_s, ctx))
        return Incoming(facts=facts, key=opened.key, claims=opened.claims)

    def decide(self, rows: Rows, facts: Listing, now_s: int, entropy: Entropy) -> Decision:
        return Decision(reply=StopList(minute_s=facts.minute_s, stops=facts.stops))

    def seal(self, facts: Listing, reply: StopList, stamp: Stamp, ctx: Context) -> Wire:
        signed = envelope.sign(
            self._bank.keys.signer, reply, audience=facts.tsm, stamp=stamp, request_digest=ctx.digest
        )
        key = self._bank.directory.named(facts.tsm, Use.SEAL).key
        return Wire(cose=cose.seal(key, name=StopList.NAME, plaintext=signed, request_digest=ctx.digest))


def stops_for(tsm: str, minute_s: int, every_s: int, ctx: Context) -> tuple[Stop, ...]:
    """Every AID that was stopped at `minute_s` and was ever granted to this TSM, sorted by AID.

    Raises: LimitExceeded for more than `MAX_STOPS`: half a list would let the other half pay, none lets nobody.
    """
    ends = (0, minute_s + every_s)  # those that hold, and those that were lifted since
    reads = [Where(STOPS, "unlisted_from_s", end_s) for end_s in ends]
    rows = ctx.read(*reads)
    kinds = {
        record.customer: StopKind(record.kind)
        for end_s in ends
        for record in rows.find(STOPS, "unlisted_from_s", end_s)
        if record.made_at_s <= minute_s
    }
    found = [stop for customer, kind in kinds.items() for stop in _stops_of(customer, kind, tsm, minute_s, ctx)]
    if len(found) > MAX_STOPS:
        raise LimitExceeded(f"{len(found)} stops are more than a list holds")
    return tuple(sorted(found, key=lambda stop: stop.aid))


def _stops_of(customer: str, kind: StopKind, tsm: str, minute_s: int, ctx: Context) -> list[Stop]:
    """All that was granted to this TSM, also what was given back since; what is past its expiry pays nothing anyway."""
    where = Where(ANONYMOUS_ACCOUNTS, "customer", customer)
    accounts = (row for row in ctx.read(where).find(ANONYMOUS_ACCOUNTS, "customer", customer))
    alive = [account.aid for account in accounts if account.expires_at_s > minute_s]
    rows = ctx.read(*(Where(GRANTS, "aid", aid) for aid in alive))
    return [Stop(aid=aid, kind=kind) for aid in alive if any(one.tsm == tsm for one in rows.find(GRANTS, "aid", aid))]
