"""Who stands between a card, a terminal and the TSM, and cards, terminals and TSMs with one defence less.

A `Wedge` is the network at the counter: it alters what passes through the air. `crooked_tap` is a terminal that says
what it likes. `loaded` and `OwnCard` are a card whose secure element its owner has broken. Variants are subclasses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from support.counter import TSM, Counter
from support.world import Phone, World

from protocol.card import profile, tlv
from protocol.card.afl import Afl, Record
from protocol.card.answers import Cryptogram, parse_cryptogram, parse_options
from protocol.card.apdu import Command, Ins, Response
from protocol.card.applet import Applet
from protocol.card.chain import verify_card
from protocol.card.combined import CryptogramType, transaction_hash, verify_combined
from protocol.card.cvr import Cvr
from protocol.card.profile import Channel
from protocol.card.rsa import PrivateKey as CardPrivateKey
from protocol.card.rsa import PublicKey
from protocol.card.selection import select
from protocol.card.tap import LoadedCard, Tap, parse_digits
from protocol.card.terminal import Sale, terminal_data
from protocol.card.transaction import Transaction
from protocol.crypto import sha256
from protocol.errors import CardDataInvalid
from protocol.messages.card import EmvData, EmvRecord
from protocol.messages.pay import EmvPurchase
from protocol.messages.se import OpeningState
from protocol.ports import Entropy
from protocol.roles.se.field import Field
from protocol.roles.se.opening import OPEN_S, SLOT
from protocol.roles.se.tables import FIELD, VIRTUAL_CARDS, FieldRow
from protocol.roles.tsm.authorize import Asked, AuthorizeStep
from protocol.roles.tsm.purchase import Proved, PurchaseChecks, Signed
from protocol.roles.tsm.tables import CARDS, TID_LIST, CardRow
from protocol.rows import Decision, Insert, Key, Rows, Table, Unit, Update, Value

ARQC_WITH_CDA = CryptogramType.ARQC | 0x10
TC_WITH_CDA = CryptogramType.TC | 0x10
NO_CVM = bytes.fromhex("1F0002")
PIN_OK = bytes.fromhex("010002")
"""9F34: plaintext PIN, checked by the card, successful (Book 4 Annex A4)."""
NO_BOUND = 10**9


# --- data objects --------------------------------------------------------------------------------------------------
def with_said(cdol_data: bytes, **values: bytes) -> bytes:
    """CDOL1 data with other values; names are tags, as `t9F02`."""
    said = profile.CDOL1.split(cdol_data)
    return profile.CDOL1.build(said | {int(tag[1:], 16): value for tag, value in values.items()})


def with_shown(pdol_data: bytes, **values: bytes) -> bytes:
    """The same of PDOL data."""
    shown = profile.PDOL.split(pdol_data)
    return profile.PDOL.build(shown | {int(tag[1:], 16): value for tag, value in values.items()})


def bcd(amount_minor: int) -> bytes:
    """9F02."""
    return bytes.fromhex(f"{amount_minor:012d}")


def with_object(answer: bytes, tag: int, value: bytes | None) -> bytes:
    """An answer of format 2 with one data object replaced, or taken out; one that is not there is put at the end."""
    response = Response.from_bytes(answer)
    (template,) = tlv.decode(response.data)
    items = {item.tag: item.value for item in template.children}
    items = {each: old for each, old in items.items() if each != tag or value is not None}
    if value is not None:
        items[tag] = value
    inside = tlv.encode(template.tag, tlv.encode_all(tuple(items.items())))
    return Response(sw=response.sw, data=inside).to_bytes()


# --- between card and terminal -------------------------------------------------------------------------------------
@dataclass
class Wedge:
    """A man in the middle of the air: `commands` and `answers` alter what passes, by instruction."""

    card: Any
    commands: dict[int, Callable[[Command], Command]] = field(default_factory=dict)
    answers: dict[int, Callable[[bytes], bytes]] = field(default_factory=dict)
    seen: list[int] = field(default_factory=list)

    def reset(self) -> None:
        self.card.reset()

    def process(self, command: bytes) -> bytes:
        parsed = Command.from_bytes(command)
        self.seen.append(parsed.ins)
        sent = self.commands.get(parsed.ins, lambda same: same)(parsed)
        return self.answers.get(parsed.ins, lambda same: same)(self.card.process(sent.to_bytes()))


def saying(**values: bytes) -> dict[int, Callable[[Command], Command]]:
    """Commands in which GENERATE AC says something else."""
    return {Ins.GENERATE_AC: lambda command: replace(command, data=with_said(command.data, **values))}


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What a terminal that believes everything got out of a tap."""

    given: Cryptogram
    aip: bytes
    afl: bytes
    records: tuple[Record, ...]
    pdol_data: bytes
    cdol_data: bytes

    @property
    def cvr(self) -> Cvr:
        return Cvr(int.from_bytes(self.given.issuer_data[2:6], "big"))

    def purchase(self, counter: Counter, **changes: Any) -> EmvPurchase:
        """What the terminal forwards; no signature is one byte of nothing, as the message must have some."""
        made = EmvPurchase(
            sale=counter.world.entropy.bytes(16), application=profile.AID, aip=self.aip, afl=self.afl,
            records=tuple(EmvRecord(sfi=r.sfi, number=r.number, data=r.data) for r in self.records),
            pdol_data=self.pdol_data, cdol_data=self.cdol_data, information=self.given.information,
            atc=self.given.atc, issuer_data=self.given.issuer_data, signature=self.given.signature or b"\0",
        )  # fmt: skip
        return replace(made, **changes)


