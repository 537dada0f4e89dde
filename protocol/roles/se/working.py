"""What the secure element has at hand of the card that is open: unsealed and parsed before the phone is in the field.

Volatile, and for one card at a time. A tap has two milliseconds of the card's processor (design §7); to unseal the
card's cells and to parse its records and key would take a tenth of that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from protocol.card.afl import by_place
from protocol.card.rsa import PrivateKey
from protocol.errors import ProtocolError
from protocol.messages.card import EmvData
from protocol.roles.se.tables import VirtualCard


@dataclass(frozen=True, slots=True, kw_only=True)
class CardParts:
    """What a card answers from: its EMV data, records by (file, record), key and kAC."""

    emv: EmvData = field(repr=False)
    records: Mapping[tuple[int, int], bytes] = field(repr=False)
    key: PrivateKey
    k_ac: bytes = field(repr=False)

    @classmethod
    def of(cls, card: VirtualCard) -> CardParts:
        """Unseal and parse. Raises: Malformed, StorageFault."""
        emv = EmvData.from_bytes(card.records)
        return cls(
            emv=emv, records=by_place(emv.records), key=PrivateKey.from_bytes(card.card_key), k_ac=card.k_ac
        )  # fmt: skip


class WorkingMemory:
    """Holds the parts of at most one card, as its row was; a row that is stored otherwise since is another."""

    def __init__(self) -> None:
        self._held: tuple[VirtualCard, CardParts] | None = None

    def __repr__(self) -> str:
        return f"WorkingMemory({'empty' if self._held is None else 'one card'})"

    def hold(self, card: VirtualCard) -> None:
        """This card was opened. One whose cells or records are damaged is not held: a tap will find that."""
        try:
            self._held = (card, CardParts.of(card))
        except ProtocolError:
            self._held = None

    def parts(self, card: VirtualCard) -> CardParts:
        """The card's parts, held or made anew."""
        held = self._held
        return held[1] if held is not None and held[0] is card else CardParts.of(card)

    def forget(self) -> None:
        """The card was used, or closed, or its time is over."""
        self._held = None
