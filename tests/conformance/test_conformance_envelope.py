"""What every request must be, whatever step it is for (proto/payloads.cddl, sections 1 and 2).

Each case is one right request with one thing wrong. Refusals change nothing, so one waiting request a call serves them
all; at the end it is accepted after all.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest
from conformance.bundle import Bundle
from conformance.calls import STATUS_OF, Connection, Refusal, refused
from conformance.drafts import Draft, as_it_is
from conformance.emv import CardKey
from conformance.phone import Certified, Phone
from conformance.played import PlayedBank
from conformance.service import PlayedTsm, Wallet, sign_on
from conformance.shop import Shop
from conformance.stage import Phones, Registered
from conformance.wire import DAY_S, ORDER, Key, Signed, Signer, decode, encode, head, media_type

STEPS = {
    "Bank.Challenge": "ATT_D1",
    "Bank.Enroll": "INIT_3",
    "Bank.ApproveInstall": "ATT_D6",
    "Bank.ReportInstall": "ATT_D7",
    "Bank.VerifyLaunch": "ATT_L6",
    "Bank.RequestAccount": "AID_1",
    "Bank.CertifyAccount": "AID_5",
    "Bank.ActivateAccount": "AID_8",
    "Bank.ApproveGrant": "TID_3b",
    "Bank.ReleaseGrant": "TID_release",
    "Bank.SubmitClaim": "SETTLE_claim",
    "Tsm.OpenAccount": "TID_1a",
    "Tsm.ProveCredit": "TID_2d",
    "Tsm.CloseAccount": "TID_close",
    "Tsm.RequestCards": "CARD_1",
    "Tsm.IssueCards": "CARD_3",
    "Tsm.ActivateCards": "CARD_5",
    "Tsm.SignOn": "sign_on",
    "Tsm.Authorize": "PAY",
    "Tsm.AuthorizeBatch": "PAY_batch",
    "Tsm.Reverse": "PAY_reversal",
    "Tsm.Refund": "PAY_refund",
    "Tsm.SettleBatch": "SETTLE_batch",
}
IDS = [f"{step}-{rpc}" for rpc, step in STEPS.items()]
STATELESS = {"Tsm.OpenAccount"}
"""Nothing is kept, so the same bytes may get another answer."""


# --- a right request for each call -----------------------------------------------------------------------------------
class Scenes:
    """Makes a request that would be accepted, for each call."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._fixture = request.getfixturevalue
        self._waiting: dict[str, Draft[Any]] = {}

    def waiting(self, rpc: str) -> Draft[Any]:
        """The one that the refusals of this module are tried with."""
        if rpc not in self._waiting:
            self._waiting[rpc] = self.fresh(rpc)
        return self._waiting[rpc]

    def fresh(self, rpc: str) -> Draft[Any]:
        """One of its own."""
        self._fixture("with_bank" if rpc.startswith("Bank") else "with_tsm")
        name = "".join(f"_{char.lower()}" if char.isupper() else char for char in rpc.split(".")[1])
        draft: Draft[Any] = getattr(self, name.removeprefix("_"))()
        assert draft.rpc == rpc
        return draft

    # the bank
    @cached_property
    def phones(self) -> Phones:
        return self._fixture("phones")  # type: ignore[no-any-return]

    @cached_property
    def ready(self) -> Phone:
        return self._fixture("ready")  # type: ignore[no-any-return]

    @property
    def payer(self) -> Phone:
        return self.phones.payer()

    @cached_property
    def tsm(self) -> PlayedTsm:
        return self._fixture("played_tsm")  # type: ignore[no-any-return]

    def challenge(self) -> Draft[Signed]:
        return self.ready.challenge("account")

    def enroll(self) -> Draft[Signed]:
        return self.phones.new().enroll()

    def approve_install(self) -> Draft[Signed]:
        return self.phones.enrolled().attest("install")

    def report_install(self) -> Draft[Signed]:
        phone = self.phones.enrolled()
        phone.attest("install").send()
        return phone.attest("report")

    def verify_launch(self) -> Draft[Signed]:
        return self.phones.installed().attest("launch")

    def request_account(self) -> Draft[Signed]:
        return self.ready.request_account(os.urandom(32), os.urandom(32))

    def certify_account(self) -> Draft[Certified]:
        phone = self.payer
        return phone.certify(phone.opening())

    def activate_account(self) -> Draft[Signed]:
        phone = self.payer
        opening = phone.opening()
        return phone.activate(opening, phone.certify(opening).send(), self.tsm.name)

    def approve_grant(self) -> Draft[Signed]:
        return self.tsm.ask(self.payer.account(self.tsm.name))

    def release_grant(self) -> Draft[Signed]:
        draft = self.approve_grant()
        draft.send()
        return self.tsm.release(draft.payload["aid"], draft.payload["sid"])

    def submit_claim(self) -> Draft[Signed]:
        draft = self.approve_grant()
        draft.send()
        said = {
            "aid": draft.payload["aid"], "sid_digest": hashlib.sha256(draft.payload["sid"]).digest(), "sequence": 1,
            "claimed_minor": 0, "credited_minor": 0, "currency": draft.payload["currency"], "root": bytes(32),
            "closing": False,
        }  # fmt: skip
        return self.tsm.claim(said)

    # the TSM
    @cached_property
    def bundle(self) -> Bundle:
        return self._fixture("bundle")  # type: ignore[no-any-return]

    def wallet(self) -> Wallet:
        return Wallet(self.bundle.tsm, self._fixture("to_tsm"))

    def registered(self) -> Registered:
        return Registered(self.wallet(), self._fixture("played_bank"))

    def open_account(self) -> Draft[Signed]:
        return self.wallet().open_account()

    def prove_credit(self) -> Draft[Signed]:
        bank: PlayedBank = self._fixture("played_bank")
        wallet = self.wallet()
        return wallet.prove(bank.account(), wallet.offer())

    def close_account(self) -> Draft[Signed]:
        holder = self.registered()
        return holder.wallet.close(holder.offer)

    def request_cards(self) -> Draft[Signed]:
        holder = self.registered()
        return holder.wallet.request_cards(holder.offer, os.urandom(32))

    def issue_cards(self) -> Draft[Signed]:
        holder = self.registered()
        return holder.wallet.card_keys(holder.account, holder.offer, *holder.session(), [CardKey.new()])

    def activate_cards(self) -> Draft[Signed]:
        holder = self.registered()
        n_u, n_t = holder.session()
        issued = holder.wallet.card_keys(holder.account, holder.offer, n_u, n_t, [CardKey.new()]).send()
        return holder.wallet.activate_cards(holder.offer, n_t, [card["pan"] for card in issued["cards"]])

    @cached_property
    def shop(self) -> Connection:
        merchant = self.bundle.merchants[0]
        return Connection(self.bundle.tsm.mutual_address, self.bundle.tsm.name, merchant.tls)

    def sign_on(self) -> Draft[Signed]:
        return sign_on(self.bundle.tsm, self.bundle.merchants[0], self.shop)

    @cached_property
    def terminal(self) -> Shop:
        return Shop(self.bundle.tsm, self.bundle.merchants[0], self.shop).ready()

    def purchase(self) -> dict[str, Any]:
        (card,) = self.registered().cards()
        return card.pay(self.terminal.values(100))

    def authorize(self) -> Draft[Signed]:
        return self.terminal.authorize(self.purchase())

    def authorize_batch(self) -> Draft[Signed]:
        return self.terminal.authorize_batch([self.purchase()])

    def reverse(self) -> Draft[Signed]:
        purchase = self.purchase()
        assert self.terminal.decide(purchase)["verdict"] == "approved"
        return self.terminal.reverse(purchase["sale"])

    def refund(self) -> Draft[Signed]:
        purchase = self.purchase()
        assert self.terminal.decide(purchase)["verdict"] == "approved"
        return self.terminal.refund(purchase["sale"], 1)

    def settle_batch(self) -> Draft[Signed]:
        purchase = self.purchase()
        assert self.terminal.decide(purchase)["verdict"] == "approved"
        return self.terminal.settle({purchase["sale"]: 100})


