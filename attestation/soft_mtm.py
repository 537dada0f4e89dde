"""The software MTM: the embedded default, of trust class `software`. It makes the structures a TPM would.

Its state is a value that a secure element keeps sealed and writes back after each change. Whoever can write that value
can set PCR 10: that is what the trust class says.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from attestation.measurement import MAX_LIST_BYTES, PCR_INITIAL, MeasurementList, extend
from attestation.mtm import Mtm
from attestation.tpm import POLICY_SELECTION, Attest, ClockInfo, Quote, qualified_name, sign_attest
from protocol import codec
from protocol.crypto import PrivateKey, PublicKey, sha256
from protocol.errors import Malformed, WrongState
from protocol.ports import Clock
from protocol.types import DIGEST_BYTES

FIRMWARE_VERSION: Final = 1
MAX_STATE_BYTES: Final = MAX_LIST_BYTES + 256
_FORMAT: Final = 1
_MAX_COUNT: Final = 1 << 32
_MAX_CLOCK_MS: Final = 1 << 63


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineState:
    """What survives a restart of the process. It holds no key.

    PCR 10 is kept beside the list, not computed from it: after a violation the two differ, and have to.
    """

    measurements: MeasurementList = field(default_factory=MeasurementList)
    pcr10: bytes = PCR_INITIAL
    reset_count: int = 0
    restart_count: int = 0
    clock_ms: int = 0

    def to_bytes(self) -> bytes:
        """Deterministic CBOR, for sealed storage."""
        counters = [self.reset_count, self.restart_count, self.clock_ms]
        return codec.encode([_FORMAT, self.measurements.to_bytes(), self.pcr10, *counters])

    @classmethod
    def from_bytes(cls, data: bytes) -> EngineState:
        """Raises: Oversize, Malformed, EvidenceMalformed."""
        plain = codec.decode(data, max_bytes=MAX_STATE_BYTES)
        if type(plain) is not list or len(plain) != 6 or plain[0] != _FORMAT:
            raise Malformed("not a state of the engine")
        _, measurements, pcr10, *counters = plain
        if type(measurements) is not bytes or type(pcr10) is not bytes or len(pcr10) != DIGEST_BYTES:
            raise Malformed("list or PCR 10 of the engine has a wrong form")
        limits = (_MAX_COUNT, _MAX_COUNT, _MAX_CLOCK_MS)
        if any(type(count) is not int or not 0 <= count < limit for count, limit in zip(counters, limits, strict=True)):
            raise Malformed("counter of the engine is out of range")
        return cls(
            measurements=MeasurementList.from_bytes(measurements),
            pcr10=pcr10,
            reset_count=counters[0],
            restart_count=counters[1],
            clock_ms=counters[2],
        )


class SoftMtm(Mtm):
    """An MTM in this process. `clock` is Unix time; the quoted clock counts from `state`'s and never runs back."""

    def __init__(self, key: PrivateKey, clock: Clock, state: EngineState | None = None) -> None:
        """A new module, or one rebuilt from a kept state: then it resumes, keeps PCR 10 and counts a restart."""
        kept = EngineState() if state is None else replace(state, restart_count=state.restart_count + 1)
        super().__init__(kept.measurements)
        self._key = key
        self._clock = clock
        self._state = kept
        self._last_s = clock.now_s()

    def __repr__(self) -> str:
        return f"SoftMtm(key={self._key.public.thumbprint.hex()[:8]}, reset_count={self._state.reset_count})"

    @property
    def attestation_key(self) -> PublicKey:
        return self._key.public

    def state(self) -> EngineState:
        """What to keep, after every change and before its result is used."""
        return replace(self._state, measurements=self.measurements)

    def pcr10(self) -> bytes:
        return self._state.pcr10

    def _boot(self) -> None:
        # A reset starts a new epoch: restarts are counted from it (TPM 2.0 Library, Part 1 §36.5).
        self._state = replace(self._state, pcr10=PCR_INITIAL, reset_count=self._state.reset_count + 1, restart_count=0)

    def _extend(self, digest: bytes) -> None:
        self._state = replace(self._state, pcr10=extend(self._state.pcr10, digest))

    def _quote(self, qualifying_data: bytes) -> Quote:
        if self._state.reset_count == 0:
            raise WrongState("no engine was started")
        self._tick()
        attest = Attest(
            qualified_signer=qualified_name(self._key.public),
            extra_data=qualifying_data,
            clock_info=ClockInfo(
                clock_ms=self._state.clock_ms,
                reset_count=self._state.reset_count,
                restart_count=self._state.restart_count,
                safe=True,
            ),
            firmware_version=FIRMWARE_VERSION,
            selection=POLICY_SELECTION,
            pcr_digest=sha256(self._state.pcr10),
        )
        return sign_attest(attest, self._key)

    def _tick(self) -> None:
        now_s = self._clock.now_s()
        elapsed_ms = max(0, now_s - self._last_s) * 1000
        self._last_s = now_s
        self._state = replace(self._state, clock_ms=self._state.clock_ms + elapsed_ms)
