"""Engines: an executor of this machine or of a cluster, and how many trainings it has room for."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from queue import SimpleQueue
from types import TracebackType
from typing import Any

from typing_extensions import Self

from lightning_sparse.experiments.engine.orders import Order, Outcome
from lightning_sparse.experiments.engine.supervision import supervise
from lightning_sparse.validation.errors import InvalidStateError


class EngineLostError(InvalidStateError):
    """An engine takes no more trainings.

    Args:
        got: Noun phrase for what there is instead.
    """

    def __init__(self, got: str) -> None:
        super().__init__(
            expected="an engine that makes the trainings it is asked for",
            got=f"{got}, as a cluster does whose scheduler has ended",
            cure="start the engine and the same command again: what is finished is kept",
        )


class Engine:
    """Makes trainings by any executor whose workers can import this package.

    Args:
        executor: Executor; it is shut down with the engine.
        slots: Number of trainings at the same time, >= 1.
        environment: Environment variables of the trainings, such as `OMP_NUM_THREADS`.
    """

    def __init__(self, executor: Executor, slots: int, environment: Mapping[str, str] | None = None) -> None:
        self._executor, self._room, self._environment = executor, slots, dict(environment or {})

    @property
    def slots(self) -> int:
        """Number of trainings for which there is room, now."""
        return self._room

    def submit(self, order: Order) -> Future[Outcome]:
        """Start a training."""
        return self._executor.submit(supervise, order, self._environment)

    def cancel(self, futures: Collection[Future[Outcome]]) -> None:
        """End trainings for which nobody waits any more, and return when they have ended, as far as that is known."""
        for future in futures:
            future.cancel()

    def __enter__(self) -> Self:
        """Return the engine, which is shut down at the end of the `with`."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Shut the engine down."""
        self._executor.shutdown(wait=kind is None, cancel_futures=True)


class LocalEngine(Engine):
    """Makes trainings on this machine: threads that wait for the processes of trainings.

    Args:
        shares: Environment variables of each training, for as many as run at the same time: their GPUs and threads.
    """

    def __init__(self, shares: Sequence[Mapping[str, str]]) -> None:
        super().__init__(ThreadPoolExecutor(len(shares)), len(shares))
        self._free: SimpleQueue[Mapping[str, str]] = SimpleQueue()
        for share in shares:
            self._free.put(share)
        self._cancelled: dict[Future[Any], threading.Event] = {}

    def submit(self, order: Order) -> Future[Outcome]:
        """Start a training."""
        cancelled = threading.Event()
        future = self._executor.submit(self._supervise, order, cancelled)
        self._cancelled[future] = cancelled
        future.add_done_callback(lambda done: self._cancelled.pop(done, None))
        return future

    def _supervise(self, order: Order, cancelled: threading.Event) -> Outcome:
        share = self._free.get()
        try:
            return supervise(order, share, cancelled.is_set)
        finally:
            self._free.put(share)

    def cancel(self, futures: Collection[Future[Outcome]]) -> None:
        """End trainings, and return when their processes have ended."""
        for future in futures:
            if not future.cancel() and (cancelled := self._cancelled.get(future)) is not None:
                cancelled.set()
        wait(futures)
