"""SETTLE: a TSM that wants more than it may, and a bank that wants to know what was bought (design §3 SETTLE)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
from support.attacker import overwriting, refused, swap
from support.claims import TSM, Desk, forged_claim, next_claim
from support.counter import Counter
from support.world import World

from protocol.envelope import Wire
from protocol.errors import AidAlreadyGranted, ClaimOutOfOrder, EvidenceIncomplete, GrantUnknown, OverClaim
from protocol.messages.claim import Claim
from protocol.ports import Entropy
from protocol.roles.bank.claims import Claiming, SubmitClaimStep
from protocol.roles.bank.grant import ApproveGrantStep
from protocol.roles.bank.tables import BANK_TABLES, GRANTS, RECEIVED_CLAIMS, Grant, owed_minor
from protocol.roles.tsm.claim_tree import Receipt, claim_root, prove_receipt, verify_receipt
from protocol.roles.tsm.claims import due_claims, make_claim
from protocol.roles.tsm.tables import PURCHASES
from protocol.roles.wallet import close_service
from protocol.rows import Decision, Rows

LIMIT = 500_000


@dataclass
class Street:
    """A phone with a grant and cards, a counter, and the TSM's desk."""

    world: World
    aid: str
    tid: str
    counter: Counter
    desk: Desk

    @classmethod
    def open(cls, world: World) -> Street:
        phone = world.ready()
        aid = world.account(phone)
        tid = world.service(phone, aid)
        world.cards(phone, tid, 12)
        return cls(world=world, aid=aid, tid=tid, counter=Counter.open(world), desk=Desk(world))

    def buy(self, amount_minor: int) -> bytes:
        phone = self.world.phones["phone-1"]
        return self.counter.authorize(self.counter.ask(phone, self.tid, amount_minor)).sale

    @property
    def grant(self) -> Grant:
        return self.desk.grant(self.aid)


@pytest.fixture
def street(world: World) -> Street:
    return Street.open(world)


# --- a TSM that wants more -------------------------------------------------------------------------------------------
class AnyAmount(SubmitClaimStep):
    """A bank that does not hold a claim to the grant."""

    def check_amount(self, grant: Grant, message: Claim) -> None:
        return


def test_more_than_was_granted(street: Street) -> None:
    """Attack: the TSM claims more than the bank lent. Powers: tsm-1 with its keys. Closed by: claimed less credited is
    at most the grant. Variant: the bank owes more than it ever granted."""
    world, over = street.world, next_claim(street.grant, claimed_minor=LIMIT + 10_000)
    with refused(world, OverClaim, "OVER_CLAIM"):
        forged_claim(world, over)

    swap(world, "bank-a", AnyAmount)
    forged_claim(world, over)
    assert owed_minor(street.grant) > street.grant.limit_minor


class AnyOrder(SubmitClaimStep):
    """A bank that does not count claims, and keeps the last of each number."""

    def check_order(self, grant: Grant, message: Claim) -> None:
        return

    def decide(self, rows: Rows, facts: Claiming, now_s: int, entropy: Entropy) -> Decision:
        return overwriting(super().decide(rows, facts, now_s, entropy), rows)


def test_a_number_claimed_again_rewrites_what_was_claimed(street: Street) -> None:
    """Attack: the TSM claims a period again under another tree, to be rid of a receipt. Powers: tsm-1 with its keys.
    Closed by: each number is accepted once. Variant: the receipt is no longer in what the bank has signed for."""
    world, desk = street.world, street.desk
    sale = street.buy(12_000)
    desk.claim()
    proof, digest = prove_receipt(desk.store, "shop-1", sale), street.counter.row(sale).receipt_digest

    def root() -> bytes:
        (received,) = world.parties["bank-a"].store.scan(RECEIVED_CLAIMS)
        return received.root

    assert verify_receipt(proof, receipt_digest=digest, root=root()) == digest
    again = next_claim(street.grant, sequence=1, root=bytes(32))
    with refused(world, ClaimOutOfOrder, "CLAIM_OUT_OF_ORDER"):
        forged_claim(world, again)

    swap(world, "bank-a", AnyOrder)
    forged_claim(world, again)
    with pytest.raises(EvidenceIncomplete):
        verify_receipt(proof, receipt_digest=digest, root=root())


def test_a_number_left_out(street: Street) -> None:
    """Attack: a claim never reaches the bank, and the next one hides that. Powers: tsm-1 with its keys. Closed by:
    numbers follow one another. Variant: the receipts of a whole period are under no root that the bank has."""
    world, desk = street.world, street.desk
    sale = street.buy(12_000)
    desk.make(early=True)
    skipped = next_claim(street.grant, sequence=2, claimed_minor=10_000)
    with refused(world, ClaimOutOfOrder, "CLAIM_OUT_OF_ORDER"):
        forged_claim(world, skipped)

    swap(world, "bank-a", AnyOrder)
    forged_claim(world, skipped)
    assert prove_receipt(desk.store, "shop-1", sale).sequence == 1
    assert [row.sequence for row in world.parties["bank-a"].store.scan(RECEIVED_CLAIMS)] == [2]
    assert owed_minor(street.grant) == 10_000


