"""`tapveil init`: keys, CA, certificates, EMV issuer, release, settings and databases of a whole environment.

One folder a party, so that each can be moved to the machine that runs it; `pki/` is public; `ca/` belongs offline.
"""

from __future__ import annotations

import datetime
import os
import re
import secrets
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import tomli_w

from attestation.certificate import AttestationKey, issue_attestation_certificate, issue_manufacturer_certificate
from attestation.measurement import Measurement, MeasurementList
from attestation.reference import Software, sign_reference_values, sign_release
from parties.assembly.cardkeys import KEYS_AHEAD
from parties.directory import CA_FILE, MANUFACTURER_FILE, certificate_file, write_certificate
from parties.emv_files import write_ca_key, write_issuer
from parties.keystore import GENERATED, Cost, Keystore
from parties.release import SOFTWARE, VERSION, build_release
from parties.storage.database import faults, is_postgresql
from parties.storage.migrations import create_or_upgrade
from parties.storage.postgresql import create_schema
from parties.storage.roles import TABLES
from parties.system import SystemClock, SystemEntropy
from protocol.card import rsa
from protocol.card.keys import generate_master_key
from protocol.card.months import Month
from protocol.card.oda import CaKey, certify_issuer
from protocol.card.pan import DEFAULT_IIN
from protocol.card.profile import RID
from protocol.crypto import PrivateKey, PublicKey, sha256
from protocol.errors import SettingsInvalid
from protocol.pki import Use, create_root, issue
from protocol.types import Role, TrustClass

YEAR_S: Final = 366 * 24 * 3600
PORTS_VARIABLE: Final = "TAPVEIL_PORTS"
"""FIRST-LAST: where free ports are looked for, when several environments are made at once on one machine."""
FREE_PORTS: Final = "20000-31999"
"""Below the ports that systems give to outgoing connections, so that none of these takes one before it is served."""
PLATFORM: Final = {
    "platform/boot": b"tapveil reference boot loader 1.0\n",
    "platform/os": b"tapveil reference operating system 1.0\n",
    "platform/tee": b"tapveil reference trusted execution environment 1.0\n",
}
"""Images of the reference phone, in boot order: measured path → content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Who takes part. `base_port` 0 takes ports that are free now."""

    banks: tuple[str, ...] = ("bank-a", "bank-b")
    tsm: str = "tsm-1"
    provider: str = "sp-1"
    merchants: tuple[str, ...] = ("shop-1", "shop-2")
    phones: tuple[str, ...] = ("phone-1",)
    host: str = "127.0.0.1"
    base_port: int = 7400
    capture: bool = False
    stops_every_s: int = 60
    """How often banks renew their lists of stops, and the TSM fetches them: shorter for runs that wait for it."""
    database: str = ""
    """Where institutions keep their tables: a PostgreSQL database, with a schema for each. A file each if empty."""
    schemas: str = "tapveil"
    """How the names of these schemas begin."""
    card_keys_ahead: int = KEYS_AHEAD
    """How many card keys each SE makes ahead of need."""
    cost: Cost = GENERATED

    def schema(self, party: str) -> str:
        """The schema of an institution or a merchant."""
        return re.sub("[^a-z0-9]", "_", f"{self.schemas}_{party}".lower())

    def parties(self) -> int:
        """How many parties are set up: what a progress bar counts."""
        return len(self.banks) + 2 + len(self.merchants) + len(self.phones) + 1


