"""A contactless terminal of its own: selection, options, records, data authentication, cryptogram (EMV Books 1 to 3).

Nothing of a card is believed that a certificate or signature does not cover.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from conformance.emv import Read, parse, read_card, recover
from conformance.emv_card import AAC, ARQC, Values, fill_dol, tlv, transaction_hash
from conformance.wire import BadWire, need

PSE, PPSE = b"1PAY.SYS.DDF01", b"2PAY.SYS.DDF01"
CDA = 0x10
"""Bit 5 of GENERATE AC's P1 (Book 3 section 6.5.5.2)."""
OK = 0x9000
Transmit = Callable[[bytes], bytes]


class Stopped(Exception):
    """The card answered with a status word that ends the transaction."""

    def __init__(self, command: str, sw: int) -> None:
        super().__init__(f"{command}: {sw:04X}")
        self.command = command
        self.sw = sw


def apdu(cla: int, ins: int, p1: int, p2: int, data: bytes = b"", le: bool = True) -> bytes:
    """A short command (ISO/IEC 7816-4 section 5.1)."""
    body = bytes([len(data)]) + data if data else b""
    return bytes([cla, ins, p1, p2]) + body + (b"\0" if le else b"")


def select(name: bytes, p2: int = 0) -> bytes:
    return apdu(0x00, 0xA4, 0x04, p2, name)


def options(pdol_data: bytes) -> bytes:
    """GET PROCESSING OPTIONS (Book 3 section 6.5.8)."""
    return apdu(0x80, 0xA8, 0, 0, tlv(0x83, pdol_data))


def record(sfi: int, number: int) -> bytes:
    """READ RECORD (Book 3 section 6.5.11)."""
    return apdu(0x00, 0xB2, number, sfi << 3 | 4)


def generate(p1: int, data: bytes) -> bytes:
    """GENERATE AC (Book 3 section 6.5.5)."""
    return apdu(0x80, 0xAE, p1, 0, data)


def authenticate(data: bytes) -> bytes:
    """INTERNAL AUTHENTICATE (Book 3 section 6.5.9)."""
    return apdu(0x00, 0x88, 0, 0, data)


def get_data(tag: int) -> bytes:
    return apdu(0x80, 0xCA, tag >> 8, tag & 0xFF)


@dataclass(frozen=True)
class Found:
    """What selection brought."""

    application: bytes
    fci: bytes
    pdol: bytes


@dataclass(frozen=True)
class Offered:
    """After GET PROCESSING OPTIONS and READ RECORD: the card's data, verified."""

    found: Found
    pdol_data: bytes
    aip: bytes
    afl: bytes
    records: list[dict[str, Any]]
    card: Read


@dataclass(frozen=True)
class Answered:
    """The answer to GENERATE AC; `cryptogram` comes out of the signature where there is one."""

    information: int
    atc: int
    issuer_data: bytes
    cryptogram: bytes
    signature: bytes
    number: bytes

    @property
    def cvr(self) -> int:
        return int.from_bytes(self.issuer_data[2:6])