def crooked_tap(
    counter: Counter, card: Any, amount_minor: int, *, reference: int = ARQC_WITH_CDA, pin: bytes = b"",
    challenge: bytes = b"", shows: Mapping[int, bytes] | None = None, says: Mapping[int, bytes] | None = None,
    sale: Sale | None = None,
) -> Taken:  # fmt: skip
    """A terminal that verifies nothing. `shows` goes into the PDOL data, `says` into CDOL1's, over honest values.

    With `pin` it asks the card to VERIFY and, told 9000, says in 9F34 that a PIN was right; with `challenge` it has the
    card sign that by INTERNAL AUTHENTICATE, and keeps it as the signature.
    """

    def ask(command: Command) -> bytes:
        answer = Response.from_bytes(card.process(command.to_bytes()))
        assert answer.ok, f"{answer.sw:04X}"
        return answer.data

    card.reset()
    honest = terminal_data(counter.terminal, sale or counter.sale(amount_minor))
    ask(select(profile.AID))
    pdol_data = profile.PDOL.build(honest | dict(shows or {}))
    options = Command(cla=0x80, ins=Ins.GET_PROCESSING_OPTIONS, p1=0, p2=0, data=tlv.encode(0x83, pdol_data), le=256)
    aip, afl = parse_options(ask(options))
    records = tuple(
        Record(
            sfi=sfi, number=number, data=ask(Command(cla=0, ins=Ins.READ_RECORD, p1=number, p2=sfi << 3 | 4, le=256))
        )
        for (sfi, number), _ in Afl.from_bytes(afl).walk()
    )
    results, signature = NO_CVM, b""
    if challenge:
        signed = ask(Command(cla=0, ins=Ins.INTERNAL_AUTHENTICATE, p1=0, p2=0, data=challenge, le=256))
        signature = tlv.value_of(tlv.decode_one(signed, 0x77).children, 0x9F4B)
    if pin:
        ask(Command(cla=0, ins=Ins.VERIFY, p1=0, p2=0x80, data=pin))
        results = PIN_OK
    cdol_data = profile.CDOL1.build(honest | {0x9F34: results} | dict(says or {}))
    generate = Command(cla=0x80, ins=Ins.GENERATE_AC, p1=reference, p2=0, data=cdol_data, le=256)
    given = parse_cryptogram(ask(generate))
    return Taken(
        given=replace(given, signature=signature or given.signature), aip=aip, afl=afl, records=records,
        pdol_data=pdol_data, cdol_data=cdol_data,
    )  # fmt: skip


def accepts_offline(counter: Counter, card: Any, amount_minor: int, *, signed: bool = True) -> bool:
    """A terminal that hands out goods on a TC: with CDA, or (not `signed`) on the card's bare word."""
    sale = counter.sale(amount_minor)
    taken = crooked_tap(counter, card, amount_minor, reference=TC_WITH_CDA, sale=sale)
    if taken.given.kind is not CryptogramType.TC:
        return False
    if not signed:
        return True
    verified = verify_card(
        aid=profile.AID, aip=taken.aip, afl=taken.afl, ca_keys=counter.terminal.ca_keys, today=sale.date,
        records={(record.sfi, record.number): record.data for record in taken.records},
    )  # fmt: skip
    digest = transaction_hash(
        taken.pdol_data, (taken.cdol_data,), information=taken.given.information, atc=taken.given.atc,
        issuer_data=taken.given.issuer_data,
    )  # fmt: skip
    try:
        verify_combined(
            verified.icc.key, taken.given.signature or b"", unpredictable=sale.unpredictable,
            transaction_hash=digest, information=taken.given.information,
        )  # fmt: skip
    except CardDataInvalid:
        return False
    return True


