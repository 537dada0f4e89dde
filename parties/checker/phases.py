"""What must hold after each phase, read from the databases of all parties together.

A finding is a sentence about what is wrong; a phase is good when it has none. The counts a scenario expects come from
its steps; everything else is compared between the parties' own records.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from attestation.reference import verify_reference_values
from parties.checker.expected import Expected, Finding, Parties
from parties.checker.keys import PartyData
from parties.checker.lifecycle import check_freeze, check_recredit, check_settle, check_trace
from parties.checker.purchases import check_pay
from parties.emv_files import read_ca_keys
from parties.release import SOFTWARE
from protocol import cose, envelope
from protocol.card.chain import verify_card
from protocol.card.oda import CaKey
from protocol.commitments import commitment
from protocol.crypto import PrivateKey, sha256
from protocol.engine import EVIDENCE
from protocol.errors import ProtocolError
from protocol.messages.card import EmvData
from protocol.messages.service import Promise, TsmInfo
from protocol.pki import Use
from protocol.roles.bank.tables import ANONYMOUS_ACCOUNTS, CUSTOMERS, GRANTS, LIVE_GRANTS, PHONES, owed_minor
from protocol.roles.merchant import TERMINAL_KEYS
from protocol.roles.se.tables import ACCOUNTS, OWNERS, SERVICE_KEYS, VIRTUAL_CARDS
from protocol.roles.tsm.tables import CARDS, PURCHASES, SERVICES, TERMINALS, TID_LIST
from protocol.types import Role


def check_init(parties: Parties, expected: Expected) -> Iterator[Finding]:
    """INIT-1 … INIT-6: phones enrolled at their bank, terminals signed on, both sides hold the same keys."""
    phones = parties.rows(Role.BANK, PHONES)
    owners = [owner for owner in parties.rows(Role.SE, OWNERS) if owner.state == "ENROLLED"]
    if len(phones) != expected.phones:
        yield f"{len(phones)} phones are enrolled, {expected.phones} expected"
    keys = {phone.user: phone.pk_u for phone in phones}
    for owner in owners:
        if keys.get(owner.user) != PrivateKey.from_bytes(owner.sk_u).public.encoded:
            yield "a phone holds another PK_U than its bank"
    customers = {customer.customer for customer in parties.rows(Role.BANK, CUSTOMERS) if customer.state == "ENROLLED"}
    if {phone.user for phone in phones} != customers:
        yield "customers and enrolled phones do not match"
    terminals = {(row.terminal, row.terminal_key) for row in parties.tsm.of(TERMINALS)}
    for row in parties.rows(Role.MERCHANT, TERMINAL_KEYS):
        if (row.terminal, PrivateKey.from_bytes(row.private_key).public.encoded) not in terminals:
            yield "a merchant's terminal is not signed on at the TSM"
    wanted = len(parties.by(Role.MERCHANT)) + expected.counters
    if len(terminals) != wanted:
        yield f"{len(terminals)} terminals are signed on, {wanted} expected"


def check_att(parties: Parties, expected: Expected) -> Iterator[Finding]:
    """ATT: the stored PCR is the reference value at bank and SE alike, and the SE is open after a good launch."""
    installed = [phone for phone in parties.rows(Role.BANK, PHONES) if phone.state == "INSTALLED"]
    if len(installed) != expected.installed:
        yield f"{len(installed)} phones reported a good installation, {expected.installed} expected"
    good = {_reference_pcr(bank) for bank in parties.by(Role.BANK)}
    if {phone.installed_pcr for phone in installed} - good:
        yield "a bank stored a PCR value that is not the reference value"
    for party in parties.by(Role.SE):
        owners = [owner for owner in party.of(OWNERS) if owner.installed_pcr]
        if any(owner.installed_pcr not in good for owner in owners):
            yield "an SE keeps a PCR value that is not the reference value"
        if owners and any(owner.open for owner in owners) == (party.name in expected.closed):
            yield "an SE is closed after a good launch, or open after a bad one"


def _reference_pcr(bank: PartyData) -> bytes:
    path = bank.opened.settings.option_path("references") / f"{SOFTWARE}.cose"
    values = verify_reference_values(
        path.read_bytes(), bank_key=bank.opened.keys.sign.public, bank_id=bank.name,
        now_s=bank.opened.clock.now_s(),
    )  # fmt: skip
    return values.pcr10


def check_aid(parties: Parties, expected: Expected) -> Iterator[Finding]:
    """AID: bank and SE hold the same active accounts, keys, limits; credit adds up."""
    at_bank = {row.aid: row for row in parties.rows(Role.BANK, ANONYMOUS_ACCOUNTS) if row.state == "ACTIVE"}
    in_se = {row.aid: row for row in parties.rows(Role.SE, ACCOUNTS) if row.state == "ACTIVE"}
    if len(at_bank) != expected.accounts:
        yield f"{len(at_bank)} anonymous accounts are active, {expected.accounts} expected"
    if at_bank.keys() != in_se.keys():
        yield "bank and SE do not hold the same accounts"
    for aid in at_bank.keys() & in_se.keys():
        mine, theirs = in_se[aid], at_bank[aid]
        pk_aid = PrivateKey.from_bytes(mine.sk_aid).public.encoded
        if (mine.k_aid, pk_aid) != (theirs.k_aid, theirs.pk_aid):
            yield "bank and SE hold different keys of an account"
        if (mine.expires_at_s, mine.limit_minor) != (theirs.expires_at_s, theirs.limit_minor):
            yield "bank and SE differ on expiry or limit of an account"
    accounts, grants = parties.rows(Role.BANK, ANONYMOUS_ACCOUNTS), parties.rows(Role.BANK, GRANTS)
    for customer in parties.rows(Role.BANK, CUSTOMERS):
        lent = sum(lent_minor(row, grants) for row in accounts if row.customer == customer.customer)
        if lent != customer.granted_minor or lent > customer.limit_minor:
            yield "the limits of a customer's accounts do not add up"


def lent_minor(account: Any, grants: Iterable[Any]) -> int:
    """What an account takes of its owner's credit: its limit, and once all its grants are closed what it owes."""
    own = [grant for grant in grants if grant.aid == account.aid]
    return sum(map(owed_minor, own)) if own and all(grant.closed for grant in own) else int(account.limit_minor)


