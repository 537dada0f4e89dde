"""A bank's clerk: customers, their codes and passcodes; what is wrong is refused before anything is stored."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from parties.assembly.common import KeystoreSecrets, Opened, hash_passcode
from parties.branch import add_customer, check_passcode, reopen, reopen_pin
from parties.cli import main
from parties.settings import load_settings
from protocol import envelope
from protocol.errors import SettingsInvalid, StorageFault, UnknownAccount, WrongAudience, WrongState
from protocol.messages.enroll import PinReopening
from protocol.roles.bank.tables import CUSTOMERS
from protocol.rows import Decision, Key, Unit, Update

GOOD = {"name": "Lin Wei", "limit_minor": 1_000_000, "currency": "TWD", "passcode": "wq-7351"}


def customers(bank):
    opened = Opened.of(load_settings(bank))
    store = opened.store()
    try:
        return store.scan(CUSTOMERS)
    finally:
        store.close()


@pytest.fixture
def bank(env):
    return env / "bank-a/settings.toml"


def test_a_customer_is_stored_sealed_with_a_code_that_works_once(bank, env):
    first, second = add_customer(bank, **GOOD), add_customer(bank, **GOOD)
    assert first.customer != second.customer
    assert first.branch_code != second.branch_code
    rows = {row.customer: row for row in customers(bank)}
    row = rows[first.customer]
    assert (row.state, row.name, row.limit_minor, row.currency) == ("EXPECT_PHONE", "Lin Wei", 1_000_000, "TWD")
    secrets = KeystoreSecrets(Opened.of(load_settings(bank)).keystore)
    assert row.branch_ref == secrets.blind("branch-code", first.branch_code.encode())
    assert secrets.passcode_matches(row.passcode_hash, b"wq-7351")
    assert not secrets.passcode_matches(row.passcode_hash, b"wq-7352")
    for path in (env / "bank-a").glob("data.db*"):
        for secret in (b"Lin Wei", b"wq-7351", first.branch_code.encode(), b"argon2"):
            assert secret not in path.read_bytes()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"name": ""}, "--name"),
        ({"name": "x" * 201}, "--name"),
        ({"limit_minor": 0}, "--limit"),
        ({"limit_minor": 10**12 + 1}, "--limit"),
        ({"currency": "twd"}, "--currency"),
        ({"currency": "TWDX"}, "--currency"),
        ({"passcode": "123"}, "4 to 64"),
    ],
)
def test_a_bad_value_is_named_and_nothing_is_stored(bank, change, text):
    with pytest.raises(SettingsInvalid, match=text):
        add_customer(bank, **(GOOD | change))
    assert customers(bank) == ()


@pytest.mark.parametrize(
    "passcode", ["1234", "4321", "aaaa", "abcdef", "zyxw", "12 34", "ab\n1", "x" * 65, "ééééé", ""]
)
def test_weak_passcodes_are_refused(passcode):
    with pytest.raises(SettingsInvalid):
        check_passcode(passcode)


@pytest.mark.parametrize("passcode", ["1235", "1357", "aab!", "x" * 63 + "y"])
def test_good_passcodes_are_taken(passcode):
    check_passcode(passcode)


def test_another_partys_settings_are_refused(env):
    with pytest.raises(SettingsInvalid, match="not bank"):
        add_customer(env / "tsm-1/settings.toml", **GOOD)


def test_without_a_database_nothing_is_opened(bank):
    (bank.parent / "data.db").unlink()
    with pytest.raises(StorageFault, match="db upgrade"):
        add_customer(bank, **GOOD)


def put_state(bank, customer: str, state: str, **changes: int) -> None:
    """As if the person had come so far."""
    store = Opened.of(load_settings(bank)).store()

    def decide(rows) -> Decision:
        return Decision(writes=(Update(CUSTOMERS, replace(rows.get(CUSTOMERS, customer), state=state, **changes)),))

    store.apply(Unit((Key(CUSTOMERS, (customer,)),), decide))
    store.close()


def test_only_a_locked_customer_is_reopened(bank):
    customer = add_customer(bank, **GOOD).customer
    for name in (customer, "u-nobody"):
        with pytest.raises(WrongState):
            reopen(bank, name)
    put_state(bank, customer, "LOCKED", wrong_entries=5)
    reopen(bank, customer)
    (row,) = customers(bank)
    assert (row.state, row.wrong_entries) == ("ENROLLED", 0)


def test_a_damaged_hash_matches_nothing(bank):
    secrets = KeystoreSecrets(Opened.of(load_settings(bank)).keystore)
    assert not secrets.passcode_matches(b"damaged", b"wq-7351")
    assert secrets.passcode_matches(hash_passcode("wq-7351"), b"wq-7351")


def test_the_command_asks_for_the_passcode_twice_and_never_shows_it(bank):
    command = ["bank", "add-customer", "--settings", str(bank), "--name", "Lin Wei", "--json"]
    ran = CliRunner().invoke(main, command, input="wq-7351\nwq-7351\n")
    assert ran.exit_code == 0
    assert "wq-7351" not in ran.output


@pytest.mark.parametrize(("content", "text"), [(None, "can't be read"), (b"\xff\xfe", "is not a text")])
def test_a_passcode_file_that_is_none_is_named(bank, tmp_path, content, text):
    path = tmp_path / "passcode"
    if content is not None:
        path.write_bytes(content)
    command = ["bank", "add-customer", "--settings", str(bank), "--name", "Lin Wei", "--passcode-file", str(path)]
    ran = CliRunner().invoke(main, command)
    assert ran.exit_code == 1
    assert text in ran.stderr
    assert ran.stderr.startswith("tapveil: SETTINGS_INVALID: ")


def test_reopening_by_command_is_refused_in_one_line(bank):
    ran = CliRunner().invoke(main, ["bank", "reopen", "--settings", str(bank), "u-nobody", "--json"])
    assert ran.exit_code == 1
    assert '"error": "WRONG_STATE"' in ran.stdout


@pytest.mark.parametrize("state", ["ENROLLED", "LOCKED"])
def test_the_banks_word_is_for_one_customers_phone(bank, state):
    customer, other = (add_customer(bank, **GOOD).customer for _ in range(2))
    put_state(bank, customer, state)
    opened = Opened.of(load_settings(bank))
    word, now_s = reopen_pin(bank, customer), opened.clock.now_s()
    facts = {"issuer": "bank-a", "now_s": now_s}
    key = opened.keys.sign.public
    read = envelope.open_signed(PinReopening, word, key, audience=customer, **facts)
    assert read.message == PinReopening(user=customer)
    assert now_s - 5 <= read.claims.issued_at_s <= now_s
    assert read.claims.expires_at_s == read.claims.issued_at_s + 3600
    with pytest.raises(WrongAudience):
        envelope.open_signed(PinReopening, word, key, audience=other, **facts)
    assert reopen_pin(bank, customer) != word  # each word reopens once
    assert {row.customer: row.state for row in customers(bank)}[customer] == state


def test_no_word_for_who_has_no_phone_here(bank):
    customer = add_customer(bank, **GOOD).customer
    for name, refusal in ((customer, WrongState), ("u-nobody", UnknownAccount), ("", UnknownAccount)):
        with pytest.raises(refusal) as refused:
            reopen_pin(bank, name)
        assert refused.value.code == refusal.code


def test_the_word_by_command(bank, tmp_path):
    customer = add_customer(bank, **GOOD).customer
    put_state(bank, customer, "ENROLLED")
    out = tmp_path / "word.cose"
    command = ["bank", "reopen-pin", "--settings", str(bank), "--json", "--out"]
    ran = CliRunner().invoke(main, [*command, str(out), customer])
    assert (ran.exit_code, json.loads(ran.stdout)) == (0, {"customer": customer, "approval": str(out)})
    assert envelope.peek(PinReopening, out.read_bytes()).claims.audience == customer
    for target, name, code in (
        (tmp_path / "none/word", customer, "SETTINGS_INVALID"), (tmp_path / "word-2", "u-nobody", "UNKNOWN_ACCOUNT"),
    ):  # fmt: skip
        ran = CliRunner().invoke(main, [*command, str(target), name])
        assert (ran.exit_code, json.loads(ran.stdout)["error"]) == (1, code)
        assert not target.exists()
