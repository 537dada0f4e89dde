"""CARD in the SE: card keys are made here, endorsed under SK_TID by their root, and the issued data stays here."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace

from protocol import cose, envelope
from protocol.card.afl import by_place
from protocol.card.chain import verify_card
from protocol.card.pan import mask_pan
from protocol.card.possession import sign_possession
from protocol.card.rsa import PrivateKey as CardPrivateKey
from protocol.commitments import card_leaf, card_session, merkle_root, possession_digest
from protocol.crypto import PrivateKey, same, sha256
from protocol.engine import Context, Incoming
from protocol.envelope import Signer, Wire
from protocol.errors import CardDataInvalid, FieldMismatch, Malformed, NonceMismatch, WrongState
from protocol.messages.attest import PossessionForCards
from protocol.messages.card import CardActivation, CardChallenge, CardKey, CardKeys, CardsIssued
from protocol.messages.se import SealedRequest, SeGenerateCardKeys, SeInstallCards, Statement
from protocol.ports import Entropy
from protocol.roles.party import expect_state
from protocol.roles.se.credit import grant_for_cards
from protocol.roles.se.party import SeStep, expect_open, fresh, nonce
from protocol.roles.se.service import ACTIVATE_CARDS, expect_same, open_by_tsm, service_of, service_signer
from protocol.roles.se.tables import (
    GRANTS,
    OWNERS,
    SERVICE_KEYS,
    VIRTUAL_CARDS,
    Account,
    Grant,
    ServiceKeys,
    VirtualCard,
)
from protocol.rows import Decision, Insert, Key, Read, Rows, Update, Where, changed

ISSUE_CARDS = "issue-cards"
ISSUE_S = 24 * 3600
"""Keys that no card came for within a day are destroyed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generating:
    """CARD-2 opened under K; CARD-3 to be made."""

    command: SeGenerateCardKeys
    service: ServiceKeys
    grant: Grant
    account: Account
    challenge: CardChallenge
    cards: tuple[VirtualCard, ...] = ()
    request: bytes = b""


