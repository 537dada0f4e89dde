"""Which key the TSM certifies: only one that the TID's SE made, endorsed and holds (paper §2.6 CARD-2 … CARD-4)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from support.attacker import (
    ForeignTid,
    Hiding,
    Owner,
    answer_offer,
    command,
    decrypt,
    nonce,
    read,
    recast,
    refused,
    request_of,
    stamp,
    swap,
)
from support.world import Phone, World, card_key

from protocol import cose, envelope
from protocol.crypto import PrivateKey, PublicKey
from protocol.engine import Context, Incoming
from protocol.envelope import Signer, Wire
from protocol.errors import (
    CardDataInvalid,
    CardKeyInvalid,
    DecryptionFailed,
    FieldMismatch,
    IdentifierTaken,
    SignatureInvalid,
    UnknownKey,
    WrongMessage,
)
from protocol.messages.card import Card, CardActivation, CardKey, CardKeys, CardRequest, CardsIssued
from protocol.messages.se import (
    SealedRequest,
    SeGenerateCardKeys,
    SeGenerateServiceKeys,
    SeInstallCards,
    SeOpenService,
    SeService,
    Statement,
)
from protocol.messages.service import ServiceAccount
from protocol.pki import Identity, Use
from protocol.ports import Entropy
from protocol.roles.se.answer import OpenServiceStep
from protocol.roles.se.card import InstallCardsStep
from protocol.roles.se.party import SecureElement
from protocol.roles.se.tables import SERVICE_KEYS, VIRTUAL_CARDS, ServiceKeys, VirtualCard
from protocol.roles.tsm.cards import ActivateCardsStep, Activating, IssueCardsStep, Issuing
from protocol.roles.tsm.tables import CARDS, SERVICES
from protocol.rows import Decision, Read, Rows


def card_3(world: World, phone: Phone, tid: str) -> Wire:
    """CARD-1 … CARD-3 of an honest phone, up to the request that is about to leave."""
    challenge = world.deliver("tsm-1", "Tsm.RequestCards", request_of(world, phone, tid, Statement.CARD_REQUEST), None)
    message = SeGenerateCardKeys(tid=tid, reply=challenge.cose, number=1)
    made = command(world, phone, "GenerateCardKeys", message, SealedRequest)
    return Wire(cose=made.cose, session=made.session)


def certified(world: World, tsm: str = "tsm-1") -> dict[bytes, str]:
    """Modulus → TID of every card at a TSM."""
    return {card.modulus: card.tid for card in world.parties[tsm].store.scan(CARDS)}


def modulus(number: int) -> bytes:
    return card_key(number).public.to_bytes()


class AnyRoot(IssueCardsStep):
    """A TSM that does not compare the keys with the signed root."""

    def check_root(self, message: CardKeys, keys: tuple[CardKey, ...]) -> None:
        pass


class AnyHolder(IssueCardsStep):
    """A TSM that does not ask whether the requester holds the card key."""

    def check_possession(self, message: CardKeys, keys: tuple[CardKey, ...]) -> None:
        pass


def test_the_network_cannot_exchange_a_card_key(world: World) -> None:
    """Attack: PK_C is exchanged in CARD-3. Powers: network. Formal: core_card (card issued ⇒ owner asked with this
    PK_C), paper.pv A7 with LITSELF. Closed by: CARD-3 travels under K_TID,TSM."""
    phone = world.ready()
    wire = card_3(world, phone, world.service(phone, world.account(phone)))
    altered = replace(wire, cose=wire.cose[:-40] + bytes(20) + wire.cose[-20:])
    with refused(world, DecryptionFailed, "DECRYPTION_FAILED"):
        world.deliver("tsm-1", "Tsm.IssueCards", altered, None)
    world.deliver("tsm-1", "Tsm.IssueCards", wire, None)


def test_a_card_key_is_under_the_signed_root(world: World) -> None:
    """Attack: the wallet exchanges the card key that its SE endorsed for one of its own, which it does hold. Powers:
    the wallet key; K_TID,TSM seals and opens for the wallet. Formal: core_card, trace_NOLEAF, se_RAWLEAF. Closed by:
    S_TID covers the Merkle root of H(salt, PK_C) (ADR-0013). Variant: the TSM certifies the exchanged key."""
    phone = world.ready()
    tid = world.service(phone, world.account(phone))
    wire = card_3(world, phone, tid)
    thief = ForeignTid.stolen(world, phone, tid)
    plaintext = decrypt(CardKeys, thief.key, wire.cose)
    signed, honest = envelope.unpack(plaintext, low=2, high=2, max_bytes=1 << 20)
    thief.card_n_t = read(CardKeys, signed).n_t
    own = replace(thief.card_key(91), salt=CardKey.from_bytes(honest).salt)
    exchanged = envelope.pack([signed, own.to_bytes()])
    with refused(world, CardKeyInvalid, "CARD_KEY_INVALID"):
        thief.send_cards(exchanged)

    swap(world, "tsm-1", AnyRoot)
    thief.send_cards(exchanged)
    assert certified(world) == {own.modulus: tid}


def test_a_card_key_is_held_by_who_asks(world: World) -> None:
    """Attack: a customer has a card certified over somebody else's PK_C, seen at a terminal, so that one key has two
    accounts. Powers: a customer with TID and AID keys of their own, at another TSM; PK_C is public at a tap. Formal:
    core_card, trace (S_C). Closed by: S_C over H(TSM, N_T) (ADR-0013). Variant: the stranger's account now
    stands behind the victim's card key."""
    victim, other = world.ready(), world.ready("phone-2")
    world.cards(victim, world.service(victim, world.account(victim)), number=1)
    (seen,) = certified(world)
    owner = Owner.of(world, other, world.account(other, tsm="tsm-2"))
    thief = ForeignTid.make(world, tsm="tsm-2").open()
    thief.prove(thief.proof(owner))
    shown = owner.shows_cards("tsm-2", thief.ask_cards())
    # The best that can be shown: S_C by another key, or the victim's own for another TSM and N_T.
    for possession in (thief.card_key(91).possession, bytes(176)):
        claimed = CardKey(modulus=seen, salt=nonce(world), possession=possession)
        with refused(world, CardKeyInvalid, "CARD_KEY_INVALID"):
            thief.take_cards([claimed], owner.launch_pass, shown)

    swap(world, "tsm-2", AnyHolder)
    thief.take_cards([claimed], owner.launch_pass, shown)
    assert certified(world, "tsm-2") == {seen: thief.tid}


