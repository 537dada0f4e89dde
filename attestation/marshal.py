"""Reading and writing the TPM's big-endian structures (TPM 2.0 Library, Part 2 §4.2), every byte accounted for."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.errors import EvidenceMalformed


@dataclass(slots=True)
class Reader:
    """A cursor over received bytes. Whatever does not fit raises `EvidenceMalformed`."""

    data: bytes
    offset: int = 0

    def take(self, size: int) -> bytes:
        """Exactly `size` bytes. Raises: EvidenceMalformed at the end of the data."""
        end = self.offset + size
        if end > len(self.data):
            raise EvidenceMalformed("structure is truncated")
        part = self.data[self.offset : end]
        self.offset = end
        return part

    def uint(self, size: int) -> int:
        """An unsigned integer of `size` bytes."""
        return int.from_bytes(self.take(size))

    def sized(self, *, low: int, high: int) -> bytes:
        """The buffer of a TPM2B structure of `low` … `high` bytes."""
        size = self.uint(2)
        if not low <= size <= high:
            raise EvidenceMalformed(f"buffer of {size} bytes, want {low} to {high}")
        return self.take(size)

    def end(self) -> None:
        """Raises: EvidenceMalformed if bytes are left over."""
        if self.offset != len(self.data):
            raise EvidenceMalformed("trailing bytes")


def sized(buffer: bytes) -> bytes:
    """A TPM2B structure: size (two bytes), then the buffer."""
    return len(buffer).to_bytes(2) + buffer
