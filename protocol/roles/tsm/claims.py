"""SETTLE with the banks: one claim per grant and period, alike whether anything was bought or not (design §3 SETTLE).

All grants are claimed at the same time. Totals are in whole tranches, and what is spent beyond the last one is carried;
only the claim that closes a grant is exact. A claim is stored before it is sent, and the same bytes are sent until the
bank answers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from protocol import cose, envelope
from protocol.crypto import sha256
from protocol.engine import EVIDENCE, NOT_AN_ANSWER, Evidence, Peers
from protocol.envelope import OVERHEAD_BYTES, Stamp, Wire
from protocol.errors import FieldMismatch, GrantUnknown, OverClaim, PeerAnswerInvalid, ProtocolError
from protocol.messages.claim import Claim, ClaimAccepted
from protocol.messages.statement import EntryKind
from protocol.pki import Use
from protocol.ports import Entropy
from protocol.roles.ledger import bank_account, grant_account, post
from protocol.roles.party import known_party
from protocol.roles.tsm.claim_tree import LEAVES, SALT_BYTES, Receipt, claim_root, unclaimed
from protocol.roles.tsm.party import Tsm, TsmPolicy
from protocol.roles.tsm.tables import CLAIMS, PURCHASES, SECOND_DRAWS, TID_LIST, ClaimRow, TidEntry
from protocol.rows import Conflict, Decision, Insert, Key, Read, Rows, Store, Unit, Update, Where, Write
from protocol.types import MAX_LIFETIME_S, MAX_SKEW_S, Role

CLAIM_RPC: Final = "Bank.SubmitClaim"
ENDED: Final = frozenset({"RELEASED", "REFUSED"})
"""States of a grant in which nothing more can be bought with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What was claimed and credited under a grant so far, in minor units."""

    claimed_minor: int = 0
    credited_minor: int = 0

    @property
    def owed_minor(self) -> int:
        """What the bank owes by them."""
        return self.claimed_minor - self.credited_minor

    def moved_to(self, owed_minor: int) -> Totals:
        """Totals that owe `owed_minor`: what is more is claimed, what is less is credited, and neither falls."""
        more_minor = owed_minor - self.owed_minor
        if more_minor > 0:
            return replace(self, claimed_minor=self.claimed_minor + more_minor)
        return replace(self, credited_minor=self.credited_minor - more_minor)


def totals_of(row: ClaimRow | None) -> Totals:
    """Those that a claim states; nothing before the first."""
    return Totals() if row is None else Totals(claimed_minor=row.claimed_minor, credited_minor=row.credited_minor)


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """A grant, its last claim, and the last one that the bank accepted."""

    entry: TidEntry
    last: ClaimRow | None
    accepted: ClaimRow | None

    @classmethod
    def of(cls, entry: TidEntry, claims: Iterable[ClaimRow]) -> History:
        """From all claims of the grant."""
        ordered = sorted(claims, key=lambda row: row.sequence)
        accepted = [row for row in ordered if row.state == "ACCEPTED"]
        return cls(
            entry=entry, last=ordered[-1] if ordered else None, accepted=accepted[-1] if accepted else None
        )  # fmt: skip

    @property
    def is_refused(self) -> bool:
        """Did the bank refuse the last claim?"""
        return self.last is not None and self.last.state == "REFUSED"

    @property
    def is_credited(self) -> bool:
        """Has less been spent, by refunds, than was claimed?"""
        return self.entry.spent_minor < totals_of(self.accepted).owed_minor

    def is_due(self, policy: TsmPolicy, now_s: int, *, early: bool, again: bool) -> bool:
        """Is a claim to be made now? `early` closes the present period, `again` takes up what the bank refused.

        A grant that was closed has claims for its credit notes only.
        """
        if self.entry.state == "EXPECT_BANK_APPROVAL" or (self.last is not None and self.last.state == "EXPECT_BANK"):
            return False
        if self.entry.claims == "CLOSED" and not self.is_credited:
            return False
        if self.is_refused:
            return again
        since_s = self.entry.asked_at_s if self.last is None else self.last.made_at_s
        return early or since_s // policy.claim_period_s < now_s // policy.claim_period_s

    def has_ended(self, now_s: int) -> bool:
        """Has the grant ended? Purchases decided just before its expiry are in by then."""
        entry = self.entry
        return entry.state in ENDED or entry.claims == "CLOSED" or entry.aid_exp_time_s + MAX_SKEW_S <= now_s

    def next_totals(self, policy: TsmPolicy, *, closing: bool) -> Totals:
        """Exact when closing; else the whole tranches within what is spent, and the rest is carried."""
        spent_minor = self.entry.spent_minor
        carried_minor = 0 if closing else spent_minor % policy.tranche_minor
        return totals_of(self.accepted).moved_to(spent_minor - carried_minor)


def history_of(store: Store, entry: TidEntry) -> History:
    """A grant with what was claimed of it."""
    sid_digest = entry.sid_digest
    return History.of(entry, store.read(Where(CLAIMS, "sid_digest", sid_digest)).find(CLAIMS, "sid_digest", sid_digest))


def due_claims(tsm: Tsm, store: Store, now_s: int, *, early: bool = False, again: bool = False) -> tuple[History, ...]:
    """The grants of which a claim is to be made now, in an order that has nothing to do with purchases."""
    entries = (
        entry for claims in ("OPEN", "CLOSED")
        for entry in store.read(Where(TID_LIST, "claims", claims)).find(TID_LIST, "claims", claims)
    )  # fmt: skip
    found = (history_of(store, entry) for entry in sorted(entries, key=lambda entry: entry.sid_digest))
    return tuple(history for history in found if history.is_due(tsm.policy, now_s, early=early, again=again))


def make_claim(tsm: Tsm, store: Store, history: History, now_s: int, entropy: Entropy) -> ClaimRow | None:
    """Store the next claim, sealed. None if the grant or one of its purchases changed meanwhile: look again.

    A claim that was refused is made anew under its number and over its receipts; its totals too, if they were what the
    bank refused.
    """
    if history.is_refused:
        assert history.last is not None
        return _apply(store, _again(tsm, history, history.last, now_s, entropy))
    return _apply(store, _next(tsm, store, history, now_s, entropy))


def _apply(store: Store, unit: Unit) -> ClaimRow | None:
    try:
        made: ClaimRow | None = store.apply(unit).reply
    except Conflict:  # another process made it
        return None
    return made


def _next(tsm: Tsm, store: Store, history: History, now_s: int, entropy: Entropy) -> Unit:
    entry, last = history.entry, history.last
    waiting = unclaimed(store, entry.sid_digest)
    receipts, salt = waiting[:LEAVES], entropy.bytes(SALT_BYTES)
    closing = history.has_ended(now_s) and len(waiting) <= LEAVES  # after the close no claim takes a receipt
    totals = history.next_totals(tsm.policy, closing=closing)
    row = _signed(
        tsm, entry,
        ClaimRow(
            sid_digest=entry.sid_digest, sequence=1 if last is None else last.sequence + 1,
            claimed_minor=totals.claimed_minor, credited_minor=totals.credited_minor,
            root=claim_root(salt, receipts), salt=salt, closing=closing, made_at_s=now_s,
            request=b"", digest=b"", state="EXPECT_BANK", refusal="",
        ),
        now_s, entropy,
    )  # fmt: skip
    reads: tuple[Read, ...] = (
        Key(TID_LIST, (entry.sid_digest,)), Key(CLAIMS, (row.sid_digest, row.sequence)),
        *(Key(PURCHASES, receipt.name) for receipt in receipts),
        *(Key(SECOND_DRAWS, receipt.name) for receipt in receipts if receipt.second is not None),
    )  # fmt: skip

    def decide(rows: Rows) -> Decision:
        if rows.get(TID_LIST, entry.sid_digest) != entry or rows.get(CLAIMS, row.sid_digest, row.sequence) is not None:
            return Decision()
        if any(not _is_as_seen(rows, receipt) for receipt in receipts):
            return Decision()
        return Decision(
            writes=(Insert(CLAIMS, row), *(_taken(receipt, row.sequence) for receipt in receipts)), reply=row
        )

    return Unit(reads, decide)


def _is_as_seen(rows: Rows, receipt: Receipt) -> bool:
    seen_second = receipt.second is None or rows.get(SECOND_DRAWS, *receipt.name) == receipt.second
    return seen_second and rows.get(PURCHASES, *receipt.name) == receipt.purchase


def _taken(receipt: Receipt, sequence: int) -> Write:
    if receipt.second is not None:
        return Update(SECOND_DRAWS, replace(receipt.second, claim=sequence))
    return Update(PURCHASES, replace(receipt.purchase, claim=sequence))


def _again(tsm: Tsm, history: History, refused: ClaimRow, now_s: int, entropy: Entropy) -> Unit:
    entry, row = history.entry, replace(refused, state="EXPECT_BANK", refusal="", made_at_s=now_s)
    if refused.refusal == OverClaim.code:
        totals = history.next_totals(tsm.policy, closing=refused.closing)
        row = replace(row, claimed_minor=totals.claimed_minor, credited_minor=totals.credited_minor)
    return _replacing(refused, _signed(tsm, entry, row, now_s, entropy), entry)


def _replacing(seen: ClaimRow, row: ClaimRow, entry: TidEntry) -> Unit:
    """`row` in the place of `seen`, if that and the grant are as they were."""

    def decide(rows: Rows) -> Decision:
        if rows.get(CLAIMS, seen.sid_digest, seen.sequence) != seen or rows.get(TID_LIST, seen.sid_digest) != entry:
            return Decision()
        return Decision(writes=(Update(CLAIMS, row),), reply=row)

    return Unit((Key(CLAIMS, (seen.sid_digest, seen.sequence)), Key(TID_LIST, (seen.sid_digest,))), decide)


def claim_of(entry: TidEntry, row: ClaimRow) -> Claim:
    """What the claim says."""
    return Claim(
        aid=entry.aid, sid_digest=row.sid_digest, sequence=row.sequence, claimed_minor=row.claimed_minor,
        credited_minor=row.credited_minor, currency=entry.currency, root=row.root, closing=row.closing,
    )  # fmt: skip


def _signed(tsm: Tsm, entry: TidEntry, row: ClaimRow, now_s: int, entropy: Entropy) -> ClaimRow:
    """The row with its request `E_B(S_T(…))`. It lives as long as a request may, since a bank may be out of reach."""
    claim = claim_of(entry, row)
    stamp = Stamp.fresh(now_s, entropy)
    signed = envelope.sign(
        tsm.keys.signer, claim, audience=entry.bank, stamp=stamp, lifetime_s=MAX_LIFETIME_S
    )  # fmt: skip
    key = tsm.directory.named(entry.bank, Use.SEAL).key
    wire = Wire(cose=cose.seal(key, name=Claim.NAME, plaintext=signed))
    return replace(row, request=wire.cose, digest=wire.digest)


# --- sending ---------------------------------------------------------------------------------------------------------
def claims_under_way(store: Store) -> tuple[ClaimRow, ...]:
    """The claims that no bank has answered yet."""
    return store.read(Where(CLAIMS, "state", "EXPECT_BANK")).find(CLAIMS, "state", "EXPECT_BANK")


def send_claim(tsm: Tsm, store: Store, peers: Peers, row: ClaimRow, now_s: int, entropy: Entropy) -> ClaimRow:
    """Send a stored claim and record the answer; the row as it is then, ACCEPTED or REFUSED.

    One that has outlived its signature is signed anew and says the same: a bank that accepted it acknowledges it.
    Raises: Unavailable and others if the bank can't be asked, PeerAnswerInvalid for an answer that is none of the
    bank's; the claim stays and is sent again.
    """
    entry = store.read(Key(TID_LIST, (row.sid_digest,))).get(TID_LIST, row.sid_digest)
    assert entry is not None  # entries are never deleted
    if row.made_at_s + MAX_LIFETIME_S <= now_s:
        fresh = _signed(tsm, entry, replace(row, made_at_s=now_s), now_s, entropy)
        row = _apply(store, _replacing(row, fresh, entry)) or row
    question = Wire(cose=row.request)
    try:
        answer = peers.call(entry.bank, CLAIM_RPC, question)
    except ProtocolError as refusal:
        if refusal.status in NOT_AN_ANSWER:
            raise
        return _settled(store, _refused(row, refusal))
    try:
        signed = open_accepted(tsm, entry, row, answer, now_s)
    except ProtocolError as exc:
        raise PeerAnswerInvalid(exc.code) from exc
    return _settled(store, record_answer(row, signed, now_s))


def _settled(store: Store, unit: Unit) -> ClaimRow:
    row: ClaimRow = store.apply(unit).reply
    return row


def open_accepted(tsm: Tsm, entry: TidEntry, row: ClaimRow, answer: Wire, now_s: int) -> bytes:
    """The bank's `S_B(…)` on this very claim, as evidence. Raises: what opening raises; FieldMismatch for another."""
    plaintext = cose.unseal(
        tsm.keys.seal, answer.cose, name=ClaimAccepted.NAME, max_bytes=ClaimAccepted.MAX_BYTES + 2 * OVERHEAD_BYTES,
        request_digest=row.digest,
    )  # fmt: skip
    bank = known_party(tsm.directory, entry.bank, Role.BANK)
    opened = envelope.open_signed(
        ClaimAccepted, plaintext, bank.key, issuer=bank.name, audience=tsm.keys.name, now_s=now_s,
        request_digest=row.digest,
    )  # fmt: skip
    if opened.message.plain() != claim_of(entry, row).plain():
        raise FieldMismatch("the bank accepted something else")
    return opened.wire


