"""The bank's steps against a phone and a TSM that lie: one row a lie, with the class that refuses it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.claims import close_released
from support.tape import Tape
from support.world import PACKAGE, PASSCODE, SOFTWARE, YEAR_S, World

from attestation.reference import Software, sign_reference_values, verify_reference_values
from protocol.crypto import sha256
from protocol.envelope import Wire
from protocol.errors import (
    AccountLimitReached,
    AidAlreadyGranted,
    BranchCodeInvalid,
    CertificateInvalid,
    CreditMismatch,
    DecryptionFailed,
    EvidenceMalformed,
    Expired,
    FactorLocked,
    FactorsInsufficient,
    FieldMismatch,
    GrantUnknown,
    IdentifierTaken,
    Malformed,
    MeasurementListMismatch,
    NonceMismatch,
    Oversize,
    PlatformChanged,
    ProtocolError,
    QuoteNotFresh,
    QuoteSignatureInvalid,
    Replay,
    SignatureInvalid,
    SoftwareChanged,
    UnknownAccount,
    UnknownKey,
    UnknownSession,
    WrongAudience,
    WrongIssuer,
    WrongMessage,
    WrongPeer,
    WrongState,
)
from protocol.messages.account import Factor, FactorProof
from protocol.ports import Entropy
from protocol.roles.bank.customers import reopen_customer
from protocol.roles.bank.tables import (
    ACCOUNT_SESSIONS,
    ANONYMOUS_ACCOUNTS,
    CHALLENGES,
    CUSTOMERS,
    GRANTS,
    LIVE_GRANTS,
    PHONES,
)
from protocol.roles.se.tables import OWNERS
from protocol.roles.wallet import Exchanged, attest, enroll, open_account
from protocol.types import Purpose

N = bytes(32)
OFF_CURVE = b"\x04" + b"\x01" * 64


def theirs(bench: Any, rpc: str, n: int = 0) -> Any:
    """The other phone's request to the same RPC, opened."""
    found = [taken for taken in bench.tape.taken[: bench.tape.start] if taken.rpc == rpc]
    return bench.ring.request(found[n])


# --- Challenge -----------------------------------------------------------------------------------------------------
def test_challenge_is_for_phones(bench) -> None:
    """An SE's key, a bank's, a merchant's: certified, and still not a wallet key."""
    taken, letter = bench.rewind("Bank.Challenge")
    for key in (bench.tape.parties["phone-1"].value.key, bench.tape.merchant.sign):
        bench.refused(taken, letter.written(key=key), WrongIssuer)
    name = {"issuer": "phone-2"}
    bench.refused(taken, letter.written(claims=name, key=bench.tape.phones["phone-2"].wallet_key), WrongPeer)


def test_a_challenge_is_the_last_one_and_lives_two_minutes(bench) -> None:
    for rpc in ("Bank.Enroll", "Bank.ApproveInstall", "Bank.ReportInstall", "Bank.VerifyLaunch"):
        taken, letter = bench.rewind(rpc)
        asked = bench.tape.take("Bank.Challenge", taken_before(bench, taken.index))
        question = bench.ring.request(asked)
        bench.tape.clock.time_s = asked.before["time_s"] + 121
        bench.refused(taken, letter.written(), NonceMismatch)
        bench.tape.clock.time_s -= 1
        bench.tape.deliver(asked.peer, asked.rpc, Wire(cose=question.written()), asked.caller)
        bench.refused(taken, letter.written(), NonceMismatch)


def taken_before(bench: Any, index: int) -> int:
    """Which of the first phone's challenges was the last one before this request."""
    start = bench.tape.start
    return sum(1 for taken in bench.tape.taken[start:index] if taken.rpc == "Bank.Challenge") - 1


def test_at_two_minutes_a_challenge_is_good(bench) -> None:
    taken, letter = bench.rewind("Bank.VerifyLaunch")
    bench.tape.clock.time_s = bench.tape.take("Bank.Challenge", 3).before["time_s"] + 120
    bench.tape.deliver(taken.peer, taken.rpc, Wire(cose=letter.written()), taken.caller)


# --- Enroll --------------------------------------------------------------------------------------------------------
ENROLL: tuple[tuple[Any, type[ProtocolError]], ...] = (
    ({"branch_code": "ABCDEFGH"}, BranchCodeInvalid),
    (lambda m: {"branch_code": m.branch_code[::-1]}, BranchCodeInvalid),
    (lambda m: {"branch_code": m.branch_code.lower()}, Malformed),
    ({"n_b": N}, QuoteNotFresh),
    (lambda m: {"evidence": replace(m.evidence, n_am=N)}, QuoteNotFresh),
    (lambda m: {"evidence": replace(m.evidence, software=SOFTWARE)}, EvidenceMalformed),
    (lambda m: {"evidence": replace(m.evidence, quote=m.evidence.quote[:-1])}, EvidenceMalformed),
    (lambda m: {"evidence": replace(m.evidence, quote=_flip(m.evidence.quote, -1))}, QuoteSignatureInvalid),
    (lambda m: {"evidence": replace(m.evidence, measurement_list=b"")}, MeasurementListMismatch),
    ({"se_statement": b"\xd2"}, Malformed),
    ({"se_statement": b"x"}, WrongMessage),
    ({"se_statement": bytes(8193)}, Oversize),
)


