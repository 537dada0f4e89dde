"""What each party now knows: what its rows can and cannot tie together, with a search for what must not be there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from parties.checker.allow_list import AllowList, allow_list
from parties.checker.expected import Finding, Parties
from parties.checker.held import Estate, Held, Reader, check_columns, estates
from parties.checker.keys import KeyRing, PartyData
from parties.checker.links import cards_met, links
from parties.checker.search import Needle, check_numbers, check_places, check_values, needles
from parties.directory import certificate_file
from parties.server.capture import Captured
from protocol.pki import Identity, Use
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


# --- and what it must not know ---------------------------------------------------------------------------------------
def check_knowledge(parties: Parties, exchanges: Iterable[Captured]) -> Iterator[Finding]:
    """After a run between real parties: columns that their databases have, rows, what they can open, and logs.

    Raises: StorageFault, SettingsInvalid.
    """
    allowed = allow_list()
    for party in parties.all:
        yield from check_columns(party, allowed)
    yield from check_estates(estates(parties, exchanges), _identities(parties), allowed=allowed)
    yield from _check_numbers_shown(parties)


def check_estates(
    found: Iterable[Estate], identities: Iterable[Identity] = (), *, allowed: AllowList, exact: bool = False
) -> Iterator[Finding]:
    """What these parties hold and must not; see `Known`, and `links` for what ties cards together."""
    known = Known.of(found, identities, allowed=allowed, exact=exact)
    for party in known.estates:
        yield from known.check(party, known.held[party.name])
    yield from known.check_links(known.held)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Everything that everybody holds, read, with what is to be looked for.

    `exact`: no moment of a purchase is a moment at a bank either, which only a run without coincidences can show.
    """

    estates: tuple[Estate, ...]
    held: Mapping[str, list[Held]]
    reader: Reader
    sought: tuple[Needle, ...]
    exact: bool

    @classmethod
    def of(
        cls, found: Iterable[Estate], identities: Iterable[Identity] = (), *, allowed: AllowList, exact: bool = False
    ) -> Known:
        """`identities` are phones' certificates."""
        parties = tuple(found)
        reader = Reader(allowed, _all_keys(parties))
        held = {party.name: reader.all_of(party) for party in parties}
        sought = (*needles(one for values in held.values() for one in values), *_of_phones(identities))
        return cls(estates=parties, held=held, reader=reader, sought=sought, exact=exact)

    def check(self, party: Estate, held: list[Held]) -> Iterator[Finding]:
        """No place that is not on the list, and no value of a class that the role must not hold."""
        allowed = self.reader.allowed
        yield from check_places(party.name, party.role, held, allowed)
        if party.role is not Role.SE:  # it is the user's own
            yield from check_values(party.name, party.role, held, self.sought, allowed)
        if party.role is Role.BANK:
            numbers, but = self._numbers()
            yield from check_numbers(party.name, held, numbers, but, allowed)

    def _numbers(self) -> tuple[dict[str, frozenset[int]], frozenset[str]]:
        """What no number at a bank may be, and the classes not looked at: totals and limits, and its own clock."""
        bought = [row for party in self._of(Role.TSM) for row in party.rows[PURCHASES.name]]
        numbers = {"the amount of a purchase": frozenset(row.amount_minor for row in bought) - {0}}
        if self.exact:
            numbers["the moment of a purchase"] = frozenset(row.decided_at_s for row in bought)
        return numbers, frozenset({"credit", "book"} if self.exact else {"credit", "book", "time"})

    def _of(self, role: Role) -> list[Estate]:
        return [party for party in self.estates if party.role is role]

    def check_links(self, held: Mapping[str, list[Held]]) -> Iterator[Finding]:
        """No two single-use cards of one person look it: to one merchant, nor to all merchants together."""
        cards = [row for party in self._of(Role.TSM) for row in party.rows[CARDS.name]]
        owners = {row.pan: row.tid for row in cards if row.uses == 1}
        merchants = [held[party.name] for party in self._of(Role.MERCHANT)]
        for party in self._of(Role.MERCHANT):
            yield from links(party.name, cards_met(held[party.name], owners))
        if len(merchants) > 1:
            yield from links("all merchants together", cards_met(_together(merchants), owners))


def _all_keys(parties: Iterable[Estate]) -> KeyRing:
    ring = KeyRing()
    for party in parties:
        own = party.ring()
        ring.private += own.private
        ring.shared |= own.shared
    return ring


def _of_phones(identities: Iterable[Identity]) -> Iterator[Needle]:
    """Certificates of phones, and all that they are known by."""
    for identity in identities:
        if identity.role in (Role.SE, Role.PHONE):
            values = (identity.certificate, identity.key.encoded, identity.key.thumbprint, identity.name.encode())
            for value in values:
                yield Needle.of(value, "phone", "in a phone's certificate")


def _identities(parties: Parties) -> list[Identity]:
    """Every certificate of a phone in the folder of the PKI. Raises: SettingsInvalid."""
    found = []
    for party in parties.by(Role.SE):
        pki, directory = party.opened.settings.pki, party.opened.directory
        for role in (Role.SE, Role.PHONE):
            for use in (Use.SIGN, Use.TLS):
                path = certificate_file(pki, role, party.name, use)
                if path.is_file():
                    found.append(directory.read(path, use))
    return found


def _together(several: Iterable[Iterable[Held]]) -> Iterator[Held]:
    """Of several parties, each document still by itself."""
    for number, held in enumerate(several, 1):
        yield from (one._replace(document=(one.document << 8) + number) for one in held)


def _check_numbers_shown(parties: Parties) -> Iterator[Finding]:
    """A merchant's card numbers are sealed at rest: no column that is not sealed has one."""
    numbers = {row.pan for row in parties.tsm.of(CARDS)}
    for merchant in parties.by(Role.MERCHANT):
        if any(value in numbers for value in _plain_texts(merchant)):
            yield f"{merchant.name} holds a card number that is not sealed"


def _plain_texts(party: PartyData) -> Iterator[str]:
    for name, rows in party.rows.items():
        for row in rows:
            for column in row.__dataclass_fields__.keys() - ALL_TABLES[name].sealed:
                yield str(getattr(row, column))
