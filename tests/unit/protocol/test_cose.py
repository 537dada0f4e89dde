"""COSE_Sign1 and COSE_Encrypt0: what verifies, and every way not to (RFC 9052, RFC 9597)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st
from support.world import SeededEntropy

from protocol import cose
from protocol.cose import Claims
from protocol.crypto import P256, PrivateKey, new_key
from protocol.errors import (
    DecryptionFailed,
    Expired,
    LifetimeTooLong,
    Malformed,
    NotYetValid,
    Oversize,
    ProtocolError,
    SignatureInvalid,
    WrongAudience,
    WrongIssuer,
    WrongMessage,
)
from protocol.types import MAX_LIFETIME_S, MAX_SKEW_S

ENTROPY = SeededEntropy("cose")
KEY, OTHER = PrivateKey.generate(ENTROPY), PrivateKey.generate(ENTROPY)
SHARED = new_key(ENTROPY)
NOW_S = 1_800_000_000
LIMIT = 4096
REQUEST = hashlib.sha256(b"the request").digest()
CLAIMS = Claims(issuer="bank-a", audience="tsm-1", issued_at_s=NOW_S, expires_at_s=NOW_S + 600, nonce=b"n" * 16)
PAYLOAD = b"\xa1\x61a\x01"
SIGNED = cose.sign(KEY, name="greeting", claims=CLAIMS, payload=PAYLOAD)
REPLY = cose.sign(KEY, name="greeting", claims=CLAIMS, payload=PAYLOAD, request_digest=REQUEST)
TYPE = "application/vnd.tapveil.greeting+cbor"
CLAIM_SET: dict[int, Any] = {1: "bank-a", 3: "tsm-1", 4: NOW_S + 600, 6: NOW_S, 7: b"n" * 16}
HEADER: dict[int, Any] = {1: -7, 3: TYPE, 4: KEY.public.thumbprint, 15: CLAIM_SET}


def _dumps(value: Any) -> bytes:
    return cbor2.dumps(value, canonical=True)


def _sign1(header: Any = None, *, unprotected: Any = None, payload: Any = PAYLOAD, protected: Any = None) -> bytes:
    """A COSE_Sign1 of any shape, correctly signed: only its form can be what is refused."""
    body = _dumps(HEADER if header is None else header) if protected is None else protected
    signature = P256.sign(KEY, _dumps(["Signature1", body, _dumps(["tapveil-v1", "greeting", b""]), payload]))
    return b"\xd2" + _dumps([body, {} if unprotected is None else unprotected, payload, signature])


def _open(data: bytes) -> cose.Verified:
    return cose.verify(cose.parse_sign1(data, max_bytes=LIMIT), KEY.public, name="greeting")


# --- COSE_Sign1 ------------------------------------------------------------------------------------------------------
def test_signed_verifies() -> None:
    sign1 = cose.parse_sign1(SIGNED, max_bytes=LIMIT)
    assert (sign1.name, sign1.kid, sign1.claims) == ("greeting", KEY.public.thumbprint, CLAIMS)
    verified = cose.verify(sign1, KEY.public, name="greeting")
    assert verified == cose.Verified(claims=CLAIMS, payload=PAYLOAD, key=KEY.public, wire=SIGNED)


def test_reply_verifies_under_its_request() -> None:
    sign1 = cose.parse_sign1(REPLY, max_bytes=LIMIT)
    assert cose.verify(sign1, KEY.public, name="greeting", request_digest=REQUEST).payload == PAYLOAD


def test_signing_is_deterministic() -> None:
    assert cose.sign(KEY, name="greeting", claims=CLAIMS, payload=PAYLOAD) == SIGNED == _sign1()


@pytest.mark.parametrize(("data", "digest"), [(SIGNED, b""), (REPLY, REQUEST)], ids=["request", "reply"])
def test_independent_reader_agrees(data: bytes, digest: bytes) -> None:
    """RFC 9052 §4.4, with nothing of ours but the bytes and the public key."""
    tagged = cbor2.loads(data)
    assert tagged.tag == 18
    protected, unprotected, payload, signature = tagged.value
    assert unprotected == {}
    header = cbor2.loads(protected)
    assert header == {1: -7, 3: TYPE, 4: header[4], 15: CLAIM_SET}
    external_aad = cbor2.dumps(["tapveil-v1", "greeting", digest])
    sig_structure = cbor2.dumps(["Signature1", protected, external_aad, payload])
    r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
    public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), KEY.public.encoded)
    public.verify(encode_dss_signature(r, s), sig_structure, ec.ECDSA(hashes.SHA256()))
    x, y = public.public_numbers().x.to_bytes(32), public.public_numbers().y.to_bytes(32)
    assert header[4] == hashlib.sha256(cbor2.dumps({1: 2, -1: 1, -2: x, -3: y})).digest()


@pytest.mark.parametrize("bit", range(8))
def test_every_changed_bit_of_a_signature_is_refused(bit: int) -> None:
    for position in range(len(SIGNED)):
        changed = bytearray(SIGNED)
        changed[position] ^= 1 << bit
        with pytest.raises(ProtocolError) as refusal:
            _open(bytes(changed))
        assert refusal.value.code in {"MALFORMED", "WRONG_MESSAGE", "SIGNATURE_INVALID", "OVERSIZE"}, position


def test_every_shortened_signature_is_refused() -> None:
    for length in range(len(SIGNED)):
        with pytest.raises(ProtocolError) as refusal:
            _open(SIGNED[:length])
        assert refusal.value.code == ("WRONG_MESSAGE" if length == 0 else "MALFORMED")


CONTEXTS: dict[str, tuple[bytes, PrivateKey, str, bytes, type[ProtocolError], str]] = {
    "other key": (SIGNED, OTHER, "greeting", b"", SignatureInvalid, "SIGNATURE_INVALID"),
    "other name": (SIGNED, KEY, "farewell", b"", WrongMessage, "WRONG_MESSAGE"),
    "request taken for a reply": (SIGNED, KEY, "greeting", REQUEST, SignatureInvalid, "SIGNATURE_INVALID"),
    "reply taken for a request": (REPLY, KEY, "greeting", b"", SignatureInvalid, "SIGNATURE_INVALID"),
    "reply to another request": (REPLY, KEY, "greeting", bytes(32), SignatureInvalid, "SIGNATURE_INVALID"),
}


@pytest.mark.parametrize(("data", "key", "name", "digest", "error", "code"), CONTEXTS.values(), ids=CONTEXTS)
def test_context_is_signed(
    data: bytes, key: PrivateKey, name: str, digest: bytes, error: type[ProtocolError], code: str
) -> None:
    sign1 = cose.parse_sign1(data, max_bytes=LIMIT)
    with pytest.raises(error) as refusal:
        cose.verify(sign1, key.public, name=name, request_digest=digest)
    assert refusal.value.code == code


@pytest.mark.parametrize(
    "change",
    [{"payload": b"\xa0"}, {"protected": b"\xa0"}, {"signature": bytes(64)}],
    ids=["payload", "protected header", "signature"],
)
def test_only_what_was_signed_verifies(change: dict[str, bytes]) -> None:
    sign1 = replace(cose.parse_sign1(SIGNED, max_bytes=LIMIT), **change)  # type: ignore[arg-type]
    with pytest.raises(SignatureInvalid) as refusal:
        cose.verify(sign1, KEY.public, name="greeting")
    assert refusal.value.code == "SIGNATURE_INVALID"


def _without(label: int) -> dict[int, Any]:
    return {key: value for key, value in HEADER.items() if key != label}


def _claims(label: int, value: Any) -> dict[int, Any]:
    return HEADER | {15: CLAIM_SET | {label: value}}


_PARTS = cbor2.loads(SIGNED).value
FORMS: dict[str, tuple[bytes, type[ProtocolError], str]] = {
    "empty": (b"", WrongMessage, "WRONG_MESSAGE"),
    "no tag": (SIGNED[1:], WrongMessage, "WRONG_MESSAGE"),
    "tag of COSE_Encrypt0": (b"\xd0" + SIGNED[1:], WrongMessage, "WRONG_MESSAGE"),
    "tag of COSE_Sign": (b"\xd8\x62" + SIGNED[1:], WrongMessage, "WRONG_MESSAGE"),
    "tag 18 in a long form": (b"\xd8\x12" + SIGNED[1:], WrongMessage, "WRONG_MESSAGE"),
    "tag twice": (b"\xd2" + SIGNED, Malformed, "MALFORMED"),
    "trailing byte": (SIGNED + b"\0", Malformed, "MALFORMED"),
    "a map": (b"\xd2\xa0", Malformed, "MALFORMED"),
    "a number": (b"\xd2\x04", Malformed, "MALFORMED"),
    "a text as long": (b"\xd2\x64abcd", Malformed, "MALFORMED"),
    "three parts": (b"\xd2" + _dumps(_PARTS[:3]), Malformed, "MALFORMED"),
    "five parts": (b"\xd2" + _dumps([*_PARTS, b""]), Malformed, "MALFORMED"),
    "unprotected kid": (_sign1(unprotected={4: b"kid"}), Malformed, "MALFORMED"),
    "unprotected header of bytes": (_sign1(unprotected=b""), Malformed, "MALFORMED"),
    "unprotected header an array": (_sign1(unprotected=[1]), Malformed, "MALFORMED"),
    "detached payload": (_sign1(payload=None), Malformed, "MALFORMED"),
    "payload of text": (_sign1(payload="a"), Malformed, "MALFORMED"),
    "signature of text": (b"\xd2" + _dumps([*_PARTS[:3], "s"]), Malformed, "MALFORMED"),
    "protected header not wrapped": (_sign1(protected=HEADER), Malformed, "MALFORMED"),
    "protected header empty": (_sign1(protected=b""), Malformed, "MALFORMED"),
    "protected header not CBOR": (_sign1(protected=b"\xff"), Malformed, "MALFORMED"),
    "protected header not deterministic": (_sign1(protected=cbor2.dumps(dict(reversed(HEADER.items())))), Malformed,
                                           "MALFORMED"),
    "protected header an array": (_sign1([1, 2]), Malformed, "MALFORMED"),
    "protected header too large": (_sign1(HEADER | {4: b"k" * 1024}), Oversize, "OVERSIZE"),
    "extra label": (_sign1(HEADER | {5: b"iv"}), Malformed, "MALFORMED"),
    "critical label": (_sign1(HEADER | {2: [15]}), Malformed, "MALFORMED"),
    "no alg": (_sign1(_without(1)), Malformed, "MALFORMED"),
    "no content type": (_sign1(_without(3)), Malformed, "MALFORMED"),
    "no kid": (_sign1(_without(4)), Malformed, "MALFORMED"),
    "no claims": (_sign1(_without(15)), Malformed, "MALFORMED"),
    "alg EdDSA": (_sign1(HEADER | {1: -8}), Malformed, "MALFORMED"),
    "alg by name": (_sign1(HEADER | {1: "ES256"}), Malformed, "MALFORMED"),
    "kid of text": (_sign1(HEADER | {4: "kid"}), Malformed, "MALFORMED"),
    "content type a number": (_sign1(HEADER | {3: 60}), WrongMessage, "WRONG_MESSAGE"),
    "content type of somebody else": (_sign1(HEADER | {3: "application/cwt"}), WrongMessage, "WRONG_MESSAGE"),
    "content type of another tree": (_sign1(HEADER | {3: TYPE.replace("vnd", "prs")}), WrongMessage, "WRONG_MESSAGE"),
    "content type in another encoding": (_sign1(HEADER | {3: TYPE.replace("cbor", "json")}), WrongMessage,
                                         "WRONG_MESSAGE"),
    "content type without suffix": (_sign1(HEADER | {3: TYPE[:-5]}), WrongMessage, "WRONG_MESSAGE"),
    "content type of another message": (_sign1(HEADER | {3: TYPE.replace("greeting", "farewell")}), WrongMessage,
                                        "WRONG_MESSAGE"),
    "claims a list": (_sign1(HEADER | {15: [1]}), Malformed, "MALFORMED"),
    "claims without a nonce": (_sign1(HEADER | {15: {k: v for k, v in CLAIM_SET.items() if k != 7}}), Malformed,
                               "MALFORMED"),
    "claims with a subject": (_sign1(_claims(2, "user")), Malformed, "MALFORMED"),
    "iss of bytes": (_sign1(_claims(1, b"bank-a")), Malformed, "MALFORMED"),
    "iss too long": (_sign1(_claims(1, "a" * 65)), Malformed, "MALFORMED"),
    "aud a list": (_sign1(_claims(3, ["tsm-1"])), Malformed, "MALFORMED"),
    "aud too long": (_sign1(_claims(3, "a" * 65)), Malformed, "MALFORMED"),
    "exp of text": (_sign1(_claims(4, str(NOW_S))), Malformed, "MALFORMED"),
    "exp a boolean": (_sign1(_claims(4, True)), Malformed, "MALFORMED"),
    "exp a float": (_sign1(_claims(4, NOW_S + 0.5)), Malformed, "MALFORMED"),
    "exp beyond all time": (_sign1(_claims(4, 1 << 40)), Malformed, "MALFORMED"),
    "iat negative": (_sign1(_claims(6, -1)), Malformed, "MALFORMED"),
    "iat a bignum": (_sign1(_claims(6, 1 << 64)), Malformed, "MALFORMED"),
    "cti of text": (_sign1(_claims(7, "n" * 16)), Malformed, "MALFORMED"),
    "cti short": (_sign1(_claims(7, b"n" * 15)), Malformed, "MALFORMED"),
    "cti long": (_sign1(_claims(7, b"n" * 17)), Malformed, "MALFORMED"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "error", "code"), FORMS.values(), ids=FORMS)
def test_form_refused(data: bytes, error: type[ProtocolError], code: str) -> None:
    with pytest.raises(error) as refusal:
        _open(data)
    assert refusal.value.code == code


BOUNDARY: dict[str, dict[int, Any]] = {
    "longest names": CLAIM_SET | {1: "a" * 64, 3: "b" * 64},
    "first second": CLAIM_SET | {6: 0},
    "last second": CLAIM_SET | {4: (1 << 40) - 1},
}


@pytest.mark.parametrize("claims", BOUNDARY.values(), ids=BOUNDARY)
def test_claims_at_their_bounds_are_accepted(claims: dict[int, Any]) -> None:
    assert _open(_sign1(HEADER | {15: claims})).claims.plain() == claims


def test_sign1_size_is_bounded() -> None:
    cose.parse_sign1(SIGNED, max_bytes=len(SIGNED) - 1)  # the bound is for what follows the tag
    with pytest.raises(Oversize) as refusal:
        cose.parse_sign1(SIGNED, max_bytes=len(SIGNED) - 2)
    assert refusal.value.code == "OVERSIZE"


# --- claims ----------------------------------------------------------------------------------------------------------
def _times(issued_at_s: int, lifetime_s: int) -> Claims:
    return replace(CLAIMS, issued_at_s=issued_at_s, expires_at_s=issued_at_s + lifetime_s)


GOOD_CLAIMS: dict[str, tuple[Claims, int]] = {
    "now": (CLAIMS, MAX_LIFETIME_S),
    "shortest life": (_times(NOW_S, 1), MAX_LIFETIME_S),
    "longest life": (_times(NOW_S, MAX_LIFETIME_S), MAX_LIFETIME_S),
    "longest life of its kind": (_times(NOW_S, 90), 90),
    "issued one skew ahead": (_times(NOW_S + MAX_SKEW_S, 600), MAX_LIFETIME_S),
    "expired one skew ago": (_times(NOW_S - MAX_SKEW_S - 600, 600), MAX_LIFETIME_S),
}
BAD_CLAIMS: dict[str, tuple[Claims, int, type[ProtocolError], str]] = {
    "issuer": (replace(CLAIMS, issuer="bank-b"), MAX_LIFETIME_S, WrongIssuer, "WRONG_ISSUER"),
    "issuer in capitals": (replace(CLAIMS, issuer="BANK-A"), MAX_LIFETIME_S, WrongIssuer, "WRONG_ISSUER"),
    "audience": (replace(CLAIMS, audience="tsm-2"), MAX_LIFETIME_S, WrongAudience, "WRONG_AUDIENCE"),
    "issuer and audience swapped": (replace(CLAIMS, issuer="tsm-1", audience="bank-a"), MAX_LIFETIME_S, WrongIssuer,
                                    "WRONG_ISSUER"),
    "no life": (_times(NOW_S, 0), MAX_LIFETIME_S, LifetimeTooLong, "LIFETIME_TOO_LONG"),
    "negative life": (_times(NOW_S, -1), MAX_LIFETIME_S, LifetimeTooLong, "LIFETIME_TOO_LONG"),
    "life too long": (_times(NOW_S, MAX_LIFETIME_S + 1), MAX_LIFETIME_S, LifetimeTooLong, "LIFETIME_TOO_LONG"),
    "life too long for its kind": (_times(NOW_S, 91), 90, LifetimeTooLong, "LIFETIME_TOO_LONG"),
    "issued beyond the skew": (_times(NOW_S + MAX_SKEW_S + 1, 600), MAX_LIFETIME_S, NotYetValid, "NOT_YET_VALID"),
    "expired beyond the skew": (_times(NOW_S - MAX_SKEW_S - 601, 600), MAX_LIFETIME_S, Expired, "EXPIRED"),
}  # fmt: skip


@pytest.mark.parametrize(("claims", "max_lifetime_s"), GOOD_CLAIMS.values(), ids=GOOD_CLAIMS)
def test_claims_accepted(claims: Claims, max_lifetime_s: int) -> None:
    claims.check(issuer="bank-a", audience="tsm-1", now_s=NOW_S, max_lifetime_s=max_lifetime_s)
    assert Claims.parse(claims.plain()) == claims


@pytest.mark.parametrize(("claims", "max_lifetime_s", "error", "code"), BAD_CLAIMS.values(), ids=BAD_CLAIMS)
def test_claims_refused(claims: Claims, max_lifetime_s: int, error: type[ProtocolError], code: str) -> None:
    with pytest.raises(error) as refusal:
        claims.check(issuer="bank-a", audience="tsm-1", now_s=NOW_S, max_lifetime_s=max_lifetime_s)
    assert refusal.value.code == code


# --- COSE_Encrypt0 ---------------------------------------------------------------------------------------------------
SEALED = cose.seal(KEY.public, name="greeting", plaintext=PAYLOAD, request_digest=REQUEST)
ENCRYPTED = cose.encrypt(SHARED, ENTROPY, name="greeting", plaintext=PAYLOAD, request_digest=REQUEST)


def _unseal(
    data: bytes, *, key: PrivateKey = KEY, name: str = "greeting", digest: bytes = REQUEST, limit: int = LIMIT
) -> bytes:
    return cose.unseal(key, data, name=name, max_bytes=limit, request_digest=digest)


def _decrypt(
    data: bytes, *, key: bytes = SHARED, name: str = "greeting", digest: bytes = REQUEST, limit: int = LIMIT
) -> bytes:
    return cose.decrypt(key, data, name=name, max_bytes=limit, request_digest=digest)


Opener = Callable[..., bytes]
ENCRYPT0: dict[str, tuple[bytes, int, Opener, object]] = {
    "to a key": (SEALED, -65537, _unseal, OTHER),
    "under a shared key": (ENCRYPTED, 3, _decrypt, bytes(32)),
}
both = pytest.mark.parametrize(("data", "alg", "opener", "other_key"), ENCRYPT0.values(), ids=ENCRYPT0)


@both
def test_encrypted_opens(data: bytes, alg: int, opener: Opener, other_key: object) -> None:
    assert opener(data) == PAYLOAD
    assert PAYLOAD not in data


@both
def test_every_changed_byte_of_an_encryption_is_refused(
    data: bytes, alg: int, opener: Opener, other_key: object
) -> None:
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1
        with pytest.raises(ProtocolError) as refusal:
            opener(bytes(changed))
        assert refusal.value.code in {"MALFORMED", "WRONG_MESSAGE", "DECRYPTION_FAILED"}, position


@both
def test_encryption_is_bound_to_key_name_and_request(data: bytes, alg: int, opener: Opener, other_key: object) -> None:
    for change, error, code in (
        ({"key": other_key}, DecryptionFailed, "DECRYPTION_FAILED"),
        ({"digest": b""}, DecryptionFailed, "DECRYPTION_FAILED"),
        ({"digest": bytes(32)}, DecryptionFailed, "DECRYPTION_FAILED"),
        ({"name": "farewell"}, WrongMessage, "WRONG_MESSAGE"),
        ({"limit": len(data) - 2}, Oversize, "OVERSIZE"),
    ):
        with pytest.raises(error) as refusal:
            opener(data, **change)
        assert refusal.value.code == code


def _encrypt0(alg: Any, change: dict[int, Any], unprotected: Any, ciphertext: Any) -> bytes:
    return b"\xd0" + _dumps([_dumps({1: alg, 3: TYPE} | change), unprotected, ciphertext])


@both
@pytest.mark.parametrize(
    ("change", "unprotected", "error", "code"),
    [
        ({1: -7}, None, Malformed, "MALFORMED"),
        ({1: 1}, None, Malformed, "MALFORMED"),
        ({4: b"kid"}, None, Malformed, "MALFORMED"),
        ({}, {5: b"short"}, Malformed, "MALFORMED"),
        ({}, {5: "twelve chars"}, Malformed, "MALFORMED"),
        ({}, {4: b"kid", 5: bytes(12)}, Malformed, "MALFORMED"),
        ({}, b"", Malformed, "MALFORMED"),
        ({3: "text/plain"}, None, WrongMessage, "WRONG_MESSAGE"),
        ({3: TYPE.replace("vnd", "prs")}, None, WrongMessage, "WRONG_MESSAGE"),
        ({3: TYPE.replace("cbor", "json")}, None, WrongMessage, "WRONG_MESSAGE"),
        ({3: 0}, None, WrongMessage, "WRONG_MESSAGE"),
    ],
    ids=["alg of a signature", "weaker alg", "extra label", "short IV", "IV of text", "unprotected kid",
         "no unprotected header",
         "foreign content type", "content type of another tree", "content type in another encoding",
         "numeric content type"],
)  # fmt: skip
def test_form_of_encryption_refused(
    data: bytes, alg: int, opener: Opener, other_key: object,
    change: dict[int, Any], unprotected: Any, error: type[ProtocolError], code: str,
) -> None:  # fmt: skip
    _, kept, ciphertext = cbor2.loads(data).value
    assert opener(_encrypt0(alg, {}, kept, ciphertext)) == PAYLOAD
    with pytest.raises(error) as refusal:
        opener(_encrypt0(alg, change, kept if unprotected is None else unprotected, ciphertext))
    assert refusal.value.code == code


@both
def test_other_cose_forms_are_not_encryptions(data: bytes, alg: int, opener: Opener, other_key: object) -> None:
    ciphertext = cbor2.loads(data).value[2]
    for form, error, code in (
        (SIGNED, WrongMessage, "WRONG_MESSAGE"),
        (data[1:], WrongMessage, "WRONG_MESSAGE"),
        (b"\xd0" + SIGNED[1:], Malformed, "MALFORMED"),
        (data + b"\0", Malformed, "MALFORMED"),
        (_encrypt0(alg, {}, {}, "text"), Malformed, "MALFORMED"),
        (b"\xd0" + _dumps([_dumps({1: alg, 3: TYPE}), {}, ciphertext, []]), Malformed, "MALFORMED"),
    ):
        with pytest.raises(error) as refusal:
            opener(form)
        assert refusal.value.code == code


def test_one_encryption_is_not_taken_for_the_other() -> None:
    for opener, data in ((_decrypt, SEALED), (_unseal, ENCRYPTED)):
        with pytest.raises(Malformed) as refusal:
            opener(data)
        assert refusal.value.code == "MALFORMED"


def test_independent_reader_opens_both() -> None:
    """RFC 9052 §5.3: the Enc_structure is HPKE's info here, and AES-GCM's additional data there."""
    external_aad = cbor2.dumps(["tapveil-v1", "greeting", REQUEST])
    protected, unprotected, ciphertext = cbor2.loads(SEALED).value
    assert (cbor2.loads(protected), unprotected) == ({1: -65537, 3: TYPE}, {})
    suite = hpke.Suite(hpke.KEM.P256, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
    info = cbor2.dumps(["Encrypt0", protected, external_aad])
    assert suite.decrypt(ciphertext, KEY.native(), info=info) == PAYLOAD
    protected, unprotected, ciphertext = cbor2.loads(ENCRYPTED).value
    assert (cbor2.loads(protected), list(unprotected)) == ({1: 3, 3: TYPE}, [5])
    aad = cbor2.dumps(["Encrypt0", protected, external_aad])
    assert AESGCM(SHARED).decrypt(unprotected[5], ciphertext, aad) == PAYLOAD


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from([b"", b"\xd2\x84", b"\xd2\x84\x40\xa0", b"\xd0\x83", b"\xd0\x83\x40\xa0"]), st.binary(max_size=60)
)
def test_any_bytes_are_refused_by_a_code(head: bytes, tail: bytes) -> None:
    for opener in (_open, _unseal, _decrypt):
        with pytest.raises(ProtocolError) as refusal:
            opener(head + tail)
        assert refusal.value.code in {"MALFORMED", "WRONG_MESSAGE", "DECRYPTION_FAILED"}


def test_a_kid_that_names_another_key_is_refused() -> None:
    for kid in (b"", bytes(31), bytes(32), bytes(33)):
        with pytest.raises(Malformed) as refusal:
            _open(_sign1(HEADER | {4: kid}))
        assert refusal.value.code == "MALFORMED"


# --- headers that begin alike are looked at once ---------------------------------------------------------------------
TIMES = st.integers(0, 2**17) | st.integers(2**32 - 2, 2**32 + 2) | st.integers(0, 2**41)


def header_read(how: Callable[[bytes], Any], protected: bytes) -> Any:
    try:
        return how(protected)
    except ProtocolError as refusal:
        return refusal.code


@settings(deadline=None)
@given(TIMES, TIMES, st.binary(min_size=15, max_size=17), st.sampled_from(["", "shop-1", "x" * 64, "x" * 65]))
def test_a_header_is_read_as_if_it_were_the_first(until: int, since: int, nonce: bytes, issuer: str) -> None:
    claims = Claims(issuer=issuer, audience="tsm-1", issued_at_s=since, expires_at_s=until, nonce=nonce)
    protected = cose._protected("authorization", b"k" * 32, claims)
    whole = header_read(cose._whole_header, protected)
    assert [header_read(cose._header_parts, protected) for _ in range(2)] == [whole, whole]


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 2**16), st.integers(0, 255), st.integers(-2, 2))
def test_an_altered_header_is_refused_as_if_it_were_the_first(position: int, mask: int, length: int) -> None:
    claims = Claims(issuer="shop-1", audience="tsm-1", issued_at_s=1 << 30, expires_at_s=1 << 31, nonce=bytes(16))
    data = bytearray(cose._protected("authorization", b"k" * 32, claims))
    data[position % len(data)] ^= mask
    altered = bytes(data[:length] if length < 0 else data + bytes(length))
    assert header_read(cose._header_parts, altered) == header_read(cose._whole_header, altered)


def test_a_long_header_is_refused() -> None:
    assert header_read(cose._header_parts, bytes(5_000)) == header_read(cose._whole_header, bytes(5_000)) == "OVERSIZE"
