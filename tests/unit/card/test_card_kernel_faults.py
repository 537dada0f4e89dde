"""Cards that are lost, refuse or talk nonsense at any place of the exchange: a typed end, and nothing goes online."""

from __future__ import annotations

import random

import pytest
from support.cards import (
    Field,
    answered,
    application,
    assert_declined,
    directory,
    entry,
    make_sale,
    make_terminal,
    only,
)

from protocol.card import outcome, profile, tlv
from protocol.card.afl import Afl, read_files
from protocol.card.apdu import Ins, Response, Sw
from protocol.card.kernel import MAX_COMMANDS, perform_tap, run_exchange
from protocol.card.outcome import CardLost, Kind
from protocol.card.risk import Tvr

FLOOR = Tvr.FLOOR_LIMIT_EXCEEDED


@pytest.fixture
def terminal(ca_key):
    return make_terminal(ca_key)


@pytest.fixture
def field(applet) -> Field:
    return Field(applet.process)


EXCHANGES = 8


@pytest.mark.parametrize("position", range(EXCHANGES))
def test_a_card_lost_anywhere_may_come_again(applet, terminal, position) -> None:
    field = Field(applet.process, lost_at=position)
    ended = field.tap(terminal)
    assert ended == outcome.PRESENT_AGAIN
    assert len(field.trace) == position
    assert Field(applet.process).tap(terminal).kind is Kind.ONLINE_REQUEST


@pytest.mark.parametrize("position", range(EXCHANGES))
def test_garbage_anywhere_has_a_typed_end(applet, terminal, position) -> None:
    chance = random.Random(position)
    good = Field(applet.process)
    assert good.tap(terminal).kind is Kind.ONLINE_REQUEST
    assert len(good.trace) == EXCHANGES
    right = good.trace[position][1]
    bads = [b"", b"\x90", b"\x90\x00", b"\x6f\x00", bytes(300), b"\x70\x82\xff\xff\x90\x00"]
    bads += [right[:-3] + b"\x90\x00", right[: len(right) // 2] + b"\x90\x00", right[:-2] + b"\x00\x90\x00" * 2]
    bads += [chance.randbytes(chance.randrange(250)) + b"\x90\x00" for _ in range(20)]
    bads += [right[:-2] * 2 + b"\x90\x00", b"\x6f\x80" + right]
    for bad in bads:
        field = Field(applet.process)
        field.alter = lambda command, answer, bad=bad, field=field: bad if len(field.trace) == position else answer
        ended = field.tap(terminal)
        assert ended.kind in {Kind.END_APPLICATION, Kind.DECLINED}
        assert ended.online is None


@pytest.mark.parametrize("sw", [0x6A82, 0x6985, 0x6F00, 0x63C1, 0x6100])
@pytest.mark.parametrize("position", range(EXCHANGES))
def test_a_refusal_anywhere_has_a_typed_end(applet, terminal, position, sw) -> None:
    field = Field(applet.process)
    field.alter = lambda command, answer: answered(sw=sw) if len(field.trace) == position else answer
    ended = field.tap(terminal)
    assert ended.kind is Kind.END_APPLICATION
    assert ended.online is None


def test_the_file_locator_bounds_what_is_read(field, terminal) -> None:
    for locator in (b"\x08\x01\xff\x00", b"", b"\x08\x01\x01", b"\x00\x01\x01\x00", b"\xf8\x01\x01\x00"):
        field.trace.clear()
        field.alter = only(
            Ins.GET_PROCESSING_OPTIONS, lambda _, locator=locator: answered(tlv.encode(0x80, b"\x33\x80" + locator))
        )
        assert field.tap(terminal) == outcome.END_APPLICATION
        assert len(field.trace) == 3


def test_a_card_cannot_keep_the_terminal_busy(ca_key) -> None:
    """As many applications as an answer holds, none with options; the bound is on commands in all."""
    rid = profile.RID
    names = [rid + bytes([number]) for number in range(20)]

    def process(command: bytes) -> bytes:
        if b"2PAY" in command:
            return answered(directory(*(entry(name) for name in names)))
        if command[1] == Ins.SELECT:
            return answered(application(command[5:-1]))
        return answered(sw=Sw.CONDITIONS_NOT_SATISFIED)

    field = Field(process)
    assert field.tap(make_terminal(ca_key, applications=(rid,))) == outcome.END_APPLICATION
    assert len(field.trace) == 17
    assert MAX_COMMANDS == 34


def test_both_formats_of_options_are_read(field, terminal, card_data) -> None:
    field.alter = only(Ins.GET_PROCESSING_OPTIONS, lambda _: answered(tlv.encode(0x80, profile.AIP + card_data.afl)))
    assert field.tap(terminal).kind is Kind.ONLINE_REQUEST


def test_a_padded_record_is_read_and_not_authenticated(field, terminal) -> None:
    def pad(answer: bytes) -> bytes:
        data = Response.from_bytes(answer).data
        return answered(data + bytes(min(2, 256 - len(data))))

    field.alter = only(Ins.READ_RECORD, pad)
    assert_declined(field.tap(terminal), FLOOR | Tvr.CDA_FAILED)


def test_the_records_of_a_request_can_be_read_again(field, terminal) -> None:
    """What the TSM gets is enough for it to run data authentication itself."""
    request = field.tap(terminal).online
    assert request is not None
    records = {(record.sfi, record.number): record.data for record in request.records}
    files = read_files(Afl.from_bytes(request.afl), records, aip=request.aip)
    assert files.get(0x5F24) == bytes.fromhex("261231")


def test_the_generator_can_be_driven_by_hand(terminal) -> None:
    exchange = perform_tap(terminal, make_sale())
    assert next(exchange)[:4] == bytes.fromhex("00A40400")
    with pytest.raises(StopIteration) as end:
        exchange.throw(CardLost())
    assert end.value.value == outcome.PRESENT_AGAIN


@pytest.mark.parametrize("fault", [KeyError, StopIteration])
def test_a_fault_of_the_link_is_not_taken_for_an_end(terminal, fault) -> None:
    def transmit(command: bytes) -> bytes:
        raise fault

    with pytest.raises(fault):
        run_exchange(perform_tap(terminal, make_sale()), transmit)
