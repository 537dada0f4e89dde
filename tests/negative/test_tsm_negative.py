"""The TSM's steps against a phone, a bank and a merchant that lie: one row a lie, with the class that refuses it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.claims import close_released
from support.world import card_key

from protocol.card.possession import sign_possession
from protocol.commitments import card_leaf, commitment, merkle_root, possession_digest
from protocol.crypto import PrivateKey, sha256
from protocol.envelope import Wire
from protocol.errors import (
    AidAlreadyGranted,
    CardKeyInvalid,
    CommitmentMismatch,
    DecryptionFailed,
    Expired,
    FieldMismatch,
    GrantUnknown,
    IdentifierTaken,
    Malformed,
    NonceMismatch,
    Oversize,
    PassInvalid,
    PeerAnswerInvalid,
    PossessionInvalid,
    ProtocolError,
    Replay,
    SignatureInvalid,
    Unavailable,
    UnknownAccount,
    UnknownKey,
    UnknownSession,
    WrongAudience,
    WrongIssuer,
    WrongMessage,
    WrongState,
)
from protocol.messages.card import CardKey
from protocol.roles.tsm.tables import CARD_SESSIONS, CARDS, SERVICES, TERMINALS, TID_LIST

N = bytes(32)
OFF_CURVE = b"\x04" + b"\x01" * 64


def theirs(bench: Any, rpc: str, n: int = 0) -> Any:
    """The other phone's request to the same RPC, opened."""
    found = [taken for taken in bench.tape.taken[: bench.tape.start] if taken.rpc == rpc]
    return bench.ring.request(found[n])


def store(bench: Any) -> Any:
    return bench.tape.parties["tsm-1"].store


def bank_answers(bench: Any, alter: Any) -> None:
    """From now on this becomes of whatever the bank answers to the TSM."""
    tape = bench.tape
    peers = tape.parties["tsm-1"].engine._peers
    tape.parties["tsm-1"].engine._peers = _Lying(peers, alter)


class _Lying:
    def __init__(self, peers: Any, alter: Any) -> None:
        self.honest = getattr(peers, "honest", peers)
        self._alter = alter

    def call(self, peer: str, rpc: str, request: Wire) -> Wire:
        wire: Wire = self._alter(request, self.honest.call(peer, rpc, request))
        return wire


@pytest.fixture(autouse=True)
def _honest(bench: Any) -> Any:
    yield
    engine = bench.tape.parties["tsm-1"].engine
    engine._peers = getattr(engine._peers, "honest", engine._peers)


# --- OpenAccount ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"pk_tid": OFF_CURVE}, Malformed),
        ({"ek_tid": OFF_CURVE}, Malformed),
        ({"tid": "t-other"}, WrongIssuer),
        (lambda m: {"pk_tid": m.ek_tid}, SignatureInvalid),
        (lambda m: {"ek_tid": m.pk_tid}, FieldMismatch),
    ],
)
def test_open_account(bench, fields: Any, error: type[ProtocolError]) -> None:
    bench.forged("Tsm.OpenAccount", fields, error)


def test_open_account_keeps_nothing(bench) -> None:
    taken, letter = bench.rewind("Tsm.OpenAccount")
    with bench.tape.unchanged():
        for _ in range(3):
            bench.tape.deliver(taken.peer, taken.rpc, Wire(cose=letter.written()), None)


# --- ProveCredit ---------------------------------------------------------------------------------------------------
INFO: tuple[tuple[Any, type[ProtocolError]], ...] = (
    ({"tid": "t-other"}, FieldMismatch),
    ({"binfo_digest": N}, FieldMismatch),
    ({"sid": b"other"}, NonceMismatch),
    ({"n_t": N}, NonceMismatch),
    ({"r": N}, CommitmentMismatch),
    ({"com": N}, CommitmentMismatch),
    ({"bank": "bank-b"}, PassInvalid),
    ({"bank": "bank-9"}, UnknownKey),
    ({"bank": "tsm-2"}, UnknownAccount),
    ({"bank": "shop-1"}, UnknownAccount),
    ({"aid": "a-other"}, PassInvalid),
)


