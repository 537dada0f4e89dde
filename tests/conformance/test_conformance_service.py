"""TID: a service account at the TSM, paid from an anonymous account of a bank (paper §2.5).

The bank is asked by the TSM that the suite plays, the TSM with the bank that the suite plays; at the end both tested
parties meet.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from conformance.bundle import Bundle
from conformance.calls import Connection, Refusal, refused
from conformance.drafts import Draft
from conformance.phone import Account, Phone
from conformance.played import PlayedBank, Question
from conformance.service import Binding, Offer, PlayedTsm, Wallet, commitment, sign_on
from conformance.stage import Phones, Registered
from conformance.wire import (
    AUD,
    CTI,
    DAY_S,
    EXP,
    BadWire,
    Key,
    Signed,
    Signer,
    decrypt,
    encrypt,
    envelope_digest,
    seal,
    sha256,
    sign,
    unseal,
)

ASSERTED = ("sid", "aid", "com", "binfo_digest", "n2", "expires_at_s", "limit_minor", "currency")


# === the bank: TID-3b … TID-3d =======================================================================================
@pytest.fixture(scope="module")
def granted(phones: Phones, played_tsm: PlayedTsm) -> tuple[Account, Draft[Signed]]:
    """An account with a live grant, and the request that got it."""
    account = phones.payer().account(played_tsm.name)
    draft = played_tsm.ask(account)
    draft.send()
    return account, draft


@pytest.fixture(scope="module")
def free(phones: Phones, played_tsm: PlayedTsm) -> Account:
    """An active account without a grant: what is refused leaves it as it is."""
    return phones.payer().account(played_tsm.name)


def test_TID_3d_the_bank_promises_what_both_statements_say(account: Account, played_tsm: PlayedTsm) -> None:
    draft = played_tsm.ask(account)
    promise = played_tsm.promise(draft.send()["promise"])
    assert promise.payload == {name: draft.payload[name] for name in ASSERTED}
    assert promise.claims[EXP] >= account.expires_at_s


def test_TID_3d_only_the_tsm_that_asked_can_read_the_promise(account: Account, played_tsm: PlayedTsm) -> None:
    draft = played_tsm.ask(account)
    cose = draft.cose()
    answer = draft.to.call(draft.rpc, cose)
    digest = envelope_digest(cose)
    assert decrypt(draft.payload["key"], answer, "grant-approval", digest)
    for key, bound in ((os.urandom(32), digest), (draft.payload["key"], envelope_digest(b"another request"))):
        with pytest.raises(BadWire):
            decrypt(key, answer, "grant-approval", bound)


def test_TID_3d_same_bytes_again_give_the_same_promise(account: Account, played_tsm: PlayedTsm) -> None:
    draft = played_tsm.ask(account)
    cose = draft.cose()
    first, again = draft.post(cose), draft.post(cose)
    assert first.payload == again.payload


def test_TID_3d_refuses_a_second_live_grant_on_one_account(
    granted: tuple[Account, Draft[Signed]], played_tsm: PlayedTsm
) -> None:
    with refused("AID_ALREADY_GRANTED"):
        played_tsm.ask(granted[0]).send()


def test_TID_3d_refuses_the_same_session_again(granted: tuple[Account, Draft[Signed]], played_tsm: PlayedTsm) -> None:
    account, draft = granted
    with refused("REPLAY"):
        played_tsm.ask(account, sid=draft.payload["sid"]).send()


def test_TID_3d_refuses_a_released_session_again(account: Account, played_tsm: PlayedTsm) -> None:
    draft = played_tsm.ask(account)
    draft.send()
    played_tsm.release(account.aid, draft.payload["sid"]).send()
    with refused("REPLAY"):
        played_tsm.ask(account, sid=draft.payload["sid"]).send()


def test_TID_3c_refuses_an_unknown_account(free: Account, played_tsm: PlayedTsm) -> None:
    with refused("UNKNOWN_ACCOUNT"):
        played_tsm.ask(replace(free, aid="a-00000000000000000000000000000000")).send()


def test_TID_3c_refuses_an_account_that_is_not_active(payer: Phone, played_tsm: PlayedTsm) -> None:
    opening = payer.opening()
    certified = payer.certify(opening).send()
    told = certified.certificate
    account = Account(
        bank=payer.bank.name, aid=told["aid"], sk_aid=opening.sk_aid, key=certified.key,
        expires_at_s=told["expires_at_s"], limit_minor=told["limit_minor"], currency=told["currency"],
    )  # fmt: skip
    with refused("WRONG_STATE"):
        played_tsm.ask(account).send()


@pytest.mark.parametrize("field", ["sid", "com", "n2", "aid", "expires_at_s", "limit_minor", "currency", "tsm"])
def test_TID_3c_refuses_when_binfo_says_another(field: str, free: Account, played_tsm: PlayedTsm) -> None:
    """BINFO, which the user signed, and TSMBINFO, which the TSM signed, are compared field by field."""
    other: dict[str, Any] = {
        "sid": os.urandom(48), "com": os.urandom(32), "n2": os.urandom(32), "aid": "a-0", "currency": "EUR",
        "expires_at_s": free.expires_at_s + 1, "limit_minor": free.limit_minor + 1, "tsm": "tsm-x",
    }  # fmt: skip
    with refused("FIELD_MISMATCH"):
        played_tsm.ask(free, info={"fields": {field: other[field]}}).send()


@pytest.mark.parametrize("field", ["com", "n2", "binfo_digest", "sid"])
def test_TID_3c_refuses_when_tsmbinfo_says_another(field: str, free: Account, played_tsm: PlayedTsm) -> None:
    draft = played_tsm.ask(free)
    with refused("FIELD_MISMATCH"):
        draft.send(fields={field: os.urandom(len(draft.payload[field]))})


def test_TID_3c_refuses_a_binfo_that_was_made_for_another_tsm(
    bundle: Bundle, free: Account, played_tsm: PlayedTsm
) -> None:
    """A TSM cannot use what a user said to another one."""
    with refused("FIELD_MISMATCH"):
        played_tsm.ask(free, info={"fields": {"tsm": bundle.tsm.name}}).send()


@pytest.mark.parametrize("change", [1, -1, 1_000_000])
@pytest.mark.parametrize("field", ["limit_minor", "expires_at_s"])
def test_TID_3c_refuses_credit_that_differs_from_the_certificate(
    field: str, change: int, free: Account, played_tsm: PlayedTsm
) -> None:
    """User and TSM agree, but the bank certified something else: a raised limit, a later expiry."""
    raised = replace(free, **{field: getattr(free, field) + change})  # type: ignore[arg-type]
    with refused("CREDIT_MISMATCH"):
        played_tsm.ask(raised).send()


def test_TID_3c_refuses_another_currency(free: Account, played_tsm: PlayedTsm) -> None:
    with refused("CREDIT_MISMATCH"):
        played_tsm.ask(replace(free, currency="EUR")).send()


BINFO: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "under_another_key": ({"key": bytes(32)}, ("DECRYPTION_FAILED",)),
    "by_another_signer": ({"signer": None}, ("SIGNATURE_INVALID",)),
    "from_another_issuer": ({"issuer": "a-0"}, ("WRONG_ISSUER",)),
    "for_another_bank": ({"audience": "bank-x"}, ("WRONG_AUDIENCE",)),
    "expired": ({"iat": 1_000_000_000}, ("EXPIRED",)),
    "of_tomorrow": ({"iat": 4_000_000_000}, ("NOT_YET_VALID",)),
    "that_lives_too_long": ({"exp": 4_000_000_000}, ("LIFETIME_TOO_LONG",)),
    "of_another_type": ({"media": "application/vnd.tapveil.tsm-info+cbor"}, ("WRONG_MESSAGE",)),
    "bound_as_a_reply": ({"digest": bytes(32)}, ("SIGNATURE_INVALID",)),
    "with_an_unknown_field": ({"fields": {"merchant": "shop"}}, ("MALFORMED",)),
}


@pytest.mark.parametrize("case", BINFO)
def test_TID_3c_refuses_binfo(case: str, free: Account, played_tsm: PlayedTsm) -> None:
    changes, codes = BINFO[case]
    changes = dict(changes)
    if "signer" in changes:
        changes["signer"] = Signer(free.aid, Key.new())
    with refused(*codes):
        played_tsm.ask(free, info=changes).send()


def test_TID_3c_refuses_the_binfo_of_another_account(payer: Phone, free: Account, played_tsm: PlayedTsm) -> None:
    another = payer.account(played_tsm.name)
    sid = os.urandom(48)
    binfo = another.bank_info(tsm=played_tsm.name, sid=sid, com=os.urandom(32), n2=os.urandom(32))
    with refused("DECRYPTION_FAILED"):
        played_tsm.ask(free, sid=sid, binfo=binfo).send()


def test_TID_3c_refuses_an_altered_binfo(free: Account, played_tsm: PlayedTsm) -> None:
    draft = played_tsm.ask(free)
    binfo = draft.payload["binfo"]
    altered = binfo[:-1] + bytes([binfo[-1] ^ 1])
    with refused("DECRYPTION_FAILED"):
        draft.send(fields={"binfo": altered, "binfo_digest": sha256(altered)})


def test_TID_3b_refuses_a_phones_tls_identity(ready: Phone, free: Account, played_tsm: PlayedTsm) -> None:
    with refused("WRONG_PEER"):
        played_tsm.ask(free, connection=ready.connection).send()


def test_TID_3b_refuses_a_signer_that_is_no_tsm(ready: Phone, free: Account, played_tsm: PlayedTsm) -> None:
    for signer in (ready.by_se, Signer(played_tsm.name, ready.keys.wallet)):
        with refused("WRONG_ISSUER", "UNKNOWN_KEY"):
            played_tsm.ask(free).send(signer=signer)


def test_TID_3b_refuses_an_uncertified_tsm(free: Account, played_tsm: PlayedTsm) -> None:
    with refused("UNKNOWN_KEY"):
        played_tsm.ask(free).send(signer=Signer(played_tsm.name, Key.new()))


def test_TID_3b_refuses_another_tsms_name(bundle: Bundle, free: Account, played_tsm: PlayedTsm) -> None:
    with refused("WRONG_ISSUER"):
        played_tsm.ask(free).send(issuer=bundle.tsm.name)


def test_TID_3d_after_all_refusals_the_account_can_still_be_granted(free: Account, played_tsm: PlayedTsm) -> None:
    played_tsm.ask(free).send()


# --- release ---------------------------------------------------------------------------------------------------------
def test_TID_release_frees_the_account(account: Account, played_tsm: PlayedTsm) -> None:
    draft = played_tsm.ask(account)
    draft.send()
    released = played_tsm.release(account.aid, draft.payload["sid"]).send()
    assert released.payload == {"aid": account.aid, "sid": draft.payload["sid"]}
    with refused("AID_ALREADY_GRANTED"):  # what was spent of it is not claimed yet
        played_tsm.ask(account).send()
    played_tsm.close(account.aid, draft.payload["sid"], account.currency)
    played_tsm.ask(account).send()


def test_TID_release_is_once(account: Account, played_tsm: PlayedTsm) -> None:
    draft = played_tsm.ask(account)
    draft.send()
    release = played_tsm.release(account.aid, draft.payload["sid"])
    cose = release.cose()
    assert release.post(cose).payload == release.post(cose).payload
    with refused("GRANT_UNKNOWN"):
        release.send()


def test_TID_release_of_an_old_session_frees_nothing(account: Account, played_tsm: PlayedTsm) -> None:
    old = played_tsm.ask(account)
    old.send()
    played_tsm.release(account.aid, old.payload["sid"]).send()
    played_tsm.close(account.aid, old.payload["sid"], account.currency)
    played_tsm.ask(account).send()
    with refused("GRANT_UNKNOWN"):
        played_tsm.release(account.aid, old.payload["sid"]).send()
    with refused("AID_ALREADY_GRANTED"):
        played_tsm.ask(account).send()


def test_TID_release_refuses_another_session_and_another_account(
    granted: tuple[Account, Draft[Signed]], played_tsm: PlayedTsm
) -> None:
    account, draft = granted
    with refused("GRANT_UNKNOWN"):
        played_tsm.release(account.aid, os.urandom(48)).send()
    with refused("GRANT_UNKNOWN"):
        played_tsm.release("a-00000000000000000000000000000000", draft.payload["sid"]).send()


def test_TID_release_refuses_a_phone(
    ready: Phone, granted: tuple[Account, Draft[Signed]], played_tsm: PlayedTsm
) -> None:
    account, draft = granted
    with refused("WRONG_PEER"):
        played_tsm.release(account.aid, draft.payload["sid"], connection=ready.connection).send()
    with refused("WRONG_ISSUER", "UNKNOWN_KEY"):
        played_tsm.release(account.aid, draft.payload["sid"]).send(signer=ready.by_se)


# === the TSM: TID-1 ==================================================================================================
@pytest.fixture
def offer(wallet: Wallet) -> Offer:
    """TID-1 is done."""
    return wallet.offer()


def test_TID_1b_offers_a_session_to_the_keys_owner(wallet: Wallet) -> None:
    reply = wallet.open_account().send()
    assert (reply["tid"], reply["pk_tid"], reply["n_u"]) == (wallet.tid, wallet.sk_tid.point, wallet.n_u)


def test_TID_1b_the_offer_opens_with_dk_tid_only(wallet: Wallet) -> None:
    draft = wallet.open_account()
    cose = draft.cose()
    answer = draft.to.call(draft.rpc, cose)
    with pytest.raises(BadWire):
        unseal(Key.new(), answer, "service-offer", envelope_digest(cose))


def test_TID_1b_each_request_gets_another_session(wallet: Wallet) -> None:
    offers = [wallet.offer() for _ in range(3)]
    for values in ({o.sid for o in offers}, {o.n_t for o in offers}, {o.key for o in offers}):
        assert len(values) == 3


def test_TID_1a_refuses_a_key_that_the_signer_does_not_hold(wallet: Wallet) -> None:
    with refused("SIGNATURE_INVALID"):
        wallet.open_account().send(fields={"pk_tid": Key.new().point})


def test_TID_1a_refuses_a_name_that_is_not_the_issuers(wallet: Wallet) -> None:
    with refused("WRONG_ISSUER"):
        wallet.open_account().send(fields={"tid": "t-another"})


@pytest.mark.parametrize("field", ["pk_tid", "ek_tid"])
def test_TID_1a_refuses_a_key_that_is_not_on_the_curve(field: str, wallet: Wallet) -> None:
    with refused("MALFORMED", "SIGNATURE_INVALID"):
        wallet.open_account().send(fields={field: b"\4" + bytes(64)})


def test_TID_1a_refuses_a_tid_of_other_characters(wallet: Wallet) -> None:
    for tid in ("", "T-1", "t 1", "t" * 65, "-t"):
        with refused("MALFORMED", "OVERSIZE"):
            wallet.open_account().send(fields={"tid": tid})


def test_TID_1a_refuses_a_request_sealed_to_somebody_else(bundle: Bundle, wallet: Wallet) -> None:
    draft = wallet.open_account()
    with refused("DECRYPTION_FAILED"):
        draft.post(seal(bundle.bank.seal, "service-request", draft.signed()))


# === the TSM: TID-2d … TID-4 =========================================================================================
def test_TID_4_registers_the_account_on_the_banks_promise(
    bundle: Bundle, wallet: Wallet, offer: Offer, played_bank: PlayedBank
) -> None:
    account = played_bank.account()
    binding = wallet.bind(account, offer)
    reply = wallet.prove(account, offer, binding=binding).send()
    certificate = wallet.certificate(reply["certificate"])
    assert reply.payload == {
        "tid": wallet.tid, "sid": offer.sid, "n_u": wallet.n_u, "com": binding.com,
        "expires_at_s": account.expires_at_s, "limit_minor": account.limit_minor, "currency": account.currency,
        "certificate": reply["certificate"],
    }  # fmt: skip
    assert (certificate["tid"], certificate["pk_tid"]) == (wallet.tid, wallet.sk_tid.point)
    assert certificate["expires_at_s"] == account.expires_at_s


def test_TID_3b_the_bank_is_asked_exactly_what_the_user_said(
    wallet: Wallet, offer: Offer, played_bank: PlayedBank
) -> None:
    """And nothing of TID, its key or r, which tell the bank's customer apart at the TSM."""
    account = played_bank.account()
    binding = wallet.bind(account, offer)
    wallet.prove(account, offer, binding=binding).send()
    question = played_bank.asked[-1]
    assert question.rpc == "ApproveGrant"
    asked = dict(question.message.payload)
    assert len(set(asked.pop("key"))) > 1
    assert asked == {
        "binfo": binding.binfo, "sid": offer.sid, "aid": account.aid, "com": binding.com,
        "binfo_digest": sha256(binding.binfo), "n2": binding.n2, "expires_at_s": account.expires_at_s,
        "limit_minor": account.limit_minor, "currency": account.currency,
    }  # fmt: skip
    opened = unseal(played_bank.party.seal, question.cose, "grant-request")
    for secret in (wallet.tid.encode(), wallet.sk_tid.point[1:], binding.r):
        assert secret not in opened


