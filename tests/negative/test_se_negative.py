"""The SE's commands against a wallet that lies, and against banks and TSMs that do: it signs and keeps nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.world import PACKAGE, SOFTWARE

from protocol import pki
from protocol.crypto import PrivateKey
from protocol.errors import (
    CardDataInvalid,
    CertificateInvalid,
    DecryptionFailed,
    FieldMismatch,
    Malformed,
    NonceMismatch,
    PaymentClosed,
    ProtocolError,
    SignatureInvalid,
    SoftwareChanged,
    UnknownAccount,
    UnknownKey,
    WrongAudience,
    WrongIssuer,
    WrongMessage,
    WrongState,
)
from protocol.messages.se import Statement
from protocol.roles.se.tables import ACCOUNTS, OWNERS, SERVICE_KEYS, VIRTUAL_CARDS
from protocol.roles.wallet import Exchanged, attest
from protocol.types import Purpose, Role

N = bytes(32)
SE = "SecureElement."


def theirs(bench: Any, rpc: str, n: int = 0) -> Any:
    """The other phone's command, opened."""
    found = [taken for taken in bench.tape.taken[: bench.tape.start] if taken.rpc == rpc]
    return bench.ring.request(found[n])


def rows(bench: Any, table: Any) -> Any:
    return bench.tape.parties["phone-1"].store.scan(table)


# --- what a wallet may not choose ----------------------------------------------------------------------------------
NAMES: tuple[tuple[str, int, Any, type[ProtocolError]], ...] = (
    ("Enroll", 0, {"bank": "bank-9"}, UnknownKey),
    ("Enroll", 0, {"bank": "tsm-1"}, UnknownAccount),
    ("Enroll", 0, {"bank": "bank-b"}, SignatureInvalid),  # its challenge is another bank's
    ("Enroll", 0, {"asked": N}, SignatureInvalid),
    ("Quote", 0, {"asked": N}, SignatureInvalid),
    ("Quote", 0, {"bank": "bank-b"}, SignatureInvalid),
    ("Quote", 0, {"purpose": Purpose.ACCOUNT}, FieldMismatch),
    ("Quote", 0, {"purpose": Purpose.ENROLL}, FieldMismatch),
    ("InstallIdentity", 0, {"bank": "bank-b"}, UnknownAccount),
    ("InstallIdentity", 0, {"bank": "shop-1"}, UnknownAccount),
    ("AcceptDecision", 0, {"bank": "bank-b"}, UnknownAccount),
    ("BeginAccount", 0, {"bank": "bank-b"}, UnknownAccount),
    ("GenerateAccountKeys", 0, {"account": "c-other"}, UnknownAccount),
    ("InstallAccount", 0, {"account": "c-other"}, UnknownAccount),
    ("InstallAccount", 0, {"tsm": "tsm-9"}, UnknownKey),
    ("InstallAccount", 0, {"tsm": "bank-a"}, UnknownAccount),
    ("InstallPass", 0, {"account": "c-other"}, UnknownAccount),
    ("GenerateServiceKeys", 0, {"tsm": "tsm-9"}, UnknownKey),
    ("GenerateServiceKeys", 0, {"tsm": "bank-a"}, UnknownAccount),
    ("MakeBankInfo", 0, {"tid": "t-other"}, UnknownAccount),
    ("MakeBankInfo", 0, {"aid": "a-other"}, UnknownAccount),
    ("SignService", 0, {"tid": "t-other"}, UnknownAccount),
    ("OpenService", 0, {"tid": "t-other"}, UnknownAccount),
    ("GenerateCardKeys", 0, {"tid": "t-other"}, UnknownAccount),
    ("GenerateCardKeys", 0, {"number": 0}, Malformed),
    ("InstallCards", 0, {"tid": "t-other"}, UnknownAccount),
)


@pytest.mark.parametrize(("rpc", "n", "fields", "error"), NAMES)
def test_names(bench, rpc: str, n: int, fields: Any, error: type[ProtocolError]) -> None:
    bench.forged(SE + rpc, fields, error, n=n)


CARRYING = (
    ("Enroll", "challenge", 0), ("InstallIdentity", "reply", 0), ("Quote", "challenge", 0), ("Quote", "challenge", 2),
    ("AcceptDecision", "reply", 0), ("AcceptDecision", "reply", 2), ("GenerateAccountKeys", "reply", 0),
    ("InstallAccount", "reply", 0), ("InstallPass", "reply", 0), ("MakeBankInfo", "reply", 0),
    ("OpenService", "reply", 0), ("OpenService", "reply", 1), ("OpenService", "reply", 2),
    ("GenerateCardKeys", "reply", 0), ("InstallCards", "reply", 0),
)  # fmt: skip
"""Commands that bring a peer's reply, and in which field."""


