"""A run as a person reads it: who sent what to whom, which paper step, signed by whom, what it proved."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Final

from rich.console import Console
from rich.table import Table

from parties.checker.opening import OpenedExchange
from parties.checker.report import Verdict
from protocol.contract import RPCS
from protocol.messages import pay

PROVED: Final = {
    "Bank.Challenge": "the bank's nonce is fresh",
    "Bank.Enroll": "a genuine SE holds PK_U; the platform is as the bank expects",
    "Bank.ApproveInstall": "the platform is unchanged; this software may be installed",
    "Bank.ReportInstall": "the installed file is the released one; its PCR is stored",
    "Bank.VerifyLaunch": "the app is unaltered now; a pass for each active AID",
    "Bank.RequestAccount": "the enrolled user asks; both nonces and kx are fresh",
    "Bank.CertifyAccount": "user, SE and new key agree; the person knows the passcode",
    "Bank.ActivateAccount": "the SE holds certificate and key of the AID",
    "Bank.ApproveGrant": "the AID's owner meant this TSM, session and TID",
    "Bank.ReleaseGrant": "the TSM gives this very grant back",
    "Tsm.OpenAccount": "the requester holds the TID's key; nothing is stored yet",
    "Tsm.ProveCredit": "credit without a name: commitment, pass and possession agree",
    "Tsm.RequestCards": "the TID's owner asks; N_T is fresh",
    "Tsm.IssueCards": "each card key is in the same SE; cards are sealed for it",
    "Tsm.ActivateCards": "the SE holds the cards",
    "Tsm.SignOn": "the terminal's key belongs to a certified merchant",
    "Tsm.CloseAccount": "the TID's owner closes; the cards end",
    "Tsm.Authorize": "the TSM's card signed this sale, once",
    "Tsm.AuthorizeBatch": "the same of each purchase, under one signature",
    "Tsm.Reverse": "the terminal takes its own purchase back",
    "Tsm.Refund": "the terminal gives back at most what it took",
    "Tsm.SettleBatch": "each sale is the merchant's own, and is paid out once",
    "Bank.SubmitClaim": "in turn, in tranches, within the grant; nothing of a purchase",
    "Bank.ListStops": "what the bank stops, all at once, as of this minute",
    "Bank.RequestTrace": "link by link: this account made this purchase",
    "Merchant.StartSale": "the till is the merchant's own",
    "Merchant.GetSale": "the till is the merchant's own",
    "Merchant.CancelSale": "the till is the merchant's own",
    "Merchant.RefundSale": "the till is the merchant's own",
    "SoftwareProvider.GetRelease": "the app is signed by its provider",
    "SoftwareProvider.GetReferenceValues": "the bank vouches for this version",
}
_INSIDE: Final = "the SE made or opened it by itself"
_STEPS: Final = {rpc.full_name: ", ".join(rpc.steps) for rpc in RPCS}
_FORMS: Final = {rpc.full_name: (rpc.request_form.value, rpc.reply_form.value) for rpc in RPCS}
_SENDERS: Final = {
    "Bank.ApproveGrant": "tsm", "Bank.ReleaseGrant": "tsm", "Tsm.SignOn": "merchant", "Tsm.Authorize": "merchant",
    "Tsm.AuthorizeBatch": "merchant", "Tsm.Reverse": "merchant", "Tsm.Refund": "merchant",
    "Tsm.SettleBatch": "merchant", "Bank.SubmitClaim": "tsm", "Bank.ListStops": "tsm", "Bank.RequestTrace": "tsm",
}  # fmt: skip
_SENDER_OF: Final = {"SecureElement": "wallet", "Merchant": "till"}
"""Who calls all RPCs of a service."""
ASKED_AGAIN: Final = frozenset({"Merchant.GetSale", "Bank.ListStops"})
"""Asked many times while something is waited for: shown once, with how often."""


def print_timeline(verdict: Verdict, console: Console) -> None:
    """The exchanges in order, phase by phase, then the verdict and what each party knows."""
    for report in verdict.phases:
        mark = "[green]ok[/]" if report.ok else "[red]FAILED[/]"
        console.rule(
            f"{report.phase}  {mark}  {report.messages} messages, {report.bytes} bytes, {report.seconds:.1f} s"
        )
        console.print(_exchanges(one for phase, one in verdict.exchanges if phase == report.phase))
        for finding in report.findings:
            console.print(f"  [red]{finding}[/]")
    console.rule("What each party now knows")
    table = Table("party", "knows", "does not know", show_lines=True)
    for one in verdict.parties:
        table.add_row(one.party, one.knows, one.does_not_know)
    console.print(table)
    for leak in verdict.leaks:
        console.print(f"  [red]{leak}[/]")
    console.print("[green]All phases hold.[/]" if verdict.ok else "[red]The run is not good.[/]")


def _exchanges(exchanges: Iterable[OpenedExchange]) -> Table:
    table = Table("from → to", "message", "paper step", "form", "signed by", "proved", box=None, pad_edge=False)
    for exchange, times in _counted(exchanges):
        captured = exchange.captured
        request, reply = _FORMS.get(captured.rpc, ("", ""))
        name = exchange.request[0].message if exchange.request else captured.rpc
        name = f"{name} × {times}" if times > 1 else name
        table.add_row(
            f"{_sender(captured.rpc)} → {captured.party}", name, _STEPS.get(captured.rpc, ""), request,
            _signers(exchange.request), _proved(exchange),
        )  # fmt: skip
        if exchange.reply:
            back = exchange.reply[0].message
            table.add_row(f"  ← {captured.party}", back, "", reply, _signers(exchange.reply), "")
    return table


def _counted(exchanges: Iterable[OpenedExchange]) -> Iterator[tuple[OpenedExchange, int]]:
    """Each exchange once; of `ASKED_AGAIN` in a row the last, and how many they were."""
    for (_, rpc, code), group in itertools.groupby(exchanges, key=_kind):
        found = list(group)
        if rpc in ASKED_AGAIN and code == "OK":
            yield found[-1], len(found)
        else:
            yield from ((one, 1) for one in found)


def _proved(exchange: OpenedExchange) -> str:
    """What the exchange showed; or that it was refused, or decided against."""
    captured = exchange.captured
    if captured.code != "OK":
        return f"[red]refused: {captured.code}[/]"
    decided = exchange.reply[0].payload.get("decided") if exchange.reply else None
    if isinstance(decided, dict) and decided.get("verdict") != pay.Verdict.APPROVED:
        return "[yellow]declined: the merchant is not told why[/]"
    return PROVED.get(captured.rpc, _INSIDE)


def _kind(exchange: OpenedExchange) -> tuple[str, str, str]:
    captured = exchange.captured
    return captured.party, captured.rpc, captured.code


def _sender(rpc: str) -> str:
    return _SENDERS.get(rpc) or _SENDER_OF.get(rpc.partition(".")[0], "phone")


def _signers(objects: Iterable[object]) -> str:
    found = []
    for one in objects:
        signer = f"{getattr(one, 'signer', '')}{'' if getattr(one, 'verified', False) else ' [red]unverified[/]'}"
        if signer not in found:
            found.append(signer)
    return ", ".join(found)
