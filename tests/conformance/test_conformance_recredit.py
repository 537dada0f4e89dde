"""RECREDIT: where little is left, the TSM asks, and takes further credit under the same TID (design §3).

The suite plays one bank, and gives a second of its accounts for another bank's: which bank it is, is for the secure
element to see.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from conformance.bundle import Bundle
from conformance.calls import Connection, refused
from conformance.drafts import checked
from conformance.emv import CardKey
from conformance.emv_card import PlayedCard
from conformance.phone import Account
from conformance.played import PlayedBank
from conformance.service import Offer, Wallet
from conformance.shop import Shop
from conformance.stage import Registered
from conformance.wire import Key, Signed, verify

pytestmark = pytest.mark.usefixtures("with_tsm")
GRANTED, SPENT, FURTHER = 20_000, 18_000, 3_000


@pytest.fixture(scope="module")
def shop(bundle: Bundle) -> Iterator[Shop]:
    merchant = bundle.merchants[0]
    connection = Connection(bundle.tsm.mutual_address, bundle.tsm.name, merchant.tls)
    yield Shop(bundle.tsm, merchant, connection).ready()
    connection.close()


@dataclass
class Person:
    """A service account of little credit, and what the TSM last asked of it."""

    registered: Registered
    shop: Shop
    n_u: bytes = b""
    asked: bytes = b""

    @property
    def wallet(self) -> Wallet:
        return self.registered.wallet

    def card(self, account: Account | None = None) -> PlayedCard:
        """CARD-1 to CARD-5; what comes with the last answer is kept."""
        registered, key = self.registered, CardKey.new()
        self.n_u, n_t = registered.session()
        paying = account or registered.account
        draft = self.wallet.card_keys(paying, registered.offer, self.n_u, n_t, [key])
        (card,) = draft.send()["cards"]
        self.asked = self.wallet.activate_cards(registered.offer, n_t, [card["pan"]]).send()["recredit"]
        return PlayedCard(key, card)

    def buy(self, card: PlayedCard, amount_minor: int) -> dict[str, Any]:
        return self.shop.decide(card.pay(self.shop.values(amount_minor)))

    def spend(self) -> None:
        """Until a tenth is left."""
        for _ in range(2):
            assert self.buy(self.card(), SPENT // 2)["verdict"] == "approved"

    def offered(self) -> tuple[Signed, Offer]:
        """The offer, verified; and as a session: SID', N_T' and the K that there is."""
        tsm = self.wallet.tsm
        found = checked(
            verify(self.asked, tsm.sign, "recredit-offer", issuer=tsm.name, audience=self.wallet.tid), "recredit-offer"
        )
        return found, Offer(found["sid"], found["n_t"], self.registered.offer.key)


@pytest.fixture
def person(bundle: Bundle, to_tsm: Connection, played_bank: PlayedBank, shop: Shop) -> Person:
    return Person(Registered(Wallet(bundle.tsm, to_tsm), played_bank, limit_minor=GRANTED), shop)


@pytest.fixture
def asked(person: Person) -> Person:
    """Who was asked for further credit."""
    person.spend()
    person.card()
    return person


def further(bank: PlayedBank, **changes: Any) -> Account:
    return replace(bank.account(), **{"limit_minor": FURTHER, **changes})


def test_RECREDIT_the_tsm_asks_when_little_is_left_and_not_before(person: Person) -> None:
    card = person.card()
    assert person.asked == b""
    assert person.buy(card, SPENT // 2)["verdict"] == "approved"
    card = person.card()
    assert person.asked == b""
    assert person.buy(card, SPENT // 2)["verdict"] == "approved"
    person.card()
    offer, _ = person.offered()
    assert offer.payload | {"sid": b"", "n_t": b""} == {
        "tid": person.wallet.tid, "pk_tid": person.wallet.sk_tid.point, "n_u": person.n_u, "sid": b"", "n_t": b"",
        "reason": "balance-low",
    }  # fmt: skip
    first = person.registered.offer
    assert offer["sid"] != first.sid
    assert offer["n_t"] != first.n_t


def test_RECREDIT_each_offer_is_a_session_of_its_own(asked: Person) -> None:
    first, _ = asked.offered()
    asked.card()
    second, _ = asked.offered()
    assert first["sid"] != second["sid"]
    assert first["n_t"] != second["n_t"]


def test_RECREDIT_a_purchase_draws_on_both_and_a_refund_restores_both(asked: Person, played_bank: PlayedBank) -> None:
    _, offer = asked.offered()
    account = further(played_bank)
    reply = asked.wallet.prove(account, offer).send()
    assert (reply["tid"], reply["sid"], reply["limit_minor"]) == (asked.wallet.tid, offer.sid, FURTHER)
    assert asked.wallet.certificate(reply["certificate"])["tid"] == asked.wallet.tid
    left_minor = GRANTED - SPENT + FURTHER
    assert asked.buy(asked.card(), left_minor + 1)["verdict"] == "declined"
    for _ in range(2):
        decided = asked.buy(asked.card(), left_minor)
        assert decided["verdict"] == "approved"
        assert asked.buy(asked.card(), 1)["verdict"] == "declined"
        assert asked.shop.refund(decided["sale"], left_minor).send()["refunded_minor"] == left_minor


def test_RECREDIT_cards_are_issued_on_either_s_pass(asked: Person, played_bank: PlayedBank) -> None:
    """Each card's limit is of the grant whose pass was shown."""
    _, offer = asked.offered()
    account = further(played_bank)
    asked.wallet.prove(account, offer).send()
    assert asked.card().controls["per_use_minor"] == GRANTED // 2
    assert asked.card(account).controls["per_use_minor"] == FURTHER // 2
    with refused("PASS_INVALID"):
        asked.card(further(played_bank))


