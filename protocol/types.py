"""Small shared vocabulary: purposes, classes, roles, sizes. All times are Unix seconds."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

NONCE_BYTES: Final = 32
KEY_BYTES: Final = 32
DIGEST_BYTES: Final = 32
PUBLIC_KEY_BYTES: Final = 65
"""An uncompressed SEC 1 point on P-256."""
HANDLE_BYTES: Final = 16
MAX_SKEW_S: Final = 60
MAX_LIFETIME_S: Final = 24 * 3600
MAX_CARDS: Final = 32
"""Cards in one batch (design §3 CARD)."""


class Purpose(StrEnum):
    """What a quote is for; the first field of its qualifying data (design §3 ATT)."""

    ENROLL = "enroll"
    INSTALL = "install"
    REPORT = "report"
    LAUNCH = "launch"
    ACCOUNT = "account"


class TrustClass(StrEnum):
    """Where the attestation key lives, as its certificate says (design §6)."""

    SOFTWARE = "software"
    EMULATED = "emulated"
    HARDWARE = "hardware"


class Role(StrEnum):
    """Organizational unit of a certificate: what its holder may act as."""

    BANK = "bank"
    TSM = "tsm"
    MERCHANT = "merchant"
    SE = "se"
    SP = "sp"
    PHONE = "phone"
    USER = "user"
    OFFICER = "officer"
