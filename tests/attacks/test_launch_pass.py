"""A launch pass works only for its AID, at its TSM, in this session, for its owner — though every pass is public.

The thief of most tests holds a TID with SK_TID, DK_TID and K_TID,TSM, but not SK_AID, which stays in the SE.
"""

from __future__ import annotations

from dataclasses import replace

from support.attacker import (
    CorruptTsm,
    ForeignTid,
    Owner,
    answer_offer,
    command,
    decrypt,
    evidence,
    nonce,
    read,
    refused,
    request_of,
    stamp,
    swap,
)
from support.world import Phone, World

from protocol import envelope
from protocol.crypto import PublicKey, sha256
from protocol.envelope import Opened, Signer, Wire
from protocol.errors import DecryptionFailed, PassInvalid, PossessionInvalid
from protocol.messages.attest import LaunchPass, PossessionForCards, PossessionForSession
from protocol.messages.card import CardKeys
from protocol.messages.se import SealedRequest, SeGenerateServiceKeys, Statement
from protocol.messages.service import CreditProof
from protocol.pki import Identity
from protocol.roles.tsm.cards import IssueCardsStep
from protocol.roles.tsm.party import Tsm
from protocol.roles.tsm.passes import PassCheck
from protocol.roles.tsm.register import ProveCreditStep
from protocol.roles.tsm.tables import CARDS, SERVICES, TID_LIST


def victim(world: World, name: str = "phone-1") -> tuple[Phone, Owner, ForeignTid]:
    """A phone with an account, its AID's keys (which the thief does not have), and its TID's (which leaked)."""
    phone = world.ready(name)
    aid = world.account(phone)
    tid = world.service(phone, aid)
    return phone, Owner.of(world, phone, aid), ForeignTid.stolen(world, phone, tid)


def checking(world: World, kind: type[PassCheck], step: type[IssueCardsStep | ProveCreditStep]) -> None:
    """A TSM whose `step` checks passes as `kind` does."""
    swap(world, "tsm-1", step).passes = kind(world.parties["tsm-1"].value)


def issued(world: World) -> list[str]:
    """The TIDs of the cards at tsm-1."""
    return [card.tid for card in world.parties["tsm-1"].store.scan(CARDS)]


class NoPossession(PassCheck):
    """A TSM to which showing a pass is enough."""

    def check_session_possession(self, shown: Opened[LaunchPass], data: bytes, sid: bytes, now_s: int) -> None:
        pass

    def check_card_possession(self, shown: Opened[LaunchPass], data: bytes, n_t: bytes, now_s: int) -> None:
        pass


def test_a_stolen_pass(world: World) -> None:
    """Attack: the thief shows the victim's pass to be issued cards. Powers: the TID's keys; passes are public.
    Formal: core_noposs. Closed by: possession by PK_AID over this session (ADR-0016). Variant: the thief
    holds cards on the victim's credit, number and kAC."""
    _, owner, thief = victim(world)
    thief.ask_cards()
    message = PossessionForCards(n_t=thief.card_n_t, pass_digest=sha256(owner.launch_pass))
    impostor = Signer(name=owner.aid, key=thief.sk)
    own = envelope.sign(impostor, message, audience="tsm-1", stamp=stamp(world))
    with refused(world, PossessionInvalid, "POSSESSION_INVALID"):
        thief.take_cards([thief.card_key()], owner.launch_pass, own)

    checking(world, NoPossession, IssueCardsStep)
    (card,) = thief.take_cards([thief.card_key()], owner.launch_pass, own).cards
    assert [(row.tid, row.pan, row.k_ac) for row in world.parties["tsm-1"].store.scan(CARDS)] == [
        (thief.tid, card.pan, card.k_ac)
    ]


def test_a_stolen_pass_in_tid_3(world: World) -> None:
    """Attack: a stranger shows the victim's pass in a session of their own. Powers: network; passes are public. Formal:
    core_noposs. Closed by: possession over this SID. Variant: the pass is accepted and the bank is asked in the
    victim's name, which it alone then refuses."""
    _, owner, _ = victim(world)
    stranger = ForeignTid.make(world).open()
    impostor = replace(owner, sk=stranger.sk, k=nonce(world))
    proof = stranger.proof(impostor)
    with refused(world, PossessionInvalid, "POSSESSION_INVALID"):
        stranger.prove(proof)

    checking(world, NoPossession, ProveCreditStep)
    with refused(world, DecryptionFailed, "DECRYPTION_FAILED", unchanged=("bank-a",)):
        stranger.prove(proof)
    assert (owner.aid, stranger.tid) in [(e.aid, e.tid) for e in world.parties["tsm-1"].store.scan(TID_LIST)]


