"""ATT: the bank judges a phone before installation, after it, and at every launch (paper §2.3)."""

from __future__ import annotations

import itertools
import os
from typing import Any

import pytest
from conformance.bundle import Bundle
from conformance.calls import refused
from conformance.drafts import checked
from conformance.forgeries import BEFORE_INSTALLATION, PLATFORM_FORGERIES, SOFTWARE_FORGERIES, EvidenceForgery
from conformance.phone import Phone
from conformance.service import PlayedTsm
from conformance.stage import Phones
from conformance.wire import AUD, CTI, DAY_S, EXP, IAT, Key, Signed, Signer, seal, verify

pytestmark = pytest.mark.usefixtures("with_bank")

OF_INSTALL = PLATFORM_FORGERIES | BEFORE_INSTALLATION
OF_RUNNING = PLATFORM_FORGERIES | SOFTWARE_FORGERIES
PURPOSES = ("install", "report", "launch")


@pytest.fixture(scope="module")
def enrolled(phones: Phones) -> Phone:
    """After INIT, nothing approved yet."""
    return phones.enrolled()


@pytest.fixture(scope="module")
def approved(phones: Phones) -> Phone:
    """ATT-D7 approved, not reported yet."""
    phone = phones.enrolled()
    assert phone.attest("install").send()["allowed"]
    return phone


@pytest.fixture(scope="module")
def by_purpose(enrolled: Phone, approved: Phone, ready: Phone) -> dict[str, Phone]:
    """For each purpose a phone that may be judged for it now."""
    return {"install": enrolled, "report": approved, "launch": ready}


def denied(decision: Signed, purpose: str, reason: str) -> None:
    """A refusal is a signed decision with its reason and without passes."""
    assert decision.payload == {"purpose": purpose, "allowed": False, "reason": reason, "passes": []}


# --- before installation ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", OF_INSTALL)
def test_ATT_D7_denies_installation_with(case: str, enrolled: Phone, other: Phone) -> None:
    forgery: EvidenceForgery = OF_INSTALL[case]
    n_b = enrolled.nonce("install")
    evidence = forgery.make(enrolled, "install", n_b, other=other)
    denied(enrolled.attest("install", n_b=n_b, evidence=evidence).send(), "install", forgery.code)


def test_ATT_D7_denies_software_without_reference_values(enrolled: Phone) -> None:
    denied(enrolled.attest("install", software="other-wallet").send(), "install", "SOFTWARE_UNKNOWN")


def test_ATT_D7_approves_installation_on_the_reference_platform(phones: Phones) -> None:
    decision = phones.enrolled().attest("install").send()
    assert decision.payload == {"purpose": "install", "allowed": True, "reason": "", "passes": []}


def test_ATT_D7_a_denied_installation_opens_no_way_to_report_or_launch(enrolled: Phone) -> None:
    decision = enrolled.attest("install", software="other-wallet").send()
    assert not decision["allowed"]
    for purpose in ("report", "launch"):
        with refused("WRONG_STATE"):
            enrolled.attest(purpose).send()


# --- after installation ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", OF_RUNNING)
def test_ATT_D7_denies_a_report_with(case: str, approved: Phone, other: Phone) -> None:
    forgery = OF_RUNNING[case]
    n_b = approved.nonce("report")
    evidence = forgery.make(approved, "report", n_b, other=other)
    denied(approved.attest("report", n_b=n_b, evidence=evidence).send(), "report", forgery.code)


def test_ATT_D7_refuses_a_report_before_approval(enrolled: Phone) -> None:
    with refused("WRONG_STATE"):
        enrolled.attest("report").send()


def test_ATT_D7_refuses_a_launch_before_the_report(approved: Phone) -> None:
    with refused("WRONG_STATE"):
        approved.attest("launch").send()


def test_ATT_D7_stores_the_value_that_a_launch_is_compared_with(phones: Phones) -> None:
    phone = phones.installed()
    assert phone.attest("launch").send()["allowed"]
    with refused("WRONG_STATE"):  # what was reported is not reported again
        phone.attest("report").send()
    assert phone.attest("install").send()["allowed"]  # an update begins
    with refused("WRONG_STATE"):  # and what was installed before no longer launches
        phone.attest("launch").send()
    assert phone.attest("report").send()["allowed"]
    assert phone.attest("launch").send()["allowed"]


# --- launch ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", OF_RUNNING)
def test_ATT_L6_denies_a_launch_with(case: str, ready: Phone, other: Phone) -> None:
    forgery = OF_RUNNING[case]
    n_b = ready.nonce("launch")
    evidence = forgery.make(ready, "launch", n_b, other=other)
    denied(ready.attest("launch", n_b=n_b, evidence=evidence).send(), "launch", forgery.code)


