"""Which credit a service account has in the SE, and the TSM's offer to take more of another bank (design §3 RECREDIT).

Payment is closed by the bank of the grant that a card was issued on: what one bank finds wrong with the phone does not
keep another's credit from being used, as long as that one finds the phone good.
"""

from __future__ import annotations

from collections.abc import Iterable

from protocol import cose, envelope
from protocol.crypto import PrivateKey, same, sha256
from protocol.engine import Context
from protocol.envelope import OVERHEAD_BYTES
from protocol.errors import Expired, FieldMismatch, NonceMismatch, ProtocolError, UnknownAccount, WrongState
from protocol.messages.attest import LaunchPass
from protocol.messages.service import RecreditOffer, ServiceAccount
from protocol.roles.se.tables import ACCOUNTS, GRANTS, OWNERS, RECREDITS, Account, Grant, Recredit, ServiceKeys
from protocol.rows import Key, Rows, Where

_WAITING = ("OFFERED", "EXPECT_PROOF")


# --- grants ---------------------------------------------------------------------------------------------------------
def held_grants(rows: Rows, tid: str) -> tuple[Grant, ...]:
    """The grants under this TID that were not given back, the one that ends first at the front."""
    held = (grant for grant in rows.find(GRANTS, "tid", tid) if grant.state == "ACTIVE")
    return tuple(sorted(held, key=lambda grant: (grant.expires_at_s, grant.sid_digest)))


def grants_of(ctx: Context, tid: str) -> tuple[Grant, ...]:
    """As `held_grants`. Raises: WrongState if there is none."""
    held = held_grants(ctx.read(Where(GRANTS, "tid", tid)), tid)
    if not held:
        raise WrongState("the account holds no credit")
    return held


def live_grants(held: Iterable[Grant], now_s: int) -> tuple[Grant, ...]:
    """Those that are in date."""
    return tuple(grant for grant in held if grant.expires_at_s > now_s)


def grant_for_cards(ctx: Context, tid: str) -> tuple[Grant, Account]:
    """The grant that new cards are for: of a bank that found the phone good, with a pass in date; the last to end."""

    def rank(pair: tuple[Grant, Account]) -> tuple[bool, bool, int]:
        grant, account = pair
        owner = ctx.read(Key(OWNERS, (grant.bank,))).get(OWNERS, grant.bank)
        is_open = owner is not None and owner.open
        return is_open, _pass_until_s(account) > ctx.now_s, grant.expires_at_s

    return max(((grant, _account(ctx, grant)) for grant in grants_of(ctx, tid)), key=rank)


def _account(ctx: Context, grant: Grant) -> Account:
    account = ctx.read(Key(ACCOUNTS, (grant.account,))).get(ACCOUNTS, grant.account)
    assert account is not None  # accounts are never deleted
    return account


def _pass_until_s(account: Account) -> int:
    try:
        return envelope.peek(LaunchPass, account.launch_pass).claims.expires_at_s
    except ProtocolError:  # a bank may sign what it likes; the TSM judges passes
        return 0


def grant_to_close(ctx: Context, tid: str, aid: str) -> Grant:
    """The grant of `aid`; for an empty one the grant that ends first of those in date, else the last.

    Raises: WrongState, UnknownAccount.
    """
    held = grants_of(ctx, tid)
    if not aid:
        return (*live_grants(held, ctx.now_s), held[-1])[0]
    found = next((grant for grant in held if grant.aid == aid), None)
    if found is None:
        raise UnknownAccount
    return found


def granted(service: ServiceKeys, account: Account, accepted: ServiceAccount) -> Grant:
    """The credit that the TSM accepted in TID-4."""
    return Grant(
        sid_digest=sha256(accepted.sid), sid=accepted.sid, tid=service.tid, account=account.account, aid=account.aid,
        bank=account.bank, expires_at_s=accepted.expires_at_s, limit_minor=accepted.limit_minor,
        currency=accepted.currency, state="ACTIVE",
    )  # fmt: skip


