"""Which party may hold what: every column, message field and log field has a class, every role the classes it may hold.

`knowledge.toml` is the list. What is declared in the tables, in the contract and in calls of the log is held against it
here, so that a new column, field or log key is a finding until somebody decides about it there (design §3, §5).
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.resources import files
from typing import Any, Final, TypeAlias

from parties.checker.expected import Finding
from parties.server.logs import FIELDS
from parties.storage.roles import TABLES
from protocol.contract import RPCS, Key, Rpc
from protocol.cose import Claims
from protocol.envelope import Wire
from protocol.messages.card import CardKey
from protocol.schema import MESSAGES, Many, Nested, Record, Spec
from protocol.types import Role

LIST: Final = "parties/checker/knowledge.toml"
DECIDE: Final = f"decide about it in {LIST}"
ROLES: Final = (Role.BANK, Role.TSM, Role.MERCHANT, Role.SE, Role.SP)
"""The wallet counts as its SE: both are the user's."""
_SERVES: Final = {
    "Bank": Role.BANK, "Tsm": Role.TSM, "Merchant": Role.MERCHANT, "SecureElement": Role.SE, "SoftwareProvider": Role.SP
}  # fmt: skip
_CALLS: Final = {Key.TSM: Role.TSM, Key.MERCHANT: Role.MERCHANT, Key.TERMINAL: Role.MERCHANT}
"""Whose key signs a request makes it; what is signed with no institution's key comes from a phone."""
UNDECLARED: Final = frozenset({"reference-values", "release", "kept"})
"""Maps of attestation, and values that steps keep to make a reply of."""
_LABEL: Final = re.compile(r'[{,](\w+)="')
_LEVELS: Final = frozenset({"debug", "info", "warning", "error"})

Classes: TypeAlias = Mapping[str, str]
"""Name of a column or field → its class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exemption:
    """Beyond a role's classes: columns, or a message, with those that the role opens nowhere but inside it."""

    role: str
    columns: frozenset[str]
    inside: str
    carries: frozenset[str]
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowList:
    """The list as read: classes with what they mean, what each role may hold, and every name with its class."""

    classes: Mapping[str, str]
    holds: Mapping[str, frozenset[str]]
    opens: Mapping[str, frozenset[str]]
    columns: Mapping[str, Mapping[str, Classes]]
    messages: Mapping[str, Classes]
    logs: Classes
    events: frozenset[str]
    envelope: Classes
    headers: Classes
    labels: Classes
    exceptions: tuple[Exemption, ...]

    def excepted(self, role: str) -> frozenset[str]:
        """The columns that are exceptions for this role, and the messages that are, whole."""
        mine = [one for one in self.exceptions if one.role == role]
        return frozenset(name for one in mine for name in (*one.columns, one.inside) if name)


def read_allow_list(plain: Mapping[str, Any]) -> AllowList:
    """The list from its TOML. Raises: ValueError for a class that is not in the vocabulary, or a name with two."""
    vocabulary = plain["classes"]
    every = {table: _classes(table, groups, vocabulary) for table, groups in plain["every"]["columns"].items()}
    listed = {role: plain.get(role, {}).get("columns", {}) for role in ROLES}
    columns = {
        role.value: ({} if role is Role.SP else every)
        | {table: _classes(table, groups, vocabulary) for table, groups in tables.items()}
        for role, tables in listed.items()
    }
    logs = dict(plain["logs"])
    events = frozenset(logs.pop("events"))
    return AllowList(
        classes=vocabulary, holds={role: frozenset(text.split()) for role, text in plain["holds"].items()},
        opens={role: frozenset(text.split()) for role, text in plain["opens"].items()}, columns=columns,
        messages={name: _classes(name, groups, vocabulary) for name, groups in plain["messages"].items()},
        logs=_classes("logs", logs, vocabulary), events=events,
        envelope=_classes("envelope", plain["envelope"], vocabulary),
        headers=_classes("headers", plain["headers"], vocabulary),
        labels=_classes("labels", plain["labels"], vocabulary),
        exceptions=tuple(
            Exemption(
                role=one["role"], columns=frozenset(one.get("columns", "").split()), inside=one.get("inside", ""),
                carries=frozenset(one.get("carries", "").split()), why=one["why"],
            )
            for one in plain["exceptions"]
        ),
    )  # fmt: skip


