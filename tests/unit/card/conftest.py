"""Keys made once a session, and seeded entropy: an in-memory port."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import date
from types import SimpleNamespace

import pytest

from protocol.card import oda, profile, rsa
from protocol.card.months import Month
from protocol.card.pan import DEFAULT_IIN
from protocol.card.personalize import Issuer

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
