"""Requests that race at a bank of several processes: an account is lent once, a claim counts once, a case ends once."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.arena import DATABASES, Arena, arena, race
from support.attacker import CorruptTsm, ForeignTid, Owner, read
from support.claims import TRANCHE, Desk
from support.counter import Counter
from support.skimmer import shopper
from support.tracing import BANK, Dispute

from protocol import cose, envelope
from protocol.engine import Peer
from protocol.envelope import Stamp, Wire
from protocol.errors import ProtocolError
from protocol.messages.claim import Claim
from protocol.messages.service import TsmInfo
from protocol.messages.trace import TraceProgress
from protocol.pki import Use
from protocol.roles.bank.audit import verify_rows
from protocol.roles.bank.officers import REFUSE, Officers
from protocol.roles.bank.tables import AUDIT_HEADS, AUDIT_LOG, GRANTS, LIVE_GRANTS, RECEIVED_CLAIMS, TRACE_SIGNATURES
from protocol.roles.books import prove_books
from protocol.roles.ledger import LEDGER
from protocol.rows import Conflict
from protocol.schema import Message
from protocol.types import Role

ROUNDS = 3


@pytest.fixture(params=DATABASES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Arena]:
    with arena(tmp_path, request.param, BANK) as made:
        yield made


def sealed(place: Arena, tsm: str, message: Message) -> Wire:
    """Signed by this TSM for the bank."""
    world = place.world
    stamp = Stamp.fresh(world.clock.now_s(), world.entropy)
    signed = envelope.sign(world.parties[tsm].value.keys.signer, message, audience=BANK, stamp=stamp)
    key = world.directory.named(BANK, Use.SEAL).key
    return Wire(cose=cose.seal(key, name=message.NAME, plaintext=signed))


def raced(place: Arena, rpc: str, *questions: tuple[str, Wire]) -> Tally[str]:
    """By which TSM, what: codes of refusals, empty for an answer."""
    results = race([
        place.ask(BANK, rpc, wire, Peer(role=Role.TSM, name=tsm), number)
        for number, (tsm, wire) in enumerate(questions)
    ])  # fmt: skip
    return Tally(result.code if isinstance(result, ProtocolError) else "" for result in results)


def test_one_account_asked_for_by_two_tsms_at_once_is_granted_to_one(place: Arena) -> None:
    """And to one of several sessions of each."""
    world = place.world
    world.add_tsm("tsm-2")
    phone = world.ready()
    for granted in range(1, ROUNDS + 1):
        aid = world.account(phone)
        owner = Owner.of(world, phone, aid)
        questions = []
        for tsm in ("tsm-1", "tsm-2") * 2:
            proof = ForeignTid.make(world, tsm=tsm).open().proof(owner)
            question = CorruptTsm(world, tsm).question(read(TsmInfo, proof.tsminfo), proof.binfo)
            questions.append((tsm, sealed(place, tsm, question)))
        assert raced(place, "Bank.ApproveGrant", *questions) == {"": 1, "AID_ALREADY_GRANTED": 3}
        store = place.stores[BANK][-1]
        assert [row.aid for row in store.scan(LIVE_GRANTS)].count(aid) == 1
        assert [row.state for row in store.scan(GRANTS)] == ["LIVE"] * granted


def test_two_claims_with_one_number_are_accepted_once(place: Arena) -> None:
    """A TSM that claims twice for one period gets one of the two; the very same claim again is acknowledged."""
    world = place.world
    phone, tid = shopper(world, number=1)
    counter, desk = Counter.open(world), Desk(world)
    counter.authorize(counter.ask(phone, tid, 15_000))
    (row,) = desk.make(early=True)
    (grant,) = place.stores[BANK][0].scan(GRANTS)
    claims = [
        Claim(
            aid=grant.aid, sid_digest=grant.sid_digest, sequence=row.sequence, claimed_minor=claimed_minor,
            credited_minor=0, currency="TWD", root=row.root, closing=False,
        )
        for claimed_minor in (TRANCHE, 2 * TRANCHE, 3 * TRANCHE)
    ]  # fmt: skip
    questions = [("tsm-1", sealed(place, "tsm-1", claim)) for claim in claims]
    assert raced(place, "Bank.SubmitClaim", *questions) == {"": 1, "CLAIM_OUT_OF_ORDER": 2}
    store = place.stores[BANK][-1]
    (received,) = store.scan(RECEIVED_CLAIMS)
    assert [entry.amount_minor for entry in store.scan(LEDGER)] == [received.claimed_minor]
    accepted = next(claim for claim in claims if claim.claimed_minor == received.claimed_minor)
    again = [("tsm-1", sealed(place, "tsm-1", accepted)) for _ in range(4)]
    assert raced(place, "Bank.SubmitClaim", *again) == {"": 4}
    assert len(store.scan(RECEIVED_CLAIMS)) == len(store.scan(LEDGER)) == 1
    assert [proof for proof in prove_books(Role.BANK, store) if proof.differences] == []


@pytest.mark.parametrize("refusing", [False, True])
def test_officers_at_once_end_a_case_once(place: Arena, refusing: bool) -> None:
    """Three approve, or two approve while one refuses; each by a process of their own. Two signatures name a person,
    one refusal ends it, and the log is one chain."""
    dispute = Dispute.arise(place.world)
    bank = place.world.parties[BANK]
    for number in range(ROUNDS):
        case = bytes([number + 1]) * 16
        purchase = dispute.buy()
        assert dispute.trace(purchase, case=case).state == TraceProgress.EXPECT_OFFICERS
        verdicts = {name: dispute.verdict(name, about=case) for name in dispute.officers}
        if refusing:
            verdicts["officer-3"] = dispute.verdict("officer-3", REFUSE, about=case)

        def submit(number: int, signed: bytes, case: bytes = case) -> str:
            store = place.stores[BANK][number % len(place.stores[BANK])]
            unit = Officers(bank.value, store).take(case, signed, dispute.now_s, dispute.world.entropy)
            while True:
                try:
                    state: str = store.apply(unit).reply.state
                except Conflict:
                    continue
                return state

        results = race([lambda n=n, v=v: submit(n, v) for n, v in enumerate(verdicts.values())])
        states = Tally(one.code if isinstance(one, ProtocolError) else one for one in results)
        ended = dispute.case(case)
        signatures = Tally(
            row.verdict for row in place.stores[BANK][-1].scan(TRACE_SIGNATURES) if row.case_id == case
        )  # fmt: skip
        if ended.state == TraceProgress.ANSWERED:
            assert (signatures, bool(ended.answer)) == ({"approve": 2}, True)
            assert states == {TraceProgress.EXPECT_OFFICERS: 1, TraceProgress.ANSWERED: 1, "WRONG_STATE": 1}
        else:
            assert refusing
            assert (ended.state, signatures["refuse"], ended.answer) == (TraceProgress.REFUSED, 1, b"")
            assert signatures["approve"] <= 1
    store = place.stores[BANK][-1]
    verify_rows(store.scan(AUDIT_LOG), store.scan(AUDIT_HEADS), bank=BANK, keys=[bank.value.keys.sign.public])