@pytest.fixture(scope="module")
def scenes(request: pytest.FixtureRequest) -> Scenes:
    return Scenes(request)


# --- what may be wrong with it ---------------------------------------------------------------------------------------
def encrypted(draft: Draft[Any]) -> bool:
    """Is the request anything but form S?"""
    return draft.wrap is not as_it_is


def changed(draft: Draft[Any], change: Callable[[bytes], bytes]) -> bytes:
    """The request's bytes, changed."""
    return change(draft.cose())


def outer(draft: Draft[Any], change: Callable[[list[Any]], list[Any]]) -> bytes:
    """The request with another outermost COSE array."""
    cose = draft.cose()
    return cose[:1] + encode(change(decode(cose[1:])))


def long_head(data: bytes) -> bytes:
    """The same array or map, its length in two bytes instead of one."""
    return bytes([data[0] & 0xE0 | 24, data[0] & 0x1F]) + data[1:]


def long_map(draft: Draft[Any]) -> bytes:
    return long_head(encode(draft.payload))


def doubled(draft: Draft[Any]) -> bytes:
    """One key twice, with the same value."""
    body = encode(draft.payload)
    name = min(draft.payload, key=lambda key: (len(key), key))
    pair = encode(name) + encode(draft.payload[name])
    return head(5, len(draft.payload) + 1) + pair + body[1:]


