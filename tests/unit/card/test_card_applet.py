"""The applet, command by command: answers, order, and refusals (EMV Book 1 §11, Book 3 §6.5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from pyemv import ac, kd

from protocol.card import dynamic, profile
from protocol.card.apdu import Response
from protocol.card.applet import Applet
from protocol.card.chain import verify_card
from protocol.card.combined import transaction_hash, verify_combined
from protocol.card.cvr import Cvr, IssuerData
from protocol.card.profile import Channel
from protocol.card.tap import NotOpen, SeePhone
from protocol.errors import CardDataInvalid, ProtocolError, StorageFault

pytestmark = pytest.mark.filterwarnings("ignore:.*TripleDES.*")

TODAY = date(2026, 11, 20)
PSE, PPSE = b"1PAY.SYS.DDF01", b"2PAY.SYS.DDF01"
ENTRY = "61174F09F05441505645494C0150075441505645494C870101"
FILES = [(2, 1), (1, 1), (1, 2), (1, 3)]
UNPREDICTABLE = b"\xde\xad\xbe\xef"


def issuer_data(reader: Any, answer: Response) -> IssuerData:
    return IssuerData.from_bytes(reader.objects(answer)[0x9F10])


def oracle(holder: Any, *data: bytes) -> bytes:
    """The cryptogram over `data` by the independent implementation, from the card's master key on."""
    session_key = kd.derive_common_sk(holder.card.k_ac, holder.card.atc.to_bytes(2, "big") + bytes(6))
    return ac.generate_ac(session_key, b"".join(data))


def response_cryptogram(holder: Any, arqc: bytes, code: bytes) -> bytes:
    session_key = kd.derive_common_sk(holder.card.k_ac, holder.card.atc.to_bytes(2, "big") + bytes(6))
    return ac.generate_arpc_1(session_key, arqc, code)


# --- selection -----------------------------------------------------------------------------------------------------
def test_contact_directory(reader) -> None:
    assert reader.select(PSE) == Response(
        sw=0x9000, data=bytes.fromhex("6F15 840E") + PSE + bytes.fromhex("A503 880101")
    )
    assert reader.record(1, 1) == Response(sw=0x9000, data=bytes.fromhex("7019" + ENTRY))
    assert reader.record(1, 2) == Response(sw=0x6A83)
    assert reader.record(1, 0) == Response(sw=0x6A83)
    assert reader.record(2, 1) == Response(sw=0x6A82)


def test_contactless_directory(reader) -> None:
    assert reader.select(PPSE) == Response(
        sw=0x9000, data=bytes.fromhex("6F2E 840E") + PPSE + bytes.fromhex("A51C BF0C19" + ENTRY)
    )
    assert reader.record(1, 1) == Response(sw=0x6A82)


@pytest.mark.parametrize("size", [5, 6, 7, 8, 9])
def test_the_application_by_its_name_and_by_the_start_of_it(reader, card_data, size) -> None:
    assert reader.select(profile.AID[:size]) == Response(sw=0x9000, data=card_data.fci)


@pytest.mark.parametrize(
    "name",
    [
        *(b"", profile.AID[:4], profile.AID + b"\x00", profile.AID[:-1] + b"\x02", profile.AID[1:]),
        *(b"\xa0\x00\x00\x00\x03", PSE[:-1], PPSE[:5], PPSE + b"\x00", b"3PAY.SYS.DDF01"),
    ],
)
def test_other_names_are_not_found(reader, name) -> None:
    assert reader.load().ok
    assert reader.select(name) == Response(sw=0x6A82)
    # Nothing is selected then, so the transaction before is over too.
    assert reader.record(2, 1) == Response(sw=0x6985)


@pytest.mark.parametrize("name", [profile.AID, profile.RID, PSE, PPSE])
def test_there_is_no_next_file_of_a_name(reader, name) -> None:
    assert reader.select(name).ok
    assert reader.select(name, p2=2) == Response(sw=0x6A82)
    assert reader.options() == Response(sw=0x6985)


@pytest.mark.parametrize(("p1", "p2"), [(0, 0), (4, 1), (4, 3), (4, 0x0C), (2, 0), (5, 0)])
def test_selection_is_by_name_with_an_answer(reader, p1, p2) -> None:
    assert reader.load().ok
    assert reader.send(0x00, 0xA4, p1, p2, profile.AID) == Response(sw=0x6A86)
    assert reader.record(2, 1).ok


