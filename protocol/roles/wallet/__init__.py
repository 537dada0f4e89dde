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
from protocol.roles.wallet.pay import (
    RENEW_BEFORE_S,
    Renewed,
    close_card,
    open_card,
    renew_cards,
    reopen_pin,
    set_pin,
    verify_pin,
)
from protocol.roles.wallet.recredit import expect_registered, free_account, recredit
from protocol.roles.wallet.session import Call, Exchanged, Flow, Wallet

__all__ = [
    "RENEW_BEFORE_S",
    "Call",
    "Exchanged",
    "Flow",
    "Renewed",
    "Wallet",
    "attest",
    "close_card",
    "close_service",
    "enroll",
    "expect_registered",
    "fetch_reference_values",
    "fetch_release",
    "free_account",
    "issue_cards",
    "open_account",
    "open_card",
    "recredit",
    "register",
    "renew_cards",
    "reopen_pin",
    "set_pin",
    "status",
    "verify_pin",
]
