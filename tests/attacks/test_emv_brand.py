"""Whose card it is: the application's name, its provider's CA keys, and the issuer (EMV Book 2 §6).

Terminals that routed by the name a card was selected under, and checked it by nothing the card signed, took one brand's
card for another's and went without PIN (Basin, Sasse, Toro-Pozo 2021, "Card brand mixup attack").
"""

from __future__ import annotations

import datetime
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from support.counter import Counter, applet_of, changed, open_card
from support.skimmer import (
    AnyApplication,
    AnyKey,
    NoCryptogram,
    OwnCard,
    Wedge,
    again,
    applet,
    expect,
    loaded,
    shopper,
    weaken,
    won,
)
from support.world import World, card_key, emv_keys

from protocol.card import profile, rsa
from protocol.card.apdu import Command, Ins
from protocol.card.months import Month
from protocol.card.oda import CaKey, certify_issuer
from protocol.card.outcome import Kind
from protocol.card.pan import DEFAULT_IIN
from protocol.card.personalize import CardData, Issuer, personalize
from protocol.card.profile import CardControls, CardProfile, Channel, common_expiry
from protocol.card.risk import Tvr, encode_tvr
from protocol.card.tap import LoadedCard
from protocol.roles.tsm.tables import CARDS

SMALL = 9_000
OTHER_RID = bytes.fromhex("F000000001")
OTHER_AID = OTHER_RID + profile.AID[5:]
UNSIGNED = encode_tvr(Tvr.FLOOR_LIMIT_EXCEEDED | Tvr.CDA_FAILED)


def under_another_name(card: Any) -> Wedge:
    """The card's application with another brand's name on it, in directory, selection and answer."""

    def renamed(answer: bytes) -> bytes:
        return answer.replace(profile.AID, OTHER_AID)

    def ours(command: Command) -> Command:
        return replace(command, data=command.data.replace(OTHER_AID, profile.AID))

    return Wedge(card, commands={Ins.SELECT: ours}, answers={Ins.SELECT: renamed})


def other_brands(counter: Counter, *ca_keys: CaKey) -> Counter:
    """The counter with a terminal that accepts the other brand, under these keys."""
    terminal = replace(counter.terminal, applications=(OTHER_AID,), ca_keys=ca_keys)
    return replace(counter, terminal=terminal)


def test_a_card_under_another_brands_name(world: World) -> None:
    """Attack: the wedge presents the card under another provider's identifier, to a terminal that accepts that brand
    (Basin et al. 2021). Powers: network at the counter. Closed by: CA keys are looked up under the provider that was
    selected, so no key of the other brand vouches for the card; and the TSM takes one application's name. Variants: a
    terminal that finds CA keys by their index alone goes online; a TSM that asks neither name nor provider pays."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    open_card(world, phone, tid, SMALL)
    mixed = under_another_name(applet_of(world, phone))
    theirs = CaKey(rid=OTHER_RID, index=1, key=rsa.generate_key(rsa.CA_BITS).public)
    for keys in ((theirs,), (theirs, *counter.terminal.ca_keys), counter.terminal.ca_keys):
        ended = other_brands(counter, *keys).tap(mixed, SMALL)
        assert (ended.kind, ended.tvr, ended.online) == (Kind.DECLINED, UNSIGNED, None)

    by_index = CaKey(rid=OTHER_RID, index=1, key=emv_keys()[0].public)
    asked = other_brands(counter, by_index).tap(mixed, SMALL).online
    assert asked is not None
    purchase = counter.purchase(asked)
    assert purchase.application == OTHER_AID
    expect(counter, purchase, "APPLICATION_UNKNOWN")
    weaken(world, AnyApplication)
    expect(counter, again(world, purchase), "CERTIFICATE_INVALID")
    tsm = world.parties["tsm-1"]
    tsm.value = replace(tsm.value, emv_ca=(by_index,))
    weaken(world)
    expect(counter, again(world, purchase), "APPLICATION_UNKNOWN")
    weaken(world, AnyApplication)
    assert won(counter, again(world, purchase)) == SMALL


@pytest.mark.parametrize(
    "name", [profile.RID, profile.AID[:-1], profile.AID + b"\1", profile.RID + b"ATM\1", OTHER_AID]
)
def test_another_application_of_the_same_provider(world: World, name: bytes) -> None:
    """Attack: the merchant names another application, of the same provider too, than was tapped. Powers: the merchant.
    Closed by: the TSM serves exactly one name. Variant: a TSM that takes any name of the provider pays."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    purchase = counter.ask(phone, tid, SMALL)
    expect(counter, changed(again(world, purchase), application=name), "APPLICATION_UNKNOWN")
    weaken(world, AnyApplication)
    renamed = changed(again(world, purchase), application=name)
    if name == OTHER_AID:
        expect(counter, renamed, "CERTIFICATE_INVALID")
    else:
        assert won(counter, renamed) == SMALL


def test_the_card_answers_for_another_name(world: World) -> None:
    """Attack: only SELECT's answer names the other application, or only the directory does. Powers: network at the
    counter. Closed by: the kernel compares the name it selected with the answer's; the card knows its own name only.
    Variant: both renamed alike, above."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    open_card(world, phone, tid, SMALL)

    def application_only(answer: bytes) -> bytes:
        return answer if b"2PAY" in answer else answer.replace(profile.AID, OTHER_AID)

    def directory_only(answer: bytes) -> bytes:
        return answer.replace(profile.AID, OTHER_AID) if b"2PAY" in answer else answer

    card = applet_of(world, phone)
    for rename, terminals in ((application_only, counter), (directory_only, other_brands(counter))):
        ended = terminals.tap(Wedge(card, answers={Ins.SELECT: rename}), SMALL)
        assert (ended.kind, ended.online) == (Kind.END_APPLICATION, None)


# --- an attacker's own authority -----------------------------------------------------------------------------------
@cache
def own_keys() -> tuple[rsa.PrivateKey, rsa.PrivateKey]:
    """A CA key and an issuer key of the attacker's."""
    return rsa.generate_key(rsa.CA_BITS), rsa.generate_key(rsa.ISSUER_BITS)