class GenerateCardKeysStep(SeStep[SeGenerateCardKeys, Generating]):
    """CARD-1/2, CARD-3: the root is over this SE's own card keys only; S_C and a purchase can't be confused."""

    rpc = "SecureElement.GenerateCardKeys"
    command = SeGenerateCardKeys
    reply = SealedRequest

    def look(self, command: SeGenerateCardKeys, ctx: Context) -> Generating:
        if command.number == 0:
            raise Malformed("no card is asked for")
        service = service_of(ctx, command.tid)
        if service.pending != Statement.CARD_REQUEST:
            raise WrongState("no card request is under way")
        tsm = self._se.tsm(service.tsm)
        challenge = open_by_tsm(CardChallenge, service, command.reply, tsm.key, ctx).message
        if challenge.tid != service.tid:
            raise FieldMismatch("TID")
        if not same(challenge.n_u, service.n_u):
            raise NonceMismatch
        grant, account = grant_for_cards(ctx, service.tid)
        return Generating(command=command, service=service, grant=grant, account=account, challenge=challenge)

    def prepare(self, incoming: Incoming[Generating], ctx: Context) -> Incoming[Generating]:
        facts = incoming.facts
        n_t, service = facts.challenge.n_t, facts.service
        keys = self._se.card_keys.take(facts.command.number)
        digest = possession_digest(tsm=service.tsm, n_t=n_t)
        shown = [
            CardKey(
                modulus=key.public.to_bytes(), salt=nonce(ctx.entropy),
                possession=sign_possession(key, digest, ctx.entropy),
            )
            for key in keys
        ]  # fmt: skip
        signed = envelope.sign(
            service_signer(service), self._message(facts, shown, ctx), audience=service.tsm, stamp=fresh(ctx)
        )
        plaintext = envelope.pack([signed, *(card_key.to_bytes() for card_key in shown)])
        request = cose.encrypt(service.k_tid, ctx.entropy, name=CardKeys.NAME, plaintext=plaintext)
        batch = card_session(n_t)
        cards = tuple(
            _blank(facts.grant, batch, position, key, card_key.salt, expires_at_s=ctx.now_s + ISSUE_S)
            for position, (key, card_key) in enumerate(zip(keys, shown, strict=True))
        )
        return replace(incoming, facts=replace(facts, cards=cards, request=request))

    def _message(self, facts: Generating, shown: list[CardKey], ctx: Context) -> CardKeys:
        service, account, challenge = facts.service, facts.account, facts.challenge
        root = merkle_root([card_leaf(salt=card_key.salt, modulus=card_key.modulus) for card_key in shown])
        holder = Signer(name=account.aid, key=PrivateKey.from_bytes(account.sk_aid))
        possession = PossessionForCards(n_t=challenge.n_t, pass_digest=sha256(account.launch_pass))
        return CardKeys(
            tid=service.tid, n_u=challenge.n_u, n_t=challenge.n_t, root=root, launch_pass=account.launch_pass,
            possession=envelope.sign(holder, possession, audience=service.tsm, stamp=fresh(ctx)),
        )  # fmt: skip

    def reads(self, facts: Generating) -> tuple[Read, ...]:
        return (
            Key(SERVICE_KEYS, (facts.service.tid,)), Key(OWNERS, (facts.grant.bank,)),
            Key(GRANTS, (facts.grant.sid_digest,)),
        )  # fmt: skip

    def decide(self, rows: Rows, facts: Generating, now_s: int, entropy: Entropy) -> Decision:
        expect_open(rows, facts.grant.bank)
        service, grant = rows.get(SERVICE_KEYS, facts.service.tid), rows.get(GRANTS, facts.grant.sid_digest)
        assert service is not None
        assert grant is not None
        expect_same(service, facts.service)
        expect_state(grant.state, "ACTIVE")
        handle = card_session(facts.challenge.n_t)
        asked = replace(
            service, n_t=facts.challenge.n_t, pending=ISSUE_CARDS,
            digest=Wire(cose=facts.request, session=handle).digest,
        )  # fmt: skip
        inserts = tuple(Insert(VIRTUAL_CARDS, card) for card in facts.cards)
        reply = SealedRequest(cose=facts.request, session=handle, handle=service.tid)
        return Decision(writes=(Update(SERVICE_KEYS, asked), *inserts), reply=reply)


