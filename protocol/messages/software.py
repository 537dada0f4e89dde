"""The software provider hands out the release and the banks' reference values (INIT-5, ATT-D0, ATT-D1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from protocol.schema import Bytes, Identifier, Message, Object, PublicKeyBytes

MAX_PACKAGE: Final = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseRequest(Message):
    """phone → SP `S_once(software id, key)`: signed by a one-time key, so that the SP learns no phone."""

    NAME: ClassVar[str] = "release-request"
    software: Identifier
    key: PublicKeyBytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Release(Message):
    """SP → phone `S_SP(release, package)`: the signed release and the zipapp itself."""

    NAME: ClassVar[str] = "release-package"
    MAX_BYTES: ClassVar[int] = MAX_PACKAGE + 16 * 1024
    release: Object
    package: Annotated[bytes, Bytes(1, MAX_PACKAGE)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceRequest(Message):
    """phone → SP `S_once(software id, bank, key)`."""

    NAME: ClassVar[str] = "reference-request"
    software: Identifier
    bank: Identifier
    key: PublicKeyBytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceValues(Message):
    """SP → phone `S_SP(reference values)`; the values are the bank's `SIGN(SK_B, Quote)`."""

    NAME: ClassVar[str] = "reference-reply"
    MAX_BYTES: ClassVar[int] = 64 * 1024
    reference_values: Annotated[bytes, Bytes(1, 48 * 1024)]
