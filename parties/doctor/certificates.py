"""A party's own certificates: of this CA, in date, for this party and use, and of the keystore's keys."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from parties.directory import CA_FILE, MANUFACTURER_FILE, certificate_file
from parties.doctor.finding import Finding, Level, fail, ok, warn
from parties.keystore import Keystore
from parties.settings import Settings
from parties.system import SystemClock
from protocol import pki
from protocol.crypto import PrivateKey
from protocol.errors import CertificateInvalid, ProtocolError
from protocol.pki import Use
from protocol.types import Role

SOON: Final = datetime.timedelta(days=30)
_PARTY: Final = (Use.SIGN, Use.SEAL, Use.TLS)
USES: Final[dict[Role, tuple[Use, ...]]] = {
    Role.BANK: (*_PARTY, Use.ISSUE),
    Role.TSM: _PARTY,
    Role.SP: _PARTY,
    Role.MERCHANT: _PARTY,
    Role.SE: (Use.SIGN, Use.TLS),
    Role.PHONE: (Use.SIGN, Use.TLS),
}
"""Which certified keys a party needs."""


def certificates(settings: Settings, keystore: Keystore | None) -> Iterator[Finding]:
    """The CA, then each certificate that this party needs."""
    root, finding = read(settings.pki / CA_FILE)
    if root is None:
        yield finding
        return
    yield _dates("certificate CA", root, settings.pki / CA_FILE) or ok("certificate CA", "in date")
    for use in USES.get(settings.role, ()):
        yield own_certificate(settings, use, root, keystore)
    if settings.role in (Role.BANK, Role.SE):
        maker, finding = read(settings.pki / MANUFACTURER_FILE)
        if maker is None and settings.role is Role.BANK:
            yield finding


def read(path: Path) -> tuple[x509.Certificate | None, Finding]:
    """A PEM certificate; or None and why."""
    check = f"certificate {path.name}"
    try:
        return x509.load_pem_x509_certificate(path.read_bytes()), ok(check, "readable")
    except OSError as exc:
        return None, fail(check, f"{path} can't be read: {exc.strerror}", "put the certificate there")
    except ValueError:
        return None, fail(check, f"{path} is not a PEM certificate", "put the right file there")


def own_certificate(settings: Settings, use: Use, root: x509.Certificate, keystore: Keystore | None) -> Finding:
    """The first thing that is wrong with the certificate for one use, or that nothing is."""
    check = f"certificate {use}"
    path = certificate_file(settings.pki, settings.role, settings.name, use)
    certificate, finding = read(path)
    if certificate is None:
        return Finding(check=check, level=Level.FAIL, what=finding.what, mend=finding.mend)
    problem = (
        _chain(check, certificate, root, path)
        or _dates(check, certificate, path)
        or _subject(check, certificate, settings, path)
        or (_tls(check, certificate, settings, path) if use is Use.TLS else None)
        or _key(check, certificate, keystore, use, path)
        or _rest(check, certificate, root, use, path)
    )
    belongs = "of this CA" if keystore is None else "of this CA and this key"
    return problem or ok(check, f"in date until {certificate.not_valid_after_utc:%Y-%m-%d}, {belongs}")


def _chain(check: str, certificate: x509.Certificate, root: x509.Certificate, path: Path) -> Finding | None:
    try:
        certificate.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature):
        return fail(
            check, f"{path.name} was not issued by the CA in {CA_FILE}",
            f"put the CA that issued it into {path.parent / CA_FILE}, or have this CA certify the key",
        )  # fmt: skip
    return None


def _dates(check: str, certificate: x509.Certificate, path: Path) -> Finding | None:
    now = datetime.datetime.now(datetime.UTC)
    if now < certificate.not_valid_before_utc:
        what = f"{path.name} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        return fail(check, what, f"set this machine's clock (it says {now:%Y-%m-%d %H:%M} UTC), or wait")
    if now > certificate.not_valid_after_utc:
        what = f"{path.name} expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        return fail(check, what, f"have the CA certify the key anew (this machine's clock says {now:%Y-%m-%d} UTC)")
    if now + SOON > certificate.not_valid_after_utc:
        what = f"{path.name} expires on {certificate.not_valid_after_utc:%Y-%m-%d}"
        return warn(check, what, "have the CA certify the key anew before that day")
    return None


def _subject(check: str, certificate: x509.Certificate, settings: Settings, path: Path) -> Finding | None:
    units = [a.value for a in certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)]
    names = [a.value for a in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if (units, names) == ([settings.role.value], [settings.name]):
        return None
    found = " ".join(str(value) for value in (*units, *names))
    return fail(
        check, f"{path.name} is for {found}, and this party is {settings.role} {settings.name}",
        "put this party's certificate there, or mend role and name in the settings",
    )  # fmt: skip


def _tls(check: str, certificate: x509.Certificate, settings: Settings, path: Path) -> Finding | None:
    extensions = certificate.extensions
    try:
        hosts = extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        hosts = []
    if settings.name not in hosts:
        return fail(
            check, f"{path.name} does not name the host {settings.name}, by which others call this party",
            f"have the CA certify the TLS key with the host name {settings.name}",
        )  # fmt: skip
    try:
        usage = set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return None
    lacking = {ExtendedKeyUsageOID.SERVER_AUTH: "server", ExtendedKeyUsageOID.CLIENT_AUTH: "client"}
    for oid, side in lacking.items():
        if oid not in usage:
            return fail(
                check, f"{path.name} is not for TLS as a {side}",
                "have the CA certify the TLS key for server and client authentication",
            )  # fmt: skip
    return None


def _key(
    check: str, certificate: x509.Certificate, keystore: Keystore | None, use: Use, path: Path
) -> Finding | None:  # fmt: skip
    if keystore is None:
        return None
    try:
        key = PrivateKey.from_bytes(keystore.entry(use.value))
    except ProtocolError:
        return fail(check, f"the keystore has no good {use} key", "restore the keystore from a backup")
    encoded = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    mine = key.native().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if encoded != mine:
        return fail(
            check, f"{path.name} is of another key than the keystore's",
            "put the certificate of this keystore's key there, or the keystore that belongs to the certificate",
        )  # fmt: skip
    return None


def _rest(
    check: str, certificate: x509.Certificate, root: x509.Certificate, use: Use, path: Path
) -> Finding | None:  # fmt: skip
    """Whatever else the parties would refuse it for."""
    try:
        pki.verify(
            certificate.public_bytes(Encoding.DER), root=root.public_bytes(Encoding.DER),
            now_s=SystemClock().now_s(), use=use,
        )  # fmt: skip
    except CertificateInvalid as exc:
        return fail(check, f"{path.name} is not accepted: {exc}", f"have the CA certify the key for the use {use}")
    return None
