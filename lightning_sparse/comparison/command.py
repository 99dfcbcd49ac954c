"""`lightning-sparse compare`: from a study to its pairs, their tests and a page."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from lightning_sparse.comparison.measured import MeasuredStudy
from lightning_sparse.comparison.members import make_data
from lightning_sparse.comparison.output import write_page, write_texts
from lightning_sparse.comparison.study import SameCapacityStudy
from lightning_sparse.experiments.engine.options import open_engine
from lightning_sparse.experiments.runner import run_missing
from lightning_sparse.validation.errors import InvalidValueError

# Seconds between two writings of the tables while trainings run.
_WRITE_EVERY = 60.0


def compare(
    study: str,
    seeds: int | None = None,
    data: Path = Path("data"),
    results: Path = Path("comparison"),
    jobs: int = 1,
    **engine_options: Any,
) -> None:
    """Train the missing pairs of a study of sparse against dense networks of the same capacity, and write its tables.

    Tables, pictures and all pairs are written to `<results>/<study>/study.md`, `study.html` and `pairs.csv`. A finished
    training is one small JSON file and is never repeated; an interrupted one resumes from its last checkpoint.

    Args:
        study: Name of a shipped study, or a YAML file with the options of `SameCapacityStudy`.
        seeds: Number of seeds, starting at 0. Default: the study's. 0 trains nothing.
        data: Root folder of the data sets; an `.npz` file with a data set's name in it is used.
        results: Folder of the results.
        jobs: Number of trainings at the same time on this machine.
        **engine_options: Options of the engine that makes the trainings, see
            `lightning_sparse.experiments.engine.options.open_engine`.

    Raises:
        ValueError: If an option is outside its range.
        FileNotFoundError: If data are missing.
        RuntimeError: If trainings fail.
    """
    if seeds is not None and seeds < 0:
        raise InvalidValueError(expected="a number of seeds >= 0", got=seeds, cure="3, for 15 pairs of 5 widths")
    chosen = SameCapacityStudy.read(study)
    if seeds is not None and seeds > chosen.seeds:
        chosen = replace(chosen, seeds=seeds)
    data, results = data.expanduser(), results.expanduser()
    trainings = list(chosen.trainings(seeds))
    with open_engine(jobs=jobs, **engine_options) as engine:
        missing = [each for each in trainings if not (results / f"{each.path}.json").exists()]
        for training in {each.cell.data: each for each in missing}.values():
            datamodule = make_data(training, data)
            datamodule.prepare_data()
            datamodule.setup("fit")
        console, folder = Console(), results / chosen.name
        write = partial(_write, chosen, results, folder)
        write()  # so that a damaged result file is reported before hours of training
        rarely = _Rarely(write, _WRITE_EVERY)
        try:
            if trainings:
                run_missing(trainings, data, results, engine, console, after_each=rarely)
        finally:
            console.print(Markdown(write()))
            write_page(MeasuredStudy(chosen, results), folder)
            console.print(f"wrote study.md, study.html and pairs.csv in {folder}", markup=False)


class _Rarely:
    """Calls a function, at most once in some seconds: all pairs are read each time.

    Args:
        function: Function to call.
        seconds: Shortest time between two calls.
    """

    def __init__(self, function: Callable[[], object], seconds: float) -> None:
        self._function, self._seconds, self._last = function, seconds, time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self._last >= self._seconds:
            self._function()
            self._last = time.monotonic()


def _write(study: SameCapacityStudy, results: Path, folder: Path) -> str:
    return write_texts(MeasuredStudy(study, results), folder)
