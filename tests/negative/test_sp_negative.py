"""The software provider: one software, and the reference values of the banks that signed some."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.envelope import Wire
from protocol.errors import Malformed, ProtocolError, SignatureInvalid, SoftwareUnknown

GET = "SoftwareProvider."


@pytest.mark.parametrize(
    ("rpc", "fields", "error"),
    [
        ("GetRelease", {"software": "other-wallet"}, SoftwareUnknown),
        ("GetReferenceValues", {"software": "other-wallet"}, SoftwareUnknown),
        ("GetReferenceValues", {"bank": "bank-9"}, SoftwareUnknown),
        ("GetReferenceValues", {"bank": "tsm-1"}, SoftwareUnknown),
        ("GetRelease", {"key": b"\x04" + b"\x01" * 64}, Malformed),
        ("GetReferenceValues", {"key": b"\x04" + b"\x01" * 64}, Malformed),
    ],
)
def test_requests(bench, rpc: str, fields: Any, error: type[ProtocolError]) -> None:
    bench.forged(GET + rpc, fields, error)


def test_a_one_time_key_speaks_for_itself_only(bench) -> None:
    """The request is certified by the key that it carries, whoever's it is; another key does not serve."""
    for rpc in ("GetRelease", "GetReferenceValues"):
        taken, letter = bench.rewind(GET + rpc)
        other = bench.tape.key()
        bench.refused(taken, letter.written({"key": other.public.encoded}), SignatureInvalid)
        fields, claims = {"key": other.public.encoded}, {"issuer": other.public.thumbprint.hex()}
        with bench.tape.unchanged():
            bench.tape.deliver(taken.peer, taken.rpc, Wire(cose=letter.written(fields, claims, key=other)), None)
