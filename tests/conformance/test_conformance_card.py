"""CARD: short-lived virtual cards, with EMV data that a terminal can verify (paper §2.6)."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from conformance.bundle import Bundle
from conformance.calls import Connection, refused
from conformance.emv import EXPONENT, ICC_BYTES, CardKey, luhn, parse, read_card
from conformance.phone import Phone
from conformance.played import PlayedBank
from conformance.service import Wallet, merkle_root
from conformance.stage import Registered
from conformance.wire import CTI, DAY_S, BadWire, Key, Signed, Signer, decrypt, encode, encrypt, hash_of, seal, unseal

pytestmark = pytest.mark.usefixtures("with_tsm")

PDOL_TAGS = {0x9F02, 0x5F2A, 0x9F16, 0x9F1C, 0x9F4E, 0x9F37}
CDOL1_TAGS = {0x9F02, 0x5F2A, 0x9F16, 0x9F1C, 0x9F37, 0x95, 0x9A, 0x9C, 0x9F34}
OF_ONE_CARD = {0x5A, 0x9F46, 0x9F48}
"""PAN, certificate and its remainder: all that may tell two cards of one month apart."""
OTHER_32 = bytes(range(32))


@dataclass
class Waiting:
    """A CARD session after CARD-2."""

    holder: Registered
    n_u: bytes
    n_t: bytes

    def issue(self, *keys: CardKey, **how: Any) -> Any:
        """CARD-3."""
        wallet, offer = self.holder.wallet, self.holder.offer
        account = how.pop("account", self.holder.account)
        return wallet.card_keys(account, offer, self.n_u, self.n_t, keys, **how)

    def activate(self, pans: list[str], **how: Any) -> Any:
        """CARD-5."""
        return self.holder.wallet.activate_cards(self.holder.offer, self.n_t, pans, **how)


def begin(holder: Registered) -> Waiting:
    """CARD-1 and CARD-2."""
    return Waiting(holder, *holder.session())


@pytest.fixture(scope="module")
def holder(bundle: Bundle, to_tsm: Connection, played_bank: PlayedBank) -> Registered:
    """A service account for everyone in this module."""
    return Registered(Wallet(bundle.tsm, to_tsm), played_bank)


@pytest.fixture(scope="module")
def waiting(holder: Registered) -> Waiting:
    """A session that waits for CARD-3; refusals leave it as it is."""
    return begin(holder)


@pytest.fixture(scope="module")
def spare() -> CardKey:
    """A good key that is never certified."""
    return CardKey.new()


@dataclass
class Batch:
    """Cards after CARD-4."""

    session: Waiting
    keys: list[CardKey]
    reply: Signed

    @property
    def cards(self) -> list[dict[str, Any]]:
        return list(self.reply["cards"])

    @property
    def pans(self) -> list[str]:
        return [card["pan"] for card in self.cards]


def issue(holder: Registered, number: int) -> Batch:
    """CARD-1 to CARD-4."""
    with ThreadPoolExecutor() as pool:
        keys = list(pool.map(lambda _: CardKey.new(), range(number)))
    session = begin(holder)
    return Batch(session, keys, session.issue(*keys).send())


@pytest.fixture(scope="module")
def batch(holder: Registered) -> Batch:
    """Three cards that wait for CARD-5; refusals leave them as they are."""
    return issue(holder, 3)


# --- CARD-1, CARD-2 --------------------------------------------------------------------------------------------------
def test_CARD_2_answers_with_a_fresh_nonce(holder: Registered) -> None:
    n_u = os.urandom(32)
    replies = [holder.wallet.request_cards(holder.offer, n_u).send() for _ in range(2)]
    assert {reply["tid"] for reply in replies} == {holder.wallet.tid}
    assert {reply["n_u"] for reply in replies} == {n_u}
    assert len({reply["n_t"] for reply in replies}) == 2


def test_CARD_1_refuses_a_key_without_an_account(bundle: Bundle, to_tsm: Connection, holder: Registered) -> None:
    stranger = Wallet(bundle.tsm, to_tsm)
    with refused("UNKNOWN_KEY"):
        stranger.request_cards(holder.offer, os.urandom(32)).send()
    with refused("UNKNOWN_KEY"):  # a name alone is no credential
        holder.wallet.request_cards(holder.offer, os.urandom(32)).send(signer=Signer(holder.wallet.tid, Key.new()))


def test_CARD_1_refuses_a_tid_that_was_offered_but_not_proved(bundle: Bundle, to_tsm: Connection) -> None:
    wallet = Wallet(bundle.tsm, to_tsm)
    offer = wallet.offer()
    with refused("UNKNOWN_KEY"):
        wallet.request_cards(offer, os.urandom(32)).send()


def test_CARD_1_refuses_another_tids_name(holder: Registered, registered: Registered) -> None:
    with refused("WRONG_ISSUER"):
        holder.wallet.request_cards(holder.offer, os.urandom(32)).send(issuer=registered.wallet.tid)


def test_CARD_1_refuses_the_key_of_the_anonymous_account(holder: Registered) -> None:
    with refused("UNKNOWN_KEY"):
        holder.wallet.request_cards(holder.offer, os.urandom(32)).send(signer=holder.account.signer)


def test_CARD_1_refuses_what_is_sealed_to_somebody_else(bundle: Bundle, holder: Registered) -> None:
    draft = holder.wallet.request_cards(holder.offer, os.urandom(32))
    with refused("DECRYPTION_FAILED"):
        draft.post(seal(bundle.bank.seal, "card-request", draft.signed()))


# --- CARD-4: what is issued ------------------------------------------------------------------------------------------
def test_CARD_4_each_card_verifies_as_a_terminal_verifies_it(bundle: Bundle, batch: Batch) -> None:
    """CA key → issuer certificate → card certificate → PK_C, over the PAN and all static data."""
    for card, key in zip(batch.cards, batch.keys, strict=True):
        found = read_card(card["emv"], bundle.emv_ca)
        assert found.modulus == key.modulus
        assert found.pan == card["pan"]
        assert found.objects[0x9F46] == card["icc_certificate"]


def test_CARD_4_numbers_are_19_digits_with_a_check_digit_and_random(batch: Batch) -> None:
    for pan in batch.pans:
        assert len(pan) == 19
        assert luhn(pan)
    bodies = sorted(int(pan[8:18]) for pan in batch.pans)
    assert min(after - before for before, after in itertools.pairwise(bodies)) > 100


def test_CARD_4_answers_this_session(batch: Batch) -> None:
    session, reply = batch.session, batch.reply
    wallet = session.holder.wallet
    assert (reply["tid"], reply["n_u"], reply["n_t"]) == (wallet.tid, session.n_u, session.n_t)


def test_CARD_4_no_card_names_the_account(bundle: Bundle, batch: Batch) -> None:
    """Neither in what a terminal reads nor in what it recovers."""
    holder = batch.session.holder
    wallet, account = holder.wallet, holder.account
    names = (wallet.tid.encode(), bytes.fromhex(wallet.tid[2:]), account.aid.encode(), bytes.fromhex(account.aid[2:]))
    points = (wallet.sk_tid.point[1:33], account.sk_aid.point[1:33], wallet.sk_tid.kid)
    for card in batch.cards:
        seen = encode(card) + read_card(card["emv"], bundle.emv_ca).recovered
        for secret in (*names, *points, holder.offer.sid[:32], batch.session.n_t):
            assert secret not in seen
            assert secret.hex().encode() not in seen


def test_CARD_4_cards_of_two_users_differ_only_in_number_and_certificate(
    bundle: Bundle, batch: Batch, registered: Registered
) -> None:
    another = issue(registered, 1).cards[0]
    mine = batch.cards[0]
    for name in ("application", "fci", "aip", "afl"):
        assert another["emv"][name] == mine["emv"][name]
    theirs, ours = (read_card(card["emv"], bundle.emv_ca).objects for card in (another, mine))
    assert theirs.keys() == ours.keys()
    assert {tag for tag in ours if ours[tag] != theirs[tag]} <= OF_ONE_CARD


def test_CARD_4_cards_are_short_lived_and_of_a_lower_limit(bundle: Bundle, batch: Batch) -> None:
    account = batch.session.holder.account
    for card in batch.cards:
        controls = card["controls"]
        assert time.time() < card["expires_at_s"] <= account.expires_at_s
        assert card["expires_at_s"] < time.time() + 62 * DAY_S
        assert 0 < card["limit_minor"] < account.limit_minor
        assert card["currency"] == account.currency
        assert 0 < controls["per_use_minor"] <= controls["total_minor"] <= card["limit_minor"]
        assert controls["channel"] == "contactless"


def test_CARD_4_the_plastic_date_covers_the_controls(bundle: Bundle, batch: Batch) -> None:
    """The month in 5F24 and in the certificate is one, and it ends after the card does."""
    for card in batch.cards:
        found = read_card(card["emv"], bundle.emv_ca)
        year, month, day = (int(found.objects[0x5F24].hex()[at : at + 2]) for at in (0, 2, 4))
        assert found.expiry == f"{month:02d}{year:02d}"
        ends = datetime(2000 + year, month, day, tzinfo=UTC).timestamp() + DAY_S
        assert card["expires_at_s"] <= ends


def test_CARD_4_keys_for_cryptograms_are_of_one_card_each(batch: Batch) -> None:
    assert len({card["k_ac"] for card in batch.cards}) == len(batch.cards)


def test_CARD_4_the_application_asks_for_what_the_phone_shows_before_it_signs(bundle: Bundle, batch: Batch) -> None:
    """PDOL and CDOL1 (design §3 PAY); dynamic and combined data authentication in the AIP."""
    card = batch.cards[0]
    ((outer, template),) = parse(card["emv"]["fci"])
    fields = dict(parse(template))
    proprietary = dict(parse(fields[0xA5]))
    assert outer == 0x6F
    assert fields[0x84] == card["emv"]["application"]
    assert asked_for(proprietary[0x9F38]) >= PDOL_TAGS
    objects = read_card(card["emv"], bundle.emv_ca).objects
    assert asked_for(objects[0x8C]) >= CDOL1_TAGS
    assert card["emv"]["aip"][0] & 0x21 == 0x21


def asked_for(data: bytes) -> set[int]:
    """The tags of a data object list: tag and length, in turn."""
    found = set()
    at = 0
    while at < len(data):
        size = 2 if data[at] & 0x1F == 0x1F else 1
        found.add(int.from_bytes(data[at : at + size]))
        at += size + 1
    return found


def test_CARD_4_no_track_data_and_no_name(bundle: Bundle, batch: Batch) -> None:
    objects = read_card(batch.cards[0]["emv"], bundle.emv_ca).objects
    assert not {0x56, 0x57, 0x5F20, 0x5F25, 0x5F30, 0x9F1F, 0x9F20, 0x9F6B} & objects.keys()


def test_CARD_4_the_users_own_maximum_bounds_each_card(
    bundle: Bundle, to_tsm: Connection, played_bank: PlayedBank
) -> None:
    """TID-0."""
    mine = Registered(Wallet(bundle.tsm, to_tsm), played_bank, maximum_minor=1_234)
    (card,) = issue(mine, 1).cards
    assert card["limit_minor"] <= 1_234
    assert card["controls"]["per_use_minor"] <= 1_234


def test_CARD_4_opens_with_dk_tid_only(holder: Registered) -> None:
    session = begin(holder)
    draft = session.issue(CardKey.new())
    cose = draft.cose()
    answer = draft.to.call(draft.rpc, cose, draft.session)
    digest = hash_of([cose, draft.session])
    inner = decrypt(holder.offer.key, answer, "cards-issued", digest)
    with pytest.raises(BadWire):
        unseal(Key.new(), inner, "cards-issued", digest)
    assert unseal(holder.wallet.dk_tid, inner, "cards-issued", digest)


def test_CARD_4_same_bytes_again_give_the_same_cards(holder: Registered) -> None:
    draft = begin(holder).issue(CardKey.new())
    cose = draft.cose()
    first, again = draft.post(cose), draft.post(cose)
    assert first.payload == again.payload
    assert first.claims[CTI] == again.claims[CTI]


def test_CARD_4_issues_a_whole_batch_of_32(bundle: Bundle, holder: Registered) -> None:
    """The most that one session may ask for."""
    batch = issue(holder, 32)
    assert len(set(batch.pans)) == 32
    assert [read_card(card["emv"], bundle.emv_ca).modulus for card in batch.cards] == [
        key.modulus for key in batch.keys
    ]
    assert batch.session.activate(batch.pans).send()["number"] == 32


# --- CARD-3: refusals ------------------------------------------------------------------------------------------------
def test_CARD_3_refuses_a_session_that_was_used(batch: Batch, spare: CardKey) -> None:
    with refused("WRONG_STATE"):
        batch.session.issue(spare).send()


def test_CARD_3_refuses_a_key_that_has_a_card(waiting: Waiting, batch: Batch, spare: CardKey) -> None:
    with refused("IDENTIFIER_TAKEN"):
        waiting.issue(spare, batch.keys[0]).send()


def test_CARD_3_refuses_a_key_twice(waiting: Waiting, spare: CardKey) -> None:
    with refused("CARD_KEY_INVALID"):
        waiting.issue(spare, replace(spare, salt=os.urandom(32))).send()


@pytest.mark.parametrize("number", [0, 33])
def test_CARD_3_refuses_another_number_of_keys(number: int, waiting: Waiting, spare: CardKey) -> None:
    part = waiting.holder.wallet.held(spare, waiting.n_t)
    with refused("MALFORMED", "OVERSIZE"):
        waiting.issue(spare, parts=[part] * number).send()


Part = Callable[[Waiting, CardKey], dict[str, Any]]


def held(waiting: Waiting, key: CardKey, **changes: Any) -> dict[str, Any]:
    """The part of `key`, with changes."""
    return {**waiting.holder.wallet.held(key, waiting.n_t), **changes}


def _digest(tsm: str, n_t: bytes) -> bytes:
    return hash_of(["tapveil-card-possession", tsm, n_t])


PARTS: dict[str, Part] = {
    "another_salt": lambda w, key: held(w, key, salt=OTHER_32),
    "key_not_under_the_root": lambda w, _key: held(w, CardKey.new()),
    "possession_of_another_session": lambda w, key: held(
        w, key, possession=key.possession(_digest(w.holder.wallet.tsm.name, OTHER_32))
    ),
    "possession_for_another_tsm": lambda w, key: held(w, key, possession=key.possession(_digest("tsm-x", w.n_t))),
    "possession_by_another_key": lambda w, key: held(
        w, key, possession=CardKey.new().possession(_digest(w.holder.wallet.tsm.name, w.n_t))
    ),
    "possession_of_nothing": lambda w, key: held(w, key, possession=bytes(ICC_BYTES)),
    "possession_of_one": lambda w, key: held(w, key, possession=(1).to_bytes(ICC_BYTES)),
    "possession_over_the_modulus": lambda w, key: held(w, key, possession=b"\xff" * ICC_BYTES),
    "possession_over_four_bytes": lambda w, key: held(w, key, possession=key.possession(os.urandom(4))),
    "possession_with_a_short_number": lambda w, key: held(
        w, key, possession=key.dynamic(b"\4" + os.urandom(4), _digest(w.holder.wallet.tsm.name, w.n_t))
    ),
    "possession_in_the_form_of_a_purchase": lambda w, key: held(
        w, key,
        possession=key.dynamic(b"\x08" + os.urandom(8 + 1 + 8 + 20), _digest(w.holder.wallet.tsm.name, w.n_t)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", PARTS)
def test_CARD_3_refuses(case: str, waiting: Waiting, spare: CardKey) -> None:
    with refused("CARD_KEY_INVALID"):
        waiting.issue(spare, parts=[PARTS[case](waiting, spare)]).send()


def test_CARD_3_refuses_a_good_key_with_a_bad_one(waiting: Waiting, spare: CardKey) -> None:
    """All or nothing."""
    second = CardKey.new()
    parts = [held(waiting, spare), held(waiting, second, possession=held(waiting, spare)["possession"])]
    with refused("CARD_KEY_INVALID"):
        waiting.issue(spare, second, parts=parts).send()


def test_CARD_3_refuses_keys_in_another_order_than_the_roots(waiting: Waiting, spare: CardKey) -> None:
    second = CardKey.new()
    parts = [held(waiting, second), held(waiting, spare)]
    with refused("CARD_KEY_INVALID"):
        waiting.issue(spare, second, parts=parts).send()


def weak_keys() -> dict[str, CardKey]:
    """Keys that their owner holds, and that anybody can factor, or that are none."""
    good = CardKey.new()
    small = CardKey.with_small_factor()
    return {
        "small_factor": small,
        "even": CardKey(good.modulus + 1, good.private),
        "short": CardKey(good.modulus >> 1 | 1, good.private),
    }


@pytest.fixture(scope="module")
def weak() -> dict[str, CardKey]:
    return weak_keys()


@pytest.mark.parametrize("case", ["small_factor", "even", "short"])
def test_CARD_3_refuses_a_weak_key(case: str, weak: dict[str, CardKey], waiting: Waiting) -> None:
    key = weak[case]
    if case == "small_factor":  # its possession is right: only its weakness speaks against it
        signed = int.from_bytes(key.possession(OTHER_32))
        assert pow(signed, EXPONENT, key.modulus).to_bytes(ICC_BYTES)[0] == 0x6A
    with refused("CARD_KEY_INVALID"):
        waiting.issue(key).send()


@pytest.mark.parametrize("size", [ICC_BYTES - 1, ICC_BYTES + 1, 128, 256])
@pytest.mark.parametrize("field", ["modulus", "possession"])
def test_CARD_3_refuses_another_length(field: str, size: int, waiting: Waiting, spare: CardKey) -> None:
    with refused("MALFORMED", "OVERSIZE"):
        waiting.issue(spare, parts=[held(waiting, spare, **{field: b"\xc1" * size})]).send()


@pytest.mark.parametrize("change", ["unknown field", "missing field", "not CBOR", "trailing byte"])
def test_CARD_3_refuses_an_ill_formed_part(change: str, waiting: Waiting, spare: CardKey) -> None:
    part = held(waiting, spare)
    bad: dict[str, Any] = {
        "unknown field": {**part, "exponent": 3},
        "missing field": {"modulus": part["modulus"], "salt": part["salt"]},
        "not CBOR": b"\xff",
        "trailing byte": encode(part) + b"\0",
    }
    with refused("MALFORMED"):
        waiting.issue(spare, parts=[bad[change]]).send()


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("root", OTHER_32, "CARD_KEY_INVALID"),
        ("n_u", OTHER_32, "NONCE_MISMATCH"),
        ("n_t", OTHER_32, "NONCE_MISMATCH"),
        ("tid", "t-another", "FIELD_MISMATCH"),
    ],
)
def test_CARD_3_refuses_another(field: str, value: Any, code: str, waiting: Waiting, spare: CardKey) -> None:
    with refused(code):
        waiting.issue(spare).send(fields={field: value})


def test_CARD_3_refuses_a_root_over_more_keys_than_are_shown(waiting: Waiting, spare: CardKey) -> None:
    root = merkle_root([spare, CardKey.new()])
    with refused("CARD_KEY_INVALID"):
        waiting.issue(spare, root=root).send()


def _shown(waiting: Waiting, account: Any = None, **changes: Any) -> bytes:
    holder = waiting.holder
    return holder.wallet.shown_for_cards(account or holder.account, waiting.n_t, **changes)


POSSESSIONS: dict[str, Callable[[Waiting], bytes]] = {
    "of_another_session": lambda w: _shown(w, fields={"n_t": OTHER_32}),
    "of_another_pass": lambda w: _shown(w, fields={"pass_digest": OTHER_32}),
    "for_another_tsm": lambda w: _shown(w, audience="tsm-x"),
    "expired": lambda w: _shown(w, iat=1_000_000_000),
    "by_another_key": lambda w: _shown(w, signer=Signer(w.holder.account.aid, Key.new())),
    "by_sk_tid": lambda w: _shown(w, signer=Signer(w.holder.account.aid, w.holder.wallet.sk_tid)),
    "made_for_tid_3": lambda w: w.holder.wallet.shown(w.holder.account, w.holder.offer),
    "made_for_tid_3_over_n_t": lambda w: w.holder.wallet.shown(
        w.holder.account, w.holder.offer, fields={"sid": w.n_t}
    ),
    "that_is_the_pass": lambda w: w.holder.account.launch_pass,
    "that_is_nothing": lambda _w: b"\0",
}  # fmt: skip


@pytest.mark.parametrize("case", POSSESSIONS)
def test_CARD_3_refuses_a_possession(case: str, waiting: Waiting, spare: CardKey) -> None:
    with refused("POSSESSION_INVALID"):
        waiting.issue(spare, possession=POSSESSIONS[case](waiting)).send()


PASSES: dict[str, dict[str, Any]] = {
    "of_another_account": {"fields": {"aid": "a-00000000000000000000000000000000"}},
    "for_another_tsm": {"audience": "tsm-x"},
    "expired": {"iat": 1_000_000_000, "exp": 1_000_000_000 + DAY_S},
    "that_lives_over_a_day": {"exp": 4_000_000_000},
    "by_nobody": {"signer": None},
    "of_another_type": {"name": "possession-cards"},
}


@pytest.mark.parametrize("case", PASSES)
def test_CARD_3_refuses_a_pass(case: str, waiting: Waiting, spare: CardKey, played_bank: PlayedBank) -> None:
    changes = dict(PASSES[case])
    if "signer" in changes:
        changes["signer"] = Signer(played_bank.party.name, Key.new())
    with refused("PASS_INVALID"):
        waiting.issue(spare, account=played_bank.with_pass(waiting.holder.account, **changes)).send()


def test_CARD_3_refuses_a_good_pass_of_another_account(
    waiting: Waiting, spare: CardKey, played_bank: PlayedBank
) -> None:
    """It is possessed, and for this TSM, but it is not of the account that pays for this TID."""
    with refused("PASS_INVALID"):
        waiting.issue(spare, account=played_bank.account()).send()


def test_CARD_3_refuses_a_possession_as_the_pass(waiting: Waiting, spare: CardKey) -> None:
    with refused("PASS_INVALID"):
        waiting.issue(spare, launch_pass=_shown(waiting)).send()


def test_CARD_3_takes_a_later_pass_of_the_same_account(holder: Registered, played_bank: PlayedBank) -> None:
    session = begin(holder)
    assert session.issue(CardKey.new(), account=played_bank.with_pass(holder.account)).send()["cards"]


def test_CARD_3_refuses_another_session(waiting: Waiting, spare: CardKey, registered: Registered) -> None:
    for session in (b"", os.urandom(16), waiting.n_t, waiting.n_t[:16]):
        with refused("UNKNOWN_SESSION"):
            waiting.issue(spare, session=session).send()
    theirs = begin(registered)
    with refused("DECRYPTION_FAILED"):
        waiting.issue(spare).post(waiting.issue(spare).cose(), theirs.issue(spare).session)


def test_CARD_3_refuses_another_key_and_another_signer(waiting: Waiting, spare: CardKey) -> None:
    draft = waiting.issue(spare)
    with refused("SIGNATURE_INVALID"):
        draft.send(signer=Signer(waiting.holder.wallet.tid, waiting.holder.account.sk_aid))
    with refused("DECRYPTION_FAILED"):
        draft.post(encrypt(os.urandom(32), "card-keys", draft.signed()))


def test_CARD_3_refuses_cards_without_a_live_grant(registered: Registered) -> None:
    session = begin(registered)
    registered.wallet.close(registered.offer).send()
    with refused("GRANT_UNKNOWN"):
        session.issue(CardKey.new()).send()


def test_CARD_3_after_all_refusals_the_session_still_issues(waiting: Waiting, spare: CardKey) -> None:
    assert len(waiting.issue(spare).send()["cards"]) == 1


# --- CARD-5 ----------------------------------------------------------------------------------------------------------
def test_CARD_5_refuses_before_the_cards_are_issued(holder: Registered, batch: Batch) -> None:
    with refused("WRONG_STATE"):
        begin(holder).activate(batch.pans).send()


def test_CARD_5_refuses_other_cards_than_the_batchs(batch: Batch, registered: Registered) -> None:
    """Fewer, more, or somebody else's."""
    theirs = issue(registered, 1).pans
    unknown = ["0" * 19]
    for pans in (batch.pans[:-1], batch.pans + unknown, batch.pans[:-1] + theirs, theirs, unknown * 3):
        with refused("FIELD_MISMATCH"):
            batch.session.activate(pans).send()


