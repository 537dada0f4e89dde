"""The bank's officers: two sign before a person is named, each with a key of their own (design §3 TRACE)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from protocol import cose, envelope
from protocol.crypto import PublicKey, same, sha256
from protocol.engine import EVIDENCE
from protocol.envelope import OBJECT_LIFETIME_S, Signer, Stamp
from protocol.errors import IdentifierTaken, OfficersInsufficient, ProtocolError, WrongState
from protocol.messages.trace import (
    OFFICERS,
    AuditKind,
    TraceAnswer,
    TraceApproval,
    TraceProgress,
    TraceReason,
    TraceRequest,
)
from protocol.pki import Use
from protocol.ports import Entropy
from protocol.roles.bank.audit import Logged, append, log_reads
from protocol.roles.bank.party import Bank
from protocol.roles.bank.tables import CUSTOMERS, TRACE_CASES, TRACE_SIGNATURES, Officer, TraceCase, TraceSignature
from protocol.roles.bank.tables import OFFICERS as OFFICER_ROWS
from protocol.roles.party import expect_state
from protocol.rows import Decision, Insert, Key, Rows, Store, Unit, Update, Where, Write

APPROVE: Final = "approve"
REFUSE: Final = "refuse"
APPOINTED: Final = "APPOINTED"
REMOVED: Final = "REMOVED"


def appoint(bank: Bank, *, officer: str, key: PublicKey, now_s: int, entropy: Entropy) -> Unit:
    """Register an officer's key; it is logged, so that officers who never were can't approve unseen.

    A name is given once: whoever is removed does not come back under it. Raises: IdentifierTaken.
    """
    row = Officer(officer=officer, key=key.encoded, kid=key.thumbprint, state=APPOINTED)

    def decide(rows: Rows) -> Decision:
        if rows.get(OFFICER_ROWS, officer) is not None or rows.find(OFFICER_ROWS, "kid", row.kid):
            raise IdentifierTaken("an officer, or a former one, has this name or key")
        logged = Logged(kind=AuditKind.APPOINTMENT, who=officer, message_digest=row.kid)
        return Decision(writes=(Insert(OFFICER_ROWS, row), *append(bank, rows, [logged], now_s, entropy)), reply=row)

    return Unit((Key(OFFICER_ROWS, (officer,)), Where(OFFICER_ROWS, "kid", row.kid), *log_reads()), decide)


def remove(bank: Bank, *, officer: str, now_s: int, entropy: Entropy) -> Unit:
    """From now on their signatures count no more, also under cases that are open. Raises: WrongState."""

    def decide(rows: Rows) -> Decision:
        row = rows.get(OFFICER_ROWS, officer)
        expect_state("UNKNOWN" if row is None else row.state, APPOINTED)
        assert row is not None
        gone = replace(row, state=REMOVED)
        logged = Logged(kind=AuditKind.REMOVAL, who=officer, message_digest=row.kid)
        return Decision(writes=(Update(OFFICER_ROWS, gone), *append(bank, rows, [logged], now_s, entropy)), reply=gone)

    return Unit((Key(OFFICER_ROWS, (officer,)), *log_reads()), decide)


def sign_verdict(
    officer: Signer, *, bank: str, case: bytes, request_digest: bytes, verdict: str, now_s: int, entropy: Entropy
) -> bytes:
    """`S_officer(case, H(request), verdict)`."""
    approval = TraceApproval(case=case, request_digest=request_digest, approved=verdict)
    return envelope.sign(officer, approval, audience=bank, stamp=Stamp.fresh(now_s, entropy))


def known_case(store: Store, case_id: bytes) -> TraceCase:
    """Raises: WrongState."""
    case = store.read(Key(TRACE_CASES, (case_id,))).get(TRACE_CASES, case_id)
    if case is None:
        raise WrongState("no such case")
    return case


def request_of(store: Store, case: TraceCase) -> TraceRequest:
    """What officers look at: the request with its chain, as the TSM signed it."""
    kept = store.read(Key(EVIDENCE, (case.request_digest, TraceRequest.NAME)))
    evidence = kept.get(EVIDENCE, case.request_digest, TraceRequest.NAME)
    assert evidence is not None  # kept in the unit that opened the case
    return TraceRequest.from_bytes(envelope.peek(TraceRequest, evidence.signed).payload)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdict:
    """A verdict that its officer signed for this case."""

    officer: str
    signature: TraceSignature


class Officers:
    """Takes verdicts. Each check has a name, so that a test can show what it is good for."""

    def __init__(self, bank: Bank, store: Store) -> None:
        self._bank = bank
        self._store = store

    def take(self, case_id: bytes, signed: bytes, now_s: int, entropy: Entropy) -> Unit:
        """The unit that takes a signed verdict; the last one that is needed also answers, one refusal ends the case.

        Raises: WrongState (no such case), OfficersInsufficient (nobody whom the bank appointed signed this, for this),
            UnknownKey (the requester has no key any more). The unit raises: WrongState, OfficersInsufficient.
        """
        case = known_case(self._store, case_id)
        verdict = self.open_verdict(case, signed, now_s)
        # Sealed before the unit, for the case that it is the last verdict; nothing leaves here unless it is.
        answer = b"" if verdict.signature.verdict == REFUSE else seal_answer(
            self._bank, self._store, case, now_s, entropy
        )  # fmt: skip

        def decide(rows: Rows) -> Decision:
            return self._decide(rows, case_id, verdict, answer, now_s, entropy)

        reads = (
            Key(TRACE_CASES, (case_id,)), Where(TRACE_SIGNATURES, "case_id", case_id),
            Where(OFFICER_ROWS, "state", APPOINTED), *log_reads(),
        )  # fmt: skip
        return Unit(reads, decide)

    def open_verdict(self, case: TraceCase, signed: bytes, now_s: int) -> _Verdict:
        """Signed by an appointed officer's own key, for this case and this request."""
        bank = self._bank.keys.name
        try:
            sign1 = envelope.peek(TraceApproval, signed)
            found = self._store.read(Where(OFFICER_ROWS, "kid", sign1.kid)).find(OFFICER_ROWS, "kid", sign1.kid)
            if not found:
                raise OfficersInsufficient("no officer has this key")
            officer = found[0]
            key = PublicKey.from_bytes(officer.key)
            approval = envelope.believe(
                TraceApproval, sign1, key, issuer=officer.officer, audience=bank, now_s=now_s
            ).message
        except ProtocolError as exc:
            raise OfficersInsufficient(f"not an officer's verdict: {exc.code}") from exc
        if approval.case != case.case_id or not same(approval.request_digest, case.request_digest):
            raise OfficersInsufficient("a verdict on another request")
        signature = TraceSignature(
            case_id=case.case_id, officer=officer.officer, signed=signed, verdict=approval.approved, signed_at_s=now_s
        )
        return _Verdict(officer=officer.officer, signature=signature)

    def _decide(
        self, rows: Rows, case_id: bytes, verdict: _Verdict, answer: bytes, now_s: int, entropy: Entropy
    ) -> Decision:
        case = rows.get(TRACE_CASES, case_id)
        assert case is not None
        expect_state(case.state, TraceProgress.EXPECT_OFFICERS.value)
        appointed = {row.officer for row in rows.find(OFFICER_ROWS, "state", APPOINTED)}
        before = rows.find(TRACE_SIGNATURES, "case_id", case_id)
        self.check_officer(verdict.officer, appointed, {row.officer for row in before})
        signature = verdict.signature
        refused = signature.verdict == REFUSE
        kind = AuditKind.REFUSAL if refused else AuditKind.APPROVAL
        logged = [Logged(kind=kind, case=case_id, who=verdict.officer, message_digest=sha256(signature.signed))]
        writes: list[Write] = [Insert(TRACE_SIGNATURES, signature)]
        if refused:
            case = replace(case, state=TraceProgress.REFUSED.value)
        elif self.enough((*before, signature), appointed):
            case = replace(case, state=TraceProgress.ANSWERED.value, answer=answer)
            digest = sha256(answer)
            logged.append(Logged(kind=AuditKind.ANSWER, case=case_id, who=case.requester, message_digest=digest))
        writes.append(Update(TRACE_CASES, case))
        return Decision(writes=(*writes, *append(self._bank, rows, logged, now_s, entropy)), reply=case)

    def check_officer(self, officer: str, appointed: set[str], signed: set[str]) -> None:
        """The bank has this officer still, and they have not signed before."""
        if officer not in appointed:
            raise OfficersInsufficient("the officer was removed")
        if officer in signed:
            raise OfficersInsufficient("this officer has signed before")

    def enough(self, signatures: tuple[TraceSignature, ...], appointed: set[str]) -> bool:
        """Two approvals by two who are officers still."""
        return len({row.officer for row in signatures if row.officer in appointed}) >= OFFICERS


