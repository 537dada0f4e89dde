"""The bank's steps, by RPC."""

from __future__ import annotations

from typing import Any

from protocol.engine import Step
from protocol.roles.bank.account import ActivateAccountStep, CertifyAccountStep, RequestAccountStep
from protocol.roles.bank.attest import ApproveInstallStep, ReportInstallStep, VerifyLaunchStep
from protocol.roles.bank.claims import SubmitClaimStep
from protocol.roles.bank.enroll import ChallengeStep, EnrollStep
from protocol.roles.bank.grant import ApproveGrantStep, ReleaseGrantStep
from protocol.roles.bank.party import Bank
from protocol.roles.bank.stops import ListStopsStep
from protocol.roles.bank.trace import RequestTraceStep

_STEPS: tuple[type[Any], ...] = (
    ChallengeStep,
    EnrollStep,
    ApproveInstallStep,
    ReportInstallStep,
    VerifyLaunchStep,
    RequestAccountStep,
    CertifyAccountStep,
    ActivateAccountStep,
    ApproveGrantStep,
    ReleaseGrantStep,
    SubmitClaimStep,
    ListStopsStep,
    RequestTraceStep,
)


def bank_steps(bank: Bank) -> dict[str, Step[Any]]:
    """RPC name → step, for an engine."""
    return {step.rpc: step(bank) for step in _STEPS}
