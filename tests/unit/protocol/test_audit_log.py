"""The bank's log of traces: whatever is done to it afterwards is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.attacker import ANY
from support.tracing import BANK, Dispute
from support.world import World

from protocol import cose
from protocol.crypto import PrivateKey, sha256
from protocol.errors import LogBroken, OfficersInsufficient, TraceReasonUnknown
from protocol.messages.trace import AuditEntry, AuditKind
from protocol.roles.bank.audit import Head, Logged, append, log_reads, verify_log, verify_rows
from protocol.roles.bank.officers import answer_of
from protocol.roles.bank.tables import AUDIT_HEADS, AUDIT_LOG, AuditHead, AuditRow
from protocol.rows import Conflict, Decision, Insert, Rows, Unit

Links = list[bytes]


@pytest.fixture
def dispute(tmp_path: Path) -> Dispute:
    """Three appointed officers, one refused request, one case to its end."""
    made = Dispute.arise(World(tmp_path, seed="audit"))
    request = made.chain(made.buy())
    with pytest.raises(TraceReasonUnknown):
        made.ask(replace(request, reason="curiosity"))
    made.ask(request)
    made.approve("officer-1", "officer-2")
    return made


def links(dispute: Dispute) -> Links:
    return [row.signed for row in dispute.bank.store.scan(AUDIT_LOG)]


def resigned(dispute: Dispute, link: bytes, key: PrivateKey | None = None, **changes: object) -> bytes:
    """The link saying something else, signed by the bank's own key or another."""
    sign1 = cose.parse_sign1(link, max_bytes=ANY)
    entry = replace(AuditEntry.from_bytes(sign1.payload), **changes)
    signer = key or dispute.bank.value.keys.sign
    return cose.sign(signer, name=AuditEntry.NAME, claims=sign1.claims, payload=entry.to_bytes())


def test_a_whole_log(dispute: Dispute) -> None:
    verified = dispute.log()
    assert [(entry.number, entry.kind, entry.who, entry.code) for entry in verified.entries] == [
        (0, "appointment", "officer-1", ""), (1, "appointment", "officer-2", ""), (2, "appointment", "officer-3", ""),
        (3, "refused-request", "tsm-1", "TRACE_REASON_UNKNOWN"), (4, "request", "tsm-1", ""),
        (5, "approval", "officer-1", ""), (6, "approval", "officer-2", ""), (7, "answer", "shop-1", ""),
    ]  # fmt: skip
    assert verified.counts == {
        "request": 1, "refused-request": 1, "approval": 2, "refusal": 0, "answer": 1, "appointment": 3, "removal": 0
    }  # fmt: skip
    assert verified.head == Head(number=7, digest=sha256(links(dispute)[-1]))
    assert Head.parse(str(verified.head)) == verified.head


def test_the_log_names_no_customer(dispute: Dispute) -> None:
    row = dispute.case()
    everything = b"".join(links(dispute))
    for secret in (row.customer.encode(), b"A Person", row.aid.encode(), row.purchase_digest):
        assert secret not in everything


def test_what_is_logged_are_digests_of_what_was_said(dispute: Dispute) -> None:
    row, entries = dispute.case(), dispute.log().entries
    assert entries[4].message_digest == row.request_digest
    assert entries[7].message_digest == sha256(answer_of(dispute.bank.store, row.case_id))


def test_an_empty_log(tmp_path: Path) -> None:
    bank = World(tmp_path, seed="empty").parties[BANK]
    key = bank.value.keys.sign.public
    assert verify_rows((), (), bank=BANK, keys=[key]).head is None
    with pytest.raises(LogBroken) as refusal:
        verify_log((), bank=BANK, keys=[key], remembered=Head(number=0, digest=bytes(32)))
    assert refusal.value.code == "LOG_BROKEN"


SPOILED: dict[str, Callable[[Dispute, Links], Links]] = {
    "an entry altered": lambda d, log: [*log[:4], log[4][:-1] + bytes([log[4][-1] ^ 1]), *log[5:]],
    "an entry truncated": lambda d, log: [*log[:4], log[4][:-1], *log[5:]],
    "an entry removed": lambda d, log: [*log[:4], *log[5:]],
    "the first entry removed": lambda d, log: log[1:],
    "two entries exchanged": lambda d, log: [*log[:4], log[5], log[4], *log[6:]],
    "an entry twice": lambda d, log: [*log[:5], *log[4:]],
    "another message in its place": lambda d, log: [*log[:4], d.verdict("officer-1"), *log[5:]],
    "an entry signed anew by the bank": lambda d, log: [*log[:4], resigned(d, log[4], who="tsm-9"), *log[5:]],
    "an entry signed by another key": lambda d, log: [*log[:-1], resigned(d, log[-1], d.world.key())],
    "an entry signed by an officer": lambda d, log: [*log[:-1], resigned(d, log[-1], d.officers["officer-1"])],
    "the whole log signed by another key": lambda d, log: [resigned(d, one, d.tsm.value.keys.sign) for one in log],
    "a number left out": lambda d, log: [*log[:-1], resigned(d, log[-1], number=8)],
    "the first entry with a link": lambda d, log: [resigned(d, log[0], before=bytes(32)), *log[1:]],
}


@pytest.mark.parametrize("how", SPOILED)
def test_a_spoiled_log(dispute: Dispute, how: str) -> None:
    key = dispute.bank.value.keys.sign.public
    verify_log(links(dispute), bank=BANK, keys=[key])
    with pytest.raises(LogBroken) as refusal:
        verify_log(SPOILED[how](dispute, links(dispute)), bank=BANK, keys=[key])
    assert (type(refusal.value), refusal.value.code) == (LogBroken, "LOG_BROKEN")


