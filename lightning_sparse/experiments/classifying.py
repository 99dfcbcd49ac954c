"""What trainings of image classifiers in processes of their own have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from lightning_sparse._compat import Callback, LightningModule, Trainer, callbacks_of
from lightning_sparse.callbacks import SparseTrainingCallback
from lightning_sparse.topology.recipes import as_recipe
from lightning_sparse.validation.errors import InvalidValueError


class ImageCounter(Callback):
    """Counts the images of the test."""

    images = 0

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Add the images of a batch."""
        self.images += len(batch[1])


def quiet_trainer(epochs: int, callbacks: Sequence[Callback], **options: Any) -> Trainer:
    """Return a Trainer on one device that logs, saves and shows nothing.

    Args:
        epochs: Number of epochs.
        callbacks: Its callbacks.
        **options: Other options of the Trainer.
    """
    return Trainer(
        max_epochs=epochs,
        callbacks=list(callbacks),
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def active_counts(trainer: Trainer, names: Sequence[str]) -> dict[str, int] | None:
    """Return the number of active weights of each layer after a training, None if it was not sparse.

    Args:
        trainer: Trainer that trained.
        names: Names of the layers, in the order of the network.
    """
    for callback in callbacks_of(trainer):
        if isinstance(callback, SparseTrainingCallback) and callback.network is not None:
            counts = [layer.active for layer in callback.network.layers.values()]
            return dict(zip(names, counts, strict=True))
    return None


def check_keeps_layers(options: Mapping[str, Any]) -> None:
    """Raise a ValueError if the recipe in options of `SparseTrainingCallback` moves weights between layers."""
    recipe = options.get("recipe", "sparse_momentum")
    if as_recipe(recipe).redistribute is not None:
        raise InvalidValueError(
            expected="a recipe that leaves each layer its number of active weights",
            got=f"{recipe!r}, which redistributes them",
            cure="'static', 'set' without redistribution, or a Recipe with redistribute=None",
        )


def output_count(network: nn.Module) -> int:
    """Return the number of outputs of a network's last layer with weights."""
    return next(weight.shape[0] for weight in reversed(list(network.parameters())) if weight.dim() > 1)
