"""Dynamic signatures and S_C: what a card key signs in one place is worth nothing in another (design §3 CARD-3)."""

from __future__ import annotations

import hashlib

import gmpy2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.card import dynamic, possession, recovery, rsa
from protocol.errors import CardDataInvalid, CardKeyInvalid, Malformed, ProtocolError


def sha1(data: bytes) -> bytes:
    return hashlib.sha1(data, usedforsecurity=False).digest()


DIGEST = hashlib.sha256(b"tapveil-card-possession").digest()
COMBINED = b"\x08" + bytes(8) + b"\x80" + b"AC" * 4 + sha1(b"")


def test_possession_is_shown(keys, entropy) -> None:
    signature = possession.sign_possession(keys.card, DIGEST, entropy)
    assert len(signature) == 176
    assert possession.verify_possession(keys.card.public, DIGEST, signature) == keys.card.public
    assert signature != possession.sign_possession(keys.card, DIGEST, entropy)


def test_another_key_session_or_byte_is_refused(keys, entropy) -> None:
    signature = possession.sign_possession(keys.card, DIGEST, entropy)
    other = hashlib.sha256(b"another session").digest()
    for key, digest, shown in (
        (keys.other_card.public, DIGEST, signature),
        (keys.card.public, other, signature),
        (keys.card.public, DIGEST[:-1], signature),
        (keys.card.public, DIGEST + b"\x00", signature),
        (keys.card.public, DIGEST, signature[:-1]),
        (keys.card.public, DIGEST, signature[:-1] + bytes([signature[-1] ^ 1])),
        (keys.card.public, DIGEST, b""),
    ):
        with pytest.raises(CardKeyInvalid) as refused:
            possession.verify_possession(key, digest, shown)
        assert refused.value.code == "CARD_KEY_INVALID"


def test_a_good_signature_over_another_length_is_refused(keys, entropy) -> None:
    for size in (4, 31, 33):
        signature = dynamic.sign_dynamic(keys.card, b"\x08" + bytes(8), bytes(size), entropy)
        with pytest.raises(CardKeyInvalid) as refused:
            possession.verify_possession(keys.card.public, bytes(size), signature)
        assert refused.value.code == "CARD_KEY_INVALID"


def test_only_a_digest_is_signed(keys, entropy) -> None:
    for size in (0, 4, 31, 33):
        with pytest.raises(Malformed) as refused:
            possession.sign_possession(keys.card, bytes(size), entropy)
        assert refused.value.code == "MALFORMED"


def test_no_cda_check_takes_a_possession_proof(keys, entropy) -> None:
    signature = possession.sign_possession(keys.card, DIGEST, entropy)
    data = dynamic.verify_dynamic(keys.card.public, signature, DIGEST)
    assert len(data) == 9
    with pytest.raises(CardDataInvalid) as refused:
        dynamic.parse_combined(data)
    assert refused.value.code == "CARD_DATA_INVALID"


def test_no_purchase_passes_for_possession(keys, entropy) -> None:
    # CDA over 32 bytes, and a DDA answer with a number of another length.
    for data in (COMBINED, b"\x07" + bytes(7)):
        signature = dynamic.sign_dynamic(keys.card, data, DIGEST, entropy)
        with pytest.raises(CardKeyInvalid) as refused:
            possession.verify_possession(keys.card.public, DIGEST, signature)
        assert refused.value.code == "CARD_KEY_INVALID"
    # DDA over the four bytes of our DDOL.
    signature = dynamic.sign_dynamic(keys.card, b"\x08" + bytes(8), DIGEST[:4], entropy)
    with pytest.raises(CardKeyInvalid):
        possession.verify_possession(keys.card.public, DIGEST, signature)


def test_dda_layout_is_the_books(keys, entropy) -> None:
    signature = dynamic.sign_dynamic(keys.card, dynamic.encode_number(b"\x01\x02"), b"\xaa\xbb\xcc\xdd", entropy)
    block = pow(int.from_bytes(signature, "big"), 65537, keys.card.public.modulus).to_bytes(176, "big")
    assert block[:7] == bytes.fromhex("6A 05 01 03 02 01 02")
    assert block[7:155] == b"\xbb" * (176 - 3 - 25)
    assert block[155:] == sha1(block[1:155] + b"\xaa\xbb\xcc\xdd") + b"\xbc"


def test_dda_and_cda_data_come_back(keys, entropy) -> None:
    signature = dynamic.sign_dynamic(keys.card, dynamic.encode_number(b"12345678"), b"\x00\x00\x00\x01", entropy)
    data = dynamic.verify_dynamic(keys.card.public, signature, b"\x00\x00\x00\x01")
    assert dynamic.parse_number(data) == b"12345678"
    combined = dynamic.parse_combined(COMBINED)
    assert (combined.number, combined.information) == (bytes(8), 0x80)
    assert combined.cryptogram == b"AC" * 4
    assert combined.transaction_hash == sha1(b"")
    with pytest.raises(CardDataInvalid):
        dynamic.verify_dynamic(keys.card.public, signature, b"\x00\x00\x00\x02")
    with pytest.raises(CardDataInvalid):
        dynamic.verify_dynamic(keys.other_card.public, signature, b"\x00\x00\x00\x01")


