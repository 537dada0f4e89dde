"""Claims between real processes while things break: stored before they are sent, and accepted once."""

from __future__ import annotations

from collections import Counter

import pytest
from support.proxy import FaultProxy

from protocol.roles.bank.tables import GRANTS, RECEIVED_CLAIMS
from protocol.roles.tsm.tables import CLAIMS, TID_LIST

pytestmark = pytest.mark.real
PHONE = "phone-4"


@pytest.fixture(scope="module")
def aid(town) -> str:
    """An account with a grant that nothing was bought with."""
    town.running("bank-a", "tsm-1")
    town.launched(PHONE)
    opened: str = town.open_account(PHONE, name="claims")
    town.register(PHONE, opened)
    return opened


def received(town, aid: str) -> list[int]:
    """The numbers of the claims that the bank accepted of this account."""
    return [row.sequence for row in town.rows("bank-a", RECEIVED_CLAIMS) if row.aid == aid]


def states(town, aid: str) -> Counter[str]:
    (entry,) = (row for row in town.rows("tsm-1", TID_LIST) if row.aid == aid)
    return Counter(row.state for row in town.rows("tsm-1", CLAIMS) if row.sid_digest == entry.sid_digest)


@pytest.fixture
def claim(town, cli):
    def run(*options: str):
        return cli("tsm", "claim", "--settings", town.settings("tsm-1"), *options)

    return run


def test_a_claim_of_nothing_by_hand(town, aid, claim):
    before = received(town, aid)
    ran = claim("--now", "--json")
    assert ran.status == 0, ran.err
    (bank,) = (one for one in ran.json["banks"] if one["bank"] == "bank-a")
    grants = [row for row in town.rows("bank-a", GRANTS) if not row.closed]
    assert bank["sent"] == bank["accepted"] + bank["void"]
    assert bank["accepted"] >= len([row for row in grants if row.state == "LIVE"]) > 0
    assert (bank["refused"], bank["waiting"], bank["refusals"]) == (0, 0, {})
    assert received(town, aid) == [*before, len(before) + 1]
    ran = claim()
    assert (ran.status, ran.out) == (0, "no claim is due\n")
    assert "bank-a: " in claim("--now").out
    assert received(town, aid) == [*before, len(before) + 1, len(before) + 2]


def test_a_bank_that_comes_back_gets_what_was_stored_also_after_the_tsm_was_killed(town, aid, claim):
    before = received(town, aid)
    assert town.stop("bank-a") == 0
    ran = claim("--now")
    assert ran.status == 1
    assert "waiting for an answer" in ran.out
    assert states(town, aid)["EXPECT_BANK"] == 1
    town.kill("tsm-1")  # stored, and not sent
    town.running("bank-a")
    assert received(town, aid) == before
    town.running("tsm-1")
    town.until(lambda: states(town, aid)["EXPECT_BANK"], lambda waiting: waiting == 0)
    assert received(town, aid) == [*before, len(before) + 1]


def test_an_answer_that_was_lost_is_one_acceptance(town, aid, claim):
    before = received(town, aid)
    with FaultProxy(town.address("tsm-1", "bank-a")) as line, town.peer_address("tsm-1", "bank-a", line.address):
        line.cut_when = town.after_next("bank-a", "Bank.SubmitClaim")
        ran = claim("--now")
        assert line.cuts
    assert ran.status == 1
    town.until(lambda: len(received(town, aid)) > len(before) or states(town, aid)["EXPECT_BANK"] == 1)
    ran = claim()
    assert ran.status == 0, ran.out
    assert states(town, aid)["EXPECT_BANK"] == 0
    assert received(town, aid) == [*before, len(before) + 1]
    log = town.log("tsm-1") + town.log("bank-a")
    assert aid not in log
