"""Envelopes, stamps, and what it takes to be believed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, ClassVar

import cbor2
import pytest
from support.world import SeededEntropy

from protocol import cose, envelope
from protocol.crypto import PrivateKey
from protocol.envelope import WALLET_TIME_GRID_S, Signer, Stamp, Wire
from protocol.errors import (
    Expired,
    LifetimeTooLong,
    Malformed,
    NotYetValid,
    Oversize,
    ProtocolError,
    SignatureInvalid,
    WrongAudience,
    WrongIssuer,
    WrongMessage,
)
from protocol.schema import MESSAGES, Bytes, Message
from protocol.types import MAX_LIFETIME_S

ENTROPY = SeededEntropy("envelope")
KEY, OTHER = PrivateKey.generate(ENTROPY), PrivateKey.generate(ENTROPY)
BANK = Signer(name="bank-a", key=KEY)
NOW_S = 1_800_000_000
STAMP = Stamp(issued_at_s=NOW_S, nonce=b"n" * 16)
REQUEST = hashlib.sha256(b"request").digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting(Message):
    NAME: ClassVar[str] = "test-envelope-greeting"
    MAX_BYTES: ClassVar[int] = 64
    word: Annotated[bytes, Bytes(1, 40)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Farewell(Message):
    NAME: ClassVar[str] = "test-envelope-farewell"
    word: Annotated[bytes, Bytes(1, 40)]


for _message in (Greeting, Farewell):
    del MESSAGES[_message.NAME]  # the registry is the protocol's own

HELLO = Greeting(word=b"hello")
SIGNED = envelope.sign(BANK, HELLO, audience="tsm-1", stamp=STAMP)
REPLY = envelope.sign(BANK, HELLO, audience="tsm-1", stamp=STAMP, request_digest=REQUEST)


def _signed(payload: bytes) -> bytes:
    claims = cose.Claims(issuer="bank-a", audience="tsm-1", issued_at_s=NOW_S, expires_at_s=NOW_S + 9, nonce=b"n" * 16)
    return cose.sign(KEY, name=Greeting.NAME, claims=claims, payload=payload)


# --- opening ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("data", "digest"), [(SIGNED, b""), (REPLY, REQUEST)], ids=["request", "reply"])
def test_signed_opens(data: bytes, digest: bytes) -> None:
    opened = envelope.open_signed(
        Greeting, data, KEY.public, issuer="bank-a", audience="tsm-1", now_s=NOW_S, request_digest=digest
    )
    claims = cose.Claims(
        issuer="bank-a", audience="tsm-1", issued_at_s=NOW_S,
        expires_at_s=NOW_S + envelope.REQUEST_LIFETIME_S, nonce=STAMP.nonce,
    )  # fmt: skip
    assert opened == envelope.Opened(message=HELLO, claims=claims, key=KEY.public, wire=data)


def test_peek_tells_whose_key_is_claimed_and_believes_nothing() -> None:
    sign1 = envelope.peek(Greeting, SIGNED[:-1] + bytes([SIGNED[-1] ^ 1]))
    assert sign1.kid == KEY.public.thumbprint
    assert not hasattr(sign1, "message")


REFUSED: dict[str, tuple[dict[str, Any], type[ProtocolError], str]] = {
    "other message": ({"kind": Farewell}, WrongMessage, "WRONG_MESSAGE"),
    "other key": ({"key": OTHER.public}, SignatureInvalid, "SIGNATURE_INVALID"),
    "altered": ({"data": SIGNED[:-1] + bytes([SIGNED[-1] ^ 1])}, SignatureInvalid, "SIGNATURE_INVALID"),
    "reply to another request": ({"data": REPLY, "request_digest": bytes(32)}, SignatureInvalid, "SIGNATURE_INVALID"),
    "reply taken for a request": ({"data": REPLY}, SignatureInvalid, "SIGNATURE_INVALID"),
    "request taken for a reply": ({"request_digest": REQUEST}, SignatureInvalid, "SIGNATURE_INVALID"),
    "other issuer": ({"issuer": "bank-b"}, WrongIssuer, "WRONG_ISSUER"),
    "other audience": ({"audience": "tsm-2"}, WrongAudience, "WRONG_AUDIENCE"),
    "too early": ({"now_s": NOW_S - 61}, NotYetValid, "NOT_YET_VALID"),
    "too late": ({"now_s": NOW_S + 3600 + 61}, Expired, "EXPIRED"),
    "too long a life": ({"max_lifetime_s": 3599}, LifetimeTooLong, "LIFETIME_TOO_LONG"),
    "truncated": ({"data": SIGNED[:-1]}, Malformed, "MALFORMED"),
    "not signed": ({"data": HELLO.to_bytes()}, WrongMessage, "WRONG_MESSAGE"),
    "payload of another type": ({"data": _signed(b"\xa0")}, Malformed, "MALFORMED"),
    "payload not deterministic": ({"data": _signed(b"\xbf\x64word\x41h\xff")}, Malformed, "MALFORMED"),
    "field too large": ({"data": _signed(cbor2.dumps({"word": b"h" * 41}))}, Oversize, "OVERSIZE"),
    "payload too large": ({"data": _signed(cbor2.dumps({"word": b"h" * 64}))}, Oversize, "OVERSIZE"),
    "whole too large": ({"data": _signed(b"h" * (64 + 1024))}, Oversize, "OVERSIZE"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "error", "code"), REFUSED.values(), ids=REFUSED)
def test_opening_refused(change: dict[str, Any], error: type[ProtocolError], code: str) -> None:
    good = {"kind": Greeting, "data": SIGNED, "key": KEY.public, "issuer": "bank-a", "audience": "tsm-1"}
    with pytest.raises(error) as refusal:
        envelope.open_signed(**{**good, "now_s": NOW_S, **change})
    assert refusal.value.code == code


def test_a_longer_life_has_to_be_allowed() -> None:
    life_s = MAX_LIFETIME_S + 1
    promise = envelope.sign(BANK, HELLO, audience="tsm-1", stamp=STAMP, lifetime_s=life_s)
    with pytest.raises(LifetimeTooLong) as refusal:
        envelope.open_signed(Greeting, promise, KEY.public, issuer="bank-a", audience="tsm-1", now_s=NOW_S)
    assert refusal.value.code == "LIFETIME_TOO_LONG"
    opened = envelope.open_signed(
        Greeting, promise, KEY.public, issuer="bank-a", audience="tsm-1", now_s=NOW_S, max_lifetime_s=life_s
    )
    assert opened.claims.expires_at_s == NOW_S + life_s


def test_signing_is_determined_by_the_stamp() -> None:
    assert envelope.sign(BANK, HELLO, audience="tsm-1", stamp=STAMP) == SIGNED
    for other in (replace(STAMP, nonce=b"m" * 16), replace(STAMP, issued_at_s=NOW_S + 1)):
        assert envelope.sign(BANK, HELLO, audience="tsm-1", stamp=other) != SIGNED


def test_nothing_shows_a_signer_s_key() -> None:
    assert KEY.to_bytes().hex() not in repr(BANK)
    assert {field.name for field in fields(Signer)} == {"name", "key"}


# --- wires -----------------------------------------------------------------------------------------------------------
def test_digest_covers_both_parts() -> None:
    wire = Wire(cose=b"ab", session=b"cd")
    assert wire.digest == hashlib.sha256(cbor2.dumps([b"ab", b"cd"])).digest()
    others = [Wire(cose=b"ab"), Wire(cose=b"ax", session=b"cd"), Wire(cose=b"ab", session=b"cx"),
              Wire(cose=b"abc", session=b"d"), Wire(cose=b"cd", session=b"ab"), Wire(cose=b"abcd")]  # fmt: skip
    assert len({wire.digest, *(other.digest for other in others)}) == len(others) + 1


# --- stamps ----------------------------------------------------------------------------------------------------------
def test_fresh_stamp_has_a_nonce_of_its_own() -> None:
    first, second = Stamp.fresh(NOW_S, ENTROPY), Stamp.fresh(NOW_S, ENTROPY)
    assert first.issued_at_s == second.issued_at_s == NOW_S
    assert len(first.nonce) == cose.CTI_BYTES
    assert first.nonce != second.nonce


@pytest.mark.parametrize("late_s", [0, 1, 59])
def test_wallets_of_one_minute_look_alike(late_s: int) -> None:
    assert NOW_S % WALLET_TIME_GRID_S == 0
    assert Stamp.wallet(NOW_S + late_s, ENTROPY).issued_at_s == NOW_S
    assert Stamp.wallet(NOW_S + WALLET_TIME_GRID_S + late_s, ENTROPY).issued_at_s == NOW_S + WALLET_TIME_GRID_S


def test_wallet_stamp_is_accepted_to_the_end_of_its_minute() -> None:
    late = NOW_S + WALLET_TIME_GRID_S - 1
    signed = envelope.sign(BANK, HELLO, audience="tsm-1", stamp=Stamp.wallet(late, ENTROPY), lifetime_s=1)
    envelope.open_signed(Greeting, signed, KEY.public, issuer="bank-a", audience="tsm-1", now_s=late)


def test_derived_stamp_is_determined_by_label_and_nonce() -> None:
    derived = STAMP.derive("binfo")
    assert derived == STAMP.derive("binfo")
    assert (derived.issued_at_s, len(derived.nonce)) == (NOW_S, cose.CTI_BYTES)
    others = [STAMP, STAMP.derive("pass"), STAMP.derive(""), replace(STAMP, nonce=b"m" * 16).derive("binfo")]
    assert derived.nonce not in {other.nonce for other in others}


# --- packing ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("parts", [[b""], [b"a", b"bc"], [b"a", b"b", b"c"]], ids=["one", "two", "three"])
def test_packed_parts_come_back(parts: list[bytes]) -> None:
    assert envelope.unpack(envelope.pack(parts), low=1, high=3, max_bytes=64) == parts


PACKED: dict[str, tuple[bytes, type[ProtocolError], str]] = {
    "too few": (b"\x80", Malformed, "MALFORMED"),
    "too many": (envelope.pack([b"a"] * 4), Oversize, "OVERSIZE"),
    "too large": (envelope.pack([b"a" * 64]), Oversize, "OVERSIZE"),
    "bytes": (b"\x41a", Malformed, "MALFORMED"),
    "a number": (b"\x01", Malformed, "MALFORMED"),
    "a map": (b"\xa1\x00\x41a", Malformed, "MALFORMED"),
    "a text among them": (cbor2.dumps([b"a", "b"]), Malformed, "MALFORMED"),
    "a list among them": (cbor2.dumps([b"a", [b"b"]]), Malformed, "MALFORMED"),
    "too many, one a text": (cbor2.dumps([b"a", b"b", b"c", "d"]), Malformed, "MALFORMED"),
    "truncated": (envelope.pack([b"a", b"b"])[:-1], Malformed, "MALFORMED"),
    "trailing byte": (envelope.pack([b"a", b"b"]) + b"\0", Malformed, "MALFORMED"),
    "empty": (b"", Malformed, "MALFORMED"),
}


@pytest.mark.parametrize(("data", "error", "code"), PACKED.values(), ids=PACKED)
def test_unpacking_refused(data: bytes, error: type[ProtocolError], code: str) -> None:
    with pytest.raises(error) as refusal:
        envelope.unpack(data, low=1, high=3, max_bytes=64)
    assert refusal.value.code == code
