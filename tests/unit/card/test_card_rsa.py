"""RSA: checked results, no key in a representation, strict parsing."""

from __future__ import annotations

from dataclasses import replace

import gmpy2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.card import rsa
from protocol.card.rsa import BLINDED, PrivateKey
from protocol.errors import CardKeyInvalid, Malformed, ProtocolError


class Fixed:
    def __init__(self, value: int) -> None:
        self.value = value

    def bytes(self, n: int, /) -> bytes:
        return self.value.to_bytes(n, "big")


@pytest.mark.parametrize(("name", "bits"), [("ca", 1984), ("issuer", 1976), ("short_issuer", 1408), ("card", 1408)])
def test_sign_and_verify(keys, entropy, name: str, bits: int) -> None:
    key = getattr(keys, name)
    assert key.public.modulus.bit_length() == bits
    assert key.public.size_bytes == bits // 8
    block = b"\x00" + entropy.bytes(bits // 8 - 1)
    signature = key.apply(block, entropy)
    assert key.public.apply(signature) == block
    # The same value by the textbook, without blinding and CRT.
    d = pow(65537, -1, (key.p - 1) * (key.q - 1))
    assert int.from_bytes(signature, "big") == pow(int.from_bytes(block, "big"), d, key.public.modulus)


def test_blinding_takes_fresh_entropy_and_does_not_show(keys, entropy) -> None:
    block = bytes(175) + b"\x02"
    assert keys.card.apply(block, entropy) == keys.card.apply(block, entropy)
    before = entropy.source.getstate()
    keys.card.apply(block, entropy)
    assert entropy.source.getstate() != before


def test_many_blocks_are_signed_as_each_alone(keys, entropy) -> None:
    blocks = [b"\0" + entropy.bytes(175) for _ in range(BLINDED + 3)]
    assert keys.card.apply_all(blocks, entropy) == [keys.card.apply(block, entropy) for block in blocks]
    assert keys.card.apply_all((), entropy) == []


def test_blinding_is_drawn_anew_after_so_many_blocks(keys, entropy) -> None:
    class Counted:
        drawn = 0

        def bytes(self, n: int, /) -> bytes:
            self.drawn += 1
            return entropy.bytes(n)

    counted = Counted()
    keys.card.apply_all([bytes(175) + b"\x02"] * (2 * BLINDED + 1), counted)
    assert counted.drawn == 3


@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_fault_among_many_blocks_releases_none(keys, entropy, monkeypatch, place: int) -> None:
    done: list[gmpy2.mpz] = []
    honest = PrivateKey._crt

    def faulty(self: PrivateKey, number: gmpy2.mpz) -> gmpy2.mpz:
        done.append(number)
        result = honest(self, number)
        return result + self.q if len(done) == place + 1 else result  # right modulo one prime, wrong modulo the other

    monkeypatch.setattr(PrivateKey, "_crt", faulty)
    with pytest.raises(CardKeyInvalid):
        keys.card.apply_all([bytes(175) + bytes([n]) for n in (2, 3, 4)], entropy)
    assert len(done) == 3


@pytest.mark.parametrize("part", ["p", "q", "d_p", "d_q", "q_inverse"])
def test_a_faulty_computation_releases_nothing(keys, entropy, part: str) -> None:
    faulty = replace(keys.card, **{part: getattr(keys.card, part) ^ 2})
    with pytest.raises(CardKeyInvalid) as refused:
        faulty.apply(bytes(175) + b"\x05", entropy)
    assert refused.value.code == "CARD_KEY_INVALID"


def test_a_blinding_value_without_inverse_is_refused(keys) -> None:
    for value in (0, keys.card.p):
        with pytest.raises(CardKeyInvalid):
            keys.card.apply(bytes(176), Fixed(value))


def test_a_block_over_the_modulus_is_refused(keys, entropy) -> None:
    with pytest.raises(CardKeyInvalid) as refused:
        keys.card.apply(keys.card.public.to_bytes(), entropy)
    assert refused.value.code == "CARD_KEY_INVALID"


def test_a_signature_has_one_form(keys, entropy) -> None:
    signature = keys.card.apply(bytes(175) + b"\x07", entropy)
    second = int.from_bytes(signature, "big") + keys.card.public.modulus
    for wrong in (signature[1:], b"\x00" + signature, second.to_bytes(177, "big"), keys.card.public.to_bytes(), b""):
        with pytest.raises(CardKeyInvalid) as refused:
            keys.card.public.apply(wrong)
        assert refused.value.code == "CARD_KEY_INVALID"


def test_a_private_key_never_shows_itself(keys) -> None:
    shown = f"{keys.card!r} {keys.card} {[keys.card]}"
    assert "PrivateKey(1408 bits)" in shown
    assert str(keys.card.p) not in shown
    assert str(keys.card.public.modulus) not in shown


def test_private_key_bytes_round_trip(keys) -> None:
    for key in (keys.ca, keys.issuer, keys.card):
        assert rsa.PrivateKey.from_bytes(key.to_bytes()) == key
    assert len(keys.card.to_bytes()) == 177


def test_private_key_bytes_altered(keys) -> None:
    raw = keys.card.to_bytes()
    for wrong in (b"", raw[:-1], b"\x02" + raw[1:], raw + b"\x00", b"\x01" + bytes(250)):
        with pytest.raises(Malformed) as malformed:
            rsa.PrivateKey.from_bytes(wrong)
        assert malformed.value.code == "MALFORMED"
    p = keys.card.p.to_bytes(88, "big")
    for halves in (p + p, bytes(176), bytes(87) + b"\x01" + p, p + bytes(88), raw[1:-1] + bytes([raw[-1] ^ 1]), b""):
        with pytest.raises(CardKeyInvalid) as refused:
            rsa.PrivateKey.from_bytes(b"\x01" + halves)
        assert refused.value.code == "CARD_KEY_INVALID"


def test_a_damaged_prime_signs_nothing(keys, entropy) -> None:
    raw = bytearray(keys.card.to_bytes())
    raw[40] ^= 1
    with pytest.raises(CardKeyInvalid):
        rsa.PrivateKey.from_bytes(bytes(raw)).apply(bytes(175) + b"\x03", entropy)


@given(st.binary(max_size=60))
def test_any_private_bytes_parse_or_are_refused(raw: bytes) -> None:
    with pytest.raises(ProtocolError):
        rsa.PrivateKey.from_bytes(b"\x01" + raw)


def test_public_key_bytes(keys) -> None:
    raw = keys.card.public.to_bytes()
    assert rsa.PublicKey.from_bytes(raw) == keys.card.public
    even, short_top = raw[:-1] + bytes([raw[-1] ^ 1]), bytes([raw[0] & 0x7F]) + raw[1:]
    for wrong in (even, short_top, raw[1:], bytes(249), b"\xff" * 249, b""):
        with pytest.raises(CardKeyInvalid) as refused:
            rsa.PublicKey.from_bytes(wrong)
        assert refused.value.code == "CARD_KEY_INVALID"
    for exponent in (b"\x03", b"\x01", b"\x00\x01\x00\x01", b"\x01\x00\x00", b""):
        with pytest.raises(CardKeyInvalid):
            rsa.PublicKey.from_bytes(raw, exponent)


@pytest.mark.parametrize("bits", [512, 1024, 1407, 2048])
def test_no_other_size_is_made(bits: int) -> None:
    with pytest.raises(CardKeyInvalid) as refused:
        rsa.generate_key(bits)
    assert refused.value.code == "CARD_KEY_INVALID"
