"""A witness of every moment at which weights are used, and what runs have in common that are the same."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from tiny_training import active_weights, stray_weights

from lightning_sparse import SparseTrainingCallback

DENSITY, BUDGET = 0.3, 24  # of 80 weights
HOOKS = ("on_train_batch_start", "on_train_batch_end", "on_validation_start", "on_train_epoch_end", "on_train_end")


class Watch(Callback):
    """Count inactive weights that are not zero, and active ones, at the start and end of batches and validations.

    Attributes:
        stray: Inactive weights that are not zero, by layer, at each moment where there were any.
        budgets: The active weights at each moment.
    """

    def __init__(self, sparse: SparseTrainingCallback) -> None:
        self.stray: list[dict[str, int]] = []
        self.budgets: list[int] = []
        self._sparse = sparse
        for hook in HOOKS:
            setattr(self, hook, self._look)

    def _look(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        self.stray += [found] if (found := stray_weights(self._sparse, module)) else []
        self.budgets.append(active_weights(self._sparse))


def scaled(**options: Any) -> MixedPrecision:
    """Return mixed precision of 16 bits with a gradient scaler, on the CPU."""
    return MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", **{"init_scale": 4, **options}))
