"""The secure element's commands, by RPC."""

from __future__ import annotations

from typing import Any

from protocol.engine import Step
from protocol.roles.se.account import (
    BeginAccountStep,
    GenerateAccountKeysStep,
    InstallAccountStep,
    InstallPassStep,
)
from protocol.roles.se.answer import OpenServiceStep
from protocol.roles.se.card import GenerateCardKeysStep, InstallCardsStep
from protocol.roles.se.identity import (
    AcceptDecisionStep,
    EnrollStep,
    InstallIdentityStep,
    MeasureStep,
    QuoteStep,
)
from protocol.roles.se.opening import OpenCardStep
from protocol.roles.se.party import SecureElement
from protocol.roles.se.pin import ReopenPinStep, SetPinStep, VerifyPinStep
from protocol.roles.se.service import GenerateServiceKeysStep, MakeBankInfoStep, SignServiceStep
from protocol.roles.se.status import StatusStep

_STEPS: tuple[type[Any], ...] = (
    EnrollStep,
    InstallIdentityStep,
    MeasureStep,
    QuoteStep,
    AcceptDecisionStep,
    BeginAccountStep,
    GenerateAccountKeysStep,
    InstallAccountStep,
    InstallPassStep,
    GenerateServiceKeysStep,
    MakeBankInfoStep,
    SignServiceStep,
    OpenServiceStep,
    GenerateCardKeysStep,
    InstallCardsStep,
    OpenCardStep,
    SetPinStep,
    VerifyPinStep,
    ReopenPinStep,
    StatusStep,
)


def se_steps(se: SecureElement) -> dict[str, Step[Any]]:
    """RPC name → step, for an engine."""
    return {step.rpc: step(se) for step in _STEPS}
