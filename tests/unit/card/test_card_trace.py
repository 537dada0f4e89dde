"""An exchange in words: what is named, and what is never shown."""

from __future__ import annotations

import random

import pytest
from support.cards import Field, answered, application, make_terminal

from protocol.card import profile, tlv
from protocol.card.apdu import Command, Ins
from protocol.card.tap import SeePhone
from protocol.card.trace import decode_trace

PAN = "9999101234567890123"


def command(ins: int, p1: int = 0, p2: int = 0, data: bytes = b"", cla: int = 0x80) -> bytes:
    return Command(cla=cla, ins=ins, p1=p1, p2=p2, data=data, le=256).to_bytes()


@pytest.fixture
def field(applet, ca_key) -> Field:
    field = Field(applet.process)
    field.tap(make_terminal(ca_key))
    return field


def shown(ins: int, answer: bytes, **facts) -> list[str]:
    """What one answer with status 9000 is shown as."""
    lines = decode_trace([(command(ins, **facts), answered(answer))])
    return [line.strip() for line in lines[lines.index("< 9000 ok") + 1 :]]


def value(tag: int, data: bytes) -> str:
    (line,) = shown(Ins.INTERNAL_AUTHENTICATE, tlv.encode(tag, data))
    return line


def test_a_purchase_in_words(field, card_data) -> None:
    lines = decode_trace(field.trace)
    assert [line for line in lines if line[0] in "<>"] == [
        '> SELECT "2PAY.SYS.DDF01"',
        "< 9000 ok",
        "> SELECT F05441505645494C01",
        "< 9000 ok",
        "> GET PROCESSING OPTIONS",
        "< 9000 ok",
        "> READ RECORD 1 of file 2",
        "< 9000 ok",
        "> READ RECORD 1 of file 1",
        "< 9000 ok",
        "> READ RECORD 2 of file 1",
        "< 9000 ok",
        "> READ RECORD 3 of file 1",
        "< 9000 ok",
        "> GENERATE AC ARQC with CDA",
        "< 9000 ok",
    ]
    at = lines.index("> GET PROCESSING OPTIONS")
    assert lines[at + 1 : at + 7] == (
        "    9F02 Amount, authorized: 000000012345",
        "    5F2A Transaction currency code: 0901",
        '    9F16 Merchant identifier: "MERCHANT0000001"',
        '    9F1C Terminal identification: "TERM0001"',
        '    9F4E Merchant name and location: "TEA HOUSE\\TAIPEI"',
        "    9F37 Unpredictable number: DEADBEEF",
    )
    masked = f"{card_data.pan[:6]}*********{card_data.pan[-4:]}"
    for line in (
        '                    50 Application label: "TAPVEIL"',
        f"        5A Application PAN: {masked}",
        "        8D CDOL2: 8A[2] 91[10] 95[5] 9F37[4]",
        "        90 Issuer public key certificate: <248 bytes>",
        "    95 Terminal verification results: 0000008000 floor limit exceeded",
        "    9F34 Cardholder verification results: 1F0002",
        "        9F27 Cryptogram information data: 80 ARQC",
        "        9F4B Signed dynamic application data: <176 bytes>",
    ):
        assert line in lines


def test_number_certificates_and_signatures_do_not_show(field, card_data) -> None:
    text = "\n".join(decode_trace(field.trace)).upper()
    assert card_data.pan not in text
    for record in card_data.records:
        for item in tlv.decode(record.data)[0].children:
            if len(item.value) > 40:
                assert item.value[:4].hex().upper() not in text
    signature = tlv.value_of(tlv.decode(field.trace[-1][1][:-2])[0].children, 0x9F4B)
    assert signature[:4].hex().upper() not in text


@pytest.mark.parametrize("tag", [0x56, 0x57, 0x5F20, 0x9F1F, 0x9F20, 0x9F6B, 0x42, 0x9F5D])
def test_stripe_data_names_and_unknown_data_are_sizes(tag) -> None:
    data = bytes.fromhex(PAN + "D")
    assert value(tag, data).endswith(": <10 bytes>")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (bytes.fromhex(PAN + "F"), "999910*********0123"),
        (bytes.fromhex("4111111111111111"), "411111******1111"),
        (bytes.fromhex("123456789012"), "<6 bytes>"),
        (bytes.fromhex("41111111111111AB"), "<8 bytes>"),
        (b"", "<0 bytes>"),
    ],
)
def test_a_number_is_masked_or_not_shown(data, said) -> None:
    assert value(0x5A, data) == f"5A Application PAN: {said}"


def test_a_pin_is_not_shown() -> None:
    pin = bytes.fromhex("241234FFFFFFFFFF")
    trace = [(command(Ins.VERIFY, 0, 0x80, pin, cla=0), answered(sw=0x6983))]
    assert decode_trace(trace) == ("> VERIFY <8 bytes>", "< 6983 authentication blocked")


def test_other_commands_have_names() -> None:
    assert decode_trace([(command(Ins.GET_DATA, 0x9F, 0x36), answered(tlv.encode(0x9F36, b"\x00\x07")))]) == (
        "> GET DATA 9F36 Application transaction counter",
        "< 9000 ok",
        "    9F36 Application transaction counter: 0007",
    )
    assert decode_trace([(command(Ins.GET_DATA, 0x12, 0x34), answered(sw=0x6A88))]) == (
        "> GET DATA 1234 Unknown",
        "< 6A88 referenced data not found",
    )
    assert decode_trace([(command(0xC0), answered(sw=0x6D00)), (command(0x82, data=b"A"), answered(sw=0x6123))]) == (
        "> INS C0",
        "< 6D00 instruction not supported",
        "> EXTERNAL AUTHENTICATE <1 bytes>",
        "< 6123",
    )


