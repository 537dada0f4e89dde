"""The actions of SETTLE, FREEZE and TRACE: what operators, officers and clerks do, as their commands do it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from parties import trace
from parties.assembly.common import Opened
from parties.auditing import verify_here
from parties.branch import delete_customer, freeze_customer, unfreeze_customer
from parties.claiming import claim
from parties.client import MerchantClient
from parties.operator import Named, freeze_account, lists_held, unfreeze_account
from parties.reconcile import reconcile, write_statement
from parties.scenario.stage import Fields, Stage
from parties.settings import load_settings
from protocol.errors import BooksDiffer, SettingsInvalid, Unavailable, WrongState
from protocol.messages.statement import EntryKind
from protocol.messages.stops import StopReason
from protocol.roles.ledger import SALES, post, tsm_account
from protocol.roles.se.tables import SERVICE_KEYS
from protocol.roles.tsm.tables import CARDS, PURCHASES
from protocol.rows import Decision, Key, Rows, Unit, Update
from protocol.types import Role

OFFICER_PASSPHRASE: Final = b"a passphrase of the officer's own"
STOPPED_S: Final = 8.0
"""For the TSM to fetch the banks' lists, which it does by itself."""
POLL_S: Final = 0.05


# --- SETTLE ----------------------------------------------------------------------------------------------------------
def _settle(stage: Stage, step: Fields) -> dict[str, Any]:
    """A merchant has its sales paid out."""
    with MerchantClient(stage.deployment.settings(step["merchant"])) as till:
        settled = till.settle()
    if settled.refused:
        raise WrongState(f"refused: {', '.join(settled.refused)}")
    return {"batches": settled.batches, "sales": settled.sales, "refunds": settled.refunds,
            "totals_minor": settled.totals_minor}  # fmt: skip


def _claim(stage: Stage, step: Fields) -> dict[str, Any]:
    """The TSM claims from every bank, for every grant, whatever was bought."""
    banks = claim(stage.deployment.settings(stage.tsm), early=True)
    if any(bank.refused or bank.waiting for bank in banks):
        raise WrongState("a bank did not accept a claim")
    return {bank.bank: bank.accepted for bank in banks}


def _reconcile(stage: Stage, step: Fields) -> dict[str, Any]:
    """Everybody states its books with the TSM, the TSM with everybody, and all compare."""
    folder = stage.deployment.folder / "statements"
    folder.mkdir(exist_ok=True)
    settings = stage.deployment.settings
    others = [(name, Role.BANK) for name in stage.deployment.of_role(Role.BANK)]
    others += [(name, Role.MERCHANT) for name in stage.deployment.of_role(Role.MERCHANT)]
    for name, role in others:
        write_statement(settings(name), role, counterparty=stage.tsm, out=folder / f"{name}.cose")
        write_statement(settings(stage.tsm), Role.TSM, counterparty=name, out=folder / f"for-{name}.cose")
        reconcile(settings(name), role, (folder / f"for-{name}.cose",))
    agreed = reconcile(settings(stage.tsm), Role.TSM, tuple(folder / f"{name}.cose" for name, _ in others))
    if len(agreed.statements) != len(others):
        raise BooksDiffer("a party stated nothing")
    return {"agree_with": [one.party for one in agreed.statements]}


# --- FREEZE ----------------------------------------------------------------------------------------------------------
def _customer(stage: Stage, step: Fields) -> str:
    customer = stage.customers.get((step["bank"], step["phone"]))
    if customer is None:
        raise SettingsInvalid("a customer is named by an add-customer step of this bank and phone before it")
    return customer


def _freeze(stage: Stage, step: Fields) -> dict[str, Any]:
    """A phone is reported lost at its bank; the step ends when the TSM knows."""
    freeze_customer(stage.deployment.settings(step["bank"]), _customer(stage, step), StopReason.LOST_PHONE)
    return _await_stops(stage, step["bank"], lambda stopped: stopped > 0)


def _unfreeze(stage: Stage, step: Fields) -> dict[str, Any]:
    unfreeze_customer(stage.deployment.settings(step["bank"]), _customer(stage, step))
    return _await_stops(stage, step["bank"], lambda stopped: stopped == 0)


def _delete_customer(stage: Stage, step: Fields) -> dict[str, Any]:
    delete_customer(stage.deployment.settings(step["bank"]), _customer(stage, step), StopReason.CRIME_REPORT)
    return _await_stops(stage, step["bank"], lambda stopped: stopped > 0)


def _await_stops(stage: Stage, bank: str, good: Callable[[int], bool]) -> dict[str, Any]:
    until_s = time.monotonic() + STOPPED_S
    while True:
        held = {one.bank: one.stopped for one in lists_held(stage.deployment.settings(stage.tsm))}
        if good(held.get(bank, 0)):
            return {"stopped": held.get(bank, 0)}
        if time.monotonic() > until_s:
            raise Unavailable("the TSM did not fetch the bank's list of stops")
        time.sleep(POLL_S)


def _freeze_account(stage: Stage, step: Fields) -> dict[str, Any]:
    """The TSM stops an account for fraud."""
    stopped = freeze_account(stage.deployment.settings(stage.tsm), Named(tid=step["tid"]), StopReason.FRAUD)
    return {"tid": stopped.tid, "stop": stopped.stop}


