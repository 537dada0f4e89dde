"""The checker's verdict on a run, phase by phase: counted, timed, and found good or not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from parties.checker.expected import Expected, Finding, Parties
from parties.checker.keys import key_ring, read_parties
from parties.checker.knowledge import Knowledge, check_knowledge, what_each_knows
from parties.checker.opening import OpenedExchange, open_exchange
from parties.checker.phases import CHECKS
from parties.checker.purchases import check_answers
from parties.scenario.model import PHASES, ScenarioStep
from parties.scenario.runner import RunRecord, StepOutcome
from parties.server.capture import Captured, read_capture
from protocol.messages.till import SaleProgress
from protocol.messages.trace import TraceProgress
from protocol.roles.tsm.purchase import Reason

LAUNCH_RPCS: Final = frozenset({"Bank.VerifyLaunch", "SecureElement.Quote", "SecureElement.AcceptDecision"})
"""Calls that belong to ATT whenever they happen: the app's every start is attested."""
PAY_RPCS: Final = frozenset({"Tsm.Authorize", "Tsm.AuthorizeBatch", "Tsm.Reverse", "Tsm.Refund"})
"""Calls that belong to PAY whenever they happen, as those of the till do: a merchant makes them by itself."""
LAUNCHING: Final = frozenset({"launch", "open-account", "register", "issue", "close", "status", "recredit"})
LAUNCH_REFUSALS: Final = frozenset({"SOFTWARE_CHANGED", "SOFTWARE_UNKNOWN", "PLATFORM_CHANGED"})
AFTER_PAY: Final = PHASES[PHASES.index("PAY") + 1 :]
"""Phases with purchases of their own."""
REQUIRED: Final = {
    "INIT": ("Bank.Enroll", "Tsm.SignOn"),
    "ATT": ("SoftwareProvider.GetRelease", "Bank.ApproveInstall", "Bank.ReportInstall", "Bank.VerifyLaunch"),
    "AID": ("Bank.RequestAccount", "Bank.CertifyAccount", "Bank.ActivateAccount"),
    "TID": ("Tsm.OpenAccount", "Tsm.ProveCredit", "Bank.ApproveGrant"),
    "CARD": ("Tsm.RequestCards", "Tsm.IssueCards", "Tsm.ActivateCards"),
    "PAY": (),
    "SETTLE": (),
    "RENEW": (),
    "RECREDIT": (),
    "FREEZE": (),
    "TRACE": (),
}
"""Calls between parties without which a phase did not happen."""
REQUIRED_BY: Final = {
    "set-pin": ("SecureElement.SetPin",),
    "pay": ("Merchant.StartSale", "SecureElement.OpenCard", "Tsm.Authorize"),
    "start-sale": ("Merchant.StartSale",),
    "cancel-sale": ("Merchant.CancelSale",),
    "void": ("Merchant.CancelSale", "Tsm.Reverse"),
    "refund": ("Merchant.RefundSale", "Tsm.Refund"),
    "declines": ("SecureElement.OpenCard", "Tsm.Authorize"),
    "renew": ("SecureElement.Status",),
    "settle": ("Tsm.SettleBatch",),
    "claim": ("Bank.SubmitClaim",),
    "recredit": ("Tsm.ProveCredit", "Bank.ApproveGrant"),
    "freeze": ("Bank.ListStops",),
    "trace": ("Bank.RequestTrace",),
}
"""Calls without which an action did not happen; it is the scenario's choice which of them take place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseReport:
    """One phase: messages and bytes on the wire, seconds its steps took, findings (none: good)."""

    phase: str
    ok: bool
    messages: int
    bytes: int
    seconds: float
    findings: tuple[str, ...]
    steps: tuple[StepOutcome, ...]

    def plain(self) -> dict[str, Any]:
        """As `tapveil demo --json` prints it."""
        return {
            "id": self.phase,
            "ok": self.ok,
            "messages": self.messages,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
            "detail": "; ".join(self.findings) if self.findings else f"{len(self.steps)} steps as expected",
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The whole run."""

    ok: bool
    phases: tuple[PhaseReport, ...]
    parties: tuple[Knowledge, ...]
    leaks: tuple[str, ...]
    """What a party holds and must not."""
    exchanges: tuple[tuple[str, OpenedExchange], ...]

    def plain(self) -> dict[str, Any]:
        """As `tapveil demo --json` prints it."""
        return {
            "ok": self.ok,
            "phases": [phase.plain() for phase in self.phases],
            "parties": [
                {"name": one.party, "role": one.role, "knows": one.knows, "does_not_know": one.does_not_know}
                for one in self.parties
            ],
            "leaks": list(self.leaks),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What a run left behind, read: all parties' rows, each exchange with its phase, and what was to be expected."""

    record: RunRecord
    parties: Parties
    exchanges: tuple[tuple[str, OpenedExchange], ...]
    expected: Expected


def judge(record: RunRecord) -> Verdict:
    """Read databases and captures below the run's folder, and judge every phase.

    Raises: StorageFault, KeystoreLocked if something can't be read.
    """
    material = read_material(record)
    return judge_material(material, check_knowledge(material.parties, (one.captured for _, one in material.exchanges)))


def read_material(record: RunRecord) -> Material:
    """Raises: StorageFault, KeystoreLocked if something can't be read."""
    data = read_parties(record.folder)
    ring = key_ring(record.folder, data)
    captured = [found for path in _captures(record.folder) for found in read_capture(path)]
    opened = [open_exchange(one, ring) for one in sorted(captured, key=lambda one: one.at_ms)]
    exchanges = tuple((_phase(one, record.outcomes), one) for one in opened)
    return Material(record=record, parties=Parties(tuple(data)), exchanges=exchanges, expected=_expected(record))


def judge_material(material: Material, leaks: Iterable[Finding] = ()) -> Verdict:
    """Every phase of the scenario, and what each party knows; `leaks` are what it must not know and does."""
    record, parties = material.record, material.parties
    phases = [phase for phase in PHASES if any(step.phase == phase for step in record.scenario.steps)]
    reports = tuple(_report(phase, material) for phase in phases)
    found = tuple(leaks)
    good = all(report.ok for report in reports) and record.reached_all and not found
    return Verdict(
        ok=good, phases=reports, parties=tuple(what_each_knows(parties)), leaks=found, exchanges=material.exchanges
    )  # fmt: skip


def _captures(folder: Path) -> list[Path]:
    return sorted(folder.glob("**/capture.log"))


def _phase(exchange: OpenedExchange, outcomes: Iterable[StepOutcome]) -> str:
    """ATT for launch attestations; else the phase of the step under way; sign-ons at the start belong to INIT."""
    captured = exchange.captured
    asked = exchange.request[0].payload.get("purpose") if exchange.request else None
    if captured.rpc == "Tsm.SignOn":  # merchants do this by themselves, when the TSM is up
        return "INIT"
    if captured.rpc in PAY_RPCS or captured.rpc.startswith("Merchant."):
        return next((phase for phase in _under_way(captured, outcomes) if phase in AFTER_PAY), "PAY")
    if captured.rpc in LAUNCH_RPCS or (captured.rpc == "Bank.Challenge" and asked != "enroll"):
        return "ATT"
    return next(_under_way(captured, outcomes), "INIT")


def _under_way(captured: Captured, outcomes: Iterable[StepOutcome]) -> Iterator[str]:
    """The phase of each step during which it happened."""
    for outcome in outcomes:
        if outcome.from_ms <= captured.at_ms <= outcome.until_ms:
            yield outcome.step.phase


def _expected(record: RunRecord) -> Expected:
    """What the steps that should succeed leave behind, in all."""
    steps = record.scenario.steps
    done = [step for step in steps if not step.expect]
    count = {
        do: sum(1 for step in done if step.do == do)
        for do in ("enroll", "open-account", "register", "close", "recredit")
    }
    tids = {step.name: step for step in done if step.do == "register"}
    closed = {str(step.fields["tid"]).removeprefix("$") for step in done if step.do == "close"}
    issued = [step for step in done if step.do == "issue"]
    kept = [step for step in issued if str(step.fields["tid"]).removeprefix("$") not in closed]
    installed = {(step.fields["bank"], step.fields["phone"]) for step in done if step.do == "install"}
    return Expected(
        phones=count["enroll"], installed=len(installed), accounts=count["open-account"] + count["recredit"],
        services=(len(tids) - len(closed) if tids else count["register"] - count["close"]) + _recredited(record),
        cards=sum(int(step.fields.get("number", 1)) for step in kept) + _renewed(record.outcomes, closed),
        closed=_closed(steps), counters=len({step.fields["merchant"] for step in _reached(record, "declines")}),
        settled=len(_reached(record, "settle")),
        recredited=len({step.fields["tid"] for step in _reached(record, "recredit")}),
        drawn_on_two=sum(1 for step in _reached(record, "pay") if step.fields.get("grants") == 2),
        traced=sum(1 for step in _reached(record, "trace") if step.fields.get("ends") == TraceProgress.ANSWERED),
        paid=sum(1 for step in _reached(record, "pay") if _is_paid(step)),
        reasons=frozenset(
            str(reason) for step in _reached(record, "declines") for reason in step.fields.get("reasons", tuple(Reason))
        ),
    )  # fmt: skip


def _recredited(record: RunRecord) -> int:
    """Further credit that was granted."""
    return sum(1 for outcome in record.outcomes if outcome.step.do == "recredit" and not outcome.code)


def _reached(record: RunRecord, do: str) -> list[ScenarioStep]:
    """Steps of this kind that began and should succeed."""
    return [outcome.step for outcome in record.outcomes if outcome.step.do == do and not outcome.step.expect]


def _is_paid(step: ScenarioStep) -> bool:
    return bool(step.fields.get("ends", SaleProgress.APPROVED) == SaleProgress.APPROVED)


def _renewed(outcomes: Iterable[StepOutcome], closed: frozenset[str] | set[str]) -> int:
    """Cards that RENEW was to add; where the scenario does not say how many, what the SE said."""
    number = 0
    for outcome in outcomes:
        fields = outcome.step.fields
        if outcome.step.do == "renew" and not outcome.code and str(fields["tid"]).removeprefix("$") not in closed:
            number += int(fields.get("number", outcome.result["issued"]))
    return number


def _closed(steps: Iterable[ScenarioStep]) -> frozenset[str]:
    """Phones whose last launch is to be refused; each command of the app begins with one."""
    last = {}
    for step in steps:
        if step.do in LAUNCHING and step.fields.get("launch", True):
            last[str(step.fields["phone"])] = step.expect in LAUNCH_REFUSALS
    return frozenset(phone for phone, refused in last.items() if refused)


def _report(phase: str, material: Material) -> PhaseReport:
    record, parties, expected = material.record, material.parties, material.expected
    mine = [exchange for name, exchange in material.exchanges if name == phase]
    steps = tuple(outcome for outcome in record.outcomes if outcome.step.phase == phase)
    findings = [_unexpected(outcome) for outcome in steps if not outcome.ok]
    reached = len(record.outcomes)
    if any(step.phase == phase for step in record.scenario.steps[reached:]):
        findings.append("not all of its steps were reached")
    findings += CHECKS[phase](parties, expected)
    unsigned = sum(1 for exchange in mine if not exchange.signed)
    if unsigned:
        findings.append(f"{unsigned} captured exchanges are not signed, or a signature does not verify")
    answered = {exchange.captured.rpc for exchange in mine if exchange.captured.code == "OK"}
    findings += [f"no answered {rpc} was captured" for rpc in _required(phase, record) if rpc not in answered]
    if phase == "PAY":
        findings += check_answers(mine, parties, expected)
    replies = [exchange for exchange in mine if exchange.captured.code == "OK"]
    return PhaseReport(
        phase=phase, ok=not findings, messages=len(mine) + len(replies),
        bytes=sum(_size(exchange) for exchange in mine),
        seconds=sum(outcome.until_ms - outcome.from_ms for outcome in steps) / 1000,
        findings=tuple(findings), steps=steps,
    )  # fmt: skip


def _required(phase: str, record: RunRecord) -> list[str]:
    wanted = [rpc for rpc in REQUIRED[phase] if rpc != "Tsm.SignOn" or record.scenario.merchants]
    for step in record.scenario.steps:
        if step.phase == phase and step.do in REQUIRED_BY and not step.expect and _is_paid(step):
            wanted += [rpc for rpc in REQUIRED_BY[step.do] if rpc not in wanted]
    return wanted


def _unexpected(outcome: StepOutcome) -> str:
    if outcome.step.expect and not outcome.code:
        return f"{outcome.step.do} should have been refused with {outcome.step.expect}, and was not"
    why = f" ({outcome.detail})" if outcome.step.do in REQUIRED_BY else ""
    return f"{outcome.step.do} was refused: {outcome.code}{why}"


def _size(exchange: OpenedExchange) -> int:
    request, reply = exchange.captured.request, exchange.captured.reply
    return len(request.cose) + len(request.session) + len(reply.cose) + len(reply.session)