def test_TID_4_same_bytes_again_give_the_same_account_and_ask_the_bank_once(
    wallet: Wallet, offer: Offer, played_bank: PlayedBank
) -> None:
    draft = wallet.prove(played_bank.account(), offer)
    cose = draft.cose()
    before = len(played_bank.asked)
    first, again = draft.post(cose), draft.post(cose)
    assert first.payload == again.payload
    assert first.claims[CTI] == again.claims[CTI]
    assert len(played_bank.asked) == before + 1


def test_TID_3_refuses_a_cookie_twice(wallet: Wallet, offer: Offer, played_bank: PlayedBank) -> None:
    """One TID-3 per SID: a fresh proof by the same owner, with another account."""
    wallet.prove(played_bank.account(), offer).send()
    with refused("REPLAY"):
        wallet.prove(played_bank.account(), offer).send()


def test_TID_3_refuses_a_cookie_after_a_refusal_of_the_bank(
    wallet: Wallet, offer: Offer, played_bank: PlayedBank
) -> None:
    def no(_question: Question) -> bytes:
        raise Refusal("CREDIT_MISMATCH", "PERMISSION_DENIED")

    with played_bank.answering(no), refused("CREDIT_MISMATCH"):
        wallet.prove(played_bank.account(), offer).send()
    with refused("REPLAY"):
        wallet.prove(played_bank.account(), offer).send()
    wallet.prove(played_bank.account(), wallet.offer()).send()  # a new session does


