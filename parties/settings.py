"""A party's settings: one strict TOML file, every path relative to it. What is wrong is named, with its mend."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from protocol.errors import SettingsInvalid
from protocol.types import Role

PASSPHRASE_VARIABLE: Final = "TAPVEIL_PASSPHRASE"  # noqa: S105  # a name, not a secret
MAX_PORT: Final = 65535
_TEXT: Final = (
    "role", "name", "listen", "mutual_listen", "metrics_listen", "database", "pki", "keystore", "passphrase_file",
    "capture",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a server needs to run. `listen` takes calls without a client certificate, `mutual_listen` with one."""

    path: Path
    role: Role
    name: str
    listen: str
    mutual_listen: str
    database: str
    pki: Path
    keystore: Path
    passphrase_file: Path | None
    capture: Path | None
    """Where every envelope is copied for a checker. Off by default: a capture links what a log must not."""
    peers: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    """Settings of the role itself."""
    metrics_listen: str = ""
    """Where Prometheus asks (HTTP): an address of this machine, unless `[options] metrics_anywhere` is true."""

    @property
    def folder(self) -> Path:
        """Where the settings file lies; relative paths start here."""
        return self.path.parent

    def passphrase(self) -> bytes:
        """From the environment or the file. Raises: SettingsInvalid."""
        given = os.environ.get(PASSPHRASE_VARIABLE)
        if given is not None:
            return os.fsencode(given)
        if self.passphrase_file is None:
            raise SettingsInvalid(f"no passphrase: set {PASSPHRASE_VARIABLE} or passphrase_file in {self.path}")
        try:
            return self.passphrase_file.read_bytes().strip()
        except OSError as exc:
            raise SettingsInvalid(f"passphrase file {self.passphrase_file} can't be read: {exc.strerror}") from exc

    def option_path(self, name: str) -> Path:
        """A role's own path setting. Raises: SettingsInvalid."""
        value = self.options.get(name)
        if type(value) is not str:
            raise SettingsInvalid(f"{self.path}: [options] {name} must be a path")
        return self.folder / value

    def option_text(self, name: str) -> str:
        """A role's own text setting. Raises: SettingsInvalid."""
        value = self.options.get(name)
        if type(value) is not str:
            raise SettingsInvalid(f"{self.path}: [options] {name} must be a text")
        return value


def load_settings(path: Path, role: Role | None = None) -> Settings:
    """Read and check a settings file. Raises: SettingsInvalid, naming file and setting."""
    plain = _read(path)
    unknown = plain.keys() - {*_TEXT, "peers", "options"}
    if unknown:
        raise SettingsInvalid(f"{path}: unknown setting {sorted(unknown)[0]!r}: remove it or correct its spelling")
    for name in _TEXT:
        if name in plain and type(plain[name]) is not str:
            raise SettingsInvalid(f"{path}: {name} must be a text")
    for name in ("role", "name", "pki", "keystore"):
        if name not in plain:
            raise SettingsInvalid(f"{path}: {name} is missing")
    found = _role(path, plain["role"])
    if role is not None and found is not role:
        raise SettingsInvalid(f"{path}: this file is for `tapveil serve {found}`, not {role}")
    peers = plain.get("peers", {})
    if type(peers) is not dict or any(type(value) is not str for value in peers.values()):
        raise SettingsInvalid(f"{path}: [peers] must map names to HOST:PORT")
    for setting, address in (("listen", plain.get("listen", "")), ("mutual_listen", plain.get("mutual_listen", "")),
                             ("metrics_listen", plain.get("metrics_listen", "")),
                             *((f"[peers] {name}", value) for name, value in peers.items())):  # fmt: skip
        if address:
            _check_address(path, setting, address)
    options = plain.get("options", {})
    if type(options) is not dict:
        raise SettingsInvalid(f"{path}: [options] must be a table")
    metrics_listen = plain.get("metrics_listen", "")
    if metrics_listen and options.get("metrics_anywhere") is not True:
        _check_near(path, metrics_listen)
    folder = path.parent
    return Settings(
        path=path, role=found, name=plain["name"], listen=plain.get("listen", ""),
        mutual_listen=plain.get("mutual_listen", ""), database=_database(plain.get("database", ""), folder),
        pki=folder / plain["pki"], keystore=folder / plain["keystore"],
        passphrase_file=folder / plain["passphrase_file"] if "passphrase_file" in plain else None,
        capture=folder / plain["capture"] if plain.get("capture") else None, peers=peers, options=options,
        metrics_listen=metrics_listen,
    )  # fmt: skip


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as exc:
        raise SettingsInvalid(f"settings file {path} can't be read: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise SettingsInvalid(f"{path} is not TOML: {exc}") from exc


def _role(path: Path, value: str) -> Role:
    try:
        return Role(value)
    except ValueError as exc:
        raise SettingsInvalid(f"{path}: role {value!r} is none of {', '.join(Role)}") from exc


def _check_address(path: Path, setting: str, address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or int(port) > MAX_PORT:
        raise SettingsInvalid(f"{path}: {setting} must be HOST:PORT, not {address!r}")


def _database(url: str, folder: Path) -> str:
    """A relative SQLite path starts at the settings file, like every other path."""
    prefix = "sqlite:///"
    if url.startswith(prefix) and not url.startswith((prefix + "/", prefix + "file:")):
        return prefix + str(folder.resolve() / url.removeprefix(prefix))
    return url


def loopback(reader: str) -> str:
    """HOST:PORT, if it is this machine's: card numbers go through it in the clear. Raises: SettingsInvalid."""
    host, _, port = reader.rpartition(":")
    if not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) <= MAX_PORT:
        raise SettingsInvalid(f"a reader is HOST:PORT, not {reader!r}")
    if _is_near(host):
        return reader
    raise SettingsInvalid(f"the reader {reader!r} is not on this machine: use 127.0.0.1:PORT")


def _check_near(path: Path, metrics_listen: str) -> None:
    if not _is_near(metrics_listen.rpartition(":")[0]):
        raise SettingsInvalid(
            f"{path}: metrics_listen {metrics_listen!r} is not on this machine, and tells whoever asks: "
            "use 127.0.0.1:PORT, or set metrics_anywhere = true in [options] behind a firewall"
        )


def _is_near(host: str) -> bool:
    """Is it this machine's own address?"""
    with contextlib.suppress(ValueError):
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    return False
