"""gRPC: channels with one TLS identity each, and refusals as status and code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
import pytest

from parties.rpc import bank_pb2_grpc, tsm_pb2_grpc
from parties.rpc.common_pb2 import Envelope

CODE_KEY = "tapveil-code"
STUBS = {"Bank": bank_pb2_grpc.BankStub, "Tsm": tsm_pb2_grpc.TsmStub}
TIMEOUT_S = 20.0

STATUS = {
    "INVALID_ARGUMENT": (
        "MALFORMED", "OVERSIZE", "WRONG_MESSAGE", "DECRYPTION_FAILED", "LIFETIME_TOO_LONG", "EVIDENCE_MALFORMED",
        "PCR_SELECTION_INVALID", "CARD_DATA_INVALID", "PIN_WEAK",
    ),
    "UNAUTHENTICATED": ("SIGNATURE_INVALID", "UNKNOWN_KEY", "CERTIFICATE_INVALID", "QUOTE_SIGNATURE_INVALID"),
    "PERMISSION_DENIED": (
        "WRONG_ISSUER", "WRONG_AUDIENCE", "WRONG_PEER", "NONCE_MISMATCH", "FIELD_MISMATCH", "BRANCH_CODE_INVALID",
        "FACTORS_INSUFFICIENT", "FACTOR_LOCKED", "MEASUREMENT_LIST_MISMATCH", "PLATFORM_CHANGED", "SOFTWARE_UNKNOWN",
        "SOFTWARE_CHANGED", "PASS_INVALID", "POSSESSION_INVALID", "COMMITMENT_MISMATCH", "CREDIT_MISMATCH",
        "CARD_KEY_INVALID", "PIN_INVALID", "OVER_CLAIM", "TRACE_CHAIN_INVALID", "TRACE_REASON_UNKNOWN",
    ),
    "FAILED_PRECONDITION": (
        "EXPIRED", "NOT_YET_VALID", "WRONG_STATE", "QUOTE_NOT_FRESH", "LIMIT_EXCEEDED", "PAYMENT_CLOSED", "NO_CARD",
        "ACCOUNT_STOPPED", "CLAIM_OUT_OF_ORDER",
    ),
    "ALREADY_EXISTS": ("REPLAY", "AID_ALREADY_GRANTED", "IDENTIFIER_TAKEN", "ALREADY_SETTLED", "TRACE_REPEATED"),
    "NOT_FOUND": ("UNKNOWN_SESSION", "UNKNOWN_ACCOUNT", "GRANT_UNKNOWN", "PURCHASE_UNKNOWN"),
    "RESOURCE_EXHAUSTED": ("ACCOUNT_LIMIT_REACHED", "OVERLOADED"),
    "UNAVAILABLE": ("UNAVAILABLE", "PEER_ANSWER_INVALID"),
}  # fmt: skip
"""docs/error-codes.md: the gRPC status of each code."""
STATUS_OF = {code: status for status, codes in STATUS.items() for code in codes}


class Refusal(Exception):
    """The other side said no: `code` from the trailing metadata (empty if it sent none), and the gRPC status."""

    def __init__(self, code: str, status: str) -> None:
        super().__init__(f"{code or 'no code'} ({status})")
        self.code = code
        self.status = status


@contextmanager
def refused(*codes: str) -> Iterator[None]:
    """The call must be refused with one of these codes, and with the status that belongs to it."""
    with pytest.raises(Refusal) as caught:
        yield
    assert caught.value.code in codes, f"refused with {caught.value}, want {' or '.join(codes)}"
    assert caught.value.status == STATUS_OF[caught.value.code]


@dataclass(frozen=True)
class Tls:
    """PEM of the CA, and of a client's certificate and key; without them a caller is anonymous."""

    root: bytes
    certificate: bytes | None = None
    key: bytes | None = None


class Connection:
    """A channel to one party under one TLS identity."""

    def __init__(self, address: str, name: str, tls: Tls) -> None:
        credentials = grpc.ssl_channel_credentials(tls.root, tls.key, tls.certificate)
        options = (
            ("grpc.ssl_target_name_override", name),
            ("grpc.default_authority", name),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_retries", 0),
            ("grpc.enable_http_proxy", 0),
        )
        self.name = name
        self._channel = grpc.secure_channel(address, credentials, options)

    def call(self, rpc: str, cose: bytes, session: bytes = b"") -> bytes:
        """The reply's `cose`. Raises: Refusal."""
        service, method = rpc.split(".")
        call = getattr(STUBS[service](self._channel), method)
        try:
            reply: Envelope = call(Envelope(cose=cose, session=session), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            trailers = {item.key: item.value for item in error.trailing_metadata() or ()}
            raise Refusal(str(trailers.get(CODE_KEY, "")), error.code().name) from error
        assert reply.session == b"", "a reply carries no session"
        return reply.cose

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()
