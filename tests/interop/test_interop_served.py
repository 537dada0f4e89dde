"""`tapveil serve se --vpcd`: the SE's own process in a virtual reader, from the cardholder's opening to the TSM's word.

Everything is the product's: keys, databases, process, gRPC. Only the other parties are not processes of their own here.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest
from interop import programs
from interop.daemon import READER, Pcscd, wait_until
from interop.programs import PcscPipe
from interop.reading import Trace, recompute, verify_cryptogram, verify_records
from interop.reading import select as select_name

from parties.bench.town import PHONE, SHOP, TSM, Town, open_town, register_phone
from parties.emv_files import read_ca_keys
from parties.storage.store import DatabaseStore
from parties.wallet.phone import PhoneSession
from protocol import envelope
from protocol.card import outcome, profile
from protocol.card.apdu import Ins
from protocol.card.cvr import Cvr, IssuerData
from protocol.card.directory import PPSE, PSE
from protocol.card.kernel import perform_tap, run_exchange
from protocol.card.outcome import Kind, OnlineRequest, Outcome
from protocol.card.terminal import Sale, Terminal
from protocol.card.trace import decode_trace
from protocol.crypto import PrivateKey
from protocol.engine import Peer
from protocol.envelope import Signer, Stamp, Wire
from protocol.messages.card import EmvRecord
from protocol.messages.merchant import SignOn
from protocol.messages.pay import Authorization, AuthorizationDecision, EmvPurchase, Verdict
from protocol.messages.se import Opening, OpeningState
from protocol.roles.se.opening import SLOT
from protocol.roles.se.tables import FIELD, VIRTUAL_CARDS, FieldRow, VirtualCard
from protocol.roles.tsm.purchase import Reason
from protocol.roles.tsm.tables import PURCHASES
from protocol.roles.wallet import Flow, Wallet, close_card, open_card, set_pin, status, verify_pin
from protocol.rows import Key
from protocol.types import Role

pytestmark = [pytest.mark.interop, pytest.mark.filterwarnings("ignore:.*TripleDES.*")]

T = TypeVar("T")
PIN = "7351"
SMALL_MINOR = 12_345
LARGE_MINOR = 30_000
"""Over the TSM's limit of 20,000 for a purchase without verification on the phone."""
START_S = 30.0
APPROVED = (Verdict.APPROVED, "")
ONLINE_TVR = bytes.fromhex("0000008000")
"""95: over the floor limit of 0, and nothing else."""
NOT_FOUND, NOT_SATISFIED, SEE_PHONE = b"\x6a\x82", b"\x69\x85", b"\x69\x86"


