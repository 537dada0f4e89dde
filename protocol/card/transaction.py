"""One card's part in one tap, from GET PROCESSING OPTIONS on: records, dynamic signature, cryptograms.

Volatile, as everything in the applet: what must outlast the field goes through the `CardHolder` port. Answers are
`Response`s; a refusal changes nothing.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from protocol.card import profile, tlv
from protocol.card.apdu import Response, Sw
from protocol.card.combined import CryptogramType, cryptogram_input, encode_combined, transaction_hash
from protocol.card.cryptogram import compute_cryptogram, compute_response, derive_session_key
from protocol.card.cvr import Cvr, IssuerData
from protocol.card.dynamic import CombinedData, encode_number, sign_dynamic
from protocol.card.possession import NUMBER_BYTES
from protocol.card.profile import Channel

if TYPE_CHECKING:
    from protocol.card.tap import CardHolder, LoadedCard
    from protocol.ports import Entropy

CDA_REQUESTED: Final = 0x10
"""Bit 5 of GENERATE AC's P1 (Book 3 §6.5.5.2)."""
REFERENCES: Final = {kind | cda: (kind, bool(cda)) for kind in CryptogramType for cda in (0, CDA_REQUESTED)}
"""P1 → what is asked for, and whether with CDA. All other values are reserved."""
_CONSENTED: Final = (0x9F02, 0x5F2A, 0x9F16, 0x9F1C, 0x9F37)
"""What PDOL and CDOL1 both ask for, so that the second answer can be held against the first."""
_NO_VERIFICATION: Final = frozenset({0x1F, 0x3F})
"""CVM results, byte 1 without bit 7: "no CVM required", and "none performed" (Book 3 Annex C3, Book 4 Annex A4)."""
_APPROVED: Final = b"00"
"""Authorization response code of an approval (Book 4 Annex A6)."""
_TEMPLATE: Final = 0x77
"""Response format 2: data objects with their tags (Book 3 §6.5.5.4)."""


def template(*objects: tuple[int, bytes]) -> Response:
    """An answer of format 2."""
    return Response(sw=Sw.OK, data=tlv.encode(_TEMPLATE, tlv.encode_all(objects)))


def read_record(records: Mapping[tuple[int, int], bytes], place: tuple[int, int]) -> Response:
    """The record at (file, record), or which of the two is not there (ISO/IEC 7816-4 §5.1.3: 6A82, 6A83)."""
    if place in records:
        return Response(sw=Sw.OK, data=records[place])
    known = any(file == place[0] for file, _ in records)
    return Response(sw=Sw.RECORD_NOT_FOUND if known else Sw.FILE_NOT_FOUND)


@dataclass(frozen=True, slots=True, kw_only=True)
class _First:
    """What the first GENERATE AC asked online with."""

    cdol_data: bytes
    cryptogram: bytes
    cvr: Cvr


