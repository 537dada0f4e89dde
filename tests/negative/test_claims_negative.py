"""Bank.SubmitClaim against a TSM that lies, and the account's second grant: one row a lie, and nothing changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.claims import close_released, forged_claim, next_claim

from protocol.crypto import sha256
from protocol.errors import (
    AidAlreadyGranted,
    ClaimOutOfOrder,
    FieldMismatch,
    GrantUnknown,
    LimitExceeded,
    OverClaim,
    ProtocolError,
)
from protocol.messages.claim import Claim
from protocol.roles.bank.tables import CUSTOMERS, GRANTS, RECEIVED_CLAIMS, Grant
from protocol.roles.ledger import LEDGER, balances

RPC = "Bank.SubmitClaim"


def grant_of(bench, aid: str) -> Grant:
    (found,) = (row for row in bench.tape.parties["bank-a"].store.scan(GRANTS) if row.aid == aid)
    return found


def refused(bench, claim: Claim, error: type[ProtocolError], *, tsm: str = "tsm-1") -> None:
    with bench.tape.unchanged(), pytest.raises(error) as caught:
        forged_claim(bench.tape, claim, tsm=tsm)
    assert (type(caught.value), caught.value.code) == (error, error.code)


@pytest.fixture
def claimed(bench) -> Grant:
    """A grant of which one claim was accepted: 10,000 of a limit of 500,000."""
    taken, letter = bench.rewind(RPC)
    bench.tape.send_again(taken)
    grant = grant_of(bench, letter.message.aid)
    assert (grant.sequence, grant.claimed_minor, grant.credited_minor) == (1, 10_000, 0)
    return grant


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"aid": "a-other"}, GrantUnknown),
        ({"sid_digest": bytes(32)}, GrantUnknown),
        ({"currency": "EUR"}, FieldMismatch),
        ({"sequence": 0}, ClaimOutOfOrder),
        ({"sequence": 2}, ClaimOutOfOrder),
        ({"claimed_minor": 1}, OverClaim),
        ({"claimed_minor": 9_999}, OverClaim),
        ({"claimed_minor": 20_000, "credited_minor": 5_000}, OverClaim),
        ({"claimed_minor": 510_000}, OverClaim),
        ({"credited_minor": 20_000}, OverClaim),
    ],
)
def test_a_first_claim(bench, fields: Any, error: type[ProtocolError]) -> None:
    bench.forged(RPC, fields, error)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"sequence": 1}, ClaimOutOfOrder),  # the same number, and another root
        ({"sequence": 0}, ClaimOutOfOrder),
        ({"sequence": 3}, ClaimOutOfOrder),
        ({"claimed_minor": 0}, ClaimOutOfOrder),
        ({"claimed_minor": 510_000 + 10_000}, OverClaim),
        ({"claimed_minor": 10_001}, OverClaim),
        ({"claimed_minor": 10_001, "credited_minor": 1}, OverClaim),
        ({"credited_minor": 5_000}, OverClaim),
        ({"claimed_minor": 10_000, "credited_minor": 20_000}, OverClaim),
        ({"claimed_minor": 10_000, "credited_minor": 10_001, "closing": True}, OverClaim),
        ({"claimed_minor": 500_001, "closing": True}, OverClaim),
        ({"claimed_minor": 9_999, "closing": True}, ClaimOutOfOrder),
    ],
)
def test_the_next_claim(bench, claimed: Grant, fields: Any, error: type[ProtocolError]) -> None:
    refused(bench, next_claim(claimed, **fields), error)


@pytest.mark.parametrize(
    "fields",
    [
        {"claimed_minor": 500_000},
        {"claimed_minor": 520_000, "credited_minor": 20_000},
        {"credited_minor": 10_000},
        {"claimed_minor": 499_999, "closing": True},
    ],
)
def test_at_the_bounds_a_claim_is_accepted(bench, claimed: Grant, fields: Any) -> None:
    claim = next_claim(claimed, **fields)
    assert forged_claim(bench.tape, claim).plain() == claim.plain()
    sums = balances(bench.tape.parties["bank-a"].store.scan(LEDGER))
    assert sums[f"aid/{claimed.aid}", "TWD"] == claim.claimed_minor - claim.credited_minor
    assert sum(sums.values()) == 0


def test_the_claim_that_was_accepted_is_acknowledged_in_a_new_envelope(bench, claimed: Grant) -> None:
    """Its answer may have been lost for longer than a signature lives; every other claim of that number is refused."""
    (received,) = (row for row in bench.tape.parties["bank-a"].store.scan(RECEIVED_CLAIMS) if row.aid == claimed.aid)
    same = next_claim(claimed, sequence=1, root=received.root)
    with bench.tape.unchanged("requests", "evidence"):
        assert forged_claim(bench.tape, same).plain() == same.plain()
    for fields in ({"claimed_minor": 20_000}, {"credited_minor": 10_000}, {"root": bytes(32)}, {"closing": True}):
        refused(bench, replace(same, **fields), ClaimOutOfOrder)
    forged_claim(bench.tape, next_claim(claimed))
    refused(bench, same, ClaimOutOfOrder)  # not the last one any more


def test_a_claim_of_what_another_tsm_holds(bench, claimed: Grant) -> None:
    refused(bench, next_claim(claimed), GrantUnknown, tsm="tsm-2")


def test_after_the_close_only_credit_notes(bench, claimed: Grant) -> None:
    forged_claim(bench.tape, next_claim(claimed, claimed_minor=12_345, closing=True))
    closed = grant_of(bench, claimed.aid)
    assert (closed.closed, closed.state) == (True, "RELEASED")
    refused(bench, next_claim(closed, closing=False), ClaimOutOfOrder)
    refused(bench, next_claim(closed, claimed_minor=12_346), OverClaim)
    refused(bench, next_claim(closed, claimed_minor=12_345, credited_minor=12_346), OverClaim)
    forged_claim(bench.tape, next_claim(closed, credited_minor=45))
    again = grant_of(bench, claimed.aid)
    refused(bench, next_claim(again, credited_minor=44), ClaimOutOfOrder)
    (customer,) = (
        row for row in bench.tape.parties["bank-a"].store.scan(CUSTOMERS) if row.granted_minor == 12_300
    )  # fmt: skip
    assert customer.limit_minor == 2_000_000


# --- an account's second grant ---------------------------------------------------------------------------------------
def second_session(bench, letter: Any) -> bytes:
    binfo = bench.ring.open(letter.message.binfo).written({"sid": b"another session"})
    signed: bytes = letter.written({"sid": b"another session", "binfo": binfo, "binfo_digest": sha256(binfo)})
    return signed


def release(bench) -> Any:
    """ApproveGrant's own grant, released again; the forged second question."""
    taken, letter = bench.rewind("Bank.ApproveGrant")
    bench.tape.send_again(taken)
    question = second_session(bench, letter)
    given_back = bench.tape.take("Bank.ReleaseGrant")
    bench.tape.clock.time_s = given_back.before["time_s"]
    bench.tape.deliver(given_back.peer, given_back.rpc, given_back.wire, given_back.caller)
    return taken, question, letter.message.aid


