"""Small print of the contract that is easily missed: repeats after a change, kid, key pairs, each thing once."""

from __future__ import annotations

import os

import pytest
from conformance.bundle import Bundle
from conformance.calls import Connection, refused
from conformance.emv import CardKey
from conformance.played import PlayedBank
from conformance.service import PlayedTsm, Wallet
from conformance.stage import Phones, Registered


def test_AID_5_same_bytes_get_their_answer_after_an_update_began(phones: Phones) -> None:
    """The same bytes get the same reply, whatever happened since (payloads.cddl, section 2)."""
    phone = phones.installed()
    draft = phone.certify(phone.opening())
    cose = draft.cose()
    first = draft.post(cose)
    phone.attest("install").send()
    assert draft.post(cose).certificate.payload == first.certificate.payload


def test_CARD_3_same_bytes_get_their_answer_after_the_account_was_closed(registered: Registered) -> None:
    """The same bytes get the same reply, whatever happened since (payloads.cddl, section 2)."""
    n_u, n_t = registered.session()
    wallet, offer = registered.wallet, registered.offer
    draft = wallet.card_keys(registered.account, offer, n_u, n_t, [CardKey.new()])
    cose = draft.cose()
    first = draft.post(cose)
    wallet.close(offer).send()
    assert draft.post(cose).payload == first.payload


def test_INIT_3_a_used_cti_is_a_replay_also_with_a_used_branch_code(phones: Phones) -> None:
    """A cti that this key used before is refused as such (payloads.cddl, section 1)."""
    phone = phones.new()
    cti = os.urandom(16)
    phone.enroll().send(cti=cti)
    with refused("REPLAY"):
        phone.enroll().send(cti=cti)


@pytest.mark.parametrize("kid", [b"", bytes(31), bytes(33), bytes(32)], ids=["empty", "short", "long", "another"])
def test_AID_5_the_kid_is_the_thumbprint_of_the_key(kid: bytes, phones: Phones) -> None:
    """Also where the session tells the key (payloads.cddl, section 1)."""
    phone = phones.payer()
    with refused("MALFORMED", "UNKNOWN_KEY", "SIGNATURE_INVALID"):
        phone.certify(phone.opening()).send(kid=kid)


@pytest.mark.parametrize("kid", [b"", bytes(31), bytes(33), bytes(32)], ids=["empty", "short", "long", "another"])
def test_TID_1a_the_kid_is_the_thumbprint_of_the_key(kid: bytes, bundle: Bundle, to_tsm: Connection) -> None:
    """Also where the message carries its key (payloads.cddl, section 1)."""
    with refused("MALFORMED", "UNKNOWN_KEY", "SIGNATURE_INVALID"):
        Wallet(bundle.tsm, to_tsm).open_account().send(kid=kid)


def test_INIT_3_pk_u_is_not_ek_u(phones: Phones) -> None:
    """A signing pair is never an encryption pair (payloads.cddl, names)."""
    phone = phones.new()
    phone.dk_u = phone.sk_u
    with refused("MALFORMED", "FIELD_MISMATCH"):
        phone.enroll().send()


def test_AID_5_pk_aid_is_not_ek_aid(phones: Phones) -> None:
    """A signing pair is never an encryption pair (payloads.cddl, names)."""
    phone = phones.payer()
    opening = phone.opening()
    object.__setattr__(opening, "dk_aid", opening.sk_aid)
    with refused("MALFORMED", "FIELD_MISMATCH"):
        phone.certify(opening).send()


def test_TID_1a_pk_tid_is_not_ek_tid(bundle: Bundle, to_tsm: Connection) -> None:
    """A signing pair is never an encryption pair (payloads.cddl, names)."""
    wallet = Wallet(bundle.tsm, to_tsm)
    wallet.dk_tid = wallet.sk_tid
    with refused("MALFORMED", "FIELD_MISMATCH"):
        wallet.open_account().send()


def test_AID_5_a_key_is_certified_once(phones: Phones, played_tsm: PlayedTsm) -> None:
    """Two accounts with one key would be two names of one pseudonym (design §3 AID)."""
    phone = phones.payer()
    first, second = phone.opening(), phone.opening()
    phone.certify(first).send()
    object.__setattr__(second, "sk_aid", first.sk_aid)
    with refused("IDENTIFIER_TAKEN"):
        phone.certify(second).send()


def test_CARD_5_names_each_card_once(registered: Registered, played_bank: PlayedBank) -> None:
    """The list is the batch, each number once (design §3 CARD-5)."""
    n_u, n_t = registered.session()
    wallet, offer = registered.wallet, registered.offer
    (card,) = wallet.card_keys(registered.account, offer, n_u, n_t, [CardKey.new()]).send()["cards"]
    with refused("FIELD_MISMATCH", "MALFORMED"):
        wallet.activate_cards(offer, n_t, [card["pan"]] * 2).send()