def record_answer(sent: ClaimRow, signed: bytes, now_s: int) -> Unit:
    """The unit that records the bank's acceptance: the entries of what this claim adds to the last accepted one."""

    def decide(rows: Rows) -> Decision:
        row, entry = rows.get(CLAIMS, sent.sid_digest, sent.sequence), rows.get(TID_LIST, sent.sid_digest)
        assert entry is not None
        if row != sent:  # it was answered meanwhile
            return Decision(reply=row)
        accepted = replace(sent, state="ACCEPTED")
        before = totals_of(rows.get(CLAIMS, sent.sid_digest, sent.sequence - 1))
        kept = Evidence(digest=sent.digest, message=ClaimAccepted.NAME, received_at_s=now_s, signed=signed)
        closed = (Update(TID_LIST, replace(entry, claims="CLOSED")),) if sent.closing else ()
        return Decision(
            writes=(
                Update(CLAIMS, accepted), Insert(EVIDENCE, kept), *closed, *_posted(entry, before, sent, now_s),
            ),
            reply=accepted,
        )  # fmt: skip

    reads = (
        Key(CLAIMS, (sent.sid_digest, sent.sequence)), Key(CLAIMS, (sent.sid_digest, sent.sequence - 1)),
        Key(TID_LIST, (sent.sid_digest,)),
    )  # fmt: skip
    return Unit(reads, decide)


