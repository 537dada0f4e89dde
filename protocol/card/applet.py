"""The payment application as a reader meets it: command bytes in, answer bytes out, for any bytes.

    nothing selected → directory or application selected → options given → cryptogram given → finished

All of this is volatile: a field that is lost leaves nothing behind but what the `CardHolder` port made last, so a torn
tap blocks no later one. (EMV Book 1 §11 and §12, Book 3 §6.5; ISO/IEC 7816-4.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from protocol.card import directory, profile, tlv
from protocol.card.apdu import MAX_RESPONSE_BYTES, Command, Ins, Response, Sw
from protocol.card.profile import CardProfile, Channel
from protocol.card.tap import NotOpen, SeePhone, Tap
from protocol.card.transaction import REFERENCES, Transaction, read_record
from protocol.errors import CardDataInvalid, ProtocolError

if TYPE_CHECKING:
    from protocol.card.tap import CardHolder
    from protocol.ports import Entropy

INTERINDUSTRY: Final = 0x00
PROPRIETARY: Final = 0x80
"""The two class bytes of EMV (Book 3 §6.3.2). Others would mean secure messaging or another logical channel."""
_BY_NAME: Final = 0x04
_FIRST, _NEXT = 0x00, 0x02
_BY_NUMBER: Final = 0x04
"""READ RECORD's P2, bits 3 to 1: P1 is a record number (Book 1 §11.2.2)."""
_PIN_FORMATS: Final = frozenset({0x80, 0x88})
"""VERIFY's P2: plaintext, enciphered (Book 3 §6.5.12.2)."""
_COMMAND_TEMPLATE: Final = 0x83
_MIN_NAME_BYTES: Final = 5
"""A partial name holds the provider's identifier at least (Book 1 §12.3.1)."""
_ATC, _PIN_TRIES = 0x9F36, 0x9F17


@dataclass(frozen=True, slots=True, kw_only=True)
class _DedicatedFile:
    """What SELECT finds: its answer, and the records that lie open in it."""

    information: bytes
    records: Mapping[tuple[int, int], bytes]


_PROFILE: Final = CardProfile()
_PSE: Final = _DedicatedFile(
    information=directory.pse_information(),
    records={(directory.DIRECTORY_FILE, 1): directory.directory_record(_PROFILE)},
)
_PPSE: Final = _DedicatedFile(information=directory.ppse_information(_PROFILE), records={})
# No card is chosen before GET PROCESSING OPTIONS has said what for, so this is every card's.
_APPLICATION: Final = _DedicatedFile(information=directory.application_information(_PROFILE), records={})


def _refuse(sw: Sw) -> Response:
    return Response(sw=sw)


