"""Two requests at once: something is committed between the opening of a request and its decision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from support.world import World

from protocol.rows import Decision, MemoryStore, Read, Rows, Table, Unit


class Meanwhile:
    """A store on which something else is committed just before the next unit."""

    def __init__(self, store: MemoryStore, action: Callable[[], object]) -> None:
        self._store = store
        self._action: Callable[[], object] | None = action

    def read(self, *reads: Read) -> Rows:
        return self._store.read(*reads)

    def apply(self, unit: Unit) -> Decision:
        action, self._action = self._action, None
        if action is not None:
            action()
        return self._store.apply(unit)

    def scan(self, table: Table[Any]) -> tuple[Any, ...]:
        return self._store.scan(table)

    def sweep(self, now_s: int) -> int:
        return self._store.sweep(now_s)


@contextmanager
def meanwhile(world: World, party: str, action: Callable[[], object]) -> Iterator[None]:
    """What `action` does is committed between the opening and the decision of the party's next request."""
    engine, store = world.parties[party].engine, world.parties[party].store

    def act() -> None:
        racing, engine._store = engine._store, store
        action()
        engine._store = racing

    engine._store = Meanwhile(store, act)
    try:
        yield
    finally:
        engine._store = store