def out_of_order(draft: Draft[Any]) -> bytes:
    """Pairs in another order, or, where there is one only, its length in a long form."""
    pairs = sorted((encode(key), encode(value)) for key, value in draft.payload.items())
    if len(pairs) < 2:
        return long_map(draft)
    return head(5, len(pairs)) + b"".join(key + value for key, value in pairs[::-1])


def indefinite(draft: Draft[Any]) -> bytes:
    """A map of indefinite length."""
    return b"\xbf" + encode(draft.payload)[1:] + b"\xff"


def a_field(draft: Draft[Any]) -> str:
    return next(iter(draft.payload))


@dataclass(frozen=True)
class Wrong:
    """Makes the request wrong; it must be refused with one of `codes`, other ones where it is encrypted."""

    make: Callable[[Draft[Any]], bytes]
    codes: tuple[str, ...]
    when_encrypted: tuple[str, ...] = ()
    only: str = ""

    def expected(self, draft: Draft[Any]) -> tuple[str, ...]:
        return self.when_encrypted if encrypted(draft) and self.when_encrypted else self.codes


def _signed(code: str, **changes: Any) -> Wrong:
    """Another signature, in the right wrapping."""
    return Wrong(lambda draft: draft.cose(**changes), (code,))


def _payload(code: str, change: Callable[[Draft[Any]], Any]) -> Wrong:
    return Wrong(lambda draft: draft.cose(payload=change(draft)), (code,))


NOW = int(time.time())
STRANGER = Key.new()
AS_UNKNOWN = ("UNKNOWN_KEY", "SIGNATURE_INVALID", "WRONG_ISSUER")
NOT_COSE = ("WRONG_MESSAGE", "MALFORMED")

