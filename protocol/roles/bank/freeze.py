"""FREEZE at the bank: a customer is stopped, and with them all that was issued to them (design §3 FREEZE; CN-11).

The bank lifts only its own stops; what a TSM stopped is in no row of the bank. TSMs hear of it from the list alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from protocol.errors import AccountStopped, UnknownAccount
from protocol.messages.stops import StopKind, StopReason
from protocol.ports import Entropy
from protocol.roles.bank.party import BankPolicy
from protocol.roles.bank.tables import CUSTOMERS, STOPS, Customer, StopRecord
from protocol.roles.party import expect_state
from protocol.rows import Decision, Insert, Key, Read, Rows, Unit, Update, Where, Write
from protocol.types import HANDLE_BYTES

_RUNNING: Final = ""


def expect_running(customer: Customer) -> None:
    """Nothing is issued to a stopped customer. Raises: AccountStopped."""
    if customer.stop:
        raise AccountStopped


def freeze(customer: str, reason: StopReason, now_s: int, entropy: Entropy) -> Unit:
    """CN-11: stop a customer until it is lifted. The reply is the `Customer`. Raises: UnknownAccount, WrongState."""
    made = _record(customer, StopKind.FROZEN, reason, now_s, entropy)

    def decide(rows: Rows) -> Decision:
        row = _customer(rows, customer, _RUNNING)
        return _stopped(row, StopKind.FROZEN.value, (Insert(STOPS, made),))

    return Unit(_reads(customer), decide)


def lift(policy: BankPolicy, customer: str, now_s: int) -> Unit:
    """End a freeze. A deletion is final. The reply is the `Customer`. Raises: UnknownAccount, WrongState."""

    def decide(rows: Rows) -> Decision:
        row = _customer(rows, customer, StopKind.FROZEN.value)
        return _stopped(row, _RUNNING, _ended(policy, rows, customer, now_s))

    return Unit(_reads(customer), decide)


def delete(policy: BankPolicy, customer: str, reason: StopReason, now_s: int, entropy: Entropy) -> Unit:
    """Stop a customer for good, frozen before or not. Raises: UnknownAccount, WrongState if it was done before."""
    made = _record(customer, StopKind.DELETED, reason, now_s, entropy)

    def decide(rows: Rows) -> Decision:
        row = _customer(rows, customer, _RUNNING, StopKind.FROZEN.value)
        # It takes the place of a freeze, which ends: a customer is stopped once.
        return _stopped(row, StopKind.DELETED.value, (*_ended(policy, rows, customer, now_s), Insert(STOPS, made)))

    return Unit(_reads(customer), decide)


def _reads(customer: str) -> tuple[Read, ...]:
    return (Key(CUSTOMERS, (customer,)), Where(STOPS, "customer", customer))


def _record(customer: str, kind: StopKind, reason: StopReason, now_s: int, entropy: Entropy) -> StopRecord:
    return StopRecord(
        stop=entropy.bytes(HANDLE_BYTES), customer=customer, kind=kind.value, reason=reason.value, made_at_s=now_s,
        lifted_at_s=0, unlisted_from_s=0,
    )  # fmt: skip


def _customer(rows: Rows, customer: str, *stops: str) -> Customer:
    row = rows.get(CUSTOMERS, customer)
    if row is None:
        raise UnknownAccount("no such customer")
    expect_state(row.stop, *stops)
    return row


def _stopped(row: Customer, stop: str, records: tuple[Write, ...]) -> Decision:
    after = replace(row, stop=stop)
    return Decision(writes=(Update(CUSTOMERS, after), *records), reply=after)


def _ended(policy: BankPolicy, rows: Rows, customer: str, now_s: int) -> tuple[Write, ...]:
    """Lists of a minute before `now_s` still have it, however late in that minute they are asked for."""
    unlisted_from_s = -(-now_s // policy.stops_every_s) * policy.stops_every_s
    return tuple(
        Update(STOPS, replace(record, lifted_at_s=now_s, unlisted_from_s=unlisted_from_s))
        for record in rows.find(STOPS, "customer", customer)
        if not record.lifted_at_s
    )
