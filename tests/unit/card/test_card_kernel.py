"""A tap as the terminal sees it, over the real applet: what goes online, and all that does not (EMV Book 3 §10)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.cards import (
    Field,
    answered,
    application,
    directory,
    entry,
    make_terminal,
    only,
    script,
)

from protocol.card import outcome, profile
from protocol.card.apdu import Ins, Sw
from protocol.card.combined import cryptogram_input
from protocol.card.cryptogram import compute_cryptogram, derive_session_key
from protocol.card.cvr import Cvr, IssuerData
from protocol.card.outcome import Kind, Message, OnlineRequest
from protocol.card.risk import Tvr
from protocol.card.tap import NotOpen, SeePhone

K_AC = bytes.fromhex("0123456789ABCDEFFEDCBA9876543210")
FLOOR = Tvr.FLOOR_LIMIT_EXCEEDED


@pytest.fixture
def terminal(ca_key):
    return make_terminal(ca_key)


@pytest.fixture
def field(applet) -> Field:
    return Field(applet.process)


def test_a_good_card_goes_online(field, terminal, holder, card_data) -> None:
    ended = field.tap(terminal)
    request = ended.online
    assert isinstance(request, OnlineRequest)
    assert ended == replace(outcome.AUTHORIZING, tvr=request.tvr, online=request)
    assert (request.aid, request.aip, request.afl) == (profile.AID, profile.AIP, card_data.afl)
    assert request.records == card_data.records
    assert request.pan == card_data.pan
    assert (request.information, request.atc) == (0x80, holder.card.atc)
    assert IssuerData.from_bytes(request.issuer_data) == IssuerData(cvr=Cvr.ARQC, opening=holder.card.opening)
    assert Tvr(int.from_bytes(request.tvr, "big")) == FLOOR
    said = profile.CDOL1.split(request.cdol_data)
    assert said[0x95] == request.tvr == bytes.fromhex("0000008000")
    assert said[0x9F34] == bytes.fromhex("1F0002")
    assert (said[0x9A], said[0x9C], said[0x9F35], said[0x9F1A]) == (b"\x26\x11\x20", b"\x00", b"\x22", b"\x01\x58")
    consented = profile.PDOL.split(request.pdol_data)
    assert {tag: said[tag] for tag in (0x9F02, 0x5F2A, 0x9F16, 0x9F1C, 0x9F37)} == {
        tag: consented[tag] for tag in (0x9F02, 0x5F2A, 0x9F16, 0x9F1C, 0x9F37)
    }
    covered = cryptogram_input(request.cdol_data, aip=request.aip, atc=request.atc, issuer_data=request.issuer_data)
    assert request.cryptogram == compute_cryptogram(derive_session_key(K_AC, atc=request.atc), covered)


def test_the_commands_are_these(field, terminal) -> None:
    field.tap(terminal)
    assert [(command.cla, command.ins, command.p1, command.p2, command.le) for command in field.commands] == [
        (0x00, 0xA4, 0x04, 0x00, 256),
        (0x00, 0xA4, 0x04, 0x00, 256),
        (0x80, 0xA8, 0x00, 0x00, 256),
        (0x00, 0xB2, 0x01, 0x14, 256),
        (0x00, 0xB2, 0x01, 0x0C, 256),
        (0x00, 0xB2, 0x02, 0x0C, 256),
        (0x00, 0xB2, 0x03, 0x0C, 256),
        (0x80, 0xAE, 0x90, 0x00, 256),
    ]
    assert [command.data for command in field.commands[:2]] == [b"2PAY.SYS.DDF01", profile.AID]


def test_no_number_shows_in_what_is_printed(field, terminal, card_data) -> None:
    shown = repr(field.tap(terminal))
    assert card_data.pan not in shown
    assert card_data.pan.encode().hex() not in shown
    assert repr(bytes.fromhex(card_data.pan + "F"))[2:-1] not in shown


def test_only_the_answer_of_the_tsm_approves(field, terminal) -> None:
    request = field.tap(terminal).online
    assert request is not None
    assert outcome.complete_online(request, approved=True) == replace(outcome.APPROVED, tvr=request.tvr)
    assert outcome.complete_online(request, approved=False) == replace(outcome.DECLINED, tvr=request.tvr)


# --- status words --------------------------------------------------------------------------------------------------
def test_a_phone_that_is_not_open_shows_nothing(field, terminal, holder) -> None:
    holder.open = False
    assert field.tap(terminal) == outcome.END_APPLICATION
    assert len(field.trace) == 1


def test_above_the_limit_the_display_points_to_the_phone(field, terminal, applet, holder) -> None:
    holder.obstacles = {"offer": SeePhone()}
    ended = field.tap(terminal)
    assert ended == outcome.SEE_PHONE
    assert (ended.ui.message, ended.ui.text) == (Message.SEE_PHONE, "See phone for instructions")


def test_an_application_that_has_nothing_to_offer_is_left(field, terminal, holder) -> None:
    holder.obstacles = {"offer": NotOpen()}
    assert field.tap(terminal) == outcome.END_APPLICATION


@pytest.mark.parametrize("sw", [0x6984, 0x6A80, 0x6700, 0x6F00, 0x9001])
def test_another_refusal_of_options_ends_it(field, terminal, sw) -> None:
    field.alter = only(Ins.GET_PROCESSING_OPTIONS, lambda _: answered(sw=sw))
    assert field.tap(terminal) == outcome.END_APPLICATION


def test_the_next_application_is_tried(applet, terminal) -> None:
    """Two names of ours: the first does not let itself be selected, the second has no options to give."""
    first, second = profile.AID + b"\x01", profile.AID + b"\x02"
    names = (entry(profile.AID, priority=3), entry(second, priority=2), entry(first, priority=1))

    def process(command: bytes) -> bytes:
        if b"2PAY" in command:
            return answered(directory(*names))
        if first in command:
            return answered(sw=Sw.FILE_NOT_FOUND)
        if second in command:
            return answered(application(second))
        if command == bytes.fromhex("80A8000002830000"):
            return answered(sw=Sw.CONDITIONS_NOT_SATISFIED)
        return applet.process(command)

    field = Field(process)
    ended = field.tap(terminal)
    assert ended.kind is Kind.ONLINE_REQUEST
    assert ended.online is not None
    assert ended.online.aid == profile.AID
    assert [command.data for command in field.commands[1:5]] == [first, second, b"\x83\x00", profile.AID]


def test_a_card_that_answers_for_another_name_ends_it(terminal) -> None:
    other = bytes.fromhex("A0000000031010")
    process = script(answered(directory(entry(profile.AID))), answered(application(other)))
    assert Field(process).tap(terminal) == outcome.END_APPLICATION


@pytest.mark.parametrize(("other_interface", "ended"), [
    (True, outcome.TRY_ANOTHER_INTERFACE), (False, outcome.END_APPLICATION),
])  # fmt: skip
@pytest.mark.parametrize(
    "entries", [(), (entry(bytes.fromhex("A0000000031010")),), (entry(profile.AID, kernel=b"\x03"),)]
)
def test_nothing_in_common_leaves_the_other_interface(entries, other_interface, ended, ca_key) -> None:
    process = script(answered(directory(*entries)))
    assert Field(process).tap(make_terminal(ca_key, other_interface=other_interface)) == ended


def test_a_missing_record_ends_it(field, terminal) -> None:
    field.alter = only(Ins.READ_RECORD, lambda _: answered(sw=Sw.RECORD_NOT_FOUND))
    assert field.tap(terminal) == outcome.END_APPLICATION
    assert len(field.trace) == 4
