"""A tap's exchange in words: each command by its name, each answer by its data objects' names.

For displays, documents and bug reports, so nothing in it may be a secret or tell a card apart for good: the PAN is
masked, stripe data, names and PINs are given by their length only, and so are certificates and signatures and all bytes
that cannot be made out. Meant for any bytes: nothing is raised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from protocol.card import tlv
from protocol.card.apdu import Command, Ins, Response, Sw
from protocol.card.combined import CryptogramType
from protocol.card.dol import Dol
from protocol.card.elements import ELEMENTS, UNKNOWN, Show
from protocol.card.pan import mask_pan
from protocol.card.risk import Tvr
from protocol.errors import ProtocolError

_NAMES: Final[Mapping[int, str]] = {
    0x6984: "referenced data invalidated",
    **{sw.value: sw.name.replace("_", " ").lower() for sw in Sw},
}
_INSTRUCTIONS: Final[Mapping[int, str]] = {ins.value: ins.name.replace("_", " ") for ins in Ins}
_INDENT: Final = "    "
_MIN_PAN_DIGITS: Final = 13
_FORMAT_1: Final = 0x80
_CDA: Final = 0x10


def decode_trace(exchange: Iterable[tuple[bytes, bytes]]) -> tuple[str, ...]:
    """Lines of text for (command, answer) pairs in order; `>` begins a command and `<` an answer.

    What a card asked for (PDOL, CDOL1, CDOL2) is remembered, so that the data that answer it are named too.
    """
    return tuple(_Decoder().lines(exchange))


class _Decoder:
    """Reads a trace from its start; `_lists` holds the data object lists the card has shown since the last SELECT."""

    def __init__(self) -> None:
        self._lists: dict[int, Dol] = {}
        self._cryptograms = 0

    def lines(self, exchange: Iterable[tuple[bytes, bytes]]) -> Iterator[str]:
        for sent, received in exchange:
            command = _parse_command(sent)
            if command is None:
                yield f"> {len(sent)} bytes that are no command"
            else:
                yield from self._command(command)
            yield from self._answer(command, received)

    def _command(self, command: Command) -> Iterator[str]:
        handlers: dict[int, Callable[[Command], Iterator[str]]] = {
            Ins.SELECT: self._select,
            Ins.READ_RECORD: self._read_record,
            Ins.GET_DATA: self._get_data,
            Ins.GET_PROCESSING_OPTIONS: self._get_processing_options,
            Ins.GENERATE_AC: self._generate_ac,
        }
        if command.ins in handlers:
            yield from handlers[command.ins](command)
            return
        # VERIFY carries a PIN, the others what only cards understand: none of it is printed.
        name = _INSTRUCTIONS.get(command.ins, f"INS {command.ins:02X}")
        yield f"> {name}" + _with(f"<{len(command.data)} bytes>" if command.data else "")

    def _select(self, command: Command) -> Iterator[str]:
        self._lists, self._cryptograms = {}, 0
        yield f"> SELECT {_text(command.data) or command.data.hex().upper()}"

    def _read_record(self, command: Command) -> Iterator[str]:
        yield f"> READ RECORD {command.p1} of file {command.p2 >> 3}"

    def _get_data(self, command: Command) -> Iterator[str]:
        tag = command.p1 << 8 | command.p2
        yield f"> GET DATA {tag:04X} {ELEMENTS.get(tag, UNKNOWN).name}"

    def _get_processing_options(self, command: Command) -> Iterator[str]:
        yield "> GET PROCESSING OPTIONS"
        try:
            data = tlv.decode_one(command.data, 0x83).value
        except ProtocolError:
            yield f"{_INDENT}<{len(command.data)} bytes>"
            return
        yield from self._listed(0x9F38, data)

    def _generate_ac(self, command: Command) -> Iterator[str]:
        yield f"> GENERATE AC {_cryptogram_type(command.p1)}" + _with("with CDA" if command.p1 & _CDA else "")
        self._cryptograms += 1
        yield from self._listed(0x8C if self._cryptograms == 1 else 0x8D, command.data)

    def _listed(self, tag: int, data: bytes) -> Iterator[str]:
        wanted = self._lists.get(tag, Dol(entries=()))
        try:
            values = wanted.split(data)
        except ProtocolError:
            yield f"{_INDENT}<{len(data)} bytes>"
            return
        for found, value in values.items():
            yield _INDENT + _describe(found, value)

    def _answer(self, command: Command | None, received: bytes) -> Iterator[str]:
        try:
            answer = Response.from_bytes(received)
        except ProtocolError:
            yield f"< {len(received)} bytes that are no answer"
            return
        yield f"< {answer.sw:04X}" + _with(_NAMES.get(answer.sw, ""))
        if not answer.data:
            return
        try:
            objects = tlv.decode(answer.data, padded=True)
        except ProtocolError:
            yield f"{_INDENT}<{len(answer.data)} bytes that are no data objects>"
            return
        yield from self._objects(objects, command, depth=1)

    def _objects(self, objects: tuple[tlv.Tlv, ...], command: Command | None, *, depth: int) -> Iterator[str]:
        for item in objects:
            if tlv.is_constructed(item.tag):
                yield _INDENT * depth + f"{item.tag:X} {ELEMENTS.get(item.tag, UNKNOWN).name}"
                yield from self._objects(item.children, command, depth=depth + 1)
                continue
            if item.tag == _FORMAT_1:
                yield from (_INDENT * depth + line for line in _format_1(command, item.value))
                continue
            self._remember(item)
            yield _INDENT * depth + _describe(item.tag, item.value)

    def _remember(self, item: tlv.Tlv) -> None:
        if ELEMENTS.get(item.tag, UNKNOWN).show is Show.LIST:
            try:
                self._lists[item.tag] = Dol.from_bytes(item.value)
            except ProtocolError:
                self._lists.pop(item.tag, None)


def _parse_command(sent: bytes) -> Command | None:
    try:
        return Command.from_bytes(sent)
    except ProtocolError:
        return None


def _format_1(command: Command | None, value: bytes) -> Iterator[str]:
    """Fields that stand in the order of the command's own table (Book 3 §6.5.5.4, §6.5.8.4)."""
    yield f"80 {ELEMENTS[_FORMAT_1].name}"
    layout: tuple[tuple[int, int], ...] = ()
    if command is not None and command.ins == Ins.GET_PROCESSING_OPTIONS:
        layout = ((0x82, 2), (0x94, len(value)))
    elif command is not None and command.ins == Ins.GENERATE_AC:
        layout = ((0x9F27, 1), (0x9F36, 2), (0x9F26, 8), (0x9F10, len(value)))
    if not layout:
        yield f"{_INDENT}<{len(value)} bytes>"
    offset = 0
    for tag, size in layout:
        yield _INDENT + _describe(tag, value[offset : offset + size])
        offset += size


