"""The tree of one claim: its receipts, salted, among padding; and the proof that a receipt is in it (design §3 SETTLE).

A tree has always 256 leaves in the order of their values, so that neither number nor place of the receipts shows. All
of it follows from the claim's salt and the rows that name the claim.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from protocol.codec import encode
from protocol.commitments import claim_leaf, merkle_path, merkle_root, verify_merkle_path
from protocol.crypto import mac
from protocol.errors import PurchaseUnknown
from protocol.roles.tsm.tables import CLAIMS, PURCHASES, SECOND_DRAWS, Purchase, SecondDraw
from protocol.rows import Key, Store, Where

LEAVES: Final = 256
SALT_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """A purchase as it is claimed of one grant; `second` if that is the second grant it draws on."""

    purchase: Purchase
    second: SecondDraw | None = None

    @property
    def name(self) -> tuple[str, bytes]:
        """The merchant and the merchant's name for the sale."""
        return self.purchase.merchant, self.purchase.sale


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptProof:
    """What leads from a receipt's digest to the root of claim `sequence` of a grant; `position` counts from 0."""

    sid_digest: bytes
    sequence: int
    salt: bytes
    position: int
    path: tuple[bytes, ...]


def receipts_of(store: Store, sid_digest: bytes) -> tuple[tuple[Receipt, int], ...]:
    """Every purchase that drew on a grant, with the number of the claim that has it (0: none yet)."""
    rows = store.read(Where(PURCHASES, "sid_digest", sid_digest), Where(SECOND_DRAWS, "sid_digest", sid_digest))
    draws = rows.find(SECOND_DRAWS, "sid_digest", sid_digest)
    others = store.read(*(Key(PURCHASES, (draw.merchant, draw.sale)) for draw in draws))
    found = [(Receipt(purchase=row), row.claim) for row in rows.find(PURCHASES, "sid_digest", sid_digest)]
    for draw in draws:
        purchase = others.get(PURCHASES, draw.merchant, draw.sale)
        assert purchase is not None  # both were written in one unit
        found.append((Receipt(purchase=purchase, second=draw), draw.claim))
    return tuple(found)


def unclaimed(store: Store, sid_digest: bytes) -> tuple[Receipt, ...]:
    """The receipts that no claim has, the oldest first: one claim takes as many as its tree holds."""
    waiting = [
        receipt for receipt, claim in receipts_of(store, sid_digest)
        if claim == 0 and receipt.purchase.state == "APPROVED"
    ]  # fmt: skip
    waiting.sort(key=lambda receipt: (receipt.purchase.decided_at_s, *receipt.name))
    return tuple(waiting)


def leaf_salt(salt: bytes, receipt: Receipt) -> bytes:
    """A salt of this receipt's own: to show it opens no other leaf."""
    return mac(salt, encode(["tapveil-claim-leaf", *receipt.name]))


def claim_leaves(salt: bytes, receipts: Iterable[Receipt]) -> tuple[bytes, ...]:
    """All leaves, sorted; those that are no receipt's look like the others to whoever lacks the salt."""
    leaves = [
        claim_leaf(salt=leaf_salt(salt, receipt), receipt_digest=receipt.purchase.receipt_digest)
        for receipt in receipts
    ]  # fmt: skip
    padding = (mac(salt, encode(["tapveil-claim-padding", number])) for number in range(LEAVES - len(leaves)))
    return tuple(sorted((*leaves, *padding)))


def claim_root(salt: bytes, receipts: Sequence[Receipt]) -> bytes:
    """The root that the bank is told."""
    return merkle_root(claim_leaves(salt, receipts))


def prove_receipt(store: Store, merchant: str, sale: bytes, *, of_second: bool = False) -> ReceiptProof:
    """The proof of a purchase into its claim; `of_second` into the claim of the second grant that it drew on.

    Raises: PurchaseUnknown if there is none, or it was not claimed yet.
    """
    rows = store.read(Key(PURCHASES, (merchant, sale)), Key(SECOND_DRAWS, (merchant, sale)))
    holder = rows.get(SECOND_DRAWS, merchant, sale) if of_second else rows.get(PURCHASES, merchant, sale)
    if holder is None or holder.claim == 0:
        raise PurchaseUnknown("no claim has this purchase")
    key = (holder.sid_digest, holder.claim)
    claim = store.read(Key(CLAIMS, key)).get(CLAIMS, *key)
    assert claim is not None  # purchases are numbered with it in one unit
    inside = [receipt for receipt, number in receipts_of(store, holder.sid_digest) if number == holder.claim]
    (mine,) = (receipt for receipt in inside if receipt.name == (merchant, sale))
    leaves, salt = claim_leaves(claim.salt, inside), leaf_salt(claim.salt, mine)
    position = leaves.index(claim_leaf(salt=salt, receipt_digest=mine.purchase.receipt_digest))
    return ReceiptProof(
        sid_digest=holder.sid_digest, sequence=holder.claim, salt=salt, position=position,
        path=merkle_path(leaves, position),
    )  # fmt: skip


def verify_receipt(proof: ReceiptProof, *, receipt_digest: bytes, root: bytes) -> bytes:
    """The receipt's digest, shown to be in the claim with this `root`, which the bank signed.

    Raises: EvidenceIncomplete.
    """
    leaf = claim_leaf(salt=proof.salt, receipt_digest=receipt_digest)
    verify_merkle_path(leaf, position=proof.position, number=LEAVES, path=proof.path, root=root)
    return receipt_digest
