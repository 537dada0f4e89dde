"""The bank as a value: keys, PKI, policy, and the ports it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from protocol.card.oda import CaKey
from protocol.crypto import PublicKey
from protocol.messages.attest import Evidence, PassGrant
from protocol.pki import Directory, Issuer
from protocol.ports import Entropy
from protocol.roles.bank.tables import AnonymousAccount
from protocol.roles.party import PartyKeys
from protocol.types import Purpose, TrustClass

DAY_S: Final = 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class BankPolicy:
    """What this bank allows. Limits and expiries take few common values, so that they do not single out a person.

    Of all stops that it makes within `stops_every_s`, TSMs hear at once, so that none stands alone (design §3 FREEZE).
    """

    limit_buckets_minor: tuple[int, ...] = (500_000, 100_000, 20_000)
    expiry_grid_s: int = 30 * DAY_S
    expiry_steps: int = 3
    pass_grid_s: int = DAY_S // 2
    challenge_life_s: int = 120
    session_life_s: int = 3600
    branch_code_life_s: int = 14 * DAY_S
    certificate_life_s: int = 730 * DAY_S
    max_wrong_entries: int = 5
    max_accounts: int = 64
    stops_every_s: int = 60
    tranche_minor: int = 10_000
    """Claims are in whole tranches of this until the grant ends; agreed with the TSMs (design §3 SETTLE)."""

    def limit_minor(self, room_minor: int) -> int:
        """The largest common limit within `room_minor` minor units; 0 if none fits."""
        return max((bucket for bucket in self.limit_buckets_minor if bucket <= room_minor), default=0)

    def expiry_s(self, now_s: int) -> int:
        """A common point in time, between `expiry_steps` and `expiry_steps` + 1 grid steps ahead."""
        return (now_s // self.expiry_grid_s + 1 + self.expiry_steps) * self.expiry_grid_s

    def pass_issued_s(self, now_s: int) -> int:
        """The common `iat` of passes given now; they live two grid steps, so half of it at least remains."""
        return now_s - now_s % self.pass_grid_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Appraised:
    """What good evidence proved: SHA-256 PCR 10."""

    pcr10: bytes


class Appraiser(Protocol):
    """Verification of attestation evidence; `attestation.verifier` behind a port, since imports go one way."""

    def certify(self, certificate: bytes, now_s: int) -> tuple[PublicKey, TrustClass]:
        """Key and trust class of an attestation key's certificate. Raises: CertificateInvalid."""

    def appraise(
        self, evidence: Evidence, *, purpose: Purpose, user: str, n_b: bytes, requested_key: bytes,
        attestation_key: PublicKey, baseline: bytes, installed_pcr: bytes, now_s: int,
    ) -> Appraised:  # fmt: skip
        """Raises: the attestation errors of `protocol.errors`.

        `baseline` is the list stored at INIT-3, empty at INIT-3 itself; `installed_pcr` is the value stored at ATT-D7.
        """


class Secrets(Protocol):
    """Secrets at rest that need the keystore: blind indexes and passcode hashes."""

    def blind(self, label: str, value: bytes) -> bytes:
        """A keyed digest by which a sealed value can be looked up."""

    def passcode_matches(self, stored_hash: bytes, passcode: bytes) -> bool:
        """Argon2id verification, in constant time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bank:
    """One bank: an intermediate CA that knows the person and certifies pseudonyms."""

    keys: PartyKeys
    issuer: Issuer
    directory: Directory
    appraiser: Appraiser
    secrets: Secrets
    policy: BankPolicy
    emv_ca: tuple[CaKey, ...]
    """The EMV certification authorities under whose cards a purchase is proved (TRACE)."""


def grant_pass(account: AnonymousAccount, trust_class: TrustClass, entropy: Entropy) -> PassGrant:
    """The content of a launch pass for one active AID."""
    return PassGrant(
        tsm=account.tsm,
        aid=account.aid,
        pk_aid=account.pk_aid,
        trust_class=trust_class,
        jti=entropy.bytes(16),
    )
