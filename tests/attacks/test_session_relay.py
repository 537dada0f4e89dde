"""A corrupt TSM uses a BINFO where its owner did not mean it: under another TSM's name, in another session (§2.5)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.attacker import CorruptTsm, Hiding, evidence, nonce, overwriting, refused, swap
from support.claims import close_released
from support.world import World

from protocol.envelope import Wire
from protocol.errors import FieldMismatch, Replay, Unavailable
from protocol.messages.service import BankInfo, CreditProof, GrantRequest, TsmInfo
from protocol.ports import Entropy
from protocol.roles.bank.grant import ApproveGrantStep, Granting
from protocol.roles.bank.tables import GRANTS, LIVE_GRANTS
from protocol.roles.wallet import close_service
from protocol.rows import Decision, Rows


def _off(peer: str, rpc: str, wire: Wire) -> Wire:
    if rpc == "Bank.ApproveGrant":
        raise Unavailable
    return wire


def held_back(world: World) -> tuple[str, TsmInfo, bytes]:
    """An AID, and what tsm-1 knows of a registration whose question never reached the bank."""
    phone = world.ready()
    aid = world.account(phone)
    world.tap = _off
    with pytest.raises(Unavailable):
        world.service(phone, aid)
    world.tap = None
    (proof,), (info,) = evidence(world, "tsm-1", CreditProof), evidence(world, "tsm-1", TsmInfo)
    return aid, info, proof.binfo


def live(world: World) -> list[tuple[str, str]]:
    return [(grant.aid, grant.tsm) for grant in world.parties["bank-a"].store.scan(LIVE_GRANTS)]


class AnyTsmNamed(ApproveGrantStep):
    """A bank that does not compare ID_TSM in BINFO with the signer of TSMBINFO."""

    def compare(self, message: GrantRequest, owner: BankInfo, tsm: str) -> None:
        super().compare(message, owner, owner.tsm)


def test_binfo_is_for_the_tsm_it_names(world: World) -> None:
    """Attack: tsm-2 asks the bank, in its own name, with a BINFO that was made for tsm-1. Powers: network, tsm-2 with
    its keys, and all that tsm-1 knows of the session. Formal: paper.pv A3 without CHECKTSM, core_reg. Closed by:
    ID_TSM under S_AID, compared with the signer of TSMBINFO (ADR-0009). Variant: the grant becomes tsm-2's."""
    aid, info, binfo = held_back(world)
    thief = CorruptTsm(world, "tsm-2")
    with refused(world, FieldMismatch, "FIELD_MISMATCH"):
        thief.ask("bank-a", thief.question(info, binfo))

    swap(world, "bank-a", AnyTsmNamed)
    promise = thief.ask("bank-a", thief.question(info, binfo))
    assert (promise.aid, promise.limit_minor) == (aid, info.limit_minor)
    assert live(world) == [(aid, "tsm-2")]


class AnySession(ApproveGrantStep):
    """A bank that does not compare the SIDs of BINFO and TSMBINFO."""

    def compare(self, message: GrantRequest, owner: BankInfo, tsm: str) -> None:
        super().compare(replace(message, sid=owner.sid), owner, tsm)


class UsedSession(ApproveGrantStep):
    """A bank without UNIQUE(AID, SID)."""

    def decide(self, rows: Rows, facts: Granting, now_s: int, entropy: Entropy) -> Decision:
        return overwriting(super().decide(Hiding(rows, GRANTS), facts, now_s, entropy), rows)


def released(world: World) -> tuple[str, TsmInfo, bytes]:
    """An AID whose owner registered at tsm-1 and closed the account, and what tsm-1 keeps of it."""
    phone = world.ready()
    aid = world.account(phone)
    tid = world.service(phone, aid)
    world.run(phone, close_service(phone.wallet, tsm="tsm-1", tid=tid))
    close_released(world)
    assert live(world) == []
    (proof,), (info,) = evidence(world, "tsm-1", CreditProof), evidence(world, "tsm-1", TsmInfo)
    return aid, info, proof.binfo


def test_binfo_is_for_the_session_it_names(world: World) -> None:
    """Attack: after the owner closed the account, tsm-1 takes the credit again, with the old BINFO under a new SID.
    Powers: tsm-1 with its keys. Formal: paper.pv A3 (injective), core_reg, core_a5i. Closed by: SID under S_AID,
    compared with TSMBINFO's. Variant: the grant lives again, and the owner signed nothing."""
    aid, info, binfo = released(world)
    thief = CorruptTsm(world, "tsm-1")
    question = replace(thief.question(info, binfo), sid=nonce(world))
    with refused(world, FieldMismatch, "FIELD_MISMATCH"):
        thief.ask("bank-a", question)

    swap(world, "bank-a", AnySession)
    assert thief.ask("bank-a", question).sid == question.sid
    assert live(world) == [(aid, "tsm-1")]


def test_binfo_is_used_once(world: World) -> None:
    """Attack: as above, under the old SID, in a new TSMBINFO. Powers: tsm-1 with its keys. Formal: core_a5i
    (injective), core_grant. Closed by: UNIQUE(AID, SID), kept after the release. Variant: the grant lives again."""
    aid, info, binfo = released(world)
    thief = CorruptTsm(world, "tsm-1")
    with refused(world, Replay, "REPLAY"):
        thief.ask("bank-a", thief.question(info, binfo))

    swap(world, "bank-a", UsedSession)
    thief.ask("bank-a", thief.question(info, binfo))
    assert live(world) == [(aid, "tsm-1")]
