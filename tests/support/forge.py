"""An attacker who holds every key: opens any message of a tape, alters it, signs and seals it again.

Whoever forges here is the party that may sign: a dishonest phone, bank or TSM. What others can do, they do with a key
of their own (`key=`), or to the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from support.tape import Tape
from support.world import SeededEntropy

from protocol import codec, cose
from protocol.crypto import P256, PrivateKey
from protocol.envelope import Wire, pack
from protocol.errors import ProtocolError
from protocol.roles.se.tables import ACCOUNTS, OWNERS, SERVICE_KEYS
from protocol.roles.tsm.tables import TID_LIST
from protocol.schema import MESSAGES, Message

MAX_BYTES = 1 << 20
ENTROPY = SeededEntropy("forge")
Key = PrivateKey | bytes
"""An HPKE key, or a shared key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One encryption around a message: under which name and key, bound to which request."""

    name: str
    key: Key
    digest: bytes

    def wrap(self, plaintext: bytes) -> bytes:
        if isinstance(self.key, bytes):
            return cose.encrypt(self.key, ENTROPY, name=self.name, plaintext=plaintext, request_digest=self.digest)
        return cose.seal(self.key.public, name=self.name, plaintext=plaintext, request_digest=self.digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """An opened message: its signed part, whatever was packed beside it, and the layers around both."""

    sign1: cose.Sign1
    key: PrivateKey
    digest: bytes
    message: Message
    rest: tuple[bytes, ...]
    packed: bool
    layers: tuple[Layer, ...]

    def written(
        self, fields: Mapping[str, Any] | None = None, claims: Mapping[str, Any] | None = None, *,
        key: PrivateKey | None = None, name: str = "", payload: bytes | None = None,
        rest: tuple[bytes, ...] | None = None, layers: tuple[Layer, ...] | None = None,
    ) -> bytes:  # fmt: skip
        """The message with other `fields` and `claims` (a new nonce, unless one is given), signed and sealed anew."""
        changed = replace(self.message, **(fields or {}))  # type: ignore[type-var]
        stated = replace(self.sign1.claims, **{"nonce": ENTROPY.bytes(16), **(claims or {})})
        signed = cose.sign(
            key or self.key, name=name or self.sign1.name, claims=stated,
            payload=changed.to_bytes() if payload is None else payload, request_digest=self.digest,
        )  # fmt: skip
        return self.sealed(signed, rest=rest, layers=layers)

    def sealed(
        self, signed: bytes, *, rest: tuple[bytes, ...] | None = None, layers: tuple[Layer, ...] | None = None
    ) -> bytes:
        """Any bytes in the place of the signed part."""
        beside = self.rest if rest is None else rest
        data = pack([signed, *beside]) if self.packed else signed
        for layer in reversed(self.layers if layers is None else layers):
            data = layer.wrap(data)
        return data


class Ring:
    """All keys of a tape's world."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        signing = [tape.once, tape.merchant.sign, *(phone.wallet_key for phone in tape.phones.values())]
        self.sealing: list[PrivateKey] = []
        self.shared: list[bytes] = []
        for party in tape.parties.values():
            keys = getattr(party.value, "keys", None)
            signing.append(party.value.key if keys is None else keys.sign)
            self.sealing += [] if keys is None else [keys.seal]
            scan = party.store.scan
            signing += [PrivateKey.from_bytes(row.sk_u) for row in scan(OWNERS)]
            signing += [PrivateKey.from_bytes(row.sk_aid) for row in scan(ACCOUNTS)]
            signing += [PrivateKey.from_bytes(row.sk_tid) for row in scan(SERVICE_KEYS)]
            opening = [row.dk_u for row in scan(OWNERS)] + [row.dk_aid for row in scan(ACCOUNTS)]
            opening += [row.dk_tid for row in scan(SERVICE_KEYS)]
            self.sealing += [PrivateKey.from_bytes(key) for key in opening]
            self.shared += [key for row in scan(ACCOUNTS) for key in (row.kx, row.k_aid)]
            self.shared += [row.k_tid for row in scan(SERVICE_KEYS)] + [row.k_bank for row in scan(TID_LIST)]
        self.signing = {key.public.thumbprint: key for key in signing}

    def open(self, data: bytes, digest: bytes = b"") -> Letter:
        """Any message; a reply with the digest of its request."""
        layers: list[Layer] = []
        while data[:1] == cose.ENCRYPT0_TAG:
            layer, data = self._peel(data, digest)
            layers.append(layer)
        packed = data[:1] != cose.SIGN1_TAG
        signed, *rest = codec.decode(data, max_bytes=MAX_BYTES) if packed else [data]
        sign1 = cose.parse_sign1(signed, max_bytes=MAX_BYTES)
        key = self.signing[sign1.kid]
        return Letter(
            sign1=sign1, key=key, digest=_signed_digest(sign1, key, digest), rest=tuple(rest), packed=packed,
            message=MESSAGES[sign1.name].from_bytes(sign1.payload), layers=tuple(layers),
        )  # fmt: skip

    def _peel(self, data: bytes, digest: bytes) -> tuple[Layer, bytes]:
        protected = codec.decode(data[1:], max_bytes=MAX_BYTES)[0]
        header = codec.decode(protected, max_bytes=MAX_BYTES)
        name = header[3].removeprefix("application/vnd.tapveil.").removesuffix("+cbor")
        hpke = header[1] == P256.sealing_alg
        for key in self.sealing if hpke else self.shared:
            for bound in (b"", digest):
                opener: Any = cose.unseal if hpke else cose.decrypt
                try:
                    plain: bytes = opener(key, data, name=name, max_bytes=MAX_BYTES, request_digest=bound)
                except ProtocolError:
                    continue
                return Layer(name=name, key=key, digest=bound), plain
        raise AssertionError(f"no key opens this {name}")

    def request(self, taken: Any) -> Letter:
        """A taped request, opened."""
        return self.open(taken.wire.cose)

    def carried(self, data: bytes) -> Letter:
        """A reply that a command carries, opened: the tape knows which request it answers."""
        for taken in self.tape.taken:
            if isinstance(taken.reply, Wire) and taken.reply.cose == data:
                return self.open(data, taken.wire.digest)
        raise AssertionError("no such reply on the tape")


def _signed_digest(sign1: cose.Sign1, key: PrivateKey, digest: bytes) -> bytes:
    try:
        cose.verify(sign1, key.public, name=sign1.name)
    except ProtocolError:
        cose.verify(sign1, key.public, name=sign1.name, request_digest=digest)
        return digest
    return b""
