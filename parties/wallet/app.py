"""The released app's own commands. The phone runs this file only after a good launch (ATT-L6).

    python wallet.pyz --phone DIR status
    python wallet.pyz --phone DIR open-account --bank B --tsm T      (passcode on standard input)
    python wallet.pyz --phone DIR register --tsm T --aid AID [--maximum MINOR]
    python wallet.pyz --phone DIR issue --tsm T --tid TID [--number N]
    python wallet.pyz --phone DIR renew --tsm T --tid TID [--pool N]
    python wallet.pyz --phone DIR recredit --tsm T --tid TID --bank B
                                                                     (passcode, or an empty line, on standard input)
    python wallet.pyz --phone DIR close --tsm T --tid TID [--aid AID]
    python wallet.pyz --phone DIR pay --tid TID --ceiling MINOR --reader HOST:PORT [--seconds N]
                                                                     (PIN, or an empty line, on standard input)
    python wallet.pyz --phone DIR confirm --reader HOST:PORT --amount MINOR --currency CCC --merchant ID --terminal ID
                                                                     (PIN on standard input)
    python wallet.pyz --phone DIR close-card --tid TID
    python wallet.pyz --phone DIR set-pin                            (old, new, personal digits …: lines of input)
    python wallet.pyz --phone DIR reopen-pin --bank B --approval FILE

Each prints one JSON object; a refusal is `{"error": CODE, "detail": …}` and exit status 1. `pay` ends with TAPPED, or
with EXPECT_PIN and what is asked; then comes `confirm`, or `close-card`.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn, TypeAlias

from parties.wallet import paying
from parties.wallet.paying import MAX_SECONDS, Place
from parties.wallet.phone import PhoneSession
from protocol.errors import Malformed, ProtocolError, SettingsInvalid
from protocol.messages.se import Opening, OpeningState, SeAccount, SePin, SeService
from protocol.messages.se_state import SeState
from protocol.roles.wallet import (
    Renewed,
    close_card,
    close_service,
    issue_cards,
    open_account,
    recredit,
    register,
    renew_cards,
    reopen_pin,
    set_pin,
    status,
)
from protocol.types import MAX_CARDS

Answer: TypeAlias = SeAccount | SeService | SeState | SePin | Opening | Renewed
MAX_LINE: Final = 256
MAX_PERSONAL: Final = 8
MAX_APPROVAL_BYTES: Final = 4096


def parser() -> argparse.ArgumentParser:
    """The app's command line."""
    top = argparse.ArgumentParser(prog="wallet", description="Anonymous payment wallet.")
    top.add_argument("--phone", type=Path, required=True, help="the wallet's folder, with settings.toml")
    commands = top.add_subparsers(dest="command", required=True)
    commands.add_parser("status", help="what the secure element holds")
    account = commands.add_parser("open-account", help="AID: an anonymous account; the passcode is read from stdin")
    account.add_argument("--bank", required=True)
    account.add_argument("--tsm", required=True)
    service = commands.add_parser("register", help="TID: a service account paid from an anonymous account")
    service.add_argument("--tsm", required=True)
    service.add_argument("--aid", required=True)
    service.add_argument("--maximum", type=int, default=0, help="own maximum per purchase, minor units; 0: none")
    issue = commands.add_parser("issue", help="CARD: virtual cards")
    issue.add_argument("--tsm", required=True)
    issue.add_argument("--tid", required=True)
    issue.add_argument("--number", type=int, default=1, choices=range(1, MAX_CARDS + 1), metavar="1..32")
    renew = commands.add_parser("renew", help="RENEW: fill the ready cards up, and replace what soon expires")
    renew.add_argument("--tsm", required=True)
    renew.add_argument("--tid", required=True)
    renew.add_argument("--pool", type=int, default=8, choices=range(1, MAX_CARDS + 1), metavar="1..32")
    more = commands.add_parser("recredit", help="RECREDIT: credit of another bank; a passcode is read from stdin")
    for name in ("--tsm", "--tid", "--bank"):
        more.add_argument(name, required=True)
    close = commands.add_parser("close", help="give a service account's credit back")
    close.add_argument("--tsm", required=True)
    close.add_argument("--tid", required=True)
    close.add_argument("--aid", default="", help="that of this anonymous account only")
    _add_paying(commands)
    return top