def test_a_closed_phone_looks_like_none_with_a_card(reader, holder) -> None:
    holder.open = False
    for name in (PSE, PPSE, profile.AID, profile.RID, b"\xa0\x00\x00\x00\x03", b""):
        for p1, p2 in ((4, 0), (4, 2), (0, 0)):
            assert reader.send(0x00, 0xA4, p1, p2, name) == Response(sw=0x6A82)
    for cla in (0x00, 0x80, 0x0C):
        for ins in range(256):
            if (cla, ins) != (0x00, 0xA4):
                assert reader.send(cla, ins) == Response(sw=0x6985)
    assert set(holder.calls) == {"is_open"}


def test_an_open_phone_answers_nothing_before_a_selection(reader, holder) -> None:
    for cla, ins in ((0x80, 0xA8), (0x00, 0xB2), (0x80, 0xAE), (0x00, 0x88), (0x80, 0xCA), (0x00, 0x20), (0x00, 0x82)):
        assert reader.send(cla, ins) == Response(sw=0x6985)
    assert holder.calls == []


def test_closing_is_seen_at_the_next_selection(reader, holder) -> None:
    reader.load()
    holder.open = False
    assert reader.record(2, 1).ok
    assert reader.select() == Response(sw=0x6A82)
    assert reader.record(2, 1) == Response(sw=0x6985)
    assert holder.calls.count("is_open") == 2


# --- classes and instructions --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("cla", "ins", "sw"),
    [
        *((0x0C, 0xA4, 0x6E00), (0x04, 0xB2, 0x6E00), (0x01, 0xB2, 0x6E00), (0x84, 0xAE, 0x6E00), (0xFF, 0xCA, 0x6E00)),
        *((0x80, 0xA4, 0x6E00), (0x80, 0xB2, 0x6E00), (0x80, 0x20, 0x6E00), (0x80, 0x88, 0x6E00), (0x0C, 0x84, 0x6E00)),
        *((0x00, 0xA8, 0x6E00), (0x00, 0xAE, 0x6E00), (0x00, 0xCA, 0x6E00)),
        *((0x00, 0x82, 0x6D00), (0x00, 0x84, 0x6D00), (0x80, 0x24, 0x6D00), (0x00, 0xC0, 0x6D00), (0x80, 0x00, 0x6D00)),
    ],
)
def test_other_classes_and_instructions(reader, cla, ins, sw) -> None:
    assert reader.load().ok
    assert reader.send(cla, ins) == Response(sw=sw)
    assert reader.first().ok


@pytest.mark.parametrize(
    "raw", ["", "00", "00A404", "00A4040009F0", "00A404000000", "00" * 300, "80AE900000" + "FF" * 4]
)
def test_what_is_no_command(applet, reader, raw) -> None:
    assert applet.process(bytes.fromhex(raw)).hex() == "6700"
    assert reader.load().ok
    assert applet.process(bytes.fromhex(raw)).hex() == "6700"
    assert reader.first().ok


# --- GET PROCESSING OPTIONS ----------------------------------------------------------------------------------------
def test_options_are_profile_and_file_locator(reader, holder, card_data) -> None:
    assert reader.load() == Response(sw=0x9000, data=bytes.fromhex("770E 82023380 9408") + card_data.afl)
    assert holder.calls == ["is_open", "offer"]
    assert holder.taps == [reader.purchase]


def refused_options(reader: Any, data: bytes, p1: int = 0, p2: int = 0) -> int:
    """The status word; and the application stays selected, with nothing offered."""
    answer = reader.send(0x80, 0xA8, p1, p2, data)
    assert answer.data == b""
    return answer.sw


@pytest.mark.parametrize(
    ("change", "sw"),
    [
        (lambda data: b"", 0x6700),
        (lambda data: data[:-1], 0x6700),
        (lambda data: data + b"\x00", 0x6700),
        (lambda data: data[2:], 0x6700),
        (lambda data: b"\x83\x00", 0x6700),
        (lambda data: b"\x84" + data[1:], 0x6A80),
        (lambda data: data[:1] + b"\x4a" + data[2:], 0x6A80),
        (lambda data: data[:2] + b"\xff" + data[3:], 0x6A80),  # amount is no number
        (lambda data: data[:8] + b"\x09\x99" + data[10:], 0x6A80),  # a currency of no card
        (lambda data: data[:10] + b"\x07" + data[11:], 0x6A80),  # merchant cannot be shown
    ],
)
def test_data_that_the_pdol_does_not_ask_for(reader, holder, change: Callable[[bytes], bytes], sw) -> None:
    reader.select()
    assert refused_options(reader, change(b"\x83\x4b" + reader.pdol_data)) == sw
    assert "offer" not in holder.calls
    assert reader.options().ok


