"""Logs: one JSON object a line, only allowed fields, and no word of a library's own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SPEAKER = """
import logging
from parties.server.logs import configure_logs, log
configure_logs()
log.info("served", rpc="Bank.Challenge", code="OK", ms=3, customer="u-1", aid="a-1", passcode="7351", exc_info=True)
log.debug("not shown")
logging.getLogger("grpc._server").warning("peer %s said %s", "ipv4:10.0.0.1:1", "secret")
try:
    raise ValueError("the secret 7351")
except ValueError:
    logging.getLogger("grpc._common").exception("Exception deserializing message!")
logging.getLogger("quiet").info("not shown")
"""


def test_only_allowed_fields_and_no_text_of_others():
    done = subprocess.run([sys.executable, "-c", SPEAKER], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    for line in lines:
        del line["timestamp"]
    assert lines == [
        {"event": "served", "level": "info", "rpc": "Bank.Challenge", "code": "OK", "ms": 3},
        {"event": "library", "level": "warning", "kind": "grpc._server"},
        {"event": "library", "level": "warning", "kind": "grpc._common"},
    ]
    assert "7351" not in done.stderr
    assert done.stdout == ""


def test_a_full_disk_under_the_log_stops_nobody():
    speaker = SPEAKER + 'import sys, os\nsys.stdout.write("went on")\nsys.stdout.flush()\nos._exit(0)\n'
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", speaker], stdout=subprocess.PIPE, stderr=full, text=True, check=True
        )
    assert done.stdout == "went on"
