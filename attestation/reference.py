"""Signed reference values and signed releases: what the software should be, said before it is measured.

The bank signs the reference values of a software version — the paper's S_B(Quote), which the software provider hands
out. The software provider signs the release itself. Both are COSE_Sign1 of their own, valid from `iat` to `exp`,
addressed to every phone. A `ReferenceValues` or `Release` exists only where its signature was verified.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from attestation.measurement import Measurement, MeasurementList
from protocol import codec, cose
from protocol.crypto import PrivateKey, PublicKey, sha256
from protocol.errors import (
    Malformed,
    ReleaseInvalid,
    SignatureInvalid,
    WrongAudience,
    WrongIssuer,
    WrongMessage,
)
from protocol.ports import Entropy
from protocol.types import DIGEST_BYTES

REFERENCE_VALUES: Final = "reference-values"
RELEASE: Final = "release"
AUDIENCE: Final = "phones"
"""Not one phone: the object is public, and naming one would tell the software provider who installs."""
MAX_LIFETIME_S: Final = 400 * 24 * 3600
MAX_PACKAGE_BYTES: Final = 64 * 1024 * 1024
MAX_VERSION: Final = 32
MAX_REFERENCE_BYTES: Final = 128 * 1024
MAX_RELEASE_BYTES: Final = 2048
_SOFTWARE: Final = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
_VERSION: Final = re.compile(rf"[0-9A-Za-z][0-9A-Za-z.+-]{{0,{MAX_VERSION - 1}}}")


def application_path(software_id: str) -> str:
    """The path under which software is measured: chosen by its identifier, not by where it was installed."""
    return f"app/{software_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Software:
    """One version of a package: its identifier, SHA-256 fingerprint and size in bytes.

    Raises: Malformed.
    """

    software_id: str
    version: str
    digest: bytes
    size: int

    def __post_init__(self) -> None:
        if type(self.software_id) is not str or not _SOFTWARE.fullmatch(self.software_id):
            raise Malformed("software identifier is not allowed")
        if type(self.version) is not str or not _VERSION.fullmatch(self.version):
            raise Malformed("version is not allowed")
        if type(self.digest) is not bytes or len(self.digest) != DIGEST_BYTES:
            raise Malformed("fingerprint is not SHA-256")
        if type(self.size) is not int or not 0 < self.size <= MAX_PACKAGE_BYTES:
            raise Malformed("package size is out of range")

    @classmethod
    def of(cls, package: bytes, *, software_id: str, version: str) -> Software:
        """The description of `package`. Raises: Malformed."""
        return cls(software_id=software_id, version=version, digest=sha256(package), size=len(package))

    @property
    def measurement(self) -> Measurement:
        """The event that measuring this package unaltered gives."""
        return Measurement(path=application_path(self.software_id), digest=self.digest)

    def plain(self) -> dict[str, Any]:
        """Its four fields."""
        return {"software_id": self.software_id, "version": self.version, "digest": self.digest, "size": self.size}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceValues:
    """S_B(Quote), verified: the software, the platform it was appraised on, and PCR 10 after both."""

    software: Software
    platform: MeasurementList
    pcr10: bytes
    valid_from_s: int
    valid_until_s: int
    wire: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A package the software provider signed and the bank vouched for, verified against both."""

    software: Software
    package: bytes
    wire: bytes


def expected_pcr10(software: Software, platform: MeasurementList) -> bytes:
    """PCR 10 when the engine booted on `platform` and measured `software` unaltered. Raises: Oversize."""
    return platform.with_entry(software.measurement).replay()


def sign_reference_values(
    software: Software,
    platform: MeasurementList,
    *,
    bank_key: PrivateKey,
    bank_id: str,
    valid_from_s: int,
    valid_until_s: int,
    entropy: Entropy,
) -> bytes:
    """The bank's reference values for `software` on `platform`. Raises: Oversize."""
    payload = software.plain() | {
        "platform": platform.to_bytes(),
        "pcr10": expected_pcr10(software, platform),
    }
    claims = _claims(bank_id, valid_from_s, valid_until_s, entropy)
    return cose.sign(bank_key, name=REFERENCE_VALUES, claims=claims, payload=codec.encode(payload))


