"""Issuer application data: ten bytes, one layout."""

from __future__ import annotations

import pytest

from protocol.card.cvr import Cvr, IssuerData
from protocol.errors import CardDataInvalid

OPENING = bytes.fromhex("0A0B0C0D")


@pytest.mark.parametrize(
    ("cvr", "text"),
    [
        (Cvr(0), "010100000000"),
        (Cvr.ARQC, "010180000000"),
        (Cvr.ARQC | Cvr.DEVICE_VERIFIED | Cvr.RETRY, "010180A00000"),
        (Cvr.ARQC | Cvr.COMPLETED | Cvr.ISSUER_AUTHENTICATED | Cvr.CONTACT, "0101E0400000"),
        (Cvr.CONSENT_MISMATCH | Cvr.VERIFICATION_CONTRADICTED | Cvr.TERMINAL_DECLINED, "01010000E000"),
    ],
)
def test_layout_there_and_back(cvr: Cvr, text: str) -> None:
    raw = bytes.fromhex(text) + OPENING
    assert IssuerData(cvr=cvr, opening=OPENING).to_bytes() == raw
    assert IssuerData.from_bytes(raw) == IssuerData(cvr=cvr, opening=OPENING)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0101800000000A0B0C",  # short
        "0101800000000A0B0C0D0E",  # long
        "0201800000000A0B0C0D",  # another format
        "0102800000000A0B0C0D",  # another key
        "0101900000000A0B0C0D",  # a reserved bit
        "0101800000010A0B0C0D",
    ],
)
def test_other_bytes_are_refused(text: str) -> None:
    for _ in range(2):  # what was read before is kept, refusals are not
        with pytest.raises(CardDataInvalid) as refused:
            IssuerData.from_bytes(bytes.fromhex(text))
        assert refused.value.code == "CARD_DATA_INVALID"
