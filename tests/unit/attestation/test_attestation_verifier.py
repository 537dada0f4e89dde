"""The bank's appraisal: each purpose accepted, each check shown by what it alone refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.certificate import AttestationKey
from attestation.measurement import MAX_ENTRIES, PCR_INDEX, Measurement, MeasurementList
from attestation.qualification import qualifying_data
from attestation.reference import Software
from attestation.tpm import (
    POLICY_SELECTION,
    Attest,
    ClockInfo,
    PcrBank,
    qualified_name,
    sign_attest,
)
from attestation.verifier import Evidence, Expectation, appraise
from protocol.crypto import PrivateKey, sha256
from protocol.errors import (
    EvidenceMalformed,
    MeasurementListMismatch,
    Oversize,
    PcrSelectionInvalid,
    PlatformChanged,
    ProtocolError,
    QuoteNotFresh,
    QuoteSignatureInvalid,
    SoftwareChanged,
    SoftwareUnknown,
)
from protocol.types import Purpose, TrustClass

NOW_S = 1_800_000_000
COMPONENTS = (("boot/mrtm", b"root of trust"), ("boot/agent", b"measurement agent"), ("lib/runtime", b"interpreter"))
PACKAGE = b"PK\x03\x04 the wallet, version 1"
BEFORE = [Purpose.ENROLL, Purpose.INSTALL]
AFTER = [Purpose.REPORT, Purpose.LAUNCH, Purpose.ACCOUNT]
KEY = PrivateKey.from_bytes(bytes(31) + b"\x07")


def phone_for(world, purpose, user_id="alice"):
    return world.phone(user_id) if purpose in BEFORE else world.launched(user_id)


class ForgingPhone:
    """A phone whose owner holds the attestation key itself and signs what they like."""

    def __init__(self, world):
        self.measurements = MeasurementList((*world.platform.entries, world.software.measurement))
        self.enrolled = AttestationKey(public=KEY.public, trust_class=TrustClass.SOFTWARE)
        self.user_id = "alice"
        self.installed_pcr10 = self.measurements.replay()

    def evidence(self, expected, **changes):
        attest = Attest(
            qualified_signer=qualified_name(KEY.public),
            extra_data=qualifying_data(
                purpose=expected.purpose,
                bank_id=expected.bank_id,
                user_id=expected.user_id,
                software_id=expected.software_id,
                n_am=expected.n_am,
                n_b=expected.n_b,
                requested_key=expected.requested_key,
            ),
            clock_info=ClockInfo(clock_ms=0, reset_count=1, restart_count=0, safe=True),
            firmware_version=1,
            selection=POLICY_SELECTION,
            pcr_digest=sha256(self.measurements.replay()),
        )
        quote = sign_attest(replace(attest, **changes), KEY)
        return Evidence(measurements=self.measurements.to_bytes(), quote=quote.to_bytes())


@pytest.mark.parametrize("purpose", list(Purpose))
def test_good_phone_is_accepted(world, purpose):
    phone = phone_for(world, purpose)
    expected = world.expect(phone, purpose)
    appraisal = world.appraise(phone, expected)
    assert appraisal.purpose is purpose
    assert (appraisal.user_id, appraisal.software_id) == ("alice", expected.software_id)
    assert appraisal.trust_class is TrustClass.SOFTWARE
    assert appraisal.platform == world.platform
    assert appraisal.pcr10 == phone.mtm.pcr10()
    assert appraisal.clock_info.reset_count == 1


def test_whole_life_from_enrollment_to_account(world):
    phone = world.phone()
    platform = world.appraise(phone, world.expect(phone, Purpose.ENROLL)).platform
    assert world.appraise(phone, replace(world.expect(phone, Purpose.INSTALL), platform=platform))
    phone.mtm.measure_checked(PACKAGE, world.reference())
    phone.installed_pcr10 = world.appraise(phone, world.expect(phone, Purpose.REPORT)).pcr10
    assert phone.installed_pcr10 == world.reference().pcr10
    for purpose in (Purpose.LAUNCH, Purpose.ACCOUNT, Purpose.LAUNCH):
        phone.mtm.start_engine(COMPONENTS)
        phone.mtm.measure_checked(PACKAGE, world.reference())
        assert world.appraise(phone, world.expect(phone, purpose)).pcr10 == phone.installed_pcr10


@pytest.mark.parametrize("trust_class", list(TrustClass))
def test_trust_class_is_the_enrolled_keys(world, trust_class):
    phone = world.phone(trust_class=trust_class)
    assert world.appraise(phone, world.expect(phone, Purpose.ENROLL)).trust_class is trust_class


# --- (0) -----------------------------------------------------------------------------------------------------------
def test_evidence_that_does_not_parse_is_refused(world, refuses):
    phone = world.launched()
    expected = world.expect(phone, Purpose.LAUNCH)
    good = phone.evidence(expected)
    assert world.appraise(phone, expected, good)
    for bad in (
        replace(good, quote=good.quote[:-1]),
        replace(good, quote=good.quote + b"\0"),
        replace(good, quote=b""),
        replace(good, measurements=good.measurements[:-1]),
        replace(good, measurements=good.measurements + b"\0"),
        replace(good, quote=good.quote[:2] + b"\xfe" + good.quote[3:]),  # magic
        replace(good, quote=good.quote[:7] + b"\x17" + good.quote[8:]),  # type
    ):
        refuses(EvidenceMalformed, lambda: world.appraise(phone, expected, bad))  # noqa: B023


def test_oversize_list_is_refused(world, refuses):
    phone = world.launched()
    expected = world.expect(phone, Purpose.LAUNCH)
    lines = b"".join(Measurement(path=f"a/{number}", digest=bytes(32)).to_line() for number in range(MAX_ENTRIES + 1))
    evidence = replace(phone.evidence(expected), measurements=lines)
    refuses(Oversize, lambda: world.appraise(phone, expected, evidence))


# --- (1), (2) ------------------------------------------------------------------------------------------------------
def test_quote_by_another_key_is_refused(world, refuses):
    alice, bob = world.launched("alice"), world.launched("bob")
    expected = world.expect(alice, Purpose.LAUNCH)
    good = alice.evidence(expected)
    refuses(QuoteSignatureInvalid, lambda: appraise(good, expected, enrolled=bob.enrolled, now_s=NOW_S))
    forger = ForgingPhone(world)
    as_alice = forger.evidence(expected, qualified_signer=qualified_name(alice.enrolled.public))
    refuses(QuoteSignatureInvalid, lambda: world.appraise(alice, expected, as_alice))


def test_every_flipped_byte_of_the_quote_is_refused(world):
    phone = world.launched()
    expected = world.expect(phone, Purpose.LAUNCH)
    good = phone.evidence(expected)
    for position in range(len(good.quote)):
        flipped = bytearray(good.quote)
        flipped[position] ^= 1 << position % 8
        with pytest.raises((EvidenceMalformed, QuoteSignatureInvalid)):
            world.appraise(phone, expected, replace(good, quote=bytes(flipped)))


# --- (3) -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "changes",
    [
        {"n_b": b"\x09" * 32},
        {"n_am": b"\x09" * 32},
        {"user_id": "bob"},
        {"bank_id": "bank-b"},
        {"software_id": "org.tapveil.other"},
        {"purpose": Purpose.REPORT},
    ],
)
def test_quote_for_another_challenge_is_refused(world, refuses, changes):
    phone = world.launched()
    expected = world.expect(phone, Purpose.LAUNCH)
    evidence = phone.evidence(expected)
    assert world.appraise(phone, expected, evidence)
    refuses(QuoteNotFresh, lambda: world.appraise(phone, replace(expected, **changes), evidence))


def test_quote_for_another_account_key_is_refused(world, refuses):
    phone = world.launched()
    expected = world.expect(phone, Purpose.ACCOUNT)
    evidence = phone.evidence(expected)
    assert world.appraise(phone, expected, evidence)
    other = replace(expected, requested_key=world.sp_key.public.encoded)
    refuses(QuoteNotFresh, lambda: world.appraise(phone, other, evidence))


def test_quote_relayed_from_another_phone_is_refused(world, refuses):
    # attest.pv, ablation NOUSER: a good phone quotes for a tampered one, over the tampered one's nonces.
    tampered, accomplice = world.launched("alice"), world.launched("bob")
    expected = world.expect(tampered, Purpose.LAUNCH)
    relayed = accomplice.evidence(expected)
    refuses(QuoteSignatureInvalid, lambda: world.appraise(tampered, expected, relayed))
    # Even where the bank took any enrolled key, the user in the qualifying data is the accomplice's.
    refuses(QuoteNotFresh, lambda: appraise(relayed, expected, enrolled=accomplice.enrolled, now_s=NOW_S))


def test_stored_quote_is_refused(world, refuses):
    # attest.pv, ablation PHONENONCE: the quote of yesterday's launch against today's nonce.
    phone = world.launched()
    yesterday = world.expect(phone, Purpose.LAUNCH)
    stored = phone.evidence(yesterday)
    refuses(QuoteNotFresh, lambda: world.appraise(phone, world.expect(phone, Purpose.LAUNCH), stored))


def test_nonces_of_another_size_are_refused(world, refuses):
    phone = world.launched()
    expected = world.expect(phone, Purpose.LAUNCH)
    evidence = phone.evidence(expected)
    refuses(EvidenceMalformed, lambda: world.appraise(phone, replace(expected, n_am=b""), evidence))


# --- (4) -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "selection",
    [
        (),
        (PcrBank.of(16),),
        (PcrBank.of(23),),
        (PcrBank.of(PCR_INDEX, 16),),
        (PcrBank.of(0, PCR_INDEX),),
        (PcrBank.of(),),
        (PcrBank(algorithm=0x0004, bitmap=b"\x00\x04\x00"),),  # SHA-1 bank
        (PcrBank(algorithm=0x000B, bitmap=b"\x00\x04\x00\x00"),),  # a longer map of the same PCR
        (PcrBank(algorithm=0x000B, bitmap=b"\x00\x04"),),
        POLICY_SELECTION * 2,
    ],
)
def test_other_selection_is_refused(world, refuses, selection):
    phone = ForgingPhone(world)
    expected = world.expect(phone, Purpose.LAUNCH)
    assert world.appraise(phone, expected)
    evidence = phone.evidence(expected, selection=selection)
    refuses(PcrSelectionInvalid, lambda: world.appraise(phone, expected, evidence))


@pytest.mark.parametrize("size", [0, 20, 48])
def test_digest_of_another_algorithm_is_refused(world, refuses, size):
    phone = ForgingPhone(world)
    expected = world.expect(phone, Purpose.LAUNCH)
    evidence = phone.evidence(expected, pcr_digest=bytes(size))
    refuses(PcrSelectionInvalid, lambda: world.appraise(phone, expected, evidence))


# --- (5) -----------------------------------------------------------------------------------------------------------
def tampered_lists(measurements):
    one, two, *rest = measurements.entries
    return {
        "reordered": (two, one, *rest),
        "shortened": measurements.entries[:-1],
        "without the first": measurements.entries[1:],
        "lengthened": (*measurements.entries, Measurement(path="lib/more", digest=bytes(32))),
        "changed": (*measurements.entries[:-1], replace(measurements.entries[-1], digest=bytes(32))),
        "renamed": (*measurements.entries[:-1], replace(measurements.entries[-1], path="app/other")),
        "empty": (),
    }


@pytest.mark.parametrize(
    "how", ["reordered", "shortened", "without the first", "lengthened", "changed", "renamed", "empty"]
)
def test_tampered_list_is_refused(world, refuses, how):
    phone = world.launched()
    expected = world.expect(phone, Purpose.LAUNCH)
    entries = tampered_lists(phone.mtm.measurements)[how]
    evidence = replace(phone.evidence(expected), measurements=MeasurementList(entries).to_bytes())
    refuses(MeasurementListMismatch, lambda: world.appraise(phone, expected, evidence))


def test_clean_list_over_a_bad_boot_is_refused(world, refuses):
    # The phone ran a changed package and sends the list of a good launch.
    phone = world.launched()
    good = phone.mtm.measurements.to_bytes()
    phone.mtm.start_engine(COMPONENTS)
    refuses(SoftwareChanged, lambda: phone.mtm.measure_checked(PACKAGE + b"!", world.reference()))
    expected = world.expect(phone, Purpose.LAUNCH)
    evidence = replace(phone.evidence(expected), measurements=good)
    refuses(MeasurementListMismatch, lambda: world.appraise(phone, expected, evidence))


# --- (6) -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("purpose", list(Purpose))
@pytest.mark.parametrize(
    "components",
    [
        (),
        COMPONENTS[:-1],
        COMPONENTS[::-1],
        (("boot/mrtm", b"root of trusT"), *COMPONENTS[1:]),
        (("boot/mrtn", b"root of trust"), *COMPONENTS[1:]),
    ],
    ids=["empty", "shorter", "reversed", "changed", "renamed"],
)
def test_changed_platform_is_refused(world, refuses, purpose, components):
    phone = phone_for(world, purpose)
    phone.mtm.start_engine(components)
    if purpose in AFTER:
        phone.mtm.measure_checked(PACKAGE, world.reference())
        phone.installed_pcr10 = phone.mtm.pcr10()
    refuses(PlatformChanged, lambda: world.appraise(phone, world.expect(phone, purpose)))


@pytest.mark.parametrize("purpose", BEFORE)
def test_more_than_the_platform_before_installation_is_refused(world, refuses, purpose):
    phone = world.launched()
    refuses(PlatformChanged, lambda: world.appraise(phone, world.expect(phone, purpose)))
    phone.mtm.start_engine(COMPONENTS)
    assert world.appraise(phone, world.expect(phone, purpose))


@pytest.mark.parametrize("purpose", [Purpose.INSTALL, *AFTER])
def test_reference_values_of_another_platform_are_refused(world, refuses, purpose):
    phone = phone_for(world, purpose)
    reference = world.reference(platform=MeasurementList(world.platform.entries[:-1]))
    expected = replace(world.expect(phone, purpose), reference=reference)
    refuses(PlatformChanged, lambda: world.appraise(phone, expected))


# --- (7), (8) ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("purpose", [Purpose.INSTALL, *AFTER])
def test_software_without_reference_values_is_refused(world, refuses, purpose):
    phone = phone_for(world, purpose)
    expected = world.expect(phone, purpose)
    assert world.appraise(phone, expected)
    refuses(SoftwareUnknown, lambda: world.appraise(phone, replace(expected, reference=None)))
    other = world.reference(Software.of(PACKAGE, software_id="org.tapveil.other", version="1.0.0"))
    refuses(SoftwareUnknown, lambda: world.appraise(phone, replace(expected, reference=other)))


@pytest.mark.parametrize("purpose", [Purpose.INSTALL, *AFTER])
def test_reference_values_out_of_date_are_refused(world, refuses, purpose):
    phone = phone_for(world, purpose)
    expected = world.expect(phone, purpose)
    for at_s, in_force in ((-71, False), (-70, True), (86_460, True), (86_461, False)):
        world.clock.at_s = NOW_S + at_s
        if in_force:
            assert world.appraise(phone, expected)
        else:
            refuses(SoftwareUnknown, lambda: world.appraise(phone, expected))


def launch_of(world, *measured):
    """A phone that ran (path, content) after its platform, with the bank's stored value made to match."""
    phone = world.phone()
    for path, content in measured:
        phone.mtm.measure(path, content)
    phone.installed_pcr10 = phone.mtm.pcr10()
    return phone


