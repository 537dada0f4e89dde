"""BER-TLV: one meaning, one encoding, everything bounded (EMV Book 3 Annex B)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.card import tlv
from protocol.errors import CardDataInvalid, Oversize, ProtocolError


def h(text: str) -> bytes:
    return bytes.fromhex(text)


def test_decodes_a_select_answer() -> None:
    data = h("6F 12 84 05 F054415056 A5 09 50 02 4142 BF0C 02 5F20 00".replace("BF0C 02 5F20 00", "BF0C 02 9B 00"))
    (fci,) = tlv.decode(data)
    assert fci.tag == 0x6F
    assert [child.tag for child in fci.children] == [0x84, 0xA5]
    assert tlv.value_of(fci.children[1].children, 0x50) == b"AB"
    assert fci.children[1].children[1].children == (tlv.Tlv(tag=0x9B, value=b""),)
    assert fci.to_bytes() == data


def test_multi_byte_tags_and_lengths() -> None:
    data = tlv.encode(0x9F02, bytes(6)) + tlv.encode(0xDF8101, bytes(0x80)) + tlv.encode(0x90, bytes(0x100))
    assert data[:3] == h("9F0206")
    assert data[9:14] == h("DF81018180")
    assert [item.tag for item in tlv.decode(data)] == [0x9F02, 0xDF8101, 0x90]
    assert tlv.decode(data)[2].to_bytes()[:4] == h("90820100")


def test_nothing_decodes_to_nothing() -> None:
    assert tlv.decode(b"") == ()


@pytest.mark.parametrize(
    "data",
    [
        "9F",  # second tag byte missing
        "DF8181",  # third tag byte missing
        "DF81810100",  # four-byte tag
        "9A",  # length missing
        "9A81",  # length truncated
        "9A8200",
        "9A80",  # indefinite
        "9A8300000100",  # wider than two bytes
        "9A810100",  # not the shortest form
        "9A82008000",
        "9A0326",  # value truncated
        "70039A0226",  # value truncated inside a template
        "9A0100" + "00",  # trailing padding
        "00" + "9A0100",
        "0000",  # padding, and nothing that could be taken for a length or for a tag's second byte
        "000100",
        "70029A009A0026",  # trailing byte
        "9A01009A0100",  # primitive twice
        "70069A01009A0100",
    ],
)
def test_refuses_what_is_not_strict(data: str) -> None:
    with pytest.raises(CardDataInvalid) as refused:
        tlv.decode(h(data))
    assert refused.value.code == "CARD_DATA_INVALID"


def test_templates_may_repeat_but_primitives_may_not() -> None:
    directory = tlv.encode(0x61, tlv.encode(0x4F, b"A")) + tlv.encode(0x61, tlv.encode(0x4F, b"B"))
    assert [tlv.value_of(entry.children, 0x4F) for entry in tlv.decode(directory)] == [b"A", b"B"]


def test_padding_is_skipped_only_on_request() -> None:
    padded = h("00 70 05 00 9A 01 26 00 00".replace(" ", ""))
    (record,) = tlv.decode(padded, padded=True)
    assert tlv.value_of(record.children, 0x9A) == h("26")
    with pytest.raises(CardDataInvalid):
        tlv.decode(padded)


def test_bounds() -> None:
    nested = b"\x9a\x00"
    for _ in range(tlv.MAX_DEPTH):
        nested = tlv.encode(0x70, nested)
    assert tlv.decode(nested)
    many = b"".join(tlv.encode(0x61, b"") for _ in range(tlv.MAX_OBJECTS))
    assert len(tlv.decode(many)) == tlv.MAX_OBJECTS
    for over in (tlv.encode(0x70, nested), many + tlv.encode(0x61, b""), bytes(tlv.MAX_BYTES + 1), h("9A82FFFF")):
        with pytest.raises(Oversize) as refused:
            tlv.decode(over)
        assert refused.value.code == "OVERSIZE"
    with pytest.raises(Oversize):
        tlv.encode(0x9A, bytes(tlv.MAX_BYTES + 1))


@pytest.mark.parametrize("tag", [0x00, 0x9F, 0x9A02, 0x9F0201, 0x1F81, 0x9F81818101])
def test_encode_refuses_what_is_no_tag(tag: int) -> None:
    with pytest.raises(CardDataInvalid) as refused:
        tlv.encode(tag, b"")
    assert refused.value.code == "CARD_DATA_INVALID"


def test_a_tag_is_not_read_behind_the_end() -> None:
    for offset in (1, 2):
        with pytest.raises(CardDataInvalid) as refused:
            tlv.read_tag(b"\x9a", offset)
        assert refused.value.code == "CARD_DATA_INVALID"


def test_decode_one_and_value_of() -> None:
    record = tlv.encode(0x70, tlv.encode(0x9A, b"\x26"))
    assert tlv.decode_one(record, 0x70).value == h("9A0126")
    for wrong in (record + record, b"", tlv.encode(0x77, b"")):
        with pytest.raises(CardDataInvalid):
            tlv.decode_one(wrong, 0x70)
    with pytest.raises(CardDataInvalid):
        tlv.value_of(tlv.decode(record), 0x9A)


def test_parse_one_gives_the_same_without_names() -> None:
    record = tlv.encode(0x70, tlv.encode(0x9A, b"\x26") + tlv.encode(0x61, tlv.encode(0x9F02, b"")))
    inside = [(0x9A, b"\x26", ()), (0x61, h("9F0200"), [(0x9F02, b"", ())])]
    assert tlv.parse_one(record, 0x70) == (0x70, record[2:], inside)


PRIMITIVE = st.sampled_from([0x50, 0x57, 0x5A, 0x82, 0x9A, 0x5F24, 0x9F02, 0x9F4E, 0xDF8101])
LEAVES = st.dictionaries(PRIMITIVE, st.binary(max_size=300), max_size=4)


@given(LEAVES, LEAVES)
def test_round_trip(outer: dict[int, bytes], inner: dict[int, bytes]) -> None:
    data = tlv.encode_all(outer.items()) + tlv.encode(0x70, tlv.encode_all(inner.items()))
    *leaves, record = tlv.decode(data)
    assert {item.tag: item.value for item in leaves} == outer
    assert {item.tag: item.value for item in record.children} == inner
    assert b"".join(item.to_bytes() for item in tlv.decode(data)) == data


@given(st.binary(max_size=80), st.booleans())
def test_any_bytes_parse_or_are_refused(data: bytes, padded: bool) -> None:
    try:
        objects = tlv.decode(data, padded=padded)
    except ProtocolError:
        return
    if not padded:
        assert b"".join(item.to_bytes() for item in objects) == data
