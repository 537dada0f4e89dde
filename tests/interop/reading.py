"""What a reader read, and the checks that a terminal and the TSM would do with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from xml.etree import ElementTree as ET

from interop import cards
from pyemv import ac, kd

from protocol.card import combined, dynamic, oda, profile, tlv
from protocol.card.afl import Afl
from protocol.card.apdu import Command, Ins, Response
from protocol.card.chain import VerifiedCard, verify_card
from protocol.card.cvr import IssuerData
from protocol.card.directory import PPSE

Trace = list[tuple[bytes, bytes]]


@dataclass
class Reading:
    """One purchase, as far as a reader took it. All of it comes out of what the reader gave, none from the card."""

    aid: bytes = b""
    aip: bytes = b""
    afl: bytes = b""
    records: dict[tuple[int, int], bytes] = field(default_factory=dict)
    pdol_data: bytes = b""
    cdol_data: bytes = b""
    ddol_data: bytes = b""
    signed: dict[int, bytes] = field(default_factory=dict)
    """The answer to INTERNAL AUTHENTICATE."""
    answer: dict[int, bytes] = field(default_factory=dict)
    """The answer to GENERATE AC."""


def parse_trace(trace: Iterable[tuple[bytes, bytes]]) -> Reading:
    """A reading out of commands and answers."""
    reading = Reading()
    for raw, raw_answer in trace:
        command, answer = Command.from_bytes(raw), Response.from_bytes(raw_answer)
        if not answer.ok:
            continue
        if command.ins == Ins.SELECT:
            reading = Reading(aid=tlv.decode_one(answer.data, 0x6F).children[0].value)
        elif command.ins == Ins.GET_PROCESSING_OPTIONS:
            reading.pdol_data = command.data[2:]
            reading.aip, reading.afl = _objects(answer).values()
        elif command.ins == Ins.READ_RECORD:
            reading.records[command.p2 >> 3, command.p1] = answer.data
        elif command.ins == Ins.INTERNAL_AUTHENTICATE:
            reading.ddol_data, reading.signed = command.data, _objects(answer)
        elif command.ins == Ins.GENERATE_AC:
            reading.cdol_data, reading.answer = command.data, _objects(answer)
    return reading


def _objects(answer: Response) -> dict[int, bytes]:
    return {item.tag: item.value for item in tlv.decode_one(answer.data, 0x77).children}


def parse_view(view: str) -> Reading:
    """A reading out of the tree that cardpeek saved: every record is put together from the data objects it found."""
    # Its XML declaration says "type" for "encoding", which no parser takes.
    root = ET.fromstring(view.partition("\n")[2])  # noqa: S314 - written by a program of this test
    application = root.find(f".//node[attr='#{profile.AID.hex().upper()}']")
    assert application is not None
    options = {
        tag: _value(node) for node in application.iter("node") if (tag := _attribute(node, "id")) in {"82", "94"}
    }
    reading = Reading(aid=profile.AID, aip=options["82"], afl=options["94"])
    for file in application.findall("node[attr='file']"):
        for record in file.findall("node[attr='record']"):
            place = int(_attribute(file, "id")), int(_attribute(record, "id"))
            template = record.find("node/attr[.='70']/..")
            assert template is not None
            objects = [(int(_attribute(node, "id"), 16), _value(node)) for node in template.findall("node")]
            reading.records[place] = tlv.encode(0x70, tlv.encode_all(objects))
    return reading


def _attribute(node: ET.Element, name: str) -> str:
    return next((attribute.text or "" for attribute in node.findall("attr") if attribute.get("name") == name), "")


def _value(node: ET.Element) -> bytes:
    return bytes.fromhex(_attribute(node, "val").removeprefix("8:"))


def verify_records(reading: Reading, *, ca: oda.CaKey, today: date = cards.TODAY) -> VerifiedCard:
    """CA → issuer → card, over what was read. Raises: CardDataInvalid."""
    return verify_card(
        aid=reading.aid, aip=reading.aip, afl=reading.afl, records=reading.records, ca_keys=[ca], today=today
    )


def verify_cryptogram(reading: Reading, verified: VerifiedCard) -> bytes:
    """The ARQC that CDA's signature holds. Raises: CardDataInvalid."""
    answer = reading.answer
    digest = combined.transaction_hash(
        reading.pdol_data, (reading.cdol_data,), information=answer[0x9F27][0],
        atc=int.from_bytes(answer[0x9F36], "big"), issuer_data=answer[0x9F10],
    )  # fmt: skip
    return combined.verify_combined(
        verified.icc.key, answer[0x9F4B], unpredictable=profile.CDOL1.split(reading.cdol_data)[0x9F37],
        transaction_hash=digest, information=answer[0x9F27][0],
    ).cryptogram  # fmt: skip


def recompute(reading: Reading, *, k_ac: bytes = cards.K_AC) -> bytes:
    """The ARQC as pyemv has it, from the bytes that passed."""
    key = kd.derive_common_sk(k_ac, reading.answer[0x9F36] + bytes(6))
    covered = reading.cdol_data + reading.aip + reading.answer[0x9F36] + reading.answer[0x9F10]
    return ac.generate_ac(key, covered)


def verify(reading: Reading, *, ca: oda.CaKey | None = None) -> IssuerData:
    """All of the above, and the dynamic signature if the reader asked for one. Raises: CardDataInvalid."""
    verified = verify_records(reading, ca=ca or cards.ca_key())
    if reading.signed:
        dynamic.parse_number(dynamic.verify_dynamic(verified.icc.key, reading.signed[0x9F4B], reading.ddol_data))
    assert verify_cryptogram(reading, verified) == recompute(reading)
    return IssuerData.from_bytes(reading.answer[0x9F10])


def select(name: bytes) -> bytes:
    """SELECT by name."""
    return Command(cla=0, ins=Ins.SELECT, p1=4, p2=0, data=name, le=256).to_bytes()


def opening_commands() -> list[bytes]:
    """Up to the card's file locator."""
    pdol_data = profile.PDOL.build(cards.TERMINAL)
    options = Command(
        cla=0x80, ins=Ins.GET_PROCESSING_OPTIONS, p1=0, p2=0, data=bytes((0x83, len(pdol_data))) + pdol_data, le=256
    )
    return [select(PPSE), select(profile.AID), options.to_bytes()]


def purchase_commands(locator: bytes) -> list[bytes]:
    """A whole tap, for a reader that only carries commands: records, dynamic signature, cryptogram with CDA."""
    records = [
        Command(cla=0, ins=Ins.READ_RECORD, p1=number, p2=file << 3 | 4, le=256)
        for (file, number), _ in Afl.from_bytes(locator).walk()
    ]
    unpredictable = Command(
        cla=0, ins=Ins.INTERNAL_AUTHENTICATE, p1=0, p2=0, data=profile.DDOL.build(cards.TERMINAL), le=256
    )
    cryptogram = Command(cla=0x80, ins=Ins.GENERATE_AC, p1=0x90, p2=0, data=profile.CDOL1.build(cards.TERMINAL), le=256)
    return opening_commands() + [command.to_bytes() for command in (*records, unpredictable, cryptogram)]