def test_ATT_L6_refuses_a_launch_before_installation(enrolled: Phone) -> None:
    with refused("WRONG_STATE"):
        enrolled.attest("launch").send()


def test_ATT_L6_a_launch_without_accounts_brings_no_pass(phones: Phones) -> None:
    decision = phones.installed().attest("launch").send()
    assert decision.payload == {"purpose": "launch", "allowed": True, "reason": "", "passes": []}


def launch_pass(bundle: Bundle, data: bytes, tsm: str) -> Signed:
    """The pass, verified as the TSM does."""
    found = verify(data, bundle.bank.sign, "launch-pass", issuer=bundle.bank.name, audience=tsm)
    return checked(found, "launch-pass")


def test_ATT_L6_a_good_launch_brings_a_pass_for_each_active_account(
    bundle: Bundle, phones: Phones, played_tsm: PlayedTsm
) -> None:
    phone = phones.installed()
    accounts = {account.aid: account for account in (phone.account(played_tsm.name) for _ in range(3))}
    phone.certify(phone.opening()).send()  # certified, but never activated: it gets none
    passes = phone.passes()
    assert set(passes) == set(accounts)
    opened = [launch_pass(bundle, data, played_tsm.name) for data in passes.values()]
    for shown in opened:
        assert shown["pk_aid"] == accounts[shown["aid"]].sk_aid.point
        assert shown["trust_class"] == "software"
        assert shown.claims[EXP] - shown.claims[IAT] <= DAY_S
    assert len({shown.claims[CTI] for shown in opened}) == len(opened)


def test_ATT_L6_each_launch_brings_another_pass_on_one_common_grid(
    bundle: Bundle, payer: Phone, other: Phone, played_tsm: PlayedTsm
) -> None:
    """Their times tell neither phones nor launches apart. (A step of the grid may begin meanwhile, but once only.)"""
    mine, theirs = payer.account(played_tsm.name), other.account(played_tsm.name)
    data = [mine.launch_pass, theirs.launch_pass, payer.passes()[mine.aid], other.passes()[theirs.aid]]
    passes = [launch_pass(bundle, item, played_tsm.name) for item in data]
    assert len({shown.claims[CTI] for shown in passes}) == 4
    assert passes[0].payload == passes[2].payload
    times = [(shown.claims[IAT], shown.claims[EXP]) for shown in passes]
    assert sum(before != after for before, after in itertools.pairwise(times)) <= 1


def test_ATT_L6_a_pass_is_for_the_tsm_of_the_live_grant(bundle: Bundle, payer: Phone, played_tsm: PlayedTsm) -> None:
    """Before a grant, for the one named in AID-8; after it, for the one that has it."""
    account = payer.account(bundle.tsm.name)
    assert launch_pass(bundle, account.launch_pass, bundle.tsm.name).claims[AUD] == bundle.tsm.name
    played_tsm.ask(account).send()
    assert launch_pass(bundle, payer.passes()[account.aid], played_tsm.name).claims[AUD] == played_tsm.name


# --- nonces, signers, order: the same for all three -------------------------------------------------------------------
@pytest.mark.parametrize("purpose", PURPOSES)
def test_ATT_L1_refuses_a_nonce_that_was_never_given(purpose: str, by_purpose: dict[str, Phone]) -> None:
    phone = by_purpose[purpose]
    phone.nonce(purpose)
    with refused("NONCE_MISMATCH"):
        phone.attest(purpose, n_b=os.urandom(32)).send()


@pytest.mark.parametrize("purpose", PURPOSES)
def test_ATT_L1_refuses_a_nonce_of_another_purpose(purpose: str, by_purpose: dict[str, Phone]) -> None:
    phone = by_purpose[purpose]
    for wrong in ("enroll", "account", *PURPOSES):
        if wrong != purpose:
            phone.nonce(purpose)
            with refused("NONCE_MISMATCH"):
                phone.attest(purpose, n_b=phone.nonce(wrong)).send()


@pytest.mark.parametrize("purpose", PURPOSES)
def test_ATT_L1_refuses_a_nonce_of_another_phone(purpose: str, by_purpose: dict[str, Phone], other: Phone) -> None:
    with refused("NONCE_MISMATCH"):
        by_purpose[purpose].attest(purpose, n_b=other.nonce(purpose)).send()


@pytest.mark.parametrize("purpose", PURPOSES)
def test_ATT_L1_refuses_a_nonce_that_was_replaced(purpose: str, by_purpose: dict[str, Phone]) -> None:
    phone = by_purpose[purpose]
    old = phone.nonce(purpose)
    phone.nonce(purpose)
    with refused("NONCE_MISMATCH"):
        phone.attest(purpose, n_b=old).send()