@pytest.mark.parametrize("raw", ["", "01AA", "09" + "00" * 9, "08" + "00" * 7, "00", "0200"])
def test_dynamic_numbers_have_two_to_eight_bytes(raw: str) -> None:
    for parse in (dynamic.parse_number, dynamic.parse_combined):
        with pytest.raises(CardDataInvalid) as refused:
            parse(bytes.fromhex(raw))
        assert refused.value.code == "CARD_DATA_INVALID"


@pytest.mark.parametrize("size", [0, 1, 9])
def test_no_other_number_is_encoded(size: int) -> None:
    with pytest.raises(CardDataInvalid):
        dynamic.encode_number(bytes(size))


def test_combined_data_is_complete_to_the_byte() -> None:
    for wrong in (COMBINED[:-1], COMBINED + b"\x00"):
        with pytest.raises(CardDataInvalid):
            dynamic.parse_combined(wrong)
    with pytest.raises(CardDataInvalid):
        dynamic.parse_number(COMBINED)


def test_dynamic_data_must_fit(keys, entropy) -> None:
    with pytest.raises(CardDataInvalid) as refused:
        dynamic.sign_dynamic(keys.card, bytes(176 - 25 + 1), b"", entropy)
    assert refused.value.code == "CARD_DATA_INVALID"


@pytest.mark.parametrize(
    "head", ["04 01 03", "05 02 03", "05 01 FF", "05 01 01"], ids=["format", "hash", "length", "filler"]
)
def test_each_field_is_checked_under_a_good_signature(keys, entropy, head: str) -> None:
    inside = (bytes.fromhex(head) + b"\x02\xaa\xaa").ljust(recovery.capacity(keys.card.public), b"\xbb")
    signature = recovery.sign(keys.card, inside, entropy)
    with pytest.raises(CardDataInvalid) as refused:
        dynamic.verify_dynamic(keys.card.public, signature, b"")
    assert refused.value.code == "CARD_DATA_INVALID"


@given(st.binary(max_size=60))
def test_any_dynamic_data_parses_or_is_refused(raw: bytes) -> None:
    taken = 0
    for parse in (dynamic.parse_number, dynamic.parse_combined):
        try:
            parse(raw)
        except ProtocolError:
            continue
        taken += 1
    assert taken <= 1


def test_a_proper_card_key_is_taken(keys) -> None:
    assert possession.verify_card_keys([keys.card.public.to_bytes()]) == (keys.card.public,)


def test_wrong_size_or_exponent_is_refused(keys) -> None:
    longer = keys.card.public.to_bytes() + b"\x01"
    for modulus in (keys.issuer.public.to_bytes(), longer, longer[:175], b""):
        with pytest.raises(CardKeyInvalid) as refused:
            possession.verify_card_keys([modulus])
        assert refused.value.code == "CARD_KEY_INVALID"
    with pytest.raises(CardKeyInvalid):
        possession.verify_card_keys([keys.card.public.to_bytes()], b"\x03")


def weak(modulus: int) -> bytes:
    assert int(modulus).bit_length() == 1408
    return int(modulus).to_bytes(176, "big")


def test_weak_moduli_are_refused(keys) -> None:
    good = keys.card.public.modulus
    prime = gmpy2.next_prime((1 << 703) + (1 << 702) + 12345)
    small = gmpy2.next_prime((1 << 1407) // 4093)
    for modulus in (
        weak(prime * prime),
        weak(prime * gmpy2.next_prime(prime)),
        weak(small * 4093),
        weak(3 * gmpy2.next_prime((1 << 1407) // 3)),
        weak(good ^ 1),
        (good & (1 << 1407) - 1).to_bytes(176, "big"),
    ):
        with pytest.raises(CardKeyInvalid) as refused:
            possession.verify_card_keys([modulus])
        assert refused.value.code == "CARD_KEY_INVALID"
    assert rsa.ICC_BITS == 1408


def test_one_weak_key_among_good_ones_is_refused(keys) -> None:
    good = keys.card.public.to_bytes()
    prime = gmpy2.next_prime((1 << 703) + (1 << 702) + 12345)
    small, close = 3 * gmpy2.next_prime((1 << 1407) // 3), prime * gmpy2.next_prime(prime)
    assert len(possession.verify_card_keys([good, good, good])) == 3
    for bad in (weak(small), weak(close), good[:-1], weak(keys.card.public.modulus ^ 1)):
        for place in range(3):
            batch = [good, good]
            batch.insert(place, bad)
            with pytest.raises(CardKeyInvalid) as refused:
                possession.verify_card_keys(batch)
            assert refused.value.code == "CARD_KEY_INVALID"


def test_close_factors_are_found_up_to_step_64_whatever_the_modulus_is_modulo_4() -> None:
    prime = gmpy2.next_prime((1 << 703) + (1 << 702) + 12345)
    seen = set()
    for distance in range(1, 40):
        other = gmpy2.next_prime(prime + (distance << 352))
        modulus = prime * other
        steps = (prime + other) // 2 - gmpy2.isqrt(modulus - 1) - 1
        seen.add((steps < 64, int(modulus % 4)))
        if steps < 64:
            with pytest.raises(CardKeyInvalid) as refused:
                possession.verify_card_keys([weak(modulus)])
            assert refused.value.code == "CARD_KEY_INVALID"
        else:
            possession.verify_card_keys([weak(modulus)])
    assert seen == {(True, 1), (True, 3), (False, 1), (False, 3)}
