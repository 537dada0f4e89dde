"""Keys made once a session, and seeded entropy: an in-memory port."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import date
from types import SimpleNamespace

import pytest

from protocol.card import oda, profile, rsa, tlv
from protocol.card.apdu import Command, Ins, Response
from protocol.card.applet import Applet
from protocol.card.months import Month
from protocol.card.pan import DEFAULT_IIN, generate_pan
from protocol.card.personalize import CardData, Issuer, personalize
from protocol.card.profile import CardControls, CardProfile, Channel
from protocol.card.tap import LoadedCard, Tap

TODAY = date(2026, 11, 20)
ISSUER_EXPIRY = Month(year=2029, month=12)


@dataclass
class SeededEntropy:
    seed: int = 1
    source: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.source = random.Random(self.seed)

    def bytes(self, n: int, /) -> bytes:
        return self.source.randbytes(n)


@pytest.fixture
def entropy() -> SeededEntropy:
    return SeededEntropy()


@pytest.fixture(scope="session")
def keys() -> SimpleNamespace:
    return SimpleNamespace(
        ca=rsa.generate_key(rsa.CA_BITS),
        other_ca=rsa.generate_key(rsa.CA_BITS),
        issuer=rsa.generate_key(rsa.ISSUER_BITS),
        short_issuer=rsa.generate_key(rsa.SHORT_ISSUER_BITS),
        card=rsa.generate_key(rsa.ICC_BITS),
        other_card=rsa.generate_key(rsa.ICC_BITS),
    )


@pytest.fixture(scope="session")
def ca_key(keys: SimpleNamespace) -> oda.CaKey:
    return oda.CaKey(rid=profile.RID, index=0xF1, key=keys.ca.public)


def _issuer(keys: SimpleNamespace, ca_key: oda.CaKey, private: rsa.PrivateKey) -> Issuer:
    certificate = oda.certify_issuer(
        keys.ca, private.public, iin=DEFAULT_IIN, expiry=ISSUER_EXPIRY, serial=b"\x01\x02\x03", entropy=SeededEntropy()
    )
    return Issuer.open(ca_key, private, certificate, today=TODAY)


@pytest.fixture(scope="session")
def issuer(keys: SimpleNamespace, ca_key: oda.CaKey) -> Issuer:
    return _issuer(keys, ca_key, keys.issuer)


@pytest.fixture(scope="session")
def short_issuer(keys: SimpleNamespace, ca_key: oda.CaKey) -> Issuer:
    return _issuer(keys, ca_key, keys.short_issuer)


K_AC = bytes.fromhex("0123456789ABCDEFFEDCBA9876543210")
PURCHASE = Tap(
    amount_minor=12_345, currency="TWD", merchant="MERCHANT0000001", terminal="TERM0001",
    merchant_name="TEA HOUSE\\TAIPEI", unpredictable=b"\xde\xad\xbe\xef",
)  # fmt: skip
TERMINAL = PURCHASE.values() | {
    0x9F03: bytes(6), 0x9F1A: b"\x01\x58", 0x95: bytes(5), 0x9A: b"\x26\x11\x20", 0x9C: b"\x00",
    0x9F35: b"\x22", 0x9F34: b"\x1f\x00\x02",
}  # fmt: skip
"""What a terminal knows of the purchase above."""


@dataclass
class Holder:
    """The cardholder's side in memory: a fake of the `CardHolder` port. `obstacles` are raised, each by its method."""

    card: LoadedCard
    open: bool = True
    obstacles: dict[str, Exception] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    taps: list[Tap] = field(default_factory=list)

    def _note(self, name: str) -> None:
        self.calls.append(name)
        if name in self.obstacles:
            raise self.obstacles[name]

    def is_open(self) -> bool:
        self._note("is_open")
        return self.open

    def offer(self, tap: Tap) -> LoadedCard:
        self._note("offer")
        self.taps.append(tap)
        self.card = replace(self.card, atc=self.card.atc + 1)
        return self.card

    def spend(self, card: LoadedCard) -> None:
        assert card is self.card
        self._note("spend")


@dataclass
class Reader:
    """A terminal's side, command by command."""

    process: Callable[[bytes], bytes]
    purchase: Tap = PURCHASE
    pdol_data: bytes = profile.PDOL.build(PURCHASE.values())
    cdol1_data: bytes = b""
    cdol2_data: bytes = b""

    def send(self, cla: int, ins: int, p1: int = 0, p2: int = 0, data: bytes = b"", le: int | None = 256) -> Response:
        command = Command(cla=cla, ins=ins, p1=p1, p2=p2, data=data, le=le)
        return Response.from_bytes(self.process(command.to_bytes()))

    def select(self, name: bytes = profile.AID, p2: int = 0) -> Response:
        return self.send(0x00, Ins.SELECT, 0x04, p2, name)

    def options(self) -> Response:
        return self.send(0x80, Ins.GET_PROCESSING_OPTIONS, data=bytes((0x83, len(self.pdol_data))) + self.pdol_data)

    def record(self, sfi: int, number: int) -> Response:
        return self.send(0x00, Ins.READ_RECORD, number, sfi << 3 | 4)

    def generate(self, p1: int, data: bytes) -> Response:
        return self.send(0x80, Ins.GENERATE_AC, p1, 0, data)

    def first(self, p1: int = 0x90, changes: dict[int, bytes] | None = None) -> Response:
        self.cdol1_data = profile.CDOL1.build(TERMINAL | (changes or {}))
        return self.generate(p1, self.cdol1_data)

    def second(self, code: bytes, issuer_authentication: bytes, p1: int = 0x40) -> Response:
        self.cdol2_data = profile.CDOL2.build(TERMINAL | {0x8A: code, 0x91: issuer_authentication})
        return self.generate(p1, self.cdol2_data)

    def load(self) -> Response:
        """Select the application and get its options."""
        assert self.select().ok
        return self.options()

    @staticmethod
    def objects(response: Response) -> dict[int, bytes]:
        """The data objects of an answer in format 2."""
        assert response.ok
        return {item.tag: item.value for item in tlv.decode_one(response.data, 0x77).children}


@pytest.fixture
def card_data(issuer: Issuer, keys: SimpleNamespace, entropy: SeededEntropy) -> CardData:
    expiry = Month(year=2026, month=12)
    controls = CardControls(
        uses=1, amount_per_use_minor=300_000, total_minor=300_000, valid_until_s=expiry.ends_at_s,
        channel=Channel.CONTACTLESS,
    )  # fmt: skip
    return personalize(
        issuer, CardProfile(), pan=generate_pan(entropy), expiry=expiry, card_key=keys.card.public, controls=controls,
        entropy=entropy,
    )  # fmt: skip


@pytest.fixture
def holder(card_data: CardData, keys: SimpleNamespace) -> Holder:
    return Holder(
        card=LoadedCard(
            aid=card_data.aid, aip=card_data.aip, afl=card_data.afl, records=card_data.record_map(), key=keys.card,
            k_ac=K_AC, atc=6, opening=b"\x0a\x0b\x0c\x0d", device_verified=False, retry=False,
        )
    )  # fmt: skip


@pytest.fixture
def applet(holder: Holder, entropy: SeededEntropy) -> Applet:
    return Applet(holder, entropy, channel=Channel.CONTACTLESS)


@pytest.fixture
def reader(applet: Applet) -> Reader:
    return Reader(applet.process)
