"""Trains one network of a search in a process of its own: `python -m lightning_sparse.search.training_process`."""

from __future__ import annotations

import json
import sys
from math import isfinite
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_sparse._compat import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning_sparse.callbacks import SparseTrainingCallback
from lightning_sparse.experiments.classifying import (
    active_counts,
    gradual_pruning,
    quiet_trainer,
)
from lightning_sparse.experiments.engine.writing import write_atomically
from lightning_sparse.experiments.resumable import run_alone, train_resumably, versions
from lightning_sparse.search.template import make_data, make_masks, make_module, name_in_module, searched_sizes
from lightning_sparse.search.trainings import SearchTraining
from lightning_sparse.topology.digest import checksum
from lightning_sparse.validation.errors import InvalidValueError


def run(training: SearchTraining, data: Path, results: Path) -> dict[str, Any] | None:
    """Train and measure one network, resuming an interrupted training, and write the result.

    Args:
        training: The training.
        data: Root folder of the data sets.
        results: Folder of the results.

    Returns:
        The result, on rank zero. Without finite weights it has no value.

    Raises:
        RuntimeError: If training ends before its last step.
    """
    protocol, architecture = training.protocol, training.architecture
    seed_everything(training.seed, verbose=False)
    module = make_module(protocol, architecture.width)
    is_masked = bool(architecture.counts) and not architecture.pruned_from_dense
    masks = make_masks(module, protocol, architecture, training.seed) if is_masked else {}
    datamodule = make_data(protocol, data, training.seed)
    # What is measured is measured at the end: nobody looks at validations in between.
    unseen = {"num_sanity_val_steps": 0, "check_val_every_n_epoch": protocol["epochs"] + 1}
    trainer = quiet_trainer(protocol["epochs"], _sparse_training(training, module, masks, datamodule), **unseen)
    begin = None if training.begin is None else results / training.begin
    trained = train_resumably(trainer, module, datamodule, results / training.path, epochs=training.epochs, begin=begin)
    is_continued = training.epochs < protocol["epochs"]
    checkpoint = results / f"{training.path}.ckpt"
    if is_continued:  # before loaders of validation data may draw random numbers
        trainer.save_checkpoint(half := checkpoint.with_suffix(".half"))
    measured = _measure(trainer, module, datamodule, training) if trained.is_finite else {}
    result = {
        **json.loads(training.to_json()),
        "diverged": not trained.is_finite or not all(map(isfinite, measured.values())),
        **measured,
        "active": active_counts(trainer, list(architecture.counts)) or searched_sizes(module, protocol),
        "masks": checksum(masks),
        **{name: round(seconds, 1) for name, seconds in trained.times.items()},
        "versions": versions(),
    }
    if is_continued:
        half.replace(checkpoint)
    write_atomically(results / f"{training.path}.json", json.dumps(result) + "\n")
    if begin is not None:
        begin.unlink(missing_ok=True)
    return result


def _sparse_training(
    training: SearchTraining, module: LightningModule, masks: dict[str, Tensor], datamodule: LightningDataModule
) -> list[Callback]:
    """Return the callback that keeps or finds the masks; none for a dense network."""
    architecture, protocol = training.architecture, training.protocol
    sizes = searched_sizes(module, protocol)
    active, total = sum(architecture.counts.values()), sum(sizes.values())
    if not architecture.counts or active == total:
        return []
    chosen: dict[str, Any] = {
        "include": [name_in_module(name, module, protocol) for name in sizes],
        "seed": training.seed,
    }
    if architecture.pruned_from_dense:
        return [gradual_pruning(active / total, datamodule, protocol["epochs"], **chosen)]
    return [SparseTrainingCallback(**protocol["sparse_training"], masks_from=masks, **chosen)]


def _measure(trainer: Trainer, module: LightningModule, datamodule: Any, training: SearchTraining) -> dict[str, float]:
    """Return the metric, and the loss if there is one, on the data of a training."""
    stage, evaluate = ("test", trainer.test) if training.tests else ("val", trainer.validate)
    found = evaluate(module, datamodule, verbose=False)[0]
    metric = f"{stage}/{training.protocol['metric']}"
    if metric not in found:
        raise InvalidValueError(
            expected=f"a module that logs {metric}",
            got=", ".join(sorted(found)) or "none",
            cure="metric: the name of one that it logs as val/NAME and test/NAME",
        )
    loss = {"loss": found[f"{stage}/loss"]} if f"{stage}/loss" in found else {}
    return {"value": found[metric], **loss}


def main(arguments: list[str]) -> None:
    """Run a training, unless it is finished or another process is running it.

    Args:
        arguments: The training as JSON, and the other arguments of `run_alone`.
    """
    training = SearchTraining.from_json(arguments[0])
    run_alone(training, arguments[1:], lambda data, results: run(training, data, results))


if __name__ == "__main__":
    main(sys.argv[1:])
