"""What logs and metrics must not tell: every value of a party's database, and how bytes could show in a text."""

from __future__ import annotations

import dataclasses
from typing import Any

from parties.storage.roles import TABLES


def values(town: Any, server: str) -> set[str]:
    """Every byte string and every text of more than six characters in the party's database, but for words of states."""
    found: set[str] = set()
    role = town.opened(server).settings.role.value
    for table in TABLES.get(role, ()):
        for row in town.rows(server, table):
            for field in dataclasses.fields(row):
                value = getattr(row, field.name)
                if isinstance(value, bytes):
                    found |= set(forms(value))
                elif isinstance(value, str) and len(value) > 6 and field.name not in PUBLIC:
                    found.add(value)
    return found


PUBLIC = {"state", "purpose", "rpc", "peer_rpc", "message", "refusal", "software", "trust_class", "channel", "peer"}
"""Columns whose values are words of the protocol, which a log may hold."""


def forms(value: bytes) -> list[str]:
    """How bytes could show in a log."""
    if len(value) < 8:
        return []
    forms = [value.hex(), repr(value)[2:-1]]
    if value.isascii():
        forms.append(value.decode())
    return forms
