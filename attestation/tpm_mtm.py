"""An MTM over a TPM 2.0: an swtpm socket, of trust class `emulated`, or a TPM of the device's own, `hardware`.

Each launch is a boot of the engine, and PCR 10 has no reset but the TPM's. So the TPM has to be the engine's own —
an swtpm process, or a virtual TPM of the platform — and `reboot` has to reset it. One that the device's kernel
extends PCR 10 of, too, does not fit: nothing would replay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attestation.marshal import Reader
from attestation.measurement import MeasurementList
from attestation.mtm import Mtm
from attestation.tpm import Quote
from attestation.tpm_client import TpmClient, Transport
from protocol.crypto import PublicKey
from protocol.errors import Internal, Unavailable

_CMD_INIT: Final = 2
_INIT_FLAGS: Final = 0


class TpmMtm(Mtm):
    """Holds one transient key in the TPM; `close` frees it.

    `reboot` resets the TPM. `measurements` is the kept list when the TPM was not reset since.
    """

    def __init__(
        self, client: TpmClient, reboot: Callable[[], None], measurements: MeasurementList | None = None
    ) -> None:
        """Starts the TPM if nobody has, and creates the attestation key. Raises: as `TpmClient`."""
        super().__init__(MeasurementList() if measurements is None else measurements)
        self._client = client
        self._reboot = reboot
        self._client.startup()
        self._key = self._client.create_attestation_key()

    @property
    def attestation_key(self) -> PublicKey:
        return self._key.public

    def close(self) -> None:
        """Frees the key's slot."""
        self._client.flush(self._key)

    def pcr10(self) -> bytes:
        return self._client.read_pcr10()

    def _boot(self) -> None:
        self._reboot()  # empties the transient slots
        self._client.startup()
        self._key = self._client.create_attestation_key()

    def _extend(self, digest: bytes) -> None:
        self._client.extend_pcr10(digest)

    def _quote(self, qualifying_data: bytes) -> Quote:
        return self._client.quote(self._key, qualifying_data)


def reset_swtpm(control: Transport) -> None:
    """CMD_INIT on swtpm's control channel (its port is the data port + 1): power off, power on.

    Raises: Unavailable, Internal (swtpm refused).
    """
    response = b""
    try:
        control.sendall(_CMD_INIT.to_bytes(4) + _INIT_FLAGS.to_bytes(4))
        while len(response) < 4:
            part = control.recv(4 - len(response))
            if not part:
                raise Unavailable("swtpm closed the control channel")
            response += part
    except OSError as exc:
        raise Unavailable("swtpm cannot be reached") from exc
    result = Reader(response).uint(4)
    if result != 0:
        raise Internal(f"swtpm answered CMD_INIT with {result:#x}")
