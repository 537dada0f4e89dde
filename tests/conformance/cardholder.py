"""The wallet toward the secure element, as far as a purchase goes: open a card, PIN, status (PAY, TW-S2, TW-G3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from conformance.bridge import OurPhone
from conformance.drafts import Draft, signed_reply
from conformance.wire import Signed, Signer, sign

PIN = "7351"


@dataclass(frozen=True)
class Cardholder:
    """The person and the wallet of one phone."""

    phone: OurPhone

    def _draft(self, rpc: str, name: str, reply: str, payload: dict[str, Any]) -> Draft[Signed]:
        phone = self.phone
        return Draft(
            rpc=f"SecureElement.{rpc}", to=phone.line, audience=phone.name, signer=phone.wallet, name=name,
            payload=payload, open=signed_reply(phone.tested, reply, phone.name),
        )  # fmt: skip

    def open_card(self, ceiling_minor: int, tid: str | None = None) -> Draft[Signed]:
        """TW-S2."""
        payload = {"tid": self.phone.tid if tid is None else tid, "ceiling_minor": ceiling_minor}
        return self._draft("OpenCard", "se-open-card", "se-opening", payload)

    def set_pin(self, new: str = PIN, old: str = "", personal: tuple[str, ...] = ()) -> Draft[Signed]:
        """TW-G3a."""
        payload = {"old": old, "new": new, "personal": list(personal)}
        return self._draft("SetPin", "se-set-pin", "se-pin", payload)

    def verify_pin(self, shown: dict[str, Any], pin: str = PIN, **changes: Any) -> Draft[Signed]:
        """TW-S3: for what the phone shows."""
        seen = {name: shown[name] for name in ("amount_minor", "currency", "merchant", "terminal")}
        return self._draft("VerifyPin", "se-verify-pin", "se-opening", {"pin": pin, **seen, **changes})

    def reopen_pin(self, approval: bytes, bank: str) -> Draft[Signed]:
        """TW-G3b."""
        return self._draft("ReopenPin", "se-reopen-pin", "se-pin", {"bank": bank, "approval": approval})

    def status(self) -> Draft[Signed]:
        return self._draft("Status", "se-status", "se-state", {})

    def opening(self) -> dict[str, Any]:
        """What the phone shows of the opening."""
        return dict(self.status().send()["opening"])


def reopening(bank: Signer, user: str, **changes: Any) -> bytes:
    """The bank's word that it confirmed the person."""
    payload = {"user": user, **changes.pop("fields", {})}
    return sign(bank, changes.pop("name", "pin-reopening"), payload, **{"audience": user, **changes})