BYTES: dict[str, Wrong] = {
    "nothing": Wrong(lambda _draft: b"", NOT_COSE),
    "garbage": Wrong(lambda _draft: bytes(200), NOT_COSE),
    "other_tag": Wrong(lambda draft: b"\xd1" + draft.cose()[1:], NOT_COSE),
    "no_tag": Wrong(lambda draft: draft.cose()[1:], NOT_COSE),
    "truncated": Wrong(lambda draft: draft.cose()[:-1], ("MALFORMED",)),
    "trailing_byte": Wrong(lambda draft: draft.cose() + b"\0", ("MALFORMED",)),
    "long_array_head": Wrong(lambda draft: changed(draft, lambda cose: cose[:1] + long_head(cose[1:])), ("MALFORMED",)),
    "more_parts": Wrong(lambda draft: outer(draft, lambda parts: [*parts, b""]), ("MALFORMED",)),
    "fewer_parts": Wrong(lambda draft: outer(draft, lambda parts: parts[:-1]), ("MALFORMED",)),
    "unprotected_header": Wrong(lambda draft: outer(draft, lambda p: [p[0], {4: b"kid"}, *p[2:]]), ("MALFORMED",)),
    "protected_not_bytes": Wrong(lambda draft: outer(draft, lambda p: [{}, *p[1:]]), ("MALFORMED",)),
    "empty_protected": Wrong(lambda draft: outer(draft, lambda p: [b"", *p[1:]]), ("MALFORMED",)),
    "flipped_last_bit": Wrong(
        lambda draft: changed(draft, lambda cose: cose[:-1] + bytes([cose[-1] ^ 1])),
        ("SIGNATURE_INVALID",), ("DECRYPTION_FAILED",),
    ),
    "signature_without_encryption": Wrong(lambda draft: draft.signed(), (), ("WRONG_MESSAGE",), only="encrypted"),
    "encryption_of_another_message": Wrong(
        lambda draft: outer(draft, lambda p: [encode({**decode(p[0]), 3: media_type("challenge")}), *p[1:]]),
        (), ("WRONG_MESSAGE",), only="encrypted",
    ),
    "encryption_by_another_algorithm": Wrong(
        lambda draft: outer(draft, lambda p: [encode({**decode(p[0]), 1: 1}), *p[1:]]),
        (), ("MALFORMED",), only="encrypted",
    ),
    "ciphertext_too_short": Wrong(
        lambda draft: outer(draft, lambda p: [*p[:2], p[2][:8]]), (), ("DECRYPTION_FAILED",), only="encrypted"
    ),
    "encrypted_garbage": Wrong(
        lambda draft: draft.wrap(bytes(64)), (), ("WRONG_MESSAGE", "MALFORMED"), only="encrypted"
    ),
}  # fmt: skip
HEADER: dict[str, Wrong] = {
    "content_type_of_another_message": _signed("WRONG_MESSAGE", media=media_type("challenge")),
    "content_type_of_another_protocol": _signed("WRONG_MESSAGE", media="application/cbor"),
    "bound_to_another_message": _signed("SIGNATURE_INVALID", bound_name="challenge"),
    "bound_as_a_reply": _signed("SIGNATURE_INVALID", digest=bytes(32)),
    "another_algorithm": _signed("MALFORMED", alg=-35),
    "algorithm_none": _signed("MALFORMED", alg=0),
    "more_header": _signed("MALFORMED", more_header={33: b"x5chain"}),
    "critical_header": _signed("MALFORMED", more_header={2: [1]}),
    "more_claims": _signed("MALFORMED", more_claims={2: "subject"}),
    "short_cti": _signed("MALFORMED", cti=bytes(15)),
    "long_cti": _signed("MALFORMED", cti=bytes(17)),
    "signature_with_unprotected_header": _signed("MALFORMED", unprotected={4: b"kid"}),
}
CLAIMS: dict[str, Wrong] = {
    "another_audience": _signed("WRONG_AUDIENCE", audience="party-x"),
    "no_audience": _signed("WRONG_AUDIENCE", audience=""),
    "another_issuer": _signed("WRONG_ISSUER", issuer="party-x"),
    "expired": _signed("EXPIRED", iat=NOW - 7200, exp=NOW - 3600),
    "expired_beyond_the_skew": _signed("EXPIRED", iat=NOW - 7200, exp=NOW - 90),
    "of_the_future": _signed("NOT_YET_VALID", iat=NOW + 7200),
    "over_a_day": _signed("LIFETIME_TOO_LONG", iat=NOW - 60, exp=NOW - 60 + DAY_S + 1),
    "no_lifetime": _signed("LIFETIME_TOO_LONG", iat=NOW, exp=NOW),
    "backward_lifetime": _signed("LIFETIME_TOO_LONG", iat=NOW, exp=NOW - 30),
    "time_that_is_none": _signed("MALFORMED", exp=1 << 40),
}
SIGNER: dict[str, Wrong] = {
    "stranger": Wrong(lambda draft: draft.cose(signer=Signer(draft.signer.name, STRANGER)), AS_UNKNOWN),
    "stranger_with_the_right_kid": Wrong(
        lambda draft: draft.cose(signer=Signer(draft.signer.name, STRANGER), kid=draft.signer.key.kid),
        ("SIGNATURE_INVALID",),
    ),
}
PAYLOAD: dict[str, Wrong] = {
    "unknown_field": _payload("MALFORMED", lambda draft: {**draft.payload, "zz": 1}),
    "missing_field": _payload(
        "MALFORMED", lambda draft: {key: draft.payload[key] for key in draft.payload if key != a_field(draft)}
    ),
    "field_of_another_type": _payload("MALFORMED", lambda draft: {**draft.payload, a_field(draft): True}),
    "field_that_is_null": _payload("MALFORMED", lambda draft: _raw_field(draft, b"\xf6")),
    "field_that_is_a_float": _payload("MALFORMED", lambda draft: _raw_field(draft, b"\xf9\x3c\x00")),
    "field_with_a_tag": _payload("MALFORMED", lambda draft: _raw_field(draft, b"\xc2\x41\x01")),
    "numbered_fields": _payload("MALFORMED", lambda draft: dict(enumerate(draft.payload.values()))),
    "array": _payload("MALFORMED", lambda draft: encode(list(draft.payload.values()))),
    "not_cbor": _payload("MALFORMED", lambda _draft: b"\xff\xff"),
    "empty_payload": _payload("MALFORMED", lambda _draft: b""),
    "payload_with_trailing_byte": _payload("MALFORMED", lambda draft: encode(draft.payload) + b"\0"),
    "long_map_head": _payload("MALFORMED", long_map),
    "key_twice": _payload("MALFORMED", doubled),
    "keys_out_of_order": _payload("MALFORMED", out_of_order),
    "indefinite_length": _payload("MALFORMED", indefinite),
    "deep_nesting": _payload("MALFORMED", lambda _draft: b"\x81" * 400 + b"\0"),
    "oversized_field": _payload("OVERSIZE", lambda draft: {**draft.payload, a_field(draft): bytes(300_000)}),
}  # fmt: skip


