"""The software MTM: boots, checked measurement, honest quotes after failures, kept state."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.measurement import MAX_ENTRIES, VIOLATION, Measurement, MeasurementList, extend
from attestation.reference import Software, application_path
from attestation.soft_mtm import MAX_STATE_BYTES, EngineState, SoftMtm
from attestation.tpm import POLICY_SELECTION, verify_attest
from protocol import codec
from protocol.crypto import PrivateKey, sha256
from protocol.errors import (
    EvidenceMalformed,
    Malformed,
    MeasurementListMismatch,
    Oversize,
    ProtocolError,
    SoftwareChanged,
    WrongState,
)
from protocol.types import Purpose

COMPONENTS = (("boot/mrtm", b"root of trust"), ("lib/runtime", b"interpreter"))
PACKAGE = b"PK\x03\x04 the wallet, version 1"
DATA = b"\x11" * 32
SCALAR = bytes(31) + b"\x07"


@pytest.fixture
def mtm(world):
    module = SoftMtm(PrivateKey.from_bytes(SCALAR), world.clock)
    module.start_engine(COMPONENTS)
    return module


def attested(mtm):
    return verify_attest(mtm.quote(DATA), mtm.attestation_key)


def test_quote_covers_what_was_measured(mtm):
    mtm.measure("app/one", PACKAGE)
    attest = attested(mtm)
    assert [entry.path for entry in mtm.measurements.entries] == ["boot/mrtm", "lib/runtime", "app/one"]
    assert mtm.measurements.entries[2].digest == sha256(PACKAGE)
    assert mtm.pcr10() == mtm.measurements.replay()
    assert attest.pcr_digest == sha256(mtm.pcr10())
    assert (attest.extra_data, attest.selection) == (DATA, POLICY_SELECTION)


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_qualifying_data_of_another_size_is_refused(mtm, refuses, size):
    refuses(EvidenceMalformed, lambda: mtm.quote(bytes(size)))


def test_nothing_is_quoted_before_the_first_boot(world, refuses):
    module = SoftMtm(PrivateKey.from_bytes(SCALAR), world.clock)
    refuses(WrongState, lambda: module.quote(DATA))


def test_each_launch_is_a_boot(mtm):
    platform = mtm.pcr10()
    mtm.measure("app/one", PACKAGE)
    assert mtm.pcr10() != platform
    before = attested(mtm).clock_info.reset_count
    assert mtm.start_engine(COMPONENTS) == mtm.measurements == MeasurementList.of(COMPONENTS)
    assert mtm.pcr10() == platform
    assert attested(mtm).clock_info.reset_count == before + 1


def test_same_content_counts_once_and_other_content_again(mtm):
    mtm.measure("app/one", PACKAGE)
    before = mtm.pcr10()
    mtm.measure("app/one", PACKAGE)
    assert mtm.pcr10() == before
    mtm.measure("app/one", PACKAGE + b"!")
    assert len(mtm.measurements.entries) == len(COMPONENTS) + 2
    assert mtm.pcr10() == mtm.measurements.replay() != before


def test_checked_measurement_of_the_good_package(world, mtm):
    reference = world.reference(platform=MeasurementList.of(COMPONENTS))
    assert mtm.measure_checked(PACKAGE, reference) == reference.software.measurement
    assert mtm.pcr10() == reference.pcr10


def test_failed_check_is_recorded_and_cannot_be_undone(world, mtm, refuses):
    reference = world.reference(platform=MeasurementList.of(COMPONENTS))
    bad = PACKAGE[:-1] + b"2"
    refuses(SoftwareChanged, lambda: mtm.measure_checked(bad, reference))
    found = Measurement(path=application_path(reference.software.software_id), digest=sha256(bad))
    assert mtm.measurements.entries[-1] == found
    # Measuring the good package afterwards does not bring the good state back.
    mtm.measure_checked(PACKAGE, reference)
    assert mtm.pcr10() == mtm.measurements.replay() != reference.pcr10
    assert found in mtm.measurements.entries
    refuses(SoftwareChanged, lambda: mtm.measure_checked(bad, reference))
    # The engine's next boot does.
    mtm.start_engine(COMPONENTS)
    mtm.measure_checked(PACKAGE, reference)
    assert mtm.pcr10() == reference.pcr10


def test_bank_refuses_the_launch_after_a_failed_check(world, refuses):
    phone = world.launched()
    phone.mtm.start_engine(tuple(world_components(world)))
    refuses(SoftwareChanged, lambda: phone.mtm.measure_checked(PACKAGE[:-1] + b"2", world.reference()))
    expected = world.expect(phone, Purpose.LAUNCH)
    refuses(SoftwareChanged, lambda: world.appraise(phone, expected))
    phone.mtm.measure_checked(PACKAGE, world.reference())
    refuses(SoftwareChanged, lambda: world.appraise(phone, expected))


def world_components(world):
    contents = {"boot/mrtm": b"root of trust", "boot/agent": b"measurement agent", "lib/runtime": b"interpreter"}
    return [(entry.path, contents[entry.path]) for entry in world.platform.entries]


@pytest.mark.parametrize("path", ["app/with space", "", "a" * 256])
def test_what_cannot_be_named_spoils_the_boot(world, refuses, path):
    phone = world.launched()
    expected = world.expect(phone, Purpose.LAUNCH)
    assert world.appraise(phone, expected).pcr10 == phone.installed_pcr10
    before = phone.mtm.pcr10()
    refuses(EvidenceMalformed, lambda: phone.mtm.measure(path, b"unnamed"))
    assert phone.mtm.pcr10() == extend(before, VIOLATION)
    refuses(MeasurementListMismatch, lambda: world.appraise(phone, expected))


def test_a_full_list_spoils_the_boot(world, refuses):
    phone = world.launched()
    for number in range(MAX_ENTRIES - len(phone.mtm.measurements.entries)):
        phone.mtm.measure(f"lib/{number}", b"")
    assert phone.mtm.pcr10() == phone.mtm.measurements.replay()
    refuses(Oversize, lambda: phone.mtm.measure("one/more", b""))
    refuses(MeasurementListMismatch, lambda: world.appraise(phone, world.expect(phone, Purpose.LAUNCH)))
    refuses(Oversize, lambda: phone.mtm.measure_checked(PACKAGE + b"!", world.reference()))


def test_clock_runs_on_and_never_back(world, mtm):
    world.clock.at_s += 7
    assert attested(mtm).clock_info.clock_ms == 7000
    world.clock.at_s -= 100
    assert attested(mtm).clock_info.clock_ms == 7000
    world.clock.at_s += 1
    assert attested(mtm).clock_info.clock_ms == 8000


def test_restart_of_the_process_resumes(world, mtm):
    mtm.measure("app/one", PACKAGE)
    kept = mtm.state().to_bytes()
    again = SoftMtm(PrivateKey.from_bytes(SCALAR), world.clock, EngineState.from_bytes(kept))
    assert (again.measurements, again.pcr10()) == (mtm.measurements, mtm.pcr10())
    clock_info = attested(again).clock_info
    assert (clock_info.reset_count, clock_info.restart_count) == (1, 1)
    again.start_engine(COMPONENTS)
    clock_info = attested(again).clock_info
    assert (clock_info.reset_count, clock_info.restart_count) == (2, 0)


def test_a_spoiled_boot_stays_spoiled_over_a_restart(world, mtm, refuses):
    refuses(EvidenceMalformed, lambda: mtm.measure("", b""))
    again = SoftMtm(PrivateKey.from_bytes(SCALAR), world.clock, EngineState.from_bytes(mtm.state().to_bytes()))
    assert again.pcr10() == mtm.pcr10() != again.measurements.replay()


def test_key_is_in_neither_state_nor_repr(mtm):
    assert SCALAR.hex() not in repr(mtm)
    assert mtm.attestation_key.thumbprint.hex()[:8] in repr(mtm)
    assert SCALAR not in mtm.state().to_bytes()


STATE = [1, b"", bytes(32), 1, 2, 3]


@pytest.mark.parametrize(
    "plain",
    [
        {},
        STATE[:-1],
        [*STATE, 0],
        [2, *STATE[1:]],
        [1, "", *STATE[2:]],
        [1, b"", "pcr", 1, 2, 3],
        [1, b"", bytes(31), 1, 2, 3],
        [1, b"", bytes(32), -1, 2, 3],
        [1, b"", bytes(32), 1, 1 << 32, 3],
        [1, b"", bytes(32), 1, 2, 1 << 63],
        [1, b"", bytes(32), True, 2, 3],
    ],
)
def test_state_of_another_form_is_refused(refuses, plain):
    assert EngineState.from_bytes(codec.encode(STATE)).restart_count == 2
    refuses(Malformed, lambda: EngineState.from_bytes(codec.encode(plain)))


def test_damaged_state_is_refused(refuses):
    data = codec.encode(STATE)
    refuses(Malformed, lambda: EngineState.from_bytes(data[:-1]))
    refuses(Malformed, lambda: EngineState.from_bytes(data + b"\0"))
    refuses(Oversize, lambda: EngineState.from_bytes(bytes(MAX_STATE_BYTES + 1)))
    refuses(EvidenceMalformed, lambda: EngineState.from_bytes(codec.encode([1, b"x", *STATE[2:]])))


@given(st.binary(max_size=80))
def test_state_parser_raises_only_refusals(data):
    with contextlib.suppress(ProtocolError):
        EngineState.from_bytes(data)


def test_reference_of_other_software_is_measured_under_its_own_name(world, mtm):
    other = Software.of(PACKAGE, software_id="org.tapveil.other", version="1.0.0")
    assert mtm.measure_checked(PACKAGE, world.reference(other)).path == "app/org.tapveil.other"
