"""The wallet's flows: which message goes where, and to whom its answer is handed."""

from protocol.roles.wallet.flows import (
    attest,
    close_service,
    enroll,
    fetch_reference_values,
    fetch_release,
    issue_cards,
    open_account,
    register,
    status,
)
from protocol.roles.wallet.session import Call, Exchanged, Flow, Wallet

__all__ = [
    "Call",
    "Exchanged",
    "Flow",
    "Wallet",
    "attest",
    "close_service",
    "enroll",
    "fetch_reference_values",
    "fetch_release",
    "issue_cards",
    "open_account",
    "register",
    "status",
]
