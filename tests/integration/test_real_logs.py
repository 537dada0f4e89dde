"""After whole runs with refusals: no log line of any party holds an identity, pseudonym, number, code or key."""

from __future__ import annotations

import json

import pytest
from support.telling import forms, values

from parties.server.logs import FIELDS
from protocol.envelope import Wire
from protocol.errors import REGISTRY, FactorsInsufficient, ProtocolError
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
        secrets |= values(town, server)
        opened = town.opened(server)
        secrets |= {form for name in opened.keystore.names() for form in forms(opened.keystore.entry(name))}
        secrets |= set(forms(opened.settings.passphrase()))
        for captured in town.captured(server):
            for wire in (captured.request, captured.reply):
                secrets |= {form for part in (wire.cose, wire.session) for form in forms(part)}
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
        found = [secret for secret in secrets if secret in text and secret not in REGISTRY]  # codes are told
        assert not found, path
    assert lines > 40
