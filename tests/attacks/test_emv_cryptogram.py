"""What an approval is made of: an ARQC inside an SDAD over this very exchange, and the TSM's word; never less.

Cards that approve anything ("yes cards") came with offline terminals. Where the cryptogram is not under the signature
that a terminal checks, goods are taken on one that the issuer will refuse (Basin, Sasse, Toro-Pozo 2021, "The EMV
standard: break, fix, verify"), and what a card says it can do is lowered (Roland, Langer 2013, downgrade).
"""

from __future__ import annotations

from typing import Any

import pytest
from support.counter import Counter, applet_of, changed, open_card
from support.skimmer import (
    ARQC_WITH_CDA,
    TC_WITH_CDA,
    AnyKind,
    ApprovesOffline,
    NoCryptogram,
    NoSignature,
    OwnCard,
    Wedge,
    accepts_offline,
    again,
    applet,
    charged,
    crooked_tap,
    expect,
    loaded,
    phone_applet,
    shopper,
    weaken,
    with_object,
    won,
)
from support.world import World

from protocol.card import profile, tlv
from protocol.card.apdu import Command, Ins, Response
from protocol.card.applet import Applet
from protocol.card.chain import VerifiedCard
from protocol.card.combined import CryptogramType
from protocol.card.dynamic import encode_number, sign_dynamic
from protocol.card.outcome import Kind
from protocol.card.possession import sign_possession, verify_possession
from protocol.card.risk import Tvr, encode_tvr
from protocol.card.transaction import Transaction
from protocol.commitments import possession_digest
from protocol.errors import CardKeyInvalid
from protocol.messages.pay import EmvPurchase
from protocol.roles.tsm.purchase import PurchaseChecks

SMALL = 9_000
FLOOR = encode_tvr(Tvr.FLOOR_LIMIT_EXCEEDED)
UNSIGNED = encode_tvr(Tvr.FLOOR_LIMIT_EXCEEDED | Tvr.CDA_FAILED)


# --- offline acceptance --------------------------------------------------------------------------------------------
def test_the_card_approves_nothing_offline(world: World) -> None:
    """Attack: a terminal asks for a TC, so that it holds a signed approval of a card whose account may be empty
    ("offline acceptance"). Powers: the merchant, or the holder of an empty account at an offline terminal. Formal:
    pay_OFFLINE. Closed by: the card answers ARQC to whoever asks for a TC. Variant: a card that gives it; the terminal
    hands out goods, and the TSM has not heard of it."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    open_card(world, phone, tid, SMALL)
    taken = crooked_tap(counter, applet_of(world, phone), SMALL, reference=TC_WITH_CDA)
    assert taken.given.kind is CryptogramType.ARQC
    assert not accepts_offline(counter, applet_of(world, phone), SMALL)

    assert accepts_offline(counter, phone_applet(world, phone, kind=ApprovesOffline), SMALL)
    assert charged(world) == 0


class AlwaysTc(ApprovesOffline):
    """A yes card: a TC whatever is asked."""

    def _generate_first(self, asked: CryptogramType, data: bytes, *, combined: bool) -> Response:
        return super()._generate_first(CryptogramType.TC, data, combined=combined)


def test_the_kernel_takes_no_offline_approval(world: World) -> None:
    """Attack: a card whose owner broke its secure element answers a TC, well signed ("yes card"). Powers: the card key.
    Formal: pay_OFFLINE (P5: the terminal accepts only what the TSM approved). Closed by: the kernel asks for an ARQC
    and declines anything else. Variant: a kernel that takes a TC gives goods for nothing."""
    phone, _ = shopper(world)
    counter = Counter.open(world)
    yes_card = applet(world, OwnCard(loaded(phone)), AlwaysTc)
    ended = counter.tap(yes_card, SMALL)
    assert (ended.kind, ended.tvr, ended.online) == (Kind.DECLINED, FLOOR, None)

    assert accepts_offline(counter, yes_card, SMALL)
    assert charged(world) == 0


@pytest.mark.parametrize("shown", [CryptogramType.TC, CryptogramType.ARQC])
def test_a_decline_dressed_as_something_else(world: World, shown: CryptogramType) -> None:
    """Attack: the wedge changes the cryptogram type of an AAC, which no signature covers, to TC or ARQC. Powers:
    network at the counter. Formal: pay (P1). Closed by: without SDAD nothing goes online, and nothing is approved
    offline; the TSM too asks for the SDAD. Variants: a terminal that takes the card's bare word hands out goods; a TSM
    that checks neither SDAD nor ARQC pays for what the card declined."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    open_card(world, phone, tid, SMALL)

    def decline(command: Command) -> Command:
        return Command(cla=0x80, ins=Ins.GENERATE_AC, p1=CryptogramType.AAC, p2=0, data=command.data, le=256)

    dressed = Wedge(
        applet_of(world, phone), commands={Ins.GENERATE_AC: decline},
        answers={Ins.GENERATE_AC: lambda answer: with_object(answer, 0x9F27, bytes([shown]))},
    )  # fmt: skip
    ended = counter.tap(dressed, SMALL)
    assert (ended.kind, ended.online) == (Kind.DECLINED, None)
    assert ended.tvr == (FLOOR if shown is CryptogramType.TC else UNSIGNED)
    assert accepts_offline(counter, dressed, SMALL, signed=False) is (shown is CryptogramType.TC)
    assert not accepts_offline(counter, dressed, SMALL)

    # The CVR, too, has to be made to say ARQC.
    purchase = crooked_tap(counter, dressed, SMALL).purchase(counter)
    reason = "NOT_ONLINE" if shown is CryptogramType.TC else "CONSENT_MISMATCH"
    expect(counter, purchase, reason)
    opening = purchase.issuer_data[6:]
    forged = changed(again(world, purchase), issuer_data=bytes.fromhex("010180000000") + opening)
    expect(counter, forged, "NOT_ONLINE" if shown is CryptogramType.TC else "SIGNATURE_INVALID")
    weaken(world, AnyKind, NoSignature, NoCryptogram)
    assert won(counter, again(world, forged)) == SMALL


