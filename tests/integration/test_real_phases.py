"""The five phases between real processes: by command, by Python client, and by eight phones at once."""

from __future__ import annotations

import doctest
import threading
from pathlib import Path

import pytest

from parties import client
from parties.checker.phases import lent_minor
from parties.claiming import claim
from protocol.roles.bank.tables import ANONYMOUS_ACCOUNTS, CUSTOMERS, GRANTS, LIVE_GRANTS, PHONES
from protocol.roles.tsm.tables import CARDS, SERVICES, TERMINALS, TID_LIST

pytestmark = pytest.mark.real


def test_five_phases_by_command(town, cli, tmp_path):
    town.running("phone-1/se")
    passcode = tmp_path / "passcode"
    passcode.write_text("wq-7351-zt\n")
    phone = ("--phone", town.folder / "phone-1", "--json")
    added = cli(
        "bank", "add-customer", "--settings", town.settings("bank-a"), "--name", "Ada Wongsakul",
        "--limit", "100000000", "--passcode-file", passcode, "--json",
    )  # fmt: skip
    assert added.status == 0, added.err
    enrolled = cli("wallet", "enroll", *phone, "--branch-code", added.json["branch_code"])
    assert (enrolled.status, enrolled.json) == (0, {"user": added.json["customer"]})
    installed = cli("wallet", "install", *phone)
    assert installed.json["software"] == "tapveil-wallet"
    account = cli("wallet", "open-account", *phone, "--passcode-file", passcode).json
    service = cli("wallet", "register", *phone, "--aid", account["aid"], "--maximum", "50000").json
    issued = cli("wallet", "issue", *phone, "--tid", service["tid"], "--number", "3")
    assert (issued.status, issued.err) == (0, "")
    state = cli("wallet", "status", *phone).json
    assert (state["open"], state["aids"], state["tids"]) == (True, [account["aid"]], [service["tid"]])
    assert len(state["cards"]) == 3
    town.ready_phones["phone-1"] = added

    (row,) = [row for row in town.rows("bank-a", ANONYMOUS_ACCOUNTS) if row.aid == account["aid"]]
    assert (row.customer, row.state, row.tsm, row.limit_minor) == (
        added.json["customer"], "ACTIVE", "tsm-1", account["limit_minor"]
    )  # fmt: skip
    (customer,) = [row for row in town.rows("bank-a", CUSTOMERS) if row.customer == added.json["customer"]]
    assert (customer.state, customer.granted_minor) == ("ENROLLED", account["limit_minor"])
    assert [p.state for p in town.rows("bank-a", PHONES) if p.user == customer.customer] == ["INSTALLED"]
    assert [grant.tsm for grant in town.rows("bank-a", LIVE_GRANTS) if grant.aid == account["aid"]] == ["tsm-1"]
    (entry,) = [entry for entry in town.rows("tsm-1", TID_LIST) if entry.aid == account["aid"]]
    assert (entry.tid, entry.bank, entry.state) == (service["tid"], "bank-a", "ACTIVE")
    assert [s.maximum_minor for s in town.rows("tsm-1", SERVICES) if s.tid == service["tid"]] == [50000]
    cards = [card for card in town.rows("tsm-1", CARDS) if card.tid == service["tid"]]
    assert {card.state for card in cards} == {"ACTIVE"}
    assert sorted(card.pan[:6] + "*" * 9 + card.pan[-4:] for card in cards) == state["cards"]

    closed = cli("wallet", "close", *phone, "--tid", service["tid"])
    assert closed.json["state"] == "CLOSED"
    assert not [grant for grant in town.rows("bank-a", LIVE_GRANTS) if grant.aid == account["aid"]]
    assert {c.state for c in town.rows("tsm-1", CARDS) if c.tid == service["tid"]} == {"CLOSED"}


def test_the_python_client_does_what_its_example_says(town):
    town.running("phone-2/se")
    example = doctest.DocTestFinder().find(client, "client", globs={"folder": Path(town.folder)})
    runner = doctest.DocTestRunner()
    for test in example:
        for shown in test.examples:
            shown.source = shown.source.replace("phone-1", "phone-2")
        runner.run(test)
    assert (runner.summarize(verbose=False).failed, runner.tries) == (0, 12)
    phone = client.PhoneClient(town.folder / "phone-2")
    (aid,) = phone.status().aids
    assert phone.launch() == 1
    claim(town.folder / "tsm-1" / "settings.toml", early=True)
    again = phone.register(aid, maximum_minor=1)  # closed, and nothing claimed: it can be granted again
    assert (again.state, phone.status().tids) == ("ACTIVE", (again.tid,))
    (held,) = [row for row in town.rows("bank-a", ANONYMOUS_ACCOUNTS) if row.aid == aid]
    town.ready_phones["phone-2"] = held.customer


def test_a_command_without_json_is_a_few_plain_lines(town, cli):
    town.launched("phone-1")
    plain = cli("wallet", "status", "--phone", town.folder / "phone-1")
    assert plain.status == 0
    assert plain.out.splitlines()[0] == "open: True"


def test_a_refusal_is_one_line_and_one_object(town, cli):
    town.launched("phone-1")
    phone = ("--phone", town.folder / "phone-1", "--json")
    refused = cli("wallet", "register", *phone, "--aid", "a-00000000000000000000000000000000")
    assert refused.status == 1
    assert refused.json["error"] == "UNKNOWN_ACCOUNT"
    assert refused.err.splitlines() == ["tapveil: UNKNOWN_ACCOUNT: refused by the peer: UNKNOWN_ACCOUNT."]


def test_eight_phones_at_once_lose_nothing(town):
    phones = [f"phone-{n}" for n in range(1, 9)]
    town.running(*(f"{phone}/se" for phone in phones))
    before = town.rows("bank-a", ANONYMOUS_ACCOUNTS)
    made: dict[str, list[str]] = {}
    errors: list[BaseException] = []

    def use(phone: str) -> None:
        try:
            town.launched(phone)
            made[phone] = [town.open_account(phone, name=f"concurrent-{n}") for n in range(2)]
        except BaseException as error:  # noqa: BLE001  # shown below
            errors.append(error)

    threads = [threading.Thread(target=use, args=(phone,)) for phone in phones]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    new = {row.aid: row for row in town.rows("bank-a", ANONYMOUS_ACCOUNTS) if row not in before}
    assert sorted(new) == sorted(aid for aids in made.values() for aid in aids)
    assert len(new) == 16
    assert {row.state for row in new.values()} == {"ACTIVE"}
    customers = {row.customer: row for row in town.rows("bank-a", CUSTOMERS)}
    for customer in {row.customer for row in new.values()}:
        accounts = [row for row in town.rows("bank-a", ANONYMOUS_ACCOUNTS) if row.customer == customer]
        lent = sum(lent_minor(row, town.rows("bank-a", GRANTS)) for row in accounts)
        assert customers[customer].granted_minor == lent


def test_a_merchant_signs_on_and_again_after_a_restart(town):
    town.running("shop-1")
    first = _terminal(town)
    assert (first.terminal, first.merchant_name, first.state) == ("T0000001", "Shop 1", "ACTIVE")
    assert town.stop("shop-1") == 0
    town.running("shop-1")
    second = _terminal(town, other_than=first.terminal_key)
    assert second.terminal_key != first.terminal_key
    assert len(town.rows("tsm-1", TERMINALS)) == 1


def _terminal(town, *, other_than=b""):
    for _ in range(100):
        for row in town.rows("tsm-1", TERMINALS):
            if row.terminal_key != other_than:
                return row
        threading.Event().wait(0.05)
    raise AssertionError("the terminal did not sign on")
