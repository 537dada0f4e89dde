"""FREEZE at the TSM: its own stop on a service account, for fraud that it sees (design §3 FREEZE; CN-11).

A bank's stop is in another column, which only the bank's list changes: each side lifts its own. Whatever is stopped,
credit may still be given back: closing an account, reversals and refunds harm nobody.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from protocol.errors import AccountStopped, PurchaseUnknown, UnknownAccount
from protocol.messages.stops import StopKind, StopReason
from protocol.ports import Entropy
from protocol.roles.party import expect_state
from protocol.roles.tsm.draws import is_stopped
from protocol.roles.tsm.tables import (
    CARDS,
    PURCHASES,
    SERVICE_STOPS,
    SERVICES,
    TID_LIST,
    Service,
    ServiceStop,
    TidEntry,
)
from protocol.rows import Decision, Insert, Key, Read, Rows, Store, Unit, Update, Where, Write, changed
from protocol.types import HANDLE_BYTES

_RUNNING: Final = ""


def expect_running(service: Service | None, grants: Iterable[TidEntry], now_s: int) -> None:
    """Nothing is issued to an account that the TSM stopped, or a bank that granted under it.

    Raises: AccountStopped.
    """
    if (service is not None and service.stop) or is_stopped(grants, now_s):
        raise AccountStopped


def freeze(tid: str, reason: StopReason, now_s: int, entropy: Entropy) -> Unit:
    """Stop an account until it is lifted; the reply is the new `Service`. Raises: UnknownAccount, WrongState."""
    made = _record(tid, StopKind.FROZEN, reason, now_s, entropy)

    def decide(rows: Rows) -> Decision:
        service = _service(rows, tid, _RUNNING)
        return _stopped(service, StopKind.FROZEN.value, (Insert(SERVICE_STOPS, made),))

    return Unit(_reads(tid), decide)


def lift(tid: str, now_s: int) -> Unit:
    """End the TSM's own freeze. A deletion is final. Raises: UnknownAccount, WrongState."""

    def decide(rows: Rows) -> Decision:
        service = _service(rows, tid, StopKind.FROZEN.value)
        return _stopped(service, _RUNNING, _ended(rows, tid, now_s))

    return Unit(_reads(tid), decide)


def delete(tid: str, grants: Iterable[bytes], reason: StopReason, now_s: int, entropy: Entropy) -> Unit:
    """Stop an account for good and end its cards; `grants` are the SID digests that they may be under.

    Cards of a grant that comes in between are never activated. Raises: UnknownAccount, WrongState.
    """
    made = _record(tid, StopKind.DELETED, reason, now_s, entropy)
    under = tuple(Where(CARDS, "sid_digest", grant) for grant in grants)

    def decide(rows: Rows) -> Decision:
        service = _service(rows, tid, _RUNNING, StopKind.FROZEN.value)
        cards = tuple(
            Update(CARDS, changed(card, state="CLOSED"))
            for where in under
            for card in rows.find(CARDS, "sid_digest", where.value)
        )
        records = (*_ended(rows, tid, now_s), Insert(SERVICE_STOPS, made))
        return _stopped(service, StopKind.DELETED.value, (*records, *cards))

    return Unit((*_reads(tid), *under), decide)


def grants_of(store: Store, tid: str) -> tuple[bytes, ...]:
    """The SID digests of an account's grants, past ones too."""
    entries = store.read(Where(TID_LIST, "tid", tid)).find(TID_LIST, "tid", tid)
    return tuple(entry.sid_digest for entry in entries)


def account_of(store: Store, merchant: str, sale: bytes) -> str:
    """The TID that a purchase was made with. Raises: PurchaseUnknown; UnknownAccount if no card of ours was proved."""
    purchase = store.read(Key(PURCHASES, (merchant, sale))).get(PURCHASES, merchant, sale)
    if purchase is None:
        raise PurchaseUnknown
    if not purchase.tid:
        raise UnknownAccount("no card was proved in that purchase")
    return purchase.tid


def _reads(tid: str) -> tuple[Read, ...]:
    return (Key(SERVICES, (tid,)), Where(SERVICE_STOPS, "tid", tid))


def _record(tid: str, kind: StopKind, reason: StopReason, now_s: int, entropy: Entropy) -> ServiceStop:
    return ServiceStop(
        stop=entropy.bytes(HANDLE_BYTES), tid=tid, kind=kind.value, reason=reason.value, made_at_s=now_s, lifted_at_s=0
    )


def _service(rows: Rows, tid: str, *stops: str) -> Service:
    service = rows.get(SERVICES, tid)
    if service is None:
        raise UnknownAccount("no such service account")
    expect_state(service.stop, *stops)
    return service


def _stopped(service: Service, stop: str, writes: tuple[Write, ...]) -> Decision:
    after = changed(service, stop=stop)
    return Decision(writes=(Update(SERVICES, after), *writes), reply=after)


def _ended(rows: Rows, tid: str, now_s: int) -> tuple[Write, ...]:
    return tuple(
        Update(SERVICE_STOPS, replace(record, lifted_at_s=now_s))
        for record in rows.find(SERVICE_STOPS, "tid", tid)
        if not record.lifted_at_s
    )