def _raw_field(draft: Draft[Any], raw: bytes) -> bytes:
    """The first field with this encoding."""
    first = a_field(draft)
    pairs = sorted((encode(key), raw if key == first else encode(value)) for key, value in draft.payload.items())
    return head(5, len(pairs)) + b"".join(key + value for key, value in pairs)


CONFUSED = (
    "WRONG_MESSAGE", "MALFORMED", "DECRYPTION_FAILED", "UNKNOWN_KEY", "SIGNATURE_INVALID", "FIELD_MISMATCH",
    "UNKNOWN_SESSION", "OVERSIZE",
)  # fmt: skip
GROUPS = {"bytes": BYTES, "header": HEADER, "claims": CLAIMS, "signer": SIGNER, "payload": PAYLOAD}


def answer_to(draft: Draft[Any], wrong: Wrong) -> str:
    """The code of the refusal, if it comes with its own status; otherwise what came instead."""
    try:
        draft.post(wrong.make(draft))
    except Refusal as refusal:
        return refusal.code if refusal.status == STATUS_OF.get(refusal.code) else str(refusal)
    return "accepted"


@pytest.mark.parametrize("rpc", STEPS, ids=IDS)
@pytest.mark.parametrize("group", GROUPS)
def test_every_step_refuses_wrong(group: str, rpc: str, scenes: Scenes) -> None:
    """All cases of a group; what is not refused as it should be is told together."""
    draft = scenes.waiting(rpc)
    cases = {name: wrong for name, wrong in GROUPS[group].items() if wrong.only != "encrypted" or encrypted(draft)}
    answers = {name: (answer_to(draft, wrong), wrong.expected(draft)) for name, wrong in cases.items()}
    assert {name: told for name, told in answers.items() if told[0] not in told[1]} == {}


