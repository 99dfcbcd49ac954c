"""Trains one side of a pair in a process of its own: `python -m lightning_sparse.comparison.training_process`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lightning_sparse._compat import Callback, LightningDataModule, seed_everything
from lightning_sparse.callbacks import GradientFlowCallback, SparseTrainingCallback
from lightning_sparse.callbacks.gradient_flow.records import GradientFlowRecord
from lightning_sparse.comparison.members import make_data, make_pair, make_widest
from lightning_sparse.comparison.regularizers import DecoupledWeightDecay, Regularizer
from lightning_sparse.comparison.same_capacity import SameCapacity
from lightning_sparse.comparison.study import PairMember
from lightning_sparse.experiments.classifying import (
    ImageCounter,
    active_counts,
    gradual_pruning,
    output_count,
    quiet_trainer,
)
from lightning_sparse.experiments.engine.writing import write_atomically
from lightning_sparse.experiments.resumable import run_alone, train_resumably, versions
from lightning_sparse.models import ImageClassifier
from lightning_sparse.topology.digest import checksum
from lightning_sparse.validation.import_paths import import_callable


def run(training: PairMember, data: Path, results: Path) -> dict[str, Any] | None:
    """Train and test one side of a pair, resuming an interrupted run, and write the result.

    Args:
        training: The training.
        data: Root folder of the data sets.
        results: Folder of the results.

    Returns:
        The result, on rank zero. Without finite weights it has no test loss and no number of correct images.
    """
    pair = make_pair(training)
    datamodule = make_data(training, data)
    counted = ImageCounter()
    flow = GradientFlowCallback(spread_over_epochs=training.protocol["measured_epochs"], per_layer=False)
    network = _network(training, pair)
    module = ImageClassifier(network, optimizer=_optimizer(training), num_classes=output_count(network))
    seed_everything(training.seed, verbose=False)
    trainer = quiet_trainer(training.protocol["epochs"], [counted, flow, *_callbacks(training, pair, datamodule)])
    trained = train_resumably(trainer, module, datamodule, results / training.path)
    tested = trainer.test(module, datamodule, verbose=False)[0] if trained.is_finite else {}
    norms = [_norms(record) for record in flow.history]
    result = {
        **json.loads(training.to_json()),
        "diverged": not trained.is_finite or not _is_finite(tested, norms),
        "images": counted.images,
        **_tested(tested, counted.images),
        "gradient_flow": norms,
        "active": active_counts(trainer, list(pair.masks)) or pair.active,
        "masks": checksum(pair.masks),
        **{name: round(seconds, 1) for name, seconds in trained.times.items()},
        "versions": versions(),
    }
    write_atomically(results / f"{training.path}.json", json.dumps(result) + "\n")
    return result


def _is_finite(tested: Mapping[str, float], norms: Sequence[Mapping[str, float]]) -> bool:
    """Tell whether test loss and gradients are finite, which those of finite weights need not be."""
    return all(map(isfinite, [*tested.values(), *(value for record in norms for value in record.values())]))


def _norms(record: GradientFlowRecord) -> dict[str, float]:
    """Return EGF and the norm of all gradients, by the names that metrics have."""
    effective = {f"egf_{norm}": value for norm, value in record.effective.items()}
    return {"epoch": record.epoch, **effective, **record.total}


def _tested(metrics: Mapping[str, float], images: int) -> dict[str, float]:
    if not metrics:
        return {}
    return {"correct": round(metrics["test/accuracy"] * images), "test_loss": metrics["test/loss"]}


def _optimizer(training: PairMember) -> Callable[[Any], Optimizer]:
    options = training.protocol["optimizer"]
    make = import_callable(options["class_path"], expected="a class of optimizers")
    penalizes = Regularizer(training.cell.regularizer).penalizes
    decay = {"weight_decay": training.protocol["weight_decay"]} if penalizes else {}
    return partial(make, **{**options.get("init_args", {}), **decay}, lr=training.cell.learning_rate)


def _network(training: PairMember, pair: SameCapacity) -> nn.Module:
    if training.side == "dense":
        return pair.dense
    return make_widest(training) if training.protocol.get("pruned_from_dense") else pair.sparse


def _callbacks(training: PairMember, pair: SameCapacity, datamodule: LightningDataModule) -> list[Callback]:
    """Return what the regularizer and the masks need."""
    decays = Regularizer(training.cell.regularizer).decays
    decay: list[Callback] = [DecoupledWeightDecay(training.protocol["weight_decay"])] if decays else []
    if training.side == "dense" or all(mask.all() for mask in pair.masks.values()):
        return decay
    if training.protocol.get("pruned_from_dense"):
        densities = {f"model.{name}": int(mask.sum()) / mask.numel() for name, mask in pair.masks.items()}
        return [gradual_pruning(densities, datamodule, training.protocol["epochs"], seed=training.seed), *decay]
    options = training.protocol["sparse_training"]
    return [SparseTrainingCallback(**options, masks_from=pair.masks, seed=training.seed), *decay]


def main(arguments: list[str]) -> None:
    """Run a training, unless it is finished or another process is running it.

    Args:
        arguments: The training as JSON, and the other arguments of `run_alone`.
    """
    training = PairMember.from_json(arguments[0])
    run_alone(training, arguments[1:], lambda data, results: run(training, data, results))


if __name__ == "__main__":
    main(sys.argv[1:])