def test_an_account_that_was_spent_from_is_not_granted_again(bench) -> None:
    taken, question, aid = release(bench)
    bench.refused(taken, question, AidAlreadyGranted)  # not closed
    forged_claim(bench.tape, next_claim(grant_of(bench, aid), claimed_minor=10_000))
    bench.refused(taken, question, AidAlreadyGranted)  # claimed, and not closed
    bench.tape.amend("bank-a", GRANTS, closed=True)
    bench.refused(taken, question, AidAlreadyGranted)  # closed, and something is owed


def test_an_account_whose_credit_went_elsewhere_is_not_granted_again(bench) -> None:
    """The closing claim freed it, and the customer opened other accounts with it meanwhile."""
    taken, question, _aid = release(bench)
    close_released(bench.tape)
    before = bench.tape.save()
    bench.tape.amend("bank-a", CUSTOMERS, granted_minor=1_500_001)
    bench.refused(taken, question, LimitExceeded)
    bench.tape.restore(before)
    bench.tape.amend("bank-a", CUSTOMERS, granted_minor=1_500_000)
    bench.tape.deliver(taken.peer, taken.rpc, replace(taken.wire, cose=question), taken.caller)
    assert 2_000_000 in {row.granted_minor for row in bench.tape.parties["bank-a"].store.scan(CUSTOMERS)}
