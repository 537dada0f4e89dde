"""Accounts, cards and purchases, as many as it takes: made by the card's, the kernel's and the issuer's own code.

Only what is not measured is short: card keys are few and shared, cards have many uses (a purchase with a fresh card
costs the TSM the same), and rows go into the tables without registration.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from parties.emv_files import read_ca_keys
from protocol import envelope
from protocol.card.applet import Applet
from protocol.card.cvr import OPENING_BYTES
from protocol.card.kernel import perform_tap, run_exchange
from protocol.card.outcome import OnlineRequest
from protocol.card.profile import AID, MAX_USES, Channel
from protocol.card.rsa import ICC_BITS, PrivateKey, generate_key
from protocol.card.tap import LoadedCard, Tap
from protocol.card.terminal import Sale, Terminal
from protocol.crypto import PrivateKey as SigningKey
from protocol.crypto import sha256
from protocol.envelope import Signer, Stamp, Wire
from protocol.messages.card import Card, EmvRecord
from protocol.messages.pay import Authorization, AuthorizationBatch, EmvPurchase
from protocol.ports import Entropy
from protocol.roles.tsm.party import Tsm
from protocol.roles.tsm.tables import (
    CARDS,
    SERVICES,
    STOP_LISTS,
    TERMINALS,
    TID_LIST,
    CardRow,
    Service,
    StopListRow,
    TidEntry,
)
from protocol.roles.tsm.tables import Terminal as TerminalRow
from protocol.rows import Decision, Insert, Key, Rows, Store, Unit, Update

AMOUNT_MINOR: Final = 5_000
LIMIT_MINOR: Final = 50_000
CURRENCY: Final = "TWD"
MERCHANT: Final = "shop-1"
MERCHANT_NAME: Final = "Shop 1"
BANK: Final = "bank-a"
CARD_KEYS: Final = 8
"""Key pairs that all cards share: to make one takes 50 ms, and the TSM does not look whether another card has it."""
LOADED_AT_ONCE: Final = 500
_LIFE_S: Final = 7 * 24 * 3600
_REFERENCE_BYTES: Final = 32
_PROMISE_BYTES: Final = 420
"""As long as a bank's signed promise is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The TSM's rows of one service account with one grant and one card."""

    service: Service
    entry: TidEntry
    card: CardRow


@dataclass(frozen=True, slots=True)
class _Holder:
    """A cardholder who agrees to everything."""

    card: LoadedCard

    def is_open(self) -> bool:
        return True

    def offer(self, tap: Tap) -> LoadedCard:
        return self.card

    def spend(self, card: LoadedCard) -> None:
        return


class Stock:
    """One terminal, and all the accounts, cards and purchases that anybody may want."""

    def __init__(self, tsm: Tsm, pki: Path, entropy: Entropy, now_s: int) -> None:
        self._tsm, self._entropy, self._now_s = tsm, entropy, now_s
        self._keys = [generate_key(ICC_BITS) for _ in range(CARD_KEYS)]
        self._cards: list[tuple[Card, PrivateKey]] = []
        self._taps = 0
        self._terminal_key = SigningKey.generate(entropy)
        self._kernel = Terminal(
            merchant_identifier="TAPVEIL00000001", terminal="T0000001", merchant_name=MERCHANT_NAME,
            ca_keys=read_ca_keys(pki),
        )  # fmt: skip
        self._today = datetime.datetime.fromtimestamp(now_s, tz=datetime.UTC).date()

    def issue(self, number: int) -> list[Account]:
        """As many accounts, each with a card that pays."""
        keys = [self._keys[n % CARD_KEYS] for n in range(number)]
        cards = self._tsm.issuer.issue(
            [key.public.to_bytes() for key in keys], expires_at_s=self._now_s + _LIFE_S, limit_minor=LIMIT_MINOR,
            currency=CURRENCY, now_s=self._now_s, entropy=self._entropy,
        )  # fmt: skip
        self._cards = list(zip(cards, keys, strict=True))
        return [self._account(card, key) for card, key in self._cards]

    def purchases(self, number: int) -> list[EmvPurchase]:
        """What the terminal is to send after as many taps, with each of the cards in turn."""
        made = []
        for _ in range(number):
            turn, place = divmod(self._taps, len(self._cards))
            card, key = self._cards[place]
            made.append(self._tap(card, key, atc=turn + 1))
            self._taps += 1
        return made

    def account(self) -> Account:
        """Another account, whose card is never used."""
        modulus = self._keys[0].public.to_bytes()
        return self._rows(pan_ref=self._reference(), pan="9" * 19, k_ac=self._entropy.bytes(16), modulus=modulus)

    def load(self, store: Store, accounts: Sequence[Account]) -> None:
        """Put their rows into the tables."""
        for start in range(0, len(accounts), LOADED_AT_ONCE):
            some = accounts[start : start + LOADED_AT_ONCE]
            writes = tuple(
                insert
                for one in some
                for insert in (Insert(SERVICES, one.service), Insert(TID_LIST, one.entry), Insert(CARDS, one.card))
            )
            store.apply(_writing(writes))

    def open_shop(self, store: Store) -> None:
        """The terminal is signed on."""
        row = TerminalRow(
            terminal=self._kernel.terminal, merchant=MERCHANT, merchant_name=MERCHANT_NAME,
            merchant_identifier=self._kernel.merchant_identifier, terminal_key=self._terminal_key.public.encoded,
            kid_terminal=self._terminal_key.public.thumbprint, expires_at_s=self._now_s + _LIFE_S, state="ACTIVE",
        )  # fmt: skip
        store.apply(_writing((Insert(TERMINALS, row),)))

    def single(self, purchase: EmvPurchase, now_s: int) -> Wire:
        """The terminal's request for one purchase."""
        return self._sign(Authorization(terminal=self._kernel.terminal, purchase=purchase), now_s)

    def batch(self, purchases: Sequence[EmvPurchase], now_s: int) -> Wire:
        """The terminal's request for many."""
        return self._sign(AuthorizationBatch(terminal=self._kernel.terminal, purchases=tuple(purchases)), now_s)

    def _sign(self, message: Authorization | AuthorizationBatch, now_s: int) -> Wire:
        stamp = Stamp.fresh(now_s, self._entropy)
        signer = Signer(name=MERCHANT, key=self._terminal_key)
        return Wire(cose=envelope.sign(signer, message, audience=self._tsm.keys.name, stamp=stamp))

    def _reference(self) -> bytes:
        return self._entropy.bytes(_REFERENCE_BYTES)

    def _tap(self, card: Card, key: PrivateKey, *, atc: int) -> EmvPurchase:
        loaded = LoadedCard(
            aid=AID, aip=card.emv.aip, afl=card.emv.afl, key=key, k_ac=card.k_ac, atc=atc,
            records={(record.sfi, record.number): record.data for record in card.emv.records},
            opening=self._entropy.bytes(OPENING_BYTES), device_verified=False, retry=False,
        )  # fmt: skip
        sale = Sale(
            amount_minor=AMOUNT_MINOR, currency=CURRENCY, date=self._today, unpredictable=self._entropy.bytes(4)
        )
        applet = Applet(_Holder(loaded), self._entropy, channel=Channel.CONTACTLESS)
        online = run_exchange(perform_tap(self._kernel, sale), applet.process).online
        assert online is not None
        return _purchase(online, self._entropy.bytes(16))

    def _account(self, card: Card, key: PrivateKey) -> Account:
        pan_ref = self._tsm.secrets.blind("pan", card.pan.encode())
        return self._rows(pan_ref=pan_ref, pan=card.pan, k_ac=card.k_ac, modulus=key.public.to_bytes())

    def _rows(self, *, pan_ref: bytes, pan: str, k_ac: bytes, modulus: bytes) -> Account:
        reference, expires_at_s = self._reference, self._now_s + _LIFE_S
        tid, sid, key = reference()[:16].hex(), reference(), self._terminal_key.public
        sid_digest = sha256(sid)
        service = Service(
            tid=tid, pk_tid=key.encoded, kid_tid=reference(), ek_tid=key.encoded, k_tid=reference(), maximum_minor=0,
            state="ACTIVE", stop="",
        )  # fmt: skip
        entry = TidEntry(
            sid_digest=sid_digest, sid=sid, tid=tid, aid=reference()[:16].hex(), bank=BANK, pk_tid=key.encoded,
            com=reference(), aid_exp_time_s=expires_at_s, aid_limit_minor=MAX_USES * LIMIT_MINOR, currency=CURRENCY,
            k_bank=reference(), promise=self._entropy.bytes(_PROMISE_BYTES), cert_tid=reference(),
            asked_at_s=self._now_s, state="ACTIVE", spent_minor=0, bank_stop="", claims="OPEN", proof=reference(),
        )  # fmt: skip
        card = CardRow(
            pan_ref=pan_ref, modulus_digest=reference(), tid=tid, sid_digest=sid_digest, batch=reference(),
            position=0, pan=pan, k_ac=k_ac, modulus=modulus, salt=reference()[:16], expires_at_s=expires_at_s,
            limit_minor=LIMIT_MINOR, currency=CURRENCY, uses=MAX_USES, per_use_minor=LIMIT_MINOR,
            total_minor=MAX_USES * LIMIT_MINOR, channel="contactless", state="ACTIVE",
            verify_above_minor=4 * AMOUNT_MINOR, used=0, spent_minor=0, keys_request=reference(),
        )  # fmt: skip
        return Account(service=service, entry=entry, card=card)


def _writing(writes: tuple[Insert, ...]) -> Unit:
    return Unit((), lambda _rows: Decision(writes=writes))


def refresh_stops(store: Store, now_s: int) -> None:
    """The bank's list of stops is of this minute: on an old one nothing is approved."""

    def decide(rows: Rows) -> Decision:
        row = StopListRow(bank=BANK, minute_s=now_s)
        return Decision(writes=((Insert if rows.get(STOP_LISTS, BANK) is None else Update)(STOP_LISTS, row),))

    store.apply(Unit((Key(STOP_LISTS, (BANK,)),), decide))


def _purchase(online: OnlineRequest, sale: bytes) -> EmvPurchase:
    records = tuple(EmvRecord(sfi=record.sfi, number=record.number, data=record.data) for record in online.records)
    return EmvPurchase(
        sale=sale, application=online.aid, aip=online.aip, afl=online.afl, records=records,
        pdol_data=online.pdol_data, cdol_data=online.cdol_data, information=online.information, atc=online.atc,
        issuer_data=online.issuer_data, signature=online.signature,
    )  # fmt: skip
