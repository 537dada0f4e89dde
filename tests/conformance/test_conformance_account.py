"""AID: an anonymous account for a person whom the bank has authenticated (paper §2.4)."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
from conformance.bundle import Bundle
from conformance.calls import refused
from conformance.drafts import checked
from conformance.forgeries import PLATFORM_FORGERIES, SOFTWARE_FORGERIES
from conformance.phone import Certified, Opening, Phone, account_of
from conformance.service import PlayedTsm
from conformance.stage import Phones
from conformance.wire import CTI, BadWire, Key, Signer, decrypt, encrypt, envelope_digest, pack, sign, unseal, verify

pytestmark = pytest.mark.usefixtures("with_bank")

FORGERIES = PLATFORM_FORGERIES | SOFTWARE_FORGERIES


@pytest.fixture(scope="module")
def opening(ready: Phone) -> Opening:
    """A session that waits for AID-5; refusals leave it as it is."""
    return ready.opening()


@pytest.fixture(scope="module")
def pending(ready: Phone) -> tuple[Opening, Certified]:
    """A certified account that waits for its activation; refusals leave it as it is."""
    opening = ready.opening()
    return opening, ready.certify(opening).send()


# --- AID-1, AID-2 ----------------------------------------------------------------------------------------------------
def test_AID_2_answers_with_a_fresh_session_under_kx(payer: Phone) -> None:
    first, second = payer.opening(), payer.opening()
    assert first.session != second.session
    assert first.n_b != second.n_b


def test_AID_2_only_the_owner_of_kx_can_read_the_answer(ready: Phone) -> None:
    draft = ready.request_account(os.urandom(32), os.urandom(32))
    cose = draft.cose()
    answer = draft.to.call(draft.rpc, cose)
    with pytest.raises(BadWire):
        decrypt(os.urandom(32), answer, "account-challenge", envelope_digest(cose))


def test_AID_2_the_answer_is_bound_to_its_request(ready: Phone) -> None:
    kx = os.urandom(32)
    draft = ready.request_account(os.urandom(32), kx)
    answer = draft.to.call(draft.rpc, draft.cose())
    with pytest.raises(BadWire):
        decrypt(kx, answer, "account-challenge", envelope_digest(b"another request"))


def test_AID_1_refuses_a_phone_without_installed_software(phones: Phones) -> None:
    phone = phones.enrolled()
    with refused("WRONG_STATE"):
        phone.opening()


def test_AID_1_refuses_an_unregistered_key(ready: Phone) -> None:
    draft = ready.request_account(os.urandom(32), os.urandom(32))
    with refused("UNKNOWN_KEY"):
        draft.send(signer=Signer(ready.user, Key.new()))


def test_AID_1_refuses_another_users_signature(ready: Phone, other: Phone) -> None:
    draft = ready.request_account(os.urandom(32), os.urandom(32))
    with refused("WRONG_ISSUER"):
        draft.send(signer=Signer(ready.user, other.sk_u))


@pytest.mark.parametrize("field", ["n_u", "kx"])
def test_AID_1_refuses_a_short_value(field: str, ready: Phone) -> None:
    draft = ready.request_account(os.urandom(32), os.urandom(32))
    with refused("MALFORMED"):
        draft.send(fields={field: bytes(31)})


def test_AID_1_refuses_a_session(ready: Phone) -> None:
    draft = ready.request_account(os.urandom(32), os.urandom(32))
    with refused("MALFORMED"):
        draft.post(draft.cose(), os.urandom(16))


# --- AID-5, AID-6 ----------------------------------------------------------------------------------------------------
def test_AID_6_certifies_the_key_under_a_new_name(bundle: Bundle, payer: Phone) -> None:
    opening = payer.opening()
    certified = payer.certify(opening).send()
    account = account_of(payer, opening, certified, b"")  # compares session, keys and H(K)
    assert account.expires_at_s > time.time()
    assert account.currency == payer.person.currency
    assert 0 < account.limit_minor <= payer.person.limit_minor
    for secret in (payer.user, payer.name):
        assert secret not in account.aid


def test_AID_6_names_tell_no_two_accounts_of_one_person_together(payer: Phone, other: Phone) -> None:
    """Limit and expiry are common values: two accounts of one person differ in their names only, as two persons' do."""
    told = [phone.certify(phone.opening()).send().certificate for phone in (payer, payer, other)]
    assert len({item["aid"] for item in told}) == 3
    assert len({(item["expires_at_s"], item["currency"]) for item in told}) == 1


