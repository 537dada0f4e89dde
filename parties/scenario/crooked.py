"""A crooked counter: a terminal in this process that a real merchant's key vouches for, and a phone tapped at it.

Between them is what is between honest ones: the app's own flow opens the card, the SE's process answers over its
`Transceive`, the kernel asks, the TSM's process decides. What is bent is bent in the terminal's bytes, or in a row of a
database opened beside its server; every bent row is mended afterwards.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final, Self, TypeVar

from parties.assembly.common import Opened
from parties.assembly.roles import build_shop
from parties.deployment import Deployment
from parties.emv_files import read_ca_keys
from parties.settings import load_settings
from parties.storage.store import DatabaseStore
from parties.system import SystemClock, SystemEntropy
from parties.wallet.phone import PhoneSession
from protocol import envelope
from protocol.card.kernel import perform_tap, run_exchange
from protocol.card.outcome import OnlineRequest
from protocol.card.terminal import UNPREDICTABLE_BYTES, Sale, Terminal
from protocol.crypto import PrivateKey
from protocol.envelope import Signer, Stamp, Wire
from protocol.errors import FieldMismatch, NoCard
from protocol.messages.card import EmvRecord
from protocol.messages.merchant import SignedOn, SignOn
from protocol.messages.pay import (
    Authorization,
    AuthorizationDecision,
    Decided,
    EmvPurchase,
    Reversal,
    ReversalReason,
    Reversed,
)
from protocol.messages.stops import StopReason
from protocol.roles.party import known_party
from protocol.roles.se.opening import SLOT
from protocol.roles.se.tables import FIELD, FieldRow
from protocol.roles.tsm.freeze import freeze, lift
from protocol.roles.tsm.tables import CARDS, PURCHASES, CardRow, Purchase
from protocol.roles.wallet import open_card
from protocol.rows import Decision, Delete, Insert, Key, Rows, Table, Unit, Update, Value, Where, Write
from protocol.schema import Message
from protocol.types import HANDLE_BYTES, Role

M = TypeVar("M", SignedOn, AuthorizationDecision, Reversed)
AMOUNT_MINOR: Final = 1_500
"""Of a bent purchase: under the verification limit."""


class CrookedCounter:
    """A second terminal of a merchant, with a fresh key of its own."""

    def __init__(self, deployment: Deployment, merchant: str) -> None:
        """Signs on. Raises: SettingsInvalid, KeystoreLocked, Unavailable, the TSM's refusal."""
        self._opened = Opened.of(load_settings(deployment.settings(merchant), Role.MERCHANT))
        self._shop = build_shop(self._opened)
        self._key = PrivateKey.generate(self._opened.entropy)
        self._channels = self._opened.channels()
        self.merchant = merchant
        self.terminal = Terminal(
            merchant_identifier=self._shop.merchant_identifier, terminal=f"X{self._shop.terminal[1:]}",
            merchant_name=self._shop.merchant_name, ca_keys=read_ca_keys(self._opened.settings.pki),
        )  # fmt: skip
        self._sign_on()

    def close(self) -> None:
        """Close the way to the TSM."""
        self._channels.close()

    def _sign_on(self) -> None:
        message = SignOn(
            merchant_name=self.terminal.merchant_name, merchant_identifier=self.terminal.merchant_identifier,
            terminal=self.terminal.terminal, terminal_key=self._key.public.encoded,
        )  # fmt: skip
        self._ask("Tsm.SignOn", self._shop.keys.signer, message, SignedOn)

    def _ask(self, rpc: str, signer: Signer, message: Message, reply: type[M]) -> M:
        stamp = Stamp.fresh(self._opened.clock.now_s(), self._opened.entropy)
        wire = Wire(cose=envelope.sign(signer, message, audience=self._shop.tsm, stamp=stamp))
        answer = self._channels.call(self._shop.tsm, rpc, wire)
        tsm = known_party(self._opened.directory, self._shop.tsm, Role.TSM)
        return envelope.open_signed(
            reply, answer.cose, tsm.key, issuer=tsm.name, audience=self.merchant,
            now_s=self._opened.clock.now_s(), request_digest=wire.digest,
        ).message  # fmt: skip

    @property
    def _signer(self) -> Signer:
        return Signer(name=self.merchant, key=self._key)

    def today(self) -> datetime.date:
        """In UTC, as the TSM has it."""
        return datetime.datetime.fromtimestamp(self._opened.clock.now_s(), tz=datetime.UTC).date()

    def sale(self, amount_minor: int, date: datetime.date) -> Sale:
        """A sale as the kernel takes it."""
        unpredictable = self._opened.entropy.bytes(UNPREDICTABLE_BYTES)
        return Sale(amount_minor=amount_minor, currency="TWD", date=date, unpredictable=unpredictable)

    def purchase(self, online: OnlineRequest) -> EmvPurchase:
        """What an honest terminal sends of this tap, under a fresh name."""
        return EmvPurchase(
            sale=self._opened.entropy.bytes(HANDLE_BYTES), application=online.aid, aip=online.aip, afl=online.afl,
            records=tuple(EmvRecord(sfi=one.sfi, number=one.number, data=one.data) for one in online.records),
            pdol_data=online.pdol_data, cdol_data=online.cdol_data, information=online.information, atc=online.atc,
            issuer_data=online.issuer_data, signature=online.signature,
        )  # fmt: skip

    def authorize(self, purchase: EmvPurchase) -> Decided:
        """The TSM's verified decision. Raises: its refusal, Unavailable."""
        message = Authorization(terminal=self.terminal.terminal, purchase=purchase)
        return self._ask("Tsm.Authorize", self._signer, message, AuthorizationDecision).decided

    def reverse(self, sale: bytes, reason: ReversalReason) -> Reversed:
        """The TSM's verified acknowledgment. Raises: its refusal, Unavailable."""
        message = Reversal(terminal=self.terminal.terminal, sale=sale, reason=reason)
        return self._ask("Tsm.Reverse", self._signer, message, Reversed)