def verify_reference_values(data: bytes, *, bank_key: PublicKey, bank_id: str, now_s: int) -> ReferenceValues:
    """The values, believed.

    Raises: Oversize, Malformed, EvidenceMalformed, WrongMessage, SignatureInvalid, WrongIssuer, WrongAudience,
        LifetimeTooLong, NotYetValid, Expired.
    """
    sign1 = cose.parse_sign1(data, max_bytes=MAX_REFERENCE_BYTES)
    verified = cose.verify(sign1, bank_key, name=REFERENCE_VALUES)
    verified.claims.check(issuer=bank_id, audience=AUDIENCE, now_s=now_s, max_lifetime_s=MAX_LIFETIME_S)
    plain = _fields(verified.payload, {"software_id", "version", "digest", "size", "platform", "pcr10"})
    if type(plain["platform"]) is not bytes:
        raise Malformed("platform is not a list in bytes")
    platform = MeasurementList.from_bytes(plain["platform"])
    software = _software(plain)
    if plain["pcr10"] != expected_pcr10(software, platform):
        raise Malformed("PCR 10 is not that of platform and software")
    return ReferenceValues(
        software=software,
        platform=platform,
        pcr10=plain["pcr10"],
        valid_from_s=verified.claims.issued_at_s,
        valid_until_s=verified.claims.expires_at_s,
        wire=verified.wire,
    )


def sign_release(
    software: Software, *, sp_key: PrivateKey, sp_id: str, valid_from_s: int, valid_until_s: int, entropy: Entropy
) -> bytes:
    """The software provider's manifest of a release."""
    claims = _claims(sp_id, valid_from_s, valid_until_s, entropy)
    return cose.sign(sp_key, name=RELEASE, claims=claims, payload=codec.encode(software.plain()))


def verify_release(
    manifest: bytes, package: bytes, *, sp_key: PublicKey, sp_id: str, reference: ReferenceValues, now_s: int
) -> Release:
    """Paper §2.3.1 ATT-D0: AM checks that the software is signed, and that its verification code is right.

    Raises:
        ReleaseInvalid: not the software provider's manifest, or the package is not the manifest's, or the manifest is
            not of the version the bank vouched for.
        LifetimeTooLong, NotYetValid, Expired: a good manifest, but not now.
        Oversize: the manifest or the package is over its bound.
    """
    software = _manifest(manifest, sp_key=sp_key, sp_id=sp_id, now_s=now_s)
    if software != reference.software:
        raise ReleaseInvalid("manifest is not of the version the bank vouched for")
    if len(package) != software.size or sha256(package) != software.digest:
        raise ReleaseInvalid("fingerprint of the package is not the manifest's")
    return Release(software=software, package=package, wire=manifest)


def _manifest(manifest: bytes, *, sp_key: PublicKey, sp_id: str, now_s: int) -> Software:
    try:
        verified = cose.verify(cose.parse_sign1(manifest, max_bytes=MAX_RELEASE_BYTES), sp_key, name=RELEASE)
        verified.claims.check(issuer=sp_id, audience=AUDIENCE, now_s=now_s, max_lifetime_s=MAX_LIFETIME_S)
        return _software(_fields(verified.payload, {"software_id", "version", "digest", "size"}))
    except (Malformed, WrongMessage, SignatureInvalid, WrongIssuer, WrongAudience) as exc:
        raise ReleaseInvalid("not a manifest signed by the software provider") from exc


def _claims(issuer: str, valid_from_s: int, valid_until_s: int, entropy: Entropy) -> cose.Claims:
    return cose.Claims(
        issuer=issuer,
        audience=AUDIENCE,
        issued_at_s=valid_from_s,
        expires_at_s=valid_until_s,
        nonce=entropy.bytes(cose.CTI_BYTES),
    )


def _fields(payload: bytes, names: set[str]) -> dict[str, Any]:
    plain = codec.decode(payload, max_bytes=MAX_REFERENCE_BYTES)
    if type(plain) is not dict or plain.keys() != names:
        raise Malformed("fields are not exactly those of the object")
    return plain


def _software(plain: dict[str, Any]) -> Software:
    return Software(
        software_id=plain["software_id"], version=plain["version"], digest=plain["digest"], size=plain["size"]
    )
