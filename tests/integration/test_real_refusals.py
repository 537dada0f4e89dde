"""What must not be answered: garbage, too much of it, another's TLS identity, none, and a bank's self-made party."""

from __future__ import annotations

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from parties.assembly.common import tls_pem
from parties.channels import CODE_KEY, Channels, TlsIdentity, open_channel
from parties.server.service import MAX_REQUEST_BYTES
from protocol import contract, envelope
from protocol.crypto import PrivateKey
from protocol.engine import REQUESTS
from protocol.envelope import Signer, Stamp, Wire
from protocol.errors import (
    BranchCodeInvalid,
    NonceMismatch,
    Overloaded,
    Oversize,
    ProtocolError,
    Unavailable,
    WrongMessage,
    WrongPeer,
)
from protocol.messages.attest import Challenge, ChallengeRequest
from protocol.pki import Issuer, Use, issue
from protocol.types import Purpose, Role

pytestmark = pytest.mark.real
PHONE = "phone-6"
SERVERS = {"Bank": "bank-a", "Tsm": "tsm-1", "SoftwareProvider": "sp-1", "SecureElement": f"{PHONE}/se",
           "Merchant": "shop-1"}  # fmt: skip
GARBAGE = (
    Wire(cose=b""), Wire(cose=b"\x00" * 64), Wire(cose=bytes(range(256)), session=b"\xff" * 16),
    Wire(cose=b"\xd2\x84\x40\xa0\x40\x40"), Wire(cose=b"\xd0\x83\x40\xa0\x40"), Wire(cose=b"\x9f" * 2000),
)  # fmt: skip
BAD = {"MALFORMED", "DECRYPTION_FAILED", "WRONG_MESSAGE", "SIGNATURE_INVALID", "UNKNOWN_SESSION", "UNKNOWN_KEY"}


@pytest.fixture
def ways(town):
    """A phone's channels to everybody, with its certificate."""
    town.running("bank-a", "tsm-1", "sp-1", f"{PHONE}/se")
    town.selling("shop-1")
    channels = channels_of(town, f"{PHONE}/wallet")
    yield channels
    channels.close()


def addresses(town) -> dict[str, str]:
    peers = dict(town.opened(f"{PHONE}/wallet").settings.peers)
    shop = town.opened("shop-1").settings
    return peers | {"tsm-1/mutual": shop.peers["tsm-1"], "shop-1": shop.mutual_listen}


def channels_of(town, party: str | None, identity: TlsIdentity | None = None) -> Channels:
    opened = town.opened(party or f"{PHONE}/wallet")
    mine = identity or (opened.client_tls() if party else TlsIdentity(root=opened.root_pem))
    return Channels(addresses(town), mine, deadline_s=5)


def challenge(town, phone: str, purpose: Purpose = Purpose.LAUNCH, audience: str = "bank-a") -> Wire:
    """A good request of a phone's wallet."""
    opened = town.opened(f"{phone}/wallet")
    signer = Signer(name=phone, key=PrivateKey.from_bytes(opened.keystore.entry("sign")))
    stamp = Stamp.wallet(opened.clock.now_s(), opened.entropy)
    return Wire(cose=envelope.sign(signer, ChallengeRequest(purpose=purpose), audience=audience, stamp=stamp))


def rows(town) -> dict[str, int]:
    return {party: len(town.rows(party, REQUESTS)) for party in ("bank-a", "tsm-1", f"{PHONE}/se")}


def test_garbage_to_every_call_is_refused_and_changes_nothing(town, ways):
    before = rows(town)
    codes = set()
    calls = 0
    for rpc in contract.RPCS:
        party = SERVERS[rpc.service].partition("/")[0]
        for wire in GARBAGE:
            with pytest.raises(ProtocolError) as refused:
                ways.call(party, rpc.full_name, wire)
            assert refused.value.code in BAD, rpc.full_name
            codes.add(refused.value.code)
            calls += 1
    assert calls == 6 * len(contract.RPCS)
    assert codes >= {"MALFORMED", "UNKNOWN_SESSION"}
    assert rows(town) == before
    assert ways.call("bank-a", "Bank.Challenge", challenge(town, PHONE)).cose


