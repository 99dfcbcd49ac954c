"""Runs experiments that have no result yet, and shows their progress."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from lightning_sparse.experiments.engine.engines import Engine
from lightning_sparse.experiments.engine.finished import Finished, finished
from lightning_sparse.experiments.engine.orders import Training
from lightning_sparse.experiments.engine.signals import ending_signals_raise
from lightning_sparse.validation.errors import InvalidStateError

_REFRESHES_PER_SECOND = 1


class FailedRunsError(InvalidStateError):
    """Some runs ended with an error."""


def run_missing(
    experiments: Sequence[Training],
    data: Path,
    results: Path,
    engine: Engine,
    console: Console,
    after_each: Callable[[], object] = lambda: None,
) -> None:
    """Run the experiments that have no result yet, each in its own process; interrupted runs are resumed.

    Several commands may use the same folder of results: none starts a run that another is running.

    Args:
        experiments: Experiments in the order in which they are started.
        data: Root folder of the data sets.
        results: Folder of the results.
        engine: Engine that runs them.
        console: Console that shows progress.
        after_each: Function that is called after each run; if it fails, the runs continue.

    Raises:
        FailedRunsError: If runs fail, once all others are done.
    """
    missing = [each for each in experiments if not _is_finished(each, results)]
    done = len(experiments) - len(missing)
    console.print(f"{done} of {len(experiments)} runs are done; {len(missing)} to go, {engine.slots} at a time")
    failed = []
    with ending_signals_raise(), _progress(console) as progress:
        shown = _Shown(progress, results, done, len(experiments))
        with closing(finished(missing, engine, data, results, shown.show)) as runs:
            for run in runs:
                shown.count()
                if run.failure:
                    failed.append(run)
                _call_after_run(after_each, console)
    if failed:
        raise _failure(failed, results)


def _is_finished(experiment: Training, results: Path) -> bool:
    return (results / f"{experiment.path}.json").exists()


def _call_after_run(after_each: Callable[[], object], console: Console) -> None:
    """Call a function and print its error: the other runs continue, and it is called again after each of them."""
    try:
        after_each()
    except Exception as error:  # none may end hours of other runs
        console.print(f"not written: {error}", markup=False)


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, refresh_per_second=_REFRESHES_PER_SECOND)


class _Shown:
    """Bars for all runs, and for each one that is under way."""

    def __init__(self, progress: Progress, results: Path, done: int, total: int) -> None:
        self._progress, self._results = progress, results
        self._overall = progress.add_task("all runs", total=total, completed=done)
        self._bars: dict[str, TaskID] = {}

    def count(self) -> None:
        """Count a run that has ended."""
        self._progress.advance(self._overall)

    def show(self, running: Collection[Training]) -> None:
        """Show how far each run is that is under way, and no other."""
        paths = {experiment.path for experiment in running}
        for path in [path for path in self._bars if path not in paths]:
            self._progress.remove_task(self._bars.pop(path))
        for experiment in running:
            if experiment.path not in self._bars:
                self._bars[experiment.path] = self._progress.add_task(experiment.name, total=None)
            self._update(experiment.path)

    def _update(self, path: str) -> None:
        try:
            epochs, total = (self._results / path / "progress").read_text().split()
            self._progress.update(self._bars[path], completed=int(epochs), total=int(total))
        except (FileNotFoundError, ValueError):  # not there yet, being written, or on a machine that isn't seen here
            pass


def _failure(failed: Sequence[Finished[Training]], results: Path) -> FailedRunsError:
    first = failed[0]
    log = results / first.training.path / "log.txt"
    names = "; ".join(run.training.name for run in failed)
    kept = f"see {log}, and start again" if log.exists() else "start again"
    return FailedRunsError(
        expected=f"{len(failed)} more results",
        got=f"errors in {names}. The first ends with: {first.failure.splitlines()[-1]}",
        cure=f"{kept}: finished runs are kept",
    )
