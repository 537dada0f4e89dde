"""The merchant's calls: its own till asks (design §4 Merchant)."""

from __future__ import annotations

from typing import Final

from protocol.contract.rpc import Form, Key, Rpc
from protocol.messages.till import CancelSale, GetSale, RefundSale, SaleState, StartSale
from protocol.schema import Message
from protocol.types import Role

_TILL: Final[tuple[tuple[str, type[Message], tuple[str, ...]], ...]] = (
    ("StartSale", StartSale, ("CARD_DATA_INVALID", "IDENTIFIER_TAKEN", "WRONG_STATE")),
    ("GetSale", GetSale, ("PURCHASE_UNKNOWN",)),
    ("CancelSale", CancelSale, ("PURCHASE_UNKNOWN", "WRONG_STATE", "ALREADY_SETTLED")),
    ("RefundSale", RefundSale, ("PURCHASE_UNKNOWN", "WRONG_STATE", "IDENTIFIER_TAKEN", "LIMIT_EXCEEDED")),
)

MERCHANT: Final = tuple(
    Rpc(
        service="Merchant", name=name, steps=("CARD-5",), tls=(Role.MERCHANT,),
        request=request, request_form=Form.SIGNED, request_signer=Key.MERCHANT,
        reply=SaleState, reply_form=Form.SIGNED, reply_signer=Key.MERCHANT,
        step=f"protocol.roles.merchant.till.{name}Step", codes=("UNKNOWN_KEY", "WRONG_PEER", *codes),
    )
    for name, request, codes in _TILL
)  # fmt: skip
