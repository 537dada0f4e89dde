"""One card's EMV data: complete, verifiable, and telling nothing of its holder (design §3 CARD)."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.card import dol, oda, profile, rsa, tlv
from protocol.card import personalize as personalizing
from protocol.card.chain import verify_card
from protocol.card.months import Month
from protocol.card.pan import check_digit, generate_pan
from protocol.card.personalize import CardData, Issuer, personalize, personalize_all
from protocol.card.profile import CardControls, CardProfile, Channel, common_expiry
from protocol.errors import CardDataInvalid, CardKeyInvalid, Expired, Oversize, ProtocolError

TODAY = date(2026, 11, 20)
EXPIRY = Month(year=2026, month=12)
CONTROLS = CardControls(
    uses=1,
    amount_per_use_minor=300_000,
    total_minor=300_000,
    valid_until_s=EXPIRY.ends_at_s,
    channel=Channel.CONTACTLESS,
)


def make(issuer: Issuer, key: rsa.PrivateKey, entropy, **changes) -> CardData:
    facts = {"pan": generate_pan(entropy), "expiry": EXPIRY, "card_key": key.public, "controls": CONTROLS} | changes
    return personalize(issuer, facts.pop("card_profile", CardProfile()), entropy=entropy, **facts)


def check(card: CardData, ca_key: oda.CaKey, **changes):
    facts = {
        "aid": card.aid,
        "aip": card.aip,
        "afl": card.afl,
        "records": card.record_map(),
        "ca_keys": [ca_key],
        "today": TODAY,
    }
    return verify_card(**(facts | changes))


@pytest.fixture(params=["issuer", "short_issuer"])
def any_issuer(request) -> Issuer:
    return request.getfixturevalue(request.param)


@pytest.fixture
def card(any_issuer, keys, entropy) -> CardData:
    return make(any_issuer, keys.card, entropy)


def test_records_prove_number_and_key(card, keys, ca_key) -> None:
    verified = check(card, ca_key)
    assert verified.icc.key == keys.card.public
    assert verified.icc.pan == card.pan
    assert verified.icc.expiry == EXPIRY
    assert verified.files.get(0x5F24) == bytes.fromhex("261231")
    assert card.pan not in repr(card)


def test_the_issuer_certificate_stands_alone(card) -> None:
    (record,) = [record for record in card.records if (record.sfi, record.number) == (1, 1)]
    assert len(record.data) == 254
    assert [item.tag for item in tlv.decode(record.data)[0].children] == [0x90]
    assert all(len(record.data) <= 254 for record in card.records)


def test_select_answer_asks_exactly_for_the_purchase(card) -> None:
    fci = tlv.decode_one(card.fci, 0x6F).children
    assert tlv.value_of(fci, 0x84) == card.aid == bytes.fromhex("F05441505645494C01")
    proprietary = next(item for item in fci if item.tag == 0xA5).children
    asked = dol.Dol.from_bytes(tlv.value_of(proprietary, 0x9F38))
    assert [entry.tag for entry in asked.entries] == [0x9F02, 0x5F2A, 0x9F16, 0x9F1C, 0x9F4E, 0x9F37]
    assert len(card.fci) <= 256


def test_the_cryptogram_covers_all_that_the_terminal_says(card, ca_key) -> None:
    files = check(card, ca_key).files
    asked = {entry.tag for entry in dol.Dol.from_bytes(files.get(0x8C)).entries}
    assert asked >= {0x9F02, 0x5F2A, 0x9F16, 0x9F1C, 0x9F37, 0x95, 0x9A, 0x9C, 0x9F34}
    assert 0x9F4E not in asked
    assert dol.Dol.from_bytes(files.get(0x8D)).data_length == 21
    assert dol.Dol.from_bytes(files.get(0x9F49)).entries == (dol.DolEntry(tag=0x9F37, length=4),)


def test_mandatory_data_is_there_and_nothing_personal(card, ca_key) -> None:
    data = check(card, ca_key).files.data
    assert set(data) >= {0x5A, 0x5F24, 0x8C, 0x8D, 0x8E, 0x8F, 0x90, 0x9F32, 0x9F46, 0x9F47, 0x9F49, 0x9F4A}
    # Track 1 and 2 data in all forms, name, service code, effective date, account reference.
    assert not set(data) & {0x56, 0x57, 0x9F1F, 0x9F20, 0x9F6B, 0x5F20, 0x9F0B, 0x5F30, 0x5F25, 0x9F24}
    assert card.aip[0] & 0x21 == 0x21
    assert not card.aip[0] & 0x40


def test_two_cards_share_only_what_all_cards_share(issuer, keys, entropy, ca_key) -> None:
    one, two = (check(make(issuer, key, entropy), ca_key) for key in (keys.card, keys.other_card))
    differing = {tag for tag in one.files.data if one.files.data[tag] != two.files.data[tag]}
    assert set(one.files.data) == set(two.files.data)
    assert differing == {0x5A, 0x9F46}
    assert one.icc.serial != two.icc.serial


def test_every_altered_byte_is_refused(issuer, keys, entropy, ca_key) -> None:
    card = make(issuer, keys.card, entropy)
    for place, data in card.record_map().items():
        for offset in range(0, len(data), 5):
            altered = data[:offset] + bytes([data[offset] ^ 0x10]) + data[offset + 1 :]
            with pytest.raises((CardDataInvalid, Oversize)) as refused:
                check(card, ca_key, records=card.record_map() | {place: altered})
            assert refused.value.code in {"CARD_DATA_INVALID", "OVERSIZE"}


def test_altered_surroundings_are_refused(card, keys, ca_key) -> None:
    swapped = CardData.record_map(card)
    for changes in (
        {"aip": b"\x32\x80"},  # CDA taken out
        {"afl": bytes.fromhex("10010100 08010300".replace(" ", ""))},  # nothing signed
        {"afl": card.afl[4:]},
        {"afl": card.afl + card.afl[4:]},
        {"aid": b"\xf0" + bytes(4)},
        {"ca_keys": []},
        {"ca_keys": [replace(ca_key, index=0xF2)]},
        {"ca_keys": [replace(ca_key, rid=b"\xf0" + bytes(4))]},
        {"ca_keys": [replace(ca_key, key=keys.other_ca.public)]},
        {"records": {place: data for place, data in swapped.items() if place != (1, 3)}},
    ):
        with pytest.raises(CardDataInvalid) as refused:
            check(card, ca_key, **changes)
        assert refused.value.code == "CARD_DATA_INVALID"


def test_another_cards_data_record_is_refused(issuer, keys, entropy, ca_key) -> None:
    one, two = make(issuer, keys.card, entropy), make(issuer, keys.other_card, entropy)
    with pytest.raises(CardDataInvalid):
        check(one, ca_key, records=one.record_map() | {(2, 1): two.record_map()[(2, 1)]})
    with pytest.raises(CardDataInvalid):
        check(one, ca_key, records=one.record_map() | {(1, 3): two.record_map()[(1, 3)]})


def test_an_expired_card_is_refused(card, ca_key) -> None:
    assert check(card, ca_key, today=date(2026, 12, 31))
    with pytest.raises(Expired) as refused:
        check(card, ca_key, today=date(2027, 1, 1))
    assert refused.value.code == "EXPIRED"


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_records_verify_or_are_refused(card, ca_key, data) -> None:
    records = card.record_map()
    place = data.draw(st.sampled_from(sorted(records)))
    with pytest.raises(ProtocolError):
        check(card, ca_key, records=records | {place: data.draw(st.binary(max_size=260))})


def test_issuing_refuses_what_does_not_hold_together(issuer, keys, entropy) -> None:
    late = replace(CONTROLS, valid_until_s=EXPIRY.ends_at_s + 1)
    for changes in (
        {"pan": generate_pan(entropy, iin="888810")},
        {"pan": "999910123456789012" + str(9 - int(check_digit("999910123456789012")))},
        {"expiry": Month(year=2030, month=1)},
        {"controls": late},
        {"card_profile": CardProfile(aid=b"\xf0" + bytes(6))},
    ):
        with pytest.raises(CardDataInvalid) as refused:
            make(issuer, keys.card, entropy, **changes)
        assert refused.value.code == "CARD_DATA_INVALID"


def test_an_issuer_key_too_long_for_a_record_is_refused(keys, ca_key, entropy) -> None:
    certificate = oda.certify_issuer(
        keys.ca, keys.other_ca.public, iin="999910", expiry=EXPIRY, serial=bytes(3), entropy=entropy
    )
    issuer = Issuer.open(ca_key, keys.other_ca, certificate, today=TODAY)
    with pytest.raises(Oversize) as refused:
        make(issuer, keys.card, entropy)
    assert refused.value.code == "OVERSIZE"


def test_an_issuer_opens_with_its_own_key_only(keys, ca_key, issuer) -> None:
    with pytest.raises(CardKeyInvalid) as refused:
        Issuer.open(ca_key, keys.short_issuer, issuer.certificate, today=TODAY)
    assert refused.value.code == "CARD_KEY_INVALID"
    with pytest.raises(CardDataInvalid):
        Issuer.open(replace(ca_key, key=keys.other_ca.public), keys.issuer, issuer.certificate, today=TODAY)
    with pytest.raises(Expired):
        Issuer.open(ca_key, keys.issuer, issuer.certificate, today=date(2030, 1, 1))
    assert "PrivateKey(1976 bits)" in repr(issuer)
    assert str(keys.issuer.p) not in repr(issuer)


def test_issuing_draws_one_serial_and_one_blinding(issuer, keys) -> None:
    drawn: list[int] = []

    class Counting:
        def bytes(self, n: int, /) -> bytes:
            drawn.append(n)
            return b"\x5a" * n

    personalize(
        issuer,
        CardProfile(),
        pan="999910123456789012" + check_digit("999910123456789012"),
        expiry=EXPIRY,
        card_key=keys.card.public,
        controls=CONTROLS,
        entropy=Counting(),
    )
    # One private operation: its blinding value is eight bytes longer than the issuer's modulus.
    assert drawn == [3, 247 + 8]


@pytest.mark.parametrize(
    "changes",
    [
        {"uses": 0},
        {"uses": profile.MAX_USES + 1},
        {"amount_per_use_minor": 0},
        {"amount_per_use_minor": 300_001},
        {"total_minor": 10**12},
    ],
)
def test_controls_are_in_order(changes) -> None:
    with pytest.raises(CardDataInvalid) as refused:
        replace(CONTROLS, **changes)
    assert refused.value.code == "CARD_DATA_INVALID"


@pytest.mark.parametrize("changes", [{"aid": b"\xf0" * 4}, {"aid": b"\xf0" * 17}, {"label": b""}, {"country": 1000}])
def test_profiles_are_in_order(changes) -> None:
    with pytest.raises(CardDataInvalid):
        CardProfile(**changes)


def test_expiry_depends_on_the_month_of_issue_only() -> None:
    assert common_expiry(date(2026, 11, 1)) == common_expiry(date(2026, 11, 30)) == EXPIRY
    assert common_expiry(date(2026, 12, 31)) == Month(year=2027, month=1)


def test_a_batch_is_what_its_cards_are_alone(any_issuer, keys, ca_key, entropy) -> None:
    pans = [generate_pan(entropy) for _ in range(3)]
    holders = [keys.card.public, keys.card.public, keys.short_issuer.public]
    batch = personalize_all(
        any_issuer, CardProfile(), cards=list(zip(pans, holders, strict=True)), expiry=EXPIRY, controls=CONTROLS,
        entropy=entropy,
    )  # fmt: skip
    assert [card.pan for card in batch] == pans
    for card, pan, holder in zip(batch, pans, holders, strict=True):
        found = check(card, ca_key).icc
        assert (found.pan, found.key) == (pan, holder)
    assert len({check(card, ca_key).icc.serial for card in batch}) == 3


def test_one_wrong_number_leaves_the_whole_batch_unsigned(issuer, keys, entropy) -> None:
    good = generate_pan(entropy)
    with pytest.raises(CardDataInvalid) as refused:
        personalize_all(
            issuer, CardProfile(), cards=[(good, keys.card.public), (good[:-1], keys.card.public)], expiry=EXPIRY,
            controls=CONTROLS, entropy=entropy,
        )  # fmt: skip
    assert refused.value.code == "CARD_DATA_INVALID"


def test_heads_that_are_kept_are_those_of_the_encoding() -> None:
    assert personalizing._head(0x5A, 10) == bytes.fromhex("5A0A")
    assert personalizing._head(0x9F46, 176) == bytes.fromhex("9F4681B0")
    assert personalizing._certificate_head(176).endswith(bytes.fromhex("9F4681B0"))
