"""The wallet's journal: each request is on disk before it is sent, each answer before it is used.

A flow that was cut off is run again from its start; finished calls are answered from the journal, and the one that was
under way is sent again as the very same bytes, so that the receiver answers it as it did before (design §2).
Entries are sealed: a command to the SE may carry a passcode, which the app must not store readably (TW-S13).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from parties.storage.sealing import SealBroken, seal, unseal
from protocol import codec
from protocol.engine import NOT_AN_ANSWER, Peers
from protocol.envelope import Wire
from protocol.errors import ProtocolError, StorageFault
from protocol.roles.wallet import Call, Exchanged, Flow
from protocol.roles.wallet.session import SECURE_ELEMENT

T = TypeVar("T")
MAX_ENTRY_BYTES: Final = 16 * 1024 * 1024
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS exchanges (
    flow TEXT NOT NULL, step INTEGER NOT NULL, request BLOB NOT NULL, reply BLOB, PRIMARY KEY (flow, step)
) STRICT
"""


class Journal:
    """Exchanges of unfinished flows, by flow and step."""

    def __init__(self, path: Path, key: bytes) -> None:
        try:
            path.touch(mode=0o600)
            self._db = sqlite3.connect(path, isolation_level=None)
            for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", _SCHEMA):
                self._db.execute(statement)
        except (sqlite3.Error, OSError) as exc:
            raise StorageFault(f"the wallet's journal {path} can't be written: check disk and rights") from exc
        self._key = key

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def request(self, flow: str, step: int) -> Wire | None:
        """What was made to be sent at this step."""
        return self._get("request", flow, step)

    def reply(self, flow: str, step: int) -> Wire | None:
        """What came back at this step."""
        return self._get("reply", flow, step)

    def put_request(self, flow: str, step: int, wire: Wire) -> None:
        """On disk before it is sent. Raises: StorageFault."""
        self._run("INSERT INTO exchanges (flow, step, request) VALUES (?, ?, ?)", flow, step, self._seal(wire))

    def put_reply(self, flow: str, step: int, wire: Wire) -> None:
        """On disk before it is used. Raises: StorageFault."""
        self._run("UPDATE exchanges SET reply = ?3 WHERE flow = ?1 AND step = ?2", flow, step, self._seal(wire))

    def forget(self, flow: str) -> None:
        """The flow is over. Raises: StorageFault."""
        self._run("DELETE FROM exchanges WHERE flow = ?", flow)

    def unfinished(self) -> tuple[str, ...]:
        """Names of flows that were cut off."""
        return tuple(row[0] for row in self._db.execute("SELECT DISTINCT flow FROM exchanges ORDER BY flow"))

    def _run(self, statement: str, *values: object) -> None:
        try:
            self._db.execute(statement, values)
        except sqlite3.Error as exc:
            raise StorageFault("the wallet's journal can't be written: check the disk") from exc

    def _get(self, column: str, flow: str, step: int) -> Wire | None:
        statement = f"SELECT {column} FROM exchanges WHERE flow = ? AND step = ?"  # noqa: S608  # one of two constants
        row = self._db.execute(statement, (flow, step)).fetchone()
        if row is None or row[0] is None:
            return None
        try:
            cose, session = codec.decode(unseal(self._key, row[0], b"journal"), max_bytes=MAX_ENTRY_BYTES)
        except (SealBroken, ProtocolError) as exc:
            raise StorageFault("an entry of the wallet's journal does not open: remove the journal") from exc
        return Wire(cose=cose, session=session)

    def _seal(self, wire: Wire) -> bytes:
        return seal(self._key, codec.encode([wire.cose, wire.session]), b"journal")


def drive(flow: Flow[T], name: str, journal: Journal, channels: Peers, *, secure_element: str) -> T:
    """Run a flow to its end. Raises: the refusal that ended it; Unavailable: it can be taken up again."""
    try:
        result = _play(flow, lambda step, call: _exchange(call, name, step, journal, channels, secure_element))
    except ProtocolError as refusal:
        if refusal.status not in NOT_AN_ANSWER:
            journal.forget(name)  # refused: nothing is under way any more
        raise
    journal.forget(name)
    return result


def relay(flow: Flow[T], channels: Peers, *, secure_element: str) -> T:
    """Run a flow of which nothing is kept: it is about this moment, or holds a PIN (TW-S13).

    An answer that was lost is asked for once more, by the same bytes, so that a PIN's entry counts once.
    Raises: the refusal that ended it; Unavailable, after which it can't be taken up again.
    """

    def exchange(_step: int, call: Call) -> Exchanged:
        peer = _peer(call, secure_element)
        try:
            reply = channels.call(peer, call.rpc, call.wire)
        except ProtocolError as refusal:
            if refusal.status not in NOT_AN_ANSWER:
                raise
            reply = channels.call(peer, call.rpc, call.wire)
        return Exchanged(sent=call.wire, reply=reply)

    return _play(flow, exchange)


def _play(flow: Flow[T], exchange: Callable[[int, Call], Exchanged]) -> T:
    step = 0
    try:
        call = next(flow)
        while True:
            exchanged = exchange(step, call)
            step += 1
            call = flow.send(exchanged)
    except StopIteration as done:
        result: T = done.value
        return result


def _peer(call: Call, secure_element: str) -> str:
    return secure_element if call.peer == SECURE_ELEMENT else call.peer


def _exchange(call: Call, name: str, step: int, journal: Journal, channels: Peers, secure_element: str) -> Exchanged:
    sent = journal.request(name, step)
    if sent is None:
        sent = call.wire
        journal.put_request(name, step, sent)
    reply = journal.reply(name, step)
    if reply is None:
        reply = channels.call(_peer(call, secure_element), call.rpc, sent)
        journal.put_reply(name, step, reply)
    return Exchanged(sent=sent, reply=reply)
