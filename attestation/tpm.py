"""TPM 2.0 structures of a quote (TPM 2.0 Library, Part 2), strict: one value, one encoding, exact consumption.

They are the same whether a software MTM or a TPM made them, so that one verifier serves both. Section numbers in the
comments are those of Part 2, revision 1.59.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from attestation.marshal import Reader, sized
from attestation.measurement import PCR_INDEX
from protocol.crypto import P256, PrivateKey, PublicKey, sha256
from protocol.errors import EvidenceMalformed, Oversize, QuoteSignatureInvalid, SignatureInvalid

MAGIC: Final = 0xFF544347  # TPM_GENERATED_VALUE, §6.2: only the TPM makes signed structures that begin so
ST_ATTEST_QUOTE: Final = 0x8018  # §6.9
ALG_SHA256: Final = 0x000B  # §6.3
ALG_NULL: Final = 0x0010
ALG_ECDSA: Final = 0x0018
ALG_ECC: Final = 0x0023
ECC_NIST_P256: Final = 0x0003  # §6.4
RH_ENDORSEMENT: Final = 0x4000000B  # §7.4

_SCALAR_BYTES: Final = 32
_MAX_NAME: Final = 2 + 64  # §10.5.3, with SHA-512
_MAX_DATA: Final = 2 + 64  # §10.4.3: TPM2B_DATA
_MAX_DIGEST: Final = 64
_MAX_BANKS: Final = 16
_MAX_SELECT: Final = 4
MAX_ATTEST_BYTES: Final = 1024
SIGNATURE_BYTES: Final = 2 + 2 + 2 * (2 + _SCALAR_BYTES)

# §8.3: fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, sign. A restricted key signs only
# what the TPM itself made, so that no caller can have a quote of its own invention signed.
_KEY_ATTRIBUTES: Final = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 10 | 1 << 16 | 1 << 18
_KEY_PREFIX: Final = b"".join(
    (
        ALG_ECC.to_bytes(2),
        ALG_SHA256.to_bytes(2),  # nameAlg
        _KEY_ATTRIBUTES.to_bytes(4),
        sized(b""),  # authPolicy
        ALG_NULL.to_bytes(2),  # symmetric
        ALG_ECDSA.to_bytes(2) + ALG_SHA256.to_bytes(2),  # scheme
        ECC_NIST_P256.to_bytes(2),
        ALG_NULL.to_bytes(2),  # kdf
    )
)
KEY_TEMPLATE: Final = _KEY_PREFIX + sized(b"") + sized(b"")
"""TPMT_PUBLIC (§12.2.4) that asks a TPM for an attestation key: restricted, ECDSA over P-256 with SHA-256."""


def public_area(key: PublicKey) -> bytes:
    """TPMT_PUBLIC of the attestation key `key`."""
    return _KEY_PREFIX + sized(key.encoded[1:33]) + sized(key.encoded[33:])


def parse_public_area(data: bytes) -> PublicKey:
    """The key in a TPMT_PUBLIC made from `KEY_TEMPLATE`; coordinates may have lost their leading zeros.

    Raises: EvidenceMalformed (another kind of key), Malformed (not a point of the curve).
    """
    reader = Reader(data)
    if reader.take(len(_KEY_PREFIX)) != _KEY_PREFIX:
        raise EvidenceMalformed("not an attestation key of the policy's kind")
    x = reader.sized(low=1, high=_SCALAR_BYTES).rjust(_SCALAR_BYTES, b"\0")
    y = reader.sized(low=1, high=_SCALAR_BYTES).rjust(_SCALAR_BYTES, b"\0")
    reader.end()
    return PublicKey.from_bytes(b"\x04" + x + y)


def name(key: PublicKey) -> bytes:
    """The Name of the attestation key: nameAlg ‖ H(TPMT_PUBLIC) (Part 1 §16)."""
    return ALG_SHA256.to_bytes(2) + sha256(public_area(key))


def qualified_name(key: PublicKey) -> bytes:
    """The Qualified Name of the key as a primary object of the endorsement hierarchy (Part 1 §26.5).

    The endorsement hierarchy because in the owner's the TPM obfuscates the counters of `ClockInfo`.
    """
    return ALG_SHA256.to_bytes(2) + sha256(RH_ENDORSEMENT.to_bytes(4), name(key))


@dataclass(frozen=True, slots=True, kw_only=True)
class PcrBank:
    """TPMS_PCR_SELECTION (§10.6.2): a bank's hash algorithm, and its PCRs as a bit map, PCR 0 first."""

    algorithm: int
    bitmap: bytes

    @classmethod
    def of(cls, *indices: int) -> PcrBank:
        """PCRs of the SHA-256 bank, out of 24."""
        return cls(algorithm=ALG_SHA256, bitmap=sum(1 << index for index in set(indices)).to_bytes(3, "little"))


