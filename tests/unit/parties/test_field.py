"""The SE's NFC field: this phone only, one fresh applet a stay, bounds, and silence about card numbers."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import grpc
import pytest
from structlog.testing import capture_logs

from parties.apdus import MAX_APDUS
from parties.assembly.common import Opened
from parties.channels import ApduStream, Channels, TlsIdentity, refusal_of
from parties.keystore import GENERATED
from parties.rpc.common_pb2 import Envelope
from parties.rpc.secure_element_pb2 import Apdu
from parties.server.field import MAX_FIELDS, field_handler
from parties.server.service import Edge, PartyServer
from parties.settings import load_settings
from parties.setup import Plan, create_environment
from parties.system import SystemClock, SystemEntropy
from parties.wallet.phone import PhoneSession
from protocol.card.applet import Applet
from protocol.card.profile import Channel
from protocol.contract import FIELD
from protocol.engine import Engine
from protocol.envelope import Wire
from protocol.errors import Internal, Malformed, Overloaded, Oversize, Unavailable, WrongPeer
from protocol.roles.se.field import Field
from protocol.rows import MemoryStore
from protocol.types import Role

PPSE = bytes.fromhex("00A404000E325041592E5359532E444446303100")
NOT_FOUND = bytes.fromhex("6A82")
NUMBER = b"\x12\x34\x56\x78\x90\x12\x34\x56\x78"


class Card:
    """Counts what it was asked in this stay."""

    def __init__(self, cards: Cards) -> None:
        self._cards = cards
        self._asked = 0

    def process(self, command: bytes) -> bytes:
        self._asked += 1
        return bytes((self._asked & 0xFF,)) + command[:200] + b"\x90\x00"

    def reset(self) -> None:
        self._cards.lost.release()


@dataclass
class Cards:
    """Makes a card a stay; `lost` is released for each stay that ended."""

    made: int = 0
    lost: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def __call__(self) -> Card:
        self.made += 1
        return Card(self)

    def wait_lost(self, number: int) -> None:
        for _ in range(number):
            assert self.lost.acquire(timeout=5)
        assert not self.lost.acquire(blocking=False)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """One with two phones. Read only."""
    folder = tmp_path_factory.mktemp("phones") / "env"
    plan = Plan(base_port=0, cost=GENERATED, merchants=("shop-1",), phones=("phone-1", "phone-2"), card_keys_ahead=1)
    create_environment(folder, plan, lambda _party: None)
    return folder


@contextlib.contextmanager
def serving(environment, card, idle_s: float = 10.0) -> Iterator[str]:
    """The SE's server with nothing but its field."""
    opened = Opened.of(load_settings(environment / "phone-1/se/settings.toml"))
    engine = Engine({}, store=MemoryStore(), clock=SystemClock(), entropy=SystemEntropy(), peers=opened.channels())
    handler = field_handler("phone-1", card, idle_s=idle_s)
    server = PartyServer(
        Edge(engine, party="phone-1", role=Role.SE), ("SecureElement.Status",), opened.server_tls(), {FIELD: handler}
    )
    port = server.listen("127.0.0.1:0", mutual=True)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.drain()


def identity(environment, party: str) -> TlsIdentity:
    return Opened.of(load_settings(environment / party / "settings.toml")).client_tls()


@contextlib.contextmanager
def phone(environment, address: str) -> Iterator[Channels]:
    channels = Channels({"phone-1": address}, identity(environment, "phone-1/wallet"))
    yield channels
    channels.close()


@contextlib.contextmanager
def stay(channels: Channels) -> Iterator[ApduStream]:
    stream = channels.field("phone-1")
    yield stream
    stream.close()


def test_each_stay_has_a_fresh_card_that_is_reset_at_its_end(environment):
    cards = Cards()
    with serving(environment, cards) as address, phone(environment, address) as channels:
        for stays in (1, 2):
            with stay(channels) as stream:
                assert stream.transmit(b"") == b"\x01\x90\x00"
                assert stream.transmit(PPSE) == b"\x02" + PPSE + b"\x90\x00"
            cards.wait_lost(1)
            assert cards.made == stays


def test_the_phones_own_session_reaches_it(env):
    cards = Cards()
    with serving(env, cards) as address:
        settings = env / "phone-1/wallet/settings.toml"
        lines = settings.read_text().splitlines()
        told = [f'phone-1 = "{address}"' if line.startswith("phone-1 = ") else line for line in lines]
        assert told != lines
        settings.write_text("\n".join(told))
        with PhoneSession(settings.parent) as session, contextlib.closing(session.field()) as stream:
            assert stream.transmit(PPSE) == b"\x01" + PPSE + b"\x90\x00"


def test_the_se_itself_may(environment):
    cards = Cards()
    with serving(environment, cards) as address:
        channels = Channels({"phone-1": address}, identity(environment, "phone-1/se"))
        with stay(channels) as stream:
            assert stream.transmit(b"") == b"\x01\x90\x00"
        channels.close()


@pytest.mark.parametrize("party", ["shop-1", "bank-a", "tsm-1", "phone-2/wallet", "phone-2/se"])
def test_nobody_else_may(environment, party):
    cards = Cards()
    with serving(environment, cards) as address:
        channels = Channels({"phone-1": address}, identity(environment, party))
        with stay(channels) as stream, pytest.raises(WrongPeer) as refused:
            stream.transmit(PPSE)
        assert refused.value.code == "WRONG_PEER"
        channels.close()
    assert cards.made == 0


