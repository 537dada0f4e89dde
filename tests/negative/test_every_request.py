"""What holds for every RPC alike: claims, keys, forms, repeats. One table of RPCs, one test a forgery."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.forge import ENTROPY

from protocol import codec
from protocol.crypto import PrivateKey
from protocol.engine import Peer, StatelessStep
from protocol.envelope import Wire
from protocol.errors import (
    DecryptionFailed,
    Expired,
    LifetimeTooLong,
    Malformed,
    NotYetValid,
    Oversize,
    ProtocolError,
    Replay,
    SignatureInvalid,
    UnknownKey,
    UnknownSession,
    WrongAudience,
    WrongIssuer,
    WrongMessage,
    WrongPeer,
    WrongState,
)
from protocol.roles.bank import bank_steps
from protocol.roles.merchant import merchant_steps
from protocol.roles.se import se_steps
from protocol.roles.sp import sp_steps
from protocol.roles.tsm import tsm_steps
from protocol.types import Role

BANK = (
    "Bank.Challenge", "Bank.Enroll", "Bank.ApproveInstall", "Bank.ReportInstall", "Bank.VerifyLaunch",
    "Bank.RequestAccount", "Bank.CertifyAccount", "Bank.ActivateAccount", "Bank.ApproveGrant", "Bank.ReleaseGrant",
    "Bank.ListStops", "Bank.RequestTrace", "Bank.SubmitClaim",
)  # fmt: skip
TSM = (
    "Tsm.OpenAccount", "Tsm.ProveCredit", "Tsm.RequestCards", "Tsm.IssueCards", "Tsm.ActivateCards", "Tsm.SignOn",
    "Tsm.CloseAccount",
)  # fmt: skip
SETTLE = ("Tsm.SettleBatch",)
TERMINAL = ("Tsm.Authorize", "Tsm.AuthorizeBatch", "Tsm.Reverse", "Tsm.Refund")
TILL = ("Merchant.StartSale", "Merchant.GetSale", "Merchant.CancelSale", "Merchant.RefundSale")
SE = tuple(
    f"SecureElement.{name}"
    for name in (
        "Enroll", "InstallIdentity", "Measure", "Quote", "AcceptDecision", "BeginAccount", "GenerateAccountKeys",
        "InstallAccount", "InstallPass", "GenerateServiceKeys", "MakeBankInfo", "SignService", "OpenService",
        "GenerateCardKeys", "InstallCards", "OpenCard", "SetPin", "VerifyPin", "ReopenPin", "Status",
    )
)  # fmt: skip
SP = ("SoftwareProvider.GetRelease", "SoftwareProvider.GetReferenceValues")
ALL = (*BANK, *TSM, *SETTLE, *TERMINAL, *TILL, *SE, *SP)
STATELESS = (
    "Bank.ListStops", "Tsm.OpenAccount", "Merchant.GetSale", "SecureElement.Measure", "SecureElement.Status", *SP,
)  # fmt: skip
KEEPING = tuple(rpc for rpc in ALL if rpc not in STATELESS)

SESSIONS = {
    "Bank.CertifyAccount": UnknownSession, "Bank.ActivateAccount": UnknownSession, "Tsm.ProveCredit": UnknownSession,
    "Tsm.IssueCards": UnknownSession, "Tsm.ActivateCards": UnknownSession, "Tsm.CloseAccount": UnknownSession,
}  # fmt: skip
"""RPCs that belong to a session; all others take none."""
BY_KID = (
    "Bank.Challenge", "Bank.ApproveInstall", "Bank.ReportInstall", "Bank.VerifyLaunch", "Bank.RequestAccount",
    "Bank.ApproveGrant", "Bank.ReleaseGrant", "Bank.ListStops", "Bank.RequestTrace", "Bank.SubmitClaim",
    "Tsm.RequestCards", "Tsm.SignOn", *SETTLE,
    *TERMINAL, *TILL,
)  # fmt: skip
"""RPCs that look the signer up by its thumbprint: a stranger's key is unknown there, elsewhere it does not verify."""
PLAIN = ("Bank.Challenge", "Bank.Enroll", "Bank.ListStops", "Tsm.SignOn", *SETTLE, *TERMINAL, *TILL, *SE, *SP)
PEERED = {
    "Bank.Challenge": (Role.PHONE, Role.SE), "Bank.Enroll": (Role.PHONE, Role.SE), "Bank.ApproveGrant": (Role.TSM,),
    "Bank.ReleaseGrant": (Role.TSM,), "Bank.ListStops": (Role.TSM,), "Bank.RequestTrace": (Role.TSM,),
    "Bank.SubmitClaim": (Role.TSM,),
    "Tsm.SignOn": (Role.MERCHANT,),
    **dict.fromkeys((*SETTLE, *TERMINAL, *TILL), (Role.MERCHANT,)),
}  # fmt: skip
"""RPCs whose signer must also be who the transport says."""
MOVED_ON = {
    "SecureElement.GenerateAccountKeys": DecryptionFailed,
    "SecureElement.InstallAccount": DecryptionFailed,
    "SecureElement.OpenService": WrongState,
    "SecureElement.GenerateCardKeys": WrongState,
    "SecureElement.InstallCards": WrongState,
}
"""Where a used nonce comes too late to be noticed: the step's own state has moved on, and says so first."""
HOUR_S = 3600


