"""Certificates: who may certify whom for what, and every chain that is not one (INIT-1, INIT-4)."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from support.world import SeededEntropy

from protocol import pki
from protocol.crypto import PrivateKey
from protocol.errors import CertificateInvalid
from protocol.pki import Identity, Issuer, Use
from protocol.types import Role

ENTROPY = SeededEntropy("pki")
NOW_S = 1_800_000_000
FROM_S, UNTIL_S = NOW_S - 60, NOW_S + 1000


def _key() -> PrivateKey:
    return PrivateKey.generate(ENTROPY)


def _root(key: PrivateKey | None = None, name: str = "tapveil-ca") -> Issuer:
    return pki.create_root(key or _key(), name=name, from_s=FROM_S, until_s=UNTIL_S, entropy=ENTROPY)


ROOT, TWIN = _root(), _root()
"""The CA, and another of the same name."""
KEY, OTHER, ISSUER_KEY = _key(), _key(), _key()


def _issue(issuer: Issuer = ROOT, **changes: Any) -> bytes:
    values: dict[str, Any] = {"role": Role.TSM, "name": "tsm-1", "use": Use.SIGN, "from_s": FROM_S, "until_s": UNTIL_S}
    return pki.issue(issuer, changes.pop("key", KEY).public, **(values | changes), entropy=ENTROPY)


def _intermediate(issuer: Issuer = ROOT, *, role: Role = Role.BANK, name: str = "bank-a", **changes: Any) -> Issuer:
    key = _key()
    return Issuer(key=key, certificate=_issue(issuer, key=key, role=role, name=name, use=Use.ISSUE, **changes))


BANK_A = _intermediate()
BANK_B = _intermediate(name="bank-b")


def _user(issuer: Issuer = BANK_A, **changes: Any) -> bytes:
    return _issue(issuer, **({"role": Role.USER, "name": "user-1"} | changes))


def _verify(
    der: bytes, *, use: Use = Use.SIGN, root: Issuer = ROOT, now_s: int = NOW_S, chain: Sequence[bytes] = ()
) -> Identity:
    return pki.verify(der, root=root.certificate, now_s=now_s, use=use, chain=chain)


# --- accepted --------------------------------------------------------------------------------------------------------
OF_A_BANK = (Role.USER, Role.OFFICER)
PARTIES = [(role, use) for role in Role if role not in OF_A_BANK for use in Use if use is not Use.ISSUE]


@pytest.mark.parametrize(("role", "use"), [*PARTIES, (Role.BANK, Use.ISSUE)])
def test_the_ca_certifies_parties(role: Role, use: Use) -> None:
    der = _issue(role=role, name="party-1", use=use)
    assert _verify(der, use=use) == Identity(
        role=role, name="party-1", use=use, key=KEY.public, expires_at_s=UNTIL_S, certificate=der
    )


def test_a_bank_certifies_users() -> None:
    der = _user()
    identity = _verify(der, chain=[BANK_A.certificate])
    assert (identity.role, identity.name, identity.key) == (Role.USER, "user-1", KEY.public)
    assert _verify(BANK_A.certificate, use=Use.ISSUE).key == BANK_A.key.public


def test_a_transport_certificate_names_its_hosts() -> None:
    der = _issue(use=Use.TLS, hosts=["localhost", "127.0.0.1", "::1"])
    names = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["tsm-1", "localhost"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    usages = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usages) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}


def test_no_two_certificates_are_alike() -> None:
    assert len({x509.load_der_x509_certificate(_issue()).serial_number for _ in range(20)}) == 20


@pytest.mark.parametrize("now_s", [FROM_S, UNTIL_S], ids=["first second", "last second"])
def test_validity_includes_its_ends(now_s: int) -> None:
    assert _verify(_issue(), now_s=now_s).name == "tsm-1"
    assert _verify(BANK_A.certificate, use=Use.ISSUE, now_s=now_s).name == "bank-a"
    assert _verify(_user(), chain=[BANK_A.certificate], now_s=now_s).name == "user-1"


# --- refused chains --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Case:
    """What is verified, for which use, and when."""

    der: bytes
    use: Use = Use.SIGN
    chain: Sequence[bytes] = field(default=())
    now_s: int = NOW_S
    root: Issuer = ROOT


def _self_made() -> Issuer:
    """Looks like a bank's issuer, and is nobody's."""
    return _intermediate(_root(name="self-made"))


def _leaf_as_issuer(use: Use) -> Case:
    leaf = _issue(role=Role.BANK, name="bank-a", use=use, key=ISSUER_KEY)
    issuer = Issuer(key=ISSUER_KEY, certificate=leaf)
    return Case(_user(issuer), chain=[leaf])


def _two_levels() -> Case:
    lower = _intermediate(BANK_A)
    return Case(_user(lower), chain=[lower.certificate, BANK_A.certificate])


def _short_lived() -> Issuer:
    return _intermediate(until_s=NOW_S + 10)


SHORT, LATE = _short_lived(), _intermediate(from_s=NOW_S + 10)
CHAINS: dict[str, Case] = {
    # who certifies whom
    "user directly under the CA": Case(_user(ROOT)),
    "officer directly under the CA": Case(_issue(role=Role.OFFICER, name="officer-1")),
    "user directly under the CA, beside a bank's issuer": Case(_user(ROOT), chain=[BANK_A.certificate]),
    "user directly under the CA, beside a self-made issuer": Case(_user(ROOT), chain=[_self_made().certificate]),
    "party beside a bank's issuer": Case(_issue(), chain=[BANK_A.certificate]),
    "user of one bank beside the issuer of another": Case(_user(BANK_A), chain=[BANK_B.certificate]),
    "user beside both banks' issuers": Case(_user(BANK_A), chain=[BANK_A.certificate, BANK_B.certificate]),
    "user without the bank's issuer": Case(_user()),
    **{
        f"{role} certified by a bank": Case(_issue(BANK_A, role=role, name="bank-b"), chain=[BANK_A.certificate])
        for role in Role
        if role not in OF_A_BANK
    },
    "transport key certified by a bank": Case(
        _issue(BANK_A, role=Role.TSM, use=Use.TLS), use=Use.TLS, chain=[BANK_A.certificate]
    ),
    "issuer certified by a bank": Case(
        _intermediate(BANK_A, name="bank-b").certificate, use=Use.ISSUE, chain=[BANK_A.certificate]
    ),
    "issuer certified by a bank, alone": Case(_intermediate(BANK_A, name="bank-b").certificate, use=Use.ISSUE),
    "issuer beside another issuer": Case(BANK_A.certificate, use=Use.ISSUE, chain=[BANK_B.certificate]),
    "user under another party's issuer": Case(
        _user(tsm := _intermediate(role=Role.TSM, name="tsm-1")), chain=[tsm.certificate]
    ),
    **{
        f"{role} as issuer": Case(_intermediate(role=role, name="party-1").certificate, use=Use.ISSUE)
        for role in Role
        if role is not Role.BANK
    },
    "signing certificate as intermediate": _leaf_as_issuer(Use.SIGN),
    "transport certificate as intermediate": _leaf_as_issuer(Use.TLS),
    "two intermediates": _two_levels(),
    "two intermediates, the lower one alone": Case(_user(lower := _intermediate(BANK_A)), chain=[lower.certificate]),
    "the root as a party": Case(ROOT.certificate),
    "the root as an issuer": Case(ROOT.certificate, use=Use.ISSUE),
    # which root
    "other root": Case(_issue(_root(name="other-ca"))),
    "other root of the same name": Case(_issue(TWIN)),
    "issuer under another root": Case(_intermediate(_root(name="other-ca")).certificate, use=Use.ISSUE),
    "issuer under another root of the same name": Case(_intermediate(TWIN).certificate, use=Use.ISSUE),
    "user under another root": Case(_user(twin := _intermediate(TWIN)), chain=[twin.certificate]),
    "user under a self-made issuer": Case(_user(made := _self_made()), chain=[made.certificate]),
    "user under a self-made issuer and its root": Case(
        _user(made), chain=[made.certificate, _root(name="self-made").certificate]
    ),
    "self-signed": Case(_root(KEY, name="tsm-1").certificate),
    # when
    "expired": Case(_issue(), now_s=UNTIL_S + 1),
    "not yet valid": Case(_issue(), now_s=FROM_S - 1),
    "issuer expired": Case(SHORT.certificate, use=Use.ISSUE, now_s=NOW_S + 11),
    "issuer not yet valid": Case(LATE.certificate, use=Use.ISSUE),
    "user under an expired issuer": Case(_user(SHORT), chain=[SHORT.certificate], now_s=NOW_S + 11),
    "user under an issuer not yet valid": Case(_user(LATE), chain=[LATE.certificate]),
    "user expired": Case(_user(until_s=NOW_S + 10), chain=[BANK_A.certificate], now_s=NOW_S + 11),
    # which use
    **{
        f"{is_for} certificate used to {used_for}": Case(
            _issue(role=Role.BANK, name="bank-a", use=is_for), use=used_for
        )
        for is_for in Use
        for used_for in Use
        if is_for is not used_for
    },
    # which bytes
    "empty": Case(b""),
    "garbage": Case(b"\x30\x03\x02\x01\x01"),
    "truncated": Case(_issue()[:-1]),
    "trailing byte": Case(_issue() + b"\0"),
    "too large": Case(_issue(hosts=[f"host-{number}.example" for number in range(300)])),
    "issuer garbage": Case(_user(), chain=[b"\x30\x00"]),
    "issuer too large": Case(_user(), chain=[BANK_A.certificate + bytes(pki.MAX_CERTIFICATE_BYTES)]),
}


@pytest.mark.parametrize("case", CHAINS.values(), ids=CHAINS)
def test_chain_refused(case: Case) -> None:
    with pytest.raises(CertificateInvalid) as refusal:
        _verify(case.der, use=case.use, root=case.root, now_s=case.now_s, chain=case.chain)
    assert refusal.value.code == "CERTIFICATE_INVALID"


def test_the_clock_of_refusals_is_the_argument() -> None:
    """What is refused above for its time is accepted at another."""
    assert _verify(LATE.certificate, use=Use.ISSUE, now_s=NOW_S + 10).name == "bank-a"
    assert _verify(_user(SHORT), chain=[SHORT.certificate], now_s=NOW_S + 10).name == "user-1"


# --- certificates that this CA would not make ------------------------------------------------------------------------
@cache
def _rsa_key() -> rsa.RSAPublicKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()


def _made(
    *, subject: Sequence[tuple[x509.ObjectIdentifier, str]] | None = None, without: type | None = None,
    instead: Sequence[x509.ExtensionType] = (), public: Any = None, padding: int = 0, serial: int = 7,
) -> bytes:  # fmt: skip
    """A certificate under the true root, all as it should be but for what is named."""
    names = subject or ((NameOID.ORGANIZATIONAL_UNIT_NAME, "tsm"), (NameOID.COMMON_NAME, "tsm-1"))
    anchor = x509.load_der_x509_certificate(ROOT.certificate)
    point = public or KEY.native().public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(oid, value) for oid, value in names]))
        .issuer_name(anchor.subject)
        .public_key(point)
        .serial_number(serial)
        .not_valid_before(datetime.datetime.fromtimestamp(FROM_S, tz=datetime.UTC))
        .not_valid_after(datetime.datetime.fromtimestamp(UNTIL_S, tz=datetime.UTC))
    )
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(), True),
        (x509.SubjectKeyIdentifier.from_public_key(point), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(ROOT.key.native().public_key()), False),
        (x509.SubjectAlternativeName([x509.DNSName("tsm-1")]), False),
    ]
    replaced = {type(extension) for extension in instead}
    kept = [pair for pair in extensions if type(pair[0]) not in replaced and type(pair[0]) is not without]
    for extension, critical in [*kept, *((extension, True) for extension in instead)]:
        builder = builder.add_extension(extension, critical=critical)
    if padding:
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), bytes(padding))
        builder = builder.add_extension(unknown, critical=False)
    return builder.sign(ROOT.key.native(), hashes.SHA256(), ecdsa_deterministic=True).public_bytes(Encoding.DER)


def _usage(**changes: bool) -> x509.KeyUsage:
    usage = dict.fromkeys(
        ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
         "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
        False,
    )  # fmt: skip
    return x509.KeyUsage(**(usage | {"digital_signature": True, "content_commitment": True} | changes))


UNIT, NAME = NameOID.ORGANIZATIONAL_UNIT_NAME, NameOID.COMMON_NAME
STRANGE: dict[str, Callable[[], bytes]] = {
    "no basic constraints": lambda: _made(without=x509.BasicConstraints),
    "no key usage": lambda: _made(without=x509.KeyUsage),
    "no authority key": lambda: _made(without=x509.AuthorityKeyIdentifier),
    "no alternative name": lambda: _made(without=x509.SubjectAlternativeName),
    "a CA for signing": lambda: _made(instead=[x509.BasicConstraints(ca=True, path_length=0)]),
    "one more usage": lambda: _made(instead=[_usage(key_agreement=True)]),
    "one usage fewer": lambda: _made(instead=[_usage(content_commitment=False)]),
    "an unknown critical extension": lambda: _made(
        instead=[x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")]
    ),
    "for servers only": lambda: _made(instead=[x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])]),
    "role unknown": lambda: _made(subject=[(UNIT, "notary"), (NAME, "tsm-1")]),
    "role in capitals": lambda: _made(subject=[(UNIT, "TSM"), (NAME, "tsm-1")]),
    "no role": lambda: _made(subject=[(NAME, "tsm-1")]),
    "two roles": lambda: _made(subject=[(UNIT, "tsm"), (UNIT, "bank"), (NAME, "tsm-1")]),
    "no name": lambda: _made(subject=[(UNIT, "tsm")]),
    "two names": lambda: _made(subject=[(UNIT, "tsm"), (NAME, "tsm-1"), (NAME, "bank-a")]),
    "RSA key": lambda: _made(public=_rsa_key()),
    "P-384 key": lambda: _made(public=ec.generate_private_key(ec.SECP384R1()).public_key()),
}


def test_only_what_is_named_is_strange() -> None:
    assert _verify(_made()).name == "tsm-1"


@pytest.mark.parametrize("make", STRANGE.values(), ids=STRANGE)
def test_strange_certificate_refused(make: Callable[[], bytes]) -> None:
    with pytest.raises(CertificateInvalid) as refusal:
        _verify(make())
    assert refusal.value.code == "CERTIFICATE_INVALID"


BANK_NAME = ((UNIT, "bank"), (NAME, "bank-a"))
_may_issue = partial(_usage, digital_signature=False, content_commitment=False, key_cert_sign=True, crl_sign=True)
A_CA = x509.BasicConstraints(ca=True, path_length=0)
STRANGE_ISSUERS: dict[str, Callable[[], bytes]] = {
    "not a CA": lambda: _made(subject=BANK_NAME, instead=[_may_issue()]),
    "may not issue": lambda: _made(subject=BANK_NAME, instead=[A_CA]),
    "may sign too": lambda: _made(subject=BANK_NAME, instead=[A_CA, _may_issue(digital_signature=True)]),
    "of a TSM": lambda: _made(instead=[A_CA, _may_issue()]),
}


def test_only_what_is_named_is_strange_of_an_issuer() -> None:
    assert _verify(_made(subject=BANK_NAME, instead=[A_CA, _may_issue()]), use=Use.ISSUE).name == "bank-a"


@pytest.mark.parametrize("make", STRANGE_ISSUERS.values(), ids=STRANGE_ISSUERS)
def test_strange_issuer_refused(make: Callable[[], bytes]) -> None:
    with pytest.raises(CertificateInvalid) as refusal:
        _verify(make(), use=Use.ISSUE)
    assert refusal.value.code == "CERTIFICATE_INVALID"


def _of_size(size: int, **changes: Any) -> bytes:
    """A good certificate of so many bytes; signatures differ in length, hence the search."""
    padding = 3000 + size - len(_made(padding=3000, **changes))
    made = (_made(padding=padding, serial=serial, **changes) for serial in range(1, 128))
    return next(der for der in made if len(der) == size)


def test_size_is_bounded() -> None:
    bound = pki.MAX_CERTIFICATE_BYTES
    assert _verify(_of_size(bound)).name == "tsm-1"
    with pytest.raises(CertificateInvalid, match="too large") as refusal:
        _verify(_of_size(bound + 1))
    assert refusal.value.code == "CERTIFICATE_INVALID"


def test_size_of_an_issuer_is_bounded() -> None:
    form: dict[str, Any] = {"subject": BANK_NAME, "instead": [A_CA, _may_issue()]}
    for over, good in ((0, True), (1, False)):
        issuer = Issuer(key=KEY, certificate=_of_size(pki.MAX_CERTIFICATE_BYTES + over, **form))
        user = _user(issuer, key=OTHER)
        if good:
            assert _verify(user, chain=[issuer.certificate]).name == "user-1"
            continue
        with pytest.raises(CertificateInvalid, match="too large") as refusal:
            _verify(user, chain=[issuer.certificate])
        assert refusal.value.code == "CERTIFICATE_INVALID"


# --- any bytes -------------------------------------------------------------------------------------------------------
PARTY, USER = _issue(), _user()


@settings(deadline=None, max_examples=250)
@given(st.sampled_from(["party", "issuer", "user", "user's issuer"]), st.integers(0, 2**16), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_outside_what_is_signed(which: str, position: int, mask: int) -> None:
    def changed(der: bytes) -> bytes:
        at = position % len(der)
        return der[:at] + bytes([der[at] ^ mask]) + der[at + 1 :]

    case = {
        "party": lambda: Case(changed(PARTY)),
        "issuer": lambda: Case(changed(BANK_A.certificate), use=Use.ISSUE),
        "user": lambda: Case(changed(USER), chain=[BANK_A.certificate]),
        "user's issuer": lambda: Case(USER, chain=[changed(BANK_A.certificate)]),
    }[which]()
    try:
        identity = _verify(case.der, use=case.use, chain=case.chain)
    except CertificateInvalid as refusal:
        assert refusal.code == "CERTIFICATE_INVALID"
    else:
        # X.509 readers forgive some forms around the signature; what was signed is the same.
        original = {"party": PARTY, "issuer": BANK_A.certificate}.get(which, USER)
        same = _verify(original, use=case.use, chain=[BANK_A.certificate] if which.startswith("user") else ())
        assert replace(identity, certificate=original) == same


@pytest.mark.parametrize("kind", [0xA3, 0xA5], ids=["x400Address", "ediPartyName"])
def test_a_name_of_a_kind_that_nobody_reads(kind: int) -> None:
    name = bytes([0x82, len("user-1")]) + b"user-1"  # dNSName
    assert name in USER
    with pytest.raises(CertificateInvalid):
        _verify(USER.replace(name, bytes([kind]) + name[1:]), chain=[BANK_A.certificate])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (bytes.fromhex("a003020102"), bytes.fromhex("a003020103")),
        (bytes.fromhex("0603551d0e"), bytes.fromhex("0603551d0f")),
        (bytes.fromhex("0603551d23"), bytes.fromhex("0603551d13")),
    ],
    ids=["version 4", "key usage twice", "basic constraints twice"],
)
@pytest.mark.parametrize("use", [Use.SIGN, Use.ISSUE])
def test_forms_that_the_library_has_exceptions_of_its_own_for(before: bytes, after: bytes, use: Use) -> None:
    der = PARTY if use is Use.SIGN else BANK_A.certificate
    assert before in der
    with pytest.raises(CertificateInvalid) as refusal:
        _verify(der.replace(before, after, 1), use=use)
    assert refusal.value.code == "CERTIFICATE_INVALID"