def _unfreeze_account(stage: Stage, step: Fields) -> dict[str, Any]:
    return {"tid": unfreeze_account(stage.deployment.settings(stage.tsm), Named(tid=step["tid"])).tid}


# --- TRACE -----------------------------------------------------------------------------------------------------------
def _officer(stage: Stage, step: Fields) -> Path:
    return stage.deployment.folder / "officers" / str(step["officer"])


def _add_officer(stage: Stage, step: Fields) -> dict[str, Any]:
    folder = _officer(stage, step)
    folder.parent.mkdir(exist_ok=True)
    trace.add_officer(stage.deployment.settings(step["bank"]), step["officer"], folder, OFFICER_PASSPHRASE)
    return {"officer": step["officer"]}


def _trace(stage: Stage, step: Fields) -> dict[str, Any]:
    """The TSM asks who made a purchase, or hears how that stands; with the answer, the requester opens it."""
    row = trace.ask(
        stage.deployment.settings(stage.tsm), merchant=step["merchant"], sale=bytes.fromhex(step["sale"]),
        reason=step.get("reason", "dispute"), requester=step.get("requester", stage.tsm),
    )  # fmt: skip
    wanted = step.get("ends", row.state)
    if row.state != wanted:
        raise WrongState(f"the case is {row.state}, not {wanted}")
    found = {"case": row.case_id.hex(), "state": row.state}
    if row.answer:
        path = stage.deployment.folder / f"{row.case_id.hex()}.answer"
        trace.write_file(path, row.answer)
        requester = stage.deployment.settings(step.get("requester", stage.tsm))
        answer, bank = trace.read_answer(requester, path)
        found |= {"bank": bank, "person": answer.person}
    return found


def _judge_trace(stage: Stage, step: Fields) -> dict[str, Any]:
    case = trace.give_verdict(
        stage.deployment.settings(step["bank"]), bytes.fromhex(step["case"]), _officer(stage, step), OFFICER_PASSPHRASE,
        step.get("verdict", "approve"),
    )  # fmt: skip
    return {"case": case.case_id.hex(), "state": case.state}


def _verify_log(stage: Stage, step: Fields) -> dict[str, Any]:
    verified, _ = verify_here(stage.deployment.settings(step["bank"]))
    return {"entries": len(verified.entries)}


# --- faults, each a real one -----------------------------------------------------------------------------------------
def _apply(stage: Stage, party: str, unit: Unit) -> None:
    """What somebody with the party's storage key could do beside its server."""
    store = Opened.of(load_settings(stage.deployment.settings(party))).store()
    try:
        store.apply(unit)
    finally:
        store.close()


def _change_books(stage: Stage, step: Fields) -> dict[str, Any]:
    """One minor unit that no sale brought, in the merchant's ledger."""
    writes = post(
        EntryKind.PURCHASE, debit=tsm_account(stage.tsm), credit=SALES, amount_minor=1, currency="TWD", ref=b"nothing",
        at_s=int(time.time()),
    )  # fmt: skip
    _apply(stage, step["merchant"], Unit((), lambda _rows: Decision(writes=writes)))
    return {}


def _forge_service_key(stage: Stage, step: Fields) -> dict[str, Any]:
    """K_TID,TSM in the SE is one that the TSM never made."""
    kept: list[bytes] = []

    def turn(rows: Rows) -> Decision:  # the second time it is as it was
        row = rows.get(SERVICE_KEYS, step["tid"])
        assert row is not None  # made by an earlier step
        other = kept.pop() if kept else secrets.token_bytes(32)
        kept.append(row.k_tid)
        return Decision(writes=(Update(SERVICE_KEYS, replace(row, k_tid=other)),))

    unit = Unit((Key(SERVICE_KEYS, (step["tid"],)),), turn)
    stage.undo.append(lambda: _apply(stage, f"{step['phone']}/se", unit))
    _apply(stage, f"{step['phone']}/se", unit)
    return {}


def _swap_card(stage: Stage, step: Fields) -> dict[str, Any]:
    """The TSM's row of the card that paid has another salt, so that its key is not under the user's signed root."""
    name = (step["merchant"], bytes.fromhex(step["sale"]))
    store = Opened.of(load_settings(stage.deployment.settings(stage.tsm))).store()
    purchase = store.read(Key(PURCHASES, name)).get(PURCHASES, *name)
    store.close()
    assert purchase is not None  # made by an earlier step

    def decide(rows: Rows) -> Decision:
        card = rows.get(CARDS, purchase.pan_ref)
        assert card is not None
        return Decision(writes=(Update(CARDS, replace(card, salt=secrets.token_bytes(32))),))

    _apply(stage, stage.tsm, Unit((Key(CARDS, (purchase.pan_ref,)),), decide))
    return {}


LIFECYCLE: Final[Mapping[str, Callable[[Stage, Fields], dict[str, Any]]]] = {
    "settle": _settle,
    "claim": _claim,
    "reconcile": _reconcile,
    "freeze": _freeze,
    "unfreeze": _unfreeze,
    "delete-customer": _delete_customer,
    "freeze-account": _freeze_account,
    "unfreeze-account": _unfreeze_account,
    "add-officer": _add_officer,
    "trace": _trace,
    "judge-trace": _judge_trace,
    "verify-log": _verify_log,
    "change-books": _change_books,
    "forge-service-key": _forge_service_key,
    "swap-card": _swap_card,
}