@pytest.mark.parametrize("sid", [b"", b"\0", os.urandom(300), os.urandom(1024)], ids=["empty", "short", "long", "max"])
def test_TID_3_refuses_a_cookie_that_the_tsm_never_gave(
    sid: bytes, wallet: Wallet, offer: Offer, played_bank: PlayedBank
) -> None:
    draft = wallet.prove(played_bank.account(), offer)
    with refused("UNKNOWN_SESSION"):
        draft.post(draft.cose(), sid)


def test_TID_3_refuses_an_altered_cookie(wallet: Wallet, offer: Offer, played_bank: PlayedBank) -> None:
    draft = wallet.prove(played_bank.account(), offer)
    for place in (0, len(offer.sid) // 2, -1):
        sid = bytearray(offer.sid)
        sid[place] ^= 1
        with refused("UNKNOWN_SESSION"):
            draft.post(draft.cose(), bytes(sid))


def test_TID_3_refuses_a_cookie_of_another_tid(
    bundle: Bundle, to_tsm: Connection, wallet: Wallet, offer: Offer, played_bank: PlayedBank
) -> None:
    """A foreign cookie: neither under its own key, nor under the key that belongs to the cookie."""
    theirs = Wallet(bundle.tsm, to_tsm)
    foreign = theirs.offer()
    account = played_bank.account()
    draft = wallet.prove(account, offer)
    with refused("DECRYPTION_FAILED"):
        draft.post(draft.cose(), foreign.sid)
    with refused("SIGNATURE_INVALID", "WRONG_ISSUER"):
        wallet.prove(account, foreign).send()


Proof = Callable[[Wallet, Offer, Account, Binding], dict[str, Any]]
OTHER_32 = bytes(range(32))


def _info(code: str, **fields: Any) -> tuple[tuple[str, ...], Proof]:
    """TSMINFO with other fields."""
    return (code,), lambda w, o, a, b: {"tsminfo": w.tsm_info(a, o, b, fields=fields)}


def _info_by(*codes: str, **changes: Any) -> tuple[tuple[str, ...], Proof]:
    return codes, lambda w, o, a, b: {"tsminfo": w.tsm_info(a, o, b, **changes)}


def _shown_by(*codes: str, **changes: Any) -> tuple[tuple[str, ...], Proof]:
    return codes, lambda w, o, a, _b: {"possession": w.shown(a, o, **changes)}


PROOFS: dict[str, tuple[tuple[str, ...], Proof]] = {
    "tsminfo_of_another_session": _info("NONCE_MISMATCH", sid=os.urandom(48)),
    "tsminfo_with_another_n_t": _info("NONCE_MISMATCH", n_t=OTHER_32),
    "tsminfo_of_another_tid": _info("FIELD_MISMATCH", tid="t-another"),
    "tsminfo_of_another_binfo": _info("FIELD_MISMATCH", binfo_digest=OTHER_32),
    "another_r": _info("COMMITMENT_MISMATCH", r=OTHER_32),
    "another_com": _info("COMMITMENT_MISMATCH", com=OTHER_32),
    "commitment_to_another_key": (
        ("COMMITMENT_MISMATCH",),
        lambda w, o, a, b: {
            "tsminfo": w.tsm_info(a, o, b, fields={"com": commitment(w.tid, Key.new().point, o.sid, b.r)})
        },
    ),
    "commitment_to_another_tid": (
        ("COMMITMENT_MISMATCH",),
        lambda w, o, a, b: {
            "tsminfo": w.tsm_info(a, o, b, fields={"com": commitment("t-another", w.sk_tid.point, o.sid, b.r)})
        },
    ),
    "commitment_to_another_session": (
        ("COMMITMENT_MISMATCH",),
        lambda w, o, a, b: {
            "tsminfo": w.tsm_info(a, o, b, fields={"com": commitment(w.tid, w.sk_tid.point, b"another", b.r)})
        },
    ),
    "tsminfo_by_sk_aid": (("SIGNATURE_INVALID",), lambda w, o, a, b: {
        "tsminfo": w.tsm_info(a, o, b, signer=Signer(w.tid, a.sk_aid))}),
    "tsminfo_for_another_tsm": _info_by("WRONG_AUDIENCE", audience="tsm-x"),
    "tsminfo_expired": _info_by("EXPIRED", iat=1_000_000_000),
    "tsminfo_of_tomorrow": _info_by("NOT_YET_VALID", iat=4_000_000_000),
    "tsminfo_of_another_type": _info_by("WRONG_MESSAGE", media="application/vnd.tapveil.bank-info+cbor"),
    "binfo_exchanged": (("FIELD_MISMATCH",), lambda w, o, a, b: {
        "binfo": w.bind(a, o).binfo, "tsminfo": w.tsm_info(a, o, b)}),
    "an_unknown_bank": _info_by("UNKNOWN_KEY", "UNKNOWN_ACCOUNT", fields={"bank": "bank-x"}),
    "a_tsm_as_bank": (("UNKNOWN_ACCOUNT", "UNKNOWN_KEY"), lambda w, o, a, b: {
        "tsminfo": w.tsm_info(a, o, b, fields={"bank": w.tsm.name})}),
    "expired_account": _info("EXPIRED", expires_at_s=1_000_000_000),
    "pass_of_another_account": _info("PASS_INVALID", aid="a-00000000000000000000000000000000"),
    "no_possession": _shown_by("POSSESSION_INVALID", signer=Signer("a-0", Key.new())),
    "possession_of_another_session": _shown_by("POSSESSION_INVALID", fields={"sid": os.urandom(48)}),
    "possession_of_another_pass": _shown_by("POSSESSION_INVALID", fields={"pass_digest": OTHER_32}),
    "possession_for_another_tsm": _shown_by("POSSESSION_INVALID", audience="tsm-x"),
    "possession_expired": _shown_by("POSSESSION_INVALID", iat=1_000_000_000),
    "possession_by_sk_tid": (("POSSESSION_INVALID",), lambda w, o, a, _b: {
        "possession": w.shown(a, o, signer=Signer(a.aid, w.sk_tid))}),
    "possession_for_cards": (("POSSESSION_INVALID",), lambda w, o, a, _b: {
        "possession": w.shown_for_cards(a, o.n_t)}),
    "possession_that_is_the_pass": (("POSSESSION_INVALID",), lambda _w, _o, a, _b: {"possession": a.launch_pass}),
    "possession_that_is_nothing": (("POSSESSION_INVALID",), lambda _w, _o, _a, _b: {"possession": b"\0"}),
    "pass_that_is_a_possession": (("PASS_INVALID",), lambda w, o, a, _b: {"launch_pass": w.shown(a, o)}),
    "pass_that_is_nothing": (("PASS_INVALID",), lambda _w, _o, _a, _b: {"launch_pass": b"\0"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def proving(bundle: Bundle, to_tsm: Connection, played_bank: PlayedBank) -> tuple[Wallet, Offer, Account]:
    """A session that waits for TID-3; refusals leave it as it is."""
    wallet = Wallet(bundle.tsm, to_tsm)
    return wallet, wallet.offer(), played_bank.account()


@pytest.mark.parametrize("case", PROOFS)
def test_TID_3a_refuses(case: str, proving: tuple[Wallet, Offer, Account], played_bank: PlayedBank) -> None:
    """And without asking the bank."""
    wallet, offer, account = proving
    codes, change = PROOFS[case]
    binding = wallet.bind(account, offer)
    before = len(played_bank.asked)
    with refused(*codes):
        wallet.prove(account, offer, binding=binding, **change(wallet, offer, account, binding)).send()
    assert len(played_bank.asked) == before


PASSES: dict[str, dict[str, Any]] = {
    "for_another_tsm": {"audience": "tsm-x"},
    "of_another_account": {"fields": {"aid": "a-00000000000000000000000000000000"}},
    "of_another_trust_class": {"fields": {"trust_class": "none"}},
    "with_an_unknown_field": {"fields": {"device": "phone"}},
    "expired": {"iat": 1_000_000_000, "exp": 1_000_000_000 + DAY_S},
    "of_tomorrow": {"iat": 4_000_000_000, "exp": 4_000_000_000 + DAY_S},
    "that_lives_over_a_day": {"exp": 4_000_000_000},
    "of_another_type": {"name": "account-active"},
    "by_nobody": {"signer": None},
    "from_another_issuer": {"issuer": "bank-x"},
    "bound_as_a_reply": {"digest": bytes(32)},
}


@pytest.mark.parametrize("case", PASSES)
def test_TID_3a_refuses_a_pass(case: str, proving: tuple[Wallet, Offer, Account], played_bank: PlayedBank) -> None:
    wallet, offer, account = proving
    changes = dict(PASSES[case])
    if "signer" in changes:
        changes["signer"] = Signer(played_bank.party.name, Key.new())
    with refused("PASS_INVALID"):
        wallet.prove(played_bank.with_pass(account, **changes), offer).send()


def test_TID_3a_refuses_a_stolen_pass(proving: tuple[Wallet, Offer, Account], played_bank: PlayedBank) -> None:
    """The pass is good, its account is another's: who shows it cannot sign with its key."""
    wallet, offer, account = proving
    stolen = replace(account, aid=played_bank.account().aid)
    theirs = played_bank.with_pass(stolen, fields={"pk_aid": Key.new().point})
    with refused("POSSESSION_INVALID"):
        wallet.prove(theirs, offer).send()


def test_TID_3a_refuses_an_altered_pass(proving: tuple[Wallet, Offer, Account]) -> None:
    wallet, offer, account = proving
    altered = account.launch_pass[:-1] + bytes([account.launch_pass[-1] ^ 1])
    with refused("PASS_INVALID"):
        wallet.prove(replace(account, launch_pass=altered), offer).send()


def test_TID_2d_refuses_another_session_key(proving: tuple[Wallet, Offer, Account]) -> None:
    wallet, offer, account = proving
    with refused("DECRYPTION_FAILED"):
        wallet.prove(account, offer, key=os.urandom(32)).send()


def test_TID_2d_refuses_another_signer(proving: tuple[Wallet, Offer, Account]) -> None:
    wallet, offer, account = proving
    for key in (Key.new(), account.sk_aid):
        with refused("SIGNATURE_INVALID"):
            wallet.prove(account, offer).send(signer=Signer(wallet.tid, key))


def test_TID_4_after_all_refusals_the_session_still_registers(proving: tuple[Wallet, Offer, Account]) -> None:
    wallet, offer, account = proving
    assert wallet.prove(account, offer).send()["tid"] == wallet.tid


def test_TID_4_refuses_a_tid_of_another_key(
    bundle: Bundle, to_tsm: Connection, registered: Registered, played_bank: PlayedBank
) -> None:
    """Who knows a TID cannot take it over with a key of their own."""
    thief = Wallet(bundle.tsm, to_tsm, tid=registered.wallet.tid)
    with refused("IDENTIFIER_TAKEN"):
        thief.prove(played_bank.account(), thief.offer()).send()


def test_TID_4_refuses_a_key_of_another_tid(
    bundle: Bundle, to_tsm: Connection, registered: Registered, played_bank: PlayedBank
) -> None:
    twin = Wallet(bundle.tsm, to_tsm, sk_tid=registered.wallet.sk_tid)
    with refused("IDENTIFIER_TAKEN"):
        twin.prove(played_bank.account(), twin.offer()).send()


def test_TID_4_the_same_tid_may_prove_a_second_account(registered: Registered, played_bank: PlayedBank) -> None:
    wallet = registered.wallet
    assert wallet.prove(played_bank.account(), wallet.offer()).send()["tid"] == wallet.tid


# --- TID-3d: what the TSM takes from a bank ---------------------------------------------------------------------------
Lie = Callable[[PlayedBank, Question], bytes]


def _promise(**changes: Any) -> Lie:
    return lambda bank, question: bank.approve(question, bank.promise(question, **changes))


def _approval(**changes: Any) -> Lie:
    return lambda bank, question: bank.approve(question, bank.promise(question), **changes)


def _nobody(bank: PlayedBank) -> Signer:
    """The bank's name, but not its key."""
    return Signer(bank.party.name, Key.new())


LIES: dict[str, Lie] = {
    "promise_of_another_sid": _promise(fields={"sid": b"another"}),
    "promise_of_another_aid": _promise(fields={"aid": "a-0"}),
    "promise_of_another_com": _promise(fields={"com": OTHER_32}),
    "promise_of_another_binfo_digest": _promise(fields={"binfo_digest": OTHER_32}),
    "promise_of_another_n2": _promise(fields={"n2": OTHER_32}),
    "promise_of_another_expiry": _promise(fields={"expires_at_s": 4_000_000_000}),
    "promise_of_another_limit": _promise(fields={"limit_minor": 1}),
    "promise_of_another_currency": _promise(fields={"currency": "EUR"}),
    "promise_with_an_unknown_field": _promise(fields={"merchant": "shop"}),
    "promise_by_nobody": lambda bank, question: bank.approve(question, bank.promise(question, signer=_nobody(bank))),
    "promise_for_another_tsm": _promise(audience="tsm-x"),
    "promise_of_another_bank": _promise(issuer="bank-x"),
    "promise_expired": _promise(iat=1_000_000_000, exp=1_000_003_600),
    "promise_that_is_nothing": lambda bank, question: bank.approve(question, b"\0"),
    "approval_by_nobody": lambda bank, question: bank.approve(
        question, bank.promise(question), signer=_nobody(bank)
    ),
    "approval_of_another_question": _approval(digest=OTHER_32),
    "approval_for_another_tsm": _approval(audience="tsm-x"),
    "approval_under_another_key": _approval(key=OTHER_32),
    "approval_that_is_nothing": lambda _bank, _question: b"",
}  # fmt: skip


@pytest.mark.parametrize("case", LIES)
def test_TID_3d_the_tsm_refuses_an_answer_of(case: str, wallet: Wallet, offer: Offer, played_bank: PlayedBank) -> None:
    """What the bank did not say opens no account; and it ends nothing: the same bytes may bring a good answer."""
    lie = LIES[case]
    draft = wallet.prove(played_bank.account(), offer)
    cose = draft.cose()
    with played_bank.answering(lambda question: lie(played_bank, question)):
        with refused("PEER_ANSWER_INVALID"):
            draft.post(cose)
        with refused("UNKNOWN_KEY"):
            wallet.request_cards(offer, os.urandom(32)).send()
    assert draft.post(cose)["tid"] == wallet.tid


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("AID_ALREADY_GRANTED", "ALREADY_EXISTS"),
        ("CREDIT_MISMATCH", "PERMISSION_DENIED"),
        ("UNKNOWN_ACCOUNT", "NOT_FOUND"),
        ("FIELD_MISMATCH", "PERMISSION_DENIED"),
        ("WRONG_STATE", "FAILED_PRECONDITION"),
    ],
)
def test_TID_3d_passes_the_banks_refusal_on(
    code: str, status: str, wallet: Wallet, offer: Offer, played_bank: PlayedBank
) -> None:
    def no(_question: Question) -> bytes:
        raise Refusal(code, status)

    draft = wallet.prove(played_bank.account(), offer)
    cose = draft.cose()
    with played_bank.answering(no), refused(code):
        draft.post(cose)
    before = len(played_bank.asked)
    with refused(code):  # decided once: the bank is not asked again for the same bytes
        draft.post(cose)
    assert len(played_bank.asked) == before


def test_TID_3d_a_bank_out_of_reach_is_asked_again_with_the_same_bytes(
    wallet: Wallet, offer: Offer, played_bank: PlayedBank
) -> None:
    """Unreachable is never untrusted: the same proof does when the bank is back."""

    def out_of_reach(_question: Question) -> bytes:
        raise Refusal("UNAVAILABLE", "UNAVAILABLE")

    draft = wallet.prove(played_bank.account(), offer)
    cose = draft.cose()
    before = len(played_bank.asked)
    with played_bank.answering(out_of_reach), refused("UNAVAILABLE"):
        draft.post(cose)
    assert draft.post(cose)["tid"] == wallet.tid
    questions = {question.cose for question in played_bank.asked[before:]}
    assert len(questions) == 1


# --- closing ---------------------------------------------------------------------------------------------------------
def test_TID_close_gives_the_grant_back_to_the_bank(registered: Registered, played_bank: PlayedBank) -> None:
    wallet, offer = registered.wallet, registered.offer
    draft = wallet.close(offer)
    cose = draft.cose()
    first, again = draft.post(cose), draft.post(cose)
    assert first.payload == again.payload == {"tid": wallet.tid, "sid": offer.sid}
    question = played_bank.asked[-1]
    assert question.rpc == "ReleaseGrant"
    assert question.message.payload == {"aid": registered.account.aid, "sid": offer.sid}
    with refused("WRONG_STATE"):
        wallet.close(offer).send()


def test_TID_close_refuses_another_session(registered: Registered) -> None:
    draft = registered.wallet.close(registered.offer)
    for session in (b"", os.urandom(32), registered.offer.sid):
        with refused("UNKNOWN_SESSION"):
            draft.post(draft.cose(), session)


def test_TID_close_refuses_another_tid_and_another_sid(registered: Registered) -> None:
    for fields in ({"tid": "t-another"}, {"sid": b"another"}):
        with refused("FIELD_MISMATCH"):
            registered.wallet.close(registered.offer, **fields).send()


def test_TID_close_refuses_another_signer_and_another_key(registered: Registered) -> None:
    draft = registered.wallet.close(registered.offer)
    with refused("SIGNATURE_INVALID"):
        draft.send(signer=Signer(registered.wallet.tid, registered.account.sk_aid))
    with refused("DECRYPTION_FAILED"):
        draft.post(encrypt(os.urandom(32), "close-account", draft.signed()))


def test_TID_close_takes_no_release_that_the_bank_did_not_sign(registered: Registered, played_bank: PlayedBank) -> None:
    def forged(question: Question) -> bytes:
        released = {name: question.message[name] for name in ("aid", "sid")}
        signed = played_bank.sign("grant-released", released, question, signer=_nobody(played_bank))
        return seal(played_bank.tsm.seal, "grant-released", signed, question.digest)

    draft = registered.wallet.close(registered.offer)
    cose = draft.cose()
    with played_bank.answering(forged), refused("PEER_ANSWER_INVALID"):
        draft.post(cose)
    assert draft.post(cose).payload == {"tid": registered.wallet.tid, "sid": registered.offer.sid}


def test_TID_close_a_refused_release_can_be_asked_for_again(registered: Registered, played_bank: PlayedBank) -> None:
    def no(_question: Question) -> bytes:
        raise Refusal("WRONG_PEER", "PERMISSION_DENIED")

    with played_bank.answering(no), refused("WRONG_PEER"):
        registered.wallet.close(registered.offer).send()
    assert registered.wallet.close(registered.offer).send()


# === both tested parties together ====================================================================================
@pytest.fixture
def both(with_bank: None, with_tsm: None) -> None:
    """Only where bank and TSM are tested together, and know each other."""


def test_TID_4_bank_and_tsm_agree_on_a_grant(both: None, bundle: Bundle, payer: Phone, wallet: Wallet) -> None:
    account = payer.account(bundle.tsm.name)
    reply = wallet.prove(account, wallet.offer()).send()
    assert (reply["expires_at_s"], reply["limit_minor"]) == (account.expires_at_s, account.limit_minor)


def test_TID_3d_one_account_pays_for_one_service_only(
    both: None, bundle: Bundle, to_tsm: Connection, payer: Phone, wallet: Wallet
) -> None:
    account = payer.account(bundle.tsm.name)
    offer = wallet.offer()
    wallet.prove(account, offer).send()
    second = Wallet(bundle.tsm, to_tsm)
    with refused("AID_ALREADY_GRANTED"):
        second.prove(account, second.offer()).send()
    wallet.close(offer).send()
    with refused("AID_ALREADY_GRANTED"):  # what the first grant spent is claimed first (ADR-0012)
        second.prove(account, second.offer()).send()


@pytest.mark.parametrize("field", ["limit_minor", "expires_at_s"])
def test_TID_3c_a_raised_limit_or_expiry_is_refused_by_the_bank(
    field: str, both: None, bundle: Bundle, payer: Phone, wallet: Wallet
) -> None:
    account = payer.account(bundle.tsm.name)
    raised = replace(account, **{field: getattr(account, field) + 1})  # type: ignore[arg-type]
    with refused("CREDIT_MISMATCH"):
        wallet.prove(raised, wallet.offer()).send()


def test_TID_3c_a_binfo_for_another_session_is_refused_by_the_bank(
    both: None, bundle: Bundle, payer: Phone, wallet: Wallet
) -> None:
    """Credit hijack: BINFO of a session with another commitment, TSMINFO of this one."""
    account, offer = payer.account(bundle.tsm.name), wallet.offer()
    binding = wallet.bind(account, offer)
    other = replace(binding, binfo=wallet.bind(account, offer).binfo)
    with refused("FIELD_MISMATCH"):
        wallet.prove(account, offer, binding=other).send()


def test_TID_3a_a_pass_for_another_tsm_is_refused(
    both: None, payer: Phone, wallet: Wallet, played_tsm: PlayedTsm
) -> None:
    account = payer.account(played_tsm.name)
    with refused("PASS_INVALID"):
        wallet.prove(account, wallet.offer()).send()


# === a merchant's terminal ===========================================================================================
@pytest.fixture(scope="module")
def shops(bundle: Bundle, with_tsm: None) -> list[Connection]:
    """The mutual port of the TSM, as each merchant."""
    return [Connection(bundle.tsm.mutual_address, bundle.tsm.name, merchant.tls) for merchant in bundle.merchants]


def test_sign_on_registers_a_terminal_and_rotates_its_key(bundle: Bundle, shops: list[Connection]) -> None:
    merchant = bundle.merchants[0]
    draft = sign_on(bundle.tsm, merchant, shops[0])
    first = draft.send()
    assert (first["terminal"], first["terminal_key"]) == (draft.payload["terminal"], draft.payload["terminal_key"])
    assert first["expires_at_s"] > time.time()
    assert first.claims[AUD] == merchant.name
    again = sign_on(bundle.tsm, merchant, shops[0], terminal=draft.payload["terminal"]).send()
    assert again["terminal_key"] != first["terminal_key"]


def test_sign_on_refuses_anothers_terminal_key_and_name(bundle: Bundle, shops: list[Connection]) -> None:
    first = sign_on(bundle.tsm, bundle.merchants[0], shops[0])
    first.send()
    theirs = {"merchant_name": "Another", "merchant_identifier": "CONFORMANCE0002"}
    for taken in ("terminal", "terminal_key"):
        with refused("IDENTIFIER_TAKEN"):
            sign_on(bundle.tsm, bundle.merchants[1], shops[1], **{**theirs, taken: first.payload[taken]}).send()
    with refused("IDENTIFIER_TAKEN"):  # one merchant, one name
        sign_on(bundle.tsm, bundle.merchants[0], shops[0], merchant_name="Renamed").send()


def test_sign_on_refuses_who_is_not_the_merchant(
    bundle: Bundle, shops: list[Connection], to_tsm: Connection, played_bank: PlayedBank
) -> None:
    merchant = bundle.merchants[0]
    for connection in (shops[1], to_tsm):
        with refused("WRONG_PEER"):
            sign_on(bundle.tsm, merchant, connection).send()
    with refused("UNKNOWN_KEY"):
        sign_on(bundle.tsm, merchant, shops[0]).send(signer=Signer(merchant.name, Key.new()))
    with refused("WRONG_ISSUER", "UNKNOWN_KEY"):
        sign_on(bundle.tsm, merchant, shops[0]).send(signer=played_bank.party.signer)


def test_sign_on_refuses_the_reply_of_a_bank_as_a_terminals(bundle: Bundle, shops: list[Connection]) -> None:
    draft = sign_on(bundle.tsm, bundle.merchants[0], shops[0])
    with refused("WRONG_MESSAGE"):
        draft.post(sign(draft.signer, "service-request", draft.payload, audience=draft.audience))
