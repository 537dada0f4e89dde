"""The phone's flows around a purchase: consent, PIN and the bank's word, and a pool of cards that never runs dry."""

from __future__ import annotations

import pytest
from support.counter import PIN, Counter, applet_of
from support.world import FixedClock, World

from protocol import envelope
from protocol.envelope import Signer, Stamp, Wire
from protocol.errors import (
    Expired,
    FactorLocked,
    FieldMismatch,
    Malformed,
    NoCard,
    PaymentClosed,
    PinInvalid,
    PinWeak,
    ProtocolError,
    Replay,
    SignatureInvalid,
    UnknownAccount,
    WrongState,
)
from protocol.messages.enroll import PinReopening
from protocol.messages.se import OpeningState, SeGenerateCardKeys
from protocol.roles.se.opening import OPEN_S
from protocol.roles.wallet import (
    RENEW_BEFORE_S,
    Call,
    Exchanged,
    close_card,
    close_service,
    open_card,
    renew_cards,
    reopen_pin,
    set_pin,
    status,
    verify_pin,
)
from protocol.types import MAX_CARDS

CEILING = 50_000


class Paying:
    """A phone with one account, and a terminal."""

    def __init__(self, world: World, cards: int = 1) -> None:
        self.world = world
        self.phone = world.ready()
        self.wallet = self.phone.wallet
        self.tid = world.service(self.phone, world.account(self.phone))
        if cards:
            world.cards(self.phone, self.tid, cards)
        self.counter = Counter.open(world)

    def run(self, flow):
        return self.world.run(self.phone, flow)

    def open(self, ceiling_minor: int = CEILING):
        return self.run(open_card(self.wallet, tid=self.tid, ceiling_minor=ceiling_minor))

    def tap(self, amount_minor: int) -> str:
        return self.counter.tap(applet_of(self.world, self.phone), amount_minor).kind

    def held(self):
        return self.run(status(self.wallet))

    def renew(self, pool: int, **more: int):
        return self.run(renew_cards(self.wallet, tsm="tsm-1", tid=self.tid, pool=pool, **more))

    def refused(self, flow, refusal: type[ProtocolError]) -> None:
        """This flow is refused so, and the SE keeps what it kept."""
        before = self.held()
        with pytest.raises(refusal) as ended:
            self.run(flow)
        assert ended.value.code == refusal.code
        assert self.held() == before


@pytest.fixture
def paying(tmp_path) -> Paying:
    return Paying(World(tmp_path))


def test_opening_closing_and_time(paying):
    opened = paying.open()
    assert (opened.state, opened.ceiling_minor) == (OpeningState.OPEN, CEILING)
    assert opened.expires_at_s == paying.world.clock.now_s() + OPEN_S
    assert paying.held().opening == opened
    assert paying.run(close_card(paying.wallet, tid=paying.tid)).state is OpeningState.CLOSED
    assert paying.tap(100) != "online request"
    paying.open()
    paying.world.clock.time_s += OPEN_S + 1
    assert paying.held().opening.state is OpeningState.CLOSED


def test_what_can_not_be_opened(paying):
    paying.refused(open_card(paying.wallet, tid="t-none", ceiling_minor=1), UnknownAccount)
    paying.refused(open_card(paying.wallet, tid=paying.tid, ceiling_minor=10**9), NoCard)
    paying.phone.application.write_bytes(b"another app")
    paying.refused(open_card(paying.wallet, tid=paying.tid, ceiling_minor=1), PaymentClosed)


def test_no_flow_of_a_purchase_calls_anybody_but_the_se(paying):
    before = len(paying.world.calls)
    paying.run(set_pin(paying.wallet, old="", new=PIN, personal=()))
    paying.open()
    paying.tap(CEILING)
    paying.run(verify_pin(paying.wallet, pin=PIN, shown=paying.held().opening))
    assert paying.tap(CEILING) == "online request"
    assert {peer for peer, *_ in paying.world.calls[before:]} == {paying.phone.name}


def test_the_pin_is_for_what_was_shown(paying):
    assert paying.run(set_pin(paying.wallet, old="", new=PIN, personal=("19900131",))).state == "ACTIVE"
    opened = paying.open()
    paying.tap(CEILING)
    shown = paying.held().opening
    assert (shown.state, shown.amount_minor, shown.merchant_name) == (OpeningState.EXPECT_PIN, CEILING, "Shop 1")
    paying.tap(CEILING - 100)  # another tap came while the person looked
    paying.refused(verify_pin(paying.wallet, pin=PIN, shown=shown), FieldMismatch)
    paying.refused(verify_pin(paying.wallet, pin="2846", shown=paying.held().opening), PinInvalid)
    assert paying.run(verify_pin(paying.wallet, pin=PIN, shown=paying.held().opening)).state is OpeningState.VERIFIED
    assert paying.tap(CEILING) != "online request"
    assert paying.tap(CEILING - 100) == "online request"
    assert paying.held().opening.state is OpeningState.TAPPED
    paying.refused(verify_pin(paying.wallet, pin=PIN, shown=shown), WrongState)
    paying.refused(verify_pin(paying.wallet, pin=PIN, shown=opened), Malformed)  # nothing was shown yet


def test_a_weak_or_unproved_pin_is_not_set(paying):
    paying.refused(set_pin(paying.wallet, old="", new="9001", personal=("19900131",)), PinWeak)
    paying.run(set_pin(paying.wallet, old="", new=PIN, personal=()))
    paying.refused(set_pin(paying.wallet, old="2846", new="8265", personal=()), PinInvalid)
    assert paying.run(set_pin(paying.wallet, old=PIN, new="8265", personal=())).entries_left == 5


