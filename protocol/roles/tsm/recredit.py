"""RECREDIT: the TSM asks for further credit when little is left of what the banks granted (design §3)."""

from __future__ import annotations

from collections.abc import Iterable

from protocol import envelope
from protocol.crypto import P256
from protocol.engine import Context
from protocol.envelope import Stamp
from protocol.messages.service import RecreditOffer, RecreditReason
from protocol.roles.tsm.draws import left_minor, live
from protocol.roles.tsm.party import Tsm, TsmPolicy
from protocol.roles.tsm.register import COOKIE_CONTEXT, Cookie
from protocol.roles.tsm.tables import Service, TidEntry
from protocol.types import NONCE_BYTES


def is_low(grants: Iterable[TidEntry], policy: TsmPolicy, now_s: int) -> bool:
    """Is less left than the floor, with room for one grant more? Who is stopped gets no cards, and is not asked."""
    held = live(grants, now_s)
    if len(held) >= policy.max_grants:
        return False
    granted_minor = sum(grant.aid_limit_minor for grant in held)
    return 100 * sum(left_minor(grant) for grant in held) < policy.recredit_floor_percent * granted_minor


def make_offer(tsm: Tsm, service: Service, n_u: bytes, ctx: Context) -> bytes:
    """`S_T(TID, PK_TID, N_U, SID', N_T', reason)`: a cookie as in TID-1b, with the K that there is; nothing is stored.

    It lasts longer than a session: the person may have to open an account at the other bank first.
    """
    life_s = tsm.policy.recredit_life_s
    cookie = Cookie(
        tid=service.tid, pk_tid=service.pk_tid, ek_tid=service.ek_tid, n_u=n_u, n_t=ctx.entropy.bytes(NONCE_BYTES),
        key=service.k_tid, expires_at_s=ctx.now_s + life_s,
    )  # fmt: skip
    sid = P256.encrypt(tsm.cookie_key, cookie.to_bytes(), COOKIE_CONTEXT, ctx.entropy)
    offer = RecreditOffer(
        tid=cookie.tid, pk_tid=cookie.pk_tid, n_u=n_u, sid=sid, n_t=cookie.n_t, reason=RecreditReason.BALANCE_LOW
    )
    stamp = Stamp.fresh(ctx.now_s, ctx.entropy)
    return envelope.sign(tsm.keys.signer, offer, audience=service.tid, stamp=stamp, lifetime_s=life_s)
