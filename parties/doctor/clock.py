"""A peer's clock, as its own signed answers tell it.

gRPC carries no date, but every answer is signed with its time. Only questions are asked that leave nothing behind:
a bank's challenge for a purpose that no step uses, TID-1 (the TSM stores nothing), reference values; and where an
institution can ask nothing of that kind, a release of a grant that does not exist.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from parties.channels import Channels
from parties.directory import FileDirectory
from parties.keystore import Keystore
from parties.settings import Settings
from parties.system import SystemClock, SystemEntropy
from protocol import cose, envelope
from protocol.crypto import PrivateKey, PublicKey
from protocol.envelope import Signer, Stamp, Wire
from protocol.errors import Expired, GrantUnknown, NotYetValid, WrongState
from protocol.messages.attest import Challenge, ChallengeRequest
from protocol.messages.service import GrantRelease, ServiceOffer, ServiceRequest
from protocol.messages.software import ReferenceRequest, ReferenceValues
from protocol.pki import Use
from protocol.types import MAX_SKEW_S, NONCE_BYTES, Purpose, Role

BEYOND_S: Final = MAX_SKEW_S + 1
"""How far apart clocks are said to be whose messages were refused for their times."""


def skew(
    role: Role, name: str, settings: Settings, keystore: Keystore, directory: FileDirectory, channels: Channels
) -> int | None:  # fmt: skip
    """Seconds by which the peer's clock is ahead of this one; None where it is the same clock.

    Raises: Unavailable, or another refusal than those for times: then nothing was learned.
    """
    clock = _Clock(name, settings, keystore, directory, channels)
    ways: dict[Role, Callable[[], int]] = {
        Role.BANK: clock.by_release if settings.role is Role.TSM else clock.by_challenge,
        Role.TSM: clock.by_offer,
        Role.SP: clock.by_reference,
    }
    if role not in ways:
        return None
    try:
        return ways[role]()
    except NotYetValid:
        return -BEYOND_S
    except Expired:
        return BEYOND_S


class _Clock:
    """The ways to ask."""

    def __init__(
        self, peer: str, settings: Settings, keystore: Keystore, directory: FileDirectory, channels: Channels
    ) -> None:  # fmt: skip
        self._peer, self._settings, self._keystore = peer, settings, keystore
        self._directory, self._channels = directory, channels
        self._entropy = SystemEntropy()
        self._stamp = Stamp.fresh(SystemClock().now_s(), self._entropy)

    def by_challenge(self) -> int:
        """A nonce for the purpose `account`, whose nonce really comes with AID-2: no run is disturbed."""
        signer = Signer(name=self._settings.name, key=PrivateKey.from_bytes(self._keystore.entry("sign")))
        message = ChallengeRequest(purpose=Purpose.ACCOUNT)
        wire = Wire(cose=envelope.sign(signer, message, audience=self._peer, stamp=self._stamp))
        reply = self._channels.call(self._peer, "Bank.Challenge", wire)
        return self._ahead(Challenge.NAME, reply.cose, wire, Challenge.MAX_BYTES)

    def by_reference(self) -> int:
        """Reference values, asked for with a one-time key; a refusal for want of them is an answer, but has no time."""
        key = PrivateKey.generate(self._entropy)
        message = ReferenceRequest(
            software=self._settings.option_text("software"), bank=self._any_bank(), key=key.public.encoded
        )
        signer = Signer(name=key.public.thumbprint.hex(), key=key)
        wire = Wire(cose=envelope.sign(signer, message, audience=self._peer, stamp=self._stamp))
        reply = self._channels.call(self._peer, "SoftwareProvider.GetReferenceValues", wire)
        return self._ahead(ReferenceValues.NAME, reply.cose, wire, ReferenceValues.MAX_BYTES)

    def by_offer(self) -> int:
        """TID-1 with keys that are then forgotten."""
        sign, seal = PrivateKey.generate(self._entropy), PrivateKey.generate(self._entropy)
        message = ServiceRequest(
            tid=f"t-{self._entropy.bytes(16).hex()}", pk_tid=sign.public.encoded, ek_tid=seal.public.encoded,
            n_u=self._entropy.bytes(NONCE_BYTES),
        )  # fmt: skip
        signed = envelope.sign(
            Signer(name=message.tid, key=sign), message, audience=self._peer, stamp=self._stamp
        )  # fmt: skip
        wire = Wire(cose=cose.seal(self._sealing(), name=ServiceRequest.NAME, plaintext=signed))
        reply = self._channels.call(self._peer, "Tsm.OpenAccount", wire)
        max_bytes = ServiceOffer.MAX_BYTES + 4 * envelope.OVERHEAD_BYTES
        opened = cose.unseal(
            seal, reply.cose, name=ServiceOffer.NAME, max_bytes=max_bytes, request_digest=wire.digest
        )  # fmt: skip
        return self._ahead(ServiceOffer.NAME, opened, wire, max_bytes)

    def by_release(self) -> int:
        """A TSM releases a grant that does not exist: it is refused for that only if its time was right."""
        signer = Signer(name=self._settings.name, key=PrivateKey.from_bytes(self._keystore.entry("sign")))
        message = GrantRelease(aid=f"a-{self._entropy.bytes(16).hex()}", sid=self._entropy.bytes(64))
        signed = envelope.sign(signer, message, audience=self._peer, stamp=self._stamp)
        wire = Wire(cose=cose.seal(self._sealing(), name=GrantRelease.NAME, plaintext=signed))
        try:
            self._channels.call(self._peer, "Bank.ReleaseGrant", wire)
        except GrantUnknown:
            return 0
        raise WrongState("a grant that does not exist was released")

    def _any_bank(self) -> str:
        banks = [name for name in self._settings.peers if name != self._settings.name]
        return next((name for name in banks if self._directory.named(name, Use.SIGN).role is Role.BANK), self._peer)

    def _sealing(self) -> PublicKey:
        return self._directory.named(self._peer, Use.SEAL).key

    def _ahead(self, message: str, signed: bytes, request: Wire, max_bytes: int) -> int:
        """How far the time under the peer's signature is ahead of our clock."""
        sign1 = cose.parse_sign1(signed, max_bytes=max_bytes + envelope.OVERHEAD_BYTES)
        key = self._directory.named(self._peer, Use.SIGN).key
        verified = cose.verify(sign1, key, name=message, request_digest=request.digest)
        return verified.claims.issued_at_s - SystemClock().now_s()
