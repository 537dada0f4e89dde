"""The released app's own commands. The phone runs this file only after a good launch (ATT-L6).

    python wallet.pyz --phone DIR status
    python wallet.pyz --phone DIR open-account --bank B --tsm T      (passcode on standard input)
    python wallet.pyz --phone DIR register --tsm T --aid AID [--maximum MINOR]
    python wallet.pyz --phone DIR issue --tsm T --tid TID [--number N]
    python wallet.pyz --phone DIR close --tsm T --tid TID

Each prints one JSON object; a refusal is `{"error": CODE, "detail": …}` and exit status 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any, NoReturn

from parties.wallet.phone import PhoneSession
from protocol.errors import ProtocolError
from protocol.messages.se import SeAccount, SeService, SeState
from protocol.roles.wallet import close_service, issue_cards, open_account, register, status


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
    issue.add_argument("--number", type=int, default=1, choices=range(1, 33), metavar="1..32")
    close = commands.add_parser("close", help="give a service account's grant back")
    close.add_argument("--tsm", required=True)
    close.add_argument("--tid", required=True)
    return top


def run(session: PhoneSession, arguments: argparse.Namespace) -> SeAccount | SeService | SeState:
    """One command. Raises: ProtocolError."""
    wallet, command = session.wallet, arguments.command
    if command == "status":
        return session.run(command, status(wallet))
    if command == "open-account":
        flow = open_account(
            wallet, bank=arguments.bank, tsm=arguments.tsm, software=session.settings.option_text("software"),
            passcode=sys.stdin.readline().rstrip("\n"),
        )  # fmt: skip
        return session.run(command, flow, arguments.bank, arguments.tsm)
    if command == "register":
        registering = register(wallet, tsm=arguments.tsm, aid=arguments.aid, maximum_minor=arguments.maximum)
        return session.run(command, registering, arguments.tsm, arguments.aid, arguments.maximum)
    if command == "issue":
        issuing = issue_cards(wallet, tsm=arguments.tsm, tid=arguments.tid, number=arguments.number)
        return session.run(command, issuing, arguments.tsm, arguments.tid, arguments.number)
    closing = close_service(wallet, tsm=arguments.tsm, tid=arguments.tid)
    return session.run(command, closing, arguments.tsm, arguments.tid)


def main() -> NoReturn:
    """Run one command and exit."""
    arguments = parser().parse_args()
    try:
        with PhoneSession(arguments.phone) as session:
            result: dict[str, Any] = dataclasses.asdict(run(session, arguments))
    except ProtocolError as refusal:
        sys.stdout.write(json.dumps({"error": refusal.code, "detail": str(refusal)}) + "\n")
        sys.exit(1)
    sys.stdout.write(json.dumps(result) + "\n")
    sys.exit(0)
