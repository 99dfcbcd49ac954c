"""Trainings as they finish, from an engine that gets the next one only when it has room."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from lightning_sparse._version import __version__
from lightning_sparse.experiments.engine.engines import Engine, EngineLostError
from lightning_sparse.experiments.engine.orders import Order, Outcome, Training
from lightning_sparse.experiments.engine.writing import write_atomically
from lightning_sparse.validation.errors import InvalidStateError

_T = TypeVar("_T", bound=Training)
# Trainings take minutes: looking more often would take time from them and show nothing new.
_POLL_SECONDS = 0.5
# Until a training that another process is at is asked for again.
_RETRY_SECONDS = 5.0


@dataclass(frozen=True)
class Finished(Generic[_T]):
    """A training that has ended.

    Attributes:
        training: The training.
        text: Content of its result file, a JSON object; empty if it failed.
        failure: Last lines of its log if it failed, else empty.
    """

    training: _T
    text: str = ""
    failure: str = ""

    @property
    def result(self) -> dict[str, Any]:
        """The result."""
        return dict(json.loads(self.text))


def finished(
    trainings: Iterable[_T | None],
    engine: Engine,
    data: Path,
    results: Path,
    watch: Callable[[Collection[_T]], object] = lambda running: None,
) -> Generator[Finished[_T], None, None]:
    """Yield trainings as they end; each is made once, whoever asks for it, and not at all if its result is there.

    The next one is taken from `trainings` only when there is room for it, after the results before it were yielded: so
    a generator may choose it by them. A training that another command is at is waited for. On leaving early (an error,
    Ctrl+C, `close()`), those that run are ended; they resume from their checkpoints when they are asked for again.

    Args:
        trainings: Trainings in the order in which they are started. None instead of one: no more until another ends.
        engine: Engine that makes them.
        data: Root folder of the data sets.
        results: Folder of the results.
        watch: Function that is called with those that run, about twice a second.

    Raises:
        EngineLostError: If the engine takes no more trainings.
    """
    queue = _Queue(iter(trainings), engine, data.absolute(), results.absolute())
    try:
        while not queue.is_empty:
            yield from queue.fill()
            queue.ask_again()
            watch([training for training, _ in queue.running.values()])
            yield from queue.collect()
    finally:
        engine.cancel(list(queue.running))


class _Queue(Generic[_T]):
    """Trainings that wait, run, or are run by others."""

    def __init__(self, source: Iterator[_T | None], engine: Engine, data: Path, results: Path) -> None:
        self._source, self._engine, self._data, self._results = source, engine, data, results
        self._is_exhausted = False
        self.running: dict[Future[Outcome], tuple[_T, Order]] = {}
        # Those that others are at, with the time at which to ask again.
        self._elsewhere: list[tuple[float, _T, Order]] = []
        self._again: list[_T] = []  # the same as one that runs

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return self._is_exhausted and not self.running and not self._elsewhere

    def fill(self) -> Iterator[Finished[_T]]:
        """Start trainings while there is room, and yield those that are finished already."""
        while not self._is_exhausted and len(self.running) < self._engine.slots:
            try:
                training = next(self._source)
            except StopIteration:
                self._is_exhausted = True
                return
            if training is None:
                self._check_that_something_runs()
                return
            yield from self._take(training)

    def _check_that_something_runs(self) -> None:
        if not self.running and not self._elsewhere:
            raise InvalidStateError(
                expected="a training, or others that run, for which to wait",
                got="None, and none runs",
                cure="yield None only while there are trainings that haven't ended",
            )

    def _take(self, training: _T) -> Iterator[Finished[_T]]:
        order = self._order(training)
        if order.result_file.exists():
            yield Finished(training, order.result_file.read_text())
        elif order.path in self._paths():
            self._again.append(training)
        else:
            self._submit(training, order)

    def _paths(self) -> set[str]:
        """Return the paths of trainings that run, here or elsewhere."""
        return {order.path for _, order in self.running.values()} | {order.path for _, _, order in self._elsewhere}

    def _order(self, training: _T) -> Order:
        places = (str(self._data), str(self._results))
        return Order(training.name, training.path, training.program, training.to_json(), *places, __version__)

    def _submit(self, training: _T, order: Order) -> None:
        try:
            future = self._engine.submit(order)
        except Exception as error:  # whatever an executor raises that is broken or has been shut down
            raise EngineLostError(f"one that refuses them ({type(error).__name__}: {error})") from error
        self.running[future] = training, order

    def collect(self) -> Iterator[Finished[_T]]:
        """Wait a moment for trainings to end, and yield those that have."""
        if self.running:
            wait(self.running, _POLL_SECONDS, return_when=FIRST_COMPLETED)
        else:  # others make them, or there is no room now
            time.sleep(_POLL_SECONDS)
        for future in [future for future in self.running if future.done()]:
            training, order = self.running.pop(future)
            outcome = _outcome(future)
            if outcome.state == "elsewhere":
                self._elsewhere.append((time.monotonic() + _RETRY_SECONDS, training, order))
            else:
                yield from self._end(training, order, outcome)
        yield from self._made_by_others()

    def _end(self, training: _T, order: Order, outcome: Outcome) -> Iterator[Finished[_T]]:
        if outcome.state == "finished" and not order.result_file.exists():  # made where this folder can't be seen
            order.result_file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(order.result_file, outcome.result)
        failure = "" if outcome.state == "finished" else outcome.log_end or outcome.state
        yield Finished(training, outcome.result, failure)
        for same in [same for same in self._again if same.path == order.path]:
            self._again.remove(same)
            yield Finished(same, outcome.result, failure)

    def _made_by_others(self) -> Iterator[Finished[_T]]:
        """Yield trainings that others have finished."""
        for entry in list(self._elsewhere):
            _, training, order = entry
            if order.result_file.exists():
                self._elsewhere.remove(entry)
                yield from self._end(training, order, Outcome("finished", order.result_file.read_text()))

    def ask_again(self) -> None:
        """Ask again for trainings that others made, in case they have given up; where there is room left."""
        for entry in list(self._elsewhere):
            due, training, order = entry
            if due <= time.monotonic() and len(self.running) < self._engine.slots:
                self._elsewhere.remove(entry)
                self._submit(training, order)


def _outcome(future: Future[Outcome]) -> Outcome:
    """Return how a training ended; an engine that fails at it is a failure of this one, and one that is gone of all."""
    try:
        return future.result()
    except CancelledError as error:
        raise EngineLostError("one that has given them up") from error
    except Exception as error:  # whatever the executor makes of a worker that is gone
        return Outcome("failed", log_end=f"{type(error).__name__}: {error}")
