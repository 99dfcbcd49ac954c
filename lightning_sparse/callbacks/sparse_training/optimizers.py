"""What a sparse network needs of a Trainer: its optimizers, and how long it will train."""

from __future__ import annotations

from collections.abc import Set
from math import ceil, inf

from lightning_sparse._compat import Trainer
from lightning_sparse.callbacks.sparse_training.update_schedule import RunLength
from lightning_sparse.network import SparseNetwork
from lightning_sparse.validation.errors import InvalidValueError


def attach_optimizers(network: SparseNetwork, trainer: Trainer, signals: Set[str]) -> None:
    """Attach a network to those of the Trainer's optimizers that step its weights.

    Args:
        network: Masks and weights; what it was attached to before, it leaves.
        trainer: After its optimizers were made.
        signals: What topology updates will decide by.

    Raises:
        ValueError: If a masked weight has no optimizer.
    """
    network.detach()
    network.enforce()
    stepping = [optimizer for optimizer in trainer.optimizers if network.is_stepped_by(optimizer)]
    if not stepping:
        raise InvalidValueError(
            expected="an optimizer that steps a masked weight",
            got=f"{len(trainer.optimizers)} optimizers that step none",
            cure="return the model's parameters in configure_optimizers, or choose layers with include",
        )
    for optimizer in stepping:
        network.attach(optimizer, track_momentum="momentum" in signals, track_gradients="gradient" in signals)
    if network.unattached:
        raise InvalidValueError(
            expected="an optimizer for every masked weight",
            got=f"none that steps {', '.join(network.unattached)}",
            cure="add them to an optimizer, or leave them as they are with exclude or requires_grad=False",
        )


def run_length(trainer: Trainer, max_epochs: int | None) -> RunLength:
    """Return how long the Trainer will train, from the very beginning of the run.

    Args:
        trainer: At the start of training.
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
