"""The TSM's answers in the SE: TID-4, the end of CARD with what it asks (RECREDIT), closing (paper §2.5, §2.6)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from protocol import envelope
from protocol.commitments import card_session
from protocol.crypto import PrivateKey, same
from protocol.engine import Context
from protocol.envelope import OBJECT_LIFETIME_S, Opened
from protocol.errors import FieldMismatch, NonceMismatch, WrongState
from protocol.messages.card import CardsActive
from protocol.messages.se import SeOpenService, SeService, Statement
from protocol.messages.service import AccountClosed, RecreditOffer, ServiceAccount, TidCertificate
from protocol.ports import Entropy
from protocol.roles.se.account import account_of
from protocol.roles.se.credit import (
    answered_offer,
    check_offer,
    expect_sealed,
    granted,
    held_grants,
    kept_offer,
    live_grants,
    waiting_offers,
)
from protocol.roles.se.party import SeStep
from protocol.roles.se.service import ACTIVATE_CARDS, expect_same, open_by_tsm, service_of
from protocol.roles.se.tables import GRANTS, RECREDITS, SERVICE_KEYS, VIRTUAL_CARDS, Grant, Recredit, ServiceKeys
from protocol.rows import Decision, Delete, Insert, Key, Read, Rows, Update, Where, Write, changed


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The TSM's verified answer, and what follows from it: credit, cards that are active, an offer, credit given back.

    `under` is the offer whose proof was accepted, if it was not TID-1b's.
    """

    service: ServiceKeys
    credit: ServiceAccount | None = None
    grant: Grant | None = None
    under: Recredit | None = None
    activated: bool = False
    offer: Recredit | None = None
    ended: Grant | None = None


