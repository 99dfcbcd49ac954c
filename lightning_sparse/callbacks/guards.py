"""What a run must not have beside sparse training, and what all its processes must have in common."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_sparse._compat import Callback, MisconfigurationException, Trainer, callbacks_of, is_a
from lightning_sparse.network import SparseNetwork
from lightning_sparse.topology.rewire import Recipe

# They flatten or partition the weights, and step a copy that no mask reaches.
_UNSUPPORTED = {
    "FSDPStrategy": "flattens the weights of several layers into one parameter",
    "DeepSpeedStrategy": "keeps and steps partitioned copies of the weights",
}


def check_strategy(trainer: Trainer) -> None:
    """Refuse strategies under which no exact number of weights can be kept.

    Raises:
        MisconfigurationException: Under FSDP (version 1) and DeepSpeed.
    """
    for name, reason in _UNSUPPORTED.items():
        if is_a(trainer.strategy, name):
            raise MisconfigurationException(
                f"Expected a strategy that leaves each weight a parameter of its own; got {name}, which {reason}. "
                "Cure: strategy='ddp', or ModelParallelStrategy with fully_shard (FSDP2) in configure_model to shard."
            )


def check_alone(trainer: Trainer, callback: Callback, family: type[Callback]) -> None:
    """Refuse a second callback that masks weights: each would zero what the other trains.

    Raises:
        MisconfigurationException: If the Trainer has another one.
    """
    others = [other for other in callbacks_of(trainer) if isinstance(other, family) and other is not callback]
    if others:
        raise MisconfigurationException(
            f"Expected one callback for sparse training; got {type(callback).__name__} and "
            f"{', '.join(type(other).__name__ for other in others)}. Cure: keep one; densities per layer go into its "
            "density, a mapping of layer patterns."
        )


def check_agreement(trainer: Trainer, network: SparseNetwork, when: str) -> None:
    """Raise unless all processes have the same masks and weights.

    Args:
        trainer: The Trainer; with one process there is nothing to compare.
        network: What should be the same everywhere.
        when: After what, for the message.

    Raises:
        RuntimeError: On every process, if one differs.
    """
    if trainer.world_size == 1:
        return
    rows = _gather(trainer, network.fingerprint().to(trainer.strategy.root_device)).cpu()
    for kind, column in (("masks", rows[:, 0]), ("values of the masked weights", rows[:, 1])):
        if different := torch.nonzero(column != column[0]).flatten().tolist():
            raise RuntimeError(
                f"Expected the same {kind} on all {trainer.world_size} processes {when}; got other ones on rank "
                f"{', '.join(map(str, different))} than on rank 0. Cure: don't change weights or optimizers on single "
                "ranks, and choose rules that take randomness from LayerView.generator only."
            )


def _gather(trainer: Trainer, values: Tensor) -> Tensor:
    """Return the values of all processes, stacked."""
    if not torch.distributed.is_initialized():  # a strategy that doesn't talk through torch.distributed
        gathered: Tensor = trainer.strategy.all_gather(values).reshape(-1, *values.shape)
        return gathered
    rows = [torch.empty_like(values) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(rows, values)
    return torch.stack(rows)


def check_recipe(network: SparseNetwork, recipe: Recipe) -> None:
    """Refuse rules that can't work on parts of weights, where the strategy splits weights over processes.

    Raises:
        MisconfigurationException: If there is such a rule and such a weight.
    """
    if network.is_sharded and not recipe.shardable:
        names = ", ".join(getattr(rule, "__qualname__", repr(rule)) for rule in recipe.unshardable)
        raise MisconfigurationException(
            f"Expected rules that work on weights that are split over processes; got {names}. Cure: another rule, "
            "@uses(..., shardable=True) on a rule of your own if its scores depend on nothing but their own position, "
            "or a strategy that keeps whole weights in every process, such as DDP."
        )
