"""`tapveil wallet pay` and its like, and the client: which commands the app gets, and that no launch comes first."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from parties.cli import main
from parties.client import Credit, PhoneClient, Pin, Pool, Renewed, State, Tap
from protocol.errors import Internal, NoCard, PinInvalid, PinWeak, UnknownAccount

APP = """
import json, sys
from pathlib import Path
here = Path(__file__).parent
with (here / "said").open("a") as said:
    said.write(json.dumps([sys.argv[3:], sys.stdin.read()]) + "\\n")
answers = json.loads((here / "answers").read_text())
print(json.dumps(answers.pop(0)))
(here / "answers").write_text(json.dumps(answers))
"""
READER = ["--reader", "127.0.0.1:4000", "--seconds", "30"]
TAPPED = {
    "state": "TAPPED", "ceiling_minor": 50000, "expires_at_s": 1, "amount_minor": 30000, "currency": "TWD",
    "merchant": "TAPVEIL00000001", "terminal": "T0000001", "merchant_name": "Shop 1",
}  # fmt: skip
ASKED = TAPPED | {"state": "EXPECT_PIN"}
CLOSED = {
    "state": "CLOSED", "ceiling_minor": 0, "expires_at_s": 0, "amount_minor": 0, "currency": "", "merchant": "",
    "terminal": "", "merchant_name": "",
}  # fmt: skip
SHOWN = ["--amount", "30000", "--currency", "TWD", "--merchant", "TAPVEIL00000001", "--terminal", "T0000001"]
PAY = [["pay", "--tid", "t-1", "--ceiling", "50000", *READER], "\n"]
CLOSE = [["close-card", "--tid", "t-1"], "\n"]
PIN_STATE = {"state": "ACTIVE", "entries_left": 5}
CREDIT = {
    "aid": "a-1", "bank": "bank-b", "tsm": "tsm-1", "tid": "", "expires_at_s": 9, "limit_minor": 5, "currency": "TWD",
}  # fmt: skip


class Phone:
    """A phone whose app writes down what it was told, and answers as it was told. No server runs: a launch fails."""

    def __init__(self, folder) -> None:
        self.folder = folder
        (folder / "app/tapveil-wallet.pyz").write_text(APP)

    def answers(self, *answers: object) -> None:
        (self.folder / "app/answers").write_text(json.dumps(answers))

    def said(self) -> list[list[object]]:
        path = self.folder / "app/said"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def run(self, *arguments: object, entered: str = ""):
        command = ["wallet", arguments[0], "--phone", self.folder, *arguments[1:]]
        return CliRunner().invoke(main, [str(argument) for argument in command], input=entered)

    def pay(self, *more: object, entered: str = ""):
        return self.run(
            "pay", "--tid", "t-1", "--ceiling", 50000, "--reader", "127.0.0.1:4000", "--json", *more, entered=entered
        )


@pytest.fixture
def phone(env) -> Phone:
    return Phone(env / "phone-1")


def refusal(code: str) -> dict[str, str]:
    return {"error": code, "detail": "told to"}


def test_a_small_purchase_asks_for_nothing(phone):
    phone.answers(TAPPED)
    ran = phone.pay()
    assert (ran.exit_code, json.loads(ran.stdout), ran.stderr) == (0, TAPPED, "")
    assert phone.said() == [PAY]


def test_above_the_limit_the_person_sees_what_is_asked_before_the_pin(phone):
    phone.answers(ASKED, TAPPED)
    ran = phone.pay(entered="7351\n")
    assert (ran.exit_code, json.loads(ran.stdout)) == (0, TAPPED)
    asked, _, prompt = ran.stderr.partition("\n")
    assert asked == "Shop 1 (TAPVEIL00000001, terminal T0000001) asks for 30000 minor units of TWD."
    assert prompt.startswith("PIN: ")
    assert "7351" not in ran.output
    assert phone.said() == [PAY, [["confirm", *READER, *SHOWN], "7351\n"]]


def test_a_wrong_pin_may_be_typed_again(phone):
    phone.answers(ASKED, refusal("PIN_INVALID"), TAPPED)
    ran = phone.pay(entered="2846\n7351\n")
    assert (ran.exit_code, json.loads(ran.stdout)) == (0, TAPPED)
    assert "The PIN is wrong." in ran.stderr
    assert [entry for _, entry in phone.said()] == ["\n", "2846\n", "7351\n"]


def test_what_is_no_pin_is_asked_for_again_and_told_to_nobody(phone):
    phone.answers(ASKED, TAPPED)
    ran = phone.pay(entered="12\n7351\n")
    assert ran.exit_code == 0
    assert [entry for _, entry in phone.said()] == ["\n", "7351\n"]


@pytest.mark.parametrize("code", ["FACTOR_LOCKED", "UNAVAILABLE", "WRONG_STATE", "FIELD_MISMATCH"])
def test_a_refused_confirmation_closes_the_card(phone, code):
    phone.answers(ASKED, refusal(code), CLOSED)
    ran = phone.pay(entered="7351\n")
    assert (ran.exit_code, json.loads(ran.stdout)["error"]) == (1, code)
    assert phone.said()[2:] == [CLOSE]


def test_a_person_who_goes_away_closes_the_card(phone):
    phone.answers(ASKED, refusal("UNAVAILABLE"))
    ran = phone.pay(entered="")
    assert ran.exit_code == 1
    assert "it closes within a minute" in ran.stderr
    assert phone.said() == [PAY, CLOSE]


def test_a_wrong_pin_in_a_file_is_entered_once(phone, tmp_path):
    path = tmp_path / "pin"
    path.write_text("2846\n")
    phone.answers(ASKED, refusal("PIN_INVALID"), CLOSED)
    ran = phone.pay("--pin-file", path)
    assert (ran.exit_code, json.loads(ran.stdout)["error"]) == (1, "PIN_INVALID")
    assert [entry for _, entry in phone.said()] == ["\n", "2846\n", "\n"]


@pytest.mark.parametrize("content", [None, b"", b"12", b"7351\n8265", b"abcd", b"\xff\xfe"])
def test_a_pin_file_that_holds_none_is_named(phone, tmp_path, content):
    path = tmp_path / "pin"
    if content is not None:
        path.write_bytes(content)
    phone.answers(ASKED, CLOSED)
    ran = phone.pay("--pin-file", path)
    assert (ran.exit_code, json.loads(ran.stdout)["error"]) == (1, "SETTINGS_INVALID")
    assert str(path) in ran.stderr
    assert phone.said() == [PAY, CLOSE]


def test_the_app_is_believed_no_more_than_another_program(phone):
    phone.answers({"state": "EXPECT_PIN"})
    ran = phone.pay()
    assert (ran.exit_code, json.loads(ran.stdout)["error"]) == (1, "INTERNAL")


def test_the_first_pin_needs_no_old_one_and_another_does(phone, tmp_path):
    personal = tmp_path / "personal"
    personal.write_text("1990-01-31\n12\n+886 912 345 678\n")
    phone.answers({"pin": "EXPECT_NEW"}, PIN_STATE)
    ran = phone.run("set-pin", "--personal-file", personal, "--json", entered="7351\n7351\n")
    assert (ran.exit_code, json.loads(ran.stdout)) == (0, PIN_STATE)
    phone.answers({"pin": "ACTIVE"}, PIN_STATE)
    ran = phone.run("set-pin", "--json", entered="7351\n8265\n8265\n")
    assert (ran.exit_code, "7351" in ran.output, "8265" in ran.output) == (0, False, False)
    assert phone.said() == [
        [["status"], "\n"], [["set-pin"], "\n7351\n19900131\n886912345678\n"],
        [["status"], "\n"], [["set-pin"], "7351\n8265\n"],
    ]  # fmt: skip


def test_pins_from_files(phone, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("7351")
    new.write_text("8265")
    phone.answers(refusal("PIN_WEAK"))
    ran = phone.run("set-pin", "--old-pin-file", old, "--pin-file", new, "--json")
    assert (ran.exit_code, json.loads(ran.stdout)["error"]) == (1, "PIN_WEAK")
    assert phone.said() == [[["set-pin"], "7351\n8265\n"]]
    numbers = tmp_path / "numbers"
    numbers.write_text("\n".join(["19900131"] * 9))
    ran = phone.run("set-pin", "--old-pin-file", old, "--pin-file", new, "--personal-file", numbers)
    assert (ran.exit_code, "more than 8 numbers" in ran.stderr) == (1, True)


def test_the_other_commands(phone, tmp_path):
    renewed = {"tid": "t-1", "ready": 2, "issued": 6, "recredit": False}
    phone.answers(renewed, CLOSED, {"state": "EXPECT_NEW", "entries_left": 5})
    ran = phone.run("renew", "--tid", "t-1", "--json")
    assert (ran.exit_code, json.loads(ran.stdout)) == (0, renewed)
    assert phone.run("close-card", "--tid", "t-1").exit_code == 0
    word = tmp_path / "word"
    assert phone.run("reopen-pin", "--approval", word).exit_code == 0
    assert [arguments for arguments, _ in phone.said()] == [
        ["renew", "--tsm", "tsm-1", "--tid", "t-1", "--pool", "8"], CLOSE[0],
        ["reopen-pin", "--bank", "bank-a", "--approval", str(word)],
    ]  # fmt: skip


def test_renewal_says_that_the_tsm_asks(phone):
    phone.answers({"tid": "t-1", "ready": 2, "issued": 6, "recredit": True})
    ran = phone.run("renew", "--tid", "t-1")
    assert "asks for further credit for t-1: `tapveil wallet recredit --tid t-1 --bank BANK`" in ran.stderr


def test_further_credit_is_of_a_bank_that_knows_the_phone(phone):
    """Before a launch there, which would be refused for another reason."""
    phone.answers({"banks": ["bank-a"]})
    ran = phone.run("recredit", "--tid", "t-1", "--bank", "bank-b", "--json")
    assert (ran.exit_code, json.loads(ran.stdout)["error"]) == (1, "UNKNOWN_ACCOUNT")
    assert "not registered at bank-b: enroll and install there first" in ran.stderr
    with pytest.raises(UnknownAccount):
        phone.answers({"banks": ["bank-a"]})
        PhoneClient(phone.folder).recredit("t-1", bank="bank-b")
    assert [arguments for arguments, _ in phone.said()] == [["status"], ["status"]]


def test_the_passcode_is_asked_for_only_where_an_account_must_be_opened(phone, tmp_path):
    """Without a server the launch fails after it."""
    held = {"banks": ["bank-b"], "credits": [CREDIT]}
    for owned, asks in (([CREDIT], False), ([CREDIT | {"tid": "t-1"}], True), ([], True)):
        answer = held | {"credits": owned}
        phone.answers(answer, answer)
        ran = phone.run("recredit", "--tid", "t-1", "--bank", "bank-b", "--json", entered="wq-7351-zt\n")
        assert (ran.exit_code, json.loads(ran.stdout.splitlines()[-1])["error"]) == (1, "UNAVAILABLE")
        assert ("asscode" in ran.output) is asks
    file = tmp_path / "passcode"
    file.write_text("wq-7351-zt\n")
    phone.answers(held, held)
    ran = phone.run("recredit", "--tid", "t-1", "--bank", "bank-b", "--passcode-file", file, "--json")
    assert (ran.exit_code, json.loads(ran.stdout)["error"]) == (1, "UNAVAILABLE")


def test_the_client_does_what_the_commands_do(phone, tmp_path):
    client = PhoneClient(phone.folder)
    state = {
        "open": True, "banks": ["bank-a"], "aids": [], "tids": ["t-1"], "cards": [], "pin": "ACTIVE",
        "pools": [{"tid": "t-1", "ready": 2, "expires_at_s": [7, 9]}], "opening": CLOSED, "credits": [CREDIT],
        "recredits": ["t-1"],
    }  # fmt: skip
    phone.answers(
        ASKED, TAPPED, TAPPED, CLOSED, PIN_STATE, {"state": "EXPECT_NEW", "entries_left": 5},
        {"tid": "t-1", "ready": 2, "issued": 6, "recredit": False}, state,
    )  # fmt: skip
    reader = "127.0.0.1:4000"
    asked = client.pay("t-1", ceiling_minor=50000, reader=reader)
    assert asked == Tap(**ASKED)
    assert client.confirm(asked, pin="7351", reader=reader) == Tap(**TAPPED)
    assert client.pay("t-1", ceiling_minor=50000, reader=reader, pin="7351", seconds=5).state == "TAPPED"
    assert client.close_card("t-1").state == "CLOSED"
    assert client.set_pin("8265", old="7351", personal=("19900131",)) == Pin(state="ACTIVE", entries_left=5)
    assert client.reopen_pin(tmp_path / "word").state == "EXPECT_NEW"
    assert client.renew("t-1", pool=4) == Renewed(tid="t-1", ready=2, issued=6, recredit=False)
    held = client.status(paying=True)
    assert (held.pools, held.pin) == ((Pool(tid="t-1", ready=2, expires_at_s=(7, 9)),), "ACTIVE")
    assert held.opening == Tap(**CLOSED)
    assert (held.credits, held.recredits) == ((Credit(**CREDIT),), ("t-1",))
    assert phone.said()[:5] == [
        PAY, [["confirm", *READER, *SHOWN], "7351\n"], [[*PAY[0][:-1], "5"], "7351\n"], CLOSE,
        [["set-pin"], "7351\n8265\n19900131\n"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"pools": None}, {"pools": [1]}, {"pools": [{}]}, {"opening": []}, {"opening": {}}, {"pin": None, "more": 1},
        {"credits": {}}, {"credits": [{}]},
    ],
)  # fmt: skip
def test_a_state_of_another_form_is_internal(change):
    plain = {
        "open": True, "banks": [], "aids": [], "tids": [], "cards": [], "pin": "ACTIVE", "pools": [],
        "opening": CLOSED, "credits": [], "recredits": [],
    }  # fmt: skip
    assert State.of(plain).opening.state == "CLOSED"
    with pytest.raises(Internal):
        State.of(plain | change)


@pytest.mark.parametrize(
    ("code", "refusal_class"), [("NO_CARD", NoCard), ("PIN_INVALID", PinInvalid), ("PIN_WEAK", PinWeak)]
)
def test_a_refusal_is_typed(phone, code, refusal_class):
    phone.answers(refusal(code))
    with pytest.raises(refusal_class) as refused:
        PhoneClient(phone.folder).pay("t-1", ceiling_minor=1, reader="127.0.0.1:4000")
    assert refused.value.code == code


@pytest.mark.parametrize("command", ["pay", "set-pin", "reopen-pin", "renew", "recredit", "close", "close-card"])
def test_help(command):
    ran = CliRunner().invoke(main, ["wallet", command, "--help"])
    assert (ran.exit_code, "Usage:" in ran.stdout) == (0, True)
