"""Reference values and releases: signed, bounded, in force, and of the package at hand."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation import reference as ref
from attestation.measurement import MeasurementList
from attestation.reference import (
    MAX_LIFETIME_S,
    MAX_PACKAGE_BYTES,
    MAX_REFERENCE_BYTES,
    MAX_RELEASE_BYTES,
    Software,
    expected_pcr10,
    sign_reference_values,
    sign_release,
    verify_reference_values,
    verify_release,
)
from protocol import codec, cose
from protocol.errors import (
    EvidenceMalformed,
    Expired,
    LifetimeTooLong,
    Malformed,
    NotYetValid,
    Oversize,
    ProtocolError,
    ReleaseInvalid,
    SignatureInvalid,
    WrongAudience,
    WrongIssuer,
    WrongMessage,
)

NOW_S = 1_800_000_000
PACKAGE = b"PK\x03\x04 the wallet, version 1"


def claims(world, issuer, audience="phones"):
    return cose.Claims(
        issuer=issuer,
        audience=audience,
        issued_at_s=NOW_S,
        expires_at_s=NOW_S + 10,
        nonce=world.entropy.bytes(16),
    )


def values(world, **changes):
    facts = {
        "bank_key": world.bank_key,
        "bank_id": "bank-a",
        "valid_from_s": NOW_S - 10,
        "valid_until_s": NOW_S + 1000,
        "entropy": world.entropy,
    }
    return sign_reference_values(world.software, world.platform, **facts | changes)


def believe(world, data, now_s=NOW_S):
    return verify_reference_values(data, bank_key=world.bank_key.public, bank_id="bank-a", now_s=now_s)


def payload(world, **changes):
    """Reference values of a payload the bank would never make, signed by it all the same."""
    plain = world.software.plain() | {
        "platform": world.platform.to_bytes(),
        "pcr10": expected_pcr10(world.software, world.platform),
    }
    plain = {field: value for field, value in (plain | changes).items() if value is not None}
    return cose.sign(
        world.bank_key, name="reference-values", claims=claims(world, "bank-a"), payload=codec.encode(plain)
    )


def test_reference_values_are_believed(world):
    data = values(world)
    verified = believe(world, data)
    assert (verified.software, verified.platform) == (world.software, world.platform)
    assert verified.pcr10 == MeasurementList((*world.platform.entries, world.software.measurement)).replay()
    assert (verified.valid_from_s, verified.valid_until_s) == (NOW_S - 10, NOW_S + 1000)
    assert verified.wire == data
    assert believe(world, payload(world)).software == world.software


def test_reference_values_of_others_are_refused(world, refuses):
    refuses(SignatureInvalid, lambda: believe(world, values(world, bank_key=world.sp_key)))
    refuses(WrongIssuer, lambda: believe(world, values(world, bank_id="bank-b")))
    release = cose.sign(world.bank_key, name="release", claims=claims(world, "bank-a"), payload=b"\xa0")
    refuses(WrongMessage, lambda: believe(world, release))
    elsewhere = cose.sign(
        world.bank_key, name="reference-values", claims=claims(world, "bank-a", "bank-a"), payload=b"\xa0"
    )
    refuses(WrongAudience, lambda: believe(world, elsewhere))


def test_reference_values_out_of_date_are_refused(world, refuses):
    data = values(world)
    assert believe(world, data, now_s=NOW_S + 1060)
    refuses(Expired, lambda: believe(world, data, now_s=NOW_S + 1061))
    refuses(NotYetValid, lambda: believe(world, data, now_s=NOW_S - 71))
    longest = values(world, valid_until_s=NOW_S - 10 + MAX_LIFETIME_S)
    assert believe(world, longest)
    refuses(LifetimeTooLong, lambda: believe(world, values(world, valid_until_s=NOW_S - 9 + MAX_LIFETIME_S)))


def test_every_flipped_byte_of_reference_values_is_refused(world):
    data = values(world)
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 0x04
        with pytest.raises(ProtocolError):
            believe(world, bytes(flipped))


def test_reference_values_truncated_or_longer_are_refused(world, refuses):
    data = values(world)
    refuses(Malformed, lambda: believe(world, data[:-1]))
    refuses(Malformed, lambda: believe(world, data + b"\0"))
    refuses(Oversize, lambda: believe(world, data + bytes(MAX_REFERENCE_BYTES)))


@pytest.mark.parametrize(
    "changes",
    [
        {"software_id": None},
        {"extra": 1},
        {"software_id": 7},
        {"software_id": "Org.Tapveil"},
        {"software_id": "a" * 65},
        {"software_id": ""},
        {"version": b"1"},
        {"version": ""},
        {"version": "1 0"},
        {"version": "1" * 33},
        {"digest": "text"},
        {"digest": bytes(31)},
        {"size": "1"},
        {"size": True},
        {"size": 0},
        {"size": MAX_PACKAGE_BYTES + 1},
        {"platform": []},
        {"pcr10": bytes(32)},
        {"digest": bytes(32)},  # PCR 10 is not that of this digest
    ],
)
def test_payload_of_another_form_is_refused(world, refuses, changes):
    refuses(Malformed, lambda: believe(world, payload(world, **changes)))


def test_payload_that_is_not_a_map_is_refused(world, refuses):
    data = cose.sign(world.bank_key, name="reference-values", claims=claims(world, "bank-a"), payload=b"\x80")
    refuses(Malformed, lambda: believe(world, data))
    refuses(EvidenceMalformed, lambda: believe(world, payload(world, platform=b"x")))


def test_the_largest_package_is_described(refuses):
    facts = {"software_id": "a", "version": "1", "digest": bytes(32)}
    assert Software(**facts, size=MAX_PACKAGE_BYTES).size == MAX_PACKAGE_BYTES
    refuses(Malformed, lambda: Software.of(b"", software_id="a", version="1"))


# --- release -------------------------------------------------------------------------------------------------------
def manifest(world, software=None, **changes):
    facts = {
        "sp_key": world.sp_key,
        "sp_id": "sp",
        "valid_from_s": NOW_S - 10,
        "valid_until_s": NOW_S + 1000,
        "entropy": world.entropy,
    }
    return sign_release(software or world.software, **facts | changes)


def install(world, data, package=PACKAGE, *, reference=None, now_s=NOW_S):
    """ATT-D0."""
    return verify_release(
        data,
        package,
        sp_key=world.sp_key.public,
        sp_id="sp",
        reference=reference or world.reference(),
        now_s=now_s,
    )


def test_release_is_accepted(world):
    data = manifest(world)
    release = install(world, data)
    assert (release.software, release.package, release.wire) == (world.software, PACKAGE, data)


def test_one_changed_byte_of_the_package_is_refused(world, refuses):
    data = manifest(world)
    for position in range(len(PACKAGE)):
        changed = bytearray(PACKAGE)
        changed[position] ^= 1
        refuses(ReleaseInvalid, lambda: install(world, data, bytes(changed)))  # noqa: B023
    refuses(ReleaseInvalid, lambda: install(world, data, PACKAGE[:-1]))
    refuses(ReleaseInvalid, lambda: install(world, data, PACKAGE + b"\0"))
    refuses(ReleaseInvalid, lambda: install(world, data, b""))


def test_manifest_of_a_wrong_size_is_refused(world, refuses):
    # The fingerprint is right, the size is not.
    software = replace(world.software, size=world.software.size + 1)
    refuses(ReleaseInvalid, lambda: install(world, manifest(world, software), reference=world.reference(software)))


def test_manifest_of_others_is_refused(world, refuses):
    refuses(ReleaseInvalid, lambda: install(world, manifest(world, sp_key=world.bank_key)))
    refuses(ReleaseInvalid, lambda: install(world, manifest(world, sp_id="other")))
    refuses(ReleaseInvalid, lambda: install(world, values(world, bank_key=world.sp_key, bank_id="sp")))
    elsewhere = cose.sign(
        world.sp_key,
        name="release",
        claims=claims(world, "sp", "bank-a"),
        payload=codec.encode(world.software.plain()),
    )
    refuses(ReleaseInvalid, lambda: install(world, elsewhere))
    broken = cose.sign(world.sp_key, name="release", claims=claims(world, "sp"), payload=b"\xa0")
    refuses(ReleaseInvalid, lambda: install(world, broken))


def test_damaged_manifest_is_refused(world, refuses):
    data = manifest(world)
    refuses(ReleaseInvalid, lambda: install(world, data[:-1]))
    refuses(ReleaseInvalid, lambda: install(world, data + b"\0"))
    refuses(ReleaseInvalid, lambda: install(world, data[:-1] + bytes([data[-1] ^ 1])))
    refuses(ReleaseInvalid, lambda: install(world, b""))
    refuses(Oversize, lambda: install(world, data + bytes(MAX_RELEASE_BYTES)))


def test_version_the_bank_did_not_vouch_for_is_refused(world, refuses):
    newer = Software.of(PACKAGE + b"!", software_id=world.software.software_id, version="1.0.1")
    data = manifest(world, newer)
    refuses(ReleaseInvalid, lambda: install(world, data, PACKAGE + b"!"))
    assert install(world, data, PACKAGE + b"!", reference=world.reference(newer)).software == newer
    relabeled = replace(world.software, version="9.9.9")
    refuses(ReleaseInvalid, lambda: install(world, manifest(world, relabeled)))


def test_manifest_out_of_date_is_told_apart(world, refuses):
    data = manifest(world)
    refuses(Expired, lambda: install(world, data, now_s=NOW_S + 1061))
    refuses(NotYetValid, lambda: install(world, data, now_s=NOW_S - 71))
    too_long = manifest(world, valid_until_s=NOW_S + MAX_LIFETIME_S)
    refuses(LifetimeTooLong, lambda: install(world, too_long))


@given(
    st.dictionaries(
        st.sampled_from(["software_id", "version", "digest", "size"]),
        st.integers() | st.text() | st.binary(),
        min_size=4,
    )
)
def test_software_parser_raises_only_refusals(plain):
    with contextlib.suppress(ProtocolError):
        ref.Software(**plain)
