"""The wallet's journal: the same bytes again after a crash, nothing readable on disk, nothing kept of what ended."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator

import pytest

from parties.wallet.journal import Journal, drive, relay
from protocol.envelope import Wire
from protocol.errors import FactorsInsufficient, Internal, Overloaded, ProtocolError, StorageFault, Unavailable
from protocol.roles.wallet import Call, Exchanged

KEY = bytes(range(32))


@pytest.fixture
def journal(tmp_path) -> Iterator[Journal]:
    opened = Journal(tmp_path / "journal.db", KEY)
    yield opened
    opened.close()


class Peer:
    """Answers each call in order, or fails as told; keeps what it was sent."""

    def __init__(self, *answers: bytes | ProtocolError) -> None:
        self.answers = list(answers)
        self.sent: list[tuple[str, str, bytes]] = []

    def call(self, peer: str, rpc: str, request: Wire) -> Wire:
        self.sent.append((peer, rpc, request.cose))
        answer = self.answers.pop(0)
        if isinstance(answer, ProtocolError):
            raise answer
        return Wire(cose=answer)


def flow(salt: bytes, calls: int = 3):
    """A flow whose requests are new at each run, as signatures with fresh nonces are."""
    said = b""
    for number in range(calls):
        exchanged: Exchanged = yield Call(
            peer="se" if number == 1 else "bank-a", rpc=f"R.{number}", wire=Wire(cose=b"%s-%d" % (salt, number))
        )
        said += exchanged.sent.cose + b">" + exchanged.reply.cose + b";"
    return said


def run(journal: Journal, peer: Peer, salt: bytes) -> bytes:
    return drive(flow(salt), "f", journal, peer, secure_element="phone-1")


def test_a_whole_flow_leaves_nothing(journal):
    peer = Peer(b"a", b"b", b"c")
    assert run(journal, peer, b"x") == b"x-0>a;x-1>b;x-2>c;"
    assert [name for name, _, _ in peer.sent] == ["bank-a", "phone-1", "bank-a"]
    assert journal.unfinished() == ()


@pytest.mark.parametrize("fault", [Unavailable, Overloaded, Internal])
def test_after_a_fault_the_same_bytes_are_sent_again_and_what_was_answered_is_not_asked(journal, fault):
    with pytest.raises(fault):
        run(journal, Peer(b"a", fault()), b"x")
    assert journal.unfinished() == ("f",)
    peer = Peer(b"b", b"c")
    assert run(journal, peer, b"y") == b"x-0>a;x-1>b;y-2>c;"
    assert peer.sent == [("phone-1", "R.1", b"x-1"), ("bank-a", "R.2", b"y-2")]
    assert journal.unfinished() == ()


def test_a_crash_after_the_answer_asks_nothing_again(tmp_path):
    journal = Journal(tmp_path / "journal.db", KEY)
    with pytest.raises(Unavailable):
        run(journal, Peer(b"a", b"b", Unavailable()), b"x")
    journal.close()
    journal = Journal(tmp_path / "journal.db", KEY)
    peer = Peer(b"c")
    assert run(journal, peer, b"y") == b"x-0>a;x-1>b;x-2>c;"
    assert len(peer.sent) == 1
    journal.close()


def test_a_refusal_ends_the_flow(journal):
    with pytest.raises(FactorsInsufficient):
        run(journal, Peer(b"a", FactorsInsufficient()), b"x")
    assert journal.unfinished() == ()
    assert run(journal, Peer(b"1", b"2", b"3"), b"y") == b"y-0>1;y-1>2;y-2>3;"


def test_flows_do_not_see_each_other(journal):
    with pytest.raises(Unavailable):
        drive(flow(b"x"), "one", journal, Peer(Unavailable()), secure_element="s")
    assert drive(flow(b"y"), "two", journal, Peer(b"1", b"2", b"3"), secure_element="s").startswith(b"y-0>1;")
    assert journal.unfinished() == ("one",)


def test_nothing_is_readable_on_disk(tmp_path):
    journal = Journal(tmp_path / "journal.db", KEY)
    with pytest.raises(Unavailable):
        run(journal, Peer(b"the-answer", Unavailable()), b"the-passcode")
    for path in tmp_path.iterdir():
        data = path.read_bytes()
        assert b"the-passcode" not in data
        assert b"the-answer" not in data
    assert stat.S_IMODE((tmp_path / "journal.db").stat().st_mode) == 0o600
    journal.close()


def test_another_key_or_a_changed_entry_does_not_open(tmp_path):
    journal = Journal(tmp_path / "journal.db", KEY)
    with pytest.raises(Unavailable):
        run(journal, Peer(Unavailable()), b"x")
    journal.close()
    other = Journal(tmp_path / "journal.db", bytes(32))
    with pytest.raises(StorageFault, match="does not open"):
        run(other, Peer(b"a"), b"y")
    other.close()
    with sqlite3.connect(tmp_path / "journal.db") as database:
        database.execute("UPDATE exchanges SET request = zeroblob(80)")
    database.close()
    journal = Journal(tmp_path / "journal.db", KEY)
    with pytest.raises(StorageFault, match="does not open"):
        run(journal, Peer(b"a"), b"y")
    journal.close()


def test_a_journal_that_can_not_be_made_or_written_is_a_storage_fault(tmp_path, journal):
    with pytest.raises(StorageFault, match="can't be written"):
        Journal(tmp_path / "none/journal.db", KEY)
    (tmp_path / "broken.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(StorageFault, match="can't be written"):
        Journal(tmp_path / "broken.db", KEY)
    journal.put_request("f", 0, Wire(cose=b"x"))
    with pytest.raises(StorageFault):
        journal.put_request("f", 0, Wire(cose=b"y"))
    assert journal.request("f", 0) == Wire(cose=b"x")


def test_a_flow_about_this_moment_is_relayed_and_kept_nowhere(journal, tmp_path):
    peer = Peer(b"a", b"b", b"c")
    assert relay(flow(b"x"), peer, secure_element="phone-1") == b"x-0>a;x-1>b;x-2>c;"
    assert [name for name, _, _ in peer.sent] == ["bank-a", "phone-1", "bank-a"]
    assert journal.unfinished() == ()


@pytest.mark.parametrize("fault", [Unavailable, Overloaded, Internal])
def test_a_lost_answer_is_asked_for_once_more_by_the_same_bytes(fault):
    peer = Peer(fault(), b"a", fault(), fault())
    with pytest.raises(fault):
        relay(flow(b"x"), peer, secure_element="phone-1")
    assert [cose for _, _, cose in peer.sent] == [b"x-0", b"x-0", b"x-1", b"x-1"]


def test_a_refusal_is_not_asked_for_again():
    peer = Peer(FactorsInsufficient())
    with pytest.raises(FactorsInsufficient):
        relay(flow(b"x"), peer, secure_element="phone-1")
    assert len(peer.sent) == 1