@pytest.mark.parametrize(("p1", "p2"), [(1, 0), (0, 1)])
def test_options_have_no_parameters(reader, holder, p1, p2) -> None:
    reader.select()
    assert refused_options(reader, b"\x83\x4b" + reader.pdol_data, p1, p2) == 0x6A86
    assert "offer" not in holder.calls


@pytest.mark.parametrize("name", [PSE, PPSE])
def test_directories_have_no_options(reader, holder, name) -> None:
    reader.select(name)
    assert reader.options() == Response(sw=0x6985)
    assert "offer" not in holder.calls


def test_options_are_given_once_in_a_selection(reader, holder) -> None:
    reader.load()
    assert reader.options() == Response(sw=0x6985)
    assert holder.calls.count("offer") == 1
    assert reader.record(2, 1).ok
    assert reader.load().ok
    assert holder.calls.count("offer") == 2


@pytest.mark.parametrize(("obstacle", "sw"), [(NotOpen(), 0x6985), (SeePhone(), 0x6986)])
def test_what_the_cardholder_did_not_agree_to(reader, holder, obstacle, sw) -> None:
    holder.obstacles["offer"] = obstacle
    assert reader.load() == Response(sw=sw)
    assert reader.record(2, 1) == Response(sw=0x6985)
    assert reader.first() == Response(sw=0x6985)
    assert "spend" not in holder.calls
    # The application stays selected, so the terminal may ask once more.
    holder.obstacles.clear()
    assert reader.options().ok


def test_a_card_of_another_application_does_not_answer(reader, holder) -> None:
    holder.card = replace(holder.card, aid=profile.RID + b"OTHER")
    assert reader.load() == Response(sw=0x6985)
    assert reader.record(2, 1) == Response(sw=0x6985)
    holder.card = replace(holder.card, aid=profile.AID)
    assert reader.options().ok


# --- READ RECORD ---------------------------------------------------------------------------------------------------
def test_records_are_those_of_the_certified_card(reader, holder, card_data, ca_key, keys) -> None:
    options = reader.objects(reader.load())
    records = {place: reader.record(*place).data for place in FILES}
    card = verify_card(
        aid=profile.AID, aip=options[0x82], afl=options[0x94], records=records, ca_keys=[ca_key], today=TODAY
    )
    assert (card.icc.key, card.icc.pan) == (keys.card.public, card_data.pan)
    # The siblings: the same records under another profile, and with two of them exchanged.
    for aip, read in ((b"\x32\x80", records), (options[0x82], records | {(1, 3): records[(1, 1)]})):
        with pytest.raises(CardDataInvalid) as refused:
            verify_card(aid=profile.AID, aip=aip, afl=options[0x94], records=read, ca_keys=[ca_key], today=TODAY)
        assert refused.value.code == "CARD_DATA_INVALID"
    assert holder.calls == ["is_open", "offer", "spend"]


def test_records_before_the_options(reader, holder) -> None:
    reader.select()
    for place in FILES:
        assert reader.record(*place) == Response(sw=0x6985)
    assert holder.calls == ["is_open"]


@pytest.mark.parametrize(
    ("place", "sw"), [((2, 2), 0x6A83), ((1, 4), 0x6A83), ((1, 0), 0x6A83), ((3, 1), 0x6A82), ((0, 1), 0x6A82)]
)
def test_records_that_are_not_there_spend_nothing(reader, holder, place, sw) -> None:
    reader.load()
    assert reader.record(*place) == Response(sw=sw)
    assert "spend" not in holder.calls


@pytest.mark.parametrize("mode", [0, 1, 2, 3, 5, 6, 7])
def test_records_are_read_by_number(reader, holder, mode) -> None:
    reader.load()
    assert reader.send(0x00, 0xB2, 1, 2 << 3 | mode) == Response(sw=0x6A86)
    assert "spend" not in holder.calls


def test_reading_a_record_takes_no_data(reader, holder) -> None:
    reader.load()
    assert reader.send(0x00, 0xB2, 1, 2 << 3 | 4, b"\x00") == Response(sw=0x6700)
    assert "spend" not in holder.calls


# --- GET DATA and VERIFY -------------------------------------------------------------------------------------------
def test_counter_only_once_a_card_is_chosen(reader) -> None:
    reader.select()
    assert reader.send(0x80, 0xCA, 0x9F, 0x36) == Response(sw=0x6985)
    reader.options()
    assert reader.send(0x80, 0xCA, 0x9F, 0x36) == Response(sw=0x9000, data=bytes.fromhex("9F36020007"))