def test_an_offline_approval_sent_for_payment(world: World) -> None:
    """Attack: a merchant and a cardholder who broke an SE send a well signed TC for payment. Powers: the card key, the
    merchant. Formal: pay_OFFLINE. Closed by: the TSM decides on requests to decide only (NOT_ONLINE). Variant: a TSM
    that takes any cryptogram type pays it."""
    phone, _ = shopper(world)
    counter = Counter.open(world)
    yes_card = applet(world, OwnCard(loaded(phone)), AlwaysTc)
    purchase = crooked_tap(counter, yes_card, SMALL, reference=TC_WITH_CDA).purchase(counter)
    assert purchase.information == CryptogramType.TC
    expect(counter, purchase, "NOT_ONLINE")
    relabeled = changed(again(world, purchase), information=int(CryptogramType.ARQC))
    expect(counter, relabeled, "SIGNATURE_INVALID")
    weaken(world, AnyKind)
    assert won(counter, again(world, purchase)) == SMALL


# --- cryptogram and signature belong together ----------------------------------------------------------------------
def test_a_signature_with_another_taps_counter(world: World) -> None:
    """Attack: the SDAD of one tap, with the counter, the issuer's data or all data of another. Powers: the merchant,
    with two taps of one card. Formal: pay_CVROUT. Closed by: the SDAD's hash covers 9F27, 9F36, 9F10, PDOL and CDOL1
    data, and the ARQC is taken from inside it only. Variant: a TSM that does not compare the hash has the ARQC left,
    which covers the same but the PDOL data; with neither, one signature pays under a counter that nobody made."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    open_card(world, phone, tid, SMALL)
    first = crooked_tap(counter, applet_of(world, phone), SMALL).purchase(counter)
    second = crooked_tap(counter, applet_of(world, phone), SMALL).purchase(counter)
    assert first.atc != second.atc
    beside = {
        "counter": {"atc": second.atc}, "issuer data": {"issuer_data": second.issuer_data},
        "all": {"signature": second.signature}, "number": {"atc": second.atc + 7},
    }  # fmt: skip
    for values in beside.values():
        expect(counter, changed(again(world, first), **values), "SIGNATURE_INVALID")
    weaken(world, NoSignature)
    for values in beside.values():
        expect(counter, changed(again(world, first), **values), "CRYPTOGRAM_INVALID")
    weaken(world, NoSignature, NoCryptogram)
    assert won(counter, changed(again(world, first), atc=second.atc + 7)) == SMALL


def test_the_signature_stripped(world: World) -> None:
    """Attack: the SDAD is taken out, and the answer looks like one of a card without CDA (downgrade). Powers: network
    at the counter, or the merchant. Formal: trace_NOSDAD. Closed by: kernel and TSM both ask for it, and the ARQC
    comes from inside it. Variant: with neither SDAD nor ARQC, any bytes pay."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    open_card(world, phone, tid, SMALL)

    def strip(answer: bytes) -> bytes:
        return with_object(with_object(answer, 0x9F4B, None), 0x9F26, bytes(8))

    def without_cda(command: Command) -> Command:
        return Command(cla=0x80, ins=Ins.GENERATE_AC, p1=CryptogramType.ARQC, p2=0, data=command.data, le=256)

    for wedge in (
        Wedge(applet_of(world, phone), answers={Ins.GENERATE_AC: strip}),
        Wedge(applet_of(world, phone), commands={Ins.GENERATE_AC: without_cda}),
    ):
        ended = counter.tap(wedge, SMALL)
        assert (ended.kind, ended.tvr, ended.online) == (Kind.DECLINED, UNSIGNED, None)
    unsigned = crooked_tap(counter, applet_of(world, phone), SMALL, reference=CryptogramType.ARQC).purchase(counter)
    expect(counter, unsigned, "SIGNATURE_INVALID")
    weaken(world, NoSignature)
    expect(counter, again(world, unsigned), "CRYPTOGRAM_INVALID")
    weaken(world, NoSignature, NoCryptogram)
    assert won(counter, again(world, unsigned)) == SMALL