def check_tid(parties: Parties, expected: Expected) -> Iterator[Finding]:
    """TID: every live grant is one entry of TIDiList, promised by the bank, meant by the owner's SE."""
    entries = [entry for entry in parties.tsm.of(TID_LIST) if entry.state == "ACTIVE"]
    live = parties.rows(Role.BANK, LIVE_GRANTS)
    if len(entries) != expected.services:
        yield f"{len(entries)} entries of TIDiList are active, {expected.services} expected"
    if {(entry.aid, entry.sid_digest) for entry in entries} != {(grant.aid, grant.sid_digest) for grant in live}:
        yield "live grants at the banks are not the active entries at the TSM"
    held = {row.tid: row for row in parties.rows(Role.SE, SERVICE_KEYS)}
    signed = (row.signed for row in parties.tsm.of(EVIDENCE) if row.message == TsmInfo.NAME)
    infos = (TsmInfo.from_bytes(envelope.peek(TsmInfo, one).payload) for one in signed)
    shown = {sha256(info.sid): info.r for info in infos}
    grants = {(row.aid, row.sid_digest): row for row in parties.rows(Role.BANK, GRANTS)}
    keys = {row.tid: row for row in parties.tsm.of(SERVICES)}
    for entry in entries:
        service, grant = held.get(entry.tid), grants.get((entry.aid, entry.sid_digest))
        if service is None or service.k_tid != keys[entry.tid].k_tid:
            yield "TSM and SE hold different keys of a service account"
            continue
        if grant is None or not entry.com == grant.com == _commitment(entry, service, shown):
            yield "the commitment at bank, TSM and SE is not one and the same"
        yield from _check_promise(parties, entry)


