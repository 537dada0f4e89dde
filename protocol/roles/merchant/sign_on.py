"""A terminal signs on at the TSM with a key of its own, which signs for it from then on (CN-5)."""

from __future__ import annotations

from dataclasses import replace

from protocol import envelope
from protocol.crypto import PrivateKey
from protocol.envelope import Stamp, Wire
from protocol.errors import FieldMismatch
from protocol.messages.merchant import SignedOn, SignOn
from protocol.ports import Entropy
from protocol.roles.merchant.party import Shop
from protocol.roles.merchant.tables import TERMINAL_KEYS, TerminalKey
from protocol.roles.party import known_party
from protocol.rows import Decision, Insert, Key, Rows, Unit, Update
from protocol.types import Role


def begin_sign_on(shop: Shop, terminal: str, tsm: str, now_s: int, entropy: Entropy) -> Unit:
    """Make a new terminal key and store its sealed sign-on; one under way is kept, so the same bytes are sent again."""
    key = PrivateKey.generate(entropy)
    message = SignOn(
        merchant_name=shop.merchant_name, merchant_identifier=shop.merchant_identifier, terminal=terminal,
        terminal_key=key.public.encoded,
    )  # fmt: skip
    request = envelope.sign(shop.keys.signer, message, audience=tsm, stamp=Stamp.fresh(now_s, entropy))
    fresh = TerminalKey(
        terminal=terminal, tsm=tsm, private_key=key.to_bytes(), request=request,
        expires_at_s=now_s + envelope.REQUEST_LIFETIME_S, state="EXPECT_SIGN_ON",
    )  # fmt: skip

    def decide(rows: Rows) -> Decision:
        old = rows.get(TERMINAL_KEYS, terminal)
        if old is None:
            return Decision(writes=(Insert(TERMINAL_KEYS, fresh),), reply=fresh)
        if old.state == "EXPECT_SIGN_ON" and old.tsm == tsm and old.expires_at_s > now_s:
            return Decision(reply=old)
        return Decision(writes=(Update(TERMINAL_KEYS, fresh),), reply=fresh)

    return Unit((Key(TERMINAL_KEYS, (terminal,)),), decide)


def finish_sign_on(shop: Shop, pending: TerminalKey, answer: Wire, now_s: int) -> Unit:
    """The TSM's verified answer makes the key usable. Raises: what `envelope.open_signed` raises, FieldMismatch."""
    tsm = known_party(shop.directory, pending.tsm, Role.TSM)
    signed_on = envelope.open_signed(
        SignedOn, answer.cose, tsm.key, issuer=tsm.name, audience=shop.keys.name, now_s=now_s,
        request_digest=Wire(cose=pending.request).digest,
    ).message  # fmt: skip
    public = PrivateKey.from_bytes(pending.private_key).public.encoded
    if (signed_on.terminal, signed_on.terminal_key) != (pending.terminal, public):
        raise FieldMismatch("another terminal or key was signed on")
    active = replace(pending, state="ACTIVE", expires_at_s=signed_on.expires_at_s)

    def decide(rows: Rows) -> Decision:
        return Decision(writes=(Update(TERMINAL_KEYS, active),), reply=active)

    return Unit((Key(TERMINAL_KEYS, (pending.terminal,)),), decide)


def signing_key(rows: Rows, shop: Shop, now_s: int) -> PrivateKey | None:
    """The terminal's key as the TSM knows it; None before it is signed on, while it is rotated, and when it expired."""
    row = rows.get(TERMINAL_KEYS, shop.terminal)
    if row is None or row.state != "ACTIVE" or row.expires_at_s < now_s:
        return None
    return PrivateKey.from_bytes(row.private_key)