def test_no_pin_try_is_ever_left_for_a_terminal(reader) -> None:
    reader.select()
    assert reader.send(0x80, 0xCA, 0x9F, 0x17) == Response(sw=0x9000, data=bytes.fromhex("9F170100"))
    reader.options()
    assert reader.send(0x80, 0xCA, 0x9F, 0x17) == Response(sw=0x9000, data=bytes.fromhex("9F170100"))


@pytest.mark.parametrize(("p1", "p2"), [(0x9F, 0x13), (0x9F, 0x4F), (0x00, 0x5A), (0x36, 0x9F), (0x00, 0x36)])
def test_other_data_are_not_given(reader, p1, p2) -> None:
    reader.load()
    assert reader.send(0x80, 0xCA, p1, p2) == Response(sw=0x6A88)


def test_data_are_of_the_application_and_asked_for_without_any(reader) -> None:
    reader.select(PSE)
    assert reader.send(0x80, 0xCA, 0x9F, 0x17) == Response(sw=0x6985)
    reader.select()
    assert reader.send(0x80, 0xCA, 0x9F, 0x17, b"\x00") == Response(sw=0x6700)


@pytest.mark.parametrize("p2", [0x80, 0x88])
@pytest.mark.parametrize("data", [b"", bytes.fromhex("241234FFFFFFFFFF"), bytes(176)])
def test_no_pin_is_taken_from_a_terminal(reader, holder, p2, data) -> None:
    reader.select()
    assert reader.send(0x00, 0x20, 0, p2, data) == Response(sw=0x6983)
    reader.options()
    assert reader.send(0x00, 0x20, 0, p2, data) == Response(sw=0x6983)
    assert not issuer_data(reader, reader.first()).cvr & Cvr.DEVICE_VERIFIED


@pytest.mark.parametrize(("p1", "p2"), [(0, 0), (0, 0x81), (1, 0x80)])
def test_other_verifications_are_not_known(reader, p1, p2) -> None:
    reader.load()
    assert reader.send(0x00, 0x20, p1, p2, bytes(8)) == Response(sw=0x6A86)


# --- INTERNAL AUTHENTICATE -----------------------------------------------------------------------------------------
def test_dynamic_signature_over_the_terminals_number(reader, holder, keys) -> None:
    reader.load()
    signed = reader.objects(reader.send(0x00, 0x88, data=UNPREDICTABLE))
    assert set(signed) == {0x9F4B}
    inside = dynamic.verify_dynamic(keys.card.public, signed[0x9F4B], UNPREDICTABLE)
    assert len(dynamic.parse_number(inside)) == 8
    with pytest.raises(CardDataInvalid) as refused:
        dynamic.verify_dynamic(keys.card.public, signed[0x9F4B], b"\xde\xad\xbe\xee")
    assert refused.value.code == "CARD_DATA_INVALID"
    # It must not pass for a purchase.
    with pytest.raises(CardDataInvalid) as refused:
        dynamic.parse_combined(inside)
    assert refused.value.code == "CARD_DATA_INVALID"
    assert holder.calls == ["is_open", "offer", "spend"]
    assert reader.send(0x00, 0x88, data=UNPREDICTABLE) == Response(sw=0x6985)
    assert reader.first().ok


@pytest.mark.parametrize("size", [0, 3, 5, 32, 255])
def test_nothing_but_the_ddols_four_bytes_is_signed(reader, holder, size) -> None:
    reader.load()
    assert reader.send(0x00, 0x88, data=bytes(size)) == Response(sw=0x6700)
    assert "spend" not in holder.calls
    assert reader.send(0x00, 0x88, data=bytes(4)).ok


def test_dynamic_signatures_have_their_place(reader, holder) -> None:
    reader.select()
    assert reader.send(0x00, 0x88, data=UNPREDICTABLE) == Response(sw=0x6985)
    reader.options()
    assert reader.send(0x00, 0x88, 1, 0, UNPREDICTABLE) == Response(sw=0x6A86)
    assert "spend" not in holder.calls
    assert reader.first().ok
    assert reader.send(0x00, 0x88, data=UNPREDICTABLE) == Response(sw=0x6985)
    reader.load()
    assert reader.first(0x00).ok
    assert reader.send(0x00, 0x88, data=UNPREDICTABLE) == Response(sw=0x6985)


