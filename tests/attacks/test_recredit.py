"""Credit hijack through RECREDIT: the second TID-1b comes with the answer to CARD-5, and could be made out to another.

It travels inside {S_T(…)}K, so that nobody but the TSM can put one there. The attacks here are what is left: a TSM that
mixes up its customers, or one that works with the thief.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from support.attacker import (
    ANY,
    CorruptTsm,
    ForeignTid,
    Owner,
    answer_offer,
    command,
    decrypt,
    read,
    refused,
    request_of,
    swap,
)
from support.two_banks import BANK, OTHER, TSM, Person
from support.world import World

from protocol import cose, envelope
from protocol.commitments import commitment
from protocol.engine import Context, Incoming
from protocol.envelope import Stamp, Wire
from protocol.errors import CommitmentMismatch, DecryptionFailed, FieldMismatch, WrongAudience
from protocol.messages.se import SealedRequest, SeGenerateCardKeys, SeInstallCards, SeOpenService, SeService, Statement
from protocol.messages.service import BankInfo, CreditProof, RecreditOffer, RecreditReason, TsmInfo
from protocol.roles.bank.tables import LIVE_GRANTS
from protocol.roles.se.answer import OpenServiceStep
from protocol.roles.se.credit import kept_offer
from protocol.roles.se.tables import RECREDITS, Recredit, ServiceKeys
from protocol.roles.tsm.cards import ActivateCardsStep, Activating
from protocol.roles.tsm.register import Cookie, ProveCreditStep
from protocol.roles.tsm.tables import TID_LIST


class AnyOffer(OpenServiceStep):
    """An SE that takes an offer for whomever it was made out to."""

    def open_offer(self, service: ServiceKeys, data: bytes, now_s: int) -> Recredit:
        return kept_offer(service, read(RecreditOffer, data), now_s + 3600)


class NoCommitment(ProveCreditStep):
    """A TSM that does not open com."""

    def check_commitment(self, info: TsmInfo, cookie: Cookie) -> None:
        pass


@dataclass
class Mix:
    """The TSM answers the victim's next CARD-5 with this offer."""

    world: World
    victim: Person
    offer: RecreditOffer
    audience: str

    def deliver(self) -> None:
        keys = self.world.parties[TSM].value.keys
        stamp = Stamp.fresh(self.world.clock.now_s(), self.world.entropy)
        made = envelope.sign(keys.signer, self.offer, audience=self.audience, stamp=stamp)

        class Mixing(ActivateCardsStep):
            def prepare(self, incoming: Incoming[Activating], ctx: Context) -> Incoming[Activating]:
                return replace(incoming, facts=replace(incoming.facts, recredit=made))

        swap(self.world, TSM, Mixing)
        self.world.cards(self.victim.phone, self.victim.tid, number=1)


def thief_with_session(world: World) -> ForeignTid:
    """The thief's own TID, with a session of its own: SID, N_T and K."""
    return ForeignTid.make(world).open()


def made_out_to(thief: ForeignTid, tid: str, world: World) -> RecreditOffer:
    return RecreditOffer(
        tid=tid, pk_tid=thief.sk.public.encoded, n_u=world.entropy.bytes(32), sid=thief.sid, n_t=thief.n_t,
        reason=RecreditReason.BALANCE_LOW,
    )  # fmt: skip


def victim_of(world: World) -> Person:
    victim = Person.come(world)
    world.account(victim.phone, OTHER)
    return victim


def stolen_proof(world: World, victim: Person, thief: ForeignTid) -> CreditProof:
    """The victim proves credit of its second bank for the thief's SID; K_TID,TSM of the victim leaked."""
    (aid,) = [credit.aid for credit in victim.shown().credits if credit.bank == OTHER]
    answer_offer(world, victim.phone, victim.tid, aid, b"")
    key = ForeignTid.stolen(world, victim.phone, victim.tid).key
    request = request_of(world, victim.phone, victim.tid, Statement.CREDIT_PROOF)
    assert request.session == thief.sid
    return read(CreditProof, decrypt(CreditProof, key, request.cose))


def claimed(proof: CreditProof, thief: ForeignTid) -> CreditProof:
    """The victim's BINFO, pass and possession under the thief's TSMINFO."""
    return replace(proof, tsminfo=thief.sign(replace(read(TsmInfo, proof.tsminfo), tid=thief.tid)))


def served(world: World) -> list[tuple[str, str]]:
    """(TID, bank) of each grant that the TSM draws on."""
    return [(row.tid, row.bank) for row in world.parties[TSM].store.scan(TID_LIST) if row.state == "ACTIVE"]


def test_the_offer_of_another_tid_alone_stops_it(world: World) -> None:
    """Attack: the TSM mixes up two customers, and the victim is handed the offer of the thief's TID."""
    victim, thief = victim_of(world), thief_with_session(world)
    with pytest.raises(WrongAudience) as caught:
        Mix(world, victim, made_out_to(thief, thief.tid, world), thief.tid).deliver()
    assert caught.value.code == "WRONG_AUDIENCE"
    assert victim.phone.party.store.scan(RECREDITS) == ()
    with pytest.raises(FieldMismatch) as other:
        Mix(world, victim, made_out_to(thief, thief.tid, world), victim.tid).deliver()
    assert other.value.code == "FIELD_MISMATCH"
    assert served(world) == [(victim.tid, BANK)]


