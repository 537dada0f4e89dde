"""Terminal set-up, processing restrictions, risk management, action analysis (EMV Book 3 §10.4 to §10.7)."""

from __future__ import annotations

from datetime import date

import pytest
from support.cards import TODAY, make_sale, make_terminal

from protocol.card import profile
from protocol.card.combined import CryptogramType
from protocol.card.risk import NOTHING, Tvr, analyze, encode_tvr, manage_risk, parse_date, restrict
from protocol.card.terminal import DENIAL, ONLINE, terminal_data
from protocol.errors import CardDataInvalid

TERMINAL = make_terminal()
GOOD = {0x5F24: bytes.fromhex("261231")}
HOME, ABROAD = b"\x01\x58", b"\x08\x40"


def found(**changes: bytes) -> Tvr:
    tags = {f"t{tag:X}": tag for tag in (0x5F24, 0x5F25, 0x5F28, 0x9F07, 0x9F08)}
    return restrict(TERMINAL, TODAY, GOOD | {tags[name]: value for name, value in changes.items()})


def refused(call, *arguments) -> None:
    with pytest.raises(CardDataInvalid) as refusal:
        call(*arguments)
    assert refusal.value.code == "CARD_DATA_INVALID"


@pytest.mark.parametrize(
    "changes",
    [
        {"merchant_identifier": ""}, {"merchant_identifier": "M" * 16}, {"terminal": "T" * 9}, {"terminal": ""},
        {"merchant_name": "N" * 41}, {"merchant_name": ""}, {"merchant_name": "茶"}, {"merchant_name": "a\nb"},
        {"applications": ()}, {"applications": (profile.AID[:4],)}, {"applications": (bytes(17),)},
        {"country": 1000}, {"country": -1}, {"terminal_type": 256}, {"terminal_type": -1},
        {"denial": bytes(4)}, {"online": bytes(6)},
    ],
)  # fmt: skip
def test_a_terminal_is_set_up_right(changes) -> None:
    with pytest.raises(CardDataInvalid) as refusal:
        make_terminal(**changes)
    assert refusal.value.code == "CARD_DATA_INVALID"


@pytest.mark.parametrize(
    "changes",
    [{"amount_minor": -1}, {"amount_minor": 10**12}, {"currency": "XXX"}, {"unpredictable": bytes(3)}],
)
def test_a_sale_is_one(changes) -> None:
    with pytest.raises(CardDataInvalid) as refusal:
        make_sale(**changes)
    assert refusal.value.code == "CARD_DATA_INVALID"


def test_the_terminals_data_elements() -> None:
    assert terminal_data(make_terminal(merchant_identifier="M1", country=36), make_sale()) == {
        0x9F02: bytes.fromhex("000000012345"), 0x9F03: bytes(6), 0x5F2A: b"\x09\x01", 0x9A: b"\x26\x11\x20",
        0x9C: b"\x00", 0x9F16: b"M1", 0x9F1C: b"TERM0001", 0x9F4E: b"TEA HOUSE\\TAIPEI", 0x9F1A: b"\x00\x36",
        0x9F35: b"\x22", 0x9F37: b"\xde\xad\xbe\xef",
    }  # fmt: skip


def test_tvr_bits_are_the_books() -> None:
    assert {bit.name: encode_tvr(bit).hex() for bit in Tvr} == {
        "AUTHENTICATION_NOT_PERFORMED": "8000000000",
        "CARD_DATA_MISSING": "2000000000",
        "CDA_FAILED": "0400000000",
        "VERSIONS_DIFFER": "0080000000",
        "EXPIRED": "0040000000",
        "NOT_YET_EFFECTIVE": "0020000000",
        "SERVICE_NOT_ALLOWED": "0010000000",
        "VERIFICATION_FAILED": "0000800000",
        "VERIFICATION_UNRECOGNIZED": "0000400000",
        "PIN_PAD_MISSING": "0000100000",
        "FLOOR_LIMIT_EXCEEDED": "0000008000",
    }


def test_version_is_compared_where_there_is_one() -> None:
    assert found() == NOTHING
    assert found(t9F08=b"\x00\x01") == NOTHING
    assert found(t9F08=b"\x00\x02") == Tvr.VERSIONS_DIFFER


