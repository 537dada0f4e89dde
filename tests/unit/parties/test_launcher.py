"""The launcher believes the app no more than any other program: whatever it prints, the answer is typed."""

from __future__ import annotations

import pytest

from parties.client import Account, _typed
from parties.launcher import Launcher, refusal_for
from protocol.errors import Internal, PaymentClosed, ProtocolError, StorageFault

APP = """
import sys
sys.stdout.buffer.write({output!r})
sys.exit({status})
"""


@pytest.fixture
def phone(env):
    return Launcher(env / "phone-1")


def app(phone: Launcher, output: bytes, status: int = 0) -> None:
    (phone.folder / "app/tapveil-wallet.pyz").write_text(APP.format(output=output, status=status))


def test_an_answer_and_a_refusal(phone):
    app(phone, b'{"open": true}\n')
    assert phone.run_app(["status"]) == {"open": True}
    app(phone, b'{"error": "PAYMENT_CLOSED", "detail": "refused by the peer: PAYMENT_CLOSED"}', 1)
    with pytest.raises(PaymentClosed, match=r"^refused by the peer: PAYMENT_CLOSED$"):
        phone.run_app(["status"])


@pytest.mark.parametrize(
    "output",
    [
        b"",
        b"no json",
        b"[1]",
        b'"text"',
        b"\xff\xfe",
        b'{"error": "NO_SUCH_CODE"}',
        b'{"error": {"a": 1}, "detail": 3}',
    ],
)
def test_whatever_else_it_prints_is_an_internal_error(phone, output):
    app(phone, output, 3)
    with pytest.raises(Internal) as refused:
        phone.run_app(["status"])
    assert type(refused.value) is Internal


def test_no_app_is_no_answer(phone):
    with pytest.raises(Internal, match="ended with status 2"):
        phone.run_app(["status"])


def test_the_app_gets_arguments_and_passcode_and_nothing_of_our_environment(phone, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    echo = (
        "import sys, json; print(json.dumps({'a': sys.argv[3:], 'p': sys.stdin.readline(), 's': sys.flags.isolated}))"
    )
    (phone.folder / "app/tapveil-wallet.pyz").write_text(echo)
    assert phone.run_app(["x", "y"], passcode="wq-7351") == {"a": ["x", "y"], "p": "wq-7351\n", "s": 1}


def test_an_unknown_reason_is_internal():
    assert type(refusal_for("PAYMENT_CLOSED", "")) is PaymentClosed
    assert type(refusal_for("SOMETHING", "")) is Internal
    assert isinstance(refusal_for("", "x"), ProtocolError)


def test_an_answer_of_another_form_is_internal():
    assert _typed(Account, {"aid": "a", "expires_at_s": 1, "limit_minor": 2, "currency": "TWD"}).aid == "a"
    for plain in ({"aid": "a"}, {"aid": "a", "expires_at_s": 1, "limit_minor": 2, "currency": "TWD", "more": 1}):
        with pytest.raises(Internal):
            _typed(Account, plain)


def test_a_place_that_can_not_be_written_is_a_storage_fault(tmp_path):
    from parties.launcher import _place

    with pytest.raises(StorageFault, match="can't be"):
        _place(tmp_path / "none/app.pyz", b"x")