@pytest.mark.parametrize(("rpc", "field", "n"), CARRYING)
def test_every_carried_reply_is_opened_in_its_context(bench, rpc: str, field: str, n: int) -> None:
    """The peer's signature, for this receiver, on this type, in time, in answer to this very request."""
    taken, letter = bench.rewind(SE + rpc, n)
    reply = bench.ring.carried(getattr(letter.message, field))
    now_s = bench.tape.clock.now_s()
    stranger = bench.tape.parties["bank-b"].value.keys.sign

    def refused(data: bytes, error: type[ProtocolError]) -> None:
        bench.refused(taken, letter.written({field: data}), error)

    refused(reply.written(key=stranger), SignatureInvalid)
    refused(reply.written(claims={"issuer": "bank-b"}), WrongIssuer)
    refused(reply.written(claims={"audience": "phone-2"}), WrongAudience)
    refused(reply.written(name="promise"), WrongMessage)
    for claims in (
        {"issued_at_s": now_s - 7200, "expires_at_s": now_s - 3600},
        {"issued_at_s": now_s + 3600, "expires_at_s": now_s + 7200},
        {"expires_at_s": now_s + 401 * 24 * 3600},
    ):
        with bench.tape.unchanged(), pytest.raises(ProtocolError) as refusal:
            wire = replace(taken.wire, cose=letter.written({field: reply.written(claims=claims)}))
            bench.tape.deliver(taken.peer, taken.rpc, wire, None)
        assert refusal.value.code in ("EXPIRED", "NOT_YET_VALID", "LIFETIME_TOO_LONG")
    refused(replace(reply, layers=()).sealed(b"x"), WrongMessage)
    for layer in reply.layers:
        other = replace(layer, digest=N)
        refused(
            reply.written(layers=tuple(other if each is layer else each for each in reply.layers)), DecryptionFailed
        )
    if reply.digest:
        refused(replace(reply, digest=N).written(), SignatureInvalid)
        refused(replace(reply, digest=b"").written(), SignatureInvalid)


# --- what a bank or TSM may not answer -----------------------------------------------------------------------------
LIES: tuple[tuple[str, int, Any, type[ProtocolError]], ...] = (
    ("InstallIdentity", 0, {"certificate": b"\x30\x00"}, CertificateInvalid),
    ("InstallIdentity", 0, {"issuer": b"\x30\x00"}, CertificateInvalid),
    ("InstallIdentity", 0, lambda m: {"issuer": m.certificate}, CertificateInvalid),
    ("InstallIdentity", 0, lambda m: {"certificate": m.issuer}, CertificateInvalid),
    ("GenerateAccountKeys", 0, {"n_u": N}, NonceMismatch),
    ("InstallAccount", 0, {"n_u": N}, NonceMismatch),
    ("InstallAccount", 0, {"n_b": N}, NonceMismatch),
    ("InstallAccount", 0, lambda m: {"pk_aid": m.ek_aid}, FieldMismatch),
    ("InstallAccount", 0, lambda m: {"ek_aid": m.pk_aid}, FieldMismatch),
    ("InstallAccount", 0, {"key_digest": N}, FieldMismatch),
    ("MakeBankInfo", 0, {"tid": "t-other"}, FieldMismatch),
    ("MakeBankInfo", 0, {"pk_tid": b"\x04" + b"\x01" * 64}, FieldMismatch),
    ("MakeBankInfo", 0, {"n_u": N}, NonceMismatch),
    ("OpenService", 0, {"n_u": N}, NonceMismatch),
    ("OpenService", 0, {"tid": "t-other"}, FieldMismatch),
    ("OpenService", 0, {"sid": b"other"}, FieldMismatch),
    ("OpenService", 0, {"com": N}, FieldMismatch),
    ("GenerateCardKeys", 0, {"n_u": N}, NonceMismatch),
    ("GenerateCardKeys", 0, {"tid": "t-other"}, FieldMismatch),
    ("InstallCards", 0, {"tid": "t-other"}, FieldMismatch),
    ("InstallCards", 0, {"n_u": N}, NonceMismatch),
    ("InstallCards", 0, {"n_t": N}, NonceMismatch),
    ("InstallCards", 0, lambda m: {"cards": m.cards[:1]}, FieldMismatch),
    ("InstallCards", 0, lambda m: {"cards": m.cards * 2}, FieldMismatch),
    ("InstallCards", 0, lambda m: {"cards": m.cards[::-1]}, CardDataInvalid),
    ("InstallCards", 0, lambda m: {"cards": (m.cards[0], m.cards[0])}, CardDataInvalid),
    ("InstallCards", 0, lambda m: {"cards": (replace(m.cards[0], pan=m.cards[1].pan), m.cards[1])}, CardDataInvalid),
    ("OpenService", 1, {"n_t": N}, NonceMismatch),
    ("OpenService", 1, {"tid": "t-other"}, FieldMismatch),
    ("OpenService", 1, {"number": 1}, FieldMismatch),
    ("OpenService", 2, {"tid": "t-other"}, FieldMismatch),
    ("OpenService", 2, {"sid": b"other"}, FieldMismatch),
    ("InstallPass", 0, {"aid": "a-other"}, FieldMismatch),
)