# --- the first GENERATE AC -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("p1", [0x80, 0x40])
def test_cryptogram_is_online_only_and_over_all_that_was_said(reader, holder, p1) -> None:
    reader.load()
    answer = reader.first(p1)
    said = reader.objects(answer)
    assert list(said) == [0x9F27, 0x9F36, 0x9F26, 0x9F10]
    assert (said[0x9F27], said[0x9F36]) == (b"\x80", b"\x00\x07")
    assert issuer_data(reader, answer) == IssuerData(cvr=Cvr.ARQC, opening=holder.card.opening)
    assert said[0x9F26] == oracle(holder, reader.cdol1_data, b"\x33\x80", b"\x00\x07", said[0x9F10])
    # Each part is under it.
    for parts in (
        (reader.cdol1_data, b"\x32\x80", b"\x00\x07", said[0x9F10]),
        (reader.cdol1_data, b"\x33\x80", b"\x00\x08", said[0x9F10]),
        (reader.cdol1_data, b"\x33\x80", b"\x00\x07", said[0x9F10][:-1]),
        (reader.cdol1_data[:-1] + b"\x01", b"\x33\x80", b"\x00\x07", said[0x9F10]),
    ):
        assert said[0x9F26] != oracle(holder, *parts)


@pytest.mark.parametrize("p1", [0x90, 0x50])
def test_signature_binds_cryptogram_and_purchase(reader, holder, keys, p1) -> None:
    reader.load()
    said = reader.objects(reader.first(p1))
    assert list(said) == [0x9F27, 0x9F36, 0x9F4B, 0x9F10]

    def check(pdol_data: bytes, cdol_data: bytes, unpredictable: bytes = UNPREDICTABLE) -> dynamic.CombinedData:
        digest = transaction_hash(pdol_data, (cdol_data,), information=0x80, atc=7, issuer_data=said[0x9F10])
        return verify_combined(
            keys.card.public, said[0x9F4B], unpredictable=unpredictable, transaction_hash=digest, information=0x80
        )

    signed = check(reader.pdol_data, reader.cdol1_data)
    assert signed.cryptogram == oracle(holder, reader.cdol1_data, b"\x33\x80", b"\x00\x07", said[0x9F10])
    assert len(signed.number) == 8
    for altered in (
        # The merchant's name is in the PDOL data only.
        (reader.pdol_data.replace(b"TEA", b"PEA"), reader.cdol1_data),
        (reader.pdol_data, reader.cdol1_data[:5] + b"\x46" + reader.cdol1_data[6:]),
        (reader.pdol_data, reader.cdol1_data, b"\xde\xad\xbe\xee"),
    ):
        with pytest.raises(CardDataInvalid) as refused:
            check(*altered)
        assert refused.value.code == "CARD_DATA_INVALID"


def test_dynamic_numbers_are_fresh(reader, keys) -> None:
    numbers = set()
    for _ in range(3):
        reader.load()
        inside = dynamic.verify_dynamic(keys.card.public, reader.objects(reader.first())[0x9F4B], UNPREDICTABLE)
        numbers.add(dynamic.parse_combined(inside).number)
    assert len(numbers) == 3


@pytest.mark.parametrize(
    ("changes", "channel", "cvr"),
    [
        ({}, Channel.CONTACTLESS, Cvr.ARQC),
        ({"device_verified": True}, Channel.CONTACTLESS, Cvr.ARQC | Cvr.DEVICE_VERIFIED),
        ({"retry": True}, Channel.CONTACTLESS, Cvr.ARQC | Cvr.RETRY),
        ({}, Channel.CONTACT, Cvr.ARQC | Cvr.CONTACT),
    ],
)
def test_the_card_itself_says_how_it_was_opened(reader, holder, entropy, changes, channel, cvr) -> None:
    holder.card = replace(holder.card, **changes)
    reader.process = Applet(holder, entropy, channel=channel).process
    reader.load()
    assert issuer_data(reader, reader.first()).cvr == cvr


