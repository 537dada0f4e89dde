"""The suite: raw signatures, sealing, shared-key encryption, keys and thumbprints."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import fields

import cbor2
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given, settings
from hypothesis import strategies as st
from support.world import SeededEntropy

from protocol import crypto
from protocol.crypto import P256, PrivateKey, PublicKey
from protocol.errors import DecryptionFailed, Malformed, ProtocolError, SignatureInvalid
from protocol.types import KEY_BYTES, PUBLIC_KEY_BYTES

N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
ENTROPY = SeededEntropy("crypto")
KEY, OTHER = PrivateKey.generate(ENTROPY), PrivateKey.generate(ENTROPY)
DATA = b"to be signed"
SIGNATURE = P256.sign(KEY, DATA)
R, S = SIGNATURE[:32], SIGNATURE[32:]
SHARED = crypto.new_key(ENTROPY)
POINT = KEY.public.encoded


def _number(value: int) -> bytes:
    return value.to_bytes(32)


# --- hashes ----------------------------------------------------------------------------------------------------------
def test_hashes_are_over_the_concatenation() -> None:
    assert crypto.sha256(b"a", b"", b"bc") == hashlib.sha256(b"abc").digest()
    assert crypto.mac(b"key", b"a", b"bc") == hmac.new(b"key", b"abc", "sha256").digest()


@pytest.mark.parametrize(
    ("left", "right", "equal"), [(b"ab", b"ab", True), (b"ab", b"ac", False), (b"ab", b"abc", False), (b"", b"", True)]
)
def test_same(left: bytes, right: bytes, equal: bool) -> None:
    assert crypto.same(left, right) is equal


def test_shared_key_is_of_the_full_length() -> None:
    assert len(SHARED) == KEY_BYTES
    assert crypto.new_key(ENTROPY) != SHARED


# --- signatures ------------------------------------------------------------------------------------------------------
def test_signature_is_r_and_s_by_the_library() -> None:
    assert len(SIGNATURE) == 64
    P256.verify(KEY.public, SIGNATURE, DATA)
    der = encode_dss_signature(int.from_bytes(R), int.from_bytes(S))
    KEY.native().public_key().verify(der, DATA, ec.ECDSA(hashes.SHA256()))


def test_signature_is_that_of_rfc_6979() -> None:
    """RFC 6979 §A.2.5: P-256, SHA-256, message "sample"."""
    key = PrivateKey.from_bytes(bytes.fromhex("C9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721"))
    assert P256.sign(key, b"sample").hex().upper() == (
        "EFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716"
        "F7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8"
    )


def test_signature_is_deterministic() -> None:
    assert P256.sign(KEY, DATA) == SIGNATURE
    assert P256.sign(KEY, DATA + b".") != SIGNATURE


def test_the_other_s_verifies_too() -> None:
    """ECDSA is malleable and high s is accepted: nothing may take a signature, or its hash, for a single-use value.

    That replay protection does not is shown in test_engine.py.
    """
    P256.verify(KEY.public, R + _number(N - int.from_bytes(S)), DATA)


SIGNATURES: dict[str, tuple[PublicKey, bytes, bytes]] = {
    "other data": (KEY.public, SIGNATURE, DATA + b"."),
    "other key": (OTHER.public, SIGNATURE, DATA),
    "r changed": (KEY.public, bytes([R[0] ^ 1]) + R[1:] + S, DATA),
    "s changed": (KEY.public, R + S[:-1] + bytes([S[-1] ^ 1]), DATA),
    "r and s swapped": (KEY.public, S + R, DATA),
    "empty": (KEY.public, b"", DATA),
    "truncated": (KEY.public, SIGNATURE[:-1], DATA),
    "trailing byte": (KEY.public, SIGNATURE + b"\0", DATA),
    "zero before s": (KEY.public, R + b"\0" + S, DATA),
    "DER": (KEY.public, encode_dss_signature(int.from_bytes(R), int.from_bytes(S)), DATA),
    "all zero": (KEY.public, bytes(64), DATA),
    "r zero": (KEY.public, bytes(32) + S, DATA),
    "s zero": (KEY.public, R + bytes(32), DATA),
    "r the order": (KEY.public, _number(N) + S, DATA),
    "s the order": (KEY.public, R + _number(N), DATA),
    "all ones": (KEY.public, b"\xff" * 64, DATA),
}


@pytest.mark.parametrize(("key", "signature", "data"), SIGNATURES.values(), ids=SIGNATURES)
def test_signature_refused(key: PublicKey, signature: bytes, data: bytes) -> None:
    with pytest.raises(SignatureInvalid) as refusal:
        P256.verify(key, signature, data)
    assert refusal.value.code == "SIGNATURE_INVALID"


# --- keys ------------------------------------------------------------------------------------------------------------
def test_keys_come_back_from_their_bytes() -> None:
    again = PrivateKey.from_bytes(KEY.to_bytes())
    assert (again.to_bytes(), again.public) == (KEY.to_bytes(), KEY.public)
    assert PublicKey.from_bytes(POINT) == KEY.public
    assert len(POINT) == PUBLIC_KEY_BYTES


@pytest.mark.parametrize("number", [1, 2, N - 1], ids=["1", "2", "n - 1"])
def test_every_scalar_in_range_is_a_key(number: int) -> None:
    assert PrivateKey.from_bytes(_number(number)).to_bytes() == _number(number)


@pytest.mark.parametrize(
    ("drawn", "number"),
    [(0, 1), (N - 2, N - 1), (N - 1, 1), (2**384 - 1, (2**384 - 1) % (N - 1) + 1)],
    ids=["0", "n - 2", "n - 1", "largest"],
)
def test_generated_scalar_is_in_range(drawn: int, number: int) -> None:
    class Drawn:
        def bytes(self, n: int, /) -> bytes:
            return drawn.to_bytes(n)

    assert PrivateKey.generate(Drawn()).to_bytes() == _number(number)


SCALARS: dict[str, bytes] = {
    "empty": b"",
    "zero": bytes(32),
    "the order": _number(N),
    "above the order": b"\xff" * 32,
    "too short": _number(1)[1:],
    "too long": b"\0" + _number(1),
}


@pytest.mark.parametrize("scalar", SCALARS.values(), ids=SCALARS)
def test_scalar_refused(scalar: bytes) -> None:
    with pytest.raises(Malformed) as refusal:
        PrivateKey.from_bytes(scalar)
    assert refusal.value.code == "MALFORMED"


POINTS: dict[str, bytes] = {
    "empty": b"",
    "infinity": b"\0",
    "no prefix": POINT[1:],
    "compressed": bytes([2 + POINT[-1] % 2]) + POINT[1:33],
    "hybrid": bytes([6 + POINT[-1] % 2]) + POINT[1:],
    "truncated": POINT[:-1],
    "trailing byte": POINT + b"\0",
    "not on the curve": POINT[:-1] + bytes([POINT[-1] ^ 1]),
    "zero coordinates": b"\x04" + bytes(64),
    "coordinate above the field": b"\x04" + b"\xff" * 64,
    "point on another curve": b"\x04" + bytes.fromhex(  # the generator of secp256k1
        "79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798"
        "483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8"
    ),
}  # fmt: skip


@pytest.mark.parametrize("encoded", POINTS.values(), ids=POINTS)
def test_point_refused(encoded: bytes) -> None:
    for _ in range(2):  # a refusal is not remembered as an answer
        with pytest.raises(Malformed) as refusal:
            PublicKey.from_bytes(encoded)
        assert refusal.value.code == "MALFORMED"


def test_thumbprint_is_that_of_rfc_9679() -> None:
    """§3: SHA-256 over the deterministic map of kty, crv, x and y."""
    key = cbor2.dumps({1: 2, -1: 1, -2: POINT[1:33], -3: POINT[33:]})
    assert KEY.public.thumbprint == hashlib.sha256(key).digest()


def test_nothing_shows_a_private_key() -> None:
    secret = KEY.to_bytes()
    shown = repr(KEY) + str(KEY) + repr(P256) + f"{[KEY, P256]!r}"
    assert "PublicKey" in shown
    for form in (secret.hex(), str(int.from_bytes(secret)), hex(int.from_bytes(secret)), repr(secret), "_key"):
        assert form not in shown
    assert not any(field.repr for field in fields(PrivateKey) if field.name.startswith("_"))


def test_a_private_key_is_equal_to_itself_only() -> None:
    """No comparison that could take a time that depends on the scalar."""
    assert PrivateKey.from_bytes(KEY.to_bytes()) != KEY


# --- sealing (HPKE) --------------------------------------------------------------------------------------------------
SEALED = P256.seal(KEY.public, b"plaintext", b"info")


def _flipped(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def test_sealed_opens() -> None:
    assert P256.unseal(KEY, SEALED, b"info") == b"plaintext"
    assert P256.seal(KEY.public, b"plaintext", b"info") != SEALED


UNSEALINGS: dict[str, tuple[PrivateKey, bytes, bytes]] = {
    "wrong key": (OTHER, SEALED, b"info"),
    "wrong info": (KEY, SEALED, b"Info"),
    "no info": (KEY, SEALED, b""),
    "point changed": (KEY, _flipped(SEALED, 40), b"info"),
    "point compressed": (KEY, b"\x02" + SEALED[1:], b"info"),
    "another point": (KEY, OTHER.public.encoded + SEALED[65:], b"info"),
    "ciphertext changed": (KEY, _flipped(SEALED, 65), b"info"),
    "tag changed": (KEY, _flipped(SEALED, -1), b"info"),
    "empty": (KEY, b"", b"info"),
    "point only": (KEY, SEALED[:65], b"info"),
    "half a tag": (KEY, SEALED[:73], b"info"),
    "truncated": (KEY, SEALED[:-1], b"info"),
    "trailing byte": (KEY, SEALED + b"\0", b"info"),
}


@pytest.mark.parametrize(("key", "ciphertext", "info"), UNSEALINGS.values(), ids=UNSEALINGS)
def test_unsealing_refused(key: PrivateKey, ciphertext: bytes, info: bytes) -> None:
    with pytest.raises(DecryptionFailed) as refusal:
        P256.unseal(key, ciphertext, info)
    assert refusal.value.code == "DECRYPTION_FAILED"


# --- encryption (AES-256-GCM) ----------------------------------------------------------------------------------------
ENCRYPTED = P256.encrypt(SHARED, b"plaintext", b"aad", ENTROPY)


def test_encrypted_opens() -> None:
    assert P256.decrypt(SHARED, ENCRYPTED, b"aad") == b"plaintext"
    assert P256.encrypt(SHARED, b"plaintext", b"aad", ENTROPY)[:12] != ENCRYPTED[:12]


DECRYPTIONS: dict[str, tuple[bytes, bytes, bytes]] = {
    "wrong key": (bytes(32), ENCRYPTED, b"aad"),
    "wrong aad": (SHARED, ENCRYPTED, b"AAD"),
    "no aad": (SHARED, ENCRYPTED, b""),
    "IV changed": (SHARED, _flipped(ENCRYPTED, 0), b"aad"),
    "ciphertext changed": (SHARED, _flipped(ENCRYPTED, 12), b"aad"),
    "tag changed": (SHARED, _flipped(ENCRYPTED, -1), b"aad"),
    "empty": (SHARED, b"", b"aad"),
    "shorter than any IV": (SHARED, ENCRYPTED[:7], b"aad"),
    "shorter than the IV": (SHARED, ENCRYPTED[:11], b"aad"),
    "IV only": (SHARED, ENCRYPTED[:12], b"aad"),
    "half a tag": (SHARED, ENCRYPTED[:20], b"aad"),
    "truncated": (SHARED, ENCRYPTED[:-1], b"aad"),
    "trailing byte": (SHARED, ENCRYPTED + b"\0", b"aad"),
}


@pytest.mark.parametrize(("key", "ciphertext", "aad"), DECRYPTIONS.values(), ids=DECRYPTIONS)
def test_decryption_refused(key: bytes, ciphertext: bytes, aad: bytes) -> None:
    with pytest.raises(DecryptionFailed) as refusal:
        P256.decrypt(key, ciphertext, aad)
    assert refusal.value.code == "DECRYPTION_FAILED"


OPENERS: dict[str, Callable[[bytes], object]] = {
    "point": PublicKey.from_bytes,
    "scalar": PrivateKey.from_bytes,
    "signature": lambda data: P256.verify(KEY.public, data, DATA),
    "sealed": lambda data: P256.unseal(KEY, data, b""),
    "encrypted": lambda data: P256.decrypt(SHARED, data, b""),
}


@pytest.mark.parametrize("opener", OPENERS.values(), ids=OPENERS)
@settings(deadline=None, max_examples=60)
@given(
    data=st.binary(max_size=100)
    | st.binary(min_size=64, max_size=66)
    | st.binary(min_size=64, max_size=64).map(b"\4".__add__)
)
def test_any_bytes_are_refused_by_a_code(opener: Callable[[bytes], object], data: bytes) -> None:
    try:
        opener(data)
    except ProtocolError as refusal:
        assert refusal.code in {"MALFORMED", "SIGNATURE_INVALID", "DECRYPTION_FAILED"}
    else:
        assert PrivateKey.from_bytes(data)  # only a scalar is found by guessing
