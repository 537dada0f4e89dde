"""The SE's NFC field as a server sees it (`SecureElement.Transceive`): a fresh applet each time the phone is held on.

Only this very phone's own software reaches it, over the mutually authenticated link inside the phone; who holds a
terminal reaches it through the phone. Nothing is captured, and nothing of an APDU is logged: it may hold a card number.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

import grpc

from parties import apdus
from parties.channels import refuse
from parties.rpc.secure_element_pb2 import Apdu
from parties.server.logs import log
from parties.server.service import peer_of
from protocol.contract import FIELD
from protocol.engine import Peer
from protocol.errors import Overloaded, ProtocolError, WrongPeer
from protocol.types import Role

MAX_FIELDS: Final = 4
"""A phone is at one reader at a time; a lost stream may still be ending."""


class Card(Protocol):
    """What answers in the field (`protocol.card.applet.Applet`)."""

    def process(self, command: bytes, /) -> bytes:
        """A response APDU to any bytes."""

    def reset(self) -> None:
        """The field was lost."""


def field_handler(
    phone: str, card: Callable[[], Card], *, idle_s: float = apdus.IDLE_S
) -> grpc.RpcMethodHandler[Any, Any]:
    """The handler of `FIELD` for the SE of `phone`; `card` makes the applet of one stay in the field.

    Refusals, as codes: WRONG_PEER for anybody but this phone, OVERLOADED for a fifth field, MALFORMED for what is no
    message, OVERSIZE over the bounds, UNAVAILABLE for a reader that keeps silent.
    """
    free = threading.BoundedSemaphore(MAX_FIELDS)

    def transceive(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Apdu]:
        started_ns, code = time.monotonic_ns(), "OK"
        try:
            _expect_phone(peer_of(context), phone)
            yield from _stay(requests, card, free, idle_s)
        except ProtocolError as refusal:
            code = refusal.code
            refuse(context, type(refusal))
        finally:
            elapsed_ms = (time.monotonic_ns() - started_ns) // 1_000_000
            log.info("served", party_role=Role.SE.value, rpc=FIELD, code=code, ms=elapsed_ms)

    return apdus.handler(transceive)


def _expect_phone(peer: Peer | None, phone: str) -> None:
    if peer is None or peer.name != phone or peer.role not in {Role.PHONE, Role.SE}:
        raise WrongPeer


def _stay(
    requests: Iterator[bytes], card: Callable[[], Card], free: threading.BoundedSemaphore, idle_s: float
) -> Iterator[Apdu]:
    if not free.acquire(blocking=False):
        raise Overloaded
    try:
        held = card()
        try:
            yield from apdus.answer(requests, held.process, idle_s=idle_s)
        finally:
            held.reset()
    finally:
        free.release()
