"""PAY at the card: a terminal of the suite's own against the applet and what the secure element keeps (design §3).

Everything that the card says is verified from its certificates on; what is approved is asked of the TSM too.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from conformance.bridge import Bridge, Line, OurPhone
from conformance.calls import refused
from conformance.cardholder import Cardholder
from conformance.emv import recover
from conformance.emv_card import (
    AAC,
    ARQC,
    CVR_ARQC,
    CVR_COMPLETED,
    CVR_CONSENT_MISMATCH,
    CVR_CONTACT,
    CVR_CONTRADICTED,
    CVR_DEVICE_VERIFIED,
    CVR_ISSUER_AUTHENTICATED,
    CVR_RETRY,
    CVR_TERMINAL_DECLINED,
    TC,
    Values,
    arpc,
    cryptogram,
    fill_dol,
    parse_dol,
    tlv,
)
from conformance.emv_terminal import (
    CDA,
    PPSE,
    PSE,
    Answered,
    Offered,
    Stopped,
    Tapped,
    Terminal,
    apdu,
    authenticate,
    combined,
    generate,
    get_data,
    only,
    options,
    record,
    select,
)
from conformance.shop import Shop
from conformance.wire import DAY_S, BadWire

SMALL = 12_345
LARGE = 20_001
CEILING = 50_000


@pytest.fixture(scope="module")
def shop(bridge: Bridge) -> Shop:
    """A terminal, signed on at the TSM that issued the cards."""
    line = Line(bridge, bridge.tsm.name, bridge.merchant.name)
    return Shop(bridge.tsm, bridge.merchant, line).ready()


@dataclass
class Counter:
    """A phone at a counter."""

    phone: OurPhone
    shop: Shop

    @property
    def holder(self) -> Cardholder:
        return Cardholder(self.phone)

    def terminal(self, transmit: Callable[[bytes], bytes] | None = None, channel: str = "contactless") -> Terminal:
        """A terminal that meets the phone anew."""
        self.phone.reset()
        through = transmit or (lambda command: self.phone.transmit(command, channel))
        return Terminal(through, self.phone.bridge.ca)

    def opened(self, ceiling_minor: int = CEILING) -> Counter:
        self.holder.open_card(ceiling_minor).send()
        return self

    def tap(self, amount_minor: int = SMALL, **how: Any) -> Tapped:
        """One tap up to the ARQC."""
        return self.terminal(**how).tap(self.shop.values(amount_minor))

    def offered(self, values: Values) -> tuple[Terminal, Offered]:
        terminal = self.terminal()
        return terminal, terminal.offer(values)

    def expect_cryptogram(self, tapped: Tapped) -> None:
        """The cryptogram is the MAC under this card's key."""
        answered, offered = tapped.answered, tapped.offered
        k_ac = self.phone.secrets()[offered.card.pan]
        own = answered.issuer_data
        expected = cryptogram(k_ac, tapped.cdol_data, aip=offered.aip, atc=answered.atc, issuer_data=own)
        assert answered.cryptogram == expected


@pytest.fixture
def counter(bridge: Bridge, shop: Shop) -> Counter:
    """A phone of its own, with three cards, closed."""
    return Counter(bridge.phone(cards=3), shop)


# --- one purchase ----------------------------------------------------------------------------------------------------
def test_PAY_a_tap_verifies_from_the_ca_key_to_the_cryptogram_and_is_approved(counter: Counter) -> None:
    tapped = counter.opened().tap()
    answered = tapped.answered
    assert answered.information == ARQC
    assert answered.cvr == CVR_ARQC
    assert answered.issuer_data[:2] == b"\x01\x01"
    assert (len(answered.issuer_data), answered.atc) == (10, 1)
    counter.expect_cryptogram(tapped)
    purchase = tapped.purchase(os.urandom(16))
    decided = counter.shop.decide(purchase)
    k_ac = counter.phone.secrets()[tapped.offered.card.pan]
    assert decided == {
        "sale": purchase["sale"], "verdict": "approved", "merchant": counter.shop.merchant.name,
        "terminal": counter.shop.terminal, "pan": tapped.offered.card.pan, "atc": 1,
        "unpredictable": tapped.values[0x9F37], "amount_minor": SMALL, "currency": "TWD",
        "issuer_data": answered.issuer_data, "cryptogram": answered.cryptogram, "response_code": "00",
        "arpc": arpc(k_ac, 1, answered.cryptogram, b"00"),
    }  # fmt: skip


