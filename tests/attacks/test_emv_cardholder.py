"""Who says that the cardholder was verified: the card, in its CVR, and nobody else (design §3 PAY, TW-S3).

In EMV the terminal reports in 9F34 how the holder was verified, and the issuer believes it. That made the PIN optional
for a thief (Murdoch, Drimer, Anderson, Bond 2010, "Chip and PIN is broken"), and later the phone's own verification
(Basin, Sasse, Toro-Pozo 2021, "The EMV standard: break, fix, verify").
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.counter import PIN, Counter, applet_of, changed, open_card, set_pin
from support.skimmer import (
    NO_CVM,
    PIN_OK,
    BelievesTerminals,
    NoCryptogram,
    NoLimit,
    NoSignature,
    TerminalsWord,
    Wedge,
    again,
    crooked_tap,
    expect,
    phone_applet,
    saying,
    seeing,
    shopper,
    weaken,
    with_object,
    with_said,
    won,
)
from support.world import World

from protocol.card import outcome, profile, tlv
from protocol.card.apdu import Command, Ins, Response
from protocol.card.applet import Applet
from protocol.card.combined import CryptogramType
from protocol.card.cvr import Cvr, IssuerData
from protocol.card.outcome import Kind
from protocol.card.profile import Channel
from protocol.card.risk import Tvr, encode_tvr
from protocol.card.selection import select
from protocol.roles.se.field import Field
from protocol.roles.tsm.tables import CARDS

SMALL, LARGE = 9_000, 25_000
"""Below and above the verification limit of 20,000."""


def set_verified(issuer_data: bytes) -> bytes:
    """9F10 with "the PIN was entered on the phone" set."""
    parsed = IssuerData.from_bytes(issuer_data)
    return replace(parsed, cvr=parsed.cvr | Cvr.DEVICE_VERIFIED).to_bytes()


def test_above_the_limit_without_a_pin(world: World) -> None:
    """Attack: a thief pays above the limit with a phone that is open. Powers: the open phone, not its PIN. Formal: pay
    (P4). Closed by: the SE answers a first tap above the limit with "see phone" only; and the TSM asks for the card's
    own word. Each is enough. Variant: neither, and 250.00 are paid."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    open_card(world, phone, tid, LARGE)
    ended = counter.tap(applet_of(world, phone), LARGE)
    assert ended == outcome.SEE_PHONE
    assert Response.from_bytes(counter.trace[-1][1]).sw == 0x6986

    asked = counter.tap(phone_applet(world, phone, NoLimit), LARGE).online
    assert asked is not None
    expect(counter, counter.purchase(asked), "VERIFICATION_MISSING")

    open_card(world, phone, tid, LARGE)
    asked = counter.tap(phone_applet(world, phone, NoLimit), LARGE).online
    assert asked is not None
    weaken(world, seeing(CARDS, verify_above_minor=LARGE))
    assert won(counter, counter.purchase(asked)) == LARGE


@pytest.mark.parametrize("claimed", ["010002", "020000", "050002", "1E0300", "410302", "420002"])
def test_a_terminals_claim_of_a_verification(world: World, claimed: str) -> None:
    """Attack: a terminal claims in 9F34 that the holder was verified: plaintext PIN, online PIN, enciphered PIN and
    signature, signature, and with the bit "go on if it fails" (Murdoch et al. 2010 for the PIN; Basin et al. 2021 for
    the rest). Powers: the merchant. Formal: pay_TERMCVM. Closed by: the card answers AAC and says why; and the TSM
    decides on the CVR. Each is enough. Variant: neither, and a thief pays above the limit."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    claim = {0x9F34: bytes.fromhex(claimed)}
    open_card(world, phone, tid, SMALL)
    taken = crooked_tap(counter, applet_of(world, phone), SMALL, says=claim)
    assert taken.given.kind is CryptogramType.AAC
    assert taken.cvr == Cvr.VERIFICATION_CONTRADICTED
    expect(counter, taken.purchase(counter), "NOT_ONLINE")

    open_card(world, phone, tid, LARGE)
    thiefs = phone_applet(world, phone, NoLimit, BelievesTerminals)
    taken = crooked_tap(counter, thiefs, LARGE, says={0x9F34: PIN_OK})
    purchase = taken.purchase(counter)
    expect(counter, purchase, "VERIFICATION_MISSING")

    # A decline used the counter; the same opening may be tapped again.
    purchase = crooked_tap(counter, thiefs, LARGE, says={0x9F34: PIN_OK}).purchase(counter)
    weaken(world, TerminalsWord)
    assert won(counter, purchase) == LARGE


def test_a_verify_that_the_card_never_answered(world: World) -> None:
    """Attack: "Chip and PIN is broken" (Murdoch et al. 2010): between a stolen card and a terminal with PIN pad, the
    wedge answers 9000 to VERIFY itself; the terminal reports a PIN, the card saw none asked. Powers: the open phone, a
    wedge, a terminal that is honest but old (it has a PIN pad and does not check CDA). Closed by: our kernel has no
    VERIFY to be answered; 9F34 is under SDAD and ARQC; the TSM decides on the CVR. Variant: none of the three."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    open_card(world, phone, tid, LARGE)
    thiefs = phone_applet(world, phone, NoLimit)
    wedge = Wedge(thiefs, commands=saying(t9F34=NO_CVM), answers={Ins.VERIFY: lambda _: b"\x90\x00"})
    # Our terminal has no PIN pad: the wedge finds nothing to answer.
    counter.tap(wedge, LARGE)
    assert Ins.VERIFY not in wedge.seen

    taken = crooked_tap(counter, wedge, LARGE, pin=b"\x24\x00\x00\xff\xff\xff\xff\xff")
    assert (taken.given.kind, profile.CDOL1.split(taken.cdol_data)[0x9F34]) == (CryptogramType.ARQC, PIN_OK)
    purchase = taken.purchase(counter)
    expect(counter, purchase, "SIGNATURE_INVALID")
    weaken(world, NoSignature)
    expect(counter, again(world, purchase), "CRYPTOGRAM_INVALID")
    weaken(world, NoSignature, NoCryptogram)
    expect(counter, again(world, purchase), "VERIFICATION_MISSING")

    purchase = crooked_tap(counter, wedge, LARGE, pin=b"\x24\x00\x00\xff\xff\xff\xff\xff").purchase(counter)
    weaken(world, NoSignature, NoCryptogram, TerminalsWord)
    assert won(counter, purchase) == LARGE