def _flip(data: bytes, at: int) -> bytes:
    index = at % len(data)
    return data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]


@pytest.mark.parametrize(("fields", "error"), ENROLL)
def test_enroll(bench, fields: Any, error: type[ProtocolError]) -> None:
    bench.forged("Bank.Enroll", fields, error)


def test_enroll_with_another_phones_values(bench) -> None:
    taken, letter = bench.rewind("Bank.Enroll")
    other = theirs(bench, "Bank.Enroll").message
    for fields, error in (
        ({"branch_code": other.branch_code}, BranchCodeInvalid),  # used
        ({"pk_u": other.pk_u}, FieldMismatch),
        ({"se_statement": other.se_statement}, WrongPeer),
        ({"evidence": other.evidence}, QuoteSignatureInvalid),
        ({"n_b": other.n_b}, QuoteNotFresh),
    ):
        bench.refused(taken, letter.written(fields), error)


def test_enroll_believes_a_genuine_se_only(bench) -> None:
    """S_SE: every field, and who signs it for whom."""
    taken, letter = bench.rewind("Bank.Enroll")
    statement = bench.ring.open(letter.message.se_statement)
    other = bench.ring.open(theirs(bench, "Bank.Enroll").message.se_statement).message
    tape = bench.tape
    now_s = tape.clock.now_s()
    old = {"issued_at_s": now_s - 7200, "expires_at_s": now_s - 3600}
    cases: tuple[tuple[bytes, type[ProtocolError]], ...] = (
        (statement.written({"pk_u": other.pk_u}), SignatureInvalid),
        (statement.written({"pk_u": OFF_CURVE}), Malformed),
        (statement.written({"ek_u": OFF_CURVE}), Malformed),
        (statement.written({"ek_u": statement.message.pk_u}), FieldMismatch),
        (statement.written({"wallet_key": statement.message.pk_u}), FieldMismatch),
        (statement.written({"wallet_key": OFF_CURVE}), Malformed),
        (statement.written({"attestation_key": other.attestation_key}), CertificateInvalid),
        (statement.written({"attestation_certificate": other.attestation_certificate}), CertificateInvalid),
        (statement.written({"attestation_certificate": b"\x30\x00"}), CertificateInvalid),
        (statement.written(key=tape.once), UnknownKey),
        (statement.written(key=tape.phones["phone-1"].wallet_key), WrongIssuer),
        (statement.written(key=tape.merchant.sign), WrongIssuer),
        (statement.written(claims={"audience": "bank-b"}), WrongAudience),
        (statement.written(claims=old), Expired),
        (statement.written(name="enroll"), WrongMessage),
        (_flip(letter.message.se_statement, -1), SignatureInvalid),
    )
    for se_statement, error in cases:
        bench.refused(taken, letter.written({"se_statement": se_statement}), error)


def test_a_branch_code_ends_after_fourteen_days(bench) -> None:
    tape = bench.tape
    tape.rewind("Bank.Challenge")
    code = tape.branch_code("bank-a")
    tape.clock.time_s += 14 * 24 * 3600 + 1
    phone = tape.phones["phone-1"]
    before = tape.parties["bank-a"].store.scan(CUSTOMERS)
    with pytest.raises(BranchCodeInvalid) as refusal:
        tape.run(phone, enroll(phone.wallet, bank="bank-a", branch_code=code))
    assert refusal.value.code == "BRANCH_CODE_INVALID"
    assert tape.parties["bank-a"].store.scan(CUSTOMERS) == before


def test_a_secure_element_is_enrolled_once(bench) -> None:
    """TW-S7: also with a good branch code of another person, by an SE that forgot that it was enrolled."""
    tape = bench.tape
    state = tape.save()
    tape.restore({**state, "rows": {**state["rows"], "phone-1": {}}})
    phone = tape.phones["phone-1"]
    code = tape.branch_code("bank-a")
    with tape.unchanged("requests", "challenges", OWNERS.name), pytest.raises(IdentifierTaken) as refusal:
        tape.run(phone, enroll(phone.wallet, bank="bank-a", branch_code=code))
    assert refusal.value.code == "IDENTIFIER_TAKEN"


# --- ATT -----------------------------------------------------------------------------------------------------------
JUDGES = {
    "Bank.ApproveInstall": Purpose.INSTALL, "Bank.ReportInstall": Purpose.REPORT, "Bank.VerifyLaunch": Purpose.LAUNCH,
}  # fmt: skip


