"""What anybody may send to a TSM: TID-1 under keys made for it."""

from __future__ import annotations

from parties.assembly.common import Opened
from parties.system import SystemClock, SystemEntropy
from protocol import cose, envelope
from protocol.crypto import PrivateKey
from protocol.envelope import Signer, Stamp, Wire
from protocol.messages.service import ServiceRequest
from protocol.types import NONCE_BYTES


def service_request(tsm: Opened) -> Wire:
    """TID-1 of a new account at this TSM."""
    entropy = SystemEntropy()
    sign, seal = PrivateKey.generate(entropy), PrivateKey.generate(entropy)
    message = ServiceRequest(
        tid=f"t-{entropy.bytes(16).hex()}", pk_tid=sign.public.encoded, ek_tid=seal.public.encoded,
        n_u=entropy.bytes(NONCE_BYTES),
    )  # fmt: skip
    stamp = Stamp.wallet(SystemClock().now_s(), entropy)
    signed = envelope.sign(Signer(name=message.tid, key=sign), message, audience=tsm.settings.name, stamp=stamp)
    return Wire(cose=cose.seal(tsm.keys.seal.public, name=ServiceRequest.NAME, plaintext=signed))
