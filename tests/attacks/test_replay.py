"""What was said once is not said again: approvals, questions, releases, sessions (paper §2.5)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.attacker import (
    CorruptTsm,
    ForeignTid,
    Hiding,
    Owner,
    decrypt,
    overwriting,
    read,
    refused,
    stamp,
    swap,
    unseal,
    unusable,
)
from support.claims import close_released
from support.world import Phone, World

from protocol import cose, envelope
from protocol.crypto import PrivateKey
from protocol.engine import Context, Incoming, Peer
from protocol.envelope import Opened, Signer, Wire
from protocol.errors import (
    DecryptionFailed,
    Expired,
    FieldMismatch,
    GrantUnknown,
    ProtocolError,
    Replay,
    SignatureInvalid,
)
from protocol.messages.service import GrantApproval, GrantRelease, GrantRequest, Promise, TsmInfo
from protocol.ports import Entropy
from protocol.roles.bank.grant import ApproveGrantStep, ReleaseGrantStep, Releasing
from protocol.roles.bank.tables import GRANTS, LIVE_GRANTS, LiveGrant
from protocol.roles.tsm.register import Granted, ProveCreditStep, Proving
from protocol.roles.tsm.tables import SERVICES, TID_LIST
from protocol.roles.wallet import close_service
from protocol.rows import Decision, Rows
from protocol.types import KEY_BYTES, Role


def live(world: World) -> list[tuple[str, str]]:
    return [(grant.aid, grant.tsm) for grant in world.parties["bank-a"].store.scan(LIVE_GRANTS)]


def active(world: World, tsm: str) -> list[str]:
    """The AIDs that `tsm` holds as granted."""
    return [entry.aid for entry in world.parties[tsm].store.scan(TID_LIST) if entry.state == "ACTIVE"]


def sent(world: World, rpc: str) -> list[tuple[Wire, Wire | ProtocolError]]:
    """Request and answer of every such call, as the network saw them."""
    return [(wire, reply) for _, name, wire, reply in world.calls if name == rpc]


# --- the bank's approval -------------------------------------------------------------------------------------------
class Unverified(ProveCreditStep):
    """A TSM to which an approval under K_TSM,B is one, whoever signed it, and for whatever question."""

    def open_by_bank(
        self, kind: type[envelope.M], data: bytes, facts: Proving, now_s: int, *, request_digest: bytes = b"",
        max_lifetime_s: int = 0,
    ) -> Opened[envelope.M]:  # fmt: skip
        sign1 = envelope.peek(kind, data)
        message = kind.from_bytes(sign1.payload)
        return Opened(message=message, claims=sign1.claims, key=facts.bank.key, wire=data)


class Uncompared(ProveCreditStep):
    """A TSM that does not compare the promise with its question."""

    def check_promise(self, promise: Promise, info: TsmInfo) -> None:
        pass


class Neither(Unverified, Uncompared):
    """Both."""


class OneKey(Neither):
    """Moreover it has one K for all questions, and its answers are not bound to a question."""

    first: Wire | None = None

    def prepare(self, incoming: Incoming[Proving], ctx: Context) -> Incoming[Proving]:
        class Same:
            def bytes(self, n: int, /) -> bytes:
                return bytes(n) if n == KEY_BYTES else ctx.entropy.bytes(n)

        return super().prepare(incoming, replace(ctx, entropy=Same()))

    def hear(self, facts: Proving, question: Wire, answer: Wire, ctx: Context) -> Granted:
        self.first = self.first or question
        return super().hear(facts, self.first, answer, ctx)


class Between:
    """The network between TSM and bank: the bank never hears the question; `answer` makes the reply to it.

    With `bank_key` it also holds the bank's decryption key, and so K_TSM,B of every question.
    """

    def __init__(self, world: World, bank_key: PrivateKey) -> None:
        self.world = world
        self.bank_key = bank_key
        self.old: Promise | None = None
        self.approval = b""
        self.signer: Signer | None = None

    def learn(self) -> None:
        """Read the one approval that went by, with the K of its question."""
        ((question, reply),) = sent(self.world, "Bank.ApproveGrant")
        assert isinstance(reply, Wire)
        self.approval = decrypt(GrantApproval, self.key_of(question), reply.cose, question.digest)

    def key_of(self, question: Wire) -> bytes:
        return read(GrantRequest, unseal(GrantRequest, self.bank_key, question.cose)).key

    def resealed(self, question: Wire, signed: bytes) -> Wire:
        """An approval under the K of this question, bound to it by the encryption."""
        sealed = cose.encrypt(
            self.key_of(question), self.world.entropy, name=GrantApproval.NAME, plaintext=signed,
            request_digest=question.digest,
        )  # fmt: skip
        return Wire(cose=sealed)


def second_question(world: World, variant: type[ProveCreditStep] = ProveCreditStep) -> tuple[Phone, str, Between]:
    """A registration was approved and closed; the owner is about to register the same AID anew."""
    swap(world, "tsm-1", variant)
    phone = world.ready()
    aid = world.account(phone)
    tid = world.service(phone, aid)
    world.run(phone, close_service(phone.wallet, tsm="tsm-1", tid=tid))
    network = Between(world, world.parties["bank-a"].value.keys.seal)
    network.learn()
    return phone, aid, network


def answering(world: World, reply: object) -> None:
    """From now on the network answers the TSM's questions itself; the bank hears of none of them."""
    bank = world.parties["bank-a"]
    handle = bank.engine.handle

    class Cut:
        def handle(self, rpc: str, wire: Wire, peer: Peer | None) -> Wire:
            if rpc == "Bank.ApproveGrant":
                return reply(wire)  # type: ignore[operator,no-any-return]
            return handle(rpc, wire, peer)

    world.parties["bank-a"] = replace(bank, engine=Cut())  # type: ignore[arg-type]


