"""A merchant's terminal signs on with its own key (CN-5); the merchant's certificate vouches for it (CN-14)."""

from __future__ import annotations

from dataclasses import dataclass

from protocol import envelope
from protocol.crypto import PublicKey
from protocol.engine import Context, Incoming, Step
from protocol.envelope import Stamp, Wire
from protocol.errors import IdentifierTaken
from protocol.messages.merchant import SignedOn, SignOn
from protocol.ports import Entropy
from protocol.roles.party import alone, expect_peer, open_certified
from protocol.roles.tsm.party import Tsm
from protocol.roles.tsm.tables import TERMINALS, Terminal
from protocol.rows import Decision, Insert, Key, Read, Rows, Update, Where
from protocol.types import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningOn:
    """A verified sign-on and the merchant that made it."""

    merchant: str
    message: SignOn
    kid: bytes


class SignOnStep(Step[SigningOn]):
    """A terminal belongs to one merchant, a key to one terminal; signing on again rotates the key."""

    rpc = "Tsm.SignOn"
    reply = SignedOn

    def __init__(self, tsm: Tsm) -> None:
        self._tsm = tsm

    def open(self, wire: Wire, ctx: Context) -> Incoming[SigningOn]:
        opened, merchant = open_certified(
            SignOn, alone(wire), self._tsm.directory, role=Role.MERCHANT, audience=self._tsm.keys.name, ctx=ctx
        )
        expect_peer(ctx, merchant.name, Role.MERCHANT)
        kid = PublicKey.from_bytes(opened.message.terminal_key).thumbprint
        facts = SigningOn(merchant=merchant.name, message=opened.message, kid=kid)
        evidence = ((SignOn.NAME, opened.wire),)
        return Incoming(facts=facts, key=opened.key, claims=opened.claims, evidence=evidence)

    def reads(self, facts: SigningOn) -> tuple[Read, ...]:
        return (
            Key(TERMINALS, (facts.message.terminal,)),
            Where(TERMINALS, "kid_terminal", facts.kid),
            Where(TERMINALS, "merchant", facts.merchant),
            Where(TERMINALS, "merchant_identifier", facts.message.merchant_identifier),
        )

    def decide(self, rows: Rows, facts: SigningOn, now_s: int, entropy: Entropy) -> Decision:
        message = facts.message
        old = rows.get(TERMINALS, message.terminal)
        if (old is not None and old.merchant != facts.merchant) or rows.find(TERMINALS, "kid_terminal", facts.kid):
            raise IdentifierTaken("terminal or key is registered already")
        named = {(t.merchant_name, t.merchant_identifier) for t in rows.find(TERMINALS, "merchant", facts.merchant)}
        if named - {(message.merchant_name, message.merchant_identifier)}:
            raise IdentifierTaken("the merchant is registered under another name")
        same_identifier = rows.find(TERMINALS, "merchant_identifier", message.merchant_identifier)
        if any(other.merchant != facts.merchant for other in same_identifier):
            raise IdentifierTaken("the merchant identifier is another merchant's")  # CN-14
        row = Terminal(
            terminal=message.terminal, merchant=facts.merchant, merchant_name=message.merchant_name,
            merchant_identifier=message.merchant_identifier, terminal_key=message.terminal_key,
            kid_terminal=facts.kid, expires_at_s=now_s + self._tsm.policy.terminal_key_life_s, state="ACTIVE",
        )  # fmt: skip
        write = Insert(TERMINALS, row) if old is None else Update(TERMINALS, row)
        reply = SignedOn(terminal=row.terminal, terminal_key=row.terminal_key, expires_at_s=row.expires_at_s)
        return Decision(writes=(write,), reply=reply)

    def seal(self, facts: SigningOn, reply: SignedOn, stamp: Stamp, ctx: Context) -> Wire:
        signed = envelope.sign(
            self._tsm.keys.signer, reply, audience=facts.merchant, stamp=stamp, request_digest=ctx.digest
        )
        return Wire(cose=signed)
