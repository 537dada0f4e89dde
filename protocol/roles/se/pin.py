"""The PIN on the phone: set, entered, locked after five wrong entries, reopened on the bank's word.

TW-G3a, TW-G3b, CN-4. It never leaves the SE, which keeps an Argon2id hash; the app keeps nothing of it (TW-S13).
Nobody chooses a first PIN for the person, so there is none to be changed at first use.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from protocol import envelope
from protocol.crypto import same, sha256
from protocol.engine import Context, Incoming
from protocol.errors import Expired, FactorLocked, FieldMismatch, PinInvalid, ProtocolError, Replay, WrongState
from protocol.messages.enroll import PinReopening
from protocol.messages.se import Opening, OpeningState, SeOpening, SePin, SeReopenPin, SeSetPin, SeVerifyPin
from protocol.pin import check_pin
from protocol.ports import Entropy
from protocol.roles.party import expect_state
from protocol.roles.se.opening import OPEN_S, SLOT, opening_of
from protocol.roles.se.party import PinHash, SeStep, owner_of
from protocol.roles.se.tables import FIELD, PINS, Pin
from protocol.rows import Decision, Insert, Key, Read, Rows, Update, Write

MAX_WRONG = 5
_NEW = Pin(slot=SLOT, hash=b"", wrong=0, locked_at_s=0, approval=b"", state="EXPECT_NEW")


def pin_state(row: Pin | None) -> SePin:
    """What the phone shows of the PIN."""
    row = _NEW if row is None else row
    return SePin(state=row.state, entries_left=MAX_WRONG - row.wrong)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An entered PIN, compared with the hash that was stored when it was looked at (empty: none was)."""

    hash: bytes
    matched: bool


def compare(pin: str, hashes: PinHash, ctx: Context) -> Entry:
    """Look at the stored hash before the decision: Argon2id takes tens of milliseconds and megabytes."""
    row = ctx.read(Key(PINS, (SLOT,))).get(PINS, SLOT)
    if row is None or row.state != "ACTIVE":
        return Entry(hash=b"", matched=False)
    return Entry(hash=row.hash, matched=hashes.matches(row.hash, pin))