@pytest.mark.parametrize("rpc", JUDGES)
def test_evidence_is_for_one_purpose_and_one_challenge(bench, rpc: str) -> None:
    for purpose in Purpose:
        if purpose is not JUDGES[rpc]:
            bench.forged(rpc, {"purpose": purpose}, FieldMismatch)
    bench.forged(rpc, {"n_b": N}, NonceMismatch)
    bench.forged(rpc, {"n_b": theirs(bench, rpc).message.n_b}, NonceMismatch)
    taken, letter = bench.rewind(rpc)
    bench.tape.send_again(taken)
    bench.refused(taken, letter.written(), NonceMismatch)  # the challenge is used up


EVIDENCE: tuple[tuple[Any, str], ...] = (
    (lambda e, o: replace(e, quote=_flip(e.quote, -1)), QuoteSignatureInvalid.code),
    (lambda e, o: replace(e, quote=e.quote + b"\x00"), EvidenceMalformed.code),
    (lambda e, o: replace(e, n_am=N), QuoteNotFresh.code),
    (lambda e, o: replace(e, measurement_list=b""), MeasurementListMismatch.code),
    (lambda e, o: replace(e, measurement_list=e.measurement_list[:-1]), EvidenceMalformed.code),
    (lambda e, o: o, QuoteSignatureInvalid.code),
)


@pytest.mark.parametrize("rpc", JUDGES)
@pytest.mark.parametrize(("change", "reason"), EVIDENCE)
def test_bad_evidence_gets_a_signed_refusal(bench, rpc: str, change: Any, reason: str) -> None:
    """The answer to bad evidence is a decision with its reason. It uses up the challenge, and nothing else."""
    taken, letter = bench.rewind(rpc)
    evidence = change(letter.message.evidence, theirs(bench, rpc).message.evidence)
    wire = Wire(cose=letter.written({"evidence": evidence}))
    store = bench.tape.parties["bank-a"].store
    open_before = len(store.scan(CHALLENGES))
    with bench.tape.unchanged("requests", "challenges", "evidence"):
        reply = bench.tape.deliver(taken.peer, rpc, wire, taken.caller)
    decision = bench.ring.open(reply.cose, wire.digest).message
    assert (decision.allowed, decision.reason, decision.passes) == (False, reason, ())
    assert len(store.scan(CHALLENGES)) == open_before - 1


def test_order_of_att(bench) -> None:
    tape = bench.tape
    phone = tape.phones["phone-1"]

    def judged(purpose: Purpose) -> Any:
        return tape.run(phone, attest(phone.wallet, bank="bank-a", purpose=purpose, software=SOFTWARE))

    orders = ((1, Purpose.REPORT), (1, Purpose.LAUNCH), (2, Purpose.LAUNCH), (4, Purpose.REPORT))
    for n, purpose in orders:  # before INSTALL, before REPORT, after both
        if n < 4:
            tape.rewind("Bank.Challenge", n)
        else:
            tape.rewind("SecureElement.BeginAccount")
        with tape.unchanged("requests", "challenges", OWNERS.name), pytest.raises(WrongState) as refusal:
            judged(purpose)
        assert refusal.value.code == "WRONG_STATE"


def test_other_software_than_was_approved_is_not_reported(tmp_path) -> None:
    """ATT-D7: the software that is reported is the one whose installation was approved."""
    world = World(tmp_path, seed="other")
    other = "other-wallet"
    bank = world.parties["bank-a"]
    keys, now_s = bank.value.keys, world.clock.now_s()
    signed = sign_reference_values(
        Software.of(PACKAGE, software_id=other, version="1.0.0"), world.platform_list, bank_key=keys.sign,
        bank_id=keys.name, valid_from_s=now_s - 60, valid_until_s=now_s + YEAR_S, entropy=world.entropy,
    )  # fmt: skip
    bank.value.appraiser.references[other] = verify_reference_values(
        signed, bank_key=keys.sign.public, bank_id=keys.name, now_s=now_s
    )
    phone = world.add_phone("phone-1")
    world.init(phone)
    approved = world.run(phone, attest(phone.wallet, bank="bank-a", purpose=Purpose.INSTALL, software=SOFTWARE))
    assert approved.allowed
    phone.application.write_bytes(PACKAGE)
    phone.platform.files = replace(phone.platform.files, software=other)
    before = bank.store.scan(PHONES)
    with pytest.raises(FieldMismatch) as refusal:
        world.run(phone, attest(phone.wallet, bank="bank-a", purpose=Purpose.REPORT, software=other))
    assert refusal.value.code == "FIELD_MISMATCH"
    assert bank.store.scan(PHONES) == before


