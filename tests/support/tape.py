"""A run of every flow on tape: each request with the whole world as it was before it, so that any can be tried anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from support.claims import Desk
from support.counter import Counter, applet_of, open_card, set_pin, verify_pin
from support.settling import begin
from support.shop import Stall
from support.stopping import fetch
from support.tracing import trace_any
from support.world import SOFTWARE, Phone, World, card_key

from protocol import envelope
from protocol.card.terminal import Terminal
from protocol.engine import Peer
from protocol.envelope import Signer, Stamp, Wire
from protocol.errors import FactorLocked, PinInvalid, ProtocolError
from protocol.messages.enroll import PinReopening
from protocol.messages.merchant import SignOn
from protocol.messages.pay import Verdict
from protocol.messages.se import SeMeasure, SeMeasured, SePin, SeReopenPin
from protocol.messages.software import ReferenceRequest, ReleaseRequest
from protocol.messages.till import SaleProgress
from protocol.roles.merchant import TERMINAL_KEYS, Shop, TerminalKey, merchant_steps
from protocol.roles.merchant.giveback import sign_refund
from protocol.roles.merchant.lane import record_answer
from protocol.roles.se.pin import MAX_WRONG
from protocol.roles.tsm.claims import due_claims, make_claim, send_claim
from protocol.roles.tsm.party import DAY_S
from protocol.roles.wallet import close_service, status
from protocol.rows import Decision, Insert, Overlay, Table, Unit, Update
from protocol.types import Role

State = dict[str, Any]
NOW_STEP_S = 7
"""The taped run is spread over time, so that no two messages share all their times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """One request as it was sent, who sent it, what came back, and the world before it."""

    index: int
    peer: str
    rpc: str
    wire: Wire
    caller: Peer | None
    before: State
    reply: Wire | ProtocolError | None = None


@dataclass
class Tape(World):
    """A world that keeps every request with the state before it, and can go back there.

    `once` is a key that nobody certified: the one-time key of a download, the key of a terminal.
    """

    taken: list[Taken] = field(default_factory=list)
    recording: bool = True
    start: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.once = self.key()

    def deliver(self, peer: str, rpc: str, wire: Wire, caller: Peer | None) -> Wire:
        if not self.recording:
            return super().deliver(peer, rpc, wire, caller)
        index, before = len(self.taken), self.save()
        self.taken.append(Taken(index=index, peer=peer, rpc=rpc, wire=wire, caller=caller, before=before))
        reply = super().deliver(peer, rpc, wire, caller)
        self.taken[index] = replace(self.taken[index], reply=reply)
        self.clock.time_s += NOW_STEP_S
        return reply

    def save(self) -> State:
        """Everything that a request may change: rows, time, and which card keys are still to be given out."""
        rows = {
            name: {table: dict(held) for table, held in party.store._rows.loaded.items() if held}
            for name, party in self.parties.items()
        }
        keys = {name: phone.party.value.card_keys.next for name, phone in self.phones.items()}
        return {"rows": rows, "keys": keys, "time_s": self.clock.time_s}

    def restore(self, state: State) -> None:
        """The world as it was."""
        for name, party in self.parties.items():
            tables = state["rows"].get(name, {})
            party.store._rows = Overlay(loaded={table: dict(held) for table, held in tables.items()})
        for name, phone in self.phones.items():
            phone.party.value.card_keys.next = state["keys"].get(name, 0)
        self.clock.time_s = state["time_s"]

    def amend(self, party: str, table: Table[Any], **columns: Any) -> None:
        """Every row of a table with other values, as if something had happened that no request makes happen."""
        store = self.parties[party].store
        writes = tuple(Update(table, replace(row, **columns)) for row in store.scan(table))
        store.apply(Unit((), lambda rows: Decision(writes=writes)))

    def take(self, rpc: str, n: int = 0) -> Taken:
        """The n-th request of the first phone to this RPC (of the last one with -1)."""
        return [taken for taken in self.taken[self.start :] if taken.rpc == rpc][n]

    def rewind(self, rpc: str, n: int = 0) -> Taken:
        """That request, with the world as it was before it."""
        taken = self.take(rpc, n)
        self.restore(taken.before)
        return taken

    def send_again(self, taken: Taken) -> Wire:
        """The taped request, as it was."""
        return self.deliver(taken.peer, taken.rpc, taken.wire, taken.caller)

    @contextmanager
    def unchanged(self, *but: str) -> Iterator[None]:
        """No party's rows change within, except those of tables named in `but`."""
        before = self._rows(but)
        yield
        assert self._rows(but) == before

    def _rows(self, but: tuple[str, ...]) -> dict[str, dict[str, Any]]:
        rows: dict[str, dict[str, Any]] = self.save()["rows"]
        # What the TSM fetches every minute changes whatever is refused meanwhile.
        kept = {*but, "stop_lists"}
        return {name: {t: held for t, held in tables.items() if t not in kept} for name, tables in rows.items()}


def record(tape: Tape) -> Tape:
    """Both phones through all phases; the second first, so that its values are there to be swapped in."""
    tape.add_tsm("tsm-2")
    tape.add_provider("sp-2")
    for name in ("phone-2", "phone-1"):
        tape.start = len(tape.taken)
        phone = tape.ready(name)
        aid = tape.account(phone)
        tid = tape.service(phone, aid, maximum_minor=30_000)
        tape.cards(phone, tid, number=2)
    tape.run(phone, status(phone.wallet))
    tape.run(phone, phone.wallet.command("Measure", SeMeasure(), SeMeasured))
    _fetch(tape, ReleaseRequest, "SoftwareProvider.GetRelease", software=SOFTWARE)
    _fetch(tape, ReferenceRequest, "SoftwareProvider.GetReferenceValues", software=SOFTWARE, bank="bank-a")
    fetch(tape)
    _sign_on(tape)
    _pay(tape, phone, tid)
    _claim(tape, tid)
    trace_any(tape)
    tape.run(phone, close_service(phone.wallet, tsm="tsm-1", tid=tid))
    for spare in range(12):
        card_key(spare)
    tape.recording = False
    return tape


