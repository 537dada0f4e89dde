"""Every request of a whole run, damaged or misdirected in every way that needs no key: refused, and nothing changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from support.tape import Taken

from protocol.engine import Peer
from protocol.envelope import Wire
from protocol.errors import NoCard, ProtocolError, PurchaseUnknown, UnknownKey, WrongState

STRIDE = 11
"""Every eleventh byte is flipped, another bit of it each time, from another start for each request."""


def damaged(taken: Taken) -> Iterator[Wire]:
    cose, session = taken.wire.cose, taken.wire.session
    for at in range(taken.index % STRIDE, len(cose), STRIDE):
        yield replace(taken.wire, cose=_flipped(cose, at))
    for at in range(0, len(session), STRIDE):
        yield replace(taken.wire, session=_flipped(session, at))
    for length in (0, 1, 2, len(cose) // 3, len(cose) // 2, len(cose) - 65, len(cose) - 1):
        yield replace(taken.wire, cose=cose[:length])
        yield replace(taken.wire, cose=cose[length:] if length else b"\x00" + cose)
    for tail in (b"\x00", b"\xf6", cose):
        yield replace(taken.wire, cose=cose + tail)
    yield replace(taken.wire, session=session + b"\x00")
    yield Wire(cose=cose[1:], session=session)


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :]


REQUESTS = 65
"""On the tape of the first phone's way through all phases."""


@pytest.fixture(params=range(REQUESTS))
def taken(request: pytest.FixtureRequest, bench) -> Taken:
    assert len(bench.tape.taken) == bench.tape.start + REQUESTS
    taken: Taken = bench.tape.taken[bench.tape.start + request.param]
    bench.tape.restore(taken.before)
    return taken


def refused(bench, peer: str, rpc: str, wire: Wire, caller: Peer | None) -> None:
    with pytest.raises(ProtocolError) as refusal:
        bench.tape.deliver(peer, rpc, wire, caller)
    assert refusal.value.code


def test_damaged(bench, taken: Taken) -> None:
    with bench.tape.unchanged():
        for wire in damaged(taken):
            refused(bench, taken.peer, taken.rpc, wire, taken.caller)
    bench.tape.send_again(taken)  # and the request itself is still good


def test_to_another_rpc(bench, taken: Taken) -> None:
    with bench.tape.unchanged():
        for rpc in bench.tape.parties[taken.peer].steps:
            if rpc != taken.rpc:
                refused(bench, taken.peer, rpc, taken.wire, taken.caller)


def test_to_another_party(bench, taken: Taken) -> None:
    others = [name for name, party in bench.tape.parties.items() if taken.rpc in party.steps and name != taken.peer]
    assert others
    with bench.tape.unchanged():
        for name in others:
            refused(bench, name, taken.rpc, taken.wire, taken.caller)


def test_in_another_session(bench, taken: Taken) -> None:
    sessions = {other.wire.session for other in bench.tape.taken} - {taken.wire.session}
    assert len(sessions) > 6
    with bench.tape.unchanged():
        for session in sessions:
            refused(bench, taken.peer, taken.rpc, replace(taken.wire, session=session), taken.caller)


BEGINNING = {
    "Bank.Challenge": None,
    "SecureElement.Quote": None,
    "SecureElement.GenerateServiceKeys": None,
    "Bank.RequestAccount": ("Bank.Challenge", "Bank.VerifyLaunch"),
    "Tsm.ProveCredit": ("Tsm.OpenAccount",),
}
"""Requests that begin something, and what may be missing before them (anything, for None).

The bank leaves it to the SE that a launch comes before the first account; a TSM keeps nothing of TID-1.
"""


ISSUED = 37
"""So many requests until the cards are active. From then on each has a few conditions only, which are listed."""


def test_before_its_time(bench, taken: Taken) -> None:
    """Any later request to the same party, while this one has not come yet."""
    with bench.tape.unchanged():
        for other in bench.tape.taken[taken.index + 1 : bench.tape.start + ISSUED]:
            missing = BEGINNING.get(other.rpc, ())
            if other.peer == taken.peer and missing is not None and taken.rpc not in missing:
                refused(bench, other.peer, other.rpc, other.wire, other.caller)


CONDITIONS: tuple[tuple[str, tuple[str, int], type[ProtocolError]], ...] = (
    ("Tsm.Authorize", ("Tsm.SignOn", 0), UnknownKey),
    ("Tsm.AuthorizeBatch", ("Tsm.SignOn", 0), UnknownKey),
    ("Tsm.Reverse", ("Tsm.SignOn", 0), UnknownKey),
    ("Tsm.Refund", ("Tsm.SignOn", 0), UnknownKey),
    ("Tsm.Refund", ("Tsm.Authorize", 0), PurchaseUnknown),
    ("Merchant.GetSale", ("Merchant.StartSale", 0), PurchaseUnknown),
    ("Merchant.RefundSale", ("Merchant.StartSale", 0), PurchaseUnknown),
    ("Merchant.RefundSale", ("Tsm.Authorize", 0), WrongState),
    ("Merchant.CancelSale", ("Merchant.StartSale", 1), PurchaseUnknown),
    ("SecureElement.OpenCard", ("SecureElement.MakeBankInfo", 0), WrongState),
    ("SecureElement.OpenCard", ("SecureElement.GenerateCardKeys", 0), NoCard),
    ("SecureElement.OpenCard", ("SecureElement.InstallCards", 0), NoCard),
    ("SecureElement.OpenCard", ("SecureElement.OpenService", 1), NoCard),
    ("SecureElement.VerifyPin", ("SecureElement.OpenCard", 0), WrongState),
    ("SecureElement.VerifyPin", ("SecureElement.OpenCard", 1), WrongState),
    ("SecureElement.ReopenPin", ("SecureElement.SetPin", 0), WrongState),
    ("SecureElement.ReopenPin", ("SecureElement.VerifyPin", 0), WrongState),
)


@pytest.mark.parametrize(("rpc", "before", "error"), CONDITIONS)
def test_paying_before_its_time(bench, rpc: str, before: tuple[str, int], error: type[ProtocolError]) -> None:
    """The request comes while what it needs has not come yet."""
    taken = bench.tape.take(rpc)
    bench.tape.restore({**bench.tape.take(*before).before, "time_s": taken.before["time_s"]})
    bench.refused(taken, taken.wire, error)
