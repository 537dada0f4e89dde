"""The phone at a reader: one terminal at a time, APDUs carried and bounded, and an end in every case."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import grpc
import pytest

from parties.apdus import MAX_APDUS
from parties.channels import ApduStream, refusal_of
from parties.settings import loopback
from parties.wallet.nfc import MAX_MESSAGE_BYTES, Meeting, hold
from protocol.errors import Malformed, Overloaded, Oversize, PortInUse, ProtocolError, SettingsInvalid, Unavailable

SELECT = bytes.fromhex("00A404000E325041592E5359532E444446303100")
GENERATE_AC = bytes.fromhex("80AE900002000000")
OK = b"\x90\x00"
ALONE = Meeting(talked=False, cryptogram=False)
TORN = Meeting(talked=True, cryptogram=False)
DONE = Meeting(talked=True, cryptogram=True)


class Element:
    """The SE behind the phone: answers with what it was asked, and keeps when the field came and went."""

    def __init__(self, answer: bytes | ProtocolError | None = None) -> None:
        self.events: list[str] = []
        self.asked: list[bytes] = []
        self._answer = answer

    def __call__(self) -> Element:
        self.events.append("field")
        return self

    def transmit(self, command: bytes) -> bytes:
        self.asked.append(command)
        if isinstance(self._answer, ProtocolError):
            raise self._answer
        return command[:256] + OK if self._answer is None else self._answer

    def close(self) -> None:
        self.events.append("lost")


@pytest.fixture
def reader() -> str:
    """An address of this machine at which nobody is."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"


@contextlib.contextmanager
def held(reader: str, element: Element, seconds: float = 8) -> Iterator[Future[Meeting]]:
    """A phone that is being held to the reader; its meeting is in the future."""
    stopped = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        meeting = pool.submit(hold, reader, element, seconds, stopped=stopped)
        try:
            yield meeting
        finally:
            stopped.set()


@contextlib.contextmanager
def terminal(reader: str) -> Iterator[ApduStream]:
    with grpc.insecure_channel(reader, options=(("grpc.use_local_subchannel_pool", 1),)) as channel:
        grpc.channel_ready_future(channel).result(timeout=5)
        stream = ApduStream(channel, deadline_s=8)
        yield stream
        stream.close()


def test_a_tap_is_carried_both_ways_until_the_terminal_is_done(reader):
    element = Element()
    with held(reader, element) as meeting:
        with terminal(reader) as stream:
            assert stream.transmit(SELECT) == SELECT + OK
            assert stream.transmit(b"") == OK
            assert stream.transmit(bytes(261)) == bytes(256) + OK
            assert stream.transmit(GENERATE_AC) == GENERATE_AC + OK
        assert meeting.result(timeout=5) == DONE
    assert element.asked == [SELECT, b"", bytes(261), GENERATE_AC]
    assert element.events == ["field", "lost"]


@pytest.mark.parametrize(
    ("command", "answer"), [(GENERATE_AC, b"\x69\x85"), (SELECT, OK), (GENERATE_AC, b"\x90"), (b"\x80\xae", OK)]
)
def test_no_cryptogram_no_completed_tap(reader, command, answer):
    with held(reader, Element(answer)) as meeting:
        with terminal(reader) as stream:
            assert stream.transmit(command) == answer
        assert meeting.result(timeout=5) == TORN


def test_a_terminal_that_vanishes_tears_the_tap_and_closes_the_field(reader):
    element = Element()
    with held(reader, element) as meeting:
        with terminal(reader) as stream:
            stream.transmit(SELECT)
            stream._answers.cancel()  # as a process that ends
        assert meeting.result(timeout=5) == TORN
    assert element.events == ["field", "lost"]


def test_one_stay_serves_one_terminal(reader):
    element = Element()
    with held(reader, element) as meeting:
        with terminal(reader) as first, terminal(reader) as second:
            first.transmit(SELECT)
            with pytest.raises(Overloaded) as refused:
                second.transmit(GENERATE_AC)
            assert refused.value.code == "OVERLOADED"
            assert first.transmit(SELECT) == SELECT + OK
        assert meeting.result(timeout=5) == TORN
    assert element.asked == [SELECT, SELECT]


def test_who_only_looks_takes_nothing(reader):
    element = Element()
    with held(reader, element) as meeting:
        with terminal(reader):
            pass
        assert ask_when_free(reader, GENERATE_AC) == GENERATE_AC + OK
        assert meeting.result(timeout=5) == DONE
    assert element.events == ["field", "lost"]


def ask_when_free(reader: str, command: bytes) -> bytes:
    """The answer to one command; another terminal's stay may still be ending."""
    until_s = time.monotonic() + 5
    while True:
        with terminal(reader) as stream:
            try:
                return stream.transmit(command)
            except Overloaded:
                assert time.monotonic() < until_s