@pytest.mark.parametrize(("rpc", "n", "fields", "error"), LIES)
def test_lies(bench, rpc: str, n: int, fields: Any, error: type[ProtocolError]) -> None:
    bench.lied(SE + rpc, fields, error, n=n)


def test_a_shared_key_is_the_one_the_certificate_names(bench) -> None:
    """AID-4: H(K) is under the bank's signature, so K can't be swapped beside it."""
    taken, letter = bench.rewind(SE + "InstallAccount")
    reply = bench.ring.carried(letter.message.reply)
    for rest in ((N,), (N[:-1],)):
        bench.refused(taken, letter.written({"reply": reply.written(rest=rest)}), FieldMismatch)
    bench.refused(taken, letter.written({"reply": reply.written(rest=())}), Malformed)


def test_cert_tid_is_by_this_tsm_for_this_key(bench) -> None:
    taken, letter = bench.rewind(SE + "OpenService")
    reply = bench.ring.carried(letter.message.reply)
    certificate = bench.ring.open(reply.message.certificate)
    cases: tuple[tuple[bytes, type[ProtocolError]], ...] = (
        (certificate.written({"tid": "t-other"}), FieldMismatch),
        (certificate.written({"pk_tid": bench.tape.once.public.encoded}), FieldMismatch),
        (certificate.written(key=bench.tape.parties["tsm-2"].value.keys.sign), SignatureInvalid),
        (certificate.written(claims={"audience": "t-other"}), WrongAudience),
        (certificate.written(name="promise"), WrongMessage),
    )
    for altered, error in cases:
        bench.refused(taken, letter.written({"reply": reply.written({"certificate": altered})}), error)


def test_cert_u_is_by_this_bank_for_this_key(bench) -> None:
    tape = bench.tape
    taken, letter = bench.rewind(SE + "InstallIdentity")
    reply = bench.ring.carried(letter.message.reply)
    now_s = tape.clock.now_s()
    (owner,) = rows(bench, OWNERS)
    pk_u = PrivateKey.from_bytes(owner.sk_u).public
    own, other = tape.parties["bank-a"].value.issuer, tape.parties["bank-b"].value.issuer

    def certificate(
        issuer: Any, key: Any, role: Role = Role.USER, use: pki.Use = pki.Use.SIGN, from_s: int = 0
    ) -> bytes:
        return pki.issue(
            issuer, key, role=role, name="u-1", use=use, from_s=now_s - 60 + from_s, until_s=now_s + 3600 + from_s,
            entropy=tape.entropy,
        )  # fmt: skip

    cases = (
        {"certificate": certificate(own, tape.key().public)},
        {"certificate": certificate(other, pk_u)},
        {"certificate": certificate(other, pk_u), "issuer": other.certificate},
        {"certificate": certificate(own, pk_u, role=Role.BANK)},
        {"certificate": certificate(own, pk_u, use=pki.Use.TLS)},
        {"certificate": certificate(own, pk_u, from_s=7200)},
        {"certificate": certificate(own, pk_u, from_s=-7200)},
    )
    for fields in cases:
        bench.refused(taken, letter.written({"reply": reply.written(fields)}), CertificateInvalid)
    good = letter.written({"reply": reply.written({"certificate": certificate(own, pk_u)})})
    tape.deliver(taken.peer, taken.rpc, replace(taken.wire, cose=good), None)