class AnyProfile(PurchaseChecks):
    """A TSM that does not hold the AIP against the certificate."""

    def verify_chain(self, purchase: EmvPurchase, today: Any) -> VerifiedCard:
        return super().verify_chain(changed(purchase, aip=profile.AIP), today)


def test_cda_taken_out_of_the_profile(world: World) -> None:
    """Attack: the bit for CDA is taken out of the AIP, so that the terminal does not ask for a signature (downgrade,
    as Barisani, Bianco, Laurie, Franken 2011 did with the CVM list). Powers: network at the counter. Closed by: a card
    without CDA is declined; the AIP is under the card's certificate; and the ARQC covers it. Variant: a terminal that
    believes it, and a TSM that checks none of the three, pays without a signature."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    open_card(world, phone, tid, SMALL)

    def lowered(aip: bytes) -> Wedge:
        answers = {Ins.GET_PROCESSING_OPTIONS: lambda answer: with_object(answer, 0x82, aip)}
        return Wedge(applet_of(world, phone), answers=answers)

    for aip, found in ((b"\x32\x80", Tvr.AUTHENTICATION_NOT_PERFORMED), (b"\x23\x80", Tvr.CDA_FAILED)):
        ended = counter.tap(lowered(aip), SMALL)
        assert (ended.kind, ended.online) == (Kind.DECLINED, None)
        assert ended.tvr == encode_tvr(Tvr.FLOOR_LIMIT_EXCEEDED | found)
    taken = crooked_tap(counter, lowered(b"\x32\x80"), SMALL, reference=CryptogramType.ARQC)
    assert (taken.aip, taken.given.signature) == (b"\x32\x80", None)
    purchase = taken.purchase(counter)
    expect(counter, purchase, "CERTIFICATE_INVALID")
    weaken(world, AnyProfile)
    expect(counter, again(world, purchase), "SIGNATURE_INVALID")
    weaken(world, AnyProfile, NoSignature)
    expect(counter, again(world, purchase), "CRYPTOGRAM_INVALID")
    weaken(world, AnyProfile, NoSignature, NoCryptogram)
    assert won(counter, again(world, purchase)) == SMALL


# --- signatures of another kind ------------------------------------------------------------------------------------
def test_a_dynamic_signature_passed_off_as_a_purchase(world: World) -> None:
    """Attack: a DDA signature, which a card gives to anybody who asks INTERNAL AUTHENTICATE, over the unpredictable
    number, forwarded in the SDAD's place. Powers: the merchant. Formal: trace_NOTAG. Closed by: its ICC dynamic data
    is the number alone, and CDA's parser takes exactly its own length. Variant: a TSM that takes any dynamic signature
    and does not check the ARQC charges a card that gave no cryptogram."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    sale = counter.sale(SMALL)
    open_card(world, phone, tid, SMALL)
    taken = crooked_tap(
        counter, applet_of(world, phone), SMALL, sale=sale, challenge=sale.unpredictable, reference=ARQC_WITH_CDA
    )
    purchase = taken.purchase(counter)
    expect(counter, purchase, "SIGNATURE_INVALID")
    weaken(world, NoSignature)
    expect(counter, again(world, purchase), "CRYPTOGRAM_INVALID")
    weaken(world, NoSignature, NoCryptogram)
    assert won(counter, again(world, purchase)) == SMALL


