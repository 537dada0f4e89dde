"""What the conformance suite gets to know and to play: made from an environment of `tapveil init` (tests/conformance).

A bundle holds private keys: of phones, a TSM and merchants certified for the suite alone, and of one of the
environment's banks, which the suite plays toward the TSM. It is for test environments only. All of it is PEM and one
JSON file, `bundle.json`, so that it can be made for any other implementation too.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from attestation.certificate import AttestationKey, issue_attestation_certificate
from attestation.reference import verify_reference_values
from parties.assembly.common import Opened, hash_passcode
from parties.assembly.roles import build_bank
from parties.directory import CA_FILE, MANUFACTURER_FILE, certificate_file, read_certificate, write_certificate
from parties.keystore import Keystore
from parties.release import SOFTWARE
from parties.settings import Settings, load_settings
from parties.system import SystemClock, SystemEntropy
from protocol.codec import decode
from protocol.crypto import PrivateKey, PublicKey
from protocol.errors import SettingsInvalid
from protocol.pki import Issuer, Use, issue, verify
from protocol.roles.bank.customers import new_branch_code, open_customer
from protocol.types import Role, TrustClass

FORMAT: Final = "tapveil-conformance-1"
PLAYED_TSM: Final = "conformance-tsm"
PLAYED_MERCHANTS: Final = ("conformance-shop-1", "conformance-shop-2")
LIMIT_MINOR: Final = 1_000_000_000
SMALL_LIMIT_MINOR: Final = 30_000
"""Of the last person: soon used up, to see that a bank refuses what is beyond it."""
CURRENCY: Final = "TWD"
MAX_EMV_BYTES: Final = 4096
_LIFE_S: Final = 366 * 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which parties of the environment are tested, which bank is played, and how many phones and persons there are."""

    bank: str = "bank-a"
    tsm: str = "tsm-1"
    played_bank: str = "bank-b"
    phones: int = 36


