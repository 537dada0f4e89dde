"""The attestation key's certificate: who vouches for the key, and where it lives (design §6).

An X.509 certificate (RFC 5280) with a P-256 key, issued directly by the manufacturer's CA. The trust class is a
critical extension: a verifier that does not know it has to refuse. The quote itself never says where its key lives.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import NameOID, SignatureAlgorithmOID

from protocol.crypto import PrivateKey, PublicKey
from protocol.errors import CertificateInvalid
from protocol.ports import Entropy
from protocol.types import MAX_SKEW_S, TrustClass

TRUST_CLASS_OID: Final = x509.ObjectIdentifier("2.25.168109554858697569858268811139698719395")
"""Extension `id-tapveil-trust-class`; value: UTF8String, one of `TrustClass`.

Under the arc 2.25 a UUID is an OID of its own, without registration (ITU-T X.667 §7).
"""
ATTESTATION_KEY_OID: Final = x509.ObjectIdentifier("2.23.133.8.3")
"""tcg-kp-AIKCertificate: the extended key usage TCG gives attestation keys, and nothing else."""
MAX_CERTIFICATE_BYTES: Final = 2048
SUBJECT: Final = "attestation-key"
"""One subject for all: only the key tells devices apart, and only the bank sees it."""
_UTF8_STRING: Final = 0x0C
_SERIAL_BYTES: Final = 16
_LEAF_EXTENSIONS: Final = frozenset(
    {
        x509.BasicConstraints.oid,
        x509.KeyUsage.oid,
        x509.ExtendedKeyUsage.oid,
        x509.AuthorityKeyIdentifier.oid,
        TRUST_CLASS_OID,
    }
)
_LIBRARY_REFUSALS: Final = (
    CryptographyDeprecationWarning,  # of a serial number below 1, where warnings are errors
    InvalidSignature,
    TypeError,
    UnsupportedAlgorithm,
    ValueError,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What the library raises for certificates it cannot read, or that do not fit together."""
_SIGNATURE_ONLY: Final = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)
_CA_ONLY: Final = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestationKey:
    """An attestation key somebody vouched for, and where it lives."""

    public: PublicKey
    trust_class: TrustClass


def issue_manufacturer_certificate(
    key: PrivateKey, *, name: str, valid_from_s: int, valid_until_s: int, entropy: Entropy
) -> bytes:
    """The manufacturer's own CA certificate, DER: it vouches for attestation keys only."""
    subject = _name(name)
    builder = _builder(subject, subject, key.public, entropy, validity_s=(valid_from_s, valid_until_s))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_CA_ONLY, critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(_native(key.public)), critical=False)
    return builder.sign(key.native(), hashes.SHA256()).public_bytes(Encoding.DER)


def issue_attestation_certificate(
    key: AttestationKey,
    *,
    ca_key: PrivateKey,
    ca_certificate: bytes,
    valid_from_s: int,
    valid_until_s: int,
    entropy: Entropy,
) -> bytes:
    """The certificate of `key`, DER. Raises: CertificateInvalid if the CA's own does not parse."""
    ca = _parse(ca_certificate)
    builder = _builder(_name(SUBJECT), ca.subject, key.public, entropy, validity_s=(valid_from_s, valid_until_s))
    trust_class = key.trust_class.value.encode()
    value = bytes((_UTF8_STRING, len(trust_class))) + trust_class
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_SIGNATURE_ONLY, critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ATTESTATION_KEY_OID]), critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.native().public_key()), critical=False
    )
    builder = builder.add_extension(x509.UnrecognizedExtension(TRUST_CLASS_OID, value), critical=True)
    return builder.sign(ca_key.native(), hashes.SHA256()).public_bytes(Encoding.DER)