def test_what_is_no_envelope_is_refused_before_the_protocol_sees_it(town):
    opened = town.opened(f"{PHONE}/wallet")
    town.running(f"{PHONE}/se")
    town.selling("shop-1")
    for service, server in SERVERS.items():
        party = server.partition("/")[0]
        with open_channel(addresses(town)[party], party, opened.client_tls()) as channel:
            method = next(rpc.name for rpc in contract.RPCS if rpc.service == service)
            call = channel.unary_unary(f"/tapveil.v1.{service}/{method}")
            with pytest.raises(grpc.RpcError) as failed:
                call(b"\xff\xff\xff", timeout=5)
            assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert dict(failed.value.trailing_metadata() or ())[CODE_KEY] == "MALFORMED"
            with pytest.raises(grpc.RpcError) as failed:
                channel.unary_unary(f"/tapveil.v1.{service}/NoSuchCall")(b"", timeout=5)
            assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert "Traceback" not in town.log(server)


def test_a_call_that_another_service_serves_is_not_served_here(town, ways):
    for party, rpc in (("bank-a", "Tsm.OpenAccount"), ("tsm-1", "Bank.Enroll"), (PHONE, "Bank.Challenge")):
        with pytest.raises(ProtocolError) as refused:
            ways.call(party, rpc, Wire(cose=b""))
        assert refused.value.code == "INTERNAL"


def test_too_large_requests_are_refused_by_their_step_or_before_it(town, ways):
    with pytest.raises(Oversize):
        ways.call("tsm-1", "Tsm.OpenAccount", Wire(cose=bytes(100_000)))
    for size in (MAX_REQUEST_BYTES + 1, 20_000_000):
        with pytest.raises(Overloaded):  # gRPC's own refusal, without a code of ours
            ways.call("tsm-1", "Tsm.OpenAccount", Wire(cose=bytes(size)))
    with pytest.raises(WrongMessage):  # the same connection goes on
        ways.call("tsm-1", "Tsm.OpenAccount", Wire(cose=b""))


def test_a_merchant_or_another_phone_may_not_speak_for_a_phone(town, ways):
    """The envelope is good and signed by the phone's wallet key; the transport says that somebody else sends it."""
    before = rows(town)["bank-a"]
    for caller in ("shop-1", "tsm-1", "phone-7/wallet"):
        channels = channels_of(town, caller)
        with pytest.raises(WrongPeer):
            channels.call("bank-a", "Bank.Challenge", challenge(town, PHONE))
        channels.close()
    assert rows(town)["bank-a"] == before
    assert ways.call("bank-a", "Bank.Challenge", challenge(town, PHONE)).cose


def test_an_enrollment_under_a_merchants_certificate_is_refused(town, ways):
    """The phone's own enrollment, with a branch code that is wrong anyway: it does not come so far."""
    from parties.wallet.phone import PhoneSession
    from protocol.roles.wallet import enroll

    merchant = channels_of(town, "shop-1")

    class Through:
        """The phone's channels; Enroll goes over the merchant's."""

        def __init__(self, peers):
            self.peers = peers

        def call(self, peer, rpc, request):
            return (merchant if rpc == "Bank.Enroll" else self.peers).call(peer, rpc, request)

        def close(self):
            self.peers.close()

    def attempt(through: bool, code: str) -> None:
        with PhoneSession(town.folder / PHONE / "wallet") as session:
            if through:
                session.channels = Through(session.channels)  # type: ignore[assignment]
            session.run(f"enroll-{code}", enroll(session.wallet, bank="bank-b", branch_code=code), anew=True)

    town.running("bank-b")
    with pytest.raises(WrongPeer):
        attempt(True, "AAAAAAAAAAAAA-AAAAAAAAAAAAA")
    with pytest.raises(BranchCodeInvalid):
        attempt(False, "AAAAAAAAAAAAA-AAAAAAAAAAAAA")
    merchant.close()


