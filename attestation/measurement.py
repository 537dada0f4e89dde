"""The Measurement List (ML) of ATT-D4/D5 and ATT-L4/L5: Linux IMA's ASCII list with the `ima-ng` template.

A line is `10 <SHA-1 of the template data> ima-ng sha256:<file digest> <path>`. The ASCII column always shows SHA-1;
the SHA-256 bank is extended with SHA-256 of the same template data. A list is believed only as far as it replays to a
quoted PCR; the parser makes sure that a list has one reading.

One (path, digest) pair is listed once per boot, as IMA does; a path whose content changed is listed again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from protocol.crypto import sha256
from protocol.errors import EvidenceMalformed, Oversize
from protocol.types import DIGEST_BYTES

PCR_INDEX: Final = 10
"""IMA's PCR. It has no reset but a boot (TCG PC Client PFP, table of PCR attributes)."""
PCR_INITIAL: Final = bytes(DIGEST_BYTES)
VIOLATION: Final = b"\xff" * DIGEST_BYTES
"""What IMA extends when something cannot be measured truthfully; no template data hashes to it."""
MAX_ENTRIES: Final = 256
MAX_PATH: Final = 255
_LINE_OVERHEAD: Final = len(f"10 {'':40} ima-ng sha256:{'':64} \n")
MAX_LIST_BYTES: Final = MAX_ENTRIES * (_LINE_OVERHEAD + MAX_PATH)

_PATH: Final = re.compile(rb"[A-Za-z0-9_/][A-Za-z0-9_./+@-]*")
_LINE: Final = re.compile(rb"10 ([0-9a-f]{40}) ima-ng sha256:([0-9a-f]{64}) ([^ ]+)")


def extend(pcr: bytes, digest: bytes) -> bytes:
    """PCR extension in the SHA-256 bank: PCR_new = SHA-256(PCR_old ‖ digest) (TPM 2.0 Library, Part 1 §17.2)."""
    return sha256(pcr, digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One event: the SHA-256 digest of what is at `path`.

    Raises:
        EvidenceMalformed: the path is empty, over 255 characters or not of IMA-safe ASCII; the digest is not 32 bytes.
    """

    path: str
    digest: bytes

    def __post_init__(self) -> None:
        encoded = self.path.encode(errors="surrogatepass")
        if len(encoded) > MAX_PATH or not _PATH.fullmatch(encoded):
            raise EvidenceMalformed("path of a measurement is not allowed")
        if len(self.digest) != DIGEST_BYTES:
            raise EvidenceMalformed("digest of a measurement is not SHA-256")

    @property
    def template_data(self) -> bytes:
        """Fields d-ng and n-ng, each after its length in four little-endian bytes (Linux, ima_template_lib.c)."""
        digest = b"sha256:\0" + self.digest
        name = self.path.encode() + b"\0"
        return len(digest).to_bytes(4, "little") + digest + len(name).to_bytes(4, "little") + name

    @property
    def template_digest(self) -> bytes:
        """What the SHA-256 bank is extended with."""
        return sha256(self.template_data)

    def to_line(self) -> bytes:
        """The line of `ascii_runtime_measurements`, with its newline."""
        # The ASCII column is SHA-1 whatever the bank is; nothing here relies on its collision resistance.
        column = hashlib.sha1(self.template_data, usedforsecurity=False).hexdigest()
        return f"{PCR_INDEX} {column} ima-ng sha256:{self.digest.hex()} {self.path}\n".encode()

    @classmethod
    def from_line(cls, line: bytes) -> Measurement:
        """Parses a line without its newline.

        Raises: EvidenceMalformed if it is not of the form, or its first column is not SHA-1 of its own template data.
        """
        match = _LINE.fullmatch(line)
        if match is None:
            raise EvidenceMalformed("not a line of an ima-ng list for PCR 10")
        try:
            path = match[3].decode("ascii")
        except UnicodeDecodeError as exc:
            raise EvidenceMalformed("path of a measurement is not allowed") from exc
        measurement = cls(path=path, digest=bytes.fromhex(match[2].decode()))
        if measurement.to_line() != line + b"\n":
            raise EvidenceMalformed("template digest is not that of the line")
        return measurement


@dataclass(frozen=True, slots=True)
class MeasurementList:
    """What was measured since the engine's boot, in order.

    Raises:
        Oversize: over 256 entries.
        EvidenceMalformed: one (path, digest) pair is listed twice.
    """

    entries: tuple[Measurement, ...] = ()

    def __post_init__(self) -> None:
        if len(self.entries) > MAX_ENTRIES:
            raise Oversize(f"{len(self.entries)} measurements, at most {MAX_ENTRIES}")
        if len(set(self.entries)) != len(self.entries):
            raise EvidenceMalformed("one measurement is listed twice")

    @classmethod
    def of(cls, components: Iterable[tuple[str, bytes]]) -> MeasurementList:
        """The list that measuring these (path, content) pairs in order gives. Raises: Oversize, EvidenceMalformed."""
        return cls(tuple(Measurement(path=path, digest=sha256(content)) for path, content in components))

    @classmethod
    def from_bytes(cls, data: bytes) -> MeasurementList:
        """Raises: Oversize, EvidenceMalformed."""
        if len(data) > MAX_LIST_BYTES:
            raise Oversize(f"measurement list of {len(data)} bytes, at most {MAX_LIST_BYTES}")
        *lines, rest = data.split(b"\n")
        if rest:
            raise EvidenceMalformed("last line of the list has no newline")
        if len(lines) > MAX_ENTRIES:
            raise Oversize(f"{len(lines)} measurements, at most {MAX_ENTRIES}")
        return cls(tuple(Measurement.from_line(line) for line in lines))

    def to_bytes(self) -> bytes:
        """The ASCII list."""
        return b"".join(entry.to_line() for entry in self.entries)

    def with_entry(self, entry: Measurement) -> MeasurementList:
        """The list after `entry` was measured: itself if the same was measured before. Raises: Oversize."""
        if entry in self.entries:
            return self
        return MeasurementList((*self.entries, entry))

    def replay(self) -> bytes:
        """The value PCR 10 of the SHA-256 bank has after these events, from zero."""
        pcr = PCR_INITIAL
        for entry in self.entries:
            pcr = extend(pcr, entry.template_digest)
        return pcr
