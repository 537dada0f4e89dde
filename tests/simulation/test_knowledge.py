"""What each party knows after a full run with many people: everything that it holds, opened as far as it can open it.

Nobody holds what its role must not; and whatever is planted among what a party holds is found, in whichever form.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from support.crowd import NAMES, SHOPS, Crowd

from parties.checker.allow_list import LIST, allow_list
from parties.checker.held import Estate
from parties.checker.knowledge import Known
from protocol.crypto import sha256
from protocol.roles.bank.tables import ANONYMOUS_ACCOUNTS, CUSTOMERS, GRANTS, PHONES, RECEIVED_CLAIMS, STOPS
from protocol.roles.merchant import SALES, SETTLEMENTS
from protocol.roles.tsm.tables import CARDS, PAYOUTS, PURCHASES, SECOND_DRAWS, TERMINALS, TID_LIST, TRACES
from protocol.rows import Table

PEOPLE = len(NAMES)


@dataclass
class Run:
    """The crowd's life, and what everybody knows after it."""

    crowd: Crowd
    known: Known

    def estate(self, name: str) -> Estate:
        return next(estate for estate in self.known.estates if estate.name == name)

    def rows(self, name: str, table: Table[Any]) -> tuple[Any, ...]:
        return self.estate(name).rows[table.name]

    def planted(self, name: str, table: Table[Any], number: int = 0, **columns: Any) -> Estate:
        """The party with other values in one row."""
        estate = self.estate(name)
        rows = list(estate.rows[table.name])
        rows[number] = replace(rows[number], **columns)
        return replace(estate, rows={**estate.rows, table.name: tuple(rows)})

    def told(self, *changed: Estate) -> list[str]:
        """What is found of these parties, and of all merchants together."""
        held = dict(self.known.held)
        found = []
        for estate in changed:
            held[estate.name] = self.known.reader.all_of(estate)
            found += self.known.check(estate, held[estate.name])
        return [*found, *self.known.check_links(held)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    crowd = Crowd(tmp_path_factory.mktemp("crowd"), seed="crowd")
    crowd.live()
    known = Known.of(crowd.estates(), crowd.directory.identities, allowed=allow_list(), exact=True)
    return Run(crowd=crowd, known=known)


def test_the_run_is_a_full_one(run: Run) -> None:
    """Else that nothing was found would say nothing."""
    bought = Counter(row.state for row in run.rows("tsm-1", PURCHASES))
    assert bought == {"APPROVED": PEOPLE * SHOPS + 1 - SHOPS, "REVERSED": SHOPS, "DECLINED": 1}
    assert {row.tid for row in run.rows("tsm-1", PURCHASES)} == {tid for _, tid in run.crowd.holders}
    assert len(run.rows("tsm-1", PAYOUTS)) == SHOPS + 1
    assert sum(len(run.rows(bank, RECEIVED_CLAIMS)) for bank in ("bank-a", "bank-b")) > PEOPLE
    assert Counter(row.bank for row in run.rows("tsm-1", TID_LIST)) == {"bank-a": 6, "bank-b": 7}
    assert [row.state for row in run.rows("tsm-1", TRACES) if row.answer] == ["ANSWERED"]
    assert len(run.rows("bank-b", STOPS)) == 1
    assert not run.rows("tsm-1", SECOND_DRAWS)
    opened = {one.place for name in ("bank-a", "tsm-1", "shop-1") for one in run.known.held[name]}
    assert {
        "field enroll.branch_code", "field bank-info.com", "field tsm-info.r", "field claim.claimed_minor",
        "field trace-request.r", "field card.pan", "field emv-purchase.signature", "field decided.pan",
        "field stop.kind", "field settled-sale.amount_minor", "column sales.card",
    } <= opened  # fmt: skip
    assert len(run.known.sought) > 1_000


def test_nobody_holds_what_their_role_must_not(run: Run) -> None:
    assert [one for party in run.known.estates for one in run.known.check(party, run.known.held[party.name])] == []


def test_no_merchant_and_not_all_together_can_tell_two_cards_of_one_person(run: Run) -> None:
    assert list(run.known.check_links(run.known.held)) == []


# --- what is planted: a value of one party's in a place of another's -------------------------------------------------
def raw(value: Any) -> Any:
    return value


def hexed(value: Any) -> str:
    return (value.encode() if isinstance(value, str) else value).hex().upper()


def digested(value: str) -> bytes:
    return b"v1" + sha256(value.encode())


def in_base64(value: Any) -> str:
    """In the middle of a longer text."""
    return base64.b64encode(b"about " + (value.encode() if isinstance(value, str) else value) + b" and more").decode()


Source = tuple[str, Table[Any], str]
Place = tuple[str, Table[Any], str]
PERSON = ("bank-a", CUSTOMERS, "name")
CUSTOMER = ("bank-b", CUSTOMERS, "customer")
AID = ("bank-a", ANONYMOUS_ACCOUNTS, "aid")
TID = ("tsm-1", TID_LIST, "tid")
PAN = ("tsm-1", CARDS, "pan")
SALE = ("tsm-1", PURCHASES, "sale")
FROM_TSM: Place = ("tsm-1", TERMINALS, "merchant_name")
FROM_SHOP: Place = ("shop-2", SALES, "display")
FROM_BANK: Place = ("bank-b", PHONES, "software")


@pytest.mark.parametrize(
    ("source", "place", "held", "form"),
    [
        (PERSON, FROM_TSM, "person", raw), (PERSON, FROM_TSM, "person", hexed),
        (PERSON, FROM_TSM, "person", in_base64), (PERSON, FROM_TSM, "person", digested),
        (PERSON, FROM_SHOP, "person", raw), (CUSTOMER, ("tsm-1", PURCHASES, "reason"), "person", raw),
        (("bank-a", PHONES, "secure_element"), FROM_TSM, "phone", digested), (AID, FROM_SHOP, "account", raw),
        (TID, FROM_SHOP, "pseudonym", hexed), (PAN, FROM_BANK, "card", in_base64),
        (TID, ("bank-a", GRANTS, "tsm"), "pseudonym", digested),
    ],
)  # fmt: skip
def test_a_planted_value_is_found_in_any_form(
    run: Run, source: Source, place: Place, held: str, form: Callable[[Any], Any]
) -> None:
    value = getattr(run.rows(source[0], source[1])[0], source[2])
    found = run.told(run.planted(place[0], place[1], **{place[2]: form(value)}))
    assert [one for one in found if one.endswith(f": {held}") and f" column {place[1].name}.{place[2]} " in one]
    assert str(value) not in "".join(found)


@pytest.mark.parametrize("column", ["kid_u", "attestation_key", "wallet_key"])
def test_what_fingerprints_a_phone_is_found_at_the_tsm(run: Run, column: str) -> None:
    key = getattr(run.rows("bank-a", PHONES)[0], column)
    found = run.told(run.planted("tsm-1", TERMINALS, terminal_key=key))
    assert [one for one in found if one.startswith("tsm-1 holds in column terminals.terminal_key")]


@pytest.mark.parametrize(
    ("source", "held"),
    [
        (SALE, "purchase"), (("tsm-1", PURCHASES, "cryptogram"), "purchase"),
        (("tsm-1", TERMINALS, "merchant"), "merchant"), (("shop-1", SETTLEMENTS, "batch"), "purchase"),
        (("tsm-1", CARDS, "modulus_digest"), "card"),
    ],
)  # fmt: skip
def test_what_a_purchase_leaves_is_found_at_a_bank(run: Run, source: Source, held: str) -> None:
    value = getattr(run.rows(source[0], source[1])[0], source[2])
    found = run.told(run.planted("bank-a", PHONES, software=value))
    assert [one for one in found if one.startswith("bank-a holds in column phones.software") and one.endswith(held)]


@pytest.mark.parametrize(
    ("column", "what"), [("amount_minor", "the amount of a purchase"), ("decided_at_s", "the moment of a purchase")]
)
def test_amount_and_moment_of_a_purchase_are_found_at_a_bank(run: Run, column: str, what: str) -> None:
    number = getattr(run.rows("tsm-1", PURCHASES)[0], column)
    found = run.told(run.planted("bank-a", CUSTOMERS, wrong_entries=number))
    assert found == [f"bank-a holds in column customers.wrong_entries {what}"]


def test_another_persons_purchase_is_not_covered_by_the_one_in_dispute(run: Run) -> None:
    """The bank holds a traced purchase by exception; that is no room for others."""
    traced = {row.sale for row in run.rows("tsm-1", TRACES)}
    other = next(row for row in run.rows("tsm-1", PURCHASES) if row.sale not in traced)
    (found,) = run.told(run.planted("bank-a", PHONES, software=other.tid))
    assert found.startswith("bank-a holds in column phones.software what is elsewhere ")
    assert found.endswith(", which a bank must not: pseudonym")


# --- what is planted: in a log, in a message ------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("party", "line", "finding"),
    [
        ("tsm-1", '{"event": "served", "customer_name": "x"}',
         f"tsm-1 holds log customer_name, which is on no allow-list: decide about it in {LIST}"),
        ("tsm-1", '{"event": "paid by somebody"}',
         f"tsm-1 holds log event, which is on no allow-list: decide about it in {LIST}"),
        ("shop-1", "Traceback (most recent call last):",
         f"shop-1 holds log line, which is on no allow-list: decide about it in {LIST}"),
        ("tsm-1", '{"event": "served", "code": "Ada Wongsakul"}',
         "tsm-1 holds in log code what is elsewhere column customers.name, which a tsm must not: person"),
    ],
)  # fmt: skip
def test_a_planted_log_line_is_found(run: Run, party: str, line: str, finding: str) -> None:
    assert run.told(replace(run.estate(party), log=f'{{"event": "ready", "party_role": "tsm"}}\n{line}\n')) == [finding]


