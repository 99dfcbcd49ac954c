"""Starts one training as a process of its own and waits for it; what an engine does, on whatever machine.

Trainings are never threads: those of one process would share PyTorch's random state.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from lightning_sparse._version import __version__
from lightning_sparse.experiments.engine.lifeline import LIFELINE
from lightning_sparse.experiments.engine.orders import Order, Outcome

# Exit status of a training that finds its run taken by another process.
RUN_ELSEWHERE = 75  # sysexits.h: a temporary failure
# File in a training's folder that is locked while it runs.
LOCK = "lock"
# What the libraries below PyTorch read.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_POLL_SECONDS = 0.2
_SECONDS_TO_END = 10.0
_LINES_SHOWN = 20


def supervise(
    order: Order, environment: Mapping[str, str] | None = None, is_cancelled: Callable[[], bool] = lambda: False
) -> Outcome:
    """Make a training, unless its result is there, and return how it ended.

    Args:
        order: The training.
        environment: Environment variables of its process, beside those of this one.
        is_cancelled: Function that says whether nobody waits for it any more; asked several times a second. The order's
            `cancel_file` says so, too.
    """
    if order.version != __version__:
        return Outcome("failed", log_end=f"ordered by lightning_sparse {order.version}, but here is {__version__}")
    if (result := _read(order.result_file)) is not None:
        return Outcome("finished", result)
    if _is_made_elsewhere(order):
        return Outcome("elsewhere")
    process = _start(order, environment or {})
    try:
        while process.poll() is None:
            if is_cancelled() or order.cancel_file.exists():
                return Outcome("cancelled")
            _wait(process, _POLL_SECONDS)
    finally:
        _end(process)
    return _outcome(order, process.returncode)


def _is_made_elsewhere(order: Order) -> bool:
    """Tell whether another process holds the lock of a training: starting one that finds out takes seconds."""
    if not (lock := order.work_folder / LOCK).exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):  # a file system without locks
        return False


def _start(order: Order, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    with _log(order.work_folder) as log:
        return subprocess.Popen(
            [sys.executable, "-m", order.program, order.description, order.data, order.results, LIFELINE],
            stdout=log,
            stderr=log,
            stdin=subprocess.PIPE,
            env={**os.environ, **environment},
            start_new_session=True,  # a group of its own, which can be ended as a whole
        )


def _log(work: Path) -> BinaryIO:
    """Open the log file in a training's folder."""
    try:
        work.mkdir(parents=True, exist_ok=True)
        return (work / "log.txt").open("ab")
    except FileNotFoundError:  # another process finished it and removed the folder in the meantime
        work.mkdir(parents=True, exist_ok=True)
        return (work / "log.txt").open("ab")


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process, if it runs, together with its child processes, which would survive if their parent were killed."""
    if process.poll() is None:
        if os.name == "posix":
            # Not SIGTERM: processes that train together would wait for each other in Lightning's handler.
            process.send_signal(signal.SIGINT)
        else:
            process.terminate()
        end = time.monotonic() + _SECONDS_TO_END
        while process.poll() is None and time.monotonic() < end:
            _wait(process, _POLL_SECONDS)
    if process.poll() is None:
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _outcome(order: Order, status: int) -> Outcome:
    """Return how a process has ended, and remove the files of a finished training that nobody needs any more."""
    if (result := _read(order.result_file)) is not None:
        # Another process may be removing the folder, too.
        shutil.rmtree(order.work_folder, ignore_errors=True)
        return Outcome("finished", result)
    return Outcome("elsewhere") if status == RUN_ELSEWHERE else Outcome("failed", log_end=_log_end(order, status))


def _read(file: Path) -> str | None:
    try:
        return file.read_text()
    except FileNotFoundError:
        return None


def _log_end(order: Order, status: int) -> str:
    log = _read_log(order.work_folder / "log.txt")
    lines = log.strip().splitlines()
    return "\n".join(lines[-_LINES_SHOWN:]) if lines else f"nothing; its exit status is {status}"


def _read_log(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except FileNotFoundError:
        return ""
