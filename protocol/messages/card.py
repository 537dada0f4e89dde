"""CARD: a batch of 1 … 32 virtual cards (design §3 CARD; paper §2.6)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, ClassVar, Final

from protocol import codec
from protocol.schema import (
    Bytes,
    Currency,
    Digest,
    Identifier,
    Many,
    Message,
    Minor,
    Nested,
    Nonce,
    Object,
    Record,
    Text,
    TimeS,
    Uint,
)
from protocol.types import MAX_CARDS, NONCE_BYTES

PAN = Text(19, "[0-9]{19}")
MAX_OFFER_BYTES: Final = 4096
MODULUS_BYTES: Final = 176
MODULUS = Bytes(MODULUS_BYTES, MODULUS_BYTES)
"""A 1408-bit RSA modulus."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardRequest(Message):
    """CARD-1 U → T `E_T(S_TID(N_U))`; the issuer of the signature is the TID."""

    NAME: ClassVar[str] = "card-request"
    n_u: Nonce


@dataclass(frozen=True, slots=True, kw_only=True)
class CardChallenge(Message):
    """CARD-2 T → U `{S_T(TID, N_U, N_T)}K`."""

    NAME: ClassVar[str] = "card-challenge"
    tid: Identifier
    n_u: Nonce
    n_t: Nonce


@dataclass(frozen=True, slots=True, kw_only=True)
class CardKeys(Message):
    """CARD-3 U → T, first part under K: `S_TID(TID, N_U, N_T, root of H(salt, PK_C), pass, possession)`."""

    NAME: ClassVar[str] = "card-keys"
    tid: Identifier
    n_u: Nonce
    n_t: Nonce
    root: Digest
    launch_pass: Object
    possession: Object


@dataclass(frozen=True, slots=True, kw_only=True)
class CardKey(Record):
    """The other parts, one per card: PK_C, salt, and S_C, the card's own possession signature."""

    NAME: ClassVar[str] = "card-key"
    MAX_BYTES: ClassVar[int] = 1024
    modulus: Annotated[bytes, MODULUS]
    salt: Nonce
    possession: Annotated[bytes, MODULUS]

    @classmethod
    def from_bytes(cls, data: bytes) -> CardKey:
        """What the base class gives. Each part has one size, so that all keys look alike but for their values."""
        values, at = {}, 0
        for head, name, size in _key_layout():
            start, end = at + len(head), at + len(head) + size
            if data[at:start] != head:
                break
            values[name], at = data[start:end], end
        if at != len(data) or len(values) != len(_key_layout()):
            return super(CardKey, cls).from_bytes(data)  # which says what is wrong
        return cls(**values)


@lru_cache(maxsize=1)
def _key_layout() -> tuple[tuple[bytes, str, int], ...]:
    """What stands before each value of a CardKey, its name, and its length."""
    sample = CardKey(modulus=bytes(MODULUS_BYTES), salt=bytes(NONCE_BYTES), possession=bytes(MODULUS_BYTES))
    rest, layout = sample.to_bytes(), []
    for name, value in sorted(sample.plain().items(), key=lambda item: codec.encode(item[0])):
        head, _, rest = rest.partition(value)
        layout.append((head, name, len(value)))
    return tuple(layout)


