"""TRACE: the chain from an account to a purchase, which the bank follows link by link (design §3).

The suite's TSM was granted an account of the bank under test. The card behind it is one that the TSM under test issued,
since only that one's issuer stands under the cards' certification authority; its key is the suite's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from conformance.bundle import Bundle
from conformance.calls import Connection, refused
from conformance.drafts import Draft
from conformance.emv_card import PlayedCard, cryptogram
from conformance.phone import Account
from conformance.played import PlayedBank
from conformance.service import PlayedTsm, Wallet, commitment
from conformance.shop import Shop
from conformance.stage import Phones, Registered
from conformance.wire import Key, Signed, Signer, encode, envelope_digest, sha256, sign

AMOUNT = 4_200


@dataclass
class Evidence:
    """What a TSM holds of one purchase of one account. What a test wants to be wrong, it replaces."""

    tsm: PlayedTsm
    account: Account
    card: PlayedCard
    shop: Shop
    requester: str
    tid: str = field(default_factory=lambda: f"t-{os.urandom(8).hex()}")
    key: Key = field(default_factory=Key.new)
    r: bytes = field(default_factory=lambda: os.urandom(32))
    sid: bytes = field(default_factory=lambda: os.urandom(48))
    neighbor: bytes = field(default_factory=lambda: os.urandom(32))
    binfo: bytes = b""

    def granted(self) -> Evidence:
        """TID-3: the bank's promise over com, which opens to this TID."""
        com = commitment(self.tid, self.key.point, self.sid, self.r)
        draft = self.tsm.ask(self.account, sid=self.sid, info={"fields": {"com": com}}, com=com)
        draft.send()
        return replace(self, binfo=draft.payload["binfo"])

    def purchase(self) -> dict[str, Any]:
        return self.card.pay(self.shop.values(AMOUNT))

    def leaf(self) -> bytes:
        return sha256(b"\0", encode([self.card.key.salt, self.card.key.public]))

    def card_keys(self, **changes: Any) -> bytes:
        """CARD-3's first part, as SK_TID signed it: this card, and one whose leaf is all that is shown."""
        payload = {
            "tid": self.tid, "n_u": os.urandom(32), "n_t": os.urandom(32),
            "root": sha256(b"\1", self.leaf(), self.neighbor), "launch_pass": b"pass", "possession": b"held",
        }  # fmt: skip
        arguments = {"audience": self.tsm.name, "signer": Signer(self.tid, self.key), **changes}
        return sign(arguments.pop("signer"), "card-keys", payload | arguments.pop("fields", {}), **arguments)

    def receipt(self, purchase: dict[str, Any], asked: bytes, **fields: Any) -> bytes:
        """The decision of the suite's TSM on this purchase."""
        atc, own = purchase["atc"], purchase["issuer_data"]
        decided = {
            "sale": purchase["sale"], "verdict": "approved", "merchant": self.shop.merchant.name,
            "terminal": self.shop.terminal, "pan": self.card.pan, "atc": atc,
            "unpredictable": purchase["pdol_data"][-4:], "amount_minor": AMOUNT, "currency": "TWD",
            "issuer_data": own, "response_code": "00", "arpc": bytes(8),
            "cryptogram": cryptogram(
                self.card.k_ac, purchase["cdol_data"], aip=purchase["aip"], atc=atc, issuer_data=own
            ),
        }  # fmt: skip
        return sign(
            self.tsm.party.signer, "authorization-decision", {"decided": {**decided, **fields}},
            audience=self.shop.merchant.name, digest=envelope_digest(asked),
        )  # fmt: skip

    def asked(self, purchase: dict[str, Any]) -> bytes:
        """The terminal's request to the suite's TSM."""
        payload = {"terminal": self.shop.terminal, "purchase": purchase}
        return sign(self.shop.signer, "authorization", payload, audience=self.tsm.name)

    def chain(self, **fields: Any) -> dict[str, Any]:
        """A whole trace-request."""
        purchase = self.purchase()
        asked = self.asked(purchase)
        return {
            "case": os.urandom(16), "reason": "dispute", "requester": self.requester, "aid": self.account.aid,
            "binfo": self.binfo, "tid": self.tid, "pk_tid": self.key.point, "r": self.r,
            "card_keys": self.card_keys(), "modulus": self.card.key.public, "salt": self.card.key.salt, "position": 0,
            "leaves": 2, "path": [self.neighbor], "sale": purchase["sale"], "authorization": asked,
            "receipt": self.receipt(purchase, asked), **fields,
        }  # fmt: skip

    def ask(self, **fields: Any) -> Draft[Signed]:
        return self.tsm.trace(self.chain(**fields))


