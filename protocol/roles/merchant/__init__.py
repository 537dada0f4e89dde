"""The merchant: a terminal with a key of its own (CN-5), a till that starts sales, a lane that carries them out."""

from __future__ import annotations

from typing import Any

from protocol.engine import Step
from protocol.roles.merchant.party import Shop, ShopPolicy
from protocol.roles.merchant.sign_on import begin_sign_on, finish_sign_on
from protocol.roles.merchant.tables import (
    MERCHANT_TABLES,
    SALE_REFUNDS,
    SALES,
    SETTLEMENTS,
    TERMINAL_KEYS,
    SaleRefund,
    SaleRow,
    SettlementRow,
    TerminalKey,
)
from protocol.roles.merchant.till import CancelSaleStep, GetSaleStep, RefundSaleStep, StartSaleStep

_STEPS: tuple[type[Any], ...] = (StartSaleStep, GetSaleStep, CancelSaleStep, RefundSaleStep)


def merchant_steps(shop: Shop) -> dict[str, Step[Any]]:
    """RPC name → step, for an engine."""
    return {step.rpc: step(shop) for step in _STEPS}


__all__ = [
    "MERCHANT_TABLES",
    "SALES",
    "SALE_REFUNDS",
    "SETTLEMENTS",
    "TERMINAL_KEYS",
    "SaleRefund",
    "SaleRow",
    "SettlementRow",
    "Shop",
    "ShopPolicy",
    "TerminalKey",
    "begin_sign_on",
    "finish_sign_on",
    "merchant_steps",
]
