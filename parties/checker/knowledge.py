"""What each party now knows: what its rows can and cannot tie together, with a search for what must not be there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from parties.checker.expected import Finding, Parties
from parties.checker.keys import PartyData
from protocol.roles.bank.tables import ANONYMOUS_ACCOUNTS, CUSTOMERS, GRANTS, PHONES, RECEIVED_CLAIMS, TRACE_CASES
from protocol.roles.merchant import SALES, TERMINAL_KEYS
from protocol.roles.se.tables import ACCOUNTS, SERVICE_KEYS, VIRTUAL_CARDS
from protocol.roles.tsm.tables import CARDS, PURCHASES, SERVICES, TERMINALS, TID_LIST
from protocol.rows import ALL_TABLES
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


def _of(party: PartyData) -> Knowledge:
    count = {name: len(rows) for name, rows in party.rows.items()}
    if party.role is Role.BANK:
        knows = (
            f"{count[CUSTOMERS.name]} persons, {count[PHONES.name]} phones, {count[ANONYMOUS_ACCOUNTS.name]} AIDs and "
            f"whose they are, {count[GRANTS.name]} grants and to which TSM, {count[RECEIVED_CLAIMS.name]} claims by "
            f"AID in tranches, {count[TRACE_CASES.name]} purchases in dispute"
        )
        return _row(party, knows, "TIDs, card numbers, merchants, purchases, but for those in dispute")
    if party.role is Role.TSM:
        knows = (
            f"{count[SERVICES.name]} TIDs, {count[TID_LIST.name]} AIDs with bank, expiry and limit, "
            f"{count[CARDS.name]} cards, {count[TERMINALS.name]} terminals, {count[PURCHASES.name]} purchases: amount, "
            "merchant, moment, and by its card the TID"
        )
        return _row(party, knows, "persons, phones, bank accounts, goods")
    if party.role is Role.SE:
        knows = (
            f"its owner's keys: {count[ACCOUNTS.name]} AIDs, {count[SERVICE_KEYS.name]} TIDs, "
            f"{count[VIRTUAL_CARDS.name]} cards, the last tap, a hash of the PIN"
        )
        return _row(party, knows, "nothing leaves it: keys stay inside")
    if party.role is Role.MERCHANT:
        knows = (
            f"its {count[TERMINAL_KEYS.name]} terminal, {count[SALES.name]} sales with amount and moment, a masked "
            "card number each; the number itself in the TSM's sealed receipt, of a card that pays once"
        )
        return _row(party, knows, "persons, phones, AIDs, TIDs, which sales are one person's, why a card was declined")
    return _row(party, "that some phone fetched the app", "which phone, which person, which bank account")


def _row(party: PartyData, knows: str, does_not_know: str) -> Knowledge:
    return Knowledge(party=party.name, role=party.role.value, knows=knows, does_not_know=does_not_know)


def check_knowledge(parties: Parties) -> Iterator[Finding]:
    """No value that names a person is at the TSM or a merchant; no TID or card number is at a bank.

    A merchant has neither TID nor AID, and a card number only in a receipt, which is sealed. A bank sees those of a
    purchase in dispute, and no others.
    """
    persons = {row.customer for row in parties.rows(Role.BANK, CUSTOMERS)}
    persons |= {row.name for row in parties.rows(Role.BANK, CUSTOMERS)}
    persons |= {row.secure_element for row in parties.rows(Role.BANK, PHONES)}
    pseudonyms = {row.tid for row in (*parties.tsm.of(SERVICES), *parties.tsm.of(TID_LIST))}
    accounts = {row.aid for row in parties.rows(Role.BANK, ANONYMOUS_ACCOUNTS)}
    numbers = {row.pan for row in parties.tsm.of(CARDS)}
    for role, forbidden, sealed in (
        (Role.TSM, persons, True),
        (Role.MERCHANT, persons | pseudonyms | accounts, True),
        (Role.MERCHANT, numbers, False),
        (Role.BANK, (pseudonyms | numbers) - _disclosed(parties), True),
    ):
        for party in parties.by(role):
            held = b"\n".join(_values(party, sealed=sealed))
            if any(value.encode() in held for value in forbidden if value):
                yield f"{party.name} holds something that it must not know"


def _disclosed(parties: Parties) -> set[str]:
    """TID and card number of the purchases for which a bank was asked to name the person: the chain shows them."""
    traced = {case.purchase_digest for case in parties.rows(Role.BANK, TRACE_CASES)}
    cards = {card.pan_ref: card.pan for card in parties.tsm.of(CARDS)}
    found = [row for row in parties.tsm.of(PURCHASES) if row.receipt_digest in traced]
    return {row.tid for row in found} | {cards[row.pan_ref] for row in found}


def _values(party: PartyData, *, sealed: bool) -> Iterator[bytes]:
    """All values in a party's tables, with those that are sealed at rest or without."""
    for name, rows in party.rows.items():
        hidden = frozenset() if sealed else ALL_TABLES[name].sealed
        for row in rows:
            for column in row.__dataclass_fields__.keys() - hidden:
                value = getattr(row, column)
                yield value if type(value) is bytes else str(value).encode()
