"""`tapveil doctor` beside real peers: what gRPC calls UNAVAILABLE is told apart, and named with its mend."""

from __future__ import annotations

import contextlib
import shutil
import socket
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import tomli_w
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from parties.assembly.common import Opened, tls_pem
from parties.assembly.roles import STEPS
from parties.channels import Channels, TlsIdentity
from parties.doctor import Finding, Level, examine
from parties.keystore import Keystore
from parties.server.service import Edge, PartyServer
from parties.settings import load_settings
from protocol.crypto import PrivateKey
from protocol.engine import REQUESTS, Engine
from protocol.envelope import Wire
from protocol.errors import Unavailable
from protocol.pki import Issuer, Use, create_root, issue
from protocol.roles.bank.tables import CHALLENGES
from protocol.rows import MemoryStore
from protocol.types import Role

pytestmark = pytest.mark.real
SERVED = ("bank-a", "bank-b", "tsm-1", "sp-1", "shop-1", "phone-8/se")


def failed(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings if finding.level is Level.FAIL}


@pytest.fixture
def healthy(town):
    town.running(*SERVED)
    return town


@pytest.fixture
def copy(healthy, tmp_path):
    """Settings, keys and PKI of everybody in another place, to be harmed; the peers are the real ones."""
    folder = tmp_path / "env"
    shutil.copytree(healthy.folder, folder, ignore=shutil.ignore_patterns("*.db*", "*.jsonl", "capture.log"))
    return folder


def test_a_healthy_town_has_no_failure(healthy, cli):
    for party in (*SERVED, "phone-8/wallet"):
        findings = examine(healthy.settings(party))
        assert failed(findings) == {}, party
        checks = {finding.check: finding for finding in findings}
        if party != "phone-8/wallet":
            assert checks["capture"].level is Level.WARN
            assert all("this party serves" in f.what for check, f in checks.items() if check.startswith("port"))
    for peer in ("bank-a", "bank-b", "tsm-1", "sp-1"):
        assert checks[f"peer {peer}"].what.endswith("calls")
        assert checks[f"clock {peer}"].what == "agrees within 60 s"
    shown = cli("doctor", "--settings", healthy.settings("tsm-1"), "--json")
    assert (shown.status, shown.err, shown.json["ok"]) == (0, "", True)
    assert {check["level"] for check in shown.json["checks"]} == {"OK", "WARN"}
    plain = cli("doctor", "--settings", healthy.settings("tsm-1"))
    assert plain.out.startswith("OK    settings: tsm tsm-1\n")


def test_doctor_changes_nothing_that_counts(healthy):
    before = {p: len(healthy.rows(p, REQUESTS)) for p in ("tsm-1", "phone-8/se")}
    for party in ("tsm-1", "shop-1", "phone-8/wallet"):
        examine(healthy.settings(party))
    assert {p: len(healthy.rows(p, REQUESTS)) for p in ("tsm-1", "phone-8/se")} == before
    assert {row.purpose for row in healthy.rows("bank-a", CHALLENGES) if row.holder == "phone-8"} <= {"account"}


# --- certificates: three mistakes that all look unreachable to gRPC --------------------------------------------------
def authority(folder: Path) -> Issuer:
    ca = Keystore.open(folder / "ca/keys.sealed", (folder / "ca/passphrase").read_bytes().strip())
    root = x509.load_pem_x509_certificate((folder / "pki/ca.pem").read_bytes())
    return Issuer(key=PrivateKey.from_bytes(ca.entry("ca")), certificate=root.public_bytes(Encoding.DER))


def recertify(folder: Path, issuer: Issuer, *, server_only: bool = False, **changes: object) -> None:
    """shop-1's TLS certificate, anew: by another CA, for other days, for another name."""
    opened = Opened.of(load_settings(folder / "shop-1/settings.toml"))
    key = PrivateKey.from_bytes(opened.keystore.entry("tls"))
    now_s = opened.clock.now_s()
    given = {"role": Role.MERCHANT, "name": "shop-1", "from_s": now_s - 60, "until_s": now_s + 9_000_000} | changes
    der = issue(issuer, key.public, use=Use.TLS, entropy=opened.entropy, **given)  # type: ignore[arg-type]
    certificate = x509.load_der_x509_certificate(der)
    if server_only:
        builder = x509.CertificateBuilder(
            certificate.issuer, certificate.subject, certificate.public_key(), certificate.serial_number,
            certificate.not_valid_before_utc, certificate.not_valid_after_utc,
        )  # fmt: skip
        for extension in certificate.extensions:
            value = extension.value
            if isinstance(value, x509.ExtendedKeyUsage):
                value = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
            builder = builder.add_extension(value, extension.critical)
        certificate = builder.sign(issuer.key.native(), hashes.SHA256())
    (folder / "pki/merchant.shop-1.tls.pem").write_bytes(certificate.public_bytes(Encoding.PEM))