@dataclass(frozen=True, slots=True, kw_only=True)
class Controls(Record):
    """Domain controls of a card (CN-3): number of uses, amount per use and in total, channel.

    Over `verify_above_minor` a purchase needs the cardholder's verification on the phone (TW-S3, CN-7).
    """

    NAME: ClassVar[str] = "controls"
    uses: Annotated[int, Uint(1_000_000)]
    per_use_minor: Minor
    total_minor: Minor
    verify_above_minor: Minor
    channel: Annotated[str, Text(16, "[a-z-]+")]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmvRecord(Record):
    """One record of a file: short file identifier, record number, template 70."""

    NAME: ClassVar[str] = "emv-record"
    sfi: Annotated[int, Uint(30)]
    number: Annotated[int, Uint(16)]
    data: Annotated[bytes, Bytes(1, 254)]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmvData(Record):
    """What the applet answers with: AID (application identifier), FCI, AIP, AFL and records."""

    NAME: ClassVar[str] = "emv-data"
    MAX_BYTES: ClassVar[int] = 8192
    application: Annotated[bytes, Bytes(5, 16)]
    fci: Annotated[bytes, Bytes(1, 254)]
    aip: Annotated[bytes, Bytes(2, 2)]
    afl: Annotated[bytes, Bytes(4, 252)]
    records: Annotated[tuple[EmvRecord, ...], Many(Nested(EmvRecord), 1, 32)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Card(Record):
    """One issued card: PAN, expiry, limit, controls, ICC certificate, EMV records, kAC. Names no TID."""

    NAME: ClassVar[str] = "card"
    MAX_BYTES: ClassVar[int] = 8192
    pan: Annotated[str, PAN]
    expires_at_s: TimeS
    limit_minor: Minor
    currency: Currency
    controls: Annotated[Controls, Nested(Controls)]
    icc_certificate: Annotated[bytes, Bytes(1, 512)]
    emv: Annotated[EmvData, Nested(EmvData)]
    k_ac: Annotated[bytes, Bytes(16, 16)]


@dataclass(frozen=True, slots=True, kw_only=True)
class CardsIssued(Message):
    """CARD-4 T → U `{E_EKTID(S_T(TID, N_U, N_T, [card]…))}K`, opened inside the SE."""

    NAME: ClassVar[str] = "cards-issued"
    MAX_BYTES: ClassVar[int] = 192 * 1024
    tid: Identifier
    n_u: Nonce
    n_t: Nonce
    cards: Annotated[tuple[Card, ...], Many(Nested(Card), 1, MAX_CARDS)]

    def to_bytes(self) -> bytes:
        """What the base class gives, from parts: most of a card's bytes are the same in all cards of a batch."""
        head = codec.encode({"n_t": self.n_t, "n_u": self.n_u, "tid": self.tid, "cards": []})
        return head[:-1] + _array_head(len(self.cards)) + b"".join(map(_card_bytes, self.cards))


def _card_bytes(card: Card) -> bytes:
    # Deterministic order of keys: shorter before longer, then by their bytes.
    emv = card.emv
    before, after = _application_parts(emv.afl, emv.aip, emv.fci, emv.application, len(emv.records))
    parts = [b"\xa8\x63emv", before]
    for record in emv.records:
        record_before, record_after = _place_parts(record.sfi, record.number)
        parts += (record_before, codec.byte_string(record.data), record_after)
    parts += (after, b"\x63pan", codec.encode(card.pan), b"\x64k_ac", codec.byte_string(card.k_ac))
    parts += (_terms(card.controls, card.currency, card.limit_minor, card.expires_at_s),)
    parts += (b"\x6ficc_certificate", codec.byte_string(card.icc_certificate))
    return b"".join(parts)


@lru_cache(maxsize=64)
def _application_parts(afl: bytes, aip: bytes, fci: bytes, application: bytes, records: int) -> tuple[bytes, bytes]:
    """What stands before and after the records in the map of an EmvData."""
    before = codec.encode({"afl": afl, "aip": aip, "fci": fci})[1:]
    return (
        b"\xa5" + before + codec.encode("records") + _array_head(records),
        codec.encode("application") + codec.encode(application),
    )


@lru_cache(maxsize=64)
def _place_parts(sfi: int, number: int) -> tuple[bytes, bytes]:
    """What stands before and after the data in the map of an EmvRecord."""
    return b"\xa3\x63sfi" + codec.encode(sfi) + b"\x64data", codec.encode({"number": number})[1:]


@lru_cache(maxsize=64)
def _terms(controls: Controls, currency: str, limit_minor: int, expires_at_s: int) -> bytes:
    """Those entries in the map of a Card that all cards of a batch have alike."""
    terms = {"controls": controls.plain(), "currency": currency, "limit_minor": limit_minor}
    return codec.encode(terms | {"expires_at_s": expires_at_s})[1:]


def _array_head(length: int) -> bytes:
    return codec.encode([0] * length)[:-length]


@dataclass(frozen=True, slots=True, kw_only=True)
class CardActivation(Message):
    """CARD-5 U → T `{S_TID([PAN…], N_T)}K`: the SE holds the cards."""

    NAME: ClassVar[str] = "card-activation"
    pans: Annotated[tuple[str, ...], Many(PAN, 1, MAX_CARDS)]
    n_t: Nonce


@dataclass(frozen=True, slots=True, kw_only=True)
class CardsActive(Message):
    """T → U `{S_T(TID, N_T, number, recredit)}K`; `recredit` is a signed `RecreditOffer`, or empty."""

    NAME: ClassVar[str] = "cards-active"
    tid: Identifier
    n_t: Nonce
    number: Annotated[int, Uint(MAX_CARDS)]
    recredit: Annotated[bytes, Bytes(0, MAX_OFFER_BYTES)]
