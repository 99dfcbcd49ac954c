"""A search that takes seconds, and what its trainings would write."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning_sparse.experiments.engine.finished import Finished
from lightning_sparse.search.density_search import DensitySearch
from lightning_sparse.search.template import Template, read_template
from lightning_sparse.search.trainings import SearchTraining
from lightning_sparse.search.trials import Sampler
from lightning_sparse.search.tried import Trials

OPTIONS: dict[str, Any] = {
    "name": "tiny",
    "title": "A tiny search",
    "model": "lightning_sparse.models.LeNet300100",
    "model_options": {"width": 0.1},
    "width": "width",
    "data": {
        "name": "mnist",
        "class_path": "lightning_sparse.data.MNISTDataModule",
        "init_args": {"val_fraction": 0.25},
    },
    "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.05, "momentum": 0.9}},
    "epochs": 4,
    "trials": 9,
    "reduction": 2,
    "sampler": "mutation",
    "final_seeds": 2,
    "batch_size": 64,
}
# Of LeNet-300-100 at a tenth of its width: 784 * 30, 30 * 10 and 10 * 10 weights.
TEMPLATE = Template({"fc1.weight": (30, 784), "fc2.weight": (10, 30), "fc3.weight": (10, 10)})

Measure = Callable[[SearchTraining], float]


def search(**changes: Any) -> DensitySearch:
    return DensitySearch(**{**OPTIONS, **changes})


def template_of(chosen: DensitySearch) -> Template:
    return read_template(chosen.protocol)


def trials_of(chosen: DensitySearch, sampler: Sampler, results: Path, **options: Any) -> Trials:
    """Return the trials of a search with the template above."""
    return Trials(chosen, TEMPLATE, chosen.choose_space(TEMPLATE), sampler, results / chosen.name, "trials", **options)


def active(training: SearchTraining) -> int:
    return sum(training.architecture.counts.values())


def finish(training: SearchTraining, results: Path, **told: Any) -> Finished[SearchTraining]:
    """Write the result of a training, and return that it has ended."""
    counts = dict(training.architecture.counts)
    result: Mapping[str, Any] = {**json.loads(training.to_json()), "diverged": False, "active": counts, **told}
    file = results / f"{training.path}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result))
    return Finished(training, file.read_text())


def make_all(trials: Trials, results: Path, measure: Measure, at_a_time: int = 1, stop_after: int = 10**6) -> list[str]:
    """Make trainings, so many at a time, until there are none; return their paths in the order in which they began."""
    running: list[SearchTraining] = []
    begun: list[str] = []
    for training in trials:
        if training is not None:
            if len(begun) == stop_after:
                break
            begun.append(training.path)
            running.append(training)
        if running and (training is None or len(running) == at_a_time):
            first = running.pop(0)
            trials.ended(finish(first, results, value=measure(first)))
    return begun