def _commitment(entry: Any, service: Any, shown: dict[bytes, bytes]) -> bytes:
    """com as the SE can make it again for the first grant of a TID; for further credit, with the r that it signed."""
    r = service.r if service.sid == entry.sid else shown.get(entry.sid_digest, b"")
    return commitment(tid=entry.tid, pk_tid=entry.pk_tid, sid=entry.sid, r=r)


def _check_promise(parties: Parties, entry: Any) -> Iterator[Finding]:
    key = parties.tsm.opened.directory.named(entry.bank, Use.SIGN).key
    try:
        sign1 = envelope.peek(Promise, entry.promise)
        promise = Promise.from_bytes(cose.verify(sign1, key, name=Promise.NAME).payload)
    except ProtocolError:
        yield "an entry of TIDiList has no promise signed by its bank"
        return
    if (promise.aid, promise.sid, promise.limit_minor) != (entry.aid, entry.sid, entry.aid_limit_minor):
        yield "a bank promised something else than the TSM wrote down"


def check_card(parties: Parties, expected: Expected) -> Iterator[Finding]:
    """CARD: SE and TSM hold the same active cards; each certificate chains to the EMV CA and names no TID."""
    issued = {row.modulus_digest: row for row in parties.tsm.of(CARDS) if row.state == "ACTIVE"}
    held = {row.modulus_digest: row for row in parties.rows(Role.SE, VIRTUAL_CARDS) if row.state in _ISSUED}
    if len(issued) != expected.cards:
        yield f"{len(issued)} cards are active at the TSM, {expected.cards} expected"
    # The SE destroys a card that was read, once its opening is over: as many may be gone as purchases were asked for.
    gone = issued.keys() - held.keys()
    if held.keys() - issued.keys() or len(gone) > len(parties.tsm.of(PURCHASES)):
        yield "TSM and SE do not hold the same cards"
    ca_keys = read_ca_keys(parties.tsm.opened.settings.pki)
    today = datetime.datetime.fromtimestamp(parties.tsm.opened.clock.now_s(), tz=datetime.UTC).date()
    for digest in issued.keys() & held.keys():
        mine, theirs = held[digest], issued[digest]
        if (mine.pan, mine.k_ac) != (theirs.pan, theirs.k_ac):
            yield "TSM and SE hold different data of a card"
        yield from _check_emv(mine, theirs, ca_keys, today)


def _check_emv(mine: Any, theirs: Any, ca_keys: tuple[CaKey, ...], today: datetime.date) -> Iterator[Finding]:
    data = EmvData.from_bytes(mine.records)
    records = {(record.sfi, record.number): record.data for record in data.records}
    try:
        card = verify_card(
            aid=data.application, aip=data.aip, afl=data.afl, records=records, ca_keys=ca_keys, today=today
        )
    except ProtocolError as refusal:
        yield f"a card's certificates do not verify: {refusal.code}"
        return
    if sha256(card.icc.key.to_bytes()) != mine.modulus_digest:
        yield "a card's certificate is of another key"
    hidden = (theirs.tid.encode(), bytes.fromhex(theirs.tid.removeprefix("t-")))
    if any(part in mine.records for part in hidden):
        yield "a card's records name its TID"


_ISSUED: Final = ("ACTIVE", "SPENT")
"""A card in the SE: ready, or used as often as it may be. At the TSM it stays active, and is counted."""
CHECKS: Final[Mapping[str, Callable[[Parties, Expected], Iterator[Finding]]]] = {
    "INIT": check_init,
    "ATT": check_att,
    "AID": check_aid,
    "TID": check_tid,
    "CARD": check_card,
    "PAY": check_pay,
    "SETTLE": check_settle,
    "RENEW": check_card,
    "RECREDIT": check_recredit,
    "FREEZE": check_freeze,
    "TRACE": check_trace,
}
