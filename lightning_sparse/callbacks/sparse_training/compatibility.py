"""Checks of what sparse training meets in a run: other callbacks, weights that are zero, ranks that diverge."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_sparse._compat import (
    Callback,
    ConfigurationError,
    LightningModule,
    Trainer,
    callbacks_of,
    is_a,
)
from lightning_sparse.methods.rules import Rules
from lightning_sparse.network import SparseNetwork
from lightning_sparse.selection.obstacles import FROZEN
from lightning_sparse.selection.patterns import Patterns, name_list
from lightning_sparse.selection.weights import weights_by_reason
from lightning_sparse.validation.errors import InvalidStateError, InvalidValueError


def check_alone(trainer: Trainer, callback: Callback, family: type[Callback]) -> None:
    """Refuse a second callback that masks weights: each would zero what the other trains.

    Raises:
        MisconfigurationException: If the Trainer has another one.
    """
    others = [other for other in callbacks_of(trainer) if isinstance(other, family) and other is not callback]
    others += [other for other in callbacks_of(trainer) if is_a(other, "ModelPruning")]
    if others:
        raise ConfigurationError(
            expected="one callback for sparse training",
            got=f"{type(callback).__name__} and {', '.join(type(other).__name__ for other in others)}",
            cure="keep one; densities per layer go into its density, a mapping of layer patterns",
        )


def restores_after_setup(trainer: Trainer) -> bool:
    """Tell whether a checkpoint is restored only after the start of fit, as strategies do that shard the model."""
    return bool(trainer.strategy.restore_checkpoint_after_setup)


def check_finetuning(
    trainer: Trainer,
    model: LightningModule,
    network: SparseNetwork,
    include: Patterns | None,
    exclude: Patterns | None,
) -> None:
    """Refuse callbacks that unfreeze layers during training, if these would have been masked and are not.

    Raises:
        MisconfigurationException: If there is such a callback and such a layer.
    """
    callbacks = [type(callback).__name__ for callback in callbacks_of(trainer) if is_a(callback, "BaseFinetuning")]
    frozen = [name for name in weights_by_reason(model, include, exclude, FROZEN) if name not in network.maskable]
    if callbacks and frozen:
        raise ConfigurationError(
            expected="layers that stay frozen or are masked from the start",
            got=f"{callbacks[0]}, which unfreezes layers during training, and {name_list(frozen)}, frozen",
            cure="exclude them from sparse training, or unfreeze them before it",
        )


def check_kept_weights(network: SparseNetwork) -> None:
    """Refuse weights that are not those that an earlier fit left, and that its masks would set to zero.

    Args:
        network: Network of the earlier fit, whose masks are kept.

    Raises:
        ValueError: With the number of weights that are not zero though inactive, and their layers.
    """
    if outside := network.count_outside():
        listed = [f"{count} in {name!r}" for name, count in outside.items()]
        raise InvalidValueError(
            expected="weights as the last fit left them, zero outside of the masks that this callback keeps from it",
            got=(
                f"{sum(outside.values())} weights that are not zero there, as of other weights that were loaded since: "
                f"{', '.join(listed[:6])}{f' and {len(listed) - 6} more layers' if len(listed) > 6 else ''}"
            ),
            cure=(
                "a new callback with masks_from= the full checkpoint that these weights come from; or "
                "callback.network.enforce() before fit, to set them to zero; or, for dense weights, a new callback"
            ),
        )


def check_agreement(trainer: Trainer, network: SparseNetwork, when: str) -> None:
    """Raise unless all processes have the same masks and weights.

    Args:
        trainer: Trainer of several processes.
        network: Masks and weights to compare.
        when: Point in the run, for the message.

    Raises:
        RuntimeError: On every process, if one differs.
    """
    rows = _gather(trainer, network.fingerprint().to(trainer.strategy.root_device)).cpu()
    for kind, column in (("masks", rows[:, 0]), ("values of the masked weights", rows[:, 1])):
        if different := torch.nonzero(column != column[0]).flatten().tolist():
            raise InvalidStateError(
                expected=f"the same {kind} on all {trainer.world_size} processes {when}",
                got=f"other ones on rank {', '.join(map(str, different))} than on rank 0",
                cure=(
                    "don't change weights or optimizers on single ranks, and choose rules that take "
                    "randomness from LayerView.generator only"
                ),
            )


def _gather(trainer: Trainer, values: Tensor) -> Tensor:
    """Return the values of all processes, stacked."""
    if not torch.distributed.is_initialized():  # a strategy that doesn't talk through torch.distributed
        gathered: Tensor = trainer.strategy.all_gather(values).reshape(-1, *values.shape)
        return gathered
    rows = [torch.empty_like(values) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(rows, values)
    return torch.stack(rows)


def check_shardable(network: SparseNetwork, rules: Rules) -> None:
    """Refuse rules that can't work on parts of weights, where the strategy splits weights over processes.

    Raises:
        MisconfigurationException: If there is such a rule and such a weight.
    """
    if network.is_sharded and rules.unshardable:
        names = ", ".join(getattr(rule, "__qualname__", repr(rule)) for rule in rules.unshardable)
        raise ConfigurationError(
            expected="rules that work on weights that are split over processes",
            got=names,
            cure=(
                "another rule, @uses(..., shardable=True) on a rule of your own if its scores depend on "
                "nothing but their own position, or a strategy that keeps whole weights in every process, "
                "such as DDP"
            ),
        )
