"""A TPM 2.0 spoken to directly: command bytes out, response bytes in (TPM 2.0 Library, Part 3).

The transport is a connected socket (swtpm) or an adapter over `/dev/tpmrm0` with the same two methods. Authorization
is by the empty password: the seam protects no secret of the user's, and the key signs only what the TPM made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from attestation.marshal import Reader, sized
from attestation.measurement import PCR_INDEX
from attestation.tpm import (
    ALG_NULL,
    ALG_SHA256,
    KEY_TEMPLATE,
    MAX_ATTEST_BYTES,
    POLICY_SELECTION,
    RH_ENDORSEMENT,
    EcdsaSignature,
    Quote,
    encode_selection,
    name,
    parse_public_area,
    read_selection,
)
from protocol.crypto import PublicKey
from protocol.errors import EvidenceMalformed, Internal, Unavailable
from protocol.types import DIGEST_BYTES

MAX_RESPONSE_BYTES: Final = 4096
_HEADER_BYTES: Final = 10
_ST_NO_SESSIONS: Final = 0x8001
_ST_SESSIONS: Final = 0x8002
_RS_PW: Final = 0x40000009
_CC_STARTUP: Final = 0x0144
_CC_CREATE_PRIMARY: Final = 0x0131
_CC_FLUSH_CONTEXT: Final = 0x0165
_CC_PCR_READ: Final = 0x017E
_CC_PCR_EXTEND: Final = 0x0182
_CC_QUOTE: Final = 0x0158
_SU_CLEAR: Final = 0x0000
_RC_SUCCESS: Final = 0x0000
_RC_INITIALIZE: Final = 0x0100  # already started, by the firmware or by the kernel
_MAX_BUFFER: Final = 2048
_NO_PASSWORD: Final = _RS_PW.to_bytes(4) + sized(b"") + b"\0" + sized(b"")


class Transport(Protocol):
    """A connected stream; a `socket.socket` is one. Deadlines are set by whoever opened it."""

    def sendall(self, data: bytes, /) -> None:
        """Sends every byte."""

    def recv(self, size: int, /) -> bytes:
        """Up to `size` bytes; none when the other end closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedKey:
    """An attestation key in a transient slot of the TPM."""

    handle: int
    public: PublicKey