def test_a_changed_phone_is_refused_at_launch(tmp_path) -> None:
    world = World(tmp_path, seed="changed")
    phone = world.ready()
    phone.application.write_bytes(PACKAGE + b"\n")
    assert world.launch(phone) == SoftwareChanged.code
    phone.application.write_bytes(PACKAGE)
    assert world.launch(phone) == ""
    phone.platform.files.platform["platform/os"].write_bytes(b"rooted")
    assert world.launch(phone) == PlatformChanged.code


# --- RequestAccount ------------------------------------------------------------------------------------------------
def test_an_account_is_for_a_phone_with_installed_software(bench) -> None:
    taken = bench.tape.take("Bank.RequestAccount")
    for rpc in ("Bank.ApproveInstall", "Bank.ReportInstall"):
        bench.tape.restore(bench.tape.take(rpc).before)
        bench.refused(taken, taken.wire, WrongState)


def test_abandoned_accounts_are_given_back(bench) -> None:
    """Certified, never activated: after the session's time its credit and its place are free again."""
    tape = bench.tape
    taken, _ = bench.rewind("Bank.ActivateAccount")
    store = tape.parties["bank-a"].store
    customer = tape.phones["phone-1"].user
    granted = {row.customer: row.granted_minor for row in store.scan(CUSTOMERS)}
    assert granted[customer] == 500_000
    session = next(row for row in store.scan(ACCOUNT_SESSIONS) if row.session == taken.wire.session)
    tape.clock.time_s = session.expires_at_s + 1
    tape.run(tape.phones["phone-1"], _begin_only(tape))
    after = {row.customer: row.granted_minor for row in store.scan(CUSTOMERS)}
    assert after[customer] == 0
    assert not [row for row in store.scan(ANONYMOUS_ACCOUNTS) if row.customer == customer]
    letter = bench.ring.request(taken)
    bench.refused(taken, letter.written(), UnknownSession)


def _begin_only(tape: Tape) -> Any:
    flow = open_account(tape.phones["phone-1"].wallet, bank="bank-a", tsm="tsm-1", software=SOFTWARE, passcode=PASSCODE)
    exchanged = yield next(flow)
    exchanged = yield flow.send(exchanged)
    flow.close()
    return exchanged


# --- CertifyAccount ------------------------------------------------------------------------------------------------
CERTIFY: tuple[tuple[Any, type[ProtocolError]], ...] = (
    ({"n_u": N}, NonceMismatch),
    ({"n_b": N}, NonceMismatch),
    (lambda m: {"pk_aid": m.ek_aid}, FieldMismatch),
    (lambda m: {"ek_aid": m.pk_aid}, FieldMismatch),
    ({"pk_aid": OFF_CURVE}, FieldMismatch),
    (lambda m: {"evidence": replace(m.evidence, n_am=N)}, QuoteNotFresh),
    (lambda m: {"evidence": replace(m.evidence, quote=_flip(m.evidence.quote, -1))}, QuoteSignatureInvalid),
    (lambda m: {"evidence": replace(m.evidence, measurement_list=b"")}, MeasurementListMismatch),
    (lambda m: {"auth": m.auth * 5}, Oversize),
)


@pytest.mark.parametrize(("fields", "error"), CERTIFY)
def test_certify(bench, fields: Any, error: type[ProtocolError]) -> None:
    bench.forged("Bank.CertifyAccount", fields, error)


def test_certify_with_another_persons_values(bench) -> None:
    taken, letter = bench.rewind("Bank.CertifyAccount")
    other = theirs(bench, "Bank.CertifyAccount")
    for fields, error in (
        ({"n_u": other.message.n_u}, NonceMismatch),
        ({"n_b": other.message.n_b}, NonceMismatch),
        ({"pk_aid": other.message.pk_aid}, FieldMismatch),
        ({"evidence": other.message.evidence}, QuoteSignatureInvalid),
    ):
        bench.refused(taken, letter.written(fields), error)
    bench.refused(taken, letter.written(key=other.key), SignatureInvalid)
    bench.refused(taken, letter.written(rest=(other.rest[0], letter.rest[1])), SignatureInvalid)
    bench.refused(taken, letter.written(rest=(letter.rest[0], other.rest[1])), SignatureInvalid)


