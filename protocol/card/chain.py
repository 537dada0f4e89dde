"""From a card's records to its key: the whole of offline data authentication but the dynamic signature.

The SE runs it on what the TSM sends, the terminal on what a card answers, the TSM on what a terminal forwards.
(EMV Book 2 §6.2 to §6.4.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import lru_cache

from protocol.card.afl import Afl, CardFiles, read_files
from protocol.card.oda import (
    RID_BYTES,
    CaKey,
    Certificate,
    IccKey,
    IssuerKey,
    verify_icc_certificate,
    verify_issuer_certificate,
)
from protocol.card.pan import decode_pan
from protocol.errors import CardDataInvalid


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedCard:
    """A card whose static data and key are certified: `files` holds every data object of its records."""

    icc: IccKey
    files: CardFiles


def verify_card(
    *,
    aid: bytes,
    aip: bytes,
    afl: bytes,
    records: Mapping[tuple[int, int], bytes],
    ca_keys: Iterable[CaKey],
    today: date,
) -> VerifiedCard:
    """Read the records, find the CA key, recover issuer and card key. The caller compares the key with one it knows.

    Raises: CardDataInvalid; Expired; Oversize.
    """
    files = read_files(_locator(afl), records, aip=aip)
    ca = _find_ca(ca_keys, rid=aid[:RID_BYTES], index=files.get(0x8F))
    issuer = _issuer_of(ca, files.get(0x90), files.data.get(0x92, b""), files.get(0x9F32), today)
    icc = verify_icc_certificate(
        issuer,
        Certificate(signature=files.get(0x9F46), remainder=files.data.get(0x9F48, b""), exponent=files.get(0x9F47)),
        pan=decode_pan(files.get(0x5A)),
        static_data=files.static_data,
        today=today,
    )
    return VerifiedCard(icc=icc, files=files)


@lru_cache(maxsize=64)
def _locator(afl: bytes) -> Afl:
    """All cards of an issuer have the same. A refusal is not kept."""
    return Afl.from_bytes(afl)


@lru_cache(maxsize=64)
def _issuer_of(ca: CaKey, signature: bytes, remainder: bytes, exponent: bytes, today: date) -> IssuerKey:
    """All cards of an issuer carry the same certificate. A refusal is not kept."""
    certificate = Certificate(signature=signature, remainder=remainder, exponent=exponent)
    return verify_issuer_certificate(ca, certificate, today=today)


def _find_ca(ca_keys: Iterable[CaKey], *, rid: bytes, index: bytes) -> CaKey:
    for ca in ca_keys:
        if ca.rid == rid and bytes([ca.index]) == index:
            return ca
    raise CardDataInvalid("card's certification authority is not known here")
