"""The software provider: one signed release, and the banks' signed reference values (INIT-5, ATT-D0, ATT-D1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from protocol import envelope
from protocol.crypto import PublicKey
from protocol.engine import Context, Incoming, StatelessStep, Step
from protocol.envelope import Stamp, Wire
from protocol.errors import SoftwareUnknown
from protocol.messages.software import ReferenceRequest, ReferenceValues, Release, ReleaseRequest
from protocol.ports import Entropy
from protocol.roles.party import PartyKeys, alone
from protocol.rows import Decision, Rows

Q = TypeVar("Q", ReleaseRequest, ReferenceRequest)


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftwareProvider:
    """What it offers: the software identifier, the release, the package, and reference values by bank."""

    keys: PartyKeys
    software: str
    release: bytes
    package: bytes
    reference_values: Mapping[str, bytes]


def _open(kind: type[Q], provider: SoftwareProvider, wire: Wire, ctx: Context) -> Incoming[Q]:
    """The request is certified by the one-time key that it carries: the provider learns no phone (ADR-0010)."""
    sign1 = envelope.peek(kind, alone(wire))
    claimed = kind.from_bytes(sign1.payload)
    key = PublicKey.from_bytes(claimed.key)
    opened = envelope.believe(
        kind, sign1, key, issuer=key.thumbprint.hex(), audience=provider.keys.name, now_s=ctx.now_s
    )
    if opened.message.software != provider.software:
        raise SoftwareUnknown
    return Incoming(facts=opened.message, key=key, claims=opened.claims)


class GetReleaseStep(StatelessStep[ReleaseRequest]):
    """ATT-D1: the software with its identifier."""

    rpc = "SoftwareProvider.GetRelease"
    reply = Release

    def __init__(self, provider: SoftwareProvider) -> None:
        self._provider = provider

    def open(self, wire: Wire, ctx: Context) -> Incoming[ReleaseRequest]:
        return _open(ReleaseRequest, self._provider, wire, ctx)

    def decide(self, rows: Rows, facts: ReleaseRequest, now_s: int, entropy: Entropy) -> Decision:
        return Decision(reply=Release(release=self._provider.release, package=self._provider.package))

    def seal(self, facts: ReleaseRequest, reply: Release, stamp: Stamp, ctx: Context) -> Wire:
        audience = PublicKey.from_bytes(facts.key).thumbprint.hex()
        signer = self._provider.keys.signer
        signed = envelope.sign(signer, reply, audience=audience, stamp=stamp, request_digest=ctx.digest)
        return Wire(cose=signed)


class GetReferenceValuesStep(StatelessStep[ReferenceRequest]):
    """INIT-5: `SIGN(SK_B, Quote)`, of the bank that is asked for."""

    rpc = "SoftwareProvider.GetReferenceValues"
    reply = ReferenceValues

    def __init__(self, provider: SoftwareProvider) -> None:
        self._provider = provider

    def open(self, wire: Wire, ctx: Context) -> Incoming[ReferenceRequest]:
        incoming = _open(ReferenceRequest, self._provider, wire, ctx)
        if incoming.facts.bank not in self._provider.reference_values:
            raise SoftwareUnknown("no reference values of that bank")
        return incoming

    def decide(self, rows: Rows, facts: ReferenceRequest, now_s: int, entropy: Entropy) -> Decision:
        return Decision(reply=ReferenceValues(reference_values=self._provider.reference_values[facts.bank]))

    def seal(self, facts: ReferenceRequest, reply: ReferenceValues, stamp: Stamp, ctx: Context) -> Wire:
        audience = PublicKey.from_bytes(facts.key).thumbprint.hex()
        signer = self._provider.keys.signer
        signed = envelope.sign(signer, reply, audience=audience, stamp=stamp, request_digest=ctx.digest)
        return Wire(cose=signed)


def sp_steps(provider: SoftwareProvider) -> dict[str, Step[Any]]:
    """RPC name → step, for an engine."""
    steps: tuple[type[Any], ...] = (GetReleaseStep, GetReferenceValuesStep)
    return {step.rpc: step(provider) for step in steps}