@pytest.mark.parametrize("purpose", PURPOSES)
def test_ATT_L1_a_nonce_is_used_up_by_a_denial(purpose: str, by_purpose: dict[str, Phone]) -> None:
    phone = by_purpose[purpose]
    n_b = phone.nonce(purpose)
    denied(phone.attest(purpose, n_b=n_b, shown=b"").send(), purpose, "MEASUREMENT_LIST_MISMATCH")
    with refused("NONCE_MISMATCH"):
        phone.attest(purpose, n_b=n_b).send()


def test_ATT_L1_a_nonce_is_used_up_by_a_good_launch(ready: Phone) -> None:
    n_b = ready.nonce("launch")
    assert ready.attest("launch", n_b=n_b).send()["allowed"]
    with refused("NONCE_MISMATCH"):
        ready.attest("launch", n_b=n_b).send()


@pytest.mark.parametrize("purpose", PURPOSES)
@pytest.mark.parametrize("named", ["enroll", "install", "report", "launch", "account"])
def test_ATT_L6_refuses_evidence_that_names_another_purpose(
    purpose: str, named: str, by_purpose: dict[str, Phone]
) -> None:
    if named == purpose:
        return
    with refused("FIELD_MISMATCH"):
        by_purpose[purpose].attest(purpose).send(fields={"purpose": named})


@pytest.mark.parametrize("purpose", PURPOSES)
def test_ATT_L6_refuses_another_users_signature(purpose: str, by_purpose: dict[str, Phone], other: Phone) -> None:
    """The other phone is known, but it is not the one that the message claims to be from."""
    phone = by_purpose[purpose]
    with refused("WRONG_ISSUER"):
        phone.attest(purpose).send(signer=Signer(phone.user, other.sk_u))


@pytest.mark.parametrize("purpose", PURPOSES)
def test_ATT_L6_refuses_an_unregistered_key(purpose: str, by_purpose: dict[str, Phone]) -> None:
    phone = by_purpose[purpose]
    with refused("UNKNOWN_KEY"):
        phone.attest(purpose).send(signer=Signer(phone.user, Key.new()))


@pytest.mark.parametrize("purpose", PURPOSES)
@pytest.mark.parametrize("key", ["se", "wallet"])
def test_ATT_L6_refuses_a_key_of_the_phone_that_is_not_the_users(
    purpose: str, key: str, by_purpose: dict[str, Phone]
) -> None:
    phone = by_purpose[purpose]
    wrong: Key = getattr(phone.keys, key)
    with refused("UNKNOWN_KEY"):
        phone.attest(purpose).send(signer=Signer(phone.user, wrong))


def test_ATT_L6_a_decision_answers_the_same_bytes_alike(ready: Phone) -> None:
    draft = ready.attest("launch")
    cose = draft.cose()
    first, again = draft.post(cose), draft.post(cose)
    assert first.payload == again.payload
    assert first.claims[CTI] == again.claims[CTI]


def test_ATT_L6_evidence_sealed_to_another_party_does_not_open(bundle: Bundle, ready: Phone) -> None:
    draft = ready.attest("launch")
    cose = seal(bundle.tsm.seal, "attestation-evidence", draft.signed())
    with refused("DECRYPTION_FAILED"):
        draft.post(cose)


OVERSIZED: dict[str, Any] = {
    "quote": lambda evidence: {**evidence, "quote": bytes(1281)},
    "measurement_list": lambda evidence: {**evidence, "measurement_list": bytes(65_537)},
    "software": lambda evidence: {**evidence, "software": "a" * 65},
}
ILL_FORMED: dict[str, Any] = {
    "n_am": lambda evidence: {**evidence, "n_am": bytes(31)},
    "software": lambda evidence: {**evidence, "software": "UPPER"},
    "quote": lambda evidence: {**evidence, "quote": b""},
    "another_field": lambda evidence: {**evidence, "pcr10": bytes(32)},
    "field_missing": lambda evidence: {name: evidence[name] for name in evidence if name != "n_am"},
}


@pytest.mark.parametrize("field", OVERSIZED)
def test_ATT_L6_refuses_an_oversized(field: str, ready: Phone) -> None:
    draft = ready.attest("launch")
    with refused("OVERSIZE"):
        draft.send(fields={"evidence": OVERSIZED[field](draft.payload["evidence"])})


@pytest.mark.parametrize("field", ILL_FORMED)
def test_ATT_L6_refuses_ill_formed_evidence(field: str, ready: Phone) -> None:
    draft = ready.attest("launch")
    with refused("MALFORMED"):
        draft.send(fields={"evidence": ILL_FORMED[field](draft.payload["evidence"])})