def test_the_table_names_every_step(bench) -> None:
    parties = bench.tape.parties
    made = (
        bank_steps(parties["bank-a"].value), tsm_steps(parties["tsm-1"].value), se_steps(parties["phone-1"].value),
        sp_steps(parties["sp-1"].value), merchant_steps(parties["shop-1"].value),
    )  # fmt: skip
    steps: dict[str, Any] = {rpc: step for party in made for rpc, step in party.items()}
    assert set(ALL) == set(steps)
    assert set(STATELESS) == {rpc for rpc, step in steps.items() if isinstance(step, StatelessStep)}
    assert {taken.rpc for taken in bench.tape.taken} == set(ALL)


@pytest.mark.parametrize("rpc", ALL)
def test_claims(bench, rpc: str) -> None:
    taken, letter = bench.rewind(rpc)
    now_s = bench.tape.clock.now_s()

    def during(issued_at_s: int, lifetime_s: int = HOUR_S) -> dict[str, int]:
        return {"issued_at_s": issued_at_s, "expires_at_s": issued_at_s + lifetime_s}

    for claims, error in (
        ({"audience": "bank-b"}, WrongAudience),
        ({"audience": letter.sign1.claims.audience + "x"}, WrongAudience),
        ({"issuer": "somebody"}, WrongIssuer),
        (during(now_s - HOUR_S - 61), Expired),
        (during(now_s + 61), NotYetValid),
        (during(now_s, 24 * HOUR_S + 1), LifetimeTooLong),
        (during(now_s, 0), LifetimeTooLong),
        (during(now_s, -1), LifetimeTooLong),
    ):
        bench.refused(taken, letter.written(claims=claims), error)
    bench.tape.send_again(taken)  # the sibling is accepted


@pytest.mark.parametrize("rpc", ALL)
def test_at_the_edges_of_its_time_a_request_is_good(bench, rpc: str) -> None:
    for early_s in (-60, HOUR_S + 60):
        taken, letter = bench.rewind(rpc)
        issued_at_s = bench.tape.clock.now_s() - early_s
        claims = {"issued_at_s": issued_at_s, "expires_at_s": issued_at_s + HOUR_S}
        bench.tape.deliver(taken.peer, rpc, replace(taken.wire, cose=letter.written(claims=claims)), taken.caller)


@pytest.mark.parametrize("rpc", ALL)
def test_type_and_fields(bench, rpc: str) -> None:
    taken, letter = bench.rewind(rpc)
    plain = letter.message.plain()
    for name in ("promise", letter.sign1.name + "s"):
        bench.refused(taken, letter.written(name=name), WrongMessage)
    payloads = [
        codec.encode({**plain, "unknown": 1}),
        codec.encode(list(plain)),
        letter.message.to_bytes() + b"\x00",
        letter.message.to_bytes()[:-1],
        b"",
    ]
    for field in plain:
        payloads.append(codec.encode({name: value for name, value in plain.items() if name != field}))
        payloads.append(codec.encode({**plain, field: None if plain[field] == -1 else -1}))
    for payload in payloads:
        bench.refused(taken, letter.written(payload=payload), Malformed)


@pytest.mark.parametrize("rpc", ALL)
def test_size(bench, rpc: str) -> None:
    taken, letter = bench.rewind(rpc)
    party = bench.tape.parties[taken.peer]
    bound = party.steps[rpc].max_bytes
    room = bound - len(taken.wire.cose) - len(taken.wire.session)
    bench.refused(taken, taken.wire.cose + bytes(room + 1), Oversize)
    bench.refused(taken, Wire(cose=taken.wire.cose, session=bytes(bound)), Oversize)
    bench.refused(taken, letter.written(payload=bytes(type(letter.message).MAX_BYTES + 4096)), Oversize)


@pytest.mark.parametrize("rpc", ALL)
def test_signature(bench, rpc: str) -> None:
    taken, letter = bench.rewind(rpc)
    signed = letter.sign1.wire
    bench.refused(taken, letter.sealed(signed[:-1] + bytes([signed[-1] ^ 1])), SignatureInvalid)
    stranger = PrivateKey.generate(ENTROPY)
    bench.refused(taken, letter.written(key=stranger), UnknownKey if rpc in BY_KID else SignatureInvalid)
    at = signed.index(letter.sign1.claims.nonce)
    altered = signed[:at] + bytes([signed[at] ^ 1]) + signed[at + 1 :]
    bench.refused(taken, letter.sealed(altered), SignatureInvalid)
    bench.refused(taken, letter.sealed(signed[:-1]), Malformed)


