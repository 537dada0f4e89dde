"""What each party now knows: what its rows can and cannot tie together, with a search for what must not be there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from parties.checker.phases import Finding, Parties
from protocol.roles.bank.tables import ANONYMOUS_ACCOUNTS, CUSTOMERS, GRANTS, PHONES
from protocol.roles.merchant import TERMINAL_KEYS
from protocol.roles.se.tables import ACCOUNTS, SERVICE_KEYS, VIRTUAL_CARDS
from protocol.roles.tsm.tables import CARDS, SERVICES, TERMINALS, TID_LIST
from protocol.types import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Knowledge:
    """One party's view."""

    party: str
    role: str
    knows: str
    does_not_know: str


def what_each_knows(parties: Parties) -> list[Knowledge]:
    """A row a party, with counts from its database."""
    return [_of(party) for party in parties.all]


def _of(party: Any) -> Knowledge:
    count = {name: len(rows) for name, rows in party.rows.items()}
    if party.role is Role.BANK:
        knows = (
            f"{count[CUSTOMERS.name]} persons, {count[PHONES.name]} phones, {count[ANONYMOUS_ACCOUNTS.name]} AIDs and "
            f"whose they are, {count[GRANTS.name]} grants and to which TSM"
        )
        return _row(party, knows, "TIDs, card numbers, merchants, purchases")
    if party.role is Role.TSM:
        knows = (
            f"{count[SERVICES.name]} TIDs, {count[TID_LIST.name]} AIDs with bank, expiry and limit, "
            f"{count[CARDS.name]} cards, {count[TERMINALS.name]} terminals"
        )
        return _row(party, knows, "persons, phones, bank accounts")
    if party.role is Role.SE:
        knows = (
            f"its owner's keys: {count[ACCOUNTS.name]} AIDs, {count[SERVICE_KEYS.name]} TIDs, "
            f"{count[VIRTUAL_CARDS.name]} cards"
        )
        return _row(party, knows, "nothing leaves it: keys stay inside")
    if party.role is Role.MERCHANT:
        return _row(party, f"its {count[TERMINAL_KEYS.name]} terminal", "persons, AIDs, TIDs, cards")
    return _row(party, "that some phone fetched the app", "which phone, which person, which bank account")


def _row(party: Any, knows: str, does_not_know: str) -> Knowledge:
    return Knowledge(party=party.name, role=party.role.value, knows=knows, does_not_know=does_not_know)


def check_knowledge(parties: Parties) -> Iterator[Finding]:
    """No value that names a person is at the TSM or a merchant; no TID or card number is at a bank."""
    persons = {row.customer for row in parties.rows(Role.BANK, CUSTOMERS)}
    persons |= {row.name for row in parties.rows(Role.BANK, CUSTOMERS)}
    persons |= {row.secure_element for row in parties.rows(Role.BANK, PHONES)}
    service = {row.tid for row in parties.tsm.of(SERVICES)} | {row.pan for row in parties.tsm.of(CARDS)}
    for role, forbidden in ((Role.TSM, persons), (Role.MERCHANT, persons | service), (Role.BANK, service)):
        for party in parties.by(role):
            held = b"\n".join(_values(party))
            if any(value.encode() in held for value in forbidden if value):
                yield f"{party.name} holds something that it must not know"


def _values(party: Any) -> Iterator[bytes]:
    for rows in party.rows.values():
        for row in rows:
            for column in row.__dataclass_fields__:
                value = getattr(row, column)
                yield value if type(value) is bytes else str(value).encode()