class Scene:
    """A phone's service account at a crooked counter, with the databases of TSM and SE beside their servers."""

    def __init__(self, deployment: Deployment, counter: CrookedCounter, *, phone: str, tid: str, tsm: str) -> None:
        """Raises: SettingsInvalid, KeystoreLocked, StorageFault."""
        self.counter, self._tid = counter, tid
        self._session = PhoneSession(deployment.folder / phone / "wallet")
        self.tsm = Opened.of(load_settings(deployment.settings(tsm))).store()
        self.se = Opened.of(load_settings(deployment.settings(f"{phone}/se"))).store()

    def close(self) -> None:
        """Close databases and session."""
        self._session.close()
        self.tsm.close()
        self.se.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self, amount_minor: int = AMOUNT_MINOR) -> None:
        """The cardholder opens a card. Raises: NoCard, PaymentClosed, …"""
        self._session.once(open_card(self._session.wallet, tid=self._tid, ceiling_minor=amount_minor))

    def tap(
        self, amount_minor: int = AMOUNT_MINOR, *, terminal: Terminal | None = None, days: int = 0,
    ) -> EmvPurchase:  # fmt: skip
        """The real card at the counter's terminal (or another), whose calendar may be `days` off.

        Raises: NoCard if it gives no cryptogram for it.
        """
        date = self.counter.today() + datetime.timedelta(days=days)
        exchange = perform_tap(terminal or self.counter.terminal, self.counter.sale(amount_minor, date))
        link = self._session.field()
        try:
            ended = run_exchange(exchange, link.transmit)
        finally:
            link.close()
        if ended.online is None:
            raise NoCard(f"the tap ended with {ended.kind.name}")
        return self.counter.purchase(ended.online)

    def opening(self) -> FieldRow:
        """What the SE keeps of the opening."""
        row = self.se.read(Key(FIELD, (SLOT,))).get(FIELD, SLOT)
        assert row is not None  # a card was opened
        return row

    def card(self) -> CardRow:
        """What the TSM keeps of the opened card. Raises: NoCard if it does not know it."""
        digest = self.opening().card
        found = self.tsm.read(Where(CARDS, "modulus_digest", digest)).find(CARDS, "modulus_digest", digest)
        if not found:
            raise NoCard("the TSM does not know the card")
        return found[0]

    @contextmanager
    def frozen(self, tid: str) -> Iterator[None]:
        """While it lasts, the TSM's operator has frozen the account. Raises: WrongState if it is stopped already."""
        clock, entropy = SystemClock(), SystemEntropy()
        self.tsm.apply(freeze(tid, StopReason.FRAUD, clock.now_s(), entropy))
        try:
            yield
        finally:
            self.tsm.apply(lift(tid, clock.now_s()))

    def kept(self, sale: bytes) -> Purchase | None:
        """What the TSM keeps of a purchase."""
        merchant = self.counter.merchant
        return self.tsm.read(Key(PURCHASES, (merchant, sale))).get(PURCHASES, merchant, sale)


@contextmanager
def bent(store: DatabaseStore, table: Table[Any], key: Value, **values: Value) -> Iterator[None]:
    """While it lasts, these columns of one row have other values. Raises: FieldMismatch if there is no such row."""
    before = _row(store, table, key)
    _update(store, table, key, values)
    try:
        yield
    finally:  # what the server wrote beside stays as it is
        _update(store, table, key, {name: getattr(before, name) for name in values})


@contextmanager
def missing(store: DatabaseStore, table: Table[Any], key: Value) -> Iterator[None]:
    """While it lasts, the row is not there. Raises: FieldMismatch if it never was."""
    row = _row(store, table, key)
    _write(store, table, key, Delete(table, row))
    try:
        yield
    finally:
        _write(store, table, key, Insert(table, row))


def _row(store: DatabaseStore, table: Table[Any], key: Value) -> Any:
    row = store.read(Key(table, (key,))).get(table, key)
    if row is None:
        raise FieldMismatch(f"{table.name} has no such row")
    return row


def _update(store: DatabaseStore, table: Table[Any], key: Value, values: dict[str, Value]) -> None:
    def decide(rows: Rows) -> Decision:
        row: Any = rows.get(table, key)
        return Decision(writes=(Update(table, replace(row, **values)),))

    store.apply(Unit((Key(table, (key,)),), decide))


def _write(store: DatabaseStore, table: Table[Any], key: Value, write: Write) -> None:
    store.apply(Unit((Key(table, (key,)),), lambda _rows: Decision(writes=(write,))))
