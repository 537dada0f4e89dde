"""What a TSM's operator does about claims on the banks, also while the server runs."""

from __future__ import annotations

from pathlib import Path

from parties.assembly.common import Opened
from parties.assembly.roles import build_tsm
from parties.server.claims import BankClaims, ClaimSender
from parties.settings import load_settings
from protocol.types import Role


def claim(settings: Path, *, early: bool = False) -> tuple[BankClaims, ...]:
    """Claim everything that is due, and what was refused before again; `early` closes the present period for all.

    Raises: SettingsInvalid, KeystoreLocked, StorageFault.
    """
    opened = Opened.of(load_settings(settings, Role.TSM))
    store, channels = opened.store(), opened.channels()
    try:
        sender = ClaimSender(build_tsm(opened), store, channels, opened.clock, opened.entropy)
        sent = sender.send()  # first what waits, since a grant's next claim waits for its answer
        sender.make(early=early, again=True)
        return merged(sent, sender.send())
    finally:
        channels.close()
        store.close()


def merged(first: tuple[BankClaims, ...], second: tuple[BankClaims, ...]) -> tuple[BankClaims, ...]:
    """Both runs as one, by bank: what the first left waiting or refused, the second sent again."""
    by_bank = {one.bank: one for one in first}
    for later in second:
        earlier = by_bank.get(later.bank)
        if earlier is not None:
            later.sent += earlier.accepted + earlier.void
            later.accepted += earlier.accepted
            later.void += earlier.void
        by_bank[later.bank] = later
    return tuple(by_bank[bank] for bank in sorted(by_bank))