def test_see_phone_is_said(applet, holder, ca_key) -> None:
    holder.obstacles = {"offer": SeePhone()}
    field = Field(applet.process)
    field.tap(make_terminal(ca_key))
    assert decode_trace(field.trace)[-1] == "< 6986 see phone"


def test_answers_of_the_first_format() -> None:
    assert (
        shown(Ins.GET_PROCESSING_OPTIONS, tlv.encode(0x80, b"\x33\x80\x08\x01\x03\x00"))[0] == "80 Response, format 1"
    )
    assert shown(Ins.GET_PROCESSING_OPTIONS, tlv.encode(0x80, b"\x33\x80\x08\x01\x03\x00"))[1:] == [
        "82 Application interchange profile: 3380",
        "94 Application file locator: 08010300",
    ]
    assert shown(Ins.GENERATE_AC, tlv.encode(0x80, b"\x00\x00\x07" + bytes(8) + b"\x01"))[1:] == [
        "9F27 Cryptogram information data: 00 AAC",
        "9F36 Application transaction counter: 0007",
        "9F26 Application cryptogram: 0000000000000000",
        "9F10 Issuer application data: 01",
    ]
    assert shown(Ins.INTERNAL_AUTHENTICATE, tlv.encode(0x80, bytes(176)))[1:] == ["<176 bytes>"]
    assert decode_trace([(b"", answered(b"\x80\x01\x05"))])[2:] == ("    80 Response, format 1", "        <1 bytes>")
    assert shown(Ins.GENERATE_AC, b"\x80\x00")[1] == "9F27 Cryptogram information data:"


def test_types_of_cryptograms_are_named() -> None:
    for reference, name in ((0x00, "AAC"), (0x40, "TC"), (0x80, "ARQC"), (0xC0, "of a reserved type")):
        assert decode_trace([(command(Ins.GENERATE_AC, reference), b"\x69\x85")])[0] == f"> GENERATE AC {name}"
        assert value(0x9F27, bytes([reference])).endswith(f": {reference:02X} {name}")


def test_lists_of_both_cryptograms_are_kept_until_the_next_select() -> None:
    lists = tlv.encode(0x70, tlv.encode_all(((0x8C, b"\x9a\x03"), (0x8D, b"\x8a\x02"))))
    trace = [
        (command(Ins.READ_RECORD, 1, 0x0C, cla=0), answered(lists)),
        (command(Ins.GENERATE_AC, 0x80, data=b"\x26\x11\x20"), answered()),
        (command(Ins.GENERATE_AC, 0x40, data=b"00"), answered()),
        (command(Ins.SELECT, 4, 0, profile.AID, cla=0), answered(application())),
        (command(Ins.GENERATE_AC, 0x80, data=b"\x26\x11\x20"), answered()),
    ]
    lines = decode_trace(trace)
    assert "    9A Transaction date: 261120" in lines
    assert '    8A Authorization response code: "00"' in lines
    assert lines[-3:] == ("> GENERATE AC ARQC", "    <3 bytes>", "< 9000 ok")


def test_a_broken_list_is_not_kept() -> None:
    good, bad = (tlv.encode(0x70, tlv.encode(0x8C, dol)) for dol in (b"\x9a\x03", b"\x9a"))
    trace = [(command(Ins.READ_RECORD, 1, 0x0C, cla=0), answered(record)) for record in (good, bad)]
    lines = decode_trace([*trace, (command(Ins.GENERATE_AC, 0x80, data=b"\x26\x11\x20"), answered())])
    assert "        8C CDOL1: <1 bytes>" in lines
    assert lines[-2] == "    <3 bytes>"


def test_data_that_do_not_fit_their_list_are_a_size() -> None:
    selected = (command(Ins.SELECT, 4, 0, profile.AID, cla=0), answered(application(pdol=b"\x9f\x37\x04")))
    for data, line in ((b"\x83\x01\x00", "    <1 bytes>"), (b"\x84\x00", "    <2 bytes>"), (b"\x83", "    <1 bytes>")):
        lines = decode_trace([selected, (command(Ins.GET_PROCESSING_OPTIONS, data=data), answered())])
        assert lines[-3:] == ("> GET PROCESSING OPTIONS", line, "< 9000 ok")
    lines = decode_trace([selected, (command(Ins.GET_PROCESSING_OPTIONS, data=b"\x83\x04ABCD"), answered())])
    assert lines[-2] == "    9F37 Unpredictable number: 41424344"


def test_texts_that_are_none_are_hexadecimal() -> None:
    assert value(0x50, b"\x01\x02") == "50 Application label: 0102"
    assert value(0x9F4E, b"CAFE" + bytes(4)) == '9F4E Merchant name and location: "CAFE"'
    assert value(0x9F16, bytes(3)) == "9F16 Merchant identifier: 000000"


def test_anything_can_be_read() -> None:
    assert decode_trace([]) == ()
    assert decode_trace([(b"\x00", b"\x90")]) == (
        "> 1 bytes that are no command",
        "< 1 bytes that are no answer",
    )
    assert shown(Ins.READ_RECORD, b"\x70\x05\x01") == ["<3 bytes that are no data objects>"]
    assert shown(Ins.READ_RECORD, b"\x7f\x01\x00") == ["7F01 Unknown"]
    chance = random.Random(5)
    for _ in range(300):
        sent = bytes([chance.choice([0x00, 0x80]), chance.choice(list(Ins))]) + chance.randbytes(chance.randrange(12))
        received = chance.choice([b"\x70\x04", b"\x80\x03", b"\x77", b""]) + chance.randbytes(chance.randrange(20))
        assert all(line[0] in "<> " for line in decode_trace([(sent, received)]))
