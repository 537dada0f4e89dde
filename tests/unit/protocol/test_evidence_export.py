"""Bundles out of what TSM and merchant kept: what is not there is not made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.attacker import refused
from support.claims import TSM, Desk
from support.customer import Customer, amend
from support.evidence import BANK, SHOP, Scene
from support.settling import begin, pay, take_back
from support.skimmer import shopper
from support.world import World

from protocol.engine import EVIDENCE
from protocol.errors import EvidenceIncomplete, PurchaseUnknown, WrongState
from protocol.evidence.bundle import Statement
from protocol.evidence.bundle_export import export_purchase
from protocol.messages.claim import ClaimAccepted
from protocol.messages.merchant import SignOn
from protocol.messages.pay import Authorization
from protocol.messages.service import CreditProof
from protocol.pki import Use
from protocol.roles.merchant.tables import SALES, SETTLEMENTS
from protocol.roles.tsm.tables import CARDS, CLAIMS, PURCHASES, TID_LIST
from protocol.rows import Decision, Delete, Unit


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene.play(tmp_path, "export", users=1)


def forgotten(scene: Scene, message: str) -> None:
    """The TSM's evidence of this kind is gone."""
    rows = [row for row in scene.tsm.store.scan(EVIDENCE) if row.message == message]
    assert rows
    writes = tuple(Delete(EVIDENCE, row) for row in rows)
    scene.tsm.store.apply(Unit((), lambda _rows: Decision(writes=writes)))


def test_with_and_without_the_claim(scene: Scene) -> None:
    plain, whole = scene.of_tsm(with_claim=False), scene.of_tsm()
    assert plain.statements == (Statement.REGISTRATION, Statement.ISSUANCE, Statement.PURCHASE)
    assert (plain.claim, whole.statements) == ((), (*plain.statements, Statement.CLAIM))
    for bundle in (plain, whole):
        scene.verify(bundle).require()


def test_the_sign_on_is_that_of_the_key_which_signed_the_purchase(scene: Scene) -> None:
    """Kept by their digests, so that either may come first."""
    scene.stall.sign_on()
    phone, tid = shopper(scene.world, "phone-2", number=1)
    scene.sales.append(pay(scene.stall, phone, tid))
    bundles = [scene.of_tsm(number, with_claim=False) for number in (0, 1)]
    assert len({bundle.purchase[0].sign_on for bundle in bundles}) == 2
    for bundle in bundles:
        scene.verify(bundle).require()


def test_a_purchase_that_no_claim_has_yet(scene: Scene) -> None:
    phone, tid = shopper(scene.world, "phone-2", number=1)
    scene.sales.append(pay(scene.stall, phone, tid))
    scene.verify(scene.of_tsm(1, with_claim=False)).require()
    with refused(scene.world, PurchaseUnknown, "PURCHASE_UNKNOWN"):
        scene.of_tsm(1)
    Desk(scene.world, faults=["lost"]).make(early=True)
    with refused(scene.world, WrongState, "WRONG_STATE"):
        scene.of_tsm(1)
    Desk(scene.world).send()
    scene.verify(scene.of_tsm(1)).require()


def test_purchases_that_are_none(scene: Scene) -> None:
    phone, tid = shopper(scene.world, "phone-2", number=1)
    scene.sales.append(pay(scene.stall, phone, tid))
    take_back(scene.stall, scene.sales[1])
    for about, error in (
        ({"sale": bytes(16)}, PurchaseUnknown), ({"merchant": "shop-2"}, PurchaseUnknown),
        ({"sale": scene.sales[1]}, WrongState),
    ):  # fmt: skip
        with refused(scene.world, error, error.code):
            scene.of_tsm(**about)
    with refused(scene.world, WrongState, "WRONG_STATE"):
        scene.of_shop(1)
    with refused(scene.world, PurchaseUnknown, "PURCHASE_UNKNOWN"):
        scene.of_shop(sale=bytes(16))