def test_certify_needs_all_three_signatures(bench) -> None:
    """S_U, S_SE, S_AID: each over this session and these keys, in this order."""
    taken, letter = bench.rewind("Bank.CertifyAccount")
    se, aid = (bench.ring.open(part) for part in letter.rest)
    tape = bench.tape
    ours = letter.message
    cases: tuple[tuple[tuple[bytes, ...], type[ProtocolError]], ...] = (
        ((), Malformed),
        ((letter.rest[0],), Malformed),
        ((*letter.rest, letter.rest[1]), Oversize),
        ((letter.rest[1], letter.rest[0]), WrongMessage),
        ((se.written({"n_b": N}), letter.rest[1]), FieldMismatch),
        ((se.written({"pk_aid": ours.ek_aid}), letter.rest[1]), FieldMismatch),
        ((se.written({"ek_aid": ours.pk_aid}), letter.rest[1]), FieldMismatch),
        ((se.written(key=tape.parties["phone-2"].value.key), letter.rest[1]), SignatureInvalid),
        ((se.written(key=letter.key), letter.rest[1]), SignatureInvalid),
        ((se.written(claims={"audience": "tsm-1"}), letter.rest[1]), WrongAudience),
        ((letter.rest[0], aid.written({"n_u": N})), FieldMismatch),
        ((letter.rest[0], aid.written({"n_b": N})), FieldMismatch),
        ((letter.rest[0], aid.written({"ek_aid": ours.pk_aid})), FieldMismatch),
        ((letter.rest[0], aid.written(key=letter.key)), SignatureInvalid),
        ((letter.rest[0], aid.written(claims={"issuer": tape.phones["phone-1"].user})), WrongIssuer),
        ((letter.rest[0], aid.written(claims={"audience": "bank-b"})), WrongAudience),
    )
    for rest, error in cases:
        bench.refused(taken, letter.written(rest=rest), error)


def test_certified_keys_are_points(bench) -> None:
    taken, letter = bench.rewind("Bank.CertifyAccount")
    se, aid = (bench.ring.open(part) for part in letter.rest)
    rest = (se.written({"ek_aid": OFF_CURVE}), aid.written({"ek_aid": OFF_CURVE}))
    bench.refused(taken, letter.written({"ek_aid": OFF_CURVE}, rest=rest), Malformed)
    rest = (se.written({"pk_aid": OFF_CURVE}), letter.rest[1])
    bench.refused(taken, letter.written({"pk_aid": OFF_CURVE}, rest=rest), Malformed)


def test_a_key_pair_has_one_use(bench) -> None:
    taken, letter = bench.rewind("Bank.CertifyAccount")
    se, aid = (bench.ring.open(part) for part in letter.rest)
    both = {"ek_aid": letter.message.pk_aid}
    bench.refused(taken, letter.written(both, rest=(se.written(both), aid.written(both))), FieldMismatch)


def test_a_key_is_certified_once(tmp_path: Path) -> None:
    """One key under two AIDs would be two names of one pseudonym."""

    class Repeating:
        """An SE whose key generator repeats itself; its other randomness is good."""

        def __init__(self, good: Entropy) -> None:
            self.good = good
            self.seeds: Iterator[bytes] = itertools.cycle([b"signing" * 7, b"sealing" * 7])

        def bytes(self, n: int, /) -> bytes:
            return next(self.seeds)[:n] if n == 48 else self.good.bytes(n)

    world = World(tmp_path)
    phone = world.ready()
    phone.party.engine._entropy = Repeating(world.entropy)
    world.account(phone)
    before = world.snapshot("bank-a")["anonymous_accounts"]
    with pytest.raises(IdentifierTaken) as caught:
        world.account(phone)
    assert caught.value.code == "IDENTIFIER_TAKEN"
    assert world.snapshot("bank-a")["anonymous_accounts"] == before


def test_certify_once_a_session(bench) -> None:
    taken, letter = bench.rewind("Bank.CertifyAccount")
    bench.tape.send_again(taken)
    bench.refused(taken, letter.written(), WrongState)
    bench.tape.clock.time_s += 3601
    bench.refused(taken, letter.written(), UnknownSession)


def _proof(proof: bytes) -> FactorProof:
    return FactorProof(factor=Factor.PASSCODE, proof=proof)


@pytest.mark.parametrize(
    "auth",
    [
        (),
        (_proof(b"wrong"),),
        (_proof(PASSCODE.encode()), _proof(PASSCODE.encode())),
        (_proof(PASSCODE.encode() + b"0"),),
    ],
)
def test_a_wrong_entry_is_counted_and_ends_its_session(bench, auth: Any) -> None:
    taken, letter = bench.rewind("Bank.CertifyAccount")
    wrong = replace(taken.wire, cose=letter.written({"auth": auth}))
    bench.refused(
        taken, wrong, FactorsInsufficient, but=(CUSTOMERS.name, ACCOUNT_SESSIONS.name, "requests", "evidence")
    )
    assert _customer(bench.tape).wrong_entries == 1
    bench.refused(taken, wrong, FactorsInsufficient)  # the same bytes: the same answer, not counted again
    bench.refused(taken, letter.sealed(bench.ring.open(wrong.cose).sign1.wire), Replay)
    bench.refused(taken, letter.written(), WrongState)  # the session is over, even for the right one
    assert _customer(bench.tape).wrong_entries == 1


def _customer(tape: Tape) -> Any:
    user = tape.phones["phone-1"].user
    return next(row for row in tape.parties["bank-a"].store.scan(CUSTOMERS) if row.customer == user)