def test_a_pseudonym_in_the_providers_log_is_found(run: Run) -> None:
    tid = run.crowd.holders[3][1]
    (found,) = run.told(replace(run.estate("sp-1"), log=f'{{"event": "served", "kind": "{tid}"}}\n'))
    assert found.startswith("sp-1 holds in log kind what is elsewhere ")
    assert found.endswith(", which a sp must not: pseudonym")


def test_a_message_of_others_is_found(run: Run) -> None:
    """A TSM that could listen to what phones sign for their bank."""
    heard = next(one for one in run.estate("bank-a").exchanges if one.rpc == "Bank.Enroll")
    tsm = run.estate("tsm-1")
    found = run.told(replace(tsm, exchanges=(*tsm.exchanges, heard)))
    assert "tsm-1 holds field enroll.branch_code, which a tsm must not: person" in found
    assert [one for one in found if " what is elsewhere " in one and one.endswith(": phone")]


# --- what is planted: a link -----------------------------------------------------------------------------------------
def sales_of(run: Run, holder: int) -> list[tuple[str, int]]:
    """Shop, and the number of the row there, of what one person bought."""
    tid = run.crowd.holders[holder][1]
    names = {
        (row.merchant, row.sale) for row in run.rows("tsm-1", PURCHASES) if row.tid == tid and row.state == "APPROVED"
    }
    shops = [f"shop-{number + 1}" for number in range(SHOPS)]
    return [(s, n) for s in shops for n, row in enumerate(run.rows(s, SALES)) if (s, row.sale) in names]


