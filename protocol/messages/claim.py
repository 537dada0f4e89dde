"""SETTLE between TSM and bank: one claim per grant and period, alike for the thrifty and the lavish (design §3 SETTLE).

Before the close both totals are in whole tranches; what is spent beyond the last tranche is carried.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from protocol.schema import Currency, Digest, Flag, Identifier, Message, Minor, Uint

MAX_SEQUENCE: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim(Message):
    """T → B `E_B(S_T(AID, H(SID), sequence, cumulative totals, Merkle root))`.

    `claimed_minor` is all that was ever claimed under the grant, `credited_minor` all that was given back since (the
    credit note); the bank owes their difference. `root` is over this period's receipts, salted and padded. `closing`
    claims are exact: the grant has ended.
    """

    NAME: ClassVar[str] = "claim"
    aid: Identifier
    sid_digest: Digest
    sequence: Annotated[int, Uint(MAX_SEQUENCE)]
    claimed_minor: Minor
    credited_minor: Minor
    currency: Currency
    root: Digest
    closing: Annotated[bool, Flag()]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimAccepted(Message):
    """B → T `E_T(S_B(AID, H(SID), sequence, totals, root))`: the bank owes the TSM the difference of the totals."""

    NAME: ClassVar[str] = "claim-accepted"
    aid: Identifier
    sid_digest: Digest
    sequence: Annotated[int, Uint(MAX_SEQUENCE)]
    claimed_minor: Minor
    credited_minor: Minor
    currency: Currency
    root: Digest
    closing: Annotated[bool, Flag()]
