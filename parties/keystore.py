"""Private keys in one file, sealed at rest; and the data key under which the database's columns are sealed.

The file: a magic line, SHA-256 of the rest (damage is told from a wrong passphrase before Argon2id runs), and CBOR of
the Argon2id cost and salt, the data key sealed under the passphrase's key, and the entries sealed under the data key.
Changing the passphrase seals the data key anew and leaves the database as it is.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nacl.encoding import RawEncoder
from nacl.hash import blake2b
from nacl.pwhash import argon2id
from nacl.utils import random

from parties.storage.sealing import KEY_BYTES, SealBroken, seal, unseal
from protocol.codec import decode, encode
from protocol.crypto import mac, same, sha256
from protocol.errors import KeystoreLocked, Oversize, ProtocolError, SettingsInvalid, StorageFault

MAX_BYTES: Final = 1 << 20
MAX_MEMORY_BYTES: Final = 1 << 30
MAX_PASSES: Final = 16
_MAGIC: Final = b"tapveil-keystore-1\n"
_DIGEST_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one guess of the passphrase costs with Argon2id (RFC 9106)."""

    passes: int
    memory_bytes: int


MODERATE: Final = Cost(passes=argon2id.OPSLIMIT_MODERATE, memory_bytes=argon2id.MEMLIMIT_MODERATE)
GENERATED: Final = Cost(passes=argon2id.OPSLIMIT_MIN, memory_bytes=argon2id.MEMLIMIT_MIN)
"""For passphrases that `tapveil init` generates: 256 random bits can't be guessed, so stretching adds nothing."""


@dataclass(frozen=True, slots=True)
class _Lock:
    """The data key under a passphrase."""

    cost: Cost
    salt: bytes
    sealed: bytes

    @classmethod
    def close(cls, data_key: bytes, passphrase: bytes, cost: Cost) -> _Lock:
        if not passphrase:
            raise SettingsInvalid("the keystore's passphrase is empty")
        salt = random(argon2id.SALTBYTES)
        return cls(cost, salt, seal(_stretch(passphrase, salt, cost), data_key, _context(salt, cost)))

    def open(self, passphrase: bytes) -> bytes:
        try:
            key = _stretch(passphrase, self.salt, self.cost)
            return unseal(key, self.sealed, _context(self.salt, self.cost))
        except SealBroken as exc:
            raise KeystoreLocked("wrong passphrase") from exc


