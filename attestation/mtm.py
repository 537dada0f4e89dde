"""The Mobile Trusted Module: what measures, records and quotes (paper §2.3; TCG Mobile Reference Architecture).

The reference architecture gives each engine a root of trust of its own. Here each launch is a boot of the application
engine: `start_engine` resets PCR 10 and the list, measures the platform components in order, and the application is
measured after them.

Reference integrity metrics are MTM's own addition to a TPM: a signed reference value is checked *before* a measurement
is extended (MTM_VerifyRIMCertAndExtend). TCG's module leaves the PCR as it was when the check fails. Then the state
before the failure could still be quoted, and the good package be measured afterwards. So a failed check is recorded:
the digest that was found is extended and listed, and `SoftwareChanged` is raised. The phone refuses at once, and every
quote until the engine's next boot says so to the bank, which refuses with SOFTWARE_CHANGED too.

The same holds for what cannot be listed (a full list, a path that is not allowed): IMA's violation value is extended,
and no list replays to the quote until the next boot. What was reported to the MTM is never left out of a quote.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from attestation.measurement import VIOLATION, Measurement, MeasurementList
from attestation.reference import ReferenceValues, application_path
from attestation.tpm import Quote
from protocol.crypto import PublicKey, same, sha256
from protocol.errors import EvidenceMalformed, Oversize, SoftwareChanged
from protocol.types import DIGEST_BYTES


class Mtm(ABC):
    """Measurement agent and trusted platform in one. A backend keeps PCR 10, counters and the attestation key.

    It is not locked: one caller at a time.
    """

    def __init__(self, measurements: MeasurementList) -> None:
        self._measurements = measurements

    @property
    def measurements(self) -> MeasurementList:
        """The list since the engine's boot."""
        return self._measurements

    @property
    @abstractmethod
    def attestation_key(self) -> PublicKey:
        """The key that signs quotes."""

    @abstractmethod
    def pcr10(self) -> bytes:
        """The value of PCR 10 in the SHA-256 bank: the secure element's own copy is compared with it (ATT-L6)."""

    @abstractmethod
    def _boot(self) -> None:
        """Resets PCR 10 to zero, and counts."""

    @abstractmethod
    def _extend(self, digest: bytes) -> None:
        """Extends PCR 10."""

    @abstractmethod
    def _quote(self, qualifying_data: bytes) -> Quote:
        """Quotes the policy's selection."""

    def start_engine(self, components: Sequence[tuple[str, bytes]]) -> MeasurementList:
        """Boots the application engine: (path, content) of each platform component is measured in order.

        Raises: Oversize, EvidenceMalformed (a component cannot be listed; the boot is then not quotable as good).
        """
        self._boot()
        self._measurements = MeasurementList()
        for path, content in components:
            self.measure(path, content)
        return self._measurements

    def measure(self, path: str, content: bytes) -> Measurement:
        """ATT-D5, ATT-L5: MA records in ML and reports to the MTM. The same content at one path counts once.

        Raises: Oversize, EvidenceMalformed (it cannot be listed: the violation value was extended).
        """
        try:
            entry = Measurement(path=path, digest=sha256(content))
            longer = self._measurements.with_entry(entry)
        except (Oversize, EvidenceMalformed):
            self._extend(VIOLATION)
            raise
        if longer is not self._measurements:
            self._extend(entry.template_digest)  # first, so that a lost answer leaves a list that does not replay
            self._measurements = longer
        return entry

    def measure_checked(self, package: bytes, reference: ReferenceValues) -> Measurement:
        """Checks the package against its signed reference value, then measures it either way.

        Raises:
            SoftwareChanged: it differs; what was found is recorded (see above). Do not run it.
            Oversize: it cannot be listed: the violation value was extended.
        """
        agrees = same(sha256(package), reference.software.digest)
        entry = self.measure(application_path(reference.software.software_id), package)
        if not agrees:
            raise SoftwareChanged("package differs from its reference value; recorded until the engine's next boot")
        return entry

    def quote(self, qualifying_data: bytes) -> Quote:
        """ATT-D3, ATT-L3: Quote over PCR 10 and the qualifying data, which the caller computed itself (32 bytes).

        Raises: EvidenceMalformed (other than 32 bytes), WrongState (the software MTM was never started).
        """
        if len(qualifying_data) != DIGEST_BYTES:
            raise EvidenceMalformed("qualifying data is not a SHA-256 digest")
        return self._quote(qualifying_data)
