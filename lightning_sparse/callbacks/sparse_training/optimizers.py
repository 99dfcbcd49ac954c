"""The optimizers of a Trainer that step the weights of a sparse network."""

from __future__ import annotations

from collections.abc import Set

from lightning_sparse._compat import LightningModule, Trainer
from lightning_sparse.network import SparseNetwork
from lightning_sparse.topology.layer import MULTIPLICATIONS
from lightning_sparse.validation.errors import InvalidValueError


def attach_optimizers(network: SparseNetwork, trainer: Trainer, signals: Set[str]) -> None:
    """Attach a network to those of the Trainer's optimizers that step its weights.

    Args:
        network: Masks and weights; what it was attached to before, it leaves.
        trainer: After its optimizers were made.
        signals: Signals that the rules of topology updates need.

    A module that steps by itself may do so with an optimizer that it makes later, or without one: `check_stepped` tells
    whether anything has stepped.

    Raises:
        ValueError: If a masked weight has no optimizer.
    """
    network.detach()
    network.enforce()
    stepping = [optimizer for optimizer in trainer.optimizers if network.is_stepped_by(optimizer)]
    tracked = {
        "track_momentum": "momentum" in signals,
        "track_gradients": "gradient" in signals,
        "track_multiplications": MULTIPLICATIONS in signals,
    }
    if not stepping and _may_step_elsewhere(trainer.lightning_module):
        network.watch(**tracked)
        return
    if not stepping:
        raise _nothing_steps(trainer)
    for optimizer in stepping:
        network.attach(optimizer, **tracked)
    if network.unattached:
        raise InvalidValueError(
            expected="an optimizer for every masked weight",
            got=f"none that steps {', '.join(network.unattached)}",
            cure="add them to an optimizer, or leave them as they are with exclude or requires_grad=False",
        )


def check_stepped(network: SparseNetwork, trainer: Trainer) -> None:
    """Raise if no optimizer has stepped the masked weights; to be called where steps are expected but none was counted.

    A gradient scaler may skip all steps for a while: then there is an optimizer.

    Raises:
        ValueError: If there is no optimizer of the masked weights.
    """
    if network.unattached:
        raise _nothing_steps(trainer)


def _nothing_steps(trainer: Trainer) -> InvalidValueError:
    return InvalidValueError(
        expected="an optimizer that steps a masked weight",
        got=f"{len(trainer.optimizers)} optimizers that step none",
        cure="return the model's parameters in configure_optimizers, or choose layers with include",
    )


def _may_step_elsewhere(module: LightningModule) -> bool:
    """Tell whether a module may have other optimizers than those of the Trainer, or none: it then steps by itself."""
    own = (getattr(type(module), name) is not getattr(LightningModule, name) for name in ("optimizer_step", "backward"))
    return not module.automatic_optimization or any(own)
