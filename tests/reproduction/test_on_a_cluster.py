"""Real runs on a cluster, whose results are those of local ones, also when a worker is lost in the middle of a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from clusters import cluster, engine_of
from small_results import without_times

from lightning_sparse.experiments.engine import finished as finishing
from lightning_sparse.experiments.engine.engines import Engine
from lightning_sparse.experiments.engine.finished import finished
from lightning_sparse.experiments.engine.options import open_engine
from lightning_sparse.experiments.setting import SMALL, Experiment, Setting

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # Dask's own
    pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc"),
]
# Long enough to be lost in the middle.
RUNS = [Experiment(Setting("mnist_lenet300_5"), seed, SMALL.with_options({"max_epochs": 8})) for seed in (0, 1)]


def results_of(engine: Engine, data: Path, results: Path, watch: Any = lambda running: None) -> list[dict[str, Any]]:
    ended = sorted(finished(RUNS, engine, data, results, watch), key=lambda run: run.training.seed)
    assert not any(run.failure for run in ended)
    return [without_times(run.result) for run in ended]


def test_runs_of_a_lost_worker_go_on_elsewhere_to_the_results_of_local_ones(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finishing, "_RETRY_SECONDS", 0.2)
    monkeypatch.setenv("LIGHTNING_SPARSE_SAVE_SECONDS", "0.3")
    far = tmp_path / "far"
    with cluster(tmp_path) as started, engine_of(started, threads_per_run=1) as engine:
        lost: list[str] = []

        def lose_one(_: object) -> None:
            for run in RUNS:
                is_in_the_middle = read(run.work_folder(far) / "progress") in map(str, range(2, 8))
                if is_in_the_middle and not lost and (worker := worker_of(run)) is not None:
                    lost.append(worker)
                    started.kill(worker)

        on_cluster = results_of(engine, data, far, lose_one)
        assert len(lost) == 1
    with open_engine(jobs=2, threads_per_run=1) as engine:
        assert on_cluster == results_of(engine, data, tmp_path / "near")
    assert len(list(far.rglob("seed*.json"))) == 2


def worker_of(run: Experiment) -> str | None:
    """Return the name of the worker that makes a run, None where none does any more: the run has its folder."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if run.to_json() in (process / "cmdline").read_text().split("\0"):
                return (process / "cwd").readlink().name
        except OSError:  # it has just ended
            continue
    return None


def read(progress: Path) -> str:
    return progress.read_text().partition(" ")[0] if progress.exists() else ""
