"""After whole runs with refusals: no log line of any party holds an identity, pseudonym, number, code or key."""

from __future__ import annotations

import dataclasses
import json

import pytest

from parties.server.logs import FIELDS
from parties.storage.roles import TABLES
from protocol.envelope import Wire
from protocol.errors import FactorsInsufficient, ProtocolError
from protocol.roles.wallet import open_account

pytestmark = pytest.mark.real
PHONE = "phone-7"
PASSCODES = ("wq-7351-zt", "never-9-right")


def test_no_log_line_tells_on_anybody(town):
    customer = town.enrolled(PHONE)
    town.launched(PHONE)
    aid = town.open_account(PHONE)
    tid = town.register(PHONE, aid)
    town.issue(PHONE, tid, number=2)
    with town.session(PHONE) as session:
        flow = open_account(
            session.wallet, bank="bank-a", tsm="tsm-1", software="tapveil-wallet", passcode=PASSCODES[1]
        )
        with pytest.raises(FactorsInsufficient):
            session.run("wrong-passcode", flow)
        for party, rpc in (("bank-a", "Bank.Enroll"), ("tsm-1", "Tsm.ProveCredit"), (PHONE, "SecureElement.Status")):
            with pytest.raises(ProtocolError):
                session.channels.call(party, rpc, Wire(cose=b"\xd2" + bytes(40)))

    servers = ("bank-a", "tsm-1", "sp-1", f"{PHONE}/se")
    secrets = {customer.customer, customer.branch_code, "Ada Wongsakul", aid, tid, *PASSCODES}
    for server in servers:
        secrets |= _values(town, server)
        opened = town.opened(server)
        secrets |= {form for name in opened.keystore.names() for form in _forms(opened.keystore.entry(name))}
        secrets |= set(_forms(opened.settings.passphrase()))
        for captured in town.captured(server):
            for wire in (captured.request, captured.reply):
                secrets |= {form for part in (wire.cose, wire.session) for form in _forms(part)}
    assert len(secrets) > 500
    logs = [path for path in sorted(town.folder.rglob("log.jsonl")) if path.stat().st_size]
    assert len(logs) >= 4
    lines = 0
    for path in logs:
        text = path.read_text()
        lines += len(text.splitlines())
        for line in text.splitlines():
            entry = json.loads(line)  # not one line that is not ours
            assert entry.keys() <= FIELDS, line
            assert all(type(value) in (str, int) for value in entry.values())
        found = [secret for secret in secrets if secret in text]
        assert not found, path
    assert lines > 40


def _values(town, server: str) -> set[str]:
    """Every byte string and every text of more than six characters in the party's database, but for words of states."""
    found: set[str] = set()
    role = town.opened(server).settings.role.value
    for table in TABLES.get(role, ()):
        for row in town.rows(server, table):
            for field in dataclasses.fields(row):
                value = getattr(row, field.name)
                if isinstance(value, bytes):
                    found |= set(_forms(value))
                elif isinstance(value, str) and len(value) > 6 and field.name not in PUBLIC:
                    found.add(value)
    return found


PUBLIC = {"state", "purpose", "rpc", "peer_rpc", "message", "refusal", "software", "trust_class", "channel", "peer"}
"""Columns whose values are words of the protocol, which a log may hold."""


def _forms(value: bytes) -> list[str]:
    """How bytes could show in a log."""
    if len(value) < 8:
        return []
    forms = [value.hex(), repr(value)[2:-1]]
    if value.isascii():
        forms.append(value.decode())
    return forms
