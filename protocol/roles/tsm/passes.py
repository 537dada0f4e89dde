"""Launch passes at the TSM: the right bank, AID and TSM, shown by who holds PK_AID, in this very session."""

from __future__ import annotations

from typing import TypeVar

from protocol import envelope
from protocol.crypto import PublicKey, same, sha256
from protocol.envelope import Opened
from protocol.errors import PassInvalid, PossessionInvalid, ProtocolError
from protocol.messages.attest import LaunchPass, PossessionForCards, PossessionForSession
from protocol.pki import Identity
from protocol.roles.tsm.party import Tsm

P = TypeVar("P", PossessionForSession, PossessionForCards)


def named_account(data: bytes) -> str:
    """The AID that a pass claims, not believed: empty if it is no pass."""
    try:
        return LaunchPass.from_bytes(envelope.peek(LaunchPass, data).payload).aid
    except ProtocolError:
        return ""


class PassCheck:
    """The three checks on a launch pass (design §3 ATT); each closes an attack of its own."""

    def __init__(self, tsm: Tsm) -> None:
        self._tsm = tsm

    def open_pass(self, data: bytes, bank: Identity, aid: str, now_s: int) -> Opened[LaunchPass]:
        """The pass, if this bank gave it to this TSM for this AID and it is in date. Raises: PassInvalid."""
        try:
            opened = envelope.open_signed(
                LaunchPass, data, bank.key, issuer=bank.name, audience=self._tsm.keys.name, now_s=now_s,
                max_lifetime_s=self._tsm.policy.max_pass_life_s,
            )  # fmt: skip
        except ProtocolError as exc:
            raise PassInvalid(exc.code) from exc
        self.check_account(opened.message, aid)
        return opened

    def check_account(self, shown: LaunchPass, aid: str) -> None:
        """A pass of another AID is refused."""
        if shown.aid != aid:
            raise PassInvalid("pass is of another AID")

    def check_session_possession(self, shown: Opened[LaunchPass], data: bytes, sid: bytes, now_s: int) -> None:
        """`S_AID(SID, H(pass))` (TID-3). Raises: PossessionInvalid."""
        message = self._open(PossessionForSession, shown, data, now_s)
        if not (same(message.sid, sid) and same(message.pass_digest, sha256(shown.wire))):
            raise PossessionInvalid

    def check_card_possession(self, shown: Opened[LaunchPass], data: bytes, n_t: bytes, now_s: int) -> None:
        """`S_AID(N_T, H(pass))` (CARD-3). Raises: PossessionInvalid."""
        message = self._open(PossessionForCards, shown, data, now_s)
        if not (same(message.n_t, n_t) and same(message.pass_digest, sha256(shown.wire))):
            raise PossessionInvalid

    def _open(self, kind: type[P], shown: Opened[LaunchPass], data: bytes, now_s: int) -> P:
        try:
            return envelope.open_signed(
                kind, data, PublicKey.from_bytes(shown.message.pk_aid), issuer=shown.message.aid,
                audience=self._tsm.keys.name, now_s=now_s,
            ).message  # fmt: skip
        except ProtocolError as exc:
            raise PossessionInvalid(exc.code) from exc
