"""The TSM's calls (TID, CARD, PAY, SETTLE); a terminal signs its own with the key that it signed on with (CN-5)."""

from __future__ import annotations

from typing import Final

from protocol.contract.rpc import PARTY, Form, Key, Rpc
from protocol.messages.card import CardActivation, CardChallenge, CardKeys, CardRequest, CardsActive, CardsIssued
from protocol.messages.merchant import SignedOn, SignOn
from protocol.messages.pay import (
    Authorization,
    AuthorizationBatch,
    AuthorizationDecision,
    AuthorizationDecisions,
    Refund,
    Refunded,
    Reversal,
    Reversed,
)
from protocol.messages.service import (
    AccountClosed,
    CloseAccount,
    CreditProof,
    ServiceAccount,
    ServiceOffer,
    ServiceRequest,
)
from protocol.messages.settle import Payout, Settlement
from protocol.schema import Message
from protocol.types import Role

_CARD_SESSION: Final = 'H("tapveil-card-session", N_T), first 16 bytes'

_TERMINAL: Final = ("UNKNOWN_KEY", "WRONG_PEER", "FIELD_MISMATCH")
_PAY: Final[tuple[tuple[str, str, type[Message], type[Message], tuple[str, ...]], ...]] = (
    ("Authorize", "authorize", Authorization, AuthorizationDecision, ()),
    ("AuthorizeBatch", "authorize", AuthorizationBatch, AuthorizationDecisions, ()),
    ("Reverse", "giveback", Reversal, Reversed, ("WRONG_STATE", "ALREADY_SETTLED")),
    (
        "Refund", "giveback", Refund, Refunded,
        ("PURCHASE_UNKNOWN", "WRONG_STATE", "IDENTIFIER_TAKEN", "LIMIT_EXCEEDED"),
    ),
)  # fmt: skip

TSM: Final = (
    Rpc(
        service="Tsm", name="OpenAccount", steps=("TID-1a", "TID-1b"),
        request=ServiceRequest, request_form=Form.SEALED, request_signer=Key.TID,
        reply=ServiceOffer, reply_form=Form.SEALED, reply_signer=Key.TSM,
        step="protocol.roles.tsm.register.OpenAccountStep", codes=("FIELD_MISMATCH",),
    ),
    Rpc(
        service="Tsm", name="ProveCredit",
        steps=("TID-0", "TID-2d", "TID-3a", "TID-3b", "TID-3d", "TID-4", "RECREDIT"),
        session="SID", request=CreditProof, request_form=Form.UNDER_K, request_signer=Key.TID,
        reply=ServiceAccount, reply_form=Form.UNDER_K, reply_signer=Key.TSM,
        step="protocol.roles.tsm.register.ProveCreditStep",
        codes=(  # the last five are the bank's, passed on
            "UNKNOWN_SESSION", "FIELD_MISMATCH", "NONCE_MISMATCH", "COMMITMENT_MISMATCH", *PARTY, "PASS_INVALID",
            "POSSESSION_INVALID", "IDENTIFIER_TAKEN", "ACCOUNT_STOPPED", "CREDIT_MISMATCH", "WRONG_STATE",
            "AID_ALREADY_GRANTED", "LIMIT_EXCEEDED", "WRONG_PEER",
        ),
    ),
    Rpc(
        service="Tsm", name="RequestCards", steps=("CARD-1/2",),
        request=CardRequest, request_form=Form.SEALED, request_signer=Key.TID,
        reply=CardChallenge, reply_form=Form.UNDER_K, reply_signer=Key.TSM,
        step="protocol.roles.tsm.cards.RequestCardsStep", codes=("UNKNOWN_KEY", "WRONG_STATE", "ACCOUNT_STOPPED"),
    ),
    Rpc(
        service="Tsm", name="IssueCards", steps=("CARD-3", "CARD-4"), session=_CARD_SESSION,
        request=CardKeys, request_form=Form.WITH_CARD_KEYS_UNDER_K, request_signer=Key.TID,
        reply=CardsIssued, reply_form=Form.SEALED_UNDER_K, reply_signer=Key.TSM,
        step="protocol.roles.tsm.cards.IssueCardsStep",
        codes=(
            "UNKNOWN_SESSION", "NONCE_MISMATCH", "FIELD_MISMATCH", "CARD_KEY_INVALID", "GRANT_UNKNOWN", *PARTY,
            "PASS_INVALID", "POSSESSION_INVALID", "WRONG_STATE", "IDENTIFIER_TAKEN", "ACCOUNT_STOPPED",
        ),
    ),
    Rpc(
        service="Tsm", name="ActivateCards", steps=("CARD-5", "RECREDIT"), session=_CARD_SESSION,
        request=CardActivation, request_form=Form.UNDER_K, request_signer=Key.TID,
        reply=CardsActive, reply_form=Form.UNDER_K, reply_signer=Key.TSM,
        step="protocol.roles.tsm.cards.ActivateCardsStep",
        codes=("UNKNOWN_SESSION", "NONCE_MISMATCH", "FIELD_MISMATCH", "WRONG_STATE", "ACCOUNT_STOPPED"),
    ),
    Rpc(
        service="Tsm", name="SignOn", steps=(), tls=(Role.MERCHANT,),
        request=SignOn, request_form=Form.SIGNED, request_signer=Key.MERCHANT,
        reply=SignedOn, reply_form=Form.SIGNED, reply_signer=Key.TSM,
        step="protocol.roles.tsm.terminals.SignOnStep", codes=("UNKNOWN_KEY", "WRONG_PEER", "IDENTIFIER_TAKEN"),
    ),
    *(
        Rpc(
            service="Tsm", name=name, steps=("CARD-5",), tls=(Role.MERCHANT,),
            request=request, request_form=Form.SIGNED, request_signer=Key.TERMINAL,
            reply=reply, reply_form=Form.SIGNED, reply_signer=Key.TSM,
            step=f"protocol.roles.tsm.{module}.{name}Step", codes=(*_TERMINAL, *codes),
        )
        for name, module, request, reply, codes in _PAY
    ),
    Rpc(
        service="Tsm", name="SettleBatch", steps=("SETTLE",), tls=(Role.MERCHANT,),
        request=Settlement, request_form=Form.SIGNED, request_signer=Key.MERCHANT,
        reply=Payout, reply_form=Form.SIGNED, reply_signer=Key.TSM,
        step="protocol.roles.tsm.settle.SettleBatchStep",
        codes=(
            "UNKNOWN_KEY", "WRONG_PEER", "PURCHASE_UNKNOWN", "WRONG_STATE", "FIELD_MISMATCH", "ALREADY_SETTLED",
            "IDENTIFIER_TAKEN",
        ),
    ),
    Rpc(
        service="Tsm", name="CloseAccount", steps=(), session="SHA-256(SID)",
        request=CloseAccount, request_form=Form.UNDER_K, request_signer=Key.TID,
        reply=AccountClosed, reply_form=Form.UNDER_K, reply_signer=Key.TSM,
        step="protocol.roles.tsm.close.CloseAccountStep",
        codes=("UNKNOWN_SESSION", "FIELD_MISMATCH", *PARTY, "WRONG_STATE", "WRONG_PEER"),
    ),
)  # fmt: skip
