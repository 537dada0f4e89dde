"""Lost answers, replays, kills and drains of real processes: every effect once, every flow to its end."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter

import grpc
import pytest
from support.proxy import FaultProxy

from parties.channels import Channels, TlsIdentity
from protocol import envelope
from protocol.crypto import PrivateKey
from protocol.engine import OUTBOX
from protocol.envelope import Signer, Stamp, Wire
from protocol.errors import ProtocolError, Replay, Unavailable
from protocol.messages.attest import ChallengeRequest
from protocol.roles.bank.tables import ANONYMOUS_ACCOUNTS, CHALLENGES, GRANTS, LIVE_GRANTS
from protocol.roles.se.tables import VIRTUAL_CARDS
from protocol.roles.tsm.tables import CARDS, SERVICES, TID_LIST
from protocol.types import Purpose

pytestmark = pytest.mark.real
PHONE = "phone-5"


@pytest.fixture
def phone(town):
    """A phone that may pay, and everybody that it needs."""
    town.running("bank-a", "tsm-1")
    town.launched(PHONE)
    return PHONE


def accounts_of(town, phone: str) -> list[str]:
    """AIDs of the phone's customer at the bank, with their states."""
    customer = town.enrolled(phone).customer
    return [row.aid for row in town.rows("bank-a", ANONYMOUS_ACCOUNTS) if row.customer == customer]


# --- replay ----------------------------------------------------------------------------------------------------------
OF_THE_TSM = {"Bank.ApproveGrant", "Bank.ReleaseGrant", "Bank.ListStops", "Bank.SubmitClaim"}


def test_captured_messages_sent_again_have_no_second_effect(town, phone):
    told = {party: len(town.captured(party)) for party in ("bank-a", "tsm-1")}
    aid = town.open_account(phone)
    tid = town.register(phone, aid)
    town.issue(phone, tid, number=2)
    tables = {"bank-a": (ANONYMOUS_ACCOUNTS, LIVE_GRANTS, GRANTS), "tsm-1": (CARDS, SERVICES, TID_LIST)}
    before = {(party, t.name): town.rows(party, t) for party, held in tables.items() for t in held}
    answered = 0
    for party, caller in (("bank-a", f"{phone}/wallet"), ("tsm-1", None)):
        calls = town.captured(party)[told[party] :]
        once = Counter(c.request.digest for c in calls)
        for c in [c for c in calls if c.code == "OK" and once[c.request.digest] == 1][-6:]:
            channels = _channels(town, party, "tsm-1" if c.rpc in OF_THE_TSM else caller)
            try:
                again = channels.call(party, c.rpc, c.request)
                assert again.session == c.reply.session
                assert len(again.cose) == len(c.reply.cose)
                for at in (-1, len(c.request.cose) // 2):
                    cose = bytearray(c.request.cose)
                    cose[at] ^= 1
                    with pytest.raises(ProtocolError) as refused:
                        channels.call(party, c.rpc, Wire(cose=bytes(cose), session=c.request.session))
                    assert refused.value.code in {"DECRYPTION_FAILED", "SIGNATURE_INVALID", "MALFORMED"}, c.rpc
                answered += 1
            finally:
                channels.close()
    assert answered >= 8
    assert {(party, t.name): town.rows(party, t) for party, held in tables.items() for t in held} == before


def _channels(town, party: str, caller: str | None) -> Channels:
    """The caller's way to a party; nobody's, without any certificate."""
    address = town.address(f"{PHONE}/wallet", party)
    opened = town.opened(caller or f"{PHONE}/wallet")
    return Channels({party: address}, opened.client_tls() if caller else TlsIdentity(root=opened.root_pem))


def test_a_signed_reply_is_the_same_bytes_also_after_a_restart_and_a_nonce_works_once(town, phone):
    opened = town.opened(f"{phone}/wallet")
    wire, signer, stamp = _challenge(opened, Purpose.LAUNCH)
    channels = _channels(town, "bank-a", f"{phone}/wallet")
    first = channels.call("bank-a", "Bank.Challenge", wire)
    rows = town.rows("bank-a", CHALLENGES)
    assert channels.call("bank-a", "Bank.Challenge", wire) == first
    assert town.stop("bank-a") == 0
    town.running("bank-a")
    assert channels.call("bank-a", "Bank.Challenge", wire) == first
    town.kill("bank-a")
    town.running("bank-a")
    assert channels.call("bank-a", "Bank.Challenge", wire) == first
    other = envelope.sign(signer, ChallengeRequest(purpose=Purpose.REPORT), audience="bank-a", stamp=stamp)
    with pytest.raises(Replay):
        channels.call("bank-a", "Bank.Challenge", Wire(cose=other))
    assert town.rows("bank-a", CHALLENGES) == rows
    channels.close()


def _challenge(opened, purpose: Purpose):
    signer = Signer(name=opened.settings.name, key=PrivateKey.from_bytes(opened.keystore.entry("sign")))
    stamp = Stamp.wallet(opened.clock.now_s(), opened.entropy)
    signed = envelope.sign(signer, ChallengeRequest(purpose=purpose), audience="bank-a", stamp=stamp)
    return Wire(cose=signed), signer, stamp


# --- lost answers ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "rpc", ["Bank.RequestAccount", "Bank.CertifyAccount", "Bank.ActivateAccount", "SecureElement.InstallPass"]
)
def test_a_lost_answer_on_the_way_to_an_account_leaves_exactly_one(town, phone, rpc):
    before = accounts_of(town, phone)
    party = phone if rpc.startswith("SecureElement") else "bank-a"
    server = f"{phone}/se" if party == phone else party
    with FaultProxy(town.address(f"{phone}/wallet", party)) as proxy:
        proxy.cut_when = town.after_next(server, rpc)
        with town.peer_address(f"{phone}/wallet", party, proxy.address), pytest.raises(Unavailable):
            town.open_account(phone, name=f"lost-{rpc}")
        assert proxy.cuts == 1
    aid = town.open_account(phone, name=f"lost-{rpc}")
    assert accounts_of(town, phone) == sorted([*before, aid])
    (row,) = [row for row in town.rows("bank-a", ANONYMOUS_ACCOUNTS) if row.aid == aid]
    assert row.state == "ACTIVE"


