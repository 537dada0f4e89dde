"""Attestation at both ends: what the phone's trusted side measures, and how the bank appraises it.

Adapters between the ports of `protocol.roles` and the package `attestation`, which `protocol` may not import.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from attestation import verifier
from attestation.certificate import AttestationKey, verify_attestation_certificate
from attestation.measurement import MeasurementList
from attestation.mtm import Mtm
from attestation.qualification import qualifying_data
from attestation.reference import ReferenceValues, application_path
from protocol.crypto import PublicKey, sha256
from protocol.errors import EvidenceMalformed, Oversize, SoftwareChanged
from protocol.messages.attest import Evidence
from protocol.roles.bank.party import Appraised
from protocol.roles.se.party import Measured, Quoted
from protocol.types import Purpose, TrustClass

PLATFORM_ONLY = frozenset({Purpose.ENROLL, Purpose.INSTALL})
"""Purposes that attest the phone before the software is on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BankAppraiser:
    """`attestation.verifier` for one bank: its reference platform and values, and the manufacturers' CA (DER)."""

    bank: str
    manufacturer: bytes
    platform: MeasurementList
    references: Mapping[str, ReferenceValues]

    def certify(self, certificate: bytes, now_s: int) -> tuple[PublicKey, TrustClass]:
        """Raises: CertificateInvalid."""
        key = verify_attestation_certificate(certificate, ca_certificate=self.manufacturer, now_s=now_s)
        return key.public, key.trust_class

    def appraise(
        self, evidence: Evidence, *, purpose: Purpose, user: str, n_b: bytes, requested_key: bytes,
        attestation_key: PublicKey, baseline: bytes, installed_pcr: bytes, now_s: int,
    ) -> Appraised:  # fmt: skip
        """Raises: the attestation errors of `protocol.errors`."""
        expectation = verifier.Expectation(
            purpose=purpose, bank_id=self.bank, user_id=user, software_id=evidence.software, n_am=evidence.n_am,
            n_b=n_b, platform=MeasurementList.from_bytes(baseline) if baseline else self.platform,
            requested_key=requested_key, reference=self.references.get(evidence.software),
            installed_pcr10=installed_pcr or None,
        )  # fmt: skip
        # The trust class was read from the key's certificate at INIT-3 and is kept there; the quote can't change it.
        enrolled = AttestationKey(public=attestation_key, trust_class=TrustClass.SOFTWARE)
        given = verifier.Evidence(measurements=evidence.measurement_list, quote=evidence.quote)
        return Appraised(pcr10=verifier.appraise(given, expectation, enrolled=enrolled, now_s=now_s).pcr10)


@dataclass(frozen=True, slots=True, kw_only=True)
class PhoneFiles:
    """Where the trusted side finds what it measures: platform images by path, and the application's fixed place."""

    platform: Mapping[str, Path]
    application: Path
    software: str

    def platform_content(self) -> list[tuple[str, bytes]]:
        """(measured path, content) in boot order. Raises: OSError."""
        return [(name, path.read_bytes()) for name, path in self.platform.items()]

    def application_content(self) -> bytes | None:
        """The installed package, if there is one."""
        try:
            return self.application.read_bytes()
        except FileNotFoundError:
            return None


@dataclass(slots=True)
class MeasuredPhone:
    """`TrustedPlatform` over an MTM: it reads the files itself, and quotes only what it has just measured."""

    mtm: Mtm
    certificate: bytes
    files: PhoneFiles
    reference: Callable[[], ReferenceValues | None] = field(default=lambda: None)
    """The signed reference values in force on this phone, verified; the MTM checks them before it extends."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def attestation_key(self) -> PublicKey:
        return self.mtm.attestation_key

    @property
    def attestation_certificate(self) -> bytes:
        return self.certificate

    def measure(self) -> Measured:
        with self._lock:
            return self._measure(application=True)

    def quote(
        self, *, purpose: Purpose, bank: str, user: str, software: str, n_am: bytes, n_b: bytes, requested_key: bytes
    ) -> Quoted:
        qualifying = qualifying_data(
            purpose=purpose, bank_id=bank, user_id=user, software_id=software, n_am=n_am, n_b=n_b,
            requested_key=requested_key,
        )  # fmt: skip
        with self._lock:
            measured = self._measure(application=purpose not in PLATFORM_ONLY)
            quote = self.mtm.quote(qualifying)
            measurements = self.mtm.measurements.to_bytes()
        evidence = Evidence(software=software, measurement_list=measurements, quote=quote.to_bytes(), n_am=n_am)
        return Quoted(evidence=evidence, measured=measured)

    def _measure(self, *, application: bool) -> Measured:
        """ATT-D4/5, ATT-L4/5: a boot of the application engine. What can't be listed is extended as a violation."""
        self.mtm.start_engine(self.files.platform_content())
        content = self.files.application_content() if application else None
        if content is None:
            return Measured(pcr10=self.mtm.pcr10(), software_digest=b"")
        reference = self.reference()
        try:
            if reference is None:
                self.mtm.measure(application_path(self.files.software), content)
            else:
                self.mtm.measure_checked(content, reference)
        except (SoftwareChanged, Oversize, EvidenceMalformed):
            pass  # recorded by the MTM: the quote says so, and the bank refuses
        return Measured(pcr10=self.mtm.pcr10(), software_digest=sha256(content))