class Terminal:
    """One terminal over one way to a card."""

    def __init__(self, transmit: Transmit, ca: tuple[bytes, int, int, int]) -> None:
        self._transmit = transmit
        self._ca = ca

    def send(self, command: bytes) -> tuple[bytes, int]:
        """Data and status word."""
        answer = self._transmit(command)
        need(2 <= len(answer) <= 258, "no answer of a card")
        data, sw = answer[:-2], int.from_bytes(answer[-2:])
        need(sw == OK or data == b"", "data beside a refusal")
        return data, sw

    def must(self, name: str, command: bytes) -> bytes:
        """The data of a command that is answered. Raises: Stopped."""
        data, sw = self.send(command)
        if sw != OK:
            raise Stopped(name, sw)
        return data

    # --- selection (Book 1 section 12; Contactless Book B section 3.3) -----------------------------------------------
    def find(self) -> Found:
        """PPSE, and of its applications the one under the CA's RID. Raises: Stopped, BadWire."""
        directory = dict(only(0x6F, self.must("SELECT PPSE", select(PPSE))))
        need(directory[0x84] == PPSE, "directory has another name")
        entries = parse(dict(parse(dict(parse(directory[0xA5]))[0xBF0C]))[0x61])
        return self.choose(dict(entries)[0x4F])

    def choose(self, application: bytes) -> Found:
        """SELECT one application."""
        need(application[:5] == self._ca[0], "application is of another provider")
        fci = self.must("SELECT", select(application))
        fields = dict(only(0x6F, fci))
        need(fields[0x84][: len(application)] == application, "another application was selected")
        return Found(fields[0x84], fci, dict(parse(fields[0xA5]))[0x9F38])

    # --- options and records -----------------------------------------------------------------------------------------
    def offer(self, values: Values, found: Found | None = None) -> Offered:
        """GPO, all records, and offline data authentication up to the card's key. Raises: Stopped, BadWire."""
        found = self.find() if found is None else found
        pdol_data = fill_dol(found.pdol, values)
        answer = dict(only(0x77, self.must("GPO", options(pdol_data))))
        need(set(answer) == {0x82, 0x94}, "options are more than AIP and AFL")
        aip, afl = answer[0x82], answer[0x94]
        records = []
        for at in range(0, len(afl), 4):
            file, first, last, _ = afl[at : at + 4]
            for number in range(first, last + 1):
                data = self.must("READ RECORD", record(file >> 3, number))
                records.append({"sfi": file >> 3, "number": number, "data": data})
        emv: dict[str, object] = {"application": found.application, "aip": aip, "afl": afl, "records": records}
        return Offered(found, pdol_data, aip, afl, records, read_card(emv, self._ca))

    # --- cryptograms -------------------------------------------------------------------------------------------------
    def first(self, offered: Offered, values: Values, asked: int = ARQC | CDA) -> tuple[Answered, bytes]:
        """The first GENERATE AC, and CDOL1's data. Raises: Stopped, BadWire."""
        data = fill_dol(offered.card.objects[0x8C], values)
        answer = self.must("GENERATE AC", generate(asked, data))
        return self.believe(offered, answer, [data], values[0x9F37]), data

    def second(self, offered: Offered, values: Values, cdol1_data: bytes, asked: int) -> Answered:
        """The second one, with CDOL2's data."""
        data = fill_dol(offered.card.objects[0x8D], values)
        answer = self.must("GENERATE AC", generate(asked, data))
        return self.believe(offered, answer, [cdol1_data, data], values[0x9F37])

    def believe(self, offered: Offered, answer: bytes, cdol_data: list[bytes], unpredictable: bytes) -> Answered:
        """Combined data authentication (Book 2 section 6.6.2); an AAC has no signature. Raises: BadWire."""
        objects = only(0x77, answer)
        fields = dict(objects)
        need(len(fields) == len(objects), "data object occurs twice")
        (information,), atc, own = fields[0x9F27], fields[0x9F36], fields[0x9F10]
        need(len(atc) == 2, "counter is not two bytes")
        if 0x9F4B not in fields:
            need(set(fields) == {0x9F27, 0x9F36, 0x9F10, 0x9F26}, "fields of an answer without signature")
            need(information == AAC, "a cryptogram that is no AAC is not signed")
            return Answered(information, int.from_bytes(atc), own, fields[0x9F26], b"", b"")
        need(set(fields) == {0x9F27, 0x9F36, 0x9F10, 0x9F4B}, "fields of an answer with signature")
        inside = recover(offered.card.modulus, fields[0x9F4B], unpredictable)
        number, signed, cryptogram, digest = combined(inside)
        need(signed == information, "signature is over another kind of cryptogram")
        rest = [(tag, value) for tag, value in objects if tag != 0x9F4B]
        need(digest == transaction_hash(offered.pdol_data, cdol_data, rest), "signature is over another transaction")
        return Answered(information, int.from_bytes(atc), own, cryptogram, fields[0x9F4B], number)

    # --- all of it ---------------------------------------------------------------------------------------------------
    def tap(self, values: Values) -> Tapped:
        """One purchase up to the question to the issuer. Raises: Stopped, BadWire."""
        offered = self.offer(values)
        answered, cdol_data = self.first(offered, values)
        return Tapped(offered, answered, cdol_data, values)


@dataclass(frozen=True)
class Tapped:
    """A whole tap."""

    offered: Offered
    answered: Answered
    cdol_data: bytes
    values: Values

    def purchase(self, sale: bytes) -> dict[str, Any]:
        """As the terminal forwards it: an `emv-purchase`."""
        offered, answered = self.offered, self.answered
        return {
            "sale": sale, "application": offered.found.application, "aip": offered.aip, "afl": offered.afl,
            "records": offered.records, "pdol_data": offered.pdol_data, "cdol_data": self.cdol_data,
            "information": answered.information, "atc": answered.atc, "issuer_data": answered.issuer_data,
            "signature": answered.signature,
        }  # fmt: skip


def only(tag: int, data: bytes) -> list[tuple[int, bytes]]:
    """What is inside the one data object of this tag. Raises: BadWire."""
    objects = parse(data)
    need(len(objects) == 1 and objects[0][0] == tag, f"answer is not one data object {tag:X}")
    return parse(objects[0][1])


def combined(inside: bytes) -> tuple[bytes, int, bytes, bytes]:
    """Dynamic number, cryptogram's kind, cryptogram, transaction hash (Book 2 tables 19 and 22). Raises: BadWire."""
    need(inside[:2] == b"\x05\x01", "not signed dynamic application data with SHA-1")
    data, padding = inside[3 : 3 + inside[2]], inside[3 + inside[2] :]
    need(padding.strip(b"\xbb") == b"", "padding is not BB")
    size = data[0] if data else 0
    if not 2 <= size <= 8 or len(data) != 1 + size + 1 + 8 + 20:
        raise BadWire("dynamic data are not CDA's")
    rest = data[1 + size :]
    return data[1 : 1 + size], rest[0], rest[1:9], rest[9:]
