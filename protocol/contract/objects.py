"""Messages that travel inside others."""

from __future__ import annotations

from typing import Final

from protocol.contract.rpc import Form, Key, SignedObject
from protocol.messages.account import AccountKeysByAid, AccountKeysBySe
from protocol.messages.attest import LaunchPass, PossessionForCards, PossessionForSession
from protocol.messages.enroll import PinReopening, SecureElementStatement
from protocol.messages.service import BankInfo, Promise, RecreditOffer, TidCertificate, TsmInfo
from protocol.messages.statement import Statement
from protocol.messages.trace import AuditEntry, TraceAnswer, TraceApproval

OBJECTS: Final = (
    SignedObject(
        message=PinReopening, signer=Key.BANK, audience="ID_U", form=Form.SIGNED,
        carried_in="se-reopen-pin.approval", steps=(),
    ),
    SignedObject(
        message=SecureElementStatement, signer=Key.SE, audience="ID_B", form=Form.SIGNED,
        carried_in="enroll.se_statement", steps=("INIT-3",),
    ),
    SignedObject(
        message=AccountKeysBySe, signer=Key.SE, audience="ID_B", form=Form.THREE_UNDER_KX,
        carried_in="second part of Bank.CertifyAccount's request", steps=("AID-4", "AID-5"),
    ),
    SignedObject(
        message=AccountKeysByAid, signer=Key.AID, audience="ID_B", form=Form.THREE_UNDER_KX,
        carried_in="third part of Bank.CertifyAccount's request", steps=("AID-4", "AID-5"),
    ),
    SignedObject(
        message=LaunchPass, signer=Key.BANK, audience="ID_T", form=Form.SIGNED,
        carried_in="attestation-decision, account-active, credit-proof and card-keys", steps=("ATT-L6", "AID-8"),
    ),
    SignedObject(
        message=PossessionForSession, signer=Key.AID, audience="ID_T", form=Form.SIGNED,
        carried_in="credit-proof.possession", steps=("TID-2d",),
    ),
    SignedObject(
        message=PossessionForCards, signer=Key.AID, audience="ID_T", form=Form.SIGNED,
        carried_in="card-keys.possession", steps=("CARD-3",),
    ),
    SignedObject(
        message=BankInfo, signer=Key.AID, audience="ID_B", form=Form.UNDER_K,
        carried_in="credit-proof.binfo, forwarded in grant-request.binfo; K is K_AID,B", steps=("TID-2b",),
    ),
    SignedObject(
        message=TsmInfo, signer=Key.TID, audience="ID_T", form=Form.SIGNED,
        carried_in="credit-proof.tsminfo", steps=("TID-2c",),
    ),
    SignedObject(
        message=Promise, signer=Key.BANK, audience="ID_T", form=Form.SIGNED,
        carried_in="grant-approval.promise", steps=("TID-3d",),
    ),
    SignedObject(
        message=TidCertificate, signer=Key.TSM, audience="TID", form=Form.SIGNED,
        carried_in="service-account.certificate", steps=("TID-4",),
    ),
    SignedObject(
        message=RecreditOffer, signer=Key.TSM, audience="TID", form=Form.SIGNED,
        carried_in="cards-active.recredit", steps=("RECREDIT",),
    ),
    SignedObject(
        message=TraceApproval, signer=Key.OFFICER, audience="ID_B", form=Form.SIGNED,
        carried_in="the bank's tables, under the case", steps=("TRACE",),
    ),
    SignedObject(
        message=TraceAnswer, signer=Key.BANK, audience="the requester", form=Form.SEALED,
        carried_in="trace-state.answer", steps=("TRACE",),
    ),
    SignedObject(
        message=AuditEntry, signer=Key.BANK, audience="ID_B", form=Form.SIGNED,
        carried_in="the bank's log of traces", steps=("TRACE",),
    ),
    SignedObject(
        message=Statement, signer=Key.TSM, audience="the counterparty", form=Form.SIGNED,
        carried_in="a file; a bank's and a merchant's, under SK_B and SK_M, are alike", steps=("SETTLE",),
    ),
)  # fmt: skip
"""Messages that are never a whole request or reply."""
