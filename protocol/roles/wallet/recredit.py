"""RECREDIT as the phone runs it: more credit under the same TID, of an AID of another bank (design §3)."""

from __future__ import annotations

from protocol.errors import FieldMismatch, UnknownAccount, WrongState
from protocol.messages.se import SeService
from protocol.messages.se_state import SeState, SeStatus
from protocol.roles.wallet.flows import open_account, prove_credit
from protocol.roles.wallet.session import Flow, Wallet


def recredit(wallet: Wallet, *, tsm: str, tid: str, bank: str, software: str, passcode: str) -> Flow[SeService]:
    """The TSM asked for further credit: take it of `bank`, where this phone must have passed INIT and a launch.

    An anonymous account that is open there and not granted is taken; else one is opened with `passcode`, which may be
    empty if it is not needed.
    Raises: WrongState if the TSM did not ask, UnknownAccount if the phone is not registered at `bank`, FieldMismatch if
    credit of `bank` is held already.
    """
    held = yield from wallet.command("Status", SeStatus(), SeState)
    if tid not in held.recredits:
        raise WrongState("the TSM asked for no further credit")
    expect_registered(held, bank)
    if any((credit.tid, credit.bank) == (tid, bank) for credit in held.credits):  # before an account is opened in vain
        raise FieldMismatch("credit of that bank is held already: take another bank's")
    aid = free_account(held, tsm=tsm, bank=bank)
    if not aid:
        account = yield from open_account(wallet, bank=bank, tsm=tsm, software=software, passcode=passcode)
        aid = account.aid
    return (yield from prove_credit(wallet, tsm=tsm, tid=tid, aid=aid, offer=b"", maximum_minor=0))


def expect_registered(held: SeState, bank: str) -> None:
    """INIT was passed at `bank`. Raises: UnknownAccount."""
    if bank not in held.banks:
        raise UnknownAccount(f"this phone is not registered at {bank}: enroll and launch there first")


def free_account(held: SeState, *, tsm: str, bank: str) -> str:
    """The AID at `bank` for `tsm` that is granted to no TID and lasts longest, or empty."""
    free = [credit for credit in held.credits if (credit.bank, credit.tsm, credit.tid) == (bank, tsm, "")]
    return max(free, key=lambda credit: credit.expires_at_s).aid if free else ""
