"""What a failed call means: our code if there is one, else what the status says; never an untyped error."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from parties.assembly.common import Opened
from parties.channels import CODE_KEY, Channels
from parties.rpc.common_pb2 import Envelope
from parties.settings import load_settings
from protocol.envelope import Wire
from protocol.errors import Internal, Malformed, Overloaded, Replay, Unavailable


@pytest.fixture(scope="module")
def echo(environment):
    """A server with the TSM's identity: it ends each call as the envelope tells it, or sends it back."""
    opened = Opened.of(load_settings(environment / "tsm-1/settings.toml"))
    tls = opened.server_tls()

    def answer(request: Envelope, context: grpc.ServicerContext) -> Envelope:
        status, _, code = request.cose.decode().partition(" ")
        if code:
            context.set_trailing_metadata(((CODE_KEY, code),))
        if status != "OK":
            context.abort(grpc.StatusCode[status], "told to")
        return Envelope(cose=request.cose, session=request.session)

    method = grpc.unary_unary_rpc_method_handler(
        answer, request_deserializer=Envelope.FromString, response_serializer=Envelope.SerializeToString
    )
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("tapveil.v1.Tsm", {"SignOn": method}),))
    credentials = grpc.ssl_server_credentials([(tls.key, tls.certificate)])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    channels = Channels({"tsm-1": f"127.0.0.1:{port}", "bank-a": f"127.0.0.1:{port}"}, opened.client_tls())
    yield channels
    channels.close()
    server.stop(0)


def test_an_envelope_goes_and_comes_back(echo):
    wire = Wire(cose=b"OK", session=b"\x00\x01")
    assert echo.call("tsm-1", "Tsm.SignOn", wire) == wire


@pytest.mark.parametrize(
    ("told", "refusal"),
    [
        (b"ALREADY_EXISTS REPLAY", Replay),
        (b"UNAVAILABLE MALFORMED", Malformed),  # our code counts, whatever the status
        (b"UNAVAILABLE NO_SUCH_CODE", Unavailable),
        (b"UNAVAILABLE", Unavailable),
        (b"DEADLINE_EXCEEDED", Unavailable),
        (b"CANCELLED", Unavailable),
        (b"RESOURCE_EXHAUSTED", Overloaded),
        (b"INVALID_ARGUMENT", Malformed),
        (b"UNIMPLEMENTED", Internal),
        (b"PERMISSION_DENIED", Internal),
        (b"UNKNOWN", Internal),
    ],
)
def test_each_refusal_is_typed(echo, told, refusal):
    with pytest.raises(refusal) as refused:
        echo.call("tsm-1", "Tsm.SignOn", Wire(cose=told))
    assert type(refused.value) is refusal


def test_a_server_with_another_partys_name_is_not_talked_to(echo):
    with pytest.raises(Unavailable):
        echo.call("bank-a", "Tsm.SignOn", Wire(cose=b"OK"))


def test_a_party_without_an_address_is_unavailable(echo):
    with pytest.raises(Unavailable, match="no address"):
        echo.call("bank-z", "Tsm.SignOn", Wire(cose=b"OK"))


def test_closed_channels_make_calls_unavailable(environment):
    opened = Opened.of(load_settings(environment / "tsm-1/settings.toml"))
    channels = opened.channels()
    kept = channels._channel("bank-a")
    channels.close()
    channels._open["bank-a"] = kept  # a thread that got its channel just before
    with pytest.raises(Unavailable, match="stopping"):
        channels.call("bank-a", "Bank.ApproveGrant", Wire(cose=b""))


def test_no_key_is_in_the_representation_of_an_identity(environment):
    opened = Opened.of(load_settings(environment / "tsm-1/settings.toml"))
    assert "PRIVATE" not in repr(opened.client_tls()) + repr(opened.server_tls())
