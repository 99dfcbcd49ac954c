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

from lightning_sparse._compat import Callback, LightningModule, Trainer, seed_everything
from lightning_sparse.callbacks import GradientFlowCallback, SparseTrainingCallback
from lightning_sparse.callbacks.gradient_flow.records import GradientFlowRecord
from lightning_sparse.comparison.members import import_callable, make_data, make_pair
from lightning_sparse.comparison.regularizers import DecoupledWeightDecay, Regularizer
from lightning_sparse.comparison.same_capacity import SameCapacity
from lightning_sparse.comparison.study import PairMember
from lightning_sparse.experiments.engine.writing import write_atomically
from lightning_sparse.experiments.resumable import run_alone, train_resumably, versions
from lightning_sparse.models import ImageClassifier
from lightning_sparse.topology.digest import checksum
from lightning_sparse.topology.recipes import as_recipe
from lightning_sparse.validation.errors import InvalidValueError


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
    network = pair.dense if training.side == "dense" else pair.sparse
    module = ImageClassifier(network, optimizer=_optimizer(training), num_classes=_classes(network))
    seed_everything(training.seed, verbose=False)
    trainer = Trainer(
        max_epochs=training.protocol["epochs"],
        callbacks=[counted, flow, *_callbacks(training, pair)],
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trained = train_resumably(trainer, module, datamodule, results / training.path)
    tested = trainer.test(module, datamodule, verbose=False)[0] if trained.is_finite else {}
    norms = [_norms(record) for record in flow.history]
    result = {
        **json.loads(training.to_json()),
        "diverged": not trained.is_finite or not _is_finite(tested, norms),
        "images": counted.images,
        **_tested(tested, counted.images),
        "gradient_flow": norms,
        "active": _active(pair, trainer),
        "masks": checksum(pair.masks),
        **{name: round(seconds, 1) for name, seconds in trained.times.items()},
        "versions": versions(),
    }
    write_atomically(results / f"{training.path}.json", json.dumps(result) + "\n")
    return result


class ImageCounter(Callback):
    """Counts the images of the test."""

    images = 0

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Add the images of a batch."""
        self.images += len(batch[1])


def _is_finite(tested: Mapping[str, float], norms: Sequence[Mapping[str, float]]) -> bool:
    """Tell whether test loss and gradients are finite, which those of finite weights need not be."""
    return all(map(isfinite, [*tested.values(), *(value for record in norms for value in record.values())]))


def _norms(record: GradientFlowRecord) -> dict[str, float]:
    """Return EGF and the norm of all gradients, by the names that metrics have."""
    effective = {f"egf_{norm}": value for norm, value in record.effective.items()}
    return {"epoch": record.epoch, **effective, **record.total}


def _active(pair: SameCapacity, trainer: Trainer) -> dict[str, int]:
    """Return the numbers of active weights at the end of a run."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it in a connector
    for callback in callbacks:
        if isinstance(callback, SparseTrainingCallback) and callback.network is not None:
            counts = [layer.active for layer in callback.network.layers.values()]
            return dict(zip(pair.masks, counts, strict=True))
    return pair.active


def _tested(metrics: Mapping[str, float], images: int) -> dict[str, float]:
    if not metrics:
        return {}
    return {"correct": round(metrics["test/accuracy"] * images), "test_loss": metrics["test/loss"]}


def _optimizer(training: PairMember) -> Callable[[Any], Optimizer]:
    options = training.protocol["optimizer"]
    make = import_callable(options["class_path"], "a class of optimizers")
    penalizes = Regularizer(training.cell.regularizer).penalizes
    decay = {"weight_decay": training.protocol["weight_decay"]} if penalizes else {}
    return partial(make, **{**options.get("init_args", {}), **decay}, lr=training.cell.learning_rate)


def _callbacks(training: PairMember, pair: SameCapacity) -> list[Callback]:
    """Return what the regularizer and the masks need."""
    decays = Regularizer(training.cell.regularizer).decays
    decay: list[Callback] = [DecoupledWeightDecay(training.protocol["weight_decay"])] if decays else []
    if training.side == "dense" or all(mask.all() for mask in pair.masks.values()):
        return decay
    options = training.protocol["sparse_training"]
    _check_recipe(options.get("recipe", "sparse_momentum"))
    return [SparseTrainingCallback(**options, masks_from=pair.masks, seed=training.seed), *decay]


def _check_recipe(recipe: Any) -> None:
    """Raise a ValueError if a recipe moves weights between layers, as capacities would then differ."""
    if as_recipe(recipe).redistribute is not None:
        raise InvalidValueError(
            expected="a recipe that leaves each layer its number of active weights",
            got=f"{recipe!r}, which redistributes them",
            cure="'static', 'set' without redistribution, or a Recipe with redistribute=None",
        )


def _classes(network: nn.Module) -> int:
    """Return the number of outputs of a network's last layer with weights."""
    return next(weight.shape[0] for weight in reversed(list(network.parameters())) if weight.dim() > 1)


def main(arguments: list[str]) -> None:
    """Run a training, unless it is finished or another process is running it.

    Args:
        arguments: The training as JSON, and the other arguments of `run_alone`.
    """
    training = PairMember.from_json(arguments[0])
    run_alone(training, arguments[1:], lambda data, results: run(training, data, results))


if __name__ == "__main__":
    main(sys.argv[1:])
