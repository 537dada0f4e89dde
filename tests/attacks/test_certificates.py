"""A bank is an intermediate CA for its users, and for nobody else (paper §2.2 INIT-1, INIT-4)."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from support.attacker import command, refused, stamp, swap
from support.world import Phone, World

from protocol import cose, envelope, pki
from protocol.crypto import PrivateKey, PublicKey
from protocol.engine import Context, Peer
from protocol.envelope import Signer, Wire
from protocol.errors import CertificateInvalid, UnknownKey
from protocol.messages.enroll import Enrolled
from protocol.messages.se import SeIdentity, SeInstallIdentity
from protocol.messages.service import GrantRelease
from protocol.pki import Identity, Use
from protocol.roles.bank.tables import LIVE_GRANTS
from protocol.roles.se.identity import InstallIdentityStep, Installing
from protocol.roles.se.tables import OWNERS
from protocol.roles.tsm.tables import TID_LIST
from protocol.roles.wallet import enroll
from protocol.types import Role

YEAR_S = 366 * 24 * 3600


def issued_by(world: World, bank: str, key: PublicKey, role: Role, name: str) -> tuple[bytes, bytes]:
    """A certificate by a corrupt bank's own issuing key, which chains to the CA; and the bank's."""
    issuer, now_s = world.parties[bank].value.issuer, world.clock.now_s()
    der = pki.issue(
        issuer, key, role=role, name=name, use=Use.SIGN, from_s=now_s - 60, until_s=now_s + YEAR_S,
        entropy=world.entropy,
    )  # fmt: skip
    return der, issuer.certificate


def only_chain(der: bytes, chain: bytes, world: World) -> Identity:
    """What a verifier would believe that asks for a good chain only: signatures, dates, key usage."""
    certificate, between = x509.load_der_x509_certificate(der), x509.load_der_x509_certificate(chain)
    now_s = world.clock.now_s()
    pki._verify_chain(certificate, [between], world.root.certificate, now_s, is_ca=False)
    role, name = pki._subject(certificate)
    encoded = certificate.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    key = PublicKey.from_bytes(encoded)
    return Identity(role=role, name=name, use=Use.SIGN, key=key, expires_at_s=now_s + YEAR_S, certificate=der)


@pytest.mark.parametrize(
    ("role", "name"),
    [(Role.TSM, "tsm-1"), (Role.BANK, "bank-a"), (Role.SE, "phone-1"), (Role.MERCHANT, "shop-1"), (Role.PHONE, "x")],
)
def test_a_bank_certifies_no_party(world: World, role: Role, name: str) -> None:
    """Attack: a bank certifies a key of its own as another party's. Powers: bank-b with its issuing key. Formal: the
    models take the PKI as given (each key is its owner's). Closed by: under a bank's certificate only users stand
    (INIT-4)."""
    der, chain = issued_by(world, "bank-b", world.key().public, role, name)
    assert only_chain(der, chain, world).name == name  # the chain itself is good
    for between in ((chain,), ()):
        with pytest.raises(CertificateInvalid) as caught:
            pki.verify(der, root=world.root.certificate, now_s=world.clock.now_s(), use=Use.SIGN, chain=between)
        assert caught.value.code == "CERTIFICATE_INVALID"


def test_without_the_rule_a_bank_speaks_for_a_tsm(world: World) -> None:
    """Variant: a PKI in which a good chain is enough. Bank-b releases tsm-1's grant at bank-a in tsm-1's name; before
    that its key is unknown there."""
    phone = world.ready()
    aid = world.account(phone)
    world.service(phone, aid)
    (entry,) = world.parties["tsm-1"].store.scan(TID_LIST)
    thief = world.key()
    signed = envelope.sign(
        Signer(name="tsm-1", key=thief), GrantRelease(aid=aid, sid=entry.sid), audience="bank-a", stamp=stamp(world)
    )
    key = world.parties["bank-a"].value.keys.seal.public
    wire = Wire(cose=cose.seal(key, name=GrantRelease.NAME, plaintext=signed))
    peer = Peer(role=Role.TSM, name="tsm-1")
    with refused(world, UnknownKey, "UNKNOWN_KEY"):
        world.deliver("bank-a", "Bank.ReleaseGrant", wire, peer)

    der, chain = issued_by(world, "bank-b", thief.public, Role.TSM, "tsm-1")
    world.directory.identities.append(only_chain(der, chain, world))
    world.deliver("bank-a", "Bank.ReleaseGrant", wire, peer)
    assert world.parties["bank-a"].store.scan(LIVE_GRANTS) == ()


class AnyName(InstallIdentityStep):
    """An SE that takes whatever certificate the bank sends."""

    certificate: bytes
    name: str

    def look(self, command: SeInstallIdentity, ctx: Context) -> Installing:
        digest = ctx.store.scan(OWNERS)[0].digest
        return Installing(bank=command.bank, digest=digest, user=self.name, certificate=self.certificate)


@pytest.mark.parametrize("wrong", ["role", "bank", "key"])
def test_the_se_takes_a_certificate_for_itself_only(world: World, wrong: str) -> None:
    """Attack: a corrupt bank answers an enrollment with a certificate of a party, under another bank, or over another
    key. Powers: both banks with their issuing keys. Formal: core_aid takes PK_U as bound to ID_U. Closed by: the SE
    checks CERT_U's chain, issuer, role and key (INIT-4). Variant: the phone takes the name it was sent, a party's."""
    phone = world.add_phone("phone-1")
    taken: list[bytes] = []

    def forging(peer: str, rpc: str, reply: Wire) -> Wire:
        if rpc != "Bank.Enroll":
            return reply
        genuine = PublicKey(_pk_u(world, phone))
        key = world.key().public if wrong == "key" else genuine
        bank = "bank-b" if wrong == "bank" else "bank-a"
        role, name = (Role.TSM, "tsm-1") if wrong == "role" else (Role.USER, "u-1")
        der, chain = issued_by(world, bank, key, role, name)
        taken.append(der)
        request = next(wire for _, name, wire, _ in reversed(world.calls) if name == "Bank.Enroll")
        signed = envelope.sign(
            world.parties["bank-a"].value.keys.signer, Enrolled(certificate=der, issuer=chain), audience=phone.name,
            stamp=stamp(world), request_digest=request.digest,
        )  # fmt: skip
        return Wire(cose=signed)

    world.tap_reply = forging
    flow = enroll(phone.wallet, bank="bank-a", branch_code=world.branch_code("bank-a"))
    with pytest.raises(CertificateInvalid) as caught:
        world.run(phone, flow)
    assert caught.value.code == "CERTIFICATE_INVALID"
    (owner,) = world.parties[phone.name].store.scan(OWNERS)
    assert (owner.state, owner.user) == ("EXPECT_IDENTITY", "")

    step = swap(world, phone.name, AnyName)
    step.certificate, step.name = taken[0], "tsm-1"
    message = SeInstallIdentity(bank="bank-a", reply=taken[0])
    assert command(world, phone, "InstallIdentity", message, SeIdentity).user == "tsm-1"


def _pk_u(world: World, phone: Phone) -> bytes:
    (owner,) = world.parties[phone.name].store.scan(OWNERS)
    return PrivateKey.from_bytes(owner.sk_u).public.encoded
