"""payloads.cddl describes what is on the wire: every layer of a real run fits, what was altered does not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pycddl import Schema, ValidationError

from attestation.qualification import qualifying_data
from protocol import commitments, cose
from protocol.contract import RPCS
from protocol.crypto import PrivateKey, PublicKey
from protocol.errors import ProtocolError
from protocol.messages.account import AccountCertificate, ActivationRecord
from protocol.messages.attest import DecisionRecord, PassGrant
from protocol.schema import MESSAGES, Many, Nested, Text, Uint
from protocol.types import Purpose

from .conftest import MAX_BYTES, Run

Rule = Callable[[str], Schema]
OF_ATTESTATION = {"reference-values", "release"}


def encode(value: Any) -> bytes:
    return cbor2.dumps(value, canonical=True)


def fits(schema: Schema, data: bytes) -> bool:
    try:
        schema.validate_cbor(data)
    except ValidationError:
        return False
    return True


@pytest.fixture(scope="module")
def samples(run: Run) -> dict[str, bytes]:
    """One payload of each message, as sent."""
    return {sign1.name: sign1.payload for peeled in run.messages(RPCS) for sign1 in peeled.signed}


def test_the_run_sends_every_message(samples: dict[str, bytes]) -> None:
    assert samples.keys() == MESSAGES.keys() | OF_ATTESTATION


def test_every_layer_of_the_run_fits_its_rule(run: Run, rule: Rule) -> None:
    layers = [layer for peeled in run.messages(RPCS) for layer in peeled.layers]
    expected = {
        "sign1", "sign1-header", "encrypt0-hpke", "encrypt0-aead", "hpke-header", "aead-header", "card-key",
        "account-keys-parts", "account-certificate-parts", "card-keys-parts",
    }  # fmt: skip
    assert {layer.rule for layer in layers} == expected | MESSAGES.keys() | OF_ATTESTATION
    for layer in layers:
        assert fits(rule(layer.rule), layer.data), layer.rule


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_altered_payloads_fit_neither_rule_nor_parser(name: str, samples: dict[str, bytes], rule: Rule) -> None:
    kind, schema = MESSAGES[name], rule(name)
    plain = cbor2.loads(samples[name])
    if not plain:  # a command without fields: pycddl takes {} for any map, the parser does not
        with pytest.raises(ProtocolError, match="fields"):
            kind.from_bytes(encode({"more": 1}))
        return
    altered = [plain | {"more": 1}, [], list(plain.values())]
    for field in plain:
        altered.append({key: value for key, value in plain.items() if key != field})
        altered += [plain | {field: wrong} for wrong in (None, 1.5, {"a": 1})]
    for value in altered:
        assert not fits(schema, encode(value)), f"{name}: {value!r:.200}"
        with pytest.raises(ProtocolError) as refusal:
            kind.from_bytes(encode(value))
        assert refusal.value.code in {"MALFORMED", "OVERSIZE"}


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_texts_and_numbers_out_of_bounds_are_refused(name: str, samples: dict[str, bytes], rule: Rule) -> None:
    kind = MESSAGES[name]
    plain = cbor2.loads(samples[name])
    for field, spec in kind.specs().items():
        wrong: Any = None
        if isinstance(spec, Text):
            wrong = "§\n"
        elif isinstance(spec, Uint):
            wrong = spec.high + 1
        elif isinstance(spec, Many) and isinstance(spec.item, Nested | Text):
            wrong = [1]
        if wrong is None:
            continue
        data = encode(plain | {field: wrong})
        assert not fits(rule(name), data)
        with pytest.raises(ProtocolError):
            kind.from_bytes(data)


@pytest.mark.parametrize("layer", ["sign1", "sign1-header", "encrypt0-hpke", "encrypt0-aead", "aead-header"])
def test_altered_headers_do_not_fit(layer: str, run: Run, rule: Rule) -> None:
    data = next(x.data for peeled in run.messages(RPCS) for x in peeled.layers if x.rule == layer)
    value = cbor2.loads(data)
    plain = value.value if isinstance(value, cbor2.CBORTag) else value
    if isinstance(plain, dict):
        wrong = [plain | {9: 1}, {k: v for k, v in plain.items() if k != 3}, plain | {1: -8}, plain | {3: "text/plain"}]
    else:
        wrong = [cbor2.CBORTag(value.tag, [*plain[:-1]]), cbor2.CBORTag(99, plain), [*plain]]
    for altered in wrong:
        assert not fits(rule(layer), encode(altered))


def test_records_that_are_never_sent_are_not_described(rule: Rule) -> None:
    """The bank's and the TSM's own records would mislead a foreign implementer."""
    for private in (AccountCertificate.NAME, ActivationRecord.NAME, DecisionRecord.NAME, PassGrant.NAME, "sid"):
        with pytest.raises(ValueError, match=private):
            rule(private)


# --- the page alone suffices: what it says about contexts and hashes, done with libraries only ---------------------
def _thumbprint(public: PublicKey) -> bytes:
    body = b"\xa4\x01\x02\x20\x01\x21\x58\x20" + public.encoded[1:33] + b"\x22\x58\x20" + public.encoded[33:]
    assert cbor2.loads(body) == {1: 2, -1: 1, -2: public.encoded[1:33], -3: public.encoded[33:]}
    return hashlib.sha256(body).digest()


def _verify(data: bytes, public: PublicKey, name: str, digest: bytes) -> dict[Any, Any]:
    tag = cbor2.loads(data)
    protected, unprotected, payload, signature = tag.value
    header: dict[Any, Any] = cbor2.loads(protected)
    assert (tag.tag, unprotected, header[3]) == (18, {}, f"application/vnd.tapveil.{name}+cbor")
    assert header[4] == _thumbprint(public)
    aad = encode(["tapveil-v1", name, digest])
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public.encoded)
    r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
    key.verify(encode_dss_signature(r, s), encode(["Signature1", protected, aad, payload]), ec.ECDSA(hashes.SHA256()))
    return header


def test_signature_and_digest_are_made_as_the_page_says(run: Run) -> None:
    request, reply = run.requests["Bank.Challenge"], run.replies["Bank.Challenge"]
    digest = hashlib.sha256(encode([request.cose, request.session])).digest()
    header = _verify(reply.cose, run.world.parties["bank-a"].value.keys.sign.public, "challenge", digest)
    assert header[15][1] == "bank-a"
    assert header[15][3] == "phone-1"
    _verify(request.cose, run.world.phones["phone-1"].wallet_key.public, "challenge-request", b"")


def test_encryption_under_a_shared_key_is_made_as_the_page_says(run: Run) -> None:
    wire = run.requests["Tsm.ActivateCards"]
    tag = cbor2.loads(wire.cose)
    protected, unprotected, ciphertext = tag.value
    iv = unprotected[5]
    aad = encode(["Encrypt0", protected, encode(["tapveil-v1", "card-activation", b""])])
    key = next(key for key in run.keys.shared if _opens(key, iv, ciphertext, aad))
    assert AESGCM(key).decrypt(iv, ciphertext, aad)[:1] == b"\xd2"


def _opens(key: bytes, iv: bytes, ciphertext: bytes, aad: bytes) -> bool:
    from cryptography.exceptions import InvalidTag

    try:
        AESGCM(key).decrypt(iv, ciphertext, aad)
    except InvalidTag:
        return False
    return True


def test_hpke_is_made_as_the_page_says(run: Run) -> None:
    from cryptography.hazmat.primitives import hpke

    protected, _, ciphertext = cbor2.loads(run.requests["Tsm.OpenAccount"].cose).value
    info = encode(["Encrypt0", protected, encode(["tapveil-v1", "service-request", b""])])
    suite = hpke.Suite(hpke.KEM.P256, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
    private: PrivateKey = run.world.parties["tsm-1"].value.keys.seal
    plain = suite.decrypt(ciphertext, private.native(), info=info)
    assert cose.parse_sign1(plain, max_bytes=MAX_BYTES).name == "service-request"
    assert len(ciphertext) == 65 + len(plain) + 16


def test_hashes_are_made_as_the_page_says(rule: Rule) -> None:
    def digest(value: Any) -> bytes:
        return hashlib.sha256(encode(value)).digest()

    nonce, key, tree = b"n" * 32, b"k" * 65, [b"a" * 32, b"b" * 32, b"c" * 32]
    com = ["tapveil-com", "t-1", key, b"sid", nonce]
    shown, session = ["tapveil-card-possession", "tsm-1", nonce], ["tapveil-card-session", nonce]
    leaf, quote = [nonce, b"m" * 176], ["account", "bank-a", "u-1", "wallet", nonce, nonce, key]
    for name, value in (
        ("com-input", com), ("card-possession-input", shown), ("card-session-input", session),
        ("card-leaf-input", leaf), ("quote-input", quote), ("request-digest-input", [b"cose", b""]),
        ("external-aad", ["tapveil-v1", "promise", b""]),
    ):  # fmt: skip
        assert fits(rule(name), encode(value)), name
        assert not fits(rule(name), encode(value[:-1])), name
    assert commitments.commitment(tid="t-1", pk_tid=key, sid=b"sid", r=nonce) == digest(com)
    assert commitments.possession_digest(tsm="tsm-1", n_t=nonce) == digest(shown)
    assert commitments.card_session(nonce) == digest(session)[:16]
    assert commitments.card_leaf(salt=nonce, modulus=b"m" * 176) == hashlib.sha256(b"\0" + encode(leaf)).digest()
    left = hashlib.sha256(b"\1" + tree[0] + tree[1]).digest()
    assert commitments.merkle_root(tree) == hashlib.sha256(b"\1" + left + tree[2]).digest()
    quoted = qualifying_data(
        purpose=Purpose.ACCOUNT, bank_id="bank-a", user_id="u-1", software_id="wallet", n_am=nonce, n_b=nonce,
        requested_key=key,
    )  # fmt: skip
    assert quoted == digest(quote)