def word(paying: Paying, bank: str = "bank-a") -> bytes:
    keys = paying.world.parties[bank].value.keys
    stamp = Stamp.fresh(paying.world.clock.now_s(), paying.world.entropy)
    message = PinReopening(user=paying.phone.user)
    return envelope.sign(Signer(name=bank, key=keys.sign), message, audience=paying.phone.user, stamp=stamp)


def test_five_wrong_entries_and_the_banks_word(paying):
    paying.run(set_pin(paying.wallet, old="", new=PIN, personal=()))
    early = word(paying)
    paying.world.clock.time_s += 10
    for refusal in [PinInvalid] * 4 + [FactorLocked] * 2:
        with pytest.raises(refusal):
            paying.run(set_pin(paying.wallet, old="2846", new="8265", personal=()))
    assert paying.held().pin == "LOCKED"
    paying.refused(reopen_pin(paying.wallet, bank="bank-a", approval=early), Expired)
    paying.refused(reopen_pin(paying.wallet, bank="bank-a", approval=word(paying, "bank-b")), SignatureInvalid)
    approval = word(paying)
    assert paying.run(reopen_pin(paying.wallet, bank="bank-a", approval=approval)).state == "EXPECT_NEW"
    assert paying.run(set_pin(paying.wallet, old="", new="8265", personal=())).state == "ACTIVE"
    paying.refused(reopen_pin(paying.wallet, bank="bank-a", approval=approval), WrongState)
    for _ in range(5):
        with pytest.raises((PinInvalid, FactorLocked)):
            paying.run(set_pin(paying.wallet, old="2846", new="8264", personal=()))
    paying.refused(reopen_pin(paying.wallet, bank="bank-a", approval=approval), Replay)


def test_missing_cards_are_issued_and_no_more(tmp_path):
    paying = Paying(World(tmp_path), cards=0)
    for pool, ready, issued in ((1, 0, 1), (3, 1, 2), (3, 3, 0), (2, 3, 0)):
        done = paying.renew(pool)
        assert (done.tid, done.ready, done.issued) == (paying.tid, ready, issued)
    (held,) = paying.held().pools
    assert held.ready == 3


def test_never_more_than_a_batch(paying):
    flow = renew_cards(paying.wallet, tsm="tsm-1", tid=paying.tid, pool=1000)
    asked = step(paying, flow, None)
    for _ in range(3):
        asked = step(paying, flow, asked)
    command = SeGenerateCardKeys.from_bytes(envelope.peek(SeGenerateCardKeys, asked.wire.cose).payload)
    assert command.number == MAX_CARDS


def step(paying: Paying, flow, asked: Call | None) -> Call:
    """Answer one call of a flow; its next one."""
    if asked is None:
        return next(flow)
    return flow.send(Exchanged(sent=asked.wire, reply=paying.world.send(paying.phone, asked)))


def test_a_successor_is_there_before_the_first_expires(paying):
    (held,) = paying.held().pools
    clock: FixedClock = paying.world.clock
    assert paying.renew(1, renew_before_s=held.expires_at_s[0] - clock.now_s() - 120).issued == 0
    clock.time_s = held.expires_at_s[0] - RENEW_BEFORE_S + 60
    assert paying.world.launch(paying.phone) == ""
    assert paying.renew(1).issued == 1
    clock.time_s = held.expires_at_s[0] + 1
    assert [pool.ready for pool in paying.held().pools] == [1]


def test_another_accounts_cards_do_not_count(paying):
    with pytest.raises(ProtocolError) as refused:
        paying.run(renew_cards(paying.wallet, tsm="tsm-1", tid="t-none", pool=1))
    assert refused.value.code == UnknownAccount.code
    paying.run(close_service(paying.wallet, tsm="tsm-1", tid=paying.tid))
    with pytest.raises(WrongState):
        paying.renew(4)


def test_a_flow_that_was_cut_off_decides_as_it_did(paying):
    """The journal answers the first call from what was said then; that time has gone on changes nothing."""
    (held,) = paying.held().pools
    first = renew_cards(paying.wallet, tsm="tsm-1", tid=paying.tid, pool=1)
    asked = next(first)
    answered = Exchanged(sent=asked.wire, reply=paying.world.send(paying.phone, asked))
    with pytest.raises(StopIteration) as done:
        first.send(answered)
    assert done.value.value.issued == 0
    before_s = held.expires_at_s[0] - paying.world.clock.now_s() - 90
    paying.world.clock.time_s += 1800
    again = renew_cards(paying.wallet, tsm="tsm-1", tid=paying.tid, pool=1, renew_before_s=before_s)
    next(again)
    with pytest.raises(StopIteration) as done:
        again.send(answered)
    assert done.value.value.issued == 0
    assert paying.renew(1, renew_before_s=before_s).issued == 1


def test_an_answer_to_another_question_is_not_believed(paying):
    flow = renew_cards(paying.wallet, tsm="tsm-1", tid=paying.tid, pool=1)
    asked = next(flow)
    reply = paying.world.send(paying.phone, asked)
    other = next(renew_cards(paying.wallet, tsm="tsm-1", tid=paying.tid, pool=1))
    with pytest.raises(ProtocolError) as refused:
        flow.send(Exchanged(sent=other.wire, reply=Wire(cose=reply.cose)))
    assert refused.value.code == "SIGNATURE_INVALID"
