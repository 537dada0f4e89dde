"""Work among others' work: what one piece raises is its own outcome, and stops none of its neighbors."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


def attempt(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | Exception:
    """What `work` gives, or what it raises, to be raised to whom it belongs."""
    try:
        return work(*args, **kwargs)
    except Exception as exc:  # noqa: BLE001 - whatever it is, a bug too, it is this one's
        return exc
