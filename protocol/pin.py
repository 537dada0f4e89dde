"""What a PIN may be (TW-G3a, CN-4), whoever keeps it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Final

from protocol.errors import PinWeak

MIN_DIGITS: Final = 4
MAX_DIGITS: Final = 12
_SIMILAR_DIGITS: Final = 4
"""So many digits in a row shared with a personal number make a PIN similar to it; four is the shortest PIN."""


def check_pin(pin: str, personal: Iterable[str] = ()) -> str:
    """The PIN, if it is hard enough to guess.

    At least four digits; not one repeated digit; not a run: 1234 and 4321 are runs, 8901 is not (TW-G3a). Not like a
    number that others know of the person, forward or backward (CN-4): `personal` are digits of birth date, identity
    number, telephone number.
    Raises: PinWeak, without the PIN.
    """
    if not (MIN_DIGITS <= len(pin) <= MAX_DIGITS and pin.isascii() and pin.isdecimal()):
        raise PinWeak("a PIN has 4 to 12 digits")
    steps = {int(after) - int(before) for before, after in itertools.pairwise(pin)}
    if steps in ({0}, {1}, {-1}):
        raise PinWeak("a PIN is not one repeated digit, nor a run")
    parts = {pin[start : start + _SIMILAR_DIGITS] for start in range(len(pin) - _SIMILAR_DIGITS + 1)}
    parts |= {part[::-1] for part in parts}
    if any(part in number for part in parts for number in personal):
        raise PinWeak("a PIN is not part of a birth date, identity or telephone number")
    return pin