def second(counter: Counter, tapped: Tapped, code: bytes, response: bytes, asked: int = TC | CDA) -> Answered:
    """What the card answers to the issuer's word."""
    terminal = Terminal(counter.phone.transmit, counter.phone.bridge.ca)
    values = {**tapped.values, 0x8A: code, 0x91: response + code, 0x9F37: os.urandom(4)}
    return terminal.second(tapped.offered, values, tapped.cdol_data, asked)


def test_PAY_the_issuers_answer_ends_in_a_signed_approval(counter: Counter) -> None:
    tapped = counter.opened().tap()
    decided = counter.shop.decide(tapped.purchase(os.urandom(16)))
    answered = second(counter, tapped, b"00", decided["arpc"])
    assert answered.information == TC
    assert answered.cvr == CVR_ARQC | CVR_COMPLETED | CVR_ISSUER_AUTHENTICATED
    assert answered.atc == 1
    with pytest.raises(Stopped) as stopped:
        second(counter, tapped, b"00", decided["arpc"])
    assert stopped.value.sw == 0x6985


@pytest.mark.parametrize(
    ("code", "flip", "asked", "cvr"),
    [
        (b"00", 1, TC | CDA, CVR_ARQC | CVR_COMPLETED),
        (b"05", 0, TC | CDA, CVR_ARQC | CVR_COMPLETED | CVR_ISSUER_AUTHENTICATED),
        (b"00", 0, AAC, CVR_ARQC | CVR_COMPLETED | CVR_ISSUER_AUTHENTICATED | CVR_TERMINAL_DECLINED),
    ],
    ids=["altered response", "declined", "terminal declines"],
)
def test_PAY_another_answer_of_the_issuer_ends_in_a_decline(
    code: bytes, flip: int, asked: int, cvr: int, counter: Counter
) -> None:
    tapped = counter.opened().tap()
    k_ac = counter.phone.secrets()[tapped.offered.card.pan]
    response = arpc(k_ac, tapped.answered.atc, tapped.answered.cryptogram, code)
    answered = second(counter, tapped, code, response[:-1] + bytes([response[-1] ^ flip]), asked)
    assert (answered.information, answered.cvr) == (AAC, cvr)


def test_PAY_one_opening_gives_one_authorization_however_often_it_is_tapped(counter: Counter) -> None:
    """A torn tap may be repeated, with another counter under the same opening: the TSM takes one."""
    counter.opened()
    first, again = counter.tap(), counter.tap()
    assert first.offered.card.pan == again.offered.card.pan
    assert again.answered.issuer_data[6:] == first.answered.issuer_data[6:]
    assert (first.answered.cvr, again.answered.cvr) == (CVR_ARQC, CVR_ARQC | CVR_RETRY)
    assert again.answered.atc == first.answered.atc + 1
    verdicts = [counter.shop.decide(tap.purchase(os.urandom(16)))["verdict"] for tap in (again, first)]
    assert verdicts == ["approved", "declined"]


def test_PAY_a_card_that_was_read_serves_no_other_opening(counter: Counter) -> None:
    pans = []
    for ready in (2, 1, 0):
        pans.append(counter.opened().tap().offered.card.pan)
        assert counter.holder.status().send()["pools"][0]["ready"] == ready
    assert len(set(pans)) == 3
    with refused("NO_CARD"):
        counter.holder.open_card(1).send()


def test_PAY_openings_tell_nothing_of_each_other(counter: Counter) -> None:
    openings = {counter.opened().tap().answered.issuer_data[6:] for _ in range(3)}
    assert len(openings) == 3