class Applet:
    """One contact or contactless interface of the secure element. Not for two threads at once."""

    def __init__(self, holder: CardHolder, entropy: Entropy, *, channel: Channel) -> None:
        self._holder = holder
        self._entropy = entropy
        self._channel = channel
        self._selected: _DedicatedFile | None = None
        self._transaction: Transaction | None = None
        self._instructions: Final[Mapping[int, tuple[int, Callable[[Command], Response]]]] = {
            Ins.SELECT: (INTERINDUSTRY, self._select),
            Ins.READ_RECORD: (INTERINDUSTRY, self._read_record),
            Ins.VERIFY: (INTERINDUSTRY, self._verify),
            Ins.INTERNAL_AUTHENTICATE: (INTERINDUSTRY, self._internal_authenticate),
            Ins.GET_PROCESSING_OPTIONS: (PROPRIETARY, self._get_processing_options),
            Ins.GENERATE_AC: (PROPRIETARY, self._generate_ac),
            Ins.GET_DATA: (PROPRIETARY, self._get_data),
        }

    def reset(self) -> None:
        """The field was lost, or came: nothing is selected."""
        self._selected = None
        self._transaction = None

    def process(self, command: bytes) -> bytes:
        """Answer one command, whatever its bytes: up to 256 bytes of data, and a status word.

        What the holder's port cannot do (a full disk) and a key at fault are 6F00, and the session is over.
        """
        try:
            parsed = Command.from_bytes(command)
        except CardDataInvalid:
            return _refuse(Sw.WRONG_LENGTH).to_bytes()
        try:
            answer = self._dispatch(parsed).to_bytes()
        except NotOpen:
            # The opening ended between offer and use.
            self.reset()
            return _refuse(Sw.CONDITIONS_NOT_SATISFIED).to_bytes()
        except ProtocolError:
            self.reset()
            return _refuse(Sw.NO_DIAGNOSIS).to_bytes()
        assert len(answer) <= MAX_RESPONSE_BYTES
        return answer

    def _dispatch(self, command: Command) -> Response:
        # A phone that its holder did not open answers all readers alike, as one without a payment card (TW-S2).
        if self._selected is None and (command.cla, command.ins) != (INTERINDUSTRY, Ins.SELECT):
            return _refuse(Sw.CONDITIONS_NOT_SATISFIED)
        if command.cla not in {INTERINDUSTRY, PROPRIETARY}:
            return _refuse(Sw.CLASS_NOT_SUPPORTED)
        # EXTERNAL AUTHENTICATE is among the unknown ones: the AIP does not offer it (Book 3 §10.9).
        if command.ins not in self._instructions:
            return _refuse(Sw.INSTRUCTION_NOT_SUPPORTED)
        cla, handler = self._instructions[command.ins]
        return handler(command) if command.cla == cla else _refuse(Sw.CLASS_NOT_SUPPORTED)

    def _select(self, command: Command) -> Response:
        # Asked first, so that a closed phone's refusals do not depend on what is asked for.
        if not self._holder.is_open():
            self.reset()
            return _refuse(Sw.FILE_NOT_FOUND)
        if command.p1 != _BY_NAME or command.p2 not in {_FIRST, _NEXT}:
            return _refuse(Sw.WRONG_PARAMETERS)
        self.reset()
        # There is one file of each name, so a next one is never found (Book 1 §12.3.1).
        self._selected = _find(command.data) if command.p2 == _FIRST else None
        if self._selected is None:
            return _refuse(Sw.FILE_NOT_FOUND)
        return Response(sw=Sw.OK, data=self._selected.information)

    def _get_processing_options(self, command: Command) -> Response:
        if (command.p1, command.p2) != (0, 0):
            return _refuse(Sw.WRONG_PARAMETERS)
        if self._selected is not _APPLICATION or self._transaction is not None:
            return _refuse(Sw.CONDITIONS_NOT_SATISFIED)
        # Book 3 §6.5.8.3: tag 83, length, and the data that the PDOL asks for.
        size = profile.PDOL.data_length
        if len(command.data) != 2 + size:
            return _refuse(Sw.WRONG_LENGTH)
        if command.data[:2] != bytes((_COMMAND_TEMPLATE, size)):
            return _refuse(Sw.WRONG_DATA)
        return self._offer(command.data[2:])

    def _offer(self, pdol_data: bytes) -> Response:
        try:
            tap = Tap.from_pdol(pdol_data)
        except CardDataInvalid:
            return _refuse(Sw.WRONG_DATA)
        try:
            card = self._holder.offer(tap)
        except NotOpen:
            return _refuse(Sw.CONDITIONS_NOT_SATISFIED)
        except SeePhone:
            return _refuse(Sw.SEE_PHONE)
        # The name that was selected is under no signature, so the card must not lend it to another application's data.
        if card.aid != _PROFILE.aid:
            return _refuse(Sw.CONDITIONS_NOT_SATISFIED)
        self._transaction = Transaction(
            card, pdol_data=pdol_data, channel=self._channel, holder=self._holder, entropy=self._entropy
        )
        return self._transaction.options()

    def _read_record(self, command: Command) -> Response:
        if command.p2 & 0x07 != _BY_NUMBER:
            return _refuse(Sw.WRONG_PARAMETERS)
        if command.data:
            return _refuse(Sw.WRONG_LENGTH)
        place = (command.p2 >> 3, command.p1)
        if self._transaction is not None:
            return self._transaction.read_record(place)
        if self._selected is None or self._selected is _APPLICATION:
            return _refuse(Sw.CONDITIONS_NOT_SATISFIED)
        return read_record(self._selected.records, place)

    def _get_data(self, command: Command) -> Response:
        if command.data:
            return _refuse(Sw.WRONG_LENGTH)
        if self._selected is not _APPLICATION:
            return _refuse(Sw.CONDITIONS_NOT_SATISFIED)
        tag = command.p1 << 8 | command.p2
        if tag == _ATC:
            if self._transaction is None:  # whose counter it would be is not known yet
                return _refuse(Sw.CONDITIONS_NOT_SATISFIED)
            return Response(sw=Sw.OK, data=tlv.encode(_ATC, self._transaction.counter()))
        if tag == _PIN_TRIES:  # always none: a PIN is entered on the phone (TW-G3a)
            return Response(sw=Sw.OK, data=tlv.encode(_PIN_TRIES, b"\x00"))
        return _refuse(Sw.REFERENCED_DATA_NOT_FOUND)

    def _verify(self, command: Command) -> Response:
        if command.p1 != 0 or command.p2 not in _PIN_FORMATS:
            return _refuse(Sw.WRONG_PARAMETERS)
        # Whatever the data, they are not looked at: no terminal gets a 9000 here that it could show for a PIN
        # (Book 3 §10.5.1: 6983, offline PIN is blocked).
        return _refuse(Sw.AUTHENTICATION_BLOCKED)

    def _internal_authenticate(self, command: Command) -> Response:
        if (command.p1, command.p2) != (0, 0):
            return _refuse(Sw.WRONG_PARAMETERS)
        if self._transaction is None:
            return _refuse(Sw.CONDITIONS_NOT_SATISFIED)
        return self._transaction.authenticate(command.data)

    def _generate_ac(self, command: Command) -> Response:
        if command.p1 not in REFERENCES or command.p2 != 0:
            return _refuse(Sw.WRONG_PARAMETERS)
        if self._transaction is None:
            return _refuse(Sw.CONDITIONS_NOT_SATISFIED)
        asked, combined = REFERENCES[command.p1]
        return self._transaction.generate(asked, command.data, combined=combined)


def _find(name: bytes) -> _DedicatedFile | None:
    if name == directory.PSE:
        return _PSE
    if name == directory.PPSE:
        return _PPSE
    if len(name) >= _MIN_NAME_BYTES and _PROFILE.aid.startswith(name):
        return _APPLICATION
    return None