class AnyAid(PassCheck):
    """A TSM that does not compare the pass's AID with the grant's."""

    def check_account(self, shown: LaunchPass, aid: str) -> None:
        pass


def test_a_pass_of_another_aid(world: World) -> None:
    """Attack: the phone of an account was tampered with and gets no pass any more; its owner shows the pass of another
    AID, on a good phone, with that one's possession. Powers: a customer with the keys of both. Formal: core_nopaid.
    Closed by: the pass's AID is the grant's. Variant: a tampered phone goes on being issued cards."""
    phone, _, tampered = victim(world)
    accomplice = world.ready("phone-2")
    good = Owner.of(world, accomplice, world.account(accomplice))
    phone.application.write_bytes(b"tampered")
    assert world.launch(phone) == "SOFTWARE_CHANGED"
    shown = good.shows_cards("tsm-1", tampered.ask_cards())
    with refused(world, PassInvalid, "PASS_INVALID"):
        tampered.take_cards([tampered.card_key()], good.launch_pass, shown)

    checking(world, AnyAid, IssueCardsStep)
    tampered.take_cards([tampered.card_key()], good.launch_pass, shown)
    assert issued(world) == [tampered.tid]


class AnyAudience(PassCheck):
    """Passes without an audience: those for tsm-2 do for tsm-1 too."""

    def __init__(self, tsm: Tsm) -> None:
        super().__init__(replace(tsm, keys=replace(tsm.keys, name="tsm-2")))


def test_a_pass_at_another_tsm(world: World) -> None:
    """Attack: a pass for tsm-2 is shown at tsm-1. Powers: the AID's keys, or a corrupt tsm-2 that relays (the relay of
    `test_credit_hijack`). Formal: core_noaud. Closed by: aud = the TSM (ADR-0016). Variant: the bank appraised the
    phone for one TSM, and another one serves it."""
    phone = world.ready()
    owner = Owner.of(world, phone, world.account(phone, tsm="tsm-2"))
    session = ForeignTid.make(world, tsm="tsm-1").open()
    proof = replace(session.proof(owner), possession=owner.shows_session("tsm-2", session.sid))
    with refused(world, PassInvalid, "PASS_INVALID"):
        session.prove(proof)

    checking(world, AnyAudience, ProveCreditStep)
    session.prove(proof)
    assert [service.tid for service in world.parties["tsm-1"].store.scan(SERVICES)] == [session.tid]


class AnyType(PassCheck):
    """Possession of either type for the other: what names a session, and what names N_T."""

    def check_card_possession(self, shown: Opened[LaunchPass], data: bytes, n_t: bytes, now_s: int) -> None:
        if envelope.peek(PossessionForSession, data).name == PossessionForSession.NAME:
            super().check_session_possession(shown, data, n_t, now_s)
        else:
            super().check_card_possession(shown, data, n_t, now_s)


def test_possession_of_one_type_as_the_other(world: World) -> None:
    """Attack: the thief's N_T is given to the victim as a SID; what the victim signs for TID-3 is shown in CARD-3.
    Powers: the TID's keys, and tsm-1's signing key. Formal: core_pass (POT, POC), ADR-0016.
    Closed by: the type under the signature. (The other way round, a SID can't be an N_T: it is not 32 bytes.) Variant:
    the thief holds a card on the victim's credit."""
    phone, owner, thief = victim(world)
    n_t = thief.ask_cards()
    made = command(world, phone, "GenerateServiceKeys", SeGenerateServiceKeys(tsm="tsm-1"), SealedRequest)
    key = nonce(world)
    offer = CorruptTsm(world, "tsm-1").offer(Wire(cose=made.cose), sid=n_t, key=key)
    answer_offer(world, phone, made.handle, owner.aid, offer)
    request = request_of(world, phone, made.handle, Statement.CREDIT_PROOF)
    shown = read(CreditProof, decrypt(CreditProof, key, request.cose))
    assert read(PossessionForSession, shown.possession).sid == n_t
    with refused(world, PossessionInvalid, "POSSESSION_INVALID"):
        thief.take_cards([thief.card_key()], shown.launch_pass, shown.possession)

    checking(world, AnyType, IssueCardsStep)
    thief.take_cards([thief.card_key()], shown.launch_pass, shown.possession)
    assert issued(world) == [thief.tid]


