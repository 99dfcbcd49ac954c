"""Training runs of a few milliseconds, with all that a Lightning Trainer does."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer
from torch.utils.data import DataLoader, IterableDataset

from lightning_sparse import SparseTrainingCallback
from lightning_sparse.testing.callbacks.runs import (
    active_weights,
    everything,
    masks_of,
    saved,
    saving_everywhere,
    stray_weights,
    watchers_of,
)
from lightning_sparse.testing.callbacks.training import (
    BATCH_SIZE,
    BATCHES,
    CLASSES,
    FEATURES,
    At,
    Batch,
    ShufflingLoader,
    TinyModule,
    classifier,
    fit,
    trainer,
)
from lightning_sparse.testing.equality import differences
from lightning_sparse.testing.small_networks import OPTIMIZERS
from lightning_sparse.topology import LayerView

__all__ = [
    "BATCHES",
    "BATCH_SIZE",
    "CLASSES",
    "FEATURES",
    "OPTIMIZERS",
    "At",
    "Batch",
    "ShufflingLoader",
    "TinyModule",
    "active_weights",
    "classifier",
    "differences",
    "everything",
    "fit",
    "masks_of",
    "saved",
    "saving_everywhere",
    "stray_weights",
    "trainer",
    "watchers_of",
]


class Endless(IterableDataset[Batch]):
    """A stream without a length, of three batches an epoch."""

    def __iter__(self) -> Iterator[Batch]:
        return iter(ShufflingLoader())


def stream() -> DataLoader[Batch]:
    """Return a loader whose length Lightning can't know."""
    return DataLoader(Endless(), batch_size=None)


class ManualModule(TinyModule):
    """Two optimizers in manual optimization, of which Lightning doesn't see the second step."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        wrapped, _ = self.optimizers()
        _, raw = self.optimizers(use_pl_optimizer=False)
        for optimizer in (wrapped, raw):
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()

    def configure_optimizers(self) -> list[Optimizer]:
        return [
            SGD(self.net[0].parameters(), lr=0.1, momentum=0.9),
            Adam(self.net[3].parameters(), lr=0.05),
        ]


class EndsByItself(TinyModule):
    """Ends a run without a limit after nine batches."""

    def on_train_batch_end(self, *_: Any) -> None:
        self.trainer.should_stop = self.global_step >= 9


def saving_at(step: int, path: Path) -> At:
    """Save one checkpoint, after a step."""
    return At("on_train_batch_end", lambda run, _: run.save_checkpoint(path) if run.global_step == step else None)


def one_checkpoint(folder: Path, *callbacks: Callback, step: int = 5) -> str:
    """Train and return the checkpoint after a step, by default between the first update and the second."""
    fit(*callbacks, saving_at(step, folder / "one.ckpt"))
    return str(folder / "one.ckpt")


def rates(callback: SparseTrainingCallback) -> list[float]:
    """Return the prune rate of each update."""
    return [record.prune_rate for record in callback.history]


def by_index(layer: LayerView) -> Tensor:
    """Score by position: a rule of the user's own."""
    return torch.arange(layer.weight.numel(), dtype=torch.float32).view(layer.weight.shape)


def squared(progress: float) -> float:
    """Decay: a schedule of the user's own."""
    return (1 - progress) ** 2


def falls(values: list[float]) -> bool:
    """Tell whether each value is smaller than the one before."""
    return all(later < earlier for earlier, later in pairwise(values))
