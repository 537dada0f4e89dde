"""The Python client: what the commands do, as calls with typed results.

Every refusal is a `protocol.errors.ProtocolError` with its `code`. `Unavailable` means that a party could not be
reached or its answer was lost: the same call again goes on where it was, and has its effect once.

With an environment made by `tapveil init` in `folder` whose parties run (`serving(folder)`):

>>> from parties.client import BankClerk, PhoneClient
>>> clerk = BankClerk(folder / "bank-a" / "settings.toml")
>>> person = clerk.add_customer(name="Lin Wei", limit_minor=20_000_000, passcode="wq-7351-zt")
>>> phone = PhoneClient(folder / "phone-1")
>>> phone.enroll(person.branch_code) == person.customer
True
>>> phone.install().software
'tapveil-wallet'
>>> account = phone.open_account(passcode="wq-7351-zt")
>>> account.limit_minor, account.currency
(500000, 'TWD')
>>> service = phone.register(account.aid)
>>> phone.issue_cards(service.tid, number=2).state
'ACTIVE'
>>> phone.renew(service.tid, pool=3).issued, len(phone.status().cards)
(1, 3)
>>> phone.close(service.tid).state
'CLOSED'
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from parties import branch
from parties.branch import OpenedCustomer
from parties.deployment import Deployment
from parties.launcher import Launcher, refusal_for
from parties.merchant.client import MerchantClient, SaleState
from parties.setup import Plan, create_environment
from protocol.errors import Internal

__all__ = [
    "Account",
    "BankClerk",
    "Credit",
    "Installed",
    "MerchantClient",
    "PhoneClient",
    "Pin",
    "Pool",
    "Renewed",
    "SaleState",
    "Service",
    "State",
    "Tap",
    "init",
    "serving",
]

R = TypeVar("R")
BANK: Final = "bank-a"
TSM: Final = "tsm-1"
PROVIDER: Final = "sp-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """The release on the phone; `sha256` in hexadecimal."""

    software: str
    version: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An anonymous account at a bank: pseudonym, Unix time of its expiry, credit in minor units, ISO 4217 code."""

    aid: str
    expires_at_s: int
    limit_minor: int
    currency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service account at a TSM, with the credit that a bank promised last; does the TSM ask for further credit?"""

    tid: str
    state: str
    expires_at_s: int
    limit_minor: int
    currency: str
    recredit: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Tap:
    """An opening and what a terminal asked of it: CLOSED, OPEN, EXPECT_PIN, VERIFIED or TAPPED; amounts in minor units.

    Texts are empty and numbers 0 where nothing was said.
    """

    state: str
    ceiling_minor: int
    expires_at_s: int
    amount_minor: int
    currency: str
    merchant: str
    terminal: str
    merchant_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """EXPECT_NEW, ACTIVE or LOCKED, and how many wrong entries are left."""

    state: str
    entries_left: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A service account's cards that are ready, and the Unix time at which the first of them expires (0: none)."""

    tid: str
    ready: int
    expires_at_s: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewed:
    """How many cards RENEW found ready, how many it had issued, and whether the TSM asks for further credit."""

    tid: str
    ready: int
    issued: int
    recredit: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """An anonymous account and the service account it is granted to, or empty. What was spent only the TSM knows."""

    aid: str
    bank: str
    tsm: str
    tid: str
    expires_at_s: int
    limit_minor: int
    currency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What the secure element holds: whether it is open for payment, and names; cards by their masked numbers.

    `recredits` are the service accounts for which the TSM asks for further credit.
    """

    open: bool
    banks: tuple[str, ...]
    aids: tuple[str, ...]
    tids: tuple[str, ...]
    cards: tuple[str, ...]
    pools: tuple[Pool, ...]
    credits: tuple[Credit, ...]
    recredits: tuple[str, ...]
    pin: str
    opening: Tap

    @classmethod
    def of(cls, plain: dict[str, Any]) -> State:
        """From what the app printed. Raises: Internal if it is not of that form."""
        opening = plain.get("opening")
        if not isinstance(opening, dict):
            raise Internal("the app's answer has another form")
        lists = {"pools": _typed_list(Pool, plain.get("pools")), "credits": _typed_list(Credit, plain.get("credits"))}
        return _typed(cls, plain | lists | {"opening": _typed(Tap, opening)})


def init(folder: Path, plan: Plan | None = None, progress: Callable[[str], None] = lambda _party: None) -> None:
    """`tapveil init`: keys, CA, release, databases and settings in a new folder. Raises: SettingsInvalid."""
    create_environment(folder, plan or Plan(), progress)


@contextmanager
def serving(folder: Path, *parties: str) -> Iterator[Deployment]:
    """`tapveil serve` for these parties of an environment (all, if none is named); drained at the end.

    Raises: Unavailable with the last line of the log of a server that did not start.
    """
    with Deployment(folder) as deployment:
        deployment.start(*parties)
        yield deployment


class BankClerk:
    """A clerk at a bank's own machine; works beside the running server."""

    def __init__(self, settings: Path) -> None:
        """`settings` is the bank's settings.toml."""
        self._settings = settings

    def add_customer(self, *, name: str, limit_minor: int, passcode: str, currency: str = "TWD") -> OpenedCustomer:
        """INIT-2: a credit account, and the one-time code for the person's phone.

        Raises: SettingsInvalid for a bad value, StorageFault, KeystoreLocked.
        """
        return branch.add_customer(
            self._settings, name=name, limit_minor=limit_minor, currency=currency, passcode=passcode
        )

    def reopen(self, customer: str) -> None:
        """TW-G3b: let a person in again who was locked out. Raises: WrongState if they are not locked."""
        branch.reopen(self._settings, customer)

    def reopen_pin(self, customer: str) -> bytes:
        """TW-G3b: the bank's signed word for the phone of a person whose PIN is locked.

        Raises: UnknownAccount, WrongState for a customer without a phone.
        """
        return branch.reopen_pin(self._settings, customer)


