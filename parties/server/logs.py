"""Structured logs: JSON lines on standard error. No identity, pseudonym, card number, key or payload ever goes in."""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import Any, Final, TextIO, cast

import structlog

FIELDS: Final = frozenset(
    {"event", "level", "timestamp", "party_role", "rpc", "code", "ms", "kind", "address", "mutual_address", "count"}
)
"""The allow-list: a field that is not on it is dropped before it is written."""


def _only_allowed(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {name: value for name, value in event.items() if name in FIELDS}


class _Stderr:
    """Standard error, which may be a file on a disk that is full: that must not cost anybody an answer."""

    def write(self, text: str) -> int:
        """A line, or nothing."""
        with contextlib.suppress(OSError):
            return sys.stderr.write(text)
        return 0

    def flush(self) -> None:
        """Send on what was written."""
        with contextlib.suppress(OSError):
            sys.stderr.flush()


class _Libraries(logging.Handler):
    """What libraries log: that they did, and which. Their texts and tracebacks may hold what a log must not."""

    def emit(self, record: logging.LogRecord) -> None:
        log.warning("library", kind=record.name)


def configure_logs(level: int = logging.INFO) -> None:
    """Set up logging for a server process."""
    logging.basicConfig(handlers=[_Libraries()], level=logging.WARNING, force=True)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _only_allowed,
            structlog.processors.JSONRenderer(sort_keys=True),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # A line is one write: workers share a log.
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _Stderr())),
        cache_logger_on_first_use=True,
    )


log: structlog.typing.FilteringBoundLogger = structlog.get_logger()
