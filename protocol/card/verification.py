"""Cardholder verification as the terminal does it: by walking the card's list of methods (EMV Book 3 §10.5).

This terminal has neither PIN pad nor signature strip: the one method that succeeds is that there is none. A holder who
has to be verified is so on the phone, and the card says it in its own verification results (`cvr`), which the terminal
only passes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from protocol.card.risk import NOTHING, Tvr
from protocol.card.tap import currency_code
from protocol.card.terminal import Sale
from protocol.errors import CardDataInvalid

AMOUNTS_BYTES: Final = 8
"""X and Y, four bytes each, before the first rule."""
_NOT_PERFORMED: Final = b"\x3f\x00\x00"
_NO_CONDITION_MET: Final = b"\x3f\x00\x01"
_CODE: Final = 0x3F
_GO_ON: Final = 0x40
_FAILED: Final = b"\x01"
_SUCCESSFUL: Final = b"\x02"


class Method(IntEnum):
    """Verification methods, bits 6 to 1 of a rule's first byte (Book 3 Annex C3)."""

    FAIL = 0x00
    PLAINTEXT_PIN = 0x01
    ONLINE_PIN = 0x02
    PLAINTEXT_PIN_AND_SIGNATURE = 0x03
    ENCIPHERED_PIN = 0x04
    ENCIPHERED_PIN_AND_SIGNATURE = 0x05
    SIGNATURE = 0x1E
    NONE = 0x1F


_PIN_METHODS: Final = frozenset(
    {
        Method.PLAINTEXT_PIN,
        Method.ONLINE_PIN,
        Method.PLAINTEXT_PIN_AND_SIGNATURE,
        Method.ENCIPHERED_PIN,
        Method.ENCIPHERED_PIN_AND_SIGNATURE,
    }
)
_KNOWN: Final = frozenset(Method)


class Condition(IntEnum):
    """When a rule applies, its second byte (Book 3 Annex C3); those that a purchase at a counter can meet."""

    ALWAYS = 0x00
    NOT_CASH = 0x02
    SUPPORTED = 0x03
    UNDER_X = 0x06
    OVER_X = 0x07
    UNDER_Y = 0x08
    OVER_Y = 0x09


@dataclass(frozen=True, slots=True, kw_only=True)
class CvmList:
    """Tag 8E: amounts X and Y in the application's currency, minor units, and rules as (method byte, condition)."""

    x_minor: int
    y_minor: int
    rules: tuple[tuple[int, int], ...]

    @classmethod
    def from_bytes(cls, data: bytes) -> CvmList:
        """Parse; a list without rules is one. Raises: CardDataInvalid."""
        if len(data) < AMOUNTS_BYTES or len(data) % 2:
            raise CardDataInvalid("cardholder verification list is cut off")
        rules = data[AMOUNTS_BYTES:]
        return cls(
            x_minor=int.from_bytes(data[:4], "big"),
            y_minor=int.from_bytes(data[4:8], "big"),
            rules=tuple(zip(rules[::2], rules[1::2], strict=True)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What came out: cardholder verification results (9F34, Book 4 Annex A4), and what they add to the TVR."""

    results: bytes
    tvr: Tvr


def verify_holder(sale: Sale, *, supported: bool, methods: bytes | None, currency: bytes | None) -> Verification:
    """Walk the list `methods` (8E). `supported` is the AIP's bit, `currency` the application's (9F42).

    Raises: CardDataInvalid (malformed list).
    """
    if not supported:
        return Verification(results=_NOT_PERFORMED, tvr=NOTHING)
    # Book 3 §7.5: a card that promises verification and brings no list lacks data; one without rules is no list.
    rules = CvmList.from_bytes(methods) if methods is not None else None
    if rules is None or not rules.rules:
        return Verification(results=_NOT_PERFORMED, tvr=Tvr.CARD_DATA_MISSING)
    in_currency = currency == currency_code(sale.currency)
    return _walk(rules, sale.amount_minor if in_currency else None)


def _walk(methods: CvmList, amount_minor: int | None) -> Verification:
    results, found = _NO_CONDITION_MET, NOTHING
    for rule, condition in methods.rules:
        method = rule & _CODE
        if not _applies(condition, method=method, methods=methods, amount_minor=amount_minor):
            continue
        if method == Method.NONE:
            return Verification(results=bytes((rule, condition)) + _SUCCESSFUL, tvr=found)
        results = bytes((rule, condition)) + _FAILED
        if method in _PIN_METHODS:
            found |= Tvr.PIN_PAD_MISSING
        elif method not in _KNOWN:
            found |= Tvr.VERIFICATION_UNRECOGNIZED
        if not rule & _GO_ON:
            break
    return Verification(results=results, tvr=found | Tvr.VERIFICATION_FAILED)


def _applies(condition: int, *, method: int, methods: CvmList, amount_minor: int | None) -> bool:
    if condition == Condition.SUPPORTED:
        return method == Method.NONE
    if condition in {Condition.ALWAYS, Condition.NOT_CASH}:
        return True
    # A condition that is unknown, or for cash, or about an amount in another currency, is not met (§10.5).
    if amount_minor is None:
        return False
    amounts: dict[int, bool] = {
        Condition.UNDER_X: amount_minor < methods.x_minor,
        Condition.OVER_X: amount_minor > methods.x_minor,
        Condition.UNDER_Y: amount_minor < methods.y_minor,
        Condition.OVER_Y: amount_minor > methods.y_minor,
    }
    return amounts.get(condition, False)
