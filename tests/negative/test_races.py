"""Two requests at once: what was read while a message was opened may have changed by the time of the decision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from support.meanwhile import meanwhile
from support.world import SOFTWARE

from protocol.errors import (
    BranchCodeInvalid,
    FieldMismatch,
    PaymentClosed,
    ProtocolError,
    UnknownSession,
    WrongState,
)
from protocol.messages.se import Statement
from protocol.roles.bank.tables import CUSTOMERS
from protocol.roles.se.tables import OWNERS
from protocol.roles.wallet import Exchanged, attest
from protocol.rows import Decision, Unit, Update
from protocol.types import Purpose

SE = "SecureElement."
LONG_S = 3 * 3600


def refused(bench: Any, rpc: str, action: Callable[[], object], error: type[ProtocolError], n: int = 0) -> None:
    taken, _ = bench.rewind(rpc, n)
    with meanwhile(bench.tape, taken.peer, action), pytest.raises(error) as refusal:
        bench.tape.send_again(taken)
    assert type(refusal.value) is error
    assert refusal.value.code == error.code


@pytest.mark.parametrize("rpc", ["Bank.CertifyAccount", "Bank.ActivateAccount", "Tsm.IssueCards", "Tsm.ActivateCards"])
def test_a_session_that_is_swept_meanwhile(bench, rpc: str) -> None:
    tape = bench.tape
    store = tape.parties[tape.take(rpc).peer].store
    refused(bench, rpc, lambda: store.sweep(tape.clock.now_s() + LONG_S), UnknownSession)


def test_cards_that_are_swept_before_they_are_filled(bench) -> None:
    """The keys of a request that was given up long ago are gone when its answer comes after all."""
    tape = bench.tape
    store = tape.parties["phone-1"].store
    refused(bench, SE + "InstallCards", lambda: store.sweep(tape.clock.now_s() + 100 * 24 * 3600), FieldMismatch)


def test_a_branch_code_that_is_used_meanwhile(bench) -> None:
    """Two phones with one code, both opened while it was good: one of them gets it."""
    store = bench.tape.parties["bank-a"].store

    def used() -> None:
        (customer,) = [row for row in store.scan(CUSTOMERS) if row.state == "EXPECT_PHONE"]
        after = replace(customer, state="ENROLLED", branch_ref=bytes(32))
        store.apply(Unit((), lambda rows: Decision(writes=(Update(CUSTOMERS, after),))))

    refused(bench, "Bank.Enroll", used, BranchCodeInvalid)


def _again(bench: Any, rpc: str, n: int = 0, **fields: Any) -> Callable[[], object]:
    """Another command of the same kind as the taped one."""
    taken = bench.tape.take(SE + rpc, n)
    wire = replace(taken.wire, cose=bench.ring.request(taken).written(fields))

    def send() -> object:
        return bench.tape.deliver(taken.peer, taken.rpc, wire, None)

    return send


def test_another_enrollment_begins_meanwhile(bench) -> None:
    refused(bench, SE + "InstallIdentity", _again(bench, "Enroll"), WrongState)


def test_another_quote_is_made_meanwhile(bench) -> None:
    refused(bench, SE + "AcceptDecision", _again(bench, "Quote", 2), WrongState, n=2)


@pytest.mark.parametrize(("rpc", "n"), [("GenerateCardKeys", 0), ("InstallCards", 0), ("OpenService", 1)])
def test_another_statement_is_made_meanwhile(bench, rpc: str, n: int) -> None:
    for statement in (Statement.CARD_REQUEST, Statement.CLOSE_ACCOUNT):
        action = _again(bench, "SignService", 1, statement=statement)
        refused(bench, SE + rpc, action, WrongState, n=n)


def test_the_phone_closes_meanwhile(bench) -> None:
    """A decision that closes the SE between opening and deciding: the later one sees it."""
    refused(bench, SE + "BeginAccount", lambda: bench.tape.amend("phone-1", OWNERS, open=False), PaymentClosed)


def test_an_account_is_closed_while_its_cards_are_made(bench) -> None:
    """No card comes to life under a grant that is being given back."""
    tape = bench.tape
    close = tape.take("Tsm.CloseAccount")
    wire = replace(close.wire, cose=bench.ring.request(close).written(claims=_now(bench, "Tsm.IssueCards")))

    def closing() -> None:
        tape.deliver("tsm-1", close.rpc, wire, None)

    refused(bench, "Tsm.IssueCards", closing, WrongState)


def _now(bench: Any, rpc: str) -> dict[str, int]:
    now_s = bench.tape.take(rpc).before["time_s"]
    return {"issued_at_s": now_s, "expires_at_s": now_s + 60}


def test_the_same_bytes_twice_at_once(bench) -> None:
    """Two threads open the same request before either decides: one effect, one answer."""
    tape = bench.tape
    seen = set()
    for taken in tape.taken[tape.start :]:
        if taken.rpc in seen:
            continue
        seen.add(taken.rpc)
        tape.restore(taken.before)
        replies = []

        def first(taken: Any = taken, replies: Any = replies) -> None:
            replies.append(tape.send_again(taken))
            replies.append(tape.save()["rows"])

        with meanwhile(bench.tape, taken.peer, first):
            reply = tape.send_again(taken)
        if not replies:
            continue  # a query keeps nothing, and commits nothing
        assert tape.save()["rows"] == replies[1]
        one, other = (bench.ring.open(each.cose, taken.wire.digest) for each in (reply, replies[0]))
        assert one.sign1.wire == other.sign1.wire


def test_two_launches_at_once(bench) -> None:
    """The bank's challenge is used once: of two answers to it, one counts."""
    tape = bench.tape
    tape.rewind(SE + "BeginAccount")
    phone = tape.phones["phone-1"]
    flows = [attest(phone.wallet, bank="bank-a", purpose=Purpose.LAUNCH, software=SOFTWARE) for _ in range(2)]
    with pytest.raises(ProtocolError) as refusal:
        _interleave(tape, phone, flows)
    assert refusal.value.code == "NONCE_MISMATCH"
    assert tape.launch(phone) == ""


def _interleave(tape: Any, phone: Any, flows: list[Any]) -> None:
    calls = [next(flow) for flow in flows]
    for _ in range(4):
        for number, flow in enumerate(flows):
            reply = tape.send(phone, calls[number])
            calls[number] = flow.send(Exchanged(sent=calls[number].wire, reply=reply))
