"""Clusters for tests: a scheduler and workers, each a command of its own that listens on 127.0.0.1."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stand_ins import environment, wait_until

from lightning_sparse.experiments.engine.dask_cluster import DaskEngine
from lightning_sparse.experiments.engine.options import open_engine


@dataclass
class Cluster:
    """Commands of a scheduler and its workers.

    Args:
        folder: Folder for the scheduler's file and the logs.
    """

    folder: Path
    commands: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def file(self) -> str:
        return str(self.folder / "scheduler.json")

    def start(self, kind: str, name: str, *options: str) -> None:
        """Start a scheduler or a worker that listens on 127.0.0.1 only."""
        (self.folder / name).mkdir(exist_ok=True)
        listening = ["--host=127.0.0.1", "--dashboard-address=127.0.0.1:0", f"--scheduler-file={self.file}"]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.commands[name] = subprocess.Popen(
                [sys.executable, "-m", "dask", kind, *listening, *options],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self.folder / name,
                env=environment(),
                start_new_session=True,
            )

    def start_worker(self, name: str, *options: str) -> None:
        self.start("worker", name, "--nthreads=1", f"--local-directory={self.folder / name}", *options)

    def kill(self, name: str) -> None:
        """Kill a command with its children, its trainings excepted, as these have groups of their own."""
        command = self.commands.pop(name)
        os.killpg(command.pid, signal.SIGKILL)
        command.wait()

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()


@contextmanager
def cluster(folder: Path, *worker_options: str) -> Iterator[Cluster]:
    """Start a scheduler and two workers, and end them."""
    started = Cluster(folder)
    try:
        started.start("scheduler", "scheduler", "--port=0")
        wait_until(Path(started.file).exists)
        for name in ("first", "second"):
            started.start_worker(name, *worker_options)
        yield started
    finally:
        for name in list(started.commands):
            started.kill(name)


@contextmanager
def engine_of(started: Cluster, **options: Any) -> Iterator[DaskEngine]:
    with open_engine("dask", cluster=started.file, **options) as engine:
        assert isinstance(engine, DaskEngine)
        wait_until(lambda: engine.slots == 2)
        yield engine


def once(condition: Callable[[], object], act: Callable[[], object]) -> Callable[[Any], None]:
    """Return what can watch trainings: it acts when a condition comes, once."""
    acted: list[object] = []

    def watch(running: object) -> None:
        if not acted and condition():
            acted.append(True)
            act()

    return watch
