"""How long a tap's bytes are in the air: ISO/IEC 14443-4 type A at 106 kbit/s, counted, not measured.

A byte takes nine bit times (eight bits and parity). Each block has a prologue of one byte and two of CRC; an APDU that
does not fit one block of 256 bytes is chained, each part but the last answered by a block without data. Between blocks
both sides wait at least a frame delay time. Activation (REQA … ATS) is counted too. What a reader's driver and radio
add beyond that is theirs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

BIT_S: Final = 128 / 13.56e6
"""One bit time at 106 kbit/s (ISO/IEC 14443-2 §8.1: fc / 128)."""
BYTE_BITS: Final = 9
FRAME_BITS: Final = 2
"""Start and end of communication."""
FRAME_DELAY_S: Final = 1172 / 13.56e6
"""Least time between the end of one frame and the start of the next (ISO/IEC 14443-3 §6.2.1)."""
BLOCK_BYTES: Final = 3
FRAME_SIZE: Final = 256
ACTIVATION: Final = ((1, 2), (2, 5), (9, 3), (2, 5), (9, 3), (4, 14))
"""REQA/ATQA, two levels of anticollision and selection (7-byte random UID), RATS/ATS: bytes each way, with CRC."""


def _frame_s(size: int) -> float:
    return (size * BYTE_BITS + FRAME_BITS) * BIT_S + FRAME_DELAY_S


def _apdu_s(size: int) -> float:
    room = FRAME_SIZE - BLOCK_BYTES
    parts = [min(room, size - start) for start in range(0, size, room)]
    chained = (len(parts) - 1) * _frame_s(BLOCK_BYTES)
    return chained + sum(_frame_s(part + BLOCK_BYTES) for part in parts)


def air_time_s(exchanges: Iterable[tuple[int, int]]) -> float:
    """Seconds for these exchanges, given as bytes of command and of answer, with the activation before them."""
    activation = sum(_frame_s(there) + _frame_s(back) for there, back in ACTIVATION)
    return activation + sum(_apdu_s(there) + _apdu_s(back) for there, back in exchanges)
