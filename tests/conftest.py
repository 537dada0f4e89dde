"""Each test worker makes its environments in a range of ports of its own, so that none takes another's."""

from __future__ import annotations

import os

WORKERS = 8
worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
first = 20_000 + worker * 1_500
os.environ["TAPVEIL_PORTS"] = f"{first}-{first + 1_499}"