def test_a_purchase_in_a_batch_of_the_merchants(tmp_path: Path) -> None:
    """Its request would show the batch's other purchases."""
    customer = Customer.come(World(tmp_path, seed="batched"))
    purchase = customer.ask()
    customer.counter.authorize_batch(purchase)
    world, tsm = customer.world, customer.world.parties[TSM]
    with refused(world, EvidenceIncomplete, "EVIDENCE_INCOMPLETE"):
        export_purchase(
            tsm.value, tsm.store, merchant=SHOP, sale=purchase.sale, with_claim=False, former=(),
            root=world.root.certificate, now_s=world.clock.now_s(), entropy=world.entropy,
        )  # fmt: skip


@pytest.mark.parametrize("message", [CreditProof.NAME, SignOn.NAME, Authorization.NAME, ClaimAccepted.NAME])
def test_a_message_that_was_not_kept(scene: Scene, message: str) -> None:
    forgotten(scene, message)
    with refused(scene.world, EvidenceIncomplete, "EVIDENCE_INCOMPLETE"):
        scene.of_tsm()


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        (TID_LIST, {"promise": b"\0"}), (TID_LIST, {"cert_tid": b"\0"}),
        (TID_LIST, {"aid": "a-other"}), (CARDS, {"salt": bytes(32)}),
        (PURCHASES, {"receipt_digest": bytes(32)}), (CLAIMS, {"claimed_minor": 1}), (CLAIMS, {"salt": bytes(32)}),
    ],
)  # fmt: skip
def test_rows_that_prove_nothing(scene: Scene, table: Any, columns: dict[str, Any]) -> None:
    """A bundle that does not verify is not handed out."""
    amend(scene.world, TSM, table, **columns)
    with refused(scene.world, EvidenceIncomplete, "EVIDENCE_INCOMPLETE"):
        scene.of_tsm()


def test_a_terminal_that_has_a_new_key(scene: Scene) -> None:
    """The sign-on of the key that asked is found among those that came since."""
    scene.stall.sign_on()
    scene.verify(scene.of_tsm()).require()


@pytest.mark.parametrize("name", [BANK, TSM, SHOP])
def test_a_key_that_was_replaced_since(scene: Scene, name: str) -> None:
    """The PKI has another certificate: the former one is given, or nothing is handed out."""
    directory = scene.world.directory
    former = directory.named(name, Use.SIGN).certificate
    directory.identities = [
        one for one in directory.identities if not (one.name == name and one.use is Use.SIGN)
    ]  # fmt: skip
    with refused(scene.world, EvidenceIncomplete, "EVIDENCE_INCOMPLETE"):
        scene.of_tsm()
    scene.verify(scene.of_tsm(former=(former,))).require()
    if name == BANK:
        assert former not in scene.of_shop().certificates
        return
    with refused(scene.world, EvidenceIncomplete, "EVIDENCE_INCOMPLETE"):
        scene.of_shop()
    scene.verify(scene.of_shop(former=(former,))).require()


def test_a_sale_before_and_after_it_is_settled(scene: Scene) -> None:
    phone, tid = shopper(scene.world, "phone-2", number=1)
    scene.sales.append(pay(scene.stall, phone, tid))
    assert scene.of_shop(1).statements == (Statement.RECEIPT,)
    begin(scene.stall)
    assert scene.of_shop(1).statements == (Statement.RECEIPT,)
    paid = scene.of_shop(0)
    assert paid.statements == (Statement.RECEIPT, Statement.PAYOUT)
    amend(scene.world, SHOP, SETTLEMENTS, payout=b"")  # the TSM only said that it has paid
    assert scene.of_shop(0).statements == (Statement.RECEIPT,)
    amend(scene.world, SHOP, SALES, asked=bytes(32))
    with refused(scene.world, EvidenceIncomplete, "EVIDENCE_INCOMPLETE"):
        scene.of_shop(0)