APP = "app/org.tapveil.wallet"


@pytest.mark.parametrize("purpose", AFTER)
def test_one_changed_byte_of_the_software_is_refused(world, refuses, purpose):
    good = launch_of(world, (APP, PACKAGE))
    assert world.appraise(good, world.expect(good, purpose))
    phone = launch_of(world, (APP, PACKAGE[:-1] + b"2"))
    refuses(SoftwareChanged, lambda: world.appraise(phone, world.expect(phone, purpose)))


@pytest.mark.parametrize("purpose", AFTER)
@pytest.mark.parametrize("measured", [((APP, b"bad"), (APP, PACKAGE)), ((APP, PACKAGE), (APP, b"bad"))])
def test_good_and_bad_software_in_one_boot_is_refused(world, refuses, purpose, measured):
    phone = launch_of(world, *measured)
    refuses(SoftwareChanged, lambda: world.appraise(phone, world.expect(phone, purpose)))


@pytest.mark.parametrize("purpose", AFTER)
@pytest.mark.parametrize(
    "measured",
    [(), (("app/other", PACKAGE),), ((APP, PACKAGE), ("app/other", b"x")), (("lib/x", b"x"), (APP, PACKAGE))],
)
def test_unknown_software_is_refused(world, refuses, purpose, measured):
    phone = launch_of(world, *measured)
    refuses(SoftwareUnknown, lambda: world.appraise(phone, world.expect(phone, purpose)))