def test_a_log_of_another_bank(dispute: Dispute) -> None:
    with pytest.raises(LogBroken) as refusal:
        verify_log(links(dispute), bank="bank-b", keys=[dispute.bank.value.keys.sign.public])
    assert refusal.value.code == "LOG_BROKEN"


def test_a_log_that_was_cut_or_written_anew_is_noticed_by_who_remembers(dispute: Dispute) -> None:
    """A shorter log is a whole log for whoever sees it first: the head is what tells."""
    key, log = dispute.bank.value.keys.sign.public, links(dispute)
    head = verify_log(log, bank=BANK, keys=[key]).head
    assert head is not None
    verify_log(log, bank=BANK, keys=[key], remembered=head)
    verify_log(log, bank=BANK, keys=[key], remembered=Head(number=3, digest=sha256(log[3])))
    assert len(verify_log(log[:5], bank=BANK, keys=[key]).entries) == 5
    anew = resigned(dispute, log[-1], who="shop-9")
    assert len(verify_log([*log[:-1], anew], bank=BANK, keys=[key]).entries) == 8
    for spoiled in (log[:5], [], [*log[:-1], anew]):
        with pytest.raises(LogBroken) as refusal:
            verify_log(spoiled, bank=BANK, keys=[key], remembered=head)
        assert refusal.value.code == "LOG_BROKEN"


def test_tables_that_do_not_hold_together(dispute: Dispute) -> None:
    store, key = dispute.bank.store, dispute.bank.value.keys.sign.public
    rows, (head,) = store.scan(AUDIT_LOG), store.scan(AUDIT_HEADS)
    verify_rows(rows, (head,), bank=BANK, keys=[key])
    last = rows[-1]
    cases: list[tuple[tuple[AuditRow, ...], tuple[AuditHead, ...]]] = [
        (rows[:-1], (head,)),
        (rows, ()),
        ((), (head,)),
        (rows, (replace(head, number=6),)),
        (rows, (replace(head, digest=bytes(32)),)),
        (rows, (head, replace(head, log="other"))),
        ((*rows[:-1], replace(last, number=9)), (head,)),
        ((*rows[:-1], replace(last, digest=bytes(32))), (head,)),
    ]
    for spoiled, heads in cases:
        with pytest.raises(LogBroken) as refusal:
            verify_rows(spoiled, heads, bank=BANK, keys=[key])
        assert refusal.value.code == "LOG_BROKEN"


@pytest.mark.parametrize("text", ["", "7", "7:", "7:00", "x:" + "00" * 32, "-1:" + "00" * 32, "7:" + "0g" * 32])
def test_a_head_that_is_none(text: str) -> None:
    with pytest.raises(LogBroken) as refusal:
        Head.parse(text)
    assert refusal.value.code == "LOG_BROKEN"


def appending(dispute: Dispute, stale: Rows | None = None) -> Unit:
    logged = Logged(kind=AuditKind.REMOVAL, who="officer-9", message_digest=bytes(32))

    def decide(rows: Rows) -> Decision:
        seen = rows if stale is None else stale
        return Decision(writes=append(dispute.bank.value, seen, [logged], dispute.now_s, dispute.world.entropy))

    return Unit(log_reads(), decide)


def test_two_appends_at_once_do_not_fork_the_log(dispute: Dispute) -> None:
    """Both saw the same last entry: the second meets the first's, and is decided again over it."""
    store = dispute.bank.store
    stale = store.read(*log_reads())
    store.apply(appending(dispute))
    before = store.scan(AUDIT_LOG)
    with pytest.raises(Conflict):
        store.apply(appending(dispute, stale))
    assert store.scan(AUDIT_LOG) == before
    store.apply(appending(dispute))
    assert len(dispute.log().entries) == 10


def test_the_log_only_grows(dispute: Dispute) -> None:
    from protocol.rows import Delete, Key, Update

    (first, *_) = dispute.bank.store.scan(AUDIT_LOG)
    for write in (Update(AUDIT_LOG, replace(first, digest=b"")), Delete(AUDIT_LOG, first)):
        unit = Unit((Key(AUDIT_LOG, (first.number,)),), lambda rows, write=write: Decision(writes=(write,)))
        with pytest.raises(LookupError):
            dispute.bank.store.apply(unit)
    with pytest.raises(Conflict):
        dispute.bank.store.apply(
            Unit((Key(AUDIT_LOG, (first.number,)),), lambda rows: Decision(writes=(Insert(AUDIT_LOG, first),)))
        )


def test_what_is_refused_to_officers_is_not_logged(dispute: Dispute) -> None:
    before = links(dispute)
    request = dispute.chain(dispute.buy(), case=b"\x05" * 16)
    dispute.ask(request)
    with pytest.raises(OfficersInsufficient):
        dispute.submit(b"", request.case)
    assert links(dispute)[:-1] == before


def test_a_log_goes_on_under_a_new_key_of_the_banks(dispute: Dispute) -> None:
    old = dispute.bank.value.keys.sign.public
    keys = replace(dispute.bank.value.keys, sign=dispute.world.key())
    dispute.bank.value = replace(dispute.bank.value, keys=keys)
    dispute.bank.store.apply(appending(dispute))
    new = keys.sign.public
    assert len(verify_log(links(dispute), bank=BANK, keys=[old, new]).entries) == 9
    for known in ([old], [new], []):
        with pytest.raises(LogBroken) as refusal:
            verify_log(links(dispute), bank=BANK, keys=known)
        assert refusal.value.code == "LOG_BROKEN"