def today(world: World) -> datetime.date:
    return datetime.datetime.fromtimestamp(world.clock.now_s(), tz=datetime.UTC).date()


def issuer_under(world: World, ca: rsa.PrivateKey, *, index: int = 1, iin: str = DEFAULT_IIN) -> Issuer:
    """The attacker's issuer key, certified by this CA."""
    key = own_keys()[1]
    certificate = certify_issuer(
        ca, key.public, iin=iin, expiry=Month(year=2032, month=12), serial=b"\7\7\7", entropy=world.entropy
    )
    ca_key = CaKey(rid=profile.RID, index=index, key=ca.public)
    return Issuer.open(ca_key, key, certificate, today=today(world))


def clone(world: World, issuer: Issuer, victim: LoadedCard, pan: str) -> LoadedCard:
    """A card for the victim's number over the attacker's key, under that issuer. kAC is not known."""
    controls = CardControls(
        uses=1, amount_per_use_minor=SMALL, total_minor=SMALL, valid_until_s=world.clock.now_s() + 1,
        channel=Channel.CONTACTLESS,
    )  # fmt: skip
    key = card_key(77)
    data: CardData = personalize(
        issuer, CardProfile(), pan=pan, expiry=common_expiry(today(world)), card_key=key.public, controls=controls,
        entropy=world.entropy,
    )  # fmt: skip
    return replace(victim, afl=data.afl, records=data.record_map(), key=key, k_ac=bytes(16))


def pan_of(world: World) -> str:
    """A number that a terminal has seen."""
    return sorted(row.pan for row in world.parties["tsm-1"].store.scan(CARDS))[0]


@pytest.mark.parametrize("index", [1, 2])
def test_an_authority_of_ones_own(world: World, index: int) -> None:
    """Attack: a card for the victim's number, under a CA key that the attacker made, with our index or an own one.
    Powers: the victim's number, which every terminal sees. Formal: merch (the number names nobody). Closed by:
    kernel and TSM know their CA keys; behind that the TSM knows which key the number was issued for, and kAC.
    Variant: a CA key of the attacker's in the list, and a TSM without the other two, charges the victim."""
    phone, _ = shopper(world, number=1)
    counter = Counter.open(world)
    issuer = issuer_under(world, own_keys()[0], index=index)
    fake = applet(world, OwnCard(clone(world, issuer, loaded(phone), pan_of(world))))
    ended = counter.tap(fake, SMALL)
    assert (ended.kind, ended.tvr, ended.online) == (Kind.DECLINED, UNSIGNED, None)

    own = CaKey(rid=profile.RID, index=index, key=own_keys()[0].public)
    trusting = replace(counter, terminal=replace(counter.terminal, ca_keys=(own,)))
    asked = trusting.tap(fake, SMALL).online
    assert asked is not None
    purchase = counter.purchase(asked)
    expect(counter, purchase, "CERTIFICATE_INVALID")
    tsm = world.parties["tsm-1"]
    tsm.value = replace(tsm.value, emv_ca=(own,))
    weaken(world)
    expect(counter, again(world, purchase), "CERTIFICATE_INVALID")
    weaken(world, AnyKey)
    expect(counter, again(world, purchase), "CRYPTOGRAM_INVALID")
    weaken(world, AnyKey, NoCryptogram)
    assert won(counter, again(world, purchase)) == SMALL


def test_a_certificate_of_another_issuer(world: World) -> None:
    """Attack: another issuer under the same CA, or one that was certified for our numbers by mistake, makes a card for
    the victim's number. Powers: an issuer's key. Closed by: an issuer's certificate names its numbers (kernel, TSM);
    the TSM knows the key that the number was issued for; and kAC. Variant: a CA that certifies our numbers for
    another, and a TSM without the other two, charges the victim."""
    phone, _ = shopper(world, number=1)
    counter = Counter.open(world)
    pan = pan_of(world)
    mistaken = issuer_under(world, emv_keys()[0])
    fake = clone(world, mistaken, loaded(phone), pan)
    # The same card, but beside the certificate of an issuer of other numbers over the same key.
    foreign = issuer_under(world, emv_keys()[0], iin="4" + DEFAULT_IIN[1:])
    records = {
        place: data.replace(mistaken.certificate.signature, foreign.certificate.signature)
        for place, data in fake.records.items()
    }
    assert records != fake.records
    ended = counter.tap(applet(world, OwnCard(replace(fake, records=records))), SMALL)
    assert (ended.kind, ended.tvr, ended.online) == (Kind.DECLINED, UNSIGNED, None)

    asked = counter.tap(applet(world, OwnCard(fake)), SMALL).online
    assert asked is not None
    purchase = counter.purchase(asked)
    expect(counter, purchase, "CERTIFICATE_INVALID")
    weaken(world, AnyKey)
    expect(counter, again(world, purchase), "CRYPTOGRAM_INVALID")
    weaken(world, AnyKey, NoCryptogram)
    assert won(counter, again(world, purchase)) == SMALL
