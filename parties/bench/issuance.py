"""What a batch of single-use cards costs the TSM, beside the certificate signatures that it can't do without."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from parties.assembly.roles import build_tsm
from parties.bench.town import PHONE, TSM, Town, settle
from protocol.card.rsa import ICC_BITS, generate_key
from protocol.envelope import Wire
from protocol.roles.tsm.issuer import EmvIssuer
from protocol.roles.wallet import Call, Exchanged, issue_cards

BATCH: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuanceCost:
    """Processor time for a batch of 32 in milliseconds, at best of all rounds: other work on the machine only adds.

    `issue_ms` is the whole of CARD-3/4 at the TSM with its database, `signatures_ms` 32 private operations of the
    issuer's key alone, `card_keys_ms` the SE's 32 key pairs, made ahead of need.
    """

    rounds: int
    issue_ms: float
    signatures_ms: float
    ratio: float
    card_keys_ms: float


def measure_issuance(town: Town, tid: str, rounds: int, progress: Callable[[], None]) -> IssuanceCost:
    """Issue and sign in turns. The TSM's work is on the calling thread, which alone is counted."""
    opened = town.citizens[TSM].opened
    issuer, entropy = build_tsm(opened).issuer, opened.entropy
    assert isinstance(issuer, EmvIssuer)
    private = issuer.issuer.private
    block = b"\x6a" + entropy.bytes(private.public.size_bytes - 1)
    issued, signed, made = [], [], []
    for _ in range(rounds):
        progress()
        issued.append(_issue(town, tid))
        signed.append(_thread_ms(lambda: [private.apply(block, entropy) for _ in range(BATCH)]))
        made.append(_thread_ms(lambda: generate_key(ICC_BITS)) * BATCH)
    issue_ms, signatures_ms = min(issued), min(signed)
    return IssuanceCost(
        rounds=rounds, issue_ms=issue_ms, signatures_ms=signatures_ms, ratio=issue_ms / signatures_ms,
        card_keys_ms=min(made),
    )  # fmt: skip


def _issue(town: Town, tid: str) -> float:
    """One batch through all five messages; the processor time of IssueCards in milliseconds."""
    flow, spent_ms, reply = issue_cards(town.wallet(), tsm=TSM, tid=tid, number=BATCH), 0.0, Wire(cose=b"")
    try:
        call: Call = next(flow)
        while True:
            peer = PHONE if call.peer == "se" else call.peer
            if call.rpc == "Tsm.IssueCards":
                settle()  # the phone is another machine
            before_ns = time.thread_time_ns()
            reply = town.call(peer, call.rpc, call.wire)
            if call.rpc == "Tsm.IssueCards":
                spent_ms = (time.thread_time_ns() - before_ns) / 1e6
            call = flow.send(Exchanged(sent=call.wire, reply=reply))
    except StopIteration:
        return spent_ms


def _thread_ms(work: Callable[[], object]) -> float:
    before_ns = time.thread_time_ns()
    work()
    return (time.thread_time_ns() - before_ns) / 1e6
