"""People who go on while servers break: one pays at a real terminal, one opens and closes accounts, one claims."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter as Tally
from dataclasses import dataclass, field
from typing import Any, TypeVar

from support.load import ANSWER_S, until_answered

from parties.claiming import claim
from parties.client import MerchantClient, SaleState
from parties.launcher import Launcher
from parties.wallet.paying import Place, pay
from protocol.engine import NOT_AN_ANSWER
from protocol.errors import ProtocolError, Unavailable
from protocol.messages.till import SaleProgress
from protocol.roles.wallet import close_service

T = TypeVar("T")
MOST_LIVES = 50
"""Less than a bank opens for one person; that it opens no more looks like an overload, and would be asked again."""


@dataclass
class Shopper:
    """Buys at a merchant's server with a phone's SE, both of which may be killed at any moment."""

    town: Any
    phone: str
    shop: str
    tid: str
    told: dict[str, tuple[SaleProgress, int]] = field(default_factory=dict)
    """What the till was told of each sale when it had ended, and its amount."""
    repeats: Tally[str] = field(default_factory=Tally)

    def __post_init__(self) -> None:
        self._reader = self.town.opened(self.shop).settings.option_text("reader").removeprefix("grpc:")
        self._chance = random.Random(self.phone)
        self._till = MerchantClient(self.town.settings(self.shop))

    def buy(self) -> None:
        """One sale, from its start to its end; some are given back afterwards, and now and then a card is renewed."""
        sale, amount_minor = self._till.new_name(), self._chance.randrange(300, 900)
        self._asked(lambda till: till.start_sale(amount_minor, sale=sale))
        while (state := self._asked(lambda till: till.sale(sale))).under_way:
            if state.progress is SaleProgress.EXPECT_TAP:
                self._tap(sale, amount_minor)
            threading.Event().wait(0.05)
        self.told[sale] = state.progress, amount_minor
        choice = self._chance.random()
        if state.progress is SaleProgress.APPROVED and choice < 0.2:
            refund = self._till.new_name()
            self._asked(lambda till: till.refund(sale, amount_minor // 2, refund=refund))
        elif choice > 0.85:
            until_answered(lambda: self.town.issue(self.phone, self.tid), self._note)

    def _asked(self, ask: Any) -> SaleState:
        """The till's answer, by a new connection after each failure."""

        def once() -> SaleState:
            try:
                state: SaleState = ask(self._till)
            except Unavailable:
                self._till.close()
                self._till = MerchantClient(self.town.settings(self.shop))
                raise
            return state

        return until_answered(once, self._note)

    def _tap(self, sale: str, amount_minor: int) -> None:
        """One try: the terminal may be gone, or the phone; who stands at the counter tries again."""
        place = Place(reader=self._reader, seconds=ANSWER_S, stopped=threading.Event())
        try:
            with self.town.session(self.phone) as session:
                pay(session, place, tid=self.tid, ceiling_minor=amount_minor)
        except Unavailable as refusal:
            self._note(refusal)
            return
        until_s = time.monotonic() + ANSWER_S
        while time.monotonic() < until_s:  # for the terminal to have noticed
            if self._asked(lambda till: till.sale(sale)).progress is not SaleProgress.EXPECT_TAP:
                return
            threading.Event().wait(0.05)

    def _note(self, refusal: ProtocolError) -> None:
        self.repeats[refusal.code] += 1

    def close(self) -> None:
        self._till.close()


@dataclass
class Newcomer:
    """Opens an anonymous account, registers it, has a card issued and closes it again, over and over; when that was
    done `most` times, starts the app instead, which the bank has to allow."""

    town: Any
    phone: str
    lives: list[tuple[str, str]] = field(default_factory=list)
    """AID and TID of each account that was opened and closed."""
    repeats: Tally[str] = field(default_factory=Tally)
    most: int = MOST_LIVES

    def live(self) -> None:
        """One account, from AID-1 to its close. Each flow is begun again until it ends, and goes on where it was."""
        if len(self.lives) >= self.most:
            until_answered(lambda: Launcher(self.town.folder / self.phone).launch(bank="bank-a"), self._note)
            return
        town, phone, name = self.town, self.phone, f"life-{len(self.lives)}"
        aid = until_answered(lambda: town.open_account(phone, name=name), self._note)
        tid = until_answered(lambda: town.register(phone, aid), self._note)
        until_answered(lambda: town.issue(phone, tid), self._note)
        until_answered(
            lambda: town.run(phone, f"close-{tid}", lambda s: close_service(s.wallet, tsm="tsm-1", tid=tid)),
            self._note,
        )
        self.lives.append((aid, tid))

    def _note(self, refusal: ProtocolError) -> None:
        self.repeats[refusal.code] += 1


@dataclass
class Operator:
    """Closes the TSM's period by hand and claims, over and over, beside the server."""

    town: Any
    repeats: Tally[str] = field(default_factory=Tally)

    def claim(self) -> None:
        """What the bank does not answer is sent again by the next run, or by the server."""
        try:
            claim(self.town.settings("tsm-1"), early=True)
        except ProtocolError as refusal:
            if refusal.status not in NOT_AN_ANSWER:
                raise
            self.repeats[refusal.code] += 1
