"""SETTLE: a TSM's claims on the bank, in whole tranches and in order, exact at the close (design §3)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import pytest
from conformance.bundle import Bundle
from conformance.calls import refused
from conformance.drafts import Draft
from conformance.phone import Account, Phone
from conformance.service import PlayedTsm
from conformance.wire import BadWire, Key, Signed, Signer, envelope_digest, sha256, unseal

TRANCHE = 10_000


@dataclass
class Granted:
    """A grant that the suite's TSM holds, and the truth of the claim that comes next."""

    account: Account
    tsm: PlayedTsm
    sid: bytes
    sequence: int = 0

    def claim(self, **fields: Any) -> Draft[Signed]:
        said = {
            "aid": self.account.aid, "sid_digest": sha256(self.sid), "sequence": self.sequence + 1, "claimed_minor": 0,
            "credited_minor": 0, "currency": self.account.currency, "root": os.urandom(32), "closing": False, **fields,
        }  # fmt: skip
        return self.tsm.claim(said)

    def accepted(self, **fields: Any) -> Signed:
        """The next claim, which the bank takes."""
        draft = self.claim(**fields)
        answer = draft.send()
        assert answer.payload == draft.payload
        self.sequence = draft.payload["sequence"]
        return answer


@pytest.fixture
def grant(account: Account, played_tsm: PlayedTsm) -> Granted:
    draft = played_tsm.ask(account)
    draft.send()
    return Granted(account, played_tsm, draft.payload["sid"])


def test_SETTLE_a_claim_of_nothing_and_of_whole_tranches(grant: Granted) -> None:
    grant.accepted()
    grant.accepted(claimed_minor=TRANCHE)
    grant.accepted(claimed_minor=TRANCHE)
    grant.accepted(claimed_minor=2 * TRANCHE, credited_minor=TRANCHE)


def test_SETTLE_refuses_totals_that_are_not_in_tranches(grant: Granted) -> None:
    for totals in ({"claimed_minor": 1}, {"claimed_minor": TRANCHE + 1}, {"claimed_minor": TRANCHE - 1}):
        with refused("OVER_CLAIM"):
            grant.claim(**totals).send()
    grant.accepted(claimed_minor=2 * TRANCHE)
    with refused("OVER_CLAIM"):
        grant.claim(claimed_minor=2 * TRANCHE, credited_minor=1).send()


def test_SETTLE_refuses_more_than_was_granted(grant: Granted) -> None:
    limit_minor = grant.account.limit_minor
    with refused("OVER_CLAIM"):
        grant.claim(claimed_minor=(limit_minor // TRANCHE + 1) * TRANCHE).send()
    with refused("OVER_CLAIM"):
        grant.claim(claimed_minor=limit_minor + 1, closing=True).send()
    with refused("OVER_CLAIM"):
        grant.claim(claimed_minor=TRANCHE, credited_minor=2 * TRANCHE).send()
    grant.accepted(claimed_minor=limit_minor, closing=True)


def test_SETTLE_refuses_a_number_repeated_or_skipped_and_totals_that_fall(grant: Granted) -> None:
    for sequence in (0, 2):
        with refused("CLAIM_OUT_OF_ORDER"):
            grant.claim(sequence=sequence).send()
    grant.accepted(claimed_minor=2 * TRANCHE, credited_minor=TRANCHE)
    for fields in (
        {"sequence": 1},
        {"sequence": 3},
        {"claimed_minor": TRANCHE, "credited_minor": TRANCHE},
        {"claimed_minor": 2 * TRANCHE, "credited_minor": 0},
    ):
        with refused("CLAIM_OUT_OF_ORDER"):
            grant.claim(**{"claimed_minor": 2 * TRANCHE, "credited_minor": TRANCHE, **fields}).send()


def test_SETTLE_the_same_claim_is_acknowledged_again(grant: Granted) -> None:
    """Under its own bytes, and, being the last one accepted, under a new signature."""
    draft = grant.claim(claimed_minor=TRANCHE)
    cose = draft.cose()
    assert draft.post(cose).payload == draft.post(cose).payload == draft.send().payload
    with refused("CLAIM_OUT_OF_ORDER"):
        draft.send(fields={"root": os.urandom(32)})


def test_SETTLE_the_close_is_exact_and_after_it_there_are_only_credit_notes(grant: Granted) -> None:
    grant.accepted(claimed_minor=TRANCHE + 345, closing=True)
    with refused("CLAIM_OUT_OF_ORDER"):
        grant.claim(claimed_minor=TRANCHE + 345).send()
    with refused("OVER_CLAIM"):
        grant.claim(claimed_minor=TRANCHE + 346, closing=True).send()
    grant.accepted(claimed_minor=TRANCHE + 345, credited_minor=45, closing=True)
    with refused("AID_ALREADY_GRANTED", "WRONG_STATE"):
        grant.tsm.ask(grant.account).send()


def test_SETTLE_refuses_another_account_session_or_currency(grant: Granted) -> None:
    with refused("GRANT_UNKNOWN"):
        grant.claim(aid="a-00000000000000000000000000000000").send()
    with refused("GRANT_UNKNOWN"):
        grant.claim(sid_digest=os.urandom(32)).send()
    with refused("FIELD_MISMATCH"):
        grant.claim(currency="XXX").send()


def test_SETTLE_refuses_who_is_no_tsm(ready: Phone, bundle: Bundle, grant: Granted) -> None:
    draft = grant.claim()
    with refused("WRONG_PEER"):
        grant.tsm.claim(draft.payload, connection=ready.connection).send()
    with refused("WRONG_ISSUER", "UNKNOWN_KEY"):
        grant.claim().send(signer=ready.by_se)
    with refused("UNKNOWN_KEY", "SIGNATURE_INVALID", "WRONG_ISSUER"):
        grant.claim().send(signer=Signer(grant.tsm.name, Key.new()))
    with refused("UNKNOWN_KEY", "WRONG_ISSUER"):
        grant.claim().send(signer=bundle.merchants[0].signer)


def test_SETTLE_only_who_claimed_can_read_the_answer(grant: Granted) -> None:
    draft = grant.claim()
    cose = draft.cose()
    answer = draft.to.call(draft.rpc, cose)
    key = grant.tsm.party.seal
    assert unseal(key, answer, "claim-accepted", envelope_digest(cose))
    for other, digest in ((Key.new(), envelope_digest(cose)), (key, envelope_digest(b"another"))):
        with pytest.raises(BadWire):
            unseal(other, answer, "claim-accepted", digest)
