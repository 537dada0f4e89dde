"""Settings files: what is wrong is named with file, setting and mend."""

from __future__ import annotations

from pathlib import Path

import pytest

from parties.settings import PASSPHRASE_VARIABLE, load_settings
from protocol.errors import SettingsInvalid
from protocol.types import Role

GOOD = """
role = "bank"
name = "bank-a"
pki = "../pki"
keystore = "keys.sealed"
mutual_listen = "127.0.0.1:7401"
database = "sqlite:///data.db"
passphrase_file = "passphrase"
capture = "capture.log"

[peers]
tsm-1 = "[::1]:7403"

[options]
platform_list = "platform.list"
number = 3
"""


@pytest.fixture
def write(tmp_path: Path):
    def put(text: str | bytes) -> Path:
        path = tmp_path / "settings.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return put


def test_every_path_starts_at_the_settings_file(write, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    settings = load_settings(write(GOOD), Role.BANK)
    assert settings.pki == tmp_path / "../pki"
    assert settings.keystore == tmp_path / "keys.sealed"
    assert settings.database == f"sqlite:///{tmp_path}/data.db"
    assert settings.capture == tmp_path / "capture.log"
    assert settings.option_path("platform_list") == tmp_path / "platform.list"
    assert (settings.peers, settings.listen) == ({"tsm-1": "[::1]:7403"}, "")


def test_an_absolute_database_url_stays_as_it_is(write):
    url = "sqlite:////var/lib/bank.db"
    assert load_settings(write(GOOD.replace("sqlite:///data.db", url))).database == url


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda s: s.replace('role = "bank"', ""), "role is missing"),
        (lambda s: s.replace('pki = "../pki"', ""), "pki is missing"),
        (lambda s: s.replace('"bank"', '"banks"'), "role 'banks' is none of bank, tsm, merchant"),
        (lambda s: s.replace('"bank"', '"tsm"'), "is for `tapveil serve tsm`, not bank"),
        (lambda s: s.replace('"bank-a"', "7"), "name must be a text"),
        (lambda s: s.replace("keystore", "keystor"), "unknown setting 'keystor': remove it or correct its spelling"),
        (lambda s: s.replace("127.0.0.1:7401", "127.0.0.1"), "mutual_listen must be HOST:PORT, not '127.0.0.1'"),
        (lambda s: s.replace("127.0.0.1:7401", ":7401"), "must be HOST:PORT"),
        (lambda s: s.replace(":7401", ":65536"), "must be HOST:PORT"),
        (lambda s: s.replace(":7401", ":-1"), "must be HOST:PORT"),
        (lambda s: s.replace(":7401", ":" + "9" * 5000), "must be HOST:PORT"),
        (lambda s: s.replace(":7401", ":٧٤"), "must be HOST:PORT"),
        (lambda s: s.replace("[::1]:7403", "nowhere"), "[peers] tsm-1 must be HOST:PORT"),
        (lambda s: s.replace('"[::1]:7403"', "1"), "[peers] must map names to HOST:PORT"),
        (lambda s: 'options = "x"\n' + s[: s.index("[options]")], "[options] must be a table"),
        (lambda s: 'peers = "x"\n' + s[: s.index("[peers]")], "[peers] must map names to HOST:PORT"),
        (lambda s: s.replace("[peers]", "[peers"), "is not TOML"),
        (lambda s: s.encode() + b"\xff", "is not TOML"),
    ],
)
def test_what_is_wrong_is_named(write, change, text):
    path = write(change(GOOD))
    with pytest.raises(SettingsInvalid) as refused:
        load_settings(path, Role.BANK)
    assert str(path) in str(refused.value)
    assert text in str(refused.value)
    assert refused.value.code == "SETTINGS_INVALID"


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(SettingsInvalid, match="can't be read"):
            load_settings(path)


@pytest.mark.parametrize("name", ["none", "number"])
def test_an_option_that_is_missing_or_no_text_is_named(write, name):
    settings = load_settings(write(GOOD))
    for read in (settings.option_path, settings.option_text):
        with pytest.raises(SettingsInvalid, match=name):
            read(name)


def test_the_passphrase_comes_from_the_environment_first_then_from_the_file(write, tmp_path, monkeypatch):
    settings = load_settings(write(GOOD))
    with pytest.raises(SettingsInvalid, match="passphrase can't be read"):
        settings.passphrase()
    (tmp_path / "passphrase").write_bytes(b" from the file\n")
    assert settings.passphrase() == b"from the file"
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "from outside")
    assert settings.passphrase() == b"from outside"
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "\udcff")  # a byte that is no text
    assert settings.passphrase() == b"\xff"


def test_no_passphrase_at_all_is_named(write, monkeypatch):
    settings = load_settings(write(GOOD.replace('passphrase_file = "passphrase"', "")))
    with pytest.raises(SettingsInvalid, match="set TAPVEIL_PASSPHRASE or passphrase_file"):
        settings.passphrase()


def test_metrics_are_told_on_this_machine_unless_it_is_said_otherwise(write):
    def given(address: str, options: str = "") -> str:
        return f'metrics_listen = "{address}"' + GOOD + options

    for address in ("127.0.0.1:9401", "localhost:9401", "[::1]:9401"):
        assert load_settings(write(given(address))).metrics_listen == address
    assert load_settings(write(GOOD)).metrics_listen == ""
    assert load_settings(write(given("0.0.0.0:9401", "metrics_anywhere = true"))).metrics_listen == "0.0.0.0:9401"
    for options in ("", 'metrics_anywhere = "true"', "metrics_anywhere = false"):
        with pytest.raises(SettingsInvalid, match="is not on this machine") as refused:
            load_settings(write(given("0.0.0.0:9401", options)))
        assert refused.value.code == "SETTINGS_INVALID"
    with pytest.raises(SettingsInvalid, match="metrics_listen must be HOST:PORT"):
        load_settings(write(given("127.0.0.1")))