def test_AID_6_the_certificate_opens_with_dk_aid_only(ready: Phone, opening: Opening) -> None:
    fresh = ready.opening()
    draft = ready.certify(fresh)
    cose = draft.cose()
    answer = draft.to.call(draft.rpc, cose, draft.session)
    digest = envelope_digest(cose, draft.session)
    inner = decrypt(fresh.kx, answer, "account-certificate", digest)
    with pytest.raises(BadWire):
        unseal(opening.dk_aid, inner, "account-certificate", digest)
    assert unseal(fresh.dk_aid, inner, "account-certificate", digest)


def test_AID_5_same_bytes_again_give_the_same_certificate_and_no_second_account(
    phones: Phones, played_tsm: PlayedTsm
) -> None:
    phone = phones.installed()
    opening = phone.opening()
    draft = phone.certify(opening)
    cose = draft.cose()
    first, again = draft.post(cose), draft.post(cose)
    assert (first.certificate.payload, first.key) == (again.certificate.payload, again.key)
    assert first.certificate.claims[CTI] == again.certificate.claims[CTI]
    phone.activate(opening, first, played_tsm.name).send()
    assert list(phone.passes()) == [first.certificate["aid"]]


def test_AID_5_refuses_a_session_that_was_used(payer: Phone) -> None:
    used = payer.opening()
    payer.certify(used).send()
    with refused("WRONG_STATE"):
        payer.certify(used).send()


@pytest.mark.parametrize("case", FORGERIES)
def test_AID_5_refuses_evidence_of(case: str, ready: Phone, opening: Opening, other: Phone) -> None:
    forgery = FORGERIES[case]
    key = opening.sk_aid.point
    evidence = forgery.make(ready, "account", opening.n_b, other=other, requested_key=key)
    with refused(forgery.code):
        ready.certify(opening, evidence=evidence).send()


def test_AID_5_refuses_evidence_for_another_key(ready: Phone, opening: Opening) -> None:
    evidence = ready.evidence("account", opening.n_b, requested_key=Key.new().point)
    with refused("QUOTE_NOT_FRESH"):
        ready.certify(opening, evidence=evidence).send()


def test_AID_5_refuses_evidence_of_a_launch(ready: Phone, opening: Opening) -> None:
    evidence = ready.evidence("launch", opening.n_b)
    with refused("QUOTE_NOT_FRESH", "EVIDENCE_MALFORMED"):
        ready.certify(opening, evidence=evidence).send()


def test_AID_5_refuses_unknown_software(ready: Phone, opening: Opening) -> None:
    evidence = ready.evidence("account", opening.n_b, requested_key=opening.sk_aid.point, software="other-wallet")
    with refused("SOFTWARE_UNKNOWN"):
        ready.certify(opening, evidence=evidence).send()


def test_AID_5_refuses_foreign_secure_element(ready: Phone, opening: Opening, other: Phone) -> None:
    """Another genuine SE, which this user has not registered."""
    for signer in (other.by_se, Signer(ready.name, other.keys.se)):
        with refused("SIGNATURE_INVALID", "WRONG_ISSUER", "UNKNOWN_KEY"):
            ready.certify(opening, endorsed=ready.endorsed(opening, signer=signer)).send()


@pytest.mark.parametrize("signer", ["user", "wallet", "unknown"])
def test_AID_5_refuses_keys_without_the_secure_elements_signature(signer: str, ready: Phone, opening: Opening) -> None:
    key = {"user": ready.sk_u, "wallet": ready.keys.wallet, "unknown": Key.new()}[signer]
    with refused("SIGNATURE_INVALID", "UNKNOWN_KEY"):
        ready.certify(opening, endorsed=ready.endorsed(opening, signer=Signer(ready.name, key))).send()