class OpenServiceStep(SeStep[SeOpenService, Answered]):
    """TID-4 and the last answers of CARD and closing: opened under K_TID,TSM, which never leaves the SE."""

    rpc = "SecureElement.OpenService"
    command = SeOpenService
    reply = SeService

    def look(self, command: SeOpenService, ctx: Context) -> Answered:
        service = service_of(ctx, command.tid)
        answer = command.reply
        under = answered_offer(ctx, service, answer)
        if under is not None or service.pending == Statement.CREDIT_PROOF:
            return self._accepted(service, under, answer, ctx)
        if service.pending == ACTIVATE_CARDS:
            return self._activated(service, answer, ctx)
        if service.pending == Statement.CLOSE_ACCOUNT:
            return self._closed(service, answer, ctx)
        raise WrongState("no such answer is expected")

    def _open(self, kind: type[envelope.M], service: ServiceKeys, answer: bytes, ctx: Context) -> Opened[envelope.M]:
        return open_by_tsm(kind, service, answer, self._se.tsm(service.tsm).key, ctx)

    def _accepted(self, service: ServiceKeys, under: Recredit | None, answer: bytes, ctx: Context) -> Answered:
        proof: ServiceKeys | Recredit = service if under is None else under
        asked = service if under is None else replace(service, digest=under.digest)
        message = self._open(ServiceAccount, asked, answer, ctx).message
        if not same(message.n_u, proof.n_u):
            raise NonceMismatch
        if (message.tid, message.sid, message.com) != (service.tid, proof.sid, proof.com):
            raise FieldMismatch("the TSM accepted something else")
        self.check_certificate(message, service, ctx.now_s)
        grant = granted(service, account_of(ctx, proof.account), message)
        return Answered(service=service, credit=message, grant=grant, under=under)

    def check_certificate(self, message: ServiceAccount, service: ServiceKeys, now_s: int) -> None:
        """CERT_TID^TSM certifies this TID and this SE's own key (formal/core, UserTID)."""
        tsm = self._se.tsm(service.tsm)
        certificate = envelope.open_signed(
            TidCertificate, message.certificate, tsm.key, issuer=tsm.name, audience=service.tid, now_s=now_s,
            max_lifetime_s=OBJECT_LIFETIME_S,
        ).message  # fmt: skip
        pk_tid = PrivateKey.from_bytes(service.sk_tid).public.encoded
        if (certificate.tid, certificate.pk_tid) != (service.tid, pk_tid):
            raise FieldMismatch("CERT_TID certifies another key")

    def _activated(self, service: ServiceKeys, answer: bytes, ctx: Context) -> Answered:
        message = self._open(CardsActive, service, answer, ctx).message
        if not same(message.n_t, service.n_t):
            raise NonceMismatch
        batch = card_session(service.n_t)
        cards = ctx.read(Where(VIRTUAL_CARDS, "batch", batch)).find(VIRTUAL_CARDS, "batch", batch)
        if (message.tid, message.number) != (service.tid, len(cards)):
            raise FieldMismatch("the TSM activated something else")
        offer = self.open_offer(service, message.recredit, ctx.now_s) if message.recredit else None
        return Answered(service=service, activated=True, offer=offer)

    def open_offer(self, service: ServiceKeys, data: bytes, now_s: int) -> Recredit:
        """RECREDIT: the TSM's offer to this very TID and key, in answer to this CARD-1 (ADR-0029)."""
        tsm = self._se.tsm(service.tsm)
        opened = envelope.open_signed(RecreditOffer, data, tsm.key, issuer=tsm.name, audience=service.tid, now_s=now_s)
        check_offer(opened.message, service)
        return kept_offer(service, opened.message, opened.claims.expires_at_s)

    def _closed(self, service: ServiceKeys, answer: bytes, ctx: Context) -> Answered:
        message = self._open(AccountClosed, service, answer, ctx).message
        held = held_grants(ctx.read(Where(GRANTS, "tid", service.tid)), service.tid)
        ended = next((grant for grant in held if same(grant.sid, message.sid)), None)
        if message.tid != service.tid or ended is None:
            raise FieldMismatch("the TSM closed something else")
        return Answered(service=service, ended=ended)

    def reads(self, facts: Answered) -> tuple[Read, ...]:
        tid = facts.service.tid
        tables = (VIRTUAL_CARDS, GRANTS, RECREDITS)
        return (Key(SERVICE_KEYS, (tid,)), *(Where(table, "tid", tid) for table in tables))

    def decide(self, rows: Rows, facts: Answered, now_s: int, entropy: Entropy) -> Decision:
        service = rows.get(SERVICE_KEYS, facts.service.tid)
        assert service is not None
        if facts.under is None:
            expect_same(service, facts.service)
            after = changed(service, pending="")
        else:
            expect_sealed(rows, facts.under)
            after = service
        if facts.credit is not None:
            credit = facts.credit
            after = replace(
                after, expires_at_s=credit.expires_at_s, limit_minor=credit.limit_minor, currency=credit.currency,
                certificate=credit.certificate, state="ACTIVE",
            )  # fmt: skip
        others = [grant for grant in held_grants(rows, service.tid) if grant != facts.ended]
        if facts.ended is not None and not live_grants(others, now_s):
            after = replace(after, state="CLOSED")
        reply = SeService(
            tid=after.tid, state=after.state, expires_at_s=after.expires_at_s, limit_minor=after.limit_minor,
            currency=after.currency, recredit=facts.offer is not None,
        )  # fmt: skip
        return Decision(writes=(Update(SERVICE_KEYS, after), *_following(rows, facts, after)), reply=reply)


def _following(rows: Rows, facts: Answered, after: ServiceKeys) -> Iterator[Write]:
    """Changes beside the service account's own."""
    if facts.grant is not None:
        yield Insert(GRANTS, facts.grant)
    if facts.under is not None:
        yield Delete(RECREDITS, facts.under)
    if facts.offer is not None:
        yield from (Delete(RECREDITS, old) for old in waiting_offers(rows, after.tid))
        yield Insert(RECREDITS, facts.offer)
    if facts.ended is not None:
        yield Update(GRANTS, replace(facts.ended, state="CLOSED"))
    for card in rows.find(VIRTUAL_CARDS, "tid", after.tid):
        if facts.activated and card.state == "ISSUED":
            yield Update(VIRTUAL_CARDS, changed(card, state="ACTIVE"))
        elif facts.ended is not None and (after.state == "CLOSED" or card.sid_digest == facts.ended.sid_digest):
            yield Update(VIRTUAL_CARDS, changed(card, state="CLOSED"))