# --- cards with one defence less -----------------------------------------------------------------------------------
class LooseApplet(Applet):
    """An applet over another kind of transaction."""

    kind: type[Transaction] = Transaction

    def _offer(self, pdol_data: bytes) -> Response:
        answer = super()._offer(pdol_data)
        if self._transaction is not None:
            self._transaction = self.kind(
                self._transaction._card, pdol_data=pdol_data, channel=self._channel, holder=self._holder,
                entropy=self._entropy,
            )  # fmt: skip
        return answer


def applet(world: World, holder: Any, kind: type[Transaction] = Transaction) -> Applet:
    """An applet over this holder."""
    made = LooseApplet(holder, world.entropy, channel=Channel.CONTACTLESS)
    made.kind = kind
    return made


def phone_applet(
    world: World, phone: Phone, holder: type[Field] = Field, kind: type[Transaction] = Transaction
) -> Applet:
    """The phone in the field, with this holder's and this transaction's habits."""
    return applet(world, holder(store=phone.party.store, clock=world.clock), kind)


class BelievesTerminals(Transaction):
    """A card that lets a terminal claim what cardholder verification it likes."""

    def _find_faults(self, asked: CryptogramType, data: bytes) -> Cvr:
        return super()._find_faults(asked, data) & ~Cvr.VERIFICATION_CONTRADICTED


class NoComparison(Transaction):
    """A card that does not hold CDOL1's data against the PDOL's."""

    def _find_faults(self, asked: CryptogramType, data: bytes) -> Cvr:
        return super()._find_faults(asked, data) & ~Cvr.CONSENT_MISMATCH


class ApprovesOffline(Transaction):
    """A card that gives the TC it is asked for."""

    def _generate_first(self, asked: CryptogramType, data: bytes, *, combined: bool) -> Response:
        if asked is not CryptogramType.TC:
            return super()._generate_first(asked, data, combined=combined)
        self._finished = True
        return self._answer(CryptogramType.TC, self._standing | Cvr.ARQC, (data,), combined=combined)[1]


# --- a secure element with one defence less ------------------------------------------------------------------------
class LaxField(Field):
    """A field that changes its opening to fit the tap, and so does not hold the one against the other."""

    def changes(self, row: FieldRow, tap: Tap) -> dict[str, Any]:
        """What the tap gets its way in."""
        return {}

    def offer(self, tap: Tap) -> LoadedCard:
        row = self.store.read(Key(FIELD, (SLOT,))).get(FIELD, SLOT)
        if row is not None:
            change = Update(FIELD, replace(row, **self.changes(row, tap)))
            self.store.apply(Unit((Key(FIELD, (SLOT,)),), lambda rows: Decision(writes=(change,))))
        return super().offer(tap)


class NoLimit(LaxField):
    """No amount needs the PIN."""

    def changes(self, row: FieldRow, tap: Tap) -> dict[str, Any]:
        return {"verify_above_minor": NO_BOUND}


class NoCeiling(LaxField):
    """The opening's ceiling is not looked at."""

    def changes(self, row: FieldRow, tap: Tap) -> dict[str, Any]:
        return {"ceiling_minor": NO_BOUND}


class AnyTap(LaxField):
    """A later tap is not compared with the one that was shown, verified or used."""

    def changes(self, row: FieldRow, tap: Tap) -> dict[str, Any]:
        return {
            "amount_minor": tap.amount_minor, "currency": tap.currency, "merchant": tap.merchant,
            "terminal": tap.terminal, "merchant_name": tap.merchant_name,
        }  # fmt: skip


class NoTime(Field):
    """An opening does not end."""

    def is_open(self) -> bool:
        row = self.store.read(Key(FIELD, (SLOT,))).get(FIELD, SLOT)
        if row is not None:
            prolonged = Update(FIELD, replace(row, expires_at_s=self.clock.now_s() + OPEN_S))
            self.store.apply(Unit((Key(FIELD, (SLOT,)),), lambda rows: Decision(writes=(prolonged,))))
        return super().is_open()


