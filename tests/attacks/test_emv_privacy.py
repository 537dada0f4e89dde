"""What a decline tells the merchant: nothing about the person.

Response codes told every cashier who is out of money (ISO 8583 has 51, "insufficient funds", and 61, "exceeds amount
limit"). Here the reason stays at the TSM: verdict "declined", code "05".
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from support.counter import TSM, Counter, changed, open_card
from support.skimmer import Altered, NoLimit, OwnCard, applet, crooked_tap, loaded, phone_applet, shopper
from support.world import World

from protocol.messages.pay import Authorization, AuthorizationDecision, Decided, EmvPurchase, Verdict
from protocol.ports import Entropy
from protocol.roles.tsm.authorize import AuthorizeStep, Authorizing
from protocol.roles.tsm.purchase import Reason
from protocol.roles.tsm.tables import CARDS, PURCHASES, SERVICES, TID_LIST
from protocol.rows import Decision, Delete, Key, Rows, Table, Unit, Update

SMALL = 9_000
PERSONAL: dict[str, tuple[Table[Any], dict[str, Any]]] = {
    "OVER_BALANCE": (TID_LIST, {"aid_limit_minor": SMALL - 1}),
    "OVER_OWN_MAXIMUM": (SERVICES, {"maximum_minor": SMALL - 1}),
    "ACCOUNT_ENDED": (TID_LIST, {"state": "CLOSED"}),
    "CARD_USED_UP": (CARDS, {"used": 1}),
    "CARD_INACTIVE": (CARDS, {"state": "CLOSED"}),
    "CARD_EXPIRED": (CARDS, {"expires_at_s": 1}),
    "CHANNEL_NOT_ALLOWED": (CARDS, {"channel": "contact"}),
    "CURRENCY_NOT_ALLOWED": (CARDS, {"currency": "USD"}),
    "OVER_CARD_AMOUNT": (CARDS, {"per_use_minor": SMALL - 1}),
    "OVER_CARD_TOTAL": (CARDS, {"total_minor": SMALL - 1}),
}
"""Reason of a decline → what the TSM's row says when it is met."""


def parallel(
    world: World, table: Table[Any] | None = None, *, forget: Table[Any] | None = None, **values: Any
) -> Callable[[], None]:
    """The TSM as it is, but for these columns in all rows of the table, and without the rows of `forget`. Called, it is
    as before again."""
    party = world.parties[TSM]
    before = party.store
    party.store = copy.deepcopy(before)
    for row in party.store.scan(table) if table else ():
        change = Update(table, replace(row, **values))
        key = Key(table, table.key_of(row))
        party.store.apply(Unit((key,), lambda rows, change=change: Decision(writes=(change,))))
    for row in party.store.scan(forget) if forget else ():
        gone = Delete(forget, row)
        party.store.apply(Unit((Key(forget, forget.key_of(row)),), lambda rows, gone=gone: Decision(writes=(gone,))))
    world.restart(TSM)

    def back() -> None:
        party.store = before
        world.restart(TSM)

    return back


def answers(world: World, counter: Counter, purchase: EmvPurchase) -> dict[str, tuple[bytes, int]]:
    """Reason → the decision's bytes and the answer's length, for one and the same purchase."""
    found = {}
    for reason, (table, values) in PERSONAL.items():
        back = parallel(world, table, **values)
        wire = counter.signed(Authorization(terminal=counter.terminal.terminal, purchase=purchase))
        reply = counter.deliver("Tsm.Authorize", wire)
        decided: Decided = counter.opened(AuthorizationDecision, wire, reply).decided
        assert counter.reason(purchase.sale) == reason
        assert decided.verdict is Verdict.DECLINED
        found[reason] = (decided.to_bytes(), len(reply.cose))
        back()
    return found


class Iso8583(AuthorizeStep):
    """A TSM that answers with the code that ISO 8583 has for the reason."""

    def decide(self, rows: Rows, facts: Authorizing, now_s: int, entropy: Entropy) -> Decision:
        decision = super().decide(rows, facts, now_s, entropy)
        (made,) = (write.row for write in decision.writes if write.table is PURCHASES)
        code = {"OVER_BALANCE": "51", "OVER_OWN_MAXIMUM": "61", "ACCOUNT_ENDED": "62"}.get(made.reason, "05")
        decided = replace(decision.reply.decided, response_code=code)
        return replace(decision, reply=AuthorizationDecision(decided=decided))


