"""INIT: the bank registers a phone that a person brings with a branch code, and certifies PK_U (paper §2.2)."""

from __future__ import annotations

import os
from typing import Any

import pytest
from conformance.bundle import Bundle
from conformance.calls import Connection, Refusal, refused
from conformance.forgeries import PLATFORM_FORGERIES
from conformance.phone import Phone
from conformance.stage import Phones, user_in
from conformance.wire import Key, Signer, point_of
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

pytestmark = pytest.mark.usefixtures("with_bank")


@pytest.fixture(scope="module")
def stranger(phones: Phones) -> Phone:
    """A phone that is never registered: everything in this module that is refused is tried with it."""
    return phones.new()


# --- who may ask -----------------------------------------------------------------------------------------------------
def test_INIT_1_the_bank_answers_only_callers_with_a_certificate(bundle: Bundle, stranger: Phone) -> None:
    nobody = Connection(bundle.bank.mutual_address, bundle.bank.name, bundle.tls())
    with pytest.raises(Refusal) as caught:
        nobody.call("Bank.Challenge", stranger.challenge("enroll").cose())
    assert (caught.value.code, caught.value.status) == ("", "UNAVAILABLE")
    nobody.close()


def test_INIT_3_challenge_is_fresh_for_each_request(stranger: Phone) -> None:
    assert len({stranger.nonce("enroll") for _ in range(3)}) == 3


def test_INIT_3_challenge_lives_two_minutes_at_most(stranger: Phone) -> None:
    claims = stranger.challenge("enroll").send().claims
    assert claims[4] - claims[6] <= 120


def test_INIT_3_challenge_refuses_another_phones_tls_identity(stranger: Phone, ready: Phone) -> None:
    cose = stranger.challenge("enroll").cose()
    with refused("WRONG_PEER"):
        ready.connection.call("Bank.Challenge", cose)


def test_INIT_3_challenge_refuses_a_tsm_as_tls_identity(stranger: Phone, played_tsm: Any) -> None:
    cose = stranger.challenge("enroll").cose()
    with refused("WRONG_PEER"):
        played_tsm.connection.call("Bank.Challenge", cose)


def test_INIT_3_challenge_refuses_a_key_of_another_role(stranger: Phone) -> None:
    with refused("WRONG_ISSUER", "UNKNOWN_KEY"):
        stranger.challenge("enroll").send(signer=stranger.by_se)


def test_INIT_3_challenge_refuses_an_uncertified_key(stranger: Phone) -> None:
    with refused("UNKNOWN_KEY"):
        stranger.challenge("enroll").send(signer=Signer(stranger.name, Key.new()))


def test_INIT_3_challenge_refuses_an_unknown_purpose(stranger: Phone) -> None:
    with refused("MALFORMED"):
        stranger.challenge("enroll").send(fields={"purpose": "pay"})


# --- the accepting run -----------------------------------------------------------------------------------------------
def test_INIT_4_registers_a_phone_and_certifies_pk_u(bundle: Bundle, phones: Phones) -> None:
    phone = phones.new()
    reply = phone.enroll().send()
    certificate = x509.load_der_x509_certificate(reply["certificate"])
    issuer = x509.load_der_x509_certificate(reply["issuer"])
    assert point_of(certificate.public_key()) == phone.sk_u.point  # type: ignore[arg-type]
    assert issuer == bundle.bank_issuer
    certificate.verify_directly_issued_by(issuer)
    issuer.verify_directly_issued_by(bundle.ca)
    assert issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert phone.name not in user_in(reply["certificate"])


def test_INIT_4_the_certificate_names_a_user_not_a_person(phones: Phones) -> None:
    users = [phones.enrolled().user, phones.enrolled().user]
    assert users[0] != users[1]
    for user in users:
        assert user == user.lower()
        assert "person" not in user


def test_INIT_2_a_branch_code_works_once(ready: Phone, stranger: Phone) -> None:
    with refused("BRANCH_CODE_INVALID"):
        stranger.enroll(branch_code=ready.person.branch_code).send()


