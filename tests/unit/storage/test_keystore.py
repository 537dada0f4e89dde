"""The keystore opens with its passphrase and whole, and not otherwise."""

from __future__ import annotations

import stat

import pytest

from parties.keystore import GENERATED, MAX_MEMORY_BYTES, Cost, Keystore
from protocol.codec import encode
from protocol.crypto import sha256
from protocol.errors import KeystoreLocked, Oversize, SettingsInvalid, StorageFault

ENTRIES = {"signing": b"SECRET-SIGNING-SCALAR", "sealing": bytes(32)}


@pytest.fixture
def path(tmp_path):
    Keystore.create(tmp_path / "bank.keys", b"open sesame", ENTRIES, cost=GENERATED)
    return tmp_path / "bank.keys"


def test_opens_to_the_entries_and_the_same_derived_keys(path, tmp_path):
    one, two = Keystore.open(path, b"open sesame"), Keystore.open(path, b"open sesame")
    assert one.names() == ("sealing", "signing")
    assert {name: one.entry(name) for name in one.names()} == ENTRIES
    assert one.data_key() == two.data_key()
    assert len(one.data_key()) == 32
    assert one.blind("pan", b"1") == two.blind("pan", b"1")
    assert len({one.blind("pan", b"1"), one.blind("pan", b"2"), one.blind("tid", b"1"), one.data_key()}) == 4
    other = Keystore.create(tmp_path / "other.keys", b"open sesame", ENTRIES, cost=GENERATED)
    assert other.data_key() != one.data_key()


def test_the_file_is_private_and_shows_nothing(path):
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"SECRET" not in path.read_bytes()
    assert b"signing" not in path.read_bytes()
    store = Keystore.open(path, b"open sesame")
    assert repr(store) == str(store) == "Keystore(2 entries)"
    assert [one.name for one in path.parent.iterdir()] == ["bank.keys"]


@pytest.mark.parametrize("passphrase", [b"", b"open sesam", b"open sesame\n", b"Open sesame"])
def test_a_wrong_passphrase_is_refused(path, passphrase):
    with pytest.raises(KeystoreLocked, match="wrong passphrase") as caught:
        Keystore.open(path, passphrase)
    assert caught.value.code == "KEYSTORE_LOCKED"


def test_truncated_anywhere_is_refused(path):
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(KeystoreLocked, match="damaged"):
            Keystore.open(path, b"open sesame")


def test_any_flipped_bit_and_any_byte_more_is_refused(path):
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        with pytest.raises(KeystoreLocked):
            Keystore.open(path, b"open sesame")
    path.write_bytes(whole + b"\x00")
    with pytest.raises(KeystoreLocked):
        Keystore.open(path, b"open sesame")


def test_flipped_bits_under_a_mended_checksum_are_refused(path):
    """Who can write the file can compute the checksum; the seals must hold alone."""
    magic, body = path.read_bytes()[:19], path.read_bytes()[51:]
    for place in range(len(body)):
        altered = body[:place] + bytes([body[place] ^ 0x80]) + body[place + 1 :]
        path.write_bytes(magic + sha256(altered) + altered)
        with pytest.raises(KeystoreLocked):
            Keystore.open(path, b"open sesame")


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [1, MAX_MEMORY_BYTES + 1, bytes(16), b"", b""],
        [17, 8192, bytes(16), b"", b""],
        [0, 8192, bytes(16), b"", b""],
        [1, 8192, bytes(15), b"", b""],
        [1, 8192, bytes(16), b"", ""],
        {"passes": 1},
    ],
)
def test_a_file_that_asks_for_too_much_or_is_of_another_form_is_refused(path, fields):
    body = encode(fields)
    path.write_bytes(path.read_bytes()[:19] + sha256(body) + body)
    with pytest.raises(KeystoreLocked, match="not a keystore of this version"):
        Keystore.open(path, b"open sesame")


def test_the_passphrase_changes_and_the_keys_stay(path):
    store = Keystore.open(path, b"open sesame")
    before = store.data_key()
    store.change_passphrase(b"other", cost=Cost(passes=2, memory_bytes=16384))
    with pytest.raises(KeystoreLocked, match="wrong passphrase"):
        Keystore.open(path, b"open sesame")
    again = Keystore.open(path, b"other")
    assert (again.data_key(), again.entry("signing")) == (before, ENTRIES["signing"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_entries_are_added_and_replaced(path):
    Keystore.open(path, b"open sesame").put({"signing": b"new", "tls": b"key"})
    store = Keystore.open(path, b"open sesame")
    assert [store.entry(name) for name in store.names()] == [bytes(32), b"new", b"key"]
    with pytest.raises(SettingsInvalid, match="no entry card"):
        store.entry("card")


def test_too_much_for_the_file_is_refused_and_not_kept(path):
    store = Keystore.open(path, b"open sesame")
    with pytest.raises(Oversize):
        store.put({"huge": bytes(1 << 20)})
    assert store.names() == Keystore.open(path, b"open sesame").names() == ("sealing", "signing")


def test_an_existing_keystore_is_never_overwritten(path):
    before = path.read_bytes()
    with pytest.raises(SettingsInvalid, match="already"):
        Keystore.create(path, b"another", {}, cost=GENERATED)
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == ["bank.keys"]


def test_no_file_no_folder_and_no_passphrase_are_refused(path):
    with pytest.raises(SettingsInvalid, match="can't be read"):
        Keystore.open(path.with_name("none"), b"open sesame")
    with pytest.raises(StorageFault, match="can't be written"):
        Keystore.create(path.parent / "none" / "bank.keys", b"open sesame", {}, cost=GENERATED)
    with pytest.raises(SettingsInvalid, match="empty"):
        Keystore.create(path.with_name("new"), b"", {}, cost=GENERATED)
    with pytest.raises(SettingsInvalid, match="empty"):
        Keystore.open(path, b"open sesame").change_passphrase(b"")
    Keystore.open(path, b"open sesame")


def test_a_write_that_fails_changes_neither_the_file_nor_the_open_keystore(path):
    store = Keystore.open(path, b"open sesame")
    moved = path.parent.rename(path.parent.with_name("elsewhere"))
    with pytest.raises(StorageFault):
        store.put({"signing": b"new"})
    with pytest.raises(StorageFault):
        store.change_passphrase(b"other")
    moved.rename(path.parent)
    assert store.entry("signing") == ENTRIES["signing"]
    store.put({"tls": b"key"})
    assert Keystore.open(path, b"open sesame").entry("signing") == ENTRIES["signing"]
