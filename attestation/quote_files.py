"""The three files `tpm2_checkquote` (tpm2-tools 5) reads, so that an independent program checks our quotes.

Interoperation is shown one way only: that tool also takes wrong magic, wrong type, trailing bytes and a mismatched
selection; `verifier` refuses all four.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from attestation.tpm import POLICY_SELECTION, Quote

# Part 2 §10.9: the implementation's array sizes, as the tools' C structures have them (native alignment, x86-64).
_BANKS: Final = 16
_DIGESTS: Final = 8
_DIGEST_BUFFER: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class QuoteFiles:
    """Contents for the options `--message`, `--signature` and `--pcr` of `tpm2_checkquote`."""

    message: bytes
    signature: bytes
    pcr: bytes


def quote_files(quote: Quote, *, pcr10: bytes) -> QuoteFiles:
    """The files of `quote`, whose policy selection has the one value `pcr10`."""
    return QuoteFiles(message=quote.attest, signature=quote.signature, pcr=_pcr_file(pcr10))


def _pcr_file(pcr10: bytes) -> bytes:
    """Selection, number of digest lists, digest lists: C structures of fixed size, integers little-endian."""
    banks = [
        bank.algorithm.to_bytes(2, "little") + len(bank.bitmap).to_bytes(1) + bank.bitmap.ljust(5, b"\0")
        for bank in POLICY_SELECTION
    ]
    selection = len(banks).to_bytes(4, "little") + b"".join(banks).ljust(_BANKS * 8, b"\0")
    digest = len(pcr10).to_bytes(2, "little") + pcr10.ljust(_DIGEST_BUFFER, b"\0")
    digests = (1).to_bytes(4, "little") + digest.ljust(_DIGESTS * (2 + _DIGEST_BUFFER), b"\0")
    return selection + (1).to_bytes(4, "little") + digests