def _other_keys(ready: Phone, opening: Opening) -> dict[str, dict[str, bytes]]:
    point = Key.new().point
    return {
        "S_SE names another PK_AID": {"endorsed": ready.endorsed(opening, pk_aid=point)},
        "S_SE names another EK_AID": {"endorsed": ready.endorsed(opening, ek_aid=point)},
        "S_SE is of another session": {"endorsed": ready.endorsed(opening, n_b=os.urandom(32))},
        "S_AID names another EK_AID": {"self_signed": ready.self_signed(opening, ek_aid=point)},
        "S_AID is of another session": {"self_signed": ready.self_signed(opening, n_b=os.urandom(32))},
        "S_AID is of another run": {"self_signed": ready.self_signed(opening, n_u=os.urandom(32))},
    }


@pytest.mark.parametrize(
    "case",
    [
        "S_SE names another PK_AID",
        "S_SE names another EK_AID",
        "S_SE is of another session",
        "S_AID names another EK_AID",
        "S_AID is of another session",
        "S_AID is of another run",
    ],
)
def test_AID_5_refuses_when(case: str, ready: Phone, opening: Opening) -> None:
    with refused("FIELD_MISMATCH"):
        ready.certify(opening, **_other_keys(ready, opening)[case]).send()


def test_AID_4_refuses_a_self_signature_by_another_key(ready: Phone, opening: Opening) -> None:
    """Nobody has a certificate for a key that is not theirs."""
    mine = Key.new()
    for signer in (Signer(opening.sk_aid.kid.hex(), mine), Signer(mine.kid.hex(), mine)):
        with refused("SIGNATURE_INVALID", "WRONG_ISSUER"):
            ready.certify(opening, self_signed=ready.self_signed(opening, signer=signer)).send()


def test_AID_4_refuses_a_self_signature_under_another_name(ready: Phone, opening: Opening) -> None:
    by_aid = Signer(ready.user, opening.sk_aid)
    with refused("WRONG_ISSUER"):
        ready.certify(opening, self_signed=ready.self_signed(opening, signer=by_aid)).send()


def test_AID_5_refuses_ek_aid_swapped_by_the_wallet(ready: Phone, opening: Opening) -> None:
    """S_U alone names another EK_AID: the bank would seal K to who does not hold PK_AID."""
    with refused("FIELD_MISMATCH"):
        ready.certify(opening, ek_aid=Key.new().point).send()


@pytest.mark.parametrize("field", ["pk_aid", "ek_aid"])
def test_AID_5_refuses_a_key_that_is_not_on_the_curve(field: str, ready: Phone, opening: Opening) -> None:
    with refused("MALFORMED", "FIELD_MISMATCH"):
        ready.certify(opening, **{field: b"\4" + bytes(64)}).send()


@pytest.mark.parametrize("field", ["n_u", "n_b"])
def test_AID_5_refuses_a_nonce_of_another_session(field: str, ready: Phone, opening: Opening) -> None:
    with refused("NONCE_MISMATCH"):
        ready.certify(opening, **{field: os.urandom(32)}).send()


def test_AID_5_refuses_parts_in_another_order(ready: Phone, opening: Opening) -> None:
    draft = ready.certify(opening)
    signed, by_se, by_aid = draft.signed(), ready.endorsed(opening), ready.self_signed(opening)
    for parts in ((by_se, signed, by_aid), (signed, by_aid, by_se), (signed, signed, signed)):
        with refused("WRONG_MESSAGE"):
            draft.post(encrypt(opening.kx, "account-keys", pack(*parts)))


def test_AID_5_refuses_another_number_of_parts(ready: Phone, opening: Opening) -> None:
    draft = ready.certify(opening)
    signed, by_se, by_aid = draft.signed(), ready.endorsed(opening), ready.self_signed(opening)
    for parts in ((), (signed,), (signed, by_se), (signed, by_se, by_aid, by_aid)):
        with refused("MALFORMED", "OVERSIZE"):
            draft.post(encrypt(opening.kx, "account-keys", pack(*parts)))


def test_AID_5_refuses_another_session_key(ready: Phone, opening: Opening) -> None:
    with refused("DECRYPTION_FAILED"):
        ready.certify(opening, kx=os.urandom(32)).send()


def test_AID_5_refuses_a_session_of_another_run(ready: Phone, opening: Opening) -> None:
    """Its own kx opens nothing there."""
    with refused("DECRYPTION_FAILED"):
        ready.certify(opening, session=ready.opening().session).send()