def test_a_command_too_long_for_a_card_ends_the_field(reader):
    element = Element()
    with held(reader, element) as meeting:
        with terminal(reader) as stream:
            stream.transmit(SELECT)
            with pytest.raises(Oversize) as refused:
                stream.transmit(bytes(262))
            assert refused.value.code == "OVERSIZE"
        assert meeting.result(timeout=5) == TORN
    assert element.asked == [SELECT]


def test_a_message_too_long_for_the_wire_is_not_even_read(reader):
    element = Element()
    with held(reader, element) as meeting:
        with terminal(reader) as stream:
            stream.transmit(SELECT)
            with pytest.raises(Unavailable):
                stream.transmit(bytes(MAX_MESSAGE_BYTES + 1))
        assert meeting.result(timeout=5) == TORN
    assert element.asked == [SELECT]


def test_an_answer_too_long_for_a_card_does_not_get_out(reader):
    with held(reader, Element(bytes(259))) as meeting:
        with terminal(reader) as stream, pytest.raises(Oversize):
            stream.transmit(SELECT)
        assert meeting.result(timeout=5) == TORN


def test_a_stay_has_so_many_commands_and_no_more(reader):
    element = Element()
    with held(reader, element) as meeting:
        with terminal(reader) as stream:
            for _ in range(MAX_APDUS):
                stream.transmit(SELECT)
            with pytest.raises(Oversize):
                stream.transmit(SELECT)
        assert meeting.result(timeout=5) == TORN
    assert len(element.asked) == MAX_APDUS


def test_bytes_that_are_no_message_end_the_field(reader):
    element = Element()
    with held(reader, element) as meeting:
        with grpc.insecure_channel(reader) as channel:
            grpc.channel_ready_future(channel).result(timeout=5)
            raw = channel.stream_stream("/tapveil.v1.SecureElement/Transceive")
            with pytest.raises(grpc.RpcError) as ended:
                list(raw(iter([b"\xff\xff"]), timeout=5))
            assert type(refusal_of(ended.value)) is Malformed
        assert ask_when_free(reader, GENERATE_AC) == GENERATE_AC + OK
        assert meeting.result(timeout=5) == DONE
    assert element.asked == [GENERATE_AC]


@pytest.mark.parametrize("refusal", [Unavailable("gone"), Overloaded(), Oversize()])
def test_an_element_that_fails_tears_the_tap(reader, refusal):
    element = Element(refusal)
    with held(reader, element) as meeting:
        with terminal(reader) as stream:
            with pytest.raises(type(refusal)) as refused:
                stream.transmit(GENERATE_AC)
            assert refused.value.code == refusal.code
        assert meeting.result(timeout=5) == TORN
    assert element.events == ["field", "lost"]


def test_nobody_comes(reader):
    started_s = time.monotonic()
    element = Element()
    assert hold(reader, element, 0.2, stopped=threading.Event()) == ALONE
    assert 0.2 <= time.monotonic() - started_s < 2
    assert element.events == []


def test_the_person_takes_the_phone_away(reader):
    stopped = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        meeting = pool.submit(hold, reader, Element(), 30, stopped=stopped)
        stopped.set()
        assert meeting.result(timeout=5) == ALONE


def test_a_tap_under_way_when_time_is_over_may_finish(reader):
    with held(reader, Element(), seconds=3) as meeting:
        with terminal(reader) as stream:
            stream.transmit(SELECT)
            time.sleep(3.2)
            assert stream.transmit(GENERATE_AC) == GENERATE_AC + OK
        assert meeting.result(timeout=5) == DONE


def test_two_phones_can_not_be_at_one_reader(reader):
    with held(reader, Element()) as meeting:
        with terminal(reader) as stream:
            with pytest.raises(PortInUse, match="another phone is at this reader") as refused:
                hold(reader, Element(), 5, stopped=threading.Event())
            assert refused.value.code == "PORT_IN_USE"
            stream.transmit(GENERATE_AC)  # and the first one is not disturbed
        assert meeting.result(timeout=5) == DONE


def test_a_phone_is_held_on_again_at_once(reader):
    for _ in range(3):
        with held(reader, Element()) as meeting:
            with terminal(reader) as stream:
                stream.transmit(SELECT)
            assert meeting.result(timeout=5) == TORN


@pytest.mark.parametrize("reader", ["127.0.0.1:4000", "127.1.2.3:1", "[::1]:65535", "localhost:4000"])
def test_readers_of_this_machine(reader):
    assert loopback(reader) == reader


@pytest.mark.parametrize(
    "reader",
    ["", ":4000", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:-1", "0.0.0.0:4000",
     "192.0.2.1:4000", "[::]:4000", "shop.example:4000", "localhost.example:4000", "unix:/run/reader:1"],
)  # fmt: skip
def test_no_card_number_goes_to_another_machine(reader):
    with pytest.raises(SettingsInvalid) as refused:
        hold(reader, Element(), 1, stopped=threading.Event())
    assert refused.value.code == "SETTINGS_INVALID"
