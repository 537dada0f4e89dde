"""The wallet's release: a reproducible zipapp of exactly the modules that the phone runs (ATT-D1, design §3)."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Final

SOFTWARE: Final = "tapveil-wallet"
VERSION: Final = "1.0.0"
_ROOT: Final = Path(__file__).parent.parent
_SHEBANG: Final = b"#!/usr/bin/env python3\n"
_MAIN: Final = b"""\
import gc

gc.disable()  # nothing of what is imported is garbage: a third of the start would go into looking
from parties.wallet.app import main

gc.freeze()
gc.enable()
main()
"""
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
_MODE: Final = 0o100644 << 16
_UNIX: Final = 3
PARTS: Final = (
    "protocol", "parties/__init__.py", "parties/rpc", "parties/wallet", "parties/apdus.py", "parties/channels.py",
    "parties/directory.py", "parties/keystore.py", "parties/settings.py", "parties/storage/__init__.py",
    "parties/storage/sealing.py", "parties/system.py",
)  # fmt: skip
"""What the wallet is made of; anything else it would import is missing on the phone, and the app would not start."""


def build_release() -> bytes:
    """The package: the same sources give the same bytes everywhere (fixed order, times and modes)."""
    files = {"__main__.py": _MAIN}
    for part in PARTS:
        path = _ROOT / part
        for source in [path] if path.is_file() else path.rglob("*.py"):
            files[source.relative_to(_ROOT).as_posix()] = source.read_bytes()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = _MODE
            entry.create_system = _UNIX
            archive.writestr(entry, files[name])
    return _SHEBANG + buffer.getvalue()