def test_the_commitment_alone_stops_it(world: World) -> None:
    """The same with an SE that takes any offer: com is over the victim's own TID, which the thief's is not."""
    victim, thief = victim_of(world), thief_with_session(world)
    swap(world, victim.phone.name, AnyOffer)
    Mix(world, victim, made_out_to(thief, thief.tid, world), thief.tid).deliver()
    proof = claimed(stolen_proof(world, victim, thief), thief)
    with refused(world, CommitmentMismatch, "COMMITMENT_MISMATCH"):
        thief.prove(proof)
    assert served(world) == [(victim.tid, BANK)]


def test_without_both_the_second_bank_s_credit_is_the_thief_s(world: World) -> None:
    """The TSM serves the thief's TID on the victim's second AID."""
    victim, thief = victim_of(world), thief_with_session(world)
    swap(world, victim.phone.name, AnyOffer)
    Mix(world, victim, made_out_to(thief, thief.tid, world), thief.tid).deliver()
    swap(world, TSM, NoCommitment)
    thief.prove(claimed(stolen_proof(world, victim, thief), thief))
    assert sorted(served(world)) == sorted([(victim.tid, BANK), (thief.tid, OTHER)])


def test_an_offer_with_another_key(world: World) -> None:
    """Attack: a corrupt TSM names a key of its own in the offer, to have it bound to the victim's AID by com.

    With such a promise it could show the bank purchases "of" the victim that the thief signed. The SE compares the key
    with its own; an SE that does not commits to the thief's.
    """
    victim, thief = victim_of(world), thief_with_session(world)
    offer = made_out_to(thief, victim.tid, world)
    with pytest.raises(FieldMismatch) as caught:
        Mix(world, victim, offer, victim.tid).deliver()
    assert caught.value.code == "FIELD_MISMATCH"
    assert victim.phone.party.store.scan(RECREDITS) == ()

    swap(world, victim.phone.name, AnyOffer)
    Mix(world, victim, offer, victim.tid).deliver()
    proof = stolen_proof(world, victim, thief)
    info = read(TsmInfo, proof.tsminfo)
    corrupt = CorruptTsm(world, TSM)
    promise = corrupt.ask(OTHER, corrupt.question(info, proof.binfo))
    bound = commitment(tid=victim.tid, pk_tid=thief.sk.public.encoded, sid=thief.sid, r=info.r)
    assert promise.com == bound
    assert [row.aid for row in world.parties[OTHER].store.scan(LIVE_GRANTS)] == [info.aid]


def test_an_offer_is_brought_by_the_answer_it_was_made_in_only(world: World) -> None:
    """Attack: the network gives the victim the thief's answer to CARD-5, offer and all. It opens under no key there."""
    victim = victim_of(world)
    thief = Person.come_as(world, "phone-2")
    thief.leave(BANK, 1)
    world.cards(thief.phone, thief.tid, number=1)
    (answer,) = [reply for _, rpc, _, reply in world.calls if rpc == "Tsm.ActivateCards" and isinstance(reply, Wire)][
        -1:
    ]
    wish = request_of(world, victim.phone, victim.tid, Statement.CARD_REQUEST)
    challenge = world.deliver(TSM, "Tsm.RequestCards", wish, None)
    keys = SeGenerateCardKeys(tid=victim.tid, reply=challenge.cose, number=1)
    sealed = command(world, victim.phone, "GenerateCardKeys", keys, SealedRequest)
    issued = world.deliver(TSM, "Tsm.IssueCards", Wire(cose=sealed.cose, session=sealed.session), None)
    command(world, victim.phone, "InstallCards", SeInstallCards(tid=victim.tid, reply=issued.cose), SealedRequest)
    with refused(world, DecryptionFailed, "DECRYPTION_FAILED"):
        message = SeOpenService(tid=victim.tid, reply=answer.cose)
        command(world, victim.phone, "OpenService", message, SeService)


def test_the_bank_learns_com_and_not_the_tid(world: World) -> None:
    """BINFO of the second bank, opened by that bank, holds what the first one's held: no TID, no other bank."""
    person = Person.with_two(world)
    owner = Owner.of(world, person.phone, person.grants()[OTHER].aid)
    (sealed,) = [
        wire for peer, rpc, wire, _ in world.calls if (peer, rpc) == (TSM, "Tsm.ProveCredit")
    ][1:]  # fmt: skip
    key = ForeignTid.stolen(world, person.phone, person.tid).key
    proof = read(CreditProof, decrypt(CreditProof, key, sealed.cose))
    plain = cose.decrypt(owner.k, proof.binfo, name=BankInfo.NAME, max_bytes=ANY)
    assert person.tid.encode() not in plain
    assert BANK.encode() not in plain
    assert person.grants()[BANK].aid.encode() not in plain