def unchecked(settings) -> Channels:
    """The merchant's channels with the certificate that lies there, as a client without our checks would open them."""
    opened = Opened.of(settings)
    key = tls_pem(PrivateKey.from_bytes(opened.keystore.entry("tls")))
    certificate = (settings.pki / "merchant.shop-1.tls.pem").read_bytes()
    return Channels(settings.peers, TlsIdentity(root=opened.root_pem, certificate=certificate, key=key))


def test_wrong_ca_no_acceptance_and_server_only_are_told_apart(copy):
    settings = load_settings(copy / "shop-1/settings.toml")
    now_s = Opened.of(settings).clock.now_s()
    entropy = Opened.of(settings).entropy
    stranger = create_root(
        PrivateKey.generate(entropy), name="tapveil-ca", from_s=now_s - 60, until_s=now_s + 9999, entropy=entropy
    )
    ours = authority(copy)
    texts = set()
    for harm, own in (
        (lambda: recertify(copy, stranger), "was not issued by the CA in ca.pem"),
        (lambda: recertify(copy, ours, server_only=True), "is not for TLS as a client"),
        (lambda: recertify(copy, ours, from_s=now_s - 9000, until_s=now_s - 3600), "expired on"),
        (lambda: recertify(copy, ours, from_s=now_s + 3600), "is not valid before"),
    ):
        harm()
        with contextlib.closing(unchecked(settings)) as channels, pytest.raises(Unavailable):
            channels.call("tsm-1", "Tsm.SignOn", Wire(cose=b""))
        found = failed(examine(settings.path))
        assert found.keys() == {"certificate tls", "peer tsm-1", "database"}
        assert own in found["certificate tls"].what
        assert "it refuses our certificate" in found["peer tsm-1"].what
        texts.add(found["certificate tls"].mend)
    assert len(texts) == 4


def test_a_wrong_ca_of_ours_is_told_from_a_stranger_at_the_other_end(copy):
    opened = Opened.of(load_settings(copy / "shop-1/settings.toml"))
    now_s = opened.clock.now_s()
    stranger = create_root(
        PrivateKey.generate(opened.entropy), name="tapveil-ca", from_s=now_s - 60, until_s=now_s + 9999,
        entropy=opened.entropy,
    )  # fmt: skip
    pem = x509.load_der_x509_certificate(stranger.certificate).public_bytes(Encoding.PEM)
    (copy / "pki/ca.pem").write_bytes(pem)
    found = failed(examine(opened.settings.path))
    assert "was not issued by the CA" in found["certificate sign"].what
    assert "has no good certificate of it" in found["peer tsm-1"].what


# --- peers -----------------------------------------------------------------------------------------------------------
def with_peer(folder: Path, party: str, **peers: str) -> Path:
    """The party's settings with other addresses (`tsm_1` for tsm-1)."""
    path = folder / party / "settings.toml"
    plain = tomllib.loads(path.read_text())
    plain["peers"] |= {name.replace("_", "-"): address for name, address in peers.items()}
    path.write_text(tomli_w.dumps(plain))
    return path


