"""Certificates of offline data authentication: CA → issuer → card (EMV Book 2 §6).

A card's certificate names its number and covers its static data; no field of it can hold an account or a person.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Final, NamedTuple

from protocol.card import recovery
from protocol.card.months import Month
from protocol.card.pan import BCD_BYTES, decode_iin, decode_pan, encode_iin, encode_pan
from protocol.card.rsa import EXPONENT_BYTES, ICC_BITS, PrivateKey, PublicKey
from protocol.errors import CardDataInvalid, CardKeyInvalid, Expired

if TYPE_CHECKING:
    from protocol.ports import Entropy

RID_BYTES: Final = 5
SERIAL_BYTES: Final = 3
_ISSUER_FORMAT: Final = 2
_ICC_FORMAT: Final = 4
_IIN_BYTES: Final = 4
_FILLER: Final = b"\xbb"


@dataclass(frozen=True, slots=True, kw_only=True)
class CaKey:
    """A certification authority's public key, as terminals hold it: found by (RID, index) (Book 2 §11.2.2)."""

    rid: bytes
    index: int
    key: PublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What records carry of a certified key: tags 90, 92, 9F32 (issuer) or 9F46, 9F48, 9F47 (card)."""

    signature: bytes
    remainder: bytes
    exponent: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerKey:
    """An issuer's key out of a verified certificate."""

    key: PublicKey
    iin: str
    expiry: Month
    serial: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class IccKey:
    """A card's key out of a verified certificate."""

    key: PublicKey
    pan: str = field(repr=False)
    expiry: Month
    serial: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Certified:
    """What a card's certificate is to say: key, number, expiry, serial, and the static data that it covers."""

    key: PublicKey
    pan: str = field(repr=False)
    expiry: Month
    serial: bytes
    static_data: bytes = field(repr=False)


class _Subject(NamedTuple):
    """The fields that both kinds of certificate have, with the name still encoded."""

    name: bytes
    expiry: Month
    serial: bytes
    key: PublicKey


def _message(signer: PublicKey, form: int, subject: _Subject, *, also: bytes) -> tuple[bytes, bytes]:
    """What is signed, and the remainder of the key."""
    # Book 2 §6.1 (data to be signed): the modulus fills the room that is left, BB fills the rest,
    # and what does not fit is the remainder.
    if len(subject.serial) != SERIAL_BYTES:
        raise CardDataInvalid("certificate serial is three bytes")
    modulus = subject.key.to_bytes()
    head = (
        bytes([form])
        + subject.name
        + subject.expiry.to_mmyy()
        + subject.serial
        + recovery.SHA1_RSA
        + bytes([len(modulus), len(EXPONENT_BYTES)])
    )
    room = recovery.capacity(signer) - len(head)
    inside, remainder = modulus[:room].ljust(room, _FILLER), modulus[room:]
    return head + inside + remainder + EXPONENT_BYTES + also, remainder


def _recover(
    signer: PublicKey, form: int, certificate: Certificate, *, name_bytes: int, also: bytes, today: date
) -> _Subject:
    # Book 2 §6.3 and §6.4, steps 1 to 12 (issuer) and 1 to 11 (card), but for the names, which the callers compare.
    rest = certificate.remainder + certificate.exponent + also
    inside = recovery.recover(signer, certificate.signature, rest)
    fields = inside[1 + name_bytes :]
    if inside[0] != form or fields[5:7] != recovery.SHA1_RSA:
        raise CardDataInvalid("certificate is of another kind or algorithm")
    room = fields[9:]
    size = fields[7]
    if fields[8] != len(certificate.exponent) or len(certificate.remainder) != max(0, size - len(room)):
        raise CardDataInvalid("certificate and the key parts beside it have different lengths")
    if room[size:].strip(_FILLER):
        raise CardDataInvalid("certificate is filled with something else than BB")
    expiry = Month.from_mmyy(fields[:2])
    if Month.of(today) > expiry:
        raise Expired("card certificate is past its month")
    try:
        key = PublicKey.from_bytes(room[:size] + certificate.remainder, certificate.exponent)
    except CardKeyInvalid as exc:
        raise CardDataInvalid("certified key is none that is used here") from exc
    return _Subject(inside[1 : 1 + name_bytes], expiry, fields[2:5], key)


def certify_issuer(
    ca: PrivateKey, issuer: PublicKey, *, iin: str, expiry: Month, serial: bytes, entropy: Entropy
) -> Certificate:
    """The CA's certificate for an issuer (Book 2 §6.3, format 02). Raises: CardDataInvalid; CardKeyInvalid."""
    subject = _Subject(name=encode_iin(iin), expiry=expiry, serial=serial, key=issuer)
    message, remainder = _message(ca.public, _ISSUER_FORMAT, subject, also=b"")
    return Certificate(signature=recovery.sign(ca, message, entropy), remainder=remainder, exponent=EXPONENT_BYTES)


def verify_issuer_certificate(ca: CaKey, certificate: Certificate, *, today: date) -> IssuerKey:
    """The issuer's key (Book 2 §6.3). `verify_icc_certificate` compares the issuer identifier with the card number.

    Raises: CardDataInvalid; Expired.
    """
    found = _recover(ca.key, _ISSUER_FORMAT, certificate, name_bytes=_IIN_BYTES, also=b"", today=today)
    return IssuerKey(key=found.key, iin=decode_iin(found.name), expiry=found.expiry, serial=found.serial)


def certify_icc(
    issuer: PrivateKey,
    card: PublicKey,
    *,
    pan: str,
    expiry: Month,
    serial: bytes,
    static_data: bytes,
    entropy: Entropy,
) -> Certificate:
    """The issuer's certificate for a card key, number and static data (Book 2 §6.4, format 04).

    Raises: CardDataInvalid; CardKeyInvalid.
    """
    subject = Certified(key=card, pan=pan, expiry=expiry, serial=serial, static_data=static_data)
    (certificate,) = certify_iccs(issuer, (subject,), entropy)
    return certificate


def certify_iccs(issuer: PrivateKey, cards: Iterable[Certified], entropy: Entropy) -> list[Certificate]:
    """As `certify_icc`, for many cards: all is made ready, then signed. Raises: as `certify_icc`."""
    ready = [
        _message(
            issuer.public,
            _ICC_FORMAT,
            _Subject(name=encode_pan(card.pan), expiry=card.expiry, serial=card.serial, key=card.key),
            also=card.static_data,
        )
        for card in cards
    ]
    signatures = recovery.sign_all(issuer, (message for message, _ in ready), entropy)
    return [
        Certificate(signature=signature, remainder=remainder, exponent=EXPONENT_BYTES)
        for signature, (_, remainder) in zip(signatures, ready, strict=True)
    ]


def verify_icc_certificate(
    issuer: IssuerKey, certificate: Certificate, *, pan: str, static_data: bytes, today: date
) -> IccKey:
    """The card's key, certified for this number and static data (Book 2 §6.4; the number also as §6.3 step 8 asks).

    Raises: CardDataInvalid (any alteration, or another card's or issuer's number); Expired.
    """
    if not pan.startswith(issuer.iin):
        raise CardDataInvalid("card number is not of the certified issuer")
    found = _recover(issuer.key, _ICC_FORMAT, certificate, name_bytes=BCD_BYTES, also=static_data, today=today)
    if decode_pan(found.name) != pan:
        raise CardDataInvalid("certificate is of another card")
    if found.key.size_bytes != ICC_BITS // 8:
        raise CardDataInvalid("certified card key has another size")
    return IccKey(key=found.key, pan=pan, expiry=found.expiry, serial=found.serial)
