"""The secure element's commands, by its own wallet only, and the NFC field, which anyone may touch."""

from __future__ import annotations

from typing import Final

from protocol.contract.rpc import PARTY, Form, Key, Rpc
from protocol.messages.se import (
    SeAcceptDecision,
    SeAccount,
    SealedRequest,
    SeBankInfo,
    SeBeginAccount,
    SeDecision,
    SeEnroll,
    SeGenerateAccountKeys,
    SeGenerateCardKeys,
    SeGenerateServiceKeys,
    SeIdentity,
    SeInstallAccount,
    SeInstallCards,
    SeInstallIdentity,
    SeInstallPass,
    SeMakeBankInfo,
    SeMeasure,
    SeMeasured,
    SeOpenCard,
    SeOpening,
    SeOpenService,
    SePin,
    SeQuote,
    SeReopenPin,
    SeService,
    SeSetPin,
    SeSignService,
    SeVerifyPin,
)
from protocol.messages.se_state import SeState, SeStatus
from protocol.schema import Message


def _command(
    name: str, module: str, request: type[Message], reply: type[Message], steps: tuple[str, ...], *codes: str
) -> Rpc:
    """A command to the SE: signed by the wallet key, answered under SK_SE, over the phone's inner link."""
    return Rpc(
        service="SecureElement", name=name, steps=steps, request=request, request_form=Form.SIGNED,
        request_signer=Key.WALLET, reply=reply, reply_form=Form.SIGNED, reply_signer=Key.SE,
        step=f"protocol.roles.se.{module}.{name}Step", codes=codes,
    )  # fmt: skip


SE: Final = (
    _command("Enroll", "identity", SeEnroll, SealedRequest, ("INIT-3",), *PARTY, "WRONG_STATE"),
    _command(
        "InstallIdentity", "identity", SeInstallIdentity, SeIdentity, ("INIT-4",),
        *PARTY, "CERTIFICATE_INVALID", "WRONG_STATE",
    ),
    _command("Measure", "identity", SeMeasure, SeMeasured, ("ATT-D4", "ATT-D5", "ATT-L4", "ATT-L5")),
    _command(
        "Quote", "identity", SeQuote, SealedRequest,
        ("ATT-D2", "ATT-D3", "ATT-D4", "ATT-D5", "ATT-D6", "ATT-L2", "ATT-L3", "ATT-L4", "ATT-L5", "ATT-L6"),
        *PARTY, "FIELD_MISMATCH", "WRONG_STATE",
    ),
    _command(
        "AcceptDecision", "identity", SeAcceptDecision, SeDecision, ("ATT-D7", "ATT-L6"),
        *PARTY, "DECRYPTION_FAILED", "WRONG_STATE",
    ),
    _command(
        "BeginAccount", "account", SeBeginAccount, SealedRequest, ("AID-1",), *PARTY, "PAYMENT_CLOSED", "WRONG_STATE"
    ),
    _command(
        "GenerateAccountKeys", "account", SeGenerateAccountKeys, SealedRequest, ("AID-3", "AID-4", "AID-5"),
        *PARTY, "DECRYPTION_FAILED", "NONCE_MISMATCH", "PAYMENT_CLOSED", "WRONG_STATE",
    ),
    _command(
        "InstallAccount", "account", SeInstallAccount, SealedRequest, ("AID-7", "AID-8"),
        *PARTY, "DECRYPTION_FAILED", "PAYMENT_CLOSED", "NONCE_MISMATCH", "FIELD_MISMATCH", "WRONG_STATE",
    ),
    _command(
        "InstallPass", "account", SeInstallPass, SeAccount, ("AID-8",),
        *PARTY, "DECRYPTION_FAILED", "FIELD_MISMATCH", "WRONG_STATE",
    ),
    _command("GenerateServiceKeys", "service", SeGenerateServiceKeys, SealedRequest, ("TID-1a",), *PARTY),
    _command(
        "MakeBankInfo", "service", SeMakeBankInfo, SeBankInfo, ("TID-2a", "TID-2b"),
        *PARTY, "DECRYPTION_FAILED", "FIELD_MISMATCH", "NONCE_MISMATCH", "PAYMENT_CLOSED", "WRONG_STATE",
    ),
    _command(
        "SignService", "service", SeSignService, SealedRequest, ("TID-0", "TID-2c", "TID-2d", "CARD-1/2"),
        *PARTY, "PAYMENT_CLOSED", "WRONG_STATE",
    ),
    _command(
        "OpenService", "answer", SeOpenService, SeService, ("TID-4", "CARD-5"),
        *PARTY, "DECRYPTION_FAILED", "NONCE_MISMATCH", "FIELD_MISMATCH", "WRONG_STATE",
    ),
    _command(
        "GenerateCardKeys", "card", SeGenerateCardKeys, SealedRequest, ("CARD-1/2", "CARD-3"),
        *PARTY, "DECRYPTION_FAILED", "FIELD_MISMATCH", "NONCE_MISMATCH", "PAYMENT_CLOSED", "WRONG_STATE",
    ),
    _command(
        "InstallCards", "card", SeInstallCards, SealedRequest, ("CARD-4", "CARD-5"),
        *PARTY, "DECRYPTION_FAILED", "PAYMENT_CLOSED", "FIELD_MISMATCH", "NONCE_MISMATCH", "WRONG_STATE",
        "CARD_DATA_INVALID",
    ),
    _command(
        "OpenCard", "opening", SeOpenCard, SeOpening, ("CARD-5",), *PARTY, "PAYMENT_CLOSED", "WRONG_STATE", "NO_CARD"
    ),
    _command("SetPin", "pin", SeSetPin, SePin, (), "PIN_WEAK", "PIN_INVALID", "FACTOR_LOCKED", "WRONG_STATE"),
    _command(
        "VerifyPin", "pin", SeVerifyPin, SeOpening, ("CARD-5",),
        "PIN_INVALID", "FACTOR_LOCKED", "FIELD_MISMATCH", "WRONG_STATE",
    ),
    _command("ReopenPin", "pin", SeReopenPin, SePin, (), *PARTY, "FIELD_MISMATCH", "WRONG_STATE"),
    _command("Status", "status", SeStatus, SeState, ()),
)  # fmt: skip

FIELD: Final = "SecureElement.Transceive"
"""The NFC field: APDUs in and out, not messages; no step, no signature, no TLS identity, as radio has none."""