@pytest.fixture(scope="module")
def shop(bundle: Bundle) -> Iterator[Shop]:
    """A terminal of a merchant; the bank never hears of it but in evidence."""
    merchant = bundle.merchants[0]
    connection = Connection(bundle.bank.mutual_address, bundle.bank.name, merchant.tls)
    yield Shop(bundle.tsm, merchant, connection)
    connection.close()


@pytest.fixture(scope="module")
def evidence(
    phones: Phones, played_tsm: PlayedTsm, bundle: Bundle, to_tsm: Connection, played_bank: PlayedBank, shop: Shop
) -> Evidence:
    """A grant at the suite's TSM, and a card; each chain is of another purchase with it."""
    (card,) = Registered(Wallet(bundle.tsm, to_tsm), played_bank).cards()
    account = phones.payer().account(played_tsm.name)
    return Evidence(played_tsm, account, card, shop, requester=bundle.merchants[0].name).granted()


def test_TRACE_a_whole_chain_opens_a_case(evidence: Evidence) -> None:
    draft = evidence.ask()
    reply = draft.send()
    assert reply.payload == {"case": draft.payload["case"], "progress": "EXPECT_OFFICERS", "answer": b""}


def test_TRACE_a_case_can_be_asked_about_again(evidence: Evidence) -> None:
    """The same content in another envelope: the same case, however often."""
    draft = evidence.ask()
    assert draft.send().payload == draft.send().payload == draft.send().payload


SPOILED: dict[str, Callable[[Evidence, dict[str, Any]], Any]] = {
    "aid": lambda e, chain: "a-00000000000000000000000000000000",
    "binfo": lambda e, chain: e.account.bank_info(
        tsm=e.tsm.name, sid=os.urandom(48), com=os.urandom(32), n2=os.urandom(32)
    ),
    "tid": lambda e, chain: "t-other",
    "pk_tid": lambda e, chain: Key.new().point,
    "r": lambda e, chain: os.urandom(32),
    "card_keys": lambda e, chain: e.card_keys(signer=Signer(e.tid, Key.new())),
    "modulus": lambda e, chain: chain["modulus"][:-1] + bytes([chain["modulus"][-1] ^ 2]),
    "salt": lambda e, chain: os.urandom(32),
    "position": lambda e, chain: 1,
    "leaves": lambda e, chain: 1,
    "path": lambda e, chain: [os.urandom(32)],
    "sale": lambda e, chain: os.urandom(16),
    "authorization": lambda e, chain: e.asked(e.purchase()),
    "receipt": lambda e, chain: e.receipt(e.purchase(), chain["authorization"]),
}


@pytest.mark.parametrize("part", SPOILED)
def test_TRACE_refuses_a_chain_of_which_a_part_is_another(evidence: Evidence, part: str) -> None:
    chain = evidence.chain()
    with refused("TRACE_CHAIN_INVALID"):
        evidence.tsm.trace({**chain, part: SPOILED[part](evidence, chain)}).send()
    assert evidence.tsm.trace(chain).send()["progress"] == "EXPECT_OFFICERS"