class PhoneClient:
    """A person's phone. Calls that use the app first pass a launch attestation, as on the command line.

    Those around a purchase do not, so that the bank does not learn when its customer pays: `renew`, `pay`, `confirm`,
    `close_card`, `set_pin`, `reopen_pin`, and `status` with `paying`.
    """

    def __init__(self, folder: Path, *, bank: str = BANK, tsm: str = TSM, provider: str = PROVIDER) -> None:
        """`folder` holds `wallet/` and `app/`; the names are the parties that this phone deals with."""
        self._launcher = Launcher(folder)
        self._bank, self._tsm, self._provider = bank, tsm, provider

    def enroll(self, branch_code: str) -> str:
        """INIT: register the phone at the bank; the bank's name for the person."""
        return self._launcher.enroll(bank=self._bank, branch_code=branch_code)

    def install(self) -> Installed:
        """ATT-D: download, check, approval by the bank, installation, report."""
        software = self._launcher.install(bank=self._bank, provider=self._provider).software
        return Installed(software=software.software_id, version=software.version, sha256=software.digest.hex())

    def launch(self) -> int:
        """ATT-L: the number of launch passes that a good launch brought. Raises: the typed reason of a bad one."""
        decision = self._launcher.launch(bank=self._bank)
        if not decision.allowed:
            raise refusal_for(decision.reason, "the app may not run")
        return decision.passes

    def open_account(self, *, passcode: str) -> Account:
        """AID: an anonymous account at the bank for use at the TSM. Raises: FactorsInsufficient, FactorLocked, …"""
        return self._app(Account, "open-account", "--bank", self._bank, "--tsm", self._tsm, passcode=passcode)

    def register(self, aid: str, *, maximum_minor: int = 0) -> Service:
        """TID: a service account with the credit of `aid`; a maximum of one's own per purchase, 0 for none."""
        return self._app(Service, "register", "--tsm", self._tsm, "--aid", aid, "--maximum", str(maximum_minor))

    def issue_cards(self, tid: str, *, number: int = 1) -> Service:
        """CARD: 1 … 32 virtual cards."""
        return self._app(Service, "issue", "--tsm", self._tsm, "--tid", tid, "--number", str(number))

    def recredit(self, tid: str, *, bank: str, passcode: str = "") -> Service:
        """RECREDIT: further credit for `tid`, of `bank`, after a launch there.

        An anonymous account that is open there is taken; else one is opened with `passcode`.
        Raises: UnknownAccount if the phone is not registered there, WrongState if the TSM did not ask, FieldMismatch
        for a bank whose credit is held already.
        """
        self._launcher.expect_registered(bank)
        arguments = ["recredit", "--tsm", self._tsm, "--tid", tid, "--bank", bank]
        return _typed(Service, self._launcher.start(arguments, bank=bank, passcode=passcode))

    def close(self, tid: str, *, aid: str = "") -> Service:
        """End a service account: its cards end, and each bank frees its anonymous account. Or of `aid` only."""
        return self._app(Service, "close", "--tsm", self._tsm, "--tid", tid, "--aid", aid)

    def status(self, *, paying: bool = False) -> State:
        """What the secure element holds. While `paying`, no launch attestation comes first."""
        if paying:
            return State.of(self._launcher.run_app(["status"]))
        return State.of(self._launcher.start(["status"], bank=self._bank))

    def renew(self, tid: str, *, pool: int = 8) -> Renewed:
        """RENEW: fill the ready cards up to `pool`, 1 … 32. Run it daily, not when paying."""
        return self._quietly(Renewed, "renew", "--tsm", self._tsm, "--tid", tid, "--pool", str(pool))

    def pay(self, tid: str, *, ceiling_minor: int, reader: str, pin: str = "", seconds: int = 30) -> Tap:
        """PAY: open a card for at most `ceiling_minor`, and hold the phone to `reader`, HOST:PORT of this machine.

        `seconds` is how long at a time, 1 … 50. The result is TAPPED, or EXPECT_PIN above the verification limit: look
        at what is asked, then `confirm` or `close_card`. A `pin` given here is entered for whatever within the ceiling
        is asked.
        Raises: Unavailable if no terminal tapped; NoCard, PaymentClosed, PinInvalid, …; the card is closed then.
        """
        arguments = ["pay", "--tid", tid, "--ceiling", str(ceiling_minor), *_place(reader, seconds)]
        return self._quietly(Tap, *arguments, entry=pin)

    def confirm(self, asked: Tap, *, pin: str, reader: str, seconds: int = 30) -> Tap:
        """TW-S3: the PIN for exactly what was asked, and the second tap. Raises: PinInvalid, FactorLocked, …"""
        return self._quietly(
            Tap, "confirm", *_place(reader, seconds), "--amount", str(asked.amount_minor), "--currency",
            asked.currency, "--merchant", asked.merchant, "--terminal", asked.terminal, entry=pin,
        )  # fmt: skip

    def close_card(self, tid: str) -> Tap:
        """Take the consent back."""
        return self._quietly(Tap, "close-card", "--tid", tid)

    def set_pin(self, new: str, *, old: str = "", personal: tuple[str, ...] = ()) -> Pin:
        """TW-G3a: the first PIN, or another. It must not resemble the digits in `personal`. Raises: PinWeak, …"""
        return self._quietly(Pin, "set-pin", entry="\n".join((old, new, *personal)))

    def reopen_pin(self, approval: Path) -> Pin:
        """TW-G3b: take the bank's word (`BankClerk.reopen_pin`) from a file; set a new PIN next."""
        return self._quietly(Pin, "reopen-pin", "--bank", self._bank, "--approval", str(approval.absolute()))

    def _app(self, kind: type[R], *arguments: str, passcode: str = "") -> R:
        return _typed(kind, self._launcher.start(list(arguments), bank=self._bank, passcode=passcode))

    def _quietly(self, kind: type[R], *arguments: str, entry: str = "") -> R:
        """The app without a launch, which the bank would see."""
        return _typed(kind, self._launcher.run_app(list(arguments), passcode=entry))


def _place(reader: str, seconds: int) -> list[str]:
    return ["--reader", reader, "--seconds", str(seconds)]


def _typed_list(kind: type[R], plain: object) -> list[R]:
    if not isinstance(plain, list) or any(type(each) is not dict for each in plain):
        raise Internal("the app's answer has another form")
    return [_typed(kind, each) for each in plain]


def _typed(kind: type[R], plain: dict[str, Any]) -> R:
    """The app's answer as a value. Raises: Internal if it is not of that form."""
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()}
    try:
        return kind(**values)
    except TypeError as exc:
        raise Internal("the app's answer has another form") from exc
