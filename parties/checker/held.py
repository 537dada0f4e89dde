"""Everything that one party holds after a run, value by value: its rows, its side of the wire, its log.

A party opens what it can: the request and reply of an exchange that it was a side of, which it made or was meant to
read, and what is inside them or in its rows with its own keys alone. What stays shut is a value like another.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from parties.checker.allow_list import DECIDE, AllowList, read_by, sides
from parties.checker.expected import Finding, Parties
from parties.checker.keys import KeyRing, PartyData
from parties.checker.opening import MAX_BYTES, decrypt_any, parts_of
from parties.server.capture import Captured
from parties.storage.database import open_database
from protocol import codec, cose
from protocol.contract import RPCS
from protocol.errors import ProtocolError
from protocol.messages.card import CardKey
from protocol.roles.bank.tables import ACCOUNT_SESSIONS, ANONYMOUS_ACCOUNTS
from protocol.roles.se.tables import ACCOUNTS, OWNERS, SERVICE_KEYS
from protocol.roles.tsm.tables import SERVICES, TID_LIST
from protocol.rows import Table
from protocol.schema import MESSAGES, Many, Nested, Record, Spec
from protocol.types import Role

_CALLS: Final = {rpc.full_name: rpc for rpc in RPCS}
_SHARED: Final[tuple[tuple[Role, Table[Any], str], ...]] = (
    (Role.BANK, ANONYMOUS_ACCOUNTS, "k_aid"), (Role.BANK, ACCOUNT_SESSIONS, "kx"),
    (Role.TSM, SERVICES, "k_tid"), (Role.TSM, TID_LIST, "k_bank"),
    (Role.SE, ACCOUNTS, "kx"), (Role.SE, ACCOUNTS, "k_aid"), (Role.SE, SERVICE_KEYS, "k_tid"),
)  # fmt: skip
_PRIVATE: Final[tuple[tuple[Role, Table[Any], str], ...]] = (
    (Role.SE, OWNERS, "dk_u"), (Role.SE, ACCOUNTS, "dk_aid"), (Role.SE, SERVICE_KEYS, "dk_tid"),
)  # fmt: skip


class Held(NamedTuple):
    """One value: where it stands ("column cards.pan"), its class (empty: on no list), and what else is beside it.

    `document` is one number per row, exchange and line, `inside` the messages around it.
    """

    place: str
    held: str
    value: bytes | str | int
    document: int
    inside: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"Held({self.place})"

    @property
    def name(self) -> str:
        """The place without its kind, as the allow-list has it."""
        return self.place.partition(" ")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estate:
    """What a party left behind: rows, exchanges that it was a side of, log; `seal` is its own private sealing key."""

    name: str
    role: Role
    rows: Mapping[str, tuple[Any, ...]] = field(repr=False)
    exchanges: tuple[Captured, ...] = field(default=(), repr=False)
    seal: bytes = field(default=b"", repr=False)
    log: str = field(default="", repr=False)

    def ring(self) -> KeyRing:
        """Its own keys, and those that it shares."""
        ring = KeyRing()
        ring.open_with(self.seal)
        for role, table, column in _SHARED:
            if role is self.role:
                ring.shared |= {getattr(row, column) for row in self.rows[table.name]} - {b""}
        for role, table, column in _PRIVATE:
            if role is self.role:
                for row in self.rows[table.name]:
                    ring.open_with(getattr(row, column))
        return ring


def estates(parties: Parties, exchanges: Iterable[Captured]) -> list[Estate]:
    """Of all parties, as the checker read them."""
    found = list(exchanges)
    return [
        Estate(
            name=party.name, role=party.role, rows=party.rows, log=_log(party),
            exchanges=tuple(one for one in found if is_side(party.name, party.role, one)),
            seal=party.opened.keystore.entry("seal") if "seal" in party.opened.keystore.names() else b"",
        )
        for party in parties.all
    ]  # fmt: skip


def _log(party: PartyData) -> str:
    path = party.opened.settings.folder / "log.jsonl"
    return path.read_text() if path.is_file() else ""


def is_side(name: str, role: Role, captured: Captured) -> bool:
    """Did this party answer, or ask? A merchant asks under its own name, and there is one TSM; phones keep no copy."""
    if captured.party == name:
        return True
    if role is Role.SE or role not in sides(_CALLS[captured.rpc]):
        return False
    return role is Role.TSM or _issuer(captured.request.cose) == name


def _issuer(data: bytes) -> str:
    try:
        return cose.parse_sign1(data, max_bytes=MAX_BYTES).claims.issuer
    except ProtocolError:
        return ""


def columns_of(url: str) -> frozenset[str]:
    """The columns that a database really has, as "table.column". Raises: StorageFault, SettingsInvalid."""
    database = open_database(url)
    try:
        inspector = sa.inspect(database.readers)
        return frozenset(
            f"{table}.{column['name']}"
            for table in inspector.get_table_names() if table != "alembic_version"
            for column in inspector.get_columns(table)
        )  # fmt: skip
    finally:
        database.close()


def check_columns(party: PartyData, allowed: AllowList) -> Iterator[Finding]:
    """What the party's database has and the allow-list has not. Raises: StorageFault, SettingsInvalid."""
    listed = {f"{table}.{column}" for table, own in allowed.columns[party.role.value].items() for column in own}
    if listed:
        for name in sorted(columns_of(party.opened.settings.database) - listed):
            yield f"{party.name} has a column {name}, which is on no allow-list: {DECIDE}"


