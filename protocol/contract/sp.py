"""The software provider's calls."""

from __future__ import annotations

from typing import Final

from protocol.contract.rpc import Form, Key, Rpc
from protocol.messages.software import ReferenceRequest, ReferenceValues, Release, ReleaseRequest

SP: Final = (
    Rpc(
        service="SoftwareProvider", name="GetRelease", steps=("ATT-D1",),
        request=ReleaseRequest, request_form=Form.SIGNED, request_signer=Key.ONCE,
        reply=Release, reply_form=Form.SIGNED, reply_signer=Key.SP,
        step="protocol.roles.sp.GetReleaseStep", codes=("SOFTWARE_UNKNOWN",),
    ),
    Rpc(
        service="SoftwareProvider", name="GetReferenceValues", steps=("INIT-5",),
        request=ReferenceRequest, request_form=Form.SIGNED, request_signer=Key.ONCE,
        reply=ReferenceValues, reply_form=Form.SIGNED, reply_signer=Key.SP,
        step="protocol.roles.sp.GetReferenceValuesStep", codes=("SOFTWARE_UNKNOWN",),
    ),
)  # fmt: skip