def _add_paying(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    pay = commands.add_parser("pay", help="PAY: open a card and hold the phone to a reader; a PIN is read from stdin")
    pay.add_argument("--tid", required=True)
    pay.add_argument("--ceiling", type=int, required=True, help="the most that may be asked, minor units")
    confirm = commands.add_parser("confirm", help="PAY: the PIN, from stdin, for what is shown; then hold on again")
    confirm.add_argument("--amount", type=int, required=True, help="minor units")
    for shown in ("--currency", "--merchant", "--terminal"):
        confirm.add_argument(shown, required=True)
    for command in (pay, confirm):
        command.add_argument("--reader", required=True, metavar="HOST:PORT")
        command.add_argument(
            "--seconds", type=int, default=30, choices=range(1, MAX_SECONDS + 1), metavar=f"1..{MAX_SECONDS}",
            help="how long to hold on",
        )  # fmt: skip
    close = commands.add_parser("close-card", help="PAY: take the consent back")
    close.add_argument("--tid", required=True)
    commands.add_parser("set-pin", help="the PIN; lines from stdin: the old (or empty), the new, personal digits …")
    reopen = commands.add_parser("reopen-pin", help="after five wrong entries: the bank's word, from a file")
    reopen.add_argument("--bank", required=True)
    reopen.add_argument("--approval", type=Path, required=True)


def _line() -> str:
    """One line of standard input. Raises: Malformed."""
    line = sys.stdin.readline(MAX_LINE + 1)
    if len(line) > MAX_LINE:
        raise Malformed("a line on standard input is too long")
    return line.rstrip("\n")


def _open_account(session: PhoneSession, arguments: argparse.Namespace) -> SeAccount:
    flow = open_account(
        session.wallet, bank=arguments.bank, tsm=arguments.tsm, software=session.settings.option_text("software"),
        passcode=_line(),
    )  # fmt: skip
    return session.run("open-account", flow, arguments.bank, arguments.tsm)


def _register(session: PhoneSession, arguments: argparse.Namespace) -> SeService:
    flow = register(session.wallet, tsm=arguments.tsm, aid=arguments.aid, maximum_minor=arguments.maximum)
    return session.run("register", flow, arguments.tsm, arguments.aid, arguments.maximum)


def _issue(session: PhoneSession, arguments: argparse.Namespace) -> SeService:
    flow = issue_cards(session.wallet, tsm=arguments.tsm, tid=arguments.tid, number=arguments.number)
    return session.run("issue", flow, arguments.tsm, arguments.tid, arguments.number)


def _renew(session: PhoneSession, arguments: argparse.Namespace) -> Renewed:
    flow = renew_cards(session.wallet, tsm=arguments.tsm, tid=arguments.tid, pool=arguments.pool)
    return session.run("renew", flow, arguments.tsm, arguments.tid, arguments.pool)


def _close(session: PhoneSession, arguments: argparse.Namespace) -> SeService:
    flow = close_service(session.wallet, tsm=arguments.tsm, tid=arguments.tid, aid=arguments.aid)
    return session.run("close", flow, arguments.tsm, arguments.tid, arguments.aid)


def _recredit(session: PhoneSession, arguments: argparse.Namespace) -> SeService:
    flow = recredit(
        session.wallet, tsm=arguments.tsm, tid=arguments.tid, bank=arguments.bank,
        software=session.settings.option_text("software"), passcode=_line(),
    )  # fmt: skip
    return session.run("recredit", flow, arguments.tsm, arguments.tid, arguments.bank)


def _pay(session: PhoneSession, arguments: argparse.Namespace) -> Opening:
    with paying.until_signaled() as stopped:
        place = Place(reader=arguments.reader, seconds=arguments.seconds, stopped=stopped)
        return paying.pay(session, place, tid=arguments.tid, ceiling_minor=arguments.ceiling, pin=_line())


def _confirm(session: PhoneSession, arguments: argparse.Namespace) -> Opening:
    shown = Opening(
        state=OpeningState.EXPECT_PIN, ceiling_minor=0, expires_at_s=0, amount_minor=arguments.amount,
        currency=arguments.currency, merchant=arguments.merchant, terminal=arguments.terminal, merchant_name="",
    )  # fmt: skip
    with paying.until_signaled() as stopped:
        place = Place(reader=arguments.reader, seconds=arguments.seconds, stopped=stopped)
        return paying.confirm(session, place, shown=shown, pin=_line())


def _set_pin(session: PhoneSession, _arguments: argparse.Namespace) -> SePin:
    old, new = _line(), _line()
    personal: list[str] = []
    while (line := _line()) and len(personal) <= MAX_PERSONAL:  # one too many is sent, for the SE to refuse
        personal.append(line)
    return session.once(set_pin(session.wallet, old=old, new=new, personal=tuple(personal)))


def _reopen_pin(session: PhoneSession, arguments: argparse.Namespace) -> SePin:
    try:
        with arguments.approval.open("rb") as file:
            approval = file.read(MAX_APPROVAL_BYTES + 1)
    except OSError as exc:
        raise SettingsInvalid(f"the bank's word {arguments.approval} can't be read: {exc.strerror}") from exc
    flow = reopen_pin(session.wallet, bank=arguments.bank, approval=approval)
    return session.run("reopen-pin", flow, arguments.bank, hashlib.sha256(approval).hexdigest())


COMMANDS: Final[dict[str, Callable[[PhoneSession, argparse.Namespace], Answer]]] = {
    "status": lambda session, _arguments: session.once(status(session.wallet)),
    "open-account": _open_account,
    "register": _register,
    "issue": _issue,
    "renew": _renew,
    "recredit": _recredit,
    "close": _close,
    "pay": _pay,
    "confirm": _confirm,
    "close-card": lambda session, arguments: session.once(close_card(session.wallet, tid=arguments.tid)),
    "set-pin": _set_pin,
    "reopen-pin": _reopen_pin,
}


def main() -> NoReturn:
    """Run one command and exit."""
    arguments = parser().parse_args()
    try:
        with PhoneSession(arguments.phone) as session:
            result: dict[str, Any] = dataclasses.asdict(COMMANDS[arguments.command](session, arguments))
    except ProtocolError as refusal:
        sys.stdout.write(json.dumps({"error": refusal.code, "detail": str(refusal)}) + "\n")
        sys.exit(1)
    sys.stdout.write(json.dumps(result) + "\n")
    sys.exit(0)
