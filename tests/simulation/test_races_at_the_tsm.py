"""Requests that race for the same money at a TSM of several processes: one outcome each, and sums that are right."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from support.arena import DATABASES, Arena, arena, race
from support.claims import PERIOD_S
from support.counter import TSM, Counter, applet_of, open_card
from support.skimmer import shopper
from support.two_banks import BANK, OTHER, Person
from support.world import PASSCODE, SOFTWARE, Phone, World

from parties.server.claims import ClaimSender
from protocol import envelope
from protocol.engine import Peer
from protocol.envelope import Stamp, Wire
from protocol.errors import ProtocolError
from protocol.messages.pay import (
    Authorization,
    AuthorizationDecision,
    EmvPurchase,
    Refund,
    Reversal,
    ReversalReason,
    Verdict,
)
from protocol.messages.settle import SettledSale, Settlement
from protocol.messages.statement import EntryKind
from protocol.roles.bank.tables import LIVE_GRANTS, RECEIVED_CLAIMS
from protocol.roles.books import prove_books
from protocol.roles.ledger import LEDGER, merchant_account
from protocol.roles.se.tables import RECREDITS, VIRTUAL_CARDS
from protocol.roles.tsm.tables import CARDS, CLAIMS, PURCHASES, TID_LIST, Purchase, TidEntry
from protocol.roles.wallet import Exchanged, recredit
from protocol.rows import Decision, Key, Table, Unit, Update
from protocol.types import Role

CLIENTS, CARDS_HELD = 64, 8
ROUNDS = 6
AMOUNT = 5_000


@pytest.fixture(scope="module", params=DATABASES)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """One town for all tests, who each come with a phone and a merchant of their own."""
    with arena(tmp_path_factory.mktemp(request.param), request.param, TSM) as made:
        yield made


@dataclass
class Scene:
    """A phone with cards that pay more than once, at a counter."""

    place: Arena
    counter: Counter
    phone: Phone
    tid: str

    @classmethod
    def set(cls, place: Arena, *, cards: int, uses: int) -> Scene:
        number = place.number()
        phone, tid = shopper(place.world, f"phone-{number}", number=cards)
        scene = cls(place, Counter.open(place.world, number, f"shop-{number}"), phone, tid)
        scene.amend(CARDS, uses=uses)
        amend(phone.party.store, VIRTUAL_CARDS, uses=uses)
        return scene

    def amend(self, table: Table[Any], **columns: Any) -> None:
        """This account's rows at the TSM with other values."""
        amend(self.place.stores[TSM][0], table, lambda row: row.tid == self.tid, **columns)

    def rows(self, table: Table[Any]) -> list[Any]:
        """This account's at the TSM, as another process sees them."""
        return [row for row in self.place.stores[TSM][-1].scan(table) if row.tid == self.tid]

    @property
    def grant(self) -> TidEntry:
        (entry,) = self.rows(TID_LIST)
        return entry

    def reasons(self) -> Tally[str]:
        return Tally(row.reason for row in self.rows(PURCHASES))

    def spent(self) -> tuple[int, int]:
        """What the grant and its cards say was spent; all books hold."""
        assert [proof for proof in prove_books(Role.TSM, self.place.stores[TSM][-1]) if proof.differences] == []
        return self.grant.spent_minor, sum(card.spent_minor for card in self.rows(CARDS))

    def booked(self, kind: EntryKind) -> list[int]:
        """The amounts of the merchant's entries."""
        account = merchant_account(self.counter.keys.name)
        return [
            row.amount_minor for row in self.place.stores[TSM][-1].scan(LEDGER)
            if row.kind == kind and account in (row.debit, row.credit)
        ]  # fmt: skip

    def raced(self, *questions: tuple[str, Wire]) -> Tally[str]:
        """Codes of refusals; empty for an answer."""
        me = merchant(self.counter)
        return outcomes(race([self.place.ask(TSM, rpc, wire, me, n) for n, (rpc, wire) in enumerate(questions)]))

    def purchase(self, sale: bytes) -> Purchase:
        (row,) = [row for row in self.rows(PURCHASES) if row.sale == sale]
        return row


