"""The hashes that bind things without showing them: com, the card root, a claim's receipts, possession, handles.

Each is domain-separated by a label; leaves and nodes of the tree have different prefixes (design §3 TRACE).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from protocol.codec import encode
from protocol.crypto import same, sha256
from protocol.errors import EvidenceIncomplete
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


def claim_leaf(*, salt: bytes, receipt_digest: bytes) -> bytes:
    """H(salt, H(receipt)): one receipt in a claim's tree. Without the salt it can't be guessed (design §3 SETTLE)."""
    return sha256(_LEAF, encode([salt, receipt_digest]))


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """Root over at least one leaf; a lone node at the end of a level rises as it is (RFC 6962 §2.1 shape)."""
    level = list(leaves)
    while len(level) > 1:
        paired = [sha256(_NODE, left, right) for left, right in zip(level[::2], level[1::2], strict=False)]
        level = paired + level[len(paired) * 2 :]
    return level[0]


def merkle_path(leaves: Sequence[bytes], position: int) -> tuple[bytes, ...]:
    """The nodes that lead from the leaf at `position` (from 0) to the root, the leaf's own neighbor first."""
    level, path = list(leaves), []
    for left in _levels(position, len(level)):
        if left is not None:
            path.append(level[position + (1 if left else -1)])
        # A lone node is its own root.
        level = [merkle_root(level[start : start + 2]) for start in range(0, len(level), 2)]
        position //= 2
    return tuple(path)


def verify_merkle_path(leaf: bytes, *, position: int, number: int, path: Sequence[bytes], root: bytes) -> bytes:
    """`leaf`, shown to be the one at `position` of `number` leaves under `root`.

    Raises: EvidenceIncomplete if it is not, also when the path is longer or shorter than such a tree's.
    """
    if not 0 <= position < number:
        raise EvidenceIncomplete("no such leaf")
    sides = [left for left in _levels(position, number) if left is not None]
    if len(path) != len(sides):
        raise EvidenceIncomplete("the path is of another tree")
    node = leaf
    for left, beside in zip(sides, path, strict=True):
        node = sha256(_NODE, node, beside) if left else sha256(_NODE, beside, node)
    if not same(node, root):
        raise EvidenceIncomplete("the path does not lead to the root")
    return leaf


def _levels(position: int, number: int) -> Iterator[bool | None]:
    """From the leaves up: is the node on the way a left one, or a right one, or alone at the end (None)?"""
    while number > 1:
        is_alone = position == number - 1 and number % 2 == 1
        yield None if is_alone else position % 2 == 0
        position, number = position // 2, (number + 1) // 2
