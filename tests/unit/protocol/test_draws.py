"""A purchase on one grant or two: never over a grant, and what is given back restores each exactly."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from protocol.roles.tsm.draws import Draw, draw, give_back_from, left_minor, live
from protocol.roles.tsm.tables import Purchase, SecondDraw, TidEntry

NOW_S = 1_000
AMOUNTS = st.integers(min_value=0, max_value=1_000)
PURCHASE = Purchase(
    merchant="m", sale=b"s", terminal="t", pan_ref=b"", atc_ref=b"", opening_ref=b"", tid="t-1", sid_digest=b"",
    amount_minor=0, currency="TWD", refunded_minor=0, cryptogram=b"", decided_at_s=0, reason="", state="APPROVED",
    request=b"", receipt_digest=b"", settled=b"", claim=0,
)  # fmt: skip


def grant(name: int, limit_minor: int, spent_minor: int = 0, *, ends_at_s: int = 0, state: str = "ACTIVE") -> TidEntry:
    return TidEntry(
        sid_digest=bytes([name]), sid=b"", tid="t-1", aid=f"a-{name}", bank=f"bank-{name}", pk_tid=b"", com=b"",
        aid_exp_time_s=ends_at_s or NOW_S + 10 + name, aid_limit_minor=limit_minor, currency="TWD", k_bank=b"",
        promise=b"", cert_tid=b"", asked_at_s=0, state=state, spent_minor=spent_minor, bank_stop="", claims="OPEN",
        proof=b"",
    )  # fmt: skip


def taken(draws: tuple[Draw, ...]) -> list[tuple[str, int]]:
    return [(part.grant.bank, part.amount_minor) for part in draws]


def test_one_grant_that_has_enough_is_drawn_on_alone() -> None:
    assert taken(draw((grant(1, 100, 60), grant(2, 100)), 40)) == [("bank-1", 40)]
    assert taken(draw((grant(1, 100, 60), grant(2, 100)), 41)) == [("bank-2", 41)]


def test_two_are_drawn_on_where_neither_is_enough() -> None:
    assert taken(draw((grant(1, 100, 60), grant(2, 100, 50)), 51)) == [("bank-1", 40), ("bank-2", 11)]
    assert taken(draw((grant(1, 9, 9), grant(2, 10), grant(3, 10)), 20)) == [("bank-2", 10), ("bank-3", 10)]


def test_three_are_not() -> None:
    assert draw((grant(1, 10), grant(2, 10), grant(3, 10)), 21) == ()
    assert draw((), 1) == ()


def test_only_what_is_active_and_in_date_can_be_drawn_on_the_first_to_end_first() -> None:
    late, soon = grant(1, 9, ends_at_s=NOW_S + 9), grant(2, 9, ends_at_s=NOW_S + 1)
    over = grant(3, 9, ends_at_s=NOW_S)
    others = [grant(4, 9, state=state) for state in ("EXPECT_BANK_APPROVAL", "EXPECT_RELEASE", "RELEASED", "REFUSED")]
    assert live((late, over, *others, soon), NOW_S) == (soon, late)


@given(
    limits=st.lists(st.tuples(AMOUNTS, AMOUNTS), max_size=4),
    steps=st.lists(st.tuples(st.booleans(), AMOUNTS, AMOUNTS), max_size=30),
)
def test_no_grant_is_overdrawn_and_giving_back_restores_each_exactly(
    limits: list[tuple[int, int]], steps: list[tuple[bool, int, int]]
) -> None:
    """Any purchases and refunds in any order and parts; then all the rest is given back."""
    grants = {
        bytes([name]): grant(name, limit_minor, min(spent_minor, limit_minor))
        for name, (limit_minor, spent_minor) in enumerate(limits)
    }
    before = dict(grants)
    made: list[tuple[Purchase, SecondDraw | None]] = []
    for buys, amount_minor, which in steps:
        if buys:
            draws = draw(live(grants.values(), NOW_S), amount_minor)
            together = sorted(map(left_minor, grants.values()))[-2:]
            assert bool(draws) == (bool(grants) and amount_minor <= sum(together))
            if draws:
                assert sum(part.amount_minor for part in draws) == amount_minor
                made.append(book(draws, amount_minor))
                grants |= {part.grant.sid_digest: part.taken() for part in draws}
        elif made:
            refund(grants, made, which % len(made), amount_minor)
        assert all(0 <= row.spent_minor <= row.aid_limit_minor for row in grants.values())
    for position in reversed(range(len(made))):
        refund(grants, made, position, made[position][0].amount_minor)
    assert grants == before


def book(draws: tuple[Draw, ...], amount_minor: int) -> tuple[Purchase, SecondDraw | None]:
    first, *more = draws
    second = next(
        (
            SecondDraw(
                merchant="m", sale=b"s", sid_digest=part.grant.sid_digest, amount_minor=part.amount_minor, claim=0
            )
            for part in more
        ),
        None,
    )
    return replace(PURCHASE, sid_digest=first.grant.sid_digest, amount_minor=amount_minor), second


def refund(
    grants: dict[bytes, TidEntry], made: list[tuple[Purchase, SecondDraw | None]], position: int, amount_minor: int
) -> None:
    """At most what is left of the purchase, as the TSM holds it to."""
    purchase, second = made[position]
    amount_minor = min(amount_minor, purchase.amount_minor - purchase.refunded_minor)
    parts = give_back_from(purchase, second, amount_minor)
    assert sum(part_minor for _, part_minor in parts) == amount_minor
    for sid_digest, part_minor in parts:
        row = grants[sid_digest]
        grants[sid_digest] = replace(row, spent_minor=row.spent_minor - part_minor)
    made[position] = (replace(purchase, refunded_minor=purchase.refunded_minor + amount_minor), second)


def test_a_refund_goes_to_the_second_grant_first() -> None:
    purchase = replace(PURCHASE, sid_digest=b"first", amount_minor=100)
    second = SecondDraw(merchant="m", sale=b"s", sid_digest=b"second", amount_minor=30, claim=0)
    assert give_back_from(purchase, second, 20) == ((b"second", 20),)
    later = replace(purchase, refunded_minor=20)
    assert give_back_from(later, second, 50) == ((b"first", 40), (b"second", 10))
    assert give_back_from(replace(purchase, refunded_minor=30), second, 70) == ((b"first", 70),)
    assert give_back_from(purchase, None, 100) == ((b"first", 100),)