class NobodyAsked(Field):
    """A phone that opens itself for whoever comes near."""

    def is_open(self) -> bool:
        card = self.store.scan(VIRTUAL_CARDS)[0]
        row = FieldRow(
            slot=SLOT, opening=b"none", tid=card.tid, card=card.modulus_digest, ceiling_minor=NO_BOUND,
            verify_above_minor=NO_BOUND, currency=card.currency, expires_at_s=self.clock.now_s() + OPEN_S,
            state=OpeningState.OPEN.value, amount_minor=0, merchant="", terminal="", merchant_name="", verified=False,
            read=False,
        )  # fmt: skip
        if self.store.read(Key(FIELD, (SLOT,))).get(FIELD, SLOT) is None:
            self.store.apply(Unit((Key(FIELD, (SLOT,)),), lambda rows: Decision(writes=(Insert(FIELD, row),))))
        return super().is_open()


@dataclass
class OwnCard:
    """A card in the hands of an owner who broke the secure element: it answers whatever it is asked."""

    card: LoadedCard

    def is_open(self) -> bool:
        return True

    def offer(self, tap: Tap) -> LoadedCard:
        return self.card

    def spend(self, card: LoadedCard) -> None:
        pass


def loaded(phone: Phone, number: int = 0, **changes: Any) -> LoadedCard:
    """Read out of a broken SE: key and kAC of one of its cards, with any counter, opening and verification."""
    row = sorted(phone.party.store.scan(VIRTUAL_CARDS), key=lambda card: card.position)[number]
    emv = EmvData.from_bytes(row.records)
    card = LoadedCard(
        aid=emv.application, aip=emv.aip, afl=emv.afl,
        records={(record.sfi, record.number): record.data for record in emv.records},
        key=CardPrivateKey.from_bytes(row.card_key), k_ac=row.k_ac, atc=row.atc + 1, opening=b"mine",
        device_verified=False, retry=False,
    )  # fmt: skip
    return replace(card, **changes)


# --- a TSM with one defence less -----------------------------------------------------------------------------------
def weaken(world: World, *kinds: type, step: type = AuthorizeStep) -> None:
    """Install a TSM whose checks, or whose decision, are these variants'."""
    checks = tuple(kind for kind in kinds if issubclass(kind, PurchaseChecks))
    habits = tuple(kind for kind in kinds if not issubclass(kind, PurchaseChecks))
    found = type("Checks", checks or (PurchaseChecks,), {})
    world.swap_step(TSM, type("Variant", (*habits, step), {"checks": found})(world.parties[TSM].value))


class AnyApplication(PurchaseChecks):
    """Takes a card under any application's name."""

    def check_application(self, purchase: EmvPurchase) -> None:
        pass


class AnyKind(PurchaseChecks):
    """Takes any cryptogram information data, a TC's too."""

    def check_online(self, purchase: EmvPurchase) -> None:
        pass


class NoConsent(PurchaseChecks):
    """Does not hold CDOL1's data against the PDOL's, and lets the cryptogram's say what is paid, as issuers do."""

    def check_consent(self, tap: Tap, said: dict[int, bytes], cvr: Cvr) -> None:
        pass

    def read(self, purchase: EmvPurchase, today: Any) -> Signed:
        signed = super().read(purchase, today)
        amount_minor = parse_digits(profile.CDOL1.split(purchase.cdol_data)[0x9F02])
        return replace(signed, tap=replace(signed.tap, amount_minor=amount_minor))


class AnyDate(PurchaseChecks):
    """Takes a cryptogram of any day."""

    def check_date(self, said: dict[int, bytes], today: Any) -> None:
        pass


class NoSignature(PurchaseChecks):
    """Takes the cryptogram out of the signature, and does not ask what the signature is over."""

    def verify_signature(self, purchase: EmvPurchase, key: PublicKey, tap: Tap) -> bytes:
        if len(purchase.signature) != key.size_bytes:
            return bytes(8)
        # 6A 05 01 Ld, dynamic number with its length, CID, cryptogram (Book 2 Table 14 and 17).
        inside = key.apply(purchase.signature)[4:]
        start = 1 + inside[0] + 1
        return inside[start : start + 8]