def count(row: Pin | None, entry: Entry, now_s: int) -> tuple[Pin, ProtocolError | None]:
    """The PIN's row after an entry, and the refusal if it was wrong. Raises: WrongState, FactorLocked."""
    if row is None or row.state == "EXPECT_NEW":
        raise WrongState("no PIN is set")
    if row.state == "LOCKED":
        raise FactorLocked
    if not same(row.hash, entry.hash):  # changed while this entry was compared with the old one
        raise WrongState("the PIN was changed")
    if entry.matched:
        return replace(row, wrong=0), None
    wrong = row.wrong + 1
    if wrong < MAX_WRONG:
        return replace(row, wrong=wrong), PinInvalid()
    return replace(row, wrong=wrong, locked_at_s=now_s, state="LOCKED"), FactorLocked()


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A new PIN that is hard enough, hashed, with the entry of the old one."""

    command: SeSetPin
    entry: Entry | None = None
    hash: bytes = b""


class SetPinStep(SeStep[SeSetPin, Setting]):
    """The first PIN, or a change by who knows the old one."""

    rpc = "SecureElement.SetPin"
    command = SeSetPin
    reply = SePin

    def look(self, command: SeSetPin, ctx: Context) -> Setting:
        check_pin(command.new, command.personal)
        return Setting(command=command)

    def prepare(self, incoming: Incoming[Setting], ctx: Context) -> Incoming[Setting]:
        facts, hashes = incoming.facts, self._se.pins
        entry = compare(facts.command.old, hashes, ctx)
        return replace(incoming, facts=replace(facts, entry=entry, hash=hashes.hash(facts.command.new)))

    def reads(self, facts: Setting) -> tuple[Read, ...]:
        return (Key(PINS, (SLOT,)),)

    def decide(self, rows: Rows, facts: Setting, now_s: int, entropy: Entropy) -> Decision:
        assert facts.entry is not None
        row = rows.get(PINS, SLOT)
        if row is not None and row.state != "EXPECT_NEW":
            counted, refusal = count(row, facts.entry, now_s)
            if refusal is not None:
                return Decision(writes=(Update(PINS, counted),), refusal=refusal)
        before = _NEW if row is None else row
        after = replace(before, hash=facts.hash, wrong=0, state="ACTIVE")
        write: Write = Insert(PINS, after) if row is None else Update(PINS, after)
        return Decision(writes=(write,), reply=pin_state(after))


@dataclass(frozen=True, slots=True, kw_only=True)
class Verifying:
    """The PIN for a tap that the phone shows."""

    command: SeVerifyPin
    entry: Entry | None = None


class VerifyPinStep(SeStep[SeVerifyPin, Verifying]):
    """TW-S3: the person agrees to this amount at this merchant; an identical tap within a minute goes through."""

    rpc = "SecureElement.VerifyPin"
    command = SeVerifyPin
    reply = SeOpening

    def look(self, command: SeVerifyPin, ctx: Context) -> Verifying:
        return Verifying(command=command)

    def prepare(self, incoming: Incoming[Verifying], ctx: Context) -> Incoming[Verifying]:
        facts = incoming.facts
        return replace(incoming, facts=replace(facts, entry=compare(facts.command.pin, self._se.pins, ctx)))

    def reads(self, facts: Verifying) -> tuple[Read, ...]:
        return (Key(PINS, (SLOT,)), Key(FIELD, (SLOT,)))

    def decide(self, rows: Rows, facts: Verifying, now_s: int, entropy: Entropy) -> Decision:
        assert facts.entry is not None
        field = rows.get(FIELD, SLOT)
        asked = opening_of(field, now_s)
        expect_state(asked.state, OpeningState.EXPECT_PIN)
        assert field is not None
        _expect_shown(facts.command, asked)
        row, refusal = count(rows.get(PINS, SLOT), facts.entry, now_s)
        if refusal is not None:
            return Decision(writes=(Update(PINS, row),), refusal=refusal)
        verified = replace(field, state=OpeningState.VERIFIED.value, verified=True, expires_at_s=now_s + OPEN_S)
        writes = (Update(PINS, row), Update(FIELD, verified))
        return Decision(writes=writes, reply=SeOpening(opening=opening_of(verified, now_s)))


def _expect_shown(command: SeVerifyPin, asked: Opening) -> None:
    # Another tap may have come since the phone was looked at: the PIN is for what the person saw.
    shown = (command.amount_minor, command.currency, command.merchant, command.terminal)
    if shown != (asked.amount_minor, asked.currency, asked.merchant, asked.terminal):
        raise FieldMismatch("the tap is another than the phone showed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reopening:
    """The bank's verified word, with its digest and time."""

    digest: bytes
    issued_at_s: int


class ReopenPinStep(SeStep[SeReopenPin, Reopening]):
    """TW-G3b: a word given before the lock says nothing about it, and each word reopens once."""

    rpc = "SecureElement.ReopenPin"
    command = SeReopenPin
    reply = SePin

    def look(self, command: SeReopenPin, ctx: Context) -> Reopening:
        bank = self._se.bank(command.bank)
        owner = owner_of(ctx, bank.name)
        opened = envelope.open_signed(
            PinReopening, command.approval, bank.key, issuer=bank.name, audience=owner.user, now_s=ctx.now_s
        )
        if opened.message.user != owner.user:
            raise FieldMismatch("user")
        return Reopening(digest=sha256(command.approval), issued_at_s=opened.claims.issued_at_s)

    def reads(self, facts: Reopening) -> tuple[Read, ...]:
        return (Key(PINS, (SLOT,)),)

    def decide(self, rows: Rows, facts: Reopening, now_s: int, entropy: Entropy) -> Decision:
        row = rows.get(PINS, SLOT)
        if row is None or row.state != "LOCKED":
            raise WrongState("the PIN is not locked")
        if same(row.approval, facts.digest):
            raise Replay
        if facts.issued_at_s < row.locked_at_s:
            raise Expired("the bank's word is older than the lock")
        after = replace(_NEW, approval=facts.digest)
        return Decision(writes=(Update(PINS, after),), reply=pin_state(after))
