"""Qualifying data: every field counts, and sizes are enforced."""

from __future__ import annotations

import hashlib

import cbor2
import pytest

from attestation.qualification import qualifying_data
from protocol.errors import EvidenceMalformed
from protocol.types import Purpose

KEY = b"\x04" + bytes(64)
LAUNCH = {
    "purpose": Purpose.LAUNCH,
    "bank_id": "bank-a",
    "user_id": "alice",
    "software_id": "org.tapveil.wallet",
    "n_am": b"\x01" * 32,
    "n_b": b"\x02" * 32,
}
ACCOUNT = LAUNCH | {"purpose": Purpose.ACCOUNT, "requested_key": KEY}


def test_it_is_sha256_over_the_encoded_fields():
    fields = ["launch", "bank-a", "alice", "org.tapveil.wallet", b"\x01" * 32, b"\x02" * 32, b""]
    assert qualifying_data(**LAUNCH) == hashlib.sha256(cbor2.dumps(fields)).digest()
    fields[0], fields[-1] = "account", KEY
    assert qualifying_data(**ACCOUNT) == hashlib.sha256(cbor2.dumps(fields)).digest()


def test_every_field_counts():
    others = {
        "purpose": Purpose.REPORT,
        "bank_id": "bank-b",
        "user_id": "bob",
        "software_id": "org.tapveil.other",
        "n_am": b"\x03" * 32,
        "n_b": b"\x03" * 32,
    }
    values = {qualifying_data(**LAUNCH | {field: value}) for field, value in others.items()}
    values.add(qualifying_data(**ACCOUNT))
    values.add(qualifying_data(**ACCOUNT | {"requested_key": b"\x04" + b"\x01" * 64}))
    values.add(qualifying_data(**LAUNCH | {"n_am": LAUNCH["n_b"], "n_b": LAUNCH["n_am"]}))
    values.add(qualifying_data(**LAUNCH | {"bank_id": "alice", "user_id": "bank-a"}))
    assert qualifying_data(**LAUNCH) not in values
    assert len(values) == len(others) + 4


@pytest.mark.parametrize(
    "change",
    [
        {"n_am": b"\x01" * 31},
        {"n_am": b""},
        {"n_b": b"\x02" * 33},
        {"bank_id": ""},
        {"bank_id": "b" * 65},
        {"user_id": ""},
        {"user_id": "u" * 65},
        {"software_id": ""},
        {"software_id": "s" * 65},
        {"purpose": Purpose.ENROLL},  # no software is named at INIT
        {"requested_key": KEY},  # no key is certified at launch
        {"purpose": Purpose.ACCOUNT},  # and one has to be here
        {"purpose": Purpose.ACCOUNT, "requested_key": KEY[:-1]},
    ],
)
def test_fields_that_do_not_fit_are_refused(refuses, change):
    assert len(qualifying_data(**LAUNCH)) == 32
    refuses(EvidenceMalformed, lambda: qualifying_data(**LAUNCH | change))


def test_enrolling_names_no_software():
    assert len(qualifying_data(**LAUNCH | {"purpose": Purpose.ENROLL, "software_id": ""})) == 32