@pytest.mark.parametrize("rpc", STEPS, ids=IDS)
def test_every_step_refuses_a_wrong_session(rpc: str, scenes: Scenes) -> None:
    """The handle belongs to no session; a call without a session takes none."""
    draft = scenes.waiting(rpc)
    for session in (os.urandom(16), os.urandom(32)):
        with refused("UNKNOWN_SESSION" if draft.session else "MALFORMED"):
            draft.post(draft.cose(), session)
    if draft.session:
        with refused("UNKNOWN_SESSION"):
            draft.post(draft.cose(), b"")


@pytest.mark.parametrize("rpc", STEPS, ids=IDS)
def test_every_step_refuses_the_requests_of_other_steps(rpc: str, scenes: Scenes) -> None:
    """What was said to one call is said to no other, though one key signed it."""
    draft = scenes.waiting(rpc)
    party = rpc.split(".", maxsplit=1)[0]
    for other in STEPS:
        if other == rpc or not other.startswith(party):
            continue
        foreign = scenes.waiting(other)
        for session in {foreign.session, draft.session}:
            with refused(*CONFUSED):
                draft.post(foreign.cose(), session)


@pytest.mark.parametrize("rpc", ["Bank.Challenge", "Tsm.OpenAccount"], ids=["ATT_D1", "TID_1a"])
def test_every_step_refuses_megabytes(rpc: str, scenes: Scenes) -> None:
    """Here the transport may refuse first, without a code."""
    draft = scenes.waiting(rpc)
    with pytest.raises(Refusal) as caught:
        draft.post(bytes(5_000_000))
    assert caught.value.status in ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT")


# --- what is right ---------------------------------------------------------------------------------------------------
def plain(reply: Any) -> Any:
    """What a reply says."""
    return (reply.certificate.payload, reply.key) if isinstance(reply, Certified) else reply.payload


@pytest.mark.parametrize("rpc", STEPS, ids=IDS)
def test_every_step_accepts_after_all_refusals(rpc: str, scenes: Scenes) -> None:
    """A refusal changes nothing: the request that waited is accepted. Its reply was checked field by field."""
    assert plain(scenes.waiting(rpc).send())


@pytest.mark.parametrize("rpc", STEPS, ids=IDS)
def test_every_step_accepts_a_clock_within_the_skew(rpc: str, scenes: Scenes) -> None:
    now_s = int(time.time())
    if rpc in ("Bank.Challenge", "Tsm.OpenAccount", "Tsm.SignOn", "Bank.RequestAccount"):
        assert plain(scenes.fresh(rpc).send(iat=now_s + 45))
        assert plain(scenes.fresh(rpc).send(iat=now_s - 3600, exp=now_s - 30))
        assert plain(scenes.fresh(rpc).send(iat=now_s - 60, exp=now_s - 60 + DAY_S))


@pytest.mark.parametrize("rpc", STEPS, ids=IDS)
def test_every_step_answers_the_same_bytes_alike_and_refuses_a_used_nonce(rpc: str, scenes: Scenes) -> None:
    """The same bytes again: the same answer, no second effect. The same cti in other bytes: a replay."""
    draft = scenes.fresh(rpc)
    cti = os.urandom(16)
    signed = draft.signed(cti=cti)
    cose = draft.wrap(signed)
    first, again = draft.post(cose), draft.post(cose)
    if rpc in STATELESS:
        return
    assert plain(first) == plain(again)
    if encrypted(draft):
        with refused("REPLAY"):
            draft.post(draft.wrap(signed))
    with refused("REPLAY"):
        draft.send(cti=cti, exp=int(time.time()) + 1800)
    assert plain(draft.post(cose)) == plain(first)