@pytest.mark.parametrize(("fields", "error"), INFO)
def test_tsm_info(bench, fields: Any, error: type[ProtocolError]) -> None:
    """TID-3a: a user whose TSMINFO says something else than cookie, BINFO and pass."""
    taken, letter = bench.rewind("Tsm.ProveCredit")
    info = bench.ring.open(letter.message.tsminfo)
    bench.refused(taken, letter.written({"tsminfo": info.written(fields)}), error)


INFO_TO_BANK = ({"n2": N}, {"expires_at_s": 1_900_000_000}, {"limit_minor": 10**9}, {"currency": "EUR"})


@pytest.mark.parametrize("fields", INFO_TO_BANK)
def test_what_only_the_bank_can_compare(bench, fields: Any) -> None:
    """The TSM can't open BINFO. The bank refuses; the TSM keeps that this session was refused, and no service."""
    taken, letter = bench.rewind("Tsm.ProveCredit")
    info = bench.ring.open(letter.message.tsminfo)
    wire = replace(taken.wire, cose=letter.written({"tsminfo": info.written(fields)}))
    services = store(bench).scan(SERVICES)
    kept = ("requests", "evidence", TID_LIST.name)
    bench.refused(taken, wire, FieldMismatch, but=kept)
    assert store(bench).scan(SERVICES) == services
    assert next(row for row in store(bench).scan(TID_LIST) if row.sid == taken.wire.session).state == "REFUSED"
    bench.refused(taken, wire, FieldMismatch)  # the same bytes: the same refusal
    bench.refused(taken, letter.written(), Replay)  # one TID-3 a session, refused or not


def test_expired_credit_is_not_even_asked_about(bench) -> None:
    taken, letter = bench.rewind("Tsm.ProveCredit")
    info = bench.ring.open(letter.message.tsminfo)
    for fields in ({"expires_at_s": bench.tape.clock.now_s()}, {"expires_at_s": 0}):
        calls = len(bench.tape.calls)
        bench.refused(taken, letter.written({"tsminfo": info.written(fields)}), Expired)
        assert len(bench.tape.calls) == calls + 1


def test_who_signs_tsm_info(bench) -> None:
    taken, letter = bench.rewind("Tsm.ProveCredit")
    info, other = bench.ring.open(letter.message.tsminfo), theirs(bench, "Tsm.ProveCredit")
    now_s = bench.tape.clock.now_s()
    cases: tuple[tuple[bytes, type[ProtocolError]], ...] = (
        (info.written(key=other.key), SignatureInvalid),
        (info.written(claims={"audience": "tsm-2"}), WrongAudience),
        (info.written(claims={"issuer": "t-other"}), WrongIssuer),
        (info.written(claims={"issued_at_s": now_s - 7200, "expires_at_s": now_s - 3600}), Expired),
        (info.written(name="bank-info"), WrongMessage),
        (other.message.tsminfo, SignatureInvalid),
    )
    for tsminfo, error in cases:
        bench.refused(taken, letter.written({"tsminfo": tsminfo}), error)


def test_a_stolen_launch_pass(bench) -> None:
    """TID-3: the pass of another AID, TSM, bank or time; and the right pass, shown by who does not hold its key."""
    taken, letter = bench.rewind("Tsm.ProveCredit")
    tape, ring = bench.tape, bench.ring
    shown, held = ring.open(letter.message.launch_pass), ring.open(letter.message.possession)
    other = theirs(bench, "Tsm.ProveCredit").message
    start_s = shown.sign1.claims.issued_at_s
    passes: tuple[bytes, ...] = (
        other.launch_pass,
        shown.written({"aid": "a-other"}),
        shown.written(claims={"audience": "tsm-2"}),
        shown.written(claims={"issuer": "bank-b"}),
        shown.written(claims={"expires_at_s": start_s + 24 * 3600 + 1}),
        shown.written(claims={"issued_at_s": start_s - 10**5, "expires_at_s": start_s - 10**4}),
        shown.written(claims={"issued_at_s": start_s + 10**5, "expires_at_s": start_s + 10**5 + 60}),
        shown.written(key=tape.parties["bank-b"].value.keys.sign),
        shown.written(key=held.key),
        shown.written(name="promise"),
        b"\xd2",
        letter.message.possession,
    )
    for launch_pass in passes:
        bench.refused(taken, letter.written({"launch_pass": launch_pass}), PassInvalid)
    possessions: tuple[bytes, ...] = (
        other.possession,
        held.written({"sid": b"other"}),
        held.written({"pass_digest": N}),
        held.written({"pass_digest": sha256(other.launch_pass)}),
        held.written(key=letter.key),
        held.written(claims={"issuer": "a-other"}),
        held.written(claims={"audience": "bank-a"}),
        ring.open(ring.request(tape.take("Tsm.IssueCards")).message.possession).sign1.wire,
        b"\xd2",
    )
    for possession in possessions:
        bench.refused(taken, letter.written({"possession": possession}), PossessionInvalid)
    off = shown.written({"pk_aid": OFF_CURVE})
    bench.refused(taken, letter.written({"launch_pass": off}), PossessionInvalid)


