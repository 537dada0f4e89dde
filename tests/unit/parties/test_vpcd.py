"""The card's side of the virtual smart card protocol, against a driver in this process."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from parties.links.vpcd import ATR, DEFAULT_PORT, VpcdLink, parse_address
from protocol.errors import SettingsInvalid

OFF, ON, RESET, GET_ATR = b"\x00", b"\x01", b"\x02", b"\x04"
WRONG_LENGTH = b"\x67\x00"
SOON_S = 1.0


@dataclass
class Card:
    """Answers with the command and 9000, and notes what it is told."""

    commands: list[bytes] = field(default_factory=list)
    resets: int = 0
    tail: bytes = b"\x90\x00"
    takes_s: float = 0.0

    def process(self, command: bytes) -> bytes:
        time.sleep(self.takes_s)
        self.commands.append(command)
        return command + self.tail

    def reset(self) -> None:
        self.resets += 1


class Driver:
    """vpcd's side: it listens, and talks to the card that connects."""

    def __init__(self) -> None:
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.settimeout(5)
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.card = socket.socket()

    def listen(self, backlog: int = 1) -> None:
        self.listener.listen(backlog)

    def accept(self) -> None:
        self.card.close()
        self.card, _ = self.listener.accept()
        self.card.settimeout(5)

    def send(self, message: bytes) -> None:
        # As the driver does it: two writes, with the kernel's usual gathering.
        self.card.sendall(len(message).to_bytes(2, "big"))
        self.card.sendall(message)

    def receive(self) -> bytes:
        length = int.from_bytes(self._read(2), "big")
        return self._read(length)

    def _read(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            part = self.card.recv(length - len(data))
            assert part, "card hung up"
            data += part
        return data

    def exchange(self, message: bytes) -> bytes:
        self.send(message)
        return self.receive()

    def hung_up(self) -> bool:
        try:
            return self.card.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.card.close()
        self.listener.close()


@pytest.fixture
def driver() -> Iterator[Driver]:
    driver = Driver()
    yield driver
    driver.close()


@pytest.fixture
def inserted(driver: Driver) -> Iterator[list[Card]]:
    """The cards that a link made so far; the driver is connected with the first."""
    made: list[Card] = []

    def make() -> Card:
        made.append(Card())
        return made[-1]

    driver.listen()
    with VpcdLink(driver.address, make, patience_s=0.2):
        driver.accept()
        yield made


def took(action: Callable[[], object]) -> float:
    start = time.monotonic()
    action()
    return time.monotonic() - start


def test_driver_gets_atr_and_answers(driver: Driver, inserted: list[Card]) -> None:
    assert driver.exchange(GET_ATR) == ATR == bytes.fromhex("3B80800101")
    for order in (ON, RESET, OFF):
        driver.send(order)
    assert driver.exchange(b"\x00\xa4\x04\x00") == b"\x00\xa4\x04\x00\x90\x00"
    assert inserted[0].resets == 3
    assert inserted[0].commands == [b"\x00\xa4\x04\x00"]


def test_longest_command_reaches_the_card_and_a_longer_one_is_refused_without_it(
    driver: Driver, inserted: list[Card]
) -> None:
    longest = bytes(261)
    assert driver.exchange(longest) == longest + b"\x90\x00"
    for length in (262, 65_535):
        assert driver.exchange(bytes(length)) == WRONG_LENGTH
    assert inserted[0].commands == [longest]
    assert driver.exchange(b"again") == b"again\x90\x00"


def test_message_in_single_bytes(driver: Driver, inserted: list[Card]) -> None:
    for byte in b"\x00\x05hello":
        driver.card.sendall(bytes([byte]))
        time.sleep(0.002)
    assert driver.receive() == b"hello\x90\x00"


@pytest.mark.parametrize(
    "garbage", [b"\x00\x00", b"\x00\x01\x03", b"\x00\x01\xff", b"GET / HTTP/1.1\r\n\r\n", b"\x00", b"\x00\x09half"]
)
def test_garbage_ends_the_connection_and_the_next_one_has_a_new_card(
    driver: Driver, inserted: list[Card], garbage: bytes
) -> None:
    """The last three are begun and not gone on with: nobody waits for the rest for long."""
    driver.card.sendall(garbage)
    assert driver.hung_up()
    assert (inserted[0].resets, inserted[0].commands) == (1, [])
    driver.accept()
    assert driver.exchange(b"hello") == b"hello\x90\x00"
    assert len(inserted) == 2


def test_driver_that_goes_away_is_connected_again(driver: Driver, inserted: list[Card]) -> None:
    for turn in range(3):
        assert driver.exchange(GET_ATR) == ATR
        driver.card.close()
        assert took(driver.accept) < SOON_S
        assert [card.resets for card in inserted[: turn + 1]] == [1] * (turn + 1)


def test_driver_that_only_hangs_up_is_not_hurried(driver: Driver, inserted: list[Card]) -> None:
    waits = []
    for _ in range(4):
        driver.card.close()
        waits.append(took(driver.accept))
    assert waits[-1] > 4 * waits[0]
    assert waits[-1] < 2


def test_driver_that_is_not_there_yet(driver: Driver) -> None:
    with VpcdLink(driver.address, Card):
        time.sleep(0.3)
        driver.listen()
        driver.accept()
        assert driver.exchange(GET_ATR) == ATR


def test_no_exchange_waits_for_a_delayed_acknowledgment(driver: Driver, inserted: list[Card]) -> None:
    assert took(lambda: [driver.exchange(b"hello") for _ in range(50)]) < 50 * 0.020


def test_host_that_is_not_known_is_tried_again_until_told_to_stop() -> None:
    made: list[Card] = []
    link = VpcdLink("no-such-host.invalid", lambda: made.append(Card()) or made[-1])
    link.start()
    time.sleep(0.2)
    assert took(link.close) < SOON_S
    assert made == []


def test_another_answer_to_reset(driver: Driver) -> None:
    driver.listen()
    with VpcdLink(driver.address, Card, atr=b"\x3b\x00"):
        driver.accept()
        assert driver.exchange(GET_ATR) == b"\x3b\x00"


def test_stops_at_once_idle_and_within_a_message(driver: Driver) -> None:
    driver.listen()
    for begun in (b"", b"\x00", b"\x00\x09half"):
        card = Card()
        link = VpcdLink(driver.address, lambda card=card: card)
        link.start()
        driver.accept()
        driver.card.sendall(begun)
        time.sleep(0.05)
        assert took(link.close) < SOON_S
        assert driver.hung_up()
        assert (card.resets, card.commands) == (1, [])


def test_stops_at_once_while_nobody_takes_its_answers(driver: Driver) -> None:
    driver.listen()
    link = VpcdLink(driver.address, lambda: Card(tail=bytes(60_000)))
    link.start()
    driver.accept()
    driver.card.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            driver.card.send(b"\x00\x05hello" * 100)
    assert took(link.close) < SOON_S


def test_stops_at_once_with_commands_still_to_answer(driver: Driver) -> None:
    driver.listen()
    card = Card(takes_s=0.002)
    link = VpcdLink(driver.address, lambda: card)
    link.start()
    driver.accept()
    driver.card.sendall(b"\x00\x05hello" * 2000)
    assert driver.receive() == b"hello\x90\x00"
    assert took(link.close) < SOON_S
    assert 0 < len(card.commands) < 2000


def test_stops_at_once_while_connecting_and_while_waiting_to(driver: Driver) -> None:
    link = VpcdLink(driver.address, Card)  # refused
    link.start()
    time.sleep(0.5)
    assert took(link.close) < SOON_S
    driver.listen(0)
    where = driver.listener.getsockname()
    with contextlib.ExitStack() as waiting:
        for _ in range(3):  # nobody accepts, and the queue is full: the next connection gets no answer
            filler = waiting.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(where)
        link = VpcdLink(driver.address, Card)
        link.start()
        time.sleep(0.1)
        assert took(link.close) < SOON_S


def test_close_is_once_and_needs_no_start(driver: Driver) -> None:
    VpcdLink(driver.address, Card).close()


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("reader", ("reader", DEFAULT_PORT)),
        ("127.0.0.1:7", ("127.0.0.1", 7)),
        ("[::1]:65535", ("::1", 65_535)),
        ("[::1]", ("::1", DEFAULT_PORT)),
    ],
)
def test_addresses(address: str, found: tuple[str, int]) -> None:
    assert parse_address(address) == found


@pytest.mark.parametrize(
    "address", ["", ":7", "host:", "host:0", "host:65536", "host:x", "::1", "a b:7", "host:7:8", "a..b", "a" * 64]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(SettingsInvalid, match="virtual reader must be HOST") as refused:
        VpcdLink(address, Card)
    assert refused.value.code == "SETTINGS_INVALID"