@cache
def allow_list() -> AllowList:
    """The one that is shipped."""
    return read_allow_list(tomllib.loads((files("parties") / "checker" / "knowledge.toml").read_text()))


def _classes(where: str, groups: Mapping[str, str], vocabulary: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for held, names in groups.items():
        if held not in vocabulary:
            raise ValueError(f"{held}, of {where}, is no class")
        for name in names.split():
            if name in found:
                raise ValueError(f"{where}.{name} has two classes")
            found[name] = held
    return found


# --- what is declared ------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What the code declares: columns by role and table, fields by record, fields and events of logs, the envelope."""

    columns: Mapping[str, Mapping[str, frozenset[str]]]
    records: Mapping[str, frozenset[str]]
    reads: Mapping[str, frozenset[str]]
    logs: frozenset[str]
    envelope: frozenset[str]

    def with_row(self, role: Role, table: str, row: type[Any]) -> Declared:
        """The same with another table, or other rows in one."""
        tables = {**self.columns[role.value], table: _columns(row)}
        return replace(self, columns={**self.columns, role.value: tables})

    def with_record(self, record: type[Record]) -> Declared:
        """The same with another record, or another version of one."""
        return replace(self, records={**self.records, record.NAME: _fields(record)})


def declared() -> Declared:
    """As the code is."""
    records = {name: _fields(record) for name, record in _records((*MESSAGES.values(), CardKey)).items()}
    return Declared(
        columns={
            role.value: {table.name: _columns(table.row) for table in TABLES.get(role, ())} for role in ROLES
        },
        records=records, reads={role.value: read_by(role) for role in ROLES}, logs=FIELDS,
        envelope=frozenset(one.name for kind in (Wire, Claims) for one in fields(kind)) | {"kid"},
    )  # fmt: skip


def _columns(row: type[Any]) -> frozenset[str]:
    return frozenset(one.name for one in fields(row))


def _fields(record: type[Record]) -> frozenset[str]:
    """Its own values; the records inside it have names of their own."""
    return frozenset(name for name, spec in record.specs().items() if _nested(spec) is None)


def _nested(spec: Spec) -> type[Record] | None:
    if isinstance(spec, Many):
        return _nested(spec.item)
    return spec.record if isinstance(spec, Nested) else None


def _records(roots: Iterable[type[Record]]) -> dict[str, type[Record]]:
    """By name: these and all records inside them."""
    found: dict[str, type[Record]] = {}
    waiting = list(roots)
    while waiting:
        record = waiting.pop()
        if record.NAME not in found:
            found[record.NAME] = record
            waiting += [inner for spec in record.specs().values() if (inner := _nested(spec)) is not None]
    return found


def sides(rpc: Rpc) -> frozenset[Role]:
    """Who reads request and reply: who serves the call, and who makes it."""
    return frozenset({_SERVES[rpc.service], _CALLS.get(rpc.request_signer, Role.SE)})


def read_by(role: Role) -> frozenset[str]:
    """The records that a role reads: of its own calls, and what the list says it opens besides."""
    own = {message.NAME for rpc in RPCS if role in sides(rpc) for message in (rpc.request, rpc.reply)}
    opened = own | allow_list().opens[role.value]
    known = {**MESSAGES, CardKey.NAME: CardKey}
    return frozenset(_records(known[name] for name in opened if name in known)) | opened


# --- declared, and not decided ---------------------------------------------------------------------------------------
def undecided(found: Declared, allowed: AllowList) -> Iterator[Finding]:
    """What is declared and not listed, listed and not declared, or of a class that its holder must not hold."""
    for role, tables in found.columns.items():
        names = {f"{table}.{column}" for table, columns in tables.items() for column in columns}
        listed = {f"{t}.{c}": held for t, classes in allowed.columns[role].items() for c, held in classes.items()}
        yield from _compare(f"{role}: column", names, listed)
        for name, held in listed.items():
            if held not in allowed.holds[role] and name not in allowed.excepted(role):
                yield f"{role}: column {name} holds what a {role} must not: {held}"
    names = {f"{record}.{field}" for record, own in found.records.items() for field in own}
    listed = {f"{r}.{f}": held for r, classes in allowed.messages.items() for f, held in classes.items()}
    yield from _compare("field", names, {name: held for name, held in listed.items() if _is_own(name, found)})
    yield from _misplaced(found, allowed)
    yield from _compare("log field", set(found.logs), allowed.logs)
    yield from _compare("envelope field", set(found.envelope), allowed.envelope)


def _is_own(field: str, found: Declared) -> bool:
    """Has it a schema in the contract? What has none is judged as it is found."""
    return field.partition(".")[0] not in UNDECLARED - found.records.keys()


def _compare(what: str, names: set[str], listed: Classes) -> Iterator[Finding]:
    for name in sorted(names - listed.keys()):
        yield f"{what} {name} is on no allow-list: {DECIDE}"
    for name in sorted(listed.keys() - names):
        yield f"{what} {name} is on the allow-list, and there is none: strike it from {LIST}"


def _misplaced(found: Declared, allowed: AllowList) -> Iterator[Finding]:
    """Messages that a role reads although it must not hold what is in them, and messages that nobody reads."""
    for role, names in found.reads.items():
        excepted = _inside(role, allowed)
        for record in sorted(names - excepted):
            for field, held in allowed.messages.get(record, {}).items():
                if held not in allowed.holds[role]:
                    yield f"{role}: field {record}.{field} holds what a {role} must not: {held}"
    for record in sorted(found.records.keys() - set().union(*found.reads.values())):
        yield f"{record} is read by nobody: {DECIDE}"


def _inside(role: str, allowed: AllowList) -> set[str]:
    """The messages that are exceptions for this role, with the records of those that only travel in one."""
    found: set[str] = set()
    for one in allowed.exceptions:
        if one.role == role and one.inside:
            found |= {one.inside, *_records(MESSAGES[name] for name in one.carries)}
    return found


# --- logs, metrics ---------------------------------------------------------------------------------------------------
def undecided_logs(sources: Iterable[tuple[str, str]], allowed: AllowList) -> Iterator[Finding]:
    """Calls of the log, in sources by name, with an event or a field that is not on the list."""
    for name, text in sources:
        for call in ast.walk(ast.parse(text)):
            if not isinstance(call, ast.Call) or not _is_log(call.func):
                continue
            event = call.args[0] if len(call.args) == 1 else None
            if not isinstance(event, ast.Constant) or event.value not in allowed.events:
                yield f"{name}:{call.lineno} logs an event that is on no allow-list: {DECIDE}"
            for keyword in call.keywords:
                if keyword.arg not in allowed.logs:
                    yield f"{name}:{call.lineno} logs {keyword.arg}, which is on no allow-list: {DECIDE}"


def _is_log(called: ast.expr) -> bool:
    return (
        isinstance(called, ast.Attribute) and called.attr in _LEVELS
        and isinstance(called.value, ast.Name) and called.value.id == "log"
    )  # fmt: skip


def undecided_labels(sources: Iterable[tuple[str, str]], allowed: AllowList) -> Iterator[Finding]:
    """Labels of metrics, as sources write them, that are not on the list."""
    for name, text in sources:
        for number, line in enumerate(text.splitlines(), 1):
            for label in _LABEL.findall(line) if "tapveil_" in line else ():
                if label not in allowed.labels:
                    yield f"{name}:{number} has a metric with {label}, which is on no allow-list: {DECIDE}"
