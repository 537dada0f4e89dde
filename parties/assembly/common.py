"""What every party opens at start: keystore, directory, database, TLS."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from nacl.exceptions import CryptoError
from nacl.pwhash import argon2id

from parties.channels import Channels, TlsIdentity
from parties.directory import CA_FILE, FileDirectory, certificate_file
from parties.keystore import Keystore
from parties.server.service import ServerTls
from parties.settings import Settings
from parties.storage.store import DatabaseStore, open_store
from parties.system import SystemClock, SystemEntropy
from protocol.crypto import PrivateKey, PublicKey
from protocol.errors import ProtocolError, SettingsInvalid
from protocol.pki import Use
from protocol.roles.party import PartyKeys
from protocol.types import Role

if TYPE_CHECKING:
    from protocol.roles.se.working import WorkingMemory

KEY_NAMES: Final = {Use.SIGN: "sign", Use.SEAL: "seal", Use.TLS: "tls", Use.ISSUE: "issue"}


def tls_pem(key: PrivateKey) -> bytes:
    """A TLS key as gRPC takes it. Stays in memory."""
    return key.native().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


class KeystoreSecrets:
    """Blind indexes and passcode hashes, behind the ports of bank and TSM."""

    def __init__(self, keystore: Keystore) -> None:
        self._keystore = keystore

    def blind(self, label: str, value: bytes) -> bytes:
        """A keyed digest under the party's own key."""
        return self._keystore.blind(label, value)

    def passcode_matches(self, stored_hash: bytes, passcode: bytes) -> bool:
        """Argon2id, compared in constant time."""
        return _matches(stored_hash, passcode)


def _matches(stored_hash: bytes, secret: bytes) -> bool:
    try:
        return bool(argon2id.verify(stored_hash, secret))
    except CryptoError:
        return False


class PinHashes:
    """Argon2id of PINs, behind the port of the SE."""

    def hash(self, pin: str) -> bytes:
        """To be stored; salted."""
        return hash_passcode(pin)

    def matches(self, stored: bytes, pin: str) -> bool:
        """In constant time."""
        return _matches(stored, pin.encode())


def hash_passcode(passcode: str) -> bytes:
    """Argon2id of a person's passcode."""
    return bytes(
        argon2id.str(passcode.encode(), opslimit=argon2id.OPSLIMIT_INTERACTIVE, memlimit=argon2id.MEMLIMIT_INTERACTIVE)
    )


@dataclass(frozen=True)
class Opened:
    """A party's settings with its keystore open. Files are read when first needed, and checked then."""

    settings: Settings
    keystore: Keystore
    clock: SystemClock
    entropy: SystemEntropy

    @classmethod
    def of(cls, settings: Settings) -> Opened:
        """Raises: SettingsInvalid, KeystoreLocked."""
        keystore = Keystore.open(settings.keystore, settings.passphrase())
        return cls(settings, keystore, SystemClock(), SystemEntropy())

    @cached_property
    def directory(self) -> FileDirectory:
        """The PKI. Raises: SettingsInvalid."""
        return FileDirectory(self.settings.pki, self.clock)

    def key(self, use: Use, role: Role | None = None) -> PrivateKey:
        """A long-term key, whose certificate in the PKI must be this key's. Raises: SettingsInvalid."""
        key = PrivateKey.from_bytes(self.keystore.entry(KEY_NAMES[use]))
        path = certificate_file(self.settings.pki, role or self.settings.role, self.settings.name, use)
        try:
            certified = self.directory_key(path, use)
        except ProtocolError as exc:
            raise SettingsInvalid(f"certificate {path}: {exc}: renew it, or put the right one there") from exc
        if certified != key.public:
            raise SettingsInvalid(f"certificate {path} is of another key than the keystore's")
        return key

    def directory_key(self, path: Path, use: Use) -> PublicKey:
        """The key in a certificate file, verified against the CA now."""
        return self.directory.read(path, use).key

    @cached_property
    def keys(self) -> PartyKeys:
        """Signing and sealing key."""
        return PartyKeys(name=self.settings.name, sign=self.key(Use.SIGN), seal=self.key(Use.SEAL))

    @cached_property
    def working(self) -> WorkingMemory:
        """What a secure element has at hand of its open card."""
        from protocol.roles.se.working import WorkingMemory  # no other role needs it

        return WorkingMemory()

    @property
    def root_pem(self) -> bytes:
        """The CA, as TLS takes it."""
        return (self.settings.pki / CA_FILE).read_bytes()

    def _certificate_pem(self, use: Use, role: Role) -> bytes:
        path = certificate_file(self.settings.pki, role, self.settings.name, use)
        return x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.PEM)

    def server_tls(self) -> ServerTls:
        """This party's transport identity as a server."""
        key, role = self.key(Use.TLS), self.settings.role
        return ServerTls(root=self.root_pem, certificate=self._certificate_pem(Use.TLS, role), key=tls_pem(key))

    def client_tls(self) -> TlsIdentity:
        """This party's transport identity as a client."""
        tls = self.server_tls()
        return TlsIdentity(root=tls.root, certificate=tls.certificate, key=tls.key)

    def channels(self) -> Channels:
        """Mutually authenticated channels to the peers in the settings."""
        return Channels(self.settings.peers, self.client_tls())

    def store(self) -> DatabaseStore:
        """The party's database. Raises: StorageFault, SettingsInvalid."""
        return open_store(self.settings.database, self.settings.role.value, self.keystore.data_key())
