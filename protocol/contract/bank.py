"""The bank's calls (INIT, ATT, AID, TID-3, SETTLE, FREEZE, TRACE)."""

from __future__ import annotations

from typing import Final

from protocol.contract.rpc import PARTY, QUOTE, Form, Key, Rpc
from protocol.messages.account import (
    AccountActivation,
    AccountActive,
    AccountChallenge,
    AccountKeys,
    AccountRequest,
    AidCertificate,
)
from protocol.messages.attest import AttestationDecision, AttestationEvidence, Challenge, ChallengeRequest
from protocol.messages.claim import Claim, ClaimAccepted
from protocol.messages.enroll import Enroll, Enrolled
from protocol.messages.service import GrantApproval, GrantRelease, GrantReleased, GrantRequest
from protocol.messages.stops import ListStops, StopList
from protocol.messages.trace import TraceRequest, TraceState
from protocol.types import Role

BANK: Final = (
    Rpc(
        service="Bank", name="Challenge", steps=("INIT-3", "ATT-D1", "ATT-L1"), tls=(Role.SE, Role.PHONE),
        request=ChallengeRequest, request_form=Form.SIGNED, request_signer=Key.WALLET,
        reply=Challenge, reply_form=Form.SIGNED, reply_signer=Key.BANK,
        step="protocol.roles.bank.enroll.ChallengeStep", codes=("UNKNOWN_KEY", "WRONG_PEER"),
    ),
    Rpc(
        service="Bank", name="Enroll", steps=("INIT-3", "INIT-4"), tls=(Role.SE, Role.PHONE),
        request=Enroll, request_form=Form.SIGNED, request_signer=Key.USER,
        reply=Enrolled, reply_form=Form.SIGNED, reply_signer=Key.BANK,
        step="protocol.roles.bank.enroll.EnrollStep",
        codes=(
            "UNKNOWN_KEY", "WRONG_PEER", "CERTIFICATE_INVALID", "FIELD_MISMATCH", *QUOTE, "NONCE_MISMATCH",
            "BRANCH_CODE_INVALID", "IDENTIFIER_TAKEN", "WRONG_STATE",
            "ACCOUNT_STOPPED",
        ),
    ),
    *(
        Rpc(
            service="Bank", name=name, steps=steps,
            request=AttestationEvidence, request_form=Form.SEALED, request_signer=Key.USER,
            reply=AttestationDecision, reply_form=Form.SEALED, reply_signer=Key.BANK,
            step=f"protocol.roles.bank.attest.{name}Step",
            codes=("UNKNOWN_KEY", "FIELD_MISMATCH", "NONCE_MISMATCH", "WRONG_STATE"),
        )
        for name, steps in (
            ("ApproveInstall", ("ATT-D6", "ATT-D7")), ("ReportInstall", ("ATT-D7",)), ("VerifyLaunch", ("ATT-L6",))
        )
    ),
    Rpc(
        service="Bank", name="RequestAccount", steps=("AID-1", "AID-2"),
        request=AccountRequest, request_form=Form.SEALED, request_signer=Key.USER,
        reply=AccountChallenge, reply_form=Form.UNDER_KX, reply_signer=Key.BANK,
        step="protocol.roles.bank.account.RequestAccountStep",
        codes=("UNKNOWN_KEY", "WRONG_STATE", "FACTOR_LOCKED", "ACCOUNT_LIMIT_REACHED", "ACCOUNT_STOPPED"),
    ),
    Rpc(
        service="Bank", name="CertifyAccount", steps=("AID-5", "AID-6"), session="session of AID-2",
        request=AccountKeys, request_form=Form.THREE_UNDER_KX, request_signer=Key.USER,
        reply=AidCertificate, reply_form=Form.SEALED_WITH_KEY_UNDER_KX, reply_signer=Key.BANK,
        step="protocol.roles.bank.account.CertifyAccountStep",
        codes=(
            "IDENTIFIER_TAKEN", "ACCOUNT_STOPPED",
            "UNKNOWN_SESSION", "NONCE_MISMATCH", "FIELD_MISMATCH", *QUOTE, "SOFTWARE_UNKNOWN",
            "SOFTWARE_CHANGED", "WRONG_STATE", "FACTOR_LOCKED", "FACTORS_INSUFFICIENT", "ACCOUNT_LIMIT_REACHED",
        ),
    ),
    Rpc(
        service="Bank", name="ActivateAccount", steps=("AID-8",), session="session of AID-2",
        request=AccountActivation, request_form=Form.UNDER_K, request_signer=Key.AID,
        reply=AccountActive, reply_form=Form.UNDER_K, reply_signer=Key.BANK,
        step="protocol.roles.bank.account.ActivateAccountStep",
        codes=("UNKNOWN_SESSION", "FIELD_MISMATCH", "NONCE_MISMATCH", *PARTY, "WRONG_STATE", "ACCOUNT_STOPPED"),
    ),
    Rpc(
        service="Bank", name="ApproveGrant", steps=("TID-3b", "TID-3c", "TID-3d"), tls=(Role.TSM,),
        request=GrantRequest, request_form=Form.SEALED, request_signer=Key.TSM,
        reply=GrantApproval, reply_form=Form.UNDER_K, reply_signer=Key.BANK,
        step="protocol.roles.bank.grant.ApproveGrantStep",
        codes=(
            *PARTY, "WRONG_PEER", "FIELD_MISMATCH", "CREDIT_MISMATCH", "WRONG_STATE", "AID_ALREADY_GRANTED",
            "ACCOUNT_STOPPED", "LIMIT_EXCEEDED",
        ),
    ),
    Rpc(
        service="Bank", name="ReleaseGrant", steps=(), tls=(Role.TSM,),
        request=GrantRelease, request_form=Form.SEALED, request_signer=Key.TSM,
        reply=GrantReleased, reply_form=Form.SEALED, reply_signer=Key.BANK,
        step="protocol.roles.bank.grant.ReleaseGrantStep", codes=("UNKNOWN_KEY", "WRONG_PEER", "GRANT_UNKNOWN"),
    ),
    Rpc(
        service="Bank", name="SubmitClaim", steps=("SETTLE",), tls=(Role.TSM,),
        request=Claim, request_form=Form.SEALED, request_signer=Key.TSM,
        reply=ClaimAccepted, reply_form=Form.SEALED, reply_signer=Key.BANK,
        step="protocol.roles.bank.claims.SubmitClaimStep",
        codes=("UNKNOWN_KEY", "WRONG_PEER", "GRANT_UNKNOWN", "FIELD_MISMATCH", "CLAIM_OUT_OF_ORDER", "OVER_CLAIM"),
    ),
    Rpc(
        service="Bank", name="ListStops", steps=("FREEZE",), tls=(Role.TSM,),
        request=ListStops, request_form=Form.SIGNED, request_signer=Key.TSM,
        reply=StopList, reply_form=Form.SEALED, reply_signer=Key.BANK,
        step="protocol.roles.bank.stops.ListStopsStep", codes=("UNKNOWN_KEY", "WRONG_PEER", "LIMIT_EXCEEDED"),
    ),
    Rpc(
        service="Bank", name="RequestTrace", steps=("TRACE",), tls=(Role.TSM,),
        request=TraceRequest, request_form=Form.SEALED, request_signer=Key.TSM,
        reply=TraceState, reply_form=Form.SEALED, reply_signer=Key.BANK,
        step="protocol.roles.bank.trace.RequestTraceStep",
        codes=(
            "UNKNOWN_KEY", "WRONG_PEER", "TRACE_REASON_UNKNOWN", "TRACE_CHAIN_INVALID", "TRACE_REPEATED",
            "IDENTIFIER_TAKEN",
        ),
    ),
)  # fmt: skip
