"""Certificates CA → issuer → card, and what each check of them refuses (EMV Book 2 §6)."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import date

import pytest

from protocol.card import oda, recovery, rsa
from protocol.card.months import Month
from protocol.errors import CardDataInvalid, Expired


def sha1(data: bytes) -> bytes:
    return hashlib.sha1(data, usedforsecurity=False).digest()


TODAY = date(2026, 11, 20)
EXPIRY = Month(year=2026, month=12)
PAN = "9999101234567890123"
STATIC = bytes(range(120))
SERIAL = b"\x0a\x0b\x0c"


@pytest.fixture(params=["issuer", "short_issuer"])
def signer(request, keys):
    return getattr(keys, request.param)


@pytest.fixture
def issuer_certificate(keys, entropy, signer) -> oda.Certificate:
    return oda.certify_issuer(keys.ca, signer.public, iin="999910", expiry=EXPIRY, serial=SERIAL, entropy=entropy)


@pytest.fixture
def issuer_key(ca_key, issuer_certificate) -> oda.IssuerKey:
    return oda.verify_issuer_certificate(ca_key, issuer_certificate, today=TODAY)


@pytest.fixture
def icc_certificate(keys, entropy, signer) -> oda.Certificate:
    return oda.certify_icc(
        signer, keys.card.public, pan=PAN, expiry=EXPIRY, serial=SERIAL, static_data=STATIC, entropy=entropy
    )


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def recover_icc(issuer_key, certificate, *, pan=PAN, static_data=STATIC, today=TODAY):
    return oda.verify_icc_certificate(issuer_key, certificate, pan=pan, static_data=static_data, today=today)


def test_the_chain_gives_back_what_was_certified(keys, signer, issuer_key, issuer_certificate, icc_certificate) -> None:
    assert issuer_key == oda.IssuerKey(key=signer.public, iin="999910", expiry=EXPIRY, serial=SERIAL)
    icc = recover_icc(issuer_key, icc_certificate)
    assert icc == oda.IccKey(key=keys.card.public, pan=PAN, expiry=EXPIRY, serial=SERIAL)
    assert PAN not in repr(icc)
    assert len(issuer_certificate.signature) == 248
    assert len(issuer_certificate.remainder) == max(0, signer.public.size_bytes - (248 - 36))
    assert len(icc_certificate.signature) == signer.public.size_bytes
    assert len(icc_certificate.remainder) == max(0, 176 - (signer.public.size_bytes - 42))


def test_the_layout_is_the_books(keys, signer, issuer_certificate, icc_certificate) -> None:
    """Read by hand, byte for byte, with nothing of the package under test but the moduli."""
    ca, issuer, card = keys.ca.public.modulus, signer.public.modulus, keys.card.public.to_bytes()
    outer = pow(int.from_bytes(issuer_certificate.signature, "big"), 65537, ca).to_bytes(248, "big")
    assert outer[:15] == bytes.fromhex("6A02 999910FF 1226 0A0B0C 01 01") + bytes([signer.public.size_bytes, 3])
    modulus = (outer[15:227] + issuer_certificate.remainder)[: signer.public.size_bytes]
    assert int.from_bytes(modulus, "big") == issuer
    digest = sha1(outer[1:227] + issuer_certificate.remainder + b"\x01\x00\x01")
    assert outer[227:] == digest + b"\xbc"

    size = signer.public.size_bytes
    inner = pow(int.from_bytes(icc_certificate.signature, "big"), 65537, issuer).to_bytes(size, "big")
    assert inner[:21] == bytes.fromhex("6A04 9999101234567890123F 1226 0A0B0C 01 01 B0 03")
    room = inner[21:-21]
    assert (room + icc_certificate.remainder)[:176] == card
    assert set(room[176:]) <= {0xBB}
    digest = sha1(inner[1:-21] + icc_certificate.remainder + b"\x01\x00\x01" + STATIC)
    assert inner[-21:] == digest + b"\xbc"


@pytest.mark.parametrize("place", [0, 1, 100, 175])
def test_one_altered_bit_anywhere_is_refused(ca_key, issuer_key, issuer_certificate, icc_certificate, place) -> None:
    with pytest.raises(CardDataInvalid) as refused:
        oda.verify_issuer_certificate(
            ca_key, replace(issuer_certificate, signature=flipped(issuer_certificate.signature, place)), today=TODAY
        )
    assert refused.value.code == "CARD_DATA_INVALID"
    with pytest.raises(CardDataInvalid):
        recover_icc(issuer_key, replace(icc_certificate, signature=flipped(icc_certificate.signature, place)))


def test_truncated_or_lengthened_parts_are_refused(issuer_key, icc_certificate) -> None:
    good = icc_certificate
    for wrong in (
        replace(good, signature=good.signature[1:]),
        replace(good, signature=good.signature + b"\x00"),
        replace(good, remainder=good.remainder + b"\x00"),
        replace(good, remainder=good.remainder[:-1] + b"\x00\x00"),
        replace(good, exponent=b"\x03"),
        replace(good, exponent=b"\x00\x01\x00\x01"),
    ):
        with pytest.raises(CardDataInvalid) as refused:
            recover_icc(issuer_key, wrong)
        assert refused.value.code == "CARD_DATA_INVALID"


def test_swapped_number_data_or_issuer_is_refused(keys, issuer_key, icc_certificate, entropy, ca_key) -> None:
    with pytest.raises(CardDataInvalid) as refused:
        recover_icc(issuer_key, icc_certificate, pan="9999101234567890124")
    assert refused.value.code == "CARD_DATA_INVALID"
    with pytest.raises(CardDataInvalid):
        recover_icc(issuer_key, icc_certificate, pan="9999111234567890123")
    with pytest.raises(CardDataInvalid):
        recover_icc(replace(issuer_key, iin="999911"), icc_certificate)
    with pytest.raises(CardDataInvalid):
        recover_icc(issuer_key, icc_certificate, static_data=flipped(STATIC, 7))
    with pytest.raises(CardDataInvalid):
        recover_icc(issuer_key, icc_certificate, static_data=STATIC[:-1])
    with pytest.raises(CardDataInvalid):
        recover_icc(replace(issuer_key, key=keys.other_card.public), icc_certificate)


def test_another_ca_is_refused(keys, ca_key, issuer_certificate) -> None:
    with pytest.raises(CardDataInvalid) as refused:
        oda.verify_issuer_certificate(replace(ca_key, key=keys.other_ca.public), issuer_certificate, today=TODAY)
    assert refused.value.code == "CARD_DATA_INVALID"


def test_good_through_the_month_and_not_a_day_longer(ca_key, issuer_key, issuer_certificate, icc_certificate) -> None:
    last, after = date(2026, 12, 31), date(2027, 1, 1)
    assert oda.verify_issuer_certificate(ca_key, issuer_certificate, today=last)
    assert recover_icc(issuer_key, icc_certificate, today=last)
    with pytest.raises(Expired) as refused:
        oda.verify_issuer_certificate(ca_key, issuer_certificate, today=after)
    assert refused.value.code == "EXPIRED"
    with pytest.raises(Expired):
        recover_icc(issuer_key, icc_certificate, today=after)


def test_one_kind_of_certificate_is_not_the_other(keys, entropy, issuer_key, icc_certificate, signer) -> None:
    # An issuer's certificate by the issuer's own key, and a card's certificate shown where an issuer's belongs.
    as_ca = oda.CaKey(rid=b"\xf0" * 5, index=1, key=signer.public)
    with pytest.raises(CardDataInvalid):
        oda.verify_issuer_certificate(as_ca, replace(icc_certificate, remainder=icc_certificate.remainder), today=TODAY)
    own = oda.certify_issuer(signer, keys.card.public, iin="999910", expiry=EXPIRY, serial=SERIAL, entropy=entropy)
    with pytest.raises(CardDataInvalid) as refused:
        recover_icc(issuer_key, own, static_data=b"")
    assert refused.value.code == "CARD_DATA_INVALID"


HEAD = bytes.fromhex("04 9999101234567890123F 1226 0A0B0C 01 01 B0 03")


def forged(keys, entropy, head: bytes, tail: bytes | None = None) -> oda.Certificate:
    """A certificate that the issuer's key did sign, with fields it would never sign."""
    modulus = keys.card.public.to_bytes()
    inside = head + modulus + (b"\xbb" * (247 - 22 - len(head) - 176) if tail is None else tail)
    signature = recovery.sign(keys.issuer, inside + rsa.EXPONENT_BYTES + STATIC, entropy)
    return oda.Certificate(signature=signature, remainder=b"", exponent=rsa.EXPONENT_BYTES)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (0, "03"),  # format
        (16, "02"),  # hash algorithm
        (17, "02"),  # key algorithm
        (18, "AF"),  # modulus length, shorter: the byte behind it is no filler
        (18, "B1"),  # longer: then its last byte is BB, and the size is no card key's
        (18, "FF"),  # longer than room and remainder
        (19, "01"),  # exponent length
        (11, "1326"),  # month 13
        (1, "9999101234567890123A"),  # number not in decimal digits
        (1, "999910123456789012FF"),  # number of 18 digits
        (1, "9999101234567890124F"),  # another number
    ],
)
def test_each_field_is_checked_under_a_good_signature(keys, entropy, issuer, field: int, value: str) -> None:
    issuer_key = oda.IssuerKey(key=issuer.private.public, iin="999910", expiry=EXPIRY, serial=SERIAL)
    assert recover_icc(issuer_key, forged(keys, entropy, HEAD))
    raw = bytes.fromhex(value)
    with pytest.raises(CardDataInvalid) as refused:
        recover_icc(issuer_key, forged(keys, entropy, HEAD[:field] + raw + HEAD[field + len(raw) :]))
    assert refused.value.code == "CARD_DATA_INVALID"


