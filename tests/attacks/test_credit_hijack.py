"""Credit hijack: a thief makes the TSM accept the thief's TID with the victim's AID (paper §2.5).

The paper's TID-1b, `E(PK_TID, SID || TID_i || K)`, is signed by nobody: who knows PK_TID writes it, puts the SID of
a session of their own into it, and receives the victim's BINFO for that session.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.attacker import (
    CorruptTsm,
    ForeignTid,
    Owner,
    answer_offer,
    command,
    decrypt,
    read,
    recast,
    refused,
    request_of,
    swap,
)
from support.world import Phone, World

from protocol.crypto import PrivateKey
from protocol.envelope import Wire
from protocol.errors import (
    CommitmentMismatch,
    FieldMismatch,
    IdentifierTaken,
    PassInvalid,
    ProtocolError,
    SignatureInvalid,
)
from protocol.messages.se import SealedRequest, SeGenerateServiceKeys, Statement
from protocol.messages.service import BankInfo, CreditProof, GrantRequest, TsmInfo
from protocol.pki import Identity
from protocol.roles.bank.grant import ApproveGrantStep
from protocol.roles.bank.tables import LIVE_GRANTS
from protocol.roles.se.party import SecureElement
from protocol.roles.se.service import MakeBankInfoStep
from protocol.roles.se.tables import SERVICE_KEYS
from protocol.roles.tsm.party import Tsm
from protocol.roles.tsm.passes import PassCheck
from protocol.roles.tsm.register import Cookie, ProveCreditStep
from protocol.roles.tsm.tables import SERVICES, TID_LIST
from protocol.rows import Rows


class NoCommitment(ProveCreditStep):
    """A TSM that does not open com."""

    def check_commitment(self, info: TsmInfo, cookie: Cookie) -> None:
        pass


def believe_any_offer(world: World, victim: Phone, thief: PrivateKey) -> None:
    """An SE that does not check the TSM's signature: it takes the thief's for it."""

    class Gullible(SecureElement):
        def tsm(self, name: str) -> Identity:
            return replace(super().tsm(name), key=thief.public)

    swap(world, victim.name, MakeBankInfoStep, recast(world.parties[victim.name].value, Gullible))


def bait(world: World, victim: Phone, aid: str, thief: ForeignTid, signer: PrivateKey | None, tsm: str) -> CreditProof:
    """The victim starts TID-1 at `tsm`; the thief answers with the SID of a session of their own, and K with it."""
    made = command(world, victim, "GenerateServiceKeys", SeGenerateServiceKeys(tsm=tsm), SealedRequest)
    forged = CorruptTsm(world, tsm).offer(Wire(cose=made.cose), signer, sid=thief.sid, n_t=thief.n_t, key=thief.key)
    answer_offer(world, victim, made.handle, aid, forged)
    request = request_of(world, victim, made.handle, Statement.CREDIT_PROOF)
    return read(CreditProof, decrypt(CreditProof, thief.key, request.cose))


def stolen(proof: CreditProof, thief: ForeignTid, **changes: bytes) -> CreditProof:
    """The victim's BINFO under the thief's TSMINFO."""
    info = replace(read(TsmInfo, proof.tsminfo), tid=thief.tid, **changes)
    return replace(proof, tsminfo=thief.sign(info))


def holder(world: World, tsm: str, aid: str) -> list[str]:
    """The TIDs that `tsm` serves on the credit of `aid`."""
    return [e.tid for e in world.parties[tsm].store.scan(TID_LIST) if e.aid == aid and e.state == "ACTIVE"]


def test_the_tsms_signature_alone_stops_it(world: World) -> None:
    """Attack: a forged offer carries the thief's SID to the victim. Powers: network; TIDs, their keys and N_U are
    public, as in the models. Formal: maude HARDNOCOM, paper.pv A4. Closed by: S_T over TID-1b (ADR-0002)."""
    victim = world.ready()
    aid = world.account(victim)
    thief = ForeignTid.make(world).open()
    swap(world, "tsm-1", NoCommitment)
    made = command(world, victim, "GenerateServiceKeys", SeGenerateServiceKeys(tsm="tsm-1"), SealedRequest)
    forged = CorruptTsm(world, "tsm-1").offer(
        Wire(cose=made.cose), thief.sk, sid=thief.sid, n_t=thief.n_t, key=thief.key
    )
    with refused(world, SignatureInvalid, "SIGNATURE_INVALID"):
        answer_offer(world, victim, made.handle, aid, forged)
    (kept,) = world.parties[victim.name].store.scan(SERVICE_KEYS)
    assert (kept.state, kept.sid) == ("EXPECT_OFFER", b"")


def test_the_commitment_alone_stops_it(world: World) -> None:
    """Attack: as above, against an SE that believes the forged offer. Powers: the same. Formal: maude HARDNOSIG,
    se_RAWCOM. Closed by: com = H(TID, PK_TID, SID, r) in BINFO and TSMBINFO, opened to the TSM only (ADR-0009)."""
    victim = world.ready()
    aid = world.account(victim)
    thief = ForeignTid.make(world).open()
    believe_any_offer(world, victim, thief.sk)
    shown = bait(world, victim, aid, thief, thief.sk, "tsm-1")
    with refused(world, CommitmentMismatch, "COMMITMENT_MISMATCH"):
        thief.prove(stolen(shown, thief))
    # A commitment of the thief's own opens at the TSM, but it is not the one that the owner signed for the bank.
    own = thief.commit(read(TsmInfo, shown.tsminfo).r)
    with refused(world, FieldMismatch, "FIELD_MISMATCH", unchanged=("bank-a", victim.name)):
        thief.prove(stolen(shown, thief, com=own))
    assert world.parties["tsm-1"].store.scan(SERVICES) == ()


def test_without_both_the_credit_is_the_thiefs(world: World) -> None:
    """Variant: neither S_T over TID-1b nor the commitment is checked. The TSM serves the thief's TID on the victim's
    AID, and the victim's own registration finds the AID taken. Formal: maude HARDNOSIGNOCOM, PAPER."""
    victim = world.ready()
    aid = world.account(victim)
    thief = ForeignTid.make(world).open()
    believe_any_offer(world, victim, thief.sk)
    swap(world, "tsm-1", NoCommitment)
    thief.prove(stolen(bait(world, victim, aid, thief, thief.sk, "tsm-1"), thief))
    assert holder(world, "tsm-1", aid) == [thief.tid]
    assert [service.tid for service in world.parties["tsm-1"].store.scan(SERVICES)] == [thief.tid]