@dataclass
class Element:
    """The phone's SE as an operator starts it, its card in the virtual reader at `address`."""

    settings: Path
    address: str
    process: subprocess.Popen[str] | None = None
    options: tuple[str, ...] = ()

    @property
    def log(self) -> Path:
        return self.settings.with_name("log.jsonl")

    def run(self, *options: str) -> None:
        """Have it run with these further options."""
        if self.process is not None and self.options != options:
            assert self.stop() == 0
        if self.process is None:
            self._start(options)

    def _start(self, options: tuple[str, ...]) -> None:
        command = [sys.executable, "-m", "parties", "serve", "se", "--settings", str(self.settings)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--vpcd", self.address, *options], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=log, text=True,
            )  # fmt: skip
        self.options = options
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], START_S)[0], "did not start"
        assert json.loads(self.process.stdout.readline())["ready"] == PHONE

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        assert self._end(signal.SIGKILL) == -signal.SIGKILL

    def close(self) -> None:
        """No process is left, whatever the test came to."""
        if self.process is not None:
            self.kill()

    def freeze(self) -> None:
        """What it is sent from here on stays unread."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def _end(self, number: signal.Signals) -> int:
        assert self.process is not None
        process, self.process = self.process, None
        process.send_signal(number)
        with process:  # closes its output, and waits
            return process.wait(10)


@dataclass
class Desk:
    """A counter of the shop: reader, signed-on terminal, and the customer's phone with its one account."""

    town: Town
    tid: str
    pcscd: Pcscd
    element: Element
    terminal: Terminal
    key: PrivateKey
    trace: Trace = field(default_factory=list)

    # --- the phone ---------------------------------------------------------------------------------------------------
    def has_card(self) -> bool:
        return programs.is_present(self.pcscd, READER)

    def insert(self, *options: str) -> None:
        """The SE runs, and its card is in the reader."""
        self.element.run(*options)
        wait_until(self.has_card)

    def ask_phone(self, flow: Callable[[Wallet], Flow[T]]) -> T:
        """What the phone's software does: over mutual TLS, to the SE's process."""
        with PhoneSession(self.town.folder / PHONE / "wallet") as session:
            return session.once(flow(session.wallet))

    def open(self, ceiling_minor: int) -> None:
        opened = self.ask_phone(lambda wallet: open_card(wallet, tid=self.tid, ceiling_minor=ceiling_minor))
        assert opened.state is OpeningState.OPEN

    def shown(self) -> Opening:
        """What the phone shows."""
        return self.ask_phone(status).opening

    def kept(self) -> tuple[FieldRow, VirtualCard]:
        """The opening and its card, in the SE's database."""
        store = self.town.citizens[PHONE].opened.store()
        try:
            row = store.read(Key(FIELD, (SLOT,))).get(FIELD, SLOT)
            assert row is not None
            card = store.read(Key(VIRTUAL_CARDS, (row.card,))).get(VIRTUAL_CARDS, row.card)
            assert card is not None
            return row, card
        finally:
            store.close()

    # --- the terminal ------------------------------------------------------------------------------------------------
    def tap(self, amount_minor: int, heard: Callable[[bytes], None] = lambda _command: None) -> Outcome:
        """Our kernel over PC/SC. `heard` is told of each command when it is answered."""
        self.trace = []
        sale = Sale(amount_minor=amount_minor, currency="TWD", date=self.today, unpredictable=os.urandom(4))
        with PcscPipe(self.pcscd) as pipe:
            assert pipe.first == "ready"

            def transmit(command: bytes) -> bytes:
                answer = pipe.transmit(command)
                self.trace.append((command, answer))
                heard(command)
                return answer

            tapped = run_exchange(perform_tap(self.terminal, sale), transmit)
        print("\n".join(decode_trace(self.trace)), f"\n{tapped.kind}: {tapped.ui.text}")
        return tapped

    def buy(self, amount_minor: int) -> OnlineRequest:
        """A tap that the terminal is content with."""
        tapped = self.tap(amount_minor)
        assert (tapped.kind, tapped.tvr) == (Kind.ONLINE_REQUEST, ONLINE_TVR)
        assert tapped.online is not None
        return tapped.online

    @property
    def today(self) -> datetime.date:
        now_s = self.town.citizens[SHOP].opened.clock.now_s()
        return datetime.datetime.fromtimestamp(now_s, tz=datetime.UTC).date()

    # --- the TSM -----------------------------------------------------------------------------------------------------
    def sign_on(self) -> None:
        message = SignOn(
            merchant_name=self.terminal.merchant_name, merchant_identifier=self.terminal.merchant_identifier,
            terminal=self.terminal.terminal, terminal_key=self.key.public.encoded,
        )  # fmt: skip
        signer = self.town.citizens[SHOP].opened.keys.signer
        self._send("Tsm.SignOn", envelope.sign(signer, message, audience=TSM, stamp=self._stamp()))

    def authorize(self, online: OnlineRequest) -> tuple[Verdict, str]:
        """What the merchant is told, verified, and the reason that the TSM notes."""
        purchase = EmvPurchase(
            sale=os.urandom(16), application=online.aid, aip=online.aip, afl=online.afl,
            records=tuple(EmvRecord(sfi=r.sfi, number=r.number, data=r.data) for r in online.records),
            pdol_data=online.pdol_data, cdol_data=online.cdol_data, information=online.information, atc=online.atc,
            issuer_data=online.issuer_data, signature=online.signature,
        )  # fmt: skip
        message = Authorization(terminal=self.terminal.terminal, purchase=purchase)
        signed = envelope.sign(Signer(name=SHOP, key=self.key), message, audience=TSM, stamp=self._stamp())
        answer = self._send("Tsm.Authorize", signed)
        tsm = self.town.citizens[TSM]
        decided = envelope.open_signed(
            AuthorizationDecision, answer.cose, tsm.opened.keys.sign.public, issuer=TSM, audience=SHOP,
            now_s=tsm.opened.clock.now_s(), request_digest=Wire(cose=signed).digest,
        ).message.decided  # fmt: skip
        assert decided.sale == purchase.sale
        row = tsm.store.read(Key(PURCHASES, (SHOP, purchase.sale))).get(PURCHASES, SHOP, purchase.sale)
        assert row is not None
        return decided.verdict, row.reason

    def _stamp(self) -> Stamp:
        opened = self.town.citizens[SHOP].opened
        return Stamp.fresh(opened.clock.now_s(), opened.entropy)

    def _send(self, rpc: str, signed: bytes) -> Wire:
        return self.town.call(TSM, rpc, Wire(cose=signed), Peer(role=Role.MERCHANT, name=SHOP))


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    programs.need_programs()
    with contextlib.ExitStack() as stack:
        town = stack.enter_context(open_town())
        tid = register_phone(town, cards=6)  # one for each opening here
        phone = town.citizens[PHONE].store
        assert isinstance(phone, DatabaseStore)
        phone.close()  # from here on it is the process's
        pcscd = Pcscd()
        stack.callback(pcscd.close)
        shop = town.citizens[SHOP].opened.settings
        terminal = Terminal(
            merchant_identifier=shop.option_text("merchant_identifier"), terminal=shop.option_text("terminal"),
            merchant_name=shop.option_text("merchant_name"), ca_keys=read_ca_keys(shop.pki),
        )  # fmt: skip
        element = Element(town.folder / PHONE / "se/settings.toml", pcscd.expose())
        key = PrivateKey.generate(town.citizens[SHOP].opened.entropy)
        desk = Desk(town=town, tid=tid, pcscd=pcscd, element=element, terminal=terminal, key=key)
        desk.sign_on()
        stack.callback(element.close)
        desk.insert("--contact")
        desk.ask_phone(lambda wallet: set_pin(wallet, old="", new=PIN, personal=()))
        yield desk