def seal_answer(bank: Bank, store: Store, case: TraceCase, now_s: int, entropy: Entropy) -> bytes:
    """`E_requester(S_B(case, person, AID, purchase))`. Raises: UnknownKey if the requester's certificate is gone."""
    customer = store.read(Key(CUSTOMERS, (case.customer,))).get(CUSTOMERS, case.customer)
    assert customer is not None  # customers are never deleted
    answer = TraceAnswer(
        case=case.case_id, reason=TraceReason(case.reason), customer=case.customer, person=customer.name, aid=case.aid,
        purchase_digest=case.purchase_digest,
    )  # fmt: skip
    signed = envelope.sign(
        bank.keys.signer, answer, audience=case.requester, stamp=Stamp.fresh(now_s, entropy),
        lifetime_s=OBJECT_LIFETIME_S,
    )  # fmt: skip
    key = bank.directory.named(case.requester, Use.SEAL).key
    return cose.seal(key, name=TraceAnswer.NAME, plaintext=signed)


def answer_of(store: Store, case_id: bytes) -> bytes:
    """The sealed answer, to be handed to the requester. Raises: WrongState; OfficersInsufficient before two signed."""
    case = known_case(store, case_id)
    expect_state(case.state, TraceProgress.EXPECT_OFFICERS.value, TraceProgress.ANSWERED.value)
    if case.state != TraceProgress.ANSWERED:
        raise OfficersInsufficient
    return case.answer