def test_an_old_approval_answers_no_new_question(world: World) -> None:
    """Attack: the answer to an earlier question is given to the TSM again. Powers: network, also inside TLS. Formal:
    paper.pv A5 with LITRESP, core_a5i. Closed by: K_TSM,B fresh in each question, and the question's digest in the
    encryption (ADR-0001)."""
    phone, aid, _ = second_question(world)
    ((_, old),) = sent(world, "Bank.ApproveGrant")
    answering(world, lambda question: old)
    with unusable(world, DecryptionFailed, unchanged=("bank-a",)):
        world.service(phone, aid)
    assert active(world, "tsm-1") == []


def test_without_fresh_keys_any_old_answer_will_do(world: World) -> None:
    """Variant of the above: one K for all questions, answers bound to none, promises unverified. Bytes that went by
    once are a grant of which the bank knows nothing."""
    phone, aid, _ = second_question(world, OneKey)
    ((_, old),) = sent(world, "Bank.ApproveGrant")
    answering(world, lambda question: old)
    world.service(phone, aid)
    assert (active(world, "tsm-1"), live(world)) == ([aid], [])


@pytest.mark.parametrize(
    ("variant", "error"),
    [(ProveCreditStep, SignatureInvalid), (Uncompared, SignatureInvalid), (Unverified, FieldMismatch)],
)
def test_an_old_approval_is_bound_to_its_question(
    world: World, variant: type[ProveCreditStep], error: type[ProtocolError]
) -> None:
    """Attack: the old signed approval is sealed again under the K of the new question. Powers: network, and the bank's
    decryption key (not its signing key). Formal: core_a5i, maude HARD (com in the approval). Closed twice: S_B covers
    the question's digest, and the promise is compared field by field."""
    phone, aid, network = second_question(world)
    swap(world, "tsm-1", variant)
    answering(world, lambda question: network.resealed(question, network.approval))
    with unusable(world, error, unchanged=("bank-a",)):
        world.service(phone, aid)
    assert active(world, "tsm-1") == []


def test_without_both_an_old_approval_is_a_new_grant(world: World) -> None:
    """Variant: approvals are neither verified for this question nor compared with it. The TSM holds a grant of which
    the bank knows nothing: it will pay merchants and never be paid."""
    phone, aid, network = second_question(world)
    swap(world, "tsm-1", Neither)
    answering(world, lambda question: network.resealed(question, network.approval))
    world.service(phone, aid)
    assert active(world, "tsm-1") == [aid]
    assert live(world) == []


@pytest.mark.parametrize("signer", ["nobody", "bank-b"])
def test_an_approval_is_signed_by_the_bank_asked(world: World, signer: str) -> None:
    """Attack: an approval of exactly what the TSM asked, which the bank never gave: signed with a key made up, or by
    another bank. Powers: network, the bank's decryption key; bank-b with its keys. Formal: paper.pv A5 with LITRESP
    (the paper's credit information has no signature), core_a5i. Closed by: S_B over approval and promise.
    Variant: the TSM takes it, and holds a grant that no bank made."""
    phone = world.ready()
    aid = world.account(phone)
    network = Between(world, world.parties["bank-a"].value.keys.seal)
    key = world.key() if signer == "nobody" else world.parties["bank-b"].value.keys.sign

    def forge(question: Wire) -> Wire:
        asked = read(GrantRequest, unseal(GrantRequest, network.bank_key, question.cose))
        values = {name: getattr(asked, name) for name in Promise.specs()}
        name = "bank-a" if signer == "nobody" else signer
        made = {"audience": "tsm-1", "stamp": stamp(world)}
        promise = envelope.sign(Signer(name=name, key=key), Promise(**values), **made)
        approval = GrantApproval(promise=promise)
        signed = envelope.sign(Signer(name=name, key=key), approval, **made, request_digest=question.digest)
        return network.resealed(question, signed)

    answering(world, forge)
    with unusable(world, SignatureInvalid, unchanged=("bank-a",)):
        world.service(phone, aid)
    assert world.parties["tsm-1"].store.scan(SERVICES) == ()

    swap(world, "tsm-1", Unverified)
    world.service(phone, aid)
    assert active(world, "tsm-1") == [aid]
    assert live(world) == []


