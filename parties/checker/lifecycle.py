"""What must hold after SETTLE, RENEW, RECREDIT, FREEZE and TRACE, from the databases of all parties together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from parties.checker.expected import Expected, Finding, Parties
from parties.checker.keys import PartyData
from protocol.errors import LogBroken
from protocol.messages.stops import StopKind
from protocol.messages.trace import OFFICERS, TraceProgress
from protocol.roles.bank.audit import verify_rows
from protocol.roles.bank.tables import (
    ANONYMOUS_ACCOUNTS,
    AUDIT_HEADS,
    AUDIT_LOG,
    CUSTOMERS,
    RECEIVED_CLAIMS,
    TRACE_CASES,
    TRACE_SIGNATURES,
)
from protocol.roles.ledger import LEDGER, balances, merchant_account, tsm_account
from protocol.roles.merchant import SETTLEMENTS
from protocol.roles.tsm.tables import CLAIMS, PAYOUTS, SECOND_DRAWS, TID_LIST
from protocol.types import Role


def check_settle(parties: Parties, expected: Expected) -> Iterator[Finding]:
    """SETTLE: merchants hold just what the TSM paid, banks just what it claimed, and the ledgers agree."""
    paid = {(row.merchant, row.batch): (row.total_minor, row.currency) for row in parties.tsm.of(PAYOUTS)}
    held = {
        (merchant.name, row.batch): (row.total_minor, row.currency)
        for merchant in parties.by(Role.MERCHANT) for row in merchant.of(SETTLEMENTS) if row.state == "PAID"
    }  # fmt: skip
    if paid != held:
        yield "the TSM's payouts are not those that merchants hold"
    claimed = {
        (row.sid_digest, row.sequence): (row.claimed_minor, row.credited_minor, row.root, row.closing)
        for row in parties.tsm.of(CLAIMS) if row.state == "ACCEPTED"
    }  # fmt: skip
    accepted = {
        (row.sid_digest, row.sequence): (row.claimed_minor, row.credited_minor, row.root, row.closing)
        for row in parties.rows(Role.BANK, RECEIVED_CLAIMS)
    }
    if claimed != accepted:
        yield "the claims that banks accepted are not those of the TSM"
    if expected.settled and not paid:
        yield "no merchant was paid"
    yield from _check_ledgers(parties)


def _check_ledgers(parties: Parties) -> Iterator[Finding]:
    """Each pair of books says the same of the other, with the sign turned."""
    tsm = balances(parties.tsm.of(LEDGER))
    for merchant in parties.by(Role.MERCHANT):
        own = balances(merchant.of(LEDGER))
        for currency in {currency for _, currency in (*tsm, *own)}:
            owed = tsm.get((merchant_account(merchant.name), currency), 0)
            if owed + own.get((tsm_account(parties.tsm.name), currency), 0):
                yield f"the ledgers of the TSM and {merchant.name} differ"
    for bank in parties.by(Role.BANK):
        own = balances(bank.of(LEDGER))
        for currency in {currency for _, currency in (*tsm, *own)}:
            owed = tsm.get((f"bank/{bank.name}", currency), 0)
            if owed + own.get((tsm_account(parties.tsm.name), currency), 0):
                yield f"the ledgers of the TSM and {bank.name} differ"


def check_recredit(parties: Parties, expected: Expected) -> Iterator[Finding]:
    """RECREDIT: under one TID grants of different banks; a purchase that drew on two is in both banks' next claims."""
    banks: dict[str, list[str]] = {}
    for entry in parties.tsm.of(TID_LIST):
        if entry.state == "ACTIVE":
            banks.setdefault(entry.tid, []).append(entry.bank)
    several = [names for names in banks.values() if len(names) > 1]
    if len(several) != expected.recredited:
        yield f"{len(several)} service accounts have further credit, {expected.recredited} expected"
    if any(len(set(names)) != len(names) for names in several):
        yield "one bank granted twice under one service account"
    limits = {entry.sid_digest: entry for entry in parties.tsm.of(TID_LIST)}
    if len(parties.tsm.of(SECOND_DRAWS)) != expected.drawn_on_two:
        yield f"{len(parties.tsm.of(SECOND_DRAWS))} purchases drew on two grants, {expected.drawn_on_two} expected"
    for drawn in parties.tsm.of(SECOND_DRAWS):
        if not 0 < drawn.amount_minor <= limits[drawn.sid_digest].aid_limit_minor:
            yield "a second draw is nothing, or over its grant"


def check_freeze(parties: Parties, expected: Expected) -> Iterator[Finding]:
    """FREEZE: the TSM holds just what the banks stop now."""
    for bank in parties.by(Role.BANK):
        kinds = {row.customer: row.stop for row in bank.of(CUSTOMERS)}
        stopped = {
            row.aid: kinds[row.customer] for row in bank.of(ANONYMOUS_ACCOUNTS) if kinds.get(row.customer)
        }  # fmt: skip
        for entry in parties.tsm.of(TID_LIST):
            if entry.bank == bank.name and entry.state == "ACTIVE" and entry.bank_stop != stopped.get(entry.aid, ""):
                yield f"the TSM and {bank.name} differ on what is stopped"
    kinds_known = {"", *(kind.value for kind in StopKind)}
    if any(row.stop not in kinds_known for row in parties.rows(Role.BANK, CUSTOMERS)):
        yield "a customer's stop is of no known kind"


def check_trace(parties: Parties, expected: Expected) -> Iterator[Finding]:
    """TRACE: a person was named only with two officers' approvals, and the log of each bank is whole."""
    answered = 0
    for bank in parties.by(Role.BANK):
        approvals = Counter(row.case_id for row in bank.of(TRACE_SIGNATURES) if row.verdict == "approve")
        for case in bank.of(TRACE_CASES):
            is_answered = case.state == TraceProgress.ANSWERED
            answered += is_answered
            if is_answered != (approvals[case.case_id] >= OFFICERS):
                yield "a person was named without two officers, or two officers signed and nobody was named"
            if is_answered != bool(case.answer):
                yield "a case is answered without an answer, or the other way round"
        yield from _check_log(bank)
    if answered != expected.traced:
        yield f"{answered} persons were named, {expected.traced} expected"


def _check_log(bank: PartyData) -> Iterator[Finding]:
    try:
        verify_rows(bank.of(AUDIT_LOG), bank.of(AUDIT_HEADS), bank=bank.name, keys=[bank.opened.keys.sign.public])
    except LogBroken:
        yield f"the log of {bank.name} is broken"
