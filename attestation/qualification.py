"""What a quote is over: H(purpose, ID_B, ID_U, software id, N_AM, N_B, PK_req) (design §3 ATT, proved in attest.pv).

Each field closes an attack: N_B, made by the bank, a stored quote; ID_U a quote relayed from another phone; the
purpose a quote made for another step; PK_req a certificate for another key.
"""

from __future__ import annotations

from typing import Final

from protocol import codec
from protocol.crypto import sha256
from protocol.errors import EvidenceMalformed
from protocol.types import NONCE_BYTES, PUBLIC_KEY_BYTES, Purpose

MAX_IDENTIFIER: Final = 64


def qualifying_data(
    *,
    purpose: Purpose,
    bank_id: str,
    user_id: str,
    software_id: str,
    n_am: bytes,
    n_b: bytes,
    requested_key: bytes = b"",
) -> bytes:
    """The 32 bytes a quote carries as extra data. SHA-256 over the deterministic CBOR array of the fields.

    `software_id` is empty when enrolling, when no software is named yet; `requested_key` is the key that is being
    certified when an account is asked for, else empty.

    Raises: EvidenceMalformed if a nonce is not 32 bytes, an identifier is empty or too long, or a key is missing or
        in the wrong place.
    """
    if len(n_am) != NONCE_BYTES or len(n_b) != NONCE_BYTES:
        raise EvidenceMalformed("nonce is not 32 bytes")
    if not (0 < len(bank_id) <= MAX_IDENTIFIER and 0 < len(user_id) <= MAX_IDENTIFIER):
        raise EvidenceMalformed("identifier of a party is empty or too long")
    if len(software_id) > MAX_IDENTIFIER or (software_id == "") != (purpose is Purpose.ENROLL):
        raise EvidenceMalformed("software is named exactly when not enrolling")
    if len(requested_key) != (PUBLIC_KEY_BYTES if purpose is Purpose.ACCOUNT else 0):
        raise EvidenceMalformed("a key is named exactly when an account is asked for")
    return sha256(codec.encode([purpose.value, bank_id, user_id, software_id, n_am, n_b, requested_key]))