def test_a_lost_answer_of_a_command_is_told_with_its_mend_and_the_same_command_completes(town, phone, cli, tmp_path):
    aid = town.open_account(phone)
    passcode = tmp_path / "passcode"
    passcode.write_text("wq-7351-zt")
    command = ("wallet", "register", "--phone", town.folder / phone, "--aid", aid, "--json")
    with FaultProxy(town.address(f"{phone}/wallet", "tsm-1")) as proxy:
        proxy.cut_when = town.after_next("tsm-1", "Tsm.ProveCredit")
        with town.peer_address(f"{phone}/wallet", "tsm-1", proxy.address):
            lost = cli(*command)
        assert proxy.cuts == 1
    assert (lost.status, lost.json["error"]) == (1, "UNAVAILABLE")
    assert lost.err.count("\n") == lost.err.count("Run the same command again: it goes on where it was.") == 1
    done = cli(*command)
    assert done.status == 0, done.err
    assert [entry.tid for entry in town.rows("tsm-1", TID_LIST) if entry.aid == aid] == [done.json["tid"]]
    assert [grant.aid for grant in town.rows("bank-a", GRANTS) if grant.aid == aid] == [aid]
    tid = done.json["tid"]
    with FaultProxy(town.address(f"{phone}/wallet", "tsm-1")) as proxy:
        proxy.cut_when = town.after_next("tsm-1", "Tsm.IssueCards")
        with town.peer_address(f"{phone}/wallet", "tsm-1", proxy.address), pytest.raises(Unavailable):
            town.issue(phone, tid, number=3)
    town.issue(phone, tid, number=3)
    assert [card.state for card in town.rows("tsm-1", CARDS) if card.tid == tid] == ["ACTIVE"] * 3
    held = [card for card in town.rows(f"{phone}/se", VIRTUAL_CARDS) if card.tid == tid]
    assert {card.pan for card in held} == {card.pan for card in town.rows("tsm-1", CARDS) if card.tid == tid}


