"""The TSM as a value: keys, PKI, policy, and the ports it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from protocol.card.oda import CaKey
from protocol.messages.card import Card
from protocol.pki import Directory
from protocol.ports import Entropy
from protocol.roles.party import PartyKeys
from protocol.roles.tsm.freshness import STALE_AFTER_S

DAY_S: Final = 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class TsmPolicy:
    """What this TSM allows. `uses` 1 makes single-use cards, which no merchant can link.

    Over `verify_above_minor` a purchase needs the cardholder's verification on the phone (TW-S3, CN-7). Each bank's
    list of stops is fetched every `stops_every_s`; while it is older than `stops_max_age_s`, what that bank granted
    pays nothing (CN-11).
    """

    session_life_s: int = 3600
    card_grid_s: int = DAY_S
    card_steps: int = 7
    card_limit_minor: int = 50_000
    uses: int = 1
    verify_above_minor: int = 20_000
    terminal_key_life_s: int = 30 * DAY_S
    max_pass_life_s: int = DAY_S
    stops_every_s: int = 60
    stops_max_age_s: int = STALE_AFTER_S
    max_grants: int = 3
    """Live grants under one TID."""
    recredit_floor_percent: int = 20
    """Further credit is asked for when less than this part is left of what was granted."""
    recredit_life_s: int = DAY_S
    claim_period_s: int = DAY_S
    """On a common grid: all grants are claimed at the same time, also when nothing was bought (design §3 SETTLE)."""
    tranche_minor: int = 10_000
    """Before a grant ends, claims are in whole tranches of this; agreed with the banks."""

    def card_expiry_s(self, now_s: int) -> int:
        """A common point in time, `card_steps` … `card_steps` + 1 grid steps ahead."""
        return (now_s // self.card_grid_s + 1 + self.card_steps) * self.card_grid_s


class CardIssuer(Protocol):
    """Makes the EMV side of a card (`protocol.card.personalize` with the issuer's keys)."""

    def issue(
        self, moduli: Sequence[bytes], *, expires_at_s: int, limit_minor: int, currency: str, now_s: int,
        entropy: Entropy,
    ) -> tuple[Card, ...]:  # fmt: skip
        """A card for each key: a random 19-digit PAN in the issuer's range, ICC certificate, records and kAC."""


class Blind(Protocol):
    """Keyed digests by which sealed values are looked up."""

    def blind(self, label: str, value: bytes) -> bytes:
        """The reference of `value` under `label`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tsm:
    """The trusted service manager: serves pseudonyms, sees purchases, never a person."""

    keys: PartyKeys
    cookie_key: bytes = field(repr=False)
    directory: Directory
    issuer: CardIssuer
    emv_ca: tuple[CaKey, ...]
    """The EMV certification authorities whose issuers' cards are accepted."""
    secrets: Blind
    policy: TsmPolicy
