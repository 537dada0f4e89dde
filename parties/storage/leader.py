"""Which of several processes over one database does the housekeeping: the one that holds a lock of its session.

The lock goes with the connection, so whoever dies makes room. It saves work and keeps the log quiet; what housekeeping
does is right also when two do it, since each change is a unit that looks at its rows again.
"""

from __future__ import annotations

import threading
import time
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from parties.storage.database import Database
from parties.storage.postgresql import HOUSEKEEPING

LOOK_EVERY_S: Final = 1.0
_TAKE: Final = sa.text("SELECT pg_try_advisory_lock(:what, hashtext(current_schema()))")
_STILL_THERE: Final = sa.text("SELECT true")


class Leader:
    """One process's claim to the housekeeping. On SQLite, where one process serves, it always holds."""

    def __init__(self, database: Database) -> None:
        self._engine = None
        if database.is_postgresql:
            self._engine = database.another()
        self._lock = threading.Lock()
        self._connection: sa.Connection | None = None
        self._looked_s = -LOOK_EVERY_S

    def holds(self) -> bool:
        """Is it this process's? Looked up at most every `LOOK_EVERY_S`; false while there is no database."""
        if self._engine is None:
            return True
        with self._lock:
            if time.monotonic() - self._looked_s >= LOOK_EVERY_S:
                self._look()
                self._looked_s = time.monotonic()
            return self._connection is not None

    def close(self) -> None:
        """Make room."""
        with self._lock:
            self._let_go()
            if self._engine is not None:
                self._engine.dispose()
            self._looked_s = float("inf")

    def _look(self) -> None:
        try:
            if self._connection is not None:
                self._ask(_STILL_THERE)
            else:
                assert self._engine is not None
                self._connection = self._engine.connect()
                if not self._ask(_TAKE, what=HOUSEKEEPING):
                    self._let_go()
        except SQLAlchemyError:
            self._let_go()

    def _ask(self, question: sa.TextClause, **values: Any) -> bool:
        assert self._connection is not None
        answer = bool(self._connection.scalar(question, values))
        self._connection.commit()  # the lock is the session's: it stays
        return answer

    def _let_go(self) -> None:
        if self._connection is not None:
            self._connection.invalidate()  # not back into a pool, where it would keep the lock
            self._connection.close()
            self._connection = None