def test_a_possession_proof_is_for_one_session(world: World) -> None:
    """Attack: an S_C that the card gave in an earlier session is shown again. Powers: K_TID,TSM, SK_TID and SK_AID
    leaked, the card key did not. Formal: core_card, se S6. Closed by: S_C is over this TSM and this N_T. Variant: as
    above, a key that the requester does not hold is certified."""
    phone = world.ready()
    aid = world.account(phone)
    tid = world.service(phone, aid)
    thief, owner = ForeignTid.stolen(world, phone, tid), Owner.of(world, phone, aid)
    plaintext = decrypt(CardKeys, thief.key, card_3(world, phone, tid).cose)
    _, shown = envelope.unpack(plaintext, low=2, high=2, max_bytes=1 << 20)
    old = CardKey.from_bytes(shown)
    possession = owner.shows_cards("tsm-1", thief.ask_cards())
    with refused(world, CardKeyInvalid, "CARD_KEY_INVALID"):
        thief.take_cards([old], owner.launch_pass, possession)

    swap(world, "tsm-1", AnyHolder)
    thief.take_cards([old], owner.launch_pass, possession)
    assert certified(world) == {old.modulus: tid}


class UsedKeys(IssueCardsStep):
    """A TSM without UNIQUE(PK_C). Its table would refuse the second row, so what it certifies is kept aside."""

    certifies: tuple[Card, ...] = ()

    def decide(self, rows: Rows, facts: Issuing, now_s: int, entropy: Entropy) -> Decision:
        decision = super().decide(Hiding(rows, CARDS), facts, now_s, entropy)
        self.certifies = decision.reply.cards
        return replace(decision, writes=())


def test_a_card_key_serves_one_card(world: World) -> None:
    """Attack: one card key is endorsed under two TIDs, which links them for every terminal. Powers: a customer whose SE
    hands out one key twice. Formal: anon_SAMECARDKEY_LINK. Closed by: UNIQUE(PK_C) at the TSM. Variant: a second
    number, of another account, is certified for the key that every terminal reads."""
    asked = []
    for name in ("phone-1", "phone-2"):
        phone = world.ready(name)
        aid = world.account(phone)
        session, owner = ForeignTid.stolen(world, phone, world.service(phone, aid)), Owner.of(world, phone, aid)
        shown = owner.shows_cards("tsm-1", session.ask_cards())
        asked.append((session, session.card_key(91), owner.launch_pass, shown))
    (first, key, launch_pass, shown), (second, *same) = asked
    first.take_cards([key], launch_pass, shown)
    with refused(world, IdentifierTaken, "IDENTIFIER_TAKEN"):
        second.take_cards([same[0]], *same[1:])

    step = swap(world, "tsm-1", UsedKeys)
    second.take_cards([same[0]], *same[1:])
    (known,) = world.parties["tsm-1"].store.scan(CARDS)
    assert (known.modulus, known.tid) == (same[0].modulus, first.tid)
    assert [card.pan != known.pan for card in step.certifies] == [True]


