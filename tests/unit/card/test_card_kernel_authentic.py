"""What a terminal believes of a card: its certificates, and what they cover (EMV Book 2 §6, Book 3 §10.3, §10.4)."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

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

from protocol.card import oda, profile, tlv
from protocol.card.apdu import Ins
from protocol.card.outcome import Kind
from protocol.card.risk import Tvr

FLOOR = Tvr.FLOOR_LIMIT_EXCEEDED


@pytest.fixture
def terminal(ca_key):
    return make_terminal(ca_key)


@pytest.fixture
def field(applet) -> Field:
    return Field(applet.process)


# --- data authentication -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("place", [(2, 1), (1, 1), (1, 2), (1, 3)])
def test_an_altered_record_is_not_taken_online(field, terminal, place) -> None:
    def alter(command, answer):
        if command.ins != Ins.READ_RECORD or (command.p2 >> 3, command.p1) != place:
            return answer
        # The last byte of the last object: AIP tag list's, certificates', the exponent's.
        return answer[:-3] + bytes([answer[-3] ^ 1]) + answer[-2:]

    field.alter = alter
    assert_declined(field.tap(terminal), FLOOR | Tvr.CDA_FAILED)
    assert field.last_reference == 0x00


@pytest.mark.parametrize("offset", range(4, 132, 6))
def test_no_byte_of_the_signed_record_can_change(field, terminal, offset) -> None:
    def alter(command, answer):
        if command.ins != Ins.READ_RECORD or command.p2 >> 3 != 2:
            return answer
        return answer[:offset] + bytes([answer[offset] ^ 1]) + answer[offset + 1 :]

    field.alter = alter
    assert field.tap(terminal).kind in {Kind.DECLINED, Kind.END_APPLICATION}
    assert all(command.p1 == 0 for command in field.commands if command.ins == Ins.GENERATE_AC)


def test_another_ca_key_does_not_vouch(field, keys, ca_key) -> None:
    wrong = replace(ca_key, key=keys.other_ca.public)
    assert_declined(field.tap(make_terminal(wrong)), FLOOR | Tvr.CDA_FAILED)
    assert field.last_reference == 0x00


@pytest.mark.parametrize("change", [{"rid": bytes.fromhex("A000000003")}, {"index": 0xF2}])
def test_the_right_key_of_another_provider_or_index_does_not_vouch(field, ca_key, change) -> None:
    """Brand mix-up: a card is authenticated under keys of the provider whose name was selected, and no others."""
    assert_declined(field.tap(make_terminal(replace(ca_key, **change))), FLOOR | Tvr.CDA_FAILED)
    assert field.last_reference == 0x00
    assert_declined(field.tap(make_terminal()), FLOOR | Tvr.CDA_FAILED)


def test_another_brands_name_over_our_card_is_declined(applet, ca_key) -> None:
    """A middle that sells our card as another brand's, whose names the terminal takes too."""
    other = bytes.fromhex("A0000000031010")

    def process(command: bytes) -> bytes:
        if b"2PAY" in command:
            return answered(directory(entry(other)))
        if other in command:
            applet.process(bytes.fromhex("00A40400") + bytes([len(profile.AID)]) + profile.AID + b"\x00")
            return answered(application(other, pdol=profile.PDOL.to_bytes()))
        return applet.process(command)

    field = Field(process)
    ended = field.tap(make_terminal(ca_key, applications=(profile.AID, other)))
    assert_declined(ended, FLOOR | Tvr.CDA_FAILED)
    assert field.last_reference == 0x00


def test_cda_taken_out_of_the_profile_is_noticed(field, terminal) -> None:
    field.alter = only(Ins.GET_PROCESSING_OPTIONS, lambda answer: answer.replace(b"\x82\x02\x33", b"\x82\x02\x32"))
    assert_declined(field.tap(terminal), FLOOR | Tvr.AUTHENTICATION_NOT_PERFORMED)
    assert field.last_reference == 0x00


def test_verification_taken_out_of_the_profile_is_noticed(field, terminal) -> None:
    field.alter = only(Ins.GET_PROCESSING_OPTIONS, lambda answer: answer.replace(b"\x82\x02\x33", b"\x82\x02\x23"))
    assert_declined(field.tap(terminal), FLOOR | Tvr.CDA_FAILED)
    assert profile.CDOL1.split(field.commands[-1].data)[0x9F34] == bytes.fromhex("3F0000")


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_missing_certificate_is_missing_data(field, terminal, number) -> None:
    def alter(command, answer):
        place = (command.p2 >> 3, command.p1)
        return answered(b"\x70\x00") if command.ins == Ins.READ_RECORD and place == (1, number) else answer

    field.alter = alter
    assert_declined(field.tap(terminal), FLOOR | Tvr.CARD_DATA_MISSING | Tvr.CDA_FAILED)
    assert field.last_reference == 0x00