def test_a_possession_signature_passed_off_as_a_purchase(world: World) -> None:
    """Attack: S_C, by which the card key was shown to be held when the card was issued, forwarded as an SDAD: its
    32 bytes were chosen by the TSM, which could have chosen a purchase's. Powers: a TSM, and a merchant. Formal:
    trace_NOTAG. Closed by: S_C's dynamic data is the number alone, which every CDA check refuses. Variant: as above."""
    phone, tid = shopper(world, number=1)
    counter = Counter.open(world)
    open_card(world, phone, tid, SMALL)
    taken = crooked_tap(counter, applet_of(world, phone), SMALL)
    key = loaded(phone).key
    digest = possession_digest(tsm="tsm-1", n_t=world.entropy.bytes(32))
    for signature in (
        sign_possession(key, digest, world.entropy),
        # The best that S_C's form allows: over the purchase's own unpredictable number.
        sign_dynamic(key, encode_number(bytes(8)), profile.PDOL.split(taken.pdol_data)[0x9F37], world.entropy),
    ):
        purchase = taken.purchase(counter, signature=signature)
        expect(counter, purchase, "SIGNATURE_INVALID")
    weaken(world, NoSignature, NoCryptogram)
    assert won(counter, again(world, purchase)) == SMALL


class SignsAnything(Transaction):
    """A card that signs data of any length in answer to INTERNAL AUTHENTICATE."""

    def authenticate(self, ddol_data: bytes) -> Response:
        self._spend()
        signature = sign_dynamic(self._card.key, encode_number(self._entropy.bytes(8)), ddol_data, self._entropy)
        return Response(sw=0x9000, data=tlv.encode(0x77, tlv.encode(0x9F4B, signature)))


def test_a_terminal_uses_the_card_to_sign_a_possession(world: World) -> None:
    """Attack: a terminal has the card sign H("tapveil-card-possession", ID_T, N_T) by INTERNAL AUTHENTICATE, and has a
    TSM certify the card's key for an account of its own. Powers: a merchant who is somebody's customer too. Formal:
    trace_NOTAG, core_card. Closed by: the card signs exactly the four bytes of its DDOL, else 6700; and what it does
    sign proves no possession. Variant: a card that signs what it is handed gives S_C away."""
    phone, tid = shopper(world, number=1)
    counter = Counter.open(world)
    digest = possession_digest(tsm="tsm-1", n_t=world.entropy.bytes(32))
    open_card(world, phone, tid, SMALL)
    card = applet_of(world, phone)
    assert counter.tap(card, SMALL).online is not None

    def ask(card: Applet, data: bytes) -> Response:
        card.reset()
        for command, _ in counter.trace[:-1]:
            assert Response.from_bytes(card.process(command)).ok
        challenge = Command(cla=0, ins=Ins.INTERNAL_AUTHENTICATE, p1=0, p2=0, data=data, le=256)
        return Response.from_bytes(card.process(challenge.to_bytes()))

    def signature_of(answer: Response) -> bytes:
        return tlv.value_of(tlv.decode_one(answer.data, 0x77).children, 0x9F4B)

    key = loaded(phone).key.public
    for data in (digest, digest[:31], digest[:5], digest[:3]):
        assert ask(card, data).sw == 0x6700
    short = signature_of(ask(card, digest[:4]))
    with pytest.raises(CardKeyInvalid) as caught:
        verify_possession(key, digest, short)
    assert caught.value.code == "CARD_KEY_INVALID"

    oracle = phone_applet(world, phone, kind=SignsAnything)
    assert verify_possession(key, digest, signature_of(ask(oracle, digest))) == key
