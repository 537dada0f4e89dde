"""One card's EMV data: everything a terminal can read of it, from its number and key (design §3 CARD-4).

No track 2 equivalent data, no service code and no name: EMV makes all three optional (Book 3 §7.2), the TSM decides
on number, counter and cryptogram, and track data would only serve a magnetic stripe (CN-13). No effective date, which
would tell the day of issue. One private operation of the issuer's key per card.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from protocol.card import afl, profile, tlv
from protocol.card.afl import Afl, AflEntry, Record, make_record
from protocol.card.directory import application_information
from protocol.card.months import Month
from protocol.card.oda import (
    RID_BYTES,
    SERIAL_BYTES,
    CaKey,
    Certificate,
    Certified,
    certify_iccs,
    verify_issuer_certificate,
)
from protocol.card.pan import BCD_BYTES, encode_pan, parse_pan
from protocol.card.profile import CardControls, CardProfile
from protocol.card.rsa import PrivateKey, PublicKey
from protocol.errors import CardDataInvalid, CardKeyInvalid

if TYPE_CHECKING:
    from protocol.ports import Entropy

DATA_FILE: Final = 2
KEY_FILE: Final = 1
LOCATOR: Final = Afl(
    entries=(
        AflEntry(sfi=DATA_FILE, first=1, last=1, signed=1),
        AflEntry(sfi=KEY_FILE, first=1, last=3, signed=0),
    )
)
"""Each certificate fills a record of its own, so the card's stands in the third record of the key file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """An issuer ready to issue: its key, and the certificate that was found to be this key's."""

    private: PrivateKey
    certificate: Certificate
    rid: bytes
    ca_index: int
    iin: str
    expiry: Month

    @classmethod
    def open(cls, ca: CaKey, private: PrivateKey, certificate: Certificate, *, today: date) -> Issuer:
        """Raises: CardDataInvalid; Expired (certificate); CardKeyInvalid (it certifies another key)."""
        found = verify_issuer_certificate(ca, certificate, today=today)
        if found.key != private.public:
            raise CardKeyInvalid("certificate is of another issuer key")
        return cls(
            private=private, certificate=certificate, rid=ca.rid, ca_index=ca.index, iin=found.iin, expiry=found.expiry
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CardData:
    """All that the applet answers from, but keys: what SELECT, GET PROCESSING OPTIONS and READ RECORD return."""

    pan: str = field(repr=False)
    expiry: Month
    aid: bytes
    fci: bytes
    aip: bytes
    afl: bytes
    records: tuple[Record, ...] = field(repr=False)
    certificate: Certificate = field(repr=False)

    def record_map(self) -> dict[tuple[int, int], bytes]:
        """(file, record) → bytes, as `afl.read_files` takes them."""
        return {(record.sfi, record.number): record.data for record in self.records}


def personalize(
    issuer: Issuer,
    card_profile: CardProfile,
    *,
    pan: str,
    expiry: Month,
    card_key: PublicKey,
    controls: CardControls,
    entropy: Entropy,
) -> CardData:
    """The EMV data of one card. Raises: as `personalize_all`."""
    (data,) = personalize_all(
        issuer, card_profile, cards=((pan, card_key),), expiry=expiry, controls=controls, entropy=entropy
    )
    return data


def personalize_all(
    issuer: Issuer,
    card_profile: CardProfile,
    *,
    cards: Sequence[tuple[str, PublicKey]],
    expiry: Month,
    controls: CardControls,
    entropy: Entropy,
) -> tuple[CardData, ...]:
    """The EMV data of cards under the same controls: of each, its number and its key from
    `possession.verify_card_keys`. `expiry` comes from `common_expiry`.

    Each step is taken for all cards before the next, and the private operations follow one another: after one of
    them the processor has forgotten all else, so that what stands between two of them costs several times as much.

    Raises: CardDataInvalid (number of another range, or cards outliving their issuer or outlived by their controls);
    CardKeyInvalid (issuer key at fault); Oversize (issuer key too long for a record).
    """
    _check_common(issuer, card_profile, expiry, controls)
    for pan, _ in cards:
        parse_pan(pan, iin=issuer.iin)
    alike = _alike(card_profile, expiry)
    head = _head(0x5A, BCD_BYTES)
    static_data = [head + encode_pan(pan) + alike for pan, _ in cards]
    certificates = certify_iccs(
        issuer.private,
        [
            Certified(
                key=key, pan=pan, expiry=expiry, serial=entropy.bytes(SERIAL_BYTES), static_data=static + profile.AIP
            )
            for (pan, key), static in zip(cards, static_data, strict=True)
        ],
        entropy,
    )
    application, locator = application_information(card_profile), LOCATOR.to_bytes()
    return tuple(
        CardData(
            pan=pan,
            expiry=expiry,
            aid=card_profile.aid,
            fci=application,
            aip=profile.AIP,
            afl=locator,
            records=(
                Record(sfi=DATA_FILE, number=1, data=_head(afl.RECORD_TEMPLATE, len(static)) + static),
                *_issuer_records(issuer.ca_index, issuer.certificate, certificate.remainder, certificate.exponent),
                Record(
                    sfi=KEY_FILE, number=3, data=_certificate_head(len(certificate.signature)) + certificate.signature
                ),
            ),
            certificate=certificate,
        )
        for (pan, _), static, certificate in zip(cards, static_data, certificates, strict=True)
    )


def _check_common(issuer: Issuer, card_profile: CardProfile, expiry: Month, controls: CardControls) -> None:
    if card_profile.aid[:RID_BYTES] != issuer.rid:
        raise CardDataInvalid("application is of another provider than the CA key")
    if expiry > issuer.expiry:
        raise CardDataInvalid("card would outlive the issuer's certificate")
    if controls.valid_until_s > expiry.ends_at_s:
        raise CardDataInvalid("controls would outlive the card")


@lru_cache(maxsize=64)
def _head(tag: int, length: int) -> bytes:
    """Tag and length of an object that every card has, of one size."""
    return tlv.encode(tag, bytes(length))[:-length]


@lru_cache(maxsize=64)
def _certificate_head(length: int) -> bytes:
    """What stands before the card's certificate in its record. Raises: Oversize."""
    return make_record(KEY_FILE, 3, (0x9F46, bytes(length))).data[:-length]