@pytest.mark.parametrize(
    "fields",
    [
        {"amount_minor": AMOUNT + 1}, {"currency": "USD"}, {"pan": "9" * 19}, {"atc": 999}, {"cryptogram": bytes(8)},
        {"unpredictable": bytes(4)}, {"merchant": "somebody"}, {"terminal": "OTHER001"}, {"verdict": "declined"},
        {"issuer_data": b"\0"}, {"sale": bytes(16)},
    ],
    ids=lambda fields: next(iter(fields)),
)  # fmt: skip
def test_TRACE_refuses_a_receipt_that_says_something_else(evidence: Evidence, fields: dict[str, Any]) -> None:
    purchase = evidence.purchase()
    asked = evidence.asked(purchase)
    said = {"sale": purchase["sale"], "authorization": asked}
    with refused("TRACE_CHAIN_INVALID"):
        evidence.ask(**said, receipt=evidence.receipt(purchase, asked, **fields)).send()


def test_TRACE_refuses_a_purchase_that_the_card_did_not_sign(evidence: Evidence) -> None:
    """Signed for another amount than the terminal said; by another key; or not for a decision."""
    dear = {0x9F02: bytes.fromhex("000000099999")}
    for how in ({"digest": bytes(20)}, {"said": dear}, {"information": 0}, {"key": type(evidence.card.key).new()}):
        purchase = evidence.card.pay(evidence.shop.values(AMOUNT), **how)
        asked = evidence.asked(purchase)
        said = {"sale": purchase["sale"], "authorization": asked, "receipt": evidence.receipt(purchase, asked)}
        with refused("TRACE_CHAIN_INVALID"):
            evidence.ask(**said).send()


def test_TRACE_refuses_cards_signed_for_another_tsm_or_account(evidence: Evidence) -> None:
    for changes in ({"audience": "tsm-x"}, {"fields": {"tid": "t-other"}}, {"fields": {"root": os.urandom(32)}}):
        with refused("TRACE_CHAIN_INVALID"):
            evidence.ask(card_keys=evidence.card_keys(**changes)).send()


def test_TRACE_refuses_a_session_that_was_never_granted(evidence: Evidence) -> None:
    """BINFO and com fit, and the account's owner signed them; the bank granted another session."""
    sid = os.urandom(48)
    com = commitment(evidence.tid, evidence.key.point, sid, evidence.r)
    binfo = evidence.account.bank_info(tsm=evidence.tsm.name, sid=sid, com=com, n2=os.urandom(32))
    with refused("TRACE_CHAIN_INVALID"):
        evidence.ask(binfo=binfo).send()


def test_TRACE_refuses_a_reason_that_is_not_on_the_list(evidence: Evidence) -> None:
    for reason in ("curiosity", "marketing"):
        with refused("TRACE_REASON_UNKNOWN"):
            evidence.ask(reason=reason).send()


def test_TRACE_refuses_a_requester_whom_nothing_can_be_sealed_to(evidence: Evidence) -> None:
    with refused("UNKNOWN_KEY"):
        evidence.ask(requester="nobody").send()


def test_TRACE_refuses_another_case_for_one_purchase(evidence: Evidence) -> None:
    chain = evidence.chain()
    evidence.tsm.trace(chain).send()
    with refused("TRACE_REPEATED"):
        evidence.tsm.trace({**chain, "case": os.urandom(16)}).send()


def test_TRACE_refuses_another_content_under_one_name(evidence: Evidence) -> None:
    chain = evidence.chain()
    evidence.tsm.trace(chain).send()
    with refused("IDENTIFIER_TAKEN"):
        evidence.tsm.trace({**chain, "reason": "fraud"}).send()


def test_TRACE_refuses_everybody_but_the_tsm_itself(evidence: Evidence, bundle: Bundle, shop: Shop) -> None:
    connection = shop.connection
    assert isinstance(connection, Connection)
    with refused("WRONG_PEER"):
        evidence.tsm.trace(evidence.chain(), connection=connection).send()