class Transaction:
    """The card that the holder offered, and how far the terminal got with it."""

    def __init__(
        self, card: LoadedCard, *, pdol_data: bytes, channel: Channel, holder: CardHolder, entropy: Entropy
    ) -> None:
        self._card = card
        self._pdol_data = pdol_data
        self._holder = holder
        self._entropy = entropy
        self._standing = (
            (Cvr.DEVICE_VERIFIED if card.device_verified else Cvr(0))
            | (Cvr.CONTACT if channel is Channel.CONTACT else Cvr(0))
            | (Cvr.RETRY if card.retry else Cvr(0))
        )
        self._spent = False
        self._authenticated = False
        self._first: _First | None = None
        self._finished = False

    @cached_property
    def _session_key(self) -> bytes:  # derived when it is used: most of what this costs is to have the cipher at hand
        return derive_session_key(self._card.k_ac, atc=self._card.atc)

    def options(self) -> Response:
        """What GET PROCESSING OPTIONS answers: AIP and AFL (Book 3 §6.5.8.4)."""
        return template((0x82, self._card.aip), (0x94, self._card.afl))

    def counter(self) -> bytes:
        """ATC, two bytes of 9F36."""
        return self._card.atc.to_bytes(2, "big")

    def read_record(self, place: tuple[int, int]) -> Response:
        """The record at (file, record). Raises: NotOpen, and what the port raises."""
        answer = read_record(self._card.records, place)
        if answer.ok:
            self._spend()
        return answer

    def authenticate(self, ddol_data: bytes) -> Response:
        """INTERNAL AUTHENTICATE: one dynamic signature (Book 2 §6.5.1). Raises: NotOpen, and what the port raises.

        Once in a tap, and before the first cryptogram, when offline data authentication has its place (Book 3 §10.3).
        """
        if self._authenticated or self._first is not None or self._finished:
            return Response(sw=Sw.CONDITIONS_NOT_SATISFIED)
        # Exactly what the DDOL asks for: over 32 bytes the same signature would prove possession of the key to a TSM
        # (`protocol.card.possession`).
        if len(ddol_data) != profile.DDOL.data_length:
            return Response(sw=Sw.WRONG_LENGTH)
        self._spend()
        self._authenticated = True
        number = encode_number(self._entropy.bytes(NUMBER_BYTES))
        return template((0x9F4B, sign_dynamic(self._card.key, number, ddol_data, self._entropy)))

    def generate(self, asked: CryptogramType, data: bytes, *, combined: bool) -> Response:
        """GENERATE AC, first or second, with CDA when `combined` (Book 3 §6.5.5).

        Raises: NotOpen, and what the port raises.
        """
        if self._finished:
            return Response(sw=Sw.CONDITIONS_NOT_SATISFIED)
        wanted = profile.CDOL1 if self._first is None else profile.CDOL2
        if len(data) != wanted.data_length:
            return Response(sw=Sw.WRONG_LENGTH)
        self._spend()
        if self._first is None:
            return self._generate_first(asked, data, combined=combined)
        return self._generate_second(self._first, asked, data, combined=combined)

    def _spend(self) -> None:
        # From here on the terminal knows the card, so it must serve no other opening (design §3 PAY).
        if not self._spent:
            self._holder.spend(self._card)
            self._spent = True

    def _generate_first(self, asked: CryptogramType, data: bytes, *, combined: bool) -> Response:
        faults = self._find_faults(asked, data)
        # Whether TC or ARQC is asked for: nothing is approved offline (design §3 PAY).
        kind = CryptogramType.AAC if faults else CryptogramType.ARQC
        cvr = self._standing | faults | (Cvr(0) if faults else Cvr.ARQC)
        cryptogram, answer = self._answer(kind, cvr, (data,), combined=combined)
        if faults:
            self._finished = True
        else:
            self._first = _First(cdol_data=data, cryptogram=cryptogram, cvr=cvr)
        return answer

    def _find_faults(self, asked: CryptogramType, data: bytes) -> Cvr:
        said, consented = profile.CDOL1.split(data), profile.PDOL.split(self._pdol_data)
        faults = Cvr.TERMINAL_DECLINED if asked is CryptogramType.AAC else Cvr(0)
        # The cardholder saw one amount, for one merchant; cash back (9F03) was not among what is shown.
        same = hmac.compare_digest(
            b"".join(said[tag] for tag in _CONSENTED) + said[0x9F03],
            b"".join(consented[tag] for tag in _CONSENTED) + bytes(6),
        )
        if not same:
            faults |= Cvr.CONSENT_MISMATCH
        if said[0x9F34][0] & 0x3F not in _NO_VERIFICATION:
            faults |= Cvr.VERIFICATION_CONTRADICTED
        return faults

    def _generate_second(self, first: _First, asked: CryptogramType, data: bytes, *, combined: bool) -> Response:
        values = profile.CDOL2.split(data)
        code = values[0x8A]
        expected = compute_response(self._session_key, first.cryptogram, code) + code
        authentic = hmac.compare_digest(values[0x91], expected)
        approved = authentic and code == _APPROVED and asked is CryptogramType.TC
        cvr = (
            (first.cvr | Cvr.COMPLETED)
            | (Cvr.ISSUER_AUTHENTICATED if authentic else Cvr(0))
            | (Cvr.TERMINAL_DECLINED if asked is CryptogramType.AAC else Cvr(0))
        )
        self._finished = True
        kind = CryptogramType.TC if approved else CryptogramType.AAC
        return self._answer(kind, cvr, (first.cdol_data, data), combined=combined)[1]

    def _answer(
        self, kind: CryptogramType, cvr: Cvr, cdol_data: tuple[bytes, ...], *, combined: bool
    ) -> tuple[bytes, Response]:
        card = self._card
        issuer_data = IssuerData(cvr=cvr, opening=card.opening).to_bytes()
        covered = cryptogram_input(cdol_data[-1], aip=card.aip, atc=card.atc, issuer_data=issuer_data)
        cryptogram = compute_cryptogram(self._session_key, covered)
        information, counter = (0x9F27, bytes([kind])), (0x9F36, self.counter())
        # Book 2 §6.6.1: an AAC is never signed. Under CDA the cryptogram travels inside the signature only.
        if combined and kind is not CryptogramType.AAC:
            signature = self._sign_combined(kind, cryptogram, cdol_data, issuer_data)
            return cryptogram, template(information, counter, (0x9F4B, signature), (0x9F10, issuer_data))
        return cryptogram, template(information, counter, (0x9F26, cryptogram), (0x9F10, issuer_data))

    def _sign_combined(
        self, kind: CryptogramType, cryptogram: bytes, cdol_data: tuple[bytes, ...], issuer_data: bytes
    ) -> bytes:
        digest = transaction_hash(
            self._pdol_data, cdol_data, information=kind, atc=self._card.atc, issuer_data=issuer_data
        )
        inside = CombinedData(
            number=self._entropy.bytes(NUMBER_BYTES), information=kind, cryptogram=cryptogram, transaction_hash=digest
        )
        # The unpredictable number of the command that is being answered (Book 2 §6.6.1).
        wanted = profile.CDOL1 if len(cdol_data) == 1 else profile.CDOL2
        unpredictable = wanted.split(cdol_data[-1])[0x9F37]
        return sign_dynamic(self._card.key, encode_combined(inside), unpredictable, self._entropy)