def test_a_session_ends_after_an_hour(bench) -> None:
    taken, letter = bench.rewind("Tsm.ProveCredit")
    bench.tape.clock.time_s += 3601
    bench.refused(taken, letter.written(), UnknownSession)
    bench.refused(taken, taken.wire, UnknownSession)


def test_another_tsms_cookie(bench) -> None:
    """SID is a cookie under the TSM's own key: another TSM's opens nothing."""
    taken, letter = bench.rewind("Tsm.ProveCredit")
    with bench.tape.unchanged(), pytest.raises(UnknownSession):
        bench.tape.deliver("tsm-2", taken.rpc, replace(taken.wire, cose=letter.written()), None)


def test_a_tid_belongs_to_one_key(bench) -> None:
    """Somebody else asks for a TID that is registered, or whose bank is being asked; or a key for a second TID."""
    tape = bench.tape
    own, _ = bench.rewind("Tsm.ProveCredit")
    victim = theirs(bench, "Tsm.OpenAccount").message.tid
    stolen = _session_for(bench, victim)
    bench.refused(own, stolen, IdentifierTaken)
    # a second TID under a key that has one
    tape.send_again(own)
    second = _session_for(bench, "t-second")
    bench.refused(own, second, IdentifierTaken)


def test_a_tid_is_taken_while_its_bank_is_asked(bench) -> None:
    """The first unit reserves the TID: who comes in between with another key does not become its owner."""
    tape = bench.tape
    own, letter = bench.rewind("Tsm.ProveCredit")
    tid = bench.ring.open(letter.message.tsminfo).message.tid
    _unreachable(tape)
    with pytest.raises(Unavailable):
        tape.send_again(own)
    thief = PrivateKey.generate(tape.entropy)
    bench.ring.signing[thief.public.thumbprint] = thief
    bench.refused(own, _session_for(bench, tid, key=thief), IdentifierTaken)
    tape.tap = None
    tape.send_again(own)
    (service,) = [row for row in store(bench).scan(SERVICES) if row.tid == tid]
    assert service.pk_tid == letter.key.public.encoded


def test_two_tids_of_one_key_side_by_side(bench) -> None:
    """Both were begun before either was accepted: the second answer of the bank finds the key taken."""
    tape = bench.tape
    own, letter = bench.rewind("Tsm.ProveCredit")
    second = _session_for(bench, "t-second")
    _unreachable(tape)
    for wire in (own.wire, second):
        with pytest.raises(Unavailable):
            tape.deliver(own.peer, own.rpc, wire, None)
    tape.tap = None
    tape.send_again(own)
    kept = ("requests", "outbox", "evidence", TID_LIST.name)
    bank_answers(bench, lambda request, answer: answer)
    with tape.unchanged(*kept, "live_grants", "grants"), pytest.raises(ProtocolError) as refusal:
        tape.deliver(own.peer, own.rpc, second, None)
    assert refusal.value.code == "IDENTIFIER_TAKEN"
    states = {row.tid: row.state for row in store(bench).scan(TID_LIST)}
    assert states["t-second"] == "REFUSED"
    assert bench.ring.open(letter.message.tsminfo).message.tid in states


def _unreachable(tape: Any) -> None:
    def tap(peer: str, rpc: str, wire: Wire) -> Wire:
        if rpc.startswith("Bank."):
            raise Unavailable
        return wire

    tape.tap = tap


