"""The hashes that bind things without showing them: com, the card root, possession, session handles.

Each is domain-separated by a label; leaves and nodes of the tree have different prefixes (design §3 TRACE).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from protocol.codec import encode
from protocol.crypto import sha256
from protocol.types import HANDLE_BYTES

_LEAF: Final = b"\x00"
_NODE: Final = b"\x01"


def commitment(*, tid: str, pk_tid: bytes, sid: bytes, r: bytes) -> bytes:
    """com = H(TID, PK_TID, SID, r): shown to the bank, opened to the TSM only (design §3 TID-3)."""
    return sha256(encode(["tapveil-com", tid, pk_tid, sid, r]))


def possession_digest(*, tsm: str, n_t: bytes) -> bytes:
    """H("tapveil-card-possession", ID_T, N_T): what S_C signs (design §3 CARD-3)."""
    return sha256(encode(["tapveil-card-possession", tsm, n_t]))


def card_session(n_t: bytes) -> bytes:
    """The handle by which the TSM finds the CARD session, without showing N_T outside the encryption."""
    return sha256(encode(["tapveil-card-session", n_t]))[:HANDLE_BYTES]


def card_leaf(*, salt: bytes, modulus: bytes) -> bytes:
    """H(salt, PK_C): one leaf of the batch's tree."""
    return sha256(_LEAF, encode([salt, modulus]))


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """Root over at least one leaf; a lone node at the end of a level rises as it is (RFC 6962 §2.1 shape)."""
    level = list(leaves)
    while len(level) > 1:
        paired = [sha256(_NODE, left, right) for left, right in zip(level[::2], level[1::2], strict=False)]
        level = paired + level[len(paired) * 2 :]
    return level[0]
