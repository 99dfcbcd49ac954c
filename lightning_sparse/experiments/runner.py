"""Runs experiments that have no result yet, several at the same time, and shows their progress."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from lightning_sparse.experiments import worker
from lightning_sparse.experiments.machine import shares
from lightning_sparse.experiments.results import is_finished
from lightning_sparse.experiments.setting import Experiment
from lightning_sparse.validation.errors import InvalidStateError

# Runs take minutes: more frequent checks and drawing would take time from them and show nothing new.
_POLL_SECONDS = 0.5
_REFRESHES_PER_SECOND = 1
_SECONDS_TO_END = 10.0


@dataclass
class _Job:
    """A running process, and the environment variables that state its share of the machine."""

    experiment: Experiment
    process: subprocess.Popen[bytes]
    task: TaskID
    share: dict[str, str]


class FailedRunsError(InvalidStateError):
    """Some runs ended with an error."""


def run_missing(
    experiments: Sequence[Experiment],
    data: Path,
    results: Path,
    jobs: int,
    console: Console,
    after_each: Callable[[], object] = lambda: None,
) -> None:
    """Run the experiments that have no result yet, each in its own process; interrupted runs are resumed.

    Several commands may use the same folder of results: none starts a run that another is running.

    Args:
        experiments: Experiments in the order in which they are started.
        data: Root folder of the data sets.
        results: Folder of the results.
        jobs: Number of runs at the same time; they share the machine's GPUs and cores.
        console: Console that shows progress.
        after_each: Function that is called after each run; if it fails, the runs continue.

    Raises:
        FailedRunsError: If runs fail, once all others are done.
    """
    waiting = [experiment for experiment in reversed(experiments) if not is_finished(experiment, results)]
    done = len(experiments) - len(waiting)
    console.print(f"{done} of {len(experiments)} runs are done; {len(waiting)} to go, {jobs} at a time")
    free = shares(jobs, waiting[0].scale.trainer.get("devices", 1)) if waiting else []
    failed = []
    with _progress(console) as progress, _jobs_ended_on_exit() as running:
        overall = progress.add_task("all runs", total=len(experiments), completed=done)
        while waiting or running:
            while waiting and free:
                experiment = waiting.pop()
                if is_finished(experiment, results):  # another command has run it in the meantime
                    progress.advance(overall)
                else:
                    running.append(_start(experiment, data, results, free.pop(0), progress))
            for job in [job for job in running if _is_over(job, results, progress)]:
                running.remove(job)
                free.append(job.share)
                if not _has_ended_well(job, results, console):
                    failed.append(job.experiment)
                progress.advance(overall)
                _call_after_run(after_each, console)
            time.sleep(_POLL_SECONDS)
    if failed:
        raise _failure(failed, results)


def _call_after_run(after_each: Callable[[], object], console: Console) -> None:
    """Call a function and print its error: the other runs continue, and it is called again after each of them."""
    try:
        after_each()
    except (OSError, ValueError) as error:
        console.print(f"not written: {error}", markup=False)


@contextmanager
def _jobs_ended_on_exit() -> Iterator[list[_Job]]:
    """Yield a list; the jobs in it are ended on exit, also if this process is interrupted or terminated."""
    running: list[_Job] = []
    with _signals_raise():
        try:
            yield running
        finally:
            _end([job.process for job in running])


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End processes together with their child processes, which would survive if their parent were killed."""
    for process in processes:
        if os.name == "posix":
            # Not SIGTERM: processes that train together would wait for each other in Lightning's handler.
            process.send_signal(signal.SIGINT)
        else:
            process.terminate()
    end = time.monotonic() + _SECONDS_TO_END
    for process in processes:
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            if os.name == "posix":
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
            process.wait()


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Turn signals that end the process into SystemExit: Python would otherwise end without running `finally`."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread can set handlers
        yield
        return
    ending = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in ending}
    handled = [number for number in ending if before[number] != signal.SIG_IGN]  # nohup ignores SIGHUP
    for number in handled:
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, before[number])


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, refresh_per_second=_REFRESHES_PER_SECOND)


def _start(experiment: Experiment, data: Path, results: Path, share: dict[str, str], progress: Progress) -> _Job:
    with _log(experiment.work_folder(results)) as log:
        process = subprocess.Popen(
            [sys.executable, "-m", worker.__name__, experiment.to_json(), str(data), str(results)],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **share},
            start_new_session=True,  # a group of its own, which can be ended as a whole
        )
    return _Job(experiment, process, progress.add_task(experiment.name, total=None), share)


def _log(work: Path) -> BinaryIO:
    """Open the log file in a run's folder."""
    try:
        work.mkdir(parents=True, exist_ok=True)
        return (work / "log.txt").open("ab")
    except FileNotFoundError:  # another command finished the run and removed the folder in the meantime
        work.mkdir(parents=True, exist_ok=True)
        return (work / "log.txt").open("ab")


def _is_over(job: _Job, results: Path, progress: Progress) -> bool:
    """Show a job's progress, and return whether it has ended."""
    try:
        epochs, total = (job.experiment.work_folder(results) / "progress").read_text().split()
        progress.update(job.task, completed=int(epochs), total=int(total))
    except (FileNotFoundError, ValueError):  # not there yet, or being written
        pass
    if job.process.poll() is None:
        return False
    progress.remove_task(job.task)
    return True


def _has_ended_well(job: _Job, results: Path, console: Console) -> bool:
    """Return whether a job has written its result, or another command runs it; remove files that are not needed."""
    if is_finished(job.experiment, results):
        # Another command may be removing the folder, too.
        shutil.rmtree(job.experiment.work_folder(results), ignore_errors=True)
        return True
    if job.process.returncode == worker.RUN_ELSEWHERE:
        console.print(f"skipped, as another command runs it: {job.experiment.name}")
        return True
    return False


def _failure(failed: Sequence[Experiment], results: Path) -> FailedRunsError:
    first = failed[0].work_folder(results) / "log.txt"
    lines = first.read_text(errors="replace").strip().splitlines() if first.exists() else []
    names = "; ".join(experiment.name for experiment in failed)
    return FailedRunsError(
        expected=f"{len(failed)} more results",
        got=f"errors in {names}. The first ends with: {lines[-1] if lines else 'nothing'}",
        cure=f"see {first}, and start again: finished runs are kept",
    )