def test_filler_is_checked_under_a_good_signature(keys, entropy, issuer) -> None:
    issuer_key = oda.IssuerKey(key=issuer.private.public, iin="999910", expiry=EXPIRY, serial=SERIAL)
    filler = 247 - 22 - len(HEAD) - 176
    with pytest.raises(CardDataInvalid) as refused:
        recover_icc(issuer_key, forged(keys, entropy, HEAD, b"\xbb\x00" + b"\xbb" * (filler - 2)))
    assert refused.value.code == "CARD_DATA_INVALID"


def test_a_certified_key_that_is_none_is_refused(keys, entropy, issuer) -> None:
    issuer_key = oda.IssuerKey(key=issuer.private.public, iin="999910", expiry=EXPIRY, serial=SERIAL)
    even = rsa.PublicKey(encoded=(keys.card.public.modulus ^ 1).to_bytes(176, "big"))
    for key in (even, keys.issuer.public):
        wrong = oda.certify_icc(
            keys.issuer, key, pan=PAN, expiry=EXPIRY, serial=SERIAL, static_data=STATIC, entropy=entropy
        )
        with pytest.raises(CardDataInvalid) as refused:
            recover_icc(issuer_key, wrong)
        assert refused.value.code == "CARD_DATA_INVALID"


def test_a_serial_is_three_bytes(keys, entropy) -> None:
    for serial in (b"", b"\x01\x02", b"\x01\x02\x03\x04"):
        with pytest.raises(CardDataInvalid):
            oda.certify_issuer(keys.ca, keys.issuer.public, iin="999910", expiry=EXPIRY, serial=serial, entropy=entropy)


def test_a_signature_is_filled(keys, entropy) -> None:
    room = recovery.capacity(keys.card.public)
    assert recovery.recover(keys.card.public, recovery.sign(keys.card, bytes(room), entropy), b"") == bytes(room)
    with pytest.raises(CardDataInvalid) as refused:
        recovery.sign(keys.card, bytes(room - 1), entropy)
    assert refused.value.code == "CARD_DATA_INVALID"


@pytest.mark.parametrize(("first", "last"), [(0x6B, 0xBC), (0x6A, 0xCC)])
def test_header_and_trailer_are_checked(keys, entropy, first: int, last: int) -> None:
    message = bytes(recovery.capacity(keys.card.public))
    block = bytes([first]) + message + sha1(message) + bytes([last])
    with pytest.raises(CardDataInvalid) as refused:
        recovery.recover(keys.card.public, keys.card.apply(block, entropy), b"")
    assert refused.value.code == "CARD_DATA_INVALID"
