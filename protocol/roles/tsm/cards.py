"""CARD: short-lived virtual cards for a service account (paper §2.6)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from protocol import cose, envelope
from protocol.card.possession import verify_card_keys, verify_possession
from protocol.commitments import card_leaf, card_session, merkle_root, possession_digest
from protocol.crypto import PublicKey, same, sha256
from protocol.engine import Context, Incoming, Step
from protocol.envelope import OVERHEAD_BYTES, Stamp, Wire
from protocol.errors import (
    CardKeyInvalid,
    FieldMismatch,
    GrantUnknown,
    IdentifierTaken,
    NonceMismatch,
    UnknownKey,
    UnknownSession,
)
from protocol.messages.attest import LaunchPass
from protocol.messages.card import (
    Card,
    CardActivation,
    CardChallenge,
    CardKey,
    CardKeys,
    CardRequest,
    CardsActive,
    CardsIssued,
)
from protocol.ports import Entropy
from protocol.roles.party import alone, expect_state, known_party
from protocol.roles.tsm.draws import live
from protocol.roles.tsm.freeze import expect_running
from protocol.roles.tsm.party import Tsm
from protocol.roles.tsm.passes import PassCheck, named_account
from protocol.roles.tsm.recredit import is_low, make_offer
from protocol.roles.tsm.tables import (
    CARD_SESSIONS,
    CARDS,
    SERVICES,
    TID_LIST,
    CardRow,
    CardSession,
    Service,
    TidEntry,
)
from protocol.rows import Decision, Insert, Key, Read, Rows, Update, Where, changed
from protocol.types import MAX_CARDS, NONCE_BYTES, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Requesting:
    """CARD-1, verified under PK_TID."""

    message: CardRequest
    service: Service


class RequestCardsStep(Step[Requesting]):
    """CARD-1/CARD-2: a session with a fresh N_T. The `kid` names the TID; no certificate is shown."""

    rpc = "Tsm.RequestCards"
    reply = CardChallenge

    def __init__(self, tsm: Tsm) -> None:
        self._tsm = tsm

    def open(self, wire: Wire, ctx: Context) -> Incoming[Requesting]:
        signed = cose.unseal(self._tsm.keys.seal, alone(wire), name=CardRequest.NAME, max_bytes=self.max_bytes)
        sign1 = envelope.peek(CardRequest, signed)
        services = ctx.read(Where(SERVICES, "kid_tid", sign1.kid)).find(SERVICES, "kid_tid", sign1.kid)
        if not services:
            raise UnknownKey
        service = services[0]
        opened = envelope.believe(
            CardRequest, sign1, PublicKey.from_bytes(service.pk_tid), issuer=service.tid,
            audience=self._tsm.keys.name, now_s=ctx.now_s,
        )  # fmt: skip
        facts = Requesting(message=opened.message, service=service)
        evidence = ((CardRequest.NAME, opened.wire),)
        return Incoming(facts=facts, key=opened.key, claims=opened.claims, evidence=evidence)

    def reads(self, facts: Requesting) -> tuple[Read, ...]:
        return (Key(SERVICES, (facts.service.tid,)), Where(TID_LIST, "tid", facts.service.tid))

    def decide(self, rows: Rows, facts: Requesting, now_s: int, entropy: Entropy) -> Decision:
        service = rows.get(SERVICES, facts.service.tid)
        assert service is not None
        expect_state(service.state, "ACTIVE")
        expect_running(service, rows.find(TID_LIST, "tid", service.tid), now_s)
        n_t = entropy.bytes(NONCE_BYTES)
        session = CardSession(
            handle=card_session(n_t), tid=service.tid, n_u=facts.message.n_u, n_t=n_t, state="EXPECT_KEYS",
            expires_at_s=now_s + self._tsm.policy.session_life_s,
        )  # fmt: skip
        reply = CardChallenge(tid=service.tid, n_u=session.n_u, n_t=n_t)
        return Decision(writes=(Insert(CARD_SESSIONS, session),), reply=reply)

    def seal(self, facts: Requesting, reply: CardChallenge, stamp: Stamp, ctx: Context) -> Wire:
        signed = envelope.sign(self._tsm.keys.signer, reply, audience=reply.tid, stamp=stamp, request_digest=ctx.digest)
        sealed = cose.encrypt(
            facts.service.k_tid, ctx.entropy, name=CardChallenge.NAME, plaintext=signed, request_digest=ctx.digest
        )
        return Wire(cose=sealed)


def session_of(wire: Wire, ctx: Context) -> tuple[CardSession, Service]:
    """The CARD session that the envelope names. Raises: UnknownSession."""
    session = ctx.read(Key(CARD_SESSIONS, (wire.session,))).get(CARD_SESSIONS, wire.session)
    if session is None or session.expires_at_s < ctx.now_s:
        raise UnknownSession
    service = ctx.read(Key(SERVICES, (session.tid,))).get(SERVICES, session.tid)
    assert service is not None
    return session, service


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuing:
    """CARD-3, verified: keys under the signed root, each possessed; `grant` once the pass was found to be its."""

    session: CardSession
    service: Service
    message: CardKeys
    keys: tuple[CardKey, ...]
    request: bytes
    grant: TidEntry | None = None
    cards: tuple[Card, ...] = ()
    pan_refs: tuple[bytes, ...] = ()


class IssueCardsStep(Step[Issuing]):
    """CARD-3/CARD-4: certificates bind PAN and PK_C only; kAC and PAN are for the TID's own SE."""

    rpc = "Tsm.IssueCards"
    reply = CardsIssued
    conflict = IdentifierTaken
    """UNIQUE(modulus) is left to the table: keys that were used before are not honest, and need no quick answer."""
    max_bytes = CardKeys.MAX_BYTES + MAX_CARDS * CardKey.MAX_BYTES + 4 * OVERHEAD_BYTES

    def __init__(self, tsm: Tsm) -> None:
        self._tsm = tsm
        self.passes = PassCheck(tsm)

    def open(self, wire: Wire, ctx: Context) -> Incoming[Issuing]:
        session, service = session_of(wire, ctx)
        plaintext = cose.decrypt(service.k_tid, wire.cose, name=CardKeys.NAME, max_bytes=self.max_bytes)
        signed, *rest = envelope.unpack(plaintext, low=2, high=1 + MAX_CARDS, max_bytes=self.max_bytes)
        opened = envelope.open_signed(
            CardKeys, signed, PublicKey.from_bytes(service.pk_tid), issuer=service.tid,
            audience=self._tsm.keys.name, now_s=ctx.now_s,
        )  # fmt: skip
        message = opened.message
        if not (same(message.n_u, session.n_u) and same(message.n_t, session.n_t)):
            raise NonceMismatch
        if message.tid != service.tid:
            raise FieldMismatch("TID")
        keys = tuple(CardKey.from_bytes(part) for part in rest)
        self.check_root(message, keys)
        self.check_possession(message, keys)
        facts = Issuing(session=session, service=service, message=message, keys=keys, request=ctx.digest)
        evidence = ((CardKeys.NAME, opened.wire), (LaunchPass.NAME, message.launch_pass))
        return Incoming(facts=facts, key=opened.key, claims=opened.claims, evidence=evidence)

    def check_root(self, message: CardKeys, keys: tuple[CardKey, ...]) -> None:
        """Every key is a leaf of the tree whose root SK_TID signed, and no key comes twice."""
        leaves = [card_leaf(salt=key.salt, modulus=key.modulus) for key in keys]
        if not same(merkle_root(leaves), message.root) or len({key.modulus for key in keys}) != len(keys):
            raise CardKeyInvalid("keys are not those under the signed root")

    def check_possession(self, message: CardKeys, keys: tuple[CardKey, ...]) -> None:
        """Each key is sound and signed S_C for this TSM and this N_T."""
        digest = possession_digest(tsm=self._tsm.keys.name, n_t=message.n_t)
        sound = verify_card_keys(key.modulus for key in keys)
        for public, key in zip(sound, keys, strict=True):
            verify_possession(public, digest, key.possession)

    def _live_grant(self, facts: Issuing, ctx: Context) -> TidEntry:
        """The grant whose AID the pass names; where it names none of them, the last to end, whose AID it is not."""
        tid = facts.service.tid
        grants = live(ctx.read(Where(TID_LIST, "tid", tid)).find(TID_LIST, "tid", tid), ctx.now_s)
        if not grants:
            raise GrantUnknown
        named = named_account(facts.message.launch_pass)
        return next((grant for grant in grants if grant.aid == named), grants[-1])

    def _check_pass(self, message: CardKeys, grant: TidEntry, ctx: Context) -> None:
        bank = known_party(self._tsm.directory, grant.bank, Role.BANK)
        shown = self.passes.open_pass(message.launch_pass, bank, grant.aid, ctx.now_s)
        self.passes.check_card_possession(shown, message.possession, message.n_t, ctx.now_s)

    def prepare(self, incoming: Incoming[Issuing], ctx: Context) -> Incoming[Issuing]:
        facts, policy = incoming.facts, self._tsm.policy
        grant = self._live_grant(facts, ctx)
        self._check_pass(facts.message, grant, ctx)
        # Paper §2.6: a card's limit is lower than the account's.
        limit_minor = min(grant.aid_limit_minor // 2, policy.card_limit_minor)
        if facts.service.maximum_minor:
            limit_minor = min(limit_minor, facts.service.maximum_minor)
        expires_at_s = min(policy.card_expiry_s(ctx.now_s), grant.aid_exp_time_s)
        cards = self._tsm.issuer.issue(
            [key.modulus for key in facts.keys], expires_at_s=expires_at_s, limit_minor=limit_minor,
            currency=grant.currency, now_s=ctx.now_s, entropy=ctx.entropy,
        )  # fmt: skip
        pan_refs = tuple(self._tsm.secrets.blind("pan", card.pan.encode()) for card in cards)
        return replace(incoming, facts=replace(facts, grant=grant, cards=cards, pan_refs=pan_refs))

    def reads(self, facts: Issuing) -> tuple[Read, ...]:
        assert facts.grant is not None
        return (
            Key(CARD_SESSIONS, (facts.session.handle,)),
            Key(TID_LIST, (facts.grant.sid_digest,)),
            Where(TID_LIST, "tid", facts.service.tid),
            Key(SERVICES, (facts.service.tid,)),
        )

    def decide(self, rows: Rows, facts: Issuing, now_s: int, entropy: Entropy) -> Decision:
        assert facts.grant is not None
        session = rows.get(CARD_SESSIONS, facts.session.handle)
        grant, service = rows.get(TID_LIST, facts.grant.sid_digest), rows.get(SERVICES, facts.service.tid)
        assert grant is not None
        assert service is not None
        if session is None:  # swept since it was read
            raise UnknownSession
        expect_state(session.state, "EXPECT_KEYS")
        expect_state(grant.state, "ACTIVE")
        expect_state(service.state, "ACTIVE")
        expect_running(service, rows.find(TID_LIST, "tid", service.tid), now_s)
        inserts = tuple(Insert(CARDS, _row(facts, grant, position)) for position in range(len(facts.cards)))
        reply = CardsIssued(tid=service.tid, n_u=session.n_u, n_t=session.n_t, cards=facts.cards)
        expecting = Update(CARD_SESSIONS, replace(session, state="EXPECT_ACTIVATION"))
        return Decision(writes=(expecting, *inserts), reply=reply)

    def seal(self, facts: Issuing, reply: CardsIssued, stamp: Stamp, ctx: Context) -> Wire:
        signed = envelope.sign(self._tsm.keys.signer, reply, audience=reply.tid, stamp=stamp, request_digest=ctx.digest)
        inner = cose.seal(
            PublicKey.from_bytes(facts.service.ek_tid), name=CardsIssued.NAME, plaintext=signed,
            request_digest=ctx.digest,
        )  # fmt: skip
        outer = cose.encrypt(
            facts.service.k_tid, ctx.entropy, name=CardsIssued.NAME, plaintext=inner, request_digest=ctx.digest
        )
        return Wire(cose=outer)


def _row(facts: Issuing, grant: TidEntry, position: int) -> CardRow:
    card, key = facts.cards[position], facts.keys[position]
    return CardRow(
        pan_ref=facts.pan_refs[position],
        modulus_digest=sha256(key.modulus),
        tid=facts.service.tid,
        sid_digest=grant.sid_digest,
        batch=facts.session.handle,
        position=position,
        pan=card.pan,
        k_ac=card.k_ac,
        modulus=key.modulus,
        salt=key.salt,
        expires_at_s=card.expires_at_s,
        limit_minor=card.limit_minor,
        currency=card.currency,
        uses=card.controls.uses,
        per_use_minor=card.controls.per_use_minor,
        total_minor=card.controls.total_minor,
        channel=card.controls.channel,
        state="EXPECT_ACTIVATION",
        verify_above_minor=card.controls.verify_above_minor,
        used=0,
        spent_minor=0,
        keys_request=facts.request,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Activating:
    """CARD-5, verified: which cards the SE says it holds."""

    session: CardSession
    service: Service
    message: CardActivation
    pan_refs: frozenset[bytes]
    recredit: bytes = b""


class ActivateCardsStep(Step[Activating]):
    """CARD-5: the SE holds the batch; the cards may be used. RECREDIT: where little is left, more is asked for."""

    rpc = "Tsm.ActivateCards"
    reply = CardsActive

    def __init__(self, tsm: Tsm) -> None:
        self._tsm = tsm

    def open(self, wire: Wire, ctx: Context) -> Incoming[Activating]:
        session, service = session_of(wire, ctx)
        signed = cose.decrypt(service.k_tid, wire.cose, name=CardActivation.NAME, max_bytes=self.max_bytes)
        opened = envelope.open_signed(
            CardActivation, signed, PublicKey.from_bytes(service.pk_tid), issuer=service.tid,
            audience=self._tsm.keys.name, now_s=ctx.now_s,
        )  # fmt: skip
        if not same(opened.message.n_t, session.n_t):
            raise NonceMismatch
        pan_refs = frozenset(self._tsm.secrets.blind("pan", pan.encode()) for pan in opened.message.pans)
        if len(pan_refs) != len(opened.message.pans):
            raise FieldMismatch("a card is named twice")
        facts = Activating(session=session, service=service, message=opened.message, pan_refs=pan_refs)
        evidence = ((CardActivation.NAME, opened.wire),)
        return Incoming(facts=facts, key=opened.key, claims=opened.claims, evidence=evidence)

    def prepare(self, incoming: Incoming[Activating], ctx: Context) -> Incoming[Activating]:
        service = incoming.facts.service
        grants = ctx.read(Where(TID_LIST, "tid", service.tid)).find(TID_LIST, "tid", service.tid)
        if not is_low(grants, self._tsm.policy, ctx.now_s):
            return incoming
        offer = make_offer(self._tsm, service, incoming.facts.session.n_u, ctx)
        return replace(incoming, facts=replace(incoming.facts, recredit=offer))

    def reads(self, facts: Activating) -> tuple[Read, ...]:
        handle, tid = facts.session.handle, facts.session.tid
        return (
            Key(CARD_SESSIONS, (handle,)), Where(CARDS, "batch", handle), Key(SERVICES, (tid,)),
            Where(TID_LIST, "tid", tid),
        )  # fmt: skip

    def decide(self, rows: Rows, facts: Activating, now_s: int, entropy: Entropy) -> Decision:
        session = rows.get(CARD_SESSIONS, facts.session.handle)
        if session is None:  # swept since it was read
            raise UnknownSession
        expect_state(session.state, "EXPECT_ACTIVATION")
        cards = rows.find(CARDS, "batch", session.handle)
        if facts.pan_refs != {card.pan_ref for card in cards}:
            raise FieldMismatch("not the cards of this batch")
        service, grants = rows.get(SERVICES, session.tid), rows.find(TID_LIST, "tid", session.tid)
        expect_running(service, grants, now_s)
        for card in cards:  # the account may have been closed in between, and its cards with it
            expect_state(card.state, "EXPECT_ACTIVATION")
        activated = tuple(Update(CARDS, changed(card, state="ACTIVE")) for card in cards)
        done = Update(CARD_SESSIONS, replace(session, state="DONE"))
        reply = CardsActive(tid=session.tid, n_t=session.n_t, number=len(cards), recredit=facts.recredit)
        return Decision(writes=(done, *activated), reply=reply)

    def seal(self, facts: Activating, reply: CardsActive, stamp: Stamp, ctx: Context) -> Wire:
        signed = envelope.sign(self._tsm.keys.signer, reply, audience=reply.tid, stamp=stamp, request_digest=ctx.digest)
        sealed = cose.encrypt(
            facts.service.k_tid, ctx.entropy, name=CardsActive.NAME, plaintext=signed, request_digest=ctx.digest
        )
        return Wire(cose=sealed)
