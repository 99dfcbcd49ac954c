"""The optimizers of a Trainer that step the weights of a sparse network."""

from __future__ import annotations

from collections.abc import Set

from lightning_sparse._compat import Trainer
from lightning_sparse.network import SparseNetwork
from lightning_sparse.validation.errors import InvalidValueError


def attach_optimizers(network: SparseNetwork, trainer: Trainer, signals: Set[str]) -> None:
    """Attach a network to those of the Trainer's optimizers that step its weights.

    Args:
        network: Masks and weights; what it was attached to before, it leaves.
        trainer: After its optimizers were made.
        signals: Signals that the rules of topology updates need.

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
