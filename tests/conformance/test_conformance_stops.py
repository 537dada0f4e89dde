"""FREEZE: a bank's list of stops, and what the TSM makes of one (design §3, CN-11).

The suite can't freeze anybody at the bank under test, which is a clerk's doing; so that bank's list is empty here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
from conformance.bundle import Bundle
from conformance.calls import Connection, refused
from conformance.emv import CardKey
from conformance.phone import Account, Phone
from conformance.played import MINUTE_S, PlayedBank
from conformance.service import PlayedTsm, Wallet
from conformance.shop import Shop
from conformance.stage import Registered
from conformance.wire import BadWire, Key, Signer, envelope_digest, unseal

SMALL = 1_200


# === the bank ========================================================================================================
def test_FREEZE_the_list_is_signed_sealed_and_of_this_minute(played_tsm: PlayedTsm) -> None:
    before_s = int(time.time())
    listed = played_tsm.list_stops().send()
    minute_s = listed.payload["minute_s"]
    assert listed.payload["stops"] == []
    assert before_s - MINUTE_S - 5 <= minute_s <= int(time.time()) + 5
    assert minute_s <= played_tsm.list_stops().send().payload["minute_s"]


def test_FREEZE_a_grant_that_is_not_stopped_is_not_listed(account: Account, played_tsm: PlayedTsm) -> None:
    played_tsm.ask(account).send()
    assert played_tsm.list_stops().send().payload["stops"] == []


def test_FREEZE_only_who_asked_can_read_the_list(played_tsm: PlayedTsm) -> None:
    draft = played_tsm.list_stops()
    cose = draft.cose()
    answer = draft.to.call(draft.rpc, cose)
    assert unseal(played_tsm.party.seal, answer, "stop-list", envelope_digest(cose))
    for key, digest in ((Key.new(), envelope_digest(cose)), (played_tsm.party.seal, envelope_digest(b"another"))):
        with pytest.raises(BadWire):
            unseal(key, answer, "stop-list", digest)


def test_FREEZE_refuses_who_is_no_tsm(ready: Phone, bundle: Bundle, played_tsm: PlayedTsm) -> None:
    with refused("WRONG_PEER"):
        played_tsm.list_stops(connection=ready.connection).send()
    with refused("WRONG_ISSUER", "UNKNOWN_KEY"):
        played_tsm.list_stops().send(signer=ready.by_se)
    with refused("UNKNOWN_KEY", "SIGNATURE_INVALID", "WRONG_ISSUER"):
        played_tsm.list_stops().send(signer=Signer(played_tsm.name, Key.new()))
    with refused("UNKNOWN_KEY", "WRONG_ISSUER"):
        played_tsm.list_stops().send(signer=bundle.merchants[0].signer)


def test_FREEZE_refuses_other_bytes(played_tsm: PlayedTsm) -> None:
    draft = played_tsm.list_stops()
    with refused("MALFORMED"):
        draft.send(fields={"since": 1})
    with refused("MALFORMED"):
        draft.post(draft.cose(), os.urandom(16))
    with refused("WRONG_AUDIENCE"):
        draft.send(audience="party-x")
    with refused("SIGNATURE_INVALID"):
        cose = draft.cose()
        draft.post(cose[:-1] + bytes([cose[-1] ^ 1]))


# === the TSM =========================================================================================================
@pytest.fixture(scope="module")
def shop(bundle: Bundle, with_tsm: None) -> Iterator[Shop]:
    merchant = bundle.merchants[0]
    connection = Connection(bundle.tsm.mutual_address, bundle.tsm.name, merchant.tls)
    yield Shop(bundle.tsm, merchant, connection).ready()
    connection.close()


@pytest.fixture
def stops(played_bank: PlayedBank) -> Iterator[dict[str, str]]:
    """What is on the bank's list; empty again afterwards."""
    yield played_bank.stops
    played_bank.stops.clear()


def decide(shop: Shop, holder: Registered) -> str:
    (card,) = holder.cards()
    return str(shop.decide(card.pay(shop.values(SMALL)))["verdict"])


def test_FREEZE_what_the_bank_lists_pays_nothing_and_gets_no_cards(
    shop: Shop, registered: Registered, bundle: Bundle, to_tsm: Connection, played_bank: PlayedBank,
    stops: dict[str, str],
) -> None:  # fmt: skip
    """Until the list has it no more. Another account of the bank goes on."""
    other = Registered(Wallet(bundle.tsm, to_tsm), played_bank)
    cards = registered.cards(2)
    assert decide(shop, registered) == "approved"
    stops[registered.account.aid] = "FROZEN"
    played_bank.await_listed()
    assert shop.decide(cards[0].pay(shop.values(SMALL)))["verdict"] == "declined"
    with refused("ACCOUNT_STOPPED"):
        registered.session()
    assert decide(shop, other) == "approved"
    del stops[registered.account.aid]
    played_bank.await_listed()
    assert shop.decide(cards[1].pay(shop.values(SMALL)))["verdict"] == "approved"
    assert decide(shop, registered) == "approved"


def test_FREEZE_refuses_a_batch_that_was_begun_before(
    registered: Registered, played_bank: PlayedBank, stops: dict[str, str]
) -> None:
    wallet, offer = registered.wallet, registered.offer
    begun = registered.session()
    n_u, n_t = registered.session()
    issued = wallet.card_keys(registered.account, offer, n_u, n_t, [CardKey.new()]).send()["cards"]
    stops[registered.account.aid] = "FROZEN"
    played_bank.await_listed()
    with refused("ACCOUNT_STOPPED"):
        wallet.card_keys(registered.account, offer, *begun, [CardKey.new()]).send()
    with refused("ACCOUNT_STOPPED"):
        wallet.activate_cards(offer, n_t, [card["pan"] for card in issued]).send()


def test_FREEZE_a_deletion_is_final(
    shop: Shop, registered: Registered, played_bank: PlayedBank, stops: dict[str, str]
) -> None:
    """Lists without it, or with a freeze instead, undo nothing; closing the account stays possible."""
    (card,) = registered.cards()
    for kinds in ({registered.account.aid: "DELETED"}, {registered.account.aid: "FROZEN"}, {}):
        stops.clear()
        stops.update(kinds)
        played_bank.await_listed()
        assert shop.decide(card.pay(shop.values(SMALL)))["verdict"] == "declined"
    with refused("ACCOUNT_STOPPED"):
        registered.session()
    registered.wallet.close(registered.offer).send()


def test_FREEZE_money_goes_back_to_a_frozen_account(
    shop: Shop, registered: Registered, played_bank: PlayedBank, stops: dict[str, str]
) -> None:
    refunded, voided = (card.pay(shop.values(SMALL)) for card in registered.cards(2))
    assert {shop.decide(purchase)["verdict"] for purchase in (refunded, voided)} == {"approved"}
    stops[registered.account.aid] = "FROZEN"
    played_bank.await_listed()
    assert shop.refund(refunded["sale"], 200).send()["amount_minor"] == 200
    assert shop.reverse(voided["sale"]).send()["amount_minor"] == SMALL


def test_FREEZE_the_bank_stops_its_own_accounts_only(
    shop: Shop, registered: Registered, played_bank: PlayedBank, stops: dict[str, str]
) -> None:
    """AIDs that the TSM does not know of this bank change nothing."""
    stops.update({"a-00000000000000000000000000000000": "DELETED", "a-ffffffffffffffffffffffffffffffff": "FROZEN"})
    played_bank.await_listed()
    assert decide(shop, registered) == "approved"