def test_RECREDIT_closing_one_leaves_the_other(asked: Person, played_bank: PlayedBank) -> None:
    _, offer = asked.offered()
    account = further(played_bank)
    asked.wallet.prove(account, offer).send()
    first, second = asked.card(), asked.card(account)
    assert asked.wallet.close(asked.registered.offer).send()["sid"] == asked.registered.offer.sid
    assert asked.buy(first, 1_000)["verdict"] == "declined"
    assert asked.buy(second, 1_000)["verdict"] == "approved"


def test_RECREDIT_a_session_serves_once(asked: Person, played_bank: PlayedBank) -> None:
    _, offer = asked.offered()
    draft = asked.wallet.prove(further(played_bank), offer)
    cose = draft.cose()
    assert draft.post(cose).payload == draft.post(cose).payload
    with refused("REPLAY"):
        asked.wallet.prove(further(played_bank), offer).send()


def test_RECREDIT_what_is_refused(asked: Person, person: Person, bundle: Bundle, played_bank: PlayedBank) -> None:
    _, offer = asked.offered()
    account = further(played_bank)
    stranger = Wallet(bundle.tsm, asked.wallet.connection)
    with refused("SIGNATURE_INVALID"):  # somebody else, who holds SID' and K
        replace(asked.wallet, sk_tid=Key.new()).prove(account, offer).send()
    with refused("DECRYPTION_FAILED"):
        asked.wallet.prove(account, offer, key=os.urandom(32)).send()
    with refused("UNKNOWN_SESSION"):
        asked.wallet.prove(account, replace(offer, sid=offer.sid[:-1] + bytes([offer.sid[-1] ^ 1]))).send()
    with refused("NONCE_MISMATCH"):
        asked.wallet.prove(account, replace(offer, n_t=os.urandom(32))).send()
    with refused("WRONG_ISSUER"):
        replace(stranger, sk_tid=asked.wallet.sk_tid).prove(account, offer).send()
    with refused("FIELD_MISMATCH"):  # one account, one currency
        asked.wallet.prove(further(played_bank, currency="USD"), offer).send()
    assert asked.wallet.prove(account, offer).send()["limit_minor"] == FURTHER