@dataclass
class Environment:
    """What is being made, and where."""

    folder: Path
    plan: Plan
    entropy: SystemEntropy = field(default_factory=SystemEntropy)
    now_s: int = field(default_factory=lambda: SystemClock().now_s())
    addresses: dict[str, str] = field(default_factory=dict)
    _next_port: int = 0
    _taken: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._next_port = self.plan.base_port
        self._free = _free_ports()
        self.root = create_root(
            self.key(), name="tapveil-ca", from_s=self.now_s - 60, until_s=self.now_s + 10 * YEAR_S,
            entropy=self.entropy,
        )  # fmt: skip
        self.maker_key = self.key()
        self.maker = issue_manufacturer_certificate(
            self.maker_key, name="tapveil-phones", valid_from_s=self.now_s - 60,
            valid_until_s=self.now_s + 10 * YEAR_S, entropy=self.entropy,
        )  # fmt: skip
        self.platform = MeasurementList()
        for path, content in PLATFORM.items():
            self.platform = self.platform.with_entry(Measurement(path=path, digest=sha256(content)))
        self.package = build_release()
        self.software = Software.of(self.package, software_id=SOFTWARE, version=VERSION)

    @property
    def pki(self) -> Path:
        """The folder of certificates."""
        return self.folder / "pki"

    def key(self) -> PrivateKey:
        """A new P-256 key."""
        return PrivateKey.generate(self.entropy)

    def port(self) -> int:
        """The next port, or a free one."""
        if self.plan.base_port:
            self._next_port += 1
            return self._next_port
        while True:
            number = self._free.start + secrets.randbelow(len(self._free))
            with socket.socket() as probe:
                if number not in self._taken and probe.connect_ex((self.plan.host, number)) != 0:
                    self._taken.add(number)
                    return number

    def address(self) -> str:
        """A new HOST:PORT."""
        return f"{self.plan.host}:{self.port()}"

    def certify(self, name: str, role: Role, use: Use, public: PublicKey) -> None:
        """A certificate by the CA, in the PKI folder."""
        hosts = (self.plan.host, "localhost") if use is Use.TLS else ()
        der = issue(
            self.root, public, role=role, name=name, use=use, from_s=self.now_s - 60,
            until_s=self.now_s + 2 * YEAR_S, entropy=self.entropy, hosts=hosts,
        )  # fmt: skip
        write_certificate(certificate_file(self.pki, role, name, use), der)

    def keys(self, name: str, role: Role, *uses: Use) -> dict[str, bytes]:
        """Fresh certified keys, as keystore entries."""
        entries = {}
        for use in uses:
            key = self.key()
            self.certify(name, role, use, key.public)
            entries[use.value] = key.to_bytes()
        return entries

    def settle(
        self, folder: Path, name: str, role: Role, entries: Mapping[str, bytes], settings: Mapping[str, object],
    ) -> None:  # fmt: skip
        """Keystore, passphrase, database and settings of one party."""
        folder.mkdir(parents=True, exist_ok=True)
        passphrase = folder / "passphrase"
        passphrase.touch(mode=0o600)
        passphrase.write_text(secrets.token_urlsafe(32) + "\n")
        Keystore.create(folder / "keys.sealed", passphrase.read_bytes().strip(), entries, cost=self.plan.cost)
        plain: dict[str, object] = {
            "role": role.value, "name": name, "pki": _relative(self.pki, folder), "keystore": "keys.sealed",
            "passphrase_file": "passphrase",
        }  # fmt: skip
        if role.value in TABLES:
            plain["database"] = self._database(folder, name, role)
        if self.plan.capture and role is not Role.PHONE:
            plain["capture"] = "capture.log"
        file = folder / "settings.toml"
        file.touch(mode=0o600 if self.plan.database else 0o666)  # its URL may hold a password
        file.write_text(tomli_w.dumps({**plain, **settings}))

    def _database(self, folder: Path, name: str, role: Role) -> str:
        """Make the party's database; its URL for the settings. A phone's secure element keeps a file in any case."""
        if self.plan.database and role is not Role.SE:
            with faults():
                url = create_schema(self.plan.database, self.plan.schema(name))
            create_or_upgrade(url, role.value)
            return url
        create_or_upgrade(f"sqlite:///{(folder / 'data.db').resolve()}", role.value)
        return "sqlite:///data.db"


def _free_ports() -> range:
    text = os.environ.get(PORTS_VARIABLE, FREE_PORTS)
    first, _, last = text.partition("-")
    if not (first.isdecimal() and last.isdecimal() and 1024 <= int(first) < int(last) - 100 and int(last) <= 65535):
        raise SettingsInvalid(f"{PORTS_VARIABLE} must be FIRST-LAST with room for 100 ports, not {text!r}")
    return range(int(first), int(last) + 1)


