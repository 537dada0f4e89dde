"""The bank's log of traces from outside its server: verified in place, exported, and verified from a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from parties.assembly.common import Opened
from parties.directory import certificate_file, read_certificate
from parties.settings import load_settings
from parties.system import SystemClock
from parties.trace import read_file, root_of, write_file
from protocol import envelope, pki
from protocol.crypto import PublicKey
from protocol.errors import LogBroken, ProtocolError
from protocol.messages.trace import AuditEntry
from protocol.pki import Use
from protocol.roles.bank.audit import AuditExport, Head, VerifiedLog, verify_log, verify_rows
from protocol.roles.bank.tables import AUDIT_HEADS, AUDIT_LOG
from protocol.types import Role


def verify_here(
    settings: Path, remembered: Head | None = None, former: Sequence[Path] = ()
) -> tuple[VerifiedLog, AuditExport]:
    """The log in the bank's own database, and what it is as a file. `former` are certificates of keys it had before.

    Raises: LogBroken, SettingsInvalid, StorageFault.
    """
    opened = Opened.of(load_settings(settings, Role.BANK))
    name = opened.settings.name
    store = opened.store()
    try:
        heads, rows = store.scan(AUDIT_HEADS), store.scan(AUDIT_LOG)
    finally:
        store.close()
    present = certificate_file(opened.settings.pki, Role.BANK, name, Use.SIGN)
    certificates = tuple(read_certificate(path) for path in (present, *former))
    links = tuple(row.signed for row in rows)
    keys = _keys(name, certificates, links, opened.directory.root)
    verified = verify_rows(rows, heads, bank=name, keys=keys, remembered=remembered)
    return verified, AuditExport(bank=name, certificates=certificates, entries=links)


def export(settings: Path, target: Path, former: Sequence[Path] = ()) -> VerifiedLog:
    """Write the log, verified, with the certificates of its keys. Raises: as `verify_here`."""
    verified, made = verify_here(settings, former=former)
    write_file(target, made.to_bytes())
    return verified


def verify_file(path: Path, ca: Path, remembered: Head | None = None) -> tuple[str, VerifiedLog]:
    """Whose log it is, and the log; only the CA's certificate is believed. Raises: LogBroken, SettingsInvalid."""
    data, root = read_file(path), root_of(ca)
    try:
        exported = AuditExport.from_bytes(data)
    except ProtocolError as exc:
        raise LogBroken(f"not a bank's log: {exc.code}") from exc
    keys = _keys(exported.bank, exported.certificates, exported.entries, root)
    return exported.bank, verify_log(exported.entries, bank=exported.bank, keys=keys, remembered=remembered)


def _keys(bank: str, certificates: Sequence[bytes], links: Sequence[bytes], root: bytes) -> list[PublicKey]:
    """The bank's keys, by certificates that held when the last link was made: logs outlive certificates."""
    try:
        claims = [envelope.peek(AuditEntry, link) for link in links]
        last_s = {sign1.kid: sign1.claims.issued_at_s for sign1 in claims}
        return [_key(bank, certificate, last_s, root) for certificate in certificates]
    except ProtocolError as exc:
        raise LogBroken(f"not a bank's log: {exc.code}") from exc


def _claimed_kid(certificate: bytes) -> bytes:
    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
        return PublicKey.from_bytes(key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)).thumbprint
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise LogBroken("not a certificate of a bank's key") from exc


def _key(bank: str, certificate: bytes, last_s: dict[bytes, int], root: bytes) -> PublicKey:
    then_s = last_s.get(_claimed_kid(certificate), SystemClock().now_s())
    identity = pki.verify(certificate, root=root, now_s=then_s, use=Use.SIGN)
    if identity.role is not Role.BANK or identity.name != bank:
        raise LogBroken("the certificate is not this bank's")
    return identity.key