Selection = tuple[PcrBank, ...]

POLICY_SELECTION: Final[Selection] = (PcrBank.of(PCR_INDEX),)
"""What every quote covers, exactly: PCR 10 of the SHA-256 bank, which holds the platform and then the application.

Never 16 or 23, which software can reset. The boot PCRs 0 to 7 are not used: in the Mobile Trusted Module's reference
architecture the engine's own root of trust measures its platform components, and they lead the list in PCR 10.
"""


def encode_selection(selection: Selection) -> bytes:
    """TPML_PCR_SELECTION (§10.9.7)."""
    banks = (bank.algorithm.to_bytes(2) + len(bank.bitmap).to_bytes(1) + bank.bitmap for bank in selection)
    return len(selection).to_bytes(4) + b"".join(banks)


def read_selection(reader: Reader) -> Selection:
    """Raises: EvidenceMalformed."""
    count = reader.uint(4)
    if count > _MAX_BANKS:
        raise EvidenceMalformed("selection has too many banks")
    return tuple(_read_bank(reader) for _ in range(count))


def _read_bank(reader: Reader) -> PcrBank:
    algorithm, size = reader.uint(2), reader.uint(1)
    if not 1 <= size <= _MAX_SELECT:
        raise EvidenceMalformed("bit map of a bank has a wrong size")
    return PcrBank(algorithm=algorithm, bitmap=reader.take(size))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockInfo:
    """TPMS_CLOCK_INFO (§10.11.1). `clock_ms` runs while the TPM does; resets are boots, restarts are resumptions."""

    clock_ms: int
    reset_count: int
    restart_count: int
    safe: bool

    def to_bytes(self) -> bytes:
        """17 bytes."""
        counters = self.reset_count.to_bytes(4) + self.restart_count.to_bytes(4)
        return self.clock_ms.to_bytes(8) + counters + self.safe.to_bytes(1)

    @classmethod
    def read(cls, reader: Reader) -> ClockInfo:
        """Raises: EvidenceMalformed."""
        clock_ms, reset_count, restart_count = reader.uint(8), reader.uint(4), reader.uint(4)
        safe = reader.uint(1)
        if safe > 1:
            raise EvidenceMalformed("safe is neither yes nor no")
        return cls(clock_ms=clock_ms, reset_count=reset_count, restart_count=restart_count, safe=safe == 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attest:
    """TPMS_ATTEST (§10.12.12) of type TPM_ST_ATTEST_QUOTE. `extra_data` is the caller's qualifying data."""

    qualified_signer: bytes
    extra_data: bytes
    clock_info: ClockInfo
    firmware_version: int
    selection: Selection
    pcr_digest: bytes

    def to_bytes(self) -> bytes:
        """What is signed."""
        return b"".join(
            (
                MAGIC.to_bytes(4),
                ST_ATTEST_QUOTE.to_bytes(2),
                sized(self.qualified_signer),
                sized(self.extra_data),
                self.clock_info.to_bytes(),
                self.firmware_version.to_bytes(8),
                encode_selection(self.selection),
                sized(self.pcr_digest),
            )
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Attest:
        """Raises: Oversize; EvidenceMalformed (magic, type, sizes, truncated, trailing bytes)."""
        if len(data) > MAX_ATTEST_BYTES:
            raise Oversize(f"attested structure of {len(data)} bytes, at most {MAX_ATTEST_BYTES}")
        reader = Reader(data)
        if reader.uint(4) != MAGIC:
            raise EvidenceMalformed("magic is not TPM_GENERATED_VALUE")
        if reader.uint(2) != ST_ATTEST_QUOTE:
            raise EvidenceMalformed("attested structure is not a quote")
        attest = cls(
            qualified_signer=reader.sized(low=0, high=_MAX_NAME),
            extra_data=reader.sized(low=0, high=_MAX_DATA),
            clock_info=ClockInfo.read(reader),
            firmware_version=reader.uint(8),
            selection=read_selection(reader),
            pcr_digest=reader.sized(low=0, high=_MAX_DIGEST),
        )
        reader.end()
        return attest


@dataclass(frozen=True, slots=True, kw_only=True)
class EcdsaSignature:
    """TPMT_SIGNATURE (§11.3.4) by ECDSA with SHA-256; `raw` is r ‖ s, each left-padded to 32 bytes."""

    raw: bytes

    def to_bytes(self) -> bytes:
        """72 bytes."""
        algorithms = ALG_ECDSA.to_bytes(2) + ALG_SHA256.to_bytes(2)
        return algorithms + sized(self.raw[:_SCALAR_BYTES]) + sized(self.raw[_SCALAR_BYTES:])

    @classmethod
    def from_bytes(cls, data: bytes) -> EcdsaSignature:
        """Raises: EvidenceMalformed (another algorithm, r or s not padded, trailing bytes)."""
        reader = Reader(data)
        signature = cls.read(reader, low=_SCALAR_BYTES)
        reader.end()
        return signature

    @classmethod
    def read(cls, reader: Reader, *, low: int) -> EcdsaSignature:
        """r and s of `low` … 32 bytes: a TPM may leave leading zeros out, evidence on the wire may not.

        Raises: EvidenceMalformed.
        """
        if (reader.uint(2), reader.uint(2)) != (ALG_ECDSA, ALG_SHA256):
            raise EvidenceMalformed("signature is not by ECDSA with SHA-256")
        r = reader.sized(low=low, high=_SCALAR_BYTES).rjust(_SCALAR_BYTES, b"\0")
        s = reader.sized(low=low, high=_SCALAR_BYTES).rjust(_SCALAR_BYTES, b"\0")
        return cls(raw=r + s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """What TPM2_Quote returns (Part 3 §18.4): TPMS_ATTEST and TPMT_SIGNATURE, as bytes, not yet believed."""

    attest: bytes
    signature: bytes

    def to_bytes(self) -> bytes:
        """TPM2B_ATTEST ‖ TPMT_SIGNATURE."""
        return sized(self.attest) + self.signature

    @classmethod
    def from_bytes(cls, data: bytes) -> Quote:
        """Raises: EvidenceMalformed. The two parts are parsed by whoever verifies them."""
        reader = Reader(data)
        attest = reader.sized(low=1, high=MAX_ATTEST_BYTES)
        signature = reader.take(SIGNATURE_BYTES)
        reader.end()
        return cls(attest=attest, signature=signature)


def sign_attest(attest: Attest, key: PrivateKey) -> Quote:
    """The quote of `attest` by `key`."""
    data = attest.to_bytes()
    return Quote(attest=data, signature=EcdsaSignature(raw=P256.sign(key, data)).to_bytes())


def verify_attest(quote: Quote, key: PublicKey) -> Attest:
    """What `key`, a primary key of the endorsement hierarchy, attested.

    Raises: Oversize, EvidenceMalformed, QuoteSignatureInvalid (another signer's name, or the signature).
    """
    attest = Attest.from_bytes(quote.attest)
    signature = EcdsaSignature.from_bytes(quote.signature)
    if attest.qualified_signer != qualified_name(key):
        raise QuoteSignatureInvalid("qualified signer is not the enrolled attestation key")
    try:
        P256.verify(key, signature.raw, quote.attest)
    except SignatureInvalid as exc:
        raise QuoteSignatureInvalid from exc
    return attest
