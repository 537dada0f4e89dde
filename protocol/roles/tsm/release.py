"""Giving grants back to the bank: on closing, and after an outage that left a grant's outcome unknown.

A release names AID and session, frees that grant only, and does no harm when repeated (formal/grant).
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Final

from protocol import cose, envelope
from protocol.engine import Peers
from protocol.envelope import OVERHEAD_BYTES, REQUEST_LIFETIME_S, Stamp, Wire
from protocol.errors import FieldMismatch, GrantUnknown
from protocol.messages.service import GrantRelease, GrantReleased
from protocol.pki import Use
from protocol.ports import Entropy
from protocol.roles.party import known_party
from protocol.roles.tsm.party import Tsm
from protocol.roles.tsm.tables import TID_LIST, TidEntry
from protocol.rows import Decision, Key, Rows, Store, Unit, Update, Where
from protocol.types import Role

RELEASE_RPC: Final = "Bank.ReleaseGrant"
STALE_AFTER_S: Final = 2 * REQUEST_LIFETIME_S
"""By then neither the question to the bank nor the request that caused it can be repeated: both are out of date."""
ENDS: Final = {"EXPECT_BANK_APPROVAL": "REFUSED", "EXPECT_RELEASE": "RELEASED"}
"""What becomes of an entry whose outcome stayed unknown, once the bank holds no grant for it."""


def sealed_release(tsm: Tsm, entry: TidEntry, now_s: int, entropy: Entropy) -> Wire:
    """`E_B(S_T(AID, SID))`."""
    release = GrantRelease(aid=entry.aid, sid=entry.sid)
    signed = envelope.sign(tsm.keys.signer, release, audience=entry.bank, stamp=Stamp.fresh(now_s, entropy))
    key = tsm.directory.named(entry.bank, Use.SEAL).key
    return Wire(cose=cose.seal(key, name=GrantRelease.NAME, plaintext=signed))


def open_released(tsm: Tsm, entry: TidEntry, question: Wire, answer: Wire, now_s: int) -> GrantReleased:
    """The bank's `E_T(S_B(AID, SID))`. Raises: what opening raises; FieldMismatch for another grant."""
    signed = cose.unseal(
        tsm.keys.seal, answer.cose, name=GrantReleased.NAME, max_bytes=GrantReleased.MAX_BYTES + 2 * OVERHEAD_BYTES,
        request_digest=question.digest,
    )  # fmt: skip
    bank = known_party(tsm.directory, entry.bank, Role.BANK)
    released = envelope.open_signed(
        GrantReleased, signed, bank.key, issuer=bank.name, audience=tsm.keys.name, now_s=now_s,
        request_digest=question.digest,
    ).message  # fmt: skip
    if released != GrantReleased(aid=entry.aid, sid=entry.sid):
        raise FieldMismatch("the bank released something else")
    return released


def give_back_stale(tsm: Tsm, store: Store, peers: Peers, now_s: int, entropy: Entropy) -> int:
    """Release every grant whose outcome is unknown since `STALE_AFTER_S`, or an AID would stay granted for nothing.

    Returns how many entries ended. Raises: Unavailable and others if a bank can't be asked; the rest is tried later.
    """
    ended = 0
    for state in ENDS:
        for entry in store.read(Where(TID_LIST, "state", state)).find(TID_LIST, "state", state):
            if entry.asked_at_s + STALE_AFTER_S < now_s:
                question = sealed_release(tsm, entry, now_s, entropy)
                with contextlib.suppress(GrantUnknown):  # the bank never granted it, or has it back already
                    open_released(tsm, entry, question, peers.call(entry.bank, RELEASE_RPC, question), now_s)
                store.apply(_ending(entry))
                ended += 1
    return ended


def _ending(seen: TidEntry) -> Unit:
    def decide(rows: Rows) -> Decision:
        entry = rows.get(TID_LIST, seen.sid_digest)
        if entry != seen:  # it was answered meanwhile
            return Decision()
        return Decision(writes=(Update(TID_LIST, replace(seen, state=ENDS[seen.state])),))

    return Unit((Key(TID_LIST, (seen.sid_digest,)),), decide)