class Keystore:
    """An open keystore: named private keys as bytes. Nothing secret is in its `repr`."""

    def __init__(self, path: Path, lock: _Lock, data_key: bytes, entries: Mapping[str, bytes]) -> None:
        self._path = path
        self._lock = lock
        self._data_key = data_key
        self._blinding = _subkey(data_key, b"blind")
        self._entries = dict(entries)

    @classmethod
    def create(cls, path: Path, passphrase: bytes, entries: Mapping[str, bytes], *, cost: Cost = MODERATE) -> Keystore:
        """A new keystore file. Raises: SettingsInvalid if there is one already, StorageFault if it can't be written."""
        data_key = random(KEY_BYTES)
        store = cls(path, _Lock.close(data_key, passphrase, cost), data_key, entries)
        store._write(new=True)
        return store

    @classmethod
    def open(cls, path: Path, passphrase: bytes) -> Keystore:
        """Raises: SettingsInvalid if there is no file, KeystoreLocked if it doesn't open: passphrase, or damage."""
        lock, sealed = _parse(_read(path))
        data_key = lock.open(passphrase)
        try:
            entries = decode(unseal(_subkey(data_key, b"entries"), sealed, _MAGIC), max_bytes=MAX_BYTES)
        except (SealBroken, ProtocolError) as exc:
            raise KeystoreLocked("damaged: restore it from a backup") from exc
        return cls(path, lock, data_key, entries)

    def __repr__(self) -> str:
        return f"Keystore({len(self._entries)} entries)"

    def names(self) -> tuple[str, ...]:
        """The names of all entries, sorted."""
        return tuple(sorted(self._entries))

    def entry(self, name: str) -> bytes:
        """The private key of this name. Raises: SettingsInvalid."""
        if name not in self._entries:
            raise SettingsInvalid(f"the keystore has no entry {name}")
        return self._entries[name]

    def put(self, entries: Mapping[str, bytes]) -> None:
        """Add or replace entries, in the file too. Raises: StorageFault; then the file is as it was."""
        before = self._entries
        self._entries = {**before, **entries}
        try:
            self._write(new=False)
        except ProtocolError:
            self._entries = before
            raise

    def change_passphrase(self, passphrase: bytes, *, cost: Cost = MODERATE) -> None:
        """Lock with another passphrase, one that a person chose unless told. Raises: SettingsInvalid, StorageFault."""
        before = self._lock
        self._lock = _Lock.close(self._data_key, passphrase, cost)
        try:
            self._write(new=False)
        except ProtocolError:
            self._lock = before
            raise

    def data_key(self) -> bytes:
        """The key (32 bytes) under which database columns are sealed."""
        return _subkey(self._data_key, b"columns")

    def blind(self, label: str, value: bytes) -> bytes:
        """A keyed digest (32 bytes) of `value`: an index to look it up by that tells nothing without the keystore."""
        return mac(self._blinding, encode([label, value]))

    def _write(self, *, new: bool) -> None:
        sealed = seal(_subkey(self._data_key, b"entries"), encode(self._entries), _MAGIC)
        cost = self._lock.cost
        body = encode([cost.passes, cost.memory_bytes, self._lock.salt, self._lock.sealed, sealed])
        if len(body) > MAX_BYTES:
            raise Oversize(f"the keystore may have {MAX_BYTES} bytes")
        try:
            _write_file(self._path, _MAGIC + sha256(body) + body, new=new)
        except FileExistsError as exc:
            raise SettingsInvalid(f"there is a keystore {self._path} already") from exc
        except OSError as exc:
            raise StorageFault(f"keystore {self._path} can't be written: {exc.strerror}") from exc


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + len(_MAGIC) + _DIGEST_BYTES + 1)
    except OSError as exc:
        raise SettingsInvalid(f"keystore {path} can't be read: {exc.strerror}") from exc


def _parse(data: bytes) -> tuple[_Lock, bytes]:
    """The lock and the sealed entries. Raises: KeystoreLocked."""
    body = data[len(_MAGIC) + _DIGEST_BYTES :]
    if not same(data[: len(data) - len(body)], _MAGIC + sha256(body)):
        raise KeystoreLocked("damaged, or no keystore: restore it from a backup")
    match _fields(body):
        case [int(passes), int(memory_bytes), bytes(salt), bytes(sealed_key), bytes(sealed)] if (
            argon2id.OPSLIMIT_MIN <= passes <= MAX_PASSES
            and argon2id.MEMLIMIT_MIN <= memory_bytes <= MAX_MEMORY_BYTES
            and len(salt) == argon2id.SALTBYTES
        ):
            return _Lock(Cost(passes=passes, memory_bytes=memory_bytes), salt, sealed_key), sealed
    raise KeystoreLocked("not a keystore of this version")


def _fields(body: bytes) -> Any:
    try:
        return decode(body, max_bytes=MAX_BYTES)
    except ProtocolError as exc:
        raise KeystoreLocked("not a keystore of this version") from exc


def _stretch(passphrase: bytes, salt: bytes, cost: Cost) -> bytes:
    return argon2id.kdf(KEY_BYTES, passphrase, salt, opslimit=cost.passes, memlimit=cost.memory_bytes)


def _context(salt: bytes, cost: Cost) -> bytes:
    # Argon2 rounds its memory, so that several costs give one key: the cost itself is authenticated.
    return _MAGIC + encode([cost.passes, cost.memory_bytes, salt])


def _subkey(data_key: bytes, purpose: bytes) -> bytes:
    return blake2b(purpose, digest_size=KEY_BYTES, key=data_key, encoder=RawEncoder)


def _write_file(path: Path, data: bytes, *, new: bool) -> None:
    """Put `data` in place at once: who reads `path`, also after a crash, finds the old file or the new one whole."""
    temporary = path.with_name(f".{path.name}.{random(8).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if new:
            os.link(temporary, path)  # unlike rename, never over another keystore
        else:
            temporary.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
