"""A tap as the terminal sees it, over the real applet: what goes online, and all that does not (EMV Book 3 §10)."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import date
from types import SimpleNamespace

import pytest
from support.cards import (
    UNPREDICTABLE,
    Field,
    answered,
    application,
    directory,
    entry,
    make_sale,
    make_terminal,
    only,
    script,
)

from protocol.card import oda, outcome, profile, tlv
from protocol.card.afl import Afl, read_files
from protocol.card.apdu import Ins, Response, Sw
from protocol.card.combined import CryptogramType, cryptogram_input, encode_combined, transaction_hash
from protocol.card.cryptogram import compute_cryptogram, derive_session_key
from protocol.card.cvr import Cvr, IssuerData
from protocol.card.dynamic import CombinedData, encode_number, sign_dynamic
from protocol.card.kernel import MAX_COMMANDS, perform_tap
from protocol.card.outcome import CardLost, Kind, Message, OnlineRequest, Outcome
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


def tvr(ended: Outcome) -> Tvr:
    return Tvr(int.from_bytes(ended.tvr, "big"))


def assert_declined(ended: Outcome, found: Tvr) -> None:
    assert ended == replace(outcome.DECLINED, tvr=ended.tvr)
    assert ended.online is None
    assert tvr(ended) == found


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


# --- what the card says to GENERATE AC -----------------------------------------------------------------------------
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


# --- bad input -----------------------------------------------------------------------------------------------------
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
