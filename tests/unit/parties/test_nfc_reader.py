"""The merchant's reader over gRPC: phones come and go, and one that keeps silent has left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from parties.links import nfc
from parties.links.nfc import GrpcLink, GrpcReader, PcscReader, open_reader
from parties.rpc.secure_element_pb2 import Apdu
from protocol.card.outcome import CardLost
from protocol.errors import SettingsInvalid, Unavailable

Answers = Callable[[Iterator[Apdu], grpc.ServicerContext], Iterator[Apdu]]
SELECT, OK = bytes.fromhex("00A40400"), b"\x90\x00"


def echo(commands: Iterator[Apdu], context: grpc.ServicerContext) -> Iterator[Apdu]:
    for command in commands:
        yield Apdu(data=command.data + OK)


def leaves_after_one(commands: Iterator[Apdu], context: grpc.ServicerContext) -> Iterator[Apdu]:
    yield Apdu(data=next(commands).data + OK)


def silent(commands: Iterator[Apdu], context: grpc.ServicerContext) -> Iterator[Apdu]:
    yield from (Apdu() for command in commands if not command.data)


def huge(commands: Iterator[Apdu], context: grpc.ServicerContext) -> Iterator[Apdu]:
    yield Apdu(data=bytes(len(next(commands).data) * 100_000))


class Phone:
    """Held to the reader: listens on the reader's address, without TLS."""

    def __init__(self, answers: Answers, address: str = "127.0.0.1:0") -> None:
        handler = grpc.stream_stream_rpc_method_handler(
            answers, request_deserializer=Apdu.FromString, response_serializer=Apdu.SerializeToString
        )
        service = grpc.method_handlers_generic_handler("tapveil.v1.SecureElement", {"Transceive": handler})
        self.server = grpc.server(ThreadPoolExecutor(4), options=(("grpc.so_reuseport", 0),))
        self.server.add_generic_rpc_handlers((service,))
        self.address = f"127.0.0.1:{self.server.add_insecure_port(address)}"
        self.server.start()

    def leave(self) -> None:
        self.server.stop(None).wait()


@pytest.fixture
def hold() -> Iterator[Callable[..., Phone]]:
    phones: list[Phone] = []

    def held(answers: Answers = echo, address: str = "127.0.0.1:0") -> Phone:
        phones.append(Phone(answers, address))
        return phones[-1]

    yield held
    for phone in phones:
        phone.leave()


@pytest.fixture
def reader_at() -> Iterator[Callable[[Phone], GrpcReader]]:
    readers: list[GrpcReader] = []

    def at(phone: Phone) -> GrpcReader:
        readers.append(GrpcReader(phone.address))
        return readers[-1]

    yield at
    for reader in readers:
        reader.close()
        reader.close()


def card(reader: GrpcReader, timeout_s: float = 5) -> GrpcLink:
    link = reader.wait_for_card(timeout_s)
    assert link is not None
    return link


def test_commands_are_answered_in_order(hold: Callable[..., Phone], reader_at: Callable[[Phone], GrpcReader]) -> None:
    link = card(reader_at(hold()))
    for number in range(20):
        command = SELECT + bytes([number])
        assert link.transmit(command) == command + OK
    link.close()
    link.close()
    with pytest.raises(CardLost):
        link.transmit(SELECT)


def test_nobody_is_there_and_then_somebody_is(
    hold: Callable[..., Phone], reader_at: Callable[[Phone], GrpcReader]
) -> None:
    phone = hold()
    reader = reader_at(phone)
    link = card(reader)
    assert link.transmit(SELECT) == SELECT + OK
    phone.leave()
    with pytest.raises(CardLost):
        link.transmit(SELECT)
    started = time.monotonic()
    assert reader.wait_for_card(0.2) is None
    assert time.monotonic() - started < 1
    hold(echo, phone.address)
    started = time.monotonic()
    again = card(reader)
    assert again.transmit(SELECT) == SELECT + OK
    assert time.monotonic() - started < 2  # long before gRPC's own pauses
    again.close()
    hold_no_more(reader)


def hold_no_more(reader: GrpcReader) -> None:
    """A reader that is closed while it looks for phones lets its address go."""
    nobody = GrpcReader("127.0.0.1:1")
    assert nobody.wait_for_card(0.05) is None
    nobody.close()
    assert nobody.wait_for_card(0.05) is None  # and may be used again
    nobody.close()
    reader.close()


@pytest.mark.parametrize("answers", [leaves_after_one, huge])
def test_a_stream_that_ends_is_a_card_that_left(
    hold: Callable[..., Phone], reader_at: Callable[[Phone], GrpcReader], answers: Answers
) -> None:
    link = card(reader_at(hold(answers)))
    if answers is leaves_after_one:
        assert link.transmit(SELECT) == SELECT + OK
    for _ in range(2):
        with pytest.raises(CardLost):
            link.transmit(SELECT)


def test_a_phone_that_keeps_silent_has_left(
    hold: Callable[..., Phone], reader_at: Callable[[Phone], GrpcReader]
) -> None:
    link = card(reader_at(hold(silent)))
    started = time.monotonic()
    with pytest.raises(CardLost):
        link.transmit(SELECT)
    assert nfc.APDU_S <= time.monotonic() - started < nfc.APDU_S + 1
    with pytest.raises(CardLost):
        link.transmit(SELECT)
    assert time.monotonic() - started < nfc.APDU_S + 1  # it is not asked again


def test_another_server_on_the_address_is_no_phone(reader_at: Callable[[Phone], GrpcReader]) -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    reader = GrpcReader(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
    server.start()
    link = card(reader)
    with pytest.raises(CardLost):
        link.transmit(SELECT)
    reader.close()
    server.stop(None).wait()


def test_readers_by_their_names() -> None:
    assert isinstance(open_reader("grpc:127.0.0.1:7410"), GrpcReader)
    assert isinstance(open_reader("pcsc:ACME Reader: 00 00"), PcscReader)
    for text in ("", "grpc", "grpc:", "grpc:127.0.0.1", "grpc::7410", "grpc:host:0", "grpc:host:65536", "grpc:host:٣",
                 "grpc:192.0.2.7:7410", "pcsc", "pcsc:", "usb:1"):  # fmt: skip
        with pytest.raises(SettingsInvalid) as caught:
            open_reader(text)
        assert caught.value.code == "SETTINGS_INVALID"


class Slot:
    """A reader whose card is there from the n-th look on."""

    def __init__(self, there_at: int) -> None:
        self.there_at, self.looks = there_at, 0

    def __call__(self, name: str) -> Slot:
        assert name == "ACME 00"
        self.looks += 1
        if self.looks < self.there_at:
            raise CardLost
        return self

    def transmit(self, command: bytes, /) -> bytes:
        return command + OK

    def close(self) -> None:
        pass


def test_a_card_is_looked_for_until_the_time_is_over() -> None:
    slot = Slot(there_at=3)
    reader = PcscReader("ACME 00", slot)
    assert reader.wait_for_card(0) is None
    assert slot.looks == 1
    assert reader.wait_for_card(5) is slot
    assert slot.looks == 3
    reader.close()


def test_without_pc_sc_the_reader_says_what_is_missing() -> None:
    with pytest.raises((SettingsInvalid, Unavailable)) as caught:
        PcscReader("no such reader").wait_for_card(0)
    assert caught.value.code in ("SETTINGS_INVALID", "UNAVAILABLE")
