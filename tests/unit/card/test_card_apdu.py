"""Commands and answers as bytes (ISO/IEC 7816-4 §5.1)."""

from __future__ import annotations

import pytest

from protocol.card.apdu import Command, Response, Sw
from protocol.errors import CardDataInvalid

CASES = {
    "00A40400": Command(cla=0, ins=0xA4, p1=4, p2=0),
    "80CA9F3605": Command(cla=0x80, ins=0xCA, p1=0x9F, p2=0x36, le=5),
    "00B2010C00": Command(cla=0, ins=0xB2, p1=1, p2=0x0C, le=256),
    "0088000002ABCD": Command(cla=0, ins=0x88, p1=0, p2=0, data=b"\xab\xcd"),
    "0088000002ABCD00": Command(cla=0, ins=0x88, p1=0, p2=0, data=b"\xab\xcd", le=256),
    "0088000002ABCD10": Command(cla=0, ins=0x88, p1=0, p2=0, data=b"\xab\xcd", le=16),
}


@pytest.mark.parametrize("text", CASES)
def test_the_four_cases_there_and_back(text: str) -> None:
    raw = bytes.fromhex(text)
    assert Command.from_bytes(raw) == CASES[text]
    assert CASES[text].to_bytes() == raw


def test_the_longest_command_there_and_back() -> None:
    command = Command(cla=0x80, ins=0xAE, p1=0, p2=0, data=bytes(255), le=256)
    assert len(command.to_bytes()) == 261
    assert Command.from_bytes(command.to_bytes()) == command


@pytest.mark.parametrize(
    "text",
    [
        *("", "00", "00A404"),
        "00A4040003ABCD",  # Lc over the data
        "00A4040001ABCDEF",  # two bytes behind the data
        "00A404000000",  # Lc of nothing
        "00A4040000000100",  # extended length
        "00A40400FF" + "00" * 257,
    ],
)
def test_other_bytes_are_no_command(text: str) -> None:
    with pytest.raises(CardDataInvalid) as refused:
        Command.from_bytes(bytes.fromhex(text))
    assert refused.value.code == "CARD_DATA_INVALID"


def test_data_over_255_bytes_are_not_sent() -> None:
    with pytest.raises(CardDataInvalid) as refused:
        Command(cla=0, ins=0x88, p1=0, p2=0, data=bytes(256)).to_bytes()
    assert refused.value.code == "CARD_DATA_INVALID"


@pytest.mark.parametrize(("text", "ok"), [("9000", True), ("ABCD9000", True), ("6A82", False), ("90009001", False)])
def test_answers_there_and_back(text: str, ok: bool) -> None:
    raw = bytes.fromhex(text)
    answer = Response.from_bytes(raw)
    assert (answer.data, answer.sw, answer.ok) == (raw[:-2], int(text[-4:], 16), ok)
    assert answer.to_bytes() == raw


@pytest.mark.parametrize("size", [0, 1, 259])
def test_other_bytes_are_no_answer(size: int) -> None:
    with pytest.raises(CardDataInvalid) as refused:
        Response.from_bytes(bytes(size))
    assert refused.value.code == "CARD_DATA_INVALID"


def test_the_longest_answer_is_one() -> None:
    assert len(Response.from_bytes(bytes(256) + b"\x90\x00").data) == 256


def test_status_words_are_those_of_the_standards() -> None:
    assert {word.name: f"{word:04X}" for word in Sw} == {
        "OK": "9000",
        "WRONG_LENGTH": "6700",
        "AUTHENTICATION_BLOCKED": "6983",
        "CONDITIONS_NOT_SATISFIED": "6985",
        "SEE_PHONE": "6986",
        "WRONG_DATA": "6A80",
        "FILE_NOT_FOUND": "6A82",
        "RECORD_NOT_FOUND": "6A83",
        "WRONG_PARAMETERS": "6A86",
        "REFERENCED_DATA_NOT_FOUND": "6A88",
        "INSTRUCTION_NOT_SUPPORTED": "6D00",
        "CLASS_NOT_SUPPORTED": "6E00",
        "NO_DIAGNOSIS": "6F00",
    }