@pytest.fixture(autouse=True)
def _reachable(bench: Any) -> Any:
    yield
    bench.tape.tap = None


def _session_for(bench: Any, tid: str, key: PrivateKey | None = None) -> Wire:
    """A whole ProveCredit for `tid`, by the taped user with the taped account, under `key`."""
    tape, ring = bench.tape, bench.ring
    taken = tape.take("Tsm.ProveCredit")
    letter = ring.request(taken)
    signer = key or letter.key
    asked = ring.request(tape.take("Tsm.OpenAccount"))
    fields = {"tid": tid, "pk_tid": signer.public.encoded}
    request = Wire(cose=asked.written(fields, {"issuer": tid}, key=signer))
    offer = ring.open(tape.deliver("tsm-1", "Tsm.OpenAccount", request, None).cose, request.digest).message
    info, held = ring.open(letter.message.tsminfo), ring.open(letter.message.possession)
    com = commitment(tid=tid, pk_tid=signer.public.encoded, sid=offer.sid, r=info.message.r)
    binfo = ring.open(letter.message.binfo).written({"sid": offer.sid, "com": com})
    said = {"tid": tid, "sid": offer.sid, "com": com, "n_t": offer.n_t, "binfo_digest": sha256(binfo)}
    proof = {
        "binfo": binfo, "tsminfo": info.written(said, {"issuer": tid}, key=signer),
        "possession": held.written({"sid": offer.sid}),
    }  # fmt: skip
    layers = (replace(letter.layers[0], key=offer.key),)
    return Wire(cose=letter.written(proof, {"issuer": tid}, key=signer, layers=layers), session=offer.sid)


# --- the bank's answer ---------------------------------------------------------------------------------------------
PROMISE = (
    {"sid": b"other"}, {"aid": "a-other"}, {"com": N}, {"binfo_digest": N}, {"n2": N}, {"expires_at_s": 1_900_000_000},
    {"limit_minor": 1}, {"currency": "EUR"},
)  # fmt: skip


@pytest.mark.parametrize("fields", PROMISE)
def test_a_promise_of_something_else(bench, fields: Any) -> None:
    def alter(letter: Any, answer: Wire) -> bytes:
        written: bytes = letter.written({"promise": bench.ring.open(letter.message.promise).written(fields)})
        return written

    _with_answer(bench, alter)


def test_an_approval_nobody_signed(bench) -> None:
    tape = bench.tape
    other = tape.parties["bank-b"].value.keys.sign
    forgeries: tuple[Any, ...] = (
        lambda letter, answer: letter.written(key=other),
        lambda letter, answer: letter.written(claims={"audience": "tsm-2"}),
        lambda letter, answer: letter.written(claims={"issuer": "bank-b"}),
        lambda letter, answer: letter.written(name="grant-released"),
        lambda letter, answer: letter.sign1.wire,
        lambda letter, answer: answer.cose[:-1] + bytes([answer.cose[-1] ^ 1]),
        lambda letter, answer: tape.take("Bank.ApproveGrant").reply.cose,
        lambda letter, answer: b"",
        lambda letter, answer: letter.written({"promise": letter.sign1.wire}),
        lambda letter, answer: letter.written({"promise": bench.ring.open(letter.message.promise).written(key=other)}),
    )
    for alter in forgeries:
        _with_answer(bench, alter)


def _with_answer(bench: Any, alter: Any) -> None:
    """ProveCredit with the bank's answer altered: no service comes of it, and the question stays open."""
    taken, _ = bench.rewind("Tsm.ProveCredit")
    services = store(bench).scan(SERVICES)

    def lie(request: Wire, answer: Wire) -> Wire:
        ring = type(bench.ring)(bench.tape)  # with the K_TSM,B of this very question
        return Wire(cose=alter(ring.open(answer.cose, request.digest), answer))

    bank_answers(bench, lie)
    kept = ("requests", "evidence", "outbox", "live_grants", "grants", "anonymous_accounts", TID_LIST.name)
    bench.refused(taken, taken.wire, PeerAnswerInvalid, but=kept)
    bench.refused(taken, taken.wire, PeerAnswerInvalid)
    assert store(bench).scan(SERVICES) == services
    assert _entry(bench, taken).state == "EXPECT_BANK_APPROVAL"
    bank_answers(bench, lambda request, answer: answer)
    bench.tape.send_again(taken)  # a forged answer did not end what the bank had granted
    assert _entry(bench, taken).state == "ACTIVE"