def test_AID_5_refuses_an_unknown_session(ready: Phone, opening: Opening) -> None:
    with refused("UNKNOWN_SESSION"):
        ready.certify(opening, session=os.urandom(16)).send()


def test_AID_5_refuses_another_users_signature_in_the_session(ready: Phone, opening: Opening, other: Phone) -> None:
    with refused("SIGNATURE_INVALID", "WRONG_ISSUER"):
        ready.certify(opening).send(signer=Signer(ready.user, other.sk_u))


# --- who the person is -----------------------------------------------------------------------------------------------
def test_AID_5_refuses_a_wrong_passcode_and_ends_the_session(phones: Phones) -> None:
    phone = phones.installed()
    opening = phone.opening()
    with refused("FACTORS_INSUFFICIENT"):
        phone.certify(opening, passcode="not-the-passcode").send()
    with refused("WRONG_STATE"):
        phone.certify(opening).send()
    assert phone.certify(phone.opening()).send()


FACTORS: dict[str, list[dict[str, Any]]] = {
    "none": [],
    "twice": [{"factor": "passcode", "proof": b"first-guess"}, {"factor": "passcode", "proof": b"second-guess"}],
}


@pytest.mark.parametrize("case", FACTORS)
def test_AID_5_refuses_factors(case: str, other: Phone) -> None:
    """None at all, and a second guess in one message."""
    with refused("FACTORS_INSUFFICIENT"):
        other.certify(other.opening(), auth=FACTORS[case]).send()
    assert other.certify(other.opening()).send()  # the count of wrong entries in a row starts again


def test_AID_5_refuses_unknown_and_too_many_factors(ready: Phone, opening: Opening) -> None:
    with refused("MALFORMED"):
        ready.certify(opening, auth=[{"factor": "color", "proof": b"blue"}]).send()
    with refused("OVERSIZE"):
        ready.certify(opening, auth=[{"factor": "passcode", "proof": b"guess"}] * 5).send()


def test_AID_5_locks_after_five_wrong_entries_in_a_row(phones: Phones) -> None:
    """The same bytes again are no further guess; and what is locked stays locked for the right passcode too."""
    phone = phones.installed()
    sessions = [phone.opening() for _ in range(6)]
    for opening in sessions[:4]:
        draft = phone.certify(opening, passcode="not-the-passcode")
        cose = draft.cose()
        for _ in range(2):
            with refused("FACTORS_INSUFFICIENT"):
                draft.post(cose)
    with refused("FACTOR_LOCKED"):
        phone.certify(sessions[4], passcode="not-the-passcode").send()
    with refused("FACTOR_LOCKED"):
        phone.certify(sessions[5]).send()
    with refused("FACTOR_LOCKED"):
        phone.opening()


def test_AID_6_never_certifies_more_than_the_persons_limit(phones: Phones, played_tsm: PlayedTsm) -> None:
    phone = phones.installed(phones.of_little_credit())
    total = 0
    with refused("ACCOUNT_LIMIT_REACHED"):
        for _ in range(100):
            total += phone.certify(phone.opening()).send().certificate["limit_minor"]
    assert 0 < total <= phone.person.limit_minor


# --- AID-8 -----------------------------------------------------------------------------------------------------------
def test_AID_8_activates_and_brings_the_first_pass(bundle: Bundle, payer: Phone, played_tsm: PlayedTsm) -> None:
    opening = payer.opening()
    certified = payer.certify(opening).send()
    aid = certified.certificate["aid"]
    assert aid not in payer.passes()
    active = payer.activate(opening, certified, played_tsm.name).send()
    assert active["aid"] == aid
    shown = checked(
        verify(
            active["launch_pass"], bundle.bank.sign, "launch-pass", issuer=bundle.bank.name, audience=played_tsm.name
        ),
        "launch-pass",
    )  # fmt: skip
    assert (shown["aid"], shown["pk_aid"]) == (aid, opening.sk_aid.point)
    assert aid in payer.passes()


def test_AID_8_same_bytes_again_give_the_same_pass(payer: Phone, played_tsm: PlayedTsm) -> None:
    opening = payer.opening()
    draft = payer.activate(opening, payer.certify(opening).send(), played_tsm.name)
    cose = draft.cose()
    assert draft.post(cose).payload == draft.post(cose).payload