def merchant(counter: Counter) -> Peer:
    return Peer(role=Role.MERCHANT, name=counter.keys.name)


def request(counter: Counter, purchase: EmvPurchase) -> Wire:
    return counter.signed(Authorization(terminal=counter.terminal.terminal, purchase=purchase))


def amend(store: Any, table: Table[Any], which: Callable[[Any], bool] = lambda _: True, **columns: Any) -> None:
    """Rows with other values: what no request makes happen."""
    rows = [row for row in store.scan(table) if which(row)]
    keys = tuple(Key(table, table.key_of(row)) for row in rows)
    writes = tuple(Update(table, replace(row, **columns)) for row in rows)
    store.apply(Unit(keys, lambda _: Decision(writes=writes)))


def outcomes(results: list[Any]) -> Tally[str]:
    """Codes of refusals; empty for an answer."""
    return Tally(result.code if isinstance(result, ProtocolError) else "" for result in results)


# --- purchases -------------------------------------------------------------------------------------------------------
def test_64_clients_spend_the_last_of_one_balance(place: Arena) -> None:
    scene = Scene.set(place, cards=CARDS_HELD, uses=CLIENTS // CARDS_HELD)
    counter = scene.counter
    wires = [request(counter, counter.ask(scene.phone, scene.tid, AMOUNT)) for _ in range(CLIENTS)]
    before_minor = scene.grant.aid_limit_minor - 2 * AMOUNT - 1
    scene.amend(TID_LIST, spent_minor=before_minor)
    calls = [place.ask(TSM, "Tsm.Authorize", wire, merchant(counter), number) for number, wire in enumerate(wires)]
    answers = race(calls)
    verdicts = [
        counter.opened(AuthorizationDecision, wire, answer).decided.verdict
        for wire, answer in zip(wires, answers, strict=True)
    ]
    assert Tally(verdicts) == {Verdict.APPROVED: 2, Verdict.DECLINED: CLIENTS - 2}
    assert scene.reasons() == {"": 2, "OVER_BALANCE": CLIENTS - 2}
    assert scene.booked(EntryKind.PURCHASE) == [AMOUNT] * 2
    assert scene.grant.spent_minor == before_minor + 2 * AMOUNT == scene.grant.aid_limit_minor - 1
    assert sum(card.spent_minor for card in scene.rows(CARDS)) == 2 * AMOUNT
    again = race(calls)  # each client repeats its bytes, and is told what it was told
    assert [answer.cose for answer in again] == [answer.cose for answer in answers]
    scene.amend(TID_LIST, spent_minor=2 * AMOUNT)
    assert scene.spent() == (2 * AMOUNT, 2 * AMOUNT)


def test_one_card_at_two_terminals_pays_at_one(place: Arena) -> None:
    """Its owner has broken the SE, which would use it once; the TSM counts."""
    scene = Scene.set(place, cards=1, uses=2 * ROUNDS)
    other = place.number()
    counters = [scene.counter, Counter.open(place.world, other, f"shop-{other}")]
    for paid in range(1, ROUNDS + 1):
        scene.amend(CARDS, uses=paid)
        wires = []
        for counter in counters:
            open_card(place.world, scene.phone, scene.tid, AMOUNT)
            online = counter.tap(applet_of(place.world, scene.phone), AMOUNT).online
            assert online is not None
            wires.append(request(counter, counter.purchase(online)))
        pairs = list(zip(counters, wires, strict=True))
        answers = race([
            place.ask(TSM, "Tsm.Authorize", wire, merchant(counter), number)
            for number, (counter, wire) in enumerate(pairs)
        ])  # fmt: skip
        verdicts = [
            counter.opened(AuthorizationDecision, wire, answer).decided.verdict
            for (counter, wire), answer in zip(pairs, answers, strict=True)
        ]
        assert sorted(verdicts) == [Verdict.APPROVED, Verdict.DECLINED]
        assert scene.reasons() == {"": paid, "CARD_USED_UP": paid}
        assert scene.spent() == (paid * AMOUNT, paid * AMOUNT)


# --- money back ------------------------------------------------------------------------------------------------------
@pytest.fixture
def paid(place: Arena) -> tuple[Scene, list[bytes]]:
    """A counter with sales that were approved."""
    scene = Scene.set(place, cards=1, uses=ROUNDS)
    purchases = [scene.counter.ask(scene.phone, scene.tid, AMOUNT) for _ in range(ROUNDS)]
    for purchase in purchases:
        assert scene.counter.authorize(purchase).verdict is Verdict.APPROVED
    return scene, [purchase.sale for purchase in purchases]


def reversal(counter: Counter, sale: bytes) -> tuple[str, Wire]:
    message = Reversal(terminal=counter.terminal.terminal, sale=sale, reason=ReversalReason.VOID)
    return "Tsm.Reverse", counter.signed(message)


def refund(counter: Counter, sale: bytes, amount_minor: int) -> tuple[str, Wire]:
    message = Refund(
        terminal=counter.terminal.terminal, sale=sale, refund=counter.world.entropy.bytes(16),
        amount_minor=amount_minor, currency="TWD",
    )  # fmt: skip
    return "Tsm.Refund", counter.signed(message)


def settlement(counter: Counter, sale: bytes) -> tuple[str, Wire]:
    message = Settlement(
        batch=counter.world.entropy.bytes(16), currency="TWD", total_minor=AMOUNT,
        sales=(SettledSale(sale=sale, amount_minor=AMOUNT),), refunds=(),
    )  # fmt: skip
    stamp = Stamp.fresh(counter.world.clock.now_s(), counter.world.entropy)
    return "Tsm.SettleBatch", Wire(cose=envelope.sign(counter.keys.signer, message, audience=TSM, stamp=stamp))


def test_a_refund_and_a_reversal_give_back_once(paid: tuple[Scene, list[bytes]]) -> None:
    """All of it by the reversal, or a part by the refund."""
    scene, sales = paid
    left_minor = ROUNDS * AMOUNT
    for sale in sales:
        lost = scene.raced(refund(scene.counter, sale, 2_000), reversal(scene.counter, sale))
        assert lost == {"": 1, "WRONG_STATE": 1}
        row = scene.purchase(sale)
        assert (row.state, row.refunded_minor) in (("REVERSED", 0), ("APPROVED", 2_000))
        left_minor -= AMOUNT if row.state == "REVERSED" else 2_000
        assert scene.spent() == (left_minor, left_minor)


def test_refunds_at_once_are_at_most_the_amount(paid: tuple[Scene, list[bytes]]) -> None:
    scene, sales = paid
    assert scene.raced(*(refund(scene.counter, sales[0], 2_000) for _ in range(8))) == {"": 2, "LIMIT_EXCEEDED": 6}
    assert scene.purchase(sales[0]).refunded_minor == 4_000
    assert scene.booked(EntryKind.REFUND) == [2_000] * 2
    assert scene.spent() == (ROUNDS * AMOUNT - 4_000,) * 2


def test_a_settlement_and_a_reversal_pay_out_or_take_back(paid: tuple[Scene, list[bytes]]) -> None:
    scene, sales = paid
    states = Tally[str]()
    for sale in sales:
        lost = scene.raced(settlement(scene.counter, sale), reversal(scene.counter, sale))
        row = scene.purchase(sale)
        states[row.state] += 1
        assert (row.state, bool(row.settled), lost) in (
            ("REVERSED", False, {"": 1, "WRONG_STATE": 1}), ("APPROVED", True, {"": 1, "ALREADY_SETTLED": 1})
        )  # fmt: skip
    assert scene.booked(EntryKind.PAYOUT) == [AMOUNT] * states["APPROVED"]
    assert scene.booked(EntryKind.REVERSAL) == [AMOUNT] * states["REVERSED"]
    assert scene.spent() == (states["APPROVED"] * AMOUNT,) * 2


def test_a_settlement_and_a_refund_are_both_made(paid: tuple[Scene, list[bytes]]) -> None:
    """In either order: what is refunded after the payout is set off in a later one."""
    scene, sales = paid
    for sale in sales:
        assert scene.raced(settlement(scene.counter, sale), refund(scene.counter, sale, 2_000)) == {"": 2}
        row = scene.purchase(sale)
        assert (row.state, row.refunded_minor, bool(row.settled)) == ("APPROVED", 2_000, True)
    assert scene.booked(EntryKind.PAYOUT) == [AMOUNT] * ROUNDS
    assert scene.booked(EntryKind.REFUND) == [2_000] * ROUNDS
    assert scene.spent() == (ROUNDS * 3_000,) * 2


def test_settlements_of_one_sale_pay_once(paid: tuple[Scene, list[bytes]]) -> None:
    scene, sales = paid
    for sale in sales:
        lost = scene.raced(*(settlement(scene.counter, sale) for _ in range(4)))
        assert lost == {"": 1, "ALREADY_SETTLED": 3}
    assert scene.booked(EntryKind.PAYOUT) == [AMOUNT] * ROUNDS
    assert scene.spent() == (ROUNDS * AMOUNT,) * 2


# --- credit ----------------------------------------------------------------------------------------------------------
def test_one_offer_of_further_credit_is_taken_once(place: Arena) -> None:
    """Its owner has broken the SE, which would answer it once: two accounts of the other bank come under one SID."""
    scene, world = Scene.set(place, cards=1, uses=1), place.world
    person = Person(world=world, counter=scene.counter, phone=scene.phone, tid=scene.tid)
    world.init(person.phone, OTHER)
    world.install(person.phone, OTHER)
    assert world.launch(person.phone, OTHER) == ""
    scene.amend(TID_LIST, spent_minor=scene.grant.aid_limit_minor - AMOUNT)
    world.cards(person.phone, person.tid, number=1)
    assert person.offer().state == "OFFERED"
    first = _until(world, person, "Tsm.ProveCredit")
    amend(person.phone.party.store, RECREDITS, state="OFFERED")
    wires = [first, _until(world, person, "Tsm.ProveCredit")]
    assert wires[0] != wires[1]
    results = race([
        lambda number=number, wire=wire: place.engines[TSM][number].handle("Tsm.ProveCredit", wire, None)
        for number, wire in enumerate(wires)
    ])  # fmt: skip
    assert outcomes(results) == {"": 1, "REPLAY": 1}
    held = {row.bank: row for row in scene.rows(TID_LIST)}
    assert {bank: row.state for bank, row in held.items()} == {BANK: "ACTIVE", OTHER: "ACTIVE"}
    live = world.parties[OTHER].store.scan(LIVE_GRANTS)
    assert [row.aid for row in live] == [held[OTHER].aid]
    scene.amend(TID_LIST, spent_minor=0)


def _until(world: World, person: Person, rpc: str) -> Wire:
    """A RECREDIT as far as this question, which is not sent."""
    flow = recredit(
        person.phone.wallet, tsm=TSM, tid=person.tid, bank=OTHER, software=SOFTWARE, passcode=PASSCODE
    )  # fmt: skip
    call = next(flow)
    while call.rpc != rpc:
        call = flow.send(Exchanged(sent=call.wire, reply=world.send(person.phone, call)))
    return call.wire


def test_two_processes_make_one_claim_of_a_period(place: Arena) -> None:
    """Housekeeping and the operator's command at once, over one database; the bank accepts each claim once."""
    world, tsm = place.world, place.world.parties[TSM]
    scenes = [Scene.set(place, cards=1, uses=1) for _ in range(2)]
    senders = [
        ClaimSender(tsm.value, store, tsm.engine._peers, world.clock, world.entropy) for store in place.stores[TSM]
    ]
    for period in range(1, 4):
        world.clock.time_s += PERIOD_S
        race([sender.run_once for sender in senders])
        senders[0].run_once()
        claims = place.stores[TSM][-1].scan(CLAIMS)
        assert {row.state for row in claims} == {"ACCEPTED"}
        made = Tally(row.sid_digest for row in claims)
        assert [made[scene.grant.sid_digest] for scene in scenes] == [period] * 2
    for scene in scenes:
        received = [
            row.sequence for row in world.parties[BANK].store.scan(RECEIVED_CLAIMS)
            if row.sid_digest == scene.grant.sid_digest
        ]  # fmt: skip
        assert received == [1, 2, 3]
