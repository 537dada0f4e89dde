"""`python -m support.stepped ROLE SETTINGS CLOCK`: a party's server, whose clock a test may step.

The product has no option for it: this is a program of the tests, which gives the server another `Clock`.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from support.ruin import SteppedClock

from parties import serve
from parties.assembly.common import Opened
from parties.server.logs import configure_logs
from parties.server.process import stopping
from parties.settings import load_settings
from protocol.types import Role


def main(role: str, settings: str, clock: str) -> None:
    """Serve until SIGTERM."""
    configure_logs()
    opened = replace(Opened.of(load_settings(Path(settings), Role(role))), clock=SteppedClock(Path(clock)))
    with stopping() as stop:
        store, channels = opened.store(), opened.channels()
        try:
            serve._run(opened, store, channels, stop, None, shares_port=False)
        finally:
            channels.close()
            store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
