"""X.509 certificates of long-term keys: the CA, banks as intermediate CAs, and everybody else (INIT-1, INIT-4).

A certificate names one key for one use; role and name stand in its subject. Signing, sealing and transport keys are
separate keys with separate certificates.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from protocol.crypto import PrivateKey, PublicKey
from protocol.errors import CertificateInvalid, Malformed
from protocol.ports import Entropy
from protocol.types import Role

ORGANIZATION: Final = "Tapveil"
MAX_CERTIFICATE_BYTES: Final = 4096
_REFUSALS: Final = (
    CryptographyDeprecationWarning,  # of a serial number below 1, where warnings are errors
    InvalidSignature,
    Malformed,  # a key that is not on P-256
    UnsupportedAlgorithm,
    ValueError,
    VerificationError,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What is raised for certificates that can't be read, or that don't fit together."""
_OF_A_BANK: Final = frozenset({Role.USER, Role.OFFICER})
"""Whom a bank certifies, and nobody else does."""


class Use(StrEnum):
    """What the key of a certificate is for."""

    SIGN = "sign"
    SEAL = "seal"
    TLS = "tls"
    ISSUE = "issue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A verified certificate: `role` and `name` own `key` for `use` until `expires_at_s`."""

    role: Role
    name: str
    use: Use
    key: PublicKey
    expires_at_s: int
    certificate: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """A certificate authority's key with its own certificate (DER)."""

    key: PrivateKey
    certificate: bytes


class Directory(Protocol):
    """The PKI where certificates live (INIT-1): everybody's verified keys, by name and by thumbprint."""

    def named(self, name: str, use: Use) -> Identity:
        """The one certified key of `name` for `use`. Raises: UnknownKey."""

    def by_thumbprint(self, thumbprint: bytes) -> Identity:
        """The certified signing key with this `kid`. Raises: UnknownKey."""


def _name(role: str, name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _time(time_s: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(time_s, tz=datetime.UTC)


def _usage(use: Use) -> x509.KeyUsage:
    issue = use is Use.ISSUE
    return x509.KeyUsage(
        digital_signature=use in (Use.SIGN, Use.TLS),
        content_commitment=use is Use.SIGN,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=use is Use.SEAL,
        key_cert_sign=issue,
        crl_sign=issue,
        encipher_only=False,
        decipher_only=False,
    )


def _build(
    *, subject: x509.Name, issuer: x509.Name, public: PublicKey, signer: PrivateKey, use: Use, path_length: int | None,
    from_s: int, until_s: int, entropy: Entropy, hosts: Sequence[str],
) -> bytes:  # fmt: skip
    point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public.encoded)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(point)
        .serial_number(int.from_bytes(b"\x01" + entropy.bytes(15)))  # random, positive, never two alike
        .not_valid_before(_time(from_s))
        .not_valid_after(_time(until_s))
        .add_extension(x509.BasicConstraints(ca=path_length is not None, path_length=path_length), critical=True)
        .add_extension(_usage(use), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(point), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.native().public_key()), critical=False)
    )
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
    if use is Use.TLS:
        both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = builder.add_extension(both, critical=False)
    certificate = builder.sign(signer.native(), hashes.SHA256(), ecdsa_deterministic=True)
    return certificate.public_bytes(Encoding.DER)


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def create_root(key: PrivateKey, *, name: str, from_s: int, until_s: int, entropy: Entropy) -> Issuer:
    """The CA: a self-signed certificate that may certify one level of intermediates."""
    subject = _name("ca", name)
    der = _build(
        subject=subject, issuer=subject, public=key.public, signer=key, use=Use.ISSUE, path_length=1,
        from_s=from_s, until_s=until_s, entropy=entropy, hosts=(),
    )  # fmt: skip
    return Issuer(key=key, certificate=der)


def issue(
    issuer: Issuer, public: PublicKey, *, role: Role, name: str, use: Use, from_s: int, until_s: int,
    entropy: Entropy, hosts: Sequence[str] = (),
) -> bytes:  # fmt: skip
    """A DER certificate of `public` for one use. Every certificate names its owner as a host too."""
    parent = x509.load_der_x509_certificate(issuer.certificate)
    return _build(
        subject=_name(role, name), issuer=parent.subject, public=public, signer=issuer.key, use=use,
        path_length=0 if use is Use.ISSUE else None, from_s=from_s, until_s=until_s, entropy=entropy,
        hosts=() if use is Use.ISSUE else (name, *hosts),
    )  # fmt: skip


def verify(der: bytes, *, root: bytes, now_s: int, use: Use, chain: Sequence[bytes] = ()) -> Identity:
    """The identity that a certificate proves now, through at most one intermediate.

    Raises: CertificateInvalid.
    """
    if len(der) > MAX_CERTIFICATE_BYTES or any(len(other) > MAX_CERTIFICATE_BYTES for other in chain):
        raise CertificateInvalid("certificate is too large")
    try:
        certificate = x509.load_der_x509_certificate(der)
        between = [x509.load_der_x509_certificate(other) for other in chain]
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        if _verify_chain(certificate, between, root, now_s, is_ca=use is Use.ISSUE) != between:
            raise ValueError("the chain holds certificates that are not on the path")
        role, name = _subject(certificate)
        issuing = [role] if use is Use.ISSUE else [_subject(other)[0] for other in between]
        if (role in _OF_A_BANK) != bool(between) or any(issuer is not Role.BANK for issuer in issuing):
            raise ValueError("the CA certifies parties, banks certify users and officers, and nothing else")
        key = PublicKey.from_bytes(certificate.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))
    except _REFUSALS as exc:
        raise CertificateInvalid(f"{use} certificate: {type(exc).__name__}") from exc
    if usage != _usage(use) or constraints.ca != (use is Use.ISSUE):
        raise CertificateInvalid(f"not a certificate for use {use}")
    return Identity(
        role=role,
        name=name,
        use=use,
        key=key,
        expires_at_s=int(certificate.not_valid_after_utc.timestamp()),
        certificate=der,
    )


def _verify_chain(
    certificate: x509.Certificate, between: list[x509.Certificate], root: bytes, now_s: int, *, is_ca: bool
) -> list[x509.Certificate]:
    """The intermediates on the path from the certificate to the root."""
    anchor = x509.load_der_x509_certificate(root)
    if is_ca:  # the library verifies end entities only; an intermediate is checked against the root directly
        certificate.verify_directly_issued_by(anchor)
        if not certificate.not_valid_before_utc <= _time(now_s) <= certificate.not_valid_after_utc:
            raise ValueError("intermediate is not valid now")
        return []
    builder = PolicyBuilder().store(Store([anchor])).time(_time(now_s)).max_chain_depth(1)
    return builder.build_client_verifier().verify(certificate, between).chain[1:-1]


def _subject(certificate: x509.Certificate) -> tuple[Role, str]:
    units = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(units) != 1 or len(names) != 1:
        raise ValueError("subject does not name one role and one name")
    return Role(str(units[0].value)), str(names[0].value)
