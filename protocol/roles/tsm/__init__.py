"""The TSM's steps, by RPC."""

from __future__ import annotations

from typing import Any

from protocol.engine import Step
from protocol.roles.tsm.authorize import AuthorizeBatchStep, AuthorizeStep
from protocol.roles.tsm.cards import ActivateCardsStep, IssueCardsStep, RequestCardsStep
from protocol.roles.tsm.close import CloseAccountStep
from protocol.roles.tsm.giveback import RefundStep, ReverseStep
from protocol.roles.tsm.party import Tsm
from protocol.roles.tsm.register import OpenAccountStep, ProveCreditStep
from protocol.roles.tsm.settle import SettleBatchStep
from protocol.roles.tsm.terminals import SignOnStep

_STEPS: tuple[type[Any], ...] = (
    OpenAccountStep,
    ProveCreditStep,
    RequestCardsStep,
    IssueCardsStep,
    ActivateCardsStep,
    SignOnStep,
    AuthorizeStep,
    AuthorizeBatchStep,
    ReverseStep,
    RefundStep,
    SettleBatchStep,
    CloseAccountStep,
)


def tsm_steps(tsm: Tsm) -> dict[str, Step[Any]]:
    """RPC name → step, for an engine."""
    return {step.rpc: step(tsm) for step in _STEPS}
