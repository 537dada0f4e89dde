"""Group commit: what is waiting is carried out in one transaction, and only then answered.

The cost of a COMMIT, waiting for the disk, is shared by the tasks that came in while the last one was under way. A task
that finds nobody writing is carried out on its own thread: handing it to another and back costs as much as the work.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Final, Generic, TypeAlias, TypeVar

from protocol.attempt import attempt
from protocol.errors import Overloaded, StorageFault

MAX_BATCH: Final = 32
MAX_WAITING: Final = 1024

T = TypeVar("T")
Outcome: TypeAlias = Any
"""A task's result, or the exception that it is to raise."""


class GroupWriter(Generic[T]):
    """Hands batches of tasks to `transact`, which commits them all or raises and has changed nothing."""

    def __init__(
        self,
        transact: Callable[[Sequence[T]], list[Outcome]],
        *,
        max_batch: int = MAX_BATCH,
        waiting: int = MAX_WAITING,
    ) -> None:
        self._transact = transact
        self._max_batch = max_batch
        self._queue: queue.Queue[tuple[T, Future[Any]] | None] = queue.Queue(maxsize=waiting)
        self._submitting = threading.Lock()
        self._writing = threading.Lock()
        self._closed = False
        self.transactions = 0
        """That were committed, and `tasks` in them: what a batch held on average."""
        self.tasks = 0
        self._thread = threading.Thread(target=self._run, name="storage-writer", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Tasks that wait."""
        return self._queue.qsize()

    def submit(self, task: T) -> Future[Any]:
        """Queue `task`; the future is resolved after COMMIT. Raises: Overloaded if the queue is full, StorageFault."""
        future: Future[Any] = Future()
        with self._submitting:
            if self._closed:
                raise StorageFault("the store is closed")
            try:
                self._queue.put_nowait((task, future))
            except queue.Full as exc:
                raise Overloaded("the writer's queue is full") from exc
        return future

    def run(self, task: T) -> Any:
        """Carry out `task` now, or in turn if others are at it; its result. Raises: as `submit`, or what it raises."""
        (outcome,) = self.run_all((task,))
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def run_all(self, tasks: Sequence[T]) -> list[Outcome]:
        """As `run` of each, together if no more than a batch: what it gives, or would raise."""
        if self._closed or not self._queue.empty() or not self._writing.acquire(blocking=False):
            return self._in_turn(tasks)
        try:
            return self._outcomes(tasks)
        finally:
            self._writing.release()

    def _in_turn(self, tasks: Sequence[T]) -> list[Outcome]:
        """Queue them all, then wait for all."""
        futures = [attempt(self.submit, task) for task in tasks]
        return [each if isinstance(each, Exception) else each.exception() or each.result() for each in futures]

    def close(self) -> None:
        """Take no more tasks, finish those that wait, and return when the last is answered."""
        with self._submitting:
            if not self._closed:
                self._closed = True
                self._queue.put(None)  # behind every task, since nothing is submitted after it
        self._thread.join()
        with self._writing:  # a task on its own thread may still be at it
            pass

    def _run(self) -> None:
        more = True
        while more:
            first = self._queue.get()
            with self._writing:
                batch, more = self._take(first)
                if batch:
                    self._carry_out(batch)

    def _take(self, item: tuple[T, Future[Any]] | None) -> tuple[list[tuple[T, Future[Any]]], bool]:
        """`item` and what waits behind it, at most a batch; False when the writer was closed behind it."""
        batch: list[tuple[T, Future[Any]]] = []
        while item is not None:
            batch.append(item)
            if len(batch) == self._max_batch:
                return batch, True
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return batch, True
        return batch, False

    def _carry_out(self, batch: Sequence[tuple[T, Future[Any]]]) -> None:
        outcomes = self._outcomes([task for task, _ in batch])
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    def _outcomes(self, tasks: Sequence[T]) -> list[Outcome]:
        """Of one transaction; when that fails, of each task's own."""
        outcomes = attempt(self._transact, tasks)
        if isinstance(outcomes, Exception):
            if len(tasks) == 1:
                return [outcomes]
            return [outcome for task in tasks for outcome in self._outcomes([task])]
        self.transactions += 1
        self.tasks += len(tasks)
        return outcomes