# --- the TSM's question --------------------------------------------------------------------------------------------
def test_an_old_question_makes_no_new_grant(world: World) -> None:
    """Attack: a TSMBINFO that went by is delivered to the bank again, after the account was closed. Powers: network,
    also inside TLS. Formal: core_a5i (injective), core_grant. Closed by: the same bytes get the same answer and no
    second effect, and none at all once they are out of date (ADR-0001). A new TSMBINFO over the old BINFO, which takes
    the TSM's key, is in `test_session_relay`, with its variant."""
    second_question(world)
    ((question, first),) = sent(world, "Bank.ApproveGrant")
    assert isinstance(first, Wire)
    before = world.snapshot("bank-a")
    peer = Peer(role=Role.TSM, name="tsm-1")
    world.deliver("bank-a", "Bank.ApproveGrant", question, peer)
    assert (world.snapshot("bank-a"), live(world)) == (before, [])
    world.clock.time_s += 2 * 3600
    world.parties["bank-a"].store.sweep(world.clock.now_s())
    with refused(world, Expired, "EXPIRED"):
        world.deliver("bank-a", "Bank.ApproveGrant", question, peer)


# --- the TSM's release ---------------------------------------------------------------------------------------------
class AidOnly(ReleaseGrantStep):
    """A bank to which a release names the AID only."""

    def names(self, live: LiveGrant, facts: Releasing) -> bool:
        return live.tsm == facts.tsm

    def decide(self, rows: Rows, facts: Releasing, now_s: int, entropy: Entropy) -> Decision:
        return super().decide(Hiding(rows, GRANTS), facts, now_s, entropy)


class Unclosed(ApproveGrantStep):
    """A bank that does not ask for an earlier grant's closing claim."""

    def check_spent(self, rows: Rows, aid: str) -> None:
        return


def old_release(world: World) -> tuple[Phone, str, Wire]:
    """An honest TSM signed two releases of one session; the network kept the first. Then the AID was granted anew."""
    phone = world.ready()
    aid = world.account(phone)
    tid = world.service(phone, aid)
    kept: list[Wire] = []
    bank = world.parties["bank-a"]

    class Keeping:
        def handle(self, rpc: str, wire: Wire, peer: Peer | None) -> Wire:
            if rpc == "Bank.ReleaseGrant" and not kept:
                kept.append(wire)
                return wire  # an answer that is none
            return bank.engine.handle(rpc, wire, peer)

    world.parties["bank-a"] = replace(bank, engine=Keeping())  # type: ignore[arg-type]
    with pytest.raises(ProtocolError):
        world.run(phone, close_service(phone.wallet, tsm="tsm-1", tid=tid))
    world.run(phone, close_service(phone.wallet, tsm="tsm-1", tid=tid))
    world.parties["bank-a"] = bank
    close_released(world)
    world.service(phone, aid)
    assert active(world, "tsm-1") == [aid]
    return phone, aid, kept[0]


def test_an_old_release_frees_nothing(world: World) -> None:
    """Attack: a release of an earlier session, held back until now, is delivered while another session has the grant.
    Powers: network, also inside TLS. Formal: grant_nosid. Closed by: the release names AID and SID (ADR-0012).
    Variant: tsm-1's grant is freed behind its back, and tsm-2 is granted the same AID: one credit, lent twice."""
    phone, aid, release = old_release(world)
    peer = Peer(role=Role.TSM, name="tsm-1")
    with refused(world, GrantUnknown, "GRANT_UNKNOWN"):
        world.deliver("bank-a", "Bank.ReleaseGrant", release, peer)

    swap(world, "bank-a", AidOnly)
    swap(world, "bank-a", Unclosed)
    world.deliver("bank-a", "Bank.ReleaseGrant", release, peer)
    assert (live(world), active(world, "tsm-1")) == ([], [aid])
    owner, second = Owner.of(world, phone, aid), ForeignTid.make(world, tsm="tsm-2").open()
    proof = second.proof(owner)
    thief = CorruptTsm(world, "tsm-2")
    thief.ask("bank-a", thief.question(read(TsmInfo, proof.tsminfo), proof.binfo))
    assert live(world) == [(aid, "tsm-2")]
    assert active(world, "tsm-1") == [aid]