def _entry(bench: Any, taken: Any) -> Any:
    handles = (taken.wire.session, sha256(taken.wire.session))
    return next(row for row in store(bench).scan(TID_LIST) if row.sid_digest in handles)


def test_the_banks_refusal_is_passed_on(bench) -> None:
    """AID_ALREADY_GRANTED: the account has a live grant in another session."""
    taken, _ = bench.rewind("Tsm.ProveCredit")
    bench.tape.send_again(taken)
    second = _session_for(bench, bench.ring.open(bench.ring.request(taken).message.tsminfo).message.tid)
    services = store(bench).scan(SERVICES)
    with bench.tape.unchanged("requests", "evidence", TID_LIST.name), pytest.raises(AidAlreadyGranted) as refusal:
        bench.tape.deliver("tsm-1", taken.rpc, second, None)
    assert refusal.value.code == "AID_ALREADY_GRANTED"
    assert store(bench).scan(SERVICES) == services


def test_a_second_grant_under_the_same_tid(bench) -> None:
    """RECREDIT: the same TID and key, another session, after the first grant was given back."""
    tape = bench.tape
    taken, letter = bench.rewind("Tsm.ProveCredit")
    tape.send_again(taken)
    release = tape.take("Bank.ReleaseGrant")
    tape.clock.time_s = release.before["time_s"]
    tape.deliver(release.peer, release.rpc, release.wire, release.caller)
    close_released(tape)
    tid = bench.ring.open(letter.message.tsminfo).message.tid
    tape.deliver("tsm-1", taken.rpc, _session_for(bench, tid), None)
    assert [row.tid for row in store(bench).scan(SERVICES)].count(tid) == 1
    assert [row.tid for row in store(bench).scan(TID_LIST)].count(tid) == 2


# --- CARD ----------------------------------------------------------------------------------------------------------
def test_cards_are_for_who_has_a_service(bench) -> None:
    taken, letter = bench.rewind("Tsm.RequestCards")
    bench.refused(taken, letter.written(claims={"issuer": "t-other"}), WrongIssuer)
    other = theirs(bench, "Tsm.RequestCards")
    bench.refused(taken, letter.written(key=other.key), WrongIssuer)
    bench.tape.rewind("Tsm.ProveCredit")
    bench.refused(taken, letter.written(), UnknownKey)


@pytest.mark.parametrize("fields", [{"n_u": N}, {"n_t": N}])
def test_card_keys_are_for_one_session(bench, fields: Any) -> None:
    bench.forged("Tsm.IssueCards", fields, NonceMismatch)


def test_card_keys_name_the_tid_and_its_root(bench) -> None:
    bench.forged("Tsm.IssueCards", {"tid": "t-other"}, FieldMismatch)
    bench.forged("Tsm.IssueCards", {"root": N}, CardKeyInvalid)
    other = theirs(bench, "Tsm.IssueCards").message
    for field, error in (
        ("tid", FieldMismatch), ("n_u", NonceMismatch), ("n_t", NonceMismatch), ("root", CardKeyInvalid),
        ("launch_pass", PassInvalid), ("possession", PossessionInvalid),
    ):  # fmt: skip
        bench.forged("Tsm.IssueCards", {field: getattr(other, field)}, error)


def _rooted(letter: Any, keys: list[CardKey]) -> bytes:
    """CARD-3 with these keys, under their own signed root."""
    root = merkle_root([card_leaf(salt=key.salt, modulus=key.modulus) for key in keys])
    written: bytes = letter.written({"root": root}, rest=tuple(key.to_bytes() for key in keys))
    return written


