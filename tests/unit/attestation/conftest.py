"""One bank, one software provider, one manufacturer, and phones as many as a test asks for. Nothing is mocked."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from attestation.certificate import AttestationKey
from attestation.measurement import MeasurementList
from attestation.mtm import Mtm
from attestation.qualification import qualifying_data
from attestation.reference import ReferenceValues, Software, sign_reference_values, verify_reference_values
from attestation.soft_mtm import SoftMtm
from attestation.verifier import Appraisal, Evidence, Expectation, appraise
from protocol.crypto import PrivateKey
from protocol.errors import ProtocolError
from protocol.types import Purpose, TrustClass

NOW_S = 1_800_000_000
COMPONENTS = (("boot/mrtm", b"root of trust"), ("boot/agent", b"measurement agent"), ("lib/runtime", b"interpreter"))
PACKAGE = b"PK\x03\x04 the wallet, version 1"
SOFTWARE_ID = "org.tapveil.wallet"


class Seeded:
    """Entropy that can be repeated."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def bytes(self, n: int, /) -> bytes:
        return self._random.randbytes(n)


@dataclass
class Hands:
    """A clock moved by hand."""

    at_s: int = NOW_S

    def now_s(self) -> int:
        return self.at_s


@dataclass(kw_only=True)
class Phone:
    """A phone's MTM, its user, and the bank's record of both."""

    mtm: Mtm
    user_id: str
    enrolled: AttestationKey
    installed_pcr10: bytes | None = None

    def evidence(self, expected: Expectation) -> Evidence:
        """What this phone answers to a challenge, for its own user."""
        data = qualifying_data(
            purpose=expected.purpose,
            bank_id=expected.bank_id,
            user_id=self.user_id,
            software_id=expected.software_id,
            n_am=expected.n_am,
            n_b=expected.n_b,
            requested_key=expected.requested_key,
        )
        quote = self.mtm.quote(data)
        return Evidence(measurements=self.mtm.measurements.to_bytes(), quote=quote.to_bytes())


@dataclass(kw_only=True)
class World:
    """The parties of attestation."""

    entropy: Seeded = field(default_factory=lambda: Seeded(1))
    clock: Hands = field(default_factory=Hands)
    bank_key: PrivateKey = field(init=False)
    sp_key: PrivateKey = field(init=False)
    platform: MeasurementList = field(default_factory=lambda: MeasurementList.of(COMPONENTS))
    software: Software = field(default_factory=lambda: Software.of(PACKAGE, software_id=SOFTWARE_ID, version="1.0.0"))

    def __post_init__(self) -> None:
        self.bank_key = PrivateKey.generate(self.entropy)
        self.sp_key = PrivateKey.generate(self.entropy)

    def reference(self, software: Software | None = None, platform: MeasurementList | None = None) -> ReferenceValues:
        data = sign_reference_values(
            software or self.software,
            platform or self.platform,
            bank_key=self.bank_key,
            bank_id="bank-a",
            valid_from_s=NOW_S - 10,
            valid_until_s=NOW_S + 86_400,
            entropy=self.entropy,
        )
        return verify_reference_values(data, bank_key=self.bank_key.public, bank_id="bank-a", now_s=NOW_S)

    def phone(self, user_id: str = "alice", *, trust_class: TrustClass = TrustClass.SOFTWARE) -> Phone:
        """A phone whose engine booted the platform and nothing else yet."""
        mtm = SoftMtm(PrivateKey.generate(self.entropy), self.clock)
        mtm.start_engine(COMPONENTS)
        enrolled = AttestationKey(public=mtm.attestation_key, trust_class=trust_class)
        return Phone(mtm=mtm, user_id=user_id, enrolled=enrolled)

    def launched(self, user_id: str = "alice") -> Phone:
        """A phone whose wallet was installed, reported, and is launched again."""
        phone = self.phone(user_id)
        phone.mtm.measure_checked(PACKAGE, self.reference())
        phone.installed_pcr10 = phone.mtm.pcr10()
        return phone

    def expect(self, phone: Phone, purpose: Purpose) -> Expectation:
        """The bank's expectation of `phone`, with fresh nonces."""
        enrolling = purpose is Purpose.ENROLL
        return Expectation(
            purpose=purpose,
            bank_id="bank-a",
            user_id=phone.user_id,
            software_id="" if enrolling else SOFTWARE_ID,
            n_am=self.entropy.bytes(32),
            n_b=self.entropy.bytes(32),
            platform=self.platform,
            requested_key=self.bank_key.public.encoded if purpose is Purpose.ACCOUNT else b"",
            reference=None if enrolling else self.reference(),
            installed_pcr10=phone.installed_pcr10,
        )

    def appraise(self, phone: Phone, expected: Expectation, evidence: Evidence | None = None) -> Appraisal:
        return appraise(
            evidence or phone.evidence(expected), expected, enrolled=phone.enrolled, now_s=self.clock.now_s()
        )


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def refuses() -> Callable[[type[ProtocolError], Callable[[], object]], ProtocolError]:
    """Runs a call that has to raise exactly one class, with that class's own code."""

    def run(expected: type[ProtocolError], call: Callable[[], object]) -> ProtocolError:
        with pytest.raises(expected) as caught:
            call()
        assert type(caught.value) is expected
        assert caught.value.code == expected.code
        return caught.value

    return run