@pytest.mark.parametrize("rpc", ALL)
def test_a_key_for_one_use_does_not_serve_another(bench, rpc: str) -> None:
    """Every other signing key of the world, genuine or not, is refused in the signer's place."""
    taken, letter = bench.rewind(rpc)
    for key in bench.ring.signing.values():
        if key is not letter.key:
            with bench.tape.unchanged(), pytest.raises(ProtocolError):
                bench.tape.deliver(taken.peer, rpc, replace(taken.wire, cose=letter.written(key=key)), taken.caller)


@pytest.mark.parametrize("rpc", ALL)
def test_form(bench, rpc: str) -> None:
    """Signed where it must be sealed, sealed where it must be signed, under another's key or another name."""
    taken, letter = bench.rewind(rpc)
    layers = letter.layers
    assert (not layers) == (rpc in PLAIN)
    if not layers:
        seal = bench.tape.parties["bank-a"].value.keys.seal
        other = replace(bench.ring.request(bench.tape.take("Bank.RequestAccount")).layers[0], key=seal)
        bench.refused(taken, letter.written(layers=(other,)), WrongMessage)
        return
    (layer,) = layers
    bench.refused(taken, letter.written(layers=()), WrongMessage)
    keys = bench.ring.shared if isinstance(layer.key, bytes) else bench.ring.sealing
    for key in keys:
        if key is not layer.key and key != layer.key:
            bench.refused(taken, letter.written(layers=(replace(layer, key=key),)), DecryptionFailed)
    bench.refused(taken, letter.written(layers=(replace(layer, name="promise"),)), WrongMessage)
    bench.refused(taken, letter.written(layers=(replace(layer, digest=bytes(32)),)), DecryptionFailed)
    swapped = bytes(32) if isinstance(layer.key, PrivateKey) else PrivateKey.generate(ENTROPY)
    bench.refused(taken, letter.written(layers=(replace(layer, key=swapped),)), Malformed)


@pytest.mark.parametrize("rpc", ALL)
def test_session(bench, rpc: str) -> None:
    taken, _ = bench.rewind(rpc)
    if rpc not in SESSIONS:
        for session in (b"\x00", bytes(16), bench.tape.take("Tsm.ProveCredit").wire.session):
            bench.refused(taken, replace(taken.wire, session=session), Malformed)
        return
    session = taken.wire.session
    altered = bytes([session[0] ^ 1]) + session[1:]
    for other in (b"", bytes(16), altered, session[:-1], session + b"\x00"):
        bench.refused(taken, replace(taken.wire, session=other), SESSIONS[rpc])


@pytest.mark.parametrize("rpc", PEERED)
def test_peer(bench, rpc: str) -> None:
    taken, _ = bench.rewind(rpc)
    name = taken.caller.name
    bench.refused(taken, taken.wire, WrongPeer, caller=None)
    for role in Role:
        bench.refused(taken, taken.wire, WrongPeer, caller=Peer(role=role, name="phone-2"))
        if role not in PEERED[rpc]:
            bench.refused(taken, taken.wire, WrongPeer, caller=Peer(role=role, name=name))
    for role in PEERED[rpc]:
        bench.tape.deliver(taken.peer, rpc, taken.wire, Peer(role=role, name=name))


@pytest.mark.parametrize("rpc", KEEPING)
def test_a_used_nonce_is_a_replay(bench, rpc: str) -> None:
    """TW-G4: other bytes under a nonce that was used; a message accepted once is never accepted again."""
    taken, letter = bench.rewind(rpc)
    bench.tape.send_again(taken)
    claims = letter.sign1.claims
    later = {"nonce": claims.nonce, "expires_at_s": claims.expires_at_s - 1}
    bench.refused(taken, letter.written(claims=later), MOVED_ON.get(rpc, Replay))
    if letter.layers:
        bench.refused(taken, letter.sealed(letter.sign1.wire), MOVED_ON.get(rpc, Replay))


@pytest.mark.parametrize("rpc", ALL)
def test_the_same_bytes_get_the_same_answer_and_have_no_second_effect(bench, rpc: str) -> None:
    taken, _ = bench.rewind(rpc)
    first = bench.ring.open(bench.tape.send_again(taken).cose, taken.wire.digest)
    bench.tape.clock.time_s += 30
    with bench.tape.unchanged():
        second = bench.ring.open(bench.tape.send_again(taken).cose, taken.wire.digest)
    if rpc in STATELESS:
        assert second.sign1.name == first.sign1.name
    else:
        assert (second.sign1.wire, second.rest) == (first.sign1.wire, first.rest)


@pytest.mark.parametrize("rpc", ALL)
def test_at_the_end_of_the_run_every_request_still_has_its_one_answer(bench, rpc: str) -> None:
    """A duplicate that was on its way all the time changes nothing, whatever it is told."""
    taken = bench.tape.take(rpc)
    with bench.tape.unchanged():
        again = bench.ring.open(bench.tape.send_again(taken).cose, taken.wire.digest)
    if rpc not in STATELESS:
        assert again.sign1.wire == bench.ring.open(taken.reply.cose, taken.wire.digest).sign1.wire
