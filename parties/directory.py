"""The PKI as a folder of PEM certificates (INIT-1): every one is verified against the CA before it is believed."""

from __future__ import annotations

import threading
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from protocol.errors import CertificateInvalid, SettingsInvalid, UnknownKey
from protocol.pki import Identity, Use, verify
from protocol.ports import Clock
from protocol.types import Role

CA_FILE = "ca.pem"
MANUFACTURER_FILE = "manufacturer.pem"
MAX_CERTIFICATES = 100_000


def write_certificate(path: Path, der: bytes) -> None:
    """Write a DER certificate as PEM."""
    path.write_bytes(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM))


def read_certificate(path: Path) -> bytes:
    """A PEM certificate as DER. Raises: SettingsInvalid, naming the file."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)
    except OSError as exc:
        raise SettingsInvalid(f"certificate {path} can't be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise SettingsInvalid(f"{path} is not a PEM certificate: put the right file there") from exc


def certificate_file(folder: Path, role: Role, name: str, use: Use) -> Path:
    """Where the certificate of this role, name and use lives."""
    return folder / f"{role.value}.{name}.{use.value}.pem"


class FileDirectory:
    """Certificates by name and by thumbprint. What appears later in the folder is found when it is asked for."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock
        self._lock = threading.Lock()
        self._by_kid: dict[bytes, Identity] = {}
        self._known: set[str] = set()
        self._verified: dict[tuple[Path, Use, int, int], Identity] = {}
        self.root = read_certificate(folder / CA_FILE)

    def named(self, name: str, use: Use) -> Identity:
        """Raises: UnknownKey if no party, or more than one, has a certificate of that name and use."""
        roles = [role for role in Role if certificate_file(self._folder, role, name, use).is_file()]
        if len(roles) != 1:
            raise UnknownKey(f"{len(roles)} certificates for {use}")
        return self.read(certificate_file(self._folder, roles[0], name, use), use)

    def by_thumbprint(self, thumbprint: bytes) -> Identity:
        """Raises: UnknownKey."""
        with self._lock:
            if thumbprint not in self._by_kid:
                self._index()
            identity = self._by_kid.get(thumbprint)
        if identity is None or identity.expires_at_s < self._clock.now_s():
            raise UnknownKey
        return identity

    def _index(self) -> None:
        for path in sorted(self._folder.glob(f"*.{Use.SIGN.value}.pem"))[:MAX_CERTIFICATES]:
            if path.name not in self._known:
                try:
                    identity = self.read(path, Use.SIGN)
                except (CertificateInvalid, SettingsInvalid):
                    continue  # one bad file in the folder shuts nobody else out
                self._known.add(path.name)
                self._by_kid[identity.key.thumbprint] = identity

    def read(self, path: Path, use: Use) -> Identity:
        """The identity in one certificate file, verified now or since it was last written.

        Raises: SettingsInvalid, CertificateInvalid.
        """
        now_s = self._clock.now_s()
        try:
            stat = path.stat()
        except OSError as exc:
            raise SettingsInvalid(f"certificate {path} can't be read: {exc.strerror}") from exc
        version = (path, use, stat.st_mtime_ns, stat.st_ino)
        known = self._verified.get(version)
        if known is not None and known.expires_at_s >= now_s:
            return known
        identity = verify(read_certificate(path), root=self.root, now_s=now_s, use=use)
        if len(self._verified) >= MAX_CERTIFICATES:
            self._verified.clear()
        self._verified[version] = identity
        return identity