def test_no_certificate_or_one_of_another_ca_gets_no_connection(town, ways):
    nameless = channels_of(town, None)
    for party in ("bank-a", "tsm-1/mutual", PHONE):
        with pytest.raises(Unavailable):
            nameless.call(party, "Bank.Challenge", challenge(town, PHONE))
    with pytest.raises(WrongMessage):  # where none is asked for, it is answered
        nameless.call("tsm-1", "Tsm.OpenAccount", Wire(cose=b""))
    nameless.close()
    opened = town.opened(f"{PHONE}/wallet")
    key = PrivateKey.generate(opened.entropy)
    from protocol.pki import create_root

    now_s = opened.clock.now_s()
    other = create_root(key, name="tapveil-ca", from_s=now_s - 60, until_s=now_s + 9999, entropy=opened.entropy)
    foreign = channels_of(town, f"{PHONE}/wallet", _certified(opened, other, Role.PHONE, PHONE))
    with pytest.raises(Unavailable):
        foreign.call("bank-a", "Bank.Challenge", challenge(town, PHONE))
    foreign.close()
    assert ways.call("bank-a", "Bank.Challenge", challenge(town, PHONE)).cose


def _certified(opened, issuer: Issuer, role: Role, name: str) -> TlsIdentity:
    """A TLS identity of that name by that issuer, with the issuer's own certificate to lead to the CA."""
    key = PrivateKey.generate(opened.entropy)
    now_s = opened.clock.now_s()
    der = issue(
        issuer, key.public, role=role, name=name, use=Use.TLS, from_s=now_s - 60, until_s=now_s + 9999,
        entropy=opened.entropy,
    )  # fmt: skip
    chain = [x509.load_der_x509_certificate(one).public_bytes(Encoding.PEM) for one in (der, issuer.certificate)]
    return TlsIdentity(root=opened.root_pem, certificate=b"".join(chain), key=tls_pem(key))


def test_a_bank_can_not_make_itself_a_phone_or_a_tsm(town, ways):
    """A bank is an intermediate CA, so TLS accepts what it certifies; it may certify users only."""
    bank = town.opened("bank-b")
    issuer = Issuer(
        key=PrivateKey.from_bytes(bank.keystore.entry("issue")),
        certificate=x509.load_pem_x509_certificate(
            (bank.settings.pki / "bank.bank-b.issue.pem").read_bytes()
        ).public_bytes(Encoding.DER),
    )
    forged = channels_of(town, f"{PHONE}/wallet", _certified(bank, issuer, Role.PHONE, PHONE))
    with pytest.raises(WrongMessage):  # TLS lets it in
        forged.call("bank-a", "Bank.Challenge", Wire(cose=b""))
    with pytest.raises(WrongPeer):
        forged.call("bank-a", "Bank.Challenge", challenge(town, PHONE))
    forged.close()
    assert ways.call("bank-a", "Bank.Challenge", challenge(town, PHONE)).cose


def test_the_bank_answers_a_quote_without_its_nonce_with_a_refusal_and_serves_on(town):
    """Two challenges of one purpose: only the second nonce is open."""
    from protocol.roles.wallet import attest

    town.launched(PHONE)
    with town.session(PHONE) as session:
        flow = attest(session.wallet, bank="bank-a", purpose=Purpose.LAUNCH, software="tapveil-wallet")
        interrupted = _Between(session.channels, lambda: session.channels.call("bank-a", "Bank.Challenge", again))
        again = challenge(town, PHONE)
        session.channels, kept = interrupted, session.channels  # type: ignore[assignment]
        with pytest.raises(NonceMismatch):
            session.run("launch-twice", flow)
        session.channels = kept
    assert town.launched(PHONE)


