"""Every payload of design §3, field for field: one module a phase. Names are the content types on the wire.

`S_X(m)` is a COSE_Sign1 by X, `E_X(m)` HPKE to X's key, `{m}K` COSE_Encrypt0 under K. `iss` and `aud` are in the
protected header of every signature and not repeated in payloads.
"""

from protocol.messages import (
    account,
    attest,
    card,
    claim,
    enroll,
    merchant,
    pay,
    se,
    se_state,
    service,
    settle,
    software,
    statement,
    stops,
    till,
    trace,
)

__all__ = [
    "account",
    "attest",
    "card",
    "claim",
    "enroll",
    "merchant",
    "pay",
    "se",
    "se_state",
    "service",
    "settle",
    "software",
    "statement",
    "stops",
    "till",
    "trace",
]
