"""What the merchant is made of: its keys, the names it is registered under, its one terminal, and how long it waits."""

from __future__ import annotations

from dataclasses import dataclass, field

from protocol.pki import Directory
from protocol.roles.party import PartyKeys


@dataclass(frozen=True, slots=True, kw_only=True)
class ShopPolicy:
    """How long a sale waits, in seconds: for a card, for one that was told to come again, for the TSM's decision."""

    tap_wait_s: int = 60
    tap_most_s: int = 180
    """From the start, however often a card is asked to come again: a phone must not keep the lane."""
    decision_wait_s: int = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """A merchant: its certified keys, the name and identifier (9F4E, 9F16) it is registered under, its terminal (9F1C),
    and the TSM that decides its sales."""

    keys: PartyKeys
    directory: Directory
    merchant_name: str
    merchant_identifier: str
    terminal: str
    tsm: str
    policy: ShopPolicy = field(default_factory=ShopPolicy)