def test_card_keys_are_sound_and_held(bench) -> None:
    taken, letter = bench.rewind("Tsm.IssueCards")
    first, second = (CardKey.from_bytes(part) for part in letter.rest)
    other = CardKey.from_bytes(theirs(bench, "Tsm.IssueCards").rest[0])
    weak = bytes([0x80]) + bytes(174) + b"\x0f"  # divisible by three
    for keys in (
        [first, replace(second, possession=first.possession)],
        [first, replace(second, possession=bytes(176))],
        [first, replace(second, modulus=weak)],
        [first, replace(second, modulus=other.modulus)],
        [first, other],  # possessed, but shown in another session
        [first, first],
        [first, replace(first, salt=N)],
    ):
        bench.refused(taken, _rooted(letter, keys), CardKeyInvalid)
    packed = letter.rest
    bench.refused(taken, letter.written(rest=(packed[1], packed[0])), CardKeyInvalid)
    bench.refused(taken, letter.written(rest=(packed[0],)), CardKeyInvalid)
    bench.refused(taken, letter.written(rest=(packed[0], packed[1][:-1])), Malformed)
    bench.refused(taken, letter.written(rest=()), Malformed)
    bench.refused(taken, letter.written(rest=packed * 17), Oversize)
    bench.refused(taken, letter.written(rest=(packed[0], bytes(1025))), Oversize)


def test_a_card_key_is_certified_once(bench) -> None:
    """A key of another's card, held all the same: two cards under one key would be one."""
    taken, letter = bench.rewind("Tsm.IssueCards")
    used = card_key(0)
    bench.tape.send_again(taken)
    request, wish = bench.tape.take("Tsm.RequestCards"), bench.ring.request(bench.tape.take("Tsm.RequestCards"))
    asked = Wire(cose=wish.written())
    challenge = bench.ring.open(bench.tape.deliver("tsm-1", request.rpc, asked, None).cose, asked.digest).message
    digest = possession_digest(tsm="tsm-1", n_t=challenge.n_t)
    shown = sign_possession(used, digest, bench.tape.entropy)
    again = CardKey(modulus=used.public.to_bytes(), salt=N, possession=shown)
    held = bench.ring.open(letter.message.possession).written({"n_t": challenge.n_t})
    fields = {
        "n_t": challenge.n_t, "n_u": challenge.n_u, "possession": held,
        "root": merkle_root([card_leaf(salt=N, modulus=again.modulus)]),
    }  # fmt: skip
    handle = next(row.handle for row in store(bench).scan(CARD_SESSIONS) if row.n_t == challenge.n_t)
    wire = Wire(cose=letter.written(fields, rest=(again.to_bytes(),)), session=handle)
    bench.refused(taken, wire, IdentifierTaken)
    # an answered session takes no second batch, and this one's message fits no other session
    bench.refused(taken, letter.written(), WrongState)
    bench.refused(taken, replace(taken.wire, session=handle), NonceMismatch)


def test_the_pass_for_cards(bench) -> None:
    taken, letter = bench.rewind("Tsm.IssueCards")
    shown, held = bench.ring.open(letter.message.launch_pass), bench.ring.open(letter.message.possession)
    for launch_pass in (
        shown.written({"aid": "a-other"}),
        shown.written(claims={"audience": "tsm-2"}),
        shown.written(key=bench.tape.parties["bank-b"].value.keys.sign),
        bench.ring.request(bench.tape.take("Tsm.ProveCredit")).message.possession,
    ):
        bench.refused(taken, letter.written({"launch_pass": launch_pass}), PassInvalid)
    for possession in (
        held.written({"n_t": N}),
        held.written({"pass_digest": N}),
        held.written(key=letter.key),
        bench.ring.request(bench.tape.take("Tsm.ProveCredit")).message.possession,
    ):
        bench.refused(taken, letter.written({"possession": possession}), PossessionInvalid)


def test_a_card_session_ends_after_an_hour(bench) -> None:
    for rpc in ("Tsm.IssueCards", "Tsm.ActivateCards"):
        taken, letter = bench.rewind(rpc)
        bench.tape.clock.time_s += 3601
        bench.refused(taken, letter.written(), UnknownSession)


def test_cards_need_a_live_grant(bench) -> None:
    """Closed, and expired: no cards come of it any more."""
    taken, letter = bench.rewind("Tsm.IssueCards")
    close = bench.tape.take("Tsm.CloseAccount")
    bench.tape.clock.time_s = close.before["time_s"]
    bench.tape.deliver("tsm-1", close.rpc, close.wire, None)
    bench.refused(taken, letter.written(), GrantUnknown)
    bench.tape.restore(taken.before)
    bench.tape.amend("tsm-1", TID_LIST, aid_exp_time_s=bench.tape.clock.now_s())  # the card session is still open
    now_s = bench.tape.clock.now_s()
    claims = {"issued_at_s": now_s, "expires_at_s": now_s + 60}
    bench.refused(taken, letter.written(claims=claims), GrantUnknown)


