"""What checks are made on: all parties' data, and what the scenario's steps should leave behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from parties.checker.keys import PartyData
from protocol.types import Role

Finding: TypeAlias = str
"""A sentence about what is wrong."""


@dataclass(frozen=True)
class Parties:
    """The parties' data by role."""

    all: tuple[PartyData, ...]

    def by(self, role: Role) -> list[PartyData]:
        """Parties of one role."""
        return [party for party in self.all if party.role is role]

    @property
    def tsm(self) -> PartyData:
        """The one TSM."""
        return self.by(Role.TSM)[0]

    def rows(self, role: Role, table: Any) -> list[Any]:
        """All rows of a table at all parties of a role."""
        return [row for party in self.by(role) for row in party.of(table)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What the scenario's steps should leave behind."""

    phones: int
    installed: int
    accounts: int
    services: int
    cards: int
    closed: frozenset[str]
    """Phones whose last launch had to be refused."""
    counters: int
    """Crooked counters, each with a terminal of its own."""
    paid: int
    """Purchases that were to be approved."""
    settled: int
    """Runs of a merchant's settlement."""
    recredited: int
    """Service accounts with further credit."""
    drawn_on_two: int
    """Purchases that one grant was not to cover."""
    traced: int
    """Persons who were to be named."""
    reasons: frozenset[str]
    """For which purchases were to be declined."""
