"""The wire contract as data: every RPC, its messages and their forms, and who signs (design §4).

`docs/spec-map.md` and the comments of `proto/payloads.cddl` are generated from these tables, and tests hold them true:
every step class has its row, every message its place, and every form is found on the wire of a real run.
"""

from __future__ import annotations

from typing import Final

from protocol.contract.bank import BANK
from protocol.contract.merchant import MERCHANT
from protocol.contract.objects import OBJECTS
from protocol.contract.rpc import COMMON_CODES, Form, Key, Rpc, SignedObject, common_codes
from protocol.contract.se import FIELD, SE
from protocol.contract.sp import SP
from protocol.contract.tsm import TSM

RPCS: Final[tuple[Rpc, ...]] = (*BANK, *TSM, *MERCHANT, *SE, *SP)

MUTUAL_ONLY: Final = frozenset({"Bank", "SecureElement", "Merchant"})
"""Services that take no call without a certificate of the CA, whether a step looks at it or not."""

__all__ = [
    "COMMON_CODES",
    "FIELD",
    "MUTUAL_ONLY",
    "OBJECTS",
    "RPCS",
    "Form",
    "Key",
    "Rpc",
    "SignedObject",
    "common_codes",
]