def test_wrong_addresses_are_told_apart(copy, healthy):
    peers = load_settings(copy / "phone-8/wallet/settings.toml").peers
    mutual = load_settings(copy / "shop-1/settings.toml").peers["tsm-1"]
    silent = socket.create_server(("127.0.0.1", 0))
    plain = grpc.server(ThreadPoolExecutor(1))
    number = plain.add_insecure_port("127.0.0.1:0")
    plain.start()
    try:
        cases = {
            "127.0.0.1:1": "nothing listens there",
            "no-such-host.invalid:7000": "the host is not known",
            f"127.0.0.1:{number}": "it does not speak TLS",
            peers["bank-b"]: "its certificate is another party's",
            f"127.0.0.1:{silent.getsockname()[1]}": "no answer",
        }
        mends = set()
        for address, text in cases.items():
            found = failed(examine(with_peer(copy, "shop-1", tsm_1=address)))
            assert text in found["peer tsm-1"].what
            mends.add(found["peer tsm-1"].mend)
        assert len(mends) == len(cases)
    finally:
        silent.close()
        plain.stop(0)
    found = failed(examine(with_peer(copy, "shop-1", tsm_1=peers["tsm-1"])))
    assert "takes calls without a certificate and will not know us" in found["peer tsm-1"].what
    found = failed(examine(with_peer(copy, "phone-8/wallet", tsm_1=mutual)))
    assert "asks for a certificate, and it must not see one of ours" in found["peer tsm-1"].what
    assert found.keys() == {"peer tsm-1"}


class Ahead:
    """A clock that is off."""

    def __init__(self, opened: Opened, seconds: int) -> None:
        self._clock, self._seconds = opened.clock, seconds

    def now_s(self) -> int:
        return self._clock.now_s() + self._seconds


@contextlib.contextmanager
def another(town, party: str, *, seconds: int = 0, lacks: str = "") -> Iterator[str]:
    """A server of that party in this process, with its own keys, another clock, or one call less; its address."""
    opened = town.opened(party)
    steps = {name: step for name, step in STEPS[opened.settings.role](opened).items() if name != lacks}
    channels = Channels({}, opened.client_tls())
    clock = Ahead(opened, seconds)
    engine = Engine(steps, store=MemoryStore(), clock=clock, entropy=opened.entropy, peers=channels)
    edge = Edge(engine, party=party, role=opened.settings.role)
    server = PartyServer(edge, steps, opened.server_tls())
    mutual = opened.settings.role is Role.BANK
    port = server.listen("127.0.0.1:0", mutual=mutual)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.drain()
        channels.close()


@pytest.mark.parametrize(
    ("party", "peer", "seconds", "text"),
    [
        ("phone-8/wallet", "bank-a", 90, "behind"),
        ("phone-8/wallet", "bank-a", -90, "ahead of"),
        ("phone-8/wallet", "tsm-1", 90, "behind"),
        ("phone-8/wallet", "tsm-1", -130, "ahead of"),
        ("phone-8/wallet", "sp-1", 90, "behind"),
        ("phone-8/wallet", "sp-1", -130, "ahead of"),
        ("tsm-1", "bank-b", -130, "ahead of"),
    ],
)
def test_a_clock_that_is_off_is_measured_by_the_peers_own_signed_time(copy, healthy, party, peer, seconds, text):
    with another(healthy, peer, seconds=seconds) as address:
        path = with_peer(copy, party, **{peer.replace("-", "_"): address})
        found = failed(examine(path))
    assert f"more than 60 s {text} the peer's" in found[f"clock {peer}"].what
    assert "NTP" in found[f"clock {peer}"].mend


def test_an_outdated_peer_lacks_a_call(copy, healthy):
    with another(healthy, "tsm-1", lacks="Tsm.CloseAccount") as address:
        found = failed(examine(with_peer(copy, "phone-8/wallet", tsm_1=address)))
    assert found["peer tsm-1"].what == "it lacks Tsm.CloseAccount"
    assert "outdated" in found["peer tsm-1"].mend


def test_another_program_on_our_port_is_told_from_ourselves(copy, healthy):
    """In the copy the TSM's addresses are served by the real TSM; the bank's is taken by something else."""
    checks = {finding.check: finding for finding in examine(copy / "tsm-1/settings.toml")}
    assert "this party serves" in checks["port listen"].what
    plain = tomllib.loads((copy / "tsm-1/settings.toml").read_text())
    plain["listen"] = load_settings(copy / "phone-8/wallet/settings.toml").peers["sp-1"]
    plain["mutual_listen"] = "192.0.2.1:7000"
    (copy / "tsm-1/settings.toml").write_text(tomli_w.dumps(plain))
    found = failed(examine(copy / "tsm-1/settings.toml"))
    assert "another program listens" in found["port listen"].what
    assert "is not an address of this machine" in found["port mutual_listen"].what
