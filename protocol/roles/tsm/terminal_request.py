"""A terminal's request, opened: signed by the key that is registered for it, over its merchant's own TLS (CN-5)."""

from __future__ import annotations

from typing import TypeVar

from protocol import envelope
from protocol.crypto import PublicKey
from protocol.engine import Context
from protocol.envelope import Opened, Wire
from protocol.errors import Expired, FieldMismatch, UnknownKey
from protocol.messages.pay import Authorization, AuthorizationBatch, Refund, Reversal
from protocol.roles.party import alone, expect_peer
from protocol.roles.tsm.party import Tsm
from protocol.roles.tsm.tables import TERMINALS, Terminal
from protocol.rows import Where
from protocol.types import Role

M = TypeVar("M", Authorization, AuthorizationBatch, Reversal, Refund)


def open_request(kind: type[M], wire: Wire, tsm: Tsm, ctx: Context) -> tuple[Opened[M], Terminal]:
    """Raises: UnknownKey, WrongPeer, Expired (the key is due for rotation), FieldMismatch, what `believe` raises."""
    sign1 = envelope.peek(kind, alone(wire))
    found = ctx.read(Where(TERMINALS, "kid_terminal", sign1.kid)).find(TERMINALS, "kid_terminal", sign1.kid)
    if not found:
        raise UnknownKey
    terminal = found[0]
    expect_peer(ctx, terminal.merchant, Role.MERCHANT)
    opened = envelope.believe(
        kind, sign1, PublicKey.from_bytes(terminal.terminal_key), issuer=terminal.merchant,
        audience=tsm.keys.name, now_s=ctx.now_s,
    )  # fmt: skip
    if terminal.expires_at_s < ctx.now_s:
        raise Expired("the terminal must sign on with a new key")
    if opened.message.terminal != terminal.terminal:
        raise FieldMismatch("the key is another terminal's")
    return opened, terminal
