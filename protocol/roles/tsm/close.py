"""A service account gives its grant back: the cards end here, then the bank frees the AID (design §3 TID-5)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from protocol import cose, envelope
from protocol.crypto import PublicKey, same
from protocol.engine import Ask, AskingStep, Context, Incoming
from protocol.envelope import Stamp, Wire
from protocol.errors import FieldMismatch, GrantUnknown, ProtocolError, UnknownSession
from protocol.messages.service import AccountClosed, CloseAccount, GrantReleased
from protocol.ports import Entropy
from protocol.roles.party import expect_state
from protocol.roles.tsm.party import Tsm
from protocol.roles.tsm.release import RELEASE_RPC, open_released, sealed_release
from protocol.roles.tsm.tables import CARDS, SERVICES, TID_LIST, Service, TidEntry
from protocol.rows import Decision, Key, Read, Rows, Update, Where, changed


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """A verified wish to close; `ask` once the release is sealed."""

    entry: TidEntry
    service: Service
    message: CloseAccount
    ask: Ask | None = None


class CloseAccountStep(AskingStep[Closing]):
    """The envelope's session is H(SID), by which the grant's row is found."""

    rpc = "Tsm.CloseAccount"
    reply = AccountClosed

    def __init__(self, tsm: Tsm) -> None:
        self._tsm = tsm

    def open(self, wire: Wire, ctx: Context) -> Incoming[Closing]:
        entry = ctx.read(Key(TID_LIST, (wire.session,))).get(TID_LIST, wire.session)
        service = None if entry is None else ctx.read(Key(SERVICES, (entry.tid,))).get(SERVICES, entry.tid)
        if entry is None or service is None:
            raise UnknownSession
        signed = cose.decrypt(service.k_tid, wire.cose, name=CloseAccount.NAME, max_bytes=self.max_bytes)
        opened = envelope.open_signed(
            CloseAccount, signed, PublicKey.from_bytes(service.pk_tid), issuer=service.tid,
            audience=self._tsm.keys.name, now_s=ctx.now_s,
        )  # fmt: skip
        if opened.message.tid != service.tid or not same(opened.message.sid, entry.sid):
            raise FieldMismatch
        facts = Closing(entry=entry, service=service, message=opened.message)
        evidence = ((CloseAccount.NAME, opened.wire),)
        return Incoming(facts=facts, key=opened.key, claims=opened.claims, evidence=evidence)

    def prepare(self, incoming: Incoming[Closing], ctx: Context) -> Incoming[Closing]:
        entry = incoming.facts.entry
        ask = Ask(peer=entry.bank, rpc=RELEASE_RPC, wire=sealed_release(self._tsm, entry, ctx.now_s, ctx.entropy))
        return replace(incoming, facts=replace(incoming.facts, ask=ask))

    def ask(self, facts: Closing) -> Ask:
        assert facts.ask is not None
        return facts.ask

    def reads(self, facts: Closing) -> tuple[Read, ...]:
        return (Key(TID_LIST, (facts.entry.sid_digest,)), Where(CARDS, "sid_digest", facts.entry.sid_digest))

    def decide(self, rows: Rows, facts: Closing, now_s: int, entropy: Entropy) -> Decision:
        entry = rows.get(TID_LIST, facts.entry.sid_digest)
        assert entry is not None
        expect_state(entry.state, "ACTIVE", "EXPECT_RELEASE")
        ended = tuple(
            Update(CARDS, changed(card, state="CLOSED")) for card in rows.find(CARDS, "sid_digest", entry.sid_digest)
        )
        closing = Update(TID_LIST, replace(entry, state="EXPECT_RELEASE", asked_at_s=now_s))
        return Decision(writes=(closing, *ended))

    def hear(self, facts: Closing, question: Wire, answer: Wire, ctx: Context) -> GrantReleased:
        return open_released(self._tsm, facts.entry, question, answer, ctx.now_s)

    def finish(
        self, rows: Rows, facts: Closing, heard: GrantReleased | ProtocolError, now_s: int, entropy: Entropy
    ) -> Decision:
        entry = rows.get(TID_LIST, facts.entry.sid_digest)
        assert entry is not None
        if isinstance(heard, ProtocolError) and not isinstance(heard, GrantUnknown):
            # The cards stay ended and no others are issued; the release can be asked for again.
            return Decision(refusal=heard)
        released = Update(TID_LIST, replace(entry, state="RELEASED"))
        return Decision(writes=(released,), reply=AccountClosed(tid=entry.tid, sid=entry.sid))

    def seal(self, facts: Closing, reply: AccountClosed, stamp: Stamp, ctx: Context) -> Wire:
        signed = envelope.sign(self._tsm.keys.signer, reply, audience=reply.tid, stamp=stamp, request_digest=ctx.digest)
        sealed = cose.encrypt(
            facts.service.k_tid, ctx.entropy, name=AccountClosed.NAME, plaintext=signed, request_digest=ctx.digest
        )
        return Wire(cose=sealed)
