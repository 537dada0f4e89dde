"""PAY and RENEW as the phone runs them, outside the tap itself (design §3).

None of these flows talks to a bank: a question at each purchase would tell the bank when its customer pays. The SE
measures the phone by itself when a card is opened.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocol import envelope
from protocol.messages.se import (
    Opening,
    SeOpenCard,
    SeOpening,
    SePin,
    SeReopenPin,
    SeSetPin,
    SeVerifyPin,
)
from protocol.messages.se_state import Pool, SeState, SeStatus
from protocol.roles.wallet.flows import issue_cards
from protocol.roles.wallet.session import Flow, Wallet
from protocol.types import MAX_CARDS

RENEW_BEFORE_S: Final = 24 * 3600
"""Cards are replaced a day before the first of them expires: a phone that renews daily never runs dry."""


def open_card(wallet: Wallet, *, tid: str, ceiling_minor: int) -> Flow[Opening]:
    """TW-S2: open a card of `tid` for one purchase of at most `ceiling_minor` minor units."""
    command = SeOpenCard(tid=tid, ceiling_minor=ceiling_minor)
    return (yield from wallet.command("OpenCard", command, SeOpening)).opening


def close_card(wallet: Wallet, *, tid: str) -> Flow[Opening]:
    """Take the consent back; whatever taps next finds no card."""
    return (yield from open_card(wallet, tid=tid, ceiling_minor=0))


def verify_pin(wallet: Wallet, *, pin: str, shown: Opening) -> Flow[Opening]:
    """TW-S3: the PIN for what the person was `shown`; the SE refuses if another tap has come since."""
    command = SeVerifyPin(
        pin=pin, amount_minor=shown.amount_minor, currency=shown.currency, merchant=shown.merchant,
        terminal=shown.terminal,
    )  # fmt: skip
    return (yield from wallet.command("VerifyPin", command, SeOpening)).opening


def set_pin(wallet: Wallet, *, old: str, new: str, personal: tuple[str, ...]) -> Flow[SePin]:
    """TW-G3a, CN-4: the first PIN (`old` empty) or another; unlike the digits in `personal`, which nobody keeps."""
    return (yield from wallet.command("SetPin", SeSetPin(old=old, new=new, personal=personal), SePin))


def reopen_pin(wallet: Wallet, *, bank: str, approval: bytes) -> Flow[SePin]:
    """TW-G3b: hand the SE the bank's signed word (`PinReopening`); a new PIN is set next."""
    return (yield from wallet.command("ReopenPin", SeReopenPin(bank=bank, approval=approval), SePin))


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewed:
    """What RENEW found ready, how many cards it had issued, and whether the TSM asks for further credit (RECREDIT)."""

    tid: str
    ready: int
    issued: int
    recredit: bool


def renew_cards(
    wallet: Wallet, *, tsm: str, tid: str, pool: int, renew_before_s: int = RENEW_BEFORE_S
) -> Flow[Renewed]:
    """RENEW: fill the account's cards up to `pool` (1 … 32), without those that expire within `renew_before_s`.

    An account that is not active is refused by the SE, as in `issue_cards`.
    """
    exchanged = yield from wallet.ask("Status", SeStatus())
    held = wallet.answer(exchanged, SeState)
    # A flow that is run again must decide as it did: by the time at which it asked, not by the time it is now.
    asked_at_s = envelope.peek(SeStatus, exchanged.sent.cose).claims.issued_at_s
    found = next((own for own in held.pools if own.tid == tid), Pool(tid=tid, ready=0, expires_at_s=()))
    missing = _missing(found, pool, asked_at_s + renew_before_s)
    asked = tid in held.recredits
    if missing:
        service = yield from issue_cards(wallet, tsm=tsm, tid=tid, number=missing)
        asked = asked or service.recredit
    return Renewed(tid=tid, ready=found.ready, issued=missing, recredit=asked)


def _missing(found: Pool, pool: int, until_s: int) -> int:
    """Cards to make `pool` that last. Where the account ends soon new ones do not last either: twice is enough."""
    lasting = sum(1 for expires_at_s in found.expires_at_s if expires_at_s > until_s)
    return max(0, min(pool - lasting, 2 * pool - found.ready, MAX_CARDS))