class AnyHolder(ReleaseGrantStep):
    """A bank to which any TSM may release any grant."""

    def names(self, live: LiveGrant, facts: Releasing) -> bool:
        return True


def test_a_tsm_releases_its_own_grants_only(world: World) -> None:
    """Attack: tsm-2 releases tsm-1's grant. Powers: tsm-2 with its keys, AID and SID known. Formal: grant (the release
    is the holder's). Closed by: the signer is compared with the grant's TSM. Variant: tsm-1's grant is gone."""
    phone = world.ready()
    aid = world.account(phone)
    world.service(phone, aid)
    (entry,) = world.parties["tsm-1"].store.scan(TID_LIST)
    with refused(world, GrantUnknown, "GRANT_UNKNOWN"):
        CorruptTsm(world, "tsm-2").release("bank-a", aid, entry.sid)

    swap(world, "bank-a", AnyHolder)
    CorruptTsm(world, "tsm-2").release("bank-a", aid, entry.sid)
    assert (live(world), active(world, "tsm-1")) == ([], [aid])


def test_releases_are_signed(world: World) -> None:
    """Attack: somebody on the network frees a grant in tsm-1's name. Powers: network, AID and SID known. Formal:
    grant. Closed by: S_T under the PKI's key."""
    phone = world.ready()
    aid = world.account(phone)
    world.service(phone, aid)
    (entry,) = world.parties["tsm-1"].store.scan(TID_LIST)
    genuine = CorruptTsm(world, "tsm-1").keys.sign.public
    signed = envelope.sign(
        Signer(name="tsm-1", key=world.key()), GrantRelease(aid=aid, sid=entry.sid), audience="bank-a",
        stamp=stamp(world),
    )  # fmt: skip
    sign1 = envelope.peek(GrantRelease, signed)
    # With the genuine `kid`, so that the bank looks the genuine key up.
    protected = sign1.protected.replace(sign1.kid, genuine.thumbprint)
    forged = signed.replace(sign1.protected, protected)
    key = world.parties["bank-a"].value.keys.seal.public
    wire = Wire(cose=cose.seal(key, name=GrantRelease.NAME, plaintext=forged))
    with refused(world, SignatureInvalid, "SIGNATURE_INVALID"):
        world.deliver("bank-a", "Bank.ReleaseGrant", wire, Peer(role=Role.TSM, name="tsm-1"))


# --- the TSM's session cookie --------------------------------------------------------------------------------------
class UsedCookie(ProveCreditStep):
    """A TSM without UNIQUE(SID)."""

    def decide(self, rows: Rows, facts: Proving, now_s: int, entropy: Entropy) -> Decision:
        return overwriting(super().decide(Hiding(rows, TID_LIST), facts, now_s, entropy), rows)


def test_a_session_cookie_serves_once(world: World) -> None:
    """Attack: a second TID-3 in a session that was used. Powers: a customer with the keys of two AIDs of their own.
    Formal: core_c_nouniq_pass. Closed by: UNIQUE(SID). Variant: the second AID takes the first one's place in
    TIDiList; the bank holds the first as granted and the TSM has no row of it any more."""
    phone = world.ready()
    owners = [Owner.of(world, phone, world.account(phone)) for _ in range(2)]
    session = ForeignTid.make(world).open()
    session.prove(session.proof(owners[0]))
    with refused(world, Replay, "REPLAY"):
        session.prove(session.proof(owners[1]))
    with refused(world, Replay, "REPLAY"):
        session.prove(session.proof(owners[0]))

    swap(world, "tsm-1", UsedCookie)
    session.prove(session.proof(owners[1]))
    assert {aid for aid, _ in live(world)} == {owner.aid for owner in owners}
    assert active(world, "tsm-1") == [owners[1].aid]


def test_the_same_credit_proof_has_one_effect(world: World) -> None:
    """Attack: TID-3 is delivered again as it was. Powers: network. Formal: core_c_pass (injective). Closed by: the
    same bytes get the same answer and no second effect."""
    phone = world.ready()
    world.service(phone, world.account(phone))
    ((wire, reply),) = sent(world, "Tsm.ProveCredit")
    assert isinstance(reply, Wire)
    before = {name: world.snapshot(name) for name in world.parties}
    world.deliver("tsm-1", "Tsm.ProveCredit", wire, None)
    assert {name: world.snapshot(name) for name in world.parties} == before
    assert len(sent(world, "Bank.ApproveGrant")) == 1