def _relative(target: Path, start: Path) -> str:
    return os.path.relpath(target, start)


def create_environment(folder: Path, plan: Plan, progress: Callable[[str], None]) -> None:
    """Make everything below `folder`, which must be empty or missing. Raises: SettingsInvalid."""
    if folder.exists() and any(folder.iterdir()):
        raise SettingsInvalid(f"{folder} is not empty: name a new folder, or remove what is there")
    if plan.database and not is_postgresql(plan.database):
        raise SettingsInvalid("--database takes a postgresql+psycopg:// URL; without it each party keeps a SQLite file")
    folder.mkdir(parents=True, exist_ok=True)
    env = Environment(folder, plan)
    env.pki.mkdir()
    write_certificate(env.pki / CA_FILE, env.root.certificate)
    write_certificate(env.pki / MANUFACTURER_FILE, env.maker)
    readers = (f"{merchant}/reader" for merchant in plan.merchants)
    names = (*plan.banks, plan.tsm, f"{plan.tsm}/mutual", plan.provider, *plan.merchants, *plan.phones, *readers)
    env.addresses = {name: env.address() for name in names}
    references = {}
    for bank in plan.banks:
        references[bank] = _bank(env, bank)
        progress(bank)
    emv_ca = _tsm(env)
    progress(plan.tsm)
    _provider(env, references)
    progress(plan.provider)
    for number, merchant in enumerate(plan.merchants, start=1):
        _merchant(env, merchant, number)
        progress(merchant)
    for phone in plan.phones:
        _phone(env, phone)
        progress(phone)
    _authority(env, emv_ca)
    progress("ca")


def _authority(env: Environment, emv_ca: rsa.PrivateKey) -> None:
    entries = {"ca": env.root.key.to_bytes(), "manufacturer": env.maker_key.to_bytes(), "emv-ca": emv_ca.to_bytes()}
    folder = env.folder / "ca"
    folder.mkdir()
    passphrase = folder / "passphrase"
    passphrase.touch(mode=0o600)
    passphrase.write_text(secrets.token_urlsafe(32) + "\n")
    Keystore.create(folder / "keys.sealed", passphrase.read_bytes().strip(), entries, cost=env.plan.cost)


def _bank(env: Environment, name: str) -> bytes:
    folder = env.folder / name
    (folder / "references").mkdir(parents=True)
    entries = env.keys(name, Role.BANK, Use.SIGN, Use.SEAL, Use.TLS, Use.ISSUE)
    signed = sign_reference_values(
        env.software, env.platform, bank_key=PrivateKey.from_bytes(entries["sign"]), bank_id=name,
        valid_from_s=env.now_s - 60, valid_until_s=env.now_s + YEAR_S, entropy=env.entropy,
    )  # fmt: skip
    (folder / "references" / f"{SOFTWARE}.cose").write_bytes(signed)
    (folder / "platform.list").write_bytes(env.platform.to_bytes())
    settings = {
        "mutual_listen": env.addresses[name],
        "options": {
            "platform_list": "platform.list",
            "references": "references",
            "stops_every_s": env.plan.stops_every_s,
        },
    }
    env.settle(folder, name, Role.BANK, entries, settings)
    return signed


def _tsm(env: Environment) -> rsa.PrivateKey:
    name, plan = env.plan.tsm, env.plan
    folder = env.folder / name
    folder.mkdir()
    ca, private = rsa.generate_key(rsa.CA_BITS), rsa.generate_key(rsa.ISSUER_BITS)
    today = datetime.datetime.fromtimestamp(env.now_s, tz=datetime.UTC).date()
    certificate = certify_issuer(
        ca, private.public, iin=DEFAULT_IIN, expiry=Month.of(today).plus(48), serial=env.entropy.bytes(3),
        entropy=env.entropy,
    )  # fmt: skip
    ca_key = CaKey(rid=RID, index=1, key=ca.public)
    write_ca_key(env.pki, ca_key)
    write_issuer(folder / "emv.cbor", ca_key, certificate)
    entries = env.keys(name, Role.TSM, Use.SIGN, Use.SEAL, Use.TLS) | {
        "cookie": env.entropy.bytes(32),
        "emv-issuer": private.to_bytes(),
        "emv-master": generate_master_key(env.entropy),
    }
    settings = {
        "listen": env.addresses[name],
        "mutual_listen": env.addresses[f"{name}/mutual"],
        "peers": {bank: env.addresses[bank] for bank in plan.banks},
        "options": {"emv": "emv.cbor", "card_uses": 1, "stops_every_s": plan.stops_every_s},
    }
    env.settle(folder, name, Role.TSM, entries, settings)
    return ca