# --- order ---------------------------------------------------------------------------------------------------------
def test_states(bench) -> None:
    """Each command once, in its state: another one of its kind, with a new nonce, is refused."""
    tape = bench.tape
    for rpc, n, error in (
        ("Enroll", 0, None),  # may begin anew, until the bank has answered
        ("InstallIdentity", 0, WrongState),
        ("GenerateAccountKeys", 0, DecryptionFailed),
        ("InstallAccount", 0, DecryptionFailed),
        ("InstallPass", 0, WrongState),
        ("MakeBankInfo", 0, WrongState),
        ("SignService", 0, WrongState),
        ("OpenService", 0, WrongState),
        ("GenerateCardKeys", 0, WrongState),
        ("InstallCards", 0, WrongState),
        ("OpenService", 1, WrongState),
        ("OpenService", 2, WrongState),
    ):
        taken, letter = bench.rewind(SE + rpc, n)
        tape.send_again(taken)
        if error is None:
            tape.deliver(taken.peer, taken.rpc, replace(taken.wire, cose=letter.written()), None)
        else:
            bench.refused(taken, letter.written(), error)


def test_an_enrolled_phone_does_not_enroll_again(bench) -> None:
    taken, letter = bench.rewind(SE + "Enroll")
    tape = bench.tape
    tape.restore({**tape.take(SE + "Quote").before, "time_s": tape.clock.now_s()})
    bench.refused(taken, letter.written(), WrongState)


def test_nothing_is_quoted_for_a_bank_that_does_not_know_the_user(bench) -> None:
    taken, letter = bench.rewind(SE + "Quote")
    bench.tape.restore({**bench.tape.take(SE + "InstallIdentity").before, "time_s": bench.tape.clock.now_s()})
    bench.refused(taken, letter.written(), WrongState)
    bench.tape.restore({**bench.tape.take(SE + "Enroll").before, "time_s": taken.before["time_s"]})
    bench.refused(taken, letter.written(), UnknownAccount)


def test_statements_in_their_order(bench) -> None:
    taken, letter = bench.rewind(SE + "SignService")
    for statement in (Statement.CARD_REQUEST, Statement.CLOSE_ACCOUNT):
        bench.refused(taken, letter.written({"statement": statement}), WrongState)
    bench.tape.rewind(SE + "MakeBankInfo")
    for statement in Statement:
        bench.refused(taken, letter.written({"statement": statement}), WrongState)
    taken, letter = bench.rewind(SE + "SignService", 1)
    bench.refused(taken, letter.written({"statement": Statement.CREDIT_PROOF}), WrongState)
    bench.tape.restore(bench.tape.save())
    closed, last = bench.tape.take(SE + "OpenService", 2), bench.tape.take(SE + "SignService", 2)
    bench.tape.restore(closed.before)
    bench.tape.send_again(closed)
    bench.refused(last, bench.ring.request(last).written(), WrongState)


def test_an_account_serves_the_tsm_it_was_opened_for(bench) -> None:
    taken, _ = bench.rewind(SE + "MakeBankInfo")
    bench.tape.amend("phone-1", ACCOUNTS, tsm="tsm-2")
    bench.refused(taken, taken.wire, FieldMismatch)


def test_an_account_that_the_bank_did_not_activate_pays_nothing(bench) -> None:
    taken, _ = bench.rewind(SE + "MakeBankInfo")
    bench.tape.amend("phone-1", ACCOUNTS, state="EXPECT_ACTIVE")
    bench.refused(taken, taken.wire, WrongState)


# --- open and closed -----------------------------------------------------------------------------------------------
PAYING = (
    ("BeginAccount", 0), ("GenerateAccountKeys", 0), ("InstallAccount", 0), ("MakeBankInfo", 0), ("SignService", 0),
    ("SignService", 1), ("GenerateCardKeys", 0), ("InstallCards", 0),
)  # fmt: skip


@pytest.mark.parametrize(("rpc", "n"), PAYING)
def test_a_closed_se_signs_nothing_for_payment(bench, rpc: str, n: int) -> None:
    taken, letter = bench.rewind(SE + rpc, n)
    bench.tape.amend("phone-1", OWNERS, open=False)
    bench.refused(taken, letter.written(), PaymentClosed)


def test_a_closed_se_still_gives_credit_back(bench) -> None:
    taken, _ = bench.rewind(SE + "SignService", 2)
    bench.tape.amend("phone-1", OWNERS, open=False)
    bench.tape.send_again(taken)