def test_dates_bound_a_cards_use() -> None:
    assert found(t5F24=bytes.fromhex("261120"), t5F25=bytes.fromhex("261120")) == NOTHING
    assert found(t5F24=bytes.fromhex("261119")) == Tvr.EXPIRED
    assert found(t5F24=bytes.fromhex("991231")) == Tvr.EXPIRED
    assert found(t5F25=bytes.fromhex("261121")) == Tvr.NOT_YET_EFFECTIVE


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("000101", date(2000, 1, 1)),
        ("491231", date(2049, 12, 31)),
        ("500101", date(1950, 1, 1)),
        ("280229", date(2028, 2, 29)),
    ],
)
def test_dates_have_a_century(text, day) -> None:
    assert parse_date(bytes.fromhex(text)) == day


@pytest.mark.parametrize(
    "text", ["", "2611", "261301", "260229", "261100", "26111A", "00261120", "26112000", "20261120", "99" * 8]
)
def test_what_is_no_date_is_refused(text) -> None:
    refused(parse_date, bytes.fromhex(text))


@pytest.mark.parametrize(("control", "country", "allowed"), [
    ("3D00", HOME, True), ("3D00", ABROAD, True), ("3D00", None, True), ("0100", None, True),
    ("3C00", HOME, False), ("3E00", None, False), ("0000", None, False),
    ("2100", HOME, True), ("0900", HOME, True), ("2100", ABROAD, False), ("0900", ABROAD, False),
    ("1100", ABROAD, True), ("0500", ABROAD, True), ("1100", HOME, False), ("0500", HOME, False),
    ("C1FF", HOME, False),
])  # fmt: skip
def test_usage_control_is_obeyed(control, country, allowed) -> None:
    changes = {"t9F07": bytes.fromhex(control)} | ({} if country is None else {"t5F28": country})
    assert found(**changes) == (NOTHING if allowed else Tvr.SERVICE_NOT_ALLOWED)


def test_usage_control_is_two_bytes() -> None:
    for control in (b"", b"\x3d", b"\x3d\x00\x00"):
        refused(restrict, TERMINAL, TODAY, GOOD | {0x9F07: control})


def test_everything_is_over_the_floor() -> None:
    assert manage_risk() == Tvr.FLOOR_LIMIT_EXCEEDED


@pytest.mark.parametrize("bit", list(Tvr))
def test_each_finding_has_its_consequence(bit) -> None:
    card = {0x9F0D: profile.ACTION_DEFAULT, 0x9F0E: profile.ACTION_DENIAL, 0x9F0F: profile.ACTION_ONLINE}
    denied = {
        Tvr.AUTHENTICATION_NOT_PERFORMED, Tvr.CARD_DATA_MISSING, Tvr.CDA_FAILED, Tvr.EXPIRED, Tvr.NOT_YET_EFFECTIVE,
        Tvr.SERVICE_NOT_ALLOWED, Tvr.VERIFICATION_FAILED,
    }  # fmt: skip
    wanted = CryptogramType.AAC if bit in denied else CryptogramType.ARQC
    assert analyze(TERMINAL, bit | manage_risk(), card) is wanted
    # The terminal's own codes do the same for a card that has none; and the card's for a terminal without.
    assert analyze(TERMINAL, bit | manage_risk(), {}) is wanted
    assert analyze(make_terminal(denial=bytes(5)), bit | manage_risk(), card) is wanted
    assert analyze(make_terminal(denial=bytes(5)), bit | manage_risk(), {}) is CryptogramType.ARQC


def test_what_nobody_wants_online_is_declined_and_never_approved() -> None:
    nowhere = make_terminal(online=bytes(5))
    assert analyze(nowhere, manage_risk(), {0x9F0F: bytes(5)}) is CryptogramType.AAC
    assert analyze(nowhere, manage_risk(), {}) is CryptogramType.ARQC
    assert analyze(TERMINAL, manage_risk(), {0x9F0F: bytes(5)}) is CryptogramType.ARQC
    assert analyze(TERMINAL, NOTHING, {}) is CryptogramType.AAC


def test_action_codes_have_five_bytes() -> None:
    for tag in (0x9F0E, 0x9F0F):
        for code in (b"", bytes(4), bytes(6)):
            refused(analyze, make_terminal(online=bytes(5)), manage_risk(), {tag: code})
    assert (DENIAL.hex(), ONLINE.hex()) == ("ac70800000", "fcf8fcf8f0")