# --- kills -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("party", "rpc", "when"),
    [
        ("bank-a", "Bank.CertifyAccount", "before"),  # between AID-3 and AID-5
        ("bank-a", "Bank.CertifyAccount", "after"),
        ("bank-a", "Bank.ActivateAccount", "before"),  # between AID-6 and AID-8
        ("bank-a", "Bank.ActivateAccount", "after"),
        ("se", "SecureElement.GenerateAccountKeys", "after"),
        ("se", "SecureElement.InstallAccount", "before"),
    ],
)
def test_a_killed_party_goes_on_to_the_same_single_account(town, phone, party, rpc, when):
    server = f"{phone}/se" if party == "se" else party
    before = accounts_of(town, phone)
    name = f"killed-{rpc}-{when}"
    with pytest.raises(Unavailable):
        town.open_account(phone, name=name, rpc=rpc, **{when: lambda: town.kill(server)})
    with pytest.raises(Unavailable):  # it is still down: unreachable, not refused
        town.open_account(phone, name=name)
    town.running(server)
    aid = town.open_account(phone, name=name)
    assert accounts_of(town, phone) == sorted([*before, aid])
    assert town.open_account(phone, name=name) != aid  # it was over: this is another one


def test_a_tsm_killed_between_its_two_units_of_tid_3_resumes_by_itself_with_one_grant(town, phone):
    aid = town.open_account(phone)
    town.kill("bank-a")
    with pytest.raises(Unavailable):
        town.register(phone, aid)
    (entry,) = [entry for entry in town.rows("tsm-1", TID_LIST) if entry.aid == aid]
    assert entry.state == "EXPECT_BANK_APPROVAL"
    assert len(town.rows("tsm-1", OUTBOX)) == 1
    town.kill("tsm-1")
    town.running("bank-a", "tsm-1")
    for _ in range(100):  # nobody asks: the TSM takes up its question
        if not town.rows("tsm-1", OUTBOX):
            break
        threading.Event().wait(0.05)
    (entry,) = [entry for entry in town.rows("tsm-1", TID_LIST) if entry.aid == aid]
    assert entry.state == "ACTIVE"
    assert town.register(phone, aid) == entry.tid  # the very request that was cut off is answered now
    assert len([grant for grant in town.rows("bank-a", GRANTS) if grant.aid == aid]) == 1
    assert len([service for service in town.rows("tsm-1", SERVICES) if service.tid == entry.tid]) == 1


def test_a_tsm_killed_after_the_bank_decided_finishes_with_the_same_grant(town, phone):
    """The bank's answer is lost too: asked again with the same bytes, it gives the same promise."""
    aid = town.open_account(phone)
    with FaultProxy(town.address("tsm-1", "bank-a")) as proxy:
        town.stop("tsm-1")
        with town.peer_address("tsm-1", "bank-a", proxy.address):
            town.running("tsm-1")
            proxy.cut_when = town.after_next("bank-a", "Bank.ApproveGrant")
            with pytest.raises(Unavailable):
                town.register(phone, aid)
            town.kill("tsm-1")
            assert proxy.cuts >= 1
    assert [grant.aid for grant in town.rows("bank-a", LIVE_GRANTS) if grant.aid == aid] == [aid]
    town.running("tsm-1")
    tid = town.register(phone, aid)
    assert [e.state for e in town.rows("tsm-1", TID_LIST) if e.aid == aid] == ["ACTIVE"]
    assert [s.state for s in town.rows("tsm-1", SERVICES) if s.tid == tid] == ["ACTIVE"]
    assert len([grant for grant in town.rows("bank-a", GRANTS) if grant.aid == aid]) == 1


