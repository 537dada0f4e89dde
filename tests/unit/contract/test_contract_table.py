"""The table of RPCs says what the code and the wire do."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from parties.contract import ROOT, find_object
from protocol import contract
from protocol.contract import RPCS, Rpc
from protocol.errors import REGISTRY
from protocol.roles.bank import bank_steps
from protocol.roles.merchant import merchant_steps
from protocol.roles.se import se_steps
from protocol.roles.sp import sp_steps
from protocol.roles.tsm import tsm_steps
from protocol.schema import MESSAGES

from .conftest import Run

DESIGN = {
    "Bank": "Enroll Challenge ApproveInstall ReportInstall VerifyLaunch RequestAccount CertifyAccount ActivateAccount "
    "ApproveGrant ReleaseGrant SubmitClaim ListStops RequestTrace",
    "Tsm": "OpenAccount ProveCredit RequestCards IssueCards ActivateCards SignOn Authorize AuthorizeBatch Reverse "
    "Refund SettleBatch CloseAccount",
    "Merchant": "StartSale GetSale CancelSale RefundSale",
    "SecureElement": "Enroll Measure Quote GenerateAccountKeys InstallAccount MakeBankInfo GenerateServiceKeys "
    "SignService GenerateCardKeys InstallCards OpenCard VerifyPin Status Transceive",
    "SoftwareProvider": "GetRelease GetReferenceValues",
}
"""Design §4."""
ADDED = {
    "SecureElement": "InstallIdentity AcceptDecision BeginAccount InstallPass OpenService SetPin ReopenPin",
}
"""ADR-0005, ADR-0023."""
BY_NAME = {rpc.full_name: rpc for rpc in RPCS}


def listed(table: dict[str, str]) -> set[str]:
    return {f"{service}.{name}" for service, names in table.items() for name in names.split()}


def rpcs_of_protos() -> set[str]:
    found = set()
    for path in (ROOT / "proto").glob("*.proto"):
        text = path.read_text()
        for service, body in re.findall(r"^service (\w+) \{(.*?)^\}", text, re.M | re.S):
            found |= {f"{service}.{name}" for name in re.findall(r"^\s*rpc (\w+)\(", body, re.M)}
    return found


def served_steps() -> dict[str, Any]:
    """RPC name → step class, from the roles' own tables."""
    anyone: Any = SimpleNamespace(keys=None, emv_ca=())
    tables = (
        bank_steps(anyone), tsm_steps(anyone), merchant_steps(anyone), se_steps(anyone), sp_steps(anyone),
    )  # fmt: skip
    return {name: type(step) for table in tables for name, step in table.items()}


def test_protos_have_the_rpcs_of_the_design_and_the_additions() -> None:
    assert rpcs_of_protos() == listed(DESIGN) | listed(ADDED)


def test_every_rpc_is_served() -> None:
    assert len(BY_NAME) == len(RPCS)
    assert rpcs_of_protos() == BY_NAME.keys() | {contract.FIELD}
    assert contract.FIELD not in BY_NAME


def test_every_step_class_has_a_row_and_every_row_a_step_class() -> None:
    steps = served_steps()
    assert steps.keys() == BY_NAME.keys()
    for name, step in steps.items():
        assert BY_NAME[name].step == f"{step.__module__}.{step.__qualname__}"
        assert find_object(BY_NAME[name].step) is step


def test_every_message_is_a_request_a_reply_or_an_object() -> None:
    whole = {kind for rpc in RPCS for kind in (rpc.request, rpc.reply)}
    objects = [item.message for item in contract.OBJECTS]
    assert whole | set(objects) == set(MESSAGES.values())
    assert not whole & set(objects)
    assert len(objects) == len(set(objects))


def test_codes_are_registered_and_listed_once() -> None:
    assert REGISTRY.keys() >= contract.COMMON_CODES
    for rpc in RPCS:
        assert set(rpc.codes) <= REGISTRY.keys(), rpc.full_name
        assert len(set(rpc.codes)) == len(rpc.codes), rpc.full_name
        assert not set(rpc.codes) & contract.common_codes(rpc.request_form), rpc.full_name


@pytest.mark.parametrize("rpc", RPCS, ids=lambda rpc: rpc.full_name)
def test_form_signer_and_names_are_those_on_the_wire(rpc: Rpc, run: Run) -> None:
    request, reply = run.request(rpc), run.reply(rpc)
    assert (request.form, request.signed[0].name) == (rpc.request_form, rpc.request.NAME)
    assert (reply.form, reply.signed[0].name) == (rpc.reply_form, rpc.reply.NAME)
    assert run.keys.signer(request.signed[0].kid) is rpc.request_signer
    assert run.keys.signer(reply.signed[0].kid) is rpc.reply_signer
    assert reply.signed[0].claims.audience == request.signed[0].claims.issuer
    assert bool(run.requests[rpc.full_name].session) == bool(rpc.session)
    assert run.replies[rpc.full_name].session == b""


@pytest.mark.parametrize("item", contract.OBJECTS, ids=lambda item: item.message.NAME)
def test_objects_are_signed_as_listed(item: contract.SignedObject, run: Run) -> None:
    found = [s for peeled in run.messages(RPCS) for s in peeled.signed if s.name == item.message.NAME]
    assert found
    assert {run.keys.signer(sign1.kid) for sign1 in found} == {item.signer}
    (phone,) = run.world.phones.values()
    names = {"ID_B": "bank-a", "ID_T": "tsm-1", "ID_U": phone.user}
    assert {s.claims.audience for s in found} == {names.get(item.audience, found[0].claims.audience)}


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_a_peer_of_another_role_is_refused_where_a_role_is_listed(name: str, run: Run) -> None:
    """The column TLS is true: only these calls look at the caller's certificate, and all of them do."""
    from protocol.engine import Context, Peer
    from protocol.errors import ProtocolError, WrongPeer
    from protocol.types import Role

    rpc, wire = BY_NAME[name], run.requests[name]
    receiver = next(peer for peer, called, *_ in run.world.calls if called == name)
    party = run.world.parties[receiver]

    def refusal(peer: Peer | None) -> type[ProtocolError] | None:
        ctx = Context(
            store=party.store, now_s=run.world.clock.now_s(), entropy=run.world.entropy, peer=peer, digest=wire.digest
        )
        try:
            party.steps[name].open(wire, ctx)
        except ProtocolError as exc:
            return type(exc)
        return None

    assert (refusal(None) is WrongPeer) == bool(rpc.tls)
    signer = {Role.PHONE: "phone-1", Role.SE: "phone-1", Role.TSM: "tsm-1", Role.MERCHANT: "shop-1"}
    for role in rpc.tls:
        assert refusal(Peer(role=role, name=signer[role])) is not WrongPeer
        assert refusal(Peer(role=Role.SP, name=signer[role])) is WrongPeer