def test_a_contact_card_says_so_and_its_purchase_is_declined(desk: Desk) -> None:
    desk.insert("--contact")
    desk.open(SMALL_MINOR)
    online = desk.buy(SMALL_MINOR)
    assert IssuerData.from_bytes(online.issuer_data).cvr == Cvr.ARQC | Cvr.CONTACT
    assert desk.authorize(online) == (Verdict.DECLINED, Reason.CHANNEL_NOT_ALLOWED)
    with PcscPipe(desk.pcscd) as pipe:
        assert pipe.first == "ready"
        assert desk.element.stop() == 0  # drains, whoever holds the card
        assert pipe.send(select_name(PPSE)) == "lost"
    wait_until(lambda: not desk.has_card())


def test_a_phone_that_was_not_opened_has_nothing_to_pay_with(desk: Desk) -> None:
    desk.insert()
    desk.ask_phone(lambda wallet: close_card(wallet, tid=desk.tid))
    names = [select_name(name) for name in (PPSE, PSE, profile.AID, b"no such application")]
    assert {answer for _, answer in programs.send_with_opensc(desk.pcscd, names)} == {NOT_FOUND}
    assert desk.tap(SMALL_MINOR) == outcome.END_APPLICATION
    assert [answer for _, answer in desk.trace] == [NOT_FOUND]


def test_opensc_tool_reads_directory_application_and_records_of_an_opened_one(desk: Desk) -> None:
    """Its tap is for another merchant than ours: whoever is in the field first has the opening."""
    desk.insert()
    desk.open(SMALL_MINOR)
    reading = programs.read_with_opensc(desk.pcscd)
    row, card = desk.kept()
    verified = verify_records(reading, ca=desk.terminal.ca_keys[0], today=desk.today)
    assert (verified.icc.pan, reading.aid) == (card.pan, profile.AID)
    assert verify_cryptogram(reading, verified) == recompute(reading, k_ac=card.k_ac)
    assert IssuerData.from_bytes(reading.answer[0x9F10]) == IssuerData(cvr=Cvr.ARQC, opening=row.opening)
    assert (card.state, card.atc, row.state) == ("SPENT", 1, OpeningState.TAPPED)
    assert desk.tap(SMALL_MINOR) == outcome.END_APPLICATION
    assert desk.trace[-1][1] == NOT_SATISFIED