class _Between:
    """Something happens before the launch is judged."""

    def __init__(self, peers, accident):
        self.peers, self.accident = peers, accident

    def call(self, peer, rpc, request):
        if rpc == "Bank.VerifyLaunch":
            self.accident()
        return self.peers.call(peer, rpc, request)

    def close(self):
        self.peers.close()


def test_a_wallet_shows_the_tsm_no_certificate(town):
    """The TSM's port for wallets does not even ask: whoever calls, TLS hands the TSM no identity."""
    asked = channels_of(town, "shop-1")
    with pytest.raises(WrongPeer):  # the merchant shows its certificate where it is not asked for: it stays nameless
        asked.call("tsm-1", "Tsm.SignOn", _sign_on(town))
    asked.close()
    with town.session(PHONE) as session:
        known = {peer: session.channels._knows_me(peer) for peer in ("bank-a", "bank-b", PHONE, "tsm-1", "sp-1")}
        assert known == {"bank-a": True, "bank-b": True, PHONE: True, "tsm-1": False, "sp-1": False}
        assert session.channels._nameless._identity == TlsIdentity(root=session.channels._named._identity.root)
    # The proof by the other end: the TSM's mutual port, which must see a certificate, never lets a wallet in.
    with town.peer_address(f"{PHONE}/wallet", "tsm-1", addresses(town)["tsm-1/mutual"]), town.session(PHONE) as session:
        with pytest.raises(Unavailable):
            session.channels.call("tsm-1", "Tsm.OpenAccount", Wire(cose=b""))
        with pytest.raises(WrongMessage):
            session.channels._named.call("tsm-1", "Tsm.OpenAccount", Wire(cose=b""))


def _sign_on(town) -> Wire:
    from protocol.messages.merchant import SignOn

    shop = town.opened("shop-1")
    signer = Signer(name="shop-1", key=PrivateKey.from_bytes(shop.keystore.entry("sign")))
    message = SignOn(
        merchant_name="Shop 1", merchant_identifier="TAPVEIL00000001", terminal="T0000009",
        terminal_key=PrivateKey.generate(shop.entropy).public.encoded,
    )  # fmt: skip
    stamp = Stamp.fresh(shop.clock.now_s(), shop.entropy)
    return Wire(cose=envelope.sign(signer, message, audience="tsm-1", stamp=stamp))


def test_health_and_reflection_are_served(town):
    from google.protobuf import descriptor_pb2
    from grpc_health.v1 import health_pb2
    from grpc_reflection.v1alpha import reflection_pb2

    opened = town.opened(f"{PHONE}/wallet")
    with open_channel(addresses(town)["tsm-1"], "tsm-1", TlsIdentity(root=opened.root_pem)) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check", request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )  # fmt: skip
        assert check(health_pb2.HealthCheckRequest(), timeout=5).status == health_pb2.HealthCheckResponse.SERVING
        reflect = channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )  # fmt: skip
        asked = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="tapveil.v1.Tsm"),
        ]
        listed, described = reflect(iter(asked), timeout=5)
    assert "tapveil.v1.Tsm" in {service.name for service in listed.list_services_response.service}
    file = descriptor_pb2.FileDescriptorProto.FromString(described.file_descriptor_response.file_descriptor_proto[0])
    methods = {method.name for method in file.service[0].method}
    assert methods >= {rpc.name for rpc in contract.RPCS if rpc.service == "Tsm"}


def test_a_challenge_is_the_banks_signed_word(town, ways):
    wire = challenge(town, PHONE)
    reply = ways.call("bank-a", "Bank.Challenge", wire)
    opened = town.opened(f"{PHONE}/wallet")
    bank = opened.directory.named("bank-a", Use.SIGN)
    message = envelope.open_signed(
        Challenge, reply.cose, bank.key, issuer="bank-a", audience=PHONE, now_s=opened.clock.now_s(),
        request_digest=wire.digest,
    ).message  # fmt: skip
    assert len(message.n_b) == 32
