"""The till's side of `Merchant`: requests signed with the merchant's key, sent to its own server, answers verified."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from parties.assembly.common import Opened
from parties.channels import Channels
from parties.merchant.settlement import Settled
from parties.settings import load_settings
from protocol import envelope
from protocol.envelope import Stamp, Wire
from protocol.errors import SettingsInvalid, Unavailable
from protocol.messages.till import CancelSale, GetSale, RefundSale, SaleState, StartSale
from protocol.types import HANDLE_BYTES, Role

TRIES: Final = 3
"""How often the same bytes are sent when no answer comes: they have their effect once."""


class Till:
    """A cash desk of one merchant. Names of sales and refunds are 16 random bytes."""

    def __init__(self, settings: Path) -> None:
        """`settings` is the merchant's settings.toml. Raises: SettingsInvalid, KeystoreLocked."""
        loaded = load_settings(settings, Role.MERCHANT)
        if not loaded.mutual_listen:
            raise SettingsInvalid(f"{settings}: set mutual_listen to HOST:PORT, where the till finds its server")
        self._opened = Opened.of(loaded)
        self._name = loaded.name
        self._channels = Channels({loaded.name: loaded.mutual_listen}, self._opened.client_tls())

    def new_name(self) -> bytes:
        """A name for a sale or a refund."""
        return self._opened.entropy.bytes(HANDLE_BYTES)

    def ask(self, message: StartSale | GetSale | CancelSale | RefundSale) -> SaleState:
        """The sale after this request. Raises: the server's refusal; Unavailable; what `open_signed` raises."""
        keys, clock = self._opened.keys, self._opened.clock
        stamp = Stamp.fresh(clock.now_s(), self._opened.entropy)
        wire = Wire(cose=envelope.sign(keys.signer, message, audience=self._name, stamp=stamp))
        answer = self._send(f"Merchant.{type(message).__name__}", wire)
        return envelope.open_signed(
            SaleState, answer.cose, keys.sign.public, issuer=self._name, audience=self._name, now_s=clock.now_s(),
            request_digest=wire.digest,
        ).message  # fmt: skip

    def _send(self, rpc: str, wire: Wire) -> Wire:
        for _ in range(TRIES - 1):
            try:
                return self._channels.call(self._name, rpc, wire)
            except Unavailable:
                continue
        return self._channels.call(self._name, rpc, wire)

    def settle(self) -> Settled:
        """What the server does not begin by itself: have the TSM pay out what is due. Raises: as `Settler.settle`."""
        from parties.assembly.roles import build_settler  # heavy: not for every other command

        opened = self._opened
        store, channels = opened.store(), opened.channels()
        try:
            return build_settler(opened, store, channels).settle()
        finally:
            channels.close()
            store.close()

    def close(self) -> None:
        """Close the way to the server."""
        self._channels.close()