class AnySession(PassCheck):
    """Possession that names no session: shown once, it shows for ever."""

    def check_session_possession(self, shown: Opened[LaunchPass], data: bytes, sid: bytes, now_s: int) -> None:
        self._holds(PossessionForSession, shown, data, now_s)

    def check_card_possession(self, shown: Opened[LaunchPass], data: bytes, n_t: bytes, now_s: int) -> None:
        self._holds(PossessionForCards, shown, data, now_s)

    def _holds(
        self, kind: type[PossessionForSession | PossessionForCards], shown: Opened[LaunchPass], data: bytes, now_s: int
    ) -> None:
        envelope.open_signed(
            kind, data, PublicKey.from_bytes(shown.message.pk_aid), issuer=shown.message.aid, audience="tsm-1",
            now_s=now_s,
        )  # fmt: skip


def test_possession_of_another_session(world: World) -> None:
    """Attack: the thief shows, in a new session, pass and possession that the victim showed in an earlier one. Powers:
    the TID's keys, and what went by under K_TID,TSM. Formal: core_pass (injective), core_c_nouniq_pass. Closed by:
    possession is over this SID or N_T. Variant: one batch of the victim's is enough for cards without end."""
    phone, owner, thief = victim(world)
    world.cards(phone, thief.tid, number=1)
    old = evidence(world, "tsm-1", CardKeys)[-1]
    thief.ask_cards()
    with refused(world, PossessionInvalid, "POSSESSION_INVALID"):
        thief.take_cards([thief.card_key()], old.launch_pass, old.possession)
    session = ForeignTid.make(world).open()
    (seen,) = evidence(world, "tsm-1", CreditProof)
    with refused(world, PossessionInvalid, "POSSESSION_INVALID"):
        session.prove(replace(session.proof(owner), possession=seen.possession))

    checking(world, AnySession, IssueCardsStep)
    thief.take_cards([thief.card_key()], old.launch_pass, old.possession)
    assert len(issued(world)) == 2


class AnyTime(PassCheck):
    """A TSM that takes passes out of date."""

    def open_pass(self, data: bytes, bank: Identity, aid: str, now_s: int) -> Opened[LaunchPass]:
        issued_at_s = envelope.peek(LaunchPass, data).claims.issued_at_s
        return super().open_pass(data, bank, aid, issued_at_s)


def test_a_pass_out_of_date(world: World) -> None:
    """Attack: a phone that is not launched any more, or no longer good, goes on with its last pass. Powers: the TID's
    and AID's keys. Formal: time is outside the models. Closed by: exp on the pass. Variant: one good launch is enough
    for ever."""
    phone, owner, tampered = victim(world)
    phone.application.write_bytes(b"tampered")
    world.clock.time_s += 2 * 24 * 3600
    assert world.launch(phone) == "SOFTWARE_CHANGED"
    shown = owner.shows_cards("tsm-1", tampered.ask_cards())
    with refused(world, PassInvalid, "PASS_INVALID"):
        tampered.take_cards([tampered.card_key()], owner.launch_pass, shown)

    checking(world, AnyTime, IssueCardsStep)
    tampered.take_cards([tampered.card_key()], owner.launch_pass, shown)
    assert issued(world) == [tampered.tid]


class AnyBank(PassCheck):
    """A TSM that takes a pass of any bank for any bank's AID."""

    def open_pass(self, data: bytes, bank: Identity, aid: str, now_s: int) -> Opened[LaunchPass]:
        issuer = self._tsm.directory.by_thumbprint(envelope.peek(LaunchPass, data).kid)
        return super().open_pass(data, issuer, aid, now_s)


def test_a_pass_of_another_bank(world: World) -> None:
    """Attack: another bank gives the pass that the account's own bank refuses to a tampered phone. Powers: bank-b with
    its keys, the TID's and AID's keys. Formal: core_pass (TSM accepts ⇒ this bank issued). Closed by: the pass is
    checked with the key of the grant's bank. Variant: a tampered phone goes on being issued cards."""
    phone, owner, tampered = victim(world)
    phone.application.write_bytes(b"tampered")
    assert world.launch(phone) == "SOFTWARE_CHANGED"
    message = read(LaunchPass, owner.launch_pass)
    bank = world.parties["bank-b"].value.keys.signer
    given = replace(owner, launch_pass=envelope.sign(bank, message, audience="tsm-1", stamp=stamp(world)))
    shown = given.shows_cards("tsm-1", tampered.ask_cards())
    with refused(world, PassInvalid, "PASS_INVALID"):
        tampered.take_cards([tampered.card_key()], given.launch_pass, shown)

    checking(world, AnyBank, IssueCardsStep)
    tampered.take_cards([tampered.card_key()], given.launch_pass, shown)
    assert issued(world) == [tampered.tid]
