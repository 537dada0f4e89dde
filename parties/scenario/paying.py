"""The actions of phase PAY: sales at a merchant's own server, taps by the installed app, money given back."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from parties.assembly.common import Opened
from parties.client import MerchantClient, PhoneClient, SaleState, Tap
from parties.scenario.bends import decline
from parties.scenario.crooked import CrookedCounter, Scene
from parties.scenario.stage import Fields, Stage
from parties.settings import load_settings
from parties.storage.store import DatabaseStore
from protocol.card.outcome import Kind
from protocol.errors import FieldMismatch, ProtocolError, SettingsInvalid, Unavailable, WrongState
from protocol.messages.se import OpeningState
from protocol.messages.till import SaleProgress
from protocol.roles.se.tables import VIRTUAL_CARDS
from protocol.roles.tsm.purchase import Reason
from protocol.rows import Decision, Rows, Unit, Update, Where

TAP_S: Final = 20
SETTLE_S: Final = 15.0
"""For what the merchant's lane does by itself: a reversal, a refund, the next look for a card."""
POLL_S: Final = 0.05


def _phone(stage: Stage, step: Fields) -> PhoneClient:
    return PhoneClient(stage.deployment.folder / step["phone"], tsm=stage.tsm)


def _till(stage: Stage, step: Fields) -> MerchantClient:
    return MerchantClient(stage.deployment.settings(step["merchant"]))


def _reader(stage: Stage, merchant: str) -> str:
    """Where a phone is held to. Raises: SettingsInvalid if it is no reader of this machine."""
    kind, _, address = load_settings(stage.deployment.settings(merchant)).option_text("reader").partition(":")
    if kind != "grpc":
        raise SettingsInvalid(f"{merchant}: a scenario needs a reader that is grpc:HOST:PORT")
    return address


def _until(look: Callable[[], SaleState], good: Callable[[SaleState], bool], what: str) -> SaleState:
    """The sale as soon as it is as wanted. Raises: Unavailable."""
    until_s = time.monotonic() + SETTLE_S
    while not good(state := look()):
        if time.monotonic() > until_s:
            raise Unavailable(f"{what} does not come: the sale is {state.progress.value}")
        time.sleep(POLL_S)
    return state


def _set_pin(stage: Stage, step: Fields) -> dict[str, Any]:
    return {"pin": _phone(stage, step).set_pin(step["pin"], old=step.get("old", "")).state}


def _pay(stage: Stage, step: Fields) -> dict[str, Any]:
    """Start the sale, hold the phone on, and see how the sale ends."""
    with _till(stage, step) as till:
        sale = till.start_sale(step["amount"], currency=step.get("currency", "TWD")).sale
        try:
            tap = _taps(stage, step, lambda: till.sale(sale))
        except ProtocolError:
            if till.sale(sale).under_way:
                till.cancel(sale)
            raise
        if tap.state == OpeningState.CLOSED:
            till.cancel(sale)
        ended = till.await_end(sale)
    wanted = step.get("ends", SaleProgress.APPROVED)
    if ended.progress != wanted:
        raise WrongState(f"the sale ended {ended.progress.value}, not {wanted}")
    return {"sale": sale, "progress": ended.progress.value, "display": ended.display, "card": ended.card}


def _taps(stage: Stage, step: Fields, look: Callable[[], SaleState]) -> Tap:
    """One tap, or two with the PIN between them; without a PIN the person walks away. Raises: the app's refusal."""
    phone, reader = _phone(stage, step), _reader(stage, step["merchant"])
    ceiling_minor = step.get("ceiling", step["amount"])
    tap = phone.pay(step["tid"], ceiling_minor=ceiling_minor, reader=reader, seconds=TAP_S)
    if tap.state != OpeningState.EXPECT_PIN:
        return tap
    asked = _until(look, lambda state: state.outcome == Kind.TRY_AGAIN.name, "the terminal's call for the phone")
    if (tap.amount_minor, tap.currency) != (asked.amount_minor, asked.currency):
        raise FieldMismatch("the phone shows something else than the till")
    if "pin" not in step:
        return phone.close_card(step["tid"])
    return phone.confirm(tap, pin=step["pin"], reader=reader, seconds=TAP_S)


def _start_sale(stage: Stage, step: Fields) -> dict[str, Any]:
    with _till(stage, step) as till:
        return {"sale": till.start_sale(step["amount"], currency=step.get("currency", "TWD")).sale}