def test_a_decline_does_not_say_why(world: World) -> None:
    """Attack: a merchant reads from declines who is out of money, limits themself, or was closed. Powers: the merchant.
    Closed by: one and the same purchase is answered in the same bytes and length whatever the reason; the code is "05".
    Variant: a TSM that uses ISO 8583's codes tells three kinds of customers apart."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    purchase = counter.ask(phone, tid, SMALL)
    found = answers(world, counter, purchase)
    assert len(set(found.values())) == 1
    (decided,) = {Decided.from_bytes(data) for data, _ in found.values()}
    assert (decided.response_code, decided.sale, decided.amount_minor) == ("05", purchase.sale, SMALL)
    # And it was not the purchase's fault.
    assert counter.authorize(purchase).verdict is Verdict.APPROVED

    world.swap_step(TSM, Iso8583(world.parties[TSM].value))
    later = answers(world, counter, counter.ask(phone, tid, SMALL))
    assert len({data for data, _ in later.values()}) == 4


class Chatty(AuthorizeStep):
    """A TSM that answers each failed check with a code of its own."""

    def decide(self, rows: Rows, facts: Authorizing, now_s: int, entropy: Entropy) -> Decision:
        decision = super().decide(rows, facts, now_s, entropy)
        (made,) = (write.row for write in decision.writes if write.table is PURCHASES)
        code = f"{10 + list(Reason).index(made.reason)}"
        return replace(
            decision, reply=AuthorizationDecision(decided=replace(decision.reply.decided, response_code=code))
        )


def test_a_failed_check_does_not_say_which(world: World) -> None:
    """Attack: a merchant uses the TSM as an oracle for which part of a forgery was right, or which numbers exist.
    Powers: the merchant; a broken SE for a wrong kAC. Closed by: whatever does not verify is answered in the same
    bytes, with nothing vouched for. Variant: a TSM with a code for each check tells all of them apart."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    honest = counter.ask(phone, tid, SMALL)
    wrong_key = applet(world, OwnCard(loaded(phone, k_ac=bytes(16))))
    broken = applet(world, OwnCard(loaded(phone)))
    misnamed = crooked_tap(counter, broken, SMALL, shows={0x9F4E: b"Red Cross".ljust(40, b"\0")})
    forged = {
        "APPLICATION_UNKNOWN": changed(honest, application=b"\xa0\0\0\0\x03"),
        "CERTIFICATE_INVALID": changed(honest, records=honest.records[:-1]),
        "NOT_ONLINE": changed(honest, information=0x40),
        "DATA_INVALID": changed(honest, pdol_data=honest.pdol_data[:-1]),
        "CONSENT_MISMATCH": changed(honest, cdol_data=bytes(len(honest.cdol_data))),
        "SIGNATURE_INVALID": changed(honest, atc=honest.atc + 1),
        "CARD_UNKNOWN": honest,
        "CRYPTOGRAM_INVALID": crooked_tap(counter, wrong_key, SMALL).purchase(counter),
        "DATE_IMPLAUSIBLE": crooked_tap(counter, broken, SMALL, says={0x9A: b"\x20\x01\x01"}).purchase(counter),
        "MERCHANT_MISMATCH": misnamed.purchase(counter),
    }  # fmt: skip

    def found() -> set[bytes]:
        answers = set()
        for reason, purchase in forged.items():
            # The card's number is another's where it is to be unknown.
            back = parallel(world, forget=CARDS if reason == "CARD_UNKNOWN" else None)
            answers.add(counter.authorize(changed(purchase, sale=honest.sale)).to_bytes())
            assert counter.reason(honest.sale) == reason
            back()
        return answers

    (answer,) = found()
    decided = Decided.from_bytes(answer)
    assert (decided.pan, decided.atc, decided.cryptogram, decided.arpc) == ("", 0, b"", b"")
    assert (decided.verdict, decided.response_code) == (Verdict.DECLINED, "05")

    world.swap_step(TSM, Chatty(world.parties[TSM].value))
    assert len(found()) == len(forged)


class AccountFirst(AuthorizeStep):
    """A TSM that looks into the account before it asks for the verification."""

    def decide(self, rows: Rows, facts: Authorizing, now_s: int, entropy: Entropy) -> Decision:
        without_limit = Altered(rows, CARDS, verify_above_minor=10**9)
        first = super().decide(without_limit, facts, now_s, entropy)
        paid = first.reply.decided.verdict is Verdict.APPROVED
        return super().decide(rows, facts, now_s, entropy) if paid else first


def test_only_a_missing_verification_is_told(world: World) -> None:
    """Attack: a merchant asks for amounts above the limit and reads from "verify" that there is money for them. Powers:
    the merchant, a tap of an open phone whose SE does not ask. Closed by: "verify" ("65"), which the merchant must
    know, is said before the account is looked into. Variant: a TSM that looks there first tells the balance."""
    phone, tid = shopper(world)
    counter = Counter.open(world)
    open_card(world, phone, tid, 25_000)
    purchase = crooked_tap(counter, phone_applet(world, phone, NoLimit), 25_000).purchase(counter)

    def found() -> set[tuple[str, bytes]]:
        answers = set()
        for change in ({"aid_limit_minor": 1}, {"state": "CLOSED"}, {}):
            back = parallel(world, TID_LIST, **change)
            answer = counter.authorize(purchase)
            answers.add((answer.response_code, answer.to_bytes()))
            back()
        return answers

    assert [code for code, _ in found()] == ["65"]

    world.swap_step(TSM, AccountFirst(world.parties[TSM].value))
    assert sorted(code for code, _ in found()) == ["05", "65"]
