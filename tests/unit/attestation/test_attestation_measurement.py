"""The ima-ng list: kernel vectors, strict parse, replay."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.measurement import (
    MAX_ENTRIES,
    MAX_LIST_BYTES,
    PCR_INITIAL,
    Measurement,
    MeasurementList,
    extend,
)
from protocol.errors import EvidenceMalformed, Oversize, ProtocolError

# A line as a Linux kernel wrote it: it pins the template data independently of this code.
KERNEL_LINES = (
    b"10 bb24b135e1c911c97aad8f1c1863efc08cd44c11 ima-ng "
    b"sha256:d41dd4adacf5a35df426461dd8a92d7bdd5ba29bb61a1c3531bec0ada386f8dd "
    b"/usr/lib/x86_64-linux-gnu/libresolv.so.2",
)
LINE = KERNEL_LINES[0]


def entry(number: int) -> Measurement:
    return Measurement(path=f"lib/{number}", digest=hashlib.sha256(str(number).encode()).digest())


@pytest.mark.parametrize("line", KERNEL_LINES)
def test_kernel_lines_parse_and_come_back(line):
    measurement = Measurement.from_line(line)
    assert measurement.to_line() == line + b"\n"
    assert hashlib.sha1(measurement.template_data, usedforsecurity=False).hexdigest().encode() in line


def test_sha256_bank_is_extended_with_sha256_of_the_template_data():
    one, two = Measurement.from_line(LINE), entry(1)
    expected = bytes(32)
    for measurement in (one, two):
        digest = hashlib.sha256(measurement.template_data).digest()
        assert measurement.template_digest == digest
        expected = hashlib.sha256(expected + digest).digest()
    assert MeasurementList((one, two)).replay() == expected
    assert MeasurementList((two, one)).replay() != expected
    assert MeasurementList((one,)).replay() != expected
    assert MeasurementList().replay() == PCR_INITIAL == bytes(32)


def test_list_round_trip():
    measurements = MeasurementList(tuple(entry(number) for number in range(MAX_ENTRIES)))
    assert MeasurementList.from_bytes(measurements.to_bytes()) == measurements
    assert MeasurementList.from_bytes(b"") == MeasurementList()


def test_longest_list_fits_its_bound():
    # A 255-character path on each of 256 lines.
    entries = tuple(Measurement(path=f"{number:0255}", digest=bytes(32)) for number in range(MAX_ENTRIES))
    data = MeasurementList(entries).to_bytes()
    assert len(data) == MAX_LIST_BYTES
    assert MeasurementList.from_bytes(data).entries == entries


def test_same_path_may_be_listed_again_with_other_content():
    again = Measurement(path=entry(1).path, digest=bytes(32))
    measurements = MeasurementList((entry(1), again))
    assert MeasurementList.from_bytes(measurements.to_bytes()) == measurements
    assert measurements.with_entry(again) is measurements
    assert measurements.with_entry(entry(2)).entries[-1] == entry(2)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"10 bb24", b"11 bb24"),  # another PCR
        (b"10 bb24", b" 10 bb24"),
        (b"bb24b1", b"bb24b2"),  # template digest of other data
        (b"bb24b1", b"BB24B1"),
        (b"bb24b1", b"bb24"),
        (b"ima-ng", b"ima-sig"),
        (b"sha256:", b"sha1:"),
        (b"sha256:d41d", b"sha256:e41d"),  # another file digest under the old template digest
        (b"f8dd ", b"f8dd0 "),
        (b"libresolv.so.2", b"libresolv.so.3"),
        (b"libresolv.so.2", b""),
        (b"libresolv.so.2", b"libre solv.so.2"),
        (b"libresolv.so.2", b"libresolv.so.2 "),
        (b"libresolv.so.2", b"libre\x00olv.so.2"),
        (b"libresolv.so.2", b"libre\xe4olv.so.2"),
        (b"libresolv.so.2", b"libresolv.so.2\r"),
        (b" ima-ng", b"  ima-ng"),
    ],
)
def test_altered_line_is_refused(refuses, old, new):
    assert LINE.count(old) == 1
    assert MeasurementList.from_bytes(LINE + b"\n").entries
    refuses(EvidenceMalformed, lambda: MeasurementList.from_bytes(LINE.replace(old, new) + b"\n"))


def test_every_flipped_bit_of_a_line_is_refused():
    for position in range(len(LINE)):
        for bit in range(8):
            flipped = bytearray(LINE)
            flipped[position] ^= 1 << bit
            with pytest.raises(ProtocolError):
                MeasurementList.from_bytes(bytes(flipped) + b"\n")


@pytest.mark.parametrize(
    "data",
    [
        LINE,
        b"\n",
        LINE + b"\n\n",
        b"\n" + LINE + b"\n",
        LINE + b"\n" + LINE,
        LINE + b"\n" + LINE + b"\n",
        LINE + b"\r\n",
    ],
    ids=["no newline", "empty line", "empty last", "empty first", "last no newline", "duplicate", "carriage return"],
)
def test_list_of_another_form_is_refused(refuses, data):
    refuses(EvidenceMalformed, lambda: MeasurementList.from_bytes(data))


def test_oversize_lists_are_refused(refuses):
    too_many = b"".join(entry(number).to_line() for number in range(MAX_ENTRIES + 1))
    refuses(Oversize, lambda: MeasurementList.from_bytes(too_many))
    refuses(Oversize, lambda: MeasurementList.from_bytes(b"\n" * (MAX_ENTRIES + 1)))
    refuses(Oversize, lambda: MeasurementList.from_bytes(bytes(MAX_LIST_BYTES + 1)))
    full = MeasurementList(tuple(entry(number) for number in range(MAX_ENTRIES)))
    refuses(Oversize, lambda: full.with_entry(entry(MAX_ENTRIES)))


@pytest.mark.parametrize("path", ["", " ", "a b", "a\nb", "ä", "a" * 256, "-a", ".a", "\ud800", "a\0"])
def test_path_that_is_not_allowed_is_refused(refuses, path):
    refuses(EvidenceMalformed, lambda: Measurement(path=path, digest=bytes(32)))
    assert Measurement(path="a" * 255, digest=bytes(32))


@pytest.mark.parametrize("size", [0, 20, 31, 33])
def test_digest_of_another_size_is_refused(refuses, size):
    refuses(EvidenceMalformed, lambda: Measurement(path="a", digest=bytes(size)))


def test_extension_depends_on_the_value_before():
    assert extend(bytes(32), b"\x01" * 32) == hashlib.sha256(bytes(32) + b"\x01" * 32).digest()


@given(st.binary(max_size=300))
def test_parser_raises_only_refusals(data):
    try:
        parsed = MeasurementList.from_bytes(data)
    except ProtocolError:
        return
    assert parsed.to_bytes() == data


@given(st.binary(max_size=40), st.integers(0, len(LINE)), st.integers(0, len(LINE)))
def test_spliced_lines_raise_only_refusals(middle, start, end):
    data = LINE[:start] + middle + LINE[end:] + b"\n"
    try:
        parsed = MeasurementList.from_bytes(data)
    except ProtocolError:
        return
    assert parsed.to_bytes() == data