class SelfSigned(IssueCardsStep):
    """A TSM to which a new key's own signature is enough, as paper §2.6 CARD-3 may be read."""

    poses: PublicKey

    def open(self, wire: Wire, ctx: Context) -> Incoming[Issuing]:
        return super().open(wire, replace(ctx, store=_Posing(ctx.store, self.poses)))


class _Posing:
    """A store in which every service account has another PK_TID."""

    def __init__(self, store: object, key: PublicKey) -> None:
        self._store = store
        self._key = key

    def read(self, *reads: Read) -> Rows:
        rows = self._store.read(*reads)  # type: ignore[attr-defined]
        posing = self._key.encoded

        class Posed:
            find = rows.find

            def get(self, table: object, *key: object) -> object:
                row = rows.get(table, *key)
                return replace(row, pk_tid=posing) if table is SERVICES and row is not None else row

        return Posed()  # type: ignore[return-value]


def test_cards_are_asked_for_by_the_tid_key(world: World) -> None:
    """Attack: somebody asks for cards of a known TID, signing with a key of their own. Powers: network, the TID known;
    then also K_TID,TSM and SK_AID leaked, but not SK_TID. Formal: paper.pv A7 (LITSELF), core_card. Closed by: CARD-1
    and CARD-3 are signed with the SK_TID that was registered. Variant: the TSM certifies the stranger's card key on the
    victim's account."""
    phone = world.ready()
    aid = world.account(phone)
    tid = world.service(phone, aid)
    stranger = ForeignTid.make(world, tid=tid)
    key = world.directory.named("tsm-1", Use.SEAL).key
    wire = Wire(cose=cose.seal(key, name=CardRequest.NAME, plaintext=stranger.sign(CardRequest(n_u=nonce(world)))))
    with refused(world, UnknownKey, "UNKNOWN_KEY"):
        world.deliver("tsm-1", "Tsm.RequestCards", wire, None)

    leaked, owner = ForeignTid.stolen(world, phone, tid), Owner.of(world, phone, aid)
    possession = owner.shows_cards("tsm-1", leaked.ask_cards())
    thief = replace(leaked, sk=world.key())
    thief.card_n_u, thief.card_n_t = leaked.card_n_u, leaked.card_n_t
    with refused(world, SignatureInvalid, "SIGNATURE_INVALID"):
        thief.take_cards([thief.card_key(91)], owner.launch_pass, possession)

    swap(world, "tsm-1", SelfSigned).poses = thief.sk.public
    thief.take_cards([thief.card_key(91)], owner.launch_pass, possession)
    assert certified(world) == {modulus(91): tid}


# --- CARD-4, CARD-5 ------------------------------------------------------------------------------------------------
def gullible(world: World, phone: Phone, thief: PublicKey, step: Any) -> None:
    """An SE that does not check the TSM's signature: it takes the thief's for it."""

    class Gullible(SecureElement):
        def tsm(self, name: str) -> Identity:
            return replace(super().tsm(name), key=thief)

    swap(world, phone.name, step, recast(world.parties[phone.name].value, Gullible))


class UncheckedCards(InstallCardsStep):
    """An SE that installs whatever it is issued."""

    def check_cards(self, issued: CardsIssued, blanks: tuple[VirtualCard, ...], now_s: int) -> None:
        pass


class UncheckedCertificate(OpenServiceStep):
    """An SE that keeps any CERT_TID."""

    def check_certificate(self, message: ServiceAccount, service: ServiceKeys, now_s: int) -> None:
        pass


def test_cards_come_from_the_tsm(world: World) -> None:
    """Attack: the victim is given card data of the thief's making, with a kAC that the thief knows. Powers: K_TID,TSM
    leaked, EK_TID known. Formal: core_card (card got ⇒ issued), paper.pv A8 with LITCARD. Closed by: S_T over CARD-4.
    Variant: the phone holds, and would pay with, a card that no TSM issued."""
    phone, donor = world.ready(), world.ready("phone-2")
    tid, other = (world.service(each, world.account(each)) for each in (phone, donor))
    session = ForeignTid.stolen(world, donor, other)
    digest = card_3(world, donor, other)
    reply = world.deliver("tsm-1", "Tsm.IssueCards", digest, None)
    card = replace(session.open_cards((reply, digest.digest)).cards[0], k_ac=bytes(16))
    wire = card_3(world, phone, tid)
    (row,) = world.parties[phone.name].store.scan(SERVICE_KEYS)
    thief, dk = world.key(), PrivateKey.from_bytes(row.dk_tid).public
    message = CardsIssued(tid=tid, n_u=row.n_u, n_t=row.n_t, cards=(card,))
    signed = envelope.sign(
        Signer(name="tsm-1", key=thief), message, audience=tid, stamp=stamp(world), request_digest=wire.digest
    )
    inner = cose.seal(dk, name=CardsIssued.NAME, plaintext=signed, request_digest=wire.digest)
    outer = cose.encrypt(row.k_tid, world.entropy, name=CardsIssued.NAME, plaintext=inner, request_digest=wire.digest)
    install = SeInstallCards(tid=tid, reply=outer)
    with refused(world, SignatureInvalid, "SIGNATURE_INVALID"):
        command(world, phone, "InstallCards", install, SealedRequest)

    gullible(world, phone, thief.public, InstallCardsStep)
    with refused(world, CardDataInvalid, "CARD_DATA_INVALID"):  # what a corrupt TSM signed is of another card key
        command(world, phone, "InstallCards", install, SealedRequest)

    gullible(world, phone, thief.public, UncheckedCards)
    command(world, phone, "InstallCards", install, SealedRequest)
    assert [held.k_ac for held in world.parties[phone.name].store.scan(VIRTUAL_CARDS)] == [bytes(16)]