def test_PAY_the_contact_interface_says_so_and_is_declined(counter: Counter) -> None:
    """CN-3; the directory there is PSE's."""
    counter.opened()
    terminal = counter.terminal(channel="contact")
    directory = dict(only(0x6F, terminal.must("SELECT PSE", select(PSE))))
    assert directory[0x84] == PSE
    entry = only(0x70, terminal.must("READ RECORD", record(1, 1)))
    application = dict(only(0x61, tlv(*entry[0])))[0x4F]
    values = counter.shop.values(SMALL)
    offered = terminal.offer(values, terminal.choose(application))
    answered, cdol_data = terminal.first(offered, values)
    assert answered.cvr == CVR_ARQC | CVR_CONTACT
    purchase = Tapped(offered, answered, cdol_data, values).purchase(os.urandom(16))
    assert counter.shop.decide(purchase)["verdict"] == "declined"


def test_PAY_a_terminals_key_is_due_for_rotation(bridge: Bridge, shop: Shop) -> None:
    """CN-5: `expires_at_s` of "signed-on" is kept to, whatever the request's own times are."""
    terminal = Shop(shop.tsm, shop.merchant, shop.connection)
    left_s = terminal.sign_on().send()["expires_at_s"] - int(time.time())
    assert 0 < left_s < 400 * DAY_S
    draft = terminal.reverse(os.urandom(16))
    with bridge.later(left_s + 5), refused("EXPIRED"):
        draft.to.call(draft.rpc, draft.cose(iat=int(time.time()) + left_s))
    with bridge.later(left_s - 60):
        assert draft.to.call(draft.rpc, draft.cose(iat=int(time.time()) + left_s - 60))


# --- consent ---------------------------------------------------------------------------------------------------------
def test_PAY_a_closed_phone_answers_as_if_it_had_no_card(counter: Counter) -> None:
    """TW-S2: to whatever comes."""
    terminal = counter.terminal()
    for name in (PPSE, PSE, b"\xf0TAPVEIL\x01", b"x"):
        assert terminal.send(select(name)) == (b"", 0x6A82)
    for command in (options(b"\0"), record(1, 1), generate(0x90, b"\0"), get_data(0x9F36), apdu(0, 0x55, 0, 0)):
        assert terminal.send(command) == (b"", 0x6985)


def test_PAY_over_the_limit_the_first_tap_ends_at_the_phone_and_the_second_is_verified(counter: Counter) -> None:
    holder = counter.holder
    holder.set_pin().send()
    counter.opened()
    values = counter.shop.values(LARGE)
    with pytest.raises(Stopped) as stopped:
        counter.terminal().tap(values)
    assert (stopped.value.command, stopped.value.sw) == ("GPO", 0x6986)
    shown = holder.opening()
    shop = counter.shop
    assert (shown["state"], shown["amount_minor"], shown["currency"]) == ("EXPECT_PIN", LARGE, "TWD")
    assert (shown["merchant"], shown["terminal"], shown["merchant_name"]) == (
        shop.identifier, shop.terminal, shop.merchant_name,
    )  # fmt: skip
    assert holder.verify_pin(shown).send()["opening"]["state"] == "VERIFIED"
    tapped = counter.tap(LARGE)
    assert tapped.answered.cvr == CVR_ARQC | CVR_DEVICE_VERIFIED
    assert counter.shop.decide(tapped.purchase(os.urandom(16)))["verdict"] == "approved"


def test_PAY_at_the_limit_itself_no_pin_is_asked_for(counter: Counter) -> None:
    """And a tap leaves nothing to enter one for."""
    holder = counter.holder
    holder.set_pin().send()
    tapped = counter.opened().tap(LARGE - 1)
    assert tapped.answered.cvr == CVR_ARQC
    shown = holder.opening()
    assert (shown["state"], shown["amount_minor"]) == ("TAPPED", LARGE - 1)
    with refused("WRONG_STATE"):
        holder.verify_pin(shown).send()
    assert counter.shop.decide(tapped.purchase(os.urandom(16)))["verdict"] == "approved"


def test_PAY_without_the_pin_a_further_tap_is_sent_to_the_phone_again(counter: Counter) -> None:
    counter.opened()
    for _ in range(3):
        with pytest.raises(Stopped) as stopped:
            counter.tap(LARGE)
        assert stopped.value.sw == 0x6986


OTHER_TAPS: dict[str, Values] = {
    "amount": {0x9F02: bytes.fromhex("000000020002")},
    "lower_amount": {0x9F02: bytes.fromhex("000000000001")},
    "merchant": {0x9F16: b"CONFORMANCE0009"},
    "terminal": {0x9F1C: b"ZZZZZZZZ"},
    "name": {0x9F4E: b"Another"},
    "currency": {0x5F2A: bytes.fromhex("0840")},
}