def test_five_wrong_entries_lock_and_the_bank_reopens(bench) -> None:
    """TW-G3b, by whole flows: four are told, the fifth locks; then nothing helps until the bank reopens."""
    tape = bench.tape
    tape.rewind("SecureElement.BeginAccount")
    phone = tape.phones["phone-1"]
    store = tape.parties["bank-a"].store
    accounts = store.scan(ANONYMOUS_ACCOUNTS)
    for number, error in enumerate((FactorsInsufficient,) * 4 + (FactorLocked,), start=1):
        with pytest.raises(error) as refusal:
            tape.account(phone, passcode="wrong-0000")
        assert type(refusal.value) is error
        assert _customer(tape).wrong_entries == number
    assert _customer(tape).state == "LOCKED"
    with tape.unchanged("requests", "accounts"), pytest.raises(FactorLocked) as refusal:
        tape.account(phone)
    assert refusal.value.code == "FACTOR_LOCKED"
    assert store.scan(ANONYMOUS_ACCOUNTS) == accounts
    store.apply(reopen_customer(phone.user))
    assert _customer(tape).wrong_entries == 0
    assert tape.account(phone) in {row.aid for row in store.scan(ANONYMOUS_ACCOUNTS)}
    for customer in (phone.user, "u-nobody"):
        with tape.unchanged(), pytest.raises(WrongState):
            store.apply(reopen_customer(customer))


def test_a_right_entry_starts_the_count_again(bench) -> None:
    tape = bench.tape
    tape.rewind("SecureElement.BeginAccount")
    phone = tape.phones["phone-1"]
    for _ in range(4):
        with pytest.raises(FactorsInsufficient):
            tape.account(phone, passcode="wrong-0000")
    tape.account(phone)
    assert _customer(tape).wrong_entries == 0


def test_sessions_begun_before_the_lock_are_locked_too(bench) -> None:
    """Guesses in parallel sessions are counted all the same, and the last session learns nothing."""
    tape = bench.tape
    taken, letter = bench.rewind("Bank.CertifyAccount")
    phone = tape.phones["phone-1"]
    for _ in range(4):
        with pytest.raises(FactorsInsufficient):
            tape.account(phone, passcode="wrong-0000")
    with pytest.raises(FactorLocked):
        tape.account(phone, passcode="wrong-0000")
    bench.refused(taken, letter.written(), FactorLocked)
    bench.refused(taken, letter.written({"auth": (_proof(b"wrong"),)}), FactorLocked)
    assert _customer(tape).wrong_entries == 5


def test_credit_and_number_of_accounts_are_bounded(tmp_path) -> None:
    world = World(tmp_path, seed="bounds")
    bank = world.parties["bank-a"]
    phone = world.ready()
    limits = []
    for _ in range(5):  # 2,000,000 minor units make four accounts of the largest bucket
        try:
            world.account(phone)
        except AccountLimitReached as refusal:
            assert refusal.code == "ACCOUNT_LIMIT_REACHED"
        limits = sorted(row.limit_minor for row in bank.store.scan(ANONYMOUS_ACCOUNTS))
    assert limits == [500_000] * 4
    (customer,) = bank.store.scan(CUSTOMERS)
    assert customer.granted_minor == customer.limit_minor == 2_000_000


def test_accounts_begun_side_by_side_do_not_pass_the_bound(tmp_path) -> None:
    """The number is checked where an account is made, not only where it is begun."""
    world = World(tmp_path, seed="parallel")
    bank = world.parties["bank-a"]
    bank.value = replace(bank.value, policy=replace(bank.value.policy, max_accounts=2))
    for step in bank.steps.values():
        step._bank = bank.value
    phone = world.ready()
    flows = [
        open_account(phone.wallet, bank="bank-a", tsm="tsm-1", software=SOFTWARE, passcode=PASSCODE) for _ in range(3)
    ]
    begun = []
    for flow in flows:
        call = next(flow)
        for _ in range(2):
            call = flow.send(_answered(world, phone, call))
        begun.append((flow, call))
    for flow, call in begun[:2]:
        _finish(world, phone, flow, call)
    with pytest.raises(AccountLimitReached) as refusal:
        _finish(world, phone, *begun[2])
    assert refusal.value.code == "ACCOUNT_LIMIT_REACHED"
    assert len(bank.store.scan(ANONYMOUS_ACCOUNTS)) == 2
    with pytest.raises(AccountLimitReached):
        world.account(phone)


def _answered(world: World, phone: Any, call: Any) -> Any:
    return Exchanged(sent=call.wire, reply=world.send(phone, call))


def _finish(world: World, phone: Any, flow: Any, call: Any) -> None:
    try:
        while True:
            call = flow.send(_answered(world, phone, call))
    except StopIteration:
        return


