"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is. Only FAIL keeps a party from working."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line: which check, how bad, what is so, and what to do about it (empty if nothing)."""

    check: str
    level: Level
    what: str
    mend: str = ""


def ok(check: str, what: str) -> Finding:
    """All is well."""
    return Finding(check=check, level=Level.OK, what=_one_line(what))


def warn(check: str, what: str, mend: str) -> Finding:
    """It works, but should not stay so."""
    return Finding(check=check, level=Level.WARN, what=_one_line(what), mend=mend)


def fail(check: str, what: str, mend: str) -> Finding:
    """It can't work."""
    return Finding(check=check, level=Level.FAIL, what=_one_line(what), mend=mend)


def _one_line(text: str) -> str:
    return " ".join(text.split())