# --- value by value --------------------------------------------------------------------------------------------------
@dataclass
class Reader:
    """Reads estates; `everyone` has all keys, for what a side of an exchange wrote or was meant to read."""

    allowed: AllowList
    everyone: KeyRing
    _opened: dict[tuple[bytes, bytes], bytes | None] = field(default_factory=dict)
    _parsed: dict[bytes, tuple[cose.Sign1, dict[str, Any]] | None] = field(default_factory=dict)

    def all_of(self, estate: Estate) -> list[Held]:
        """Every value that this party holds."""
        return list(_Reading(self, estate, estate.ring()).run())

    def outer(self, data: bytes, digest: bytes) -> bytes | None:
        """What an end of the line sees in the envelope; the two ends ask for the same."""
        if (data, digest) not in self._opened:
            self._opened[data, digest] = decrypt_any(data, digest, self.everyone)
        return self._opened[data, digest]

    def parsed(self, data: bytes) -> tuple[cose.Sign1, dict[str, Any]] | None:
        """A signed object and its payload, whoever holds it; None if it is not one."""
        if data not in self._parsed:
            self._parsed[data] = _parsed(data)
        return self._parsed[data]


def _parsed(data: bytes) -> tuple[cose.Sign1, dict[str, Any]] | None:
    try:
        sign1 = cose.parse_sign1(data, max_bytes=MAX_BYTES)
        return sign1, codec.decode(sign1.payload, max_bytes=MAX_BYTES)
    except ProtocolError:
        return None


