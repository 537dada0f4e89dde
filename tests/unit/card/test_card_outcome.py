"""Outcome parameters and what the display says (EMV Contactless Book A)."""

from __future__ import annotations

import pytest

from protocol.card import outcome
from protocol.card.outcome import CardLost, Kind, Message, Outcome, Start, Status
from protocol.errors import ProtocolError

ALL = {
    "APPROVED": (Kind.APPROVED, 0x03, "Approved", Start.NONE),
    "DECLINED": (Kind.DECLINED, 0x07, "Not authorized", Start.NONE),
    "AUTHORIZING": (Kind.ONLINE_REQUEST, 0x1B, "Authorizing, please wait", Start.NONE),
    "END_APPLICATION": (Kind.END_APPLICATION, 0x1C, "Insert, swipe or try another card", Start.NONE),
    "TRY_ANOTHER_INTERFACE": (Kind.TRY_ANOTHER_INTERFACE, 0x18, "Please insert or swipe card", Start.NONE),
    "PRESENT_AGAIN": (Kind.TRY_AGAIN, 0x21, "Present card again", Start.PROTOCOL_ACTIVATION),
    "SEE_PHONE": (Kind.TRY_AGAIN, 0x20, "See phone for instructions", Start.PROTOCOL_ACTIVATION),
    "SELECT_NEXT": (Kind.SELECT_NEXT, 0x1C, "Insert, swipe or try another card", Start.COMBINATION_SELECTION),
}


@pytest.mark.parametrize("name", ALL)
def test_each_ending_has_its_parameters(name) -> None:
    kind, identifier, text, start = ALL[name]
    ended = getattr(outcome, name)
    assert (ended.kind, ended.ui.message, ended.ui.text, ended.start) == (kind, identifier, text, start)
    assert (ended.tvr, ended.online) == (bytes(5), None)


def test_every_ending_is_listed_and_every_kind_has_one() -> None:
    assert {name for name, value in vars(outcome).items() if isinstance(value, Outcome)} == set(ALL)
    assert {kind for kind, *_ in ALL.values()} == set(Kind)


def test_only_after_see_phone_does_the_display_change_for_the_next_card() -> None:
    assert {name for name in ALL if getattr(outcome, name).restart_ui is not None} == {"SEE_PHONE"}
    assert outcome.SEE_PHONE.restart_ui == outcome.PRESENT_AGAIN.ui
    assert (outcome.SEE_PHONE.ui.status, outcome.PRESENT_AGAIN.ui.status) == (
        Status.PROCESSING_ERROR,
        Status.READY_TO_READ,
    )


def test_the_lamps_say_card_read_only_when_it_was() -> None:
    read = {name for name in ALL if getattr(outcome, name).ui.status is Status.CARD_READ}
    assert read == {"APPROVED", "DECLINED", "AUTHORIZING"}


def test_messages_have_their_identifiers() -> None:
    assert {int(message): message.text for message in Message} == {
        0x03: "Approved",
        0x07: "Not authorized",
        0x15: "Present card",
        0x17: "Card read OK, please remove card",
        0x18: "Please insert or swipe card",
        0x1A: "Approved, please sign",
        0x1B: "Authorizing, please wait",
        0x1C: "Insert, swipe or try another card",
        0x20: "See phone for instructions",
        0x21: "Present card again",
    }
    assert Message(0x20) is Message.SEE_PHONE


def test_a_lost_card_is_no_refusal() -> None:
    assert not issubclass(CardLost, ProtocolError)