def _owner(bench: Any) -> Any:
    (owner,) = rows(bench, OWNERS)
    return owner


@pytest.fixture
def changed(bench: Any) -> Any:
    """The phone after its last launch, with the application changed behind its back."""
    phone = bench.tape.phones["phone-1"]
    bench.tape.rewind(SE + "BeginAccount")
    phone.application.write_bytes(PACKAGE + b"changed")
    yield phone
    phone.application.write_bytes(PACKAGE)


def test_what_the_se_sees_for_itself_closes_it(bench, changed) -> None:
    """Its own copy of the PCR differs: it closes at once, though the bank's refusal is never brought to it."""
    assert _owner(bench).open
    flow = attest(changed.wallet, bank="bank-a", purpose=Purpose.LAUNCH, software=SOFTWARE)
    call = next(flow)
    call = flow.send(Exchanged(sent=call.wire, reply=bench.tape.send(changed, call)))
    bench.tape.send(changed, call)
    assert not _owner(bench).open
    taken = bench.tape.take(SE + "BeginAccount")
    bench.refused(taken, taken.wire, PaymentClosed)


def test_the_banks_word_alone_does_not_open_the_se(bench, changed) -> None:
    """ATT-L6: a bank that says yes to a changed application is not believed."""
    tape = bench.tape
    flow = attest(changed.wallet, bank="bank-a", purpose=Purpose.LAUNCH, software=SOFTWARE)
    call = next(flow)
    for _ in range(2):
        call = flow.send(Exchanged(sent=call.wire, reply=tape.send(changed, call)))
    answer = bench.ring.open(tape.send(changed, call).cose, call.wire.digest)
    assert not answer.message.allowed
    yes = replace(call.wire, cose=answer.written({"allowed": True, "reason": ""}))
    accept = flow.send(Exchanged(sent=call.wire, reply=yes))
    with pytest.raises(StopIteration) as done:
        flow.send(Exchanged(sent=accept.wire, reply=tape.send(changed, accept)))
    assert (done.value.value.allowed, done.value.value.reason) == (False, SoftwareChanged.code)
    assert not _owner(bench).open
    tape.phones["phone-1"].application.write_bytes(PACKAGE)
    assert tape.launch(changed) == ""
    assert _owner(bench).open


def test_a_refused_launch_closes_the_se_and_a_reason_is_a_refusal(bench) -> None:
    for fields in ({"allowed": False, "reason": "PLATFORM_CHANGED"}, {"reason": "PLATFORM_CHANGED"}):
        taken, letter = bench.rewind(SE + "AcceptDecision", 2)
        reply = bench.ring.carried(letter.message.reply).written(fields)
        bench.tape.deliver(taken.peer, taken.rpc, replace(taken.wire, cose=letter.written({"reply": reply})), None)
        assert not _owner(bench).open


def test_passes_of_other_accounts_are_not_kept(bench) -> None:
    tape = bench.tape
    phone = tape.phones["phone-1"]
    tape.rewind(SE + "SignService", 1)
    before = rows(bench, ACCOUNTS)
    tape.clock.time_s += 13 * 3600
    assert tape.launch(phone) == ""
    after = rows(bench, ACCOUNTS)
    assert [row.aid for row in after] == [row.aid for row in before]
    assert all(new.launch_pass != old.launch_pass for new, old in zip(after, before, strict=True))


# --- cards ---------------------------------------------------------------------------------------------------------
def test_cards_come_to_life_with_the_tsms_answer(bench) -> None:
    bench.tape.rewind(SE + "OpenService", 1)
    assert {card.state for card in rows(bench, VIRTUAL_CARDS)} == {"ISSUED"}
    bench.tape.send_again(bench.tape.take(SE + "OpenService", 1))
    assert {card.state for card in rows(bench, VIRTUAL_CARDS)} == {"ACTIVE"}
    bench.tape.rewind(SE + "OpenService", 2)
    bench.tape.send_again(bench.tape.take(SE + "OpenService", 2))
    assert {card.state for card in rows(bench, VIRTUAL_CARDS)} == {"CLOSED"}
    assert {row.state for row in rows(bench, SERVICE_KEYS)} == {"CLOSED"}


def test_another_phones_commands(bench) -> None:
    """The SE obeys the wallet key of its own phone only, whatever the command."""
    for taken in bench.tape.taken[: bench.tape.start]:
        if taken.peer == "phone-2":
            own = bench.tape.rewind(taken.rpc)
            bench.refused(own, taken.wire, SignatureInvalid)
