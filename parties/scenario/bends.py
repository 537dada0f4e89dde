"""For each reason why the TSM declines: an honest purchase with one thing bent, declined for just that.

The merchant is to learn nothing of the reason, but that the amount needs the cardholder's verification.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from parties.scenario.crooked import AMOUNT_MINOR, Scene, bent, missing
from protocol.card import profile
from protocol.card.combined import CryptogramType
from protocol.card.profile import Channel
from protocol.card.tap import amount_bytes
from protocol.errors import FieldMismatch
from protocol.messages.card import EmvRecord
from protocol.messages.pay import EmvPurchase, ReversalReason, Verdict
from protocol.roles.se.opening import SLOT
from protocol.roles.se.tables import FIELD, VIRTUAL_CARDS
from protocol.roles.tsm.authorize import RESPONSE_CODES, verdict_of
from protocol.roles.tsm.purchase import Reason
from protocol.roles.tsm.tables import CARDS, SERVICES, TID_LIST, CardRow, Purchase
from protocol.rows import Table, Value

ICC_CERTIFICATE: Final = b"\x9f\x46"
OVER_LIMIT_MINOR: Final = 20_100
"""Above the TSM's verification limit."""
FAR_OFF_DAYS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What came of a bent purchase: what the merchant was told; what the TSM had under its name before and after."""

    verdict: Verdict
    response_code: str
    before: Purchase | None
    after: Purchase | None


Bend: TypeAlias = Callable[[Scene], Told]


def _ask(scene: Scene, purchase: EmvPurchase) -> Told:
    before = scene.kept(purchase.sale)
    decided = scene.counter.authorize(purchase)
    after = scene.kept(purchase.sale)
    return Told(verdict=decided.verdict, response_code=decided.response_code, before=before, after=after)


# --- the terminal's bytes ---------------------------------------------------------------------------------------------
def _altered(alter: Callable[[EmvPurchase], EmvPurchase]) -> Bend:
    """An honest tap, and then the terminal changes what the card said, or what it said itself."""

    def bend(scene: Scene) -> Told:
        scene.open()
        return _ask(scene, alter(scene.tap()))

    return bend


def _flipped(data: bytes, place: int) -> bytes:
    changed = bytearray(data)
    changed[place] ^= 1
    return bytes(changed)


def _alter_certificate(purchase: EmvPurchase) -> EmvPurchase:
    def alter(record: EmvRecord) -> EmvRecord:
        start = record.data.find(ICC_CERTIFICATE)
        # Past tag and length, in the middle of the certificate.
        return record if start < 0 else replace(record, data=_flipped(record.data, start + 64))

    return replace(purchase, records=tuple(alter(record) for record in purchase.records))


def _alter_amount(purchase: EmvPurchase) -> EmvPurchase:
    """What the cryptogram is said to be over, other than what the phone was shown: 9F02 comes first in CDOL1."""
    amount = amount_bytes(1)
    return replace(purchase, cdol_data=amount + purchase.cdol_data[len(amount) :])


# --- the terminal itself ----------------------------------------------------------------------------------------------
def _another_shop(scene: Scene) -> Told:
    """The phone is shown another name than that under which the terminal is registered."""
    scene.open()
    return _ask(scene, scene.tap(terminal=replace(scene.counter.terminal, merchant_name="Another shop")))


def _another_day(scene: Scene) -> Told:
    scene.open()
    return _ask(scene, scene.tap(days=FAR_OFF_DAYS))


# --- names and counters -----------------------------------------------------------------------------------------------
def _reversed_before(scene: Scene) -> Told:
    scene.open()
    purchase = scene.tap()
    scene.counter.reverse(purchase.sale, ReversalReason.NO_ANSWER)
    return _ask(scene, purchase)


def _after_honest(second: Callable[[Scene, EmvPurchase], EmvPurchase]) -> Bend:
    """After an approved purchase a second that has something of it. The first is taken back in the end."""

    def bend(scene: Scene) -> Told:
        scene.open()
        first = scene.tap()
        bent_one = second(scene, first)
        if _ask(scene, first).verdict is not Verdict.APPROVED:
            raise FieldMismatch("an honest purchase was declined")
        told = _ask(scene, bent_one)
        scene.counter.reverse(first.sale, ReversalReason.VOID)
        return told

    return bend


def _same_name(scene: Scene, first: EmvPurchase) -> EmvPurchase:
    scene.open()
    return replace(scene.tap(), sale=first.sale)


def _same_counter(_scene: Scene, first: EmvPurchase) -> EmvPurchase:
    return replace(first, sale=_flipped(first.sale, 0))


def _same_opening(scene: Scene, _first: EmvPurchase) -> EmvPurchase:
    return scene.tap()  # the same card answers once more, as after a torn tap


# --- the world --------------------------------------------------------------------------------------------------------
def _tsm_has(table: Table[Any], key: Callable[[CardRow], Value], **values: Value) -> Bend:
    """The TSM's row of the card, its grant or its account says otherwise while it decides."""

    def bend(scene: Scene) -> Told:
        scene.open()
        purchase = scene.tap()
        with bent(scene.tsm, table, key(scene.card()), **values):
            return _ask(scene, purchase)

    return bend


