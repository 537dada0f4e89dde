"""Data object lists: laid out and fitted as EMV Book 3 §5.4 says."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.card.dol import Dol, DolEntry
from protocol.errors import CardDataInvalid, Oversize, ProtocolError


def test_parses_and_writes_back() -> None:
    raw = bytes.fromhex("9F02069F1C0895059A03")
    dol = Dol.from_bytes(raw)
    assert dol.entries[1] == DolEntry(tag=0x9F1C, length=8)
    assert dol.to_bytes() == raw
    assert dol.data_length == 22
    assert Dol.of((0x9F02, 6), (0x9F1C, 8), (0x95, 5), (0x9A, 3)) == dol
    assert Dol.from_bytes(b"").entries == ()


@pytest.mark.parametrize("raw", ["9F02", "9F", "9F0200", "9A039A03", "00", "9A0300"])
def test_refuses_a_list_that_is_none(raw: str) -> None:
    with pytest.raises(CardDataInvalid) as refused:
        Dol.from_bytes(bytes.fromhex(raw))
    assert refused.value.code == "CARD_DATA_INVALID"


@pytest.mark.parametrize("raw", ["9A01" * 127, "9AFF", "9A7E9B7F"])
def test_refuses_a_list_over_the_bounds(raw: str) -> None:
    with pytest.raises(Oversize) as refused:
        Dol.from_bytes(bytes.fromhex(raw))
    assert refused.value.code == "OVERSIZE"


@pytest.mark.parametrize(
    ("tag", "length", "value", "fitted"),
    [
        (0x9F02, 6, "000000012345", "000000012345"),
        (0x9F02, 6, "1234", "000000001234"),  # n: zeros on the left
        (0x9F02, 2, "000000012345", "2345"),  # n: the left end goes
        (0x5A, 10, "9999101234567890", "9999101234567890FFFF"),  # cn: F on the right
        (0x5A, 3, "9999101234567890", "999910"),
        (0x9F16, 4, "4142", "41420000"),  # others: zeros on the right
        (0x9F16, 2, "41424344", "4142"),  # others: the right end goes
        (0x9F7C, 3, None, "000000"),  # unknown to the terminal
        (0x70, 2, "9A0126", "0000"),  # a template is never data
    ],
)
def test_each_value_is_fitted(tag: int, length: int, value: str | None, fitted: str) -> None:
    values = {} if value is None else {tag: bytes.fromhex(value)}
    assert Dol.of((tag, length)).build(values) == bytes.fromhex(fitted)


def test_split_needs_exactly_the_length() -> None:
    dol = Dol.of((0x9F37, 4), (0x9A, 3))
    assert dol.split(bytes(4) + b"\x26\x11\x20") == {0x9F37: bytes(4), 0x9A: b"\x26\x11\x20"}
    for size in (0, 6, 8):
        with pytest.raises(CardDataInvalid) as refused:
            dol.split(bytes(size))
        assert refused.value.code == "CARD_DATA_INVALID"


TAGS = st.lists(
    st.tuples(st.sampled_from([0x95, 0x9A, 0x5A, 0x9F02, 0x9F16, 0x9F37]), st.integers(1, 40)),
    max_size=6,
    unique_by=lambda pair: pair[0],
)


@given(TAGS, st.dictionaries(st.sampled_from([0x95, 0x9A, 0x5A, 0x9F02, 0x9F16]), st.binary(max_size=60)))
def test_what_is_built_splits_again(pairs: list[tuple[int, int]], values: dict[int, bytes]) -> None:
    dol = Dol.of(*pairs)
    parts = dol.split(dol.build(values))
    assert {tag: len(part) for tag, part in parts.items()} == dict(pairs)


@given(st.binary(max_size=40))
def test_any_bytes_parse_or_are_refused(raw: bytes) -> None:
    with suppress(ProtocolError):
        assert Dol.from_bytes(raw).to_bytes() == raw