def test_acceptance_comes_from_the_tsm(world: World) -> None:
    """Attack: the victim is told that the TSM accepted, while TID-3 never arrived. Powers: network, K_TID,TSM leaked.
    Formal: core_card (user registered ⇒ TSM registered, injective), paper.pv A6. Closed by: S_T over TID-4. Variant:
    the phone holds an account that the TSM does not have."""
    phone = world.ready()
    aid = world.account(phone)
    made = command(world, phone, "GenerateServiceKeys", SeGenerateServiceKeys(tsm="tsm-1"), SealedRequest)
    offer = world.deliver("tsm-1", "Tsm.OpenAccount", Wire(cose=made.cose), None)
    answer_offer(world, phone, made.handle, aid, offer.cose)
    request = request_of(world, phone, made.handle, Statement.CREDIT_PROOF)
    (row,) = world.parties[phone.name].store.scan(SERVICE_KEYS)
    thief = world.key()
    message = ServiceAccount(
        tid=row.tid, sid=row.sid, n_u=row.n_u, com=row.com, expires_at_s=1_900_000_000, limit_minor=500_000,
        currency="TWD", certificate=b"none",
    )  # fmt: skip
    signed = envelope.sign(
        Signer(name="tsm-1", key=thief), message, audience=row.tid, stamp=stamp(world), request_digest=request.digest
    )
    sealed = cose.encrypt(
        row.k_tid, world.entropy, name=ServiceAccount.NAME, plaintext=signed, request_digest=request.digest
    )
    opening = SeOpenService(tid=row.tid, reply=sealed)
    with refused(world, SignatureInvalid, "SIGNATURE_INVALID"):
        command(world, phone, "OpenService", opening, SeService)

    gullible(world, phone, thief.public, OpenServiceStep)
    with refused(world, WrongMessage, "WRONG_MESSAGE"):  # nor is there a CERT_TID
        command(world, phone, "OpenService", opening, SeService)

    gullible(world, phone, thief.public, UncheckedCertificate)
    assert command(world, phone, "OpenService", opening, SeService).state == "ACTIVE"
    assert world.parties["tsm-1"].store.scan(SERVICES) == ()


class AnyCards(ActivateCardsStep):
    """A TSM to which any word of the TID's key activates the batch."""

    def decide(self, rows: Rows, facts: Activating, now_s: int, entropy: Entropy) -> Decision:
        named = frozenset(card.pan_ref for card in rows.find(CARDS, "batch", facts.session.handle))
        return super().decide(rows, replace(facts, pan_refs=named), now_s, entropy)


def test_cards_are_active_when_the_se_holds_them(world: World) -> None:
    """Attack: a batch is confirmed by who never opened it. Powers: SK_TID and K_TID,TSM leaked, not DK_TID, so that
    numbers are unknown. Formal: core_card (active ⇒ got). Closed by: CARD-5 names the numbers. Variant: cards are
    active that nobody holds."""
    phone = world.ready()
    tid = world.service(phone, world.account(phone))
    wire = card_3(world, phone, tid)
    world.deliver("tsm-1", "Tsm.IssueCards", wire, None)
    thief = ForeignTid.stolen(world, phone, tid)
    guess = CardActivation(pans=("9" * 19,), n_t=thief.n_t)
    sealed = cose.encrypt(thief.key, world.entropy, name=CardActivation.NAME, plaintext=thief.sign(guess))
    activation = Wire(cose=sealed, session=wire.session)
    with refused(world, FieldMismatch, "FIELD_MISMATCH"):
        world.deliver("tsm-1", "Tsm.ActivateCards", activation, None)

    swap(world, "tsm-1", AnyCards)
    world.deliver("tsm-1", "Tsm.ActivateCards", activation, None)
    assert [card.state for card in world.parties["tsm-1"].store.scan(CARDS)] == ["ACTIVE"]
    assert [card.state for card in world.parties[phone.name].store.scan(VIRTUAL_CARDS)] == ["EXPECT_ISSUE"]
