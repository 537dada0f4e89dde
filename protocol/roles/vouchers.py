"""Books proved from the signed messages that were kept: the amount that a voucher states is the amount booked.

A message is verified as of the time it was signed at. One whose certificate is no longer in the PKI proves nothing, and
is left out; one that does not verify under its key was altered. What happened before messages were kept has none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeVar

from protocol import envelope
from protocol.card.tap import Tap
from protocol.crypto import PublicKey
from protocol.engine import EVIDENCE, Evidence
from protocol.envelope import Wire
from protocol.errors import BooksDiffer, ProtocolError, UnknownKey
from protocol.messages.claim import Claim, ClaimAccepted
from protocol.messages.merchant import SignOn
from protocol.messages.pay import Authorization, AuthorizationBatch, AuthorizationDecision, Refund, Refunded
from protocol.messages.settle import Payout, Settlement
from protocol.messages.statement import EntryKind
from protocol.pki import Directory
from protocol.roles.bank.tables import GRANTS
from protocol.roles.books import Proof, Scan, Sums, proof
from protocol.roles.ledger import aid_account, merchant_account
from protocol.roles.merchant.tables import SALE_REFUNDS, SALES, SETTLEMENTS
from protocol.roles.tsm.tables import CLAIMS, PAYOUTS, PURCHASES, REFUNDS, TID_LIST
from protocol.schema import Message
from protocol.types import Role

M = TypeVar("M", bound=Message)


class Vouchers:
    """The kept messages of one party, opened anew."""

    def __init__(self, books: Scan, directory: Directory, me: str) -> None:
        self._books = books
        self._directory = directory
        self._me = me
        self._kept: dict[str, list[Evidence]] = {}
        for row in books.scan(EVIDENCE):
            self._kept.setdefault(row.message, []).append(row)
        self._terminals: dict[bytes, tuple[str, PublicKey]] | None = None

    def prove(self, role: Role) -> tuple[Proof, ...]:
        """All proofs of this role. Raises: BooksDiffer when a message was altered."""
        if role is Role.TSM:
            return (
                proof("signed authorizations", *self._authorizations()), proof("signed refunds", *self._refunds()),
                proof("signed settlements", *self._settlements()), proof("accepted claims", *self._accepted()),
            )  # fmt: skip
        if role is Role.BANK:
            return (proof("signed claims", *self._claims()),)
        return (
            proof("receipts", *self._receipts()), proof("refunds acknowledged", *self._refunded()),
            proof("signed payouts", *self._payouts()),
        )  # fmt: skip

    # --- opening -----------------------------------------------------------------------------------------------------
    def _open(self, kind: type[M], signed: bytes, key: PublicKey, issuer: str, audience: str, digest: bytes = b"") -> M:
        try:
            sign1 = envelope.peek(kind, signed)
            return envelope.believe(
                kind, sign1, key, issuer=issuer, audience=audience, now_s=sign1.claims.issued_at_s,
                request_digest=digest,
            ).message  # fmt: skip
        except ProtocolError as exc:
            raise BooksDiffer(f"a kept {kind.NAME} does not verify: {exc.code}") from exc

    def _certified(self, kind: type[M], signed: bytes, digest: bytes = b"") -> tuple[str, M] | None:
        """Who signed, and what; None when no certificate is of that key any more."""
        try:
            identity = self._directory.by_thumbprint(envelope.peek(kind, signed).kid)
        except UnknownKey:
            return None
        return identity.name, self._open(kind, signed, identity.key, identity.name, self._me, digest)

    def _all(self, kind: type[M], *, answers: bool = False) -> Iterator[tuple[Evidence, str, M]]:
        for row in self._kept.get(kind.NAME, ()):
            opened = self._certified(kind, row.signed, row.digest if answers else b"")
            if opened is not None:
                yield row, *opened

    def _by_terminals(self, kind: type[M]) -> Iterator[tuple[Evidence, str, M]]:
        """Terminals' keys are rotated, so they are taken from the sign-ons that were kept."""
        if self._terminals is None:
            self._terminals = {
                (key := PublicKey.from_bytes(message.terminal_key)).thumbprint: (merchant, key)
                for _, merchant, message in self._all(SignOn)
            }
        for row in self._kept.get(kind.NAME, ()):
            known = self._terminals.get(envelope.peek(kind, row.signed).kid)
            if known is not None:
                merchant, key = known
                yield row, merchant, self._open(kind, row.signed, key, merchant, self._me)

    # --- TSM ---------------------------------------------------------------------------------------------------------
    def _authorizations(self) -> tuple[Sums, Sums]:
        own, other = Sums(), Sums()
        asked = {
            (row.digest, merchant, one.purchase.sale): one.purchase.pdol_data
            for row, merchant, one in self._by_terminals(Authorization)
        } | {
            (row.digest, merchant, purchase.sale): purchase.pdol_data
            for row, merchant, batch in self._by_terminals(AuthorizationBatch)
            for purchase in batch.purchases
        }
        for row in self._books.scan(PURCHASES):
            pdol_data = asked.get((row.request, row.merchant, row.sale))
            if row.state in _MOVED and pdol_data is not None:
                tap, account = Tap.from_pdol(pdol_data), f"{merchant_account(row.merchant)} {row.sale.hex()}"
                own[account, EntryKind.PURCHASE, row.currency] += row.amount_minor
                other[account, EntryKind.PURCHASE, tap.currency] += tap.amount_minor
        return own, other

    def _refunds(self) -> tuple[Sums, Sums]:
        own, other = Sums(), Sums()
        for _, merchant, message in self._by_terminals(Refund):
            other[f"{merchant_account(merchant)} {message.refund.hex()}", EntryKind.REFUND, message.currency] = (
                message.amount_minor
            )
        for row in self._books.scan(REFUNDS):
            key = (f"{merchant_account(row.merchant)} {row.refund.hex()}", EntryKind.REFUND, row.currency)
            if key in other:
                own[key] += row.amount_minor
        return own, other

    def _settlements(self) -> tuple[Sums, Sums]:
        own, other = Sums(), Sums()
        for _, merchant, message in self._all(Settlement):
            other[f"{merchant_account(merchant)} {message.batch.hex()}", EntryKind.PAYOUT, message.currency] = (
                message.total_minor
            )
        for row in self._books.scan(PAYOUTS):
            key = (f"{merchant_account(row.merchant)} {row.batch.hex()}", EntryKind.PAYOUT, row.currency)
            if key in other:
                own[key] += row.total_minor
        return own, other

    def _accepted(self) -> tuple[Sums, Sums]:
        own, other = Sums(), Sums()
        said = {row.digest: message for row, _, message in self._all(ClaimAccepted, answers=True)}
        currencies = {grant.sid_digest: grant.currency for grant in self._books.scan(TID_LIST)}
        for row in self._books.scan(CLAIMS):
            message = said.get(row.digest)
            if row.state == "ACCEPTED" and message is not None:
                account, currency = f"claim/{row.sid_digest.hex()}/{row.sequence}", currencies[row.sid_digest]
                own[account, EntryKind.CLAIM, currency] += row.claimed_minor
                own[account, EntryKind.CREDIT_NOTE, currency] += row.credited_minor
                other[account, EntryKind.CLAIM, message.currency] += message.claimed_minor
                other[account, EntryKind.CREDIT_NOTE, message.currency] += message.credited_minor
        return own, other

    # --- bank --------------------------------------------------------------------------------------------------------
    def _claims(self) -> tuple[Sums, Sums]:
        own, other = Sums(), Sums()
        last: dict[tuple[str, bytes], Claim] = {}
        for _, _, message in self._all(Claim):
            key = (message.aid, message.sid_digest)
            if key not in last or message.sequence > last[key].sequence:
                last[key] = message
        for grant in self._books.scan(GRANTS):
            claim = last.get((grant.aid, grant.sid_digest))
            if claim is not None:
                account = f"{aid_account(grant.aid)} {grant.sid_digest.hex()}"
                own[account, EntryKind.CLAIM, claim.currency] += grant.claimed_minor
                own[account, EntryKind.CREDIT_NOTE, claim.currency] += grant.credited_minor
                other[account, EntryKind.CLAIM, claim.currency] += claim.claimed_minor
                other[account, EntryKind.CREDIT_NOTE, claim.currency] += claim.credited_minor
        return own, other

    # --- merchant ----------------------------------------------------------------------------------------------------
    def _receipts(self) -> tuple[Sums, Sums]:
        own, other = Sums(), Sums()
        for sale in self._books.scan(SALES):
            opened = self._certified(AuthorizationDecision, sale.receipt, sale.asked) if sale.asked else None
            if opened is not None:
                decided = opened[1].decided
                own[sale.sale.hex(), EntryKind.PURCHASE, sale.currency] += sale.amount_minor
                other[decided.sale.hex(), EntryKind.PURCHASE, decided.currency] += decided.amount_minor
        return own, other

    def _refunded(self) -> tuple[Sums, Sums]:
        own, other = Sums(), Sums()
        for _, _, message in self._all(Refunded, answers=True):
            other[message.refund.hex(), EntryKind.REFUND, message.currency] = message.amount_minor
        currencies = {sale.sale: sale.currency for sale in self._books.scan(SALES)}
        for row in self._books.scan(SALE_REFUNDS):
            key = (row.refund.hex(), EntryKind.REFUND, currencies[row.sale])
            if key in other:
                own[key] += row.amount_minor
        return own, other

    def _payouts(self) -> tuple[Sums, Sums]:
        own, other = Sums(), Sums()
        for row in self._books.scan(SETTLEMENTS):
            digest = Wire(cose=row.request).digest
            opened = self._certified(Payout, row.payout, digest) if row.payout else None
            if opened is not None:
                own[row.batch.hex(), EntryKind.PAYOUT, row.currency] += row.total_minor
                other[opened[1].batch.hex(), EntryKind.PAYOUT, opened[1].currency] += opened[1].total_minor
        return own, other


_MOVED: Final = ("APPROVED", "REVERSED")
