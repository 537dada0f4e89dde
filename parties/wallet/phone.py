"""The phone as its software sees it: the wallet key, the way to the SE, to banks, and — nameless — to the TSM."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from parties.channels import ApduStream, Channels, TlsIdentity
from parties.directory import CA_FILE, FileDirectory, certificate_file
from parties.keystore import Keystore
from parties.settings import load_settings
from parties.storage.sealing import KEY_BYTES
from parties.system import SystemClock, SystemEntropy
from parties.wallet.journal import Journal, drive, relay
from protocol import codec
from protocol.crypto import PrivateKey
from protocol.envelope import Wire
from protocol.errors import SettingsInvalid
from protocol.pki import Use
from protocol.roles.wallet import Flow, Wallet
from protocol.types import Role

T = TypeVar("T")


class PhoneChannels:
    """Banks and the SE ask for the phone's certificate; TSM and software provider must never see one (design §3)."""

    def __init__(self, named: Channels, nameless: Channels, knows_me: Callable[[str], bool]) -> None:
        self._named = named
        self._nameless = nameless
        self._knows_me = knows_me

    def call(self, peer: str, rpc: str, request: Wire) -> Wire:
        """Raises: as `Channels.call`."""
        channels = self._named if self._knows_me(peer) else self._nameless
        return channels.call(peer, rpc, request)

    def field(self, element: str) -> ApduStream:
        """A new NFC field of the phone's own SE. Raises: Unavailable."""
        return self._named.field(element)

    def close(self) -> None:
        """Close both sets."""
        self._named.close()
        self._nameless.close()


class PhoneSession:
    """One run of the phone's software: wallet, channels and journal. Close it after use."""

    def __init__(self, folder: Path) -> None:
        """`folder` is the wallet's, with `settings.toml`. Raises: SettingsInvalid, KeystoreLocked, StorageFault."""
        self.settings = load_settings(folder / "settings.toml", Role.PHONE)
        clock, entropy = SystemClock(), SystemEntropy()
        keystore = Keystore.open(self.settings.keystore, self.settings.passphrase())
        directory = FileDirectory(self.settings.pki, clock)
        name = self.settings.name
        element = directory.read(certificate_file(self.settings.pki, Role.SE, name, Use.SIGN), Use.SIGN)
        self.wallet = Wallet(
            secure_element=name, secure_element_key=element.key,
            key=PrivateKey.from_bytes(keystore.entry("sign")), directory=directory, clock=clock, entropy=entropy,
        )  # fmt: skip
        self.channels = self._channels(keystore, directory)
        self.journal = Journal(folder / "journal.db", keystore.blind("journal", b"")[:KEY_BYTES])

    def _channels(self, keystore: Keystore, directory: FileDirectory) -> PhoneChannels:
        settings = self.settings
        root = (settings.pki / CA_FILE).read_bytes()
        path = certificate_file(settings.pki, Role.PHONE, settings.name, Use.TLS)
        private = PrivateKey.from_bytes(keystore.entry("tls"))
        identity = directory.read(path, Use.TLS)
        if identity.key != private.public:  # the bank would hang up, which looks as if it could not be reached
            raise SettingsInvalid(f"certificate {path} is of another key than the keystore's")
        certificate = x509.load_der_x509_certificate(identity.certificate).public_bytes(Encoding.PEM)
        pem = private.native().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        named = Channels(settings.peers, TlsIdentity(root=root, certificate=certificate, key=pem))
        nameless = Channels(settings.peers, TlsIdentity(root=root))

        def knows_me(peer: str) -> bool:
            return peer == settings.name or directory.named(peer, Use.SIGN).role is Role.BANK

        return PhoneChannels(named, nameless, knows_me)

    def run(self, kind: str, flow: Flow[T], *arguments: str | int, anew: bool = False) -> T:
        """Run a flow, or, unless it is to begin `anew`, take up the one like it that was cut off.

        Raises: the refusal that ended it, or Unavailable, after which it can be taken up again.
        """
        name = f"{kind}/{hashlib.sha256(codec.encode([kind, *arguments])).hexdigest()[:16]}"
        if anew:
            self.journal.forget(name)
        return drive(flow, name, self.journal, self.channels, secure_element=self.wallet.secure_element)

    def once(self, flow: Flow[T]) -> T:
        """Run a flow about this very moment, or with a PIN in it: nothing of it is kept, and it is not taken up again.

        Raises: the refusal that ended it.
        """
        return relay(flow, self.channels, secure_element=self.wallet.secure_element)

    def field(self) -> ApduStream:
        """The phone's NFC field, while it is held to a reader. Raises: Unavailable."""
        return self.channels.field(self.wallet.secure_element)

    def close(self) -> None:
        """Close channels and journal."""
        self.channels.close()
        self.journal.close()

    def __enter__(self) -> PhoneSession:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()