def test_AID_8_refuses_a_second_activation(payer: Phone, played_tsm: PlayedTsm) -> None:
    opening = payer.opening()
    certified = payer.certify(opening).send()
    payer.activate(opening, certified, played_tsm.name).send()
    with refused("WRONG_STATE"):
        payer.activate(opening, certified, played_tsm.name).send()


def test_AID_8_refuses_before_the_certificate(ready: Phone, opening: Opening, pending: Any) -> None:
    """AID-8 in a session that has no certificate yet."""
    _, certified = pending
    with refused("UNKNOWN_SESSION", "WRONG_STATE"):
        ready.activate(opening, certified, "conformance-tsm").send()


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("aid", "a-00000000000000000000000000000000", "FIELD_MISMATCH"),
        ("n_b", bytes(32), "NONCE_MISMATCH"),
        ("tsm", "nobody", ("UNKNOWN_KEY", "UNKNOWN_ACCOUNT")),
        ("tsm", "THE TSM", "MALFORMED"),
    ],
)
def test_AID_8_refuses_another(
    field: str, value: Any, code: Any, ready: Phone, pending: tuple[Opening, Certified], played_tsm: PlayedTsm
) -> None:
    codes = (code,) if isinstance(code, str) else code
    with refused(*codes):
        ready.activate(*pending, played_tsm.name).send(fields={field: value})


def test_AID_8_refuses_a_bank_as_the_tsm(bundle: Bundle, ready: Phone, pending: tuple[Opening, Certified]) -> None:
    with refused("UNKNOWN_ACCOUNT", "UNKNOWN_KEY"):
        ready.activate(*pending, bundle.bank.name).send()


def test_AID_8_refuses_another_signer(ready: Phone, pending: tuple[Opening, Certified], played_tsm: PlayedTsm) -> None:
    """Neither the user nor the SE may speak for the account."""
    draft = ready.activate(*pending, played_tsm.name)
    for key in (ready.sk_u, ready.keys.se, Key.new()):
        with refused("SIGNATURE_INVALID", "UNKNOWN_KEY"):
            draft.send(signer=Signer(draft.payload["aid"], key))


def test_AID_8_refuses_another_k(ready: Phone, pending: tuple[Opening, Certified], played_tsm: PlayedTsm) -> None:
    draft = ready.activate(*pending, played_tsm.name)
    for key in (os.urandom(32), pending[0].kx):
        with refused("DECRYPTION_FAILED"):
            draft.post(encrypt(key, "account-activation", draft.signed()))


def test_AID_8_refuses_an_unknown_session(
    ready: Phone, pending: tuple[Opening, Certified], played_tsm: PlayedTsm
) -> None:
    draft = ready.activate(*pending, played_tsm.name)
    with refused("UNKNOWN_SESSION"):
        draft.post(draft.cose(), os.urandom(16))


def test_AID_8_refuses_the_reply_of_aid_6_as_activation(
    ready: Phone, pending: tuple[Opening, Certified], played_tsm: PlayedTsm
) -> None:
    """A signature of PK_AID of another type says nothing here."""
    opening, certified = pending
    aid = certified.certificate["aid"]
    signed = sign(Signer(aid, opening.sk_aid), "account-keys-aid", {"n_u": opening.n_u, "n_b": opening.n_b,
                  "ek_aid": opening.dk_aid.point}, audience=ready.bank.name)  # fmt: skip
    draft = ready.activate(opening, certified, played_tsm.name)
    with refused("WRONG_MESSAGE"):
        draft.post(encrypt(certified.key, "account-activation", signed))


def test_AID_8_after_all_refusals_the_account_is_still_activated(
    ready: Phone, pending: tuple[Opening, Certified], played_tsm: PlayedTsm
) -> None:
    """A refusal changes nothing. (The sessions of this module saw every refusal above.)"""
    active = ready.activate(*pending, played_tsm.name).send()
    assert active["aid"] == pending[1].certificate["aid"]


def test_AID_5_after_all_refusals_the_session_still_waits(ready: Phone, opening: Opening) -> None:
    assert ready.certify(opening).send().certificate["pk_aid"] == opening.sk_aid.point
