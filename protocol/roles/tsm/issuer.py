"""The TSM as card issuer: one EMV issuer key for all, so that certificates tell no two users apart (CARD-4)."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field

from protocol.card.keys import derive_card_keys
from protocol.card.pan import generate_pan
from protocol.card.personalize import CardData, Issuer, personalize_all
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

    def issue(
        self, moduli: Sequence[bytes], *, expires_at_s: int, limit_minor: int, currency: str, now_s: int,
        entropy: Entropy,
    ) -> tuple[Card, ...]:  # fmt: skip
        """A card for each key: random PAN in the issuer's range, ICC certificate, records and kAC.

        One RSA private operation each. What the cards have alike is the same object in all of them.
        """
        controls = CardControls(
            uses=self.uses, amount_per_use_minor=limit_minor, total_minor=limit_minor, valid_until_s=expires_at_s,
            channel=Channel.CONTACTLESS,
        )  # fmt: skip
        today = datetime.datetime.fromtimestamp(now_s, tz=datetime.UTC).date()
        pans = [generate_pan(entropy, iin=self.issuer.iin) for _ in moduli]
        keys = derive_card_keys(self.master_key, pans)
        cards = personalize_all(
            self.issuer, self.profile, expiry=common_expiry(today), controls=controls, entropy=entropy,
            cards=[(pan, PublicKey.from_bytes(modulus)) for pan, modulus in zip(pans, moduli, strict=True)],
        )  # fmt: skip
        said = Controls(
            uses=controls.uses, per_use_minor=controls.amount_per_use_minor, total_minor=controls.total_minor,
            verify_above_minor=self.verify_above_minor, channel=controls.channel.value,
        )  # fmt: skip
        made: dict[int, EmvRecord] = {}
        return tuple(
            Card(
                pan=data.pan, expires_at_s=expires_at_s, limit_minor=limit_minor, currency=currency, controls=said,
                icc_certificate=data.certificate.signature, emv=_emv(data, made), k_ac=k_ac,
            )
            for data, k_ac in zip(cards, keys, strict=True)
        )  # fmt: skip


def _emv(data: CardData, made: dict[int, EmvRecord]) -> EmvData:
    """`made` has the records so far by the identity of what they are made from: cards share the issuer's."""
    for record in data.records:
        if id(record) not in made:
            made[id(record)] = EmvRecord(sfi=record.sfi, number=record.number, data=record.data)
    return EmvData(
        application=data.aid, fci=data.fci, aip=data.aip, afl=data.afl,
        records=tuple(made[id(record)] for record in data.records),
    )  # fmt: skip