DECLINED = [
    (0x90, {0x9F02: bytes.fromhex("000000012346")}, Cvr.CONSENT_MISMATCH),
    (0x90, {0x5F2A: bytes.fromhex("0978")}, Cvr.CONSENT_MISMATCH),
    (0x90, {0x9F16: b"MERCHANT0000002"}, Cvr.CONSENT_MISMATCH),
    (0x90, {0x9F1C: b"TERM0002"}, Cvr.CONSENT_MISMATCH),
    (0x90, {0x9F37: b"\xde\xad\xbe\xee"}, Cvr.CONSENT_MISMATCH),
    (0x90, {0x9F03: bytes.fromhex("000000000001")}, Cvr.CONSENT_MISMATCH),
    *((0x90, {0x9F34: bytes([method]) + bytes(2)}, Cvr.VERIFICATION_CONTRADICTED) for method in (0, 1, 2, 3, 4, 0x1E)),
    (0x90, {0x9F34: bytes.fromhex("420302")}, Cvr.VERIFICATION_CONTRADICTED),
    (0x00, {}, Cvr.TERMINAL_DECLINED),
    (0x10, {}, Cvr.TERMINAL_DECLINED),
    (
        0x00,
        {0x9F02: bytes(6), 0x9F34: bytes.fromhex("020002")},
        Cvr.TERMINAL_DECLINED | Cvr.CONSENT_MISMATCH | Cvr.VERIFICATION_CONTRADICTED,
    ),
]


@pytest.mark.parametrize(("p1", "changes", "cvr"), DECLINED)
def test_what_ends_in_an_aac(reader, holder, p1, changes, cvr) -> None:
    reader.load()
    answer = reader.first(p1, changes)
    said = reader.objects(answer)
    # No signature under an AAC, though CDA is asked for.
    assert list(said) == [0x9F27, 0x9F36, 0x9F26, 0x9F10]
    assert said[0x9F27] == b"\x00"
    assert issuer_data(reader, answer) == IssuerData(cvr=cvr, opening=holder.card.opening)
    assert said[0x9F26] == oracle(holder, reader.cdol1_data, b"\x33\x80", b"\x00\x07", said[0x9F10])
    assert reader.first() == Response(sw=0x6985)
    assert reader.second(b"00", bytes(10)) == Response(sw=0x6985)


def test_every_bit_of_what_was_consented_to_decides(reader) -> None:
    reader.load()
    reader.first(0x80)
    said = reader.cdol1_data
    # Offsets of 9F02, 9F03, 5F2A, 9F37, 9F16 with 9F1C, and of the first byte of 9F34, in CDOL1's data.
    consented = {*range(6), *range(6, 12), *range(19, 21), *range(25, 29), *range(33, 56)}
    for bit in range(8 * len(said)):
        altered = (int.from_bytes(said, "big") ^ 1 << bit).to_bytes(len(said), "big")
        offset, place = len(said) - 1 - bit // 8, bit % 8
        reader.load()
        answer = reader.objects(reader.generate(0x80, altered))
        # 1F becomes 3F with bit 6, and the two high bits say nothing of the method.
        decides = offset in consented or (offset == 30 and place < 5)
        assert (offset, place, answer[0x9F27]) == (offset, place, b"\x00" if decides else b"\x80")


@pytest.mark.parametrize("results", ["1F0002", "1F0300", "3F0000", "5F0302", "7F0000"])
def test_a_terminal_that_verified_nobody_contradicts_nothing(reader, results) -> None:
    reader.load()
    assert reader.objects(reader.first(changes={0x9F34: bytes.fromhex(results)}))[0x9F27] == b"\x80"


@pytest.mark.parametrize(("p1", "p2"), [(0xC0, 0), (0xD0, 0), (0x81, 0), (0xA0, 0), (0x98, 0), (0x88, 0), (0x80, 1)])
def test_other_references_are_refused(reader, holder, p1, p2) -> None:
    reader.load()
    reader.first(0x90)
    data = reader.cdol1_data
    reader.load()
    holder.calls.clear()
    assert reader.send(0x80, 0xAE, p1, p2, data) == Response(sw=0x6A86)
    assert holder.calls == []
    assert reader.first().ok


@pytest.mark.parametrize("size", [0, 21, 55, 57, 255])
def test_cdol1_data_of_another_length(reader, holder, size) -> None:
    reader.load()
    assert reader.generate(0x90, bytes(size)) == Response(sw=0x6700)
    assert "spend" not in holder.calls
    assert reader.first().ok


def test_no_cryptogram_before_the_options(reader, holder) -> None:
    reader.select()
    assert reader.first() == Response(sw=0x6985)
    assert holder.calls == ["is_open"]


def test_a_cryptogram_spends_the_card_also_without_records(reader, holder) -> None:
    reader.load()
    assert reader.first().ok
    assert reader.record(2, 1).ok
    assert holder.calls == ["is_open", "offer", "spend"]


