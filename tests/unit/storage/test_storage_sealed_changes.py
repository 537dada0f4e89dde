"""Changing a row with sealed cells opens none of them, and writes what changed only."""

from __future__ import annotations

import dataclasses

import pytest

from parties.storage.sealed_row import SealedRows
from protocol.rows import Table, changed


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    name: bytes
    balance: int
    secret: bytes
    other: bytes


class Opener:
    """Opens a cell by turning it around, and notes which."""

    def __init__(self):
        self.opened = []

    def __call__(self, column, cell, key):
        self.opened.append((column, key))
        return cell[::-1]


@pytest.fixture
def opener():
    return Opener()


@pytest.fixture
def rows(opener):
    return SealedRows(Table("sealed_changes", Row, ("name",), sealed=frozenset({"secret", "other"})), opener)


def make(rows, name=b"n", balance=1, secret=b"abc", other=b"xyz"):
    return rows.make((name, balance, secret, other), [name, balance])


def test_a_changed_row_keeps_its_cells_closed(rows, opener):
    before = make(rows)
    after = changed(before, balance=2)
    assert rows.differing(before, after) == ("balance",)
    assert before != after
    assert opener.opened == []
    assert after == Row(name=b"n", balance=2, secret=b"cba", other=b"zyx")


def test_an_opened_cell_is_taken_along(rows, opener):
    before = make(rows)
    assert before.secret == b"cba"
    after = changed(before, balance=2)
    assert after.secret == b"cba"
    assert opener.opened == [("secret", (b"n",))]
    assert rows.differing(before, after) == ("balance",)
    assert opener.opened == [("secret", (b"n",))]


def test_a_sealed_column_can_be_changed(rows):
    before = make(rows)
    after = changed(before, secret=b"new")
    assert after.secret == b"new"
    assert rows.differing(before, after) == ("secret",)
    assert changed(after, balance=3).secret == b"new"
    assert rows.differing(before, changed(after, secret=b"cba")) == ()


def test_a_new_key_opens_the_cells_under_the_old_one(rows, opener):
    after = changed(make(rows), name=b"m")
    assert opener.opened == [("secret", (b"n",)), ("other", (b"n",))]
    assert after == Row(name=b"m", balance=1, secret=b"cba", other=b"zyx")


def test_a_row_that_was_replaced_whole_can_be_changed_again(rows):
    """As a unit does with what its neighbor in the batch wrote."""
    before = make(rows)
    replaced = dataclasses.replace(before, balance=2)
    after = changed(replaced, balance=3)
    assert after == changed(changed(before, balance=2), balance=3)
    assert after == Row(name=b"n", balance=3, secret=b"cba", other=b"zyx")
    assert rows.differing(before, after) == ("balance",)


def test_an_unknown_column_is_a_fault(rows):
    with pytest.raises(TypeError):
        changed(make(rows), nothing=1)


def test_rows_with_other_cells_are_compared_by_what_is_in_them(rows):
    row = make(rows)
    assert make(rows, secret=b"abd") != row
    assert row == Row(name=b"n", balance=1, secret=b"cba", other=b"zyx")
    assert Row(name=b"n", balance=1, secret=b"cba", other=b"zyx") == row
    assert row != (b"n", 1)
