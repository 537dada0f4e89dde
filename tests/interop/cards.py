"""A card for independent readers, made as the TSM makes it, and a slot that keeps what passed and may alter it."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from types import SimpleNamespace

from protocol.card import oda, profile, rsa
from protocol.card.applet import Applet
from protocol.card.months import Month
from protocol.card.pan import DEFAULT_IIN, generate_pan
from protocol.card.personalize import CardData, Issuer, personalize
from protocol.card.profile import CardControls, CardProfile, Channel
from protocol.card.tap import LoadedCard, NotOpen, Tap

TODAY = date(2026, 11, 20)
K_AC = bytes.fromhex("0123456789ABCDEFFEDCBA9876543210")
OPENING = bytes.fromhex("0A0B0C0D")
PURCHASE = Tap(
    amount_minor=12_345, currency="TWD", merchant="MERCHANT0000001", terminal="TERM0001",
    merchant_name="TEA HOUSE\\TAIPEI", unpredictable=bytes.fromhex("DEADBEEF"),
)  # fmt: skip
TERMINAL = PURCHASE.values() | {
    0x9F03: bytes(6), 0x9F1A: b"\x01\x58", 0x95: bytes(5), 0x9A: b"\x26\x11\x20", 0x9C: b"\x00",
    0x9F35: b"\x22", 0x9F34: b"\x1f\x00\x02",
}  # fmt: skip
"""What a terminal knows of the purchase."""


class SeededEntropy:
    """Randomness that a run repeats."""

    def __init__(self) -> None:
        self._source = random.Random(1)

    def bytes(self, n: int, /) -> bytes:
        return self._source.randbytes(n)


@functools.cache
def keys() -> SimpleNamespace:
    """A CA and a stranger of the same name, an issuer and a card."""
    bits = {"ca": rsa.CA_BITS, "other_ca": rsa.CA_BITS, "issuer": rsa.ISSUER_BITS, "card": rsa.ICC_BITS}
    return SimpleNamespace(**{name: rsa.generate_key(size) for name, size in bits.items()})


def ca_key(name: str = "ca") -> oda.CaKey:
    """As terminals hold it."""
    return oda.CaKey(rid=profile.RID, index=0xF1, key=getattr(keys(), name).public)


@functools.cache
def card_data() -> CardData:
    """One personalized card."""
    entropy = SeededEntropy()
    certificate = oda.certify_issuer(
        keys().ca, keys().issuer.public, iin=DEFAULT_IIN, expiry=Month(year=2029, month=12), serial=b"\x01\x02\x03",
        entropy=entropy,
    )  # fmt: skip
    expiry = Month(year=2026, month=12)
    controls = CardControls(
        uses=1, amount_per_use_minor=300_000, total_minor=300_000, valid_until_s=expiry.ends_at_s,
        channel=Channel.CONTACTLESS,
    )  # fmt: skip
    return personalize(
        Issuer.open(ca_key(), keys().issuer, certificate, today=TODAY), CardProfile(), pan=generate_pan(entropy),
        expiry=expiry, card_key=keys().card.public, controls=controls, entropy=entropy,
    )  # fmt: skip


@dataclass
class Holder:
    """A cardholder who opened the card, for whatever is asked: a fake of the `CardHolder` port."""

    open: bool = True
    atc: int = 6
    taps: list[Tap] = field(default_factory=list)

    def is_open(self) -> bool:
        return self.open

    def offer(self, tap: Tap) -> LoadedCard:
        if not self.open:
            raise NotOpen
        self.taps.append(tap)
        self.atc += 1
        data = card_data()
        return LoadedCard(
            aid=data.aid, aip=data.aip, afl=data.afl, records=data.record_map(), key=keys().card, k_ac=K_AC,
            atc=self.atc, opening=OPENING, device_verified=False, retry=False,
        )  # fmt: skip

    def spend(self, card: LoadedCard) -> None:
        """Every tap here is another opening's."""


Alter = Callable[[bytes, bytes], bytes]
"""(command, answer) → the answer that the reader gets."""


def unaltered(command: bytes, answer: bytes) -> bytes:
    """The answer as the card gave it."""
    return answer


@dataclass
class Slot:
    """What is in the virtual reader: any card, swapped between two readings, and the trace of one reading."""

    card: Applet
    alter: Alter = unaltered
    trace: list[tuple[bytes, bytes]] = field(default_factory=list)
    resets: int = 0

    def process(self, command: bytes) -> bytes:
        answer = self.alter(command, self.card.process(command))
        self.trace.append((command, answer))
        return answer

    def reset(self) -> None:
        self.resets += 1
        self.card.reset()
