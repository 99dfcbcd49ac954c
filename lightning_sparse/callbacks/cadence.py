"""The length of a Lightning run, in epochs and optimizer steps."""

from __future__ import annotations

from math import ceil, inf

from lightning_sparse._compat import Trainer
from lightning_sparse.methods.timetable import RunLength


def run_length(trainer: Trainer, max_epochs: int | None) -> RunLength:
    """Return how long the Trainer will train, from the very beginning of the run.

    Args:
        trainer: The Trainer, at the start of training.
        max_epochs: Its limit in epochs, as the user gave it.
    """
    batches, accumulated = trainer.num_training_batches, trainer.accumulate_grad_batches
    return RunLength(
        max_epochs=inf if max_epochs in (None, -1) else float(max_epochs or 0),
        max_steps=inf if trainer.max_steps == -1 else ceil(trainer.max_steps / counted_per_step(trainer)),
        # The last batch of an epoch always steps.
        steps_per_epoch=inf if batches == inf else ceil(batches / accumulated),
    )


def counted_per_step(trainer: Trainer) -> int:
    """Return how often the Trainer counts one step: in manual optimization once for each optimizer."""
    return 1 if trainer.lightning_module.automatic_optimization else max(1, len(trainer.optimizers))
