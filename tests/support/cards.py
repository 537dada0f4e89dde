"""A reader's field in memory: a terminal kernel on one side, a card or a script on the other, a fault in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import date

from protocol.card import outcome, profile, tlv
from protocol.card.apdu import Command, Ins, Response
from protocol.card.kernel import perform_tap, run_exchange
from protocol.card.oda import CaKey
from protocol.card.outcome import CardLost, Outcome
from protocol.card.risk import Tvr
from protocol.card.terminal import Sale, Terminal

TODAY = date(2026, 11, 20)
UNPREDICTABLE = b"\xde\xad\xbe\xef"
Answer = Callable[[bytes], bytes]
Alter = Callable[[Command, bytes], bytes]


def make_terminal(*ca_keys: CaKey, **changes) -> Terminal:
    facts = {
        "merchant_identifier": "MERCHANT0000001",
        "terminal": "TERM0001",
        "merchant_name": "TEA HOUSE\\TAIPEI",
        "ca_keys": ca_keys,
    }
    return Terminal(**(facts | changes))


def make_sale(**changes) -> Sale:
    facts = {"amount_minor": 12_345, "currency": "TWD", "date": TODAY, "unpredictable": UNPREDICTABLE}
    return Sale(**(facts | changes))


@dataclass
class Field:
    """The air between reader and card: keeps what passed, alters answers with `alter`, loses the card at `lost_at`."""

    process: Answer
    alter: Alter = lambda command, answer: answer
    lost_at: int | None = None
    trace: list[tuple[bytes, bytes]] = field(default_factory=list)

    def transmit(self, command: bytes) -> bytes:
        if len(self.trace) == self.lost_at:
            raise CardLost
        answer = self.alter(Command.from_bytes(command), self.process(command))
        self.trace.append((command, answer))
        return answer

    def tap(self, terminal: Terminal, sale: Sale | None = None) -> Outcome:
        return run_exchange(perform_tap(terminal, sale or make_sale()), self.transmit)

    @property
    def commands(self) -> list[Command]:
        return [Command.from_bytes(command) for command, _ in self.trace]

    @property
    def last_reference(self) -> int:
        """P1 of the GENERATE AC that was sent."""
        assert self.commands[-1].ins == Ins.GENERATE_AC
        return self.commands[-1].p1


def answered(data: bytes = b"", sw: int = 0x9000) -> bytes:
    return Response(sw=sw, data=data).to_bytes()


def only(ins: Ins, change: Callable[[bytes], bytes]) -> Alter:
    """Alters the answers to one instruction."""
    return lambda command, answer: change(answer) if command.ins == ins else answer


def script(*answers: bytes) -> Answer:
    """A card that says these things in this order, whatever it is asked."""
    rest = iter(answers)
    return lambda command: next(rest)


def entry(aid: bytes, *, priority: int | None = None, kernel: bytes | None = None, label: bytes = b"") -> bytes:
    """A directory entry 61."""
    objects = [(0x4F, aid)]
    objects += [(0x50, label)] if label else []
    objects += [(0x87, bytes([priority]))] if priority is not None else []
    objects += [(0x9F2A, kernel)] if kernel is not None else []
    return tlv.encode(0x61, tlv.encode_all(objects))


def directory(*entries: bytes, name: bytes = b"2PAY.SYS.DDF01") -> bytes:
    """What a PPSE answers, without status word."""
    inside = tlv.encode(0x84, name) + tlv.encode(0xA5, tlv.encode(0xBF0C, b"".join(entries)))
    return tlv.encode(0x6F, inside)


def application(aid: bytes = profile.AID, *, pdol: bytes | None = None) -> bytes:
    """What an application answers to SELECT, without status word."""
    inside = tlv.encode(0x50, b"LABEL") + (b"" if pdol is None else tlv.encode(0x9F38, pdol))
    return tlv.encode(0x6F, tlv.encode(0x84, aid) + tlv.encode(0xA5, inside))


def found_in(ended: Outcome) -> Tvr:
    return Tvr(int.from_bytes(ended.tvr, "big"))


def assert_declined(ended: Outcome, found: Tvr) -> None:
    assert ended == replace(outcome.DECLINED, tvr=ended.tvr)
    assert ended.online is None
    assert found_in(ended) == found