# --- the second GENERATE AC ----------------------------------------------------------------------------------------
@pytest.fixture
def arqc(reader, holder) -> bytes:
    reader.load()
    return reader.objects(reader.first(0x80))[0x9F26]


APPROVED = Cvr.ARQC | Cvr.COMPLETED | Cvr.ISSUER_AUTHENTICATED


def test_the_issuers_approval_completes(reader, holder, arqc) -> None:
    answer = reader.second(b"00", response_cryptogram(holder, arqc, b"00") + b"00")
    said = reader.objects(answer)
    assert list(said) == [0x9F27, 0x9F36, 0x9F26, 0x9F10]
    assert said[0x9F27] == b"\x40"
    assert issuer_data(reader, answer) == IssuerData(cvr=APPROVED, opening=holder.card.opening)
    assert said[0x9F26] == oracle(holder, reader.cdol2_data, b"\x33\x80", b"\x00\x07", said[0x9F10])
    assert reader.generate(0x40, reader.cdol2_data) == Response(sw=0x6985)
    assert reader.first() == Response(sw=0x6985)
    assert holder.calls == ["is_open", "offer", "spend"]


def test_approval_under_a_signature(reader, holder, keys, arqc) -> None:
    said = reader.objects(reader.second(b"00", response_cryptogram(holder, arqc, b"00") + b"00", 0x50))
    assert list(said) == [0x9F27, 0x9F36, 0x9F4B, 0x9F10]

    def check(*cdol_data: bytes) -> dynamic.CombinedData:
        digest = transaction_hash(reader.pdol_data, cdol_data, information=0x40, atc=7, issuer_data=said[0x9F10])
        return verify_combined(
            keys.card.public, said[0x9F4B], unpredictable=UNPREDICTABLE, transaction_hash=digest, information=0x40
        )

    signed = check(reader.cdol1_data, reader.cdol2_data)
    assert signed.cryptogram == oracle(holder, reader.cdol2_data, b"\x33\x80", b"\x00\x07", said[0x9F10])
    for altered in ((reader.cdol2_data,), (reader.cdol1_data,), (reader.cdol1_data, reader.cdol2_data[:-1] + b"\x00")):
        with pytest.raises(CardDataInvalid) as refused:
            check(*altered)
        assert refused.value.code == "CARD_DATA_INVALID"


@pytest.mark.parametrize(
    ("code", "signed_code", "sent_code", "flip", "p1", "cvr"),
    [
        (b"00", b"00", b"00", 1, 0x40, Cvr.ARQC | Cvr.COMPLETED),  # ARPC altered
        (b"00", b"05", b"05", 0, 0x40, Cvr.ARQC | Cvr.COMPLETED),  # a decline's ARPC
        (b"00", b"00", b"05", 0, 0x40, Cvr.ARQC | Cvr.COMPLETED),  # code beside the ARPC altered
        (b"00", b"05", b"00", 0, 0x40, Cvr.ARQC | Cvr.COMPLETED),
        (b"Y3", b"00", b"00", 0, 0x40, Cvr.ARQC | Cvr.COMPLETED),  # "could not go online, approved"
        (b"05", b"05", b"05", 0, 0x40, APPROVED),  # declined by the issuer
        (b"00", b"00", b"00", 0, 0x80, APPROVED),  # a second time online
        (b"00", b"00", b"00", 0, 0x00, APPROVED | Cvr.TERMINAL_DECLINED),
        (b"00", b"00", b"00", 0, 0x10, APPROVED | Cvr.TERMINAL_DECLINED),
        (b"05", b"05", b"05", 0, 0x50, APPROVED),  # with CDA asked for
    ],
)
def test_anything_else_ends_in_an_aac(reader, holder, arqc, code, signed_code, sent_code, flip, p1, cvr) -> None:
    arpc = response_cryptogram(holder, arqc, signed_code)
    answer = reader.second(code, bytes([arpc[0] ^ flip]) + arpc[1:] + sent_code, p1)
    said = reader.objects(answer)
    assert list(said) == [0x9F27, 0x9F36, 0x9F26, 0x9F10]
    assert said[0x9F27] == b"\x00"
    assert issuer_data(reader, answer).cvr == cvr
    assert said[0x9F26] == oracle(holder, reader.cdol2_data, b"\x33\x80", b"\x00\x07", said[0x9F10])
    assert reader.second(b"00", response_cryptogram(holder, arqc, b"00") + b"00") == Response(sw=0x6985)


