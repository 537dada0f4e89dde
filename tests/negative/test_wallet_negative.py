"""The wallet's flows against whoever answers: damaged, swapped, stale and refused replies end a flow with an error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from support.tape import Tape
from support.world import PASSCODE, SOFTWARE, Phone

from protocol.envelope import Wire
from protocol.errors import (
    DecryptionFailed,
    NonceMismatch,
    ProtocolError,
    SignatureInvalid,
    Unavailable,
    UnknownKey,
    WrongAudience,
    WrongMessage,
)
from protocol.roles.se.tables import ACCOUNTS, SERVICE_KEYS
from protocol.roles.wallet import (
    Exchanged,
    attest,
    close_service,
    enroll,
    fetch_reference_values,
    fetch_release,
    issue_cards,
    open_account,
    register,
    status,
)
from protocol.types import Purpose

Alter = Callable[[Wire], Wire]
FLOWS = ("enroll", "install", "report", "launch", "open_account", "register", "issue_cards", "close_service", "status")
"""Flows with the SE, each begun where the tape began it."""
CALLS = {
    "enroll": ("Bank.Challenge", 4), "install": ("Bank.Challenge", 4), "report": ("Bank.Challenge", 4),
    "launch": ("Bank.Challenge", 4), "open_account": ("SecureElement.BeginAccount", 7),
    "register": ("SecureElement.GenerateServiceKeys", 6), "issue_cards": ("SecureElement.SignService", 7),
    "close_service": ("SecureElement.SignService", 3), "status": ("SecureElement.Status", 1),
}  # fmt: skip
"""Flow → the RPC it begins with, and how many calls it makes."""
NTH = {"install": 1, "report": 2, "launch": 3, "issue_cards": 1, "close_service": 2}


def begin(tape: Tape, name: str) -> tuple[Phone, Any]:
    """The flow anew, in the world as it was before the taped one began."""
    rpc, _ = CALLS[name]
    tape.rewind(rpc, NTH.get(name, 0))
    phone = tape.phones["phone-1"]
    wallet, bank, tsm = phone.wallet, "bank-a", "tsm-1"
    (aid, tid) = _identifiers(tape)
    purposes = {"install": Purpose.INSTALL, "report": Purpose.REPORT, "launch": Purpose.LAUNCH}
    if name in purposes:
        return phone, attest(wallet, bank=bank, purpose=purposes[name], software=SOFTWARE)
    flows: dict[str, Callable[[], Any]] = {
        "enroll": lambda: enroll(wallet, bank=bank, branch_code=tape.branch_code(bank)),
        "open_account": lambda: open_account(wallet, bank=bank, tsm=tsm, software=SOFTWARE, passcode=PASSCODE),
        "register": lambda: register(wallet, tsm=tsm, aid=aid, maximum_minor=0),
        "issue_cards": lambda: issue_cards(wallet, tsm=tsm, tid=tid, number=2),
        "close_service": lambda: close_service(wallet, tsm=tsm, tid=tid),
        "status": lambda: status(wallet),
    }
    return phone, flows[name]()


def _identifiers(tape: Tape) -> tuple[str, str]:
    rows = tape.save()["rows"]["phone-1"]
    aids = [row.aid for row in rows.get(ACCOUNTS.name, {}).values()]
    tids = [row.tid for row in rows.get(SERVICE_KEYS.name, {}).values()]
    return (*aids, "none")[0], (*tids, "none")[0]


def drive(tape: Tape, name: str, at: int, alter: Alter) -> Any:
    """The flow, with the answer to its call number `at` altered. The SE must not change by what follows."""
    phone, flow = begin(tape, name)
    call = next(flow)
    for number in range(100):
        reply = tape.send(phone, call)
        if number == at:
            before = tape.snapshot(phone.name)
        exchanged = Exchanged(sent=call.wire, reply=alter(reply) if number == at else reply)
        try:
            call = flow.send(exchanged)
        except StopIteration as done:
            return done.value
        except ProtocolError:
            assert number == at
            raise
        if number == at:
            with pytest.raises(ProtocolError) as refusal:
                tape.send(phone, call)
            assert tape.snapshot(phone.name) == before
            raise refusal.value
    raise AssertionError


def every_call() -> list[tuple[str, int]]:
    return [(name, at) for name, (_, calls) in CALLS.items() for at in range(calls)]


@pytest.mark.parametrize("name", FLOWS)
def test_an_unaltered_flow_ends_well(bench, name: str) -> None:
    drive(bench.tape, name, -1, lambda reply: reply)
    phone, flow = begin(bench.tape, name)
    before = len(bench.tape.calls)
    bench.tape.run(phone, flow)
    direct = [call for call in bench.tape.calls[before:] if call[1] not in ("Bank.ApproveGrant", "Bank.ReleaseGrant")]
    assert len(direct) == CALLS[name][1]


@pytest.mark.parametrize(("name", "at"), every_call())
def test_a_damaged_answer(bench, name: str, at: int) -> None:
    def flip(place: int) -> Alter:
        def alter(reply: Wire) -> Wire:
            index = place % len(reply.cose)
            data = reply.cose[:index] + bytes([reply.cose[index] ^ 1]) + reply.cose[index + 1 :]
            return replace(reply, cose=data)

        return alter

    for place in (0, 1, 3, 40, 200, -1, -40, -70):
        with pytest.raises(ProtocolError):
            drive(bench.tape, name, at, flip(place))
    for cut in (0, 1, 50, -1):
        with pytest.raises(ProtocolError):
            drive(bench.tape, name, at, lambda reply, cut=cut: replace(reply, cose=reply.cose[:cut] or b"\x00"))
    with pytest.raises(ProtocolError):
        drive(bench.tape, name, at, lambda reply: replace(reply, cose=reply.cose + b"\x00"))


@pytest.mark.parametrize(("name", "at"), every_call())
def test_the_answer_to_another_request(bench, name: str, at: int) -> None:
    """Answers of the tape, to whichever request of whichever phone, in the place of the right one."""
    replies = {taken.reply.cose for taken in bench.tape.taken if isinstance(taken.reply, Wire)}
    kinds: set[str] = set()
    for other in sorted(replies)[at % 7 :: 7]:
        with pytest.raises(ProtocolError) as refusal:
            drive(bench.tape, name, at, lambda reply, other=other: replace(reply, cose=other))
        kinds.add(refusal.value.code)
    assert kinds <= {"SIGNATURE_INVALID", "WRONG_MESSAGE", "DECRYPTION_FAILED", "OVERSIZE", "MALFORMED"}


@pytest.mark.parametrize("name", FLOWS)
def test_one_who_cannot_be_reached(bench, name: str) -> None:
    """Unreachable is never untrusted: the flow ends with it, and the phone is where it was."""
    phone, flow = begin(bench.tape, name)
    next(flow)
    with bench.tape.unchanged(), pytest.raises(Unavailable) as refusal:
        flow.throw(Unavailable())
    assert refusal.value.code == "UNAVAILABLE"
    assert phone.name == "phone-1"


def test_nonce1_must_come_back(bench) -> None:
    """TID-2b: an SE that answers with another Nonce1 answers another question."""

    phone, flow = begin(bench.tape, "register")
    call = next(flow)
    for _ in range(2):
        call = flow.send(Exchanged(sent=call.wire, reply=bench.tape.send(phone, call)))
    letter = bench.ring.open(bench.tape.send(phone, call).cose, call.wire.digest)
    with pytest.raises(NonceMismatch) as refusal:
        flow.send(Exchanged(sent=call.wire, reply=Wire(cose=letter.written({"nonce1": bytes(32)}))))
    assert refusal.value.code == "NONCE_MISMATCH"


@pytest.mark.parametrize("fetch", ["release", "reference"])
def test_downloads(bench, fetch: str) -> None:
    """The provider's signature, for this request and its one-time key."""
    tape = bench.tape
    wallet = tape.phones["phone-1"].wallet

    def flow(provider: str = "sp-1") -> Any:
        if fetch == "release":
            return fetch_release(wallet, provider=provider, software=SOFTWARE)
        return fetch_reference_values(wallet, provider=provider, software=SOFTWARE, bank="bank-a")

    good = flow()
    call = next(good)
    with tape.unchanged():
        reply = tape.deliver(call.peer, call.rpc, call.wire, None)
    with pytest.raises(StopIteration):
        good.send(Exchanged(sent=call.wire, reply=reply))
    letter = bench.ring.open(reply.cose, call.wire.digest)
    other = next(flow())
    cases: list[tuple[Wire, bytes, type[ProtocolError]]] = [
        (call.wire, reply.cose[:-1] + bytes([reply.cose[-1] ^ 1]), SignatureInvalid),
        (other.wire, reply.cose, SignatureInvalid),
        (call.wire, letter.written(key=tape.once), SignatureInvalid),
        (call.wire, letter.written(name="challenge"), WrongMessage),
        (call.wire, letter.written(claims={"audience": "phone-1"}), WrongAudience),
        (call.wire, tape.take("Tsm.OpenAccount").reply.cose, WrongMessage),
    ]
    for sent, answer, error in cases:
        asked = flow()
        next(asked)
        with pytest.raises(error) as refusal:
            asked.send(Exchanged(sent=sent, reply=Wire(cose=answer)))
        assert refusal.value.code == error.code
    nobody = flow("sp-9")
    call = next(nobody)
    with pytest.raises(UnknownKey):
        nobody.send(Exchanged(sent=call.wire, reply=reply))


def test_the_wallet_believes_its_own_se_only(bench) -> None:
    tape = bench.tape
    phone, flow = begin(tape, "status")
    call = next(flow)
    reply = tape.send(phone, call)
    letter = bench.ring.open(reply.cose, call.wire.digest)
    other = tape.parties["phone-2"].value.key
    for altered in (letter.written(key=other), letter.written(key=phone.wallet_key)):
        _, again = begin(tape, "status")
        next(again)
        with pytest.raises(SignatureInvalid) as refusal:
            again.send(Exchanged(sent=call.wire, reply=Wire(cose=altered)))
        assert refusal.value.code == "SIGNATURE_INVALID"


def test_a_key_of_another_phone_opens_nothing(bench) -> None:
    """What is sealed to one SE is refused by the other: swapped replies of two phones in the same step."""
    tape = bench.tape
    for rpc in ("SecureElement.InstallAccount", "SecureElement.InstallPass", "SecureElement.InstallCards"):
        taken, letter = bench.rewind(rpc)
        theirs = next(t for t in tape.taken[: tape.start] if t.rpc == rpc)
        reply = bench.ring.request(theirs).message.reply
        bench.refused(taken, letter.written({"reply": reply}), DecryptionFailed)