def test_CARD_5_refuses_numbers_that_are_none(batch: Batch) -> None:
    for pans in ([], ["1"], ["A" * 19], ["1" * 20], batch.pans * 11):
        with refused("MALFORMED", "OVERSIZE"):
            batch.session.activate(pans).send()


def test_CARD_5_refuses_another_nonce(batch: Batch) -> None:
    with refused("NONCE_MISMATCH"):
        batch.session.activate(batch.pans).send(fields={"n_t": OTHER_32})


def test_CARD_5_refuses_another_session(batch: Batch, registered: Registered) -> None:
    with refused("UNKNOWN_SESSION"):
        batch.session.activate(batch.pans, session=os.urandom(16)).send()
    theirs = issue(registered, 1)
    with refused("DECRYPTION_FAILED"):
        batch.session.activate(batch.pans, session=theirs.session.activate(theirs.pans).session).send()


def test_CARD_5_refuses_another_signer_and_another_key(batch: Batch) -> None:
    draft = batch.session.activate(batch.pans)
    with refused("SIGNATURE_INVALID"):
        draft.send(signer=Signer(batch.session.holder.wallet.tid, Key.new()))
    with refused("DECRYPTION_FAILED"):
        draft.post(encrypt(os.urandom(32), "card-activation", draft.signed()))