# --- (9) -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("purpose", [Purpose.LAUNCH, Purpose.ACCOUNT])
@pytest.mark.parametrize("stored", [None, bytes(32)])
def test_launch_that_is_not_what_was_installed_is_refused(world, refuses, purpose, stored):
    phone = world.launched()
    expected = replace(world.expect(phone, purpose), installed_pcr10=stored)
    refuses(SoftwareChanged, lambda: world.appraise(phone, expected))
    assert world.appraise(phone, replace(expected, installed_pcr10=phone.mtm.pcr10()))


def test_update_needs_a_report_first(world, refuses):
    phone = world.launched()
    newer = world.reference(Software.of(PACKAGE + b"!", software_id=world.software.software_id, version="1.0.1"))
    phone.mtm.start_engine(COMPONENTS)
    phone.mtm.measure_checked(PACKAGE + b"!", newer)
    launch = replace(world.expect(phone, Purpose.LAUNCH), reference=newer)
    refuses(SoftwareChanged, lambda: world.appraise(phone, launch))
    report = replace(world.expect(phone, Purpose.REPORT), reference=newer)
    stored = world.appraise(phone, report).pcr10
    assert world.appraise(phone, replace(launch, installed_pcr10=stored))


# --- everything ----------------------------------------------------------------------------------------------------
@settings(max_examples=60)
@given(st.binary(max_size=300), st.binary(max_size=300))
def test_verifier_raises_only_refusals(measurements, quote):
    platform = MeasurementList.of(COMPONENTS)
    key = AttestationKey(public=KEY.public, trust_class=TrustClass.SOFTWARE)
    expected = Expectation(
        purpose=Purpose.ENROLL,
        bank_id="bank-a",
        user_id="alice",
        software_id="",
        n_am=bytes(32),
        n_b=bytes(32),
        platform=platform,
    )
    with pytest.raises(ProtocolError):
        appraise(Evidence(measurements=measurements, quote=quote), expected, enrolled=key, now_s=NOW_S)
