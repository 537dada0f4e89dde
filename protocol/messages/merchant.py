"""Merchant terminals sign on at the TSM (design §4 SignOn; CN-5, CN-14)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from protocol.schema import Message, PublicKeyBytes, Text, TimeS

MERCHANT: Final = Text(15, "[A-Z0-9]{15}")
"""Merchant identifier, 9F16."""
TERMINAL: Final = Text(8, "[A-Z0-9]{8}")
"""Terminal identification, 9F1C."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignOn(Message):
    """M → T `S_M(name, terminal, terminal key)`: a terminal and its own key, under the merchant's certified key."""

    NAME: ClassVar[str] = "sign-on"
    merchant_name: Annotated[str, Text(20, "[A-Za-z0-9][A-Za-z0-9 .&'-]{0,19}")]
    merchant_identifier: Annotated[str, MERCHANT]
    terminal: Annotated[str, TERMINAL]
    terminal_key: PublicKeyBytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedOn(Message):
    """T → M `S_T(terminal, terminal key, until)`."""

    NAME: ClassVar[str] = "signed-on"
    terminal: Annotated[str, TERMINAL]
    terminal_key: PublicKeyBytes
    expires_at_s: TimeS
