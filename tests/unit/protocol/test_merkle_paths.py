"""Paths in a hash tree of any size: each leaf is shown at its own place, and nothing else is (RFC 6962 §2.1 shape)."""

from __future__ import annotations

import pytest

from protocol.commitments import claim_leaf, merkle_path, merkle_root, verify_merkle_path
from protocol.crypto import sha256
from protocol.errors import EvidenceIncomplete


def leaves_of(number: int) -> list[bytes]:
    return [sha256(b"leaf", bytes([position])) for position in range(number)]


@pytest.mark.parametrize("number", range(1, 18))
def test_every_leaf_is_at_its_place_and_at_no_other(number: int) -> None:
    leaves = leaves_of(number)
    root = merkle_root(leaves)
    for position, leaf in enumerate(leaves):
        path = merkle_path(leaves, position)
        assert verify_merkle_path(leaf, position=position, number=number, path=path, root=root) == leaf
        for other in {*range(number + 2), -1} - {position}:
            with pytest.raises(EvidenceIncomplete) as refused:
                verify_merkle_path(leaf, position=other, number=number, path=path, root=root)
            assert refused.value.code == "EVIDENCE_INCOMPLETE"


def test_a_path_is_of_one_leaf_root_and_size() -> None:
    leaves = leaves_of(6)
    root, path = merkle_root(leaves), merkle_path(leaves, 4)
    assert len(path) == 2  # the pair at the end rises past a level
    for leaf, number, given, under in (
        (leaves[3], 6, path, root),
        (leaves[4], 8, path, root),
        (leaves[4], 6, (*path, root), root),
        (leaves[4], 6, path[1:], root),
        (leaves[4], 6, path[::-1], root),
        (leaves[4], 6, path, sha256(root)),
    ):
        with pytest.raises(EvidenceIncomplete) as refused:
            verify_merkle_path(leaf, position=4, number=number, path=given, root=under)
        assert refused.value.code == "EVIDENCE_INCOMPLETE"


def test_an_inner_node_is_no_leaf_of_a_smaller_tree() -> None:
    """Leaves and nodes are hashed with different prefixes, so a receipt can't be made that hashes to a node."""
    receipts = [claim_leaf(salt=bytes(32), receipt_digest=leaf) for leaf in leaves_of(4)]
    inner = merkle_root(receipts[:2])
    assert inner == sha256(b"\x01", *receipts[:2])
    assert inner != sha256(b"\x00", *receipts[:2])
    assert claim_leaf(salt=bytes(32), receipt_digest=receipts[0]) != claim_leaf(
        salt=bytes(31) + b"\x01", receipt_digest=receipts[0]
    )
