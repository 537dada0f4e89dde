"""Whatever a reader sends, the applet answers with a status word, gives nothing away, and takes the next tap."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from protocol.card import profile
from protocol.card.apdu import MAX_RESPONSE_BYTES, Response, Sw
from protocol.card.applet import Applet
from protocol.card.profile import Channel

pytestmark = pytest.mark.filterwarnings("ignore:.*TripleDES.*")

STATUS_WORDS = {int(word) for word in Sw}
NAMES = [b"1PAY.SYS.DDF01", b"2PAY.SYS.DDF01", profile.AID, profile.RID]
PDOL_DATA = bytes.fromhex("000000012345 0901") + b"MERCHANT0000001TERM0001".ljust(63, b"\0") + b"\xde\xad\xbe\xef"
CDOL1_DATA = (
    bytes.fromhex("000000012345 000000000000 0158 0000000000 0901 261120 00 DEADBEEF 22 1F0002")
    + b"MERCHANT0000001TERM0001"
)


def generate(p1: int) -> bytes:
    return bytes((0x80, 0xAE, p1, 0, len(CDOL1_DATA))) + CDOL1_DATA


SELECT = [bytes((0x00, 0xA4, 4, 0, len(name))) + name for name in NAMES]
OPTIONS = bytes((0x80, 0xA8, 0, 0, 0x4D, 0x83, 0x4B)) + PDOL_DATA
RIGHT = [
    *SELECT,
    OPTIONS,
    *(bytes((0x00, 0xB2, number, sfi << 3 | 4, 0)) for sfi, number in ((2, 1), (1, 1), (1, 2), (1, 3), (1, 4))),
    bytes((0x00, 0x88, 0, 0, 4)) + b"\xde\xad\xbe\xef",
    *(generate(p1) for p1 in (0x00, 0x10, 0x40, 0x50, 0x80, 0x90)),
    bytes((0x80, 0xAE, 0x40, 0, 21)) + b"00" + bytes(8) + b"00" + bytes(5) + b"\xde\xad\xbe\xef",
    *(bytes((0x80, 0xCA, 0x9F, low, 0)) for low in (0x36, 0x17, 0x13)),
    bytes((0x00, 0x20, 0, 0x80, 8)) + bytes.fromhex("241234FFFFFFFFFF"),
    bytes((0x00, 0x82, 0, 0, 10)) + bytes(10),
]
STARTS = [[], [SELECT[0]], [SELECT[2]], [SELECT[2], OPTIONS], [SELECT[2], OPTIONS, generate(0x80)]]
"""So that each state of a session meets whatever comes."""
BOMBS = [
    b"\x6f\x7f" * 127,
    b"\x83\x84\xff\xff\xff\xff" + bytes(200),
    b"\x83\x80" + b"\x30\x80" * 100,
    b"\x1f" + b"\x9f" * 200,
    b"\xff" * 255,
    bytes(255),
    b"\x83\x81\x4b" + bytes(75),
]

altered = st.builds(
    lambda raw, at, value: raw[: at % len(raw)] + bytes([value]) + raw[at % len(raw) + 1 :],
    st.sampled_from(RIGHT), st.integers(0, 255), st.integers(0, 255),
)  # fmt: skip
resized = st.builds(
    lambda raw, keep, more: raw[:keep] + more, st.sampled_from(RIGHT), st.integers(0, 90), st.binary(max_size=4)
)
bombs = st.builds(
    lambda cla, ins, p2, bomb: bytes((cla, ins, 0, p2, len(bomb))) + bomb,
    st.sampled_from((0x00, 0x80)), st.sampled_from((0xA4, 0xA8, 0xAE, 0x88, 0xB2, 0x20)),
    st.sampled_from((0x00, 0x14)), st.sampled_from(BOMBS),
)  # fmt: skip
anything = st.lists(
    st.one_of(st.sampled_from(RIGHT), st.sampled_from(RIGHT), altered, resized, bombs, st.binary(max_size=300)),
    max_size=12,
)
"""Commands in any order: right, altered, cut short, run on, overfilled, and plain noise."""


def holds_card_data(answer: Response) -> bool:
    """Is it a record (but the directory's), a signature or a cryptogram?"""
    record = answer.data[:1] == b"\x70" and answer.data[2:3] != b"\x61"
    return record or b"\x9f\x27\x01" in answer.data[:8] or b"\x9f\x4b\x81" in answer.data[:8]


def take_next_tap(reader: Any) -> None:
    """From PPSE to a signed ARQC: nothing before stands in the way."""
    assert reader.select(b"2PAY.SYS.DDF01").ok
    assert reader.load().ok
    assert all(reader.record(*place).ok for place in ((2, 1), (1, 1), (1, 2), (1, 3)))
    assert reader.objects(reader.first())[0x9F27] == b"\x80"


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(STARTS), anything, st.booleans())
@example(STARTS[-1], [], False)
def test_any_commands_in_any_order(holder, entropy, reader, start, commands, torn) -> None:
    holder.calls.clear()
    applet = Applet(holder, entropy, channel=Channel.CONTACTLESS)
    for command in start + commands:
        raw = applet.process(command)
        assert 2 <= len(raw) <= MAX_RESPONSE_BYTES
        answer = Response.from_bytes(raw)
        assert answer.sw in STATUS_WORDS
        assert answer.ok or not answer.data
        if holds_card_data(answer):
            # Nothing of a card leaves before it is spent.
            assert "spend" in holder.calls[len(holder.calls) - 1 - holder.calls[::-1].index("offer") :]
        # No approval without the issuer's.
        assert b"\x9f\x27\x01\x40" not in answer.data
    # Each offer is spent at most once.
    assert holder.calls.count("spend") <= holder.calls.count("offer")
    if torn:
        applet.reset()
    take_next_tap(replace(reader, process=applet.process))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(STARTS), anything)
def test_a_closed_phone_gives_only_refusals(holder, entropy, start, commands) -> None:
    holder.open = False
    holder.calls.clear()
    applet = Applet(holder, entropy, channel=Channel.CONTACT)
    for command in start + commands:
        assert applet.process(command).hex() in {"6700", "6985", "6a82"}
    assert set(holder.calls) <= {"is_open"}


def test_the_commands_that_are_varied_are_right_ones(reader) -> None:
    # Otherwise the tests above would only ever see refusals.
    answers = [Response.from_bytes(reader.process(command)) for command in STARTS[-1]]
    assert all(answer.ok for answer in answers)
    assert reader.objects(answers[-1])[0x9F27] == b"\x80"
    assert [holds_card_data(answer) for answer in answers] == [False, False, True]