class TakesPins(Applet):
    """A card that compares a terminal's PIN with the phone's."""

    pin = b""

    def _verify(self, command: Command) -> Response:
        return Response(sw=0x9000 if command.data == self.pin else 0x63C5)


@pytest.mark.parametrize("form", [0x80, 0x88])
def test_no_terminal_learns_a_pin_from_the_card(world: World, form: int) -> None:
    """Attack: a terminal tries PINs on the card, or makes its holder type one there. Powers: a terminal with PIN pad,
    an open phone. Closed by: VERIFY is answered 6983 whatever it brings, and the try counter is none of the phone's
    (TW-G3a: a PIN is entered on the phone). Variant: a card that compares tells the terminal which PIN is right."""
    phone, tid = shopper(world)
    set_pin(world, phone)
    open_card(world, phone, tid, LARGE)
    right, wrong = (bytes.fromhex(f"24{pin}FFFFFFFFFF") for pin in (PIN, "0000"))

    def answers(card: Applet) -> list[str]:
        card.reset()
        card.process(select(profile.AID).to_bytes())
        tries = [Command(cla=0, ins=Ins.VERIFY, p1=0, p2=form, data=pin) for pin in (wrong, right, b"", bytes(255))]
        return [card.process(command.to_bytes()).hex() for command in tries]

    before = world.snapshot(phone.name)
    assert answers(applet_of(world, phone)) == ["6983"] * 4
    assert world.snapshot(phone.name) == before

    oracle = TakesPins(Field(store=phone.party.store, clock=world.clock), world.entropy, channel=Channel.CONTACTLESS)
    oracle.pin = right
    assert answers(oracle) == ["63c5", "9000", "63c5", "63c5"]


@pytest.mark.parametrize("results", ["3F0000", "1F0000", "000000"])
def test_9f34_altered_in_the_air(world: World, results: str) -> None:
    """Attack: the CVM results are stripped or altered between terminal and card, so that the two disagree on what
    happened (Basin et al. 2021). Powers: network at the counter. Formal: pay_CVROUT, pay_TERMCVM. Closed by: the
    kernel's hash is over what it sent, the SDAD's over what the card got; behind a kernel without CDA, the TSM's SDAD
    and ARQC. Variant: none of the three, and the TSM has a 9F34 that the card never saw."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    open_card(world, phone, tid, SMALL)
    wedge = Wedge(applet_of(world, phone), commands=saying(t9F34=bytes.fromhex(results)))
    ended = counter.tap(wedge, SMALL)
    assert (ended.kind, ended.online) == (Kind.DECLINED, None)
    if results == "000000":
        # "Fail cardholder verification processing": a claim, which the card answers with AAC.
        assert ended.tvr == encode_tvr(Tvr.FLOOR_LIMIT_EXCEEDED)
        return
    assert ended.tvr == encode_tvr(Tvr.FLOOR_LIMIT_EXCEEDED | Tvr.CDA_FAILED)

    purchase = crooked_tap(counter, wedge, SMALL, says={0x9F34: b"\x1f\x03\x02"}).purchase(counter)
    expect(counter, purchase, "SIGNATURE_INVALID")
    weaken(world, NoSignature)
    expect(counter, again(world, purchase), "CRYPTOGRAM_INVALID")
    weaken(world, NoSignature, NoCryptogram)
    assert won(counter, again(world, purchase)) == SMALL


def test_9f34_altered_on_the_way_to_the_tsm(world: World) -> None:
    """Attack: the merchant writes a PIN into 9F34 after the card signed. Powers: the merchant. Formal: pay_TERMCVM.
    Closed by: SDAD; and ARQC, where nobody checks the SDAD; and the CVR counts. Variant: a TSM that checks neither and
    takes the terminal's word."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    open_card(world, phone, tid, LARGE)
    taken = crooked_tap(counter, phone_applet(world, phone, NoLimit), LARGE)
    forged = taken.purchase(counter, cdol_data=with_said(taken.cdol_data, t9F34=PIN_OK))
    weaken(world, TerminalsWord)
    expect(counter, forged, "SIGNATURE_INVALID")
    weaken(world, NoSignature, TerminalsWord)
    expect(counter, again(world, forged), "CRYPTOGRAM_INVALID")
    weaken(world, NoSignature, NoCryptogram)
    expect(counter, again(world, forged), "VERIFICATION_MISSING")

    taken = crooked_tap(counter, phone_applet(world, phone, NoLimit), LARGE)
    forged = taken.purchase(counter, cdol_data=with_said(taken.cdol_data, t9F34=PIN_OK))
    weaken(world, NoSignature, NoCryptogram, TerminalsWord)
    assert won(counter, forged) == LARGE