def test_CARD_5_refuses_cards_that_ended_with_the_account(registered: Registered) -> None:
    batch = issue(registered, 1)
    registered.wallet.close(registered.offer).send()
    with refused("WRONG_STATE"):
        batch.session.activate(batch.pans).send()


def test_CARD_5_activates_the_batch_once(batch: Batch) -> None:
    """After all refusals above."""
    draft = batch.session.activate(batch.pans[::-1])
    cose = draft.cose()
    first, again = draft.post(cose), draft.post(cose)
    wallet = batch.session.holder.wallet
    assert first.payload == again.payload == {
        "tid": wallet.tid, "n_t": batch.session.n_t, "number": 3, "recredit": b""
    }  # fmt: skip
    with refused("WRONG_STATE"):
        batch.session.activate(batch.pans).send()


# --- both tested parties together ------------------------------------------------------------------------------------
def test_CARD_4_with_a_pass_of_the_tested_bank(with_bank: None, bundle: Bundle, payer: Phone, wallet: Wallet) -> None:
    """INIT to CARD-5 between bank and TSM under test, with a pass that a launch brought."""
    account = payer.account(bundle.tsm.name)
    offer = wallet.offer()
    wallet.prove(account, offer).send()
    account = replace(account, launch_pass=payer.passes()[account.aid])
    n_u = os.urandom(32)
    n_t = wallet.request_cards(offer, n_u).send()["n_t"]
    key = CardKey.new()
    (card,) = wallet.card_keys(account, offer, n_u, n_t, [key]).send()["cards"]
    assert read_card(card["emv"], bundle.emv_ca).modulus == key.modulus
    assert wallet.activate_cards(offer, n_t, [card["pan"]]).send()["number"] == 1
