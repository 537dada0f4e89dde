"""The PKI folder: nothing in it is believed unverified, and one bad file shuts nobody else out."""

from __future__ import annotations

import shutil

import pytest

from parties.directory import FileDirectory, certificate_file, read_certificate
from parties.system import SystemClock
from protocol.errors import CertificateInvalid, SettingsInvalid, UnknownKey
from protocol.pki import Use
from protocol.types import Role


class Later:
    """A clock some seconds ahead."""

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds

    def now_s(self) -> int:
        return SystemClock().now_s() + self.seconds


@pytest.fixture
def directory(env):
    return FileDirectory(env / "pki", SystemClock())


def test_a_party_is_found_by_name_and_by_thumbprint(directory):
    identity = directory.named("bank-a", Use.SIGN)
    assert (identity.role, identity.name, identity.use) == (Role.BANK, "bank-a", Use.SIGN)
    assert directory.by_thumbprint(identity.key.thumbprint) == identity


def test_a_name_of_two_roles_or_of_none_is_unknown(directory):
    with pytest.raises(UnknownKey):
        directory.named("phone-1", Use.SIGN)  # the SE and the wallet key bear one name
    with pytest.raises(UnknownKey):
        directory.named("bank-z", Use.SIGN)


def test_thumbprints_of_other_uses_and_strangers_are_unknown(directory):
    with pytest.raises(UnknownKey):
        directory.by_thumbprint(directory.named("bank-a", Use.SEAL).key.thumbprint)
    with pytest.raises(UnknownKey):
        directory.by_thumbprint(bytes(32))


def test_a_certificate_that_appears_later_is_found(env):
    path = certificate_file(env / "pki", Role.BANK, "bank-b", Use.SIGN)
    away = path.rename(env / "away.pem")
    directory = FileDirectory(env / "pki", SystemClock())
    thumbprint = FileDirectory(env / "pki", SystemClock()).read(away, Use.SIGN).key.thumbprint
    with pytest.raises(UnknownKey):
        directory.by_thumbprint(thumbprint)
    away.rename(path)
    assert directory.by_thumbprint(thumbprint).name == "bank-b"


def test_one_bad_file_shuts_nobody_else_out_and_heals(env):
    path = certificate_file(env / "pki", Role.BANK, "bank-a", Use.SIGN)
    good = path.read_bytes()
    (env / "pki/aaa.sign.pem").write_bytes(b"no certificate")
    path.write_bytes(b"")
    directory = FileDirectory(env / "pki", SystemClock())
    assert directory.by_thumbprint(directory.named("tsm-1", Use.SIGN).key.thumbprint).name == "tsm-1"
    with pytest.raises(SettingsInvalid, match="not a PEM certificate"):
        directory.named("bank-a", Use.SIGN)
    path.write_bytes(good)
    identity = directory.named("bank-a", Use.SIGN)
    assert directory.by_thumbprint(identity.key.thumbprint) == identity


def test_an_expired_certificate_is_no_certificate_also_when_it_was_known(env):
    clock = Later(0)
    directory = FileDirectory(env / "pki", clock)
    thumbprint = directory.named("bank-a", Use.SIGN).key.thumbprint
    assert directory.by_thumbprint(thumbprint)
    clock.seconds = 3 * 366 * 24 * 3600
    with pytest.raises(UnknownKey):
        directory.by_thumbprint(thumbprint)
    with pytest.raises(CertificateInvalid):
        directory.named("bank-a", Use.SIGN)


def test_a_certificate_of_another_ca_or_use_is_refused(env, tmp_path):
    directory = FileDirectory(env / "pki", SystemClock())
    with pytest.raises(CertificateInvalid):
        directory.read(env / "pki/manufacturer.pem", Use.SIGN)
    sealing = certificate_file(env / "pki", Role.BANK, "bank-a", Use.SEAL)
    shutil.copy(sealing, certificate_file(env / "pki", Role.BANK, "bank-a", Use.SIGN))
    with pytest.raises(CertificateInvalid):
        directory.named("bank-a", Use.SIGN)


def test_what_can_not_be_read_is_named(tmp_path):
    with pytest.raises(SettingsInvalid, match="can't be read"):
        read_certificate(tmp_path / "none.pem")
    with pytest.raises(SettingsInvalid, match="can't be read"):
        FileDirectory(tmp_path, SystemClock())
