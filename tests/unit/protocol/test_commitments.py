"""Commitments, handles and the card tree, against definitions written a second time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import cbor2
import pytest

from protocol.commitments import card_leaf, card_session, commitment, merkle_root, possession_digest

TID, PK_TID, SID, R = "tid-1", b"\x04" + b"k" * 64, b"s" * 32, b"r" * 32
N_T = b"n" * 32
LEAVES = [hashlib.sha256(bytes([number])).digest() for number in range(33)]

DIGESTS: dict[str, tuple[bytes, list[object]]] = {
    "commitment": (commitment(tid=TID, pk_tid=PK_TID, sid=SID, r=R), ["tapveil-com", TID, PK_TID, SID, R]),
    "possession": (possession_digest(tsm="tsm-1", n_t=N_T), ["tapveil-card-possession", "tsm-1", N_T]),
}

CHANGED: dict[str, bytes] = {
    "TID": commitment(tid="tid-2", pk_tid=PK_TID, sid=SID, r=R),
    "PK_TID": commitment(tid=TID, pk_tid=b"\x04" + b"l" * 64, sid=SID, r=R),
    "SID": commitment(tid=TID, pk_tid=PK_TID, sid=b"t" * 32, r=R),
    "r": commitment(tid=TID, pk_tid=PK_TID, sid=SID, r=b"q" * 32),
    "SID and r swapped": commitment(tid=TID, pk_tid=PK_TID, sid=R, r=SID),
    "a byte moved from SID to r": commitment(tid=TID, pk_tid=PK_TID, sid=SID[:-1], r=SID[-1:] + R),
}


@pytest.mark.parametrize(("digest", "parts"), DIGESTS.values(), ids=DIGESTS)
def test_digest_is_of_a_labeled_array(digest: bytes, parts: list[object]) -> None:
    assert digest == hashlib.sha256(cbor2.dumps(parts)).digest()


@pytest.mark.parametrize("other", CHANGED.values(), ids=CHANGED)
def test_commitment_binds_every_field(other: bytes) -> None:
    assert other != commitment(tid=TID, pk_tid=PK_TID, sid=SID, r=R)


def test_possession_names_the_tsm() -> None:
    assert possession_digest(tsm="tsm-2", n_t=N_T) != possession_digest(tsm="tsm-1", n_t=N_T)


def test_card_session_does_not_show_n_t() -> None:
    handle = card_session(N_T)
    assert handle == hashlib.sha256(cbor2.dumps(["tapveil-card-session", N_T])).digest()[:16]
    assert handle not in (N_T[:16], hashlib.sha256(N_T).digest()[:16])
    assert handle != card_session(b"m" * 32)


def test_labels_keep_uses_apart() -> None:
    digests = {
        commitment(tid=TID, pk_tid=N_T, sid=N_T, r=N_T)[:16],
        possession_digest(tsm=TID, n_t=N_T)[:16],
        card_session(N_T),
        card_leaf(salt=N_T, modulus=N_T)[:16],
        merkle_root([N_T, N_T])[:16],
    }
    assert len(digests) == 5


def test_leaf_is_salted_and_prefixed() -> None:
    leaf = card_leaf(salt=b"a" * 16, modulus=b"m" * 176)
    assert leaf == hashlib.sha256(b"\x00" + cbor2.dumps([b"a" * 16, b"m" * 176])).digest()
    assert leaf != card_leaf(salt=b"b" * 16, modulus=b"m" * 176)
    assert leaf != card_leaf(salt=b"a" * 16, modulus=b"n" * 176)


def _tree(leaves: list[bytes]) -> bytes:
    """RFC 6962 §2.1: split at the largest power of two below the number of leaves."""
    if len(leaves) == 1:
        return leaves[0]
    half = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + _tree(leaves[:half]) + _tree(leaves[half:])).digest()


@pytest.mark.parametrize("number", range(1, 34))
def test_root_is_that_of_the_recursive_definition(number: int) -> None:
    assert merkle_root(LEAVES[:number]) == _tree(LEAVES[:number])


CHANGES: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "one leaf changed": lambda leaves: [*leaves[:-1], LEAVES[20]],
    "two leaves swapped": lambda leaves: [leaves[1], leaves[0], *leaves[2:]],
    "last leaf dropped": lambda leaves: leaves[:-1],
    "last leaf repeated": lambda leaves: [*leaves, leaves[-1]],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_root_binds_number_order_and_content(change: Callable[[list[bytes]], list[bytes]]) -> None:
    leaves = LEAVES[:5]
    assert merkle_root(change(leaves)) != merkle_root(leaves)


def test_a_node_is_never_a_leaf() -> None:
    """Nodes in the place of leaves would make the same root; a card's leaf is hashed under a prefix of its own."""
    left, right = (card_leaf(salt=bytes([side]) * 16, modulus=b"m") for side in (0, 1))
    node = merkle_root([left, right])
    assert node == hashlib.sha256(b"\x01" + left + right).digest()
    assert node != hashlib.sha256(b"\x00" + left + right).digest()
