"""Directory, candidate list and the answer to SELECT (EMV Book 1 §12; Contactless Book B §3.3.2)."""

from __future__ import annotations

import pytest
from support.cards import application, directory, entry

from protocol.card import profile, tlv
from protocol.card.directory import application_information, ppse_information
from protocol.card.profile import CardProfile
from protocol.card.selection import MAX_CANDIDATES, Candidate, parse_application, parse_directory, select
from protocol.errors import CardDataInvalid, Oversize, ProtocolError

AID = profile.AID
OTHER = bytes.fromhex("A0000000031010")


def candidates(*entries: bytes, applications: tuple[bytes, ...] = (AID,)) -> list[bytes]:
    return [item.aid for item in parse_directory(directory(*entries), applications=applications)]


def refused(error: type[ProtocolError], code: str, data: bytes) -> None:
    with pytest.raises(error) as refusal:
        parse_directory(data, applications=(AID,))
    assert refusal.value.code == code


def test_select_is_by_name_first_occurrence() -> None:
    assert select(AID).to_bytes() == bytes.fromhex("00A4040009") + AID + b"\x00"


def test_our_own_directory_is_read() -> None:
    found = parse_directory(ppse_information(CardProfile()), applications=(AID,))
    assert found == (Candidate(aid=AID, priority=1),)


def test_priority_orders_and_the_cards_order_breaks_ties() -> None:
    a, b, c, d = (AID + bytes([number]) for number in range(1, 5))
    assert candidates(entry(a), entry(b, priority=0), entry(c, priority=0x82), entry(d, priority=2)) == [c, d, a, b]
    assert candidates(entry(a, priority=15), entry(b, priority=0x0F), entry(c, priority=0x10)) == [a, b, c]
    (found,) = parse_directory(directory(entry(a)), applications=(AID,))
    assert found.priority == 16


@pytest.mark.parametrize("applications", [(AID,), (OTHER, AID), (profile.RID,), (AID[:-1],)])
def test_whole_and_partial_names_match(applications) -> None:
    assert candidates(entry(AID), applications=applications) == [AID]


@pytest.mark.parametrize("name", [AID[:-1], OTHER, AID[:-1] + b"\x02", b"\x00" + AID])
def test_other_names_do_not(name) -> None:
    assert candidates(entry(name)) == []


@pytest.mark.parametrize("size", [0, 4, 17])
def test_names_of_wrong_length_are_passed_over(size) -> None:
    name = (AID * 2)[:size]
    assert candidates(entry(name), entry(AID), applications=(AID, profile.RID)) == [AID]
    assert candidates(tlv.encode(0x61, tlv.encode(0x87, b"\x01")), entry(AID)) == [AID]


@pytest.mark.parametrize(("kernel", "ours"), [
    (None, True), (b"", True), (b"\x00", True), (b"\x80\x01\x58", True),
    (b"\x03", False), (b"\x2a", False), (b"\x81\x01\x58", False),
])  # fmt: skip
def test_entries_of_other_kernels_are_passed_over(kernel, ours) -> None:
    assert candidates(entry(AID, kernel=kernel)) == ([AID] if ours else [])


def test_the_list_is_bounded_and_keeps_the_best() -> None:
    names = [AID[:5] + bytes([number]) for number in range(12)]
    entries = [entry(name, priority=15 - number) for number, name in enumerate(names)]
    assert candidates(*entries, applications=(profile.RID,)) == names[:-9:-1]
    assert MAX_CANDIDATES == 8


def test_padding_between_objects_is_put_up_with() -> None:
    padded = tlv.encode(0x84, b"2PAY.SYS.DDF01") + b"\x00" + tlv.encode(0xA5, b"\x00" + tlv.encode(0xBF0C, entry(AID)))
    found = parse_directory(tlv.encode(0x6F, padded), applications=(AID,))
    assert [item.aid for item in found] == [AID]


def test_other_objects_in_the_directory_are_passed_over() -> None:
    assert candidates(tlv.encode(0x9F0A, b"\x01"), entry(AID)) == [AID]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x6f",
        directory(name=b"1PAY.SYS.DDF01"),
        directory(name=b""),
        directory() + directory(),
        tlv.encode(0x70, directory()[2:]),
        tlv.encode(0x6F, tlv.encode(0x84, b"2PAY.SYS.DDF01")),
        tlv.encode(0x6F, tlv.encode(0x84, b"2PAY.SYS.DDF01") + tlv.encode(0xA5, b"")),
        tlv.encode(0x6F, tlv.encode(0xA5, b"")),
        directory(entry(AID)[:-1]),
    ],
)
def test_what_is_no_directory_is_refused(data) -> None:
    refused(CardDataInvalid, "CARD_DATA_INVALID", data)


def test_a_bomb_is_refused() -> None:
    refused(Oversize, "OVERSIZE", tlv.encode(0x6F, b"\x61\x00" * 200))
    nested = b""
    for _ in range(9):
        nested = tlv.encode(0xA5, nested)
    refused(Oversize, "OVERSIZE", nested)


def test_the_application_says_what_it_asks_for() -> None:
    assert parse_application(application_information(CardProfile()), aid=AID) == profile.PDOL
    assert parse_application(application(), aid=AID).entries == ()


@pytest.mark.parametrize(
    "data",
    [
        application(OTHER),
        application(AID[:-1]),
        application(AID + b"\x01"),
        application(pdol=b"\x9f"),
        application(pdol=b"\x9f\x37\x04\x9f\x37\x04"),
        tlv.encode(0x6F, tlv.encode(0x84, AID)),
        b"\x90",
    ],
)
def test_another_application_or_none_is_refused(data) -> None:
    with pytest.raises(CardDataInvalid) as refusal:
        parse_application(data, aid=AID)
    assert refusal.value.code == "CARD_DATA_INVALID"


def test_a_list_that_asks_for_too_much_is_refused() -> None:
    with pytest.raises(Oversize) as refusal:
        parse_application(application(pdol=b"\x9f\x02\xff"), aid=AID)
    assert refusal.value.code == "OVERSIZE"