def _describe(tag: int, value: bytes) -> str:
    element = ELEMENTS.get(tag, UNKNOWN)
    return f"{tag:X} {element.name}: {_show(element.show, value)}" + _with(_explain(tag, value))


def _show(show: Show, value: bytes) -> str:
    if show is Show.PAN:
        digits = value.hex().rstrip("f")
        return mask_pan(digits) if digits.isdecimal() and len(digits) >= _MIN_PAN_DIGITS else f"<{len(value)} bytes>"
    if show is Show.LIST:
        return _show_list(value)
    if show is Show.SIZE:
        return f"<{len(value)} bytes>"
    if show is Show.TEXT and _text(value.rstrip(b"\x00")):
        return _text(value.rstrip(b"\x00"))
    return value.hex().upper()


def _show_list(value: bytes) -> str:
    try:
        entries = Dol.from_bytes(value).entries
    except ProtocolError:
        return f"<{len(value)} bytes>"
    return " ".join(f"{entry.tag:X}[{entry.length}]" for entry in entries)


def _explain(tag: int, value: bytes) -> str:
    if tag == 0x9F27 and value:
        return _cryptogram_type(value[0])
    if tag == 0x95:
        bits = int.from_bytes(value, "big")
        return ", ".join(str(bit.name).replace("_", " ").lower() for bit in Tvr if bits & bit)
    return ""


def _cryptogram_type(byte: int) -> str:
    return next((kind.name for kind in CryptogramType if kind == byte & 0xC0), "of a reserved type")


def _text(data: bytes) -> str:
    return f'"{data.decode("ascii")}"' if data and all(0x20 <= byte < 0x7F for byte in data) else ""


def _with(text: str) -> str:
    return f" {text}" if text else ""