def _posted(entry: TidEntry, before: Totals, sent: ClaimRow, now_s: int) -> tuple[Write, ...]:
    bank, grant = bank_account(entry.bank), grant_account(entry.sid_digest)
    ref, after = sha256(claim_of(entry, sent).to_bytes()), totals_of(sent)
    return (
        *post(
            EntryKind.CLAIM, debit=bank, credit=grant, amount_minor=after.claimed_minor - before.claimed_minor,
            currency=entry.currency, ref=ref, at_s=now_s,
        ),
        *post(
            EntryKind.CREDIT_NOTE, debit=grant, credit=bank,
            amount_minor=after.credited_minor - before.credited_minor, currency=entry.currency, ref=ref, at_s=now_s,
        ),
    )  # fmt: skip


def _refused(sent: ClaimRow, refusal: ProtocolError) -> Unit:
    """Kept until the operator asks again. What was given back as unknown, and never granted, is closed with that."""

    def decide(rows: Rows) -> Decision:
        row, entry = rows.get(CLAIMS, sent.sid_digest, sent.sequence), rows.get(TID_LIST, sent.sid_digest)
        assert entry is not None
        if row != sent:
            return Decision(reply=row)
        refused = replace(sent, state="REFUSED", refusal=refusal.code)
        never = entry.state == "REFUSED" and isinstance(refusal, GrantUnknown)
        closed = (Update(TID_LIST, replace(entry, claims="CLOSED")),) if never else ()
        return Decision(writes=(Update(CLAIMS, refused), *closed), reply=refused)

    return Unit((Key(CLAIMS, (sent.sid_digest, sent.sequence)), Key(TID_LIST, (sent.sid_digest,))), decide)