def test_INIT_3_a_secure_element_is_registered_once(ready: Phone, stranger: Phone) -> None:
    """With a fresh branch code, fresh keys, and all else right."""
    again = Phone.__new__(Phone)
    again.__dict__.update(ready.__dict__)
    again.person, again.sk_u, again.dk_u = stranger.person, Key.new(), Key.new()
    with refused("IDENTIFIER_TAKEN"):
        again.enroll().send()


# --- refusals --------------------------------------------------------------------------------------------------------
def test_INIT_2_refuses_an_unknown_branch_code(stranger: Phone) -> None:
    with refused("BRANCH_CODE_INVALID"):
        stranger.enroll(branch_code="ABCDEFGH-23456789").send()


def test_INIT_2_refuses_a_branch_code_of_other_characters(stranger: Phone) -> None:
    with refused("MALFORMED"):
        stranger.enroll(branch_code=stranger.person.branch_code.lower()).send()


def test_INIT_3_refuses_a_nonce_that_was_never_given(stranger: Phone) -> None:
    stranger.nonce("enroll")
    with refused("NONCE_MISMATCH"):
        stranger.enroll(n_b=os.urandom(32)).send()


def test_INIT_3_refuses_a_nonce_that_was_replaced(stranger: Phone) -> None:
    old = stranger.nonce("enroll")
    stranger.nonce("enroll")
    with refused("NONCE_MISMATCH"):
        stranger.enroll(n_b=old).send()


def test_INIT_3_refuses_a_nonce_of_another_purpose(stranger: Phone) -> None:
    with refused("NONCE_MISMATCH"):
        stranger.enroll(n_b=stranger.nonce("launch")).send()


def test_INIT_3_refuses_a_nonce_of_another_phone(stranger: Phone, ready: Phone) -> None:
    with refused("NONCE_MISMATCH"):
        stranger.enroll(n_b=ready.nonce("enroll")).send()


def test_INIT_3_refuses_another_phones_tls_identity(stranger: Phone, ready: Phone) -> None:
    cose = stranger.enroll().cose()
    with refused("WRONG_PEER"):
        ready.connection.call("Bank.Enroll", cose)


def test_INIT_3_refuses_a_session(stranger: Phone) -> None:
    draft = stranger.enroll()
    with refused("MALFORMED"):
        draft.post(draft.cose(), b"0123456789abcdef")


def test_INIT_3_refuses_pk_u_that_the_secure_element_did_not_name(stranger: Phone) -> None:
    other = Key.new()
    with refused("FIELD_MISMATCH"):
        stranger.enroll(pk_u=other.point).send()


def test_INIT_3_refuses_a_signer_that_the_secure_element_did_not_name(stranger: Phone) -> None:
    mine = Key.new()
    with refused("SIGNATURE_INVALID"):
        stranger.enroll(pk_u=mine.point).send(signer=Signer(stranger.name, mine))


STATEMENTS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "uncertified_secure_element": ({"signer": "unknown"}, ("UNKNOWN_KEY",)),
    "wallet_key_as_secure_element": ({"signer": "wallet"}, ("WRONG_ISSUER", "UNKNOWN_KEY")),
    "signature_by_another_key": ({"signer": "unknown", "kid": "se"}, ("SIGNATURE_INVALID",)),
    "another_audience": ({"audience": "bank-x"}, ("WRONG_AUDIENCE",)),
    "another_issuer": ({"issuer": "phone-x"}, ("WRONG_ISSUER",)),
    "expired": ({"iat": 1_000_000_000}, ("EXPIRED",)),
    "of_tomorrow": ({"iat": 4_000_000_000}, ("NOT_YET_VALID",)),
    "another_type": ({"media": "application/vnd.tapveil.enroll+cbor"}, ("WRONG_MESSAGE",)),
    "unknown_field": ({"fields": {"more": 1}}, ("MALFORMED",)),
    "key_not_on_the_curve": ({"fields": {"ek_u": b"\4" + bytes(64)}}, ("MALFORMED",)),
}