@pytest.mark.parametrize("column", ["cryptogram", "asked", "card"])
def test_a_value_that_two_merchants_share_is_found(run: Run, column: str) -> None:
    mark: Any = "4000 mark" if column == "card" else b"the same mark"
    (one, first), (other, second), *_ = sales_of(run, 5)
    assert one != other
    found = run.told(
        *(run.planted(shop, SALES, row, **{column: mark}) for shop, row in ((one, first), (other, second)))
    )
    assert found == [f"all merchants together can tell two cards of one person by column sales.{column}"]


def test_a_value_that_one_merchant_meets_again_is_found(run: Run) -> None:
    """The person who came twice to the first shop."""
    (shop, first), (again, second) = [at for at in sales_of(run, 0) if at[0] == "shop-1"]
    assert shop == again
    planted = run.planted(shop, SALES, first, cryptogram=b"the same mark")
    rows = list(planted.rows[SALES.name])
    rows[second] = replace(rows[second], cryptogram=b"the same mark")
    found = run.told(replace(planted, rows={**planted.rows, SALES.name: tuple(rows)}))
    assert found == [
        f"{who} can tell two cards of one person by column sales.cryptogram" for who in (shop, "all merchants together")
    ]


def test_what_cards_of_different_persons_share_is_no_link(run: Run) -> None:
    """A mark on two cards, but of two persons."""
    (one, first), (other, second) = sales_of(run, 5)[0], sales_of(run, 7)[1]
    assert one != other
    mark = {"cryptogram": b"the same mark"}
    assert run.told(run.planted(one, SALES, first, **mark), run.planted(other, SALES, second, **mark)) == []