def test_all_parties_stopped_and_started_in_the_middle_of_flows(town, phone):
    parties = ("bank-a", "tsm-1", f"{phone}/se")

    def restart() -> None:
        threads = [threading.Thread(target=lambda p=party: statuses.append(town.stop(p))) for party in parties]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        town.running(*parties)

    statuses: list[int] = []
    before = accounts_of(town, phone)
    with pytest.raises(Unavailable):
        town.open_account(phone, name="restarts", rpc="Bank.CertifyAccount", after=restart)
    aid = town.open_account(phone, name="restarts")
    tid = town.register(phone, aid)
    with pytest.raises(Unavailable):
        town.issue(phone, tid, rpc="Tsm.IssueCards", after=restart)
    town.issue(phone, tid)
    assert statuses == [0] * 6
    assert accounts_of(town, phone) == sorted([*before, aid])
    assert [card.state for card in town.rows("tsm-1", CARDS) if card.tid == tid] == ["ACTIVE"]


# --- drains ----------------------------------------------------------------------------------------------------------
def test_sigterm_answers_what_is_under_way_and_takes_no_more(town, phone):
    before = accounts_of(town, phone)
    pid = town.deployment.pid("bank-a")
    log_before = len(town.log("bank-a"))
    holder = sqlite3.connect(town.folder / "bank-a/data.db", isolation_level=None, check_same_thread=False)

    def hold_and_terminate() -> None:
        """The unit waits for the database, so the request is under way for certain when SIGTERM comes."""
        holder.execute("BEGIN IMMEDIATE")
        threading.Thread(target=terminate).start()

    def terminate() -> None:
        threading.Event().wait(0.4)
        os.kill(pid, signal.SIGTERM)
        while '"event": "draining"' not in town.log("bank-a")[log_before:]:
            threading.Event().wait(0.01)
        threading.Event().wait(0.1)
        holder.execute("ROLLBACK")

    with pytest.raises(Unavailable):  # of the call after it: the bank takes no more
        town.open_account(phone, name="drained", rpc="Bank.CertifyAccount", before=hold_and_terminate)
    holder.close()
    assert town.stop("bank-a") == 0
    log = town.log("bank-a")[log_before:]
    assert log.index('"event": "draining"') < log.index('"rpc": "Bank.CertifyAccount"')
    assert "Bank.ActivateAccount" not in log
    assert [c.code for c in town.captured("bank-a") if c.rpc == "Bank.CertifyAccount"][-1] == "OK"
    town.running("bank-a")
    certified = [row for row in town.rows("bank-a", ANONYMOUS_ACCOUNTS) if row.state == "EXPECT_ACTIVATION"]
    aid = town.open_account(phone, name="drained")
    assert aid in {row.aid for row in certified}
    assert accounts_of(town, phone) == sorted([*before, aid])


def test_a_drain_does_not_wait_for_a_peer_that_keeps_silent(town, phone):
    """The bank is frozen, neither up nor down; a question waits for it; the TSM must still come to its end."""
    aid = town.open_account(phone)
    wallet, app = town.folder / phone / "wallet", town.folder / phone / "app/tapveil-wallet.pyz"
    command = [sys.executable, "-I", app, "--phone", wallet, "register", "--tsm", "tsm-1", "--aid", aid]
    os.kill(town.deployment.pid("bank-a"), signal.SIGSTOP)
    try:
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as asking:
            while not town.rows("tsm-1", OUTBOX):
                threading.Event().wait(0.02)
            asking.kill()
        threading.Event().wait(2.2)  # the TSM's own thread asks the bank again, and waits too
        started = time.monotonic()
        assert town.stop("tsm-1") == 0
        assert time.monotonic() - started < 10
    finally:
        os.kill(town.deployment.pid("bank-a"), signal.SIGCONT)
    town.running("tsm-1")
    tid = town.launched(phone).run_app(["register", "--tsm", "tsm-1", "--aid", aid])["tid"]
    assert [(e.tid, e.state) for e in town.rows("tsm-1", TID_LIST) if e.aid == aid] == [(tid, "ACTIVE")]
    assert len([grant for grant in town.rows("bank-a", GRANTS) if grant.aid == aid]) == 1


def test_a_stopped_server_refuses_connections(town, phone):
    host, port = town.address(f"{PHONE}/wallet", phone).split(":")
    socket.create_connection((host, int(port))).close()
    assert town.stop(f"{phone}/se") == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)))
    with grpc.insecure_channel(f"{host}:{port}") as channel, pytest.raises(grpc.FutureTimeoutError):
        grpc.channel_ready_future(channel).result(0.3)