@dataclass
class Bundle:
    """A bundle being written to `folder` from the environment below `environment`."""

    environment: Path
    folder: Path
    wanted: Wanted
    entropy: SystemEntropy = field(default_factory=SystemEntropy)
    now_s: int = field(default_factory=lambda: SystemClock().now_s())

    def __post_init__(self) -> None:
        if self.folder.exists() and any(self.folder.iterdir()):
            raise SettingsInvalid(f"{self.folder} is not empty: name a new folder, or remove what is there")
        self.pki = self.environment / "pki"
        authority = self.environment / "ca"
        keys = Keystore.open(authority / "keys.sealed", _passphrase(authority / "passphrase"))
        self.root = Issuer(
            key=PrivateKey.from_bytes(keys.entry("ca")), certificate=read_certificate(self.pki / CA_FILE)
        )
        self.maker_key = PrivateKey.from_bytes(keys.entry("manufacturer"))
        self.maker = read_certificate(self.pki / MANUFACTURER_FILE)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def settings(self, party: str, role: Role) -> Settings:
        """The settings of a party of the environment. Raises: SettingsInvalid."""
        return load_settings(self.environment / party / "settings.toml", role)

    def put(self, name: str, key: PrivateKey, der: bytes) -> str:
        """Write key and certificate into one file; where it is, relative to the bundle."""
        pem = key.native().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path = self.folder / f"{name}.pem"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_bytes(pem + x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM))
        return f"{name}.pem"

    def mint(self, name: str, role: Role, use: Use) -> str:
        """A new key certified by the CA, in the environment's PKI and, with its private half, in the bundle."""
        key = PrivateKey.generate(self.entropy)
        der = issue(
            self.root, key.public, role=role, name=name, use=use, from_s=self.now_s - 60,
            until_s=self.now_s + _LIFE_S, entropy=self.entropy,
        )  # fmt: skip
        write_certificate(certificate_file(self.pki, role, name, use), der)
        return self.put(f"{name}/{role.value}.{use.value}", key, der)

    def certificate(self, name: str, role: Role, use: Use) -> str:
        """A copy of a certificate of the environment; where it is."""
        path = f"{name}/{role.value}.{use.value}.pem"
        (self.folder / name).mkdir(parents=True, exist_ok=True)
        write_certificate(self.folder / path, read_certificate(certificate_file(self.pki, role, name, use)))
        return path

    def signing_key(self, bank: str) -> PublicKey:
        """The certified key of a bank. Raises: CertificateInvalid."""
        der = read_certificate(certificate_file(self.pki, Role.BANK, bank, Use.SIGN))
        return verify(der, root=self.root.certificate, now_s=self.now_s, use=Use.SIGN).key

    # --- who is tested -----------------------------------------------------------------------------------------------
    def bank(self) -> dict[str, Any]:
        """Name, address and certificates of the bank under test."""
        name = self.wanted.bank
        return {
            "name": name,
            "address": self.settings(name, Role.BANK).mutual_listen,
            "sign": self.certificate(name, Role.BANK, Use.SIGN),
            "seal": self.certificate(name, Role.BANK, Use.SEAL),
            "issue": self.certificate(name, Role.BANK, Use.ISSUE),
        }

    def tsm(self) -> dict[str, Any]:
        """Name, both addresses and certificates of the TSM under test."""
        name = self.wanted.tsm
        settings = self.settings(name, Role.TSM)
        return {
            "name": name,
            "address": settings.listen,
            "mutual_address": settings.mutual_listen,
            "sign": self.certificate(name, Role.TSM, Use.SIGN),
            "seal": self.certificate(name, Role.TSM, Use.SEAL),
        }

    def emv(self) -> dict[str, Any]:
        """The certification authority's public key of the TSM's cards."""
        path = self.settings(self.wanted.tsm, Role.TSM).option_path("emv")
        plain = decode(path.read_bytes(), max_bytes=MAX_EMV_BYTES)
        return {
            "rid": plain["rid"].hex(),
            "index": plain["index"],
            "modulus": plain["ca_modulus"].hex(),
            "exponent": 65537,
        }

    def software(self) -> dict[str, Any]:
        """The reference values in force at the bank under test: software and platform."""
        settings = self.settings(self.wanted.bank, Role.BANK)
        signed = (settings.option_path("references") / f"{SOFTWARE}.cose").read_bytes()
        values = verify_reference_values(
            signed, bank_key=self.signing_key(settings.name), bank_id=settings.name, now_s=self.now_s
        )
        return {
            "id": values.software.software_id,
            "sha256": values.software.digest.hex(),
            "platform": [{"path": entry.path, "sha256": entry.digest.hex()} for entry in values.platform.entries],
        }

    # --- who is played -----------------------------------------------------------------------------------------------
    def phone(self, name: str) -> dict[str, Any]:
        """A phone that never was in a shop: SE, wallet, TLS and attestation key."""
        attestation = PrivateKey.generate(self.entropy)
        der = issue_attestation_certificate(
            AttestationKey(public=attestation.public, trust_class=TrustClass.SOFTWARE), ca_key=self.maker_key,
            ca_certificate=self.maker, valid_from_s=self.now_s - 60, valid_until_s=self.now_s + _LIFE_S,
            entropy=self.entropy,
        )  # fmt: skip
        return {
            "name": name,
            "se": self.mint(name, Role.SE, Use.SIGN),
            "wallet": self.mint(name, Role.PHONE, Use.SIGN),
            "tls": self.mint(name, Role.PHONE, Use.TLS),
            "attestation": self.put(f"{name}/attestation", attestation, der),
        }

    def persons(self) -> list[dict[str, Any]]:
        """INIT-2: one person a phone, each with a branch code that works once. The last one has little credit."""
        passcode = secrets.token_urlsafe(12)
        passcode_hash = hash_passcode(passcode)
        opened = Opened.of(self.settings(self.wanted.bank, Role.BANK))
        bank, store = build_bank(opened), opened.store()
        found = []
        try:
            for limit in (*[LIMIT_MINOR] * (self.wanted.phones - 1), SMALL_LIMIT_MINOR):
                code = new_branch_code(self.entropy)
                unit = open_customer(
                    bank, name="A Person", passcode_hash=passcode_hash, limit_minor=limit, currency=CURRENCY,
                    branch_code=code, now_s=self.now_s, entropy=self.entropy,
                )  # fmt: skip
                store.apply(unit)
                found.append({"branch_code": code, "passcode": passcode, "limit_minor": limit, "currency": CURRENCY})
        finally:
            store.close()
        return found

    def played_bank(self) -> dict[str, Any]:
        """A bank that the TSM under test knows: it must not run by itself while the suite plays it."""
        settings = self.settings(self.wanted.played_bank, Role.BANK)
        keystore = Keystore.open(settings.keystore, settings.passphrase())
        tsm = self.settings(self.wanted.tsm, Role.TSM)
        if settings.name not in tsm.peers:
            raise SettingsInvalid(f"{tsm.path}: [peers] has no {settings.name}")
        pairs = {
            use.value: self.put(
                f"{settings.name}/bank.{use.value}",
                PrivateKey.from_bytes(keystore.entry(use.value)),
                read_certificate(certificate_file(self.pki, Role.BANK, settings.name, use)),
            )
            for use in (Use.SIGN, Use.SEAL, Use.TLS)
        }
        return {"name": settings.name, "listen": tsm.peers[settings.name], **pairs}

    def party(self, name: str, role: Role, uses: Iterable[Use]) -> dict[str, Any]:
        """A new institution for the suite to play."""
        return {"name": name, **{use.value: self.mint(name, role, use) for use in uses}}


def write_bundle(environment: Path, folder: Path, wanted: Wanted) -> int:
    """Write a bundle; how many persons it brings. Raises: SettingsInvalid, KeystoreLocked, StorageFault."""
    bundle = Bundle(environment, folder, wanted)
    write_certificate(folder / "ca.pem", bundle.root.certificate)
    uses = (Use.SIGN, Use.SEAL, Use.TLS)
    manifest = {
        "format": FORMAT,
        "ca": "ca.pem",
        "bank": bundle.bank(),
        "tsm": bundle.tsm(),
        "emv": bundle.emv(),
        "software": bundle.software(),
        "phones": [bundle.phone(f"conformance-phone-{number}") for number in range(1, wanted.phones + 1)],
        "persons": bundle.persons(),
        "played_tsm": bundle.party(PLAYED_TSM, Role.TSM, uses),
        "played_bank": bundle.played_bank(),
        "merchants": [bundle.party(name, Role.MERCHANT, uses) for name in PLAYED_MERCHANTS],
    }
    path = folder / "bundle.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps(manifest, indent=1) + "\n")
    return wanted.phones


def _passphrase(path: Path) -> bytes:
    try:
        return path.read_bytes().strip()
    except OSError as exc:
        raise SettingsInvalid(f"passphrase file {path} can't be read: {exc.strerror}") from exc
