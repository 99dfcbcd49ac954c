"""What trainings of image classifiers in processes of their own have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from lightning_sparse._compat import Callback, LightningDataModule, LightningModule, Trainer, callbacks_of
from lightning_sparse.callbacks import SparseTrainingCallback
from lightning_sparse.methods.density_schedule import DensitySchedule

# Zhu & Gupta (2017) remove weights until training is three quarters done, at intervals of 100 steps; here in short
# trainings, too, at some ten times.
_PRUNING_END, _PRUNING_STEPS, _PRUNINGS = 0.75, 100, 10


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


def gradual_pruning(
    final: float | Mapping[str, float], datamodule: LightningDataModule, epochs: int, **options: Any
) -> Callback:
    """Return the callback that starts dense and removes the smallest weights, as Zhu & Gupta (2017) do.

    It ends when training is three quarters done.

    Args:
        final: Density at the end, of all weights or by layer.
        datamodule: Data of the training, which say how many steps there are.
        epochs: Number of epochs.
        **options: Other options of `SparseTrainingCallback`.
    """
    datamodule.setup("fit")
    steps = len(datamodule.train_dataloader()) * epochs
    period = min(_PRUNING_STEPS, max(1, int(steps * _PRUNING_END) // _PRUNINGS))
    schedule = partial(DensitySchedule, every_n_steps=period, end=_PRUNING_END)
    density = schedule(final) if isinstance(final, float) else {name: schedule(each) for name, each in final.items()}
    return SparseTrainingCallback("magnitude_pruning", density=density, **options)


def output_count(network: nn.Module) -> int:
    """Return the number of outputs of a network's last layer with weights."""
    return next(weight.shape[0] for weight in reversed(list(network.parameters())) if weight.dim() > 1)