def test_activation_names_the_batch(bench) -> None:
    taken, letter = bench.rewind("Tsm.ActivateCards")
    pans = letter.message.pans
    other = theirs(bench, "Tsm.ActivateCards").message
    bench.refused(taken, letter.written({"n_t": N}), NonceMismatch)
    bench.refused(taken, letter.written({"n_t": other.n_t}), NonceMismatch)
    for named in (pans[:1], (*pans, pans[0]), (*pans, other.pans[0]), other.pans, ("9" * 19,)):
        bench.refused(taken, letter.written({"pans": named}), FieldMismatch)
    bench.refused(taken, letter.written({"pans": ("1",)}), Malformed)
    bench.refused(taken, letter.written({"pans": pans * 17}), Oversize)
    bench.tape.rewind("Tsm.IssueCards")
    bench.refused(taken, letter.written(), WrongState)
    bench.tape.restore(taken.before)
    bench.tape.send_again(taken)
    bench.refused(taken, letter.written(), WrongState)


def test_cards_of_a_closed_account_do_not_come_to_life(bench) -> None:
    """Closed between CARD-4 and CARD-5: the cards ended, and the activation is not answered with success."""
    taken, letter = bench.rewind("Tsm.ActivateCards")
    close = bench.tape.take("Tsm.CloseAccount")
    bench.tape.clock.time_s = close.before["time_s"]
    bench.tape.deliver("tsm-1", close.rpc, close.wire, None)
    bench.refused(taken, letter.written(), WrongState)
    batch = [row for row in store(bench).scan(CARDS) if row.batch == taken.wire.session]
    assert [row.state for row in batch] == ["CLOSED", "CLOSED"]


# --- CloseAccount --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("fields", [{"tid": "t-other"}, {"sid": b"other"}])
def test_close(bench, fields: Any) -> None:
    bench.forged("Tsm.CloseAccount", fields, FieldMismatch)


def test_close_of_another_account(bench) -> None:
    taken, letter = bench.rewind("Tsm.CloseAccount")
    other = next(row for row in store(bench).scan(TID_LIST) if row.sid_digest != taken.wire.session)
    bench.refused(taken, letter.written({"sid": other.sid}), FieldMismatch)
    bench.refused(taken, letter.written({"tid": other.tid}), FieldMismatch)
    bench.refused(taken, replace(taken.wire, session=other.sid_digest), DecryptionFailed)
    bench.tape.send_again(taken)
    bench.refused(taken, letter.written(), WrongState)


def test_a_session_the_bank_refused_is_not_closed(bench) -> None:
    """There is an entry, and no service yet."""
    proof, _ = bench.rewind("Tsm.ProveCredit")
    _unreachable(bench.tape)
    with pytest.raises(Unavailable):
        bench.tape.send_again(proof)
    taken = bench.tape.take("Tsm.CloseAccount")
    bench.tape.clock.time_s = taken.before["time_s"]
    bench.refused(taken, bench.ring.request(taken).written(), UnknownSession)


def test_a_bank_that_does_not_know_the_grant_has_released_it(bench) -> None:
    release, _ = bench.rewind("Bank.ReleaseGrant")
    letter = bench.ring.request(release)
    bench.tape.deliver(release.peer, release.rpc, Wire(cose=letter.written()), release.caller)
    state = bench.tape.save()
    taken = bench.tape.rewind("Tsm.CloseAccount")
    closed = {**taken.before, "rows": {**taken.before["rows"], "bank-a": state["rows"]["bank-a"]}}
    bench.tape.restore(closed)
    bench.tape.send_again(taken)
    assert next(row for row in store(bench).scan(TID_LIST) if row.sid_digest == taken.wire.session).state == "RELEASED"


