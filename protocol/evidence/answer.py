"""The bank's answer to a trace, opened by the one to whom it is sealed (design §3 TRACE)."""

from __future__ import annotations

from protocol import cose, envelope
from protocol.envelope import OBJECT_LIFETIME_S, OVERHEAD_BYTES
from protocol.errors import WrongIssuer
from protocol.messages.trace import TraceAnswer
from protocol.pki import Directory, Identity
from protocol.roles.party import PartyKeys
from protocol.types import Role


def open_answer(keys: PartyKeys, directory: Directory, sealed: bytes, now_s: int) -> tuple[TraceAnswer, Identity]:
    """The name, and the bank that gave it. Raises: DecryptionFailed (sealed to somebody else), UnknownKey,
    WrongIssuer (no bank), and what `envelope.believe` raises.
    """
    bound = TraceAnswer.MAX_BYTES + 2 * OVERHEAD_BYTES
    signed = cose.unseal(keys.seal, sealed, name=TraceAnswer.NAME, max_bytes=bound)
    sign1 = envelope.peek(TraceAnswer, signed)
    bank = directory.by_thumbprint(sign1.kid)
    if bank.role is not Role.BANK:
        raise WrongIssuer("only a bank names a person")
    opened = envelope.believe(
        TraceAnswer, sign1, bank.key, issuer=bank.name, audience=keys.name, now_s=now_s,
        max_lifetime_s=OBJECT_LIFETIME_S,
    )  # fmt: skip
    return opened.message, bank
