"""Sealed cells: open in their own place only, and can't be read in the file."""

from __future__ import annotations

import pytest

from parties.storage.sealing import Sealer
from protocol.errors import StorageFault
from protocol.rows import Decision, Insert, Key, Unit

CELL = {"table": "cards", "column": "kac", "key": (b"pan", 7)}


@pytest.mark.parametrize("value", [b"", b"\x00" * 4000, "", "naïve", 0, -(2**63), 2**63 - 1, True, False])
def test_opens_to_the_same_value_of_the_same_type(value):
    sealer = Sealer(bytes(32))
    opened = sealer.unseal(sealer.seal(value, **CELL), **CELL)
    assert (type(opened), opened) == (type(value), value)


def test_seals_the_same_value_differently_each_time():
    sealer = Sealer(bytes(32))
    assert sealer.seal(b"same", **CELL) != sealer.seal(b"same", **CELL)


@pytest.mark.parametrize("place", [{"table": "card"}, {"column": "kad"}, {"key": (b"pan", 8)}, {"key": (b"pan",)}])
def test_a_moved_value_does_not_open(place):
    sealer = Sealer(bytes(32))
    with pytest.raises(StorageFault, match="does not open") as caught:
        sealer.unseal(sealer.seal(b"value", **CELL), **(CELL | place))
    assert caught.value.code == "STORAGE_FAULT"


def test_an_altered_or_truncated_value_does_not_open():
    sealer = Sealer(bytes(32))
    sealed = sealer.seal(b"value", **CELL)
    damaged = [sealed[:cut] for cut in range(len(sealed))]
    damaged += [sealed[:i] + bytes([sealed[i] ^ 1]) + sealed[i + 1 :] for i in range(len(sealed))]
    for one in damaged:
        with pytest.raises(StorageFault):
            sealer.unseal(one, **CELL)


def test_another_data_key_does_not_open():
    with pytest.raises(StorageFault):
        Sealer(b"\x01" * 32).unseal(Sealer(bytes(32)).seal(b"value", **CELL), **CELL)


def test_a_data_key_has_its_length_and_does_not_show():
    with pytest.raises(ValueError, match="32 bytes"):
        Sealer(b"short")
    assert "abc" not in repr(Sealer(b"abc" + bytes(29)))


def _fill(sample, store):
    rows = [
        sample.account(1, secret=b"PLAIN-SECRET-ONE", memo="PLAIN-MEMO-ONE", name="visible-name"),
        sample.account(2, secret=b"PLAIN-SECRET-TWO"),
    ]
    store.apply(Unit((), lambda _: Decision(writes=tuple(Insert(sample.accounts, row) for row in rows))))


@pytest.mark.parametrize("sample", ["sqlite"], indirect=True)
def test_no_sealed_column_is_readable_in_the_files(sample, tmp_path):
    with sample.opened(tmp_path / "sealed.db") as store:
        _fill(sample, store)
        while_open = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    closed = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for raw in (while_open, closed):
        assert b"visible-name" in raw  # the search itself works
        assert b"PLAIN-" not in raw


def _look(sample, rows, number: int) -> int:
    """A row's PIN, for one who looks at its secret too."""
    row = rows.get(sample.accounts, number)
    assert row.secret
    return row.pin


@pytest.mark.parametrize(
    "tamper",
    [
        "SET secret = (SELECT secret FROM sample_accounts WHERE number = 2)",
        "SET secret = memo",
        "SET secret = ''",
        "SET number = 3",
    ],
)
def test_a_value_moved_within_the_database_is_refused_and_its_neighbors_are_not(sample, tmp_path, tamper):
    _meets_tampering(sample, tmp_path, tamper)


@pytest.mark.parametrize("sample", ["sqlite"], indirect=True)  # which keeps a text in a column of numbers
def test_a_value_of_another_type_is_refused_and_its_neighbors_are_not(sample, tmp_path):
    _meets_tampering(sample, tmp_path, "SET balance = 'much'")


def _meets_tampering(sample, tmp_path, tamper):
    path = tmp_path / "moved.db"
    with sample.opened(path) as store:
        _fill(sample, store)
    database = sample.create(path)
    with database.writer.begin() as connection:
        connection.exec_driver_sql(f"UPDATE sample_accounts {tamper} WHERE number = 1")
    database.close()
    number = 3 if "number = 3" in tamper else 1
    with sample.opened(path) as store:
        with pytest.raises(StorageFault, match="sample_accounts"):
            store.scan(sample.accounts)
        with pytest.raises(StorageFault, match="sample_accounts"):
            _look(sample, store.read(Key(sample.accounts, (number,))), number)
        units = [
            Unit((Key(sample.accounts, (n,)),), lambda rows, n=n: Decision(reply=_look(sample, rows, n)))
            for n in (number, 2)
        ]
        moved, whole = sample.together(store, units)
        assert isinstance(moved.exception(), StorageFault)
        assert whole.result().reply == 2