@lru_cache(maxsize=64)
def _alike(card_profile: CardProfile, expiry: Month) -> bytes:
    """What all cards of one month have alike of the data that the certificate covers, which is all but the number.

    5A, 5F24, 8C and 8D are mandatory (Book 3 §7.2).
    """
    return tlv.encode_all(
        (
            (0x5F24, expiry.to_yymmdd()),
            (0x5F28, bytes.fromhex(f"{card_profile.country:04d}")),
            (0x5F34, bytes.fromhex(profile.SEQUENCE_NUMBER)),
            (0x8C, profile.CDOL1.to_bytes()),
            (0x8D, profile.CDOL2.to_bytes()),
            (0x8E, profile.CVM_LIST),
            (0x9F07, profile.USAGE_CONTROL),
            (0x9F08, profile.APPLICATION_VERSION),
            (0x9F0D, profile.ACTION_DEFAULT),
            (0x9F0E, profile.ACTION_DENIAL),
            (0x9F0F, profile.ACTION_ONLINE),
            (0x9F49, profile.DDOL.to_bytes()),
            (afl.TAG_LIST, afl.AIP),
        )
    )


@lru_cache(maxsize=64)
def _issuer_records(
    ca_index: int, issuer: Certificate, card_remainder: bytes, card_exponent: bytes
) -> tuple[Record, Record]:
    """The records before the card's certificate: the issuer's alone, then remainders, absent where the key fits, and
    the rest. The same for all cards of an issuer."""
    rest = (
        (0x8F, bytes([ca_index])),
        (0x9F32, issuer.exponent),
        (0x92, issuer.remainder),
        (0x9F47, card_exponent),
        (0x9F48, card_remainder),
    )
    return (
        make_record(KEY_FILE, 1, (0x90, issuer.signature)),
        make_record(KEY_FILE, 2, *((tag, value) for tag, value in rest if value)),
    )
