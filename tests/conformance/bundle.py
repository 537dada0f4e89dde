"""Reads a bundle (README.md): who is tested, whom the suite plays, and what it must know."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from conformance.calls import Tls
from conformance.wire import Key, Signer, point_of
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

FORMAT = "tapveil-conformance-1"


@dataclass(frozen=True)
class Tested:
    """A party under test: name, addresses, and the public keys its certificates name."""

    name: str
    address: str
    mutual_address: str
    sign: bytes
    seal: bytes


@dataclass(frozen=True)
class Played:
    """A party that the suite plays."""

    name: str
    sign: Key
    seal: Key
    tls: Tls
    listen: str = ""

    @property
    def signer(self) -> Signer:
        return Signer(self.name, self.sign)


@dataclass(frozen=True)
class PhoneKeys:
    """A phone that the suite plays: the keys that never leave its trusted side, and the wallet's."""

    name: str
    se: Key
    wallet: Key
    attestation: Key
    attestation_certificate: bytes
    tls: Tls


@dataclass(frozen=True)
class Person:
    """INIT-2: somebody with an account at the bank, and the branch code for one phone."""

    branch_code: str
    passcode: str
    limit_minor: int
    currency: str


@dataclass(frozen=True)
class Measured:
    """One measurement: what was at `path` has this SHA-256 digest."""

    path: str
    digest: bytes


class Bundle:
    """A bundle's folder. `addresses` are those given by --target and take precedence."""

    def __init__(self, folder: Path, addresses: dict[str, str] | None = None) -> None:
        self._folder = folder
        self._given = addresses or {}
        self._plain: dict[str, Any] = json.loads((folder / "bundle.json").read_text())
        if self._plain["format"] != FORMAT:
            raise ValueError(f"bundle is not of format {FORMAT}")

    def read(self, name: str) -> bytes:
        """A file of the bundle."""
        return (self._folder / name).read_bytes()

    @cached_property
    def ca(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.read(self._plain["ca"]))

    @cached_property
    def bank_issuer(self) -> x509.Certificate:
        """The bank under test as an intermediate CA."""
        return x509.load_pem_x509_certificate(self.read(self._plain["bank"]["issue"]))

    def _certified(self, name: str) -> bytes:
        key = x509.load_pem_x509_certificate(self.read(name)).public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        return point_of(key)

    def _key(self, name: str) -> Key:
        native = load_pem_private_key(self.read(name), None)
        assert isinstance(native, ec.EllipticCurvePrivateKey)
        return Key(native)

    def tls(self, name: str | None = None) -> Tls:
        """A client's TLS identity; without one, an anonymous caller's."""
        root = self.read(self._plain["ca"])
        if name is None:
            return Tls(root)
        pair = self.read(name)
        key, _, certificate = pair.partition(b"-----BEGIN CERTIFICATE-----")
        return Tls(root, pair[-len(certificate) - 27 :], key)

    def _tested(self, role: str) -> Tested:
        plain = self._plain[role]
        address = self._given.get(role, plain["address"])
        mutual = self._given.get(f"{role}-mutual", plain.get("mutual_address", address))
        return Tested(plain["name"], address, mutual, self._certified(plain["sign"]), self._certified(plain["seal"]))

    @cached_property
    def bank(self) -> Tested:
        return self._tested("bank")

    @cached_property
    def tsm(self) -> Tested:
        return self._tested("tsm")

    def _played(self, plain: dict[str, Any]) -> Played:
        return Played(
            plain["name"], self._key(plain["sign"]), self._key(plain["seal"]), self.tls(plain["tls"]),
            plain.get("listen", ""),
        )  # fmt: skip

    @cached_property
    def played_tsm(self) -> Played:
        return self._played(self._plain["played_tsm"])

    @cached_property
    def played_bank(self) -> Played | None:
        plain = self._plain["played_bank"]
        return self._played(plain) if plain else None

    @cached_property
    def merchants(self) -> list[Played]:
        return [self._played(plain) for plain in self._plain["merchants"]]

    @cached_property
    def phones(self) -> list[PhoneKeys]:
        return [
            PhoneKeys(
                plain["name"], self._key(plain["se"]), self._key(plain["wallet"]), self._key(plain["attestation"]),
                x509.load_pem_x509_certificate(self.read(plain["attestation"])).public_bytes(
                    Encoding.DER
                ),
                self.tls(plain["tls"]),
            )
            for plain in self._plain["phones"]
        ]  # fmt: skip

    @cached_property
    def persons(self) -> list[Person]:
        return [Person(**plain) for plain in self._plain["persons"]]

    @cached_property
    def software(self) -> str:
        return str(self._plain["software"]["id"])

    @cached_property
    def software_digest(self) -> bytes:
        return bytes.fromhex(self._plain["software"]["sha256"])

    @cached_property
    def platform(self) -> list[Measured]:
        return [
            Measured(plain["path"], bytes.fromhex(plain["sha256"])) for plain in self._plain["software"]["platform"]
        ]

    @cached_property
    def emv_ca(self) -> tuple[bytes, int, int, int]:
        """RID, index, modulus, exponent of the cards' certification authority."""
        plain = self._plain["emv"]
        return bytes.fromhex(plain["rid"]), plain["index"], int(plain["modulus"], 16), plain["exponent"]
