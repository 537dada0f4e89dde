"""The signatures in a bundle of evidence, each judged as of its own time and under a certificate that was good then."""

from __future__ import annotations

from typing import TypeVar

from protocol import envelope, pki
from protocol.cose import Sign1
from protocol.crypto import PublicKey
from protocol.envelope import Opened
from protocol.errors import CertificateInvalid, NotYetValid, UnknownKey, WrongIssuer
from protocol.evidence.bundle_verdict import Signature
from protocol.pki import Identity, Use
from protocol.schema import Message
from protocol.types import MAX_LIFETIME_S, MAX_SKEW_S, Role

M = TypeVar("M", bound=Message)
PSEUDONYM = "tid"
"""Who has no certificate of the CA has this in the place of a role."""


class Signatures:
    """Opens messages by what they must be, and notes who signed them until that is taken."""

    def __init__(self, certificates: tuple[bytes, ...], *, root: bytes, now_s: int) -> None:
        self._certificates = certificates
        self._root = root
        self._now_s = now_s
        self._noted: list[Signature] = []

    def take(self) -> tuple[Signature, ...]:
        """Who signed what was opened since this was last asked."""
        noted, self._noted = tuple(self._noted), []
        return noted

    def certified(
        self, kind: type[M], data: bytes, role: Role, *, audience: str | None = None, request_digest: bytes = b"",
        max_lifetime_s: int = MAX_LIFETIME_S,
    ) -> tuple[Opened[M], Identity]:  # fmt: skip
        """What a party of this role signed, for `audience` if one is named.

        Raises: UnknownKey, WrongIssuer, and what `signed` raises.
        """
        sign1 = envelope.peek(kind, data)
        identity = self._signer(sign1, role)
        opened = self.signed(
            kind, data, identity.key, issuer=identity.name, role=role.value,
            audience=sign1.claims.audience if audience is None else audience, request_digest=request_digest,
            max_lifetime_s=max_lifetime_s,
        )  # fmt: skip
        return opened, identity

    def signed(
        self, kind: type[M], data: bytes, key: PublicKey, *, issuer: str, audience: str, role: str = PSEUDONYM,
        request_digest: bytes = b"", max_lifetime_s: int = MAX_LIFETIME_S,
    ) -> Opened[M]:  # fmt: skip
        """What this key signed. Raises: NotYetValid (later than now), and what `envelope.believe` raises."""
        sign1 = envelope.peek(kind, data)
        at_s = sign1.claims.issued_at_s
        if at_s > self._now_s + MAX_SKEW_S:
            raise NotYetValid
        opened = envelope.believe(
            kind, sign1, key, issuer=issuer, audience=audience, now_s=at_s, request_digest=request_digest,
            max_lifetime_s=max_lifetime_s,
        )  # fmt: skip
        self._noted.append(Signature(message=kind.NAME, signer=issuer, role=role, at_s=at_s))
        return opened

    def _signer(self, sign1: Sign1, role: Role) -> Identity:
        for der in self._certificates:
            try:
                identity = pki.verify(der, root=self._root, now_s=sign1.claims.issued_at_s, use=Use.SIGN)
            except CertificateInvalid:  # another time's, another CA's, another use's: it proves nothing here
                continue
            if identity.key.thumbprint == sign1.kid:
                if identity.role is not role:
                    raise WrongIssuer(f"a {identity.role} signed, a {role} is expected")
                return identity
        raise UnknownKey("no certificate of this key that was good at the time")