@pytest.mark.parametrize("case", STATEMENTS)
def test_INIT_3_refuses_a_statement_of(case: str, stranger: Phone) -> None:
    """S_SE: the phone's own keys are vouched for by a certified secure element, for this bank, now."""
    changes, codes = STATEMENTS[case]
    signers = {"unknown": Signer(stranger.name, Key.new()), "wallet": Signer(stranger.name, stranger.keys.wallet)}
    changes = dict(changes)
    if "signer" in changes:
        changes["signer"] = signers[changes["signer"]]
    if changes.get("kid") == "se":
        changes["kid"] = stranger.keys.se.kid
    with refused(*codes):
        stranger.enroll(se_statement=stranger.statement(**changes)).send()


def test_INIT_3_refuses_the_statement_of_another_secure_element(stranger: Phone, ready: Phone) -> None:
    """Its transport is not that secure element's."""
    statement = stranger.statement(signer=ready.by_se)
    with refused("WRONG_PEER"):
        stranger.enroll(se_statement=statement).send(issuer=ready.name)


# --- the attestation key ---------------------------------------------------------------------------------------------
def test_INIT_3_refuses_the_attestation_certificate_of_another_phone(stranger: Phone, ready: Phone) -> None:
    statement = stranger.statement(fields={"attestation_certificate": ready.keys.attestation_certificate})
    with refused("CERTIFICATE_INVALID"):
        stranger.enroll(se_statement=statement).send()


def test_INIT_3_refuses_an_attestation_certificate_that_is_none(stranger: Phone) -> None:
    statement = stranger.statement(fields={"attestation_certificate": b"\x30\x03\x02\x01\x01"})
    with refused("CERTIFICATE_INVALID"):
        stranger.enroll(se_statement=statement).send()


def test_INIT_3_refuses_an_attestation_certificate_of_another_maker(stranger: Phone) -> None:
    """The phone's own certificate, word for word, but signed by somebody else's key."""
    original = x509.load_der_x509_certificate(stranger.keys.attestation_certificate)
    forged = certificate_like(original, Key.new())
    with refused("CERTIFICATE_INVALID"):
        stranger.enroll(se_statement=stranger.statement(fields={"attestation_certificate": forged})).send()


def certificate_like(original: x509.Certificate, signer: Key) -> bytes:
    """All fields and extensions of `original`, under another signature (DER)."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(original.subject)
        .issuer_name(original.issuer)
        .public_key(original.public_key())  # type: ignore[arg-type]
        .serial_number(original.serial_number)
        .not_valid_before(original.not_valid_before_utc)
        .not_valid_after(original.not_valid_after_utc)
    )
    for extension in original.extensions:
        builder = builder.add_extension(extension.value, critical=extension.critical)
    return builder.sign(signer.native, hashes.SHA256()).public_bytes(Encoding.DER)


# --- the evidence ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", PLATFORM_FORGERIES)
def test_INIT_3_refuses_evidence_of(case: str, stranger: Phone, ready: Phone) -> None:
    forgery = PLATFORM_FORGERIES[case]
    n_b = stranger.nonce("enroll")
    with refused(forgery.code):
        stranger.enroll(n_b=n_b, evidence=forgery.make(stranger, "enroll", n_b, other=ready)).send()


def test_INIT_3_refuses_a_named_software(stranger: Phone) -> None:
    """No software runs yet, and none may be named."""
    n_b = stranger.nonce("enroll")
    evidence = stranger.evidence("enroll", n_b, software=stranger.software)
    with refused("EVIDENCE_MALFORMED", "QUOTE_NOT_FRESH", "MALFORMED"):
        stranger.enroll(n_b=n_b, evidence=evidence).send()


def test_INIT_3_a_refusal_changes_nothing(phones: Phones) -> None:
    """After a refused attempt the same branch code and the same nonce still do."""
    phone = phones.new()
    n_b = phone.nonce("enroll")
    with refused("MEASUREMENT_LIST_MISMATCH"):
        phone.enroll(n_b=n_b, evidence=phone.evidence("enroll", n_b, shown=b"")).send()
    with refused("BRANCH_CODE_INVALID"):
        phone.enroll(n_b=n_b, branch_code="ABCDEFGH-23456789").send()
    assert user_in(phone.enroll(n_b=n_b).send()["certificate"])
