"""Captures: what was written is read, a half record is left out, and only the owner reads the file."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from parties.server.capture import Capture, Captured, read_capture
from protocol.envelope import Wire
from protocol.errors import Malformed, SettingsInvalid


def record(number: int) -> Captured:
    return Captured(
        party="bank-a", rpc="Bank.Challenge", at_ms=number, request=Wire(cose=b"q" * number, session=b"s"),
        reply=Wire(cose=b"r"), code="OK",
    )  # fmt: skip


def test_what_was_added_is_read_in_order_also_over_restarts(tmp_path):
    path = tmp_path / "made" / "capture.log"
    for start in (0, 10):
        capture = Capture(path)
        for number in range(start, start + 10):
            capture.add(record(number))
        capture.close()
    assert list(read_capture(path)) == [record(number) for number in range(20)]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_half_written_last_record_is_left_out(tmp_path):
    path = tmp_path / "capture.log"
    capture = Capture(path)
    capture.add(record(1))
    capture.add(record(2))
    capture.close()
    whole = path.read_bytes()
    first = len(record(1).to_bytes()) + 4
    for cut in range(first, len(whole)):
        path.write_bytes(whole[:cut])
        assert list(read_capture(path)) == [record(1)]


def test_no_file_is_no_record(tmp_path):
    assert list(read_capture(tmp_path / "none")) == []


def test_threads_do_not_mix_their_records(tmp_path):
    path = tmp_path / "capture.log"
    capture = Capture(path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: capture.add(record(n)), range(200)))
    capture.close()
    assert sorted(captured.at_ms for captured in read_capture(path)) == list(range(200))


def test_a_damaged_record_is_malformed(tmp_path):
    path = tmp_path / "capture.log"
    path.write_bytes((3).to_bytes(4) + b"\xff\xff\xff")
    with pytest.raises(Malformed):
        list(read_capture(path))


def test_a_place_that_can_not_be_written_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file/capture.log", tmp_path):
        with pytest.raises(SettingsInvalid, match="can't be written"):
            Capture(path)