class AnyTsm(SubmitClaimStep):
    """A bank that does not ask whose grant it is."""

    def is_holder(self, grant: Grant, facts: Claiming) -> bool:
        return True


def test_another_tsm_claims(street: Street) -> None:
    """Attack: tsm-2 claims on tsm-1's grant. Powers: tsm-2 with its keys, AID and H(SID) known. Closed by: the signer
    is the grant's holder. Variant: the bank owes for what was lent to tsm-1."""
    world, theirs = street.world, next_claim(street.grant, claimed_minor=10_000)
    with refused(world, GrantUnknown, "GRANT_UNKNOWN"):
        forged_claim(world, theirs, tsm="tsm-2")

    swap(world, "bank-a", AnyTsm)
    forged_claim(world, theirs, tsm="tsm-2")
    assert owed_minor(street.grant) == 10_000


def test_an_account_of_another_bank(street: Street) -> None:
    """Attack: tsm-1 claims from bank-b what bank-a lent. Powers: tsm-1 with its keys. Closed by: AID and H(SID) name a
    grant that this very bank made. No variant: a bank without the grant has nothing to look the claim up by."""
    with refused(street.world, GrantUnknown, "GRANT_UNKNOWN"):
        forged_claim(street.world, next_claim(street.grant, claimed_minor=10_000), bank="bank-b")


class NeverOver(SubmitClaimStep):
    """A bank to which a closed grant is like any other."""

    def check_amount(self, grant: Grant, message: Claim) -> None:
        super().check_amount(replace(grant, closed=False), message)


def test_more_after_the_close(street: Street) -> None:
    """Attack: the TSM claims more after the exact and last claim, when the customer's credit is free again. Powers:
    tsm-1 with its keys. Closed by: after the close only credit notes. Variant: more is owed than the customer holds."""
    world, desk = street.world, street.desk
    street.buy(12_345)
    world.run(world.phones["phone-1"], close_service(world.phones["phone-1"].wallet, tsm=TSM, tid=street.tid))
    desk.claim()
    more = next_claim(street.grant, claimed_minor=LIMIT)
    with refused(world, OverClaim, "OVER_CLAIM"):
        forged_claim(world, more)

    swap(world, "bank-a", NeverOver)
    forged_claim(world, more)
    assert owed_minor(street.grant) == LIMIT


class Forgetful(ApproveGrantStep):
    """A bank that grants a released account again at once."""

    def check_spent(self, rows: Rows, aid: str) -> None:
        return

    def set_aside(self, rows: Rows, account: Any, customer: Any) -> tuple[Any, ...]:
        return ()


def test_an_account_granted_again_before_its_first_grant_was_claimed(street: Street) -> None:
    """Attack: the customer spends, closes, and registers the same AID again before the TSM claims. Powers: the wallet
    key. Closed by: an AID with a grant that is not closed, or was spent from, is not granted (ADR-0012). Variant: the
    credit line is exceeded."""
    world, desk = street.world, street.desk
    phone = world.phones["phone-1"]
    for _ in range(2):
        street.buy(20_000)
    world.run(phone, close_service(phone.wallet, tsm=TSM, tid=street.tid))
    assert world.launch(phone) == ""
    with refused(world, AidAlreadyGranted, "AID_ALREADY_GRANTED", unchanged=("bank-a",)):
        world.service(phone, street.aid)

    swap(world, "bank-a", Forgetful)
    world.service(phone, street.aid)
    desk.claim()
    grants = [row for row in world.parties["bank-a"].store.scan(GRANTS) if row.aid == street.aid]
    at_stake_minor = sum(owed_minor(row) if row.closed else row.limit_minor for row in grants)
    assert at_stake_minor == LIMIT + 40_000


