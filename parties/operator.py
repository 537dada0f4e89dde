"""What a TSM's operator does with the TSM's own keystore and database, also while the server runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from parties.assembly.common import Opened
from parties.settings import load_settings
from parties.storage.store import DatabaseStore
from protocol.errors import PurchaseUnknown
from protocol.messages.stops import StopKind, StopReason
from protocol.roles.tsm.freeze import account_of, delete, freeze, grants_of, lift
from protocol.roles.tsm.tables import SERVICE_STOPS, STOP_LISTS, TID_LIST, Service, ServiceStop
from protocol.rows import Store, Where
from protocol.types import HANDLE_BYTES, Role

NEVER: Final = -1
"""The age of a list that never came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A service account by its TID, or by a purchase that was made with it: merchant and sale, in hexadecimal."""

    tid: str = ""
    merchant: str = ""
    sale: str = ""

    def find(self, store: Store) -> str:
        """The TID. Raises: PurchaseUnknown, UnknownAccount."""
        if self.tid:
            return self.tid
        try:
            sale = bytes.fromhex(self.sale)
        except ValueError as exc:
            raise PurchaseUnknown("a sale is named by hexadecimal digits") from exc
        if len(sale) != HANDLE_BYTES:
            raise PurchaseUnknown(f"a sale is named by {2 * HANDLE_BYTES} hexadecimal digits")
        return account_of(store, self.merchant, sale)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedBank:
    """A bank of this TSM: how old its last list of stops is (NEVER: none came), and how many grants it stops."""

    bank: str
    age_s: int
    stopped: int


@contextmanager
def _tsm_store(settings: Path) -> Iterator[tuple[Opened, DatabaseStore]]:
    opened = Opened.of(load_settings(settings, Role.TSM))
    store = opened.store()
    try:
        yield opened, store
    finally:
        store.close()


def freeze_account(settings: Path, named: Named, reason: StopReason) -> Service:
    """CN-11: stop an account until `unfreeze_account`. Raises: UnknownAccount, PurchaseUnknown, WrongState."""
    with _tsm_store(settings) as (opened, store):
        unit = freeze(named.find(store), reason, opened.clock.now_s(), opened.entropy)
        stopped: Service = store.apply(unit).reply
    return stopped


def unfreeze_account(settings: Path, named: Named) -> Service:
    """End the TSM's own freeze; a bank's stays. Raises: UnknownAccount, PurchaseUnknown, WrongState."""
    with _tsm_store(settings) as (opened, store):
        running: Service = store.apply(lift(named.find(store), opened.clock.now_s())).reply
    return running


def delete_account(settings: Path, named: Named, reason: StopReason) -> Service:
    """Stop an account for good, and end its cards. Raises: UnknownAccount, PurchaseUnknown, WrongState."""
    with _tsm_store(settings) as (opened, store):
        tid = named.find(store)
        unit = delete(tid, grants_of(store, tid), reason, opened.clock.now_s(), opened.entropy)
        stopped: Service = store.apply(unit).reply
    return stopped


def stops_made(settings: Path) -> tuple[ServiceStop, ...]:
    """Every stop that this TSM made, those that were lifted too, in the order in which they were made."""
    with _tsm_store(settings) as (_opened, store):
        return tuple(sorted(store.scan(SERVICE_STOPS), key=lambda record: (record.made_at_s, record.stop)))


def lists_held(settings: Path) -> tuple[ListedBank, ...]:
    """What is held of each bank in the settings."""
    with _tsm_store(settings) as (opened, store):
        return tuple(_listed(store, bank, opened.clock.now_s()) for bank in sorted(opened.settings.peers))


def _listed(store: Store, bank: str, now_s: int) -> ListedBank:
    minutes = {row.bank: row.minute_s for row in store.scan(STOP_LISTS)}
    wheres = [Where(TID_LIST, "bank_stop", kind.value) for kind in StopKind]
    rows = store.read(*wheres)
    stopped = sum(row.bank == bank for where in wheres for row in rows.find(TID_LIST, "bank_stop", where.value))
    age_s = now_s - minutes[bank] if bank in minutes else NEVER
    return ListedBank(bank=bank, age_s=age_s, stopped=stopped)