class NoCryptogram(PurchaseChecks):
    """Does not check the ARQC."""

    def check_cryptogram(self, read: Signed, purchase: EmvPurchase, session_key: bytes) -> None:
        pass


class AnyKey(PurchaseChecks):
    """Takes any certified key for a number's."""

    def check_key(self, read: Signed, card: CardRow) -> None:
        pass


class TerminalsWord(PurchaseChecks):
    """Decides on the terminal's 9F34 in place of the card's CVR."""

    def prove(self, read: Signed, purchase: EmvPurchase, card: CardRow) -> Proved:
        results = profile.CDOL1.split(purchase.cdol_data)[0x9F34]
        verified = results[0] & 0x3F != 0x1F and results[2] == 2
        return replace(super().prove(read, purchase, card), device_verified=verified)


class AnyMerchant:
    """Does not hold what the phone was shown against the terminal's registration."""

    def check_merchant(self, proved: Proved, terminal: Any) -> None:
        pass


class FreeCounter(Asked):
    """A purchase whose counter is not looked up, nor kept unique."""

    def atc_ref(self) -> bytes:
        return sha256(b"atc", self.purchase.sale)


class FreeOpening(Asked):
    """A purchase whose opening is not looked up, nor kept unique."""

    def opening_ref(self) -> bytes:
        return sha256(b"opening", self.purchase.sale)


def _as(asked: Asked, kind: type[Asked]) -> Asked:
    made = type(kind.__name__, (kind, type(asked)), {})
    return made(**{each.name: getattr(asked, each.name) for each in fields(asked)})


class AnyCounter:
    """No UNIQUE(PAN, ATC)."""

    def check(self, *found: Any) -> Asked:
        return _as(super().check(*found), FreeCounter)


class AnyOpening:
    """No UNIQUE(PAN, opening)."""

    def check(self, *found: Any) -> Asked:
        return _as(super().check(*found), FreeOpening)


class Altered:
    """Rows as a step sees them when those of one table say something else in some columns."""

    def __init__(self, rows: Rows, table: Table[Any], **changes: Any) -> None:
        self._rows, self._table, self._changes = rows, table, changes

    def _seen(self, table: Table[Any], row: Any) -> Any:
        return replace(row, **self._changes) if table is self._table and row is not None else row

    def get(self, table: Table[Any], *key: Value) -> Any:
        return self._seen(table, self._rows.get(table, *key))

    def find(self, table: Table[Any], column: str, value: Value) -> tuple[Any, ...]:
        return tuple(self._seen(table, row) for row in self._rows.find(table, column, value))


def seeing(table: Table[Any], **changes: Any) -> type:
    """A decision over rows in which these columns say this."""

    class Seeing:
        def decide(self, rows: Rows, facts: Any, now_s: int, entropy: Entropy) -> Decision:
            return super().decide(Altered(rows, table, **changes), facts, now_s, entropy)

    return Seeing


ManyUses = seeing(CARDS, uses=1000)
"""Cards have no end of uses."""


# --- at the counter ------------------------------------------------------------------------------------------------
def shopper(world: World, name: str = "phone-1", number: int = 2) -> tuple[Phone, str]:
    """A phone with cards, and its account."""
    phone = world.ready(name)
    tid = world.service(phone, world.account(phone))
    world.cards(phone, tid, number=number)
    return phone, tid


def expect(counter: Counter, purchase: EmvPurchase, reason: str) -> None:
    """The TSM declines for exactly this reason, charges nothing, and tells the merchant the verdict only."""
    before = charged(counter.world)
    decided = counter.authorize(purchase)
    verdict = ("verify", "65") if reason == "VERIFICATION_MISSING" else ("declined", "05")
    assert (counter.reason(purchase.sale), (decided.verdict, decided.response_code)) == (reason, verdict)
    assert charged(counter.world) == before


def won(counter: Counter, purchase: EmvPurchase) -> int:
    """The purchase is approved: what it charged."""
    before = charged(counter.world)
    decided = counter.authorize(purchase)
    assert (decided.verdict, counter.reason(purchase.sale)) == ("approved", "")
    return charged(counter.world) - before


def charged(world: World) -> int:
    """What all accounts at the TSM have spent."""
    return sum(row.spent_minor for row in world.parties[TSM].store.scan(TID_LIST))


def again(world: World, purchase: EmvPurchase) -> EmvPurchase:
    """The same data as another sale."""
    return replace(purchase, sale=world.entropy.bytes(16))