def issuer_data_of(answer: bytes) -> bytes:
    """9F10 of an answer to GENERATE AC."""
    return tlv.value_of(tlv.decode_one(Response.from_bytes(answer).data, 0x77).children, 0x9F10)


def test_the_cvr_altered_in_the_air(world: World) -> None:
    """Attack: DEVICE_VERIFIED is set in 9F10 between card and terminal. Powers: network at the counter, an open phone.
    Formal: pay_CVROUT. Closed by: the SDAD's hash covers 9F10. Variant: a terminal and a TSM without CDA, and an ARQC
    that nobody checks; see the next test for each of the TSM's two."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    open_card(world, phone, tid, LARGE)

    def lie(answer: bytes) -> bytes:
        return with_object(answer, 0x9F10, set_verified(issuer_data_of(answer)))

    wedge = Wedge(phone_applet(world, phone, NoLimit), answers={Ins.GENERATE_AC: lie})
    ended = counter.tap(wedge, LARGE)
    assert (ended.kind, ended.online) == (Kind.DECLINED, None)
    assert ended.tvr == encode_tvr(Tvr.FLOOR_LIMIT_EXCEEDED | Tvr.CDA_FAILED)

    purchase = crooked_tap(counter, wedge, LARGE).purchase(counter)
    expect(counter, purchase, "SIGNATURE_INVALID")
    weaken(world, NoSignature, NoCryptogram)
    assert won(counter, again(world, purchase)) == LARGE


def test_the_cvr_altered_on_the_way_to_the_tsm(world: World) -> None:
    """Attack: the merchant sets DEVICE_VERIFIED in 9F10 after the card signed. Powers: the merchant, and a thief at its
    terminal. Formal: pay_CVROUT (CVR outside AC and SDAD). Closed by: SDAD and ARQC both cover 9F10; each is enough.
    Variant: a TSM without both takes 250.00 without a PIN."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    open_card(world, phone, tid, LARGE)
    honest = crooked_tap(counter, phone_applet(world, phone, NoLimit), LARGE).purchase(counter)
    forged = changed(honest, issuer_data=set_verified(honest.issuer_data))
    expect(counter, forged, "SIGNATURE_INVALID")
    weaken(world, NoSignature)
    expect(counter, again(world, forged), "CRYPTOGRAM_INVALID")
    weaken(world, NoCryptogram)
    expect(counter, again(world, forged), "SIGNATURE_INVALID")
    weaken(world, NoSignature, NoCryptogram)
    assert won(counter, again(world, forged)) == LARGE


def test_transaction_qualifiers_flipped(world: World) -> None:
    """Attack: card transaction qualifiers (9F6C) that claim a verification on the device are put into the card's
    answers, which made Visa terminals go without PIN above the limit (Basin et al. 2021). Powers: network at the
    counter, an open phone. Closed by: nothing beside 9F27, 9F36, 9F4B and 9F10 is taken out of an answer under CDA,
    GET PROCESSING OPTIONS gives AIP and AFL only, and the TSM asks the CVR. Variant: a TSM that takes the word of a
    terminal which believed the qualifiers."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    open_card(world, phone, tid, LARGE)
    thiefs = phone_applet(world, phone, NoLimit, BelievesTerminals)

    def verified(answer: bytes) -> bytes:
        return with_object(answer, 0x9F6C, b"\x00\x80")

    ended = counter.tap(Wedge(thiefs, answers={Ins.GENERATE_AC: verified}), LARGE)
    assert ended.tvr == encode_tvr(Tvr.FLOOR_LIMIT_EXCEEDED | Tvr.CDA_FAILED)
    early = Wedge(thiefs, answers={Ins.GET_PROCESSING_OPTIONS: verified})
    asked = counter.tap(early, LARGE).online
    assert asked is not None
    expect(counter, counter.purchase(asked), "VERIFICATION_MISSING")

    believed = crooked_tap(counter, early, LARGE, says={0x9F34: PIN_OK}).purchase(counter)
    weaken(world, TerminalsWord)
    assert won(counter, believed) == LARGE
