"""The attestation key's certificate: what it must say, and nothing more."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from attestation.certificate import (
    ATTESTATION_KEY_OID,
    MAX_CERTIFICATE_BYTES,
    SUBJECT,
    TRUST_CLASS_OID,
    AttestationKey,
    issue_attestation_certificate,
    issue_manufacturer_certificate,
    verify_attestation_certificate,
)
from protocol.crypto import PrivateKey
from protocol.errors import CertificateInvalid, ProtocolError
from protocol.types import TrustClass

NOW_S = 1_800_000_000
DAY_S = 86_400
CA_KEY = PrivateKey.from_bytes(bytes(31) + b"\x05")
OTHER_CA_KEY = PrivateKey.from_bytes(bytes(31) + b"\x06")
KEY = PrivateKey.from_bytes(bytes(31) + b"\x07")


class Zeros:
    def bytes(self, n: int, /) -> bytes:
        return bytes(n)


def authority(key=CA_KEY, name="Manufacturer", days=(-1, 100)):
    return issue_manufacturer_certificate(
        key,
        name=name,
        valid_from_s=NOW_S + days[0] * DAY_S,
        valid_until_s=NOW_S + days[1] * DAY_S,
        entropy=Zeros(),
    )


CA = authority()


def issue(trust_class=TrustClass.SOFTWARE, *, ca_key=CA_KEY, ca=CA, until_s=NOW_S + DAY_S):
    return issue_attestation_certificate(
        AttestationKey(public=KEY.public, trust_class=trust_class),
        ca_key=ca_key,
        ca_certificate=ca,
        valid_from_s=NOW_S - DAY_S,
        valid_until_s=until_s,
        entropy=Zeros(),
    )


def verify(data, *, ca=CA, now_s=NOW_S):
    return verify_attestation_certificate(data, ca_certificate=ca, now_s=now_s)


@pytest.mark.parametrize("trust_class", list(TrustClass))
def test_certificate_names_key_and_class(trust_class):
    assert verify(issue(trust_class)) == AttestationKey(public=KEY.public, trust_class=trust_class)


def test_certificate_names_no_device():
    certificate = x509.load_der_x509_certificate(issue())
    assert certificate.subject.rfc4514_string() == f"CN={SUBJECT}"


def test_other_authoritys_certificate_is_refused(refuses):
    other = authority(OTHER_CA_KEY)
    assert verify(issue(ca_key=OTHER_CA_KEY, ca=other), ca=other)
    refuses(CertificateInvalid, lambda: verify(issue(ca_key=OTHER_CA_KEY)))
    refuses(CertificateInvalid, lambda: verify(issue(), ca=other))
    renamed = authority(name="Another")
    refuses(CertificateInvalid, lambda: verify(issue(), ca=renamed))


def test_certificate_out_of_date_is_refused(refuses):
    data = issue()
    assert verify(data, now_s=NOW_S + DAY_S + 60)
    refuses(CertificateInvalid, lambda: verify(data, now_s=NOW_S + DAY_S + 61))
    refuses(CertificateInvalid, lambda: verify(data, now_s=NOW_S - DAY_S - 61))
    old = authority(days=(-10, -5))
    refuses(CertificateInvalid, lambda: verify(issue(ca=old), ca=old))


def test_authority_that_is_none_is_refused(refuses):
    # Name and key are the manufacturer's in each; only what the certificate may do differs.
    def candidate(*extensions):
        critical = [(extension, True) for extension in extensions]
        return built(public_key=CA_KEY.native().public_key(), subject="Manufacturer", extensions=critical)

    is_ca, is_none = x509.BasicConstraints(ca=True, path_length=0), x509.BasicConstraints(ca=False, path_length=None)
    signs, does_not = key_usage(key_cert_sign=True), key_usage()
    assert verify(issue(), ca=candidate(is_ca, signs))
    for extensions in ((is_none, signs), (is_ca, does_not), (is_ca,), (signs,), ()):
        refuses(CertificateInvalid, lambda: verify(issue(), ca=candidate(*extensions)))  # noqa: B023
    refuses(CertificateInvalid, lambda: verify(issue(), ca=issue()))


def test_every_flipped_byte_is_refused(refuses):
    data = issue()
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 8
        refuses(CertificateInvalid, lambda: verify(bytes(flipped)))  # noqa: B023


def test_damaged_certificate_is_refused(refuses):
    data = issue()
    refuses(CertificateInvalid, lambda: verify(data[:-1]))
    refuses(CertificateInvalid, lambda: verify(data + b"\0"))
    refuses(CertificateInvalid, lambda: verify(b""))
    refuses(CertificateInvalid, lambda: verify(bytes(MAX_CERTIFICATE_BYTES + 1)))


# --- certificates the manufacturer signed, but for something else ---------------------------------------------------
def key_usage(**changes):
    usages = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return x509.KeyUsage(**usages | {"digital_signature": True} | changes)


AKI = x509.AuthorityKeyIdentifier.from_issuer_public_key(CA_KEY.native().public_key())


def leaf_extensions(
    *, constraints=None, usage=None, extended=(ATTESTATION_KEY_OID,), trust_class=b"\x0c\x08software", critical=True
):
    return (
        (constraints or x509.BasicConstraints(ca=False, path_length=None), True),
        (usage or key_usage(), True),
        (x509.ExtendedKeyUsage(extended), False),
        (AKI, False),
        (x509.UnrecognizedExtension(TRUST_CLASS_OID, trust_class), critical),
    )


def built(*, public_key=None, subject=SUBJECT, signed_by=CA_KEY, extensions=(), algorithm=None):
    def name(text):
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name("Manufacturer"))
        .public_key(public_key or KEY.native().public_key())
        .serial_number(7)
        .not_valid_before(datetime.fromtimestamp(NOW_S - DAY_S, UTC))
        .not_valid_after(datetime.fromtimestamp(NOW_S + DAY_S, UTC))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(signed_by.native(), algorithm or hashes.SHA256()).public_bytes(Encoding.DER)


def test_hand_built_certificate_is_accepted():
    assert verify(built(extensions=leaf_extensions())).trust_class is TrustClass.SOFTWARE


ALTERED = {
    "none": (),
    "no trust class": leaf_extensions()[:-1],
    "one more": (*leaf_extensions(), (x509.OCSPNoCheck(), False)),
    "a CA": leaf_extensions(constraints=x509.BasicConstraints(ca=True, path_length=0)),
    "also certificates": leaf_extensions(usage=key_usage(key_cert_sign=True)),
    "also agreement": leaf_extensions(usage=key_usage(key_agreement=True)),
    "TLS": leaf_extensions(extended=(x509.ExtendedKeyUsageOID.CLIENT_AUTH,)),
    "also TLS": leaf_extensions(extended=(ATTESTATION_KEY_OID, x509.ExtendedKeyUsageOID.CLIENT_AUTH)),
    "unknown class": leaf_extensions(trust_class=b"\x0c\x08Software"),
    "empty class": leaf_extensions(trust_class=b""),
    "wrong string type": leaf_extensions(trust_class=b"\x13\x08software"),
    "trailing": leaf_extensions(trust_class=b"\x0c\x08software\0"),
    "not critical": leaf_extensions(critical=False),
    "damaged constraints": (
        (x509.UnrecognizedExtension(x509.BasicConstraints.oid, b"\x30\x03\x02\x01\x05"), True),
        *leaf_extensions()[1:],
    ),
}


@pytest.mark.parametrize("extensions", ALTERED.values(), ids=ALTERED)
def test_certificate_for_something_else_is_refused(refuses, extensions):
    refuses(CertificateInvalid, lambda: verify(built(extensions=extensions)))


def test_keys_of_another_kind_are_refused(refuses):
    for key in (ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)):
        data = built(public_key=key.public_key(), extensions=leaf_extensions())
        refuses(CertificateInvalid, lambda: verify(data))  # noqa: B023


def test_signature_of_another_kind_is_refused(refuses):
    data = built(extensions=leaf_extensions(), algorithm=hashes.SHA384())
    refuses(CertificateInvalid, lambda: verify(data))


def test_point_off_the_curve_is_refused(refuses):
    # Signed by the manufacturer all the same: the signature is made over the altered point.
    point = KEY.public.encoded
    data = built(extensions=leaf_extensions())
    certificate = x509.load_der_x509_certificate(data)
    body = certificate.tbs_certificate_bytes.replace(point, point[:-1] + bytes([point[-1] ^ 1]))
    signature = CA_KEY.native().sign(body, ec.ECDSA(hashes.SHA256()))
    bits = b"\x03" + bytes([len(signature) + 1]) + b"\0" + signature
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")
    content = body + algorithm + bits
    forged = b"\x30\x82" + len(content).to_bytes(2) + content
    refuses(CertificateInvalid, lambda: verify(forged))


LEAF = issue()


@given(st.binary(max_size=20), st.integers(0, len(LEAF)), st.integers(0, len(LEAF)))
def test_parser_raises_only_refusals(middle, start, end):
    with contextlib.suppress(ProtocolError):
        verify(LEAF[:start] + middle + LEAF[end:])