def test_a_terminal_that_would_deny_nothing_still_takes_no_unverified_card(field, ca_key, keys, recertify) -> None:
    recertify({0x9F0E: bytes(5)})
    lax = make_terminal(replace(ca_key, key=keys.other_ca.public), denial=bytes(5))
    assert_declined(field.tap(lax), FLOOR | Tvr.CDA_FAILED)
    assert field.last_reference == 0x00


# --- the card's own data -------------------------------------------------------------------------------------------
@pytest.fixture
def recertify(holder, issuer, keys, entropy, card_data):
    """Gives the holder's card other data, well signed by the issuer: tag → value, None to leave it out."""

    def apply(changes: dict[int, bytes | None]) -> None:
        old = {item.tag: item.value for item in tlv.decode(card_data.records[0].data)[0].children}
        merged = {tag: value for tag, value in (old | changes).items() if value is not None}
        static = tlv.encode_all(merged.items())
        certificate = oda.certify_icc(
            keys.issuer, keys.card.public, pan=card_data.pan, expiry=card_data.expiry, serial=b"\x01\x02\x03",
            static_data=static + profile.AIP, entropy=entropy,
        )  # fmt: skip
        records = dict(holder.card.records)
        records[2, 1] = tlv.encode(0x70, static)
        records[1, 3] = tlv.encode(0x70, tlv.encode(0x9F46, certificate.signature))
        rest = {item.tag: item.value for item in tlv.decode(records[1, 2])[0].children}
        if certificate.remainder:
            rest |= {0x9F48: certificate.remainder}
        records[1, 2] = tlv.encode(0x70, tlv.encode_all(rest.items()))
        holder.card = replace(holder.card, records=records)

    return apply


def test_the_recertified_card_is_good(field, terminal, recertify) -> None:
    recertify({0x9F08: None})
    assert field.tap(terminal).kind is Kind.ONLINE_REQUEST


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({0x5F24: bytes.fromhex("261119")}, Tvr.EXPIRED),
        ({0x5F25: bytes.fromhex("261121")}, Tvr.NOT_YET_EFFECTIVE),
        ({0x9F07: bytes.fromhex("0000")}, Tvr.SERVICE_NOT_ALLOWED),
        ({0x8E: bytes(8) + b"\x00\x00"}, Tvr.VERIFICATION_FAILED),
        ({0x8E: None}, Tvr.CARD_DATA_MISSING),
    ],
)
def test_what_the_action_codes_deny_is_declined(field, terminal, recertify, changes, found) -> None:
    recertify(changes)
    assert_declined(field.tap(terminal), FLOOR | found)
    assert field.last_reference == 0x00


def test_what_they_do_not_deny_goes_online_and_is_told(field, terminal, recertify) -> None:
    recertify({0x9F08: b"\x00\x02"})
    request = field.tap(terminal).online
    assert request is not None
    assert request.tvr == bytes.fromhex("0080008000")


def test_an_expired_card_is_declined(field, terminal) -> None:
    ended = field.tap(terminal, make_sale(date=date(2027, 1, 1)))
    assert_declined(ended, FLOOR | Tvr.CDA_FAILED | Tvr.EXPIRED)


def test_a_card_is_good_on_its_last_day(field, terminal) -> None:
    assert field.tap(terminal, make_sale(date=date(2026, 12, 31))).kind is Kind.ONLINE_REQUEST


def test_the_cards_own_currency_decides_what_its_amounts_are_of(field, terminal, recertify) -> None:
    under_x = (12_346).to_bytes(4, "big") + bytes(4) + b"\x1f\x06"
    recertify({0x8E: under_x, 0x9F42: b"\x09\x01"})
    request = field.tap(terminal).online
    assert request is not None
    assert profile.CDOL1.split(request.cdol_data)[0x9F34] == bytes.fromhex("1F0602")
    recertify({0x8E: under_x, 0x9F42: b"\x09\x78"})
    assert_declined(field.tap(terminal), FLOOR | Tvr.VERIFICATION_FAILED)
