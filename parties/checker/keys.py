"""Every key of an environment, so that a checker can open what the parties can. For runs in one folder only."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parties.assembly.common import Opened
from parties.deployment import Deployment
from parties.directory import FileDirectory
from parties.storage.roles import TABLES
from parties.system import SystemClock
from protocol import cose, envelope
from protocol.crypto import PrivateKey, PublicKey
from protocol.engine import EVIDENCE
from protocol.errors import ProtocolError
from protocol.messages.merchant import SignOn
from protocol.pki import Use
from protocol.roles.bank.tables import ACCOUNT_SESSIONS, ANONYMOUS_ACCOUNTS, PHONES
from protocol.roles.se.tables import ACCOUNTS, OWNERS, SERVICE_KEYS
from protocol.roles.tsm.tables import SERVICES, TERMINALS, TID_LIST
from protocol.rows import Table
from protocol.types import Role


@dataclass(frozen=True)
class PartyData:
    """One party as it was left: who it is, and all its rows."""

    name: str
    role: Role
    opened: Opened
    rows: dict[str, tuple[Any, ...]]

    def of(self, table: Table[Any]) -> tuple[Any, ...]:
        """All rows of a table."""
        return self.rows[table.name]


@dataclass
class KeyRing:
    """Private keys that open, shared keys that decrypt, public keys that verify; each with whose it is."""

    private: list[PrivateKey] = field(default_factory=list)
    shared: set[bytes] = field(default_factory=set)
    public: dict[bytes, tuple[str, PublicKey]] = field(default_factory=dict)

    def trust(self, owner: str, encoded: bytes) -> None:
        """Believe signatures of this key to be `owner`'s."""
        key = PublicKey.from_bytes(encoded)
        self.public[key.thumbprint] = (owner, key)

    def open_with(self, scalar: bytes) -> None:
        """Try this private key on sealed messages."""
        if scalar:
            self.private.append(PrivateKey.from_bytes(scalar))


def read_parties(folder: Path) -> list[PartyData]:
    """Every party's database, read with its own keystore. The parties should be stopped."""
    deployment, found = Deployment(folder), []
    for name in deployment.parties():
        from parties.settings import load_settings

        opened = Opened.of(load_settings(deployment.settings(name)))
        rows: dict[str, tuple[Any, ...]] = {}
        if opened.settings.role.value in TABLES:
            store = opened.store()
            rows = {table.name: store.scan(table) for table in TABLES[opened.settings.role.value]}
            store.close()
        found.append(PartyData(opened.settings.name, opened.settings.role, opened, rows))
    return found


def key_ring(folder: Path, parties: list[PartyData]) -> KeyRing:
    """All keys in certificates, keystores and databases."""
    ring = KeyRing()
    directory = FileDirectory(folder / "pki", SystemClock())
    for path in sorted((folder / "pki").glob(f"*.{Use.SIGN.value}.pem")):
        identity = directory.read(path, Use.SIGN)
        ring.trust(identity.role.value, identity.key.encoded)
    for party in parties:
        if "seal" in party.opened.keystore.names():
            ring.open_with(party.opened.keystore.entry("seal"))
        _FROM_ROWS.get(party.role, lambda _ring, _party: None)(ring, party)
    return ring


def _bank(ring: KeyRing, party: PartyData) -> None:
    for phone in party.of(PHONES):
        ring.trust("user", phone.pk_u)
    for account in party.of(ANONYMOUS_ACCOUNTS):
        ring.trust("AID", account.pk_aid)
        ring.shared.add(account.k_aid)
    ring.shared |= {session.kx for session in party.of(ACCOUNT_SESSIONS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownTerminal:
    """A terminal, whose it is, and a key that it has or had."""

    merchant: str
    terminal: str
    key: PublicKey


def terminal_keys(tsm: PartyData) -> dict[bytes, KnownTerminal]:
    """By thumbprint: keys that are registered, and those that were, as merchants' signed sign-ons tell."""
    found = []
    for row in tsm.of(TERMINALS):
        found.append((row.merchant, row.terminal, row.terminal_key))
    for kept in tsm.of(EVIDENCE):
        if kept.message == SignOn.NAME:
            found.extend(_signed_on(tsm, kept.signed))
    keys = ((merchant, terminal, PublicKey.from_bytes(encoded)) for merchant, terminal, encoded in found)
    return {
        key.thumbprint: KnownTerminal(merchant=merchant, terminal=terminal, key=key) for merchant, terminal, key in keys
    }


def _signed_on(tsm: PartyData, signed: bytes) -> list[tuple[str, str, bytes]]:
    try:
        sign1 = envelope.peek(SignOn, signed)
        merchant = tsm.opened.directory.by_thumbprint(sign1.kid)
        message = SignOn.from_bytes(cose.verify(sign1, merchant.key, name=SignOn.NAME).payload)
    except ProtocolError:
        return []
    return [(merchant.name, message.terminal, message.terminal_key)]


def _tsm(ring: KeyRing, party: PartyData) -> None:
    for known in terminal_keys(party).values():
        ring.trust("terminal", known.key.encoded)
    for service in party.of(SERVICES):
        ring.trust("TID", service.pk_tid)
        ring.shared.add(service.k_tid)
    ring.shared |= {entry.k_bank for entry in party.of(TID_LIST)}


def _se(ring: KeyRing, party: PartyData) -> None:
    for owner in party.of(OWNERS):
        ring.open_with(owner.dk_u)
        ring.trust("user", PrivateKey.from_bytes(owner.sk_u).public.encoded)
    for account in party.of(ACCOUNTS):
        ring.open_with(account.dk_aid)
        ring.shared |= {account.kx, account.k_aid} - {b""}
        if account.sk_aid:
            ring.trust("AID", PrivateKey.from_bytes(account.sk_aid).public.encoded)
    for service in party.of(SERVICE_KEYS):
        ring.open_with(service.dk_tid)
        ring.shared |= {service.k_tid} - {b""}
        ring.trust("TID", PrivateKey.from_bytes(service.sk_tid).public.encoded)


_FROM_ROWS = {Role.BANK: _bank, Role.TSM: _tsm, Role.SE: _se}