def test_without_a_certificate_there_is_no_connection(environment):
    cards = Cards()
    with serving(environment, cards) as address:
        channels = Channels({"phone-1": address}, TlsIdentity(root=identity(environment, "phone-1/se").root))
        with stay(channels) as stream, pytest.raises(Unavailable):
            stream.transmit(PPSE)
        channels.close()
    assert cards.made == 0


def test_too_long_and_too_many(environment):
    cards = Cards()
    with serving(environment, cards) as address, phone(environment, address) as channels:
        with stay(channels) as stream:
            assert stream.transmit(bytes(261))[0] == 1
            with pytest.raises(Oversize) as refused:
                stream.transmit(bytes(262))
            assert refused.value.code == "OVERSIZE"
        with stay(channels) as stream:
            for number in range(1, MAX_APDUS + 1):
                assert stream.transmit(b"")[0] == number & 0xFF
            with pytest.raises(Oversize):
                stream.transmit(b"")
        cards.wait_lost(2)


def test_a_flood_is_not_read_ahead_of_the_bound(environment):
    """A phone gone wrong sends without waiting: it gets its answers up to the bound, and the refusal."""
    cards = Cards()
    with serving(environment, cards) as address, phone(environment, address) as channels:
        stream = channels.field("phone-1")
        for _ in range(MAX_APDUS * 4):
            stream._commands.put(Apdu(data=b"\x00"))
        answers = 0
        with pytest.raises(grpc.RpcError):
            for _ in stream._answers:
                answers += 1
        assert answers == MAX_APDUS
        cards.wait_lost(1)


def test_bytes_that_are_no_message_end_the_stay(environment):
    cards = Cards()
    with serving(environment, cards) as address, phone(environment, address) as channels:
        raw = channels._channel("phone-1").stream_stream("/tapveil.v1.SecureElement/Transceive")
        for garbage in (b"\xff\xff", b"\x0a\x05abc", bytes(1000)):
            with pytest.raises(grpc.RpcError) as ended:
                list(raw(iter([garbage]), timeout=5))
            assert type(refusal_of(ended.value)) is Malformed
            cards.wait_lost(1)
        with stay(channels) as stream:
            assert stream.transmit(b"") == b"\x01\x90\x00"


def test_a_silent_reader_is_not_waited_for(environment):
    cards = Cards()
    with serving(environment, cards, idle_s=0.2) as address, phone(environment, address) as channels:
        stream = channels.field("phone-1")
        stream.transmit(b"")
        cards.wait_lost(1)
        with pytest.raises(Unavailable) as refused:
            stream.transmit(b"")
        assert refused.value.code == "UNAVAILABLE"


def test_a_phone_that_vanishes_leaves_no_card_in_the_field(environment):
    cards = Cards()
    with serving(environment, cards) as address:
        with phone(environment, address) as channels:
            channels.field("phone-1").transmit(b"")
        started_s = time.monotonic()
        cards.wait_lost(1)
        assert time.monotonic() - started_s < 5


def test_so_many_fields_and_no_more(environment):
    cards = Cards()
    with serving(environment, cards) as address, phone(environment, address) as channels:
        with contextlib.ExitStack() as stack:
            for _ in range(MAX_FIELDS):
                stack.enter_context(stay(channels)).transmit(b"")
            with stay(channels) as stream, pytest.raises(Overloaded) as refused:
                stream.transmit(b"")
            assert refused.value.code == "OVERLOADED"
        cards.wait_lost(MAX_FIELDS)
        with stay(channels) as stream:
            assert stream.transmit(b"") == b"\x01\x90\x00"


def test_a_fault_in_a_card_ends_its_own_stay_only(environment):
    class Broken(Card):
        def process(self, command: bytes) -> bytes:
            return self._cards.made  # not bytes

    cards = Cards()
    with serving(environment, lambda: Broken(cards)) as address, phone(environment, address) as channels:
        for _ in range(MAX_FIELDS + 1):
            with stay(channels) as stream, pytest.raises(Internal):
                stream.transmit(b"")
            cards.wait_lost(1)


def test_the_applet_of_a_closed_phone_finds_nothing(environment):
    holder = Field(store=MemoryStore(), clock=SystemClock())

    def card() -> Applet:
        return Applet(holder, SystemEntropy(), channel=Channel.CONTACTLESS)

    with serving(environment, card) as address, phone(environment, address) as channels, stay(channels) as stream:
        assert stream.transmit(PPSE) == NOT_FOUND
        assert stream.transmit(b"") == bytes.fromhex("6700")


def test_nothing_of_an_apdu_is_logged(environment):
    cards = Cards()
    with (
        capture_logs() as lines, serving(environment, cards) as address, phone(environment, address) as channels,
        stay(channels) as stream,
    ):  # fmt: skip
        stream.transmit(NUMBER)
        with pytest.raises(Oversize):
            stream.transmit(NUMBER * 40)
    (served,) = lines
    assert served.pop("ms") < 5000
    assert served == {"event": "served", "log_level": "info", "party_role": "se", "rpc": FIELD, "code": "OVERSIZE"}


def test_envelopes_are_served_beside_it(environment):
    cards = Cards()
    with serving(environment, cards) as address, phone(environment, address) as channels:
        asked = pytest.raises(Internal)  # the engine has no steps here, and says so
        with asked:
            channels.call("phone-1", "SecureElement.Status", Wire(cose=Envelope().cose))
