"""The peers in the settings: reachable, genuine, willing to talk to us, of this version, and with the same clock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from grpc_health.v1 import health, health_pb2

from parties.assembly.common import tls_pem
from parties.channels import Channels, TlsIdentity, open_channel
from parties.directory import CA_FILE, FileDirectory, certificate_file, read_certificate
from parties.doctor.clock import skew
from parties.doctor.finding import Finding, fail, ok, warn
from parties.doctor.wire import Credentials, Outcome, shake_hands
from parties.keystore import Keystore
from parties.rpc.common_pb2 import Envelope
from parties.settings import Settings
from parties.system import SystemClock
from protocol import contract
from protocol.contract import Key
from protocol.crypto import PrivateKey
from protocol.errors import ProtocolError
from protocol.pki import Use
from protocol.types import MAX_SKEW_S, Role

WAIT_S: Final = 5.0
_SERVICES: Final = {Role.BANK: "Bank", Role.TSM: "Tsm", Role.SP: "SoftwareProvider", Role.SE: "SecureElement"}
_INSTITUTIONS: Final = {Role.TSM: Key.TSM, Role.MERCHANT: Key.MERCHANT}
"""Whose own calls are told apart by who signs them; all others are a phone's."""
_MENDS: Final = {
    Outcome.UNKNOWN_HOST: "mend the address in [peers]",
    Outcome.REFUSED: "start the peer, or mend its address in [peers]",
    Outcome.SILENT: "look for a firewall on the way, or a peer that hangs",
    Outcome.NO_TLS: "another program listens there: mend the address in [peers], or end that program",
    Outcome.WRONG_CA: f"put the same {CA_FILE} on both sides; if they are alike, somebody else answers there",
    Outcome.WRONG_NAME: "mend the address in [peers]: another party answers there",
    Outcome.EXPIRED: "the peer must renew its TLS certificate; or this machine's clock is ahead",
    Outcome.NOT_YET_VALID: "set this machine's clock, which is behind; or the peer's certificate is for later",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A peer, how we show ourselves to it, and our keys."""

    name: str
    address: str
    role: Role
    mine: Credentials | None
    root: str
    settings: Settings
    keystore: Keystore
    directory: FileDirectory

    @property
    def check(self) -> str:
        """The name of the checks."""
        return f"peer {self.name}"

    @property
    def identity(self) -> TlsIdentity:
        """As gRPC takes it."""
        if self.mine is None:
            return TlsIdentity(root=self.root.encode())
        return TlsIdentity(root=self.root.encode(), certificate=self.mine.certificate, key=tls_pem(self.mine.key))


def peers(settings: Settings, keystore: Keystore | None) -> Iterator[Finding]:
    """Every peer in turn."""
    if not settings.peers:
        yield ok("clock", "not compared: this party calls no other; certificates are in date by it if no check failed")
        return
    if keystore is None:
        yield warn("peers", "not asked: the keystore is closed", "mend the keystore first")
        return
    try:
        directory = FileDirectory(settings.pki, SystemClock())
        root = (settings.pki / CA_FILE).read_text()
    except ProtocolError:
        yield warn("peers", f"not asked: {CA_FILE} can't be used", "mend the CA's certificate first")
        return
    for name in settings.peers:
        try:
            role = directory.named(name, Use.SIGN).role if name != settings.name else Role.SE
        except ProtocolError:
            mend = f"put {name}'s certificates there; the clock must be inside their dates"
            yield fail(f"peer {name}", f"{settings.pki} has no good certificate of it", mend)
            continue
        yield from _peer(
            Peer(
                name=name, address=settings.peers[name], role=role, mine=_credentials(settings, keystore, role),
                root=root, settings=settings, keystore=keystore, directory=directory,
            )
        )  # fmt: skip


def _credentials(settings: Settings, keystore: Keystore, role: Role) -> Credentials | None:
    """A phone shows itself to banks and to its own SE, never to a TSM or a software provider (design §3)."""
    if settings.role is Role.PHONE and role not in (Role.BANK, Role.SE):
        return None
    path = certificate_file(settings.pki, settings.role, settings.name, Use.TLS)
    der = read_certificate(path)
    key = PrivateKey.from_bytes(keystore.entry(Use.TLS.value))
    return Credentials(certificate=x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM), key=key)


def _peer(peer: Peer) -> Iterator[Finding]:
    outcome = shake_hands(peer.address, peer.name, peer.root, peer.mine).outcome
    if outcome is not Outcome.GOOD:
        yield _no_way(peer, outcome)
        return
    if peer.mine is not None and shake_hands(peer.address, peer.name, peer.root).outcome is Outcome.GOOD:
        mend = "take the address of its mutual_listen, not of its listen"
        yield fail(peer.check, f"{peer.address} takes calls without a certificate and will not know us", mend)
        return
    channel = open_channel(peer.address, peer.name, peer.identity)
    try:
        yield from _service(peer, channel)
    finally:
        channel.close()


def _no_way(peer: Peer, outcome: Outcome) -> Finding:
    if outcome is not Outcome.HUNG_UP:
        return fail(peer.check, f"{peer.address}: {outcome.value}", _MENDS[outcome])
    if peer.mine is None:
        mend = "take the address of its listen, not of its mutual_listen"
        return fail(peer.check, f"{peer.address} asks for a certificate, and it must not see one of ours", mend)
    mend = "mend `certificate tls` if it failed above; else compare ca.pem and the clock on both sides"
    return fail(peer.check, f"{peer.address}: it refuses our certificate", mend)


def _service(peer: Peer, channel: grpc.Channel) -> Iterator[Finding]:
    """Health, RPCs, clock: each only makes sense after the one before."""
    try:
        reply = _health(channel)(health_pb2.HealthCheckRequest(), timeout=WAIT_S)
    except grpc.RpcError as exc:
        yield fail(peer.check, f"no health check: {exc.code().name}", "restart the peer; it may be another program")
        return
    if reply.status != health_pb2.HealthCheckResponse.SERVING:
        mend = "wait, then run doctor again; if it stays so, run doctor there: its database or certificate"
        yield fail(peer.check, "it is up, but not serving: it starts, drains or has lost its database", mend)
        return
    missing = [name for name in _needed(peer) if _unimplemented(channel, name)]
    if missing:
        what = f"it lacks {', '.join(missing)}"
        yield fail(
            peer.check, what, f"it is outdated or not a {peer.role}: install this version there, or mend [peers]"
        )
        return
    yield ok(peer.check, f"{peer.address}: genuine, accepts us, serves all {len(_needed(peer))} calls")
    yield _clock(peer)


def _health(channel: grpc.Channel) -> grpc.UnaryUnaryMultiCallable[Any, Any]:
    return channel.unary_unary(
        f"/{health.SERVICE_NAME}/Check", request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )  # fmt: skip


def _needed(peer: Peer) -> list[str]:
    """The calls that this party makes at that peer."""
    signer = _INSTITUTIONS.get(peer.settings.role)
    theirs = [rpc for rpc in contract.RPCS if rpc.service == _SERVICES.get(peer.role)]
    if signer is None:
        return [rpc.full_name for rpc in theirs if rpc.request_signer not in _INSTITUTIONS.values()]
    return [rpc.full_name for rpc in theirs if rpc.request_signer is signer]


def _unimplemented(channel: grpc.Channel, rpc: str) -> bool:
    """An empty envelope is refused as malformed where the call is served, and changes nothing."""
    service, method = rpc.split(".")
    call = channel.unary_unary(
        f"/tapveil.v1.{service}/{method}", request_serializer=Envelope.SerializeToString,
        response_deserializer=Envelope.FromString,
    )  # fmt: skip
    try:
        call(Envelope(), timeout=WAIT_S)
    except grpc.RpcError as exc:
        return exc.code() is grpc.StatusCode.UNIMPLEMENTED
    return False


def _clock(peer: Peer) -> Finding:
    check = f"clock {peer.name}"
    channels = Channels({peer.name: peer.address}, peer.identity, deadline_s=WAIT_S)
    try:
        seconds = skew(peer.role, peer.name, peer.settings, peer.keystore, peer.directory, channels)
    except ProtocolError as exc:
        return warn(check, f"not compared: {exc.code}", "compare the clocks by hand")
    finally:
        channels.close()
    mend = "set both clocks by NTP: they must agree within 60 s"
    if seconds is None:
        return ok(check, "not compared: this peer is on the same machine")
    if abs(seconds) > MAX_SKEW_S:
        side = "behind" if seconds > 0 else "ahead of"
        return fail(check, f"this machine's clock is more than {MAX_SKEW_S} s {side} the peer's", mend)
    if abs(seconds) > MAX_SKEW_S // 2:
        return warn(check, f"this machine's clock is {abs(seconds)} s off the peer's", mend)
    return ok(check, "agrees within 60 s")