def verify_attestation_certificate(data: bytes, *, ca_certificate: bytes, now_s: int) -> AttestationKey:
    """The key and trust class the manufacturer vouches for.

    A path of two certificates, by RFC 5280 §6.1: signature, issuer name, validity of both; then what an attestation
    key's certificate must say, and nothing more.

    Raises: CertificateInvalid.
    """
    ca, leaf = _parse(ca_certificate), _parse(data)
    _check_ca(ca)
    _check_validity(ca, now_s)
    _check_validity(leaf, now_s)
    try:
        leaf.verify_directly_issued_by(ca)
    except _LIBRARY_REFUSALS as exc:
        raise CertificateInvalid("not issued by the manufacturer") from exc
    return AttestationKey(public=_public_key(leaf), trust_class=_check_leaf(leaf))


def _check_ca(ca: x509.Certificate) -> None:
    try:
        constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = ca.extensions.get_extension_for_class(x509.KeyUsage).value
    except _LIBRARY_REFUSALS as exc:
        raise CertificateInvalid("manufacturer's certificate is not a CA's") from exc
    if not constraints.ca or not usage.key_cert_sign:
        raise CertificateInvalid("manufacturer's certificate is not a CA's")


def _check_validity(certificate: x509.Certificate, now_s: int) -> None:
    not_before_s = certificate.not_valid_before_utc.timestamp()
    not_after_s = certificate.not_valid_after_utc.timestamp()
    if not not_before_s - MAX_SKEW_S <= now_s <= not_after_s + MAX_SKEW_S:
        raise CertificateInvalid("certificate is not valid now")


def _check_leaf(leaf: x509.Certificate) -> TrustClass:
    if leaf.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA256:
        raise CertificateInvalid("certificate is not signed by ECDSA with SHA-256")
    try:
        extensions = leaf.extensions
    except _LIBRARY_REFUSALS as exc:
        raise CertificateInvalid("extensions do not parse") from exc
    if {extension.oid for extension in extensions} != _LEAF_EXTENSIONS:
        raise CertificateInvalid("extensions are not exactly those of an attestation key")
    usages = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    if (
        extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        or extensions.get_extension_for_class(x509.KeyUsage).value != _SIGNATURE_ONLY
        or list(usages) != [ATTESTATION_KEY_OID]
    ):
        raise CertificateInvalid("certificate is not for attestation")
    extension = extensions.get_extension_for_oid(TRUST_CLASS_OID)
    return _trust_class(extension)


def _trust_class(extension: x509.Extension[x509.ExtensionType]) -> TrustClass:
    value = extension.value.public_bytes()
    for trust_class in TrustClass:
        text = trust_class.value.encode()
        if extension.critical and value == bytes((_UTF8_STRING, len(text))) + text:
            return trust_class
    raise CertificateInvalid("trust class is not one of the three")


def _public_key(leaf: x509.Certificate) -> PublicKey:
    try:
        key = leaf.public_key()
    except _LIBRARY_REFUSALS as exc:
        raise CertificateInvalid("key of the certificate does not parse") from exc
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CertificateInvalid("key of the certificate is not on P-256")
    return PublicKey.from_bytes(key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))


def _parse(data: bytes) -> x509.Certificate:
    if len(data) > MAX_CERTIFICATE_BYTES:
        raise CertificateInvalid(f"certificate of {len(data)} bytes, at most {MAX_CERTIFICATE_BYTES}")
    try:
        return x509.load_der_x509_certificate(data)
    except _LIBRARY_REFUSALS as exc:
        raise CertificateInvalid("not a DER certificate") from exc


def _builder(
    subject: x509.Name, issuer: x509.Name, key: PublicKey, entropy: Entropy, *, validity_s: tuple[int, int]
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(_native(key))
        .serial_number(int.from_bytes(entropy.bytes(_SERIAL_BYTES)) >> 1 | 1)
        .not_valid_before(datetime.fromtimestamp(validity_s[0], UTC))
        .not_valid_after(datetime.fromtimestamp(validity_s[1], UTC))
    )


def _native(key: PublicKey) -> ec.EllipticCurvePublicKey:
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), key.encoded)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