# --- a bank that wants to know ---------------------------------------------------------------------------------------
def lived(tmp: Path, live: Callable[[Street], object], *, tranche_minor: int = 10_000) -> Street:
    """A street whose customer lived through a period, and the claims at its end; both sides keep to this tranche."""
    tmp.mkdir()
    street = Street.open(World(tmp, seed="alike"))
    for name in (TSM, "bank-a"):
        party = street.world.parties[name]
        party.value = replace(party.value, policy=replace(party.value.policy, tranche_minor=tranche_minor))
    swap(street.world, "bank-a", SubmitClaimStep)
    live(street)
    period_s = 24 * 3600
    street.world.clock.time_s = (street.world.clock.time_s // period_s + 1) * period_s + 30
    street.desk.make()
    street.desk.send()
    return street


def seen_by_bank(street: Street) -> dict[str, Any]:
    """All that the bank has of claims but their roots, and what an observer of the wire has."""
    store = street.world.parties["bank-a"].store
    wires = [
        (peer, len(sent.cose), len(answer.cose) if isinstance(answer, Wire) else 0)
        for peer, rpc, sent, answer in street.world.calls if rpc == "Bank.SubmitClaim"
    ]  # fmt: skip
    rows = [replace(row, root=b"", aid="", sid_digest=b"") for row in store.scan(RECEIVED_CLAIMS)]
    grants = [(row.sequence, row.claimed_minor, row.credited_minor, row.closed) for row in store.scan(GRANTS)]
    return {"claims": rows, "grants": grants, "wires": wires}


def values_at_bank(street: Street) -> set[Any]:
    """Every value in every row of the bank."""
    store = street.world.parties["bank-a"].store
    return {
        getattr(row, each.name) for table in BANK_TABLES for row in store.scan(table) for each in fields(table.row)
    }  # fmt: skip


def buying(*amounts_minor: int) -> Callable[[Street], None]:
    def live(street: Street) -> None:
        for amount_minor in amounts_minor:
            street.world.clock.time_s += 997
            street.buy(amount_minor)

    return live


LIVES = {"none": buying(), "one": buying(6_137), "many": buying(*(700 + number for number in range(10)))}


def test_one_purchase_is_not_told_from_none_or_many(tmp_path: Path) -> None:
    """Attack: the bank compares the claims of who bought nothing, once, and ten times. Powers: the bank with its
    database, and the wire. Closed by: claims at common times, whole tranches, padded trees. Variants: exact totals name
    the amount; a claim only when something was bought names the buyers."""
    streets = {name: lived(tmp_path / name, live) for name, live in LIVES.items()}
    views = {name: seen_by_bank(street) for name, street in streets.items()}
    assert views["none"] == views["one"] == views["many"]
    assert len(views["none"]["wires"]) == 1
    for street in streets.values():
        held = values_at_bank(street)
        for row in street.counter.world.parties[TSM].store.scan(PURCHASES):
            named = {row.merchant, row.sale, row.terminal, row.amount_minor, row.decided_at_s, row.receipt_digest}
            assert not held & (named | {street.counter.terminal.merchant_name, row.cryptogram})

    exact = {name: lived(tmp_path / f"{name}-exact", live, tranche_minor=1) for name, live in LIVES.items()}
    assert [street.grant.claimed_minor for street in exact.values()] == [0, 6_137, 7_045]
    assert 6_137 in values_at_bank(exact["one"])


def test_a_claim_is_sent_also_when_nothing_was_bought(tmp_path: Path) -> None:
    """Attack: the bank counts which grants are claimed. Closed by: every grant is, each period. Variant: a TSM that
    claims when there is something to claim tells who bought, and in which period."""
    silent, busy = lived(tmp_path / "silent", LIVES["none"]), lived(tmp_path / "busy", buying(12_000))
    assert len(seen_by_bank(silent)["wires"]) == len(seen_by_bank(busy)["wires"]) == 1

    def when_bought(street: Street) -> int:
        due = due_claims(street.desk.tsm, street.desk.store, street.world.clock.now_s(), early=True)
        return sum(1 for history in due if history.entry.spent_minor)

    assert (when_bought(silent), when_bought(busy)) == (0, 1)


def refunding(amount_minor: int) -> Callable[[Street], None]:
    def live(street: Street) -> None:
        sale = street.buy(16_000)
        street.desk.claim()
        street.world.clock.time_s += 997
        if amount_minor:
            street.counter.refund(sale, amount_minor)

    return live


def test_a_refund_does_not_show(tmp_path: Path) -> None:
    """Attack: the bank looks for a merchant's refund after a claim. Closed by: the credit note is a total in every
    claim, and in whole tranches. Variant: exact totals name the refund to the unit."""
    kept, refunded = lived(tmp_path / "kept", refunding(0)), lived(tmp_path / "refunded", refunding(3_219))
    assert seen_by_bank(kept) == seen_by_bank(refunded)

    exact = lived(tmp_path / "exact", refunding(3_219), tranche_minor=1)
    assert exact.grant.credited_minor == 3_219


class Known:
    """Randomness that the bank can foresee."""

    def bytes(self, n: int, /) -> bytes:
        return bytes(n)


def test_a_guessed_receipt_is_not_confirmed_by_the_tree(street: Street) -> None:
    """Attack: the bank has a receipt of a merchant and asks the root whether this account paid it. Powers: the bank
    with its database and a receipt. Closed by: salts that only the TSM has. Variant: with salts that are known, the
    bank rebuilds the tree of its guess and finds the very root."""
    world, desk = street.world, street.desk
    guess = Receipt(purchase=street.counter.row(street.buy(12_000)))

    def confirmed() -> bool:
        roots = {row.root for row in world.parties["bank-a"].store.scan(RECEIVED_CLAIMS)}
        return claim_root(bytes(32), [guess]) in roots

    desk.claim()
    assert not confirmed()

    guess = Receipt(purchase=street.counter.row(street.buy(5_000)))
    now_s = world.clock.now_s()
    (due,) = due_claims(desk.tsm, desk.store, now_s, early=True)
    assert make_claim(desk.tsm, desk.store, due, now_s, Known()) is not None
    desk.send()
    assert confirmed()
