"""What a card says to GENERATE AC, and which of it goes online (EMV Book 2 §6.6.2, Book 3 §10.8)."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from support.cards import (
    UNPREDICTABLE,
    Field,
    answered,
    assert_declined,
    make_terminal,
    only,
)

from protocol.card import outcome, tlv
from protocol.card.apdu import Ins, Sw
from protocol.card.combined import CryptogramType, encode_combined, transaction_hash
from protocol.card.cvr import Cvr, IssuerData
from protocol.card.dynamic import CombinedData, encode_number, sign_dynamic
from protocol.card.outcome import Kind
from protocol.card.risk import Tvr

FLOOR = Tvr.FLOOR_LIMIT_EXCEEDED


@pytest.fixture
def terminal(ca_key):
    return make_terminal(ca_key)


@pytest.fixture
def field(applet) -> Field:
    return Field(applet.process)


class Forger:
    """The genuine card's key in the hands of a card that signs what it likes, in answer to GENERATE AC."""

    def __init__(self, keys: SimpleNamespace, entropy, *, kind: int = CryptogramType.ARQC) -> None:
        self.key, self.entropy, self.kind = keys.card, entropy, kind
        self.said_kind = kind
        self.pdol_data = b""
        self.changes: dict[str, bytes] = {}
        self.unpredictable = UNPREDICTABLE
        self.issuer_data = IssuerData(cvr=Cvr.ARQC, opening=bytes(4)).to_bytes()
        self.extra: tuple[tuple[int, bytes], ...] = ()

    def __call__(self, command, answer: bytes) -> bytes:
        if command.ins == Ins.GET_PROCESSING_OPTIONS:
            self.pdol_data = command.data[2:]
        if command.ins != Ins.GENERATE_AC:
            return answer
        digest = transaction_hash(
            self.changes.get("pdol_data", self.pdol_data),
            (self.changes.get("cdol_data", command.data),),
            information=self.kind, atc=7, issuer_data=self.changes.get("issuer_data", self.issuer_data),
        )  # fmt: skip
        data = CombinedData(
            number=bytes(8), information=self.kind, cryptogram=b"CRYPTOGR", transaction_hash=digest
        )  # fmt: skip
        signature = sign_dynamic(self.key, encode_combined(data), self.unpredictable, self.entropy)
        objects = (
            (0x9F27, bytes([self.said_kind])), (0x9F36, b"\x00\x07"), (0x9F4B, signature), (0x9F10, self.issuer_data),
        )  # fmt: skip
        return answered(tlv.encode(0x77, tlv.encode_all(objects + self.extra)))


@pytest.fixture
def forger(field, keys, entropy) -> Forger:
    field.alter = Forger(keys, entropy)
    return field.alter


def test_the_forger_can_be_honest(field, terminal, forger) -> None:
    request = field.tap(terminal).online
    assert request is not None
    assert request.cryptogram == b"CRYPTOGR"


def test_a_signed_offline_approval_is_declined(field, terminal, forger) -> None:
    forger.kind = forger.said_kind = CryptogramType.TC
    assert_declined(field.tap(terminal), FLOOR)
    assert field.last_reference == 0x90


def test_a_signed_refusal_is_declined(field, terminal, forger) -> None:
    forger.kind = forger.said_kind = CryptogramType.AAC
    assert_declined(field.tap(terminal), FLOOR)


@pytest.mark.parametrize(("signed", "said"), [(0x40, 0x80), (0x00, 0x80), (0x80, 0x88)])
def test_a_signature_over_another_cryptogram_type_is_declined(field, terminal, forger, signed, said) -> None:
    forger.kind, forger.said_kind = signed, said
    assert_declined(field.tap(terminal), FLOOR | Tvr.CDA_FAILED)


def test_other_data_signed_are_declined(field, terminal, forger) -> None:
    for name in ("pdol_data", "cdol_data", "issuer_data"):
        forger.changes = {name: bytes(75)}
        assert_declined(field.tap(terminal), FLOOR | Tvr.CDA_FAILED)


def test_another_amount_signed_is_declined(field, terminal, forger) -> None:
    good = field.tap(terminal).online
    assert good is not None
    forger.changes = {"cdol_data": b"\x99" + good.cdol_data[1:]}
    assert_declined(field.tap(terminal), FLOOR | Tvr.CDA_FAILED)
    forger.changes = {"pdol_data": b"\x99" + good.pdol_data[1:]}
    assert_declined(field.tap(terminal), FLOOR | Tvr.CDA_FAILED)


def test_another_number_or_another_cards_key_is_declined(field, terminal, forger, keys) -> None:
    forger.unpredictable = b"\x00\x00\x00\x01"
    assert_declined(field.tap(terminal), FLOOR | Tvr.CDA_FAILED)
    forger.unpredictable = UNPREDICTABLE
    forger.key = keys.other_card
    assert_declined(field.tap(terminal), FLOOR | Tvr.CDA_FAILED)


def test_an_unsigned_object_beside_the_signature_is_declined(field, terminal, forger) -> None:
    forger.extra = ((0x9F26, bytes(8)),)
    assert_declined(field.tap(terminal), FLOOR | Tvr.CDA_FAILED)


@pytest.mark.parametrize(
    "data",
    [
        tlv.encode(0x77, tlv.encode_all(((0x9F27, b"\x80"), (0x9F36, b"\x00\x07"), (0x9F26, bytes(8))))),
        tlv.encode(0x80, b"\x80\x00\x07" + bytes(8) + b"IAD"),
    ],
)
def test_a_cryptogram_without_signature_is_declined(field, terminal, data) -> None:
    field.alter = only(Ins.GENERATE_AC, lambda _: answered(data))
    assert_declined(field.tap(terminal), FLOOR | Tvr.CDA_FAILED)


def test_a_signature_that_signs_a_number_only_is_declined(field, terminal, keys, entropy) -> None:
    """DDA's signature, which INTERNAL AUTHENTICATE gives to anybody, in the place of CDA's."""
    signature = sign_dynamic(keys.card, encode_number(bytes(8)), UNPREDICTABLE, entropy)
    objects = ((0x9F27, b"\x80"), (0x9F36, b"\x00\x07"), (0x9F4B, signature), (0x9F10, bytes(10)))
    field.alter = only(Ins.GENERATE_AC, lambda _: answered(tlv.encode(0x77, tlv.encode_all(objects))))
    assert_declined(field.tap(terminal), FLOOR | Tvr.CDA_FAILED)


def test_no_byte_of_the_answer_can_change(field, terminal) -> None:
    assert field.tap(terminal).kind is Kind.ONLINE_REQUEST
    good = field.trace[-1][1]
    for place in range(len(good)):
        bad = good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :]
        field.alter = only(Ins.GENERATE_AC, lambda _, bad=bad: bad)
        assert field.tap(terminal).kind in {Kind.DECLINED, Kind.END_APPLICATION}


@pytest.mark.parametrize("kind", [CryptogramType.AAC, CryptogramType.TC, CryptogramType.ARQC])
def test_a_declined_card_may_say_what_it_likes(field, forger, kind) -> None:
    forger.kind = forger.said_kind = kind
    assert_declined(field.tap(make_terminal()), FLOOR | Tvr.CDA_FAILED)
    assert field.last_reference == 0x00


def test_a_card_that_refuses_the_cryptogram_ends_it(field, terminal) -> None:
    field.alter = only(Ins.GENERATE_AC, lambda _: answered(sw=Sw.CONDITIONS_NOT_SATISFIED))
    assert field.tap(terminal) == replace(outcome.END_APPLICATION, tvr=bytes.fromhex("0000008000"))