def test_a_forged_release_releases_nothing(bench) -> None:
    """The cards stay ended, and the question stays open until the bank's own answer is in."""
    tape = bench.tape
    honest = tape.parties["bank-a"].value.keys.sign
    forgeries: tuple[Any, ...] = (
        lambda letter, answer: answer.cose[:-1] + bytes([answer.cose[-1] ^ 1]),
        lambda letter, answer: letter.written(key=tape.once),
        lambda letter, answer: letter.written(claims={"audience": "tsm-2"}),
        lambda letter, answer: letter.written(name="promise", key=honest),
        lambda letter, answer: letter.written({"aid": "a-other"}),
        lambda letter, answer: letter.written({"sid": b"other"}),
    )
    for alter in forgeries:
        taken, _letter = bench.rewind("Tsm.CloseAccount")

        def lie(request: Wire, answer: Wire, alter: Any = alter) -> Wire:
            return Wire(cose=alter(bench.ring.open(answer.cose, request.digest), answer))

        bank_answers(bench, lie)
        kept = ("requests", "evidence", "outbox", "live_grants", "grants", CARDS.name, TID_LIST.name)
        bench.refused(taken, taken.wire, PeerAnswerInvalid, but=kept)
        assert _entry(bench, taken).state == "EXPECT_RELEASE"
        bank_answers(bench, lambda request, answer: answer)
        tape.send_again(taken)
        assert _entry(bench, taken).state == "RELEASED"


def test_a_release_that_is_refused_can_be_asked_for_again(bench) -> None:
    """The cards stay ended and no others are issued; a new request releases what the bank still holds."""
    taken, letter = bench.rewind("Tsm.CloseAccount")

    def refuse(request: Wire, answer: Wire) -> Wire:
        raise Expired

    bank_answers(bench, refuse)
    kept = ("requests", "evidence", "live_grants", "grants", CARDS.name, TID_LIST.name)
    bench.refused(taken, taken.wire, Expired, but=kept)
    entry = _entry(bench, taken)
    cards = [row for row in store(bench).scan(CARDS) if row.sid_digest == entry.sid_digest]
    assert (entry.state, {card.state for card in cards}) == ("EXPECT_RELEASE", {"CLOSED"})
    bank_answers(bench, lambda request, answer: answer)
    bench.tape.deliver("tsm-1", taken.rpc, replace(taken.wire, cose=letter.written()), None)
    assert _entry(bench, taken).state == "RELEASED"


# --- SignOn --------------------------------------------------------------------------------------------------------
def test_sign_on_is_for_merchants(bench) -> None:
    taken, letter = bench.rewind("Tsm.SignOn")
    tape = bench.tape
    for key in (tape.parties["bank-a"].value.keys.sign, tape.parties["phone-1"].value.key):
        bench.refused(taken, letter.written(key=key), WrongIssuer)
    bench.refused(taken, letter.written({"terminal_key": OFF_CURVE}), Malformed)


def test_a_terminal_and_its_key_belong_to_one_merchant(bench) -> None:
    taken, letter = bench.rewind("Tsm.SignOn")
    tape = bench.tape
    tape.send_again(taken)
    new = tape.key().public.encoded
    taken_key, taken_name = {"terminal": "TERM0002"}, {"terminal": "TERM0002", "terminal_key": new}
    bench.refused(taken, letter.written(), IdentifierTaken)  # the same key again
    bench.refused(taken, letter.written(taken_key), IdentifierTaken)
    bench.refused(taken, letter.written({**taken_name, "merchant_name": "Shop Two"}), IdentifierTaken)
    bench.refused(taken, letter.written({**taken_name, "merchant_identifier": "SHOP00000000002"}), IdentifierTaken)
    rotated = Wire(cose=letter.written({"terminal_key": new}))
    tape.deliver(taken.peer, taken.rpc, rotated, taken.caller)
    (terminal,) = store(bench).scan(TERMINALS)
    assert terminal.terminal_key == new
    other = tape.certified("shop-2", taken.caller.role)
    try:
        forged = letter.written({"terminal_key": tape.key().public.encoded}, {"issuer": "shop-2"}, key=other.sign)
        bench.refused(taken, forged, IdentifierTaken, caller=replace(taken.caller, name="shop-2"))
    finally:
        tape.directory.identities = [found for found in tape.directory.identities if found.name != "shop-2"]