def _card_has(**values: Value) -> Bend:
    return _tsm_has(CARDS, lambda card: card.pan_ref, **values)


def _unknown_card(scene: Scene) -> Told:
    scene.open()
    purchase = scene.tap()
    with missing(scene.tsm, CARDS, scene.card().pan_ref):
        return _ask(scene, purchase)


def _foreign_cryptogram(scene: Scene) -> Told:
    """The SE's kAC is not the TSM's: all else the card signs rightly."""
    scene.open()
    with bent(scene.se, VIRTUAL_CARDS, scene.opening().card, k_ac=bytes(range(16))):
        purchase = scene.tap()
    return _ask(scene, purchase)


def _stopped(scene: Scene) -> Told:
    """The operator freezes the account after the tap, and lifts it again once it is decided."""
    scene.open()
    purchase = scene.tap()
    with scene.frozen(scene.card().tid):
        return _ask(scene, purchase)


def _unverified(scene: Scene) -> Told:
    """The SE lets through without a PIN what the TSM wants one for."""
    scene.open(OVER_LIMIT_MINOR)
    with bent(scene.se, FIELD, SLOT, verify_above_minor=OVER_LIMIT_MINOR):
        purchase = scene.tap(OVER_LIMIT_MINOR)
    return _ask(scene, purchase)


BENDS: Final[Mapping[Reason, Bend]] = {
    Reason.APPLICATION_UNKNOWN: _altered(lambda one: replace(one, application=_flipped(profile.AID, -1))),
    Reason.DATA_INVALID: _altered(lambda one: replace(one, pdol_data=one.pdol_data[:-1])),
    Reason.CARD_UNKNOWN: _unknown_card,
    Reason.CERTIFICATE_INVALID: _altered(_alter_certificate),
    Reason.NOT_ONLINE: _altered(lambda one: replace(one, information=int(CryptogramType.TC))),
    Reason.SIGNATURE_INVALID: _altered(lambda one: replace(one, signature=_flipped(one.signature, -1))),
    Reason.CRYPTOGRAM_INVALID: _foreign_cryptogram,
    Reason.CONSENT_MISMATCH: _altered(_alter_amount),
    Reason.MERCHANT_MISMATCH: _another_shop,
    Reason.DATE_IMPLAUSIBLE: _another_day,
    Reason.SALE_REUSED: _after_honest(_same_name),
    Reason.REVERSED_BEFORE: _reversed_before,
    Reason.ATC_REUSED: _after_honest(_same_counter),
    Reason.OPENING_USED: _after_honest(_same_opening),
    Reason.CARD_INACTIVE: _card_has(state="CLOSED"),
    Reason.CARD_EXPIRED: _card_has(expires_at_s=0),
    Reason.CARD_USED_UP: _card_has(uses=0),
    Reason.CHANNEL_NOT_ALLOWED: _card_has(channel=Channel.CONTACT.value),
    Reason.CURRENCY_NOT_ALLOWED: _card_has(currency="USD"),
    Reason.VERIFICATION_MISSING: _unverified,
    Reason.OVER_CARD_AMOUNT: _card_has(per_use_minor=AMOUNT_MINOR - 1),
    Reason.OVER_CARD_TOTAL: _card_has(total_minor=AMOUNT_MINOR - 1),
    Reason.OVER_OWN_MAXIMUM: _tsm_has(SERVICES, lambda card: card.tid, maximum_minor=AMOUNT_MINOR - 1),
    Reason.ACCOUNT_ENDED: _tsm_has(SERVICES, lambda card: card.tid, state="CLOSED"),
    Reason.ACCOUNT_STOPPED: _stopped,
    # The grant is of a bank whose list of stops never came.
    Reason.STOPS_STALE: _tsm_has(TID_LIST, lambda card: card.sid_digest, bank="bank-none"),
    Reason.OVER_BALANCE: _tsm_has(TID_LIST, lambda card: card.sid_digest, aid_limit_minor=AMOUNT_MINOR - 1),
}


def decline(scene: Scene, reason: Reason) -> None:
    """One purchase, declined for `reason` by the TSM's own word, of which the merchant learns the verdict only.

    Raises: FieldMismatch if it ends in any other way; what opening, tapping and asking raise.
    """
    told = BENDS[reason](scene)
    found = _reason(told)
    if found != reason:
        raise FieldMismatch(f"{reason} was wanted, the TSM noted {found or 'no reason'}")
    verdict = verdict_of(reason)
    if (told.verdict, told.response_code) != (verdict, RESPONSE_CODES[verdict]):
        raise FieldMismatch(f"{reason}: the merchant was told {told.verdict}, {told.response_code}")


def _reason(told: Told) -> str:
    """As the TSM noted it. A name that it knows already gets no second note, and the first stays as it was."""
    if told.after is None:
        return ""
    if told.before is None:
        return told.after.reason
    if told.after != told.before:
        return "a change of what it had decided"
    return Reason.REVERSED_BEFORE if told.after.state == "NEVER" else Reason.SALE_REUSED
