"""The log of traces: hash-chained, each link signed by the bank, and only ever longer (design §3 TRACE).

A link is made in the unit of what it tells, so that neither is there without the other. It is signed there too: its
number and the link before it are known only then, and a trace is rare.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from protocol import envelope
from protocol.crypto import PublicKey, same, sha256
from protocol.envelope import OBJECT_LIFETIME_S, Stamp
from protocol.errors import LogBroken, ProtocolError, UnknownKey
from protocol.messages.trace import AuditEntry, AuditKind
from protocol.ports import Entropy
from protocol.roles.bank.party import Bank
from protocol.roles.bank.tables import AUDIT_HEADS, AUDIT_LOG, AuditHead, AuditRow
from protocol.rows import Insert, Key, Read, Rows, Update, Write
from protocol.schema import MAX_OBJECT, Bytes, Identifier, Many, Record
from protocol.types import DIGEST_BYTES, HANDLE_BYTES

LOG: Final = "trace"
NO_CASE: Final = bytes(HANDLE_BYTES)
"""The case of what is not about one."""
MAX_ENTRIES: Final = 100_000
MAX_ENTRY: Final = 1024
MAX_KEYS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """What is to be logged: as in `AuditEntry`, but for its place in the chain."""

    kind: AuditKind
    who: str
    message_digest: bytes
    case: bytes = NO_CASE
    code: str = ""


def log_reads() -> tuple[Read, ...]:
    """What `append` looks at."""
    return (Key(AUDIT_HEADS, (LOG,)),)


def append(bank: Bank, rows: Rows, logged: Sequence[Logged], now_s: int, entropy: Entropy) -> tuple[Write, ...]:
    """The next links. Two units at once meet at the head's row, and at the number: one of them is decided again."""
    known = rows.get(AUDIT_HEADS, LOG)
    head = known or AuditHead(log=LOG, number=-1, digest=b"")
    writes: list[Write] = []
    for one in logged:
        entry = AuditEntry(
            number=head.number + 1, before=head.digest, kind=one.kind, case=one.case, who=one.who,
            message_digest=one.message_digest, code=one.code, at_s=now_s,
        )  # fmt: skip
        signed = envelope.sign(
            bank.keys.signer, entry, audience=bank.keys.name, stamp=Stamp.fresh(now_s, entropy),
            lifetime_s=OBJECT_LIFETIME_S,
        )  # fmt: skip
        head = AuditHead(log=LOG, number=entry.number, digest=sha256(signed))
        writes.append(Insert(AUDIT_LOG, AuditRow(number=head.number, signed=signed, digest=head.digest)))
    writes.append(Insert(AUDIT_HEADS, head) if known is None else Update(AUDIT_HEADS, head))
    return tuple(writes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A link that somebody remembers: with it, nobody can cut the log behind their back."""

    number: int
    digest: bytes

    @classmethod
    def parse(cls, text: str) -> Head:
        """NUMBER:DIGEST, as `str` gives it. Raises: LogBroken."""
        number, _, digest = text.partition(":")
        try:
            head = cls(number=int(number), digest=bytes.fromhex(digest))
        except ValueError as exc:
            raise LogBroken("a head is NUMBER:DIGEST in hexadecimal digits") from exc
        if head.number < 0 or len(head.digest) != DIGEST_BYTES:
            raise LogBroken("a head is NUMBER:DIGEST in hexadecimal digits")
        return head

    def __str__(self) -> str:
        return f"{self.number}:{self.digest.hex()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedLog:
    """A whole log: its entries in order, and the head to remember; None when it is empty."""

    entries: tuple[AuditEntry, ...]
    head: Head | None

    @property
    def counts(self) -> dict[str, int]:
        """Kind → how many."""
        found = Counter(entry.kind for entry in self.entries)
        return {kind.value: found[kind] for kind in AuditKind}


def verify_log(
    signed: Iterable[bytes], *, bank: str, keys: Iterable[PublicKey], remembered: Head | None = None
) -> VerifiedLog:
    """Every link is signed by `bank` with one of its `keys`, has its number, and names the one before.

    A bank renews its key, and the log goes on under the new one. Raises: LogBroken.
    """
    by_kid = {key.thumbprint: key for key in keys}
    entries: list[AuditEntry] = []
    heads: list[bytes] = []
    for number, link in enumerate(signed):
        entry = _open(link, number, bank, by_kid)
        if (entry.number, entry.before) != (number, heads[-1] if heads else b""):
            raise LogBroken(f"entry {number} does not follow the one before")
        entries.append(entry)
        heads.append(sha256(link))
    if remembered is not None and not (
        remembered.number < len(heads) and same(heads[remembered.number], remembered.digest)
    ):
        raise LogBroken(f"entry {remembered.number} is not the one that is remembered")
    head = Head(number=len(heads) - 1, digest=heads[-1]) if heads else None
    return VerifiedLog(entries=tuple(entries), head=head)


def _open(link: bytes, number: int, bank: str, by_kid: Mapping[bytes, PublicKey]) -> AuditEntry:
    try:
        sign1 = envelope.peek(AuditEntry, link)
        if sign1.kid not in by_kid:
            raise UnknownKey
        return envelope.believe(
            AuditEntry, sign1, by_kid[sign1.kid], issuer=bank, audience=bank, now_s=sign1.claims.issued_at_s,
            max_lifetime_s=OBJECT_LIFETIME_S,
        ).message  # fmt: skip
    except ProtocolError as exc:
        raise LogBroken(f"entry {number}: {exc.code}") from exc


def verify_rows(
    rows: Sequence[AuditRow], heads: Sequence[AuditHead], *, bank: str, keys: Iterable[PublicKey],
    remembered: Head | None = None,
) -> VerifiedLog:  # fmt: skip
    """The bank's own tables hold one whole log. Raises: LogBroken."""
    verified = verify_log((row.signed for row in rows), bank=bank, keys=keys, remembered=remembered)
    kept = tuple(Head(number=head.number, digest=head.digest) for head in heads)
    if kept != (() if verified.head is None else (verified.head,)):
        raise LogBroken("the log does not end where its head is")
    for number, row in enumerate(rows):
        if row.number != number or not same(row.digest, sha256(row.signed)):
            raise LogBroken(f"entry {number} is kept under another number or digest")
    return verified


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditExport(Record):
    """The log as a file: whose it is, the certificates of the keys that signed it, and its links."""

    NAME: ClassVar[str] = "audit-export"
    MAX_BYTES: ClassVar[int] = MAX_ENTRIES * MAX_ENTRY
    bank: Identifier
    certificates: Annotated[tuple[bytes, ...], Many(Bytes(1, MAX_OBJECT), 1, MAX_KEYS)]
    entries: Annotated[tuple[bytes, ...], Many(Bytes(1, MAX_ENTRY), 0, MAX_ENTRIES)]