def _fetch(tape: Tape, kind: type[Any], rpc: str, **fields: str) -> None:
    signer = Signer(name=tape.once.public.thumbprint.hex(), key=tape.once)
    message = kind(key=tape.once.public.encoded, **fields)
    stamp = Stamp.fresh(tape.clock.now_s(), tape.entropy)
    signed = envelope.sign(signer, message, audience="sp-1", stamp=stamp)
    tape.deliver("sp-1", rpc, Wire(cose=signed), None)


def _sign_on(tape: Tape) -> None:
    message = SignOn(
        merchant_name="Shop One", merchant_identifier="SHOP00000000001", terminal="TERM0001",
        terminal_key=tape.once.public.encoded,
    )  # fmt: skip
    stamp = Stamp.fresh(tape.clock.now_s(), tape.entropy)
    signed = envelope.sign(tape.merchant.signer, message, audience="tsm-1", stamp=stamp)
    tape.deliver("tsm-1", "Tsm.SignOn", Wire(cose=signed), Peer(role=Role.MERCHANT, name="shop-1"))


# --- PAY -------------------------------------------------------------------------------------------------------------
WRONG_PIN = "9999"


def _pay(tape: Tape, phone: Phone, tid: str) -> None:
    """Two purchases, one by the till and one above the limit; money back for both; the PIN locked and reopened."""
    stall = _stall(tape)
    set_pin(tape, phone)
    sale = stall.asked(phone, tid)
    asked = stall.row(sale)
    stall.apply(record_answer(stall.shop, asked, stall.to_tsm("Tsm.Authorize", asked.request), stall.now_s))
    assert stall.state(sale).progress == SaleProgress.APPROVED
    pending = stall.refund_row(stall.refund(sale, 1_000))
    request = stall.apply(sign_refund(stall.shop, pending, stall.now_s, tape.entropy)).request
    stall.to_tsm("Tsm.Refund", request)
    stall.to_tsm("Tsm.SettleBatch", begin(stall).request)
    stall.cancel(stall.start())
    counter = Counter(world=tape, keys=tape.merchant, key=tape.once, terminal=stall.terminal)
    open_card(tape, phone, tid, 25_000)
    card = applet_of(tape, phone)
    counter.tap(card, 25_000)
    verify_pin(tape, phone, counter.opening(phone))
    online = counter.tap(card, 25_000).online
    assert online is not None
    (decided,) = counter.authorize_batch(counter.purchase(online))
    assert decided.verdict is Verdict.APPROVED
    counter.reverse(decided.sale)
    _lock(tape, phone)
    _reopen(tape, phone)


def _stall(tape: Tape) -> Stall:
    """The merchant's server, with the terminal that signed on before; and another merchant's."""
    other = Shop(
        keys=tape.certified("shop-2", Role.MERCHANT), directory=tape.directory, merchant_name="Shop Two",
        merchant_identifier="SHOP00000000002", terminal="TERM0002", tsm="tsm-1",
    )  # fmt: skip
    tape.join("shop-2", Role.MERCHANT, merchant_steps(other), other)
    names = {"merchant_name": "Shop One", "merchant_identifier": "SHOP00000000001", "terminal": "TERM0001"}
    shop = Shop(keys=tape.merchant, directory=tape.directory, tsm="tsm-1", **names)
    terminal = Terminal(ca_keys=tape.parties["tsm-1"].value.emv_ca, **names)
    party = tape.join("shop-1", Role.MERCHANT, merchant_steps(shop), shop)
    key = TerminalKey(
        terminal=shop.terminal, tsm=shop.tsm, private_key=tape.once.to_bytes(), request=b"",
        expires_at_s=tape.clock.now_s() + DAY_S, state="ACTIVE",
    )  # fmt: skip
    party.store.apply(Unit((), lambda rows: Decision(writes=(Insert(TERMINAL_KEYS, key),))))
    return Stall(world=tape, party=party, terminal=terminal)


def _claim(tape: Tape, tid: str) -> None:
    """The period is closed early for one grant."""
    desk = Desk(tape)
    now_s = tape.clock.now_s()
    for history in due_claims(desk.tsm, desk.store, now_s, early=True):
        if history.entry.tid == tid:
            row = make_claim(desk.tsm, desk.store, history, now_s, tape.entropy)
            assert row is not None
            send_claim(desk.tsm, desk.store, desk, row, now_s, tape.entropy)


def _lock(tape: Tape, phone: Phone) -> None:
    """Off the tape, since the entries are refused."""
    tape.recording = False
    for _ in range(MAX_WRONG):
        with suppress(PinInvalid, FactorLocked):
            set_pin(tape, phone, new="2580", old=WRONG_PIN)
    tape.recording = True


def pin_word(tape: World, user: str, bank: str = "bank-a", audience: str = "") -> bytes:
    """The bank's word that the person came to the branch (TW-G3b)."""
    stamp = Stamp.fresh(tape.clock.now_s(), tape.entropy)
    signer = tape.parties[bank].value.keys.signer
    return envelope.sign(signer, PinReopening(user=user), audience=audience or user, stamp=stamp)


def _reopen(tape: Tape, phone: Phone) -> None:
    command = SeReopenPin(bank="bank-a", approval=pin_word(tape, phone.user))
    tape.run(phone, phone.wallet.command("ReopenPin", command, SePin))