@pytest.mark.parametrize("case", OTHER_TAPS)
def test_PAY_a_verified_opening_serves_no_other_tap(case: str, counter: Counter) -> None:
    """TW-S3: only what the phone showed."""
    holder = counter.holder
    holder.set_pin().send()
    counter.opened()
    with pytest.raises(Stopped):
        counter.tap(LARGE)
    holder.verify_pin(holder.opening()).send()
    with pytest.raises(Stopped) as stopped:
        counter.terminal().tap(counter.shop.values(LARGE) | OTHER_TAPS[case])
    assert (stopped.value.command, stopped.value.sw) == ("GPO", 0x6985)
    assert counter.tap(LARGE).answered.cvr == CVR_ARQC | CVR_DEVICE_VERIFIED


@pytest.mark.parametrize("case", OTHER_TAPS)
def test_PAY_a_retry_is_of_the_same_tap(case: str, counter: Counter) -> None:
    counter.opened().tap()
    with pytest.raises(Stopped) as stopped:
        counter.terminal().tap(counter.shop.values(SMALL) | OTHER_TAPS[case])
    assert (stopped.value.command, stopped.value.sw) == ("GPO", 0x6985)
    assert counter.tap().answered.cvr == CVR_ARQC | CVR_RETRY


@pytest.mark.parametrize(
    ("amount_minor", "changes"),
    [(1_001, {}), (0, {}), (999_999_999_999, {}), (1_000, {0x5F2A: bytes.fromhex("0840")})],
    ids=["over the ceiling", "nothing", "all", "another currency"],
)
def test_PAY_a_tap_that_does_not_fit_the_opening_is_refused(
    amount_minor: int, changes: Values, counter: Counter
) -> None:
    counter.opened(1_000)
    with pytest.raises(Stopped) as stopped:
        counter.terminal().tap(counter.shop.values(amount_minor) | changes)
    assert (stopped.value.command, stopped.value.sw) == ("GPO", 0x6985)
    assert counter.tap(1_000).answered.cvr == CVR_ARQC


def test_PAY_an_opening_lasts_a_minute(counter: Counter, bridge: Bridge) -> None:
    counter.opened()
    with bridge.later(62), pytest.raises(Stopped) as stopped:
        counter.tap()
    assert (stopped.value.command, stopped.value.sw) == ("SELECT PPSE", 0x6A82)
    assert counter.tap().answered.information == ARQC


def test_PAY_an_opening_that_was_closed_serves_no_tap(counter: Counter) -> None:
    counter.opened().holder.open_card(0).send()
    with pytest.raises(Stopped) as stopped:
        counter.tap()
    assert (stopped.value.command, stopped.value.sw) == ("SELECT PPSE", 0x6A82)


def test_PAY_a_tap_across_a_new_opening_gets_no_cryptogram(counter: Counter) -> None:
    """The card was offered under the opening before: its records are read no more."""
    values = counter.shop.values(SMALL)
    counter.opened()
    terminal = counter.terminal()
    found = terminal.find()
    terminal.must("GPO", options(fill_dol(found.pdol, values)))
    counter.opened()
    assert terminal.send(record(2, 1)) == (b"", 0x6985)


