"""A purchase at the phone's end, over a reader: one terminal's kernel, the phone's server, and an SE in memory."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest
from support.counter import PIN, Counter, applet_of
from support.world import World

from parties.channels import ApduStream
from parties.wallet.nfc import Link
from parties.wallet.paying import Place, confirm, pay, until_signaled
from protocol.card.apdu import Ins
from protocol.card.kernel import perform_tap, run_exchange
from protocol.card.outcome import CardLost, Outcome
from protocol.errors import (
    FactorLocked,
    FieldMismatch,
    NoCard,
    PinInvalid,
    ProtocolError,
    SettingsInvalid,
    Unavailable,
)
from protocol.messages.se import OpeningState
from protocol.roles.wallet import set_pin, status

SMALL, LARGE, CEILING = 1_000, 30_000, 50_000


class Element(Link):
    """The phone's own SE, in memory."""

    def __init__(self, world: World, phone) -> None:
        self._applet = applet_of(world, phone)

    def transmit(self, command: bytes) -> bytes:
        return self._applet.process(command)

    def close(self) -> None:
        self._applet.reset()


class Holding:
    """`PhoneSession` over a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.phone = world.ready()
        self.wallet = self.phone.wallet
        self.tid = world.service(self.phone, world.account(self.phone))
        world.cards(self.phone, self.tid, 2)
        self.once(set_pin(self.wallet, old="", new=PIN, personal=()))
        self.before = len(world.calls)

    def once(self, flow):
        return self.world.run(self.phone, flow)

    def field(self) -> Element:
        return Element(self.world, self.phone)

    def opening(self):
        return self.once(status(self.wallet)).opening

    def peers(self) -> set[str]:
        """Whom the phone called since it was ready."""
        return {peer for peer, rpc, *_ in self.world.calls[self.before :] if rpc != "Tsm.SignOn"}


@pytest.fixture
def holding(tmp_path) -> Holding:
    return Holding(World(tmp_path))


class Till:
    """Taps phones at its reader, one after another; each tap may be torn before a certain command."""

    def __init__(self, world: World) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.reader = f"127.0.0.1:{found.getsockname()[1]}"
        self.counter = Counter.open(world)

    def tap(self, amount_minor: int, torn_before: Ins | None = None) -> Outcome:
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 100))
        with grpc.insecure_channel(self.reader, options=options) as channel:
            grpc.channel_ready_future(channel).result(timeout=10)
            stream = ApduStream(channel, deadline_s=10)

            def transmit(command: bytes) -> bytes:
                if command[1] == torn_before:
                    raise CardLost
                return stream.transmit(command)

            try:
                return run_exchange(perform_tap(self.counter.terminal, self.counter.sale(amount_minor)), transmit)
            finally:
                stream.close()

    @contextmanager
    def tapping(self, *taps: tuple[int, Ins | None]) -> Iterator[list[str]]:
        """Meanwhile, these taps; how each ended."""
        ended: list[str] = []

        def run() -> None:
            for amount_minor, torn_before in taps:
                ended.append(self.tap(amount_minor, torn_before).kind.value)

        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(run)
            yield ended
            running.result(timeout=20)


@pytest.fixture
def till(holding) -> Till:
    return Till(holding.world)


def place(till: Till, seconds: float = 8) -> Place:
    return Place(reader=till.reader, seconds=seconds, stopped=threading.Event())


def test_a_small_purchase_is_one_tap_and_nobody_else_is_called(holding, till):
    with till.tapping((SMALL, None)) as ended:
        tapped = pay(holding, place(till), tid=holding.tid, ceiling_minor=CEILING)
    assert ended == ["online request"]
    assert (tapped.state, tapped.amount_minor, tapped.merchant_name) == (OpeningState.TAPPED, SMALL, "Shop 1")
    assert holding.peers() == {"phone-1"}


def test_above_the_limit_the_phone_is_looked_at_first(holding, till):
    with till.tapping((LARGE, None)) as ended:
        shown = pay(holding, place(till), tid=holding.tid, ceiling_minor=CEILING)
    assert ended != ["online request"]
    assert (shown.state, shown.amount_minor, shown.currency) == (OpeningState.EXPECT_PIN, LARGE, "TWD")
    with till.tapping((LARGE, None)) as ended:
        tapped = confirm(holding, place(till), shown=shown, pin=PIN)
    assert ended == ["online request"]
    assert tapped.state is OpeningState.TAPPED


def test_a_pin_given_beforehand_is_entered_for_what_is_asked(holding, till):
    with till.tapping((LARGE, None), (LARGE, None)) as ended:
        tapped = pay(holding, place(till), tid=holding.tid, ceiling_minor=CEILING, pin=PIN)
    assert (len(ended), ended[1], tapped.state) == (2, "online request", OpeningState.TAPPED)


@pytest.mark.parametrize("torn_before", [Ins.GET_PROCESSING_OPTIONS, Ins.READ_RECORD, Ins.GENERATE_AC])
def test_after_a_torn_tap_the_phone_is_held_on_again(holding, till, torn_before):
    with till.tapping((SMALL, torn_before), (SMALL, None)) as ended:
        tapped = pay(holding, place(till), tid=holding.tid, ceiling_minor=CEILING)
    assert (ended[1], tapped.state) == ("online request", OpeningState.TAPPED)


def refused(call, refusal: type[ProtocolError], text: str | None = None) -> None:
    with pytest.raises(refusal, match=text) as ended:
        call()
    assert ended.value.code == refusal.code


def test_no_terminal_no_purchase_and_nothing_stays_open(holding, till):
    refused(
        lambda: pay(holding, place(till, 0.3), tid=holding.tid, ceiling_minor=CEILING),
        Unavailable, "no terminal tapped",
    )  # fmt: skip
    assert holding.opening().state is OpeningState.CLOSED


def test_a_phone_that_is_taken_away_at_once(holding, till):
    stopped = threading.Event()
    stopped.set()
    where = Place(reader=till.reader, seconds=8, stopped=stopped)
    refused(lambda: pay(holding, where, tid=holding.tid, ceiling_minor=CEILING), Unavailable, "no terminal tapped")
    assert holding.opening().state is OpeningState.CLOSED


def test_a_tap_over_the_ceiling_gets_nothing(holding, till):
    with till.tapping((CEILING + 100, None)) as ended:
        refused(
            lambda: pay(holding, place(till, 2.5), tid=holding.tid, ceiling_minor=CEILING), Unavailable, "no tap got"
        )
    assert ended != ["online request"]
    assert holding.opening().state is OpeningState.CLOSED


def test_a_wrong_pin_given_beforehand_ends_it(holding, till):
    with till.tapping((LARGE, None)):
        refused(lambda: pay(holding, place(till), tid=holding.tid, ceiling_minor=CEILING, pin="2846"), PinInvalid)
    assert holding.opening().state is OpeningState.CLOSED


def test_a_wrong_pin_may_be_entered_again_until_the_fifth(holding, till):
    with till.tapping((LARGE, None)):
        shown = pay(holding, place(till), tid=holding.tid, ceiling_minor=CEILING)
    for refusal in [PinInvalid] * 4 + [FactorLocked] * 2:
        refused(lambda: confirm(holding, place(till), shown=shown, pin="2846"), refusal)
    assert holding.opening().state is OpeningState.EXPECT_PIN
    assert holding.once(status(holding.wallet)).pin == "LOCKED"


def test_the_pin_is_for_what_was_shown_only(holding, till):
    with till.tapping((LARGE, None)):
        shown = pay(holding, place(till), tid=holding.tid, ceiling_minor=CEILING)
    with till.tapping((LARGE + 100, None)):
        asked = pay(holding, place(till), tid=holding.tid, ceiling_minor=CEILING)
    assert asked.amount_minor == LARGE + 100
    refused(lambda: confirm(holding, place(till), shown=shown, pin=PIN), FieldMismatch)


def test_what_can_not_be_opened_is_not_held_on(holding, till):
    refused(lambda: pay(holding, place(till), tid=holding.tid, ceiling_minor=10**6), NoCard)
    elsewhere = Place(reader="192.0.2.1:4000", seconds=1, stopped=threading.Event())
    before = len(holding.world.calls)
    refused(lambda: pay(holding, elsewhere, tid=holding.tid, ceiling_minor=CEILING), SettingsInvalid)
    refused(lambda: confirm(holding, elsewhere, shown=holding.opening(), pin=PIN), SettingsInvalid)
    assert {rpc for _, rpc, *_ in holding.world.calls[before:]} == {"SecureElement.Status"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_takes_the_phone_away(holding, till, number):
    before = signal.getsignal(number)
    with until_signaled() as stopped:
        where = Place(reader=till.reader, seconds=30, stopped=stopped)
        soon = threading.Timer(0.3, os.kill, (os.getpid(), number))
        soon.start()
        refused(lambda: pay(holding, where, tid=holding.tid, ceiling_minor=CEILING), Unavailable, "no terminal tapped")
        soon.join()
    assert signal.getsignal(number) is before
    assert holding.opening().state is OpeningState.CLOSED
