"""SETTLE between merchant and TSM: a batch is paid out once, whole or not at all (design §3)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from conformance.bundle import Bundle
from conformance.calls import Connection, Refusal, refused
from conformance.drafts import Draft
from conformance.played import PlayedBank
from conformance.service import Wallet
from conformance.shop import Shop
from conformance.stage import Registered
from conformance.wire import Key, Signed, Signer

pytestmark = pytest.mark.usefixtures("with_tsm")
SMALL = 1_234


@pytest.fixture(scope="module")
def shops(bundle: Bundle) -> Iterator[list[Shop]]:
    """A terminal of each merchant, signed on."""
    names = (("Conformance", "CONFORMANCE0001"), ("Another", "CONFORMANCE0002"))
    connections = [Connection(bundle.tsm.mutual_address, bundle.tsm.name, m.tls) for m in bundle.merchants]
    yield [
        Shop(bundle.tsm, merchant, connection, *named).ready()
        for merchant, connection, named in zip(bundle.merchants, connections, names, strict=False)
    ]
    for connection in connections:
        connection.close()


@pytest.fixture(scope="module")
def shop(shops: list[Shop]) -> Shop:
    return shops[0]


@pytest.fixture(scope="module")
def holder(bundle: Bundle, to_tsm: Connection, played_bank: PlayedBank) -> Registered:
    return Registered(Wallet(bundle.tsm, to_tsm), played_bank)


def pay(shop: Shop, holder: Registered, amount_minor: int = SMALL) -> bytes:
    """An approved sale's name."""
    (card,) = holder.cards()
    purchase = card.pay(shop.values(amount_minor))
    assert shop.decide(purchase)["verdict"] == "approved"
    sale: bytes = purchase["sale"]
    return sale


def give_back(shop: Shop, sale: bytes, amount_minor: int) -> bytes:
    draft = shop.refund(sale, amount_minor)
    draft.send()
    refund: bytes = draft.payload["refund"]
    return refund


def test_SETTLE_pays_sales_less_refunds(shop: Shop, holder: Registered) -> None:
    first, second = pay(shop, holder), pay(shop, holder, 500)
    refund = give_back(shop, first, 200)
    draft = shop.settle({first: SMALL, second: 500}, {refund: 200})
    assert draft.send().payload == {
        "batch": draft.payload["batch"], "currency": "TWD", "total_minor": SMALL + 500 - 200,
    }  # fmt: skip


def test_SETTLE_the_same_bytes_are_paid_once(shop: Shop, holder: Registered) -> None:
    draft = shop.settle({pay(shop, holder): SMALL})
    cose = draft.cose()
    assert draft.post(cose).payload == draft.post(cose).payload
    with refused("IDENTIFIER_TAKEN"):
        draft.send()


def test_SETTLE_settles_each_sale_and_refund_once(shop: Shop, holder: Registered) -> None:
    sale, fresh = pay(shop, holder), pay(shop, holder)
    refund = give_back(shop, sale, 100)
    shop.settle({sale: SMALL}, {refund: 100}).send()
    for sales, refunds in (({sale: SMALL}, {}), ({fresh: SMALL, sale: SMALL}, {}), ({fresh: SMALL}, {refund: 100})):
        with refused("ALREADY_SETTLED"):
            shop.settle(sales, refunds).send()
    line = {"sale": fresh, "amount_minor": SMALL}
    with refused("ALREADY_SETTLED"):
        shop.settle({}, sales=[line, line], total_minor=2 * SMALL).send()
    assert shop.settle({fresh: SMALL}).send()["total_minor"] == SMALL


def test_SETTLE_refuses_what_is_not_the_merchants_or_not_approved(shops: list[Shop], holder: Registered) -> None:
    shop, other = shops
    sale, gone = pay(shop, holder), pay(shop, holder)
    shop.reverse(gone).send()
    with refused("PURCHASE_UNKNOWN"):
        other.settle({sale: SMALL}).send()
    with refused("PURCHASE_UNKNOWN"):
        shop.settle({os.urandom(16): SMALL}).send()
    with refused("PURCHASE_UNKNOWN"):
        shop.settle({sale: SMALL}, {os.urandom(16): 1}).send()
    with refused("WRONG_STATE"):
        shop.settle({sale: SMALL, gone: SMALL}).send()
    assert shop.settle({sale: SMALL}).send()["total_minor"] == SMALL


def test_SETTLE_counts_by_itself(shop: Shop, holder: Registered) -> None:
    sale = pay(shop, holder)
    refund = give_back(shop, sale, 100)
    wrong: tuple[tuple[dict[bytes, int], dict[bytes, int], dict[str, Any]], ...] = (
        ({sale: SMALL + 1}, {}, {}), ({sale: SMALL - 1}, {}, {}), ({sale: SMALL}, {refund: 99}, {}),
        ({sale: SMALL}, {}, {"currency": "USD"}), ({sale: SMALL}, {}, {"total_minor": SMALL + 1}),
        ({}, {refund: 100}, {"total_minor": 0}), ({}, {}, {}),
    )  # fmt: skip
    for sales, refunds, fields in wrong:
        with refused("FIELD_MISMATCH"):
            shop.settle(sales, refunds, **fields).send()
    with refused("MALFORMED"):
        shop.settle({sale: SMALL}, total_minor=-1).send()
    with refused("OVERSIZE", "MALFORMED"):
        shop.settle({os.urandom(16): 1 for _ in range(257)}).send()
    assert shop.settle({sale: SMALL}, {refund: 100}).send()["total_minor"] == SMALL - 100


def test_SETTLE_refuses_who_is_not_the_merchant(shops: list[Shop], holder: Registered, to_tsm: Connection) -> None:
    shop, other = shops
    draft = shop.settle({pay(shop, holder): SMALL})
    with refused("UNKNOWN_KEY"):  # CN-5: a terminal's key has nothing paid out
        draft.send(signer=shop.signer)
    with refused("UNKNOWN_KEY"):
        draft.send(signer=Signer(shop.merchant.name, Key.new()))
    with refused("WRONG_ISSUER", "WRONG_PEER"):
        draft.send(signer=Signer(shop.merchant.name, other.merchant.signer.key))
    for way in (other.connection, to_tsm):
        with refused("WRONG_PEER"):
            replace(draft, to=way).send()
    assert draft.send()["total_minor"] == SMALL


def test_SETTLE_what_was_paid_out_is_refunded_and_not_reversed(shop: Shop, holder: Registered) -> None:
    sale = pay(shop, holder)
    shop.settle({sale: SMALL}).send()
    with refused("ALREADY_SETTLED"):
        shop.reverse(sale, "void").send()
    assert shop.refund(sale, SMALL).send()["refunded_minor"] == SMALL


def test_SETTLE_of_many_batches_at_once_one_is_paid(shop: Shop, holder: Registered) -> None:
    sale = pay(shop, holder)
    drafts = [shop.settle({sale: SMALL}) for _ in range(6)]

    def ask(draft: Draft[Signed]) -> str:
        try:
            return str(draft.send()["total_minor"])
        except Refusal as refusal:
            return refusal.code

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(ask, drafts)) == [str(SMALL)] + ["ALREADY_SETTLED"] * 5
