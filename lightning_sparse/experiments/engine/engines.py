"""Engines: an executor of this machine or of a cluster, and how many trainings it has room for."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from types import TracebackType

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
    """Makes trainings by any executor of this machine whose workers can import this package.

    Args:
        executor: Executor; it is shut down with the engine.
        slots: Number of trainings at the same time, >= 1.
        environment: Environment variables of the trainings, such as `OMP_NUM_THREADS`.
    """

    def __init__(self, executor: Executor, slots: int, environment: Mapping[str, str] | None = None) -> None:
        self._executor, self._room, self._environment = executor, slots, dict(environment or {})
        # All that were submitted and haven't ended, noted before they can begin.
        self._orders: dict[str, Order] = {}
        self._order_of: dict[Future[Outcome], Order] = {}

    @property
    def slots(self) -> int:
        """Number of trainings for which there is room, now."""
        return self._room

    def submit(self, order: Order) -> Future[Outcome]:
        """Start a training."""
        self._orders[order.token] = order
        future = self._start(order)
        self._order_of[future] = order
        future.add_done_callback(self._forget)
        return future

    def _start(self, order: Order) -> Future[Outcome]:
        return self._executor.submit(supervise, order, self._environment)

    def _forget(self, future: Future[Outcome]) -> None:
        if (order := self._order_of.pop(future, None)) is not None:
            self._orders.pop(order.token, None)

    def cancel(self, futures: Collection[Future[Outcome]]) -> None:
        """End trainings for which nobody waits any more, and return when their processes have ended."""
        orders = [self._order_of[future] for future in futures if future in self._order_of]
        for future in futures:
            future.cancel()
        with _cancelled(orders):
            wait(futures)

    def __enter__(self) -> Self:
        """Return the engine, which is shut down at the end of the `with`."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End what still runs, as nobody can wait for it any more, and shut the engine down."""
        with _cancelled(list(self._orders.values())):
            self._executor.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _cancelled(orders: Collection[Order]) -> Iterator[None]:
    """Tell whoever supervises these trainings, in whatever process, that nobody waits for them any more."""
    for order in orders:
        with suppress(OSError):  # its folder is gone: it has just ended
            order.work_folder.mkdir(parents=True, exist_ok=True)
            order.cancel_file.touch()
    try:
        yield
    finally:
        for order in orders:
            order.cancel_file.unlink(missing_ok=True)
            with suppress(OSError):  # it has a checkpoint, or is gone
                order.work_folder.rmdir()


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

    def _start(self, order: Order) -> Future[Outcome]:
        return self._executor.submit(self._supervise, order)

    def _supervise(self, order: Order) -> Outcome:
        share = self._free.get()
        try:
            return supervise(order, share)
        finally:
            self._free.put(share)