# --- what the card declines ------------------------------------------------------------------------------------------
DECLINES: dict[str, tuple[Values, int, int]] = {
    "amount": ({0x9F02: bytes.fromhex("000000012346")}, ARQC | CDA, CVR_CONSENT_MISMATCH),
    "currency": ({0x5F2A: bytes.fromhex("0840")}, ARQC | CDA, CVR_CONSENT_MISMATCH),
    "merchant": ({0x9F16: b"CONFORMANCE0009"}, ARQC | CDA, CVR_CONSENT_MISMATCH),
    "terminal": ({0x9F1C: b"ZZZZZZZZ"}, ARQC | CDA, CVR_CONSENT_MISMATCH),
    "unpredictable_number": ({0x9F37: b"\0\0\0\1"}, ARQC | CDA, CVR_CONSENT_MISMATCH),
    "cash_back": ({0x9F03: bytes.fromhex("000000000100")}, ARQC | CDA, CVR_CONSENT_MISMATCH),
    "pin_by_the_terminal": ({0x9F34: bytes.fromhex("020302")}, ARQC | CDA, CVR_CONTRADICTED),
    "signature_by_the_terminal": ({0x9F34: bytes.fromhex("5E0302")}, ARQC | CDA, CVR_CONTRADICTED),
    "terminals_own_decline": ({}, AAC, CVR_TERMINAL_DECLINED),
    "two_faults": (
        {0x9F02: bytes(6), 0x9F34: bytes.fromhex("410302")}, ARQC | CDA, CVR_CONSENT_MISMATCH | CVR_CONTRADICTED,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DECLINES)
def test_PAY_the_card_declines(case: str, counter: Counter) -> None:
    """An AAC, unsigned, whose results say why; and then the tap is over."""
    changes, asked, cvr = DECLINES[case]
    values = counter.shop.values(SMALL)
    terminal, offered = counter.opened().offered(values)
    data = fill_dol(offered.card.objects[0x8C], {**values, **changes})
    answered = terminal.believe(offered, terminal.must("GENERATE AC", generate(asked, data)), [data], values[0x9F37])
    assert (answered.information, answered.cvr, answered.signature) == (AAC, cvr, b"")
    assert terminal.send(generate(asked, data)) == (b"", 0x6985)
    purchase = Tapped(offered, answered, data, values).purchase(os.urandom(16))
    assert counter.shop.decide({**purchase, "signature": b"\1" * 176})["verdict"] == "declined"
    assert counter.tap().answered.cvr == CVR_ARQC | CVR_RETRY


def test_PAY_nothing_is_approved_offline(counter: Counter) -> None:
    """Asked for an approval, the card asks to go online."""
    values = counter.shop.values(SMALL)
    terminal, offered = counter.opened().offered(values)
    answered, _ = terminal.first(offered, values, TC | CDA)
    assert answered.information == ARQC


def test_PAY_a_terminal_verification_that_was_none_is_no_contradiction(counter: Counter) -> None:
    for results in ("1F0002", "3F0000", "5F0302"):
        values = counter.shop.values(SMALL) | {0x9F34: bytes.fromhex(results)}
        terminal, offered = counter.opened().offered(values)
        answered, _ = terminal.first(offered, values)
        assert answered.information == ARQC


# --- order and form --------------------------------------------------------------------------------------------------
def test_PAY_commands_out_of_order_are_refused(counter: Counter) -> None:
    """Before selection, before options, options twice; and the tap goes on all the same."""
    values = counter.shop.values(SMALL)
    terminal = counter.opened().terminal()
    for command in (record(2, 1), generate(0x90, b"\0"), authenticate(bytes(4)), get_data(0x9F36)):
        assert terminal.send(command) == (b"", 0x6985)
    found = terminal.find()
    for command in (record(2, 1), generate(0x90, b"\0"), authenticate(bytes(4)), get_data(0x9F36)):
        assert terminal.send(command) == (b"", 0x6985)
    offered = terminal.offer(values, found)
    assert terminal.send(options(offered.pdol_data)) == (b"", 0x6985)
    assert terminal.first(offered, values)[0].information == ARQC
    assert terminal.send(authenticate(bytes(4))) == (b"", 0x6985)


FORMS: dict[str, tuple[bytes, int]] = {
    "no_command": (b"\0\xa4\x04", 0x6700),
    "length_too_large": (bytes.fromhex("00A4040005F054"), 0x6700),
    "length_too_small": (bytes.fromhex("00A4040001F0545600"), 0x6700),
    "extended_length": (bytes.fromhex("00A40400000005F054415056"), 0x6700),
    "too_long": (bytes.fromhex("00A40400FF") + bytes(257), 0x6700),
    "another_class": (apdu(0x01, 0xA4, 4, 0, PPSE), 0x6E00),
    "chained": (apdu(0x10, 0xA4, 4, 0, PPSE), 0x6E00),
    "class_of_another_instruction": (apdu(0x80, 0xA4, 4, 0, PPSE), 0x6E00),
    "unknown_instruction": (apdu(0x00, 0x55, 0, 0), 0x6D00),
    "external_authenticate": (apdu(0x00, 0x82, 0, 0, bytes(8)), 0x6D00),
    "select_by_file": (apdu(0x00, 0xA4, 0, 0, b"\x3f\x00"), 0x6A86),
    "select_unknown": (select(bytes.fromhex("A0000000031010")), 0x6A82),
    "select_next": (select(b"\xf0TAPVEIL\x01", 2), 0x6A82),
    "select_four_bytes": (select(b"\xf0TAP"), 0x6A82),
    "options_too_short": (options(bytes(74)), 0x6700),
    "options_too_long": (options(bytes(76)), 0x6700),
    "options_in_another_template": (apdu(0x80, 0xA8, 0, 0, b"\x84\x4b" + bytes(75)), 0x6A80),
    "options_with_parameters": (apdu(0x80, 0xA8, 1, 0, b"\x83\x4b" + bytes(75)), 0x6A86),
    "options_without_digits": (options(b"\xff" * 75), 0x6A80),
    "record_by_name": (apdu(0x00, 0xB2, 1, 0x10), 0x6A86),
    "cryptogram_reserved": (generate(0xC0, b"\0"), 0x6A86),
    "unknown_data": (get_data(0x9F4F), 0x6A88),
    "pin_over_the_air": (apdu(0x00, 0x20, 0, 0x80, bytes.fromhex("247351FFFFFFFFFF"), le=False), 0x6983),
    "pin_in_another_format": (apdu(0x00, 0x20, 0, 0x81, bytes(8), le=False), 0x6A86),
}


@pytest.mark.parametrize("case", FORMS)
def test_PAY_a_command_of_another_form_is_refused_and_changes_nothing(case: str, counter: Counter) -> None:
    command, sw = FORMS[case]
    terminal = counter.opened().terminal()
    terminal.find()
    before = counter.phone.snapshot()
    assert terminal.send(command) == (b"", sw)
    assert counter.phone.snapshot() == before
    assert terminal.tap(counter.shop.values(SMALL)).answered.atc == 1


def test_PAY_the_list_asks_for_75_bytes(counter: Counter) -> None:
    """What the lengths above are measured by."""
    found = counter.opened().terminal().find()
    assert sum(size for _, size in parse_dol(found.pdol)) == 75


def test_PAY_truncated_commands_get_an_answer_and_leave_the_tap_as_it_was(counter: Counter) -> None:
    values = counter.shop.values(SMALL)
    terminal, offered = counter.opened().offered(values)
    whole = generate(ARQC | CDA, fill_dol(offered.card.objects[0x8C], values))
    before = counter.phone.snapshot()
    for end in range(len(whole) - 1):
        data, sw = terminal.send(whole[:end])
        assert data == b""
        assert sw in (0x6700, 0x6985)
    assert counter.phone.snapshot() == before
    assert terminal.first(offered, values)[0].information == ARQC


def test_PAY_cdol_data_of_another_length_are_refused(counter: Counter) -> None:
    values = counter.shop.values(SMALL)
    terminal, offered = counter.opened().offered(values)
    data = fill_dol(offered.card.objects[0x8C], values)
    for wrong in (data[:-1], data + b"\0", b""):
        assert terminal.send(generate(ARQC | CDA, wrong)) == (b"", 0x6700)
    assert terminal.first(offered, values)[0].information == ARQC


def test_PAY_an_application_is_selected_by_the_beginning_of_its_name(counter: Counter) -> None:
    terminal = counter.opened().terminal()
    whole = terminal.find()
    for size in range(5, len(whole.application) + 1):
        assert terminal.choose(whole.application[:size]) == whole


def test_PAY_a_lost_field_forgets_what_was_selected(counter: Counter) -> None:
    values = counter.shop.values(SMALL)
    terminal, offered = counter.opened().offered(values)
    counter.phone.reset()
    for command in (record(2, 1), generate(0x90, fill_dol(offered.card.objects[0x8C], values))):
        assert terminal.send(command) == (b"", 0x6985)
    assert counter.tap().answered.cvr == CVR_ARQC | CVR_RETRY


def test_PAY_get_data_tells_the_counter_of_this_tap_and_no_pin_tries(counter: Counter) -> None:
    terminal, _ = counter.opened().offered(counter.shop.values(SMALL))
    assert terminal.must("GET DATA", get_data(0x9F36)) == tlv(0x9F36, b"\0\1")
    assert terminal.must("GET DATA", get_data(0x9F17)) == tlv(0x9F17, b"\0")


def test_PAY_garbage_gets_a_status_word_and_leaves_the_tap_as_it_was(counter: Counter) -> None:
    """Whatever the bytes: an answer of a card, and no bit of what the phone keeps is another."""
    values = counter.shop.values(SMALL)
    terminal, offered = counter.opened().offered(values)
    before = counter.phone.snapshot()
    words = set()
    chance = random.Random(7)
    for _ in range(400):
        # Instructions of the applet under random parameters, but neither those that end a tap (SELECT), nor GENERATE AC
        # in a form that the card would answer.
        cla = chance.choice((0x00, 0x80, 0x84, 0xFF))
        ins = chance.choice((0x20, 0x82, 0x88, 0xA8, 0xAE, 0xB2, 0xCA))
        words.add(terminal.send(bytes([cla, ins]) + chance.randbytes(chance.randrange(40)))[1] >> 8)
    assert words <= {0x67, 0x69, 0x6A, 0x6D, 0x6E, 0x90}
    assert counter.phone.snapshot() == before
    assert terminal.first(offered, values)[0].information == ARQC


# --- dynamic data authentication -------------------------------------------------------------------------------------
def test_PAY_the_card_signs_four_bytes_by_itself_and_never_more(counter: Counter) -> None:
    """INTERNAL AUTHENTICATE (Book 2 section 6.5): over 32 bytes it would be a possession proof for a TSM."""
    terminal, offered = counter.opened().offered(counter.shop.values(SMALL))
    for wrong in (b"", bytes(3), bytes(5), bytes(32)):
        assert terminal.send(authenticate(wrong)) == (b"", 0x6700)
    asked = os.urandom(4)
    ((tag, signature),) = only(0x77, terminal.must("INTERNAL AUTHENTICATE", authenticate(asked)))
    assert tag == 0x9F4B
    inside = recover(offered.card.modulus, signature, asked)
    assert inside[:4] == b"\x05\x01\x09\x08"
    assert inside[12:].strip(b"\xbb") == b""
    with pytest.raises(BadWire):  # it is no answer to GENERATE AC
        combined(inside)
    with pytest.raises(BadWire):
        recover(offered.card.modulus, signature, os.urandom(4))
    assert terminal.send(authenticate(asked)) == (b"", 0x6985)


# --- what a terminal must notice -------------------------------------------------------------------------------------
def altered(counter: Counter, ins: int, place: int) -> Callable[[bytes], bytes]:
    """On the way back, one bit of the answers to an instruction is another."""

    def transmit(command: bytes) -> bytes:
        answer = counter.phone.transmit(command)
        if command[1] != ins or len(answer) < 20:
            return answer
        at = place % (len(answer) - 2)
        return answer[:at] + bytes([answer[at] ^ 1]) + answer[at + 1 :]

    return transmit


@pytest.mark.parametrize(
    ("ins", "place"),
    [(0xB2, 4), (0xB2, 40), (0xB2, -1), (0xAE, 5), (0xAE, 9), (0xAE, 60), (0xAE, -1), (0xAE, -5), (0xAE, -9)],
    ids=["number", "record", "certificate", "information", "counter", "signature", "opening", "results", "version"],
)
def test_PAY_a_bit_that_was_altered_on_the_way_is_noticed(ins: int, place: int, counter: Counter) -> None:
    counter.opened()
    with pytest.raises(BadWire):
        counter.tap(transmit=altered(counter, ins, place))
    assert counter.tap().answered.cvr & CVR_ARQC


def test_PAY_another_ca_key_recognizes_no_card(counter: Counter) -> None:
    counter.opened().phone.reset()
    rid, index, modulus, exponent = counter.phone.bridge.ca
    for ca in ((rid, index, modulus - 2, exponent), (rid, index + 1, modulus, exponent), (b"12345", index, modulus, 3)):
        with pytest.raises(BadWire):
            Terminal(counter.phone.transmit, ca).tap(counter.shop.values(SMALL))