def test_an_earlier_transactions_approval_is_none_of_this(reader, holder, arqc) -> None:
    approval = response_cryptogram(holder, arqc, b"00") + b"00"
    reader.load()
    reader.first(0x80)
    answer = reader.second(b"00", approval)
    assert reader.objects(answer)[0x9F27] == b"\x00"
    assert issuer_data(reader, answer).cvr == Cvr.ARQC | Cvr.COMPLETED


def test_every_bit_of_the_issuers_answer_decides(reader, holder) -> None:
    for bit in range(8 * 12):
        reader.load()
        cryptogram = reader.objects(reader.first(0x80))[0x9F26]
        right = b"00" + response_cryptogram(holder, cryptogram, b"00") + b"00"
        altered = (int.from_bytes(right, "big") ^ 1 << bit).to_bytes(12, "big")
        answer = reader.second(altered[:2], altered[2:])
        assert (bit, reader.objects(answer)[0x9F27]) == (bit, b"\x00")
        assert not issuer_data(reader, answer).cvr & Cvr.ISSUER_AUTHENTICATED


@pytest.mark.parametrize("size", [0, 20, 22, 56])
def test_cdol2_data_of_another_length_change_nothing(reader, holder, arqc, size) -> None:
    assert reader.generate(0x40, bytes(size)) == Response(sw=0x6700)
    answer = reader.second(b"00", response_cryptogram(holder, arqc, b"00") + b"00")
    assert reader.objects(answer)[0x9F27] == b"\x40"


# --- faults and torn taps ------------------------------------------------------------------------------------------
def whole_tap(reader: Any) -> bool:
    """PPSE to a signed ARQC."""
    assert reader.select(PPSE).ok
    assert reader.load().ok
    assert all(reader.record(*place).ok for place in FILES)
    return reader.objects(reader.first())[0x9F27] == b"\x80"


STEPS: list[Callable[[Any], Response]] = [
    lambda reader: reader.select(PPSE),
    lambda reader: reader.select(),
    lambda reader: reader.options(),
    *((lambda reader, place=place: reader.record(*place)) for place in FILES),
    lambda reader: reader.send(0x00, 0x88, data=UNPREDICTABLE),
    lambda reader: reader.first(0x80),
    lambda reader: reader.second(b"00", bytes(10)),
]


@pytest.mark.parametrize("steps", range(1, len(STEPS) + 1))
def test_a_torn_tap_blocks_nothing(applet, reader, steps) -> None:
    for step in STEPS[:steps]:
        assert step(reader).ok
    applet.reset()
    # The field's end is also the session's.
    assert reader.record(2, 1) == Response(sw=0x6985)
    assert reader.first() == Response(sw=0x6985)
    assert whole_tap(reader)


@pytest.mark.parametrize("use", [STEPS[3], STEPS[7], STEPS[8]])
@pytest.mark.parametrize(
    ("obstacle", "sw"), [(NotOpen(), 0x6985), (StorageFault(), 0x6F00), (CardDataInvalid(), 0x6F00)]
)
def test_a_card_that_cannot_be_spent_says_nothing(reader, holder, use, obstacle, sw) -> None:
    reader.load()
    holder.obstacles["spend"] = obstacle
    assert use(reader) == Response(sw=sw)
    holder.obstacles.clear()
    for step in STEPS[2:]:
        assert step(reader) == Response(sw=0x6985)
    assert whole_tap(reader)


@pytest.mark.parametrize("method", ["is_open", "offer"])
@pytest.mark.parametrize("obstacle", [StorageFault(), CardDataInvalid()])
def test_a_port_at_fault_ends_the_session(reader, holder, method, obstacle) -> None:
    reader.select()
    holder.obstacles[method] = obstacle
    assert (reader.select() if method == "is_open" else reader.options()) == Response(sw=0x6F00)
    holder.obstacles.clear()
    assert reader.options() == Response(sw=0x6985)
    assert whole_tap(reader)


def test_a_key_at_fault_gives_no_answer(reader, holder) -> None:
    good = holder.card
    holder.card = replace(good, key=replace(good.key, d_p=good.key.d_p ^ 2))
    for use in (STEPS[7], lambda reader: reader.first(0x90)):
        reader.load()
        assert use(reader) == Response(sw=0x6F00)
        assert reader.first() == Response(sw=0x6985)
    holder.card = good
    assert whole_tap(reader)


def test_nothing_but_refusals_is_caught(reader, holder) -> None:
    holder.obstacles["offer"] = ZeroDivisionError()
    reader.select()
    with pytest.raises(ZeroDivisionError):
        reader.options()
    assert not issubclass(ZeroDivisionError, ProtocolError)
