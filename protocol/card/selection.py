"""Choosing the card's application: the directory PPSE, the candidate list, and the answer to SELECT.

EMV Book 1 §11.3 and §12, EMV Contactless Book B §3.3. Cards of any issuer are read here, so `00` between data objects
is put up with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocol.card import tlv
from protocol.card.apdu import Command, Ins
from protocol.card.directory import PPSE
from protocol.card.dol import Dol
from protocol.errors import CardDataInvalid

MIN_AID_BYTES: Final = 5
MAX_AID_BYTES: Final = 16
MAX_CANDIDATES: Final = 8
"""How many applications a terminal tries on one card; an answer of 256 bytes could name some 25."""
_SELECT_BY_NAME: Final = 0x04
_LOWEST_PRIORITY: Final = 16
_SHORT_KERNEL: Final = 0x3F


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An application that card and terminal have in common. `priority` is 1 to 15, or 16 where the card gives none."""

    aid: bytes
    priority: int


def select(name: bytes) -> Command:
    """SELECT by name, first or only occurrence (Book 1 §11.3.2)."""
    return Command(cla=0x00, ins=Ins.SELECT, p1=_SELECT_BY_NAME, p2=0x00, data=name, le=256)


def parse_directory(data: bytes, *, applications: tuple[bytes, ...]) -> tuple[Candidate, ...]:
    """The candidates in the PPSE's answer, best first, at most `MAX_CANDIDATES` (Book B §3.3.2).

    An entry matches when its name begins with one of `applications`. Names of wrong length and entries for another
    kernel are passed over, as Book B asks; none left is an empty tuple.
    Raises: CardDataInvalid; Oversize (no file control information of a PPSE).
    """
    proprietary = _proprietary_template(data, name=PPSE)
    issuer_data = _template(proprietary, 0xBF0C)
    found = [_candidate(entry) for entry in issuer_data.children if entry.tag == 0x61]
    common = [item for item in found if item is not None and item.aid.startswith(applications)]
    # Equal priorities keep the card's order (Book B §3.3.2); sorted() is stable.
    return tuple(sorted(common, key=lambda item: item.priority)[:MAX_CANDIDATES])


def _candidate(entry: tlv.Tlv) -> Candidate | None:
    values = {item.tag: item.value for item in entry.children}
    aid, kernel, priority = values.get(0x4F, b""), values.get(0x9F2A, b""), values.get(0x87, b"")
    if not MIN_AID_BYTES <= len(aid) <= MAX_AID_BYTES:
        return None
    # Book B §3.3.2: no kernel, or short identifier 0, leaves the choice to the terminal; the rest asks for another.
    if kernel and kernel[0] & _SHORT_KERNEL:
        return None
    # Book 1 §12.2.3: the low nibble, of which 0 says that no priority is given. Bit 8 is for contact terminals.
    return Candidate(aid=aid, priority=(priority[0] & 0x0F if priority else 0) or _LOWEST_PRIORITY)


def parse_application(data: bytes, *, aid: bytes) -> Dol:
    """What the application asks for before it starts: its PDOL, empty where it has none (Book 1 §11.3.4).

    Raises: CardDataInvalid (other name than the one selected, or malformed); Oversize.
    """
    proprietary = _proprietary_template(data, name=aid)
    return Dol.from_bytes(next((item.value for item in proprietary if item.tag == 0x9F38), b""))


def _proprietary_template(data: bytes, *, name: bytes) -> tuple[tlv.Tlv, ...]:
    objects = tlv.decode(data, padded=True)
    if len(objects) != 1:
        raise CardDataInvalid("answer to SELECT is not one template")
    inside = _template(objects, 0x6F).children
    # A card that answers for another application than the one asked for could pass one brand off as another.
    if tlv.value_of(inside, 0x84) != name:
        raise CardDataInvalid("card answers for another application than the one selected")
    return _template(inside, 0xA5).children


def _template(objects: tuple[tlv.Tlv, ...], tag: int) -> tlv.Tlv:
    for item in objects:
        if item.tag == tag:
            return item
    raise CardDataInvalid(f"template {tag:X} is missing")
