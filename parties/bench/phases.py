"""What the phases before the first purchase cost bank and TSM: appraising a launch, AID, registration."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from parties.bench.town import BANK, PASSCODE, TSM, Town, settle
from parties.release import SOFTWARE
from protocol.roles.wallet import attest, open_account, register
from protocol.types import Purpose

LAUNCH: Final = ("Bank.Challenge", "Bank.VerifyLaunch")
ACCOUNT: Final = ("Bank.RequestAccount", "Bank.CertifyAccount", "Bank.ActivateAccount")
REGISTRATION: Final = ("Tsm.OpenAccount", "Tsm.ProveCredit")
GRANT: Final = ("Bank.ApproveGrant",)


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseCost:
    """Median processor time in milliseconds. The account's includes Argon2id over the person's passcode."""

    launch_ms: float
    account_ms: float
    registration_ms: float
    grant_ms: float


def measure_phases(town: Town, rounds: int, progress: Callable[[], None]) -> PhaseCost:
    """One phone launches, opens an account and registers it, `rounds` times."""
    settle()
    wallet = town.wallet()
    found: dict[tuple[str, ...], list[float]] = {}
    for _ in range(rounds):
        progress()
        town.spent_ms.clear()
        assert town.run(attest(wallet, bank=BANK, purpose=Purpose.LAUNCH, software=SOFTWARE)).allowed
        _note(town, found, LAUNCH)
        aid = town.run(open_account(wallet, bank=BANK, tsm=TSM, software=SOFTWARE, passcode=PASSCODE)).aid
        _note(town, found, ACCOUNT)
        town.run(register(wallet, tsm=TSM, aid=aid, maximum_minor=0))
        _note(town, found, REGISTRATION)
        _note(town, found, GRANT)
    median = {rpcs: statistics.median(values) for rpcs, values in found.items()}
    return PhaseCost(
        launch_ms=median[LAUNCH], account_ms=median[ACCOUNT], registration_ms=median[REGISTRATION],
        grant_ms=median[GRANT],
    )  # fmt: skip


def _note(town: Town, found: dict[tuple[str, ...], list[float]], rpcs: tuple[str, ...]) -> None:
    found.setdefault(rpcs, []).append(sum(town.spent_ms[rpc] for rpc in rpcs))
