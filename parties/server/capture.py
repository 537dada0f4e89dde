"""A copy of every envelope that a party answers, for a checker. Only on when the settings say so."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from protocol import codec
from protocol.envelope import Wire
from protocol.errors import SettingsInvalid

MAX_RECORD_BYTES: Final = 16 * 1024 * 1024
_LENGTH_BYTES: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """One exchange: who answered which RPC, when (Unix ms), what was asked, what came back: a reply or a code."""

    party: str
    rpc: str
    at_ms: int
    request: Wire
    reply: Wire
    code: str

    def to_bytes(self) -> bytes:
        """Deterministic CBOR."""
        return codec.encode(
            [
                self.party, self.rpc, self.at_ms, self.request.cose, self.request.session, self.reply.cose,
                self.reply.session, self.code,
            ]
        )  # fmt: skip

    @classmethod
    def from_bytes(cls, data: bytes) -> Captured:
        """Raises: Malformed."""
        party, rpc, at_ms, cose, session, reply, reply_session, code = codec.decode(data, max_bytes=MAX_RECORD_BYTES)
        return cls(
            party=party, rpc=rpc, at_ms=at_ms, request=Wire(cose=cose, session=session),
            reply=Wire(cose=reply, session=reply_session), code=code,
        )  # fmt: skip


def _private(path: str, flags: int) -> int:
    """A capture links what a log must not: only its owner may read it."""
    return os.open(path, flags, 0o600)


class Capture:
    """An append-only file of length-prefixed records."""

    def __init__(self, path: Path) -> None:
        """Raises: SettingsInvalid."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: a record is one write, so that those of several workers do not mingle.
            self._file = open(path, "ab", buffering=0, opener=_private)  # noqa: SIM115  # Path.open takes no opener
        except OSError as exc:
            raise SettingsInvalid(f"capture {path} can't be written: {exc.strerror}") from exc
        self._lock = threading.Lock()

    def add(self, captured: Captured) -> None:
        """Append one exchange, whole."""
        data = captured.to_bytes()
        with self._lock:
            self._file.write(len(data).to_bytes(_LENGTH_BYTES) + data)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_capture(path: Path) -> Iterator[Captured]:
    """The exchanges of a capture file in order; a half-written last record is left out."""
    data = path.read_bytes() if path.is_file() else b""
    start = 0
    while start + _LENGTH_BYTES <= len(data):
        size = int.from_bytes(data[start : start + _LENGTH_BYTES])
        start += _LENGTH_BYTES + size
        if start <= len(data):
            yield Captured.from_bytes(data[start - size : start])