@dataclass
class _Reading:
    reader: Reader
    estate: Estate
    ring: KeyRing
    document: int = 0
    _kinds: dict[frozenset[str], type[Record]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in sorted(MESSAGES.keys() & read_by(self.estate.role)):
            self._kinds.setdefault(frozenset(MESSAGES[name].specs()), MESSAGES[name])
        self._kinds[frozenset(CardKey.specs())] = CardKey

    @property
    def allowed(self) -> AllowList:
        return self.reader.allowed

    def run(self) -> Iterator[Held]:
        for table, rows in self.estate.rows.items():
            columns = self.allowed.columns[self.estate.role.value].get(table, {})
            for row in rows:
                self.document += 1
                for column in row.__dataclass_fields__:
                    place = self._at(f"column {table}.{column}", columns.get(column, ""))
                    yield from self._value(place._replace(value=getattr(row, column)), b"")
        for captured in self.estate.exchanges:
            self.document += 1
            yield from self._envelope(captured.request.cose, b"")
            yield from self._envelope(captured.reply.cose, captured.request.digest)
            for session in {captured.request.session, captured.reply.session} - {b""}:
                yield self._at("envelope session", self.allowed.envelope["session"], session)
        yield from self._log()

    def _at(self, place: str, held: str, value: bytes | str | int = b"", inside: frozenset[str] = frozenset()) -> Held:
        return Held(place, held, value, self.document, inside)

    def _value(self, one: Held, digest: bytes) -> Iterator[Held]:
        """The value, or what is in it if it can be opened."""
        value = one.value
        if type(value) is bytes and value[:1] in (cose.SIGN1_TAG, cose.ENCRYPT0_TAG):
            inner = list(self._object(value, digest, one.inside))
            yield from inner or [one]
        elif type(value) is bytes and one.held == "object" and (plain := _map(value)) is not None:
            yield from self._plain(plain, digest, one.inside)
        else:
            yield one

    def _envelope(self, data: bytes, digest: bytes) -> Iterator[Held]:
        if data[:1] == cose.ENCRYPT0_TAG:
            plaintext = self.reader.outer(data, digest)
            for part in [] if plaintext is None else parts_of(plaintext):
                yield from self._envelope(part, digest)
            if plaintext is None:
                yield self._at("envelope cose", self.allowed.envelope["cose"], data)
        elif data[:1] == cose.SIGN1_TAG:
            yield from self._object(data, digest, frozenset())
        elif (plain := _map(data)) is not None:
            yield from self._plain(plain, digest, frozenset())
        elif data:
            yield self._at("envelope key", "key", data)

    def _object(self, data: bytes, digest: bytes, inside: frozenset[str]) -> Iterator[Held]:
        """With own keys only; nothing if it can't be opened."""
        if data[:1] == cose.ENCRYPT0_TAG:
            plaintext = decrypt_any(data, digest, self.ring)
            for part in [] if plaintext is None else parts_of(plaintext):
                yield from self._object(part, digest, inside)
            return
        parsed = self.reader.parsed(data)
        if parsed is None:
            return
        sign1, payload = parsed
        around = inside | {sign1.name}
        for name in sign1.claims.__dataclass_fields__:
            held = self.allowed.envelope[name]
            yield self._at(f"envelope {name}", held, getattr(sign1.claims, name), around)
        yield self._at("envelope kid", self.allowed.envelope["kid"], sign1.kid, around)
        yield from self._record(sign1.name, MESSAGES.get(sign1.name), payload, digest, around)

    def _plain(self, plain: dict[str, Any], digest: bytes, inside: frozenset[str]) -> Iterator[Held]:
        """A map without a signature: a part beside a message, or a reply as it was decided."""
        kind = self._kinds.get(frozenset(plain))
        # What is no message is a step's own value, kept until the reply is made of it.
        yield from self._record("kept" if kind is None else kind.NAME, kind, plain, digest, inside)

    def _record(
        self, name: str, kind: type[Record] | None, plain: dict[str, Any], digest: bytes, inside: frozenset[str]
    ) -> Iterator[Held]:
        specs = {} if kind is None else kind.specs()
        listed = self.allowed.messages.get(name, {})
        for key, value in plain.items():
            inner = _nested(specs.get(key))
            if inner is not None:
                for item in value if type(value) is list else [value]:
                    yield from self._record(inner.NAME, inner, item, digest, inside)
            else:
                place = self._at(f"field {name}.{key}", listed.get(key, ""), inside=inside)
                yield from self._leaves(place, value, digest)

    def _leaves(self, place: Held, value: Any, digest: bytes) -> Iterator[Held]:
        if isinstance(value, list | dict):
            for item in value if isinstance(value, list) else value.values():
                yield from self._leaves(place, item, digest)
        else:
            yield from self._value(place._replace(value=value), digest)

    def _log(self) -> Iterator[Held]:
        for line in self.estate.log.splitlines():
            self.document += 1
            entry = _line(line)
            if entry is None:
                yield self._at("log line", "", line)
                continue
            for name, value in entry.items():
                yield self._at(f"log {name}", self.allowed.logs.get(name, ""), value)
            if entry.get("event") not in self.allowed.events:
                yield self._at("log event", "", str(entry.get("event")))


def _nested(spec: Spec | None) -> type[Record] | None:
    if isinstance(spec, Many):
        return _nested(spec.item)
    return spec.record if isinstance(spec, Nested) else None


def _map(data: bytes) -> dict[str, Any] | None:
    try:
        plain = codec.decode(data, max_bytes=MAX_BYTES)
    except ProtocolError:
        return None
    return plain if type(plain) is dict and all(type(key) is str for key in plain) else None


def _line(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if type(entry) is dict else None