class AnyTsmNamed(ApproveGrantStep):
    """A bank that does not compare ID_TSM in BINFO with the signer of TSMBINFO."""

    def compare(self, message: GrantRequest, owner: BankInfo, tsm: str) -> None:
        super().compare(message, owner, owner.tsm)


class AnyAudience(PassCheck):
    """Pass and possession without an audience: those for tsm-2 do for tsm-1 too."""

    def __init__(self, tsm: Tsm) -> None:
        super().__init__(replace(tsm, keys=replace(tsm.keys, name="tsm-2")))


_LAYERS = (
    ("commitment", CommitmentMismatch, "COMMITMENT_MISMATCH"),
    ("audience", PassInvalid, "PASS_INVALID"),
    ("identity", FieldMismatch, "FIELD_MISMATCH"),
)


def relay(world: World, removed: set[str]) -> tuple[str, ForeignTid, CreditProof, Phone]:
    """The victim registers at the corrupt tsm-2, which offers the SID of the thief's session at the honest tsm-1."""
    victim = world.ready()
    aid = world.account(victim, tsm="tsm-2")
    thief = ForeignTid.make(world, tsm="tsm-1").open()
    prove = swap(world, "tsm-1", NoCommitment if "commitment" in removed else ProveCreditStep)
    if "audience" in removed:
        prove.passes = AnyAudience(world.parties["tsm-1"].value)
    if "identity" in removed:
        swap(world, "bank-a", AnyTsmNamed)
    return aid, thief, bait(world, victim, aid, thief, None, "tsm-2"), victim


@pytest.mark.parametrize("removed", [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2)], ids=str)
def test_a_corrupt_tsm_cannot_relay_its_session(world: World, removed: tuple[int, ...]) -> None:
    """Attack: a corrupt TSM gives the victim the SID of a session at another TSM and carries BINFO there. Powers:
    network, tsm-2 with its keys. Formal: paper.pv A4 with CHECKTSM, core_noaud, maude HARDNOCOM. Closed three times: by
    the commitment, the audience of pass and possession, and ID_TSM in BINFO (ADR-0009)."""
    aid, thief, shown, victim = relay(world, {_LAYERS[number][0] for number in removed})
    _, error, code = next(layer for number, layer in enumerate(_LAYERS) if number not in removed)
    with refused(world, error, code, unchanged=("bank-a", victim.name)):
        thief.prove(stolen(shown, thief))
    assert holder(world, "tsm-1", aid) == []
    assert world.parties["tsm-1"].store.scan(SERVICES) == ()


def test_without_all_three_the_relay_succeeds(world: World) -> None:
    """Variant: com is not opened, passes have no audience, ID_TSM is not compared. The thief holds at tsm-1 the credit
    that the victim meant for tsm-2, and the bank has it so too."""
    aid, thief, shown, _ = relay(world, {name for name, _, _ in _LAYERS})
    thief.prove(stolen(shown, thief))
    assert holder(world, "tsm-1", aid) == [thief.tid]
    assert [live.tsm for live in world.parties["bank-a"].store.scan(LIVE_GRANTS)] == ["tsm-1"]


class NoIdentifierCheck(ProveCreditStep):
    """A TSM to which a TID is only a name."""

    def check_identifier(self, rows: Rows, cookie: Cookie) -> None:
        pass


def test_a_known_tid_is_not_taken_over(world: World) -> None:
    """Attack: a customer registers the TID of another one under a key of their own. Powers: network; an AID of their
    own with its keys; TIDs are public. Formal: core_card (UserReg ⇒ TSMReg), paper.pv A6. Closed by: a TID belongs to
    one key (ADR-0010). Variant without the check: the account and its cards now answer to the thief's key."""
    victim, thief_phone = world.ready(), world.ready("phone-2")
    tid = world.service(victim, world.account(victim))
    owner = Owner.of(world, thief_phone, world.account(thief_phone))
    first = ForeignTid.make(world, tid=tid).open()
    with refused(world, IdentifierTaken, "IDENTIFIER_TAKEN"):
        first.prove(first.proof(owner))

    swap(world, "tsm-1", NoIdentifierCheck)
    again = ForeignTid.make(world, tid=tid).open()
    again.prove(again.proof(owner))
    (service,) = world.parties["tsm-1"].store.scan(SERVICES)
    assert (service.tid, service.pk_tid, service.k_tid) == (tid, again.sk.public.encoded, again.key)
    with pytest.raises(ProtocolError):
        world.cards(victim, tid)
