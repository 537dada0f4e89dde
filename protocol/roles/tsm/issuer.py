"""The TSM as card issuer: one EMV issuer key for all, so that certificates tell no two users apart (CARD-4)."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field

from protocol.card.keys import derive_card_key
from protocol.card.pan import generate_pan
from protocol.card.personalize import Issuer, personalize
from protocol.card.profile import CardControls, CardProfile, Channel, common_expiry
from protocol.card.rsa import PublicKey
from protocol.messages.card import Card, Controls, EmvData, EmvRecord
from protocol.ports import Entropy


@dataclass(frozen=True, slots=True, kw_only=True)
class EmvIssuer:
    """Issuer key with its certificate, the master key that kAC derives from, and the controls alike for all cards."""

    issuer: Issuer
    master_key: bytes = field(repr=False)
    profile: CardProfile
    uses: int
    verify_above_minor: int

    def new_pan(self, entropy: Entropy) -> str:
        """A random 19-digit PAN in the issuer's range; nothing sequential."""
        return generate_pan(entropy, iin=self.issuer.iin)

    def personalize(
        self, *, pan: str, modulus: bytes, expires_at_s: int, limit_minor: int, currency: str, now_s: int,
        entropy: Entropy,
    ) -> Card:  # fmt: skip
        """ICC certificate, records and kAC. One RSA private operation."""
        controls = CardControls(
            uses=self.uses, amount_per_use_minor=limit_minor, total_minor=limit_minor, valid_until_s=expires_at_s,
            channel=Channel.CONTACTLESS,
        )  # fmt: skip
        today = datetime.datetime.fromtimestamp(now_s, tz=datetime.UTC).date()
        data = personalize(
            self.issuer, self.profile, pan=pan, expiry=common_expiry(today), card_key=PublicKey.from_bytes(modulus),
            controls=controls, entropy=entropy,
        )  # fmt: skip
        emv = EmvData(
            application=data.aid, fci=data.fci, aip=data.aip, afl=data.afl,
            records=tuple(EmvRecord(sfi=r.sfi, number=r.number, data=r.data) for r in data.records),
        )  # fmt: skip
        return Card(
            pan=pan, expires_at_s=expires_at_s, limit_minor=limit_minor, currency=currency,
            controls=Controls(
                uses=controls.uses, per_use_minor=controls.amount_per_use_minor, total_minor=controls.total_minor,
                verify_above_minor=self.verify_above_minor, channel=controls.channel.value,
            ),
            icc_certificate=data.certificate.signature, emv=emv, k_ac=derive_card_key(self.master_key, pan),
        )  # fmt: skip