# --- ActivateAccount -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"aid": "a-other"}, FieldMismatch),
        ({"n_b": N}, NonceMismatch),
        ({"tsm": "tsm-9"}, UnknownKey),
        ({"tsm": "bank-b"}, UnknownAccount),
        ({"tsm": "phone-1"}, UnknownKey),
        ({"tsm": "shop-1"}, UnknownAccount),
    ],
)
def test_activate(bench, fields: Any, error: type[ProtocolError]) -> None:
    bench.forged("Bank.ActivateAccount", fields, error)


def test_activate_in_another_session(bench) -> None:
    taken, letter = bench.rewind("Bank.ActivateAccount")
    other = theirs(bench, "Bank.ActivateAccount")
    bench.refused(taken, letter.written({"aid": other.message.aid}), FieldMismatch)
    bench.refused(taken, letter.written({"n_b": other.message.n_b}), NonceMismatch)
    bench.refused(taken, letter.written(key=other.key), SignatureInvalid)
    bench.tape.restore(bench.tape.take("Bank.CertifyAccount").before)
    bench.refused(taken, letter.written(), UnknownSession)  # no account was certified in it yet
    bench.tape.rewind("Bank.ActivateAccount")
    bench.tape.send_again(taken)
    bench.refused(taken, letter.written({"tsm": "tsm-2"}), WrongState)


# --- ApproveGrant --------------------------------------------------------------------------------------------------
GRANT: tuple[tuple[Any, type[ProtocolError]], ...] = (
    ({"aid": "a-other"}, UnknownAccount),
    ({"sid": b"other"}, FieldMismatch),
    ({"com": N}, FieldMismatch),
    ({"binfo_digest": N}, FieldMismatch),
    ({"n2": N}, FieldMismatch),
    (lambda m: {"expires_at_s": m.expires_at_s + 1}, FieldMismatch),
    (lambda m: {"limit_minor": m.limit_minor + 1}, FieldMismatch),
    ({"currency": "EUR"}, FieldMismatch),
    ({"binfo": b"\xd0"}, Malformed),
    (lambda m: {"binfo": _flip(m.binfo, -1)}, DecryptionFailed),
)
BINFO: tuple[tuple[Any, type[ProtocolError]], ...] = (
    ({"tsm": "tsm-2"}, FieldMismatch),
    ({"sid": b"other"}, FieldMismatch),
    ({"aid": "a-other"}, FieldMismatch),
    ({"com": N}, FieldMismatch),
    ({"n2": N}, FieldMismatch),
    (lambda m: {"expires_at_s": m.expires_at_s + 1}, FieldMismatch),
    (lambda m: {"limit_minor": m.limit_minor + 1}, FieldMismatch),
    ({"currency": "EUR"}, FieldMismatch),
)


@pytest.mark.parametrize(("fields", "error"), GRANT)
def test_grant_request(bench, fields: Any, error: type[ProtocolError]) -> None:
    """TID-3c, TSMBINFO: a TSM that alters any field."""
    bench.forged("Bank.ApproveGrant", fields, error)


@pytest.mark.parametrize(("fields", "error"), BINFO)
def test_bank_info(bench, fields: Any, error: type[ProtocolError]) -> None:
    """TID-3c, BINFO: a user who alters any field, with a TSM that passes it on faithfully."""
    taken, letter = bench.rewind("Bank.ApproveGrant")
    binfo = bench.ring.open(letter.message.binfo)
    altered = binfo.written(fields(binfo.message) if callable(fields) else fields)
    bench.refused(taken, letter.written({"binfo": altered, "binfo_digest": sha256(altered)}), error)


@pytest.mark.parametrize("field", ["expires_at_s", "limit_minor"])
def test_credit_is_what_the_bank_certified(bench, field: str) -> None:
    """Both agree on more, or less, than the account has."""
    taken, letter = bench.rewind("Bank.ApproveGrant")
    binfo = bench.ring.open(letter.message.binfo)
    for change in (1, -1):
        fields = {field: getattr(letter.message, field) + change}
        altered = binfo.written(fields)
        named = {**fields, "binfo": altered, "binfo_digest": sha256(altered)}
        bench.refused(taken, letter.written(named), CreditMismatch)


def test_who_signs_bank_info(bench) -> None:
    taken, letter = bench.rewind("Bank.ApproveGrant")
    binfo = bench.ring.open(letter.message.binfo)
    other = bench.ring.open(theirs(bench, "Bank.ApproveGrant").message.binfo)
    cases: tuple[tuple[bytes, type[ProtocolError]], ...] = (
        (binfo.written(key=other.key), SignatureInvalid),
        (binfo.written(key=letter.key), SignatureInvalid),
        (binfo.written(claims={"issuer": other.message.aid}), WrongIssuer),
        (binfo.written(claims={"audience": "bank-b"}), WrongAudience),
        (binfo.written(name="grant-request"), WrongMessage),
        (binfo.written(layers=()), WrongMessage),
    )
    for altered, error in cases:
        bench.refused(taken, letter.written({"binfo": altered, "binfo_digest": sha256(altered)}), error)
    swapped = theirs(bench, "Bank.ApproveGrant").message
    fields = {name: getattr(swapped, name) for name in ("binfo", "binfo_digest")}
    bench.refused(taken, letter.written(fields), DecryptionFailed)  # another account's K


