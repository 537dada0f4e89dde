"""FREEZE at the TSM: it fetches each bank's list every minute and holds to it (design §3 FREEZE; CN-11)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from protocol import cose, envelope
from protocol.engine import EVIDENCE, Evidence, Peers
from protocol.envelope import OVERHEAD_BYTES, Opened, Stamp, Wire
from protocol.errors import NotYetValid
from protocol.messages.stops import ListStops, StopKind, StopList
from protocol.ports import Entropy
from protocol.roles.party import known_party
from protocol.roles.tsm.party import Tsm
from protocol.roles.tsm.tables import STOP_LISTS, TID_LIST, StopListRow, TidEntry
from protocol.rows import Decision, Insert, Key, Read, Rows, Store, Unit, Update, Where, Write
from protocol.types import MAX_SKEW_S, Role

LIST_RPC: Final = "Bank.ListStops"


def refresh_stops(tsm: Tsm, bank: str, store: Store, peers: Peers, now_s: int, entropy: Entropy) -> int:
    """Ask `bank` for its list and hold to it; how many accounts it stops.

    Raises: Unavailable and others when it can't be asked, what `open_list` raises when it is not the bank's list; then
    the list before stays, until it is too old.
    """
    signed = envelope.sign(tsm.keys.signer, ListStops(), audience=bank, stamp=Stamp.fresh(now_s, entropy))
    question = Wire(cose=signed)
    opened = open_list(tsm, bank, question, peers.call(bank, LIST_RPC, question), now_s)
    evidence = Evidence(digest=question.digest, message=StopList.NAME, received_at_s=now_s, signed=opened.wire)
    store.apply(holding(bank, opened.message, evidence))
    return len(opened.message.stops)


def open_list(tsm: Tsm, bank: str, question: Wire, answer: Wire, now_s: int) -> Opened[StopList]:
    """The bank's `E_T(S_B(minute, [AID, kind]…))` in answer to this very question.

    Raises: what opening raises; NotYetValid for a minute that has not come, which would count as fresh for too long.
    """
    plaintext = cose.unseal(
        tsm.keys.seal, answer.cose, name=StopList.NAME, max_bytes=StopList.MAX_BYTES + 2 * OVERHEAD_BYTES,
        request_digest=question.digest,
    )  # fmt: skip
    identity = known_party(tsm.directory, bank, Role.BANK)
    opened = envelope.open_signed(
        StopList, plaintext, identity.key, issuer=bank, audience=tsm.keys.name, now_s=now_s,
        request_digest=question.digest,
    )  # fmt: skip
    if opened.message.minute_s > now_s + MAX_SKEW_S:
        raise NotYetValid
    return opened


def holding(bank: str, listed: StopList, evidence: Evidence) -> Unit:
    """All of the list or nothing, of this bank's grants only. A list older than the one before says nothing new."""
    kinds = {stop.aid: stop.kind.value for stop in listed.stops}
    reads: tuple[Read, ...] = (
        Key(STOP_LISTS, (bank,)), Where(TID_LIST, "bank_stop", StopKind.FROZEN.value),
        *(Where(TID_LIST, "aid", aid) for aid in kinds),
    )  # fmt: skip

    def decide(rows: Rows) -> Decision:
        before = rows.get(STOP_LISTS, bank)
        if before is not None and before.minute_s > listed.minute_s:
            return Decision()
        row = StopListRow(bank=bank, minute_s=listed.minute_s)
        touched: dict[bytes, TidEntry] = {
            entry.sid_digest: entry
            for found in (
                rows.find(TID_LIST, "bank_stop", StopKind.FROZEN.value),
                *(rows.find(TID_LIST, "aid", aid) for aid in kinds),
            )
            for entry in found
            if entry.bank == bank
        }
        changed = tuple(
            Update(TID_LIST, after) for entry in touched.values()
            if (after := replace(entry, bank_stop=_after(entry, kinds.get(entry.aid, "")))) != entry
        )  # fmt: skip
        kept: tuple[Write, ...] = (Insert(EVIDENCE, evidence),) if changed else ()
        write: Write = Insert(STOP_LISTS, row) if before is None else Update(STOP_LISTS, row)
        return Decision(writes=(write, *changed, *kept))

    return Unit(reads, decide)


def _after(entry: TidEntry, listed: str) -> str:
    """What is stopped now: a freeze ends when the bank's list no longer has it, a deletion never."""
    return entry.bank_stop if entry.bank_stop == StopKind.DELETED else listed
