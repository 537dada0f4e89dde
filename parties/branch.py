"""What a bank's clerk does with the bank's own keystore and database, also while the server runs."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from parties.assembly.common import Opened, hash_passcode
from parties.assembly.roles import bank_policy, build_bank
from parties.settings import load_settings
from parties.storage.store import DatabaseStore
from protocol import envelope
from protocol.envelope import Signer, Stamp
from protocol.errors import SettingsInvalid, UnknownAccount, WrongState
from protocol.messages.enroll import PinReopening
from protocol.messages.stops import StopReason
from protocol.roles.bank.customers import new_branch_code, open_customer, reopen_customer
from protocol.roles.bank.freeze import delete, expect_running, freeze, lift
from protocol.roles.bank.tables import CUSTOMERS, STOPS, Customer, StopRecord
from protocol.rows import Key
from protocol.types import Role

MAX_LIMIT_MINOR: Final = 10**12
_PASSCODE: Final = re.compile(r"[!-~]{4,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedCustomer:
    """A new customer: the bank's name for them and the code for their phone."""

    customer: str
    branch_code: str


@contextmanager
def _bank_store(settings: Path) -> Iterator[tuple[Opened, DatabaseStore]]:
    opened = Opened.of(load_settings(settings, Role.BANK))
    store = opened.store()
    try:
        yield opened, store
    finally:
        store.close()


def add_customer(settings: Path, *, name: str, limit_minor: int, currency: str, passcode: str) -> OpenedCustomer:
    """INIT-2. Raises: SettingsInvalid for a bad value, StorageFault, KeystoreLocked."""
    if not re.fullmatch("[^\x00-\x1f]{1,200}", name):
        raise SettingsInvalid("--name must have 1 to 200 characters, none of them a control character")
    if not 0 < limit_minor <= MAX_LIMIT_MINOR:
        raise SettingsInvalid(f"--limit must be 1 to {MAX_LIMIT_MINOR} minor units")
    if not re.fullmatch("[A-Z]{3}", currency):
        raise SettingsInvalid("--currency must be an ISO 4217 code like TWD")
    check_passcode(passcode)
    with _bank_store(settings) as (opened, store):
        code = new_branch_code(opened.entropy)
        unit = open_customer(
            build_bank(opened), name=name, passcode_hash=hash_passcode(passcode), limit_minor=limit_minor,
            currency=currency, branch_code=code, now_s=opened.clock.now_s(), entropy=opened.entropy,
        )  # fmt: skip
        customer: str = store.apply(unit).reply.customer
    return OpenedCustomer(customer=customer, branch_code=code)


def reopen(settings: Path, customer: str) -> None:
    """TW-G3b. Raises: WrongState if the customer is not locked."""
    with _bank_store(settings) as (_opened, store):
        store.apply(reopen_customer(customer))


def reopen_pin(settings: Path, customer: str) -> bytes:
    """TW-G3b: the bank's signed word (`PinReopening`) that the person was confirmed at the branch, for their phone.

    It says nothing of a passcode, and it opens nothing but the PIN of this customer's phone, if that is locked.
    Raises: UnknownAccount; AccountStopped; WrongState for a customer who has no phone.
    """
    with _bank_store(settings) as (opened, store):
        row = store.read(Key(CUSTOMERS, (customer,))).get(CUSTOMERS, customer)
        if row is None:
            raise UnknownAccount("no such customer")
        expect_running(row)
        if row.state == "EXPECT_PHONE":
            raise WrongState("this customer has no phone yet")
        bank = opened.keys
        stamp = Stamp.fresh(opened.clock.now_s(), opened.entropy)
        # The user's name in CERT_U^B, by which the SE knows its owner, is the bank's name for the customer.
        return envelope.sign(
            Signer(name=bank.name, key=bank.sign), PinReopening(user=customer), audience=customer, stamp=stamp
        )


def freeze_customer(settings: Path, customer: str, reason: StopReason) -> Customer:
    """CN-11: stop a customer until `unfreeze_customer`. Raises: UnknownAccount, WrongState."""
    with _bank_store(settings) as (opened, store):
        stopped: Customer = store.apply(freeze(customer, reason, opened.clock.now_s(), opened.entropy)).reply
    return stopped


def unfreeze_customer(settings: Path, customer: str) -> Customer:
    """End the bank's own freeze; a TSM's stays. Raises: UnknownAccount, WrongState, also after a deletion."""
    with _bank_store(settings) as (opened, store):
        running: Customer = store.apply(lift(bank_policy(opened.settings), customer, opened.clock.now_s())).reply
    return running


def delete_customer(settings: Path, customer: str, reason: StopReason) -> Customer:
    """Stop a customer for good. Raises: UnknownAccount, WrongState if it was done before."""
    with _bank_store(settings) as (opened, store):
        unit = delete(bank_policy(opened.settings), customer, reason, opened.clock.now_s(), opened.entropy)
        stopped: Customer = store.apply(unit).reply
    return stopped


def stops_made(settings: Path) -> tuple[StopRecord, ...]:
    """Every stop that this bank made, those that were lifted too, in the order in which they were made."""
    with _bank_store(settings) as (_opened, store):
        return tuple(sorted(store.scan(STOPS), key=lambda record: (record.made_at_s, record.stop)))


def check_passcode(passcode: str) -> None:
    """TW-G3a: at least four characters; not one repeated; not a run up or down. Raises: SettingsInvalid."""
    if not _PASSCODE.fullmatch(passcode):
        raise SettingsInvalid("the passcode must have 4 to 64 printable characters without spaces")
    steps = {ord(after) - ord(before) for before, after in itertools.pairwise(passcode)}
    if len(steps) == 1 and steps <= {-1, 0, 1}:
        raise SettingsInvalid("the passcode must not be one repeated character or a run such as 1234")