def test_another_tsm_asks(bench) -> None:
    """A TSM that got hold of BINFO is not the one the user named."""
    taken, letter = bench.rewind("Bank.ApproveGrant")
    other = bench.tape.parties["tsm-2"].value.keys
    forged = letter.written(claims={"issuer": "tsm-2"}, key=other.sign)
    bench.refused(taken, forged, WrongPeer)
    bench.refused(taken, forged, FieldMismatch, caller=replace(taken.caller, name="tsm-2"))


def test_one_grant_a_session_and_one_live_grant_an_account(bench) -> None:
    taken, letter = bench.rewind("Bank.ApproveGrant")
    bench.tape.send_again(taken)
    bench.refused(taken, letter.written(), Replay)
    again = _other_session(bench, letter)
    bench.refused(taken, again, AidAlreadyGranted)
    release = bench.tape.take("Bank.ReleaseGrant")
    bench.tape.clock.time_s = release.before["time_s"]
    bench.tape.deliver(release.peer, release.rpc, release.wire, release.caller)
    bench.refused(taken, letter.written(), Replay)  # a released session is not approved again
    bench.refused(taken, again, AidAlreadyGranted)  # nobody knows yet what was spent of it
    close_released(bench.tape)
    bench.tape.deliver(taken.peer, taken.rpc, Wire(cose=again), taken.caller)
    store = bench.tape.parties["bank-a"].store
    aid = letter.message.aid
    assert [row.aid for row in store.scan(LIVE_GRANTS)].count(aid) == 1
    assert sorted(row.state for row in store.scan(GRANTS) if row.aid == aid) == ["LIVE", "RELEASED"]


def _other_session(bench: Any, letter: Any) -> bytes:
    binfo = bench.ring.open(letter.message.binfo).written({"sid": b"another session"})
    signed: bytes = letter.written({"sid": b"another session", "binfo": binfo, "binfo_digest": sha256(binfo)})
    return signed


def test_a_grant_is_on_an_active_account_in_date(bench) -> None:
    taken, letter = bench.rewind("Bank.ApproveGrant")
    bench.tape.restore(bench.tape.take("Bank.ActivateAccount").before)
    bench.refused(taken, letter.written(), WrongState)
    bench.tape.restore(taken.before)
    for late_s, error in ((-1, None), (0, Expired)):
        now_s = bench.tape.clock.time_s = letter.message.expires_at_s + late_s
        claims = {"issued_at_s": now_s, "expires_at_s": now_s + 60}
        binfo = bench.ring.open(letter.message.binfo).written(claims=claims)
        wire = letter.written({"binfo": binfo, "binfo_digest": sha256(binfo)}, claims)
        if error is None:
            bench.tape.deliver(taken.peer, taken.rpc, Wire(cose=wire), taken.caller)
            bench.tape.restore(taken.before)
        else:
            bench.refused(taken, wire, error)


# --- ReleaseGrant --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("fields", [{"aid": "a-other"}, {"sid": b"other"}])
def test_release_names_account_and_session(bench, fields: Any) -> None:
    bench.forged("Bank.ReleaseGrant", fields, GrantUnknown)


def test_release_of_what_is_not_ones_own(bench) -> None:
    taken, letter = bench.rewind("Bank.ReleaseGrant")
    grants = bench.tape.parties["bank-a"].store.scan(LIVE_GRANTS)
    other = next(row for row in grants if row.aid != letter.message.aid)
    bench.refused(taken, letter.written({"aid": other.aid}), GrantUnknown)
    keys = bench.tape.parties["tsm-2"].value.keys
    forged = letter.written(claims={"issuer": "tsm-2"}, key=keys.sign)
    bench.refused(taken, forged, GrantUnknown, caller=replace(taken.caller, name="tsm-2"))
    bench.tape.send_again(taken)
    bench.refused(taken, letter.written(), GrantUnknown)  # released already


def test_an_old_release_frees_nothing(bench) -> None:
    """After a release and a new grant, the release of the old session is worth nothing."""
    approve, letter = bench.rewind("Bank.ApproveGrant")
    release = bench.tape.take("Bank.ReleaseGrant")
    bench.tape.send_again(approve)
    bench.tape.clock.time_s = release.before["time_s"]
    bench.tape.deliver(release.peer, release.rpc, release.wire, release.caller)
    close_released(bench.tape)
    bench.tape.deliver(approve.peer, approve.rpc, Wire(cose=_other_session(bench, letter)), approve.caller)
    old = bench.ring.request(release)
    bench.refused(release, old.written(), GrantUnknown)
    with bench.tape.unchanged():
        bench.tape.send_again(release)  # the very same bytes: their old answer
