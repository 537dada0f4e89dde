"""What a batch of single-use cards costs the TSM, beside the certificate signatures that it can't do without."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from parties.assembly.roles import build_tsm
from parties.bench.town import PHONE, TSM, Town, settle
from protocol.card.rsa import ICC_BITS, generate_key
from protocol.envelope import Wire
from protocol.roles.tsm.issuer import EmvIssuer
from protocol.roles.wallet import Call, Exchanged, issue_cards

BATCH: Final = 32
_RPC: Final = "Tsm.IssueCards"
_AT_ONCE: Final = 10
"""Batches that are asked for before any is issued: a TSM at work, not one that sleep has made forget its caches."""


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
    """Issue and sign in turns, at a TSM that is at work: first the phone asks for some batches, then the TSM issues
    one after the other. Its work is on the calling thread, which alone is counted."""
    opened = town.citizens[TSM].opened
    issuer, entropy = build_tsm(opened).issuer, opened.entropy
    assert isinstance(issuer, EmvIssuer)
    private = issuer.issuer.private
    block = b"\x6a" + entropy.bytes(private.public.size_bytes - 1)
    issued, signed, made = [], [], []
    for first in range(0, rounds, _AT_ONCE):
        requests = []
        for _ in range(min(_AT_ONCE, rounds - first)):
            progress()
            requests.append(_request(town, tid))
        settle()  # the phone is another machine
        for request in requests:
            issued.append(_thread_ms(partial(town.call, TSM, _RPC, request)))
            signed.append(_thread_ms(lambda: [private.apply(block, entropy) for _ in range(BATCH)]))
        made.append(_thread_ms(lambda: generate_key(ICC_BITS)) * BATCH)
    issue_ms, signatures_ms = min(issued), min(signed)
    return IssuanceCost(
        rounds=rounds, issue_ms=issue_ms, signatures_ms=signatures_ms, ratio=issue_ms / signatures_ms,
        card_keys_ms=min(made),
    )  # fmt: skip


def _request(town: Town, tid: str) -> Wire:
    """A fresh CARD-3. What becomes of its cards is the phone's business, which is not measured."""
    flow = issue_cards(town.wallet(), tsm=TSM, tid=tid, number=BATCH)
    call: Call = next(flow)
    while call.rpc != _RPC:
        reply = town.call(PHONE if call.peer == "se" else call.peer, call.rpc, call.wire)
        call = flow.send(Exchanged(sent=call.wire, reply=reply))
    return call.wire


def _thread_ms(work: Callable[[], object]) -> float:
    before_ns = time.thread_time_ns()
    work()
    return (time.thread_time_ns() - before_ns) / 1e6