def _provider(env: Environment, references: Mapping[str, bytes]) -> None:
    name = env.plan.provider
    folder = env.folder / name
    (folder / "references").mkdir(parents=True)
    entries = env.keys(name, Role.SP, Use.SIGN, Use.SEAL, Use.TLS)
    for bank, signed in references.items():
        (folder / "references" / f"{bank}.cose").write_bytes(signed)
    (folder / "package.pyz").write_bytes(env.package)
    release = sign_release(
        env.software, sp_key=PrivateKey.from_bytes(entries["sign"]), sp_id=name, valid_from_s=env.now_s - 60,
        valid_until_s=env.now_s + YEAR_S, entropy=env.entropy,
    )  # fmt: skip
    (folder / "release.cose").write_bytes(release)
    options = {
        "software": SOFTWARE, "release": "release.cose", "package": "package.pyz", "references": "references"
    }  # fmt: skip
    env.settle(folder, name, Role.SP, entries, {"listen": env.addresses[name], "options": options})


def _merchant(env: Environment, name: str, number: int) -> None:
    entries = env.keys(name, Role.MERCHANT, Use.SIGN, Use.SEAL, Use.TLS)
    settings = {
        "mutual_listen": env.addresses[name],
        "peers": {env.plan.tsm: env.addresses[f"{env.plan.tsm}/mutual"]},
        "options": {
            "tsm": env.plan.tsm, "merchant_name": f"Shop {number}", "merchant_identifier": f"TAPVEIL{number:08d}",
            "terminal": f"T{number:07d}", "reader": f"grpc:{env.addresses[f'{name}/reader']}",
        },
    }  # fmt: skip
    env.settle(env.folder / name, name, Role.MERCHANT, entries, settings)


def _phone(env: Environment, name: str) -> None:
    """The trusted side (`se/`), the platform it measures, the place of the app, and the wallet's own folder."""
    folder = env.folder / name
    for part in ("platform", "app", "se", "wallet"):
        (folder / part).mkdir(parents=True)
    for path, content in PLATFORM.items():
        (folder / path).write_bytes(content)
    attestation = env.key()
    certificate = issue_attestation_certificate(
        AttestationKey(public=attestation.public, trust_class=TrustClass.SOFTWARE), ca_key=env.maker_key,
        ca_certificate=env.maker, valid_from_s=env.now_s - 60, valid_until_s=env.now_s + 2 * YEAR_S,
        entropy=env.entropy,
    )  # fmt: skip
    (folder / "se" / "attestation.der").write_bytes(certificate)
    entries = env.keys(name, Role.SE, Use.SIGN, Use.TLS) | {"attestation": attestation.to_bytes()}
    options = {
        "software": SOFTWARE, "application": f"../app/{SOFTWARE}.pyz", "attestation_certificate": "attestation.der",
        "platform": {path: f"../{path}" for path in PLATFORM}, "card_keys_ahead": env.plan.card_keys_ahead,
    }  # fmt: skip
    settings = {"mutual_listen": env.addresses[name], "options": options}
    env.settle(folder / "se", name, Role.SE, entries, settings)
    plan = env.plan
    peers = {peer: env.addresses[peer] for peer in (*plan.banks, plan.tsm, plan.provider)}
    wallet = {
        "peers": peers | {name: env.addresses[name]},
        "options": {"software": SOFTWARE, "application": f"../app/{SOFTWARE}.pyz"},
    }
    env.settle(folder / "wallet", name, Role.PHONE, env.keys(name, Role.PHONE, Use.SIGN, Use.TLS), wallet)