def _blank(
    grant: Grant, batch: bytes, position: int, key: CardPrivateKey, salt: bytes, *, expires_at_s: int
) -> VirtualCard:
    return VirtualCard(
        modulus_digest=sha256(key.public.to_bytes()), tid=grant.tid, batch=batch, position=position,
        card_key=key.to_bytes(), salt=salt, pan="", masked="", k_ac=b"", icc_certificate=b"", records=b"",
        expires_at_s=expires_at_s, limit_minor=0, currency="", uses=0, per_use_minor=0, total_minor=0, channel="",
        state="EXPECT_ISSUE", verify_above_minor=0, atc=0, used=0, sid_digest=grant.sid_digest,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Installing:
    """CARD-4 opened with DK_TID inside the SE; CARD-5 to be made."""

    service: ServiceKeys
    bank: str
    issued: CardsIssued
    batch: bytes
    request: bytes = b""


class InstallCardsStep(SeStep[SeInstallCards, Installing]):
    """CARD-4, CARD-5: PANs, records and kAC are kept; only masked numbers ever leave (TW-S1)."""

    rpc = "SecureElement.InstallCards"
    command = SeInstallCards
    reply = SealedRequest

    def look(self, command: SeInstallCards, ctx: Context) -> Installing:
        service = service_of(ctx, command.tid)
        if service.pending != ISSUE_CARDS:
            raise WrongState("no cards are being issued")
        tsm = self._se.tsm(service.tsm)
        inner = cose.decrypt(
            service.k_tid, command.reply, name=CardsIssued.NAME, max_bytes=self.max_bytes,
            request_digest=service.digest,
        )  # fmt: skip
        signed = cose.unseal(
            PrivateKey.from_bytes(service.dk_tid), inner, name=CardsIssued.NAME, max_bytes=self.max_bytes,
            request_digest=service.digest,
        )  # fmt: skip
        issued = envelope.open_signed(
            CardsIssued, signed, tsm.key, issuer=tsm.name, audience=service.tid, now_s=ctx.now_s,
            request_digest=service.digest,
        ).message  # fmt: skip
        if issued.tid != service.tid:
            raise FieldMismatch("TID")
        if not (same(issued.n_u, service.n_u) and same(issued.n_t, service.n_t)):
            raise NonceMismatch
        batch = card_session(issued.n_t)
        blanks = ctx.read(Where(VIRTUAL_CARDS, "batch", batch)).find(VIRTUAL_CARDS, "batch", batch)
        self.check_cards(issued, blanks, ctx.now_s)
        of_grant = blanks[0].sid_digest
        grant = ctx.read(Key(GRANTS, (of_grant,))).get(GRANTS, of_grant)
        assert grant is not None  # grants are never deleted
        return Installing(service=service, bank=grant.bank, issued=issued, batch=batch)

    def check_cards(self, issued: CardsIssued, blanks: tuple[VirtualCard, ...], now_s: int) -> None:
        """Each certificate chains to an EMV CA and binds this very PAN to this SE's own card key (formal/core)."""
        if len(blanks) != len(issued.cards):
            raise FieldMismatch("not as many cards as keys")
        today = datetime.datetime.fromtimestamp(now_s, tz=datetime.UTC).date()
        for blank, card in zip(sorted(blanks, key=lambda blank: blank.position), issued.cards, strict=True):
            emv = card.emv
            certified = verify_card(
                aid=emv.application, aip=emv.aip, afl=emv.afl, ca_keys=self._se.emv_ca, today=today,
                records=by_place(emv.records),
            ).icc  # fmt: skip
            own = same(sha256(certified.key.to_bytes()), blank.modulus_digest)
            if not own or certified.pan != card.pan:
                raise CardDataInvalid("certificate is of another key or number")

    def prepare(self, incoming: Incoming[Installing], ctx: Context) -> Incoming[Installing]:
        facts = incoming.facts
        message = CardActivation(pans=tuple(card.pan for card in facts.issued.cards), n_t=facts.issued.n_t)
        signed = envelope.sign(service_signer(facts.service), message, audience=facts.service.tsm, stamp=fresh(ctx))
        request = cose.encrypt(facts.service.k_tid, ctx.entropy, name=CardActivation.NAME, plaintext=signed)
        return replace(incoming, facts=replace(facts, request=request))

    def reads(self, facts: Installing) -> tuple[Read, ...]:
        return (
            Key(SERVICE_KEYS, (facts.service.tid,)), Key(OWNERS, (facts.bank,)),
            Where(VIRTUAL_CARDS, "batch", facts.batch),
        )  # fmt: skip

    def decide(self, rows: Rows, facts: Installing, now_s: int, entropy: Entropy) -> Decision:
        expect_open(rows, facts.bank)
        service = rows.get(SERVICE_KEYS, facts.service.tid)
        assert service is not None
        expect_same(service, facts.service)
        blanks = sorted(rows.find(VIRTUAL_CARDS, "batch", facts.batch), key=lambda card: card.position)
        if len(blanks) != len(facts.issued.cards):  # swept since they were read
            raise FieldMismatch("not as many cards as keys")
        filled = tuple(
            Update(
                VIRTUAL_CARDS,
                replace(
                    blank, pan=card.pan, masked=mask_pan(card.pan), k_ac=card.k_ac,
                    icc_certificate=card.icc_certificate, records=card.emv.to_bytes(),
                    expires_at_s=card.expires_at_s, limit_minor=card.limit_minor, currency=card.currency,
                    uses=card.controls.uses, per_use_minor=card.controls.per_use_minor,
                    total_minor=card.controls.total_minor, channel=card.controls.channel,
                    verify_above_minor=card.controls.verify_above_minor, state="ISSUED",
                ),
            )
            for blank, card in zip(blanks, facts.issued.cards, strict=True)
        )  # fmt: skip
        digest = Wire(cose=facts.request, session=facts.batch).digest
        asked = changed(service, pending=ACTIVATE_CARDS, digest=digest)
        reply = SealedRequest(cose=facts.request, session=facts.batch, handle=service.tid)
        return Decision(writes=(Update(SERVICE_KEYS, asked), *filled), reply=reply)
