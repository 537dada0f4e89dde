"""Command and response APDUs, short form only (ISO/IEC 7816-4 §5.1; EMV Book 3 §6.3)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from protocol.errors import CardDataInvalid

MAX_DATA_BYTES: Final = 255
MAX_COMMAND_BYTES: Final = 5 + MAX_DATA_BYTES + 1
MAX_RESPONSE_BYTES: Final = 256 + 2
HEADER_BYTES: Final = 4


class Ins(IntEnum):
    """Instruction bytes of EMV (Book 3 Table 4; Book 1 §11)."""

    VERIFY = 0x20
    EXTERNAL_AUTHENTICATE = 0x82
    INTERNAL_AUTHENTICATE = 0x88
    GET_PROCESSING_OPTIONS = 0xA8
    GENERATE_AC = 0xAE
    SELECT = 0xA4
    READ_RECORD = 0xB2
    GET_DATA = 0xCA


class Sw(IntEnum):
    """Status words SW1 SW2 (ISO/IEC 7816-4 §5.1.3; EMV Book 3 §6.3.5)."""

    OK = 0x9000
    WRONG_LENGTH = 0x6700
    AUTHENTICATION_BLOCKED = 0x6983
    CONDITIONS_NOT_SATISFIED = 0x6985
    SEE_PHONE = 0x6986
    """ "Command not allowed": contactless kernels take it, in answer to GET PROCESSING OPTIONS, for a word to look at
    the phone and tap again (EMV Contactless Book C-3 §5.2.2.2)."""
    WRONG_DATA = 0x6A80
    FILE_NOT_FOUND = 0x6A82
    RECORD_NOT_FOUND = 0x6A83
    WRONG_PARAMETERS = 0x6A86
    REFERENCED_DATA_NOT_FOUND = 0x6A88
    INSTRUCTION_NOT_SUPPORTED = 0x6D00
    CLASS_NOT_SUPPORTED = 0x6E00
    NO_DIAGNOSIS = 0x6F00


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command. `le` is the number of bytes wanted, 256 for Le = 00, None where no data is."""

    cla: int
    ins: int
    p1: int
    p2: int
    data: bytes = b""
    le: int | None = None

    @classmethod
    def from_bytes(cls, raw: bytes) -> Command:
        """Parse cases 1 to 4, short. Extended lengths and anything over or under are refused: CardDataInvalid."""
        if not HEADER_BYTES <= len(raw) <= MAX_COMMAND_BYTES:
            raise CardDataInvalid("not a short command")
        cla, ins, p1, p2 = raw[:HEADER_BYTES]
        body = raw[HEADER_BYTES:]
        if len(body) <= 1:  # cases 1 and 2
            return cls(cla=cla, ins=ins, p1=p1, p2=p2, le=(body[0] or 256) if body else None)
        size, rest = body[0], body[1:]
        if size == 0 or len(rest) not in (size, size + 1):
            raise CardDataInvalid("command's length is not its Lc's")
        le = None if len(rest) == size else rest[size] or 256
        return cls(cla=cla, ins=ins, p1=p1, p2=p2, data=rest[:size], le=le)

    def to_bytes(self) -> bytes:
        """As it travels. Raises: CardDataInvalid when the data does not fit a short command."""
        if len(self.data) > MAX_DATA_BYTES:
            raise CardDataInvalid("data does not fit a short command")
        header = bytes((self.cla, self.ins, self.p1, self.p2))
        body = bytes((len(self.data),)) + self.data if self.data else b""
        return header + body + (b"" if self.le is None else bytes((self.le & 0xFF,)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One answer: data and status word. A card of another issuer may send any word, so `sw` is a plain number."""

    sw: int
    data: bytes = b""

    @classmethod
    def from_bytes(cls, raw: bytes) -> Response:
        """Raises: CardDataInvalid unless there are 0 to 256 bytes and a status word."""
        if not 2 <= len(raw) <= MAX_RESPONSE_BYTES:
            raise CardDataInvalid("not an answer of a card")
        return cls(sw=int.from_bytes(raw[-2:], "big"), data=raw[:-2])

    def to_bytes(self) -> bytes:
        """As it travels."""
        return self.data + self.sw.to_bytes(2, "big")

    @property
    def ok(self) -> bool:
        """Is the status word 9000?"""
        return self.sw == Sw.OK
