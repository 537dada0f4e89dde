"""One call as a value: its messages and their forms, who signs them, what it can refuse."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from protocol.schema import Message
from protocol.types import Role


class Form(StrEnum):
    """How a message is wrapped: `S` COSE_Sign1, `E(…)` HPKE to the receiver, `{…}K` COSE_Encrypt0 under K."""

    SIGNED = "S"
    SEALED = "E(S)"
    UNDER_K = "{S}K"
    UNDER_KX = "{S}kx"
    THREE_UNDER_KX = "{S_U, S_SE, S_AID}kx"
    SEALED_WITH_KEY_UNDER_KX = "{E(S, K)}kx"
    WITH_CARD_KEYS_UNDER_K = "{S, [PK_C, salt, S_C]…}K"
    SEALED_UNDER_K = "{E(S)}K"


class Key(StrEnum):
    """Signing keys by the paper's symbols. `iss` is the owner's name under each signature."""

    BANK = "SK_B"
    TSM = "SK_T"
    SE = "SK_SE"
    USER = "SK_U"
    AID = "SK_AID"
    TID = "SK_TID"
    MERCHANT = "SK_M"
    TERMINAL = "terminal key"
    SP = "SK_SP"
    WALLET = "wallet key"
    OFFICER = "officer's key"
    ONCE = "one-time key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rpc:
    """One call. `session` says what the request's envelope carries in its field `session`.

    `tls` are the roles that the caller's TLS certificate may have; empty: the step asks for none. `step` is the dotted
    name of the class that answers. `codes` are the refusals beyond `common_codes`.
    """

    service: str
    name: str
    steps: tuple[str, ...]
    request: type[Message]
    request_form: Form
    request_signer: Key
    reply: type[Message]
    reply_form: Form
    reply_signer: Key
    step: str
    codes: tuple[str, ...] = ()
    tls: tuple[Role, ...] = ()
    session: str = ""

    @property
    def full_name(self) -> str:
        """Service and name, as `Step.rpc` has it."""
        return f"{self.service}.{self.name}"

    @property
    def all_codes(self) -> frozenset[str]:
        """Every code that this call can answer."""
        return common_codes(self.request_form) | set(self.codes)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedObject:
    """A message that travels inside others: a COSE_Sign1 of its own, with an empty request digest."""

    message: type[Message]
    signer: Key
    audience: str
    form: Form
    carried_in: str
    steps: tuple[str, ...]


COMMON_CODES: Final = frozenset({
    "MALFORMED", "OVERSIZE", "WRONG_MESSAGE", "SIGNATURE_INVALID", "WRONG_ISSUER", "WRONG_AUDIENCE", "EXPIRED",
    "NOT_YET_VALID", "LIFETIME_TOO_LONG", "REPLAY", "UNAVAILABLE", "OVERLOADED", "STORAGE_FAULT",
    "PEER_ANSWER_INVALID", "INTERNAL",
})  # fmt: skip
"""What opening, deciding once and running can refuse in every call.

A stateless call never answers REPLAY, and only a call that asks another party PEER_ANSWER_INVALID."""


def common_codes(form: Form) -> frozenset[str]:
    """The codes that go without saying for a request of this form."""
    return COMMON_CODES if form is Form.SIGNED else COMMON_CODES | {"DECRYPTION_FAILED"}


QUOTE: Final = (
    "EVIDENCE_MALFORMED", "QUOTE_SIGNATURE_INVALID", "QUOTE_NOT_FRESH", "PCR_SELECTION_INVALID",
    "MEASUREMENT_LIST_MISMATCH", "PLATFORM_CHANGED",
)  # fmt: skip
"""What appraising a quote can refuse."""
PARTY: Final = ("UNKNOWN_KEY", "UNKNOWN_ACCOUNT")
"""What looking up a party, and what is kept of it, can refuse."""