# --- RECREDIT -------------------------------------------------------------------------------------------------------
def kept_offer(service: ServiceKeys, offer: RecreditOffer, expires_at_s: int) -> Recredit:
    """An offer that was found good."""
    return Recredit(
        sid_digest=sha256(offer.sid), sid=offer.sid, tid=service.tid, pk_tid=offer.pk_tid, n_u=offer.n_u,
        n_t=offer.n_t, expires_at_s=expires_at_s, account="", r=b"", com=b"", n2=b"", binfo=b"", digest=b"",
        state="OFFERED",
    )  # fmt: skip


def check_offer(offer: RecreditOffer, service: ServiceKeys) -> None:
    """It is for this TID, this SE's own key and this exchange. Raises: FieldMismatch, NonceMismatch."""
    pk_tid = PrivateKey.from_bytes(service.sk_tid).public.encoded
    if (offer.tid, offer.pk_tid) != (service.tid, pk_tid):
        raise FieldMismatch("offer is for another TID or key")
    if not same(offer.n_u, service.n_u):
        raise NonceMismatch


def waiting_offers(rows: Rows, tid: str) -> tuple[Recredit, ...]:
    """Offers that nothing was sealed for yet: one at most."""
    return tuple(row for row in rows.find(RECREDITS, "tid", tid) if row.state in _WAITING)


def waiting_offer(ctx: Context, tid: str, *states: str) -> Recredit:
    """The offer in one of these states. Raises: WrongState, Expired."""
    rows = waiting_offers(ctx.read(Where(RECREDITS, "tid", tid)), tid)
    found = next((row for row in rows if row.state in (states or _WAITING)), None)
    if found is None:
        raise WrongState("the TSM asked for no further credit")
    if found.expires_at_s < ctx.now_s:
        raise Expired("the TSM's offer")
    return found


def expect_waiting(rows: Rows, seen: Recredit) -> None:
    """The offer is as it was seen. Raises: WrongState."""
    if seen not in waiting_offers(rows, seen.tid):
        raise WrongState("the offer was used or replaced meanwhile")


def expect_sealed(rows: Rows, seen: Recredit) -> None:
    """The proof under this offer still waits for its answer. Raises: WrongState."""
    if seen not in rows.find(RECREDITS, "tid", seen.tid):
        raise WrongState("the proof was answered already")


def answered_offer(ctx: Context, service: ServiceKeys, answer: bytes) -> Recredit | None:
    """The credit proof under an offer whose answer this is, if it is one.

    Such a proof may be cut off and taken up again after other statements of the TID, so it is not `pending`; only the
    answer to it opens under K with its digest.
    """
    found = ctx.read(Where(RECREDITS, "tid", service.tid)).find(RECREDITS, "tid", service.tid)
    asked = (row for row in found if row.state == "EXPECT_ACCEPTANCE")
    return next((row for row in asked if _is_answer(service, answer, row.digest)), None)


def _is_answer(service: ServiceKeys, answer: bytes, digest: bytes) -> bool:
    max_bytes = ServiceAccount.MAX_BYTES + 4 * OVERHEAD_BYTES
    try:
        cose.decrypt(service.k_tid, answer, name=ServiceAccount.NAME, max_bytes=max_bytes, request_digest=digest)
    except ProtocolError:
        return False
    return True


def expect_another_bank(rows: Rows, tid: str, account: Account, now_s: int) -> None:
    """Further credit is of a bank that grants this TID none, in the same currency. Raises: FieldMismatch."""
    live = live_grants(held_grants(rows, tid), now_s)
    if any(grant.bank == account.bank for grant in live):
        raise FieldMismatch("credit of that bank is held already: take another bank's")
    if any(grant.currency != account.currency for grant in live):
        raise FieldMismatch("another currency than the account's")
