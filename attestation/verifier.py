"""The bank's appraisal of evidence (paper §2.3: ATT-D7, ATT-L6; RATS: the Verifier of RFC 9334).

`appraise` makes these checks, in this order, and each is labelled where it is made:

(0) Quote and Measurement List parse, every byte of them; magic and type are a TPM's quote.      EVIDENCE_MALFORMED
(1) The signer is the Qualified Name of the attestation key the bank enrolled.              QUOTE_SIGNATURE_INVALID
(2) The signature over the received bytes verifies under that key.                          QUOTE_SIGNATURE_INVALID
(3) The qualifying data answers this challenge: purpose, bank, user, software, both nonces, key.    QUOTE_NOT_FRESH
(4) The selection is exactly the policy's, and the digest is of its algorithm.                PCR_SELECTION_INVALID
(5) The list replays to the quoted digest.                                                MEASUREMENT_LIST_MISMATCH
(6) The platform's events are those the bank stored at INIT-3 (at INIT-3: the reference platform's), and those the
    reference values were computed for; when no software runs yet, there are no others.            PLATFORM_CHANGED
(7) Reference values of the named software are in force now.                                       SOFTWARE_UNKNOWN
(8) When software runs: the one event after the platform's is that software, unaltered.
                                                                              SOFTWARE_UNKNOWN, SOFTWARE_CHANGED
(9) At launch and when an account is asked for: PCR 10 is the value stored after installation.     SOFTWARE_CHANGED

Nothing of the list is believed before (5). The trust class is the enrolled key's, from its certificate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from attestation.certificate import AttestationKey
from attestation.measurement import Measurement, MeasurementList
from attestation.qualification import qualifying_data
from attestation.reference import ReferenceValues, application_path
from attestation.tpm import POLICY_SELECTION, Attest, ClockInfo, Quote, verify_attest
from protocol.crypto import same, sha256
from protocol.errors import (
    MeasurementListMismatch,
    PcrSelectionInvalid,
    PlatformChanged,
    QuoteNotFresh,
    SoftwareChanged,
    SoftwareUnknown,
)
from protocol.types import DIGEST_BYTES, MAX_SKEW_S, Purpose, TrustClass

SOFTWARE_RUNS: Final = frozenset({Purpose.REPORT, Purpose.LAUNCH, Purpose.ACCOUNT})
"""Purposes whose quote covers the application, not only the platform."""
AFTER_INSTALLATION: Final = frozenset({Purpose.LAUNCH, Purpose.ACCOUNT})
"""Purposes that compare PCR 10 with the value stored at ATT-D7."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a phone sends (ATT-D6, ATT-L6), as received: the ASCII list, and `Quote.to_bytes`."""

    measurements: bytes
    quote: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What the bank knows itself, or took from the signed message around the evidence (N_AM, PK_req).

    `platform` is the list stored at INIT-3; at INIT-3 itself, the reference platform. `reference` is what it signed for
    `software_id`, or None. `installed_pcr10` was stored when the installation was reported, or is None.
    """

    purpose: Purpose
    bank_id: str
    user_id: str
    software_id: str
    n_am: bytes
    n_b: bytes
    platform: MeasurementList
    requested_key: bytes = b""
    reference: ReferenceValues | None = None
    installed_pcr10: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Appraisal:
    """What the bank now believes of the phone, and stores: at INIT-3 `platform`, after a report `pcr10`."""

    purpose: Purpose
    user_id: str
    software_id: str
    trust_class: TrustClass
    platform: MeasurementList
    pcr10: bytes
    clock_info: ClockInfo


def appraise(evidence: Evidence, expectation: Expectation, *, enrolled: AttestationKey, now_s: int) -> Appraisal:
    """Checks (0) to (9) of this module.

    Raises: EvidenceMalformed, Oversize, QuoteSignatureInvalid, QuoteNotFresh, PcrSelectionInvalid,
        MeasurementListMismatch, PlatformChanged, SoftwareUnknown, SoftwareChanged.
    """
    # (0)
    measurements = MeasurementList.from_bytes(evidence.measurements)
    quote = Quote.from_bytes(evidence.quote)
    # (0), (1), (2)
    attest = verify_attest(quote, enrolled.public)
    _check_freshness(attest, expectation)
    _check_selection(attest)
    pcr10 = _check_replay(attest, measurements)
    events = _check_platform(measurements, expectation)
    if expectation.purpose is not Purpose.ENROLL:
        _check_software(events, _check_reference(expectation, now_s), expectation)
    _check_installed(pcr10, expectation)
    return Appraisal(
        purpose=expectation.purpose,
        user_id=expectation.user_id,
        software_id=expectation.software_id,
        trust_class=enrolled.trust_class,
        platform=expectation.platform,
        pcr10=pcr10,
        clock_info=attest.clock_info,
    )


def _check_freshness(attest: Attest, expectation: Expectation) -> None:
    # (3) Hardened, design §3 ATT: the bank's nonce and the user's identity are in the quote, not only a phone's nonce.
    expected = qualifying_data(
        purpose=expectation.purpose,
        bank_id=expectation.bank_id,
        user_id=expectation.user_id,
        software_id=expectation.software_id,
        n_am=expectation.n_am,
        n_b=expectation.n_b,
        requested_key=expectation.requested_key,
    )
    if not same(attest.extra_data, expected):
        raise QuoteNotFresh


def _check_selection(attest: Attest) -> None:
    # (4)
    if attest.selection != POLICY_SELECTION:
        raise PcrSelectionInvalid("selection is not exactly the policy's")
    if len(attest.pcr_digest) != DIGEST_BYTES:
        raise PcrSelectionInvalid("PCR digest is not SHA-256")


def _check_replay(attest: Attest, measurements: MeasurementList) -> bytes:
    # (5) TPM 2.0 Library, Part 1 §17.5: the digest of a quote is over the concatenated values of the selected PCRs.
    pcr10 = measurements.replay()
    if not same(sha256(pcr10), attest.pcr_digest):
        raise MeasurementListMismatch
    return pcr10


def _check_platform(measurements: MeasurementList, expectation: Expectation) -> tuple[Measurement, ...]:
    # (6) Returns the events after the platform's.
    platform = expectation.platform.entries
    count = len(platform)
    if measurements.entries[:count] != platform:
        raise PlatformChanged("platform differs from what was enrolled")
    if expectation.reference is not None and expectation.reference.platform != expectation.platform:
        raise PlatformChanged("reference values are for another platform")
    events = measurements.entries[count:]
    if events and expectation.purpose not in SOFTWARE_RUNS:
        raise PlatformChanged("more was measured than the platform")
    return events


def _check_reference(expectation: Expectation, now_s: int) -> ReferenceValues:
    # (7) No software is named at INIT, so this is not asked there.
    reference = expectation.reference
    if reference is None or reference.software.software_id != expectation.software_id:
        raise SoftwareUnknown
    if not reference.valid_from_s - MAX_SKEW_S <= now_s <= reference.valid_until_s + MAX_SKEW_S:
        raise SoftwareUnknown("reference values are not in force now")
    return reference


def _check_software(events: tuple[Measurement, ...], reference: ReferenceValues, expectation: Expectation) -> None:
    # (8)
    if expectation.purpose not in SOFTWARE_RUNS:
        return
    path = application_path(reference.software.software_id)
    if not events or any(event.path != path for event in events):
        raise SoftwareUnknown("what runs is not the software named")
    if events != (reference.software.measurement,):
        raise SoftwareChanged


def _check_installed(pcr10: bytes, expectation: Expectation) -> None:
    # (9) A value that was never stored matches nothing.
    if expectation.purpose in AFTER_INSTALLATION and expectation.installed_pcr10 != pcr10:
        raise SoftwareChanged("PCR 10 is not the value stored after installation")