def test_ATT_D1_a_mirrored_signature_is_no_new_request(scenes: Scenes) -> None:
    """(r, n - s) verifies as (r, s) does: other bytes, but the same cti."""
    draft = scenes.fresh("Bank.Challenge")
    cose = draft.cose()
    draft.post(cose)
    signature = cose[-64:]
    mirrored = signature[:32] + (ORDER - int.from_bytes(signature[32:])).to_bytes(32)
    with refused("REPLAY", "SIGNATURE_INVALID"):
        draft.post(cose[:-64] + mirrored)


def test_AID_5_a_cti_belongs_to_its_key(scenes: Scenes) -> None:
    """Two signers may happen to draw the same."""
    cti = os.urandom(16)
    for phone in (scenes.ready, scenes.payer):
        assert phone.request_account(os.urandom(32), os.urandom(32)).send(cti=cti)


# --- at the same time ------------------------------------------------------------------------------------------------
def all_at_once(number: int, call: Callable[[int], Any]) -> list[Any]:
    """The results of `call`, or the code of its refusal, from so many threads."""

    def one(place: int) -> Any:
        try:
            return plain(call(place))
        except Refusal as refusal:
            return refusal.code

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(one, range(number)))


@pytest.mark.parametrize("rpc", [
    "Bank.CertifyAccount", "Bank.ApproveGrant", "Tsm.ProveCredit", "Tsm.IssueCards", "Tsm.Authorize", "Tsm.Refund",
    "Tsm.SettleBatch",
])  # fmt: skip
def test_every_step_answers_duplicates_in_progress_alike(rpc: str, scenes: Scenes) -> None:
    draft = scenes.fresh(rpc)
    cose = draft.cose()
    answers = all_at_once(6, lambda _place: draft.post(cose))
    assert not isinstance(answers[0], str), answers
    assert all(before == after for before, after in itertools.pairwise(answers))


def test_TID_3d_of_many_sessions_at_once_one_gets_the_grant(scenes: Scenes) -> None:
    account = scenes.payer.account(scenes.tsm.name)
    drafts = [scenes.tsm.ask(account) for _ in range(6)]
    answers = all_at_once(6, lambda place: drafts[place].send())
    assert sorted(answer for answer in answers if isinstance(answer, str)) == ["AID_ALREADY_GRANTED"] * 5


def test_AID_5_of_many_requests_at_once_a_session_gets_one_account(scenes: Scenes) -> None:
    phone = scenes.payer
    opening = phone.opening()
    drafts = [phone.certify(opening) for _ in range(4)]
    answers = all_at_once(4, lambda place: drafts[place].send())
    assert sorted(answer for answer in answers if isinstance(answer, str)) == ["WRONG_STATE"] * 3


def test_TID_3_of_many_proofs_at_once_a_cookie_serves_one(scenes: Scenes) -> None:
    scenes.fresh("Tsm.OpenAccount")
    bank: PlayedBank = scenes._fixture("played_bank")
    wallet = scenes.wallet()
    offer = wallet.offer()
    drafts = [wallet.prove(bank.account(), offer) for _ in range(4)]
    answers = all_at_once(4, lambda place: drafts[place].send())
    assert sorted(answer for answer in answers if isinstance(answer, str)) == ["REPLAY"] * 3


def test_CARD_3_of_many_requests_at_once_a_session_issues_once(scenes: Scenes) -> None:
    scenes.fresh("Tsm.OpenAccount")
    holder = scenes.registered()
    n_u, n_t = holder.session()
    keys = [CardKey.new() for _ in range(3)]
    drafts = [holder.wallet.card_keys(holder.account, holder.offer, n_u, n_t, [key]) for key in keys]
    answers = all_at_once(3, lambda place: drafts[place].send())
    assert sorted(answer for answer in answers if isinstance(answer, str)) == ["WRONG_STATE"] * 2