def test_a_purchase_under_the_limit_is_approved(desk: Desk) -> None:
    desk.insert()
    desk.open(SMALL_MINOR)
    online = desk.buy(SMALL_MINOR)
    assert IssuerData.from_bytes(online.issuer_data) == IssuerData(cvr=Cvr.ARQC, opening=desk.kept()[0].opening)
    assert desk.authorize(online) == APPROVED
    assert desk.authorize(online) == (Verdict.DECLINED, Reason.ATC_REUSED)
    assert desk.shown().state is OpeningState.TAPPED
    log = desk.element.log.read_text()
    assert '"rpc": "SecureElement.OpenCard"' in log
    assert online.pan not in log


def test_a_purchase_over_the_limit_needs_the_pin_on_the_phone_and_a_second_tap(desk: Desk) -> None:
    desk.insert()
    desk.open(LARGE_MINOR)
    assert desk.tap(LARGE_MINOR) == outcome.SEE_PHONE
    assert desk.trace[-1][1] == SEE_PHONE
    asked = desk.shown()
    assert (asked.state, asked.amount_minor, asked.currency) == (OpeningState.EXPECT_PIN, LARGE_MINOR, "TWD")
    assert (asked.merchant, asked.terminal, asked.merchant_name) == (
        desk.terminal.merchant_identifier, desk.terminal.terminal, desk.terminal.merchant_name,
    )  # fmt: skip
    assert desk.tap(LARGE_MINOR) == outcome.SEE_PHONE
    verified = desk.ask_phone(lambda wallet: verify_pin(wallet, pin=PIN, shown=asked))
    assert verified.state is OpeningState.VERIFIED
    online = desk.buy(LARGE_MINOR)
    assert IssuerData.from_bytes(online.issuer_data).cvr == Cvr.ARQC | Cvr.DEVICE_VERIFIED
    assert desk.authorize(online) == APPROVED


def test_a_killed_element_is_a_lost_card_and_its_torn_tap_is_paid_once(desk: Desk) -> None:
    desk.insert()
    desk.open(SMALL_MINOR)

    killing = threading.Timer(0.1, desk.element.kill)

    def kill_in_hand(command: bytes) -> None:
        """After the first record: the next command reaches the process, which never answers it."""
        if command[1] == Ins.READ_RECORD:
            desk.element.freeze()
            killing.start()

    assert desk.tap(SMALL_MINOR, kill_in_hand) == outcome.PRESENT_AGAIN
    assert [command[1] for command, _ in desk.trace].count(Ins.READ_RECORD) == 1
    killing.join()
    row, card = desk.kept()
    assert (row.state, row.read, card.state, card.atc) == (OpeningState.TAPPED, True, "SPENT", 1)
    wait_until(lambda: not desk.has_card())

    desk.insert()
    assert desk.tap(SMALL_MINOR - 1) == outcome.END_APPLICATION
    assert desk.trace[-1][1] == NOT_SATISFIED
    again, once_more = desk.buy(SMALL_MINOR), desk.buy(SMALL_MINOR)
    expected = IssuerData(cvr=Cvr.ARQC | Cvr.RETRY, opening=row.opening)
    for online, atc in ((again, 2), (once_more, 3)):
        assert (online.pan, online.atc) == (card.pan, atc)
        assert IssuerData.from_bytes(online.issuer_data) == expected
    assert desk.authorize(again) == APPROVED
    assert desk.authorize(once_more) == (Verdict.DECLINED, Reason.OPENING_USED)


def test_a_service_that_crashes_finds_the_card_again(desk: Desk) -> None:
    desk.insert()
    before = desk.element.process
    desk.open(SMALL_MINOR)

    def crash(command: bytes) -> None:
        if command == select_name(PPSE):
            desk.pcscd.kill()

    assert desk.tap(SMALL_MINOR, crash) == outcome.PRESENT_AGAIN
    desk.pcscd.start()
    wait_until(desk.has_card)
    assert desk.element.process is before
    online = desk.buy(SMALL_MINOR)  # nothing was read before the crash, so this is a first tap
    assert IssuerData.from_bytes(online.issuer_data).cvr == Cvr.ARQC
    assert desk.authorize(online) == APPROVED