def _cancel_sale(stage: Stage, step: Fields) -> dict[str, Any]:
    """Called off before a card came, or while the decision is out; then the TSM must have heard of it."""
    with _till(stage, step) as till:
        till.cancel(step["sale"])
        ends = (SaleProgress.CANCELED, SaleProgress.REVERSED)
        state = _until(lambda: till.sale(step["sale"]), lambda state: state.progress in ends, "the end")
    return {"sale": step["sale"], "progress": state.progress.value}


def _void(stage: Stage, step: Fields) -> dict[str, Any]:
    """An approved sale is taken back, and the TSM has acknowledged it."""
    with _till(stage, step) as till:
        if till.sale(step["sale"]).progress is not SaleProgress.APPROVED:
            raise WrongState("only an approved sale is voided")
        till.cancel(step["sale"])
        _until(lambda: till.sale(step["sale"]), lambda state: state.progress is SaleProgress.REVERSED, "the reversal")
    return {"sale": step["sale"]}


def _refund(stage: Stage, step: Fields) -> dict[str, Any]:
    with _till(stage, step) as till:
        before_minor = till.sale(step["sale"]).refunded_minor
        till.refund(step["sale"], step["amount"])
        state = _until(lambda: till.sale(step["sale"]), lambda state: not state.refunds_pending, "the refund")
    if state.refunded_minor != before_minor + step["amount"]:
        raise FieldMismatch("the TSM did not refund it")
    return {"sale": step["sale"], "refunded_minor": state.refunded_minor}


def _declines(stage: Stage, step: Fields) -> dict[str, Any]:
    counter = stage.counters.get(step["merchant"])
    if counter is None:
        counter = stage.counters[step["merchant"]] = CrookedCounter(stage.deployment, step["merchant"])
        stage.undo.append(counter.close)
    reasons = [Reason(reason) for reason in step.get("reasons", tuple(Reason))]
    with Scene(stage.deployment, counter, phone=step["phone"], tid=step["tid"], tsm=stage.tsm) as scene:
        for reason in reasons:
            decline(scene, reason)
    return {"reasons": [reason.value for reason in reasons]}


def _renew(stage: Stage, step: Fields) -> dict[str, Any]:
    renewed = _phone(stage, step).renew(step["tid"], pool=step["pool"])
    if renewed.issued != step.get("number", renewed.issued):
        raise FieldMismatch(f"{renewed.issued} cards were issued, not {step['number']}")
    return {"ready": renewed.ready, "issued": renewed.issued}


def _forge_card_key(stage: Stage, step: Fields) -> dict[str, Any]:
    """The cards' kAC in the SE become other keys than the TSM's: no cryptogram of an honest purchase is right."""
    store = Opened.of(load_settings(stage.deployment.settings(f"{step['phone']}/se"))).store()
    try:
        kept = {row.modulus_digest: row.k_ac for row in store.scan(VIRTUAL_CARDS) if row.tid == step["tid"]}
        _set_card_keys(store, step["tid"], {digest: secrets.token_bytes(16) for digest in kept})
    finally:
        store.close()

    def undo() -> None:
        again = Opened.of(load_settings(stage.deployment.settings(f"{step['phone']}/se"))).store()
        try:
            _set_card_keys(again, step["tid"], kept)
        finally:
            again.close()

    stage.undo.append(undo)
    return {"cards": len(kept)}


def _set_card_keys(store: DatabaseStore, tid: str, keys: dict[bytes, bytes]) -> None:
    def decide(rows: Rows) -> Decision:
        cards = rows.find(VIRTUAL_CARDS, "tid", tid)
        return Decision(writes=tuple(
            Update(VIRTUAL_CARDS, replace(card, k_ac=keys[card.modulus_digest]))
            for card in cards if card.modulus_digest in keys
        ))  # fmt: skip

    store.apply(Unit((Where(VIRTUAL_CARDS, "tid", tid),), decide))


PAYING: Final[dict[str, Callable[[Stage, Fields], dict[str, Any]]]] = {
    "set-pin": _set_pin,
    "pay": _pay,
    "start-sale": _start_sale,
    "cancel-sale": _cancel_sale,
    "void": _void,
    "refund": _refund,
    "declines": _declines,
    "renew": _renew,
    "forge-card-key": _forge_card_key,
}