class TpmClient:
    """The six commands an MTM needs. One command at a time.

    Every command raises:
        Unavailable: the transport failed or closed. Unreachable is never untrusted.
        Internal: the TPM refused the command, with its response code.
        EvidenceMalformed: the response is not of the command's form.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def startup(self) -> None:
        """TPM2_Startup(CLEAR) (§9.3): PCRs go to their reset values. A TPM that was started already is left alone."""
        self._run(_CC_STARTUP, _SU_CLEAR.to_bytes(2), accept=frozenset({_RC_SUCCESS, _RC_INITIALIZE})).end()

    def create_attestation_key(self) -> LoadedKey:
        """TPM2_CreatePrimary (§24.1) in the endorsement hierarchy: the same seed and template give the same key."""
        sensitive = sized(sized(b"") + sized(b""))  # no authorization value, no data
        parameters = sensitive + sized(KEY_TEMPLATE) + sized(b"") + encode_selection(())
        response = self._run(_CC_CREATE_PRIMARY, parameters, handle=RH_ENDORSEMENT)
        handle = response.uint(4)
        answer = _parameters(response)
        public = parse_public_area(answer.sized(low=1, high=_MAX_BUFFER))
        answer.sized(low=0, high=_MAX_BUFFER)  # creationData
        answer.sized(low=0, high=_MAX_BUFFER)  # creationHash
        answer.take(2 + 4)  # creationTicket: tag, hierarchy
        answer.sized(low=0, high=_MAX_BUFFER)
        if answer.sized(low=1, high=_MAX_BUFFER) != name(public):
            raise EvidenceMalformed("the TPM's Name of the key is not that of its public area")
        answer.end()
        return LoadedKey(handle=handle, public=public)

    def read_pcr10(self) -> bytes:
        """TPM2_PCR_Read (§22.4): PCR 10 of the SHA-256 bank."""
        response = self._run(_CC_PCR_READ, encode_selection(POLICY_SELECTION))
        response.uint(4)  # pcrUpdateCounter
        if read_selection(response) != POLICY_SELECTION or response.uint(4) != 1:
            raise EvidenceMalformed("the TPM has no SHA-256 bank")
        value = response.sized(low=DIGEST_BYTES, high=DIGEST_BYTES)
        response.end()
        return value

    def extend_pcr10(self, digest: bytes) -> None:
        """TPM2_PCR_Extend (§22.2) in the SHA-256 bank."""
        digests = (1).to_bytes(4) + ALG_SHA256.to_bytes(2) + digest
        _parameters(self._run(_CC_PCR_EXTEND, digests, handle=PCR_INDEX)).end()

    def quote(self, key: LoadedKey, qualifying_data: bytes) -> Quote:
        """TPM2_Quote (§18.4) over the policy's selection, by the key's own scheme."""
        parameters = sized(qualifying_data) + ALG_NULL.to_bytes(2) + encode_selection(POLICY_SELECTION)
        answer = _parameters(self._run(_CC_QUOTE, parameters, handle=key.handle))
        attest = answer.sized(low=1, high=MAX_ATTEST_BYTES)
        signature = EcdsaSignature.read(answer, low=1)
        answer.end()
        return Quote(attest=attest, signature=signature.to_bytes())

    def flush(self, key: LoadedKey) -> None:
        """TPM2_FlushContext (§28.4): transient slots are few, and without a resource manager nobody else frees them."""
        self._run(_CC_FLUSH_CONTEXT, key.handle.to_bytes(4)).end()

    def _run(
        self, code: int, parameters: bytes, *, handle: int | None = None, accept: frozenset[int] = frozenset({0})
    ) -> Reader:
        """The response after its header. A command on a handle carries the (empty) password."""
        tag = _ST_NO_SESSIONS if handle is None else _ST_SESSIONS
        area = b"" if handle is None else handle.to_bytes(4) + len(_NO_PASSWORD).to_bytes(4) + _NO_PASSWORD
        size = _HEADER_BYTES + len(area) + len(parameters)
        response = self._exchange(tag.to_bytes(2) + size.to_bytes(4) + code.to_bytes(4) + area + parameters)
        reader = Reader(response)
        answered, _, rc = reader.uint(2), reader.uint(4), reader.uint(4)
        if rc not in accept:
            raise Internal(f"the TPM answered command {code:#06x} with {rc:#010x}")
        if answered != tag:
            raise EvidenceMalformed("response has another tag than the command")
        return reader

    def _exchange(self, command: bytes) -> bytes:
        """One whole response. Some drivers drop what a first read leaves behind, so every read asks for all."""
        response = b""
        try:
            self._transport.sendall(command)
            while len(response) < _HEADER_BYTES or len(response) < _size(response):
                part = self._transport.recv(MAX_RESPONSE_BYTES)
                if not part:
                    raise Unavailable("the TPM closed the connection")
                response += part
        except OSError as exc:
            raise Unavailable("the TPM cannot be reached") from exc
        if len(response) != _size(response):
            raise EvidenceMalformed("response is longer than it says")
        return response


def _size(response: bytes) -> int:
    size = int.from_bytes(response[2:6])
    if not _HEADER_BYTES <= size <= MAX_RESPONSE_BYTES:
        raise EvidenceMalformed("size of the response is out of range")
    return size


def _parameters(response: Reader) -> Reader:
    """The parameters of a response with sessions; the authorization area after them has the empty password's form."""
    parameters = Reader(response.take(response.uint(4)))
    if response.uint(2) != 0:
        raise EvidenceMalformed("response authorization is not the empty password's")
    response.uint(1)  # session attributes
    response.sized(low=0, high=0)
    response.end()
    return parameters
